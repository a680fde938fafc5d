//! The built program, run against real servers of the Control service.

mod connection;
mod support;
mod usage;
mod verbs;
