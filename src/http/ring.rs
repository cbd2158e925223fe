//! The last events, for readers that connect later. Each rank has its own space, so that agents that come and
//! go do not displace a stall, however many they are.
//!
//! In: every event, in order. Out: events after a number, with the gaps between them.

use std::collections::VecDeque;
use std::collections::vec_deque::Iter;
use std::iter::{self, Rev};

use crate::event::{Event, EventKind};

/// Events kept per rank, in the order of [`Rank`]: 65 536 in total.
const KEPT: [usize; 3] = [16_384, 16_384, 32_768];

/// The last events of this run.
#[derive(Debug)]
pub struct Ring {
    /// By rank, each in the order of event numbers.
    events: [VecDeque<Event>; 3],
    /// Number of the last event, kept or not.
    last_seq: u64,
    /// Number of the last discarded event.
    gone_seq: u64,
}

/// The next item for a reader of the ring.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Step {
    /// An event.
    Event(Event),
    /// The events with these numbers were discarded.
    Lost(u64, u64),
}

impl Default for Ring {
    fn default() -> Self {
        // Reserved at once: pages are touched as events come, and growth leaves no old buffer behind.
        Self { events: KEPT.map(VecDeque::with_capacity), last_seq: 0, gone_seq: 0 }
    }
}

impl Ring {
    /// Adds an event; may discard the oldest of its rank.
    pub fn push(&mut self, event: Event) {
        match event.kind {
            EventKind::Lost { to_seq, .. } => {
                self.last_seq = self.last_seq.max(to_seq);
                return;
            }
            EventKind::Beat => return,
            _ => {}
        }
        self.last_seq = event.seq;
        let rank = event.kind.rank() as usize;
        let events = &mut self.events[rank];
        if events.len() == KEPT[rank]
            && let Some(gone) = events.pop_front()
        {
            self.gone_seq = self.gone_seq.max(gone.seq);
        }
        events.push_back(event);
    }

    /// Number of the last event; 0 before the first.
    pub const fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// Number of the oldest kept event, or the next number if none is kept.
    pub fn first_seq(&self) -> u64 {
        let fronts = self.events.iter().filter_map(VecDeque::front);
        fronts.map(|event| event.seq).min().unwrap_or(self.last_seq + 1)
    }

    /// No event from this number on was discarded.
    pub fn whole_from_seq(&self) -> u64 {
        self.first_seq().max(self.gone_seq + 1)
    }

    /// The event with this number.
    pub fn whole_from(&self) -> Option<&Event> {
        let first = self.whole_from_seq();
        let of_rank = self
            .events
            .iter()
            .filter_map(|events| events.get(events.partition_point(|event| event.seq < first)));
        of_rank.min_by_key(|event| event.seq)
    }

    /// The item after event `after`; `None` if there is none yet.
    pub fn next(&self, after: u64) -> Option<Step> {
        if after >= self.last_seq {
            return None;
        }
        let next_of = |events: &VecDeque<Event>| {
            events.get(events.partition_point(|event| event.seq <= after)).copied()
        };
        match self.events.iter().filter_map(next_of).min_by_key(|event| event.seq) {
            Some(event) if event.seq == after + 1 => Some(Step::Event(event)),
            Some(event) => Some(Step::Lost(after + 1, event.seq - 1)),
            None => Some(Step::Lost(after + 1, self.last_seq)),
        }
    }

    /// The events of a pid, latest first, including refusals of datagrams it sent.
    pub fn latest_of_pid(&self, pid: u32) -> impl Iterator<Item = &Event> {
        let mut ranks = self.events.each_ref().map(|events| events.iter().rev());
        let latest = move || {
            let seq_of = |events: &Rev<Iter<'_, Event>>| events.clone().next().map(|event| event.seq);
            ranks.iter_mut().max_by_key(|events| seq_of(events))?.next()
        };
        iter::from_fn(latest).filter(move |event| event.concerns(pid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{About, Agent, Origin, Rank};
    use crate::lab::samples::EXIT;
    use crate::time::{MonoNs, WallNs};
    use crate::wire::Status;

    fn event(seq: u64, pid: Option<u32>, kind: EventKind) -> Event {
        let agent = pid.map(|pid| Agent {
            pid,
            ns_pid: None,
            session: pid + 1,
            nonce: 0,
            status: Status::Ok,
            origin: Origin::Vlp,
            payload: 0,
            about: About::UNKNOWN,
        });
        Event { seq, again: false, wall: WallNs(0), mono: MonoNs(0), shard: Some(0), agent, kind }
    }

    fn seqs_after(ring: &Ring, mut after: u64) -> Vec<(u64, u64)> {
        let mut seen = Vec::new();
        while let Some(step) = ring.next(after) {
            let range = match step {
                Step::Event(event) => (event.seq, event.seq),
                Step::Lost(from, to) => (from, to),
            };
            seen.push(range);
            after = range.1;
        }
        seen
    }

    #[test]
    fn a_reader_gets_every_number_once_or_is_told_that_it_is_gone() {
        let mut ring = Ring::default();
        assert_eq!(ring.next(0), None);
        ring.push(event(1, None, EventKind::Stop));
        ring.push(event(0, None, EventKind::Lost { from_seq: 2, to_seq: 4 }));
        assert_eq!(seqs_after(&ring, 0), [(1, 1), (2, 4)]);
        ring.push(event(5, None, EventKind::Stop));
        assert_eq!(seqs_after(&ring, 0), [(1, 1), (2, 4), (5, 5)]);
        assert_eq!(seqs_after(&ring, 3), [(4, 4), (5, 5)]);
        assert_eq!(ring.next(5), None);
    }

    #[test]
    fn an_event_takes_as_much_memory_as_the_documentation_says() {
        assert_eq!(size_of::<Event>(), 144);
    }

    #[test]
    fn the_oldest_go_first() {
        let mut ring = Ring::default();
        let last = KEPT[Rank::Word as usize] as u64 + 10;
        for seq in 1..=last {
            ring.push(event(seq, None, EventKind::Stop));
        }
        assert_eq!((ring.first_seq(), ring.whole_from_seq(), ring.last_seq()), (11, 11, last));
        assert_eq!(ring.next(3), Some(Step::Lost(4, 10)));
    }

    #[test]
    fn fault_83_who_comes_and_goes_leaves_the_verdicts_that_are_kept() {
        let mut ring = Ring::default();
        let full = EventKind::Full { refused: 1, share: None };
        ring.push(event(1, Some(7), full));
        ring.push(event(2, Some(7), EventKind::Mixed));
        let last = 2 * KEPT[Rank::Life as usize] as u64 + 2;
        for seq in 3..last {
            ring.push(event(seq, Some(8), EventKind::Up));
        }
        ring.push(event(last, Some(7), full));
        let kept = last - KEPT[Rank::Life as usize] as u64;
        assert_eq!((ring.first_seq(), ring.whole_from_seq()), (1, kept));
        assert_eq!(ring.whole_from().map(|event| event.seq), Some(kept));
        let seen = seqs_after(&ring, 0);
        assert_eq!(seen[..4], [(1, 1), (2, 2), (3, kept - 1), (kept, kept)]);
        assert_eq!(seen.last(), Some(&(last, last)));
        let of_pid: Vec<u64> = ring.latest_of_pid(7).map(|event| event.seq).collect();
        assert_eq!(of_pid, [last, 2, 1]);
    }

    #[test]
    fn the_events_of_a_pid_are_found() {
        let mut ring = Ring::default();
        ring.push(event(1, Some(7), EventKind::Up));
        ring.push(event(2, Some(7), EXIT));
        assert_eq!(ring.latest_of_pid(7).count(), 2);
        assert_eq!(ring.latest_of_pid(8).count(), 0);
        ring.push(event(3, None, EventKind::Missing { pid: 8, uid: 0, comm: "worker".into() }));
        assert_eq!(ring.latest_of_pid(8).count(), 1);
    }
}
