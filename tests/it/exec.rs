//! Programs that `exec` starts, as real processes, and scripts that `beat`.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use crate::common::{
    Daemon, Keeper, Observer, Options, PROGRAM, SOON, Terminal, needs_root, program, program_by, python,
    signal, wait_for,
};

const T: Duration = Duration::from_millis(600);

fn observer() -> Observer {
    let config = "[notify]\n".to_owned();
    Observer::start(Options { threshold: T, config, shards: 1, agents_max: 10_000, ..Options::default() })
}

/// A command that starts a program by `exec`; the program is yet to be named.
fn exec(dir: &Path, options: &[&str]) -> Command {
    let mut command = program();
    command.env_remove("NOTIFY_SOCKET").arg("exec").arg("--dir").arg(dir).args(options).arg("--");
    command
}

fn run(command: &mut Command) -> Output {
    command.output().expect("it runs")
}

fn stderr_of(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn explained(observer: &Observer, pid: u32) -> String {
    let output = run(program().args(["explain", &pid.to_string(), "--dir"]).arg(observer.dir()));
    String::from_utf8_lossy(&output.stdout).replace('\n', " ")
}

#[test]
fn a_daemon_is_an_agent_from_its_start_on() {
    let mut observer = observer();
    let mut daemon = Daemon::by(exec(&observer.dir(), &["--threshold", "1s", "--name", "worker-7"]));
    let pid = daemon.pid();
    let up = observer.expect("up", pid, SOON);
    assert_eq!(up.str("origin"), "notify", "{up}");
    // It has its threshold although it has not sent a thing.
    let stall = observer.expect("stall", pid, SOON);
    assert!(stall.bool("certain") && stall.u64("silent_ns") >= 1_000_000_000, "{stall}");
    assert!(stall.u64("silent_ns") < 3_000_000_000, "{stall}");
    daemon.ask("beat 0.1");
    observer.expect("resume", pid, SOON);
    wait_for("its words", || {
        let text = explained(&observer, pid);
        (text.contains("worker-7") && text.contains("python")).then_some(())
    });
    daemon.signal(Signal::STOP);
    observer.expect("stall", pid, SOON);
    daemon.signal(Signal::CONT);
    observer.expect("resume", pid, SOON);
    daemon.end(3);
    assert_eq!(observer.expect("exit", pid, SOON).u64("code"), 3);
    observer.stop();
}

/// Only its end is told, until it beats.
#[test]
fn without_a_threshold_silence_means_nothing() {
    let mut observer = observer();
    let mut silent = exec(&observer.dir(), &[]).args(["sleep", "1000"]).spawn().expect("start");
    observer.expect("up", silent.id(), SOON);
    let mut short = exec(&observer.dir(), &[]).arg("true").spawn().expect("start");
    assert_eq!(observer.expect("exit", short.id(), SOON).u64("code"), 0);
    assert!(short.wait().expect("it ended").success());
    let mut judged =
        exec(&observer.dir(), &["--threshold", "1s"]).args(["sleep", "1000"]).spawn().expect("start");
    observer.expect("stall", judged.id(), SOON);
    assert_eq!(observer.count("stall", silent.id()), 0);
    for child in [&mut silent, &mut judged] {
        signal(child.id(), Signal::KILL);
        assert_eq!(observer.expect("exit", child.id(), SOON).u64("signal"), 9);
        assert_eq!(child.wait().expect("it ended").signal(), Some(9));
    }
    observer.stop();
}

/// Whoever starts it sets signals and descriptors; the program finds them so, with and without us.
#[test]
fn the_program_finds_everything_as_it_was_left() {
    // Of itself a shell blocks signals now and then: what is read last is read by a program that takes its place.
    const PROBE: &str = "out=$1; shift; { ls /proc/$$/fd; ulimit -a; nice; pwd; cat /proc/$$/oom_score_adj; env | \
                         grep -vE '^(NOTIFY_SOCKET|VARTA_|WATCHDOG_|_=)' | sort; printf '<%s>' \"$@\"; } >\"$out\" 2>&1; \
                         exec grep -E '^(Sig|Shd|TracerPid|Umask|Threads)' /proc/self/status >>\"$out\" 2>&1";
    const SETTER: &str = r#"
import os, signal, subprocess, sys
ignored, blocked, closed = (eval(word) for word in sys.argv[1:4])
for number in range(1, 65):
    if number not in (9, 19, 32, 33):
        signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)
signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
for fd in closed:
    os.close(fd)
os.execvp(sys.argv[4], sys.argv[4:])
"#;
    let observer = observer();
    let place = tempfile::tempdir().expect("a directory");
    let start = |state: [&str; 3], name: &str, by: &[&OsStr]| {
        let file = place.path().join(name);
        let mut command = program_by(python());
        command.env_remove("NOTIFY_SOCKET").args(["-c", SETTER]).args(state).args(by);
        command.args(["sh", "-c", PROBE, "sh"]).arg(&file).args(["", "a b", "--dir", "*", "\u{1b}"]);
        let status = command.status().expect("it runs");
        assert!(status.success(), "{state:?} {status}");
        let text = fs::read_to_string(&file).expect("it wrote");
        // How many signals are queued for this user is everybody's.
        text.lines().filter(|line| !line.starts_with("SigQ")).collect::<Vec<_>>().join("\n")
    };
    let dir = observer.dir();
    let ours: Vec<&OsStr> = [PROGRAM, "exec", "--dir"]
        .map(OsStr::new)
        .into_iter()
        .chain([dir.as_os_str(), OsStr::new("--")])
        .collect();
    for (at, state) in [
        ["[]", "[]", "[]"],
        ["[13, 25]", "[]", "[]"],
        ["[1, 2, 15, 17, 64]", "[10, 13, 28, 40]", "[0]"],
        ["[13]", "[14]", "[1]"],
        ["[25]", "[14]", "[0, 1, 2]"],
    ]
    .into_iter()
    .enumerate()
    {
        let plain = start(state, &format!("plain-{at}"), &[OsStr::new("env")]);
        let by_us = start(state, &format!("ours-{at}"), &ours);
        assert_eq!(by_us, plain, "{state:?}");
        assert!(plain.contains("SigIgn") && plain.contains("<--dir>"), "{plain}");
    }
    observer.stop();
}

#[test]
fn it_ends_as_the_program_does() {
    let observer = observer();
    let dir = observer.dir();
    let place = tempfile::tempdir().expect("a directory");
    let (plain, script) = (place.path().join("plain"), place.path().join("script"));
    fs::write(&plain, "exit 5\n").expect("write");
    fs::write(&script, "exit 5\n").expect("write");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("it is ours");
    let code = |command: &mut Command| {
        let output = run(command);
        (output.status.code(), stderr_of(&output))
    };
    assert_eq!(code(exec(&dir, &[]).args(["sh", "-c", "exit 77"])).0, Some(77));
    // A file without an interpreter is a script of the shell, as for env(1).
    assert_eq!(code(exec(&dir, &[]).arg(&script)).0, Some(5));
    for (program, expected, why) in [
        (plain.to_str().expect("UTF-8"), 126, "permission denied"),
        (place.path().to_str().expect("UTF-8"), 126, "permission denied"),
        ("/nonexistent/program", 127, "no such file"),
        ("varta-no-such-program", 127, "name a program in path"),
        ("", 127, "cannot start"),
    ] {
        let (found, said) = code(exec(&dir, &[]).arg(program));
        assert_eq!(found, Some(expected), "{program}: {said}");
        assert!(said.to_lowercase().contains(why), "{said}");
    }
    // The shell that waits for it sees the signal.
    let line = format!("{PROGRAM} exec --dir {} -- sh -c 'kill -KILL $$'; exit $?", dir.display());
    assert_eq!(code(program_by("sh").env_remove("NOTIFY_SOCKET").args(["-c", &line])).0, Some(137));
    observer.stop();
}

#[test]
fn it_says_what_is_in_its_way() {
    let place = tempfile::tempdir().expect("a directory");
    let nobody = run(exec(place.path(), &[]).arg("true"));
    assert_eq!(nobody.status.code(), Some(69));
    assert!(stderr_of(&nobody).contains("cannot start true: no fleet runs in "), "{}", stderr_of(&nobody));

    let deaf = Observer::start(Options::default());
    for command in [&mut exec(&deaf.dir(), &[]), program().arg("beat").arg("--dir").arg(deaf.dir())] {
        let is_exec = command.get_args().any(|word| word == "exec");
        let output = run(if is_exec { command.arg("true") } else { command });
        assert_eq!(output.status.code(), Some(69));
        assert!(
            stderr_of(&output).contains("write [notify] into its configuration"),
            "{}",
            stderr_of(&output)
        );
    }
    deaf.stop();

    let observer = observer();
    let managed = run(exec(&observer.dir(), &[]).arg("true").env("NOTIFY_SOCKET", "/run/systemd/notify"));
    assert_eq!(managed.status.code(), Some(78));
    assert!(stderr_of(&managed).contains("env -u NOTIFY_SOCKET"), "{}", stderr_of(&managed));
    // By its own socket it is no service manager: a program that was started so may start others.
    let nested = ["sh", "-c", "exec \"$0\" exec -- true", PROGRAM];
    assert!(run(exec(&observer.dir(), &[]).args(nested)).status.success());
    for (options, why) in [
        (["--name", "a\nMAINPID=1"], "control characters"),
        (["--name", ""], "it is empty"),
        (["--threshold", "0s"], "shorter than 1ms"),
    ] {
        let output = run(exec(&observer.dir(), &options).arg("true"));
        assert_eq!(output.status.code(), Some(2));
        assert!(stderr_of(&output).contains(why), "{}", stderr_of(&output));
    }
    // It died without a word: its files are still there.
    let place = observer.kill();
    let dead = run(exec(&place.dir(), &[]).arg("true"));
    assert_eq!(dead.status.code(), Some(69));
    assert!(stderr_of(&dead).contains("no observer listens on "), "{}", stderr_of(&dead));
}

#[test]
fn no_byte_of_a_name_is_taken_for_more() {
    let mut observer = observer();
    let place = tempfile::tempdir().expect("a directory");
    let program = place.path().join(OsStr::from_bytes(b"a\nMAINPID=1\x1b[2J\xff"));
    fs::copy("/bin/sleep", &program).expect("copy");
    let mut child =
        exec(&observer.dir(), &["--threshold", "1s"]).arg(&program).arg("1000").spawn().expect("start");
    observer.expect("up", child.id(), SOON);
    let text = wait_for("its name", || {
        let text = explained(&observer, child.id());
        text.contains("MAINPID=1").then_some(text)
    });
    assert!(!text.contains('\u{1b}'), "{text:?}");
    observer.expect("stall", child.id(), SOON);
    child.kill().expect("it runs");
    child.wait().expect("it ended");
    let mut named = exec(&observer.dir(), &["--name", "\u{202e}w\u{2603}"])
        .args(["sleep", "1000"])
        .spawn()
        .expect("start");
    wait_for("its name", || explained(&observer, named.id()).contains("w\u{2603}").then_some(()));
    named.kill().expect("it runs");
    named.wait().expect("it ended");
    observer.stop();
}

/// What a daemon leaves behind is not the process that was started.
#[test]
fn a_program_that_daemonises_ends_and_its_daemon_speaks_for_itself() {
    let mut observer = observer();
    let place = tempfile::tempdir().expect("a directory");
    let pids = place.path().join("pid");
    let script = format!(
        "setsid sh -c 'echo $$ > {0}.new; mv {0}.new {0}; exec sleep 1000' </dev/null >/dev/null 2>&1 &",
        pids.display()
    );
    let mut first =
        exec(&observer.dir(), &["--threshold", "1s"]).args(["sh", "-c", &script]).spawn().expect("start");
    assert_eq!(observer.expect("exit", first.id(), SOON).u64("code"), 0);
    assert!(first.wait().expect("it ended").success());
    let left: u32 = wait_for("the daemon", || fs::read_to_string(&pids).ok()?.trim().parse().ok());
    assert_eq!(observer.count("stall", first.id()) + observer.count("up", left), 0);
    signal(left, Signal::KILL);
    observer.stop();
}

#[test]
fn two_thousand_at_once() {
    needs_root("the queue is long enough for that");
    const SCRIPT: &str = "exec 3<&0; i=0; while [ $i -lt 2000 ]; do \"$0\" exec --dir \"$1\" -- cat <&3 & \
                          i=$((i + 1)); done; exec 3<&-; wait";
    let mut observer = Observer::start(Options {
        threshold: T,
        config: "[notify]\n".to_owned(),
        shards: 1,
        agents_max: 10_000,
        queue_limit: Some(512),
        ..Options::default()
    });
    let mut shell = program_by("sh");
    shell.env_remove("NOTIFY_SOCKET").args(["-c", SCRIPT, PROGRAM]).arg(observer.dir()).stdin(Stdio::piped());
    let mut shell = shell.spawn().expect("a shell");
    let count = |observer: &mut Observer, kind: &str| {
        observer.events().iter().filter(|event| event.kind() == kind && event.has("pid")).count()
    };
    let mut seen = 0;
    while seen < 2000 {
        // As long as some are new it goes on.
        seen = wait_for("more of them", || {
            let now = count(&mut observer, "up");
            (now > seen).then_some(now)
        });
    }
    drop(shell.stdin.take());
    assert!(shell.wait().expect("it ended").success());
    wait_for("their ends", || (count(&mut observer, "exit") == 2000).then_some(()));
    assert_eq!((count(&mut observer, "up"), count(&mut observer, "stall")), (2000, 0));
    observer.stop();
}

/// A queue that is too short for daemons is said, too.
#[test]
fn a_short_queue_of_daemons_is_a_problem_and_no_more() {
    needs_root("the queue is short");
    let config = "[notify]\n".to_owned();
    let mut observer = Observer::start(Options {
        threshold: T,
        config,
        shards: 1,
        queue_limit: Some(1),
        ..Options::default()
    });
    let start = || exec(&observer.dir(), &[]).args(["sleep", "1000"]).spawn().expect("start");
    let mut children: Vec<_> = (0..12).map(|_| start()).collect();
    for child in &children {
        observer.expect("up", child.id(), SOON);
    }
    wait_for("a warning", || observer.stderr().contains("net.unix.max_dgram_qlen is 1").then_some(()));
    for child in &mut children {
        child.kill().expect("it runs");
        child.wait().expect("it ended");
        observer.expect("exit", child.id(), SOON);
    }
    observer.stop();
}

/// The path stays, so the program need not know.
#[test]
fn a_program_goes_on_over_a_restart_of_the_observer() {
    let place = tempfile::tempdir().expect("a directory");
    let config = place.path().join("varta.toml");
    fs::write(&config, "[notify]\n").expect("write");
    let config = config.display().to_string();
    let mut keeper = Keeper::start(&["--shards", "1", "--threshold", "2s", "--config", &config]);
    let mut daemon = Daemon::by(exec(&keeper.dir(), &["--threshold", "2s"]));
    daemon.ask("beat 0.1");
    keeper.expect("up", daemon.pid());
    keeper.end(Signal::KILL);
    keeper.go_on();
    keeper.expect_that("restart", |event| event.kind() == "restart");
    daemon.ask("beat 0");
    keeper.expect("stall", daemon.pid());
    daemon.end(0);
    keeper.expect("exit", daemon.pid());
    assert_eq!(keeper.count("up", daemon.pid()), 1);
    assert_eq!(keeper.end(Signal::TERM), 0);
}

#[test]
fn a_terminal_controls_the_program_as_ever() {
    let mut observer = observer();
    let line =
        format!("env -u NOTIFY_SOCKET {PROGRAM} exec --dir {} -- sleep 1000", observer.dir().display());
    let terminal = Terminal::run("exec", &line);
    let up = observer.expect_kind("up", SOON);
    let pid = up.pid().expect("a pid");
    terminal.keys(&["C-z"]);
    wait_for("a stopped process", || {
        fs::read_to_string(format!("/proc/{pid}/stat")).ok()?.contains(") T ").then_some(())
    });
    terminal.expect("Stopped");
    terminal.keys(&["fg", "Enter"]);
    wait_for("a process that goes on", || {
        fs::read_to_string(format!("/proc/{pid}/stat")).ok()?.contains(") S ").then_some(())
    });
    terminal.keys(&["C-c"]);
    assert_eq!(observer.expect("exit", pid, SOON).u64("signal"), 2);
    terminal.keys(&["echo next $?", "Enter"]);
    terminal.expect("next 130");
    observer.stop();
}

#[test]
fn a_script_beats_by_a_command() {
    needs_root("it sends for another process");
    let mut observer = observer();
    let script = "while read -r _; do \"$0\" beat --name nightly --status 'part 3 of 7' || exit; done";
    let mut shell = exec(&observer.dir(), &["--threshold", "2s"]);
    let mut shell = shell.args(["sh", "-c", script, PROGRAM]).stdin(Stdio::piped()).spawn().expect("a shell");
    let pid = shell.id();
    observer.expect("up", pid, SOON);
    observer.expect("stall", pid, SOON);
    let mut input = shell.stdin.take().expect("piped");
    std::io::Write::write_all(&mut input, b"go\n").expect("it reads");
    observer.expect("resume", pid, SOON);
    wait_for("its words", || {
        let text = explained(&observer, pid);
        ["nightly", "part 3 of 7"].iter().all(|part| text.contains(part)).then_some(())
    });
    observer.expect("stall", pid, SOON);
    let by_pid = run(program().args(["beat", "--pid", &pid.to_string(), "--dir"]).arg(observer.dir()));
    assert!(by_pid.status.success(), "{}", stderr_of(&by_pid));
    observer.expect("resume", pid, SOON);
    drop(input);
    assert!(shell.wait().expect("it ended").success());
    observer.expect("exit", pid, SOON);
    let gone = run(program().args(["beat", "--pid", &pid.to_string(), "--dir"]).arg(observer.dir()));
    assert_eq!(gone.status.code(), Some(1));
    assert!(stderr_of(&gone).contains("name one that runs"), "{}", stderr_of(&gone));
    // Nobody but root may speak for others.
    let mut denied = program_by("setpriv");
    denied.args(["--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin", PROGRAM, "beat", "--dir"]);
    let denied = run(denied.arg(observer.dir()));
    assert_eq!(denied.status.code(), Some(77), "{}", stderr_of(&denied));
    assert!(stderr_of(&denied).contains("CAP_SYS_ADMIN"), "{}", stderr_of(&denied));
    observer.stop();
}
