//! lattice-common
