//! The thread of one shard.

pub mod transport;
