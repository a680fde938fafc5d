//! lattice-agent

fn main() {}
