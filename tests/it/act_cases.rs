//! Actions on every trigger, with hostile names and programs, in fair order, and after the spawner was killed.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};

use rustix::process::Signal;

use super::act::{Ground, act, acted, steps};
use crate::common::cgroup::Cgroup;
use crate::common::{
    Agent, AgentOptions, Client, Event, Freezer, Keeper, Observer, Options, SOON, copy_program, needs_root,
    rust_program, signal, wait_for,
};

/// Waits until this was said of an action for the process.
pub fn expect_step(observer: &mut Observer, pid: u32, step: &str) {
    wait_for(step, || steps(observer.events(), pid).iter().any(|said| said == step).then_some(()));
}

#[test]
fn what_freezes_dies_of_a_panic_or_beats_again_is_acted_upon() {
    let ground = Ground::new();
    let log = ground.log();
    let mut options = ground.options("[\"frozen\"]", "after = \"0s\"");
    let frozen = options.config.split_once("[[action]]").expect("an action").1.to_owned();
    for on in ["terminal", "resume"] {
        let named = frozen.replace("\"restart\"", &format!("\"{on}\""));
        options.config += &format!("[[action]]\n{}", named.replace("[\"frozen\"]", &format!("[\"{on}\"]")));
    }
    let mut observer = Observer::start_in(ground.place, options);
    let [freezes, mut panics, resumes] = [(); 3].map(|()| Agent::start(Client::Rust02, &observer));
    for agent in [&freezes, &panics, &resumes] {
        observer.expect("up", agent.pid(), SOON);
    }
    let group = Freezer::around(freezes.pid());
    group.freeze();
    expect_step(&mut observer, freezes.pid(), "ended");
    panics.tell("panic");
    expect_step(&mut observer, panics.pid(), "ended");
    resumes.signal(Signal::STOP);
    observer.expect("stall", resumes.pid(), SOON);
    assert_eq!(steps(observer.events(), resumes.pid()), [""; 0], "a stall is none of the triggers");
    resumes.signal(Signal::CONT);
    expect_step(&mut observer, resumes.pid(), "ended");
    let said: Vec<String> =
        acted(&log).iter().map(|line| line.rsplit_once(' ').expect("a shard").0.to_owned()).collect();
    let expected = [(&freezes, "restart"), (&panics, "terminal"), (&resumes, "resume")];
    assert_eq!(said, expected.map(|(agent, name)| format!("{} {name}", agent.pid())));
    group.thaw();
    observer.stop();
}

#[test]
fn an_agent_that_is_missing_after_a_restart_is_acted_upon() {
    let ground = Ground::new();
    let log = ground.log();
    let options = ground.options("[\"missing\"]", "after = \"0s\"");
    let config = ground.place.base().join("varta.toml");
    fs::write(&config, options.config).expect("write");
    let config = config.display().to_string();
    let mut keeper = Keeper::start(&["--shards", "1", "--threshold", "2s", "--config", &config]);
    let agent = keeper.agent(AgentOptions::default());
    assert_eq!(keeper.end(Signal::TERM), 0);
    for name in keeper.stored() {
        keeper.drop_stored(&name);
    }
    keeper.go_on();
    keeper.expect("missing", agent.pid());
    keeper.expect_that("the end of the action", |event| {
        event.is("action", agent.pid()) && event.str("phase") == "ended"
    });
    assert_eq!(acted(&log), [format!("{} restart 0", agent.pid())]);
    assert_eq!(keeper.end(Signal::TERM), 0);
}

/// What a process calls itself, or the group that it is in, is no argument unless it is harmless.
#[test]
fn a_name_or_unit_that_could_be_taken_for_something_else_is_no_argument() {
    needs_root("it makes control groups");
    let ground = Ground::new();
    let log = ground.log();
    let more = "after = \"0s\"\n[brake]\nshare = { percent = 100 }";
    let options = ground.options("[\"stall\"]", more);
    let by_unit = options.config.replace("\"{shard}\"", "\"{unit}\"");
    let config = options.config.replace("\"{shard}\"", "\"--comm={comm}\"");
    let mut observer = Observer::start_in(ground.place, Options { config, ..options });
    let names = ["{pid}", "-rf", "a b", "x;reboot", "$(reboot)", "..", "a\u{1b}[2J"];
    for (name, is_taken) in names.iter().map(|name| (*name, false)).chain([("worker-7", true)]) {
        let mut agent = Agent::start(Client::Rust02, &observer);
        observer.expect("up", agent.pid(), SOON);
        assert_eq!(agent.ask(format!("name {name}")), format!("name {name}"));
        agent.signal(Signal::STOP);
        let step = if is_taken { "ended" } else { "refused text" };
        expect_step(&mut observer, agent.pid(), step);
        agent.signal(Signal::CONT);
        observer.expect("resume", agent.pid(), SOON);
        let lines = if is_taken { vec![format!("{} restart --comm={name}", agent.pid())] } else { vec![] };
        assert_eq!(acted(&log), lines, "{name}");
    }
    let place = observer.stop().place;

    fs::write(&log, "").expect("write");
    let options =
        Options { threshold: std::time::Duration::from_millis(300), config: by_unit, ..Options::default() };
    let mut observer = Observer::start_in(place, options);
    let own = std::process::id();
    let units = ["a;reboot", "a b$(reboot)", "-a", "a..b"].map(|name| (name, false));
    for (name, is_taken) in units.into_iter().chain([("worker@7", true)]) {
        let unit = format!("{name}-{own}.service");
        let agent = Agent::start(Client::Rust02, &observer);
        let group = Cgroup::new(&unit, "freezer", ["cgroup.freeze", "freezer.state"]);
        group.add(agent.pid());
        observer.expect("up", agent.pid(), SOON);
        agent.signal(Signal::STOP);
        let step = if is_taken { "ended" } else { "refused text" };
        expect_step(&mut observer, agent.pid(), step);
        let lines = if is_taken { vec![format!("{} restart {unit}", agent.pid())] } else { vec![] };
        assert_eq!(acted(&log), lines, "{unit}");
        drop(agent);
        wait_for("the group to be empty", || group.remove());
    }
    observer.stop();
}

/// An action for a control group is for the agents in it, by the whole path; it is for those of the next action else.
#[test]
fn a_control_group_decides_which_action_is_taken() {
    let ground = Ground::new();
    let log = ground.log();
    let group = Cgroup::new(
        &format!("varta-fleet-test-act-{}", std::process::id()),
        "freezer",
        ["cgroup.freeze", "freezer.state"],
    );
    let options = ground.options("[\"stall\"]", "after = \"0s\"\nevidence = false");
    let (top, other) = options.config.split_once("[[action]]").expect("an action");
    let of_group = other
        .replace("\"restart\"", "\"grouped\"")
        .replace("comm = \"*\"", &format!("cgroup = \"*/{}\"", group.name()));
    let of_parent = of_group.replace("\"grouped\"", "\"parent\"").replace(group.name(), "varta-fleet-test");
    let config = format!("{top}[[action]]{of_parent}[[action]]{of_group}[[action]]{other}");
    let mut observer = Observer::start_in(ground.place, Options { config, ..options });
    let agents = [(); 2].map(|()| Agent::start(Client::Rust02, &observer));
    for agent in &agents {
        observer.expect("up", agent.pid(), SOON);
    }
    // It was looked up outside; what counts is where it is when it stalls.
    group.add(agents[0].pid());
    for agent in &agents {
        agent.signal(Signal::STOP);
        expect_step(&mut observer, agent.pid(), "ended");
    }
    let lines = acted(&log);
    let taken: Vec<_> =
        lines.iter().map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect();
    let [grouped, restarted] = agents.each_ref().map(Agent::pid);
    assert_eq!(taken, [format!("{grouped} grouped"), format!("{restarted} restart")]);
    drop(agents);
    wait_for("the group to be empty", || group.remove());
    observer.stop();
}

/// What was checked when the observer started may be another program at the first stall.
#[test]
fn a_program_that_others_can_change_by_now_is_not_started() {
    needs_root("it gives a program away");
    let ground = Ground::new();
    let (log, program) = (ground.log(), ground.place.base().join("program"));
    let write = |text: &str| {
        fs::write(&program, format!("#!/bin/sh\necho {text} >> {}\n", log.display())).expect("write");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("it is ours");
    };
    write("ours");
    let more = "after = \"0s\"\nretry = { first = \"100ms\", max = \"100ms\", tries = 1000 }\n[brake]\nstarts = { count = 1000 }";
    let options = ground.options("[\"stall\"]", more);
    let script = ground.place.base().join("act.sh").display().to_string();
    let config = options
        .config
        .replace(&format!("\"/bin/sh\", {script:?}"), &format!("{:?}", program.display().to_string()));
    let mut observer = Observer::start_in(ground.place, Options { config, ..options });
    let agent = Agent::start(Client::Rust02, &observer);
    observer.expect("up", agent.pid(), SOON);
    let pid = agent.pid();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o777)).expect("it is ours");
    agent.signal(Signal::STOP);
    let failed = |observer: &mut Observer| {
        let failed = |event: &Event| event.is("action", pid) && event.str("phase") == "failed";
        let event = observer.expect_that("a failed start", SOON, failed);
        assert_eq!(event.str("why"), "start", "{event}");
        event.u64("errno")
    };
    assert_eq!(failed(&mut observer), 1);
    fs::remove_file(&program).expect("it is there");
    wait_for("that it is not there", || (failed(&mut observer) == 2).then_some(()));
    write("theirs");
    chown(&program, Some(4711), Some(4711)).expect("we are root");
    wait_for("that it is another's", || (failed(&mut observer) == 1).then_some(()));
    assert_eq!(acted(&log), [""; 0]);
    let audit = fs::read_to_string(observer.place().base().join("audit.jsonl")).expect("read");
    for why in ["others can change", "there is no", "belongs to user 4711, who can change it"] {
        assert!(audit.contains(why), "{why}: {audit}");
    }
    chown(&program, Some(0), Some(0)).expect("we are root");
    write("ours");
    expect_step(&mut observer, pid, "ended");
    assert_eq!(acted(&log)[0], "ours");
    observer.stop();
}

/// Neither a share of all agents nor more stalls than there are agents is ever exceeded.
#[test]
fn a_wave_below_the_share_or_the_least_number_engages_no_brake() {
    for share in ["percent = 100", "percent = 1, at-least = 1000"] {
        let ground = Ground::new();
        let log = ground.log();
        let more = format!(
            "after = \"0s\"\nevidence = false\nretry = {{ first = \"1h\", max = \"1h\", reset-after = \"24h\" }}\n[brake]\nshare = {{ {share} }}"
        );
        let options = ground.options("[\"stall\"]", &more);
        let mut observer = Observer::start_in(ground.place, options);
        let agents: Vec<Agent> = (0..6).map(|_| Agent::start(Client::Rust02, &observer)).collect();
        for agent in &agents {
            observer.expect("up", agent.pid(), SOON);
        }
        agents.iter().for_each(|agent| agent.signal(Signal::STOP));
        for agent in &agents {
            expect_step(&mut observer, agent.pid(), "ended");
        }
        assert_eq!(acted(&log).len(), 6, "{share}");
        assert!(!observer.events().iter().any(|event| event.kind() == "brake"), "{share}");
        agents.iter().for_each(|agent| agent.signal(Signal::CONT));
        observer.stop();
    }
}

/// The child of the observer that starts programs.
fn spawner_of(observer: &Observer) -> u32 {
    wait_for("the spawner", || {
        let pids = fs::read_dir("/proc").expect("procfs").flatten();
        let mut pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        pids.find(|pid| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            status.contains("Name:\tvarta-spawner\n")
                && status.contains(&format!("\nPPid:\t{}\n", observer.pid()))
        })
    })
}

/// A spawner that is killed takes its children with it; what it was to do is tried again by the next one, and at no time
/// are there two of them for one agent.
#[test]
fn a_killed_spawner_is_replaced_and_its_action_is_tried_again_once_the_child_is_gone() {
    let ground = Ground::new();
    let log = ground.log();
    let (base, script) = (ground.place.base().display().to_string(), ground.place.base().join("act.sh"));
    let text = format!(
        "[ -e {base}/child ] && kill -0 $(cat {base}/child) && echo two >> {base}/acted\n\
         echo $$ > {base}/child\necho begun >> {base}/acted\nexec sleep 1000\n"
    );
    fs::write(&script, text).expect("write");
    let more = "after = \"0s\"\ntimeout = \"1h\"\nretry = { first = \"100ms\", max = \"100ms\" }";
    let options = ground.options("[\"stall\"]", more);
    let mut observer = Observer::start_in(ground.place, options);
    let agent = Agent::start(Client::Rust02, &observer);
    observer.expect("up", agent.pid(), SOON);
    agent.signal(Signal::STOP);
    let count = |observer: &mut Observer, what: &str| {
        steps(observer.events(), agent.pid()).iter().filter(|step| *step == what).count()
    };
    for attempt in 1..=2 {
        wait_for("a child", || {
            (acted(&log).len() == attempt && count(&mut observer, "started") == attempt).then_some(())
        });
        signal(spawner_of(&observer), Signal::KILL);
        wait_for("that to be said", || (count(&mut observer, "failed lost") == attempt).then_some(()));
    }
    wait_for("a child", || (acted(&log).len() == 3 && count(&mut observer, "started") == 3).then_some(()));
    assert_eq!(acted(&log), ["begun"; 3]);
    let metrics = observer.get("/metrics");
    assert!(metrics.text().contains("\nvarta_spawner_restarts_total 2\n"), "{}", metrics.text());
    let child = fs::read_to_string(format!("{base}/child")).expect("read").trim().to_owned();
    agent.signal(Signal::CONT);
    observer.expect("resume", agent.pid(), SOON);
    observer.stop();
    let child: u32 = child.parse().expect("a pid");
    let lives = || std::path::Path::new("/proc").join(child.to_string()).exists();
    assert!(lives(), "what was started goes on without the observer");
    signal(child, Signal::KILL);
    wait_for("the end of the child", || (!lives()).then_some(()));
}

/// Ten stalls of one user and then ten of another are acted upon in turn, those of each in their order.
#[test]
fn two_users_take_turns() {
    needs_root("it runs agents as another user");
    const EACH: usize = 10;
    let ground = Ground::new();
    let more =
        "after = \"0s\"\nevidence = false\n[brake]\nshare = { percent = 100 }\nstarts = { count = 1000 }";
    let options = ground.options("[\"stall\"]", more);
    let config = format!("mode = \"0666\"\n{}", options.config);
    let mut observer = Observer::start_in(ground.place, Options { config, ..options });
    let copy = observer.place().base().join("agent");
    copy_program(rust_program(), &copy);
    for directory in [observer.place().base(), &observer.dir()] {
        fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).expect("it is ours");
    }
    let of =
        |uid: u32| AgentOptions { uid: Some(uid), program: Some(copy.clone()), ..AgentOptions::default() };
    let agents = Agent::start_many(&observer, [4711, 4712].into_iter().flat_map(|uid| vec![of(uid); EACH]));
    for agent in &agents {
        observer.expect("up", agent.pid(), SOON);
    }
    assert!(act(&observer, &["brake", "engage"]).0);
    for agent in &agents {
        agent.signal(Signal::STOP);
        observer.expect("stall", agent.pid(), SOON);
    }
    wait_for("all of them to be due", || {
        let (_, list) = act(&observer, &["list", "--json"]);
        let list: serde_json::Value = serde_json::from_str(&list).expect("JSON");
        let cases = list["cases"].as_array().expect("a list");
        (cases.len() == 2 * EACH && cases.iter().all(|case| case["due_in_ns"].is_null())).then_some(())
    });
    assert!(act(&observer, &["brake", "release"]).0);
    for agent in &agents {
        expect_step(&mut observer, agent.pid(), "started");
    }
    let mut order = Vec::new();
    for event in
        observer.events().iter().filter(|event| event.kind() == "action" && event.str("phase") == "started")
    {
        let index = agents.iter().position(|agent| event.pid() == Some(agent.pid())).expect("one of them");
        if !order.contains(&index) {
            order.push(index);
        }
    }
    let turns: Vec<usize> = (0..EACH).flat_map(|n| [n, EACH + n]).collect();
    assert_eq!(order, turns);
    agents.iter().for_each(|agent| agent.signal(Signal::CONT));
    observer.stop();
}

/// What an operator holds stays held over a restart of the observer, however it ends; the hold of a process is not for
/// the next one with its pid, and what is released is released.
#[test]
fn orders_of_operators_outlive_the_observer() {
    let ground = Ground::new();
    let log = ground.log();
    let options = ground.options("[\"stall\"]", "after = \"0s\"\nevidence = false");
    let observer = Observer::start_in(ground.place, options.clone());
    let agent = Agent::start_with(&observer, AgentOptions { reconnect_after: 2, ..AgentOptions::default() });
    let pid = agent.pid().to_string();
    assert!(act(&observer, &["hold", &pid, "--for", "1h", "--why", "a dump"]).0);
    assert!(act(&observer, &["brake", "engage"]).0);
    let mut observer = Observer::start_in(observer.kill(), options.clone());
    let (_, listed) = act(&observer, &["list"]);
    for part in [&format!("hold pid {pid}"), "a dump", ": by hand"] {
        assert!(listed.contains(part), "{part}: {listed}");
    }
    assert!(act(&observer, &["brake", "release"]).0);
    observer.expect("up", agent.pid(), SOON);
    agent.signal(Signal::STOP);
    expect_step(&mut observer, agent.pid(), "held hand");
    let place = observer.stop().place;
    let mut observer = Observer::start_in(place, options.clone());
    let (_, listed) = act(&observer, &["list"]);
    assert!(listed.contains(&format!("hold pid {pid}")) && !listed.contains("brake"), "{listed}");
    assert!(act(&observer, &["unhold", &pid]).0);
    agent.signal(Signal::CONT);
    observer.expect("up", agent.pid(), SOON);
    agent.signal(Signal::STOP);
    expect_step(&mut observer, agent.pid(), "ended");
    assert_eq!(acted(&log).len(), 1, "once it was not held any more");
    let orders = observer.dir().join("orders");
    assert!(!orders.exists(), "there are none");
    fs::write(&orders, "no orders").expect("write");
    let observer = Observer::start_in(observer.kill(), options);
    let (_, listed) = act(&observer, &["list"]);
    assert!(listed.contains(": by hand"), "what cannot be read may have been a hold: {listed}");
    agent.signal(Signal::CONT);
    observer.stop();
}
