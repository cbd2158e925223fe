//! Worlds in which every invariant must hold, and worlds with a planted bug that must fail.

use std::time::Duration;

use super::invariants::Invariant;
use super::runner::{Failure, Hunt, judge};
use super::story::{
    AT_REST, Daemon, Ending, Happening, MS, Restart, SECOND, Size, Story, TurnPart, US, What, Who, Words,
};
use crate::lab::planted::{Bug, with};

/// Most runs to shrink a failure in a test.
const SHRINK_RUNS: u32 = 150;

/// The same worlds in every run, small and large.
#[test]
fn fixed_worlds_hold() {
    let sizes = [(3, 8), (12, 8), (60, 6), (300, 5)];
    for (seed, (agents, seconds)) in (0..).zip(sizes.iter().cycle().take(40)) {
        hold(&Story::of_size(seed, Size { agents: *agents, length: seconds * SECOND }));
    }
}

#[test]
fn a_large_world_holds() {
    hold(&Story::of_size(1, Size { agents: 2200, length: 4 * SECOND }));
}

/// An agent moved while the end of an earlier silence on its new shard was still to be confirmed. Its old
/// slot, which held the evidence, was released first, and the silence was reported as a stall.
#[test]
fn a_move_takes_away_nothing_that_a_waiting_fact_is_judged_by() {
    hold(&Story::new(10_829_708_416_314, None));
}

/// An agent's second handle found no room on its shard, and the shard that tracked the agent was paused: no
/// other shard could have reported the silence sooner.
#[test]
fn who_finds_no_room_on_a_second_shard_is_judged_by_the_first() {
    hold(&Story::new(902_259, None));
}

/// A process died while no observer ran, and had beaten on two shards: the successor counted two that were gone.
#[test]
fn who_beat_on_two_shards_is_adopted_and_gone_once() {
    hold(&Story::new(24, None));
    hold(&Story::new(148, None));
}

/// The observer was killed after it recorded the last number of a commit, and before it committed: the successor
/// left out the numbers of events that had never been.
#[test]
fn a_commit_that_is_cut_off_leaves_no_gap_in_the_numbers() {
    hold(&Story::new(179, None));
}

/// A process died while no observer ran, and another one got its pid: the exit was not reported as of that time,
/// because the slot of a second handle was new, or because the next process had beaten since the start.
#[test]
fn who_went_while_nobody_ran_is_said_to_whoever_has_its_pid_now() {
    hold(&Story::new(120, None));
}

/// A successor that adopted nothing read a queue that was as old as the gap. Its shards said that they had processed
/// everything before their start, so an exit was reported while another shard still had frames of that process.
#[test]
fn who_starts_from_nothing_has_not_read_what_is_queued() {
    hold(&Story::new(827, None));
}

/// A frame of a silent agent was refused, which puts off its stall for three thresholds. A beat ended the silence, and
/// the next one was reported only when the first would have been.
#[test]
fn a_doubt_that_is_over_does_not_put_off_the_next_stall() {
    hold(&Story::new(25_022_796_989_398, None));
}

/// A process died while no observer ran. When the successor had started, another process got its pid and beat before
/// the exit was reported.
#[test]
fn who_went_while_nobody_ran_is_said_to_although_another_beats_with_its_pid() {
    hold(&Story::new(23_259_641_570_634, None));
}

/// The same of an agent that had stalled. The other process beat on another shard and could not be looked up at first, so
/// that the agent was taken for returned, and the slot that was adopted for free.
#[test]
fn who_went_while_nobody_ran_is_said_to_although_it_seems_to_have_moved() {
    hold(&Story::new(777_000_098, None));
}

/// An agent that was missing beat and exited, and its exit was reported once more as that of a missing one.
#[test]
fn who_was_missing_and_beats_exits_once() {
    hold(&Story::new(148, None));
}

/// The same by a successor that had not read the roster when the agent beat and exited.
#[test]
fn who_was_missing_and_is_met_before_the_roster_exits_once() {
    hold(&Story::new(777_000_017, None));
}

/// An agent had beaten before the observer started, and there was no room for it when its queue was read.
#[test]
fn whose_queued_frame_is_turned_away_is_not_missing() {
    hold(&Story::new(888_000_045, None));
}

/// The roster was written when a process had the pid of another whose exit was not reported yet.
#[test]
fn who_is_taken_for_the_process_before_is_in_the_roster_as_that() {
    hold(&Story::new(889_000_061, None));
}

/// An observer was killed in the very instant in which an agent exited, and after it had committed that event. The
/// simulator took the exit for one of the time without an observer.
#[test]
fn an_exit_that_was_committed_before_the_end_is_not_of_the_time_after_it() {
    hold(&Story::new(29_527_041_097_495, None));
}

/// A successor was to start later than the world ended.
#[test]
fn a_world_ends_with_an_observer() {
    let mut story = Story::of_size(261, Size { agents: 11, length: 6 * SECOND });
    story.happenings.retain(|happening| !matches!(happening.what, What::Reload { .. }));
    story.setting.tables.clear();
    hold(&story);
}

/// An agent was thawed, moved, and was frozen again before anybody had looked: it froze twice, and thawed once.
#[test]
fn who_moves_between_two_freezes_is_thawed_in_between() {
    hold(&Story::new(500_016, None));
}

fn hold(story: &Story) {
    if let Err(violation) = judge(story) {
        panic!("{}", Failure::of(story, &violation, SHRINK_RUNS));
    }
}

/// The observer ended while the slot of a frozen agent was being released: the successor did not count it as frozen, and
/// took it from the count when the slot was free.
#[test]
fn who_is_released_while_frozen_is_counted_by_the_successor() {
    hold(&Story::new(3_000_136, None));
}

/// The shard of the handle that works was paused, and that of the helper was not.
#[test]
fn work_that_waits_in_the_queue_of_another_shard_is_no_standstill() {
    hold(&Story::new(3_000_139, None));
}

/// No descriptor was left to watch a daemon that sent no beats, and its exit was not told.
#[test]
fn who_cannot_be_watched_and_is_not_judged_exits_all_the_same() {
    hold(&Story::of_size(1009, Size { agents: 5, length: 6 * SECOND }));
}

/// A frame of a daemon was refused. Its shard was certain of its stall all the same, and that was taken back for ever.
#[test]
fn a_daemon_whose_frame_was_refused_stalls_all_the_same() {
    hold(&Story::new(20_104, Some(5)));
}

/// Worlds of any seed; how many and for how long is set by the variables of `scripts/simulate`.
#[test]
fn worlds_of_any_seed_hold() {
    let number = |name: &str| {
        let text = std::env::var(name).ok()?;
        Some(text.parse::<u64>().unwrap_or_else(|error| panic!("{name}={text}: {error}; give a number")))
    };
    let seconds = number("VARTA_SIMULATE_SECONDS");
    let seed = number("VARTA_SIMULATE_SEED");
    let is_one = seed.is_some() && seconds.is_none();
    let jobs = number("VARTA_SIMULATE_JOBS").unwrap_or(1);
    let hunt = Hunt {
        first_seed: seed.unwrap_or(100_000),
        for_time: seconds.filter(|seconds| *seconds > 0).map(Duration::from_secs),
        worlds: if is_one { 1 } else { seconds.map_or(30, |_| u64::MAX) },
        agents: number("VARTA_SIMULATE_AGENTS").map(|agents| u32::try_from(agents).unwrap()),
        jobs: usize::try_from(jobs).unwrap(),
    };
    match hunt.run() {
        Ok(bag) => assert!(bag.worlds > 0, "not one world ended in time"),
        Err(failure) => panic!("{failure}"),
    }
}

/// Most worlds searched for a planted bug.
const WORLDS: u64 = 400;

/// A world that may show the bug.
fn world_for(bug: Bug, invariant: Invariant, seed: u64) -> Story {
    let agents = 2 + u32::try_from(seed % 14).unwrap();
    let is_done_about = invariant == Invariant::I9 || bug == Bug::ActsUponWhoCameBack;
    // What is done about daemons is not modelled: these seeds have none.
    let seed = if is_done_about { 3 * seed } else { seed };
    let mut story = Story::of_size(seed, Size { agents, length: 6 * SECOND });
    if !matches!(bug, Bug::KeepsOldClasses | Bug::JudgesAtOnceByAShorterThreshold) {
        // A reload may show the bug under another invariant, or hide it.
        story.happenings.retain(|happening| !matches!(happening.what, What::Reload { .. }));
        story.setting.tables.clear();
    }
    let is_of_actions =
        matches!(bug, Bug::KeepsTheOldBrake | Bug::KeepsRemovedActions | Bug::StartsInADryRun);
    if is_done_about && !story.setting.acts {
        story.act();
    }
    if !is_of_actions {
        story.happenings.retain(|happening| !matches!(happening.what, What::ReloadActions { .. }));
    }
    story.happenings.retain(|happening| !matches!(happening.what, What::Freeze { .. }));
    if bug == Bug::ActsUponTheThawed {
        story.freeze();
    }
    if !matches!(invariant, Invariant::I13 | Invariant::I14) {
        // So may a restart.
        story.happenings.retain(|happening| !matches!(happening.what, What::Restart(_)));
    }
    if invariant == Invariant::I15 {
        ask_for_progress(&mut story, bug);
    }
    if invariant == Invariant::I17 || matches!(bug, Bug::ForgetsTheEnvironment | Bug::TrustsABlindShard) {
        make_daemons(&mut story, bug);
    }
    let is_of_phases = matches!(
        bug,
        Bug::JudgesStartsAsUsual
            | Bug::IgnoresThePayload
            | Bug::NeverEndsTheStart
            | Bug::LooksWhenThePhaseIsOver
            | Bug::ForgetsTheStart
    );
    if is_of_phases {
        give_phases(&mut story);
    }
    story
}

/// The agents are daemons, and do what may show the bug.
fn make_daemons(story: &mut Story, bug: Bug) {
    let setting = &mut story.setting;
    (setting.rules, setting.progress, setting.phased) = (Vec::new(), None, None);
    (setting.acts, setting.lookup_fails, setting.pidfds) = (false, 0, 1 << 20);
    setting.agents_max = setting.agents_max.max(256);
    let (threshold, length, shard) = (setting.threshold, setting.length, setting.shards);
    let is_plain = |what: &What| matches!(what, What::Die { .. } | What::Pause { .. } | What::Garbage { .. });
    story.happenings.retain(|happening| is_plain(&happening.what));
    story.notify();
    let is_quiet = matches!(
        bug,
        Bug::JoinsLanes | Bug::NeverCapsExtensions | Bug::ForgetsTheEnvironment | Bug::TrustsABlindShard
    );
    if !is_quiet {
        return;
    }
    story.happenings.clear();
    let mute_at = if bug == Bug::ForgetsTheEnvironment { length / 2 } else { 2 * threshold };
    let is_of_start = bug == Bug::ForgetsTheEnvironment;
    let started_with = is_of_start.then_some(threshold);
    let mut put = |at: u64, what: What| story.happenings.push(Happening { at, what });
    story.agents.dedup_by_key(|agent| agent.pid);
    let ids: Vec<u32> = story.agents.iter().map(|agent| agent.id).collect();
    for agent in &mut story.agents {
        (agent.born, agent.inner) = (0, None);
        agent.daemon = Some(Daemon { sends_frames: bug == Bug::JoinsLanes, beats: true, started_with });
        let id = agent.id;
        if !is_of_start {
            put(agent.first_beat, What::Say { agent: id, words: Words::Threshold(threshold / US) });
        }
        if bug == Bug::NeverCapsExtensions {
            let words = Words::Extend(86_400 * SECOND / US);
            put(mute_at, What::Say { agent: id, words });
        }
        // Others keep the shard awake that is to be blind.
        if bug != Bug::TrustsABlindShard || id == ids[0] {
            put(mute_at, What::Mute { agent: id, are_frames: false, for_ns: length });
        }
    }
    match bug {
        Bug::ForgetsTheEnvironment => {
            let restart = Restart { ending: Ending::Planned, gap: MS, elsewhere: None };
            put(length / 6, What::Restart(restart));
        }
        Bug::TrustsABlindShard => {
            let pause = What::Pause { who: Who::Shard(shard), place: TurnPart::Wait, for_ns: 150 * MS };
            (1..length * 4 / (3 * threshold)).for_each(|n| put(n * threshold * 3 / 4, pause));
        }
        _ => {}
    }
    story.happenings.sort_by_key(|happening| happening.at);
}

/// Every agent has a rule with phases, and nothing hides them.
fn give_phases(story: &mut Story) {
    let setting = &mut story.setting;
    (setting.rules, setting.progress) = (vec![setting.threshold], None);
    setting.lookup_fails = 0;
    setting.agents_max = setting.agents_max.max(64);
    let is_plain =
        |what: &What| what.agent().is_none() || matches!(what, What::Hang { .. } | What::Die { .. });
    story.happenings.retain(|happening| is_plain(&happening.what));
    for agent in &mut story.agents {
        (agent.class, agent.inner) = (1, None);
    }
    story.phase();
}

/// Every agent has a rule that asks for progress, and does what may show the bug.
fn ask_for_progress(story: &mut Story, bug: Bug) {
    let setting = &mut story.setting;
    (setting.rules, setting.progress) = (vec![2 * setting.threshold], Some(setting.threshold));
    setting.lookup_fails = 0;
    setting.agents_max = setting.agents_max.max(64);
    if bug == Bug::FindsNobodyStill {
        story.happenings.clear();
    }
    for agent in &mut story.agents {
        (agent.class, agent.inner) = (1, None);
        let whole = What::Stand { agent: agent.id, for_ns: story.setting.length };
        let what = match bug {
            Bug::CountsIdle => vec![whole, What::Status { agent: agent.id, status: AT_REST }],
            Bug::MergesStreams => {
                vec![What::SecondHandle { agent: agent.id, shard: agent.shard, nonce: agent.nonce }]
            }
            Bug::TrustsBlindShards => {
                agent.shard = 0;
                vec![What::SecondHandle { agent: agent.id, shard: 1, nonce: 5000 }]
            }
            _ => vec![whole],
        };
        // The second handle begins when the shard of the first is paused.
        let at = if bug == Bug::TrustsBlindShards { 4 * story.setting.threshold } else { agent.born };
        story.happenings.extend(what.into_iter().map(|what| Happening { at, what }));
    }
    if bug == Bug::TrustsBlindShards {
        story.setting.shards = story.setting.shards.max(2);
        let (for_ns, place) = (5 * story.setting.threshold, TurnPart::Wait);
        let what = What::Pause { who: Who::Shard(0), place, for_ns };
        story.happenings.push(Happening { at: 4 * story.setting.threshold, what });
    }
    story.happenings.sort_by_key(|happening| happening.at);
}

fn finds(bug: Bug, invariant: Invariant) {
    with(bug, || {
        for seed in 0..WORLDS {
            let story = world_for(bug, invariant, seed);
            let Err(violation) = judge(&story) else { continue };
            assert_eq!(violation.invariant, invariant, "world {seed}: {violation}");
            let failure = Failure::of(&story, &violation, SHRINK_RUNS);
            let again = judge(&failure.story).expect_err("the shrunken world fails, too");
            assert_eq!(again.invariant, invariant, "{failure}");
            let (agents, happenings) = (failure.story.agents.len(), failure.story.happenings.len());
            assert!(agents <= story.agents.len() && happenings <= story.happenings.len(), "{failure}");
            println!("{bug:?}: world {seed}, {failure}");
            return;
        }
        panic!("{bug:?} was not found in {WORLDS} worlds");
    });
}

/// An observer that goes on after a take-over is found by what it reads or reports, and by nothing else.
#[test]
fn who_goes_on_reads_the_queue_of_another_and_numbers_events_twice() {
    let bug = Bug::GoesOnAfterATakeOver;
    let mut found = [("two observers read", 0), ("two observers number", 0)];
    with(bug, || {
        for seed in 0..WORLDS {
            let Err(violation) = judge(&world_for(bug, Invariant::I13, seed)) else { continue };
            let kind = found.iter_mut().find(|(words, _)| violation.what.starts_with(words));
            kind.unwrap_or_else(|| panic!("world {seed}: {violation}")).1 += 1;
        }
    });
    assert!(found.iter().all(|(_, worlds)| *worlds > 0), "{found:?}");
}

macro_rules! planted_bugs {
    ($($test:ident $bug:ident $invariant:ident,)*) => {
        $(
            #[test]
            fn $test() {
                finds(Bug::$bug, Invariant::$invariant);
            }
        )*

        #[test]
        fn every_invariant_has_a_bug_or_waits() {
            let planted = [$(Invariant::$invariant),*];
            for invariant in Invariant::CHECKED {
                assert!(planted.contains(&invariant), "{invariant:?}");
                assert!(!Invariant::WAITING.contains(&invariant), "{invariant:?}");
            }
        }
    };
}

planted_bugs! {
    a_datagram_that_is_not_counted_is_found ForgetsToCount I1,
    one_agent_taken_for_two_is_found TakesOneForTwo I2,
    judging_by_the_clock_is_found JudgesByTheClock I3,
    a_forgotten_timer_is_found ForgetsTheTimer I4,
    a_resume_told_twice_is_found ResumesTwice I5,
    a_session_that_is_kept_is_found KeepsTheSession I6,
    letting_everybody_in_is_found LetsEverybodyIn I7,
    a_lost_line_that_is_dropped_is_found DropsTheLostLine I8,
    a_first_name_that_is_kept_is_found KeepsTheFirstName I3,
    a_second_child_is_found StartsASecondChild I9,
    a_start_under_a_brake_is_found StartsUnderABrake I9,
    acting_upon_the_heir_is_found ActsUponTheHeir I9,
    attempts_that_are_forgotten_are_found ForgetsAttempts I9,
    a_brake_that_a_reload_keeps_is_found KeepsTheOldBrake I9,
    actions_that_a_reload_keeps_are_found KeepsRemovedActions I9,
    a_start_in_a_dry_run_is_found StartsInADryRun I9,
    acting_upon_the_thawed_is_found ActsUponTheThawed I9,
    acting_upon_who_came_back_is_found ActsUponWhoCameBack I13,
    trusting_the_wall_clock_is_found TrustsTheWallClock I10,
    a_column_too_many_is_found SplitsAColumn I11,
    a_reload_that_keeps_old_classes_is_found KeepsOldClasses I4,
    a_shorter_threshold_that_is_judged_at_once_is_found JudgesAtOnceByAShorterThreshold I3,
    judging_before_draining_is_found JudgesBeforeDraining I13,
    a_forgotten_gap_is_found ForgetsTheGap I13,
    a_word_told_twice_is_found TellsTwice I13,
    an_event_that_nobody_repeats_is_found LosesTheUnacknowledged I13,
    memory_of_another_boot_that_is_adopted_is_found AdoptsAnotherBoot I13,
    two_that_go_on_are_found GoesOnAfterATakeOver I13,
    who_is_missing_twice_is_found MissesTwice I14,
    missing_who_beats_is_found MissesWhoBeats I14,
    missing_without_a_threshold_of_sight_is_found MissesAtOnce I14,
    missing_nobody_is_found MissesNobody I14,
    a_roster_that_forgets_is_found ForgetsTheAwaited I14,
    a_standstill_told_twice_is_found TellsAStandstillTwice I15,
    an_idle_agent_that_counts_is_found CountsIdle I15,
    a_silence_that_counts_is_found CountsSilence I15,
    a_helper_that_counts_is_found CountsHelpers I15,
    streams_in_step_that_are_merged_are_found MergesStreams I15,
    work_in_a_queue_that_is_not_read_is_found TrustsBlindShards I15,
    nobody_who_stands_still_is_found FindsNobodyStill I15,
    a_start_that_is_judged_as_usual_is_found JudgesStartsAsUsual I16,
    a_payload_that_is_ignored_is_found IgnoresThePayload I16,
    a_start_without_end_is_found NeverEndsTheStart I16,
    a_look_when_the_phase_is_over_is_found LooksWhenThePhaseIsOver I4,
    a_start_that_a_restart_ends_is_found ForgetsTheStart I13,
    lanes_that_are_joined_are_found JoinsLanes I17,
    an_extension_without_end_is_found NeverCapsExtensions I17,
    a_stall_without_beats_is_found StallsWithoutBeats I17,
    a_stop_that_is_undone_is_found UndoesStopping I17,
    an_environment_that_a_restart_forgets_is_found ForgetsTheEnvironment I13,
    a_default_for_daemons_is_found TakesTheDefault I17,
    certainty_without_sight_is_found TrustsABlindShard I3,
    a_script_that_is_an_agent_is_found TellsOfScripts I17,
}
