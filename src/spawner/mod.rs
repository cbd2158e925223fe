//! The spawner: a small process that starts the children of actions, so that the observer never does.

pub mod protocol;
