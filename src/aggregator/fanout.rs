//! Numbers events and hands them to subscribers. A subscriber that is too slow loses events and is told
//! which: the next thing it gets is `lost` with their range.

use crossbeam::channel::{Receiver, Sender, TrySendError, bounded};

use crate::event::{Event, EventKind};
use crate::time::{MonoNs, WallNs};

/// Wants events.
#[derive(Debug)]
pub struct Subscriber {
    sender: Sender<Event>,
    /// Wants each beat, too.
    pub wants_beats: bool,
    /// First and last number it missed and was not told of.
    missed: Option<(u64, u64)>,
}

impl Subscriber {
    /// A subscriber with room for `capacity` events, at least 2, and the end they come out of.
    pub fn new(capacity: usize, wants_beats: bool) -> (Self, Receiver<Event>) {
        let (sender, receiver) = bounded(capacity.max(2));
        (Self { sender, wants_beats, missed: None }, receiver)
    }
}

/// All subscribers, and the count of events.
#[derive(Debug, Default)]
pub struct Fanout {
    subscribers: Vec<Subscriber>,
    last_seq: u64,
    dropped: u64,
    beats_dropped: u64,
}

impl Fanout {
    /// Number of the last event told.
    pub const fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// Events that did not reach a subscriber.
    pub const fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Beats that did not reach a subscriber that asked for them.
    pub const fn beats_dropped(&self) -> u64 {
        self.beats_dropped
    }

    /// One more subscriber; it gets what is told from here on.
    pub fn add(&mut self, subscriber: Subscriber) {
        self.subscribers.push(subscriber);
    }

    /// Whether anybody wants beats.
    pub fn wants_beats(&self) -> bool {
        self.subscribers.iter().any(|subscriber| subscriber.wants_beats)
    }

    /// Gives the event its number and hands it out. Never blocks.
    pub fn tell(&mut self, mut event: Event) {
        self.last_seq += 1;
        event.seq = self.last_seq;
        let dropped = &mut self.dropped;
        self.subscribers.retain_mut(|subscriber| {
            if !catch_up(subscriber, event.wall, event.mono) {
                miss(subscriber, event.seq);
                *dropped += 1;
                return true;
            }
            match subscriber.sender.try_send(event) {
                Ok(()) => true,
                Err(TrySendError::Full(_)) => {
                    miss(subscriber, event.seq);
                    *dropped += 1;
                    true
                }
                Err(TrySendError::Disconnected(_)) => false,
            }
        });
    }

    /// Hands a beat, which has no number, to those who asked for beats.
    pub fn tell_beat(&mut self, event: Event) {
        for subscriber in self.subscribers.iter_mut().filter(|subscriber| subscriber.wants_beats) {
            if subscriber.sender.try_send(event).is_err() {
                self.beats_dropped += 1;
            }
        }
    }

    /// Tells subscribers that have room again what they missed. True if some still wait for it.
    pub fn settle(&mut self, wall: WallNs, mono: MonoNs) -> bool {
        let mut is_owing = false;
        for subscriber in &mut self.subscribers {
            is_owing |= !catch_up(subscriber, wall, mono);
        }
        is_owing
    }
}

/// Tells the subscriber what it missed, if anything. False if there is no room even for that.
fn catch_up(subscriber: &mut Subscriber, wall: WallNs, mono: MonoNs) -> bool {
    let Some((from_seq, to_seq)) = subscriber.missed else { return true };
    let kind = EventKind::Lost { from_seq, to_seq };
    let lost = Event { seq: 0, wall, mono, shard: None, agent: None, kind };
    if planted!(DropsTheLostLine) {
        subscriber.missed = None;
        return true;
    }
    match subscriber.sender.try_send(lost) {
        Ok(()) => {
            subscriber.missed = None;
            true
        }
        Err(TrySendError::Full(_)) => false,
        // Nobody is left to be told; the next event removes the subscriber.
        Err(TrySendError::Disconnected(_)) => true,
    }
}

fn miss(subscriber: &mut Subscriber, seq: u64) {
    let from = subscriber.missed.map_or(seq, |(from, _)| from);
    subscriber.missed = Some((from, seq));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> Event {
        Event { seq: 0, wall: WallNs(0), mono: MonoNs(0), shard: None, agent: None, kind: EventKind::Up }
    }

    #[test]
    fn fault_59_a_slow_subscriber_is_told_exactly_what_it_missed_and_others_miss_nothing() {
        let mut fanout = Fanout::default();
        let (slow, slow_end) = Subscriber::new(2, false);
        let (fast, fast_end) = Subscriber::new(100, false);
        fanout.add(slow);
        fanout.add(fast);
        for _ in 0..5 {
            fanout.tell(event());
        }
        assert_eq!(fast_end.try_iter().map(|event| event.seq).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
        assert!(fanout.settle(WallNs(0), MonoNs(0)), "no room yet");
        assert_eq!(slow_end.try_iter().map(|event| event.seq).collect::<Vec<_>>(), [1, 2]);
        fanout.tell(event());
        let seen: Vec<Event> = slow_end.try_iter().collect();
        assert_eq!(seen[0].kind, EventKind::Lost { from_seq: 3, to_seq: 5 });
        assert_eq!(seen[1].seq, 6);
        assert_eq!(fanout.dropped(), 3);
        assert!(!fanout.settle(WallNs(0), MonoNs(0)));
    }

    #[test]
    fn fault_59_what_was_missed_is_told_even_if_nothing_else_happens() {
        let mut fanout = Fanout::default();
        let (slow, end) = Subscriber::new(2, false);
        fanout.add(slow);
        for _ in 0..4 {
            fanout.tell(event());
        }
        assert_eq!(end.try_iter().count(), 2);
        assert!(!fanout.settle(WallNs(0), MonoNs(0)));
        assert_eq!(end.try_recv().expect("lost").kind, EventKind::Lost { from_seq: 3, to_seq: 4 });
    }

    #[test]
    fn a_subscriber_that_left_is_forgotten() {
        let mut fanout = Fanout::default();
        let (subscriber, end) = Subscriber::new(2, false);
        fanout.add(subscriber);
        drop(end);
        fanout.tell(event());
        assert!(fanout.subscribers.is_empty());
        assert_eq!(fanout.dropped(), 0);
    }
}
