//! What readers see of the fleet: one definition of each count.
//!
//! Threads: the aggregator counts and copies; any thread reads the copies.

pub mod copies;
#[cfg(feature = "http")]
pub mod dead;
pub mod deaths;
pub mod health;
pub mod snapshot;
pub mod tally;
pub mod text;
pub mod too_short;
pub mod units;
