//! The rules, one by one, and streams against a model that knows the sender of every frame.

use proptest::prelude::*;

use super::*;

const T: u64 = 600_000_000;
const MS: u64 = 1_000_000;
const PID: u32 = 4242;
const START: MonoNs = MonoNs(1_000_000_000_000);

/// The slot of one agent.
struct Agent {
    hot: Hot,
    cold: Cold,
    now: MonoNs,
}

impl Agent {
    fn new(first: &Frame) -> Self {
        let (hot, cold) = first_beat(first, &sender(START), 1, 0);
        Self { hot, cold, now: START }
    }

    fn hear(&mut self, frame: &Frame) -> Beat {
        self.hear_after(MS, frame)
    }

    /// As in the tracker: the common path first.
    fn hear_after(&mut self, ns: u64, frame: &Frame) -> Beat {
        self.now = self.now + ns;
        let sender = sender(self.now);
        if is_ordinary(&self.hot, frame, &sender) {
            let (mut hot, mut cold) = (self.hot, self.cold);
            assert_eq!(next_beat(&mut hot, &mut cold, frame, &sender, T), Beat::Life);
            ordinary_beat(&mut self.hot, frame, &sender);
            assert_eq!((hot, cold), (self.hot, self.cold), "the short way comes to the same");
            return Beat::Life;
        }
        next_beat(&mut self.hot, &mut self.cold, frame, &sender, T)
    }

    fn hear_all(&mut self, nonces: impl IntoIterator<Item = u64>) {
        for nonce in nonces {
            assert!(!matches!(self.hear(&v02(nonce)), Beat::Refused(_)), "{nonce}");
            assert_eq!(self.hot.last_arrival, self.now);
        }
    }

    fn stall(&mut self) {
        self.hot.state = State::Stalled;
        self.cold.stalls += 1;
    }
}

fn sender(arrival: MonoNs) -> Sender {
    Sender { pid: PID, uid: 1000, arrival, paused_before: 5 }
}

fn at(ms: u64) -> MonoNs {
    START + ms * MS
}

fn v02(nonce: u64) -> Frame {
    Frame { version: Version::V02, status: Status::Ok, pid: PID, timestamp: 1, nonce, payload: nonce }
}

fn v01(nonce: u64) -> Frame {
    Frame { version: Version::V01, ..v02(nonce) }
}

fn terminal(version: Version) -> Frame {
    Frame { version, status: Status::Critical, nonce: u64::MAX, payload: 99, ..v02(0) }
}

// --- nonces ----------------------------------------------------------------------------------------

#[test]
fn a_stream_goes_up_wraps_in_02_and_sticks_in_01() {
    use Version::{V01, V02};
    let max = NONCE_MAX;
    for (last, nonce, version, ahead) in [
        (1, 2, V02, Some(1)),
        (1, 2, V01, Some(1)),
        (5, 9, V02, Some(4)),
        (7, 7, V02, None),
        (7, 7, V01, None),
        (7, 6, V02, None),
        (7, 6, V01, None),
        (1, 1 + (1 << 16), V02, Some(1 << 16)),
        (1, 2 + (1 << 16), V02, None),
        (max, 0, V02, Some(1)),
        (max, 1, V02, Some(2)),
        (max - 1, 0, V02, Some(2)),
        (max, (1 << 16) - 1, V02, Some(1 << 16)),
        (max, 1 << 16, V02, None),
        (max, max, V02, None),
        (max, max, V01, Some(1)),
        (max - 1, max, V01, Some(1)),
        (max, 0, V01, None),
        (max, 1, V01, None),
        (0, max, V02, None),
        (0, 0, V02, None),
        // Only the table of another process can hold it.
        (u64::MAX, 1, V02, None),
        (u64::MAX, 1, V01, None),
        (u64::MAX, max, V01, None),
    ] {
        assert_eq!(follows(last, nonce, version), ahead, "{last} {nonce} {version:?}");
    }
}

#[test]
fn the_first_beat_may_carry_any_nonce() {
    for nonce in [0, 1, 77, 1 << 40, NONCE_MAX] {
        for frame in [v01(nonce), v02(nonce)] {
            let agent = Agent::new(&frame);
            assert_eq!((agent.hot.state, agent.hot.nonce(), agent.hot.beats()), (State::Up, nonce, 1));
            assert_eq!(agent.cold.beats_lost, 0);
        }
    }
}

#[test]
fn the_end_of_the_nonces_is_no_loss_and_no_new_stream() {
    let mut agent = Agent::new(&v02(NONCE_MAX - 1));
    agent.hear_all([NONCE_MAX, 0, 1, 2]);
    assert_eq!((agent.cold.beats_lost, agent.cold.streams), (0, 0));
    let mut agent = Agent::new(&v01(NONCE_MAX - 1));
    for nonce in [NONCE_MAX, NONCE_MAX, NONCE_MAX] {
        assert_eq!(agent.hear(&v01(nonce)), Beat::Life);
    }
    assert_eq!((agent.cold.beats_lost, agent.cold.streams, agent.hot.beats()), (0, 0, 4));
}

#[test]
fn a_jump_is_loss_only_once_the_next_frame_follows_it() {
    let mut agent = Agent::new(&v02(1));
    agent.hear_all([2, 6]);
    assert_eq!(agent.cold.beats_lost, 0);
    agent.hear_all([7]);
    assert_eq!(agent.cold.beats_lost, 3);
    agent.hear_all([9, 12, 13]);
    assert_eq!(agent.cold.beats_lost, 3 + 1 + 2);
    assert_eq!(agent.cold.streams, 0);
}

#[test]
fn a_jump_that_was_another_handle_is_no_loss() {
    // The observer started late: one handle is at 10, the other at 500.
    let mut agent = Agent::new(&v02(10));
    agent.hear_all([500]);
    agent.hear_all([11, 501, 12, 502, 13, 14, 503]);
    assert_eq!((agent.cold.beats_lost, agent.cold.streams), (0, 1));
}

#[test]
fn two_handles_that_count_from_one_are_two_streams_and_lose_nothing() {
    let mut agent = Agent::new(&v02(1));
    agent.hear_all(2..=50);
    for nonce in 1..=100 {
        agent.hear_all([nonce, 50 + nonce]);
    }
    assert_eq!((agent.cold.beats_lost, agent.cold.streams), (0, 1));
    assert!(!agent.hot.flags.has(Flags::MIXED));
    // Alternating.
    let mut agent = Agent::new(&v02(1));
    for nonce in 1..=100 {
        agent.hear_all([nonce, nonce]);
    }
    assert_eq!(agent.cold.beats_lost, 0);
    assert!(!agent.hot.flags.has(Flags::MIXED));
}

#[test]
fn a_third_stream_within_a_threshold_makes_the_agent_mixed_once() {
    let mut agent = Agent::new(&v02(1_000_000));
    agent.hear_all([2_000_000]);
    assert!(!agent.hot.flags.has(Flags::MIXED));
    assert_eq!(agent.hear(&v02(3_000_000)), Beat::Changed);
    assert!(agent.hot.flags.has(Flags::MIXED));
    agent.hear_all([1_000_005, 2_000_007, 9, 3_000_001, 4, 3]);
    assert_eq!(agent.cold.beats_lost, 0, "loss accounting is off");
    assert_eq!(agent.hear(&v02(4_000_000)), Beat::Life, "told once");
}

#[test]
fn a_third_stream_after_a_threshold_replaces_the_one_silent_longer() {
    let mut agent = Agent::new(&v02(1_000_000));
    agent.hear_all([2_000_000, 2_000_001]);
    agent.hear_after(T, &v02(2_000_002));
    agent.hear_all([3_000_000, 2_000_003, 3_000_001]);
    assert!(!agent.hot.flags.has(Flags::MIXED));
    assert_eq!(agent.cold.streams, 2);
}

// --- terminal frames -------------------------------------------------------------------------------

#[test]
fn a_terminal_frame_alone_opens_no_deadline_and_an_ordinary_beat_does() {
    let mut agent = Agent::new(&terminal(Version::V02));
    assert_eq!((agent.hot.state, agent.cold.terminals, agent.cold.terminal_payload), (State::Waiting, 1, 99));
    assert_eq!(agent.hear(&terminal(Version::V02)), Beat::Changed);
    assert_eq!((agent.hot.state, agent.cold.terminals, agent.hot.beats()), (State::Waiting, 2, 2));
    assert_eq!(agent.hear(&v02(17)), Beat::Changed);
    assert_eq!((agent.hot.state, agent.hot.nonce(), agent.cold.streams), (State::Up, 17, 0));
    agent.hear_all([18]);
    assert_eq!(agent.cold.beats_lost, 0);
}

#[test]
fn a_survived_panic_goes_on_where_it_was() {
    let mut agent = Agent::new(&v02(1));
    agent.hear_all([2, 3]);
    assert_eq!(agent.hear(&terminal(Version::V02)), Beat::Changed);
    assert_eq!((agent.hot.nonce(), agent.hot.payload, agent.hot.status), (3, 3, Status::Critical));
    assert_eq!(agent.hot.last_arrival, agent.now, "it is life");
    assert_eq!(agent.hear(&v02(4)), Beat::Changed, "its status is what it was");
    assert_eq!((agent.cold.beats_lost, agent.cold.streams, agent.cold.statuses), (0, 0, 1));
    assert_eq!(agent.hear(&v02(5)), Beat::Life);
}

/// Of many crash reports the slot keeps the first, as the likely cause, and the last two.
#[test]
fn of_crash_reports_the_first_and_the_last_two_are_kept() {
    let mut agent = Agent::new(&v02(1));
    for payload in 1..=4 {
        agent.hear(&Frame { payload, ..terminal(Version::V02) });
    }
    let Cold { terminals, terminal_first, terminal_before, terminal_payload, .. } = agent.cold;
    assert_eq!((terminals, terminal_first, terminal_before, terminal_payload), (4, 1, 3, 4));
}

#[test]
fn a_late_claim_has_an_instant_of_its_own() {
    let mut agent = Agent::new(&v02(1));
    agent.hear_all([2, 3]);
    let mut forged = v02(4);
    forged.pid += 1;
    agent.hear(&forged);
    assert_eq!((agent.cold.claimed_pid, agent.cold.claimed_at), (forged.pid, agent.now));
    let from_the_start = Agent::new(&forged);
    assert_eq!(from_the_start.cold.claimed_at, MonoNs(0), "rare words stay untouched in containers");
}

#[test]
fn a_terminal_frame_between_a_jump_and_its_confirmation_changes_nothing() {
    let mut agent = Agent::new(&v02(1));
    agent.hear_all([5]);
    agent.hear(&terminal(Version::V02));
    agent.hear_all([6]);
    assert_eq!((agent.cold.beats_lost, agent.cold.streams), (3, 0));
}

#[test]
fn a_terminal_frame_ends_a_stall() {
    let mut agent = Agent::new(&v02(1));
    agent.stall();
    assert_eq!(agent.hear_after(T, &terminal(Version::V02)), Beat::Changed);
    assert_eq!((agent.hot.state, agent.cold.resumes, agent.cold.resume_lost), (State::Up, 1, 0));
}

// --- stall and resume ------------------------------------------------------------------------------

#[test]
fn a_resume_carries_the_gap_and_the_silence() {
    let mut agent = Agent::new(&v02(1));
    agent.hear_all([2]);
    agent.stall();
    assert_eq!(agent.hear_after(3 * T, &v02(7)), Beat::Changed);
    assert_eq!((agent.cold.resume_silent_ns, agent.cold.resume_lost), (3 * T, 4));
    assert!(is_refuted(agent.cold.resume_silent_ns, agent.cold.resume_lost, T), "4 beats in 3 T: it lived");
    agent.hear_all([8]);
    agent.stall();
    agent.hear_after(3 * T, &v02(9));
    assert_eq!((agent.cold.resumes, agent.cold.resume_lost), (2, 0));
    agent.stall();
    agent.hear_after(3 * T, &v02(1));
    assert_eq!((agent.cold.resumes, agent.cold.resume_lost), (3, 0), "a new stream tells of no loss");
}

#[test]
fn a_stall_is_refuted_when_the_lost_beats_leave_no_silence() {
    assert!(!is_refuted(T, 0, T));
    assert!(is_refuted(T, 1, T));
    assert!(!is_refuted(2 * T, 1, T));
    assert!(is_refuted(2 * T - 1, 1, T));
    assert!(is_refuted(u64::MAX, u64::MAX, T));
    assert!(!is_refuted(u64::MAX, 0, T));
}

// --- versions --------------------------------------------------------------------------------------

#[test]
fn one_01_frame_in_a_02_session_is_refused_and_a_second_that_rises_is_believed() {
    let mut agent = Agent::new(&v02(100));
    let refused = Beat::Refused(Refusal::Downgrade);
    let before = agent.hot.last_arrival;
    assert_eq!(agent.hear(&v01(1)), refused);
    assert_eq!(agent.hot.last_arrival, before, "it is not life");
    assert_eq!(agent.hear(&v01(1)), refused, "it does not rise");
    assert_eq!(agent.hear(&v01(2)), Beat::Changed);
    assert_eq!((agent.cold.versions, agent.cold.streams, agent.hot.nonce()), (1, 0, 2));
    assert_eq!(agent.hear(&v01(3)), Beat::Life);
    assert!(is_ordinary(&agent.hot, &v01(4), &sender(agent.now)));
}

#[test]
fn a_02_frame_between_two_01_frames_starts_over() {
    let mut agent = Agent::new(&v02(100));
    for nonce in 1..20 {
        assert_eq!(agent.hear(&v01(nonce)), Beat::Refused(Refusal::Downgrade));
        assert_eq!(agent.hear(&v02(100 + nonce)), Beat::Life);
    }
    assert_eq!((agent.cold.versions, agent.cold.downgrades, agent.cold.beats_lost), (0, 0, 0));
}

#[test]
fn after_the_second_change_back_both_versions_are_life() {
    let mut agent = Agent::new(&v02(100));
    agent.hear(&v01(1));
    assert_eq!(agent.hear(&v01(2)), Beat::Changed);
    assert_eq!(agent.hear(&v02(101)), Beat::Changed, "0.2 is always life");
    assert_eq!(agent.cold.versions, 2);
    assert_eq!(agent.hear(&v01(3)), Beat::Refused(Refusal::Downgrade));
    assert_eq!(agent.hear(&v01(4)), Beat::Changed);
    assert!(agent.hot.flags.has(Flags::MIXED));
    for nonce in 5..50 {
        assert_eq!(agent.hear(&v02(nonce + 100)), Beat::Life);
        assert_eq!(agent.hear(&v01(nonce)), Beat::Life);
    }
    assert_eq!(agent.cold.beats_lost, 0);
}

#[test]
fn three_streams_are_no_reason_to_believe_a_downgrade() {
    let mut agent = Agent::new(&v02(1_000_000));
    agent.hear_all([2_000_000, 3_000_000]);
    assert!(agent.hot.flags.has(Flags::MIXED));
    assert_eq!(agent.hear(&v01(3_000_001)), Beat::Refused(Refusal::Downgrade));
}

#[test]
fn a_01_session_turns_02_with_its_first_frame() {
    let mut agent = Agent::new(&v01(5));
    assert_eq!(agent.hear(&v02(1)), Beat::Changed);
    assert_eq!((agent.cold.versions, agent.cold.downgrades), (1, 0));
    assert_eq!(agent.hear(&v02(2)), Beat::Life);
    assert_eq!(agent.hear(&v01(6)), Beat::Refused(Refusal::Downgrade));
}

#[test]
fn a_terminal_01_frame_in_a_02_session_is_refused_and_paves_no_way() {
    let mut agent = Agent::new(&v02(100));
    let refused = Beat::Refused(Refusal::Downgrade);
    assert_eq!(agent.hear(&terminal(Version::V01)), refused);
    assert_eq!(agent.hear(&v01(1)), refused);
    assert_eq!(agent.hear(&terminal(Version::V01)), refused, "the terminal nonce does not rise");
    assert_eq!(agent.cold.terminals, 0);
    assert_eq!(agent.hear(&v01(2)), Beat::Changed);
}

#[test]
fn what_02_forbids_is_forbidden_in_01() {
    assert_eq!(forbid_in_v01(&v01(1)), Ok(()));
    assert_eq!(forbid_in_v01(&terminal(Version::V01)), Ok(()));
    let stall = Frame { status: Status::Stall, ..v01(1) };
    assert_eq!(forbid_in_v01(&stall), Err(DecodeError::StallOnWire));
    let late = Frame { timestamp: u64::MAX, ..v01(1) };
    assert_eq!(forbid_in_v01(&late), Err(DecodeError::BadTimestamp(u64::MAX)));
    let nonce = u64::MAX;
    let calm = Frame { nonce, ..v01(1) };
    assert_eq!(forbid_in_v01(&calm), Err(DecodeError::BadNonce { nonce, status: Status::Ok }));
}

// --- claimed pids ----------------------------------------------------------------------------------

#[test]
fn another_pid_is_life_until_somebody_has_looked_and_refused_if_it_was_forged() {
    let inner = |nonce| Frame { pid: 7, ..v02(nonce) };
    let mut agent = Agent::new(&inner(1));
    assert!(agent.hot.flags.has(Flags::UNVERIFIED));
    assert_eq!((agent.hot.pid, agent.cold.claimed_pid), (PID, 7));
    assert_eq!(agent.hear(&inner(2)), Beat::Life);
    agent.hot.flags.set(Flags::UNVERIFIED, false);
    agent.hot.flags.set(Flags::FORGER, true);
    let before = agent.hot;
    assert_eq!(agent.hear(&inner(3)), Beat::Refused(Refusal::Forged));
    assert_eq!(agent.hot, before);
    assert_eq!(agent.hear(&v02(3)), Beat::Changed, "its first honest frame");
    assert!(agent.cold.is_honest);
    assert_eq!(agent.hear(&v02(4)), Beat::Life);
}

#[test]
fn another_user_is_news_and_the_next_beat_is_ordinary_again() {
    let mut agent = Agent::new(&v02(1));
    let other = |arrival| Sender { uid: 7, ..sender(arrival) };
    assert!(!is_ordinary(&agent.hot, &v02(2), &other(at(1))));
    let beat = next_beat(&mut agent.hot, &mut agent.cold, &v02(2), &other(at(1)), T);
    assert_eq!((beat, agent.hot.uid(), agent.cold.users), (Beat::Changed, 7, 1));
    assert_eq!((agent.cold.streams, agent.cold.changed_at), (0, at(1)));
    assert!(is_ordinary(&agent.hot, &v02(3), &other(at(2))));
}

#[test]
fn beats_are_counted_beyond_what_the_hot_half_holds() {
    let mut agent = Agent::new(&v02(1));
    agent.hot.account = Account::new(1000, u32::MAX - 1);
    agent.hear_all([2, 3, 4]);
    assert_eq!(agent.cold.beats(&agent.hot), u64::from(u32::MAX) + 2);
}

#[test]
fn a_mixed_agents_first_number_is_one_more_stream() {
    let mut agent = Agent::new(&v02(1));
    agent.hot.flags.set(Flags::MIXED, true);
    assert_eq!(agent.hear(&v02(500)), Beat::Life);
    assert_eq!(agent.hear(&v02(1)), Beat::Changed, "of a program, or a handle, that begins anew");
    assert_eq!(agent.cold.streams, 1);
}

#[test]
fn an_inner_pid_is_ordinary_once_it_is_known() {
    let inner = |nonce| Frame { pid: 7, ..v02(nonce) };
    let mut agent = Agent::new(&inner(1));
    agent.hot.flags.set(Flags::UNVERIFIED, false);
    agent.hot.frame_pid = 7;
    assert!(is_ordinary(&agent.hot, &inner(2), &sender(agent.now)));
    assert_eq!(agent.hear(&inner(2)), Beat::Life);
    assert_eq!(agent.hear(&v02(3)), Beat::Life, "its own pid is never a forgery");
    assert_eq!(agent.hear(&Frame { pid: 8, ..v02(4) }), Beat::Changed);
    assert_eq!(agent.cold.claimed_pid, 8);
}

#[test]
fn a_refused_frame_claims_nothing() {
    let mut agent = Agent::new(&v02(1));
    let flipped = Frame { pid: PID + 1, ..v01(2) };
    assert_eq!(agent.hear(&flipped), Beat::Refused(Refusal::Downgrade));
    assert!(!agent.hot.flags.has(Flags::UNVERIFIED), "nobody would be told to look it up");
    assert_eq!(agent.cold.claimed_pid, 0);
}

// --- judgement -------------------------------------------------------------------------------------

fn sight(watermark: MonoNs) -> Sight {
    Sight { watermark, paused_before: 0, last_blind_end: MonoNs(0) }
}

const CERTAIN: Judgement = Judgement::Stalled { is_certain: true };
const UNCERTAIN: Judgement = Judgement::Stalled { is_certain: false };

#[test]
fn sighted_a_silence_is_a_stall_at_its_threshold_and_not_before() {
    let due = START + T;
    assert_eq!(judge(START, 0, T, &sight(due - 1)), Judgement::NotBefore(due));
    assert_eq!(judge(START, 0, T, &sight(due)), CERTAIN);
    // Blindness before the last beat is no excuse.
    let before = Sight { last_blind_end: START, paused_before: 7, ..sight(due) };
    assert_eq!(judge(START, 7, T, &before), CERTAIN);
}

#[test]
fn after_blindness_it_takes_a_whole_threshold_of_sight() {
    let blind_end = START + 500 * MS;
    let at = |watermark| Sight { last_blind_end: blind_end, ..sight(watermark) };
    assert_eq!(judge(START, 0, T, &at(START + T)), Judgement::NotBefore(blind_end + T));
    assert_eq!(judge(START, 0, T, &at(blind_end + T - 1)), Judgement::NotBefore(blind_end + T));
    assert_eq!(judge(START, 0, T, &at(blind_end + T)), CERTAIN);
}

#[test]
fn nobody_switches_stalls_off_by_blinding_us() {
    let at = |watermark| Sight { last_blind_end: watermark + 1, ..sight(watermark) };
    let mut now = START + T;
    loop {
        match judge(START, 0, T, &at(now)) {
            Judgement::NotBefore(next) => {
                assert!(next > now && next <= START + 3 * T, "{next:?}");
                now = next;
            }
            stalled @ Judgement::Stalled { .. } => {
                assert_eq!((stalled, now), (UNCERTAIN, START + 3 * T));
                return;
            }
        }
    }
}

#[test]
fn repeated_blindness_does_not_excuse_for_ever_either() {
    let mut now = START;
    for _ in 0..100 {
        now = now + T / 2;
        let sight = Sight { last_blind_end: now - T / 4, ..sight(now) };
        if let Judgement::Stalled { is_certain } = judge(START, 0, T, &sight) {
            assert_eq!((is_certain, now), (false, START + 3 * T));
            return;
        }
    }
    panic!("never told");
}

#[test]
fn pauses_are_no_time_awake() {
    // T 0.6 s, paused from 0 to 3 s; a beat arrived at 0.05 s and was read at 3 s.
    let arrival = START + 50 * MS;
    let after =
        Sight { paused_before: 3000 * MS, last_blind_end: START + 3000 * MS, ..sight(START + 3000 * MS) };
    assert_eq!(judge(arrival, 50 * MS, T, &after), Judgement::NotBefore(START + 3600 * MS));
    let later = Sight { watermark: START + 3600 * MS, ..after };
    assert_eq!(judge(arrival, 50 * MS, T, &later), CERTAIN);
    // Blind ever since: 3 T of awake time only at 4.8 s.
    let blind = |ms| Sight { watermark: START + ms * MS, last_blind_end: START + ms * MS, ..after };
    assert!(matches!(judge(arrival, 50 * MS, T, &blind(4799)), Judgement::NotBefore(_)));
    assert_eq!(judge(arrival, 50 * MS, T, &blind(4800)), UNCERTAIN);
}

#[test]
fn a_threshold_without_end_never_comes() {
    let judgement = judge(START, 0, u64::MAX, &sight(MonoNs(u64::MAX - 1)));
    assert_eq!(judgement, Judgement::NotBefore(MonoNs(u64::MAX)));
}

#[test]
fn of_two_slots_exactly_one_is_where_the_agent_lives() {
    let (early, late) = (START, START + 1);
    assert!(outlives((late, 3), (early, 1)) && !outlives((early, 1), (late, 3)));
    assert!(outlives((early, 1), (early, 3)) && !outlives((early, 3), (early, 1)));
}

// --- streams against a model -----------------------------------------------------------------------

/// One connection handle that counts from `from`.
#[derive(Clone, Debug)]
struct Handle {
    next: u64,
    /// Lost before the last frame that arrived.
    lost: u64,
    /// Lost since then.
    lost_since: u64,
}

impl Handle {
    const fn new(from: u64) -> Self {
        Self { next: from, lost: 0, lost_since: 0 }
    }

    /// Sends a frame; `None` if it is lost.
    fn beat(&mut self, is_lost: bool) -> Option<Frame> {
        let frame = v02(self.next);
        self.next = if self.next == NONCE_MAX { 0 } else { self.next + 1 };
        if is_lost {
            self.lost_since += 1;
            return None;
        }
        self.lost += std::mem::take(&mut self.lost_since);
        Some(frame)
    }
}

proptest! {
    /// One handle: every frame is a beat, and every lost frame is counted in the end.
    #[test]
    fn one_handle_is_counted_exactly(
        from in prop_oneof![Just(1), Just(NONCE_MAX - 20), 1..NONCE_MAX - 100],
        losses in prop::collection::vec(prop::bool::weighted(0.3), 0..100),
    ) {
        let mut handle = Handle::new(from);
        let mut agent = Agent::new(&handle.beat(false).expect("not lost"));
        let mut arrived = 1;
        for is_lost in losses.into_iter().chain([false, false]) {
            let Some(frame) = handle.beat(is_lost) else { continue };
            arrived += 1;
            agent.hear_all([frame.nonce]);
            prop_assert!(agent.cold.beats_lost <= handle.lost);
        }
        prop_assert_eq!(agent.cold.beats_lost, handle.lost);
        prop_assert_eq!((agent.hot.beats(), agent.cold.streams), (arrived, 0));
    }

    /// Two handles in one process: every frame is a beat, and no received beat is counted as lost.
    #[test]
    fn two_handles_never_look_like_more_loss_than_there_was(
        ahead in 0u64..30,
        steps in prop::collection::vec((any::<bool>(), prop::bool::weighted(0.2)), 0..200),
    ) {
        let mut handles = [Handle::new(1), Handle::new(1)];
        let mut agent = Agent::new(&handles[0].beat(false).expect("not lost"));
        let mut arrived = 1;
        for (second, is_lost) in (0..ahead).map(|_| (false, false)).chain(steps) {
            let Some(frame) = handles[usize::from(second)].beat(is_lost) else { continue };
            arrived += 1;
            agent.hear_all([frame.nonce]);
            let lost = handles[0].lost + handles[1].lost;
            prop_assert!(agent.cold.beats_lost <= lost, "{} of {lost} at {frame:?}", agent.cold.beats_lost);
        }
        prop_assert_eq!(agent.hot.beats(), arrived);
        prop_assert!(!agent.hot.flags.has(Flags::MIXED), "two streams are not three");
    }

    /// Every frame of the session's version is a beat, whatever its nonce, and nothing panics.
    #[test]
    fn any_nonce_is_life(nonces in prop::collection::vec(prop_oneof![0u64..6, Just(NONCE_MAX), any::<u64>()], 1..60)) {
        let mut agent = Agent::new(&v02(1));
        for nonce in nonces {
            let frame = if nonce == u64::MAX { terminal(Version::V02) } else { v02(nonce) };
            prop_assert!(!matches!(agent.hear(&frame), Beat::Refused(_)));
            prop_assert_eq!(agent.hot.last_arrival, agent.now);
        }
    }
}
