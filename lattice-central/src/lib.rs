//! lattice-central
pub mod gate;
pub mod identity;
pub mod init_tls;
pub mod settings;
pub mod store;
