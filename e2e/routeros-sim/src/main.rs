//! RouterOS simulator.
fn main() {}
