//! Knows, for every process of a very large fleet on one Linux host, whether it is alive.
//!
//! Agents send 32-byte heartbeats (Varta Lifeline Protocol 0.1 and 0.2) to Unix datagram sockets. Several
//! *shards*, each a thread with a socket and a private table, receive them; one *aggregator* looks up what
//! the shards cannot know, decides what to report, and delivers events.
//!
//! ```text
//! socket -[Datagram]-> wire -[Frame]-> tracker -[slot]-> fact lane -> aggregator -[Event]-> subscribers, files
//!                                      ^   |                           |   |   ^
//!                                      | slot table <--- readers ------+   |   +-- lookups (procfs, pidfds)
//!                                      +-- inbox <-[Instruction]-----------+
//! ```
//!
//! *agent* a process that beats · *frame* 32 bytes on the wire · *beat* an accepted frame · *shard* thread,
//! socket and table · *session* one incarnation of a process · *stream* one nonce sequence in it · *silence*
//! from one beat to the next · *stall* a silence that reached the threshold · *exit* the kernel reports that
//! the process is gone · *lane* queue between a shard and the aggregator · *blind* a time in which a shard
//! may have missed beats · *watermark* the instant up to which a shard has processed everything that arrived.
//!
//! # Observe a fleet
//!
//! ```
//! use std::time::Duration;
//! use varta_fleet::{Fleet, config::Config, event::EventKind, socket_for};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let directory = tempfile::tempdir()?;
//! let mut config = Config::default();
//! config.dir = Some(directory.path().to_owned());
//! config.shards = Some(2);
//! config.threshold = Duration::from_secs(2);
//! let fleet = Fleet::start(&config)?;
//! let mut events = fleet.handle().subscribe(1024);
//!
//! // An agent, in any process, with the stock Rust client: it beats on the socket of its shard.
//! # use varta_client_02 as varta_client;
//! let socket = socket_for(directory.path(), std::process::id())?;
//! let mut agent = varta_client::Varta::connect(socket)?;
//! agent.beat(varta_client::Status::Ok, 0);
//!
//! let up = events.find(|event| event.kind == EventKind::Up).ok_or("the fleet stopped")?;
//! assert_eq!(up.agent.map(|agent| agent.pid), Some(std::process::id()));
//! assert_eq!(fleet.handle().snapshot().agents(), 1);
//! let report = fleet.stop(Duration::from_millis(500));
//! assert_eq!(report.shards_dead, 0);
//! # Ok(())
//! # }
//! ```
//!
//! One socket without threads, in a loop of the caller: [`Observer`].
//!
//! With the feature `http` (on by default) a fleet also answers on `control.sock` in its directory, and on
//! the address of [`config::HttpConfig`]: metrics, an API described by `/api/v1/openapi.json` with its types in
//! `api`, and a status page.
//!
//! The manual is the module `guide` of this documentation; its page on the architecture has the table of threads.
//!
//! The library installs no signal handler, no logger and no panic hook, never ends the process, and keeps no global
//! state except that passed descriptors ([`Inherited`]) are taken once. With the feature `cli` it notes, before `main`, which
//! signals were ignored and which standard descriptors closed, for the program that it becomes.

#[cfg(not(target_os = "linux"))]
compile_error!("varta-fleet runs on Linux only: it rests on SCM_CREDENTIALS, pidfds and sealed memfds");

// For tests, benches and fuzz targets: simulated surroundings, samples, planted bugs and faults.
#[macro_use]
mod lab;

// Shared words: plain data; `route` also reads the manifest.
pub mod event;
mod refusal;
mod route;
pub mod time;
pub mod wire;

#[cfg(feature = "http")]
mod json;
pub mod label;
mod message;
mod pattern;
mod warning;

// What the operator wrote, what is wrong with it, and what will run.
pub mod config;

/// What will run: see [`config::Config::plan`].
pub mod plan {
    pub use crate::config::plan::*;
    pub use crate::config::validate::default_dir;
}

/// What a fleet of a given size needs.
pub mod sizing {
    pub use crate::config::sizing::*;
}

pub mod priority;

// What a service manager is told.
mod manager;

// Programs that are agents by the way they are started.
#[cfg(feature = "cli")]
mod launch;

// The wiring, and what a caller gets of it.
mod fleet;
mod observer;
mod view;

// The answers of a fleet, for both ends.
#[cfg(feature = "http")]
pub mod api;

// Files in the runtime directory, and the upkeep thread, which maintains them.
mod rundir;

// When is an agent stalled? Read `rules/mod.rs` after this file.
mod rules;

// What daemons say that know only sd_notify(3).
mod notify;

// Shared by the threads: the slot tables, the queues from and to the shards, how threads are woken, and
// whether they make progress.
mod table;
mod journal;
mod lane;

// What the fleet was like, second by second.
mod history;

// On a shard thread.
mod shard;

// On the lookup and the watch thread.
mod process;

// On the aggregator thread.
mod aggregator;

// What is done about a stall: on a thread of its own, and in a process of its own.
#[cfg_attr(not(feature = "http"), expect(dead_code, reason = "operators ask by HTTP"))]
mod action;
mod spawner;

// On the thread that writes events.
mod sinks;

// On the HTTP thread.
#[cfg(feature = "http")]
mod http;

// The only unsafe code.
#[expect(unsafe_code, reason = "system calls and shared memory; every block carries its argument")]
mod sys;

// For benches and fuzz targets; not part of the interface.
#[cfg(fuzzing)]
#[doc(hidden)]
pub use lab::fuzzing;
#[cfg(feature = "bench")]
#[doc(hidden)]
pub use lab::{bench, mass_stall};

pub use action::inspect::{ActionTrouble, inspect as inspect_actions};
#[cfg(feature = "http")]
pub use fleet::ReloadRequest;
pub use fleet::{
    Adopted, Fleet, Handed, Handle, Inherited, InheritedError, ReloadError, ReloadRefusal, Reloaded,
    StartError, StopReport, Subscription, TakeoverError, ToStore,
};
#[cfg(feature = "http")]
pub use http::{HttpError, TokenError, inspect as inspect_http};
#[cfg(feature = "http")]
pub use json::Json;
pub use lane::uids::UidCounts;
#[cfg(feature = "cli")]
pub use launch::{Launch, LaunchError, beat_for, launch, unfit};
pub use manager::{ManagerError, ServiceManager, WATCHDOG_MIN};
pub use message::{Reason, Shown, quoted};
pub use observer::{OBSERVER_AGENTS_MAX, Observer, ObserverEvent, POLL_WAIT};
pub use refusal::Refusal;
pub use route::{MANIFEST, Manifest, ManifestShard, shard_for, socket_for};
pub use rundir::binding::{BindError, inspect as inspect_socket};
pub use rundir::dir::{RunDirError, inspect as inspect_dir};
pub use sinks::OutputTrouble;
pub use spawner::serve::{serve_spawner, serve_spawner_at};
pub use view::health::{FleetThread, Health, Problem};
pub use view::snapshot::{Latencies, Quantiles, ShardSnapshot, Snapshot};
pub use view::too_short::TooShort;
pub use warning::Warning;
