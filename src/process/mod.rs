//! What the kernel knows of a process: who it is, whether it is there, what it runs, how it ended. Asked on threads
//! of their own, for the answers may take as long as they like.
//!
//! Threads: lookup and watch, each in the file of its name; the aggregator asks both.

pub mod freezer;
pub mod lookup;
#[cfg(feature = "http")]
pub mod names;
pub mod procfs;
pub mod question;
pub mod watch;
