//! lattice-policy
