//! The load generator, with a real observer and with sockets that are never read.

use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Output, Stdio};

use crate::common::http::Connection;
use crate::common::{Observer, Options, Place, needs_root, program, wait_for};
use serde_json::Value;

fn load(arguments: &[&str]) -> Output {
    program().arg("load").args(arguments).env_remove("VARTA_DIR").output().expect("it starts")
}

fn measured(observer: &Observer, arguments: &[&str]) -> Value {
    let dir = observer.dir();
    let dir = dir.to_str().expect("text");
    let brief = ["--dir", dir, "--warm-up", "200ms", "--for", "1s", "--json"];
    let output = load(&[&brief, arguments].concat());
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn with_room() -> Observer {
    Observer::start(Options { queue_limit: Some(4096), ..Options::default() })
}

/// Waits for this many events: some follow the generator's report.
fn expect_told(observer: &mut Observer, kind: &str, count: usize) {
    wait_for(&format!("{kind} of {count} agents"), || (told(observer, kind) >= count).then_some(()));
}

fn told(observer: &mut Observer, kind: &str) -> usize {
    observer.events().iter().filter(|event| event.kind() == kind).count()
}

fn number(report: &Value, field: &str) -> u64 {
    report[field].as_u64().unwrap_or_else(|| panic!("no {field} in {report}"))
}

#[test]
fn every_beat_that_is_due_is_sent_and_taken() {
    let mut observer = with_room();
    let report = measured(&observer, &["--agents", "20", "--rate", "1000", "--observe"]);
    // Everything that is due within the second is sent, however late.
    assert_eq!(number(&report, "sent"), 1000, "{report}");
    assert_eq!(report["refused"], serde_json::json!({}), "{report}");
    assert!(number(&report, "observer_cpu_ns") > 0, "{report}");
    for times in ["late_ns", "send_ns"] {
        assert!(number(&report[times], "p50") <= number(&report[times], "max"), "{report}");
    }
    // The fleet is queried at both ends of the second; beats that were late at the first query count.
    let observed = &report["observed"];
    assert!((1..=1200).contains(&number(observed, "beats")), "{report}");
    assert_eq!(observed["refused"], serde_json::json!({}), "{report}");
    for times in ["queue_ns", "decode_ns", "batch_frames"] {
        assert!((1..=number(&observed[times], "p99")).contains(&number(&observed[times], "p50")), "{report}");
    }
    let threads = report["observer_cpu_ns_by_thread"].as_object().expect("threads");
    assert!(threads.contains_key("varta-shard-1") && threads.contains_key("varta-http"), "{report}");
    expect_told(&mut observer, "exit", 20);
    let table = observer.table();
    let beats = table.shard(0, "beats") + table.shard(1, "beats");
    assert_eq!(beats, 1200, "those of the warm-up, too:\n{table}");
    assert_eq!(table.shard(0, "lost") + table.shard(1, "lost"), 0, "{table}");
    assert_eq!(told(&mut observer, "up"), 20, "each agent is a process");
    observer.stop();
}

/// The load is beats, not exits: an agent that has sent its last beat waits for the others, because an exit
/// costs the observer more than many beats.
#[test]
fn nobody_ends_before_all_have_beaten() {
    let arguments = vec!["--events-beats".to_owned()];
    let mut observer = Observer::start(Options { arguments, queue_limit: Some(4096), ..Options::default() });
    measured(&observer, &["--agents", "4", "--rate", "4", "--observe"]);
    expect_told(&mut observer, "exit", 4);
    let events = observer.events();
    let instants = |kind: &str| -> Vec<u64> {
        let of_kind = events.iter().filter(|event| event.kind() == kind);
        of_kind.map(|event| event.u64("mono_ns")).collect()
    };
    let (beats, exits) = (instants("beat"), instants("exit"));
    assert!(beats.len() > 4 && beats.iter().max() < exits.iter().min(), "beats {beats:?}, exits {exits:?}");
    observer.stop();
}

#[test]
fn agents_speak_the_version_they_are_told_to() {
    for wire in ["0.1", "0.2", "mixed"] {
        let mut observer = with_room();
        let report = measured(&observer, &["--agents", "10", "--rate", "100", "--wire", wire]);
        assert_eq!(number(&report, "sent"), 100, "{wire}: {report}");
        expect_told(&mut observer, "exit", 10);
        assert_eq!(told(&mut observer, "up"), 10, "{wire}");
        for kind in ["decode", "auth", "mixed"] {
            assert_eq!(told(&mut observer, kind), 0, "{kind} of {wire}");
        }
        observer.stop();
    }
}

#[test]
fn agents_are_told_apart_by_their_names() {
    let observer = with_room();
    let mut command = program();
    command.args(["load", "--agents", "3", "--rate", "30", "--for", "1m", "--dir"]).arg(observer.dir());
    let mut load = command.stdout(Stdio::null()).spawn().expect("start the load");
    wait_for("three agents, each with its name", || {
        let page = Connection::control(&observer.dir()).get("/api/v1/agents", &["Connection: close"]).json();
        let mut names: Vec<_> =
            page["agents"].as_array()?.iter().filter_map(|agent| agent["comm"].as_str()).collect();
        names.sort_unstable();
        (names == ["load-000", "load-001", "load-002"]).then_some(())
    });
    load.kill().expect("it is our child");
    load.wait().expect("it is our child");
    observer.stop();
}

#[test]
fn flat_out_they_send_as_fast_as_the_kernel_takes_it() {
    let mut observer = with_room();
    let report = measured(&observer, &["--agents", "2", "--flat-out"]);
    assert!(number(&report, "sent") > 1000, "{report}");
    assert_eq!(report["rate"], Value::Null);
    expect_told(&mut observer, "exit", 2);
    let table = observer.table();
    assert!(table.shard(0, "beats") + table.shard(1, "beats") >= number(&report, "sent"), "{table}");
    observer.stop();
}

#[test]
fn one_sender_speaks_for_many_real_processes() {
    needs_root("it beats in the name of other processes");
    let mut observer = with_room();
    let report = measured(&observer, &["--agents", "100", "--rate", "500", "--forge"]);
    assert_eq!(number(&report, "sent"), 500, "{report}");
    expect_told(&mut observer, "exit", 100);
    assert_eq!(told(&mut observer, "up"), 100);
    assert_eq!(told(&mut observer, "auth"), 0);
    let table = observer.table();
    assert!((table.shard(0, "beats") > 0) & (table.shard(1, "beats") > 0), "each on its shard:\n{table}");
    observer.stop();
}

#[test]
fn what_the_kernel_refuses_is_counted_by_its_reason() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("nobody-reads");
    let _receiver = UnixDatagram::bind(&path).expect("bind");
    let path = path.to_str().expect("text");
    let brief = ["--warm-up", "0", "--for", "1s", "--agents", "10", "--rate", "20000", "--json"];
    let output = load(&[&["--socket", path], &brief[..]].concat());
    assert!(output.status.success(), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let refused = number(&report["refused"], "resource temporarily unavailable");
    assert_eq!(number(&report, "sent") + refused, 20_000, "{report}");
    assert!(refused > 0, "the queue is shorter than that: {report}");
    let words = load(&[&["--socket", path], &brief[..8]].concat());
    let words = String::from_utf8(words.stdout).expect("text");
    assert!(words.contains("20000  resource temporarily unavailable"), "all of them, by now:\n{words}");
}

/// The lines of the README are pasted as a block: nothing waits between the fleet and its load.
#[test]
fn the_load_waits_for_a_fleet_that_comes() {
    let place = Place::new();
    let mut load = program()
        .args(["load", "--agents", "2", "--for", "100ms", "--warm-up", "0s", "--json", "--dir"])
        .arg(place.dir())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut said = String::new();
    let stderr = load.stderr.take().expect("a pipe");
    BufReader::new(stderr).read_line(&mut said).expect("it says that it waits");
    let dir = place.dir();
    assert_eq!(said, format!("no fleet is running in {} yet; waiting up to 10 s for one\n", dir.display()));
    let observer = Observer::start_in(place, Options::default());
    let output = load.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["agents"], 2, "{report}");
    observer.stop();
}

#[test]
fn what_cannot_be_done_is_said() {
    let directory = tempfile::tempdir().expect("directory");
    let path = |name: &str| directory.path().join(name).to_str().expect("text").to_owned();
    let nowhere = path("nowhere");
    let cases: [(&[&str], i32, &str); 7] = [
        (&["--dir", &nowhere], 69, "nowhere; start one (varta-fleet run), or name its directory with --dir"),
        (
            &["--socket", &nowhere, "--agents", "3"],
            69,
            "nowhere: no such file or directory; start an observer there",
        ),
        (&["--socket", &nowhere, "--observe"], 2, "name the process, --observe PID"),
        (&["--socket", &nowhere, "--observe", "4194303"], 69, "cannot measure process 4194303"),
        (&["--flat-out", "--rate", "5"], 2, "cannot be used with"),
        (&["--agents", "0"], 2, "0 is not from 1 to 30000"),
        (&["--for", "10"], 2, "10 has no unit; write 10s or 10ms"),
    ];
    for (arguments, code, words) in cases {
        let output = load(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.contains(words), "{arguments:?}: {said}");
    }
    assert!(!Path::new(&nowhere).exists());
}
