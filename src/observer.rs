//! One socket, one caller, no thread: what every shard is made of, as a building block.
//!
//! In: datagrams. Out: one [`ObserverEvent`] a call. Thread: the caller's. Blocks: at most
//! [`POLL_WAIT`] a call. Allocates: never after [`Observer::bind`].

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::config::plan::AGENTS_MAX;
use crate::lane::kick::Kick;
use crate::lane::{Answer, answer};
use crate::process::procfs::{self, End};
use crate::refusal::Refusal;
use crate::rundir::binding::{self, BoundSocket};
use crate::shard::front::{Batch, Front, Limits};
use crate::shard::input::unix::Unix;
use crate::shard::tracker::{Admission, Outcome, Tracker};
use crate::shard::uids::UidAccounts;
use crate::sys::clock::SystemClock;
use crate::table::slot::{Flags, State};
use crate::table::{self, Origin};
use crate::time::{MonoNs, duration_ns};
use crate::wire::{DecodeError, Frame, Status};

/// Longest that one [`Observer::poll`] waits.
pub const POLL_WAIT: Duration = Duration::from_millis(100);
/// Agents that one observer tracks unless told otherwise.
pub const OBSERVER_AGENTS_MAX: u32 = 4096;
/// Agents that may come before the kernel is asked for more memory; a batch brings far less than half of them.
const GRANTED_AHEAD: u32 = 4096;
/// Resolution of stalls.
const TICK_NS: u64 = 10_000_000;
/// Timer entries handled between two receive calls; as many stalls wait to be told at most.
const JUDGE_BUDGET: u32 = 4096;
/// Slots looked at in one search for room.
const EVICTION_SCAN: u32 = 64;

/// What one call of [`Observer::poll`] found. Instants are `CLOCK_MONOTONIC`.
#[derive(Debug)]
#[non_exhaustive]
pub enum ObserverEvent {
    /// A frame was accepted.
    Beat {
        /// Sender, attested by the kernel.
        pid: u32,
        /// What the agent says of itself.
        status: Status,
        /// Opaque to the protocol, whole.
        payload: u64,
        /// Counter of the sender's connection handle.
        nonce: u64,
        /// When the kernel queued it.
        arrival: MonoNs,
    },
    /// A silence reached the threshold. Told once; a [`ObserverEvent::Resume`] ends it.
    Stall {
        /// The silent agent.
        pid: u32,
        /// Nonce of its last beat.
        last_nonce: u64,
        /// Arrival of its last beat.
        last_arrival: MonoNs,
        /// From the last beat to the judgement, ns.
        silent_ns: u64,
        /// False if we never had a whole threshold of sight.
        certain: bool,
    },
    /// A beat ended a stalled silence. The beat itself is the next event.
    Resume {
        /// The agent.
        pid: u32,
        /// Length of the silence, ns.
        silent_ns: u64,
        /// Beats lost before us in it: a lower bound.
        lost: u64,
    },
    /// A silent agent's process is gone; it is not tracked any more.
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
    /// A frame claims a pid that is not its sender's. Refused: without a lookup thread nobody can tell
    /// a container's inner pid from a forged one.
    AuthFailure {
        /// The pid in the frame.
        claimed: u32,
        /// The sender attested by the kernel.
        attested: u32,
    },
    /// A datagram that is refused for what is around the frame: its size, its control data, its sender.
    Refused(Refusal),
    /// The socket failed.
    Io(io::Error),
}

/// Observes one socket. Not to be shared; send it to the thread that polls it.
#[derive(Debug)]
pub struct Observer {
    front: Front<Unix, SystemClock>,
    socket: BoundSocket,
    batch: Option<(Batch, usize)>,
    /// The beat that resumed its agent: told after the resume.
    resumer: Option<ObserverEvent>,
    /// Slots found stalled, to be told one after another.
    stalled: Vec<u32>,
    /// The socket may hold more than the last batch: do not wait.
    is_behind: bool,
    evictions: u64,
    refused: u64,
    /// Where the last search for dead agents ended.
    scan_from: u32,
}

impl Observer {
    /// Binds `path` with `mode` (such as `0o600`) and observes agents that are silent for `threshold`
    /// (at least 10 ms). Tracks up to [`OBSERVER_AGENTS_MAX`] agents. All memory it needs is reserved here.
    ///
    /// The mode is set before the path is visible. A stale socket is replaced.
    ///
    /// # Errors
    /// `AddrInUse`: another observer is running there. `PermissionDenied`: the path, or whether somebody
    /// listens there, may not be touched. `AlreadyExists`: something else than a socket is in the way.
    /// `InvalidInput`: a threshold below 10 ms. Else the kernel's, when it grants no memory or descriptor. What
    /// was at the path is still there after an error.
    pub fn bind(path: impl AsRef<Path>, threshold: Duration, mode: u32) -> io::Result<Self> {
        Self::bind_for(path, threshold, mode, OBSERVER_AGENTS_MAX)
    }

    /// As [`Observer::bind`], for up to `agents_max` agents (1..=4 194 304). Each takes about 300 bytes, once
    /// it beats.
    ///
    /// # Errors
    /// As [`Observer::bind`]; `InvalidInput` also for an `agents_max` out of its range.
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
        let origin = Origin { boot_id: 0, pid_namespace: 0, shard: 0, shards: 1 };
        let (writer, _) = table::create_granted(agents_max, origin, GRANTED_AHEAD.min(agents_max))?;
        let admission = Admission::new(agents_max)?;
        let clock = SystemClock;
        let now = crate::time::Clock::mono(&clock);
        let tick_ns = TICK_NS.min(threshold_ns / 2);
        let tracker =
            Tracker::new(writer, &[threshold_ns], 0, tick_ns, admission, UidAccounts::default(), now);
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

    /// The next event, waiting for it at most [`POLL_WAIT`]; `None` if there was none, or something came
    /// that is counted but no event (an empty datagram, a frame of the future refused for room).
    ///
    /// What lies in the socket is always taken before anybody is called stalled. A caller that comes back
    /// later than 100 ms, or a quarter of the threshold if that is longer, counts as paused: agents are owed
    /// a whole threshold of sight after that, so stalls are told later, after three thresholds at most.
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
        // Without memory for more, those who come are refused.
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

    /// Agents given up since the last call to make room: their processes were gone.
    pub fn drain_evictions(&mut self) -> u64 {
        std::mem::take(&mut self.evictions)
    }

    /// Frames of agents that found no room since the last call.
    pub fn drain_capacity_exceeded(&mut self) -> u64 {
        std::mem::take(&mut self.refused)
    }

    /// The outer `None`: no batch is under way.
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
        // They are taken from the end: the longest silence first.
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
            (Outcome::Beat(_) | Outcome::Changed(_), None, _) => None,
        }
    }

    fn beat(&mut self, slot: u32, frame: &Frame, arrival: MonoNs, is_changed: bool) -> ObserverEvent {
        let pid = self.front.tracker.hot(slot).pid;
        let (status, payload, nonce) = (frame.status, frame.payload, frame.nonce);
        let beat = ObserverEvent::Beat { pid, status, payload, nonce, arrival };
        if is_changed {
            let (hot, cold) = (self.front.tracker.hot(slot), self.front.tracker.cold(slot));
            if hot.flags.has(Flags::UNVERIFIED) {
                self.front.tracker.on_answer(slot, answer::FORGED, Answer::default());
                if hot.beats() == 1 {
                    let as_of = hot.last_arrival;
                    self.front.tracker.on_answer(
                        slot,
                        answer::RELEASE,
                        Answer { as_of, ..Answer::default() },
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

    /// Stalls one after another; who is gone exited, and who beat meanwhile is not told.
    fn next_stall(&mut self) -> Option<ObserverEvent> {
        while let Some(slot) = self.stalled.pop() {
            let (hot, cold) = (self.front.tracker.hot(slot), self.front.tracker.cold(slot));
            if hot.state != State::Stalled {
                continue;
            }
            if let Some(End { at: as_of, .. }) = procfs::end(hot.pid, None, &SystemClock) {
                self.front.tracker.on_answer(slot, answer::RELEASE, Answer { as_of, ..Answer::default() });
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

    /// Gives up one stalled agent whose process is gone, if one of the next few slots holds such: the
    /// search goes on with the next refused frame, so that each costs the same.
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
                self.front.tracker.on_answer(slot, answer::RELEASE, Answer { as_of, ..Answer::default() });
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
                // Some silences are long enough for a stall, which is waited for.
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
