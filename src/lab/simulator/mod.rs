//! The deterministic simulator: runs whole fleets in simulated worlds and checks what must hold in each.
//!
//! ```text
//! seed -> story (which agents, what happens) -> truth (which datagram is sent when)
//!                     |                         |
//!                     +-> world: shards, aggregator, lookup thread, each with its own clock
//!                                               |
//!                         model: naive, knows the truth, judges every step -> violation -> shrink
//! ```
//!
//! Shards and aggregator are the real ones, and so is the memory by which one observer goes on for another;
//! socket, clock, threads and processes are simulated. The story determines everything: the same story gives the same world, to the nanosecond. A world that fails is
//! shrunk and printed.

pub mod acting;
pub mod invariants;
pub mod lines;
pub mod model;
pub mod observer;
pub mod random;
pub mod restart;
pub mod runner;
pub mod shrink;
pub mod story;
pub mod truth;
pub mod world;

mod tests;
