//! What every reader sees of the fleet: one definition of each count.

pub mod copies;
pub mod health;
pub mod snapshot;
pub mod tally;
pub mod text;
