//! The built binary as an operator uses it: output and exit codes.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;
use varta_fleet::{MANIFEST, Manifest, shard_for};

use crate::common::PROGRAM;

const CLEAN: i32 = 0;
const RUNTIME: i32 = 1;
const USAGE: i32 = 2;
const UNAVAILABLE: i32 = 69;
const PERMISSION: i32 = 77;
const CONFIG: i32 = 78;

/// A temporary directory, and commands that run in it with an empty environment.
struct Scene {
    dir: TempDir,
    env: Vec<(&'static str, String)>,
}

/// The exit code and output of a command.
#[derive(Debug)]
struct Outcome {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).expect("it is ours");
        Self { dir, env: Vec::new() }
    }

    fn env(mut self, name: &'static str, value: &str) -> Self {
        self.env.push((name, value.to_owned()));
        self
    }

    fn file(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, text).expect("the directory is ours");
        path
    }

    fn command(&self, program: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(args).current_dir(self.dir.path()).env_clear().env("VARTA_CONFIG", "/dev/null");
        command.envs(self.env.iter().cloned());
        command
    }

    fn run(&self, args: &[&str]) -> Outcome {
        Outcome::of(self.command(Path::new(PROGRAM), args))
    }

    /// Like [`Scene::run`], but never as root, which may read everything whatever its mode.
    fn run_unprivileged(&self, args: &[&str]) -> Outcome {
        if !rustix::process::geteuid().is_root() {
            return self.run(args);
        }
        // Other users may be unable to read the build directory.
        let program = self.dir.path().join("varta-fleet");
        // A process of its own writes the copy: a test on another thread may fork while the copy is open for
        // writing, and execve(2) then fails with ETXTBSY.
        let copied = Command::new("cp").arg(PROGRAM).arg(&program).status();
        assert!(copied.is_ok_and(|status| status.success()), "room for a copy");
        let mut command = self.command(&program, args);
        command.uid(65534).gid(65534);
        Outcome::of(command)
    }

    /// `check` with a valid runtime directory and a fleet small enough for any queue.
    fn check(&self, args: &[&str]) -> Outcome {
        let small = ["check", "--dir", "run", "--shards", "1", "--agents-max", "1"];
        self.run(&[&small, args].concat())
    }

    /// `check` with a configuration file `varta.toml` of this text.
    fn check_file(&self, text: impl AsRef<[u8]>) -> Outcome {
        self.file("varta.toml", text);
        self.run(&["check", "--dir", "run", "--config", "varta.toml"])
    }
}

impl Outcome {
    fn of(mut command: Command) -> Self {
        let output = command.stdin(Stdio::null()).output().expect("the binary starts");
        let text = |bytes| String::from_utf8(bytes).expect("what it prints is UTF-8");
        Self { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// Asserts the exit code, and that standard error, or if it is empty standard output, has every word.
    #[track_caller]
    fn says(&self, code: i32, words: &[&str]) -> &Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        let said = if self.stderr.is_empty() { &self.stdout } else { &self.stderr };
        for word in words {
            assert!(said.contains(word), "{word:?} is missing in\n{said}");
        }
        self
    }

    /// The plan's row for a key: value and origin.
    #[track_caller]
    fn planned(&self, key: &str) -> String {
        let row = self.stdout.lines().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix(' '));
        let row = row.unwrap_or_else(|| panic!("no {key} in the plan: {self:#?}"));
        row.split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

/// `net.unix.max_dgram_qlen` of this machine; the tests must pass with any value.
fn queue_limit() -> Option<u64> {
    fs::read_to_string("/proc/sys/net/unix/max_dgram_qlen").ok()?.trim().parse().ok()
}

/// The expected exit code of `check` with this many agents on the fullest shard and no other problem.
fn code_of_check(agents_per_shard: u64) -> i32 {
    if queue_limit().is_some_and(|limit| limit < 2 * agents_per_shard) { CONFIG } else { CLEAN }
}

// Help.

#[test]
fn help_tells_purpose_examples_and_exit_codes() {
    let scene = Scene::new();
    let all = ["run", "demo", "check", "route", "Examples:", "Exit codes:", "69", "77", "78"];
    scene.run(&["--help"]).says(CLEAN, &all);
    scene
        .run(&["run", "--help"])
        .says(CLEAN, &["--config", "--print-ready", "VARTA_MAX_DELAY", "Examples:", "Exit codes:"]);
    scene
        .run(&["check", "--help"])
        .says(CLEAN, &["--config", "VARTA_AGENTS_MAX", "Examples:", "Exit codes:", "A note does not"]);
    scene
        .run(&["route", "--help"])
        .says(CLEAN, &["--pid", "the parent of this process", "VARTA_DIR", "Exit codes:"]);
    scene.run(&["demo", "--help"]).says(CLEAN, &["Usage: varta-fleet demo", "Exit codes:"]);
    scene.run(&["--version"]).says(CLEAN, &["varta-fleet "]);
    scene.run(&[]).says(USAGE, &["Usage:", "Examples:"]);
}

#[test]
fn help_names_every_key_as_flag_and_variable() {
    for command in ["run", "check"] {
        let help = Scene::new().run(&[command, "--help"]).stdout;
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        for key in varta_fleet::config::KEYS.iter().filter(|key| key.is_settable()) {
            assert!(help.contains(&format!("--{}", key.name)), "{}", key.name);
            assert!(help.contains(&format!("[env: {}]", key.variable)), "{}", key.variable);
        }
    }
}

#[test]
fn what_is_not_a_command_or_flag_is_usage() {
    let scene = Scene::new();
    scene.run(&["rout"]).says(USAGE, &["unrecognized subcommand 'rout'", "'route'", "--help"]);
    scene.run(&["run", "--treshold", "1s"]).says(USAGE, &["'--treshold'", "'--threshold'"]);
    scene.run(&["check", "--http"]).says(USAGE, &["a value is required", "--http <ADDR:PORT>"]);
    scene.run(&["check", "--print-ready"]).says(USAGE, &["unexpected argument '--print-ready'"]);
    scene.run(&["demo", "--dir", "x"]).says(USAGE, &["unexpected argument '--dir'"]);
    scene.run(&["run", "--shards"]).says(USAGE, &["a value is required", "--shards <N>"]);
    scene.run(&["run", "--tick", "1ms", "--tick", "2ms"]).says(USAGE, &["cannot be used multiple times"]);
}

// Flags and variables.

#[test]
fn a_flag_that_cannot_be_read_is_usage() {
    for (flag, value, words) in [
        (
            "--threshold",
            "soon",
            ["cannot use --threshold soon: it is not a duration", "write it like 500ms, 2s or 1m30s"],
        ),
        ("--threshold", "5", ["cannot use --threshold 5: 5 has no unit", "write 5s or 5ms"]),
        ("--tick", "-1s", ["cannot use --tick -1s: it is not a duration", "500ms"]),
        ("--max-delay", "1", ["cannot use --max-delay 1: 1 has no unit", "1ms"]),
        ("--shards", "four", ["cannot use --shards four: it is not a whole number", "such as 4"]),
        ("--shards", "-1", ["cannot use --shards -1: it is not a whole number", "such as 4"]),
        ("--agents-max", "1e6", ["cannot use --agents-max 1e6: it is not a whole number", "digits only"]),
        (
            "--events-format",
            "xml",
            ["cannot use --events-format xml: there is no such format", "jsonl or tsv"],
        ),
        (
            "--events-beats",
            "maybe",
            ["cannot use --events-beats maybe: it is neither true nor false", "write true"],
        ),
    ] {
        for command in ["run", "check"] {
            let outcome = Scene::new().run(&[command, "--dir", "run", &format!("{flag}={value}")]);
            outcome.says(USAGE, &words).says(USAGE, &["error: "]);
            assert_eq!(outcome.stdout, "");
        }
    }
}

#[test]
fn a_flag_that_makes_no_sense_is_configuration() {
    for (flags, words) in [
        (["--shards=0", ""], ["cannot use --shards 0: nobody would receive", "from 1 to 64"]),
        (["--shards=65", ""], ["cannot use --shards 65: it is more than one fleet can have", "from 1 to 64"]),
        (
            ["--shards=9", "--agents-max=8"],
            ["cannot use --shards 9: it is more than agents-max = 8", "fewer shards"],
        ),
        (["--agents-max=0", ""], ["cannot use --agents-max 0", "from 1 to 4194304"]),
        (["--agents-max=4194305", ""], ["cannot use --agents-max 4194305", "from 1 to 4194304"]),
        (["--threshold=0", ""], ["cannot use --threshold 0: it is shorter than 10ms", "from 10ms to 24h"]),
        (["--threshold=25h", ""], ["cannot use --threshold 25h: it is longer than 24h", "from 10ms to 24h"]),
        (["--tick=0", ""], ["cannot use --tick 0: it is shorter than 1ms", "from 1ms to 1s"]),
        (
            ["--tick=900ms", "--threshold=1s"],
            ["more than half of the smallest threshold, 1s", "write tick = \"500ms\" or less"],
        ),
        (
            ["--max-delay=101ms", ""],
            ["cannot use --max-delay 101ms: it is longer than 100ms", "from 0 to 100ms"],
        ),
        (
            ["--max-delay=90ms", "--threshold=200ms"],
            ["more than a quarter of the smallest threshold", "\"50ms\" or less"],
        ),
        (["--events=", ""], ["cannot use --events : it is empty", "leave it out"]),
    ] {
        let args = [&["run", "--dir", "run"], &flags[..]].concat();
        let args: Vec<_> = args.into_iter().filter(|arg| !arg.is_empty()).collect();
        Scene::new().run(&args).says(CONFIG, &words);
    }
}

#[test]
fn a_variable_that_cannot_be_read_is_configuration() {
    let outcome =
        Scene::new().env("VARTA_MAX_DELAY", "5").env("VARTA_SHARDS", "two").run(&["run", "--dir", "run"]);
    outcome.says(CONFIG, &["2 problems with the configuration"]);
    outcome.says(CONFIG, &["cannot use VARTA_MAX_DELAY=5: 5 has no unit; write 5s or 5ms"]);
    outcome.says(CONFIG, &["cannot use VARTA_SHARDS=two: it is not a whole number"]);
}

#[test]
fn variables_of_others_are_left_alone() {
    Scene::new()
        .env("VARTA_SOMETHING", "else")
        .env("VARTA_", "nothing")
        .check(&[])
        .says(code_of_check(1), &[]);
}

#[test]
fn an_overlong_path_is_told_its_limit() {
    let dir = format!("/tmp/{}", "d".repeat(100));
    let outcome = Scene::new().run(&["run", "--dir", &dir]);
    outcome.says(CONFIG, &["cannot use --dir /tmp/ddd", "has 118 bytes", "107 at most", "shorter by 11"]);
}

#[test]
fn without_root_and_runtime_directory_one_must_be_named() {
    let outcome = Scene::new().run_unprivileged(&["run"]);
    outcome.says(CONFIG, &["XDG_RUNTIME_DIR is not set", "not root", "--dir or VARTA_DIR"]);
    let outcome = Scene::new().run_unprivileged(&["route"]);
    outcome.says(CONFIG, &["XDG_RUNTIME_DIR is not set", "--dir or VARTA_DIR"]);
    let outcome = Scene::new().env("XDG_RUNTIME_DIR", "/tmp").run_unprivileged(&["check"]);
    assert_eq!(outcome.planned("dir"), "/tmp/varta (default)");
}

// The file.

#[test]
fn each_sort_of_bad_file_is_explained() {
    for (text, words) in [
        (
            "treshold = \"1s\"",
            ["cannot use treshold (varta.toml line 1): there is no such key", "did you mean threshold?"],
        ),
        (
            "\n\n[[shard]]\nsokcet = \"x\"",
            ["cannot use sokcet (in [[shard]], varta.toml line 4)", "did you mean socket?"],
        ),
        (
            "[http]\nlisten = \"x\"",
            ["cannot use listen = \"x\" (in [http], varta.toml line 2)", "such as 127.0.0.1:9464"],
        ),
        (
            "[http]\nlisten = \"0.0.0.0:9464\"",
            ["cannot use listen = \"0.0.0.0:9464\" (in [http], varta.toml line 2)", "write token-file"],
        ),
        (
            "[http]\ntoken-file = \"/t\"",
            ["cannot use token-file = \"/t\" (in [http], varta.toml line 2)", "write listen"],
        ),
        (
            "[http]\ndashboard = \"javascript:alert(1)\"",
            [
                "cannot use dashboard = \"javascript:alert(1)\" (in [http], varta.toml line 2)",
                "the page links only to http:// and https://; write for example \"https://",
            ],
        ),
        (
            "[http]\ndashboard = 'https://x/\"onclick=\"x'",
            ["cannot use dashboard = 'https://x/", "it holds a character that no URL does; write % and two"],
        ),
        (
            "[metrics]\nunits = [\"trading\"]",
            [
                "cannot use units = [\"trading\"] (in [metrics], varta.toml line 2): the pattern \"trading\" matches nothing",
                "the names of units end in .service or .scope; write the name of a unit or a pattern",
            ],
        ),
        (
            "units = [\"a.service\"]",
            ["cannot use units (varta.toml line 1): there is no such key", "units belongs in [metrics]"],
        ),
        ("metrics = 1", ["cannot use metrics = 1 (varta.toml line 1)", "write a table, headed [metrics]"]),
        (
            "http = 9464",
            ["cannot use http = 9464 (varta.toml line 1): it is an integer", "write a table, headed [http]"],
        ),
        (
            "hosts = 1",
            ["cannot use hosts (varta.toml line 1): there is no such key", "the keys here are dir, shards"],
        ),
        (
            "[[shard]]\nthreshold = \"1s\"",
            [
                "no such key in [[shard]]",
                "threshold belongs at the top of the file, before the first [[…]] block",
            ],
        ),
        (
            "[[rule]]\nmatch = { com = \"x\" }\nthreshold = \"1s\"",
            ["cannot use com (in [[rule]], varta.toml line 2)", "did you mean comm?"],
        ),
        (
            "shards = \"4\"",
            [
                "cannot use shards = \"4\" (varta.toml line 1): it is a string",
                "write a whole number from 1 to 64",
            ],
        ),
        (
            "threshold = 5",
            [
                "cannot use threshold = 5 (varta.toml line 1): it has no unit",
                "write \"5s\" or \"5ms\", in quotes",
            ],
        ),
        (
            "threshold = true",
            ["cannot use threshold = true (varta.toml line 1): it is a boolean", "such as \"500ms\""],
        ),
        (
            "events-format = \"xml\"",
            ["cannot use events-format = \"xml\" (varta.toml line 1)", "write \"jsonl\" or \"tsv\""],
        ),
        (
            "shard = 2",
            [
                "cannot use shard = 2 (varta.toml line 1): it is an integer",
                "write blocks, each headed [[shard]]",
            ],
        ),
        (
            "[[shard]]\ncore = \"two\"",
            ["cannot use core = \"two\" (in [[shard]], varta.toml line 2)", "write core = 2"],
        ),
        ("[[shard]]\nmode = 660", ["cannot use mode = 660", "an octal number in quotes, such as \"0660\""]),
        ("[[shard]]\nmode = \"0888\"", ["it is not an octal number", "write it like \"0660\""]),
        (
            "[[shard]]\nmode = \"0440\"",
            ["nobody may write, so nobody can beat", "\"0660\" for its group too"],
        ),
        (
            "[[shard]]\nallow-uids = [\"no such\"]",
            ["cannot use allow-uids = [\"no such\"]", "there is no such user on this host"],
        ),
        (
            "control-writers = [0, \"no such\"]",
            ["cannot use control-writers = [0, \"no such\"]", "there is no such user on this host"],
        ),
        (
            "control-writers = []",
            ["cannot use control-writers = [] (varta.toml line 1): it names nobody", "write 1 to 64 users"],
        ),
        (
            "control-writers = \"root\"",
            ["cannot use control-writers = \"root\"", "a list of users, by number or name"],
        ),
        (
            "[[rule]]\nthreshold = \"1s\"",
            ["cannot use [[rule]] (varta.toml line 1): it has no match", "add match: what to match"],
        ),
        (
            "[[rule]]\nmatch = {}\nthreshold = \"1s\"",
            ["it matches every agent", "name a comm, uid, exe or unit"],
        ),
        (
            "[[rule]]\nmatch = { comm = \"sixteen-letters-\" }\nthreshold = \"1s\"",
            [
                "cannot use comm = \"sixteen-letters-\" (in [[rule]], varta.toml line 2): it is longer than 15 bytes",
                "match by exe",
            ],
        ),
        (
            "shards = 3\n[[shard]]\n[[shard]]",
            ["cannot use shards = 3 (varta.toml line 1): there are 2 [[shard]] blocks", "shards = 2 fits"],
        ),
        (
            "[[shard]]\nsocket = \"a.sock\"\n[[shard]]\nsocket = \"./a.sock\"",
            [
                "(in [[shard]], varta.toml line 4): it is the socket of shard 0, too",
                "give each shard a socket of its own",
            ],
        ),
        ("shards = \n", ["cannot read varta.toml line 1: ", "correct the TOML there"]),
        (
            "tick = \"1ms\"\ntick = \"2ms\"",
            ["cannot read varta.toml line 2: duplicate key", "correct the TOML there"],
        ),
    ] {
        let scene = Scene::new();
        scene.check_file(text).says(CONFIG, &words).says(CONFIG, &["problem: ", "1 problem, "]);
        scene
            .run(&["run", "--dir", "run", "--config", "varta.toml"])
            .says(CONFIG, &words)
            .says(CONFIG, &["error: "]);
    }
}

#[test]
fn fault_35_every_problem_is_told_at_once() {
    let text = "threshold = 5\nshard = []\nagents-max = 0\n[[rule]]\nmatch = { uid = 7 }\nthreshold = \"1ms\"\nmtach = 1\n";
    let scene = Scene::new().env("VARTA_SHARDS", "99");
    let file = scene.file("varta.toml", text);
    let outcome = scene.run(&["run", "--dir", "run", "--config", &file.to_string_lossy()]);
    outcome.says(
        CONFIG,
        &[
            "5 problems with the configuration",
            "cannot use threshold = 5 (",
            "varta.toml line 1): it has no unit",
            "cannot use agents-max = 0 (",
            "cannot use threshold = \"1ms\" (in [[rule]], ",
            "cannot use mtach (in [[rule]], ",
            "did you mean match?",
            "cannot use VARTA_SHARDS=99",
        ],
    );
}

#[test]
fn a_file_that_cannot_be_read_is_explained() {
    let scene = Scene::new();
    let run = |path: &str| scene.run(&["run", "--dir", "run", "--config", path]);
    run("absent.toml").says(CONFIG, &["cannot read absent.toml: there is no such file", "correct the path"]);
    run(".").says(CONFIG, &["cannot read .: it is a directory", "name a file in it"]);
    scene.file("latin1.toml", b"dir = \"/tmp/\xe9\"");
    run("latin1.toml").says(CONFIG, &["cannot read latin1.toml: it is not UTF-8 text", "save it as UTF-8"]);

    let secret = scene.file("secret.toml", "");
    fs::set_permissions(secret, Permissions::from_mode(0o000)).unwrap();
    for command in [&["run"][..], &["check"], &["config"], &["status"], &["route"]] {
        let outcome = scene.run_unprivileged(&[command, &["--config", "secret.toml"]].concat());
        outcome.says(PERMISSION, &["cannot read secret.toml: permission denied", "let this user read it"]);
    }
}

#[test]
fn check_tells_what_hinders_an_action_before_it_is_needed() {
    let scene = Scene::new();
    let action = "[[action]]\nname = \"abort\"\non = [\"stall\", { exit = { signal = 9 } }]\n\
                  match = { unit = \"there-is-none@*.service\" }\nrun = [\"/bin/true\", \"{pid}\"]\n";
    let outcome = scene.check_file(format!("audit = \"none/audit.jsonl\"\nspawner = \"none.sock\"\n{action}[brake]\nshare = {{ percent = 100 }}\n"));
    outcome.says(
        CONFIG,
        &[
            "action 0         abort: 5s after stall or exit by SIGKILL: run /bin/true {pid}\n",
            "brake            8 at once, 20 per 1m; held while more than 100 % and at least 5 stall within 10s, released after 1m\n",
            "problem: cannot write the audit file, ",
            "problem: no spawner can be reached at ",
            "note: action abort: no process is in a unit that there-is-none@*.service matches now\n",
            "note: share of [brake] has percent = 100, which is never exceeded",
        ],
    );
    scene.check_file(action).says(code_of_check(0), &["evidence-dir     "]);
    let idle = scene.check_file("audit-sync = true\n[brake]\ndry-run = true\n");
    idle.says(code_of_check(0), &["note: there is no [[action]], so audit-sync, brake does nothing\n"]);
    let refused =
        scene.check_file(action.replace("/bin/true", "/there/is/none").replace("\"stall\"", "\"stal\""));
    refused.says(CONFIG, &["did you mean \"stall\"?", "there is no /there; install it"]);
}

#[test]
fn threat_12_who_can_write_the_configuration_would_act_as_us() {
    let action = "[[action]]\nname = \"a\"\non = [\"stall\"]\nmatch = { uid = 7 }\nsignal = \"ABRT\"\n";
    let scene = Scene::new();
    let path = scene.file("varta.toml", action);
    fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
    let why = "cannot use [[action]] (varta.toml line 1): this file may not say what is done: others can change \
               varta.toml: its mode is 0666; chmod go-w varta.toml";
    for command in ["run", "check", "config"] {
        scene.run(&[command, "--dir", "run", "--config", "varta.toml"]).says(CONFIG, &[why]);
    }
    fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    scene.run(&["config", "--dir", "run", "--config", "varta.toml"]).says(CLEAN, &["signal = \"SIGABRT\""]);
    let run = action.replace("signal = \"ABRT\"", "run = [\"/there/is/none\"]");
    scene.file("varta.toml", run);
    let why = "varta.toml line 5): there is no /there; install it, or correct the path";
    scene.run(&["run", "--dir", "run", "--config", "varta.toml"]).says(CONFIG, &[why]);
}

/// What `check` says of the threshold, with this text as `/etc/varta-fleet.toml` of a mount namespace.
fn check_with_etc(setup: &str, variable: Option<&str>, args: &str) -> Outcome {
    assert!(rustix::process::geteuid().is_root(), "this test needs root, for an /etc of its own");
    let scene = Scene::new();
    let script = format!(
        "set -e; mount -t tmpfs -o mode=755 tmpfs /etc; {setup}; exec setpriv --reuid 65534 --clear-groups \
         ./varta-fleet check --dir run --shards 1 --agents-max 1 {args}"
    );
    crate::common::copy_program(Path::new(PROGRAM), &scene.dir.path().join("varta-fleet"));
    let mut command = scene.command(Path::new("unshare"), &["--mount", "sh", "-c", &script]);
    // Without a variable, as on a host.
    command.env_remove("VARTA_CONFIG").envs(variable.map(|path| ("VARTA_CONFIG", path)));
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    Outcome::of(command)
}

#[test]
fn the_file_in_etc_is_read_if_it_is_there_and_no_other_is_named() {
    let there = "echo 'threshold = \"7s\"' > /etc/varta-fleet.toml";
    let planned = |setup: &str, variable, args| check_with_etc(setup, variable, args).planned("threshold");
    assert_eq!(planned(there, None, ""), "7s (/etc/varta-fleet.toml line 1)");
    assert_eq!(planned(there, Some(""), ""), "7s (/etc/varta-fleet.toml line 1)");
    assert_eq!(planned("true", None, ""), "2s (default)");
    assert_eq!(planned(there, Some("/dev/null"), ""), "2s (default)");
    assert_eq!(planned(there, None, "--config /dev/null"), "2s (default)");
    assert_eq!(planned(there, None, "--threshold 9s"), "9s (--threshold)");
    let other = format!("{there}; echo 'threshold = \"8s\"' > /etc/other.toml");
    assert_eq!(planned(&other, Some("/etc/other.toml"), ""), "8s (/etc/other.toml line 1)");
    assert_eq!(
        planned(&other, Some("/etc/other.toml"), "--config /etc/varta-fleet.toml"),
        "7s (/etc/varta-fleet.toml line 1)"
    );

    let is_missing = ["cannot read /etc/other.toml: there is no such file", "correct the path"];
    check_with_etc(there, Some("/etc/other.toml"), "").says(CONFIG, &is_missing);
    let nowhere = "ln -s /nowhere /etc/varta-fleet.toml";
    check_with_etc(nowhere, None, "").says(CONFIG, &["cannot read /etc/varta-fleet.toml: there is no such"]);
    let secret = format!("{there}; chmod 600 /etc/varta-fleet.toml");
    let words = ["cannot read /etc/varta-fleet.toml: permission denied", "let this user read it"];
    check_with_etc(&secret, None, "").says(PERMISSION, &words);
    check_with_etc("echo 'treshold = 1' > /etc/varta-fleet.toml", None, "")
        .says(CONFIG, &["did you mean threshold?"]);
}

/// Commands that query a fleet find its directory where `run` finds it; its other keys may be wrong by now.
#[test]
fn clients_take_the_directory_from_the_configuration() {
    let scene = Scene::new();
    scene.file("varta.toml", "dir = \"/nowhere\"\nthreshold = 5\n");
    for command in [&["status"][..], &["agents"], &["explain", "7"], &["events"]] {
        let words = ["no fleet is running at /nowhere/control.sock"];
        scene.run(&[command, &["--config", "varta.toml"]].concat()).says(UNAVAILABLE, &words);
    }
    scene.run(&["route", "--config", "varta.toml"]).says(UNAVAILABLE, &["no fleet runs in /nowhere,"]);
    let by_variable = Scene::new().env("VARTA_CONFIG", "varta.toml");
    by_variable.file("varta.toml", "dir = \"/nowhere\"");
    by_variable.run(&["route"]).says(UNAVAILABLE, &["no fleet runs in /nowhere,"]);
    by_variable.run(&["route", "--dir", "/here"]).says(UNAVAILABLE, &["no fleet runs in /here,"]);
    for (text, word) in [("dir = 7", "cannot use dir = 7"), ("dir = \"/x", "cannot read varta.toml line 1")] {
        scene.file("varta.toml", text);
        scene.run(&["status", "--config", "varta.toml"]).says(CONFIG, &[word]);
    }
}

#[test]
fn config_prints_what_run_would_do() {
    let scene = Scene::new().env("VARTA_TICK", "5ms");
    scene.file(
        "varta.toml",
        "threshold = \"7s\"\ngroup = \"root\"\n[[rule]]\nmatch = { uid = \"root\" }\nthreshold = \"9s\"\n",
    );
    let config = |args: &[&str]| scene.run(&[&["config", "--dir", "/tmp/varta"], args].concat());
    let outcome = config(&["--config", "varta.toml", "--max-delay", "2ms"]);
    outcome.says(
        CLEAN,
        &["[[rule]]\nmatch = { uid = 0 }", "# varta.toml line 1\n", "# VARTA_TICK\n", "# --max-delay\n"],
    );
    outcome.says(CLEAN, &["group = 0", "# default\n", "# control-group: the observer's own"]);
    // Read again, alone, it is the same.
    let lines = |text: &str| -> Vec<String> {
        text.lines().map(|line| line.split(" # ").next().unwrap_or_default().trim_end().to_owned()).collect()
    };
    let again = Scene::new();
    again.file("varta.toml", &outcome.stdout);
    let second = again.run(&["config", "--config", "varta.toml"]);
    assert_eq!(lines(&second.says(CLEAN, &[]).stdout), lines(&outcome.stdout));
    config(&["--threshold", "1ms"]).says(CONFIG, &["cannot use --threshold 1ms"]);
}

/// The lines in which the packaged file differs from the example: members of the group may beat and query, and
/// their commands find the fleet.
const PACKAGED: [(&str, &str); 6] = [
    ("#dir = \"/run/varta\"", "dir = \"/run/varta\""),
    ("#mode = \"0600\"", "mode = \"0660\""),
    ("#group = \"varta\"", "group = \"varta\""),
    ("#control-mode = \"0600\"", "control-mode = \"0660\""),
    ("#control-group = \"varta\"", "control-group = \"varta\""),
    ("#events = \"none\"", "events = \"/var/log/varta-fleet/events.jsonl\""),
];

#[test]
fn the_packaged_file_and_the_guide_show_the_example() {
    let outcome = Scene::new().env("VARTA_THRESHOLD", "5s").run(&["config", "--default"]);
    let example = outcome.says(CLEAN, &["#threshold = \"2s\"\n"]).stdout.clone();
    let mut packaged = example.clone();
    for (line, set) in PACKAGED {
        // The keys at the top come first.
        let (line, set) = (format!("\n{line}\n"), format!("\n{set}\n"));
        assert!(packaged.contains(&line), "{line}");
        packaged = packaged.replacen(&line, &set, 1);
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let file = root.join("scripts/deploy/varta-fleet.toml");
    let page = root.join("src/guide/operate.md");
    let read = |path: &Path| fs::read_to_string(path).unwrap_or_default();
    let sample = |page: &str| {
        let (_, rest) = page.split_once("<!-- file example.toml -->\n```toml\n").expect("its place");
        rest.split_once("```\n").expect("its end").0.to_owned()
    };
    if std::env::var_os("VARTA_BLESS").is_some_and(|value| value == "1") {
        fs::write(&file, &packaged).expect("write the packaged file");
        let text = read(&page);
        fs::write(
            &page,
            text.replacen(&format!("```toml\n{}", sample(&text)), &format!("```toml\n{example}"), 1),
        )
        .expect("write the page");
    }
    let told = "is not what config --default prints: VARTA_BLESS=1 cargo test --test it cli:: rewrites it";
    assert!(read(&file) == packaged, "{} {told}", file.display());
    assert!(sample(&read(&page)) == example, "the sample of {} {told}", page.display());
}

#[test]
fn flag_beats_variable_beats_file_beats_default() {
    let planned = |env: &[(&'static str, &str)], text: &str, flags: &[&str]| {
        let mut scene = Scene::new();
        for (name, value) in env {
            scene = scene.env(name, value);
        }
        scene.file("varta.toml", text);
        scene.check(&[&["--config", "varta.toml"], flags].concat()).planned("threshold")
    };
    let (file, env) = ("tick = \"5ms\"\nthreshold = \"3s\"", [("VARTA_THRESHOLD", "4s")]);
    assert_eq!(planned(&[], "", &[]), "2s (default)");
    assert_eq!(planned(&[], file, &[]), "3s (varta.toml line 2)");
    assert_eq!(planned(&env, file, &[]), "4s (VARTA_THRESHOLD)");
    assert_eq!(planned(&env, "", &[]), "4s (VARTA_THRESHOLD)");
    assert_eq!(planned(&env, file, &["--threshold", "1m30s"]), "1m30s (--threshold)");
    assert_eq!(planned(&[], file, &["--threshold", "5s"]), "5s (--threshold)");
}

#[test]
fn every_key_can_be_set_in_every_way() {
    for (key, value, in_file) in [
        ("dir", "/tmp", "\"/tmp\""),
        ("shards", "3", "3"),
        ("threshold", "9s", "\"9s\""),
        ("tick", "7ms", "\"7ms\""),
        ("max-delay", "3ms", "\"3ms\""),
        ("control-writers", "7,8", "[7, 8]"),
        ("agents-max", "77", "77"),
        ("uid-agents-max", "70", "70"),
        ("uid-agents-max", "none", "\"none\""),
        ("uid-frames-max", "5000", "5000"),
        ("events", "-", "\"-\""),
        ("events-format", "tsv", "\"tsv\""),
        ("events-beats", "true", "true"),
        ("events-max-bytes", "1000000", "1000000"),
        ("events-max-bytes", "none", "\"none\""),
        ("events-keep", "7", "7"),
        ("log-format", "json", "\"json\""),
        ("audit", "/tmp/audit.jsonl", "\"/tmp/audit.jsonl\""),
        ("audit", "none", "\"none\""),
        ("audit-sync", "true", "true"),
        ("evidence-dir", "/tmp/evidence", "\"/tmp/evidence\""),
        ("spawner", "/tmp/spawner.sock", "\"/tmp/spawner.sock\""),
        ("spawner", "none", "\"none\""),
    ] {
        let variable = varta_fleet::config::KEYS.iter().find(|known| known.name == key).unwrap().variable;
        let base: &[&str] = if key == "dir" { &["check"] } else { &["check", "--dir", "run"] };
        let by_flag = Scene::new().run(&[base, &[&format!("--{key}={value}")]].concat());
        assert_eq!(by_flag.planned(key), format!("{value} (--{key})"));
        let by_variable = Scene::new().env(variable, value).run(base);
        assert_eq!(by_variable.planned(key), format!("{value} ({variable})"));
        let scene = Scene::new();
        scene.file("varta.toml", format!("{key} = {in_file}"));
        let by_file = scene.run(&[base, &["--config", "varta.toml"]].concat());
        assert_eq!(by_file.planned(key), format!("{value} (varta.toml line 1)"));
    }
    assert_eq!(Scene::new().check(&["--events-beats"]).planned("events-beats"), "true (--events-beats)");
}

// check.

#[test]
fn check_prints_the_plan() {
    let text = "threshold = \"30s\"\nagents-max = 2\n\
                [[shard]]\nsocket = \"a.sock\"\nmode = \"0660\"\nallow-uids = [8, 7]\n[[shard]]\ncore = \"none\"\n\
                [[rule]]\nmatch = { comm = \"batch-*\", uid = 7 }\nthreshold = \"90s\"\n";
    let scene = Scene::new();
    let outcome = scene.check_file(text);
    outcome.says(code_of_check(1), &["plan:\n"]);
    let run = scene.dir.path().join("run");
    assert_eq!(outcome.planned("dir"), format!("{} (--dir)", run.display()));
    assert_eq!(outcome.planned("shards"), "2 (varta.toml line 3)");
    assert_eq!(outcome.planned("events"), "none (default)");
    assert_eq!(
        outcome.planned("shard 0"),
        format!("{}/a.sock (mode 0660, core auto, uids 7, 8)", run.display())
    );
    assert_eq!(outcome.planned("shard 1"), format!("{}/shard-1.sock (mode 0600, core none)", run.display()));
    assert_eq!(outcome.planned("rule 0"), "comm batch-* and uid 7: 1m30s");
}

#[test]
fn check_says_when_writers_cannot_connect() {
    let told = "note: control-writers names users 7, 8, and the mode of control.sock, 0600, keeps them out";
    let scene = Scene::new();
    scene.check_file("agents-max = 2\ncontrol-writers = [8, 7, 8]\n").says(code_of_check(2), &[told]);
    let open = scene.check_file("agents-max = 2\ncontrol-writers = [8]\ncontrol-mode = \"0660\"\n");
    assert!(!open.stdout.contains("keeps them out"), "{open:?}");
    let many: Vec<String> = (0..65).map(|uid: u32| uid.to_string()).collect();
    let outcome = scene.check_file(format!("control-writers = [{}]", many.join(",")));
    outcome.says(CONFIG, &["cannot use control-writers = [0,1,2,", "it names more than 64 users"]);
}

#[test]
fn check_judges_the_queue_limit() {
    // The largest possible fleet on one shard: too large for any default limit.
    let outcome = Scene::new().run(&["check", "--dir", "run", "--shards", "1", "--agents-max", "4194304"]);
    let Some(limit) = queue_limit() else {
        outcome.says(CLEAN, &["note: cannot read /proc/sys/net/unix/max_dgram_qlen"]);
        return;
    };
    let code = code_of_check(4_194_304);
    outcome.says(code, &[]);
    if code == CONFIG {
        let told = format!("problem: net.unix.max_dgram_qlen is {limit} in this network namespace");
        let kept = format!("keeps {} beats", limit + 1);
        outcome.says(
            CONFIG,
            &[&told, &kept, "fix: sysctl -w net.unix.max_dgram_qlen=8388608\n", "restart the observer"],
        );
    }
    let small = Scene::new().check(&[]);
    small.says(code_of_check(1), &[]);
    assert_eq!(small.stdout.contains("problem: net.unix"), code_of_check(1) == CONFIG);
}

/// agents-max is not set: that a host is too small for its default is no problem.
#[test]
fn the_defaults_pass_their_own_check() {
    let scene = Scene::new();
    let outcome = scene.run(&["check", "--dir", "run"]);
    outcome.says(CLEAN, &["no problems"]);
    if queue_limit().is_some_and(|limit| limit < 131_072) {
        outcome.says(CLEAN, &["note: net.unix.max_dgram_qlen is ", "say how many with agents-max"]);
    }
}

#[test]
fn check_says_what_a_fleet_of_that_size_needs() {
    let scene = Scene::new();
    let large = ["check", "--dir", "run", "--shards", "4", "--agents-max", "1000000"];
    let outcome = scene.run(&[&large[..], &["--rate", "1"]].concat());
    assert_eq!(outcome.planned("beats"), "1000000/s (1000000 agents, 1 a second each)");
    assert_eq!(outcome.planned("shards"), "4 (--shards)");
    assert!(outcome.stdout.contains("queue limit      500000 "), "{}", outcome.stdout);
    assert!(!outcome.stdout.contains("busiest would be"), "{}", outcome.stdout);

    let outcome = scene.run(&[&large[..], &["--rate", "10", "--pause", "500ms"]].concat());
    let words = [
        "problem: 10000000 beats a second on 4 shards: the core of the busiest would be",
        "fix: write shards = 34",
    ];
    outcome.says(CONFIG, &words);
    // 2 800 000 a second on the busiest shard, times half a second plus a sleep of one millisecond.
    assert!(outcome.stdout.contains("queue limit      1402801 "), "{}", outcome.stdout);

    for rate in ["0", "-1", "x", "NaN", "1e9"] {
        scene.run(&["check", "--rate", rate]).says(USAGE, &["'--rate <HZ>'", "from 0.0001 to 1000000"]);
    }
    scene.run(&["check", "--pause", "1s"]).says(USAGE, &["--pause", "add --rate HZ"]);
    scene.run(&["check", "--rate", "1", "--pause", "soon"]).says(USAGE, &["'--pause <DURATION>'"]);
}

#[test]
fn check_judges_the_directory() {
    let scene = Scene::new();
    let run = scene.dir.path().join("run");
    fs::create_dir(&run).unwrap();
    fs::set_permissions(&run, Permissions::from_mode(0o775)).unwrap();
    let fix = format!("fix: chmod go-w {}", run.display());
    scene.check(&[]).says(CONFIG, &["run is writable by its group or others (mode 0775)", &fix]);
    fs::set_permissions(&run, Permissions::from_mode(0o755)).unwrap();
    scene.check(&[]).says(code_of_check(1), &[]);
    scene
        .run(&["check", "--dir", "absent/run"])
        .says(CONFIG, &["cannot create directory ", "absent/run: no such file", "fix: mkdir -p "]);
    scene
        .check(&["--events", "absent/events"])
        .says(CONFIG, &["absent is to hold a socket or the events", "mkdir -p "]);
    if rustix::process::geteuid().is_root() {
        let outcome = scene.run_unprivileged(&["check", "--dir", "run"]);
        outcome.says(CONFIG, &["problem: cannot write to directory ", "run as its owner"]);
        outcome.says(CONFIG, &["note: this process may not raise its priority", "CAP_SYS_NICE"]);
    }
}

#[test]
fn check_finds_what_is_in_the_way_of_a_socket() {
    let scene = Scene::new();
    let run = scene.dir.path().join("run");
    fs::create_dir(&run).unwrap();
    fs::set_permissions(&run, Permissions::from_mode(0o755)).unwrap();
    let socket = run.join("shard-0.sock");
    fs::write(&socket, "").unwrap();
    scene
        .check(&[])
        .says(CONFIG, &["problem: cannot bind ", "shard-0.sock: a file that is not a socket is in the way"]);
    fs::remove_file(&socket).unwrap();
    let _live = UnixDatagram::bind(&socket).unwrap();
    scene.check(&[]).says(code_of_check(1), &["note: an observer is running at ", "stop it first"]);
}

#[test]
fn a_socket_that_no_file_can_be_is_refused_with_its_line() {
    for path in ["/run/varta/", "/run/..", "/run/a\\u0000b"] {
        let text = format!("[[shard]]\nsocket = \"{path}\"\n");
        Scene::new()
            .check_file(&text)
            .says(CONFIG, &["socket", "a socket's path ends in the name of a file"]);
    }
}

#[test]
fn check_judges_cores_as_a_note() {
    let text = "agents-max = 1\n[[shard]]\ncore = 65000\n";
    Scene::new()
        .check_file(text)
        .says(code_of_check(1), &["note: shard 0 is to be pinned to core 65000", "allowed cores ("]);
}

#[test]
fn check_notes_what_of_the_host_it_cannot_see() {
    assert!(rustix::process::geteuid().is_root(), "this test needs root, for a pid namespace of its own");
    let scene = Scene::new();
    let program = PROGRAM;
    let check = ["--pid", "--fork", program, "check", "--dir", "run", "--shards", "1", "--agents-max", "1"];
    Outcome::of(scene.command(Path::new("unshare"), &check)).says(
        code_of_check(1),
        &[
            "note: this observer runs inside a pid namespace",
            "note: /proc is missing or belongs to another pid namespace",
        ],
    );
}

#[test]
fn a_reader_that_hangs_up_is_no_error() {
    let scene = Scene::new();
    let found = code_of_check(1);
    let check = ["check", "--dir", "run", "--shards", "1", "--agents-max", "1"];
    // The exit code reports what `check` found, too.
    let refused = [&check[..], &["--threshold", "1ms"]].concat();
    for (args, code) in [(&check[..], found), (&refused, CONFIG), (&["--help"], CLEAN)] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = scene.command(Path::new(PROGRAM), args);
        let output =
            command.stdout(writer).stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
        assert_eq!((output.status.code(), &*output.stderr), (Some(code), &b""[..]), "{args:?}");
    }
}

#[test]
fn a_run_that_cannot_say_it_is_ready_fails() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let scene = Scene::new();
    let args = ["run", "--dir", "run", "--agents-max", "1", "--print-ready"];
    let mut command = scene.command(Path::new(PROGRAM), &args);
    let output = command.stdout(writer).stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(RUNTIME), "{said}");
    assert!(said.contains("error: cannot write the ready line to standard output: "), "{said}");
    let left: Vec<_> = fs::read_dir(scene.dir.path().join("run")).unwrap().flatten().collect();
    assert_eq!(left.len(), 2, "only lock and roster: {left:?}");
}

#[test]
fn events_do_not_go_to_files_of_the_observer() {
    let scene = Scene::new();
    for (name, whose) in [
        ("lock", "the observer's own lock"),
        ("fleet.json", "the observer's own manifest"),
        ("varta.sock", "the observer's own symlink"),
        ("shard-0.sock", "the socket of shard 0"),
    ] {
        let path = format!("run/{name}");
        let words = ["cannot use --events ", "it is ", whose, "; name another file"];
        scene.run(&["run", "--dir", "run", "--shards", "1", "--events", &path]).says(CONFIG, &words);
    }
}

#[test]
fn an_output_that_fails_is_an_error() {
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let scene = Scene::new();
    let mut command = scene.command(Path::new(PROGRAM), &["check", "--dir", "run"]);
    let output = command.stdout(full).stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(RUNTIME), "{said}");
    assert!(said.starts_with("error: cannot write to standard output: "), "{said}");
}

// Who may beat.

#[test]
fn check_says_whom_the_sockets_keep_out() {
    if rustix::process::geteuid().is_root() {
        let only = "only root can beat: the mode of the sockets is 0600";
        Scene::new().check(&[]).says(code_of_check(1), &[only, "mode = \"0660\" with group"]);
    }
    let open = Scene::new().check(&["--mode", "0660", "--group", "root"]);
    assert!(!open.stdout.contains("root can beat"), "{open:#?}");
    assert_eq!(open.planned("mode"), "0660 (--mode)");
    assert_eq!(open.planned("group"), "0 (--group)");
    Scene::new()
        .check(&["--group", "root"])
        .says(code_of_check(1), &["has a group of its own that may not send"]);
    let words = ["cannot use VARTA_CONTROL_GROUP=no such: there is no such group on this host"];
    Scene::new().env("VARTA_CONTROL_GROUP", "no such").check(&[]).says(CONFIG, &words);
    Scene::new().check(&["--mode", "0444"]).says(CONFIG, &["nobody may write, so nobody can beat"]);
}

// Variables.

#[test]
fn a_misspelt_variable_is_a_problem_that_names_the_right_one() {
    let scene = Scene::new().env("VARTA_TRESHOLD", "5s");
    let words = ["cannot use VARTA_TRESHOLD=5s: there is no such variable", "did you mean VARTA_THRESHOLD?"];
    scene.run(&["run", "--dir", "run"]).says(CONFIG, &words);
    scene.check(&[]).says(CONFIG, &words);
    let words = ["cannot use VARTA_CONFIGS=x: there is no such variable", "did you mean VARTA_CONFIG?"];
    Scene::new().env("VARTA_CONFIGS", "x").check(&[]).says(CONFIG, &words);
}

#[test]
fn an_empty_variable_is_not_set_and_none_switches_off() {
    let scene = Scene::new().env("VARTA_HTTP", "").env("VARTA_THRESHOLD", "").env("VARTA_EVENTS_BEATS", "");
    let outcome = scene.check(&[]);
    assert_eq!(outcome.planned("threshold"), "2s (default)");
    let empty = Scene::new().env("VARTA_DIR", "").run(&["route", "--pid", "7"]);
    assert!(!empty.stderr.contains("VARTA_DIR= "), "{empty:#?}");
    assert_eq!(empty.code, Some(UNAVAILABLE), "{empty:#?}");

    let scene = Scene::new().env("VARTA_EVENTS", "none");
    scene.file("varta.toml", "events = \"events.jsonl\"\n[http]\nlisten = \"127.0.0.1:0\"\n");
    let outcome = scene.check(&["--config", "varta.toml", "--http", "none"]);
    assert_eq!(outcome.planned("events"), "none (VARTA_EVENTS)");
    assert_eq!(outcome.planned("http"), "none (--http)");
}

// route.

fn fleet_of(scene: &Scene, shards: usize) -> Vec<PathBuf> {
    let sockets: Vec<_> = (0..shards).map(|i| scene.dir.path().join(format!("shard-{i}.sock"))).collect();
    scene.file(MANIFEST, serde_json::to_string(&Manifest::new(&sockets, 1)).expect("plain data"));
    sockets
}

#[test]
fn route_prints_the_socket_of_a_pid() {
    let scene = Scene::new();
    let sockets = fleet_of(&scene, 4);
    let _heard: Vec<_> = sockets.iter().map(|socket| UnixDatagram::bind(socket).unwrap()).collect();
    for pid in [1, 2, 3, 4711, u32::MAX] {
        let expected = format!("{}\n", sockets[shard_for(pid, 4) as usize].display());
        let outcome = scene.run(&["route", "--dir", ".", "--pid", &pid.to_string()]);
        assert_eq!((outcome.code, outcome.stdout, outcome.stderr), (Some(CLEAN), expected, String::new()));
    }
    // Without a pid, for the caller's.
    let expected = format!("{}\n", sockets[shard_for(std::process::id(), 4) as usize].display());
    assert_eq!(scene.run(&["route", "--dir", "."]).stdout, expected);
    let by_variable = Scene::new().env("VARTA_DIR", &scene.dir.path().to_string_lossy()).run(&["route"]);
    assert_eq!(by_variable.stdout, expected);
}

#[test]
fn route_to_where_a_beat_is_not_heard_says_so_beside_the_path() {
    let scene = Scene::new();
    let sockets = fleet_of(&scene, 1);
    let path = format!("{}\n", sockets[0].display());
    let args = ["route", "--dir", ".", "--pid", "7"];
    let heard = UnixDatagram::bind(&sockets[0]).unwrap();
    fs::set_permissions(&sockets[0], Permissions::from_mode(0o600)).unwrap();
    if rustix::process::geteuid().is_root() {
        let refused = scene.run_unprivileged(&args);
        refused.says(
            PERMISSION,
            &["cannot send to ", "shard-0.sock: permission denied: it belongs to ", "`mode` and `group`"],
        );
        assert_eq!(refused.stdout, path);
        scene
            .run_unprivileged(&["load", "--dir", ".", "--agents", "1", "--rate", "10", "--for", "1s"])
            .says(PERMISSION, &["cannot send to ", "shard-0.sock: permission denied: "]);
    }
    // As after SIGKILL, then without the socket.
    drop(heard);
    for _ in 0..2 {
        let deaf = scene.run(&args);
        deaf.says(UNAVAILABLE, &["no observer listens on ", "shard-0.sock", "varta-fleet run"]);
        assert_eq!(deaf.stdout, path);
        let _ = fs::remove_file(&sockets[0]);
    }
}

#[test]
fn route_without_a_fleet() {
    let scene = Scene::new();
    let words = [
        "cannot route pid 7: no fleet runs in ",
        "there is no fleet.json",
        "varta-fleet run",
        "--dir or VARTA_DIR",
    ];
    scene.run(&["route", "--dir", ".", "--pid", "7"]).says(UNAVAILABLE, &words);
    scene.run(&["route", "--dir", "absent", "--pid", "7"]).says(UNAVAILABLE, &words);
    scene.run(&["route", "--pid", "0"]).says(USAGE, &["invalid value '0' for '--pid <PID>'"]);
    scene.run(&["route", "--pid", "me"]).says(USAGE, &["invalid value 'me' for '--pid <PID>'"]);
}

#[test]
fn route_with_a_manifest_it_cannot_use() {
    let scene = Scene::new();
    let manifest = scene.file(MANIFEST, "{}");
    let args = ["route", "--dir", ".", "--pid", "7"];
    scene
        .run(&args)
        .says(RUNTIME, &["cannot route pid 7: ", "is not a fleet manifest", "restart the observer"]);
    fs::set_permissions(manifest, Permissions::from_mode(0o000)).unwrap();
    scene.run_unprivileged(&args).says(
        PERMISSION,
        &["cannot route pid 7: cannot read ", "fleet.json: permission denied: it belongs to "],
    );
}

// Text from others.

/// Ends a line, imitates our messages, colours, retitles and clears the terminal, and hides what follows.
const HOSTILE: &str = "a\nerror: all is well\r\u{1b}[31m\u{1b}]0;x\u{7}\u{9b}2J\u{202e}\u{7f}b";

impl Outcome {
    /// Asserts that text from others reached the terminal as plain text.
    fn is_harmless(&self, what: &str) {
        for said in [&self.stdout, &self.stderr] {
            let is_harmful = |c: char| c.is_control() && c != '\n' || c == '\u{202e}';
            assert!(!said.contains(is_harmful), "{what}: {said:?}");
            let is_forged = |line: &str| line.starts_with("error: all is well");
            assert!(!said.lines().any(is_forged), "{what}: {said}");
        }
    }
}

#[test]
fn no_character_of_others_steers_a_terminal() {
    let in_toml = serde_json::to_string(HOSTILE).expect("TOML and JSON write it alike");
    let commands: [&[&str]; 2] = [&["check"], &["run"]];
    for command in commands {
        for key in varta_fleet::config::KEYS.iter().filter(|key| key.is_settable()) {
            let name = key.name;
            // A plan that fails for another reason would hide the effect of the value.
            let dir: &[&str] = if name == "dir" { &[] } else { &["--dir", "/dev/null/varta"] };
            let base = [command, dir].concat();
            // No fleet can start there, whatever the name.
            let value = if name == "dir" { format!("{HOSTILE}/absent/run") } else { HOSTILE.to_owned() };
            let flag = format!("--{name}={value}");
            Scene::new().run(&[&base[..], &[&flag]].concat()).is_harmless(&format!("{command:?} --{name}"));
            Scene::new().env(key.variable, &value).run(&base).is_harmless(key.variable);
            let scene = Scene::new();
            let value = serde_json::to_string(&value).expect("a string");
            scene.file("varta.toml", format!("{name} = {value}"));
            scene.run(&[&base[..], &["--config", "varta.toml"]].concat()).is_harmless(name);
        }
        let base = [command, &["--dir", "/dev/null/varta", "--config"]].concat();
        for text in [
            format!("{in_toml} = 1"),
            format!("[[shard]]\nsocket = {in_toml}"),
            format!("[[shard]]\n{in_toml} = 1"),
            format!("[[shard]]\nmode = {in_toml}\ncore = {in_toml}\nallow-uids = {in_toml}"),
            format!(
                "[[rule]]\nmatch = {{ comm = {in_toml}, exe = {in_toml}, {in_toml} = 1 }}\nthreshold = {in_toml}"
            ),
            "[[rule]]\nmatch = { exe = \"/\\u001b[2J\\n*\" }\nthreshold = \"5s\"".to_owned(),
            format!(
                "[[action]]\nname = {in_toml}\non = [{in_toml}, {{ {in_toml} = 1 }}]\n\
                 match = {{ comm = {in_toml}, unit = {in_toml}, {in_toml} = 1 }}\nrun = [{in_toml}]\nsignal = {in_toml}\n\
                 systemd = {in_toml}\nuser = {in_toml}\nenv = {{ {in_toml} = {in_toml} }}\nretry = {{ {in_toml} = 1 }}"
            ),
            format!(
                "[[action]]\nname = {in_toml}\non = [\"stall\"]\nmatch = {{ exe = {in_toml}, unit = {in_toml} }}\n\
                 run = [{in_toml}, {in_toml}]\nenv = {{ {in_toml} = {in_toml} }}\n[brake]\nrelease = {in_toml}"
            ),
            "[[action]]\nname = \"a\"\non = [\"stall\"]\nmatch = { exe = \"/\\u001b[2J\\n*\" }\n\
             run = [\"/bin/true\", \"\\u001b[2J\\u202e\"]\nenv = { A = \"\\u001b[2J\\nerror: all is well\" }"
                .to_owned(),
            "[[action]]\nname = \"a\"\non = [\"stall\"]\nany-user = true\nrun = [\"/\\u001b[2J\\u202e/x\"]"
                .to_owned(),
            format!("threshold = {HOSTILE}"),
            format!("# {HOSTILE}"),
        ] {
            let scene = Scene::new();
            scene.file("varta.toml", &text);
            scene.run(&[&base[..], &["varta.toml"]].concat()).is_harmless(&text);
        }
        Scene::new().run(&[&base[..], &[HOSTILE]].concat()).is_harmless("--config");
    }
    for args in [
        &["route", "--dir", HOSTILE][..],
        &["route", "--pid", HOSTILE],
        &[HOSTILE],
        &["run", HOSTILE],
        &["run", &format!("--{HOSTILE}")],
        &["check", &format!("--thresold{HOSTILE}=3")],
    ] {
        Scene::new().run(args).is_harmless(&format!("{args:?}"));
    }
}

#[test]
fn a_pattern_with_control_characters_is_shown_escaped() {
    let text = "[[rule]]\nmatch = { exe = \"/\\u001b[2J\\n*\", comm = \"\\u0007\" }\nthreshold = \"5s\"";
    let outcome = Scene::new().check_file(text);
    outcome.is_harmless("check");
    assert_eq!(outcome.planned("rule 0"), "comm \\u{7} and exe /\\u{1b}[2J\\n*: 5s");
}

#[test]
fn paths_that_steer_a_terminal_are_refused() {
    let words = ["it holds characters that control a terminal or cannot be seen", "name another path"];
    let base = ["check", "--dir", "run"];
    Scene::new().run(&["check", "--dir", HOSTILE]).says(CONFIG, &words);
    Scene::new().run(&[&base[..], &["--events", HOSTILE]].concat()).says(CONFIG, &words);
    let scene = Scene::new();
    scene.file("varta.toml", "[[shard]]\nsocket = \"\\u001b.sock\"");
    scene.run(&[&base[..], &["--config", "varta.toml"]].concat()).says(CONFIG, &words);
}

#[test]
fn a_manifest_of_somebody_else_does_not_steer_the_terminal_of_who_asks_for_a_route() {
    let scene = Scene::new();
    scene.file(MANIFEST, serde_json::to_string(&Manifest::new(&[HOSTILE.into()], 1)).expect("plain data"));
    let outcome = scene.run(&["route", "--dir", "."]);
    outcome.is_harmless("route");
    outcome.says(RUNTIME, &["is not a fleet manifest", "control characters"]);
}

#[test]
fn existing_places_with_hostile_names_are_told_harmlessly() {
    let scene = Scene::new();
    let inside = scene.dir.path().join(HOSTILE);
    fs::create_dir(&inside).expect("the directory is ours");
    fs::create_dir(inside.join("run")).expect("the directory is ours");
    fs::set_permissions(inside.join("run"), Permissions::from_mode(0o777)).expect("it is ours");
    // Relative to a working directory whose name is hostile.
    for args in [&["check", "--dir", "run"][..], &["run", "--dir", "run"], &["route", "--dir", "run"]] {
        let mut command = scene.command(Path::new(PROGRAM), args);
        command.current_dir(&inside);
        Outcome::of(command).is_harmless(&format!("{args:?}"));
    }
    let demo = scene.command(Path::new(PROGRAM), &["demo"]);
    let mut demo = demo;
    demo.env("TMPDIR", &inside);
    Outcome::of(demo).is_harmless("demo");
}
