//! lattice-verify
