//! The commands that an operator types, with real observers and agents; `top` in a real terminal.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use rustix::process::Signal;
use serde_json::Value;
use varta_fleet::config::{KEYS, Key, TABLES};
use varta_fleet::event::EventKind;

use crate::common::{
    Agent, AgentOptions, Client, Observer, Options, PROGRAM, Place, SOON, Terminal, program, program_by,
    wait_for,
};

fn run(dir: &Path, arguments: &[&str]) -> Output {
    let mut command = program();
    command.args(arguments).env("VARTA_DIR", dir).output().expect("run it")
}

/// The output of a command that must succeed.
pub fn said(dir: &Path, arguments: &[&str]) -> String {
    let output = run(dir, arguments);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(
        output.status.code(),
        Some(0),
        "{arguments:?}: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

/// The error of a command that must exit with this code.
fn refused(dir: &Path, arguments: &[&str], code: i32) -> String {
    let output = run(dir, arguments);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
    assert!(text.starts_with("error: "), "{text}");
    text
}

fn fleet_of_three() -> (Observer, Vec<Agent>) {
    let mut observer = Observer::start(Options::default());
    let client = |client| AgentOptions { client, ..AgentOptions::default() };
    let clients = [Client::Rust02, Client::Rust01, Client::Rust02];
    let agents = Agent::start_many(&observer, clients.map(client));
    for agent in &agents {
        observer.expect("up", agent.pid(), SOON);
    }
    (observer, agents)
}

#[test]
fn a_stall_is_seen_listed_and_explained() {
    let (mut observer, agents) = fleet_of_three();
    let dir = observer.dir();
    assert!(said(&dir, &["status"]).starts_with("All well: 3 agents beat.\n"));
    let pid = agents[1].pid().to_string();
    wait_for("a third beat", || {
        let detail = observer.get(&format!("/api/v1/agents/{pid}")).json();
        detail["period_ns"].is_u64().then_some(())
    });
    agents[1].signal(Signal::STOP);
    observer.expect("stall", agents[1].pid(), SOON);

    let status = said(&dir, &["status"]);
    assert!(status.starts_with("1 of 3 agents is stalled.\n"), "{status}");
    assert!(status.contains("varta-fleet agents --state stalled"), "{status}");
    let json: Value = serde_json::from_str(&said(&dir, &["status", "--json"])).expect("JSON");
    assert_eq!(json["stalled"], 1);

    wait_for("the list to show it", || {
        let listed = said(&dir, &["agents", "--state", "stalled"]);
        let lines: Vec<&str> = listed.lines().collect();
        (lines.len() == 3 && lines[1].trim_start().starts_with(&pid) && lines[2] == "1 agent").then_some(())
    });
    let all = said(&dir, &["agents", "--json", "--sort", "silent"]);
    let first: Value = serde_json::from_str(all.lines().next().expect("three lines")).expect("JSON");
    assert_eq!((first["pid"].to_string(), all.lines().count()), (pid.clone(), 3));
    let limited = said(&dir, &["agents", "--limit", "2", "--comm", "stock-*"]);
    assert_eq!(limited.lines().last(), Some("2 of 3 agents"));

    let explained = said(&dir, &["explain", &pid]);
    let text = explained.replace('\n', " ");
    for part in [
        &format!("stock-agent (pid {pid}, uid 0) is STALLED"),
        "usually one every ",
        "A silence of 1.00 s is a stall for it (the default).",
        "It was judged stalled once:",
        "the observer could see for a whole threshold",
        "Its shard has never been blind.",
        "silent for 1.0",
    ] {
        assert!(text.contains(part), "{part}: {explained}");
    }
    agents[1].signal(Signal::CONT);
    observer.expect("resume", agents[1].pid(), SOON);
    assert!(said(&dir, &["explain", &pid]).replace('\n', " ").contains("The silence ended"));
    agents[1].signal(Signal::KILL);
    observer.expect("exit", agents[1].pid(), SOON);
    wait_for("the end to be explained", || {
        let text = said(&dir, &["explain", &pid]).replace('\n', " ");
        let told = format!("(pid {pid}, uid {}) ended by signal 9 at 20", rustix::process::getuid().as_raw());
        text.contains(&told).then_some(())
    });
    assert!(refused(&dir, &["explain", "1"], 1).contains("is it the right pid?"));
    observer.stop();
}

#[test]
fn events_are_shown_as_words_or_as_in_the_log_and_followed_to_the_end() {
    let (mut observer, agents) = fleet_of_three();
    let dir = observer.dir();
    let log: String = observer.events().iter().map(|event| format!("{event}\n")).collect();
    wait_for("the last event", || (said(&dir, &["events"]) == log).then_some(()));
    let of_pid = said(&dir, &["events", "--pid", &agents[0].pid().to_string(), "--format", "words"]);
    assert!(of_pid.ends_with("beats, status ok\n") && of_pid.lines().count() == 1, "{of_pid}");
    assert!(refused(&dir, &["events", "--kind", "stal"], 1).contains("write some of up,stall"));

    let mut following = program()
        .args(["events", "--follow", "--after", "0", "--kind", "start,exit,stop"])
        .env("VARTA_DIR", &dir)
        .stdout(Stdio::piped())
        .spawn()
        .expect("run it");
    // Once it shows the first event, it is connected.
    let mut shown = BufReader::new(following.stdout.take().expect("a pipe"));
    let mut text = String::new();
    shown.read_line(&mut text).expect("the first event");
    drop(agents);
    for _ in 0..3 {
        observer.expect_kind("exit", SOON);
    }
    let ended = observer.stop();
    shown.read_to_string(&mut text).expect("text");
    let status = following.wait().expect("it ends with the fleet");
    assert_eq!(status.code(), Some(0));
    let kinds: Vec<String> = text
        .lines()
        .map(|line| {
            serde_json::from_str::<Value>(line).expect("JSON")["kind"].as_str().expect("a kind").to_owned()
        })
        .collect();
    assert_eq!(kinds, ["start", "exit", "exit", "exit", "stop"]);
    assert!(refused(&ended.place.dir(), &["events"], 69).contains("no fleet is running"));
}

#[test]
fn who_may_not_ask_and_where_nobody_answers_is_told() {
    let place = Place::new();
    for command in [&["status"][..], &["agents"], &["explain", "7"], &["events", "--follow"]] {
        let told = refused(&place.dir(), command, 69);
        assert!(told.contains("varta-fleet run") && told.contains("--dir"), "{told}");
    }
    assert!(refused(&place.dir(), &["top"], 2).contains("status --json"));
    crate::common::needs_root("it asks as another user");
    let (observer, _agents) = fleet_of_three();
    let copy = observer.place().base().join("copy");
    crate::common::copy_program(Path::new(PROGRAM), &copy);
    let output = program_by("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
        .arg(&copy)
        .args(["status", "--dir"])
        .arg(observer.dir())
        .output()
        .expect("run setpriv");
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(77), "{told}");
    assert!(
        told.contains("belongs to root:root, has mode 0") && told.contains("; use sudo, or let "),
        "{told}"
    );
    observer.stop();
}

/// Every command that the help lists.
pub fn commands() -> Vec<String> {
    let help = said(Path::new("/nonexistent"), &["--help"]);
    let listed = help.split("Commands:").nth(1).and_then(|rest| rest.split("\n\n").next()).expect("commands");
    // Continuation lines are indented further.
    let lines = listed.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let commands: Vec<String> =
        lines.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect();
    assert!(commands.len() >= 12, "{commands:?}");
    commands
}

#[test]
fn manual_and_completions_know_every_command_and_flag() {
    let place = Place::new();
    let manual = said(&place.dir(), &["man"]);
    let commands = commands();
    for command in &commands {
        assert!(manual.contains(&format!(".SH \"{}\"", command.to_uppercase())), "{command}");
    }
    let plain = manual.replace('\\', "");
    for part in [".SH \"ACT HOLD\"", "act hold --unit 'worker@*' --for 1h", "fB--why"] {
        assert!(plain.replace("(aq", "'").contains(part), "{part}");
    }
    for flag in ["--http", "--threshold", "--uid-frames-max", "--follow", "--flat-out", "--state"] {
        assert!(plain.contains(flag), "{flag}");
    }
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = said(&place.dir(), &["completions", shell]);
        for command in &commands {
            assert!(script.contains(command.as_str()), "{shell}: {command}");
        }
        for hidden in ["load-agent", "demo-agent"] {
            assert!(!script.contains(hidden), "{shell}: {hidden}");
        }
    }
}

#[test]
fn help_is_a_word_too() {
    let place = Place::new();
    assert_eq!(said(&place.dir(), &["help"]), said(&place.dir(), &["--help"]));
    let of_run = said(&place.dir(), &["help", "run"]);
    assert_eq!(of_run, said(&place.dir(), &["run", "--help"]));
    assert!(of_run.contains("Usage: varta-fleet run"), "{of_run}");
    let told = refused(&place.dir(), &["help", "rum"], 2);
    assert!(told.contains("a similar subcommand exists: 'run'"), "{told}");
}

/// A socket of a group, as the package sets it up, and a directory that may not be searched.
#[test]
fn who_may_not_ask_is_told_whose_the_socket_is_and_what_to_do() {
    crate::common::needs_root("it asks as another user");
    let (observer, _agents) = fleet_of_three();
    let dir = observer.dir();
    let copy = observer.place().base().join("copy");
    crate::common::copy_program(Path::new(PROGRAM), &copy);
    let asked = |command: &str| {
        let mut other = program_by("setpriv");
        other.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(&copy);
        let output = other.args([command, "--dir"]).arg(&dir).output().expect("run setpriv");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(77), "{told}");
        told
    };
    let open = |path: &Path, mode: u32, gid: u32| {
        std::os::unix::fs::chown(path, None, Some(gid)).expect("chown");
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
    };
    open(&dir, 0o711, 0);
    open(&dir.join("control.sock"), 0o660, 12);
    let told = asked("status");
    for part in [
        "cannot ask the fleet at ",
        "/control.sock: permission denied: it belongs to root:man, has mode 0660, and you are user nobody",
        "join the group man (sudo usermod -aG man nobody, then log in again)",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    open(&dir.join("control.sock"), 0o600, 12);
    let told = asked("agents");
    assert!(told.contains("`control-mode` and `control-group` in the configuration"), "{told}");
    open(&dir.join("fleet.json"), 0o644, 0);
    let told = asked("route");
    assert!(
        told.contains("cannot send to ") && told.contains("use sudo, or let a group use it: `mode` and"),
        "{told}"
    );
    open(&dir, 0o700, 0);
    for command in ["status", "load"] {
        let told = asked(command);
        assert!(told.contains("its directory ") && told.contains("has mode 0700"), "{told}");
        assert!(!told.contains("waiting"), "waiting would not help: {told}");
    }
    observer.stop();
}

#[test]
fn every_manual_page_is_written_and_well_formed() {
    let place = Place::new();
    let manual = place.base().join("man");
    let manual_dir = manual.to_str().expect("text");
    assert_eq!(said(&place.dir(), &["man", "--dir", manual_dir]), "");
    let page =
        |path: &str| fs::read_to_string(manual.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    let plain = |text: String| text.replace("\\-", "-").replace("\\fB", "").replace("\\fR", "");
    assert_eq!(page("man1/varta-fleet.1"), said(&place.dir(), &["man"]));
    let commands = commands();
    for command in &commands {
        let page = plain(page(&format!("man1/varta-fleet-{command}.1")));
        assert!(page.contains(&format!(".TH varta-fleet-{command} 1 ")), "{page}");
        assert!(page.contains(".SH SYNOPSIS") && page.contains("varta-fleet.toml(5)"), "{page}");
    }
    let written = fs::read_dir(manual.join("man1")).expect("a directory").count();
    assert_eq!(written, 1 + commands.len(), "a hidden command has no page");

    let settings = plain(page("man5/varta-fleet.toml.5"));
    let is_table =
        |key: &&Key| TABLES.iter().any(|(heading, _)| heading.trim_matches(['[', ']']) == key.name);
    let tables = TABLES.iter().flat_map(|(_, keys)| *keys);
    for key in KEYS.iter().filter(|key| !is_table(key)).chain(tables) {
        assert!(!key.help.is_empty(), "{}: nobody says what it means", key.name);
        assert!(settings.contains(&format!(".TP\n{}\n", key.name)), "{} is missing:\n{settings}", key.name);
        assert!(settings.contains(key.variable), "{} is missing", key.variable);
    }
    let events = page("man7/varta-fleet-events.7");
    for kind in EventKind::NAMES {
        assert!(events.contains(&format!(".TP\n\\fB{kind}\\fR\n")), "{kind} is missing:\n{events}");
    }

    // Warnings of groff, if it is installed.
    for section in ["man1", "man5", "man7"] {
        for entry in fs::read_dir(manual.join(section)).expect("a directory") {
            let path = entry.expect("an entry").path();
            let Ok(troff) = Command::new("groff").args(["-man", "-Tutf8", "-ww", "-z"]).arg(&path).output()
            else {
                return;
            };
            let complaints = String::from_utf8_lossy(&troff.stderr);
            assert!(troff.status.success() && complaints.is_empty(), "{}: {complaints}", path.display());
        }
    }
}

#[test]
fn a_manual_that_cannot_be_written_is_said() {
    let place = Place::new();
    let file = place.base().join("file");
    fs::write(&file, "").expect("write a file");
    let told = refused(&place.dir(), &["man", "--dir", file.to_str().expect("text")], 1);
    assert!(told.contains("cannot write ") && told.contains("man1/varta-fleet.1: not a directory"), "{told}");
}

// --- top ------------------------------------------------------------------------------------------

fn top(dir: &Path) -> String {
    format!("{PROGRAM} top --dir {}", dir.display())
}

#[test]
fn top_shows_the_fleet_live_and_gives_the_terminal_back() {
    let (mut observer, agents) = fleet_of_three();
    let terminal = Terminal::run("live", &top(&observer.dir()));
    terminal.expect("All well: 3 agents beat.");
    let pid = agents[0].pid();
    agents[0].signal(Signal::STOP);
    observer.expect("stall", pid, SOON);
    terminal.expect("1 of 3 agents is stalled.");
    terminal.expect(&format!("stall    pid {pid}"));
    let screen = terminal.expect("stalled      1 ");
    let lines: Vec<&str> = screen.lines().collect();
    assert!(lines[23].contains("q quit"), "{screen}");
    let worst = lines.iter().position(|line| line.contains("silent↓")).expect("a table") + 1;
    assert!(
        lines[worst].contains(&pid.to_string()),
        "the one that is silent for longest is the first:\n{screen}"
    );

    terminal.keys(&["s"]);
    terminal.expect("stalls↓");
    terminal.keys(&["/", "n", "o", "n", "e", "Enter"]);
    terminal.expect("nobody");
    terminal.keys(&["Escape"]);
    terminal.expect("stock-agent");
    terminal.keys(&["?"]);
    terminal.expect("reverse the order");
    terminal.keys(&["?", "f"]);
    terminal.expect("FROZEN, f goes on");
    agents[0].signal(Signal::CONT);
    observer.expect("resume", pid, SOON);
    let screen = terminal.expect("FROZEN, 1 new, f goes on");
    assert!(screen.contains("1 of 3 agents is stalled.") && !screen.contains("resume "), "{screen}");
    terminal.keys(&["f"]);
    terminal.expect("All well: 3 agents beat.");
    terminal.expect(&format!("resume   pid {pid}"));
    terminal.keys(&["q"]);
    let screen = terminal.expect("ended 0");
    assert!(!screen.contains("All well"), "the screen from before is back:\n{screen}");
    terminal.keys(&["stty -a | grep -o ' echo '", "Enter"]);
    terminal.expect("\n echo");
    observer.stop();
}

/// Half an hour beside a whole zone, so that the zone cannot be that of this machine.
#[test]
fn people_read_the_time_of_where_they_are() {
    let (mut observer, agents) = fleet_of_three();
    let pid = agents[0].pid();
    agents[0].signal(Signal::STOP);
    let stall = observer.expect("stall", pid, SOON);
    let dir = observer.dir();
    let (date, utc) = stall.str("ts").split_once('T').map(|(date, time)| (date, &time[..8])).expect("a time");
    let number = |text: &str| text.parse::<u32>().expect("a number");
    let seconds = number(&utc[..2]) * 3600 + number(&utc[3..5]) * 60 + number(&utc[6..]);
    let here = (seconds + 12_600) % 86_400;
    let here = format!("{:02}:{:02}:{:02}", here / 3600, here / 60 % 60, here % 60);
    let explained = |arguments: &[&str]| {
        let pid = pid.to_string();
        let mut command = program();
        command.args(["explain", &pid]).args(arguments).env("VARTA_DIR", &dir).env("TZ", "XYZ-3:30");
        String::from_utf8_lossy(&command.output().expect("run it").stdout).into_owned()
    };
    let local = explained(&[]);
    assert!(local.contains(&here) && !local.contains(utc), "{here}: {local}");
    let universal = explained(&["--utc"]);
    assert!(universal.contains(&format!("{date} {utc}")) && !universal.contains(&here), "{universal}");
    for (name, flag, expected) in [("here", "", &*here), ("utc", " --utc", utc)] {
        let terminal = Terminal::of_size(name, (100, 30), &format!("TZ=XYZ-3:30 {}{flag}", top(&dir)));
        let screen = terminal.expect(&format!("stall    pid {pid}"));
        let line = screen.lines().find(|line| line.contains("stall    pid")).expect("it is there");
        assert!(line.contains(expected), "{expected}: {line}");
        terminal.keys(&["q"]);
        terminal.expect("ended 0");
    }
    agents[0].signal(Signal::CONT);
    observer.stop();
}

#[test]
fn top_says_that_the_fleet_is_gone_goes_on_when_it_is_back_and_ends_on_a_signal() {
    let (observer, agents) = fleet_of_three();
    let terminal = Terminal::run("gone", &format!("{} & fg", top(&observer.dir())));
    terminal.expect("All well: 3 agents beat.");
    drop(agents);
    let place = observer.stop().place;
    let screen = terminal.expect("! no fleet is running");
    assert!(screen.starts_with("NO ANSWER for "), "{screen}");
    let grey = terminal.tmux(&["capture-pane", "-p", "-e"]);
    assert!(grey.contains("\u{1b}[38;5;8mfleet"), "{grey:?}");
    let observer = Observer::start_in(place, Options::default());
    terminal.expect("No agent beats.");
    for signal in ["TERM", "INT", "HUP"] {
        let found = Command::new("pkill")
            .args([&format!("-{signal}"), "-f", &format!("^{}", top(&observer.dir()))])
            .status()
            .expect("run pkill");
        assert!(found.success(), "{signal}");
        terminal.expect("ended 0");
        terminal.keys(&["clear", "Enter"]);
        terminal.keys(&[&format!("{}; echo ended $?", top(&observer.dir())), "Enter"]);
        terminal.expect("No agent beats.");
    }
    terminal.keys(&["C-c"]);
    terminal.expect("ended 0");

    // Closes the terminal under `top`.
    terminal.keys(&["clear", "Enter", &format!("exec {}", top(&observer.dir())), "Enter"]);
    terminal.expect("No agent beats.");
    drop(terminal);
    let pattern = format!("^{}", top(&observer.dir()));
    wait_for("top to end with its terminal", || {
        let found = Command::new("pgrep").args(["-f", &pattern]).output().expect("run pgrep");
        (!found.status.success()).then_some(())
    });
    observer.stop();
}

/// Selects, sorts, filters and explains at the sizes that terminals have.
#[test]
fn top_selects_sorts_filters_and_explains_at_every_size() {
    let (observer, agents) = fleet_of_three();
    let mut pids: Vec<u32> = agents.iter().map(Agent::pid).collect();
    pids.sort_unstable();
    let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
    for size in [(60, 15), (80, 24), (150, 40)] {
        let terminal = Terminal::of_size(&format!("size-{}", size.0), size, &top(&observer.dir()));
        let screen = terminal.expect("All well: 3 agents beat.");
        assert_eq!(screen.lines().count(), usize::from(size.1), "{screen}");
        terminal.expect("silent↓");
        // Sorted by pid, the list is calm.
        terminal.keys(&["<"]);
        terminal.expect("pid↑");
        let order = |terminal: &Terminal, order: [usize; 3]| {
            wait_for("the order of the list", || {
                let screen = terminal.screen();
                let at = |pid: &String| screen.find(&format!("\n{pid:>7} stock-agent"));
                let rows: Option<Vec<usize>> = order.iter().map(|index| at(&pids[*index])).collect();
                rows.filter(|rows| rows.is_sorted()).map(drop)
            });
        };
        order(&terminal, [0, 1, 2]);
        terminal.keys(&["r"]);
        terminal.expect("pid↓");
        order(&terminal, [2, 1, 0]);
        // The selection keeps its agent when the order changes under it.
        terminal.keys(&["Home"]);
        expect_selected(&terminal, &pids[2]);
        terminal.keys(&["r"]);
        order(&terminal, [0, 1, 2]);
        expect_selected(&terminal, &pids[2]);
        terminal.keys(&["Up"]);
        expect_selected(&terminal, &pids[1]);
        terminal.keys(&["End"]);
        expect_selected(&terminal, &pids[2]);
        terminal.keys(&["PPage"]);
        expect_selected(&terminal, &pids[0]);

        terminal.keys(&["Enter"]);
        terminal.expect(&format!("explain {}", pids[0]));
        terminal.expect(&format!("stock-agent (pid {}, uid 0)", pids[0]));
        terminal.keys(&["End"]);
        terminal.expect(&format!("up       pid {}", pids[0]));
        terminal.keys(&["Escape"]);
        terminal.expect("stock-agent");
        expect_selected(&terminal, &pids[0]);

        terminal.keys(&["p", &pids[1], "Enter"]);
        terminal.expect(&format!("only pid {}: 1 agent", pids[1]));
        terminal.keys(&["t"]);
        terminal.expect(&format!("only state stalled, pid {}: no agents", pids[1]));
        // Escape and a letter at once would be Alt and the letter.
        terminal.keys(&["Escape"]);
        wait_for("the list of all", || (!terminal.screen().contains("only state")).then_some(()));
        terminal.keys(&["u", "root", "Enter"]);
        terminal.expect("only user root: 3 agents");
        terminal.keys(&["u", "no-such-user", "Enter"]);
        terminal.expect("there is no user no-such-user");
        terminal.keys(&["Escape"]);
        terminal.expect("stock-agent");
        terminal.keys(&["/", "stock-", "Enter"]);
        terminal.expect("only name has stock-: 3 agents");
        terminal.keys(&["q"]);
        terminal.expect("ended 0");
    }
    observer.stop();
}

#[test]
fn top_reaches_the_last_of_many_agents() {
    crate::common::needs_root("one sender beats for many processes");
    let observer = Observer::start(Options::default());
    let dir = observer.dir();
    let mut load = program();
    load.args(["load", "--forge", "--agents", "600", "--rate", "600", "--for", "10m"]);
    let _load = Running(load.env("VARTA_DIR", &dir).stdout(Stdio::null()).spawn().expect("run it"));
    let terminal = Terminal::run("many", &top(&dir));
    terminal.expect("600 of 1000 agents");
    let answer = observer.get("/api/v1/agents?limit=1000").json();
    let agents = answer["agents"].as_array().expect("a list");
    let mut pids: Vec<u64> = agents.iter().map(|agent| agent["pid"].as_u64().expect("a pid")).collect();
    pids.sort_unstable();
    terminal.keys(&["<"]);
    terminal.expect("pid↑");
    terminal.expect(" of 600");
    terminal.keys(&["End"]);
    terminal.expect("-600 of 600");
    // Its pid may have come round to the least.
    terminal.expect(&format!("  {} load-", pids.last().expect("600")));
    terminal.keys(&["Home"]);
    terminal.expect(&format!("  {} load-", pids[0]));
    terminal.keys(&["q"]);
    terminal.expect("ended 0");
    observer.stop();
}

/// A program that is killed on drop.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn top_counts_groups_and_lists_the_dead() {
    let (mut observer, agents) = fleet_of_three();
    let terminal = Terminal::run("groups", &top(&observer.dir()));
    terminal.expect("All well: 3 agents beat.");
    // The name is looked up after the first beat.
    wait_for("the names", || said(&observer.dir(), &["agents"]).contains("stock-agent").then_some(()));
    terminal.keys(&["g", "g"]);
    terminal.expect("1 group by name  Enter lists its agents");
    terminal.expect("\nstock-agent                3       3       0       0");
    terminal.keys(&["Enter"]);
    terminal.expect("only name is stock-agent: 3 agents  Esc goes back");
    terminal.keys(&["Escape"]);
    terminal.expect("1 group by name");
    terminal.keys(&["d"]);
    terminal.expect("nobody died since the observer started");
    let pid = agents[0].pid();
    agents[0].signal(Signal::KILL);
    observer.expect("exit", pid, SOON);
    terminal.expect("the last 1 agent that died  Esc shows the living");
    terminal.expect(&format!("\n{pid:>7} stock-agent     signal 9"));
    terminal.keys(&["Enter"]);
    terminal.expect(&format!("stock-agent (pid {pid}, uid 0) ended by signal 9"));
    terminal.keys(&["Escape"]);
    terminal.expect("the last 1 agent");
    terminal.keys(&["Escape"]);
    terminal.expect("silent↓");
    terminal.keys(&["q"]);
    terminal.expect("ended 0");
    observer.stop();
}

/// Waits until the row of this pid, and no other, is shown in reverse.
fn expect_selected(terminal: &Terminal, pid: &str) {
    wait_for(&format!("{pid} to be selected"), || {
        let screen = terminal.tmux(&["capture-pane", "-p", "-e"]);
        let is_reverse = |line: &&str| line.contains("[7m") || line.contains(";7m");
        let mut rows = screen.lines().filter(|line| line.contains("stock-agent")).filter(is_reverse);
        (rows.next()?.contains(pid) && rows.next().is_none()).then_some(())
    });
}

#[test]
fn top_shows_an_observer_that_is_stopped_as_silent_and_recovers() {
    let (observer, _agents) = fleet_of_three();
    // What was before `top` was started is shown, too.
    wait_for("a history", || {
        let history = observer.get("/api/v1/history?step=1s").json();
        let known = history["series"]["up"].as_array()?.iter().filter(|up| **up == 3).count();
        (known >= 5).then_some(())
    });
    let terminal = Terminal::run("stopped", &top(&observer.dir()));
    terminal.expect("All well: 3 agents beat.");
    let screen = terminal.expect("█████ stalled      0");
    assert!(screen.contains("fleet, last "), "{screen}");
    observer.signal(Signal::STOP);
    let screen = terminal.expect("NO ANSWER for 3 s.");
    assert!(screen.contains("accepts queries and does not answer"), "{screen}");
    terminal.expect("NO ANSWER for 5 s.");
    observer.signal(Signal::CONT);
    terminal.expect("All well: 3 agents beat.");
    observer.stop();
}

/// Sends the mouse's own bytes, as a terminal does.
#[test]
fn top_follows_the_mouse() {
    let (observer, agents) = fleet_of_three();
    let terminal = Terminal::run("mouse", &top(&observer.dir()));
    terminal.expect("silent↓");
    let head = || terminal.screen().lines().position(|line| line.contains(" silent")).expect("a heading");
    // tmux passes the bytes on as they are; columns and rows count from 1.
    let click = |column: usize, row: usize| {
        for end in ["M", "m"] {
            terminal.keys(&["-l", &format!("\u{1b}[<0;{};{}{end}", column + 1, row + 1)]);
        }
    };
    click(4, head());
    terminal.expect("pid↑");
    let mut pids: Vec<u32> = agents.iter().map(Agent::pid).collect();
    pids.sort_unstable();
    wait_for("the order of the list", || {
        let screen = terminal.screen();
        screen.lines().nth(head() + 2)?.contains(&pids[1].to_string()).then_some(())
    });
    click(20, head() + 2);
    expect_selected(&terminal, &pids[1].to_string());
    click(20, head() + 3);
    click(20, head() + 3);
    terminal.expect(&format!("explain {}", pids[2]));
    terminal.keys(&["q"]);
    terminal.expect("ended 0");
    observer.stop();
}

/// A process chooses its name: no character of it may control the operator's terminal.
#[test]
fn the_name_of_a_process_reaches_a_terminal_as_text() {
    let place = Place::new();
    let name = "a\u{9b}2J\u{202e}\u{1b}[m";
    let program = place.base().join(name);
    crate::common::copy_program(crate::common::rust_program(), &program);
    let mut observer = Observer::start_in(place, Options::default());
    let agent =
        Agent::start_with(&observer, AgentOptions { program: Some(program), ..AgentOptions::default() });
    observer.expect("up", agent.pid(), SOON);
    let (dir, pid) = (observer.dir(), agent.pid().to_string());
    for command in [
        &["agents"][..],
        &["agents", "--json"],
        &["explain", &pid],
        &["explain", &pid, "--json"],
        &["status"],
        &["status", "--json"],
        &["events"],
    ] {
        let told = said(&dir, command);
        let is_harmful = |c: char| c.is_control() && c != '\n' || c == '\u{202e}';
        assert!(!told.contains(is_harmful), "{command:?}: {told:?}");
    }
    let found: Value = serde_json::from_str(&said(&dir, &["agents", "--json"])).expect("JSON");
    assert_eq!(found["comm"], name);
    let terminal = Terminal::of_size("name", (150, 40), &top(&dir));
    terminal.expect(" a\\u{9b}2J\\u{202e}\\u{1b}[m ");
    terminal.keys(&["q"]);
    terminal.expect("ended 0");
    observer.stop();
}
