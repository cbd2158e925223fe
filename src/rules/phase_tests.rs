//! Which silence is allowed, phase by phase.

use super::*;
use crate::config::classes::PayloadPhase;
use crate::rules::{Beat, Sender, first_beat, is_ordinary, next_beat, ordinary_beat};
use crate::time::MonoNs;
use crate::wire::{Frame, NONCE_TERMINAL, Version};

const T: u64 = 100;
const START: u64 = 1_000;
const BUSY: u64 = 5_000;
const STARTED: Allowed = Allowed { ns: T, by: By::Rule };
const STARTING: Allowed = Allowed { ns: START, by: By::Start };

fn classes(start: Option<Start>, payload: Vec<PayloadPhase>) -> Classes {
    Classes::new(20, [T]).with_phases([Phases { start, payload }])
}

fn of_start(beats: Option<u32>) -> Classes {
    classes(Some(Start { threshold_ns: START, beats }), Vec::new())
}

fn of_payload() -> Classes {
    let phase = |from, to, threshold_ns| PayloadPhase { from, to, threshold_ns };
    classes(None, vec![phase(10, 19, BUSY), phase(20, u64::MAX, BUSY / 2)])
}

/// An agent that beats each 10 ns.
struct Agent {
    hot: Hot,
    cold: Cold,
    now: u64,
}

impl Agent {
    fn new(status: Status) -> Self {
        let (hot, cold) = first_beat(&frame(status, 1), &sender(0), 1, 1);
        Self { hot, cold, now: 0 }
    }

    fn hear(&mut self, frame: &Frame) {
        self.now += 10;
        let sender = sender(self.now);
        if is_ordinary(&self.hot, frame, &sender) {
            ordinary_beat(&mut self.hot, frame, &sender);
        } else {
            let beat = next_beat(&mut self.hot, &mut self.cold, frame, &sender, T);
            assert!(!matches!(beat, Beat::Refused(_)), "{beat:?}");
        }
    }

    fn beats(&mut self, status: Status, beats: u32) {
        for _ in 0..beats {
            self.hear(&frame(status, self.hot.nonce() + 1));
        }
    }

    fn says(&mut self, nonce: u64, payload: u64) {
        self.hear(&Frame { payload, ..frame(Status::Ok, nonce) });
    }

    fn allowed(&self, classes: &Classes) -> Allowed {
        allowed(classes, 1, &Facts::of(&self.hot, &self.cold))
    }
}

const fn frame(status: Status, nonce: u64) -> Frame {
    Frame { version: Version::V02, status, pid: 7, timestamp: 1, nonce, payload: 0 }
}

const fn sender(at: u64) -> Sender {
    Sender { pid: 7, uid: 1000, arrival: MonoNs(1_000_000 + at), paused_before: 0 }
}

#[test]
fn who_is_ok_at_once_is_started_at_once() {
    assert_eq!(Agent::new(Status::Ok).allowed(&of_start(None)), STARTED);
}

#[test]
fn the_first_ok_ends_the_start_for_good() {
    let mut agent = Agent::new(Status::Degraded);
    agent.beats(Status::Degraded, 1000);
    agent.beats(Status::Critical, 5);
    assert_eq!(agent.allowed(&of_start(None)), STARTING);
    agent.beats(Status::Ok, 1);
    assert_eq!(agent.allowed(&of_start(None)), STARTED);
    agent.beats(Status::Degraded, 3);
    assert_eq!(agent.allowed(&of_start(None)), STARTED);
}

#[test]
fn a_crash_report_ends_no_start_and_begins_none() {
    let terminal = frame(Status::Critical, NONCE_TERMINAL);
    let mut agent = Agent::new(Status::Degraded);
    agent.hear(&terminal);
    assert_eq!(agent.allowed(&of_start(None)), STARTING);
    agent.beats(Status::Ok, 1);
    agent.hear(&terminal);
    assert_eq!(agent.allowed(&of_start(None)), STARTED);
    let (hot, cold) = first_beat(&terminal, &sender(0), 1, 1);
    let mut agent = Agent { hot, cold, now: 0 };
    agent.beats(Status::Degraded, 1);
    assert_eq!(agent.allowed(&of_start(None)), STARTING);
    agent.beats(Status::Ok, 1);
    assert_eq!(agent.allowed(&of_start(None)), STARTED);
}

#[test]
fn so_many_beats_end_the_start_whatever_their_status() {
    let mut agent = Agent::new(Status::Ok);
    agent.beats(Status::Ok, 3);
    assert_eq!(agent.allowed(&of_start(Some(5))), STARTING);
    agent.beats(Status::Degraded, 1);
    assert_eq!(agent.allowed(&of_start(Some(5))), STARTED);
}

#[test]
fn another_program_starts_anew() {
    for beats in [None, Some(5)] {
        let classes = of_start(beats);
        let mut agent = Agent::new(Status::Ok);
        agent.beats(Status::Ok, 50);
        assert_eq!(agent.allowed(&classes), STARTED);
        // Found while it is silent.
        agent.hot.state = State::Stalled;
        begin_anew(&agent.hot, &mut agent.cold);
        agent.hot.state = State::Up;
        assert_eq!(agent.allowed(&classes), STARTING, "it has not beaten");
        agent.hear(&frame(Status::Degraded, 1));
        assert_eq!(agent.allowed(&classes), STARTING);
        assert!(!is_begin_over(&classes, 1, &agent.hot, &agent.cold) || beats.is_none());
        agent.beats(Status::Ok, 5);
        assert_eq!(agent.allowed(&classes), STARTED);
        agent.beats(Status::Degraded, 1);
        assert_eq!(agent.allowed(&classes), STARTED);
        assert!(is_begin_over(&classes, 1, &agent.hot, &agent.cold));
        agent.cold.begun = 0;
        assert_eq!(agent.allowed(&classes), STARTED);
    }
}

#[test]
fn another_program_that_is_ok_as_the_one_before_is_started() {
    let mut agent = Agent::new(Status::Ok);
    agent.beats(Status::Ok, 5);
    agent.hot.state = State::Stalled;
    begin_anew(&agent.hot, &mut agent.cold);
    agent.hot.state = State::Up;
    agent.beats(Status::Ok, 1);
    assert_eq!(agent.allowed(&of_start(None)), STARTED);
    // The aggregator may know it only when it has beaten.
    begin_anew(&agent.hot, &mut agent.cold);
    assert_eq!(agent.allowed(&of_start(None)), STARTED);
    agent.beats(Status::Degraded, 1);
    assert_eq!(agent.allowed(&of_start(None)), STARTED);
    begin_anew(&agent.hot, &mut agent.cold);
    assert_eq!(agent.allowed(&of_start(None)), STARTING);
}

#[test]
fn the_last_payload_says_the_phase() {
    let classes = of_payload();
    let mut agent = Agent::new(Status::Ok);
    for (nonce, payload, ns, by) in [
        (2, 9, T, By::Rule),
        (3, 10, BUSY, By::Payload(0)),
        (4, 19, BUSY, By::Payload(0)),
        (5, 20, BUSY / 2, By::Payload(1)),
        (6, u64::MAX, BUSY / 2, By::Payload(1)),
        (7, 0, T, By::Rule),
    ] {
        agent.says(nonce, payload);
        assert_eq!(agent.allowed(&classes), Allowed { ns, by }, "{payload}");
        assert_eq!(allowed_by(&classes, 1, by), ns, "{payload}");
        assert_eq!(By::from_code(by.to_code()), by);
    }
}

#[test]
fn one_of_two_handles_may_speak_for_the_agent() {
    let classes = of_payload();
    let several = Allowed { ns: BUSY, by: By::Several };
    let mut agent = Agent::new(Status::Ok);
    agent.says(2, 15);
    // Another handle, or a reconnect: nothing speaks for the first stream.
    agent.says(500_000, 0);
    assert_eq!(agent.allowed(&classes), STARTED);
    // It was another handle.
    agent.says(3, 15);
    agent.says(500_001, 0);
    assert_eq!(agent.allowed(&classes), several);
    // The first one is silent for as long as any phase takes.
    for beats in 2..=600 {
        agent.says(500_000 + beats, 0);
    }
    assert_eq!(agent.allowed(&classes), STARTED);
    agent.hot.flags.set(Flags::MIXED, true);
    assert_eq!(agent.allowed(&classes), several);
}

#[test]
fn the_longest_of_all_that_hold_is_allowed() {
    let start = Start { threshold_ns: START, beats: None };
    let phase = |threshold_ns| PayloadPhase { from: 10, to: 19, threshold_ns };
    let mut agent = Agent::new(Status::Degraded);
    agent.hear(&Frame { payload: 15, ..frame(Status::Degraded, 2) });
    let longer = classes(Some(start), vec![phase(2 * START)]);
    assert_eq!(agent.allowed(&longer), Allowed { ns: 2 * START, by: By::Payload(0) });
    let shorter = classes(Some(start), vec![phase(START / 2)]);
    assert_eq!(agent.allowed(&shorter), STARTING);
    let unknown = Facts::of(&agent.hot, &agent.cold);
    assert_eq!(allowed(&shorter, shorter.unknown(), &unknown), STARTING);
    assert_eq!(allowed(&shorter, 0, &unknown), Allowed { ns: 20, by: By::Rule });
}
