//! Tests of the rules of daemons: vectors from lines to states, blindness, and properties of any sequence of messages.

use proptest::prelude::*;

use super::*;
use crate::notify::message::{Envelope, Message, read};

const SECOND: u64 = 1_000_000_000;
/// Threshold 10 s, start 60 s, stop 90 s, nothing extended by more than 100 s.
const LIMITS: Limits = Limits {
    threshold_ns: 10 * SECOND,
    unknown_ns: 10 * SECOND,
    threshold_min_ns: SECOND,
    threshold_max_ns: 100 * SECOND,
    start_ns: Some(60 * SECOND),
    stop_ns: 90 * SECOND,
};

fn fields(text: &str) -> Fields<'_> {
    match read(text.as_bytes(), Envelope { is_attested: true, ..Envelope::default() }) {
        Ok(Message::Fields(fields)) => fields,
        other => panic!("{text:?}: {other:?}"),
    }
}

fn sender_at(ns: u64) -> Sender {
    Sender { pid: 7, uid: 1000, arrival: MonoNs(ns), paused_before: 0 }
}

/// A shard that saw everything up to this instant.
fn clear(ns: u64) -> Sight {
    Sight { watermark: MonoNs(ns), paused_before: 0, last_blind_end: MonoNs(0) }
}

/// The daemon after these messages, each with its second.
fn after(steps: &[(u64, &str)]) -> Daemon {
    let ((second, first), rest) = steps.split_first().expect("a message");
    let (mut daemon, _) = Daemon::begin(&fields(first), &sender_at(second * SECOND), &LIMITS);
    rest.iter().for_each(|(second, text)| _ = send(&mut daemon, *second, text));
    daemon
}

/// As [`after`], for a process that was heard from its start on.
fn heard(steps: &[(u64, &str)]) -> Daemon {
    let mut daemon = after(&steps[..1]);
    daemon.heard_from_start();
    steps[1..].iter().for_each(|(second, text)| _ = send(&mut daemon, *second, text));
    daemon
}

fn send(daemon: &mut Daemon, second: u64, text: &str) -> News {
    daemon.on_message(&fields(text), &sender_at(second * SECOND), &LIMITS)
}

/// The second of the next deadline.
fn deadline(daemon: &Daemon) -> Option<u64> {
    match daemon.judge(&LIMITS, &clear(0)) {
        Due::NotBefore(at) => Some(at.0 / SECOND),
        Due::Nothing => None,
        missed @ Due::Missed { .. } => panic!("{missed:?} before anything was seen"),
    }
}

fn missed(limit: Limit, is_certain: bool) -> Due {
    Due::Missed { limit, is_certain }
}

#[test]
fn each_line_leads_to_its_state() {
    use Phase::{Met, Reloading, Starting, Stopping, Up};
    type Steps = &'static [(u64, &'static str)];
    type Vector = (fn(&[(u64, &str)]) -> Daemon, Steps, Phase, Option<u64>);
    let vectors: &[Vector] = &[
        // Met after its start: whatever it says but beats, silence is not judged.
        (after, &[(1, "STATUS=Serving")], Met, None),
        (after, &[(1, "MAINPID=9")], Met, None),
        (after, &[(1, "READY=1")], Up, None),
        (after, &[(1, "READY=1"), (5, "STATUS=Serving")], Up, None),
        (after, &[(1, "STATUS=Serving"), (5, "READY=1")], Up, None),
        // A beat enrols, without READY=1.
        (after, &[(1, "WATCHDOG=1")], Up, Some(11)),
        (after, &[(1, "READY=1"), (5, "WATCHDOG=1")], Up, Some(15)),
        (after, &[(1, "WATCHDOG=1"), (5, "WATCHDOG=1"), (6, "STATUS=x")], Up, Some(15)),
        (after, &[(1, "WATCHDOG=1"), (5, "READY=1")], Up, Some(11)),
        (after, &[(1, "WATCHDOG=2")], Met, None),
        (after, &[(1, "WATCHDOG=trigger")], Met, None),
        (after, &[(1, "WATCHDOG=1"), (5, "WATCHDOG=trigger")], Up, Some(15)),
        // The threshold of its own: a beat, clamped; 0 changes nothing.
        (after, &[(1, "WATCHDOG_USEC=20000000")], Up, Some(21)),
        (after, &[(1, "WATCHDOG_USEC=20000000"), (5, "WATCHDOG=1")], Up, Some(25)),
        (after, &[(1, "WATCHDOG_USEC=1")], Up, Some(2)),
        (after, &[(1, "WATCHDOG_USEC=18446744073709551615")], Up, Some(101)),
        (after, &[(1, "READY=1"), (2, "WATCHDOG_USEC=0")], Up, None),
        (after, &[(1, "WATCHDOG_USEC=20000000"), (5, "WATCHDOG_USEC=0")], Up, Some(21)),
        (after, &[(1, "WATCHDOG_USEC=0\nWATCHDOG=1")], Up, Some(11)),
        // The limit of the start holds if the start was heard.
        (heard, &[(1, "STATUS=Loading")], Starting, Some(61)),
        (heard, &[(1, "STATUS=Loading"), (9, "STATUS=More")], Starting, Some(61)),
        (heard, &[(1, "STATUS=Loading"), (9, "READY=1")], Up, None),
        (heard, &[(1, "STATUS=Loading"), (9, "RELOADING=1")], Starting, Some(61)),
        (heard, &[(1, "STATUS=Loading"), (9, "WATCHDOG=1")], Starting, Some(19)),
        (heard, &[(1, "STATUS=Loading"), (55, "WATCHDOG=1")], Starting, Some(61)),
        (heard, &[(1, "STATUS=Loading"), (55, "WATCHDOG=1"), (56, "READY=1")], Up, Some(65)),
        (heard, &[(1, "READY=1")], Up, None),
        (heard, &[(1, "WATCHDOG=1")], Up, Some(11)),
        // A reload changes no limit.
        (after, &[(1, "WATCHDOG=1"), (5, "RELOADING=1")], Reloading, Some(11)),
        (after, &[(1, "WATCHDOG=1"), (5, "RELOADING=1"), (6, "WATCHDOG=1")], Reloading, Some(16)),
        (after, &[(1, "READY=1"), (5, "RELOADING=1\nMONOTONIC_USEC=5000000")], Reloading, None),
        (after, &[(1, "READY=1"), (5, "RELOADING=1"), (6, "READY=1")], Up, None),
        (after, &[(1, "READY=1"), (5, "RELOADING=1\nREADY=1")], Up, None),
        (after, &[(1, "RELOADING=1")], Reloading, None),
        // A stop is final and has a limit of its own.
        (after, &[(1, "STOPPING=1")], Stopping, Some(91)),
        (after, &[(1, "WATCHDOG=1"), (5, "STOPPING=1")], Stopping, Some(95)),
        (after, &[(1, "WATCHDOG=1"), (5, "STOPPING=1"), (6, "WATCHDOG=1")], Stopping, Some(95)),
        (after, &[(1, "READY=1"), (5, "READY=1\nSTOPPING=1")], Stopping, Some(95)),
        (after, &[(5, "STOPPING=1"), (6, "READY=1"), (7, "RELOADING=1")], Stopping, Some(95)),
        (after, &[(5, "STOPPING=1"), (60, "STOPPING=1")], Stopping, Some(95)),
        // Time that was asked for: never less, not past the longest threshold, and until the next beat.
        (after, &[(1, "WATCHDOG=1"), (5, "EXTEND_TIMEOUT_USEC=30000000")], Up, Some(35)),
        (after, &[(1, "WATCHDOG=1"), (5, "EXTEND_TIMEOUT_USEC=1000000")], Up, Some(11)),
        (after, &[(1, "WATCHDOG=1"), (5, "EXTEND_TIMEOUT_USEC=30000000"), (6, "WATCHDOG=1")], Up, Some(16)),
        (after, &[(1, "WATCHDOG=1\nEXTEND_TIMEOUT_USEC=30000000")], Up, Some(31)),
        (
            after,
            &[(1, "WATCHDOG=1"), (5, "EXTEND_TIMEOUT_USEC=30000000"), (9, "EXTEND_TIMEOUT_USEC=1000000")],
            Up,
            Some(35),
        ),
        (
            after,
            &[(1, "WATCHDOG=1"), (5, "EXTEND_TIMEOUT_USEC=30000000"), (9, "EXTEND_TIMEOUT_USEC=30000000")],
            Up,
            Some(39),
        ),
        (after, &[(1, "WATCHDOG=1"), (5, "EXTEND_TIMEOUT_USEC=18446744073709551615")], Up, Some(111)),
        (after, &[(1, "READY=1"), (5, "EXTEND_TIMEOUT_USEC=30000000")], Up, None),
        (
            after,
            &[(1, "WATCHDOG=1"), (5, "EXTEND_TIMEOUT_USEC=30000000"), (9, "RELOADING=1")],
            Reloading,
            Some(35),
        ),
        (heard, &[(1, "STATUS=Loading"), (50, "EXTEND_TIMEOUT_USEC=30000000")], Starting, Some(80)),
        (
            heard,
            &[(1, "STATUS=Loading"), (9, "EXTEND_TIMEOUT_USEC=18446744073709551615")],
            Starting,
            Some(161),
        ),
        (heard, &[(1, "EXTEND_TIMEOUT_USEC=90000000"), (9, "WATCHDOG=1")], Starting, Some(19)),
        (after, &[(5, "STOPPING=1"), (80, "EXTEND_TIMEOUT_USEC=30000000")], Stopping, Some(110)),
        (after, &[(5, "STOPPING=1\nEXTEND_TIMEOUT_USEC=120000000")], Stopping, Some(125)),
        (after, &[(5, "STOPPING=1"), (6, "EXTEND_TIMEOUT_USEC=18446744073709551615")], Stopping, Some(195)),
        (after, &[(1, "READY=1\nEXTEND_TIMEOUT_USEC=300000000"), (5, "STOPPING=1")], Stopping, Some(95)),
    ];
    for (how, steps, phase, expected) in vectors {
        let daemon = how(steps);
        assert_eq!((daemon.phase, deadline(&daemon)), (*phase, *expected), "{steps:?}");
    }
}

#[test]
fn nothing_is_missed_before_its_deadline_and_all_at_it() {
    let cases: [(Daemon, Limit, u64); 4] = [
        (after(&[(1, "WATCHDOG=1")]), Limit::Silence, 11),
        (after(&[(1, "WATCHDOG=1"), (5, "EXTEND_TIMEOUT_USEC=30000000")]), Limit::Silence, 35),
        (heard(&[(1, "STATUS=Loading")]), Limit::Start, 61),
        (after(&[(5, "STOPPING=1")]), Limit::Stop, 95),
    ];
    for (mut daemon, limit, second) in cases {
        let at = second * SECOND;
        assert_eq!(daemon.judge(&LIMITS, &clear(at - 1)), Due::NotBefore(MonoNs(at)), "{limit:?}");
        assert_eq!(daemon.judge(&LIMITS, &clear(at)), missed(limit, true));
        daemon.miss(limit);
        assert_eq!(daemon.judge(&LIMITS, &clear(at * 2)), Due::Nothing, "missed once");
        daemon.withdraw();
        assert_eq!(daemon.judge(&LIMITS, &clear(at)), missed(limit, true));
    }
}

#[test]
fn a_process_that_never_beat_is_not_judged_by_silence() {
    for steps in [[(1, "READY=1"), (2, "STATUS=Serving")], [(1, "STATUS=a"), (2, "EXTEND_TIMEOUT_USEC=1")]] {
        assert_eq!(after(&steps).judge(&LIMITS, &clear(u64::MAX)), Due::Nothing);
    }
    let without = Limits { start_ns: None, ..LIMITS };
    assert_eq!(heard(&[(1, "STATUS=Loading")]).judge(&without, &clear(u64::MAX)), Due::Nothing);
}

#[test]
fn only_what_makes_up_for_a_missed_limit_ends_it() {
    let silent = || {
        let mut daemon = after(&[(1, "WATCHDOG=1")]);
        daemon.miss(Limit::Silence);
        daemon
    };
    for text in
        ["STATUS=Still here", "READY=1", "RELOADING=1", "MAINPID=9", "EXTEND_TIMEOUT_USEC=0", "WATCHDOG=0"]
    {
        let mut daemon = silent();
        assert_eq!(send(&mut daemon, 20, text).resumed, None, "{text}");
        assert_eq!(daemon.missed(), Some(Limit::Silence));
    }
    let ends = [
        "WATCHDOG=1",
        "WATCHDOG_USEC=5000000",
        "WATCHDOG=trigger",
        "STOPPING=1",
        "EXTEND_TIMEOUT_USEC=5000000",
    ];
    for text in ends {
        let mut daemon = silent();
        let resumed = Resumed { limit: Limit::Silence, after_ns: 19 * SECOND };
        assert_eq!(send(&mut daemon, 20, text).resumed, Some(resumed), "{text}");
        assert_eq!(daemon.missed(), None);
    }

    let mut starting = heard(&[(1, "STATUS=Loading")]);
    starting.miss(Limit::Start);
    assert_eq!(send(&mut starting, 70, "WATCHDOG=1").resumed, None);
    let resumed = Resumed { limit: Limit::Start, after_ns: 79 * SECOND };
    assert_eq!(send(&mut starting, 80, "READY=1").resumed, Some(resumed));
    assert_eq!(deadline(&starting), Some(80));

    let mut stopping = after(&[(5, "STOPPING=1")]);
    stopping.miss(Limit::Stop);
    for text in ["WATCHDOG=1", "READY=1", "STOPPING=1"] {
        assert_eq!(send(&mut stopping, 100, text).resumed, None, "{text}");
    }
    assert!(send(&mut stopping, 101, "EXTEND_TIMEOUT_USEC=5000000").resumed.is_some());
    // The last that it can be granted.
    assert_eq!(deadline(&stopping), Some(106));
    stopping.miss(Limit::Stop);
    assert_eq!(send(&mut stopping, 195, "EXTEND_TIMEOUT_USEC=5000000").resumed, None);
}

#[test]
fn news_say_what_a_message_was() {
    let mut daemon = after(&[(1, "STATUS=Loading")]);
    assert_eq!(send(&mut daemon, 2, "STATUS=More"), News::default());
    assert_eq!(send(&mut daemon, 3, "READY=1"), News { phase: Some(Phase::Up), ..News::default() });
    assert_eq!(send(&mut daemon, 4, "READY=1"), News::default());
    assert_eq!(send(&mut daemon, 5, "WATCHDOG=1"), News { is_beat: true, ..News::default() });
    assert_eq!(send(&mut daemon, 6, "WATCHDOG=trigger"), News { is_trigger: true, ..News::default() });
    assert_eq!(send(&mut daemon, 7, "WATCHDOG_USEC=5000000"), News { is_beat: true, ..News::default() });
    let last = send(&mut daemon, 8, "STOPPING=1\nERRNO=5\nEXIT_STATUS=7");
    assert_eq!(last, News { phase: Some(Phase::Stopping), ..News::default() });
    send(&mut daemon, 9, "STATUS=Bye");
    assert_eq!(daemon.failure(), (Some(5), Some(7)));
    let (met, news) = Daemon::begin(&fields("WATCHDOG=1"), &sender_at(0), &LIMITS);
    assert_eq!(news, News { is_beat: true, phase: Some(Phase::Up), ..News::default() });
    assert_eq!((met.last_beat(), met.is_beating()), (Some(MonoNs(0)), true));
}

/// While the shard was blind a beat may have been lost: the daemon gets a whole threshold of sight.
#[test]
fn blindness_excuses_as_it_does_for_beats() {
    let daemon = after(&[(1, "WATCHDOG=1")]);
    let blind_until = |end: u64, now: u64| Sight {
        watermark: MonoNs(now * SECOND),
        paused_before: 0,
        last_blind_end: MonoNs(end * SECOND),
    };
    assert_eq!(daemon.judge(&LIMITS, &blind_until(8, 12)), Due::NotBefore(MonoNs(18 * SECOND)));
    assert_eq!(daemon.judge(&LIMITS, &blind_until(8, 18)), missed(Limit::Silence, true));
    // Blind before the beat: no excuse.
    assert_eq!(daemon.judge(&LIMITS, &blind_until(1, 11)), missed(Limit::Silence, true));
    // Blind all the time: three thresholds.
    assert_eq!(daemon.judge(&LIMITS, &blind_until(30, 30)), Due::NotBefore(MonoNs(31 * SECOND)));
    assert_eq!(daemon.judge(&LIMITS, &blind_until(31, 31)), missed(Limit::Silence, false));
}

#[test]
fn all_that_a_session_is_survives_its_words() {
    let all = |errno, exit_status, missed, own_threshold_ns| Daemon {
        phase: Phase::Reloading,
        began: Mark { at: MonoNs(u64::MAX), paused_before: 3 },
        beat: None,
        own_threshold_ns,
        extended_until: MonoNs(5),
        silence_until: MonoNs(6),
        missed,
        errno,
        exit_status,
        messages: u16::MAX,
        is_from_environment: own_threshold_ns.is_some(),
        is_looked_up: errno.is_none(),
    };
    for daemon in [
        all(Some(0), Some(0), Some(Limit::Start), Some(u64::MAX)),
        all(Some(4095), Some(255), Some(Limit::Stop), None),
        all(None, None, None, Some(1000)),
    ] {
        assert_eq!(Daemon::from_words(&daemon.to_words(), MonoNs(9), 9), daemon);
    }
}

/// What was asked for is not time in which the shard could have seen a beat: after it, too, a daemon gets a whole
/// threshold of sight.
#[test]
fn blindness_at_the_end_of_an_extension_excuses_as_it_does_for_beats() {
    let daemon = after(&[(1, "WATCHDOG=1"), (2, "EXTEND_TIMEOUT_USEC=90000000")]);
    assert_eq!(deadline(&daemon), Some(92));
    let sight = |end: u64, now: u64| Sight {
        watermark: MonoNs(now * SECOND),
        paused_before: 0,
        last_blind_end: MonoNs(end * SECOND),
    };
    assert_eq!(daemon.judge(&LIMITS, &sight(91, 92)), Due::NotBefore(MonoNs(101 * SECOND)));
    assert_eq!(daemon.judge(&LIMITS, &sight(91, 101)), missed(Limit::Silence, true));
    assert_eq!(daemon.judge(&LIMITS, &sight(50, 92)), missed(Limit::Silence, true));
}

/// READY=1 is not repeated: if it may have been lost, no sight makes the limit of the start certain.
#[test]
fn a_start_that_was_not_seen_whole_is_doubtful() {
    let blind = |end: u64, now: u64| Sight {
        watermark: MonoNs(now * SECOND),
        paused_before: 0,
        last_blind_end: MonoNs(end * SECOND),
    };
    let quiet = heard(&[(1, "STATUS=Loading")]);
    assert_eq!(quiet.judge(&LIMITS, &blind(0, 61)), missed(Limit::Start, true));
    assert_eq!(quiet.judge(&LIMITS, &blind(5, 180)), Due::NotBefore(MonoNs(181 * SECOND)));
    assert_eq!(quiet.judge(&LIMITS, &blind(5, 181)), missed(Limit::Start, false));
    // It beats: whatever became of READY=1, it is judged as others are.
    let beating = heard(&[(1, "STATUS=Loading"), (58, "WATCHDOG=1")]);
    assert_eq!(beating.judge(&LIMITS, &blind(0, 61)), missed(Limit::Start, true));
    assert_eq!(beating.judge(&LIMITS, &blind(5, 61)), Due::NotBefore(MonoNs(68 * SECOND)));
    assert_eq!(beating.judge(&LIMITS, &blind(5, 68)), missed(Limit::Silence, true));
}

#[test]
fn a_script_that_reports_once_is_no_agent() {
    let second = SECOND;
    let script = after(&[(5, "STATUS=Backup done")]);
    assert!(script.is_one_shot(MonoNs(5 * second + 1)) && script.is_one_shot(MonoNs(6 * second - 1)));
    assert!(!script.is_one_shot(MonoNs(6 * second)));
    assert_eq!(script.is_agent_from(), MonoNs(6 * second));
    let daemon = after(&[(5, "READY=1"), (5, "STATUS=Serving")]);
    assert!(!daemon.is_one_shot(MonoNs(5 * second)));
}

#[test]
fn limits_that_contradict_each_other_are_no_panic() {
    let odd = Limits { threshold_min_ns: u64::MAX, threshold_max_ns: 0, stop_ns: u64::MAX, ..LIMITS };
    let (mut daemon, _) =
        Daemon::begin(&fields("WATCHDOG_USEC=5\nEXTEND_TIMEOUT_USEC=7"), &sender_at(u64::MAX - 1), &odd);
    assert_eq!(daemon.threshold_ns(&odd), u64::MAX);
    daemon.on_message(&fields("STOPPING=1"), &sender_at(u64::MAX), &odd);
    let _ = daemon.judge(&odd, &clear(u64::MAX));
}

/// What tor 0.4.9.8 and php-fpm 8.2.31 of Debian 12 send, unmodified. Both beat at half of the `WATCHDOG_USEC` of their
/// environment, which neither sends, and neither says that it stops.
#[test]
fn what_daemons_send_in_the_field_is_understood() {
    let tor: &[(u64, &str)] =
        &[(0, "MAINPID=10217\n"), (0, "READY=1"), (1, "WATCHDOG=1"), (2, "WATCHDOG=1"), (3, "WATCHDOG=1")];
    let traffic = "Processes active: 0, idle: 1, Requests: 0, slow: 0, Traffic: 0.00req/sec";
    let beat = format!("READY=1\nWATCHDOG=1\nSTATUS={traffic}");
    let fpm: &[(u64, &str)] =
        &[(0, "READY=1\nSTATUS=Ready to handle connections\nMAINPID=15618"), (4, &beat), (9, &beat)];
    for (steps, expected) in [(tor, 13), (fpm, 19)] {
        assert!(steps.iter().all(|(_, text)| fields(text).invalid == 0));
        let daemon = after(steps);
        assert_eq!((daemon.phase, deadline(&daemon)), (Phase::Up, Some(expected)));
    }
    assert_eq!(fields(&beat).status, Some(traffic));
}

/// A process with the pid of the one before is judged by nothing that this one said.
#[test]
fn an_heir_begins_anew() {
    let limits = LIMITS;
    let mut before = after(&[(1, "WATCHDOG_USEC=50000000"), (5, "STOPPING=1\nERRNO=5")]);
    before.miss(Limit::Stop);
    send(&mut before, 9, "READY=1");
    let met = before.of_heir(MonoNs(6 * SECOND), &sender_at(9 * SECOND));
    assert_eq!((met.phase, met.missed(), met.failure()), (Phase::Met, None, (None, None)));
    assert_eq!(met.judge(&limits, &clear(u64::MAX)), Due::Nothing);
    send(&mut before, 9, "WATCHDOG=1");
    let beating = before.of_heir(MonoNs(6 * SECOND), &sender_at(9 * SECOND));
    assert_eq!((beating.phase, deadline(&beating)), (Phase::Up, Some(19)));
}

/// After a restart the pauses are those of another shard; the instants stay.
#[test]
fn a_session_outlives_its_shard() {
    let daemon = after(&[(1, "WATCHDOG=1"), (5, "EXTEND_TIMEOUT_USEC=30000000")]);
    let resighted = daemon.resighted(|at, _| at.0);
    assert_eq!(deadline(&resighted), deadline(&daemon));
    let sight = Sight {
        watermark: MonoNs(40 * SECOND),
        paused_before: 40 * SECOND,
        last_blind_end: MonoNs(40 * SECOND),
    };
    assert_eq!(resighted.judge(&LIMITS, &sight), Due::NotBefore(MonoNs(50 * SECOND)));
}

/// A message of a random daemon, with the nanoseconds since the one before.
fn steps() -> impl Strategy<Value = Vec<(u64, String)>> {
    let line = prop_oneof![
        4 => Just("WATCHDOG=1".to_owned()),
        1 => Just("READY=1".to_owned()),
        1 => Just("RELOADING=1".to_owned()),
        1 => Just("STATUS=x".to_owned()),
        1 => Just("WATCHDOG=trigger".to_owned()),
        1 => Just("STOPPING=1".to_owned()),
        2 => (0..200_000_000_u64).prop_map(|us| format!("EXTEND_TIMEOUT_USEC={us}")),
        2 => (0..200_000_000_u64).prop_map(|us| format!("WATCHDOG_USEC={us}")),
    ];
    let message = proptest::collection::vec(line, 1..4).prop_map(|lines| lines.join("\n"));
    proptest::collection::vec((0..40 * SECOND, message), 1..20)
}

proptest! {
    #[test]
    fn any_words_are_some_session(words: [u64; DAEMON_WORDS], at: u64, watermark: u64) {
        let daemon = Daemon::from_words(&words, MonoNs(at), at);
        let _ = daemon.judge(&LIMITS, &clear(watermark));
    }

    /// Judged after each message at the instant of the next one, as a shard with clear sight does.
    #[test]
    fn every_session_keeps_the_promises(steps in steps(), is_heard: bool) {
        let mut now = steps[0].0;
        let (mut daemon, _) = Daemon::begin(&fields(&steps[0].1), &sender_at(now), &LIMITS);
        if is_heard {
            daemon.heard_from_start();
        }
        for (gap, text) in &steps[1..] {
            now += gap;
            let (beat_at, words) = (daemon.last_beat().unwrap_or_default(), daemon.to_words());
            prop_assert_eq!(Daemon::from_words(&words, beat_at, 0), daemon);
            let beat = daemon.last_beat();
            let before = daemon.phase;
            match daemon.judge(&LIMITS, &clear(now)) {
                Due::Missed { limit, is_certain } => {
                    prop_assert!(is_certain, "all was seen");
                    if limit == Limit::Silence {
                        // No beat within the threshold; an older one is needed to miss the next.
                        let silent = MonoNs(now).since(beat.expect("it has beaten"));
                        prop_assert!(silent >= daemon.threshold_ns(&LIMITS));
                    }
                    daemon.miss(limit);
                    prop_assert_eq!(daemon.judge(&LIMITS, &clear(u64::MAX)), Due::Nothing);
                }
                Due::NotBefore(at) => prop_assert!(at.0 > now),
                Due::Nothing => {}
            }
            let was_missed = daemon.missed();
            let news = daemon.on_message(&fields(text), &sender_at(now), &LIMITS);
            prop_assert_eq!(news.resumed.map(|resumed| resumed.limit), was_missed.filter(|_| daemon.missed().is_none()));
            if before == Phase::Stopping {
                prop_assert_eq!(daemon.phase, Phase::Stopping, "a stop is final");
            }
            prop_assert_eq!(news.phase.is_some(), daemon.phase != before);
            if let Due::NotBefore(at) = daemon.judge(&LIMITS, &clear(now)) {
                prop_assert!(at.0 > now, "nothing is due at a message");
            }
        }
        // Nobody escapes for ever: what is limited is missed at last, whatever was asked for.
        let limit = LIMITS.stop_ns.max(LIMITS.threshold_max_ns) + LIMITS.threshold_max_ns;
        let is_limited = daemon.is_beating() || matches!(daemon.phase, Phase::Starting | Phase::Stopping);
        let verdict = daemon.judge(&LIMITS, &clear(now + limit));
        prop_assert_eq!(
            is_limited && daemon.missed().is_none(),
            matches!(verdict, Due::Missed { .. }),
            "{:?}", daemon
        );
    }

    /// Blindness never makes a verdict earlier, and never prevents it.
    #[test]
    fn blindness_only_delays(steps in steps(), is_heard: bool, blind in 0..900 * SECOND, later in 0..900 * SECOND) {
        let mut now = steps[0].0;
        let (mut daemon, _) = Daemon::begin(&fields(&steps[0].1), &sender_at(now), &LIMITS);
        if is_heard {
            daemon.heard_from_start();
        }
        for (gap, text) in &steps[1..] {
            now += gap;
            daemon.on_message(&fields(text), &sender_at(now), &LIMITS);
        }
        let at = now + later;
        let sight = Sight { last_blind_end: MonoNs(blind), ..clear(at) };
        let is_missed = |verdict| matches!(verdict, Due::Missed { .. });
        if is_missed(daemon.judge(&LIMITS, &sight)) {
            prop_assert!(is_missed(daemon.judge(&LIMITS, &clear(at))));
        }
        let for_ever = Sight { last_blind_end: MonoNs(u64::MAX), ..clear(now + 2000 * SECOND) };
        if daemon.is_beating() && daemon.phase != Phase::Stopping {
            prop_assert!(is_missed(daemon.judge(&LIMITS, &for_ever)));
        }
    }
}
