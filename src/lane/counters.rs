//! Counters of one shard. The shard alone writes, by load and store; any thread reads.

use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::utils::CachePadded;

use crate::refusal::Refusal;
use crate::time::MonoNs;

/// A number with one writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Writer only: a plain load and store.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Replaces the number. Writer only. A reader of the number sees what was written before it.
    #[inline]
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Release);
    }

    /// The number.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

/// One shard's counters and gauges.
#[derive(Debug, Default)]
pub struct ShardCounters {
    /// Datagrams received, accepted or not.
    pub frames: CachePadded<Counter>,
    /// Accepted frames.
    pub beats: Counter,
    /// Messages of daemons that were understood and are no beats.
    pub messages: Counter,
    /// Assignments in them that were refused, alone.
    pub assignments_refused: Counter,
    /// Descriptors that came with them, and were closed.
    pub fds: Counter,
    /// Calls of recvmmsg.
    pub receive_calls: Counter,
    /// Reports dropped because their lane was full.
    pub reports_dropped: Counter,
    /// Beat notes dropped because their queue was full.
    pub beats_untold: Counter,
    /// Refused frames without a sample: counted only.
    pub samples_dropped: Counter,
    /// Panics of the thread; after each it went on, or was given up.
    pub panics: Counter,
    /// Failed calls on the socket.
    pub io_errors: Counter,
    /// Error number of the last such failure.
    pub io_errno: Counter,
    /// Steps of the wall clock.
    pub clock_steps: Counter,
    /// Total length of all ended blind windows, ns.
    pub blind_ns: Counter,
    /// 1 during a blind window, and until a tick after it.
    pub is_blind: Counter,
    /// End of the last blind window that began before the watermark, MONOTONIC, ns.
    pub last_blind_end: Counter,
    /// Beats lost before they reached the socket, from gaps in nonces: a lower bound.
    pub beats_lost: Counter,
    /// Limit of the socket's queue.
    pub queue_limit: Counter,
    /// Number of slots ever used; all later slots never were.
    pub slots_used: Counter,
    refused: [Counter; Refusal::ALL.len()],
    /// Everything that arrived up to this instant has been processed and its facts are queued.
    watermark: CachePadded<Counter>,
    /// When the shard last finished a turn.
    pub turned_at: Counter,
    health: Counter,
}

/// State of a shard's thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShardHealth {
    /// It runs.
    Alive,
    /// It panicked.
    Panicked,
    /// Its socket failed for good.
    SocketFailed,
}

impl ShardCounters {
    /// Counts a refused datagram.
    #[inline]
    pub fn refuse(&self, refusal: Refusal) {
        self.refused[refusal as usize].add(1);
    }

    /// Datagrams refused for this reason.
    pub fn refused(&self, refusal: Refusal) -> u64 {
        self.refused[refusal as usize].get()
    }

    /// Publishes the watermark.
    #[inline]
    pub fn set_watermark(&self, at: MonoNs) {
        self.watermark.set(at.0);
    }

    /// The published watermark.
    #[inline]
    pub fn watermark(&self) -> MonoNs {
        MonoNs(self.watermark.get())
    }

    /// Records how the thread ended.
    pub fn set_health(&self, health: ShardHealth) {
        self.health.set(match health {
            ShardHealth::Alive => 0,
            ShardHealth::Panicked => 1,
            ShardHealth::SocketFailed => 2,
        });
    }

    /// Whether the thread runs.
    pub fn is_alive(&self) -> bool {
        self.health() == ShardHealth::Alive
    }

    /// State of the thread.
    pub fn health(&self) -> ShardHealth {
        match self.health.get() {
            0 => ShardHealth::Alive,
            1 => ShardHealth::Panicked,
            _ => ShardHealth::SocketFailed,
        }
    }
}
