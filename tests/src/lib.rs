//! Suites that need a real kernel.
//!
//! ```text
//!  lattice-native-suite (this machine): the container cases, in the tier that this kernel gives
//!
//!  lattice-vm-test (host)                      lattice-vm-suite (guest, PID 1's child)
//!    canaries, image ──────► xtask vm ──►         control: every case without an agent, every mark must appear
//!    copies runc                                 then the agent: the same cases, and what only an agent can show
//! ```
//!
//! The witness is not Lattice: a *canary* is a program whose first act is to leave a mark in a file. A case counts only where the
//! same run without the agent left the mark.
#![forbid(unsafe_code)]

pub mod canary_build;
pub mod guest;
pub mod material;
pub mod native;
pub mod report;
