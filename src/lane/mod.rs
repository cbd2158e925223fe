//! What crosses between a shard and the aggregator: facts and reports outwards, instructions inwards.
//!
//! Everything here is bounded and allocated at start. Facts and instructions cannot overflow; reports, samples and
//! beat notes are dropped and counted. What crosses is proportional to changes and batches, never to frames,
//! unless a subscriber wants every beat.
//!
//! Threads: shard and aggregator, each at its end of a lane; any thread reads the counters.

pub mod blind;
pub mod counters;
mod doorbell;
mod inbox;
pub mod index;
pub mod kick;
mod notes;
pub mod park;
mod port;
pub mod report;
pub mod sessions;
pub mod settings;
#[cfg(test)]
mod tests;
pub mod uids;
pub mod vigil;

pub use doorbell::Doorbell;
pub use inbox::{Instruction, Taken, instruction};
pub use notes::{BeatNote, Sample, SampleOf};
pub use port::{Daemons, Port};
