//! The audit file of actions: on a full disk, rotated, and after a crash in the middle of a line.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use serde_json::Value;

use super::act::{Ground, act, acted, steps};
use crate::common::{Agent, Client, Observer, Options, SOON, program, wait_for};

/// The lines of an audit file, each of which is whole.
fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).expect("read");
    assert!(text.is_empty() || text.ends_with('\n'), "{text}");
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect()
}

fn phases(lines: &[Value], pid: u32) -> Vec<&str> {
    let of = lines.iter().filter(|line| line["pid"] == pid);
    of.filter_map(|line| line["phase"].as_str()).collect()
}

/// Stops the agent until an action for it has ended.
fn stall(observer: &mut Observer, agent: &Agent) {
    observer.expect("up", agent.pid(), SOON);
    agent.signal(Signal::STOP);
    observer.expect("stall", agent.pid(), SOON);
    wait_for("the action to end", || {
        steps(observer.events(), agent.pid()).contains(&"ended".to_owned()).then_some(())
    });
    agent.signal(Signal::CONT);
    observer.expect("resume", agent.pid(), SOON);
}

/// How many lines the audit file did not take.
fn lost(observer: &Observer) -> u64 {
    let metrics = observer.get("/metrics");
    let value = metrics.text().lines().find_map(|line| line.strip_prefix("varta_audit_lines_lost_total "));
    value.and_then(|value| value.parse().ok()).expect("a count")
}

fn has_problem(observer: &Observer) -> bool {
    let fleet = observer.get("/api/v1/fleet").json();
    assert_eq!(fleet["is_healthy"], true, "{fleet}");
    let problems = fleet["problems"].as_array().expect("problems").clone();
    problems
        .iter()
        .any(|problem| problem.as_str().is_some_and(|said| said.contains("the audit file takes no lines")))
}

#[test]
fn a_full_disk_holds_no_action_up_is_said_and_the_file_goes_on_when_there_is_room() {
    let ground = Ground::new();
    let log = ground.log();
    let disk = ground.place.base().join("disk");
    fs::create_dir(&disk).expect("create");
    let options = ground.options("[\"stall\"]", "after = \"0s\"");
    let base = ground.place.base().display().to_string();
    let config = options.config.replace(&format!("{base}/audit.jsonl"), &format!("{base}/disk/audit.jsonl"));
    let mounts = Some(format!("mount -t tmpfs -o size=64k none '{}'", disk.display()));
    let mut observer = Observer::start_in(ground.place, Options { config, mounts, ..options });
    let inside: PathBuf = Path::new("/proc").join(observer.pid().to_string()).join("root");
    let inside = inside.join(disk.strip_prefix("/").expect("an absolute path"));
    let (filler, audit) = (inside.join("filler"), inside.join("audit.jsonl"));
    let agents: Vec<Agent> = (0..3).map(|_| Agent::start(Client::Rust02, &observer)).collect();
    stall(&mut observer, &agents[0]);
    assert_eq!((has_problem(&observer), lost(&observer)), (false, 0));

    let full = fs::write(&filler, vec![0; 1 << 20]).expect_err("more than the disk holds");
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    // What is left of the last page of the file takes some lines.
    wait_for("the audit file to be full", || {
        let (is_held, said) = act(&observer, &["hold", "1", "--for", "1s", "--why", &"x".repeat(200)]);
        assert!(is_held, "{said}");
        (lost(&observer) > 0).then_some(())
    });
    stall(&mut observer, &agents[1]);
    wait_for("that to be said", || has_problem(&observer).then_some(()));
    assert_eq!(acted(&log).len(), 2, "actions go on");
    let before = lost(&observer);
    let written = lines(&audit);
    assert!(!phases(&written, agents[1].pid()).contains(&"ended"), "{written:?}");

    fs::remove_file(&filler).expect("it is there");
    stall(&mut observer, &agents[2]);
    wait_for("that to be over", || (!has_problem(&observer)).then_some(()));
    assert_eq!((acted(&log).len(), lost(&observer)), (3, before));
    let written = lines(&audit);
    assert_eq!(phases(&written, agents[2].pid())[..3], ["due", "starting", "started"], "{written:?}");
    observer.stop();
}

#[test]
fn a_rotated_audit_file_loses_no_line() {
    let ground = Ground::new();
    let options = ground.options("[\"stall\"]", "after = \"0s\"");
    let audit = ground.place.base().join("audit.jsonl");
    let rotated = ground.place.base().join("audit.jsonl.1");
    let mut observer = Observer::start_in(ground.place, options);
    let agents: Vec<Agent> = (0..2).map(|_| Agent::start(Client::Rust02, &observer)).collect();
    stall(&mut observer, &agents[0]);
    fs::rename(&audit, &rotated).expect("it is there");
    observer.signal(Signal::HUP);
    let mut asked = 0;
    wait_for("the next file", || {
        asked += 1;
        act(&observer, &["hold", "1", "--for", "1s"]);
        audit.exists().then_some(())
    });
    stall(&mut observer, &agents[1]);
    let _place = observer.stop();
    let [before, after] = [&rotated, &audit].map(|path| lines(path));
    let holds = [&before, &after].map(|lines| lines.iter().filter(|line| line["phase"] == "hold").count());
    assert_eq!(holds.iter().sum::<usize>(), asked, "{before:?} {after:?}");
    assert_eq!(phases(&before, agents[0].pid())[..3], ["due", "starting", "started"], "{before:?}");
    assert_eq!(phases(&after, agents[1].pid())[..3], ["due", "starting", "started"], "{after:?}");
    let mode = fs::metadata(&audit).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_line_that_a_crash_left_half_written_is_removed_and_that_is_said() {
    let ground = Ground::new();
    let options = ground.options("[\"stall\"]", "after = \"0s\"");
    let audit = ground.place.base().join("audit.jsonl");
    let mut observer = Observer::start_in(ground.place, options.clone());
    let agent = Agent::start(Client::Rust02, &observer);
    stall(&mut observer, &agent);
    let place = observer.kill();
    let before = lines(&audit);
    let half = "{\"ts\":\"2026-01-01T00:00:00Z\",\"pha";
    let mut file = OpenOptions::new().append(true).open(&audit).expect("it is there");
    file.write_all(half.as_bytes()).expect("write");
    drop(file);
    let observer = Observer::start_in(place, options);
    let said = wait_for("the repair", || lines_if_whole(&audit).filter(|lines| lines.len() > before.len()));
    assert_eq!(said[..before.len()], before);
    let repaired = &said[before.len()];
    assert_eq!(repaired["phase"], "repaired", "{repaired}");
    let text = repaired["text"].as_str().expect("a text");
    assert_eq!(text, format!("a half-written line of {} bytes was removed", half.len()));
    observer.stop();
}

/// The lines, if the last one is not being written, or half written.
fn lines_if_whole(path: &Path) -> Option<Vec<Value>> {
    fs::read_to_string(path).expect("read").lines().map(|line| serde_json::from_str(line).ok()).collect()
}

#[test]
fn an_audit_file_that_cannot_be_opened_is_named_at_the_start() {
    let ground = Ground::new();
    let Options { config, .. } = ground.options("[\"stall\"]", "");
    let (audit, file) = (ground.place.base().join("audit.jsonl"), ground.place.base().join("varta.toml"));
    fs::create_dir(&audit).expect("create");
    fs::write(&file, config).expect("write");
    let mut run = program();
    let run =
        run.args(["run", "--config"]).arg(file).arg("--dir").arg(ground.place.dir()).output().expect("run");
    let told = String::from_utf8_lossy(&run.stderr);
    assert_eq!(run.status.code(), Some(78), "{told}");
    let what = format!("cannot open audit file {}: is a directory; set audit to", audit.display());
    assert!(told.contains(&what), "{told}");
}
