//! The last events, for whoever asks late.
//!
//! In: every event, in order. Out: events after a number, with what is missing between them.

use std::collections::VecDeque;

use crate::event::{Event, EventKind};

/// Events kept.
pub const EVENTS_MAX: usize = 65_536;

/// The last events of this run.
#[derive(Debug)]
pub struct Ring {
    /// In the order of their numbers, which may have gaps where the thread was too slow for the aggregator.
    events: VecDeque<Event>,
    /// Number of the last event that was told, kept or not.
    last_seq: u64,
}

/// The next thing a reader of the ring is to be told.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Step {
    /// An event.
    Event(Event),
    /// These numbers are not there any more.
    Lost(u64, u64),
}

impl Default for Ring {
    fn default() -> Self {
        // All of it at once: memory is taken as events come, and none is left behind by growing.
        Self { events: VecDeque::with_capacity(EVENTS_MAX), last_seq: 0 }
    }
}

impl Ring {
    /// One more event; the oldest may have to go.
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
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    /// Number of the last event told; 0 before the first.
    pub const fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// Number of the oldest event kept; the next one's if there is none.
    pub fn first_seq(&self) -> u64 {
        self.events.front().map_or(self.last_seq + 1, |event| event.seq)
    }

    /// What comes after event `after`; `None` if nothing does yet.
    pub fn next(&self, after: u64) -> Option<Step> {
        if after >= self.last_seq {
            return None;
        }
        let at = self.events.partition_point(|event| event.seq <= after);
        match self.events.get(at) {
            Some(event) if event.seq == after + 1 => Some(Step::Event(*event)),
            Some(event) => Some(Step::Lost(after + 1, event.seq - 1)),
            None => Some(Step::Lost(after + 1, self.last_seq)),
        }
    }

    /// The events of a pid, latest first, with those of datagrams it sent that were refused.
    pub fn latest_of_pid(&self, pid: u32) -> impl Iterator<Item = &Event> {
        self.events.iter().rev().filter(move |event| is_of(event, pid))
    }
}

/// Whether the event is about this pid.
pub fn is_of(event: &Event, pid: u32) -> bool {
    match event.kind {
        EventKind::Decode { attested, .. } => attested == pid,
        EventKind::Auth { attested, claimed, .. } => attested == pid || claimed == pid,
        _ => event.agent.is_some_and(|agent| agent.pid == pid),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Agent;
    use crate::time::{MonoNs, WallNs};
    use crate::wire::Status;

    fn event(seq: u64, pid: Option<u32>, kind: EventKind) -> Event {
        let agent = pid.map(|pid| Agent {
            pid,
            ns_pid: None,
            session: pid + 1,
            nonce: 0,
            status: Status::Ok,
            payload: 0,
        });
        Event { seq, wall: WallNs(0), mono: MonoNs(0), shard: Some(0), agent, kind }
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
        assert_eq!(size_of::<Event>(), 112);
    }

    #[test]
    fn the_oldest_go_first() {
        let mut ring = Ring::default();
        let last = EVENTS_MAX as u64 + 10;
        for seq in 1..=last {
            ring.push(event(seq, None, EventKind::Stop));
        }
        assert_eq!((ring.first_seq(), ring.last_seq()), (11, last));
        assert_eq!(ring.next(3), Some(Step::Lost(4, 10)));
    }

    #[test]
    fn the_events_of_a_pid_are_found() {
        let mut ring = Ring::default();
        ring.push(event(1, Some(7), EventKind::Up));
        ring.push(event(2, Some(7), EventKind::Exit { silent_ns: 0, how: None }));
        assert_eq!(ring.latest_of_pid(7).count(), 2);
        assert_eq!(ring.latest_of_pid(8).count(), 0);
    }
}
