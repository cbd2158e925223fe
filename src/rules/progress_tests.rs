//! Agents that beat and advance, or do not.

use proptest::prelude::*;

use super::*;
use crate::config::ProgressOf;
use crate::rules::{Sender, first_beat, next_beat};
use crate::wire::{Frame, Status, Version};

const MS: u64 = 1_000_000;
const T: u64 = 600 * MS;
const P: u64 = 8_000 * MS;
const PROGRESS: Progress =
    Progress { of: ProgressOf::Payload, threshold_ns: P, idle_payload: None, idle_status: None };
const START: MonoNs = MonoNs(1_000_000 * MS);

/// A slot, the clock, and what is known of its progress.
struct Agent {
    hot: Hot,
    cold: Cold,
    now: MonoNs,
    progress: Progress,
    standing: Standing,
    blind_end: MonoNs,
    turned_away: Option<MonoNs>,
}

fn frame(nonce: u64, payload: u64) -> Frame {
    Frame { version: Version::V02, pid: 7, status: Status::Ok, timestamp: 0, nonce, payload }
}

impl Agent {
    fn new(progress: Progress) -> Self {
        let sender = Sender { pid: 7, uid: 1000, arrival: START, paused_before: 0 };
        let (hot, cold) = first_beat(&frame(1, 0), &sender, 1, 0);
        let (blind_end, turned_away) = (MonoNs(0), None);
        Self { hot, cold, now: START, progress, standing: Standing::default(), blind_end, turned_away }
    }

    fn beat(&mut self, ms: u64, frame: &Frame) {
        self.now = self.now + ms * MS;
        let sender = Sender { pid: 7, uid: 1000, arrival: self.now, paused_before: 0 };
        next_beat(&mut self.hot, &mut self.cold, frame, &sender, T);
    }

    /// The next beat of its stream, with this payload.
    fn advance(&mut self, ms: u64, payload: u64) -> Look {
        let nonce = self.hot.nonce() + 1;
        self.beat(ms, &frame(nonce, payload));
        self.look()
    }

    fn look(&mut self) -> Look {
        let turned_away = self.turned_away;
        self.standing.look(&self.progress, (&self.hot, &self.cold), self.blind_end, |since| {
            turned_away.is_some_and(|at| at > since)
        })
    }

    /// Beats each 500 ms with this payload until it is at a standstill; how long that took, ms.
    fn until_still(&mut self, payload: u64) -> (u64, bool) {
        for round in 1..1000 {
            if let Look::Still { is_certain } = self.advance(500, payload) {
                return (round * 500, is_certain);
            }
        }
        panic!("never");
    }
}

#[test]
fn the_same_payload_for_a_progress_threshold_is_a_standstill_and_a_change_ends_it() {
    let mut agent = Agent::new(PROGRESS);
    assert_eq!(agent.look(), Look::Begins);
    assert_eq!(agent.until_still(0), (8000, true));
    assert_eq!(agent.standing.since(), START);
    assert_eq!(agent.advance(500, 0), Look::Still { is_certain: true }, "as long as it goes on");
    assert_eq!(agent.advance(500, 1), Look::Advances);
    assert_eq!(agent.until_still(1), (8000, true));
    assert_eq!(agent.advance(500, 0), Look::Advances, "it need not grow");
}

#[test]
fn who_does_not_beat_does_not_stand_still() {
    let mut agent = Agent::new(PROGRESS);
    agent.look();
    agent.now = agent.now + 10 * P;
    assert_eq!(agent.look(), Look::Same, "its last beat was long ago");
    agent.hot.state = State::Stalled;
    assert_eq!(agent.look(), Look::Begins);
    agent.advance(0, 0);
    assert_eq!(agent.cold.resumes, 1);
    assert_eq!(agent.look(), Look::Same);
    assert_eq!(agent.until_still(0), (8000, true), "from the beat that ended its silence");
}

#[test]
fn idle_is_not_still() {
    for progress in [
        Progress { idle_payload: Some(5), ..PROGRESS },
        Progress { idle_status: Some(Status::Degraded), ..PROGRESS },
    ] {
        let mut agent = Agent::new(progress);
        let idle = |nonce| Frame { status: Status::Degraded, ..frame(nonce, 5) };
        agent.look();
        for nonce in 2..100 {
            agent.beat(500, &idle(nonce));
            assert_eq!(agent.look(), Look::Idle, "{progress:?}");
        }
        assert_eq!(agent.until_still(7), (8500, true), "{progress:?}");
        agent.beat(500, &idle(agent.hot.nonce() + 1));
        assert_eq!(agent.look(), Look::Idle);
    }
}

#[test]
fn idle_for_a_moment_between_two_looks_counts() {
    let mut agent = Agent::new(Progress { idle_status: Some(Status::Degraded), ..PROGRESS });
    agent.look();
    agent.beat(4000, &Frame { status: Status::Degraded, ..frame(2, 0) });
    assert_eq!(agent.advance(500, 0), Look::Begins);
    assert_eq!(agent.until_still(0), (8000, true));
}

#[test]
fn what_the_shard_could_not_see_is_excused_but_not_for_ever() {
    let mut agent = Agent::new(PROGRESS);
    agent.look();
    agent.blind_end = START + 4000 * MS;
    assert_eq!(agent.until_still(0), (12_000, true), "a whole threshold of sight");
    let mut agent = Agent::new(PROGRESS);
    agent.look();
    agent.blind_end = MonoNs(u64::MAX);
    assert_eq!(agent.until_still(0), (24_000, false), "always blind");
    let mut agent = Agent::new(PROGRESS);
    agent.look();
    agent.turned_away = Some(START + MS);
    assert_eq!(agent.until_still(0), (24_000, false), "a frame was refused");
}

#[test]
fn a_helper_with_a_handle_of_its_own_neither_hides_a_standstill_nor_makes_one() {
    let mut agent = Agent::new(PROGRESS);
    agent.look();
    let (mut work, mut helper) = (1, 500_000);
    let mut done = 0;
    // The helper beats ten times as often as the worker, and is seen nearly always.
    let mut turn = |agent: &mut Agent, works: bool| {
        let mut looks = Vec::new();
        for _ in 0..10 {
            helper += 1;
            agent.beat(50, &frame(helper, 77));
            looks.push(agent.look());
        }
        work += 1;
        done += u64::from(works);
        agent.beat(50, &frame(work, done));
        // Rarely, the beat of the worker is the last.
        if work % 5 == 0 {
            looks.push(agent.look());
        }
        looks
    };
    for _ in 0..200 {
        assert!(turn(&mut agent, true).iter().all(|look| !matches!(look, Look::Still { .. })));
    }
    let begin = agent.now;
    let mut is_still = |agent: &mut Agent| {
        turn(agent, false).iter().any(|look| matches!(look, Look::Still { is_certain: true }))
    };
    while !is_still(&mut agent) {
        assert!(agent.now.since(begin) < 2 * P);
    }
    assert!(agent.now.since(begin) >= P - 1000 * MS);
}

#[test]
fn a_handle_that_ends_unseen_is_forgotten() {
    let mut agent = Agent::new(PROGRESS);
    agent.look();
    agent.beat(500, &frame(500_000, 9));
    agent.look();
    agent.beat(500, &frame(2, 0));
    assert_eq!(agent.look(), Look::Begins, "of this handle nothing was seen before");
    agent.beat(500, &frame(500_001, 9));
    agent.beat(500, &frame(3, 0));
    assert_eq!(agent.look(), Look::Unseen, "the other beat once more, and nobody saw what");
    assert_eq!(agent.until_still(0), (8000, true));
}

/// The second handle beats right after the first, with the same nonce.
#[test]
fn two_handles_in_step_are_not_told_apart() {
    let mut agent = Agent::new(PROGRESS);
    agent.look();
    for nonce in 2..200 {
        agent.beat(500, &frame(nonce, nonce));
        agent.beat(0, &frame(nonce, 0));
        assert_eq!(agent.look(), Look::Begins);
    }
}

#[test]
fn streams_that_are_not_told_apart_are_not_judged() {
    let mut agent = Agent::new(PROGRESS);
    agent.hot.flags.set(Flags::MIXED, true);
    for _ in 0..100 {
        assert_eq!(agent.advance(500, 0), Look::Begins);
    }
}

#[test]
fn another_holder_or_session_begins_anew() {
    let mut agent = Agent::new(PROGRESS);
    agent.look();
    agent.until_still(0);
    agent.cold.generation += 1;
    assert_eq!(agent.advance(500, 3), Look::Begins, "of this one nothing is known");
    agent.until_still(3);
    agent.cold.streams += 1;
    assert_eq!(agent.advance(500, 3), Look::Begins);
    agent.cold.users += 1;
    assert_eq!(agent.advance(500, 4), Look::Advances);
}

proptest! {
    /// Whatever an agent with one handle does and whenever it is looked at: it is at a standstill only if it has beaten
    /// for a threshold without a change, and it is found to be once two looks are that far apart.
    #[test]
    fn never_falsely_and_never_missed(
        steps in prop::collection::vec((1u64..2000, prop::bool::weighted(0.1), prop::bool::weighted(0.3)), 1..200),
    ) {
        let mut agent = Agent::new(PROGRESS);
        agent.look();
        let (mut work, mut changed, mut seen) = (0, START, (0, START));
        for (ms, works, looks) in steps {
            let nonce = agent.hot.nonce() + 1;
            work += u64::from(works);
            // A longer silence would be a stall.
            agent.beat(ms.min(599), &frame(nonce, work));
            if works {
                changed = agent.now;
            }
            if looks {
                if seen.0 != work {
                    seen = (work, agent.now);
                }
                let is_still = matches!(agent.look(), Look::Still { .. });
                prop_assert_eq!(is_still, agent.now.since(seen.1) >= P);
                prop_assert!(!is_still || agent.now.since(changed) >= P);
            }
        }
    }
}
