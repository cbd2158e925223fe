//! A running observer reads its configuration again: what is refused changes nothing, what is live changes at once, the
//! rest is named.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Output, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use varta_fleet::config::{KEYS, TABLES};

use crate::common::http::Connection;
use crate::common::{
    Agent, AgentOptions, Client, Event, PROGRAM, Place, SOON, copy_program, mono_ns, ns, program, program_by,
    signal, wait_for,
};

/// An observer that is configured by its file alone. Killed on drop.
struct Running {
    place: Place,
    child: Child,
}

/// What every configuration here has in common.
const BASE: &str = "agents-max = 100\nshards = 2\n";

impl Running {
    /// Starts it with this configuration, to which the events are added.
    fn start(config: &str) -> Self {
        Self::start_with(Place::new(), config, &[], None)
    }

    fn start_with(place: Place, config: &str, arguments: &[&str], notify: Option<&PathBuf>) -> Self {
        fs::write(place.base().join("varta.toml"), config).expect("write the configuration");
        let (stdout, stderr) = (place.base().join("stdout"), place.base().join("stderr"));
        // Under nohup the signal would be ignored.
        let mut command = program_by("env");
        command.args(["--default-signal=HUP", PROGRAM]);
        command.args(["run", "--print-ready", "--config"]).arg(place.base().join("varta.toml"));
        command.arg("--dir").arg(place.dir()).args(arguments).stdin(Stdio::null());
        if let Some(socket) = notify {
            command.env("NOTIFY_SOCKET", socket);
        }
        command.stdout(File::create(&stdout).expect("create a file"));
        command.stderr(File::create(&stderr).expect("create a file"));
        let mut child = command.spawn().expect("start the observer");
        wait_for("the ready line", || {
            let status = child.try_wait().expect("it is our child");
            assert!(status.is_none(), "{status:?}: {}", fs::read_to_string(&stderr).unwrap_or_default());
            fs::read_to_string(&stdout).is_ok_and(|text| text.starts_with("ready ")).then_some(())
        });
        Self { place, child }
    }

    fn path(&self, name: &str) -> String {
        self.place.base().join(name).display().to_string()
    }

    fn write(&self, config: &str) {
        fs::write(self.place.base().join("varta.toml"), config).expect("write the configuration");
    }

    /// `varta-fleet reload` with this configuration in the file.
    fn reload(&self, config: &str) -> Output {
        self.write(config);
        program().args(["reload", "--json", "--dir"]).arg(self.place.dir()).output().expect("run the program")
    }

    /// The answer to a reload that is taken.
    fn reloaded(&self, config: &str) -> Value {
        let output = self.reload(config);
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    fn stderr(&self) -> String {
        fs::read_to_string(self.place.base().join("stderr")).expect("read its messages")
    }

    fn fleet(&self) -> Value {
        Connection::control(&self.place.dir()).get("/api/v1/fleet", &[]).json()
    }

    fn metric(&self, name: &str) -> f64 {
        let answer = Connection::control(&self.place.dir()).get("/metrics", &[]);
        let line = answer.text().lines().find(|line| line.starts_with(&format!("{name} "))).expect(name);
        line.rsplit(' ').next().and_then(|value| value.parse().ok()).expect("a number")
    }

    /// The events of the ring.
    fn events(&self) -> Vec<Event> {
        let output = program()
            .args(["events", "--after", "0", "--format", "jsonl", "--dir"])
            .arg(self.place.dir())
            .output();
        let text = String::from_utf8(output.expect("run the program").stdout).expect("text");
        text.lines().map(Event::parse).collect()
    }

    fn count(&self, kind: &str) -> usize {
        self.events().iter().filter(|event| event.kind() == kind).count()
    }

    fn agent(&self) -> Agent {
        Agent::start_in(&self.place.dir(), AgentOptions::default())
    }

    /// Waits until an event of this kind concerns the agent.
    fn expect(&self, kind: &str, agent: &Agent) {
        let pid = agent.pid();
        wait_for(kind, || self.events().iter().any(|event| event.is(kind, pid)).then_some(()));
    }

    /// Nobody but these stalled, and they only if they did not run for so long themselves.
    fn no_false_stall(&self, agents: &mut [Agent]) {
        let stalls = self.count("stall");
        assert_eq!(self.stalls_of(agents), stalls, "{:?}", self.events());
    }

    /// As [`Running::no_false_stall`], whatever became of others. Returns the number of stalls.
    fn stalls_of(&self, agents: &mut [Agent]) -> usize {
        let events = self.events();
        let stalls = events.iter().filter(|event| event.kind() == "stall");
        let mut count = 0;
        for event in stalls {
            let Some(agent) = agents.iter_mut().find(|agent| Some(agent.pid()) == event.pid()) else {
                continue;
            };
            let (gap, silent) = (agent.report().gap, event.u64("silent_ns"));
            assert!(ns(gap) + 100_000_000 >= silent, "{event}: {gap:?}");
            count += 1;
        }
        count
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn keys(changes: &Value) -> Vec<&str> {
    changes.as_array().expect("a list").iter().map(|change| change["key"].as_str().expect("a key")).collect()
}

#[test]
fn fault_35_twenty_broken_configurations_leave_the_one_in_force() {
    let config = format!("{BASE}threshold = \"5s\"\n");
    let observer = Running::start(&config);
    let mut agents: Vec<Agent> = (0..4).map(|_| observer.agent()).collect();
    let exposed = observer.place.base().join("exposed");
    fs::write(&exposed, "correct-horse-battery\n").expect("write");
    fs::set_permissions(&exposed, fs::Permissions::from_mode(0o644)).expect("it is ours");
    let in_http = |key: &str| format!("[http]\nlisten = \"127.0.0.1:0\"\n{key}\n");
    let broken: Vec<(String, &str)> = vec![
        ("threshold = ".into(), "varta.toml line"),
        ("threshold = \"5\"".into(), "5 has no unit"),
        ("threshold = 5".into(), "it has no unit"),
        ("threshold = \"1ms\"".into(), "it is shorter than 10ms"),
        ("threshold = \"48h\"".into(), "it is longer than 24h"),
        ("treshold = \"7s\"".into(), "did you mean threshold?"),
        ("tick = \"7s\"".into(), "tick"),
        ("threshold = \"15ms\"\ntick = \"5ms\"".into(), "the tick in force is 10ms"),
        ("max-delay = \"3s\"".into(), "max-delay"),
        ("mode = \"0999\"".into(), "mode"),
        ("uid-frames-max = 0".into(), "uid-frames-max"),
        ("uid-agents-max = \"many\"".into(), "uid-agents-max"),
        ("events-format = \"xml\"".into(), "events-format"),
        ("events = \"/nonexistent/events\"".into(), "cannot open event output"),
        ("events = \"/\"".into(), "cannot open event output"),
        (format!("events = \"{}/lock\"", observer.place.dir().display()), "it is the observer's own lock"),
        ("[[rule]]\nthreshold = \"1s\"".into(), "it has no match"),
        ("[[rule]]\nmatch = {}\nthreshold = \"1s\"".into(), "it matches every agent"),
        ("[[rule]]\nmatch = { comm = \"x\" }\nthreshold = \"never\"".into(), "it is not a duration"),
        ("[[rule]]\nmatch = { exe = \"relative\" }\nthreshold = \"1s\"".into(), "begin it with /"),
        (
            "[[action]]\nname = \"a\"\non = [\"stall\"]\nany-user = true\nrun = [\"/nonexistent/program\"]"
                .into(),
            "there is no /nonexistent; install it",
        ),
        ("[[shard]]\nallow-uids = []\n[[shard]]".into(), "it lets nobody beat"),
        ("[http]\nlisten = \"0.0.0.0:0\"".into(), "nobody would have to know a secret"),
        (in_http("token-file = \"/nonexistent/token\"\nlisten = 5"), "varta.toml line"),
        (
            (0..201).map(|n| format!("[[rule]]\nmatch = {{ uid = {n} }}\nthreshold = \"1s\"\n")).collect(),
            "more than 200 rules",
        ),
    ];
    for (text, expected) in &broken {
        let base = if text.starts_with("threshold") || text.starts_with("treshold") {
            BASE.to_owned()
        } else {
            config.clone()
        };
        let output = observer.reload(&format!("{base}{text}\n"));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(78), "{text}: {said}");
        assert!(said.contains(expected), "{text}: {said}");
        assert_eq!(output.stdout, b"");
        wait_for(text, || observer.stderr().contains(expected).then_some(()));
        assert_eq!(observer.metric("varta_config_last_reload_successful"), 0.0);
    }
    // Every problem is told at once, and the file that is missing, too.
    let output = observer.reload("threshold = \"1ms\"\nmode = \"0999\"\nagents-max = 0\n");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(["shorter than 10ms", "mode", "agents-max"].iter().all(|word| said.contains(word)), "{said}");
    fs::remove_file(observer.place.base().join("varta.toml")).expect("it is there");
    let output = program().args(["reload", "--dir"]).arg(observer.place.dir()).output().expect("run");
    assert_eq!(output.status.code(), Some(78));
    let refused: Vec<Event> =
        observer.events().into_iter().filter(|event| event.kind() == "reload").collect();
    assert_eq!(refused.len(), broken.len() + 2);
    assert!(refused.iter().all(|event| event.str("outcome") == "refused"), "{refused:?}");
    let fleet = observer.fleet();
    assert_eq!(
        (fleet["threshold_ns"].as_u64(), fleet["rules"].as_array().map(Vec::len)),
        (Some(5_000_000_000), Some(0))
    );
    let done = observer.reloaded(&config);
    assert!(keys(&done["changed"]).is_empty() && keys(&done["restart"]).is_empty(), "{done}");
    assert_eq!(observer.metric("varta_config_last_reload_successful"), 1.0);
    observer.no_false_stall(&mut agents);
}

#[test]
fn each_live_key_changes_at_once() {
    let observer = Running::start(&format!("{BASE}threshold = \"30s\"\n"));
    let (log, other) = (observer.path("log"), observer.path("other"));
    let base = format!("{BASE}threshold = \"30s\"\n");
    let changed = |config: &str| {
        let done = observer.reloaded(config);
        assert!(keys(&done["restart"]).is_empty(), "{done}");
        keys(&done["changed"]).join(" ")
    };
    assert_eq!(changed(&format!("{BASE}threshold = \"20s\"\n")), "threshold");
    assert_eq!(observer.fleet()["threshold_ns"], 20_000_000_000_u64);
    let rule = "[[rule]]\nmatch = { comm = \"stock-agent*\" }\nthreshold = \"300ms\"\n";
    assert_eq!(changed(&format!("{base}{rule}")), "threshold rule");
    assert_eq!(observer.fleet()["rules"].as_array().map(Vec::len), Some(1));
    assert_eq!(changed(&base), "rule");
    let started = observer.metric("varta_config_last_reload_success_timestamp_seconds");
    assert_eq!(changed(&format!("{base}max-delay = \"0\"\n")), "max-delay");
    assert!(observer.metric("varta_config_last_reload_success_timestamp_seconds") > started);
    assert_eq!(changed(&format!("{base}uid-frames-max = 1\n")), "max-delay uid-frames-max");
    let frugal = observer.agent();
    let refused = |reason: &str| {
        let answer = Connection::control(&observer.place.dir()).get("/metrics", &[]);
        let of = |line: &&str| line.starts_with("varta_frames_refused_total") && line.contains(reason);
        let counts = answer
            .text()
            .lines()
            .filter(of)
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum::<f64>();
        (counts > 0.0).then_some(())
    };
    wait_for("frames over the budget", || refused("\"budget\""));
    assert_eq!(changed(&format!("{base}uid-agents-max = 1\n")), "uid-agents-max uid-frames-max");
    let too_many = Agent::start_in(
        &observer.place.dir(),
        AgentOptions { client: Client::Rust01, ..AgentOptions::default() },
    );
    wait_for("a share that is full", || refused("\"table_full\""));
    drop((frugal, too_many));
    assert_eq!(changed(&format!("{base}events = {log:?}\n")), "uid-agents-max events");
    assert_eq!(
        changed(&format!("{base}events = {other:?}\nevents-format = \"tsv\"\n")),
        "events events-format"
    );
    wait_for("a line of the other format", || {
        fs::read_to_string(&other).ok().filter(|text| text.contains("\treload\t"))
    });
    assert!(fs::read_to_string(&log).expect("the first log").starts_with("{\"v\":1,"));
    assert_eq!(
        changed(&format!("{base}events = {other:?}\nevents-max-bytes = \"1MiB\"\n")),
        "events-format events-max-bytes"
    );
    assert_eq!(
        changed(&format!("{base}events = {other:?}\nevents-max-bytes = \"1MiB\"\nevents-keep = 7\n")),
        "events-keep"
    );
    assert_eq!(changed(&base), "events");
    let action =
        "[[action]]\nname = \"a\"\non = [\"resume\"]\nmatch = { uid = 54321 }\nrun = [\"/bin/true\"]\n";
    assert_eq!(changed(&format!("{base}{action}")), "action");
    let brake = "[brake]\nrunning = 3\ndry-run = true\n";
    assert_eq!(changed(&format!("{base}{action}{brake}")), "brake.running brake.dry-run");
    assert_eq!(changed(&format!("{base}{brake}")), "action");
}

#[test]
fn allowed_users_and_the_token_change_at_once() {
    let place = Place::new();
    let token = |name: &str, text: &str| {
        let path = place.base().join(name);
        fs::write(&path, text).expect("write a token");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("it is ours");
        path.display().to_string()
    };
    let (one, other) = (token("one", "correct-horse-battery\n"), token("other", "another-horse-battery\n"));
    let config = |block: &str, token: &str| {
        format!(
            "agents-max = 100\nthreshold = \"30s\"\n[http]\nlisten = \"127.0.0.1:0\"\n{token}\n[[shard]]\n{block}\n[[shard]]\n"
        )
    };
    let observer = Running::start_with(place, &config("", ""), &[], None);
    let said = observer.stderr();
    let address = said.lines().find_map(|line| line.split("serving http://").nth(1)).expect("an address");
    let address = address.trim_end_matches('/').parse().expect("an address");
    let code = |token: &str| {
        Connection::tcp(address).get("/api/v1/fleet", &[&format!("Authorization: Bearer {token}")]).code
    };
    assert_eq!(code("none"), 200);
    let done = observer.reloaded(&config("", &format!("token-file = {one:?}")));
    assert_eq!(keys(&done["changed"]), ["http.token-file"]);
    assert_eq!((code("none"), code("correct-horse-battery")), (401, 200));
    observer.reloaded(&config("", &format!("token-file = {other:?}")));
    assert_eq!((code("correct-horse-battery"), code("another-horse-battery")), (401, 200));
    let done = observer.reloaded(&config("allow-uids = [54321]", ""));
    assert_eq!(keys(&done["changed"]), ["http.token-file", "shard[0].allow-uids"]);
    assert_eq!(code("none"), 200);
    let _agent = Agent::start_in(
        &observer.place.dir(),
        AgentOptions { sockets: vec![observer.place.socket(0)], ..AgentOptions::default() },
    );
    wait_for("frames of a user that may not beat", || {
        let answer = Connection::control(&observer.place.dir()).get("/metrics", &[]);
        let line = "varta_frames_refused_total{shard=\"0\",reason=\"uid\"} ";
        let line = answer.text().lines().find_map(|found| found.strip_prefix(line)).map(ToOwned::to_owned);
        line.and_then(|count| count.parse::<f64>().ok()).filter(|count| *count > 0.0)
    });
    let done = observer.reloaded(&config("", ""));
    assert_eq!(keys(&done["changed"]), ["shard[0].allow-uids"]);
    wait_for("its first beat", || (observer.count("up") == 1).then_some(()));
}

#[test]
fn what_needs_a_restart_is_named_and_the_rest_applies() {
    let observer = Running::start(&format!("{BASE}threshold = \"30s\"\n"));
    let everything = "agents-max = 200\nthreshold = \"20s\"\ntick = \"20ms\"\nmode = \"0666\"\n\
         control-mode = \"0660\"\nwatched-max = 5\n[http]\nlisten = \"127.0.0.1:0\"\nmetrics-agents-max = 5\n\
         [[shard]]\ncore = \"none\"\n[[shard]]\nsocket = \"other.sock\"\n[[shard]]\n";
    let done = observer.reloaded(everything);
    assert_eq!(keys(&done["changed"]), ["threshold"]);
    let named = keys(&done["restart"]);
    for key in [
        "shards",
        "tick",
        "control-mode",
        "agents-max",
        "watched-max",
        "http.listen",
        "http.metrics-agents-max",
        "shard[0].core",
        "shard[0].mode",
        "shard[1].socket",
    ] {
        assert!(named.contains(&key), "{key} is not in {named:?}");
    }
    for line in ["reload: threshold: 30s -> 20s", "reload: needs a restart: tick: 10ms -> 20ms"] {
        wait_for(line, || observer.stderr().contains(line).then_some(()));
    }
    let event = observer.events().into_iter().find(|event| event.kind() == "reload").expect("an event");
    assert!(event.to_string().contains("\"changed\":[\"threshold\"]"), "{event}");
    let plain = program().args(["reload", "--dir"]).arg(observer.place.dir()).output().expect("run");
    let text = String::from_utf8(plain.stdout).expect("text");
    assert!(
        text.starts_with("nothing changed\n") && text.contains("needs a restart: tick: 10ms -> 20ms\n"),
        "{text}"
    );
}

#[test]
fn the_page_links_to_the_dashboard_that_is_configured_now() {
    let observer = Running::start(BASE);
    let page =
        || Connection::control(&observer.place.dir()).get("/", &["Connection: close"]).text().to_owned();
    assert!(!page().contains("Dashboard") && observer.fleet()["dashboard"].is_null());
    let with = |url: &str| format!("{BASE}[http]\ndashboard = '{url}'\n");
    let url = "https://grafana.example/d/varta-fleet?orgId=1&from=now-6h";
    assert_eq!(keys(&observer.reloaded(&with(url))["changed"]), ["http.dashboard"]);
    let link =
        format!("<a id=\"dashboard\" href=\"{}\" rel=\"noopener\">Dashboard</a>", url.replace('&', "&amp;"));
    assert!(page().contains(&link));
    assert_eq!(observer.fleet()["dashboard"], url);
    for hostile in ["javascript:alert(1)", "https://x/\"onclick=\"alert(1)", "https://x/<script>"] {
        let refused = observer.reload(&with(hostile));
        assert_eq!(refused.status.code(), Some(78), "{hostile}");
        assert!(String::from_utf8_lossy(&refused.stderr).contains("cannot use dashboard = "), "{hostile}");
    }
    assert_eq!(observer.fleet()["dashboard"], url, "what is refused changes nothing");
    assert_eq!(keys(&observer.reloaded(BASE)["changed"]), ["http.dashboard"]);
    assert!(!page().contains("Dashboard"));
}

/// The flags and the environment stay those of the start: they win over the file, as they did then.
#[test]
fn flags_of_the_start_still_win() {
    let observer = Running::start_with(Place::new(), BASE, &["--threshold", "30s"], None);
    let done = observer.reloaded(&format!("{BASE}threshold = \"20s\"\nuid-agents-max = 7\n"));
    assert_eq!(keys(&done["changed"]), ["uid-agents-max"]);
    assert_eq!(observer.fleet()["threshold_ns"], 30_000_000_000_u64);
}

#[test]
fn thresholds_that_change_under_load_stall_nobody_and_miss_nobody() {
    let observer = Running::start(&format!("{BASE}threshold = \"5s\"\n"));
    let mut agents: Vec<Agent> = (0..8).map(|_| observer.agent()).collect();
    let rules = |order: &str, ms: u32| match order {
        "none" => String::new(),
        _ => format!("[[rule]]\nmatch = {{ comm = \"{order}\" }}\nthreshold = \"{ms}ms\"\n"),
    };
    for (threshold, order, ms) in [
        (60_000, "none", 0),
        (2_000, "stock-agent*", 30_000),
        (3_000, "other", 60_000),
        (2_000, "stock*", 2_500),
        (86_400_000, "none", 0),
        (2_500, "none", 0),
        (2_000, "x*", 70_000),
    ] {
        let both = format!("{}{}", rules(order, ms), rules("nobody", 1_000));
        observer.reloaded(&format!("{BASE}threshold = \"{threshold}ms\"\n{both}"));
    }
    observer.no_false_stall(&mut agents);
    // From a day to two seconds: the silence counts from the reload on, and nobody is forgotten.
    observer.reloaded(&format!("{BASE}threshold = \"24h\"\n"));
    agents[0].signal(Signal::STOP);
    observer.reloaded(&format!(
        "{BASE}threshold = \"2s\"\n[[rule]]\nmatch = {{ comm = \"nobody\" }}\nthreshold = \"23h\"\n"
    ));
    let reloaded_at = mono_ns();
    observer.expect("stall", &agents[0]);
    let stall = observer.events().into_iter().find(|event| event.is("stall", agents[0].pid())).expect("it");
    assert!(
        stall.u64("mono_ns") + ns(Duration::from_millis(200)) >= reloaded_at + ns(Duration::from_secs(2)),
        "{stall}"
    );
    agents[0].signal(Signal::CONT);
    observer.expect("resume", &agents[0]);
    observer.stalls_of(&mut agents[1..]);
}

#[test]
fn a_rule_for_an_agent_holds_after_the_reload() {
    let observer = Running::start(&format!("{BASE}threshold = \"60s\"\n"));
    let agent = observer.agent();
    observer.expect("up", &agent);
    agent.signal(Signal::STOP);
    let rule = "[[rule]]\nmatch = { comm = \"stock-agent*\" }\nthreshold = \"300ms\"\n";
    observer.reloaded(&format!("{BASE}threshold = \"60s\"\n{rule}"));
    observer.expect("stall", &agent);
}

#[test]
fn a_hangup_reloads_and_reopens_the_log_even_if_the_configuration_is_broken() {
    let place = Place::new();
    let log = place.base().join("log");
    let config = format!("{BASE}threshold = \"30s\"\nevents = {:?}\n", log.display().to_string());
    let observer = Running::start_with(place, &config, &[], None);
    observer.write(&config.replace("30s", "20s"));
    signal(observer.child.id(), Signal::HUP);
    wait_for("a reload", || (observer.fleet()["threshold_ns"] == 20_000_000_000_u64).then_some(()));
    fs::rename(&log, log.with_extension("1")).expect("rename the log");
    observer.write("threshold = nonsense\n");
    signal(observer.child.id(), Signal::HUP);
    wait_for("the log is there again", || {
        fs::read_to_string(&log).ok().filter(|text| text.contains("\"outcome\":\"refused\""))
    });
    wait_for("a word of it", || {
        observer.stderr().contains("the configuration before stays in force").then_some(())
    });
    assert_eq!(observer.fleet()["threshold_ns"], 20_000_000_000_u64);
}

#[test]
fn only_root_and_the_user_of_the_observer_may_reload_and_only_through_the_control_socket() {
    let observer =
        Running::start(&format!("{BASE}control-mode = \"0666\"\n[http]\nlisten = \"127.0.0.1:0\"\n"));
    let said = observer.stderr();
    let address = said.lines().find_map(|line| line.split("serving http://").nth(1)).expect("an address");
    let mut tcp = Connection::tcp(address.trim_end_matches('/').parse().expect("an address"));
    tcp.send("POST /-/reload HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("send");
    assert!(tcp.answer().refusal(403).contains("control.sock"));
    let mut control = Connection::control(&observer.place.dir());
    assert!(control.get("/-/reload", &[]).refusal(405).contains("use POST"));
    control.send("POST /api/v1/fleet HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("send");
    assert!(control.answer().refusal(405).contains("nothing can be changed here"));
    crate::common::needs_root("it asks as another user");
    let copy = observer.place.base().join("varta-fleet");
    copy_program(PROGRAM.as_ref(), &copy);
    let stranger = program_by("setpriv")
        .args(["--reuid", "4711", "--regid", "4711", "--clear-groups"])
        .arg(&copy)
        .args(["reload", "--dir"])
        .arg(observer.place.dir())
        .output()
        .expect("run setpriv");
    let said = String::from_utf8_lossy(&stranger.stderr).into_owned();
    assert_eq!(stranger.status.code(), Some(77), "{said}");
    assert!(said.contains("only root and the user of the observer may change something"), "{said}");
    assert_eq!(observer.count("reload"), 0);
}

#[test]
fn without_a_fleet_there_is_nothing_to_reload() {
    let place = Place::new();
    let output = program().args(["reload", "--dir"]).arg(place.dir()).output().expect("run");
    assert_eq!(output.status.code(), Some(69));
}

#[test]
fn a_service_manager_is_told_when_a_reload_begins_and_ends() {
    let place = Place::new();
    let path = place.base().join("notify");
    let socket = UnixDatagram::bind(&path).expect("bind");
    socket.set_read_timeout(Some(SOON)).expect("a timeout");
    let observer = Running::start_with(place, BASE, &[], Some(&path));
    let next = |begin: &str| loop {
        let mut message = [0; 4096];
        let length = socket.recv(&mut message).expect(begin);
        let message = String::from_utf8_lossy(&message[..length]).into_owned();
        if message.starts_with(begin) {
            return message;
        }
    };
    next("READY=1");
    for config in [BASE, "broken"] {
        let before = mono_ns() / 1000;
        observer.reload(config);
        let told = next("RELOADING=1");
        let at: u64 =
            told.split("MONOTONIC_USEC=").nth(1).and_then(|at| at.trim().parse().ok()).expect(&told);
        assert!((before..=mono_ns() / 1000).contains(&at), "{told}");
        next("READY=1");
    }
}

/// Help, manual and this list come from the same table.
#[test]
fn the_help_marks_what_is_live() {
    let help = program().args(["run", "--help"]).output().expect("run");
    let help = String::from_utf8(help.stdout).expect("text");
    let man = program().args(["man", "--dir"]).arg(tempfile::tempdir().expect("a directory").path()).output();
    assert!(man.expect("run").status.success());
    let live: Vec<&str> = KEYS.iter().filter(|key| key.is_live).map(|key| key.name).collect();
    assert_eq!(
        live,
        [
            "threshold",
            "max-delay",
            "control-writers",
            "uid-agents-max",
            "uid-frames-max",
            "events",
            "events-format",
            "events-max-bytes",
            "events-keep",
            "rule",
            "action",
            "brake",
        ]
    );
    let in_tables = TABLES.iter().flat_map(|(heading, keys)| keys.iter().map(move |key| (*heading, key)));
    // All of what is done about stalls is.
    let (acts, in_tables): (Vec<_>, Vec<_>) =
        in_tables.partition(|(heading, _)| heading.contains("[[action]]") || heading.contains("[brake]"));
    assert!(acts.len() > 20 && acts.iter().all(|(_, key)| key.is_live), "{acts:?}");
    let live: Vec<_> = in_tables
        .into_iter()
        .filter(|(_, key)| key.is_live)
        .map(|(heading, key)| (heading, key.name))
        .collect();
    assert_eq!(
        live,
        [
            ("[http]", "token-file"),
            ("[http]", "dashboard"),
            ("[metrics]", "units"),
            ("[[shard]]", "allow-uids"),
            ("[[rule]]", "match"),
            ("[[rule]]", "threshold"),
            ("[[rule]]", "start-threshold"),
            ("[[rule]]", "start-beats"),
            ("[[rule]]", "phase"),
            ("[[rule]]", "progress"),
            ("[[rule]]", "progress-threshold"),
            ("[[rule]]", "idle-payload"),
            ("[[rule]]", "idle-status"),
            ("match of a [[rule]]", "comm"),
            ("match of a [[rule]]", "uid"),
            ("match of a [[rule]]", "exe"),
            ("match of a [[rule]]", "unit"),
            ("phase of a [[rule]]", "payload"),
            ("phase of a [[rule]]", "threshold"),
        ]
    );
    assert!(help.contains("[default: 2s, live]"), "{help}");
}

/// The first action comes with a reload: what it needs is opened before anything changes, and stays until a restart.
#[test]
fn a_reload_brings_the_first_action_or_says_why_not() {
    let observer = Running::start(&format!("{BASE}threshold = \"300ms\"\n"));
    let touched = observer.path("touched");
    let config = |audit: &str, threshold: &str| {
        format!(
            "{BASE}threshold = {threshold:?}\naudit = {audit:?}\n[[action]]\nname = \"note\"\non = [\"exit\"]\n\
             match = {{ comm = \"*\" }}\nany-user = true\nafter = \"0s\"\nrun = [\"/usr/bin/touch\", {touched:?}]\n"
        )
    };
    // No file can be opened where a directory is.
    fs::create_dir(observer.path("directory")).expect("make a directory");
    let output = observer.reload(&config(&observer.path("directory"), "20s"));
    assert_eq!(output.status.code(), Some(78));
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("cannot start the thread that acts"), "{told}");
    assert!(told.contains(&observer.path("directory")), "{told}");
    let refused = observer.events().into_iter().find(|event| event.kind() == "reload").expect("an event");
    assert_eq!(refused.str("outcome"), "refused");
    let audit = observer.path("audit.jsonl");
    let done = observer.reloaded(&config(&audit, "300ms"));
    assert_eq!(keys(&done["changed"]), ["action"], "the threshold is as it was");
    let agent = observer.agent();
    wait_for("the agent", || observer.events().iter().any(|event| event.kind() == "up").then_some(()));
    drop(agent);
    wait_for("the action", || std::path::Path::new(&touched).exists().then_some(()));
    let done = observer.reloaded(&format!("{BASE}threshold = \"300ms\"\n"));
    assert_eq!(keys(&done["changed"]), ["action"]);
    let done = observer.reloaded(&config(&observer.path("other.jsonl"), "300ms"));
    assert_eq!((keys(&done["changed"]), keys(&done["restart"])), (vec!["action"], vec!["audit"]));
}
