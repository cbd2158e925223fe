//! Numbers events and hands them to subscribers. A subscriber that is too slow loses events; the next one it
//! gets is `lost` with their range.
//!
//! Verdicts, and events that explain missing verdicts, have a reserve in every queue that no other kind can
//! take. Events of agents that come and go leave a quarter of the rest to others.

use std::fmt;
use std::sync::Arc;

use crossbeam::channel::{Receiver, Sender, unbounded};

use crate::event::{Event, EventKind, Rank};
use crate::sinks::WriterCounters;
use crate::time::{MonoNs, WallNs};
use crate::view::tally::Reader;

/// A queue of events has room for one of each agent and this many more.
pub const EVENTS_SLACK: usize = 65_536;

/// A receiver of events.
pub struct Subscriber {
    reader: Reader,
    sender: Sender<Event>,
    /// Most events that may wait, without the reserve. Limited here, because a bounded channel would allocate
    /// all its memory at once.
    capacity: usize,
    /// Wakes a reader that does not block on the channel.
    pub wake: Option<Box<dyn Fn() + Send>>,
    has_news: bool,
    /// Whether it gets beats, too.
    pub wants_beats: bool,
    /// Counts of its writer, if it has one.
    pub counters: Option<Arc<WriterCounters>>,
    /// First and last number of missed events that are not reported to it yet.
    missed: Option<(u64, u64)>,
}

/// Why an event was not sent.
#[derive(Clone, Copy, Debug)]
enum NotSent {
    /// There is no room for its rank.
    Full,
    /// The receiver is gone.
    Gone,
}

impl Subscriber {
    /// A subscriber with room for `capacity` events, at least 2, and a quarter as many in reserve; and the
    /// receiving end.
    pub fn new(reader: Reader, capacity: usize) -> (Self, Receiver<Event>) {
        let (sender, receiver) = unbounded();
        let subscriber = Self {
            reader,
            sender,
            capacity: capacity.max(2),
            wake: None,
            has_news: false,
            wants_beats: false,
            counters: None,
            missed: None,
        };
        (subscriber, receiver)
    }

    /// Events that its writer discarded.
    fn discarded(&self) -> u64 {
        self.counters.as_ref().map_or(0, |counters| counters.discarded())
    }

    /// Most events that may wait, this one included, for an event of this rank to be accepted.
    fn room(&self, rank: Rank) -> usize {
        match rank {
            // At least two: a verdict and the `lost` line before it.
            Rank::Verdict => self.capacity + (self.capacity / 4).max(2),
            Rank::Word => self.capacity,
            Rank::Life => self.capacity - self.capacity / 4,
        }
    }

    /// Sends the event if it leaves `spare` places of the room for its rank. There is no other sender, so the
    /// room cannot shrink in between.
    fn try_send(&mut self, event: Event, rank: Rank, spare: usize) -> Result<(), NotSent> {
        if self.sender.len() + spare >= self.room(rank) {
            return Err(NotSent::Full);
        }
        self.has_news = true;
        self.sender.send(event).map_err(|_| NotSent::Gone)
    }
}

impl fmt::Debug for Subscriber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscriber").field("reader", &self.reader).field("missed", &self.missed).finish()
    }
}

/// All subscribers, and the count of events.
#[derive(Debug, Default)]
pub struct Fanout {
    subscribers: Vec<Subscriber>,
    last_seq: u64,
    dropped: [u64; Reader::ALL.len()],
    beats_dropped: u64,
}

impl Fanout {
    /// Number of the last event.
    pub const fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// Events that did not reach a subscriber, or that its writer discarded, by [`Reader`] in the order of
    /// its variants.
    pub fn dropped(&self) -> [u64; Reader::ALL.len()] {
        let mut dropped = self.dropped;
        for subscriber in &self.subscribers {
            dropped[subscriber.reader as usize] += subscriber.discarded();
        }
        dropped
    }

    /// Beats that did not reach a subscriber that asked for them.
    pub const fn beats_dropped(&self) -> u64 {
        self.beats_dropped
    }

    /// Adds a subscriber; it gets events from here on.
    pub fn add(&mut self, subscriber: Subscriber) {
        self.subscribers.push(subscriber);
    }

    /// Puts a subscriber, or none, in the place of the one that writes events. The `lost` line that
    /// is due goes to that one if it has room, else to its successor.
    pub fn replace_log(&mut self, log: Option<Subscriber>, wall: WallNs, mono: MonoNs) {
        let mut missed = None;
        for mut before in self.subscribers.extract_if(.., |subscriber| subscriber.reader == Reader::Log) {
            if !catch_up(&mut before, wall, mono, Rank::Verdict, 0) {
                missed = before.missed;
            }
            self.dropped[Reader::Log as usize] += before.discarded();
        }
        self.subscribers.extend(log.map(|log| Subscriber { missed, ..log }));
    }

    /// Whether any subscriber wants beats.
    pub fn wants_beats(&self) -> bool {
        self.subscribers.iter().any(|subscriber| subscriber.wants_beats)
    }

    /// Gives the event the next number.
    pub fn number(&mut self, event: Event) -> Event {
        self.last_seq += 1;
        Event { seq: self.last_seq, ..event }
    }

    /// Continues the numbers of a predecessor, whose last was `seq`.
    pub fn go_on_after(&mut self, seq: u64) {
        self.last_seq = seq;
    }

    /// Whether there is a subscriber of this kind.
    pub fn has(&self, reader: Reader) -> bool {
        self.subscribers.iter().any(|subscriber| subscriber.reader == reader)
    }

    /// Hands an event of a predecessor to those that keep a history; to the output only if it is marked as
    /// repeated.
    pub fn repeat(&mut self, event: Event) {
        for subscriber in &mut self.subscribers {
            if subscriber.reader == Reader::Http || subscriber.reader == Reader::Log && event.again {
                let _ = subscriber.try_send(event, event.kind.rank(), 0);
            }
        }
    }

    /// Tells the output that events of a predecessor did not reach it and can no longer be repeated.
    pub fn repeat_lost(&mut self, from_seq: u64, to_seq: u64, (wall, mono): (WallNs, MonoNs)) {
        let kind = EventKind::Lost { from_seq, to_seq };
        let lost = Event { seq: 0, again: false, wall, mono, shard: None, agent: None, kind };
        for subscriber in self.subscribers.iter_mut().filter(|subscriber| subscriber.reader == Reader::Log) {
            let _ = subscriber.try_send(lost, Rank::Verdict, 0);
        }
    }

    /// Hands out a numbered event. Never blocks.
    pub fn deliver(&mut self, event: Event) {
        let dropped = &mut self.dropped;
        let rank = event.kind.rank();
        self.subscribers.retain_mut(|subscriber| {
            // In the reserve, a `lost` line is of use only with the event after it.
            let spare = usize::from(rank == Rank::Verdict);
            if !catch_up(subscriber, event.wall, event.mono, rank, spare) {
                miss(subscriber, event.seq);
                dropped[subscriber.reader as usize] += 1;
                return true;
            }
            match subscriber.try_send(event, rank, 0) {
                Ok(()) => true,
                Err(NotSent::Full) => {
                    miss(subscriber, event.seq);
                    dropped[subscriber.reader as usize] += 1;
                    true
                }
                Err(NotSent::Gone) => false,
            }
        });
    }

    /// Hands a beat, which has no number, to subscribers that want beats.
    pub fn report_beat(&mut self, event: Event) {
        for subscriber in self.subscribers.iter_mut().filter(|subscriber| subscriber.wants_beats) {
            if subscriber.try_send(event, Rank::Word, 0).is_err() {
                self.beats_dropped += 1;
            }
        }
    }

    /// Sends the `lost` lines that are due to subscribers that have room again, and wakes those that got
    /// something. True if lines are left. Call it at the end of a turn.
    pub fn settle(&mut self, wall: WallNs, mono: MonoNs) -> bool {
        let mut is_owing = false;
        for subscriber in &mut self.subscribers {
            // By the lowest rank, which leaves room to events: what made it miss some may go on.
            is_owing |= !catch_up(subscriber, wall, mono, Rank::Life, 0);
            if std::mem::take(&mut subscriber.has_news)
                && let Some(wake) = &subscriber.wake
            {
                wake();
            }
        }
        is_owing
    }
}

/// Sends the subscriber the `lost` line that is due, if any. False if there is no room for it.
fn catch_up(subscriber: &mut Subscriber, wall: WallNs, mono: MonoNs, rank: Rank, spare: usize) -> bool {
    let Some((from_seq, to_seq)) = subscriber.missed else { return true };
    let kind = EventKind::Lost { from_seq, to_seq };
    let lost = Event { seq: 0, again: false, wall, mono, shard: None, agent: None, kind };
    if planted!(DropsTheLostLine) {
        subscriber.missed = None;
        return true;
    }
    match subscriber.try_send(lost, rank, spare) {
        Ok(()) => {
            subscriber.missed = None;
            true
        }
        Err(NotSent::Full) => false,
        // The receiver is gone; the next event removes the subscriber.
        Err(NotSent::Gone) => true,
    }
}

fn miss(subscriber: &mut Subscriber, seq: u64) {
    let from = subscriber.missed.map_or(seq, |(from, _)| from);
    subscriber.missed = Some((from, seq));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(fanout: &mut Fanout, event: Event) {
        let event = fanout.number(event);
        fanout.deliver(event);
    }

    fn event() -> Event {
        Event {
            seq: 0,
            again: false,
            wall: WallNs(0),
            mono: MonoNs(0),
            shard: None,
            agent: None,
            kind: EventKind::Up,
        }
    }

    #[test]
    fn fault_59_a_slow_subscriber_is_told_exactly_what_it_missed_and_others_miss_nothing() {
        let mut fanout = Fanout::default();
        let (slow, slow_end) = Subscriber::new(Reader::Subscriber, 2);
        let (fast, fast_end) = Subscriber::new(Reader::Log, 100);
        fanout.add(slow);
        fanout.add(fast);
        for _ in 0..5 {
            report(&mut fanout, event());
        }
        assert_eq!(fast_end.try_iter().map(|event| event.seq).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
        assert!(fanout.settle(WallNs(0), MonoNs(0)), "no room yet");
        assert_eq!(slow_end.try_iter().map(|event| event.seq).collect::<Vec<_>>(), [1, 2]);
        report(&mut fanout, event());
        let seen: Vec<Event> = slow_end.try_iter().collect();
        assert_eq!(seen[0].kind, EventKind::Lost { from_seq: 3, to_seq: 5 });
        assert_eq!(seen[1].seq, 6);
        assert_eq!(fanout.dropped(), [0, 0, 3, 0]);
        assert!(!fanout.settle(WallNs(0), MonoNs(0)));
    }

    #[test]
    fn fault_59_what_was_missed_is_told_even_if_nothing_else_happens() {
        let mut fanout = Fanout::default();
        let (slow, end) = Subscriber::new(Reader::Subscriber, 2);
        fanout.add(slow);
        for _ in 0..4 {
            report(&mut fanout, event());
        }
        assert_eq!(end.try_iter().count(), 2);
        assert!(!fanout.settle(WallNs(0), MonoNs(0)));
        assert_eq!(end.try_recv().expect("lost").kind, EventKind::Lost { from_seq: 3, to_seq: 4 });
    }

    fn word() -> Event {
        Event { kind: EventKind::Status { coalesced: 1 }, ..event() }
    }

    /// Agents that come and go leave room to other events, and a slow reader gets one `lost` line for all
    /// gaps.
    #[test]
    fn fault_83_who_comes_and_goes_takes_no_room_of_others() {
        let mut fanout = Fanout::default();
        let (slow, end) = Subscriber::new(Reader::Subscriber, 16);
        fanout.add(slow);
        for _ in 0..50 {
            report(&mut fanout, event());
            assert_eq!(fanout.settle(WallNs(0), MonoNs(0)), fanout.last_seq() > 12);
        }
        report(&mut fanout, word());
        report(&mut fanout, word());
        let reported: Vec<Event> = end.try_iter().collect();
        assert_eq!(reported[..12].iter().map(|event| event.seq).collect::<Vec<_>>(), Vec::from_iter(1..=12));
        assert_eq!(reported[12].kind, EventKind::Lost { from_seq: 13, to_seq: 50 });
        assert_eq!(reported[13..].iter().map(|event| event.seq).collect::<Vec<_>>(), [51, 52]);
    }

    /// A stall comes through a full queue, after a line for what is missing before it: no range covers an
    /// event that was delivered.
    #[test]
    fn fault_69_a_stall_comes_through_a_queue_that_others_filled() {
        let stall = EventKind::Stall {
            silent_ns: 1,
            last_nonce: 1,
            certain: true,
            blind_ns: 0,
            process: None,
            used_cpu: None,
            phase: None,
            coalesced: 1,
        };
        let mut fanout = Fanout::default();
        let (slow, end) = Subscriber::new(Reader::Subscriber, 16);
        fanout.add(slow);
        for _ in 0..3 {
            (0..100).for_each(|_| report(&mut fanout, word()));
            report(&mut fanout, Event { kind: stall, ..event() });
        }
        let reported: Vec<Event> = end.try_iter().collect();
        let mut next = 1;
        for event in &reported {
            let (from, to) = match event.kind {
                EventKind::Lost { from_seq, to_seq } => (from_seq, to_seq),
                _ => (event.seq, event.seq),
            };
            assert_eq!(from, next, "{reported:?}");
            next = to + 1;
        }
        let stalls: Vec<u64> =
            reported.iter().filter(|event| event.kind == stall).map(|event| event.seq).collect();
        assert_eq!(stalls, [101, 202], "a reserve of four is for two stalls with their lines");
        assert!(!fanout.settle(WallNs(0), MonoNs(0)));
        let lost = EventKind::Lost { from_seq: 203, to_seq: 303 };
        assert_eq!(end.try_recv().expect("the third was lost").kind, lost);
        assert_eq!(fanout.dropped(), [0, 0, 84 + 100 + 101, 0]);
    }

    #[test]
    fn a_subscriber_that_left_is_forgotten() {
        let mut fanout = Fanout::default();
        let (subscriber, end) = Subscriber::new(Reader::Subscriber, 2);
        fanout.add(subscriber);
        drop(end);
        report(&mut fanout, event());
        assert!(fanout.subscribers.is_empty());
        assert_eq!(fanout.dropped(), [0; 4]);
    }
}
