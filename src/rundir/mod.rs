//! The runtime directory: sockets under their names, lock, manifest, and the thread that maintains them.
//!
//! Threads: the caller's at start and stop, upkeep in between.

pub mod binding;
pub mod dir;
pub mod names;
pub mod roster;
pub mod tenure;
pub mod upkeep;
