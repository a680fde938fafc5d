//! lattice-derive
