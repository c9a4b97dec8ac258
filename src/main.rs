//! The `hydrascale` executable.

fn main() {}
