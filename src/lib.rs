//! Knows, for every process of a very large fleet on one Linux host, whether it is alive.

#[cfg(not(target_os = "linux"))]
compile_error!("varta-fleet runs on Linux only: it rests on SCM_CREDENTIALS, pidfds and sealed memfds");

// Shared words: plain data, no I/O.
pub mod event;
mod counters;
mod refusal;
mod route;
pub mod time;
pub mod wire;

// What the operator wrote, what will run, what can go wrong.
pub mod config;
pub mod plan;

// The wiring, and what a caller sees of it.
mod error;
mod fleet;
mod observer;
mod snapshot;

// Files in the runtime directory.
mod binding;
mod rundir;

// When is an agent stalled? Read this file first.
mod rules;

// Shared by the threads: what the shard remembers, the queues out of and into it, and how it is woken.
mod table;
mod lane;
mod kick;

// On a shard thread.
mod shard;

// On the lookup thread.
mod lookup;

// On the aggregator thread.
mod aggregator;

// The only unsafe.
#[expect(unsafe_code, reason = "system calls and shared memory; every block carries its argument")]
mod sys;

pub use binding::BindError;
pub use error::{StartError, Warning};
pub use fleet::{Fleet, Handle, StopReport, Subscription};
pub use observer::{OBSERVER_AGENTS_MAX, Observer, ObserverEvent, POLL_WAIT};
pub use refusal::Refusal;
pub use route::{MANIFEST, Manifest, ManifestShard, shard_for, socket_for};
pub use rundir::{RunDirError, inspect as inspect_dir};
pub use snapshot::{Latencies, Quantiles, ShardSnapshot, Snapshot};
