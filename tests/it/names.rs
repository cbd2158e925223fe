//! Names of agents, on every surface that has them: the unit and the container that their control group names.

use std::path::Path;
use std::process;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::common::cgroup::Cgroup;
use crate::common::{
    Agent, AgentOptions, Injection, Observer, Options, SOON, Terminal, program, wait_for, wire,
};

const NEVER: Duration = Duration::from_secs(3600);

/// A control group with this name. On drop it is removed; its processes have to be gone by then.
struct Group(Cgroup);

impl Group {
    fn new(name: &str) -> Self {
        Self(Cgroup::new(name, "freezer", ["cgroup.freeze", "freezer.state"]))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // A process that was killed may not have left yet.
        wait_for("the processes to leave", || self.0.remove());
    }
}

/// An agent that beats when it is told to, in this group from its first beat on.
fn quiet(observer: &Observer, group: &Group) -> Agent {
    let agent = Agent::start_with(observer, AgentOptions { beats: Some(0), ..AgentOptions::default() });
    group.0.add(agent.pid());
    agent
}

fn said(dir: &Path, arguments: &[&str]) -> String {
    let output = program().args(arguments).env("VARTA_DIR", dir).output().expect("run it");
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success(), "{arguments:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// What `explain` says, in one line.
fn explained(dir: &Path, pid: u32) -> String {
    said(dir, &["explain", &pid.to_string()]).replace('\n', " ")
}

/// The one agent that this list has.
fn only(dir: &Path, state: &str) -> Option<Value> {
    let listed = said(dir, &["agents", "--json", "--state", state]);
    assert!(listed.lines().count() <= 1, "{listed}");
    listed.lines().next().map(|line| serde_json::from_str(line).expect("JSON"))
}

/// A rule for units is for the agents in one whose name matches, and for no other.
#[test]
fn a_rule_is_for_the_agents_of_a_unit() {
    let own = process::id();
    let (web, other) = (Group::new(&format!("web-{own}.service")), Group::new(&format!("db-{own}.service")));
    let config = "[[rule]]\nmatch = { unit = \"web-*.service\" }\nthreshold = \"1h\"\n".to_owned();
    let threshold = Duration::from_millis(300);
    let mut observer = Observer::start(Options { threshold, config, ..Options::default() });
    let dir = observer.dir();
    let agents = [&web, &other].map(|group| {
        let mut agent = quiet(&observer, group);
        agent.beat();
        observer.expect("up", agent.pid(), SOON);
        agent
    });
    observer.expect("stall", agents[1].pid(), SOON);
    let explained = |agent: &Agent| explained(&dir, agent.pid());
    let said = explained(&agents[0]);
    assert!(said.contains("(rule 0: unit web-*.service)"), "{said}");
    let said = explained(&agents[1]);
    assert!(!said.contains("rule 0"), "{said}");
    observer.none_of("stall", agents[0].pid());
    drop(agents);
    observer.stop();
}

#[test]
fn a_container_is_named_on_every_surface_and_for_the_dead() {
    // The digits of a container, and others than those of another test.
    let id = format!("{:0<64x}", process::id());
    let group = Group::new(&format!("docker-{id}.scope"));
    let mut observer =
        Observer::start(Options { threshold: Duration::from_millis(300), ..Options::default() });
    let dir = observer.dir();
    let mut agent = quiet(&observer, &group);
    let pid = agent.pid();
    // One that has not beaten yet is looked up, so that its `up` has the names, too.
    assert!(agent.send(&wire::last_word(pid)));
    observer.expect("terminal", pid, SOON);
    wait_for("the lookup", || only(&dir, "waiting").filter(|agent| agent["container"] == id.as_str()));
    agent.beat();
    let up = observer.expect("up", pid, SOON);
    let stall = observer.expect("stall", pid, SOON);
    let stalled = wait_for("the list to show it", || only(&dir, "stalled"));
    assert_eq!(stalled["container"], id.as_str(), "{stalled}");
    let text = explained(&dir, pid);
    assert!(text.contains(&format!("is in container {}", &id[..12])), "{text}");
    agent.signal(Signal::KILL);
    let exit = observer.expect("exit", pid, SOON);
    for event in [up, stall, exit] {
        assert_eq!(event.str("container"), id, "{event}");
        assert!(!event.has("unit"), "the scope of a container is no unit: {event}");
    }
    let dead = wait_for("the list of the dead to show it", || only(&dir, "dead"));
    assert_eq!(dead["container"], id.as_str(), "{dead}");
    let text = explained(&dir, pid);
    assert!(text.contains(&format!("was in container {}", &id[..12])), "{text}");
    observer.stop();
}

#[test]
fn an_up_does_not_wait_for_the_lookup_and_later_events_have_the_name() {
    let mut observer = Observer::start(Options { threshold: NEVER, ..Options::default() });
    let dir = observer.dir();
    // Longer than the test.
    let hold = Injection::attached(&observer, "varta-lookup", "openat:delay_enter=3600000000");
    let mut agent = Agent::start_with(&observer, AgentOptions { beats: Some(1), ..AgentOptions::default() });
    let pid = agent.pid();
    let up = observer.expect("up", pid, SOON);
    assert!(up.has("uid") && !up.has("comm") && !up.has("unit"), "{up}");
    let name = |agent: Option<Value>| agent.filter(|agent| agent["comm"] == "stock-agent");
    assert!(name(only(&dir, "up")).is_none(), "it is held up");
    drop(hold);
    wait_for("the lookup", || name(only(&dir, "up")));
    for _ in 0..9 {
        agent.beat();
    }
    agent.tell("exec");
    agent.expect_up();
    for _ in 0..2 {
        agent.beat();
    }
    let session = observer.expect("session", pid, SOON);
    agent.signal(Signal::KILL);
    for event in [session, observer.expect("exit", pid, SOON)] {
        assert_eq!(event.str("comm"), "stock-agent", "{event}");
    }
    observer.stop();
}

/// A group's name has up to 255 bytes, and that of a unit in another more. The kernel takes any but a slash and the end of
/// a line.
#[test]
fn units_of_any_length_and_any_character_are_whole_on_every_surface() {
    let base = format!("varta-fleet-test-{}", process::id());
    let padded = |name: String, len: usize| format!("{name}{}.service", "u".repeat(len - name.len() - 8));
    let longest = padded(format!("{base}-long-"), 255);
    let outer = format!("{base}-outer.service");
    let inner = padded(format!("{base}-inner-"), 300 - outer.len() - 1);
    let strange =
        |what: [&str; 4]| format!("{base}-{}[31m{}{}\"\\{{{}.service", what[0], what[1], what[2], what[3]);
    let parent = Group::new(&outer);
    let groups = [
        Group::new(&longest),
        Group::new(&format!("{outer}/{inner}")),
        Group::new(&strange(["\u{1b}", "\t", "\u{7f}", "\u{202e}"])),
    ];
    let units = [longest, format!("{outer}/{inner}"), strange(["?"; 4])];
    assert_eq!([units[0].len(), units[1].len()], [255, 300]);
    let mut observer = Observer::start(Options { threshold: NEVER, ..Options::default() });
    let dir = observer.dir();
    let mut agents: Vec<Agent> = groups.iter().map(|group| quiet(&observer, group)).collect();
    for (agent, unit) in agents.iter_mut().zip(&units) {
        agent.beat();
        wait_for("the lookup", || {
            let answer = observer.get(&format!("/api/v1/agents/{}", agent.pid()));
            assert!(!answer.text().contains(char::is_control), "{answer:?}");
            (answer.json()["unit"] == unit.as_str()).then_some(())
        });
    }
    let has_no_control =
        |text: &str| !text.contains(|c: char| c.is_control() && c != '\n' || c == '\u{202e}');
    wait_for("the list to show them", || {
        let listed = said(&dir, &["agents", "--json"]);
        assert!(has_no_control(&listed), "{listed:?}");
        let agents = listed.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        let listed: Vec<Value> = agents.map(|agent| agent["unit"].clone()).collect();
        units.iter().all(|unit| listed.contains(&unit.as_str().into())).then_some(())
    });
    let metrics = observer.get("/metrics");
    let label = |unit: &str| unit.replace('\\', "\\\\").replace('"', "\\\"");
    for unit in &units {
        let series = format!("varta_unit_agents{{unit=\"{}\",state=\"up\"}} 1", label(unit));
        assert!(metrics.text().contains(&series), "{series}");
    }
    assert!(has_no_control(metrics.text()));
    let terminal = Terminal::of_size(
        "names",
        (150, 40),
        &format!("{} top --dir {}", crate::common::PROGRAM, dir.display()),
    );
    let screen = terminal.expect(&base[..16]);
    assert!(has_no_control(&screen), "{screen:?}");
    for (agent, unit) in agents.iter_mut().zip(&units) {
        let text = explained(&dir, agent.pid());
        assert!(text.contains(unit.as_str()) && has_no_control(&text), "{text:?}");
        agent.signal(Signal::KILL);
        let exit = observer.expect("exit", agent.pid(), SOON);
        assert_eq!(exit.str("unit"), unit, "{exit}");
    }
    wait_for("the list of the dead to show them", || {
        let listed = said(&dir, &["agents", "--state", "dead"]);
        assert!(has_no_control(&listed), "{listed:?}");
        units.iter().all(|unit| listed.contains(unit.as_str())).then_some(())
    });
    // The inner group first.
    drop((agents, groups));
    drop(parent);
    observer.stop();
}
