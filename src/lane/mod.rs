//! What crosses between a shard and the aggregator: facts and reports outwards, answers inwards.
//!
//! Everything here is bounded and allocated at start. Facts cannot overflow; reports and samples drop
//! and are counted. What crosses is proportional to changes and batches, never to frames.

pub mod index;
pub mod report;
