//! The thread of one shard: wait, receive, decode, track, judge, publish. In this folder, read this file first.
//!
//! In: datagrams of its socket; instructions in its inbox. Out: facts, reports and samples on its port.
//! Thread: shard. Blocks: only in [`Front::wait`]. Allocates, locks, logs: never after [`Shard::new`].

use std::io;
use std::sync::Arc;

use crate::lane::report::{Report, SAMPLES_MAX};
use crate::lane::{BeatNote, Doorbell, Port, Sample, SampleOf, Taken, instruction};
use crate::refusal::Refusal;
use crate::time::{Clock, MonoNs};

pub mod arrival;
pub mod front;
pub mod index;
pub mod input;
pub mod pace;
pub mod sight;
pub mod thread;
pub mod tracker;
pub mod uids;
pub mod wheel;

use front::{Batch, Front, Heard};
use input::Transport;
use pace::Pace;
use tracker::Outcome;

/// Receive calls per turn. Bounded, so that a flood cannot delay judgements.
const BATCHES_PER_TURN: u32 = 16;
/// Timer entries handled between two receive calls.
const JUDGE_BUDGET: u32 = 4096;
/// Agents moved to new classes per turn, after a reload.
const RENEW_BUDGET: u32 = 1024;
/// Instructions taken per turn.
const INSTRUCTIONS_PER_TURN: u32 = 1024;
/// An idle shard wakes this often, to publish that it runs.
const IDLE_NS: u64 = 1_000_000_000;
/// Pause after a failed receive: an immediate retry would fail again.
const RETRY_NS: u64 = 10_000_000;
/// Examples of refused frames reported per second.
const SAMPLES_PER_SECOND: u32 = 10;
const SECOND_NS: u64 = 1_000_000_000;

/// One shard.
#[derive(Debug)]
pub struct Shard<T, C> {
    front: Front<T, C>,
    port: Arc<Port>,
    doorbell: Arc<Doorbell>,
    pace: Pace,
    queue_ns: [u32; SAMPLES_MAX],
    samples_left: u32,
    samples_since: MonoNs,
    /// More datagrams are known to be queued: do not sleep.
    is_behind: bool,
    /// The last receive failed.
    is_failing: bool,
    /// The batch being taken, and how many of its datagrams have been taken.
    in_hand: Option<Batch>,
    taken: usize,
    /// A release that has to wait: frames of the exited process may still be queued.
    deferred: Option<Taken>,
}

impl<T: Transport, C: Clock> Shard<T, C> {
    /// A shard that reports through `port` and sleeps at most `max_delay_ns` before it drains. `front` counts
    /// users in the `uids` of the same port.
    pub fn new(front: Front<T, C>, port: Arc<Port>, doorbell: Arc<Doorbell>, max_delay_ns: u64) -> Self {
        debug_assert!(front.tracker.uids.counts_in(&port.uids), "users are counted where others read");
        let now = front.now();
        port.counters.queue_limit.set(u64::from(front.queue_limit()));
        port.counters.slots_used.set(u64::from(front.tracker.slots_used()));
        Self {
            pace: Pace::new(max_delay_ns, front.queue_limit(), now),
            front,
            port,
            doorbell,
            queue_ns: [0; SAMPLES_MAX],
            samples_left: SAMPLES_PER_SECOND,
            samples_since: now,
            is_behind: true,
            is_failing: false,
            in_hand: None,
            taken: 0,
            deferred: None,
        }
    }

    /// One turn: sleep unless more is waiting, drain, judge, publish.
    ///
    /// # Errors
    /// The socket can no longer be polled or read. Transient errors are counted.
    pub fn turn(&mut self) -> io::Result<()> {
        if let Some((until, for_datagrams)) = self.next_wait() {
            self.front.wait(until, for_datagrams).or_else(|error| self.failed(error))?;
        }
        if let Some(kicked_at) = self.port.take_kick() {
            self.front.sight.kicked(kicked_at);
        }
        #[cfg(test)]
        self.port.fault.strike(&self.port.table);
        if planted!(JudgesBeforeDraining) {
            self.judge();
        }
        self.drain()?;
        if self.port.handover.is_offered() {
            self.take_settings();
        }
        self.take_instructions();
        self.judge();
        self.tell_blindness();
        self.publish();
        Ok(())
    }

    /// Continues after a panic in [`Shard::turn`], on the same socket and table, with all agents in grace.
    /// Pushes every slot again: some changes may not have been reported.
    pub fn recover(&mut self) {
        let used = self.front.tracker.slots_used();
        self.front.recover();
        self.is_behind = true;
        if let Some(batch) = &mut self.in_hand {
            // More datagrams may have arrived since, so this batch does not prove that the queue was empty.
            batch.is_last = false;
        }
        for slot in 0..used {
            self.port.facts.push(slot, 1);
        }
        self.doorbell.ring();
    }

    /// The last turn before the shard ends: takes everything that has arrived and judges nothing. Senders
    /// that keep sending do not delay it.
    pub fn finish(mut self) {
        self.take_all();
        self.front.tracker.writer().mark_clean();
    }

    /// Takes everything that has arrived and judges nothing: afterwards another process may receive.
    pub fn take_all(&mut self) {
        self.front.read_clock();
        let from = self.front.now();
        self.is_behind = true;
        while self.is_behind && self.front.sight.watermark() <= from {
            if self.drain().is_err() {
                break;
            }
        }
        self.publish();
    }

    /// The latest end of the next wait, and whether a datagram ends it earlier; `None` if the next turn does
    /// not wait.
    pub fn next_wait(&self) -> Option<(MonoNs, bool)> {
        let now = self.front.now();
        // Checked first: a pending release may depend on the receive call that fails.
        if self.is_failing {
            return Some((now + RETRY_NS, false));
        }
        if self.is_behind {
            return None;
        }
        let due = [self.front.tracker.next_due(), self.front.sight.news_due(), Some(now + IDLE_NS)];
        let until = due.into_iter().flatten().min().unwrap_or(now);
        Some(match self.pace.delay() {
            Some(delay_ns) => (until.min(now + delay_ns), false),
            None => (until, true),
        })
    }

    fn drain(&mut self) -> io::Result<()> {
        let mut frames = 0;
        self.is_behind = true;
        for _ in 0..BATCHES_PER_TURN {
            let batch = match self.in_hand {
                Some(batch) => batch,
                None => match self.receive() {
                    Ok(batch) => batch,
                    Err(error) => return self.failed(error),
                },
            };
            self.take(&batch);
            frames += batch.len as u64;
            if batch.is_last {
                self.is_behind = false;
                break;
            }
        }
        self.pace.on_turn(frames, !self.is_behind, self.front.now());
        Ok(())
    }

    fn receive(&mut self) -> io::Result<Batch> {
        self.port.counters.receive_calls.add(1);
        let batch = self.front.receive()?;
        self.is_failing = false;
        (self.in_hand, self.taken) = (Some(batch), 0);
        Ok(batch)
    }

    /// Takes the datagrams of the batch in hand; after a panic, the remaining ones.
    #[inline]
    fn take(&mut self, batch: &Batch) {
        while self.taken < batch.len {
            let index = self.taken;
            // Advance first: a datagram that causes a panic is skipped afterwards.
            self.taken += 1;
            let heard = self.front.hear(batch, index);
            self.count(&heard, index);
        }
        self.end_batch(batch);
        self.in_hand = None;
    }

    #[inline]
    fn count(&mut self, heard: &Heard, index: usize) {
        let counters = &self.port.counters;
        counters.frames.add(1);
        if let Some(place) = self.queue_ns.get_mut(index) {
            *place = heard.queue_ns;
        }
        match heard.outcome {
            Outcome::Beat(_) => counters.beats.add(1),
            Outcome::Changed(slot) => {
                counters.beats.add(1);
                self.tell(slot);
            }
            Outcome::News(slot) => {
                counters.messages.add(1);
                self.tell(slot);
            }
            Outcome::Heard => counters.messages.add(1),
            Outcome::Refused(Refusal::WrongSize) if planted!(ForgetsToCount) => {}
            Outcome::Refused(refusal) => {
                counters.refuse(refusal);
                self.refused(heard, refusal);
            }
        }
        if self.port.beats.is_some() {
            self.note_beat(heard);
        }
    }

    fn tell(&self, slot: u32) {
        if self.port.facts.push(slot, 1) {
            self.doorbell.ring();
        }
    }

    /// Counts every refusal and reports a few per second.
    #[cold]
    fn refused(&mut self, heard: &Heard, refusal: Refusal) {
        if matches!(refusal, Refusal::TableFull | Refusal::Budget) {
            self.doorbell.ring_if_tickless();
        }
        let claimed = heard.frame.map_or(0, |frame| frame.pid);
        let Some(what) = SampleOf::of(refusal, heard.error, claimed) else { return };
        if heard.arrival.since(self.samples_since) >= SECOND_NS {
            self.samples_since = heard.arrival;
            self.samples_left = SAMPLES_PER_SECOND;
        }
        let sample = Sample { arrival: heard.arrival, attested: heard.pid, uid: heard.uid, what };
        if self.samples_left == 0 || self.port.samples.push(sample).is_err() {
            self.port.counters.samples_dropped.add(1);
            return;
        }
        self.samples_left -= 1;
        self.doorbell.ring();
    }

    #[cold]
    fn note_beat(&self, heard: &Heard) {
        let (Some(frame), Outcome::Beat(_) | Outcome::Changed(_)) = (heard.frame, heard.outcome) else {
            return;
        };
        let Some(beats) = &self.port.beats else { return };
        let note = BeatNote {
            arrival: heard.arrival,
            pid: heard.pid,
            frame_pid: frame.pid,
            nonce: frame.nonce,
            status: frame.status,
            payload: frame.payload,
        };
        if beats.push(note).is_err() {
            self.port.counters.beats_untold.add(1);
        }
    }

    fn end_batch(&mut self, batch: &Batch) {
        let took_ns = self.front.end_batch(batch);
        let Ok(frames) = u32::try_from(batch.len) else { return };
        if frames == 0 {
            return;
        }
        let decode_ns = u32::try_from(took_ns / u64::from(frames)).unwrap_or(u32::MAX);
        let queue_ns = &self.queue_ns[..batch.len.min(SAMPLES_MAX)];
        if !self.port.reports.push(&Report { frames, decode_ns, queue_ns }) {
            self.port.counters.reports_dropped.add(1);
        }
        self.doorbell.ring_if_tickless();
        if self.port.reports.is_half_full() {
            self.doorbell.ring();
        }
    }

    /// A kernel that is out of memory or epoll watches recovers; a closed socket does not.
    #[cold]
    fn failed(&mut self, error: io::Error) -> io::Result<()> {
        let counters = &self.port.counters;
        counters.io_errors.add(1);
        counters.io_errno.set(u64::from(error.raw_os_error().unwrap_or(0).unsigned_abs()));
        self.doorbell.ring();
        self.is_behind = false;
        self.is_failing = true;
        match error.raw_os_error() {
            Some(libc::ENOMEM | libc::ENOBUFS | libc::ENOSPC | libc::ECONNREFUSED | libc::ECONNRESET) => {
                Ok(())
            }
            _ => Err(error),
        }
    }

    /// Takes what a reload changes, unless the agents are still being moved to the classes of the one before.
    #[cold]
    fn take_settings(&mut self) {
        if self.front.tracker.is_renewing() {
            return;
        }
        let Some(mut settings) = self.port.handover.take() else { return };
        self.pace.set_max(settings.max_delay_ns);
        self.front.swap(&mut settings);
        self.port.handover.settle(settings.edition, settings);
        self.doorbell.ring();
    }

    fn take_instructions(&mut self) {
        for _ in 0..INSTRUCTIONS_PER_TURN {
            let Some(taken) = self.deferred.take().or_else(|| self.port.inbox.take()) else { return };
            let Taken { slot, bits, instruction, .. } = taken;
            if !taken.is_about(self.front.tracker.cold(slot).generation) {
                continue;
            }
            if bits & instruction::RELEASE != 0 && instruction.as_of > self.front.sight.watermark() {
                // Frames of the exited process may still be queued and must not look like a new process. The
                // next receive calls move the watermark past them.
                self.deferred = Some(taken);
                break;
            }
            if self.front.tracker.on_instruction(slot, bits, instruction) {
                self.tell(slot);
            }
        }
        self.is_behind = true;
    }

    fn judge(&mut self) {
        let (port, doorbell) = (&self.port, &self.doorbell);
        let mut is_stall_found = false;
        let is_budget_spent = self.front.judge(JUDGE_BUDGET, |slot| {
            is_stall_found |= port.facts.push(slot, 1);
        });
        if is_stall_found {
            doorbell.ring();
        }
        self.is_behind |= is_budget_spent;
        if self.front.tracker.is_renewing() {
            self.front.tracker.renew(RENEW_BUDGET);
            self.is_behind = true;
        }
    }

    fn tell_blindness(&mut self) {
        let sight = &mut self.front.sight;
        while !self.port.blind.is_full() {
            let Some(news) = sight.take_news() else { return };
            let _ = self.port.blind.push(news);
            self.doorbell.ring();
        }
    }

    fn publish(&mut self) {
        let counters = &self.port.counters;
        let sight = &self.front.sight;
        counters.is_blind.set(u64::from(sight.is_blind()));
        counters.last_blind_end.set(sight.last_blind_end().0);
        counters.blind_ns.set(sight.blind_total_ns());
        counters.clock_steps.set(self.front.clock_steps());
        counters.beats_lost.set(self.front.tracker.beats_lost());
        let messages = self.front.messages();
        counters.fds.set(messages.fds);
        counters.assignments_refused.set(messages.assignments_refused);
        counters.slots_used.set(u64::from(self.front.tracker.slots_used()));
        counters.set_watermark(sight.watermark());
        counters.turned_at.set(self.front.now().0);
        let progress = self.front.progress();
        self.front.tracker.writer().mark_progress(&progress);
    }
}

#[cfg(test)]
impl<T: Transport, C: Clock> Shard<T, C> {
    /// The threshold in force for the agent of a slot, ns.
    pub fn threshold_of(&self, slot: u32) -> u64 {
        self.front.tracker.threshold_of(&self.front.tracker.hot(slot))
    }
}

#[cfg(test)]
#[path = "notify_tests.rs"]
mod notify_tests;

#[cfg(test)]
#[path = "recover_tests.rs"]
mod recover_tests;

#[cfg(test)]
#[path = "restart_tests.rs"]
mod restart_tests;

#[cfg(test)]
#[path = "shard_tests.rs"]
mod tests;
