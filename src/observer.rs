//! One socket, one caller, no thread: the building block of every shard.
//!
//! In: datagrams. Out: one [`ObserverEvent`] per call. Thread: the caller's. Blocks: at most [`POLL_WAIT`]
//! per call. Allocates: never after [`Observer::bind`].

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::config::classes::Classes;
use crate::config::plan::AGENTS_MAX;
use crate::lane::kick::Kick;
use crate::lane::{Instruction, instruction};
use crate::process::procfs::{self, End};
use crate::refusal::Refusal;
use crate::rundir::binding::{self, BoundSocket};
use crate::shard::front::{Batch, Front, Limits};
use crate::shard::input::unix::Unix;
use crate::shard::tracker::{Admission, Outcome, Tracker};
use crate::shard::uids::UidAccounts;
use crate::sys::clock::SystemClock;
use crate::table::slot::{Flags, State};
use crate::table::{self, Header};
use crate::time::{MonoNs, duration_ns};
use crate::wire::{DecodeError, Frame, Status};

/// Longest wait of one [`Observer::poll`].
pub const POLL_WAIT: Duration = Duration::from_millis(100);
/// Default of the agents that one observer tracks.
pub const OBSERVER_AGENTS_MAX: u32 = 4096;
/// New agents for which memory is already allocated; a batch brings far fewer than half of them.
const GRANTED_AHEAD: u32 = 4096;
/// Resolution of stalls, ns.
const TICK_NS: u64 = 10_000_000;
/// Timer entries handled between two receive calls; also the most stalls that wait to be reported.
const JUDGE_BUDGET: u32 = 4096;
/// Slots checked in one search for room.
const EVICTION_SCAN: u32 = 64;

/// The result of one call of [`Observer::poll`]. Instants are `CLOCK_MONOTONIC`.
#[derive(Debug)]
#[non_exhaustive]
pub enum ObserverEvent {
    /// A frame was accepted.
    Beat {
        /// Sender, attested by the kernel.
        pid: u32,
        /// The agent's own status.
        status: Status,
        /// Opaque to the protocol, whole.
        payload: u64,
        /// Counter of the sender's connection handle.
        nonce: u64,
        /// When the kernel queued it.
        arrival: MonoNs,
    },
    /// A silence reached the threshold. Reported once; a [`ObserverEvent::Resume`] ends it.
    Stall {
        /// The silent agent.
        pid: u32,
        /// Nonce of its last beat.
        last_nonce: u64,
        /// Arrival of its last beat.
        last_arrival: MonoNs,
        /// From the last beat to the judgement, ns.
        silent_ns: u64,
        /// False if the observer never had a whole threshold of sight.
        certain: bool,
    },
    /// A beat ended a stalled silence. The beat itself is the next event.
    Resume {
        /// The agent.
        pid: u32,
        /// Length of the silence, ns.
        silent_ns: u64,
        /// Beats lost before the socket during the silence: a lower bound.
        lost: u64,
    },
    /// A silent agent's process has exited; the agent is no longer tracked.
    Exit {
        /// The process.
        pid: u32,
        /// From its last beat, ns.
        silent_ns: u64,
    },
    /// 32 bytes that are not a frame.
    Decode {
        /// The first failed check.
        error: DecodeError,
        /// Sender, attested by the kernel.
        attested: u32,
    },
    /// A frame claims a pid that is not its sender's. Refused: without a lookup thread the observer cannot
    /// distinguish a container's inner pid from a forged one.
    AuthFailure {
        /// The pid in the frame.
        claimed: u32,
        /// The sender attested by the kernel.
        attested: u32,
    },
    /// A datagram refused for its size, its control data or its sender.
    Refused(Refusal),
    /// The socket failed.
    Io(io::Error),
}

/// Observes one socket. Not shared; it may be sent to the thread that polls it.
#[derive(Debug)]
pub struct Observer {
    front: Front<Unix, SystemClock>,
    socket: BoundSocket,
    batch: Option<(Batch, usize)>,
    /// The beat that ended a stall: returned after the resume.
    resumer: Option<ObserverEvent>,
    /// Slots found stalled, to be returned one after another.
    stalled: Vec<u32>,
    /// The socket may hold more than the last batch: do not wait.
    is_behind: bool,
    evictions: u64,
    refused: u64,
    /// Where the last search for exited agents ended.
    scan_from: u32,
}

impl Observer {
    /// Binds `path` with `mode` (such as `0o600`) and observes agents that are silent for `threshold` (at
    /// least 10 ms). Tracks up to [`OBSERVER_AGENTS_MAX`] agents. Reserves all memory it needs.
    ///
    /// The mode is set before the path is visible. A stale socket is replaced.
    ///
    /// # Errors
    /// `AddrInUse`: another observer is running there. `PermissionDenied`: this process may not use the path,
    /// or may not check whether a socket is open there. `AlreadyExists`: something other than a socket is in
    /// the way. `InvalidInput`: a threshold below 10 ms. Else the kernel's, if it grants no memory or
    /// descriptor. After an error, what was at the path is unchanged.
    pub fn bind(path: impl AsRef<Path>, threshold: Duration, mode: u32) -> io::Result<Self> {
        Self::bind_for(path, threshold, mode, OBSERVER_AGENTS_MAX)
    }

    /// As [`Observer::bind`], for up to `agents_max` agents, from 1 to [`AGENTS_MAX`](crate::plan::AGENTS_MAX). Each
    /// takes about 300 bytes once it beats.
    ///
    /// # Errors
    /// As [`Observer::bind`]; `InvalidInput` also for an `agents_max` out of range.
    pub fn bind_for(
        path: impl AsRef<Path>,
        threshold: Duration,
        mode: u32,
        agents_max: u32,
    ) -> io::Result<Self> {
        if !(1..=AGENTS_MAX).contains(&agents_max) {
            let why = format!("cannot observe {agents_max} agents: choose 1 to {AGENTS_MAX}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        let threshold_ns = duration_ns(threshold);
        if threshold_ns < TICK_NS {
            let why = format!(
                "cannot observe with a threshold of {threshold:?}: stalls are judged every 10 ms; choose at least 10ms"
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        let socket =
            binding::bind(path.as_ref(), mode).map_err(|error| io::Error::new(error.kind(), error))?;
        let header = Header { boot_id: 0, pid_namespace: 0, shard: 0, shards: 1 };
        let (writer, _) = table::create_granted(agents_max, header, GRANTED_AHEAD.min(agents_max))?;
        let admission = Admission::new(agents_max)?;
        let clock = SystemClock;
        let now = crate::time::Clock::mono(&clock);
        let tick_ns = TICK_NS.min(threshold_ns / 2);
        let tracker = Tracker::new(
            writer,
            Classes::single(threshold_ns),
            tick_ns,
            admission,
            UidAccounts::default(),
            now,
        );
        let transport = Unix::new(Arc::clone(socket.fd()), socket.queue_limit(), Arc::new(Kick::new()?))?;
        let limits = Limits { threshold_min_ns: threshold_ns, tick_ns };
        Ok(Self {
            front: Front::new(transport, clock, tracker, limits, None),
            socket,
            batch: None,
            resumer: None,
            stalled: Vec::with_capacity(agents_max.min(JUDGE_BUDGET) as usize),
            is_behind: true,
            evictions: 0,
            refused: 0,
            scan_from: 0,
        })
    }

    /// The path it is bound to.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.socket.path()
    }

    /// The next event. Waits at most [`POLL_WAIT`]; `None` if there was none, or a datagram came that is
    /// counted without an event (an empty datagram, a frame refused for lack of room).
    ///
    /// What is queued in the socket is always read before a stall is reported. A caller that returns later
    /// than 100 ms, or a quarter of the threshold if that is longer, counts as paused: agents then need a
    /// whole threshold of sight, so stalls are reported later, after three thresholds at most.
    pub fn poll(&mut self) -> Option<ObserverEvent> {
        if let Some(beat) = self.resumer.take() {
            return Some(beat);
        }
        if let Some(event) = self.next_of_batch() {
            return event;
        }
        if let Some(event) = self.next_stall() {
            return Some(event);
        }
        if !self.is_behind {
            let now = self.front.now();
            let wait = now + duration_ns(POLL_WAIT);
            let due = [self.front.tracker.next_due(), Some(wait)].into_iter().flatten().min();
            if let Err(error) = self.front.wait(due.unwrap_or(wait), true) {
                return Some(ObserverEvent::Io(error));
            }
        }
        // If there is no memory for more, new agents are refused.
        let used = self.front.tracker.slots_used();
        let _ = self.front.tracker.writer().table().grant_ahead(used);
        let batch = match self.front.receive() {
            Ok(batch) => batch,
            Err(error) => {
                self.is_behind = false;
                return Some(ObserverEvent::Io(error));
            }
        };
        self.is_behind = !batch.is_last;
        if batch.len == 0 {
            self.end_batch(&batch);
            return self.next_stall();
        }
        self.batch = Some((batch, 0));
        self.next_of_batch().flatten()
    }

    /// Agents evicted since the last call to make room: their processes had exited.
    pub fn drain_evictions(&mut self) -> u64 {
        std::mem::take(&mut self.evictions)
    }

    /// Frames of agents refused for lack of room since the last call.
    pub fn drain_capacity_exceeded(&mut self) -> u64 {
        std::mem::take(&mut self.refused)
    }

    /// The outer `None`: there is no batch.
    fn next_of_batch(&mut self) -> Option<Option<ObserverEvent>> {
        let (batch, index) = self.batch.as_mut()?;
        let (batch, at) = (*batch, *index);
        *index += 1;
        let is_over = *index == batch.len;
        let event = self.hear(&batch, at);
        if is_over {
            self.batch = None;
            self.end_batch(&batch);
        }
        Some(event)
    }

    fn end_batch(&mut self, batch: &Batch) {
        self.front.end_batch(batch);
        while self.front.sight.take_news().is_some() {}
        let stalled = &mut self.stalled;
        self.is_behind |= self.front.judge(JUDGE_BUDGET, |slot| stalled.push(slot));
        // Taken from the end: the longest silence first.
        stalled.reverse();
    }

    fn hear(&mut self, batch: &Batch, index: usize) -> Option<ObserverEvent> {
        let heard = self.front.hear(batch, index);
        match (heard.outcome, heard.frame, heard.error) {
            (Outcome::Beat(slot), Some(frame), _) => Some(self.beat(slot, &frame, heard.arrival, false)),
            (Outcome::Changed(slot), Some(frame), _) => Some(self.beat(slot, &frame, heard.arrival, true)),
            (Outcome::Refused(Refusal::TableFull), ..) => {
                self.refused += 1;
                self.evict_one();
                None
            }
            (Outcome::Refused(Refusal::Probe), ..) => None,
            (Outcome::Refused(Refusal::Forged), Some(frame), _) => {
                Some(ObserverEvent::AuthFailure { claimed: frame.pid, attested: heard.pid })
            }
            (Outcome::Refused(_), _, Some(error)) => {
                Some(ObserverEvent::Decode { error, attested: heard.pid })
            }
            (Outcome::Refused(refusal), ..) => Some(ObserverEvent::Refused(refusal)),
            // Its socket receives frames.
            (Outcome::News(_) | Outcome::Heard, ..) | (Outcome::Beat(_) | Outcome::Changed(_), None, _) => {
                None
            }
        }
    }

    fn beat(&mut self, slot: u32, frame: &Frame, arrival: MonoNs, is_changed: bool) -> ObserverEvent {
        let pid = self.front.tracker.hot(slot).pid;
        let (status, payload, nonce) = (frame.status, frame.payload, frame.nonce);
        let beat = ObserverEvent::Beat { pid, status, payload, nonce, arrival };
        if is_changed {
            let (hot, cold) = (self.front.tracker.hot(slot), self.front.tracker.cold(slot));
            if hot.flags.has(Flags::UNVERIFIED) {
                self.front.tracker.on_instruction(slot, instruction::FORGED, Instruction::default());
                if hot.beats() == 1 {
                    let as_of = hot.last_arrival;
                    self.front.tracker.on_instruction(
                        slot,
                        instruction::RELEASE,
                        Instruction { as_of, ..Instruction::default() },
                    );
                }
                return ObserverEvent::AuthFailure { claimed: frame.pid, attested: pid };
            }
            if cold.resumes > 0 && cold.resume_at == arrival && hot.last_arrival == arrival {
                let (silent_ns, lost) = (cold.resume_silent_ns, cold.resume_lost);
                self.resumer = Some(beat);
                return ObserverEvent::Resume { pid, silent_ns, lost };
            }
        }
        beat
    }

    /// Returns stalls one after another. Reports an exit instead if the process has exited, and nothing if
    /// the agent has beaten meanwhile.
    fn next_stall(&mut self) -> Option<ObserverEvent> {
        while let Some(slot) = self.stalled.pop() {
            let (hot, cold) = (self.front.tracker.hot(slot), self.front.tracker.cold(slot));
            if hot.state != State::Stalled {
                continue;
            }
            if let Some(End { at: as_of, .. }) = procfs::end(hot.pid, None, &SystemClock) {
                self.front.tracker.on_instruction(
                    slot,
                    instruction::RELEASE,
                    Instruction { as_of, ..Instruction::default() },
                );
                return Some(ObserverEvent::Exit { pid: hot.pid, silent_ns: as_of.since(hot.last_arrival) });
            }
            return Some(ObserverEvent::Stall {
                pid: hot.pid,
                last_nonce: cold.stall_nonce,
                last_arrival: hot.last_arrival,
                silent_ns: cold.stall_silent_ns,
                certain: !cold.is_stall_uncertain,
            });
        }
        None
    }

    /// Evicts one stalled agent whose process has exited, if one of the next few slots holds such an agent:
    /// the search continues at the next refused frame, so that each costs the same.
    fn evict_one(&mut self) {
        let slots = self.front.tracker.slots_used();
        if slots == 0 {
            return;
        }
        for _ in 0..EVICTION_SCAN {
            let slot = self.scan_from % slots;
            self.scan_from = slot + 1;
            let hot = self.front.tracker.hot(slot);
            if !matches!(hot.state, State::Stalled | State::Waiting) {
                continue;
            }
            if let Some(End { at: as_of, .. }) = procfs::end(hot.pid, None, &SystemClock) {
                self.front.tracker.on_instruction(
                    slot,
                    instruction::RELEASE,
                    Instruction { as_of, ..Instruction::default() },
                );
                self.evictions += 1;
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;
    use crate::sys::allocations::during;
    use crate::wire::Version;

    #[test]
    fn nothing_is_allocated_after_bind() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("s");
        let mut observer = Observer::bind(&path, Duration::from_millis(50), 0o600).expect("bind");
        let agent = UnixDatagram::unbound().expect("socket");
        agent.connect(&path).expect("connect");
        let mut seen = [0; 5];
        let allocated = during(|| {
            for nonce in 1..=300 {
                let pid = if nonce % 50 == 0 { 1 } else { std::process::id() };
                let (version, status) = (Version::V02, Status::Ok);
                let frame = Frame { version, status, pid, timestamp: nonce, nonce, payload: 0 };
                let bytes = frame.encode();
                let length = if nonce % 40 == 0 { 31 } else { 32 };
                agent.send(&bytes[..length]).expect("room: each is taken at once");
                // Some silences last until a stall; the loop waits for it.
                let is_stall_due = nonce % 100 == 0;
                loop {
                    match observer.poll() {
                        Some(ObserverEvent::Beat { .. }) => seen[0] += 1,
                        Some(ObserverEvent::Refused(_)) => seen[1] += 1,
                        Some(ObserverEvent::AuthFailure { .. }) => seen[2] += 1,
                        Some(ObserverEvent::Stall { .. }) => seen[3] += 1,
                        Some(ObserverEvent::Resume { .. }) => seen[4] += 1,
                        Some(_) => {}
                        None => continue,
                    }
                    if !is_stall_due || seen[3] as u64 >= nonce / 100 {
                        break;
                    }
                }
            }
        });
        assert_eq!(allocated, 0, "{seen:?}");
        assert!(seen.iter().all(|count| *count > 0), "all of it was exercised: {seen:?}");
    }
}
