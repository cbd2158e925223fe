//! What bash, zsh and fish complete, with a real fleet.

use std::fs;
use std::path::PathBuf;

use super::views::{commands, said};
use crate::common::{Agent, Client, Observer, Options, PROGRAM, SOON, program_by};

/// A shell with the script that completes for it.
struct Shell {
    name: &'static str,
    script: PathBuf,
    dir: PathBuf,
}

/// As bash calls the function that is registered for the program; the words are those of the line.
const BASH: &str = r#"
    eval "$(cat "$1")"
    read -r _ _ _ function _ < <(complete -p varta-fleet | sed 's/.* -F/x x x/')
    COMP_WORDS=("${@:2}")
    COMP_CWORD=$(($# - 2))
    "$function" "$2" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
    printf '%s\n' "${COMPREPLY[@]}"
"#;

/// Types a line and a tab into a shell at a terminal, which prints what is offered between two marks.
const ZSH: &str = r#"
    zmodload zsh/zpty
    zpty shell zsh -f -i
    zpty -w shell "source ${(q)1}.init ${(q)1}; print -n READ\"Y\""
    zpty -r shell seen '*READY*'
    zpty -n -w shell "${(j: :)@[2,-1]}"$'\t'
    zpty -r shell seen $'*\x03*'
    seen=${${seen#*$'\x02'}%%$'\x03'*}
    print -r -- ${seen//$'\r'}
"#;

/// What the shell at the terminal begins with.
const ZSH_INIT: &str = r#"
    PROMPT=
    autoload -Uz compinit
    compinit -u -D
    source $1
    bindkey '^I' complete-word
    compadd() {
        if [[ ${@[1,(i)(-|--)]} == *-(O|A|D)\ * ]]; then builtin compadd "$@"; return; fi
        local -a offered
        builtin compadd -A offered "$@"
        (( $#offered )) && print -rl -- $offered
        builtin compadd "$@"
    }
    opened() { print '\x02' }
    closed() { print '\x03'; exit }
    compprefuncs=(opened)
    comppostfuncs=(closed)
"#;

/// Prints what is offered, each with its description behind a tab.
const FISH: &str = r#"
    source $argv[1]
    complete -C (string join ' ' -- $argv[2..-1])
"#;

impl Shell {
    fn new(name: &'static str, observer: &Observer) -> Self {
        let (dir, script) = (observer.dir(), observer.place().base().join(name));
        fs::write(&script, said(&dir, &["completions", name])).expect("write");
        fs::write(script.with_extension("init"), ZSH_INIT).expect("write");
        Self { name, script, dir }
    }

    /// What the last word of a line is completed to.
    fn complete(&self, line: &[&str]) -> Vec<String> {
        let mut shell = program_by(self.name);
        match self.name {
            "bash" => shell.args(["--norc", "--noprofile", "-c", BASH, "bash"]),
            "zsh" => shell.args(["-f", "-c", ZSH, "zsh"]),
            _ => shell.args(["--no-config", "-c", FISH]),
        };
        shell.arg(&self.script).arg(PROGRAM).args(line);
        shell.env("VARTA_DIR", &self.dir).env("HOME", self.script.with_file_name("home"));
        let output = shell.output().unwrap_or_else(|error| panic!("cannot run {}: {error}", self.name));
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && errors.is_empty(), "{}: {line:?}: {errors}", self.name);
        let offered = String::from_utf8_lossy(&output.stdout).into_owned();
        let word = |line: &str| line.split('\t').next().map(str::to_owned).filter(|word| !word.is_empty());
        offered.lines().filter_map(word).collect()
    }

    fn sorted(&self, line: &[&str]) -> Vec<String> {
        let mut words = self.complete(line);
        words.sort_unstable();
        words
    }

    /// The words among them that are no flags.
    fn plain(&self, line: &[&str]) -> Vec<String> {
        self.sorted(line).into_iter().filter(|word| !word.starts_with('-')).collect()
    }
}

fn completes(name: &'static str) {
    let config = "[[action]]\nname = \"abort\"\non = [\"stall\"]\nmatch = { uid = 4711 }\nsignal = \"ABRT\"\n\
                  [[action]]\nname = \"tell\"\non = [\"stall\"]\nmatch = { uid = 4712 }\nrun = [\"/bin/true\"]\n";
    let mut observer = Observer::start(Options { config: config.to_owned(), ..Options::default() });
    let agents = [(); 3].map(|()| Agent::start(Client::Rust02, &observer));
    agents.iter().for_each(|agent| drop(observer.expect("up", agent.pid(), SOON)));
    let shell = Shell::new(name, &observer);
    let mut expected = commands();
    expected.sort_unstable();
    assert_eq!(shell.plain(&[""]), expected, "every command, and none that is hidden");
    assert_eq!(shell.complete(&["st"]), ["status"]);
    assert_eq!(shell.complete(&["agents", "--st"]), ["--state"]);
    assert_eq!(shell.complete(&["agents", "--state", "st"]), ["stalled", "standstill"]);
    assert_eq!(shell.complete(&["load", "--wire", "m"]), ["mixed"]);
    assert_eq!(shell.complete(&["completions", "ba"]), ["bash"]);
    assert_eq!(shell.complete(&["explain", "--j"]), ["--json"]);
    let mut pids: Vec<String> = agents.iter().map(|agent| agent.pid().to_string()).collect();
    pids.sort_unstable();
    assert_eq!(shell.plain(&["explain", ""]), pids);
    assert_eq!(shell.plain(&["events", "--follow", "--pid", ""]), pids);
    assert_eq!(shell.complete(&["explain", "--json", &pids[0]]), [pids[0].clone()]);
    for line in [
        &["act", "hold", ""][..],
        &["act", "unhold", ""],
        &["act", "now", ""],
        &["act", "hold", "--for", "15m", "--why", "x", ""],
    ] {
        assert_eq!(shell.plain(line), pids, "{line:?}");
    }
    assert!(!shell.plain(&["act", "hold", "--for", ""]).contains(&pids[0]), "a time, and not a pid");
    let at = observer.dir();
    let at = at.to_str().expect("text");
    assert_eq!(shell.plain(&["act", "--dir", at, "now", &pids[0], ""]), ["abort", "tell"]);
    assert_eq!(shell.complete(&["act", "now", &pids[0], "t"]), ["tell"]);
    assert!(!shell.plain(&["act", "now", &pids[0], "tell", ""]).contains(&"tell".to_owned()));
    assert!(shell.complete(&["act", ""]).contains(&"brake".to_owned()));
    assert_eq!(shell.plain(&["act", "brake", ""]), ["engage", "release"]);
    let base = observer.place().base();
    let elsewhere = base.join("elsewhere");
    let elsewhere = elsewhere.to_str().expect("text");
    assert_eq!(
        shell.plain(&["explain", "--dir", elsewhere, ""]),
        [""; 0],
        "another fleet, which is not there"
    );
    let trap = base.join("trap");
    let hostile = format!("\"$(touch {})\"", trap.display());
    if name != "bash" {
        // Here bash is given words, not what was typed.
        shell.complete(&["explain", "--dir", &hostile, ""]);
    }
    assert!(!trap.exists(), "what was typed is not run");
    observer.stop();
}

#[test]
fn bash_completes_commands_flags_values_pids_and_actions() {
    completes("bash");
}

#[test]
fn zsh_completes_commands_flags_values_pids_and_actions() {
    completes("zsh");
}

#[test]
fn fish_completes_commands_flags_values_pids_and_actions() {
    completes("fish");
}
