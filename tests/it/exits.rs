//! The end of a process is reported at once as an exit with its cause, and never as a stall.

use std::collections::HashMap;
use std::time::Duration;

use crate::common::http::Connection;
use crate::common::{
    Agent, AgentOptions, Client, Freezer, MemoryGroup, Observer, Options, SOON, program, wait_for,
};
use rustix::process::{Pid, Signal, kill_process};

/// So long that no event below can come from a threshold.
const NEVER: Duration = Duration::from_secs(3600);
/// As many as a machine with two cores starts in a few seconds.
const MANY: u32 = 5000;

fn kill(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("not 0");
    kill_process(pid, signal).expect("kill");
}

/// The number of events of this kind by pid.
fn told(observer: &mut Observer, kind: &str) -> HashMap<u32, usize> {
    let mut told = HashMap::new();
    for pid in observer.events().iter().filter(|event| event.kind() == kind).filter_map(|event| event.pid()) {
        *told.entry(pid).or_default() += 1;
    }
    told
}

/// A process exits with success, with a failure or by a signal: each is reported at once, with its cause, and
/// never as a stall.
#[test]
fn fault_02_an_exit_does_not_wait_for_the_threshold_and_says_how() {
    let mut observer = Observer::start(Options { threshold: NEVER, ..Options::default() });
    for client in [Client::Rust01, Client::Rust02, Client::Python] {
        let mut ends = Vec::new();
        for (command, field, value) in [("exit 0", "code", 0), ("exit 3", "code", 3)] {
            let mut agent = Agent::start(client, &observer);
            observer.expect("up", agent.pid(), SOON);
            agent.tell(command);
            ends.push((agent, field, value));
        }
        for (signal, value) in [(Signal::KILL, 9), (Signal::TERM, 15)] {
            let agent = Agent::start(client, &observer);
            observer.expect("up", agent.pid(), SOON);
            agent.signal(signal);
            ends.push((agent, "signal", value));
        }
        for (agent, field, value) in ends {
            let exit = observer.expect("exit", agent.pid(), SOON);
            let other = if field == "code" { "signal" } else { "code" };
            assert!(exit.u64(field) == value && !exit.has(other), "{client:?} {field} {value}: {exit}");
            observer.none_of("stall", agent.pid());
        }
    }
    observer.stop();
}

/// Who was stopped on request did not die; the rest is said by its cause, by every surface in the same words.
#[test]
fn deaths_are_told_from_stops_on_every_surface() {
    let mut observer = Observer::start(Options { threshold: NEVER, ..Options::default() });
    let mut agents: Vec<Agent> = (0..12).map(|_| Agent::start(Client::Rust02, &observer)).collect();
    for agent in &agents {
        observer.expect("up", agent.pid(), SOON);
    }
    let dir = observer.dir();
    let fleet = || Connection::control(&dir).get("/api/v1/fleet", &["Connection: close"]).json();
    let run = |arguments: &[&str]| {
        let done = program().args(arguments).arg("--dir").arg(&dir).output().expect("run the program");
        (String::from_utf8_lossy(&done.stdout).into_owned(), done.status.code())
    };
    let ends = |observer: &mut Observer, agent: &Agent| drop(observer.expect("exit", agent.pid(), SOON));
    // A deploy. The other signals of a stop may be ignored here, as by what nohup starts.
    for agent in &agents[..3] {
        agent.signal(Signal::TERM);
        ends(&mut observer, agent);
    }
    agents[3].tell("exit 0");
    ends(&mut observer, &agents[3]);
    assert_eq!(fleet()["died"]["agents"], 0);
    assert_eq!(fleet()["headline"]["text"], "All well: 8 agents beat");
    assert_eq!(run(&["status", "--fail-on", "died,stalled"]).1, Some(0));
    // Half of the rest.
    for agent in &agents[4..7] {
        agent.signal(Signal::KILL);
        ends(&mut observer, agent);
    }
    let headline = "3 of 8 agents died by signal 9 in the last minute";
    assert_eq!(fleet()["headline"]["text"], headline);
    assert_eq!(fleet()["headline"]["level"], "critical");
    let (shown, code) = run(&["status"]);
    assert!(shown.starts_with(&format!("{headline}.\n")) && code == Some(0), "{code:?} {shown}");
    assert_eq!(run(&["status", "--fail-on", "died"]).1, Some(1));
    let (line, code) = run(&["status", "--plugin", "nagios"]);
    assert!(line.starts_with(&format!("VARTA CRITICAL - {headline} | up=5 ")) && code == Some(2), "{line}");
    assert_eq!(run(&["status", "--plugin", "npd"]), (format!("{headline}\n"), Some(1)));
    let page = Connection::control(&dir).get("/", &["Connection: close"]);
    assert!(page.text().contains(headline), "{}", page.text());
    agents[7].tell("exit 3");
    ends(&mut observer, &agents[7]);
    let died = fleet()["died"].clone();
    assert_eq!((died["agents"].as_u64(), died["of"].as_u64()), (Some(4), Some(8)));
    assert_eq!(died["causes"][1], serde_json::json!({ "how": "code", "code": 3, "agents": 1 }));
    let metrics = Connection::control(&dir).get("/metrics", &["Connection: close"]);
    let count = |how: &str| -> u64 {
        let lines = metrics.text().lines().filter(|line| line.starts_with("varta_deaths_total{"));
        let of = lines.filter(|line| line.contains(&format!("how=\"{how}\"")));
        of.map(|line| line.rsplit(' ').next().expect("a value").parse::<u64>().expect("a number")).sum()
    };
    assert_eq!(["code", "signal", "oom", "panic", "unknown"].map(count), [1, 3, 0, 0, 0]);
    observer.stop();
}

/// What is restarted and dies again is named on every surface, and so is who died.
#[test]
fn what_dies_again_and_again_is_a_crash_loop() {
    let mut observer = Observer::start(Options { threshold: NEVER, ..Options::default() });
    let dir = observer.dir();
    let get = |path: &str| Connection::control(&dir).get(path, &["Connection: close"]);
    let run = |arguments: &[&str]| {
        let done = program().args(arguments).arg("--dir").arg(&dir).output().expect("run the program");
        (String::from_utf8_lossy(&done.stdout).into_owned(), done.status.code())
    };
    let stays = Agent::start(Client::Rust02, &observer);
    observer.expect("up", stays.pid(), SOON);
    let deaths_in_loop = || get("/api/v1/fleet").json()["crash_loops"][0]["deaths"].as_u64();
    let mut pids = Vec::new();
    for round in 0..5 {
        let mut agent = Agent::start(Client::Rust02, &observer);
        observer.expect("up", agent.pid(), SOON);
        // It is looked up while it lives.
        wait_for("its name", || {
            get(&format!("/api/v1/agents/{}", agent.pid())).json()["exe"].as_str().map(drop)
        });
        if round < 4 {
            assert_eq!(deaths_in_loop(), None, "after {round} deaths");
        }
        agent.tell("exit 3");
        observer.expect("exit", agent.pid(), SOON);
        pids.push(agent.pid());
    }
    let exe = std::fs::read_link(format!("/proc/{}/exe", stays.pid())).expect("it lives");
    let exe = exe.to_str().expect("UTF-8");
    let told = format!("{exe} dies again and again: 5 times in the last minute");
    // The event log may have the last exit before the HTTP thread has.
    wait_for("the last death to be counted", || (deaths_in_loop() == Some(5)).then_some(()));
    let fleet = get("/api/v1/fleet").json();
    assert_eq!(fleet["headline"]["level"], "critical");
    assert!(fleet["headline"]["text"].as_str().expect("words").ends_with(&told), "{fleet}");
    assert!(get("/metrics").text().contains("\nvarta_crash_loops 1\n"));
    assert_eq!(run(&["status", "--fail-on", "crash-loop"]).1, Some(1));
    let dead = get("/api/v1/dead?limit=2").json();
    assert_eq!((dead["total"].as_u64(), dead["dead"].as_array().map(Vec::len)), (Some(5), Some(2)));
    let last = &dead["dead"][0];
    assert_eq!((last["pid"].as_u64(), last["death"].as_str()), (Some(pids[4].into()), Some("exit status 3")));
    assert_eq!((last["exe"].as_str(), last["deaths_before"].as_u64()), (Some(exe), Some(4)));
    assert_eq!(get("/api/v1/dead?comm=nobody").json()["total"], 0);
    assert_eq!(get("/api/v1/dead?comm=nobody").json()["crash_loops"].as_array().map(Vec::len), Some(1));
    let (listed, _) = run(&["agents", "--state", "dead"]);
    assert_eq!(listed.lines().count(), 1 + 5 + 1 + 1, "{listed}");
    assert!(listed.contains("exit status 3") && listed.lines().last() == Some(&told), "{listed}");
    assert_eq!(run(&["agents", "--state", "dead", "--sort", "beats"]).1, Some(2));
    let comm = std::fs::read_to_string(format!("/proc/{}/comm", stays.pid())).expect("it lives");
    let expected = serde_json::json!({
        "name": comm.trim_end(), "agents": 1, "up": 1, "stalled": 0, "frozen": 0, "standstill": 0, "waiting": 0, "died": 5
    });
    // A scan is up to half a second old.
    wait_for("the last death to be seen", || {
        let groups = get("/api/v1/groups?by=comm").json();
        (groups["groups"] == serde_json::json!([expected]) && groups["total"] == 1).then_some(())
    });
    let (table, _) = run(&["status", "--by", "comm"]);
    assert!(table.lines().last().is_some_and(|line| line.ends_with(comm.trim_end())), "{table}");
    let by_user = get("/api/v1/groups?by=uid").json();
    assert_eq!(by_user["groups"][0]["name"], rustix::process::getuid().as_raw().to_string());
    assert!(get("/api/v1/groups?by=colour").refusal(400).contains("write unit, comm, uid, shard"));
    observer.stop();
}

/// Signal 9 comes from an operator or from the kernel, and what to do differs.
#[test]
fn a_kill_for_want_of_memory_is_told_from_another() {
    let mut observer =
        Observer::start(Options { threshold: Duration::from_millis(300), ..Options::default() });
    let group = MemoryGroup::new(64 << 20);
    let mut agents: Vec<Agent> = (0..3).map(|_| Agent::start(Client::Rust02, &observer)).collect();
    for agent in &mut agents {
        observer.expect("up", agent.pid(), SOON);
        group.add(agent.pid());
        // Before a stall is reported the process is looked up again, now in its group.
        agent.tell("quiet");
        let stall = observer.expect("stall", agent.pid(), SOON);
        assert_eq!(stall.str("process"), "sleeping", "{stall}");
    }
    agents[0].signal(Signal::KILL);
    let killed = observer.expect("exit", agents[0].pid(), SOON);
    agents[1].tell("eat");
    let starved = observer.expect("exit", agents[1].pid(), SOON);
    agents[2].signal(Signal::KILL);
    let killed_later = observer.expect("exit", agents[2].pid(), SOON);
    for exit in [&killed, &starved, &killed_later] {
        assert_eq!(exit.u64("signal"), 9, "{exit}");
    }
    assert!(!killed.has("oom") && starved.has("oom") && !killed_later.has("oom"), "{starved} {killed_later}");
    let get = |path: &str| Connection::control(&observer.dir()).get(path, &["Connection: close"]);
    // The event log may have the last exit before the HTTP thread has.
    let dead = wait_for("all three to be listed", || {
        Some(get("/api/v1/dead").json()).filter(|dead| dead["total"] == 3)
    });
    let deaths: Vec<&str> = (0..3).filter_map(|at| dead["dead"][at]["death"].as_str()).collect();
    assert_eq!(deaths, ["signal 9", "out of memory", "signal 9"]);
    let causes = get("/api/v1/fleet").json()["died"]["causes"].clone();
    assert_eq!(causes[1], serde_json::json!({ "how": "oom", "agents": 1 }));
    observer.stop();
}

/// A process that hangs in a loop is told from one that waits.
#[test]
fn a_stall_says_what_the_process_does() {
    let mut observer = Observer::start(Options { threshold: Duration::from_secs(2), ..Options::default() });
    let mut agents = ["spin", "quiet", "quiet"].map(|order| (order, Agent::start(Client::Rust02, &observer)));
    for (order, agent) in &mut agents {
        observer.expect("up", agent.pid(), SOON);
        agent.tell(order);
    }
    agents[2].1.signal(Signal::STOP);
    let said = agents.each_ref().map(|(_, agent)| {
        let stall = observer.expect("stall", agent.pid(), SOON);
        (stall.str("process").to_owned(), stall.has("used_cpu").then(|| stall.bool("used_cpu")))
    });
    let expected = [("running", true), ("sleeping", false), ("stopped", false)];
    assert_eq!(said, expected.map(|(process, used_cpu)| (process.to_owned(), Some(used_cpu))));
    let explain =
        program().arg("explain").arg(agents[0].1.pid().to_string()).arg("--dir").arg(observer.dir()).output();
    let explained = String::from_utf8(explain.expect("it runs").stdout).expect("text");
    assert!(explained.contains("process running, used CPU"), "{explained}");
    observer.stop();
}

/// A pid says nothing once the process is gone: its last events say who it was.
#[test]
fn events_say_who_the_agent_is_and_keep_it_for_the_dead() {
    let mut observer =
        Observer::start(Options { threshold: Duration::from_millis(300), ..Options::default() });
    let agent = Agent::start(Client::Rust02, &observer);
    let pid = agent.pid();
    observer.expect("up", pid, SOON);
    // A stall is confirmed by a lookup, and so knows what the process has become since its start.
    let group = Freezer::around(pid);
    let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).expect("it lives");
    agent.signal(Signal::STOP);
    let stall = observer.expect("stall", pid, SOON);
    let dir = observer.dir();
    let listed = |query: &str| {
        let path = format!("/api/v1/agents?{query}");
        Connection::control(&dir).get(&path, &["Connection: close"]).json()["agents"].clone()
    };
    let of_unit = listed(&format!("unit=*{pid}.scope"));
    assert_eq!(
        (of_unit[0]["pid"].as_u64(), listed("unit=*.service")),
        (Some(pid.into()), serde_json::json!([]))
    );
    assert_eq!(of_unit[0]["unit"], group.unit());
    let detail =
        Connection::control(&dir).get(&format!("/api/v1/agents/{pid}"), &["Connection: close"]).json();
    let exe = std::fs::read_link(format!("/proc/{pid}/exe")).expect("it lives");
    assert_eq!(detail["exe"].as_str(), exe.to_str());
    let metrics = || Connection::control(&dir).get("/metrics", &["Connection: close"]).text().to_owned();
    let of_unit = |metrics: &str, family: &str| {
        let start = format!("{family}{{unit=\"{}\"", group.unit());
        let line = metrics.lines().find(|line| line.starts_with(&start) && !line.contains("state=\"up\""));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
    };
    let now = metrics();
    assert_eq!(
        ["varta_unit_agents", "varta_unit_stalls_total"].map(|name| of_unit(&now, name)),
        [Some(1); 2]
    );
    agent.signal(Signal::KILL);
    let exit = observer.expect("exit", pid, SOON);
    let now = metrics();
    assert_eq!(
        ["varta_unit_agents", "varta_unit_deaths_total"].map(|name| of_unit(&now, name)),
        [Some(0), Some(1)]
    );
    for event in [&stall, &exit] {
        assert_eq!(event.u64("uid"), u64::from(rustix::process::getuid().as_raw()), "{event}");
        assert_eq!((event.str("comm"), event.str("unit")), (comm.trim_end(), group.unit()), "{event}");
    }
    assert_eq!(stall.str("process"), "stopped", "{stall}");
    assert!(Some(exit.str("exe")) == exe.to_str() && !stall.has("exe"), "{exit} {stall}");
    assert!(exit.u64("lived_ns") >= exit.u64("silent_ns"), "{exit}");
    observer.stop();
}

/// The last frame of a process said that it panicked: that is how it died, whatever its exit status.
#[test]
fn who_panicked_died_of_that() {
    let mut observer = Observer::start(Options { threshold: NEVER, ..Options::default() });
    let mut agent = Agent::start(Client::Rust02, &observer);
    observer.expect("up", agent.pid(), SOON);
    agent.tell("panic");
    observer.expect("terminal", agent.pid(), SOON);
    observer.expect("exit", agent.pid(), SOON);
    let fleet = Connection::control(&observer.dir()).get("/api/v1/fleet", &["Connection: close"]).json();
    assert_eq!(fleet["headline"]["text"], "1 of 1 agent died of a panic in the last minute; no agent beats");
    observer.stop();
}

#[test]
fn an_exit_is_known_whoever_reaps_the_process_and_when() {
    let mut observer = Observer::start(Options { threshold: NEVER, ..Options::default() });
    let mut parent = Agent::start(Client::Rust02, &observer);
    // The parent never reaps the child.
    let child = parent.spawn_children(1)[0];
    observer.expect("up", child, SOON);
    kill(child, Signal::TERM);
    let exit = observer.expect("exit", child, SOON);
    assert_eq!(exit.u64("signal"), 15, "{exit}");
    observer.stop();
}

#[test]
fn fault_09_all_of_a_large_fleet_dies_at_once_and_each_is_one_exit_and_no_stall() {
    // Far above the delays of a machine that starts and ends thousands of processes: any stall here is a
    // false one.
    let options = Options {
        threshold: Duration::from_secs(30),
        agents_max: 2 * MANY,
        queue_limit: Some(2 * MANY),
        ..Options::default()
    };
    let mut observer = Observer::start(options);
    let period = Duration::from_secs(1);
    let options = AgentOptions { period, ..AgentOptions::default() };
    let mut parent = Agent::start_with(&observer, options);
    let children = parent.spawn_children(MANY);
    let up = wait_for("all to be up", || {
        let up = told(&mut observer, "up");
        children.iter().all(|pid| up.contains_key(pid)).then_some(up)
    });
    assert!(up.values().all(|count| *count == 1));
    for pid in &children {
        kill(*pid, Signal::KILL);
    }
    wait_for("all exits", || {
        let exits = told(&mut observer, "exit");
        children.iter().all(|pid| exits.contains_key(pid)).then_some(())
    });
    let exits = told(&mut observer, "exit");
    assert!(exits.values().all(|count| *count == 1), "an exit was told twice");
    assert_eq!(told(&mut observer, "stall"), HashMap::new());
    for event in observer.events().iter().filter(|event| event.kind() == "exit") {
        assert_eq!(event.u64("signal"), 9, "{event}");
    }
    let table = observer.table();
    assert_eq!(table.shard(0, "up") + table.shard(1, "up"), 1, "the parent:\n{table}");
    // The slots are free again: as many new processes find room, though the table would not hold both.
    let heirs = parent.spawn_children(MANY);
    wait_for("their heirs to be up", || {
        let up = told(&mut observer, "up");
        heirs.iter().all(|pid| up.contains_key(pid)).then_some(())
    });
    assert_eq!(told(&mut observer, "full"), HashMap::new());
    observer.stop();
}

#[test]
fn fault_39_without_a_descriptor_to_watch_with_an_exit_is_told_at_the_threshold() {
    let threshold = Duration::from_secs(1);
    let config = "watched-max = 1".to_owned();
    let mut observer = Observer::start(Options { threshold, config, shards: 1, ..Options::default() });
    let agents = Agent::start_many(&observer, (0..3).map(|_| AgentOptions::default()));
    for agent in &agents {
        observer.expect("up", agent.pid(), SOON);
    }
    let table = wait_for("two to be unwatched", || {
        let table = observer.table();
        table.to_string().contains("cannot watch 2 processes").then_some(table)
    });
    assert_eq!(table.shard(0, "up"), 3);
    for agent in &agents {
        agent.signal(Signal::KILL);
    }
    for agent in &agents {
        observer.expect("exit", agent.pid(), threshold + SOON);
        observer.none_of("stall", agent.pid());
    }
    assert!(!observer.table().to_string().contains("cannot watch"));
    observer.stop();
}
