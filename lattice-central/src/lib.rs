//! lattice-central
pub mod gate;
pub mod store;
