//! A reload that brings the first action, changes it, is refused, and takes all of them away.

use std::fs;
use std::path::Path;

use rustix::process::Signal;
use serde_json::{Value, json};

use super::act::{Ground, act, acted, steps};
use crate::common::{Agent, Client, Observer, Options, SOON, program, wait_for};

/// Has the observer read this configuration. What `varta-fleet reload` says, and whether it was taken.
pub fn reload(observer: &Observer, config: &str) -> (bool, String) {
    fs::write(observer.place().base().join("varta.toml"), config).expect("write");
    let mut reload = program();
    let output = reload.args(["reload", "--dir"]).arg(observer.dir()).output().expect("it runs");
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).expect("text"))
}

/// Stops an agent until an action for it has ended, or, if there is none, until that would have been said.
fn stall(observer: &mut Observer, is_acted_upon: bool) -> u32 {
    let agent = Agent::start(Client::Rust02, observer);
    let pid = agent.pid();
    observer.expect("up", pid, SOON);
    agent.signal(Signal::STOP);
    observer.expect("stall", pid, SOON);
    if is_acted_upon {
        wait_for("the action to end", || {
            steps(observer.events(), pid).contains(&"ended".to_owned()).then_some(())
        });
    }
    agent.signal(Signal::CONT);
    observer.expect("resume", pid, SOON);
    if !is_acted_upon {
        assert_eq!(steps(observer.events(), pid), [""; 0]);
    }
    pid
}

fn listed(observer: &Observer) -> Value {
    let (is_done, list) = act(observer, &["list", "--json"]);
    assert!(is_done, "{list}");
    serde_json::from_str(&list).expect("JSON")
}

/// The phases in an audit file about a process.
fn audited(path: &Path, pid: u32) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    lines
        .filter(|line| line["pid"] == pid)
        .filter_map(|line| line["phase"].as_str().map(str::to_owned))
        .collect()
}

#[test]
fn actions_come_change_and_go_by_reload() {
    let ground = Ground::new();
    let log = ground.log();
    let audit = ground.place.base().join("audit.jsonl");
    let more =
        "after = \"0s\"\nevidence = false\nretry = { first = \"100ms\" }\n[brake]\nshare = { percent = 100 }";
    let options = ground.options("[\"stall\"]", more);
    let first = options.config.clone();
    let mut observer =
        Observer::start_in(ground.place, Options { config: "# nothing is done\n".to_owned(), ..options });
    stall(&mut observer, false);
    assert!(!audit.exists());

    let (is_taken, said) = reload(&observer, &first);
    assert!(is_taken && said.contains("action"), "{said}");
    assert_eq!(listed(&observer)["actions"], json!(["restart"]));
    let pid = stall(&mut observer, true);
    assert_eq!(acted(&log), [format!("{pid} restart {}", shard_of(&mut observer, pid))]);
    assert_eq!(audited(&audit, pid)[..3], ["due", "starting", "started"]);

    let second = first.replace("\"{name}\"", "\"changed\"");
    let (is_taken, said) = reload(&observer, &second);
    assert!(is_taken && said.contains("action"), "{said}");
    let pid = stall(&mut observer, true);
    assert!(acted(&log)[1].starts_with(&format!("{pid} changed ")), "{:?}", acted(&log));

    // One problem, and what is right beside it changes nothing either.
    let before = listed(&observer);
    for (wrong, why) in [
        (first.replace("[\"stall\"]", "[\"stal\"]"), "did you mean \"stall\"?"),
        (first.replace("\"/bin/sh\"", "\"/bin/no-such-program\""), "there is no "),
        (first.replace("percent = 100", "percent = 0"), "any stall would hold all actions"),
        (format!("{first}[[action]]\n"), "it has no name"),
    ] {
        let (is_taken, said) = reload(&observer, &wrong);
        assert!(!is_taken && said.contains(why), "{said}");
        assert_eq!(listed(&observer), before);
    }
    let pid = stall(&mut observer, true);
    assert!(acted(&log)[2].starts_with(&format!("{pid} changed ")), "{:?}", acted(&log));

    let (is_taken, said) = reload(&observer, "# nothing is done any more\n");
    assert!(is_taken && said.contains("action"), "{said}");
    assert_eq!(listed(&observer)["actions"], json!([]));
    stall(&mut observer, false);

    // They come back, with what only a start changes as it is.
    let third = first.replace("audit.jsonl", "other.jsonl");
    let (is_taken, said) = reload(&observer, &third);
    assert!(is_taken && said.contains("action"), "{said}");
    let pid = stall(&mut observer, true);
    assert!(acted(&log)[3].starts_with(&format!("{pid} restart ")), "{:?}", acted(&log));
    let other = observer.place().base().join("other.jsonl");
    assert_eq!(audited(&other, pid).len() + audited(&audit, pid).len(), 4, "{said}");
    assert_eq!((acted(&log).len(), said.contains("audit")), (4, true), "{said}");
    observer.stop();
}

fn shard_of(observer: &mut Observer, pid: u32) -> u64 {
    observer.events().iter().find(|event| event.is("up", pid)).expect("it was up").u64("shard")
}
