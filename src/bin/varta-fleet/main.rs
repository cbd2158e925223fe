//! The command line of varta-fleet.

fn main() {}
