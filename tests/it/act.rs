//! Actions: what is started for whom, and what holds it back, with real agents, a real spawner and real programs.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use super::act_cases::expect_step;
use super::act_reload::reload;
use super::http::assert_is;
use crate::common::http::Connection;
use crate::common::{
    Agent, Client, Event, Observer, Options, PROGRAM, Place, SOON, copy_program, program, program_by,
    wait_for,
};

/// A place with a program that appends its arguments to a file.
pub struct Ground {
    pub place: Place,
}

impl Ground {
    pub fn new() -> Self {
        let place = Place::new();
        let log = place.base().join("acted");
        fs::write(&log, "").expect("write");
        let script = format!("echo \"$@\" >> {}\n", log.display());
        fs::write(place.base().join("act.sh"), script).expect("write");
        Self { place }
    }

    /// A configuration with one action, also for stalls that are not certain, as on a busy machine; it runs that program; `more` keys of it, and more tables.
    pub fn options(&self, on: &str, more: &str) -> Options {
        let script = self.place.base().join("act.sh").display().to_string();
        let audit = self.place.base().join("audit.jsonl").display().to_string();
        let config = format!(
            "audit = {audit:?}\n[[action]]\nname = \"restart\"\non = {on}\nmatch = {{ comm = \"*\" }}\nany-user = true\n\
             certain = false\n\
             run = [\"/bin/sh\", {script:?}, \"{{pid}}\", \"{{name}}\", \"{{shard}}\"]\n{more}\n"
        );
        Options { threshold: Duration::from_millis(300), config, ..Options::default() }
    }

    pub fn log(&self) -> PathBuf {
        self.place.base().join("acted")
    }
}

pub fn acted(log: &PathBuf) -> Vec<String> {
    fs::read_to_string(log).expect("read").lines().map(str::to_owned).collect()
}

/// The steps of actions for this process, so far.
pub fn steps(events: &[Event], pid: u32) -> Vec<String> {
    let of = events.iter().filter(|event| event.kind() == "action" && event.pid() == Some(pid));
    of.map(|event| match event.has("why") {
        true => format!("{} {}", event.str("phase"), event.str("why")),
        false => event.str("phase").to_owned(),
    })
    .collect()
}

#[test]
fn a_program_is_run_for_a_stalled_agent_and_the_steps_are_events() {
    let ground = Ground::new();
    let log = ground.log();
    let options = ground.options("[\"stall\"]", "after = \"100ms\"\nevidence = false");
    let mut observer = Observer::start_in(ground.place, options);
    let agent = Agent::start(Client::Rust02, &observer);
    let other = Agent::start(Client::Rust02, &observer);
    observer.expect("up", agent.pid(), SOON);
    observer.expect("up", other.pid(), SOON);
    agent.signal(Signal::STOP);
    observer.expect("stall", agent.pid(), SOON);
    let done = wait_for("the action to end", || {
        let events = observer.events();
        let steps = steps(events, agent.pid());
        steps.iter().any(|step| step == "ended").then_some(steps)
    });
    assert_eq!(done[..3], ["due", "started", "ended"]);
    let lines = acted(&log);
    assert!(lines[0].starts_with(&format!("{} restart ", agent.pid())), "{lines:?}");
    assert_eq!(steps(observer.events(), other.pid()), [""; 0], "it beats");
    agent.signal(Signal::CONT);
    observer.expect("resume", agent.pid(), SOON);
    let ended = observer.stop();
    let audit = fs::read_to_string(ended.place.base().join("audit.jsonl")).expect("read");
    let phases: Vec<String> = audit
        .lines()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).expect("JSON")["phase"]
                .as_str()
                .unwrap_or("")
                .to_owned()
        })
        .collect();
    assert_eq!(phases[..4], ["due", "starting", "started", "ended"], "{audit}");
}

#[test]
fn what_resumes_in_time_is_left_alone_and_a_dry_run_starts_nothing() {
    let ground = Ground::new();
    let log = ground.log();
    let options = ground.options("[\"stall\"]", "after = \"100ms\"\n[brake]\ndry-run = true");
    let mut observer = Observer::start_in(ground.place, options);
    let agent = Agent::start(Client::Rust02, &observer);
    observer.expect("up", agent.pid(), SOON);
    agent.signal(Signal::STOP);
    wait_for("it to be held", || {
        (steps(observer.events(), agent.pid()) == ["due", "held dry-run"]).then_some(())
    });
    agent.signal(Signal::CONT);
    wait_for("it to be cancelled", || {
        (steps(observer.events(), agent.pid()) == ["due", "held dry-run", "cancelled resumed"]).then_some(())
    });
    assert_eq!(acted(&log), [""; 0]);
    observer.stop();
}

#[test]
fn a_wave_of_stalls_engages_the_brake_and_nothing_is_started() {
    let ground = Ground::new();
    let log = ground.log();
    let options = ground.options("[\"stall\"]", "after = \"100ms\"\n[brake]\nrelease = \"manual\"");
    let mut observer = Observer::start_in(ground.place, options);
    let agents: Vec<Agent> = (0..12).map(|_| Agent::start(Client::Rust02, &observer)).collect();
    for agent in &agents {
        observer.expect("up", agent.pid(), SOON);
    }
    agents.iter().for_each(|agent| agent.signal(Signal::STOP));
    for agent in &agents {
        observer.expect("stall", agent.pid(), SOON);
    }
    let brake =
        wait_for("the brake", || observer.events().iter().find(|event| event.kind() == "brake").cloned());
    assert_eq!((brake.str("phase"), brake.str("scope")), ("engaged", "uid"), "{brake}");
    let fleet = observer.get("/api/v1/fleet").json();
    assert_is("Fleet", &fleet);
    let uid = rustix::process::getuid().as_raw();
    let said = fleet["headline"]["text"].as_str().expect("a text");
    assert!(
        said.starts_with("Actions are held: ") && said.contains(&format!("of user {uid} stalled at once")),
        "{said}"
    );
    assert_eq!(
        (&fleet["headline"]["level"], &fleet["headline"]["runbook"]),
        (&json!("critical"), &json!("VartaBrakeEngaged"))
    );
    let mut status = program();
    let status = status.arg("status").arg("--dir").arg(observer.dir()).output().expect("it runs");
    let said = String::from_utf8_lossy(&status.stdout);
    assert!(
        said.starts_with("Actions are held: ") && said.contains("what is held: varta-fleet act list"),
        "{said}"
    );
    // What is started later than the brake was would have been started by then.
    let late = Agent::start(Client::Rust02, &observer);
    observer.expect("up", late.pid(), SOON);
    late.signal(Signal::STOP);
    observer.expect("stall", late.pid(), SOON);
    late.signal(Signal::CONT);
    observer.expect("resume", late.pid(), SOON);
    assert_eq!(acted(&log), [""; 0]);
    agents.iter().for_each(|agent| agent.signal(Signal::CONT));
    observer.stop();
}

#[test]
fn a_signal_goes_to_that_very_process() {
    let ground = Ground::new();
    let config = "[[action]]\nname = \"kill\"\non = [\"stall\"]\nmatch = { uid = \"root\" }\ncertain = false\nsignal = \"SIGABRT\"\nafter = \"0s\"\n";
    let options =
        Options { threshold: Duration::from_millis(300), config: config.to_owned(), ..Options::default() };
    let mut observer = Observer::start_in(ground.place, options);
    let mut agent = Agent::start(Client::Rust02, &observer);
    let other = Agent::start(Client::Rust02, &observer);
    observer.expect("up", agent.pid(), SOON);
    observer.expect("up", other.pid(), SOON);
    agent.tell("quiet");
    let exit = observer.expect("exit", agent.pid(), SOON);
    assert_eq!(exit.u64("signal"), 6, "{exit}");
    let steps = wait_for("the end of the action", || {
        let steps = steps(observer.events(), agent.pid());
        steps.iter().any(|step| step == "ended").then_some(steps)
    });
    assert_eq!(steps, ["due", "started", "ended"]);
    observer.stop();
}

#[test]
fn an_exit_by_a_signal_is_acted_upon_once_and_another_is_not() {
    let ground = Ground::new();
    let log = ground.log();
    let options = ground.options("[{ exit = { signal = 9 } }]", "after = \"0s\"");
    let mut observer = Observer::start_in(ground.place, options);
    let mut agents: Vec<Agent> = (0..2).map(|_| Agent::start(Client::Rust02, &observer)).collect();
    for agent in &agents {
        observer.expect("up", agent.pid(), SOON);
    }
    let pids: Vec<u32> = agents.iter().map(Agent::pid).collect();
    agents[0].tell("exit 3");
    agents[1].signal(Signal::KILL);
    for pid in &pids {
        observer.expect("exit", *pid, SOON);
    }
    wait_for("it to end", || {
        steps(observer.events(), pids[1]).iter().any(|step| step == "ended").then_some(())
    });
    assert_eq!(acted(&log).len(), 1);
    assert!(acted(&log)[0].starts_with(&pids[1].to_string()));
    observer.stop();
}

/// What `varta-fleet act …` prints, and whether it succeeds.
pub fn act(observer: &Observer, arguments: &[&str]) -> (bool, String) {
    let mut command = program();
    command.arg("act").arg(arguments[0]).args(&arguments[1..]).arg("--dir").arg(observer.dir());
    let output = command.output().expect("it runs");
    let said = if output.status.success() { output.stdout } else { output.stderr };
    (output.status.success(), String::from_utf8(said).expect("text"))
}

#[test]
fn an_operator_holds_releases_brakes_and_starts_by_hand() {
    let ground = Ground::new();
    let log = ground.log();
    let options = ground.options("[\"stall\"]", "after = \"100ms\"");
    let mut observer = Observer::start_in(ground.place, options);
    let agent = Agent::start(Client::Rust02, &observer);
    let pid = agent.pid().to_string();
    observer.expect("up", agent.pid(), SOON);
    assert_eq!(act(&observer, &["list"]), (true, "nothing is to be done\n".to_owned()));
    let (is_held, said) = act(&observer, &["hold", &pid, "--for", "1h", "--why", "a release"]);
    assert!(is_held, "{said}");
    agent.signal(Signal::STOP);
    wait_for("it to be held", || {
        (steps(observer.events(), agent.pid()) == ["due", "held hand"]).then_some(())
    });
    let (_, list) = act(&observer, &["list"]);
    assert!(
        list.contains(&format!("hold pid {pid} for another 59m")) && list.contains(": a release"),
        "{list}"
    );
    assert!(list.contains("restart") && list.contains("held") && list.contains("hand"), "{list}");
    assert!(
        act(&observer, &["brake", "engage"]).1.contains("nothing is started until it is released by hand")
    );
    assert_eq!(act(&observer, &["unhold", &pid]), (true, "1 ended\n".to_owned()));
    let (_, list) = act(&observer, &["list"]);
    assert!(
        list.contains("the brake for all agents has been engaged for ") && list.contains("by hand"),
        "{list}"
    );
    let (is_done, said) = act(&observer, &["now", &pid, "no-such-action"]);
    assert!(!is_done && said.contains("no such action"), "{said}");
    let (is_done, said) = act(&observer, &["now", "4000000", "restart"]);
    assert!(!is_done && said.contains("no agent has pid 4000000"), "{said}");
    assert_eq!(acted(&log), [""; 0]);
    assert!(act(&observer, &["brake", "release"]).1.contains("is released"));
    wait_for("it to end", || {
        steps(observer.events(), agent.pid()).contains(&"ended".to_owned()).then_some(())
    });
    let brakes: Vec<String> = observer
        .events()
        .iter()
        .filter(|event| event.kind() == "brake")
        .map(|event| format!("{} {} {}", event.str("phase"), event.str("scope"), event.bool("by_hand")))
        .collect();
    assert_eq!(brakes, ["engaged fleet true", "released fleet true"]);
    agent.signal(Signal::CONT);
    observer.expect("resume", agent.pid(), SOON);
    let done = acted(&log).len();
    let (is_done, said) = act(&observer, &["now", &pid, "restart"]);
    assert!(is_done && said.contains("is due"), "{said}");
    let ended = observer.stop();
    assert_eq!(done, 1);
    let audit = fs::read_to_string(ended.place.base().join("audit.jsonl")).expect("read");
    let uid = rustix::process::getuid().as_raw();
    for phase in ["hold", "unhold", "brake", "now"] {
        let line = audit
            .lines()
            .find(|line| line.contains(&format!("\"phase\":\"{phase}\"")) && line.contains("\"by\""));
        assert!(line.is_some_and(|line| line.contains(&format!("\"uid\":{uid}"))), "{phase}: {audit}");
    }
}

#[test]
fn what_is_done_about_an_agent_is_explained_and_answered_as_the_schema_says() {
    let ground = Ground::new();
    let more = "after = \"100ms\"\nretry = { first = \"30m\", max = \"30m\" }";
    let options = ground.options("[\"stall\"]", more);
    let options = Options {
        config: format!("control-mode = \"0666\"\n{}", options.config),
        arguments: vec!["--http".to_owned(), "127.0.0.1:0".to_owned()],
        ..options
    };
    let mut observer = Observer::start_in(ground.place, options);
    let mut agent = Agent::start(Client::Rust02, &observer);
    let pid = agent.pid();
    observer.expect("up", pid, SOON);
    let detail = |observer: &Observer| observer.get(&format!("/api/v1/agents/{pid}")).json();
    let calm = detail(&observer);
    assert_is("AgentDetail", &calm);
    assert_eq!(calm["act"], json!({ "cases": [], "holds": [] }));
    let evidence = format!("/api/v1/agents/{pid}/evidence");
    let mut control = Connection::control(&observer.dir());
    assert!(control.get(&evidence, &[]).refusal(404).contains("there is no evidence about pid"));

    let (is_held, said) = act(&observer, &["hold", &pid.to_string(), "--for", "1h", "--why", "a dump"]);
    assert!(is_held, "{said}");
    agent.signal(Signal::STOP);
    wait_for("it to be held", || (steps(observer.events(), pid) == ["due", "held hand"]).then_some(()));
    assert!(act(&observer, &["brake", "engage"]).0);
    let list = observer.get("/api/v1/act").json();
    assert_is("Act", &list);
    assert_eq!((&list["actions"], &list["cases"][0]["pid"]), (&json!(["restart"]), &json!(pid)));
    assert_eq!((&list["holds"][0]["text"], &list["brakes"][0]["by_hand"]), (&json!("a dump"), &json!(true)));
    let held = detail(&observer);
    assert_is("AgentDetail", &held);
    assert_eq!(
        (&held["act"]["cases"][0]["phase"], &held["act"]["cases"][0]["why"]),
        (&json!("held"), &json!("brake"))
    );
    let explain = |observer: &Observer| {
        let mut explain = program();
        let output = explain.args(["explain", "--dir"]).arg(observer.dir()).arg(pid.to_string()).output();
        String::from_utf8(output.expect("it runs").stdout).expect("text").replace('\n', " ")
    };
    let said = explain(&observer);
    assert!(said.contains("Action restart is held: a brake is engaged."), "{said}");
    assert!(said.contains(&format!("An operator holds actions for pid {pid} for another 59m")), "{said}");

    assert!(act(&observer, &["unhold", &pid.to_string()]).0);
    assert!(act(&observer, &["brake", "release"]).0);
    wait_for("the action to end", || {
        steps(observer.events(), pid).contains(&"ended".to_owned()).then_some(())
    });
    let found = wait_for("the evidence to be known", || {
        let answer = control.get(&evidence, &[]);
        (answer.code == 200).then(|| answer.json())
    });
    assert_is("Evidence", &found);
    assert_eq!((&found["pid"], &found["verdict"]), (&json!(pid), &json!("stopped")));
    let said = explain(&observer);
    assert!(
        said.contains("it was stopped by a signal.")
            && said.contains("Of 1 thread the main one was in state T"),
        "{said}"
    );
    assert!(
        said.contains("action restart started as process ") && said.contains("action restart succeeded"),
        "{said}"
    );
    let path = detail(&observer)["act"]["evidence"].as_str().expect("a path").to_owned();
    assert!(said.replace(' ', "").contains(&format!("Allofitisin{}.", path.replace(' ', ""))), "{said}");

    let address = observer.http_address();
    let mut tcp = Connection::tcp(address);
    assert!(tcp.get(&evidence, &[]).refusal(403).contains("through control.sock"));
    for path in ["hold?pid=1&for_ns=1", "unhold?pid=1", "brake?do=engage", "now?pid=1&action=restart"] {
        tcp.send(format!("POST /-/act/{path} HTTP/1.1\r\nHost: localhost\r\n\r\n")).expect("send");
        assert!(tcp.answer().refusal(403).contains("only through its control.sock"), "{path}");
    }
    fs::write(&path, "{\"pid\":1}").expect("write");
    assert!(control.get(&evidence, &[]).refusal(503).contains("it is about pid 1"));
    fs::remove_file(&path).expect("it is there");
    assert!(control.get(&evidence, &[]).refusal(404).contains("only the last files of evidence are kept"));
    let said = explain(&observer);
    assert!(said.contains("and is not shown: ") && said.contains("is not there any more"), "{said}");

    agent.signal(Signal::KILL);
    observer.expect("exit", pid, SOON);
    agent.wait();
    let gone = wait_for("the exit to be known", || {
        let answer = detail(&observer);
        let is_over = answer["act"]["cases"].as_array().is_some_and(Vec::is_empty);
        (answer["state"] == "exited" && is_over).then_some(answer)
    });
    assert_is("ExitedAgent", &gone);
    assert_eq!(gone["act"]["evidence"], json!(path));
    observer.stop();
}

/// A control socket that all may use lets them ask, and not act. Those whom `control-writers` names may do that, and
/// neither read evidence nor reload.
#[test]
fn who_is_neither_root_nor_the_user_of_the_observer_nor_a_writer_may_ask_and_not_act() {
    const WRITER: u32 = 4712;
    const STRANGER: u32 = 4711;
    crate::common::needs_root("it asks as another user");
    let ground = Ground::new();
    let options = ground.options("[\"stall\"]", "");
    let config = format!("control-mode = \"0666\"\ncontrol-writers = [{WRITER}]\n{}", options.config);
    let log = ground.log();
    let mut observer = Observer::start_in(ground.place, Options { config: config.clone(), ..options });
    let agent = Agent::start(Client::Rust02, &observer);
    observer.expect("up", agent.pid(), SOON);
    let copy = observer.place().base().join("copy");
    copy_program(PROGRAM.as_ref(), &copy);
    for directory in [observer.place().base(), &observer.dir()] {
        fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).expect("it is ours");
    }
    let dir = observer.dir();
    let run_by = |uid: u32, arguments: &[&str]| {
        let mut command = program_by("setpriv");
        let id = uid.to_string();
        command.args(["--reuid", &id, "--regid", &id, "--clear-groups"]).arg(&copy).args(arguments);
        let output = command.arg("--dir").arg(&dir).output().expect("run setpriv");
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(said).expect("text"))
    };
    let stranger = |arguments: &[&str]| run_by(STRANGER, arguments);
    let writer = |arguments: &[&str]| run_by(WRITER, arguments);
    let pid = agent.pid().to_string();
    assert_eq!(stranger(&["act", "list"]), (Some(0), "nothing is to be done\n".to_owned()));
    let requests = [
        &["act", "hold", &pid, "--for", "1h"][..],
        &["act", "unhold", &pid],
        &["act", "brake", "engage"],
        &["act", "brake", "release"],
        &["act", "now", &pid, "restart"],
    ];
    for request in requests {
        let (code, said) = stranger(request);
        assert_eq!(code, Some(77), "{request:?}: {said}");
        let told = "only root, the user of the observer and those in control-writers may do this; run it as one of them, \
                    or add user 4711 to control-writers";
        assert!(said.contains(told), "{request:?}: {said}");
    }
    assert_eq!(act(&observer, &["list"]), (true, "nothing is to be done\n".to_owned()));
    for request in requests {
        let (code, said) = writer(request);
        assert_eq!(code, Some(0), "{request:?}: {said}");
    }
    expect_step(&mut observer, agent.pid(), "ended");
    assert_eq!(acted(&log).len(), 1);
    let audit = fs::read_to_string(observer.place().base().join("audit.jsonl")).expect("read");
    for phase in ["hold", "unhold", "brake", "now"] {
        let mut by = audit.lines().filter(|line| line.contains(&format!("\"phase\":\"{phase}\"")));
        assert!(by.any(|line| line.contains(&format!("\"uid\":{WRITER}"))), "{phase}: {audit}");
    }
    let (code, said) = writer(&["reload"]);
    assert_eq!(code, Some(77), "{said}");
    assert!(said.contains("only root and the user of the observer may change something"), "{said}");

    agent.signal(Signal::STOP);
    wait_for("evidence to be kept", || {
        let found = |event: &Event| event.is("action", agent.pid()) && event.has("evidence");
        observer.events().iter().any(found).then_some(())
    });
    for uid in [STRANGER, WRITER] {
        let (_, said) = run_by(uid, &["explain", &pid]);
        let said = said.replace('\n', " ");
        assert!(
            said.contains("and is not shown: evidence is only for root and the user of the observer"),
            "{said}"
        );
    }
    let (is_taken, said) = reload(&observer, &config.replace(&WRITER.to_string(), "\"root\""));
    assert!(is_taken && said.contains(&format!("control-writers: [{WRITER}] -> [0]")), "{said}");
    let (code, said) = writer(&["act", "brake", "engage"]);
    assert!(code == Some(77) && said.contains("or add user 4712 to control-writers"), "{said}");
    agent.signal(Signal::CONT);
    observer.stop();
}

#[test]
fn no_spawner_and_an_audit_file_that_takes_no_lines_are_problems() {
    let ground = Ground::new();
    let audit = ground.place.base().join("audit.jsonl");
    let spawner = ground.place.base().join("no.sock").display().to_string();
    let options = ground.options("[\"stall\"]", "");
    let config = format!("spawner = {spawner:?}\n{}", options.config);
    let observer = Observer::start_in(ground.place, Options { config, ..options });
    let problem = |part: &str| {
        let fleet = observer.get("/api/v1/fleet").json();
        let problems = fleet["problems"].as_array().expect("problems");
        let is_said = problems.iter().any(|problem| problem.as_str().is_some_and(|said| said.contains(part)));
        assert_eq!(fleet["is_healthy"], true, "{fleet}");
        is_said.then_some(())
    };
    wait_for("no spawner to be a problem", || problem("there is no spawner"));
    fs::remove_file(&audit).expect("it is there");
    fs::create_dir(&audit).expect("create");
    observer.signal(Signal::HUP);
    wait_for("the audit file to be one, too", || {
        act(&observer, &["hold", "1", "--for", "1s"]);
        problem("the audit file takes no lines")
    });
    assert_eq!(observer.get("/-/healthy").text(), "ok\n");
    fs::remove_dir(&audit).expect("remove");
    act(&observer, &["hold", "1", "--for", "1s"]);
    wait_for("it to be none any more", || problem("the audit file takes no lines").is_none().then_some(()));
    observer.stop();
}

/// An agent that stalls and resumes again and again gets as many starts as are allowed, and harms nobody.
#[test]
fn fault_44_a_flapper_gets_few_starts() {
    let ground = Ground::new();
    let log = ground.log();
    let more = "after = \"0s\"\nretry = { first = \"100ms\", max = \"100ms\", tries = 1000 }\n[brake]\nstarts = { count = 3, per = \"1h\" }";
    let options = ground.options("[\"stall\"]", more);
    let mut observer = Observer::start_in(ground.place, options);
    let agent = Agent::start(Client::Rust02, &observer);
    observer.expect("up", agent.pid(), SOON);
    for _ in 0..6 {
        let before = steps(observer.events(), agent.pid()).len();
        agent.signal(Signal::STOP);
        observer.expect("stall", agent.pid(), SOON);
        // Until it is acted upon, or held because there were enough starts.
        wait_for("it to be settled", || {
            let steps = steps(observer.events(), agent.pid());
            let mut since = steps.iter().skip(before);
            since.any(|step| step == "held starts" || step == "ended").then_some(())
        });
        agent.signal(Signal::CONT);
        observer.expect("resume", agent.pid(), SOON);
    }
    assert_eq!(acted(&log).len(), 3);
    observer.stop();
}

/// As many agents as a small machine starts in seconds fall silent at once: the brake holds before anything is started.
#[test]
fn fault_44_a_thousand_stalls_start_nothing() {
    const AGENTS: usize = 1000;
    let ground = Ground::new();
    let log = ground.log();
    let options = Options {
        threshold: Duration::from_secs(5),
        agents_max: 4000,
        ..ground.options("[\"stall\"]", "after = \"0s\"\n[brake]\nrelease = \"manual\"")
    };
    let mut observer = Observer::start_in(ground.place, options);
    let mut load = program();
    load.args(["load", "--agents", &AGENTS.to_string(), "--rate", "2000", "--for", "5m", "--dir"])
        .arg(observer.dir());
    let mut load = load.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("start the load");
    let up = |observer: &mut Observer| -> Vec<u32> {
        let up = observer.events().iter().filter(|event| event.kind() == "up");
        up.filter_map(Event::pid).collect()
    };
    let pids = wait_for("all agents", || Some(up(&mut observer)).filter(|pids| pids.len() == AGENTS));
    pids.iter().for_each(|pid| crate::common::signal(*pid, Signal::STOP));
    wait_for("all of them to stall", || {
        let stalled = observer.events().iter().filter(|event| event.kind() == "stall").count();
        (stalled >= AGENTS).then_some(())
    });
    let list = wait_for("all of them to be held", || {
        let (_, list) = act(&observer, &["list", "--json"]);
        let list: serde_json::Value = serde_json::from_str(&list).expect("JSON");
        let cases = list["cases"].as_array().expect("a list");
        let is_due = |case: &serde_json::Value| case["due_in_ns"].is_null();
        (cases.len() == AGENTS && cases.iter().all(is_due)).then_some(list)
    });
    assert!(list["cases"].as_array().is_some_and(|cases| cases.iter().all(|case| case["why"] == "brake")));
    assert!(list["brakes"][0]["stalls"].as_u64() >= Some(AGENTS as u64), "{}", list["brakes"]);
    let actions = observer.events().iter().filter(|event| event.kind() == "action").count();
    assert_eq!((actions, acted(&log)), (0, vec![]), "the brake says it for all");
    pids.iter().for_each(|pid| crate::common::signal(*pid, Signal::CONT));
    crate::common::signal(load.id(), Signal::TERM);
    load.wait().expect("it is our child");
    observer.stop();
}
