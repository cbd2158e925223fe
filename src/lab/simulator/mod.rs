//! The deterministic simulator: whole fleets in worlds of their own, and what must hold in each.
//!
//! ```text
//! seed -> story (who lives, what happens) -> truth (what is sent when)
//!                     |                         |
//!                     +-> world: shards, aggregator, lookup thread, each on its own time
//!                                               |
//!                         model: naive, knows the truth, judges every step -> violation -> shrink
//! ```
//!
//! Shards and aggregator are the real ones; socket, clock, threads and processes are not. Everything
//! follows from the story: the same story is the same world, to the nanosecond. A world that fails is cut
//! down and printed.

pub mod invariants;
pub mod lines;
pub mod model;
pub mod random;
pub mod runner;
pub mod shrink;
pub mod story;
pub mod truth;
pub mod world;

mod tests;
