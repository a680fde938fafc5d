//! lattice-central

fn main() {}
