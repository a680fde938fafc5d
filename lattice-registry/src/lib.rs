//! lattice-registry
