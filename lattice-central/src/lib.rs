//! lattice-central
pub mod board;
pub mod conditions;
pub mod gate;
pub mod identity;
pub mod init_tls;
pub mod nodes;
pub mod objects;
pub mod server;
pub mod settings;
pub mod store;
