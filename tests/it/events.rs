//! `events`: which are shown, from what the observer keeps and from its log.

use std::fs;
use std::path::Path;
use std::process::Output;

use crate::common::{
    Agent, AgentOptions, Client, Event, Freezer, Observer, Options, Place, SOON, program, wait_for,
};

/// What `events` does with these arguments.
fn events(dir: &Path, arguments: &[&str]) -> Output {
    let mut command = program();
    command.arg("events").arg("--dir").arg(dir).args(arguments).env("TZ", "XYZ-3:30");
    command.output().expect("run it")
}

fn lines(output: &Output) -> Vec<String> {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

fn logging(place: &Place) -> Options {
    Options { events: Some(place.base().join("events")), ..Options::default() }
}

fn agent(observer: &mut Observer) -> Agent {
    let agent =
        Agent::start_with(observer, AgentOptions { client: Client::Rust02, ..AgentOptions::default() });
    observer.expect("up", agent.pid(), SOON);
    agent
}

#[test]
fn events_are_selected_by_time_name_and_process() {
    let mut observer = Observer::start(Options::default());
    let mut one = agent(&mut observer);
    let other = agent(&mut observer);
    wait_for("their names", || {
        let named = observer.get("/api/v1/agents?comm=stock-agent").json();
        (named["total"] == 2).then_some(())
    });
    one.signal(rustix::process::Signal::KILL);
    one.wait();
    let exit = observer.expect("exit", one.pid(), SOON);
    let dir = observer.dir();
    // A busy machine may pause the observer, which reports that, too.
    let seqs = |arguments: &[&str]| -> Vec<u64> {
        let arguments = [arguments, &["--kind", "start,up,exit"]].concat();
        lines(&events(&dir, &arguments)).iter().map(|line| Event::parse(line).u64("seq")).collect()
    };
    let all = wait_for("the exit to be kept", || {
        let all = seqs(&["--since", "10m"]);
        (all.last() == Some(&exit.u64("seq"))).then_some(all)
    });
    assert_eq!(all.len(), 4, "start, two agents and an end");
    let ts = exit.str("ts");
    assert_eq!(seqs(&["--since", ts]), [exit.u64("seq")], "an event of that instant is since then");
    assert_eq!(seqs(&["--until", ts]), all[..all.len() - 1]);
    assert_eq!(seqs(&["--since", "10m", "--until", "9m"]), [0; 0]);
    assert_eq!(seqs(&["--since", ts, "--comm", "stock-*"]), [exit.u64("seq")]);
    assert_eq!(seqs(&["--comm", "other"]), [0; 0]);
    assert_eq!(seqs(&["--unit", "no-such-unit.service"]), [0; 0]);
    let of_other = seqs(&["--since", "10m", "--pid", &other.pid().to_string()]);
    assert_eq!(of_other, seqs(&["--pid", &other.pid().to_string()]));
    // Half an hour ahead of a whole zone, so that the zone cannot be that of this machine.
    let (date, rest) = ts.split_once('T').expect("a time");
    let words = lines(&events(&dir, &["--since", ts, "--kind", "exit", "--format", "words", "--utc"]));
    assert_eq!(words.len(), 1);
    assert!(words[0].starts_with(&format!("{date} {}Z  exit", &rest[..12])), "{words:?}");
    let local = lines(&events(&dir, &["--since", ts, "--kind", "exit", "--format", "words"]));
    let minute = |text: &str| text[14..16].parse::<u32>().expect("a minute");
    assert_eq!((minute(&words[0]) + 30) % 60, minute(&local[0]), "{local:?}");
    assert!(!local[0].contains('Z'), "{local:?}");
    let mut unknown = program();
    unknown
        .args(["events", "--since", ts, "--kind", "exit", "--format", "words", "--dir"])
        .arg(&dir)
        .env("TZ", "No/Such_Zone");
    assert_eq!(lines(&unknown.output().expect("run it")), words, "what is not local says that it is UTC");
    observer.stop();
}

#[test]
fn events_are_selected_by_unit() {
    let mut observer = Observer::start(Options::default());
    let agents = [agent(&mut observer), agent(&mut observer)];
    let units = agents.each_ref().map(|agent| Freezer::around(agent.pid()));
    // What a process has become is looked up before its stall is reported.
    let stalls = agents.each_ref().map(|agent| {
        agent.signal(rustix::process::Signal::STOP);
        observer.expect("stall", agent.pid(), SOON).u64("seq")
    });
    let dir = observer.dir();
    let seqs = |unit: &str| -> Vec<u64> {
        let output = events(&dir, &["--since", "10m", "--kind", "stall", "--unit", unit]);
        lines(&output).iter().map(|line| Event::parse(line).u64("seq")).collect()
    };
    wait_for("both to be kept", || (seqs("varta-fleet-test-*.scope") == stalls).then_some(()));
    assert_eq!(seqs(units[1].unit()), [stalls[1]]);
    assert_eq!(seqs("*.service"), [0; 0]);
    for (agent, unit) in agents.iter().zip(units) {
        agent.signal(rustix::process::Signal::CONT);
        drop(unit);
    }
    observer.stop();
}

#[test]
fn what_the_observer_does_not_keep_comes_from_its_log() {
    let place = Place::new();
    let log = place.base().join("events");
    let options = logging(&place);
    let mut observer = Observer::start_in(place, options.clone());
    let _first = agent(&mut observer);
    // Renamed, as for a rotation; what follows goes to a new file.
    fs::rename(&log, log.with_extension("1")).expect("rename the log");
    let mut late = Agent::start(Client::Rust02, &observer);
    wait_for("the new log", || {
        fs::read_to_string(&log).is_ok_and(|text| text.contains("\"up\"")).then_some(())
    });
    late.signal(rustix::process::Signal::KILL);
    late.wait();
    wait_for("the exit", || {
        fs::read_to_string(&log).is_ok_and(|text| text.contains("\"exit\"")).then_some(())
    });
    let mut observer = Observer::start_in(observer.kill(), options);
    let _last = agent(&mut observer);
    let dir = observer.dir();
    let whole = || {
        let text = |path: &Path| fs::read_to_string(path).expect("a log");
        let whole = text(&log.with_extension("1")) + &text(&log);
        whole.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    wait_for("all to be shown, each once and in order", || {
        let shown = lines(&events(&dir, &["--since", "1h"]));
        (shown == whole()).then_some(())
    });
    let before = whole();
    let second = before.iter().rposition(|line| line.contains("\"start\"")).expect("two starts");
    let ts = Event::parse(&before[second]).str("ts").to_owned();
    assert_eq!(lines(&events(&dir, &["--since", "1h", "--until", &ts])), before[..second]);
    let exits = lines(&events(&dir, &["--since", "1h", "--kind", "exit"]));
    assert_eq!(exits.len(), 1, "of the observer before");
    fs::remove_file(log.with_extension("1")).expect("it is there");
    let output = events(&dir, &["--since", "1h"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("are missing: the event log") && said.contains("begins then"), "{said}");
    fs::remove_file(&log).expect("it is there");
    let output = events(&dir, &["--since", "1h"]);
    assert!(!lines(&output).is_empty());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("cannot read the event log") && said.contains("no such file"), "{said}");
    observer.kill();
}

#[test]
fn times_that_make_no_sense_are_refused() {
    let observer = Observer::start(Options::default());
    let dir = observer.dir();
    for (arguments, told) in [
        (&["--since", "2999-01-01"][..], "is in the future, it is 2"),
        (&["--since", "soon"], "cannot use --since soon: it is no time; write 10m for ten minutes ago"),
        (&["--since", "10"], "it is no time"),
        (&["--since", "5m", "--until", "10m"], "is before --since, which is 2"),
        (&["--since", "5m", "--kind", "upp"], "there is no kind \"upp\"; write some of up,stall"),
        (&["--since", "5m", "--after", "3"], "cannot be used with"),
        (&["--follow", "--until", "14:05"], "cannot be used with"),
    ] {
        let output = events(&dir, arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.contains(told), "{arguments:?}: {said}");
    }
    for (bad, told) in
        [("since=yesterday", "is no time; write seconds since 1970"), ("since=20&until=10", "before since=")]
    {
        let refusal = observer.get(&format!("/api/v1/events?follow=false&{bad}")).refusal(400);
        assert!(refusal.contains(told), "{bad}: {refusal}");
    }
    observer.kill();
}

/// A log in another format has no dates.
#[test]
fn a_log_without_dates_is_named() {
    let place = Place::new();
    let mut command = program();
    command
        .args(["run", "--shards", "1", "--events-format", "tsv", "--events"])
        .arg(place.base().join("events"));
    let mut child = command.arg("--dir").arg(place.dir()).spawn().expect("start an observer");
    let output = wait_for("an answer", || {
        let output = events(&place.dir(), &["--since", "1h", "--kind", "start"]);
        output.status.success().then_some(output)
    });
    assert_eq!(lines(&output).len(), 1, "the start is kept");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("is tsv, which has no dates"), "{said}");
    child.kill().expect("it is our child");
    child.wait().expect("it is our child");
}
