//! What the kernel knows of a process: who it is, whether it exists, what it runs, how it ended. Looked up on
//! separate threads, because the kernel may take any time to answer.
//!
//! Threads: lookup and watch, each in the file of its name; the aggregator asks both. The upkeep frees names.

pub mod cpu;
pub mod environment;
pub mod expected;
pub mod freezer;
pub mod lookup;
pub mod names;
pub mod oom;
pub mod procfs;
pub mod question;
pub mod sweeper;
pub mod unit;
pub mod watch;
