//! Thread: `varta-shard-N`. Runs the turns of a shard until the fleet stops, and resumes after a panic.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam::channel::Sender;

use super::Shard;
use super::input::Transport;
use crate::lane::counters::ShardHealth;
use crate::lane::park::Park;
use crate::lane::{Doorbell, Port};
use crate::message::Reason;
use crate::sys::clock::SystemClock;
use crate::sys::thread::{pin_to, set_own_nice};
use crate::warning::Warning;

const SHARD_NICE: i32 = -20;
/// The thread ends after more than this many panics within this time.
const PANICS_MAX: usize = 3;
const PANICS_WITHIN: Duration = Duration::from_secs(60);

/// What the thread of a shard shares with the fleet.
pub struct Life {
    pub port: Arc<Port>,
    pub doorbell: Arc<Doorbell>,
    pub stop: Arc<AtomicBool>,
    pub park: Arc<Park>,
}

impl Life {
    /// Publishes that the thread has ended, and wakes the aggregator: it may be waiting for this shard.
    fn end(&self, health: ShardHealth) {
        self.port.counters.set_health(health);
        self.doorbell.ring();
    }
}

/// One shard's thread.
pub fn observe<T: Transport + Send>(
    mut shard: Shard<T, SystemClock>,
    life: Life,
    index: usize,
    pin: Option<usize>,
    said: Sender<Warning>,
) -> impl FnOnce() + Send {
    move || {
        if let Err(error) = set_own_nice(SHARD_NICE) {
            let _ = said.send(Warning::Priority { thread: "the shards", why: Reason(&error).to_string() });
        }
        if let Some(core) = pin
            && !pin_to(core)
        {
            let _ = said.send(Warning::Pinning { shard: index, core });
        }
        drop(said);
        let mut panics = Vec::with_capacity(PANICS_MAX);
        loop {
            let is_going_on = !panics.is_empty();
            let lived = catch_unwind(AssertUnwindSafe(|| {
                if is_going_on {
                    shard.recover();
                }
                while !life.stop.load(Ordering::Acquire) {
                    if life.park.is_wanted() {
                        shard.take_all();
                        if !life.park.wait() {
                            return Ok(false);
                        }
                    }
                    shard.turn()?;
                }
                io::Result::Ok(true)
            }));
            match lived {
                Ok(Ok(true)) => break,
                // Another process goes on with its memory and socket.
                Ok(Ok(false)) => return,
                Ok(Err(_)) => return life.end(ShardHealth::SocketFailed),
                Err(_) => {}
            }
            life.port.counters.panics.add(1);
            panics.retain(|at: &Instant| at.elapsed() < PANICS_WITHIN);
            if panics.len() == PANICS_MAX {
                return life.end(ShardHealth::Panicked);
            }
            panics.push(Instant::now());
        }
        if catch_unwind(AssertUnwindSafe(|| shard.finish())).is_err() {
            life.port.counters.panics.add(1);
            life.end(ShardHealth::Panicked);
        }
    }
}
