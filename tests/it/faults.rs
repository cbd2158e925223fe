//! What can go wrong, numbered, and what shows that it is handled. The tests of a fault have names that begin
//! with `fault_` and its number. A fault of a missing capability names what it waits for.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use Shown::{ByTests, WaitsFor};

/// How a fault is covered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shown {
    /// Tests named after it.
    ByTests,
    /// This capability does not exist yet, so nothing is tested.
    WaitsFor(&'static str),
}

/// Every fault: its number, what happens, what is expected, what shows it.
const FAULTS: &[(usize, &str, &str, Shown)] = &[
    (1, "an agent is killed", "exit with the signal within milliseconds", ByTests),
    (2, "an agent ends by itself", "exit with its code; no stall", ByTests),
    (3, "an agent is stopped and continued", "one stall, one resume, its state kept", ByTests),
    (4, "an agent hangs while another thread of it beats", "alive, by its own word: no event", ByTests),
    (5, "an agent forks and the child uses the socket", "the child is an agent of its own", ByTests),
    (6, "an agent executes another program", "the same process goes on; its nonces start again", ByTests),
    (7, "a pid is reused within the threshold", "exit of the old, up of the new, no resume", ByTests),
    (8, "a frame of the dead is read after its pid's next holder's first", "it is not the heir's", ByTests),
    (9, "all of a large fleet dies at once", "one exit each, no stall, memory flat", ByTests),
    (10, "all of a large fleet starts at once", "everybody is up, once", ByTests),
    (11, "an agent's clock steps or lies", "no effect", ByTests),
    (12, "nonces at their end, terminal nonces", "no loss, no stall; a terminal frame is told once", ByTests),
    (13, "nonces repeat or go back", "life all the same; counted as a stream", ByTests),
    (14, "datagrams of every wrong length", "each counted, the loop lives", ByTests),
    (15, "frames wrong in every field", "the first failing check is the reason", ByTests),
    (
        16,
        "one or two bits of a frame flipped",
        "refused; what the checksum cannot see is not believed",
        ByTests,
    ),
    (17, "both wire versions at once", "counted apart; nobody is forced back to the older", ByTests),
    (18, "agents off their shard, on two, or moving", "one agent, no stall of the shard it left", ByTests),
    (
        19,
        "another pid claimed, no sender attested, control data cut",
        "refused, each with its count",
        ByTests,
    ),
    (20, "descriptors are attached", "refused at the sender or closed; the table does not grow", ByTests),
    (21, "the queue is full", "blind is told; verdicts wait; the loss is counted", ByTests),
    (22, "one user floods", "the other shards lose nothing; the user is named", ByTests),
    (23, "the observer is stopped for long", "no false stall; true ones a threshold later", ByTests),
    (24, "the machine is suspended or the observer frozen", "as if it were stopped", ByTests),
    (
        25,
        "the observer is killed while something holds its sockets",
        "no stall, no loss, no second up",
        ByTests,
    ),
    (
        26,
        "the observer is killed and nothing holds its sockets",
        "agents that reconnect are up again, in grace",
        ByTests,
    ),
    (27, "an upgrade by handover goes wrong", "the old one goes on; never two readers", ByTests),
    (28, "two observers are started on one directory", "the second gives up, the first is unharmed", ByTests),
    (29, "the socket file is removed or replaced", "noticed within a second and put back", ByTests),
    (
        30,
        "a shard's thread panics",
        "told; it goes on with its socket and agents; too often ends the process",
        ByTests,
    ),
    (31, "a shard's thread is stuck", "told, unhealthy; the others go on", ByTests),
    (
        32,
        "the aggregator does not run for a while",
        "shards do not wait; nothing that happened stays untold",
        ByTests,
    ),
    (33, "lanes go round while their writer is interrupted", "no torn record, none lost", ByTests),
    (34, "a stop during a flood", "bounded, in order, the last events written", ByTests),
    (35, "a configuration that is wrong in any way", "every mistake told at once, nothing starts", ByTests),
    (36, "the disk of the event log is full", "told, retried, the gap named; observing goes on", ByTests),
    (37, "the event log's directory goes, or cannot be written", "as a full disk", ByTests),
    (38, "the event log's disk is slow", "only its writer waits", ByTests),
    (39, "descriptors are used up", "exits are noticed at the threshold; observing goes on", ByTests),
    (40, "no process can be started", "counted, retried with patience", ByTests),
    (41, "a recovery command is missing or cannot run", "counted as failed, no loop", ByTests),
    (42, "a recovery command hangs or misbehaves", "killed as a group at its deadline", ByTests),
    (
        43,
        "a recovery command is aimed at the wrong process",
        "never at ourselves, a parent or an heir",
        ByTests,
    ),
    (44, "a thousand stalls at once with commands", "bounded, fair, each reaped", ByTests),
    (45, "hostile HTTP clients", "bounded; others are served", ByTests),
    (46, "a scrape of a million agents", "size and time do not depend on them", ByTests),
    (47, "strange text in labels", "valid exposition", ByTests),
    (
        48,
        "receive calls fail",
        "passing errors are retried and counted; others end the shard, loudly",
        ByTests,
    ),
    (49, "wake-ups without a reason", "no judgement is skipped or early", ByTests),
    (50, "clocks repeat, leap, step back", "no panic, no false stall", ByTests),
    (51, "settings at their ends", "refused, or exact", ByTests),
    (
        52,
        "a full table, pids that collide",
        "bounded cost; nobody is evicted; room again after exits",
        ByTests,
    ),
    (
        53,
        "spoofed and torn secure datagrams",
        "refused before any state changes",
        WaitsFor("UDP and the secure wire format"),
    ),
    (
        54,
        "the receive buffer of UDP overflows",
        "counted exactly",
        WaitsFor("UDP and the secure wire format"),
    ),
    (55, "a restarted thread closes its member of a group", "it must keep the descriptor", ByTests),
    (56, "pinning to a core that is not there", "warned, runs unpinned", ByTests),
    (57, "more shards than cores, and a busy machine", "verdicts stay true and told", ByTests),
    (58, "memory is bounded", "no growth once all agents have come", ByTests),
    (59, "a reader of events stops reading", "it is told what it missed; others miss nothing", ByTests),
    (60, "an agent's library in a hostile process", "a beat never blocks nor writes elsewhere", ByTests),
    (
        61,
        "a process takes another name or user after its first beat",
        "judged by what it is by then; a session for the user",
        ByTests,
    ),
    (62, "a mixed agent executes another program", "told, and judged as that program", ByTests),
    (63, "a pid goes to another user's process", "the dead's user and answers do not stay", ByTests),
    (64, "a program's file is replaced, or may not be read", "its rule holds; never a shorter one", ByTests),
    (
        65,
        "an agent's control group is frozen",
        "frozen, not stalled; a threshold to beat in after it",
        ByTests,
    ),
    (
        66,
        "frames of an agent are refused for reasons of ours",
        "evidence: no certain stall, none before three thresholds",
        ByTests,
    ),
    (67, "something changes twice between two looks", "told, with the number", ByTests),
    (68, "one agent does something told a thousand times a second", "few events, nothing lost", ByTests),
    (
        69,
        "events of many agents fill a queue",
        "verdicts come through, after a line of what is missing",
        ByTests,
    ),
    (
        70,
        "the event log is renamed, removed or replaced",
        "its path is written to from the next line on; nothing is lost",
        ByTests,
    ),
    (71, "the event log is copied and cut", "told, for what came in between is lost", ByTests),
    (72, "the event log grows without end", "it renames itself, if it is asked to", ByTests),
    (73, "whoever reads events from standard output leaves", "said once, and each event counted", ByTests),
    (74, "answers that are taken slowly, by many", "each in pages, all within one budget of bytes", ByTests),
    (75, "agents die while the fleet stops", "the stop takes no longer for it; `stop` is the last", ByTests),
    (
        76,
        "a thread that is no shard dies",
        "named; the files stay until the shards have ended; exit code 1",
        ByTests,
    ),
    (77, "nobody reads standard error", "start, observing and stop go on; what is dropped is said", ByTests),
    (78, "signals that are ignored at the start", "stay ignored; SIGHUP never ends the observer", ByTests),
    (
        79,
        "memory or room in a file is not granted",
        "an error of the start, or a full table or disk",
        ByTests,
    ),
    (80, "a filter refuses recvmmsg", "one call a datagram, and it is said", ByTests),
    (81, "a wait is refused, a receive fails, a shard is stuck", "a pause, and the others go on", ByTests),
    (
        82,
        "priority that counts only in its session or group",
        "the session is raised, the rest said",
        ByTests,
    ),
    (
        83,
        "processes come and go faster than each can be told of",
        "counted by user once a second; verdicts, settled agents and others are told",
        ByTests,
    ),
];

#[test]
fn every_fault_has_its_tests_or_says_what_it_waits_for() {
    let tests = named_tests();
    let mut wrong = Vec::new();
    for window in FAULTS.windows(2) {
        assert!(window[0].0 < window[1].0, "fault {} comes after {}", window[1].0, window[0].0);
    }
    for &(number, fault, expected, shown) in FAULTS {
        assert!(!fault.is_empty() && !expected.is_empty());
        match (shown, tests.contains_key(&number)) {
            (ByTests, false) => wrong.push(format!("{number}, {fault}: no test fault_{number:02}_...")),
            (WaitsFor(what), true) => {
                wrong.push(format!("{number}, {fault}: waits for {what}, but {:?}", tests[&number]));
            }
            _ => {}
        }
    }
    for (number, names) in &tests {
        if !FAULTS.iter().any(|fault| fault.0 == *number) {
            wrong.push(format!("{names:?}: there is no fault {number}"));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// The names of all tests of faults by number: functions under `#[test]`.
fn named_tests() -> BTreeMap<usize, Vec<String>> {
    let mut found = BTreeMap::<usize, Vec<String>>::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders = vec![root.join("src"), root.join("tests")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the project") {
            let path = entry.expect("its entries").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("a source file");
                let mut is_test = false;
                for line in text.lines().map(str::trim) {
                    let Some(name) = line.strip_prefix("fn ").filter(|_| is_test) else {
                        is_test |= line == "#[test]";
                        continue;
                    };
                    is_test = false;
                    let Some(rest) = name.strip_prefix("fault_") else { continue };
                    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
                    let number = digits.parse().unwrap_or_else(|_| panic!("{}: {name}", path.display()));
                    let name = name.split('(').next().expect("a name").to_owned();
                    found.entry(number).or_default().push(name);
                }
            }
        }
    }
    found
}
