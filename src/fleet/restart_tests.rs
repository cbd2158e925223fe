//! An observer goes on for another: real sockets, memory and agents, in one process.

use super::*;
use crate::event::{BlindWhy, RestartWhy};
use crate::fleet::Inherited;

/// An observer, its successors, and the event log of all of them.
struct Line {
    /// `None` in a gap.
    fleet: Option<Fleet>,
    config: Config,
    directory: TempDir,
}

impl Line {
    fn begin(shards: u32) -> Self {
        let directory = tempfile::tempdir().expect("directory");
        let config = Config {
            dir: Some(directory.path().to_owned()),
            shards: Some(shards),
            threshold: T,
            agents_max: 64,
            events: Some(Output::File(directory.path().join("events"))),
            ..Config::default()
        };
        let mut line = Self { fleet: None, config, directory };
        line.go_on(Inherited::default());
        line
    }

    fn agent(&self, shard: usize) -> Agent {
        let agent = Agent::start(&self.directory.path().join(format!("shard-{shard}.sock")));
        self.expect(|event| event.kind == EventKind::Up && is_of(event, &agent));
        agent
    }

    /// Stops the observer, and returns what a service manager would keep.
    fn stop(&mut self) -> Inherited {
        let fleet = self.fleet.take().expect("it runs");
        let dup = |stored: &ToStore| (stored.name.clone(), stored.fd.try_clone().expect("a descriptor"));
        let inherited = fleet.to_store().iter().map(dup).collect();
        let report = fleet.stop(WRITE_WITHIN);
        assert_eq!((report.events_unwritten, &report.problems[..]), (0, &[][..]));
        inherited
    }

    fn go_on(&mut self, mut inherited: Inherited) {
        let plan = self.config.plan().expect("sound");
        self.fleet = Some(Fleet::start_kept(plan, &mut inherited, |_| true).expect("a successor"));
    }

    fn log(&self) -> Vec<Event> {
        let text = std::fs::read_to_string(self.directory.path().join("events")).expect("the log");
        text.lines().map(|line| serde_json::from_str(line).expect("an event")).collect()
    }

    fn expect(&self, is_it: impl Fn(&Event) -> bool) -> Event {
        let until = Instant::now() + SOON;
        loop {
            let log = self.log();
            if let Some(event) = log.iter().find(|event| is_it(event)) {
                return *event;
            }
            assert!(Instant::now() < until, "not told in {SOON:?}; told: {log:#?}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn of(&self, agent: &Agent) -> Vec<EventKind> {
        self.log().iter().filter(|event| is_of(event, agent)).map(|event| event.kind).collect()
    }
}

fn is_of(event: &Event, agent: &Agent) -> bool {
    event.agent.is_some_and(|who| who.pid == agent.pid())
}

#[test]
fn fault_25_a_planned_restart_tells_each_thing_once_and_keeps_every_agent() {
    let mut line = Line::begin(2);
    let [beating, stalled, falls_silent, dies] = [0, 0, 1, 1].map(|shard| line.agent(shard));
    stalled.signal(Signal::STOP);
    line.expect(|event| matches!(event.kind, EventKind::Stall { .. }) && is_of(event, &stalled));
    let inherited = line.stop();
    falls_silent.signal(Signal::STOP);
    let dead = dies.pid();
    drop(dies);
    let before = line.log().last().expect("stop").seq;
    line.go_on(inherited);
    assert_eq!(line.fleet.as_ref().and_then(Fleet::adopted).map(|adopted| adopted.agents), Some(4));
    let restart = line.expect(|event| matches!(event.kind, EventKind::Restart { .. }));
    let EventKind::Restart { why, shards, adopted, gone, gap_ns } = restart.kind else { unreachable!() };
    assert_eq!((why, shards, adopted, gone), (RestartWhy::Planned, 2, 4, 1));
    assert!(gap_ns > 0 && restart.seq == before + 1, "{restart:?} after {before}");
    let stall = line.expect(|event| {
        matches!(event.kind, EventKind::Stall { .. }) && is_of(event, &falls_silent) && event.seq > before
    });
    let sight = line.expect(|event| {
        matches!(event.kind, EventKind::Blind { phase: BlindPhase::End { .. }, why: BlindWhy::Restart })
    });
    assert!(stall.mono.since(sight.mono) >= crate::time::duration_ns(T), "a whole threshold of sight");
    line.expect(|event| {
        matches!(event.kind, EventKind::Exit { while_away: true, .. })
            && event.agent.is_some_and(|who| who.pid == dead)
    });
    stalled.signal(Signal::CONT);
    line.expect(|event| matches!(event.kind, EventKind::Resume { .. }) && is_of(event, &stalled));
    let snapshot = line.fleet.as_ref().expect("it runs").handle().snapshot();
    assert_eq!(snapshot.shards.iter().map(|shard| shard.up + shard.stalled).collect::<Vec<_>>(), [2, 1]);
    assert_eq!(line.of(&beating), [EventKind::Up], "it beat all the time");
    let sent = beating.stop();
    assert!(sent > 0);
    drop(line.fleet.take());
    let log = line.log();
    let seqs: Vec<u64> = log.iter().map(|event| event.seq).collect();
    assert_eq!(seqs, Vec::from_iter(1..=log.len() as u64), "each number once");
    assert!(log.iter().all(|event| !event.again));
    let starts = log.iter().filter(|event| matches!(event.kind, EventKind::Start { .. })).count();
    assert_eq!(starts, 1, "the successor goes on");
}

/// What a service manager keeps of a fleet.
fn stored(fleet: &Fleet) -> Vec<(String, std::os::fd::OwnedFd)> {
    let dup = |stored: &ToStore| (stored.name.clone(), stored.fd.try_clone().expect("a descriptor"));
    fleet.to_store().iter().map(dup).collect()
}

fn again(fds: &[(String, std::os::fd::OwnedFd)]) -> Inherited {
    fds.iter().map(|(name, fd)| (name.clone(), fd.try_clone().expect("a descriptor"))).collect()
}

/// With room for more agents than before, the tables are copied, and the copies are to be stored.
#[test]
fn fault_25_another_number_of_agents_moves_the_tables() {
    let mut line = Line::begin(1);
    let agent = line.agent(0);
    let old = line.stop();
    line.config.agents_max = 128;
    line.go_on(old);
    let restart = line.expect(|event| matches!(event.kind, EventKind::Restart { .. }));
    assert!(matches!(restart.kind, EventKind::Restart { adopted: 1, .. }), "{restart:?}");
    let fleet = line.fleet.as_ref().expect("it runs");
    let new: Vec<_> = fleet.to_store().iter().filter(|of| of.is_new).map(|of| of.name.as_str()).collect();
    assert_eq!(new, ["shard-0-table", "shard-0-told", "history"]);
    let copies = line.stop();
    line.go_on(copies);
    line.expect(|event| matches!(event.kind, EventKind::Restart { .. }) && event.seq > restart.seq);
    assert_eq!(line.of(&agent), [EventKind::Up]);
}

/// Fewer shards are configured, and the unit of a socket is gone: the table is served until nobody is left.
#[test]
fn fault_25_agents_of_a_shard_without_a_socket_are_not_forgotten() {
    let mut line = Line::begin(2);
    let [stays, there] = [0, 1].map(|shard| line.agent(shard));
    let old = stored(line.fleet.as_ref().expect("it runs"));
    drop(line.stop());
    let left: Vec<_> = old.into_iter().filter(|(name, _)| name != "shard-1").collect();
    line.config.shards = Some(1);
    line.go_on(again(&left));
    let is_of_there = |event: &Event| is_of(event, &there);
    line.expect(|event| {
        matches!(event.kind, EventKind::Stall { .. } | EventKind::Exit { .. }) && is_of_there(event)
    });
    assert_eq!(line.of(&stays), [EventKind::Up]);
}

#[test]
fn agents_beyond_a_lowered_limit_stay_and_a_warning_says_so() {
    let mut line = Line::begin(1);
    let [first, second] = [0, 0].map(|shard| line.agent(shard));
    let inherited = line.stop();
    line.config.agents_max = 1;
    line.go_on(inherited);
    let restart = line.expect(|event| matches!(event.kind, EventKind::Restart { .. }));
    let EventKind::Restart { adopted, .. } = restart.kind else { unreachable!() };
    assert_eq!(adopted, 2);
    let warnings = line.fleet.as_ref().expect("it runs").warnings();
    assert!(warnings.contains(&Warning::MoreAgents { agents: 2, agents_max: 1 }), "{warnings:?}");
    assert!(first.stop() > 0 && second.stop() > 0);
}
