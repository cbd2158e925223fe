//! The observer of one socket without its surroundings: receive, decode, track, judge. Shared by every shard
//! and by the single-socket [`Observer`](crate::Observer).
//!
//! In: datagrams. Out: the outcome of each, and which slots have changed. Thread: its owner's. Blocks: only
//! in [`Front::wait`]. Allocates: never after [`Front::new`].

use std::io;
use std::mem;

use crate::config::plan::Plan;
use crate::lane::settings::Settings;
use crate::notify::message::{self, Envelope, Message, Watchdog};
use crate::refusal::Refusal;
use crate::rules::{self, Sender};
use crate::shard::arrival::Arrival;
use crate::shard::arrival::Arrivals;
use crate::shard::input::Transport;
use crate::shard::sight::SightLog;
use crate::shard::tracker::{Outcome, Tracker};
use crate::sys::datagram::Datagram;
use crate::table::Progress;
use crate::table::adopt::Legacy;
use crate::table::key::AgentKey;
use crate::table::turned_away::TurnedAwayFor;
use crate::time::{Clock, MonoNs, WallNs};
use crate::wire::{self, DecodeError, FRAME_BYTES, Frame};

/// One datagram, judged.
#[derive(Clone, Copy, Debug)]
pub struct Heard {
    /// What the datagram did.
    pub outcome: Outcome,
    /// When it arrived.
    pub arrival: MonoNs,
    /// From its arrival to being read, ns.
    pub queue_ns: u32,
    /// Attested sender; 0 if the kernel attests none.
    pub pid: u32,
    /// Attested user.
    pub uid: u32,
    /// The frame, if it decoded.
    pub frame: Option<Frame>,
    /// Why the frame did not decode.
    pub error: Option<DecodeError>,
}

/// One receive call.
#[derive(Clone, Copy, Debug)]
pub struct Batch {
    /// Datagrams in it.
    pub len: usize,
    /// Whether the queue was empty at some instant during the call.
    pub is_last: bool,
    wall: WallNs,
    t_pre: MonoNs,
}

/// Socket, sight and agents of one shard.
#[derive(Debug)]
pub struct Front<T, C> {
    transport: T,
    clock: C,
    /// The agents.
    pub tracker: Tracker,
    /// When the shard could read its socket, and when it could not.
    pub sight: SightLog,
    arrivals: Arrivals,
    limits: Limits,
    /// Users that may beat here, sorted; `None` = every user that the socket's mode admits.
    allow_uids: Option<Box<[u32]>>,
    messages: MessageCounts,
    /// The last reading of the clock: after the last batch, or before the wait.
    now: MonoNs,
    /// The last wait ended, and the clock has not been read since.
    is_now_stale: bool,
}

/// What is counted of messages, besides the datagrams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MessageCounts {
    /// Descriptors that came with them.
    pub fds: u64,
    /// Assignments that were refused, alone.
    pub assignments_refused: u64,
}

/// The part of a plan that a front needs.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The smallest configured threshold, ns.
    pub threshold_min_ns: u64,
    /// Resolution of judgements, ns.
    pub tick_ns: u64,
}

impl From<&Plan> for Limits {
    fn from(plan: &Plan) -> Self {
        Self { threshold_min_ns: plan.threshold_min_ns(), tick_ns: plan.tick_ns }
    }
}

impl<T: Transport, C: Clock> Front<T, C> {
    /// A front whose sight begins now.
    pub fn new(transport: T, clock: C, tracker: Tracker, limits: Limits, allow_uids: Option<&[u32]>) -> Self {
        let now = clock.mono();
        let allow_uids = allow_uids.map(sorted);
        Self {
            sight: sight_of(&transport, limits, now),
            arrivals: Arrivals::new(&clock),
            limits,
            transport,
            clock,
            tracker,
            allow_uids,
            messages: MessageCounts::default(),
            now,
            is_now_stale: false,
        }
    }

    /// What is counted of messages so far.
    pub const fn messages(&self) -> MessageCounts {
        self.messages
    }

    /// A front that goes on for the process before, on the same socket and on its table. Its sight begins now:
    /// every agent that is silent gets a whole threshold. What is queued counts by its stamps.
    pub fn adopted(
        transport: T,
        clock: C,
        tracker: Tracker,
        limits: Limits,
        allow_uids: Option<&[u32]>,
        legacy: &Legacy,
    ) -> Self {
        let mut front = Self::new(transport, clock, tracker, limits, allow_uids);
        let before = &legacy.progress;
        front.sight.go_on_after(before);
        let last = Arrival { earliest: before.watermark, latest: before.watermark.max(legacy.last_arrival) };
        front.arrivals.go_on_after(before.clock_offset, last);
        front
    }

    /// How far the front has come, for a successor.
    pub fn progress(&self) -> Progress {
        let (paused_ns, paused_from) = self.sight.accounted();
        Progress {
            alive_at: self.now,
            watermark: self.sight.watermark(),
            paused_ns,
            paused_from,
            clock_offset: self.arrivals.offset(),
        }
    }

    /// Continues after a panic, from the table alone, on the same socket, with every agent in grace.
    pub fn recover(&mut self) {
        self.now = self.clock.mono();
        self.is_now_stale = false;
        // Queued datagrams are not processed yet: the watermark continues from where it was.
        let (watermark, blind_total_ns) = (self.sight.watermark(), self.sight.blind_total_ns());
        self.sight = sight_of(&self.transport, self.limits, self.now);
        self.sight.go_on_from(watermark, blind_total_ns);
        self.tracker.recover(self.now);
    }

    /// Swaps what a reload changes with `settings`: these are in force afterwards, and those before are in
    /// `settings`. Frames that were heard before stay accepted or refused.
    pub fn swap(&mut self, settings: &mut Settings) {
        mem::swap(&mut self.allow_uids, &mut settings.allow_uids);
        self.tracker.uids.set_frames_max(settings.uid_frames_max);
        if let Some((table, classes)) = &mut settings.table {
            // Daemons may have shorter ones than all rules.
            let of_daemons = self.tracker.terms().map_or(u64::MAX, |terms| terms.threshold_min_ns);
            self.limits.threshold_min_ns = classes.smallest_ns().min(of_daemons);
            self.sight.set_threshold(self.limits.threshold_min_ns);
            self.tracker.swap_classes(*table, classes, self.now);
        }
    }

    /// The last reading of the clock.
    pub const fn now(&self) -> MonoNs {
        self.now
    }

    /// Reads the clock outside of a batch.
    pub fn read_clock(&mut self) {
        self.now = self.clock.mono();
    }

    /// Steps of the wall clock seen so far.
    pub const fn clock_steps(&self) -> u64 {
        self.arrivals.steps()
    }

    /// The socket's queue limit.
    pub fn queue_limit(&self) -> u32 {
        self.transport.queue_limit()
    }

    /// Sleeps until `until` at the latest. A datagram ends the sleep only if `for_datagrams`. A shard blocks
    /// nowhere else.
    ///
    /// # Errors
    /// The transport's.
    pub fn wait(&mut self, until: MonoNs, for_datagrams: bool) -> io::Result<()> {
        self.sight.begin_wait(until, for_datagrams);
        self.is_now_stale = true;
        self.transport.wait(for_datagrams, self.now, until)
    }

    /// Receives one batch. Reads the clock twice; [`Front::end_batch`] reads it a third time.
    ///
    /// # Errors
    /// The transport's; the batch is then empty and proves nothing.
    pub fn receive(&mut self) -> io::Result<Batch> {
        if self.is_now_stale {
            self.now = self.clock.mono();
            self.is_now_stale = false;
        }
        // Read before the call: the watermark moves here if the queue turns out to be empty.
        let t_pre = self.now;
        self.sight.begin_receive(t_pre);
        let len = self.transport.receive()?;
        let wall = self.clock.wall();
        let transport = &self.transport;
        self.tracker.prefetch((0..len).filter_map(|index| transport.sender(index).map(AgentKey::of_pid)));
        self.arrivals.begin_batch(&self.clock, t_pre, wall);
        self.sight.received(self.arrivals.instant(wall));
        Ok(Batch { len, is_last: self.transport.was_emptied_by(len), wall, t_pre })
    }

    /// Takes datagram `index` of the batch.
    #[inline]
    pub fn hear(&mut self, batch: &Batch, index: usize) -> Heard {
        if T::HAS_MESSAGES {
            return self.hear_message(batch, index);
        }
        let datagram = self.transport.datagram(index);
        // The datagram was received by `wall`, so it arrived by then. Converted with the offset of this
        // batch.
        let until = self.arrivals.instant(batch.wall).max(batch.t_pre);
        let arrival = self.arrivals.arrival(datagram.stamp, until);
        self.sight.on_datagram(arrival.earliest);
        let sender = Sender {
            pid: datagram.credentials.map_or(0, |credentials| credentials.pid),
            uid: datagram.credentials.map_or(0, |credentials| credentials.uid),
            arrival: arrival.latest,
            paused_before: self.sight.paused_before(arrival.latest),
        };
        // Count the datagram before its content is examined.
        let uid = datagram.credentials.map(|credentials| credentials.uid);
        let account = self.tracker.uids.on_datagram(uid, arrival.latest);
        let heard = |outcome, frame, error| Heard {
            outcome,
            arrival: arrival.latest,
            queue_ns: u32::try_from(until.since(arrival.latest)).unwrap_or(u32::MAX),
            pid: sender.pid,
            uid: sender.uid,
            frame,
            error,
        };
        let heard = match admissible(&datagram, self.allow_uids.as_deref()) {
            // A crash report is accepted over the budget, if it is valid.
            Ok(bytes) if account.is_over_budget && !wire::claims_terminal(bytes) => {
                heard(Outcome::Refused(Refusal::Budget), None, None)
            }
            Ok(bytes) => {
                let frame = wire::decode_attested(bytes, sender.pid)
                    .and_then(|frame| rules::forbid_in_v01(&frame).map(|()| frame));
                match frame {
                    Ok(frame) => heard(self.tracker.on_frame(&frame, &sender), Some(frame), None),
                    Err(_) if account.is_over_budget => heard(Outcome::Refused(Refusal::Budget), None, None),
                    Err(error) => heard(Outcome::Refused(error.into()), None, Some(error)),
                }
            }
            Err(refusal) => heard(Outcome::Refused(refusal), None, None),
        };
        if let Outcome::Refused(refusal) = heard.outcome {
            self.tracker.uids.on_refused(account, refusal);
            // The tracker itself records senders that find no room.
            let turned_away_for = match refusal {
                Refusal::Uid => Some(TurnedAwayFor::Uid),
                Refusal::Budget => Some(TurnedAwayFor::Budget),
                _ => None,
            };
            if let Some(why) = turned_away_for {
                self.tracker.on_turned_away(sender.pid, sender.arrival, why);
            }
        }
        heard
    }

    /// Takes message `index` of the batch, and lets its descriptors go. A barrier is answered whoever sent it: it comes
    /// after everything that its sender had sent before.
    fn hear_message(&mut self, batch: &Batch, index: usize) -> Heard {
        let datagram = self.transport.datagram(index);
        let until = self.arrivals.instant(batch.wall).max(batch.t_pre);
        let arrival = self.arrivals.arrival(datagram.stamp, until);
        self.sight.on_datagram(arrival.earliest);
        let credentials = datagram.credentials.filter(|credentials| credentials.pid != 0);
        let sender = Sender {
            pid: credentials.map_or(0, |credentials| credentials.pid),
            uid: datagram.credentials.map_or(0, |credentials| credentials.uid),
            arrival: arrival.latest,
            paused_before: self.sight.paused_before(arrival.latest),
        };
        let uid = datagram.credentials.map(|credentials| credentials.uid);
        let account = self.tracker.uids.on_datagram(uid, arrival.latest);
        let envelope = Envelope {
            is_truncated: datagram.is_truncated,
            is_control_truncated: datagram.is_control_truncated,
            is_attested: credentials.is_some(),
            fds: self.transport.fds(index),
        };
        let message = message::read(datagram.bytes, envelope);
        self.messages.fds += envelope.fds as u64;
        if let Ok(Message::Fields(fields)) = &message {
            self.messages.assignments_refused += u64::from(fields.invalid);
        }
        let is_allowed = |uids: &[u32]| uids.binary_search(&sender.uid).is_ok();
        let outcome = match message {
            Err(fault) => Outcome::Refused(fault.into()),
            Ok(_) if !self.allow_uids.as_deref().is_none_or(is_allowed) => Outcome::Refused(Refusal::Uid),
            Ok(Message::Barrier) => Outcome::Heard,
            // A report of a failure is accepted over the budget.
            Ok(Message::Fields(fields))
                if account.is_over_budget && fields.watchdog != Some(Watchdog::Trigger) =>
            {
                Outcome::Refused(Refusal::Budget)
            }
            Ok(Message::Fields(fields)) if fields.is_empty() => Outcome::Refused(Refusal::Meaningless),
            Ok(Message::Fields(fields)) => self.tracker.on_message(&fields, &sender),
        };
        let is_barrier = message == Ok(Message::Barrier);
        self.transport.let_go(index, is_barrier);
        if let Outcome::Refused(refusal) = outcome {
            self.tracker.uids.on_refused(account, refusal);
            match refusal {
                Refusal::Uid => self.tracker.on_turned_away(sender.pid, sender.arrival, TurnedAwayFor::Uid),
                Refusal::Budget => {
                    self.tracker.on_turned_away(sender.pid, sender.arrival, TurnedAwayFor::Budget);
                }
                _ => {}
            }
        }
        Heard {
            outcome,
            arrival: arrival.latest,
            queue_ns: u32::try_from(until.since(arrival.latest)).unwrap_or(u32::MAX),
            pid: sender.pid,
            uid: sender.uid,
            frame: None,
            error: None,
        }
    }

    /// All datagrams of the batch were taken. Returns how long that took, ns.
    #[inline]
    pub fn end_batch(&mut self, batch: &Batch) -> u64 {
        self.now = self.clock.mono();
        self.arrivals.end_batch(&self.clock, batch.wall, self.now, batch.is_last);
        self.sight.end_receive(batch.is_last, self.now);
        self.now.since(self.arrivals.instant(batch.wall).max(batch.t_pre))
    }

    /// Judges at most `budget` agents and calls `on_stall` for each one found stalled. Returns true if more
    /// may be due.
    pub fn judge(&mut self, budget: u32, on_stall: impl FnMut(u32)) -> bool {
        let sight = &self.sight;
        let mut view = sight.view();
        if planted!(JudgesByTheClock) {
            view.watermark = self.now;
        }
        self.tracker.judge(&view, budget, |since| sight.blind_since(since), on_stall)
    }
}

/// A list of users as it is searched.
pub fn sorted(uids: &[u32]) -> Box<[u32]> {
    let mut uids: Box<[u32]> = uids.into();
    uids.sort_unstable();
    uids
}

fn sight_of(transport: &impl Transport, limits: Limits, now: MonoNs) -> SightLog {
    let Limits { threshold_min_ns, tick_ns } = limits;
    SightLog::new(transport.queue_limit(), transport.batch_max(), threshold_min_ns, tick_ns, now)
}

/// The 32 bytes of a datagram whose sender the kernel attests and the configuration allows.
#[inline]
fn admissible<'a>(
    datagram: &Datagram<'a>,
    allow_uids: Option<&[u32]>,
) -> Result<&'a [u8; FRAME_BYTES], Refusal> {
    if datagram.bytes.is_empty() && !datagram.is_truncated {
        return Err(Refusal::Probe);
    }
    let bytes = match <&[u8; FRAME_BYTES]>::try_from(datagram.bytes) {
        Ok(bytes) if !datagram.is_truncated => bytes,
        _ => return Err(Refusal::WrongSize),
    };
    if datagram.has_foreign_fds {
        return Err(Refusal::ForeignFds);
    }
    if datagram.is_control_truncated {
        return Err(Refusal::TruncatedControl);
    }
    let Some(credentials) = datagram.credentials else { return Err(Refusal::Unattested) };
    if credentials.pid == 0 {
        return Err(Refusal::Unattested);
    }
    match allow_uids {
        Some(uids) if uids.binary_search(&credentials.uid).is_err() => Err(Refusal::Uid),
        _ => Ok(bytes),
    }
}

#[cfg(test)]
#[path = "budget_tests.rs"]
mod budget_tests;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::datagram::Credentials;

    /// A datagram without credentials, with pid 0 (a process outside our pid namespace), or with truncated
    /// control data is refused: none of them proves that an agent is alive.
    #[test]
    fn fault_19_who_cannot_be_told_by_the_kernel_is_nobody() {
        let credentials = Some(Credentials { pid: 7, uid: 1000 });
        let good = Datagram {
            bytes: &[0; FRAME_BYTES],
            is_truncated: false,
            is_control_truncated: false,
            has_foreign_fds: false,
            credentials,
            stamp: None,
        };
        assert_eq!(admissible(&good, None), Ok(&[0; FRAME_BYTES]));
        let nobody = Some(Credentials { pid: 0, uid: 65534 });
        let cases = [
            (Datagram { credentials: None, ..good }, Refusal::Unattested),
            (Datagram { credentials: nobody, ..good }, Refusal::Unattested),
            (Datagram { is_control_truncated: true, ..good }, Refusal::TruncatedControl),
            (Datagram { is_control_truncated: true, credentials: None, ..good }, Refusal::TruncatedControl),
            (Datagram { has_foreign_fds: true, is_control_truncated: true, ..good }, Refusal::ForeignFds),
        ];
        for (datagram, refusal) in cases {
            assert_eq!(admissible(&datagram, None), Err(refusal), "{datagram:?}");
        }
    }
}
