//! HTTP: what is answered, to which client, and what a client cannot do to the observer.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use flate2::read::GzDecoder;
use rustix::process::Signal;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use varta_fleet::api;

use crate::common::http::{Answer, Connection};
use crate::common::{
    Agent, AgentOptions, Client, Freezer, Observer, Options, SOON, program, signal, wait_for,
};

const SCHEMA: &str = include_str!("../../src/http/openapi.json");

fn served() -> Options {
    let arguments = vec!["--http".to_owned(), "127.0.0.1:0".to_owned()];
    Options { arguments, ..Options::default() }
}

fn with_token(base: &crate::common::Place) -> (Options, String) {
    let file = base.base().join("token");
    fs::write(&file, "correct-horse-battery\n").expect("write a token");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("it is ours");
    let config = format!("[http]\nlisten = \"127.0.0.1:0\"\ntoken-file = {:?}\n", file.display().to_string());
    (Options { config, ..Options::default() }, "correct-horse-battery".to_owned())
}

// --- what is answered -----------------------------------------------------------------------------

/// Asserts that a response matches the schema.
pub fn assert_is(name: &str, value: &Value) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut validator = Command::new(crate::common::python())
        .arg(root.join("tests/schema/validate.py"))
        .arg(root.join("src/http/openapi.json"))
        .arg(name)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("run Python");
    write!(validator.stdin.take().expect("a pipe"), "{value}").expect("it reads");
    let output = validator.wait_with_output().expect("it ends");
    let problems = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && problems.is_empty(), "{name}: {problems}\n{value:#}");
    match name {
        "Fleet" => assert_is_whole_as::<api::Fleet>(value),
        "Page" => assert_is_whole_as::<api::Page>(value),
        "Act" => assert_is_whole_as::<api::Act>(value),
        "History" => assert_is_whole_as::<api::History>(value),
        "AgentDetail" | "ExitedAgent" => assert_is_whole_as::<api::Detail>(value),
        _ => {}
    }
}

/// The type that others read it with has all of it.
fn assert_is_whole_as<T: DeserializeOwned + Serialize>(value: &Value) {
    let read: T = serde_json::from_value(value.clone()).expect("it is of that type");
    assert_eq!(serde_json::to_value(read).expect("it was JSON"), *value);
}

#[test]
fn fault_65_a_frozen_agent_is_shown_and_found_as_such() {
    let mut observer = Observer::start(served());
    let agent = Agent::start(Client::Rust02, &observer);
    let pid = agent.pid();
    observer.expect("up", pid, SOON);
    let freezer = Freezer::around(pid);
    freezer.freeze();
    observer.expect("frozen", pid, SOON);
    let found = |observer: &Observer, state: &str| {
        let page = observer.get(&format!("/api/v1/agents?state={state}")).json();
        assert_is("Page", &page);
        page["total"].as_u64()
    };
    wait_for("it to be shown as frozen", || (found(&observer, "frozen") == Some(1)).then_some(()));
    assert_eq!((found(&observer, "stalled"), found(&observer, "up")), (Some(0), Some(0)));
    let detail = observer.get(&format!("/api/v1/agents/{pid}")).json();
    assert_is("AgentDetail", &detail);
    assert_eq!(detail["state"], "frozen");
    let dir = observer.dir().display().to_string();
    let explain = program().args(["explain", "--dir", &dir, &pid.to_string()]).output();
    let said = String::from_utf8_lossy(&explain.expect("run it").stdout).into_owned();
    assert!(said.contains("FROZEN") && !said.contains("stalled"), "{said}");
    let counted = |observer: &Observer| {
        let text = observer.get("/metrics").text().to_owned();
        let frozen = text.lines().filter(|line| line.starts_with("varta_agents{") && line.contains("frozen"));
        frozen.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>()
    };
    wait_for("it to be counted", || (counted(&observer) > 0.5).then_some(()));
    freezer.thaw();
    observer.expect("frozen", pid, SOON);
    wait_for("it to be shown as up", || (found(&observer, "up") == Some(1)).then_some(()));
    observer.none_of("stall", pid);
    observer.stop();
}

#[test]
fn every_path_of_the_schema_answers_as_it_says() {
    let mut observer = Observer::start(served());
    let mut agent = Agent::start(Client::Rust02, &observer);
    let other = Agent::start(Client::Rust01, &observer);
    let pid = agent.pid();
    observer.expect("up", pid, SOON);
    observer.expect("up", other.pid(), SOON);
    agent.signal(Signal::STOP);
    observer.expect("stall", pid, SOON);
    agent.signal(Signal::CONT);
    observer.expect("resume", pid, SOON);

    let document: Value = serde_json::from_str(SCHEMA).expect("the schema is JSON");
    assert_eq!(observer.get("/api/v1/openapi.json").json(), document);
    for (path, item) in document["paths"].as_object().expect("paths") {
        if path == "/api/v1/events" {
            continue; // it has no end, and tests of its own
        }
        let asked = path.replace("{pid}", &pid.to_string());
        let (method, answer) = if item["post"].is_object() {
            let mut control = Connection::control(&observer.dir());
            control.send(format!("POST {asked} HTTP/1.1\r\nHost: localhost\r\n\r\n")).expect("send");
            ("post", control.answer())
        } else {
            ("get", observer.get(&asked))
        };
        let responses = &item[method]["responses"];
        let described = &responses[answer.code.to_string()];
        assert!(described.is_object(), "{asked} answers {}: {}", answer.code, answer.text());
        let kind = answer.headers["content-type"].split(';').next().expect("a type").to_owned();
        let content = if described["$ref"].is_string() {
            &document["components"]["responses"]["Refused"]["content"]
        } else {
            &described["content"]
        };
        assert!(content[&kind].is_object(), "{asked} is {kind}");
    }
    let reload = program().args(["reload", "--json", "--dir"]).arg(observer.dir()).output().expect("run it");
    assert_is("Reload", &serde_json::from_slice(&reload.stdout).expect("JSON"));
    assert_is("Fleet", &observer.get("/api/v1/fleet").json());
    assert_is("History", &observer.get("/api/v1/history?step=10s").json());
    let cells = observer.get("/api/v1/cells?max=1").json();
    assert_is("Cells", &cells);
    let of =
        |name: &str| cells["cells"].as_array().expect("cells").iter().map(|cell| cell[name].as_u64()).sum();
    assert_eq!((of("agents"), of("stalled")), (Some(2), Some(0)));
    let page = observer.get("/api/v1/agents").json();
    assert_is("Page", &page);
    assert_eq!(page["total"], 2);
    let detail = observer.get(&format!("/api/v1/agents/{pid}")).json();
    assert_is("AgentDetail", &detail);
    assert_eq!(detail["stalls"], 1);
    assert_eq!(detail["stall"]["certain"], true);
    let history: Vec<&str> = detail["history"]
        .as_array()
        .expect("a history")
        .iter()
        .map(|event| event["kind"].as_str().expect("a kind"))
        .collect();
    assert_eq!(history, ["up", "stall", "resume"]);

    signal(pid, Signal::KILL);
    observer.expect("exit", pid, SOON);
    agent.wait();
    let gone = wait_for("the exit to be remembered", || {
        let answer = observer.get(&format!("/api/v1/agents/{pid}")).json();
        (answer["state"] == "exited").then_some(answer)
    });
    assert_is("ExitedAgent", &gone);
    let last = gone["history"].as_array().and_then(|history| history.last()).expect("a last event");
    assert_eq!((&last["kind"], &last["signal"]), (&json!("exit"), &json!(9)));
    for unknown in ["/api/v1/agents/1", "/nope", "/api/v1/agents/1/2", "/metrics/agents"] {
        let answer = observer.get(unknown);
        assert!([400, 404].contains(&answer.code), "{unknown}: {}", answer.code);
        assert_is("Error", &serde_json::from_slice(&answer.body).expect("JSON"));
    }
    observer.stop();
}

#[test]
fn agents_are_filtered_sorted_and_paged() {
    let mut observer = Observer::start(Options::default());
    let options = |client| AgentOptions { client, ..AgentOptions::default() };
    let clients = (0..9).map(|n| options(if n % 2 == 0 { Client::Rust02 } else { Client::Rust01 }));
    let agents = Agent::start_many(&observer, clients);
    for agent in &agents {
        observer.expect("up", agent.pid(), SOON);
    }
    let stopped = &agents[4];
    signal(stopped.pid(), Signal::STOP);
    observer.expect("stall", stopped.pid(), SOON);

    let pids_of = |answer: &Value| -> Vec<u64> {
        let agents = answer["agents"].as_array().expect("agents");
        agents.iter().map(|agent| agent["pid"].as_u64().expect("a pid")).collect()
    };
    let mut expected: Vec<u64> = agents.iter().map(|agent| agent.pid().into()).collect();
    expected.sort_unstable();
    let (mut seen, mut after) = (Vec::new(), String::new());
    loop {
        let page = observer.get(&format!("/api/v1/agents?limit=4{after}")).json();
        assert_eq!(page["total"], 9);
        seen.extend(pids_of(&page));
        let Some(next) = page["next"].as_str() else { break };
        after = format!("&after={next}");
    }
    assert_eq!(seen, expected, "each on one page, in order");

    let of = |query: &str| pids_of(&observer.get(&format!("/api/v1/agents?{query}")).json());
    let is_stalled = || (of("state=stalled") == [u64::from(stopped.pid())]).then_some(());
    wait_for("the list to show the stall", is_stalled);
    assert_eq!(of("sort=silent&limit=1"), [u64::from(stopped.pid())], "silent for longest");
    let newest_first: Vec<u64> = expected.iter().rev().copied().collect();
    assert_eq!(of("order=desc"), newest_first);
    assert_eq!(of("comm=stock-agent"), expected);
    assert_eq!(of("comm=st*agen?").len(), 9);
    assert_eq!(of("comm=other"), Vec::<u64>::new());
    assert_eq!(of(&format!("comm={}", "*".repeat(64))).len(), 9);
    let long = format!("/api/v1/agents?comm={}", "*".repeat(65));
    assert!(observer.get(&long).refusal(400).contains("65 bytes, and names of processes have 15 at most"));
    assert_eq!(of("uid=0").len() + of("uid=1").len(), 9);
    assert_eq!(of("shard=0").len() + of("shard=1").len(), 9);
    for bad in ["state=dead", "limit=0", "limit=10001", "after=x", "sort=name", "pid=1", "limit=1&limit=2"] {
        let told = observer.get(&format!("/api/v1/agents?{bad}")).refusal(400);
        assert!(told.starts_with("cannot use parameter"), "{bad}: {told}");
    }
    observer.stop();
}

#[test]
fn events_are_followed_filtered_and_taken_up_again() {
    let mut observer = Observer::start(Options::default());
    let mut live = Connection::control(&observer.dir());
    live.ask("/api/v1/events?kind=up,stall", &[]);
    let (code, headers) = live.head().expect("a head").expect("an answer");
    assert_eq!((code, headers["content-type"].as_str()), (200, "text/event-stream"));
    let agent = Agent::start(Client::Rust02, &observer);
    let up = observer.expect("up", agent.pid(), SOON);

    let told = next_event(&mut live);
    assert_eq!(told.kind, "up");
    assert_eq!(told.data, serde_json::from_str::<Value>(&up.to_string()).expect("JSON"), "as in the log");
    signal(agent.pid(), Signal::STOP);
    assert_eq!(next_event(&mut live).kind, "stall");

    let remembered = |path: &str, headers: &[&str]| {
        let mut all = vec!["Connection: close"];
        all.extend_from_slice(headers);
        let answer = Connection::control(&observer.dir()).get(path, &all);
        assert_eq!(answer.code, 200, "{}", answer.text());
        // A busy machine may pause the observer, which reports that as `blind`.
        parse_events(answer.text()).into_iter().filter(|event| event.kind != "blind").collect::<Vec<_>>()
    };
    let kinds = |events: &[Told]| events.iter().map(|event| event.kind.clone()).collect::<Vec<_>>();
    let all = remembered("/api/v1/events?follow=false", &[]);
    assert_eq!(kinds(&all), ["start", "up", "stall"]);
    let last_id = format!("Last-Event-ID: {}", all[1].id);
    assert_eq!(kinds(&remembered("/api/v1/events?follow=false", &[&last_id])), ["stall"]);
    let after = format!("/api/v1/events?follow=false&after={}", all[1].data["seq"]);
    assert_eq!(kinds(&remembered(&after, &[])), ["stall"]);
    // An id of another run: all events of this run follow.
    let other_run = remembered("/api/v1/events?follow=false", &["Last-Event-ID: 1-3"]);
    assert_eq!(kinds(&other_run), ["start", "up", "stall"]);
    let of_pid = format!("/api/v1/events?follow=false&pid={}", agent.pid());
    assert_eq!(kinds(&remembered(&of_pid, &[])), ["up", "stall"]);
    assert!(observer.get("/api/v1/events?kind=upp").refusal(400).contains("write some of up,stall"));

    // A client that follows gets the `stop`, too.
    let mut rest = Connection::control(&observer.dir());
    rest.ask("/api/v1/events?kind=stop", &[]);
    rest.head().expect("a head");
    drop(agent);
    observer.stop();
    assert_eq!(next_event(&mut rest).kind, "stop");
}

struct Told {
    id: String,
    kind: String,
    data: Value,
}

fn parse_events(text: &str) -> Vec<Told> {
    let blocks = text.split("\n\n").filter(|block| block.starts_with("id: "));
    let parse = |block: &str| {
        let field = |name: &str| {
            let line = block.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_else(|| panic!("no {name} in {block:?}")).to_owned()
        };
        let data = serde_json::from_str(&field("data: ")).expect("an event is JSON");
        Told { id: field("id: "), kind: field("event: "), data }
    };
    blocks.map(parse).collect()
}

fn next_event(connection: &mut Connection) -> Told {
    loop {
        let chunk = connection.chunk().expect("an event in time").expect("an event before the end");
        let mut told = parse_events(std::str::from_utf8(&chunk).expect("text"));
        if !told.is_empty() {
            assert_eq!(told.len(), 1);
            return told.remove(0);
        }
    }
}

#[test]
fn health_is_what_the_shards_and_the_directory_say() {
    let observer = Observer::start(Options::default());
    assert_eq!(observer.get("/-/healthy").text(), "ok\n");
    assert_eq!(observer.get("/-/ready").text(), "ready\n");
    let mode = fs::metadata(observer.dir().join("control.sock")).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    // The observer creates a removed socket again, and open connections continue.
    let mut open = Connection::control(&observer.dir());
    open.get("/-/ready", &[]);
    fs::remove_file(observer.dir().join("control.sock")).expect("it is there");
    wait_for("the control socket to be back", || observer.dir().join("control.sock").exists().then_some(()));
    assert_eq!(observer.get("/-/ready").code, 200);
    assert_eq!(open.get("/-/ready", &[]).code, 200);
    let ended = observer.stop();
    assert!(ended.stderr.contains("control.sock had been removed or replaced"), "{}", ended.stderr);
}

// --- to which client ------------------------------------------------------------------------------

#[test]
fn without_the_token_nothing_is_told_over_tcp() {
    let place = crate::common::Place::new();
    let (options, token) = with_token(&place);
    let observer = Observer::start_in(place, options);
    let address = observer.http_address();
    let get = |header: &str| Connection::tcp(address).get("/api/v1/fleet", &[header, "Connection: close"]);
    for wrong in [
        "X-Nothing: 1",
        "Authorization: Bearer wrong",
        "Authorization: Basic dTp3cm9uZw==",
        "Authorization: Bearer ",
    ] {
        let answer = get(wrong);
        assert!(answer.refusal(401).contains("Bearer TOKEN"), "{wrong}");
        assert!(answer.headers["www-authenticate"].contains("Basic"), "so that a browser asks");
    }
    assert_eq!(get(&format!("Authorization: Bearer {token}")).code, 200);
    assert_eq!(get("Authorization: Basic b3BzOmNvcnJlY3QtaG9yc2UtYmF0dGVyeQ==").code, 200, "ops:TOKEN");
    let metrics = observer.get("/metrics");
    assert!(metrics.text().contains("varta_http_requests_total{code=\"401\"} 4\n"), "{}", metrics.text());
    observer.stop();
}

/// A health check by a service manager or load balancer has no token.
#[test]
fn whether_it_is_well_needs_no_token() {
    let place = crate::common::Place::new();
    let (options, _) = with_token(&place);
    let observer = Observer::start_in(place, options);
    let get = |path: &str| Connection::tcp(observer.http_address()).get(path, &["Connection: close"]);
    assert_eq!((get("/-/healthy").code, get("/-/ready").code), (200, 200));
    assert_eq!((get("/metrics").code, get("/-/other").code), (401, 401));
    observer.stop();
}

#[test]
fn a_token_that_is_replaced_is_asked_for_and_one_that_is_no_use_is_told() {
    let place = crate::common::Place::new();
    let (options, old) = with_token(&place);
    let (file, new) = (place.base().join("token"), place.base().join("token.new"));
    let observer = Observer::start_in(place, options);
    let code = |token: &str| {
        let header = format!("Authorization: Bearer {token}");
        Connection::tcp(observer.http_address()).get("/api/v1/fleet", &[&header, "Connection: close"]).code
    };
    let replace = |content: &str| {
        fs::write(&new, content).expect("write a token");
        fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).expect("it is ours");
        fs::rename(&new, &file).expect("replace the token");
    };
    assert_eq!(code(&old), 200);
    replace("another-horse-battery");
    wait_for("the new token", || (code("another-horse-battery") == 200).then_some(()));
    assert_eq!(code(&old), 401);
    replace("short");
    let told = wait_for("the trouble", || {
        let fleet = observer.get("/api/v1/fleet").text().to_owned();
        fleet.contains("the token of before stays in force").then_some(fleet)
    });
    assert!(told.contains("does not hold one line"), "{told}");
    assert_eq!(code("another-horse-battery"), 200);
    observer.stop();
}

/// A pipe without a writer: reading it would block for ever.
#[test]
fn a_pipe_for_a_token_file_is_refused_at_once() {
    let place = crate::common::Place::new();
    let (options, _) = with_token(&place);
    let token = place.base().join("token");
    fs::remove_file(&token).expect("it is ours");
    rustix::fs::mkfifoat(rustix::fs::CWD, &token, rustix::fs::Mode::RUSR).expect("make a pipe");
    let config = place.base().join("varta.toml");
    fs::write(&config, &options.config).expect("write the configuration");
    for command in ["run", "check"] {
        let mut child = program()
            .args([command, "--config"])
            .arg(&config)
            .arg("--dir")
            .arg(place.dir())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("run it");
        wait_for("its end", || child.try_wait().expect("it is our child"));
        let output = child.wait_with_output().expect("it ended");
        let told = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(78), "{command}: {told}");
        assert!(told.contains("is not a regular file"), "{command}: {told}");
    }
}

#[test]
fn a_token_that_others_can_read_is_refused_at_the_start() {
    let place = crate::common::Place::new();
    let (options, _) = with_token(&place);
    fs::set_permissions(place.base().join("token"), fs::Permissions::from_mode(0o644)).expect("it is ours");
    let config = place.base().join("varta.toml");
    fs::write(&config, &options.config).expect("write the configuration");
    for command in ["run", "check"] {
        let output = program()
            .args([command, "--config"])
            .arg(&config)
            .arg("--dir")
            .arg(place.dir())
            .output()
            .expect("run it");
        let told = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(78), "{command}: {told}");
        assert!(told.contains("can be read or written by others"), "{command}: {told}");
    }
}

#[test]
fn a_strangers_name_for_this_host_is_refused() {
    let observer = Observer::start(served());
    let ask = |host: &str| {
        let mut connection = Connection::tcp(observer.http_address());
        connection.send(format!("GET /api/v1/fleet HTTP/1.1\r\nHost: {host}\r\n\r\n")).expect("send");
        connection.answer()
    };
    for stranger in
        ["attacker.example", "attacker.example:9464", "127.0.0.1.attacker.example", "localhost.example"]
    {
        assert!(ask(stranger).refusal(421).contains("token"), "{stranger}");
    }
    for known in ["localhost", "LOCALHOST:9464", "127.0.0.1:9464", "[::1]:9464", "192.0.2.7"] {
        assert_eq!(ask(known).code, 200, "{known}");
    }
    observer.stop();
}

#[test]
fn a_port_that_is_taken_is_told_and_nothing_is_left_behind() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address").to_string();
    let place = crate::common::Place::new();
    let output =
        program().args(["run", "--http", &address, "--dir"]).arg(place.dir()).output().expect("run it");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(69), "{told}");
    assert!(told.contains(&format!("cannot serve http on {address}")), "{told}");
    let left: Vec<_> =
        fs::read_dir(place.dir()).expect("list").map(|entry| entry.expect("entry").file_name()).collect();
    assert_eq!(left, ["lock"]);
}

// --- what a client cannot do ----------------------------------------------------------------------

#[test]
fn fault_45_hostile_requests_are_refused_or_cut_off_and_others_are_served() {
    let observer = Observer::start(served());
    let address = observer.http_address();
    let code_of = |request: &[u8]| {
        let mut connection = Connection::tcp(address);
        // A server that refuses a request may close before everything is sent.
        let _ = connection.send(request);
        connection.try_answer().ok().flatten().map(|answer| answer.code)
    };
    let long = [b"GET /".as_slice(), &vec![b'a'; 1 << 20], b" HTTP/1.1\r\nHost: localhost\r\n\r\n"].concat();
    assert!(matches!(code_of(&long), Some(414 | 431) | None));
    let many = format!("GET / HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "X: y\r\n".repeat(200));
    assert_eq!(code_of(many.as_bytes()), Some(431));
    let fat = format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "y".repeat(20_000));
    assert!(matches!(code_of(fat.as_bytes()), Some(431) | None));
    assert_eq!(code_of(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"), Some(400));
    let with_body = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello";
    assert_eq!(code_of(with_body), Some(413));
    let post = b"POST /api/v1/fleet HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(code_of(post), Some(405));
    assert_eq!(code_of(b"DELETE / HTTP/1.1\r\nHost: localhost\r\n\r\n"), Some(405));

    // Pipelined requests are answered in order.
    let mut pipelined = Connection::tcp(address);
    let one = "GET /-/ready HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let two = "GET /nope HTTP/1.1\r\nHost: localhost\r\n\r\n";
    pipelined.send(format!("{one}{two}{one}")).expect("send");
    assert_eq!([pipelined.answer().code, pipelined.answer().code, pipelined.answer().code], [200, 404, 200]);

    // A request that arrives in pieces is served; a HEAD has no body.
    let mut late = Connection::tcp(address);
    for piece in ["HE", "AD /metrics HTT", "P/1.1\r\nHost: loc", "alhost\r\nConnection: close\r\n\r", "\n"] {
        late.send(piece).expect("send");
        observer.get("/-/ready");
    }
    let (code, headers) = late.head().expect("a head").expect("an answer");
    assert_eq!(code, 200);
    assert!(headers["content-length"].parse::<u64>().expect("a length") > 1000);
    assert!(late.head().expect("the end").is_none());

    // A client that never finishes its request is cut off.
    let mut slow = Connection::tcp(address);
    slow.send("GET /metrics HTTP/1.1\r\n").expect("send");
    let began = Instant::now();
    let cut_off = loop {
        match slow.try_answer() {
            Ok(Some(answer)) => break Some(answer.code),
            Ok(None) => break None,
            Err(error) => assert!(began.elapsed() < 3 * SOON, "it is still open: {error}"),
        }
    };
    assert!(matches!(cut_off, None | Some(408)), "{cut_off:?}");
    assert_eq!(observer.get("/-/healthy").code, 200);
    // Responses that the HTTP library sends by itself are counted, too.
    let metrics = observer.get("/metrics");
    for code in [400, 408, 413, 431] {
        let none = format!("varta_http_requests_total{{code=\"{code}\"}} 0\n");
        assert!(metrics.text().contains(&none[..none.len() - 2]), "{code}");
        assert!(!metrics.text().contains(&none), "{code} was not counted");
    }
    observer.stop();
}

#[test]
fn fault_45_idle_connections_delay_nobody_and_make_room() {
    const IDLE: usize = 500;
    const MOST: usize = 1024;
    let observer = Observer::start(served());
    let address = observer.http_address();
    let mut idle: Vec<Connection> = (0..IDLE).map(|_| Connection::tcp(address)).collect();
    let answer = Connection::tcp(address).get("/metrics", &["Connection: close"]);
    assert_eq!(answer.code, 200);
    let open = value_of(answer.text(), "varta_http_connections");
    assert!(open >= IDLE as f64, "{open} are open, those that wait to be let in apart");
    // More than the limit: the connections that were idle longest are closed.
    idle.extend((IDLE..MOST + 10).map(|_| Connection::tcp(address)));
    let answer = Connection::tcp(address).get("/metrics", &["Connection: close"]);
    assert!(value_of(answer.text(), "varta_http_connections_evicted_total") >= 10.0, "{}", answer.text());
    assert!(idle[0].try_answer().is_ok_and(|answer| answer.is_none()), "the first was closed");
    assert_eq!(idle[MOST + 9].get("/-/ready", &[]).code, 200, "the last is served");
    assert_eq!(observer.get("/-/healthy").code, 200, "the operator's way in is counted apart");
    observer.stop();
}

#[test]
fn one_who_does_not_take_an_answer_costs_nobody_anything() {
    let mut observer = Observer::start(served());
    let address = observer.http_address();
    // Requests more than the kernel's buffers hold, and reads nothing.
    let mut lazy = Connection::tcp(address);
    for _ in 0..20_000 {
        if lazy.send("GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").is_err() {
            break;
        }
        if Connection::tcp(address).get("/-/ready", &["Connection: close"]).code != 200 {
            panic!("others are not served");
        }
        let open = value_of(observer.get("/metrics").text(), "varta_http_connections");
        if open < 2.0 {
            break; // cut off
        }
    }
    let agent = Agent::start(Client::Rust02, &observer);
    observer.expect("up", agent.pid(), SOON);
    assert_eq!(observer.get("/-/healthy").code, 200);
    let ended = observer.stop();
    assert!(ended.took < SOON, "{:?}", ended.took);
}

// --- metrics --------------------------------------------------------------------------------------

fn value_of(metrics: &str, name: &str) -> f64 {
    let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let value = line.unwrap_or_else(|| panic!("no {name} in {metrics}"));
    value.parse().unwrap_or_else(|_| panic!("{name} is {value}"))
}

fn metrics(observer: &Observer, headers: &[&str]) -> Answer {
    Connection::control(&observer.dir()).get("/metrics", headers)
}

#[test]
fn metrics_add_up_and_come_in_the_form_that_is_asked_for() {
    let mut observer = Observer::start(served());
    let empty = metrics(&observer, &[]);
    let agents: Vec<Agent> = (0..6).map(|_| Agent::start(Client::Rust02, &observer)).collect();
    for agent in &agents {
        observer.expect("up", agent.pid(), SOON);
    }
    signal(agents[0].pid(), Signal::STOP);
    observer.expect("stall", agents[0].pid(), SOON);
    let text = wait_for("the metrics to show the stall", || {
        let answer = metrics(&observer, &[]);
        answer
            .text()
            .contains("varta_stalls_total{shard=\"0\",certain=\"true\"} 1")
            .then(|| answer.clone())
            .or_else(|| {
                answer.text().contains("varta_stalls_total{shard=\"1\",certain=\"true\"} 1").then_some(answer)
            })
    });
    let sum = |prefix: &str| -> f64 {
        let lines = text.text().lines().filter(|line| line.starts_with(prefix));
        lines.map(|line| line.rsplit(' ').next().expect("a value").parse::<f64>().expect("a number")).sum()
    };
    assert_eq!(sum("varta_frames_total{"), sum("varta_beats_total{") + sum("varta_frames_refused_total{"));
    assert_eq!(sum("varta_agents{"), 6.0);
    assert_eq!(sum("varta_sessions_total{"), 6.0);
    assert_eq!(value_of(text.text(), "varta_stall_lateness_seconds_count"), 1.0);
    // Once no agent beats, the reports of batches catch up.
    agents[1..].iter().for_each(|agent| agent.signal(Signal::STOP));
    wait_for("every batch to be reported", || {
        let text = metrics(&observer, &[]);
        let frames = text.text().lines().filter_map(|line| line.strip_prefix("varta_frames_total{"));
        let frames: f64 = frames.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum();
        (value_of(text.text(), "varta_batch_frames_sum") == frames).then_some(())
    });
    // Every series exists from the first scrape on.
    let names = |text: &str| -> Vec<String> {
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        samples.map(|line| line.rsplit_once(' ').expect("a value").0.to_owned()).collect()
    };
    assert_eq!(names(empty.text()), names(text.text()));

    assert_eq!(text.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    let prometheus =
        "Accept: application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.3";
    let openmetrics = metrics(&observer, &[prometheus]);
    assert_eq!(
        openmetrics.headers["content-type"],
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    );
    assert!(openmetrics.text().ends_with("# EOF\n"));
    assert!(!text.text().contains("# EOF"));
    let plain = metrics(&observer, &["Accept: text/plain;q=0.9, application/openmetrics-text;q=0.1"]);
    assert_eq!(plain.headers["content-type"], text.headers["content-type"]);

    let zipped = metrics(&observer, &["Accept-Encoding: deflate, gzip;q=0.5"]);
    assert_eq!(zipped.headers["content-encoding"], "gzip");
    let mut unzipped = String::new();
    GzDecoder::new(&zipped.body[..]).read_to_string(&mut unzipped).expect("gzip");
    assert_eq!(names(&unzipped), names(text.text()));
    assert!(!metrics(&observer, &["Accept-Encoding: gzip;q=0"]).headers.contains_key("content-encoding"));
    observer.stop();
}

#[test]
fn agents_have_series_of_their_own_only_if_asked_for_and_only_so_many() {
    let config = "[http]\nmetrics-agents-max = 2\n".to_owned();
    let mut observer = Observer::start(Options { config, ..Options::default() });
    let agents: Vec<Agent> = (0..3).map(|_| Agent::start(Client::Rust02, &observer)).collect();
    for agent in &agents {
        observer.expect("up", agent.pid(), SOON);
    }
    let answer = wait_for("all three", || {
        let answer = observer.get("/metrics/agents");
        answer.text().starts_with("# 2 of 3 agents").then_some(answer)
    });
    let mut pids: Vec<u32> = agents.iter().map(Agent::pid).collect();
    pids.sort_unstable();
    let of_watch = observer.get("/metrics/agents?names=varta-watch");
    for (answer, family, expected) in [
        (&answer, "varta_agent_beats_total", None),
        (&answer, "varta_agent_stalls_total", Some("0")),
        (&answer, "varta_agent_status", Some("0")),
        (&of_watch, "varta_beats_total", None),
        (&of_watch, "varta_stalls_total", Some("0")),
        (&of_watch, "varta_status", Some("0")),
    ] {
        let series: Vec<&str> = answer.text().lines().filter(|line| line.starts_with(family)).collect();
        assert_eq!(series.len(), 2, "{}", answer.text());
        for (line, pid) in series.iter().zip(&pids) {
            assert!(line.starts_with(&format!("{family}{{pid=\"{pid}\"}} ")), "{line}");
            assert!(expected.is_none_or(|value| line.ends_with(value)), "{line}");
        }
    }
    // A sum over all scraped series counts nothing twice.
    let fleet = observer.get("/metrics?collect=all");
    assert!(!fleet.text().contains("pid="));
    let families = |text: &str| -> Vec<String> {
        text.lines().filter_map(|line| Some(line.strip_prefix("# TYPE ")?.to_owned())).collect()
    };
    let of_agents = families(answer.text());
    assert_eq!(of_agents.len(), 3);
    assert!(!families(fleet.text()).iter().any(|family| of_agents.contains(family)), "{of_agents:?}");
    assert!(observer.get("/metrics/agents?names=mine").refusal(400).contains("varta-fleet, varta-watch"));
    observer.stop();
}

#[test]
fn fault_47_a_name_with_quotes_markup_and_controls_is_text_everywhere() {
    let config = "[http]\nmetrics-agents-max = 10\n".to_owned();
    let mut observer = Observer::start(Options { config, ..Options::default() });
    // A process is named after the file that it executes.
    let name = "<b>\"'\\}\n\u{1b}[2Jx";
    let program = observer.place().base().join(name);
    crate::common::copy_program(crate::common::rust_program(), &program);
    let agent =
        Agent::start_with(&observer, AgentOptions { program: Some(program), ..AgentOptions::default() });
    observer.expect("up", agent.pid(), SOON);
    let listed = wait_for("its name", || {
        let page = observer.get("/api/v1/agents").json();
        page["agents"][0]["comm"].is_string().then_some(page)
    });
    assert_eq!(listed["agents"][0]["comm"], name, "JSON says it as it is");
    let found = observer.get("/api/v1/agents?comm=%3Cb%3E*").json();
    assert_eq!(found["total"], 1);
    for path in ["/metrics", "/metrics/agents"] {
        let text = observer.get(path);
        assert!(!text.text().contains("<b>"), "names are no labels");
        let lines = text.text().lines().filter(|line| !line.starts_with('#'));
        for line in lines {
            let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line:?}"));
            assert!(value.parse::<f64>().is_ok() && series.starts_with(['v', 'p']), "{line:?}");
        }
    }
    agent.signal(Signal::STOP);
    observer.expect("stall", agent.pid(), SOON);
    let page = wait_for("the page to show the stall", || {
        let page = observer.get("/");
        page.text().contains("&lt;b&gt;&quot;&#39;").then_some(page)
    });
    assert!(!page.text().contains("<b>"), "{}", page.text());
    observer.stop();
}

#[test]
fn fault_39_without_a_descriptor_left_idle_connections_make_room() {
    let mut observer = Observer::start(served());
    let address = observer.http_address();
    let mut idle: Vec<Connection> = (0..20).map(|_| Connection::tcp(address)).collect();
    for connection in &mut idle {
        assert_eq!(connection.get("/-/ready", &[]).code, 200);
    }
    let open = fs::read_dir(format!("/proc/{}/fd", observer.pid())).expect("its descriptors").count();
    let limit = format!("--nofile={open}:{open}");
    let status = Command::new("prlimit")
        .args(["--pid", &observer.pid().to_string(), &limit])
        .status()
        .expect("run prlimit");
    assert!(status.success());
    for _ in 0..5 {
        assert_eq!(Connection::tcp(address).get("/-/ready", &["Connection: close"]).code, 200);
    }
    let agent = Agent::start(Client::Rust02, &observer);
    observer.expect("up", agent.pid(), SOON);
    observer.stop();
}
