//! How `scripts/instructions` compares counts with a baseline, on made-up counts, and which compiler it
//! takes, among made-up ones. `scripts/check` compares the real counts.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use tempfile::TempDir;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/instructions");
const HELD: i32 = 0;
const FAILED: i32 = 1;
const USAGE: i32 = 2;
const MISSING: i32 = 3;

/// A baseline in a temporary directory.
struct Baseline {
    dir: TempDir,
}

impl Baseline {
    /// A baseline with one count, of `beat`.
    fn of(first: f64, present: f64) -> Self {
        Self::of_all(&json!({ "beat": { "first": first, "present": present, "history": [] } }))
    }

    fn of_all(counts: &Value) -> Self {
        let baseline = Self { dir: tempfile::tempdir().expect("a directory") };
        let text = json!({ "rustc": "1.95.0", "cpu": "x86_64 sse4.2", "counts": counts }).to_string();
        fs::write(baseline.path(), text).expect("written");
        baseline
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("instructions.json")
    }

    fn counts(&self) -> Value {
        let text = fs::read_to_string(self.path()).expect("it is there");
        serde_json::from_str::<Value>(&text).expect("it is JSON")["counts"].clone()
    }

    fn run(&self, counts: &Value, arguments: &[&str]) -> Run {
        let counted = self.dir.path().join("counts.json");
        fs::write(&counted, counts.to_string()).expect("written");
        let mut command = Command::new(SCRIPT);
        command.arg("--baseline").arg(self.path()).arg("--counts").arg(counted).args(arguments);
        Run::of(&mut command)
    }

    fn hold(&self, counts: &Value) -> Run {
        self.run(counts, &[])
    }

    fn update(&self, counts: &Value) -> Run {
        self.run(counts, &["--update", "--reason", "because"])
    }
}

struct Run {
    code: i32,
    out: String,
    error: String,
}

impl Run {
    fn of(command: &mut Command) -> Self {
        let Output { status, stdout, stderr } = command.output().expect("python3 runs it");
        let text = |bytes| String::from_utf8(bytes).expect("text");
        Self { code: status.code().expect("it ends by itself"), out: text(stdout), error: text(stderr) }
    }

    /// Asserts the exit code and that standard error has all these parts, or is empty if there are none.
    #[track_caller]
    fn ended(&self, code: i32, said: &[&str]) {
        assert_eq!(self.code, code, "{}{}", self.out, self.error);
        assert_eq!(self.error.is_empty(), said.is_empty(), "{}", self.error);
        for part in said {
            assert!(self.error.contains(part), "{part:?} is missing in: {}", self.error);
        }
    }
}

#[test]
fn up_to_5_percent_more_are_held() {
    let baseline = Baseline::of(100.0, 200.0);
    for count in [200.0, 209.9, 210.0, 190.1] {
        baseline.hold(&json!({ "beat": count })).ended(HELD, &[]);
    }
    assert_eq!(baseline.counts()["beat"]["present"], 200.0, "holding changes nothing");
}

#[test]
fn more_than_5_percent_more_fail_and_say_what_rose_from_where_to_where_and_what_to_do() {
    let counts = json!({
        "beat": { "first": 100.0, "present": 200.0, "history": [] },
        "decode": { "first": 50.0, "present": 50.0, "history": [] },
        "batch": { "first": 9000.0, "present": 9000.0, "history": [] },
    });
    let run = Baseline::of_all(&counts).hold(&json!({ "beat": 210.2, "decode": 50.0, "batch": 9900.0 }));
    run.ended(
        FAILED,
        &["beat takes 210.2", "+5.1 %", "the 200.0", "instructions.json", "cheaper", "--update"],
    );
    run.ended(FAILED, &["batch takes 9900.0", "+10.0 %", "the 9000.0"]);
    assert!(!run.error.contains("decode"), "{}", run.error);
}

#[test]
fn what_was_gained_is_told() {
    let run = Baseline::of(100.0, 200.0).hold(&json!({ "beat": 189.9 }));
    run.ended(HELD, &[]);
    assert!(run.out.contains("fell by more than 5 %: beat; scripts/instructions --update"), "{}", run.out);
    let run = Baseline::of(100.0, 200.0).hold(&json!({ "beat": 190.1 }));
    assert!(!run.out.contains("fell"), "{}", run.out);
}

#[test]
fn what_has_no_baseline_or_no_count_fails() {
    let run = Baseline::of(100.0, 100.0).hold(&json!({ "beat": 100.0, "sweep": 5.0 }));
    run.ended(FAILED, &["sweep has no baseline", "--update"]);
    let run = Baseline::of(100.0, 100.0).hold(&json!({}));
    run.ended(FAILED, &["beat", "is not counted any more", "--update"]);
}

#[test]
fn an_update_keeps_the_first_count_and_says_before_after_and_why() {
    let baseline = Baseline::of(100.0, 110.0);
    baseline
        .run(&json!({ "beat": 120.0 }), &["--update", "--reason", " forgers are refused "])
        .ended(HELD, &[]);
    baseline.update(&json!({ "beat": 90.0 })).ended(HELD, &[]);
    let expected = json!({ "first": 100.0, "present": 90.0, "history": [
        { "before": 110.0, "after": 120.0, "reason": "forgers are refused" },
        { "before": 120.0, "after": 90.0, "reason": "because" },
    ] });
    assert_eq!(baseline.counts()["beat"], expected);
    baseline.hold(&json!({ "beat": 90.0 })).ended(HELD, &[]);
}

#[test]
fn an_update_without_a_change_leaves_no_trace() {
    let baseline = Baseline::of(100.0, 110.0);
    baseline.update(&json!({ "beat": 110.05 })).ended(HELD, &[]);
    assert_eq!(baseline.counts()["beat"], json!({ "first": 100.0, "present": 110.0, "history": [] }));
}

#[test]
fn an_update_adds_what_is_new_and_drops_what_is_gone() {
    let baseline = Baseline::of(100.0, 100.0);
    let run = baseline.update(&json!({ "sweep": 5.0 }));
    run.ended(HELD, &[]);
    assert!(run.out.contains("beat: dropped, was 100.0") && run.out.contains("sweep: added"), "{}", run.out);
    assert_eq!(baseline.counts(), json!({ "sweep": { "first": 5.0, "present": 5.0, "history": [] } }));
}

#[test]
fn an_update_is_refused_above_a_quarter_more_than_the_first_count_and_then_changes_nothing() {
    let counts = json!({
        "beat": { "first": 100.0, "present": 124.0, "history": [] },
        "decode": { "first": 50.0, "present": 50.0, "history": [] },
    });
    let baseline = Baseline::of_all(&counts);
    // Less than 5 % above the present count passes, but repeated small rises must not.
    baseline.hold(&json!({ "beat": 125.1, "decode": 50.0 })).ended(HELD, &[]);
    let run = baseline.update(&json!({ "decode": 40.0, "beat": 125.1 }));
    run.ended(FAILED, &["beat takes 125.1", "1.25 times the 100.0", "nothing is updated", "`first`"]);
    assert_eq!(baseline.counts(), counts);
    baseline.update(&json!({ "beat": 125.0, "decode": 40.0 })).ended(HELD, &[]);
    assert_eq!(baseline.counts()["beat"]["present"], 125.0);
}

#[test]
fn an_update_wants_a_reason() {
    let baseline = Baseline::of(100.0, 100.0);
    for arguments in [&["--update"][..], &["--update", "--reason", " "]] {
        baseline.run(&json!({ "beat": 90.0 }), arguments).ended(USAGE, &["--reason"]);
    }
    baseline.run(&json!({ "beat": 90.0 }), &["--reason", "because"]).ended(USAGE, &["--update"]);
    assert_eq!(baseline.counts()["beat"]["present"], 100.0);
}

#[test]
fn a_broken_baseline_is_not_held_to() {
    let zero = json!({ "beat": { "first": 100.0, "present": 0.0, "history": [] } });
    Baseline::of_all(&zero).hold(&json!({ "beat": 1.0 })).ended(MISSING, &["beat: a count is not above 0"]);
    let no_first = json!({ "beat": { "present": 1.0, "history": [] } });
    Baseline::of_all(&no_first).hold(&json!({ "beat": 1.0 })).ended(MISSING, &["'first' is missing"]);
    let baseline = Baseline::of(100.0, 100.0);
    fs::write(baseline.path(), "{").expect("written");
    baseline.hold(&json!({ "beat": 1.0 })).ended(MISSING, &["instructions.json", "mend it"]);
    fs::remove_file(baseline.path()).expect("removed");
    baseline.hold(&json!({ "beat": 1.0 })).ended(MISSING, &["cannot read", "No such file"]);
}

/// A history that does not add up was edited by hand.
#[test]
fn the_baseline_of_the_project_adds_up() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/instructions.json");
    let baseline: Value =
        serde_json::from_str(&fs::read_to_string(path).expect("it is there")).expect("it is JSON");
    let counts = baseline["counts"].as_object().expect("counts");
    assert!(!counts.is_empty());
    for (name, entry) in counts {
        let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("{name}: {value} is no number"));
        let (first, present) = (number(&entry["first"]), number(&entry["present"]));
        assert!(present <= first * 1.25, "{name}");
        let history = entry["history"].as_array().expect("history");
        let mut is = history.first().map_or(first, |update| number(&update["before"]));
        for update in history {
            assert_eq!(number(&update["before"]), is, "{name}: {update}");
            assert!(!update["reason"].as_str().expect("a reason").trim().is_empty(), "{name}: {update}");
            is = number(&update["after"]);
        }
        assert_eq!(present, is, "{name}");
    }
}

// --- the compiler -----------------------------------------------------------------------------------------

/// A `PATH` of fake tools. Each records how it was called; cargo fails, so that nothing is built.
struct Tools {
    dir: TempDir,
}

impl Tools {
    fn new() -> Self {
        let tools = Self { dir: tempfile::tempdir().expect("a directory") };
        let python = Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output();
        let python = String::from_utf8(python.expect("python3 runs").stdout).expect("a path");
        symlink(python.trim(), tools.path().join("python3")).expect("linked");
        tools.put("valgrind", "exit 1");
        tools.put("cargo", "exit 1");
        tools
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn put(&self, name: &str, does: &str) {
        let path = self.path().join(name);
        let calls = self.path().join("calls");
        let called = match name.rsplit_once('/') {
            Some((version, name)) => format!("{name} of {version} with $RUSTC"),
            None => name.to_owned(),
        };
        let text = format!("#!/bin/sh\necho \"{called} $*\" >>'{}'\n{does}\n", calls.display());
        fs::write(&path, text).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it is ours");
    }

    /// A rustup that has the baseline's compiler, or has it once it was asked to install it.
    fn put_rustup(&self, is_installed: bool) {
        fs::create_dir(self.path().join("1.95.0")).expect("created");
        self.put("1.95.0/cargo", "exit 1");
        let rustc = self.rustc();
        if is_installed {
            fs::write(&rustc, "").expect("written");
        }
        let rustc = rustc.display();
        let install = format!("[ $1 = toolchain ] && echo >'{rustc}' && exit 0");
        self.put("rustup", &format!("{install}\n[ -e '{rustc}' ] && echo '{rustc}'"));
    }

    fn rustc(&self) -> PathBuf {
        self.path().join("1.95.0/rustc")
    }

    fn run(&self) -> Run {
        let baseline = Baseline::of(100.0, 100.0);
        Run::of(Command::new(SCRIPT).arg("--baseline").arg(baseline.path()).env("PATH", self.path()))
    }

    /// The recorded calls, without the arguments of cargo.
    fn calls(&self) -> Vec<String> {
        let calls = fs::read_to_string(self.path().join("calls")).unwrap_or_default();
        let brief = |call: &str| call.split(" --quiet").next().unwrap_or_default().to_owned();
        calls.lines().map(brief).collect()
    }
}

#[test]
fn the_compiler_of_the_baseline_is_taken_where_it_is() {
    let tools = Tools::new();
    tools.put("rustc", "echo 'rustc 1.95.0 (59807616e 2026-04-14)'");
    tools.put("rustup", "exit 1");
    tools.run().ended(MISSING, &["does not build"]);
    assert_eq!(tools.calls(), ["rustc --version", "cargo build"]);
}

#[test]
fn another_compiler_gives_way_to_the_one_that_rustup_has() {
    for other in ["rustc 1.96.0 (0 2026-05-28)", "rustc 1.95.0-nightly (0 2026-02-01)"] {
        let tools = Tools::new();
        tools.put("rustc", &format!("echo '{other}'"));
        tools.put_rustup(true);
        tools.run().ended(MISSING, &["does not build"]);
        let which = "rustup which --toolchain 1.95.0 rustc";
        let build = format!("cargo of 1.95.0 with {} build", tools.rustc().display());
        assert_eq!(tools.calls(), ["rustc --version", which, &build]);
    }
}

#[test]
fn rustup_installs_the_compiler_of_the_baseline() {
    let tools = Tools::new();
    tools.put("rustc", "echo 'rustc 1.94.0 (0 2026-03-05)'");
    tools.put_rustup(false);
    let run = tools.run();
    run.ended(MISSING, &["does not build"]);
    assert!(run.out.contains("installing rustc 1.95.0"), "{}", run.out);
    let install = "rustup toolchain install 1.95.0 --profile minimal --no-self-update";
    assert_eq!(tools.calls()[2], install);
    assert!(tools.calls()[4].starts_with("cargo of 1.95.0"), "{:?}", tools.calls());

    tools.put("rustup", "exit 1");
    tools.run().ended(MISSING, &["cannot install rustc 1.95.0"]);
}

#[test]
fn without_the_compiler_and_without_rustup_it_says_what_to_do() {
    let tools = Tools::new();
    tools.run().ended(MISSING, &["rustc 1.95.0", "rustup.rs"]);
    tools.put("rustc", "echo 'rustc 1.94.0 (0 2026-03-05)'");
    tools.run().ended(MISSING, &["rustc 1.95.0", "rustup.rs"]);
    fs::remove_file(tools.path().join("valgrind")).expect("removed");
    tools.run().ended(MISSING, &["valgrind is missing", "apt-get install valgrind"]);
}
