//! What every reader sees of the fleet: one definition of each count.

pub mod copies;
pub mod snapshot;
pub mod tally;
