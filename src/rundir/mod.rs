//! The runtime directory: sockets under their names, lock, manifest, and the thread that looks after them.

pub mod binding;
pub mod dir;
pub mod names;
pub mod upkeep;
