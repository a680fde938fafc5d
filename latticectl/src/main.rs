//! latticectl

fn main() {}
