//! lattice-api
