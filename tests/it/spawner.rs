//! The spawner, asked in the words of its protocol: what becomes of children, well-behaved or not.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    SocketAddrUnix, SocketFlags, SocketType, connect, recvmsg, sendmsg, socket_with, socketpair,
};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};
use serde_json::{Value, json};

use crate::common::{Cgroup, PROGRAM, SOON, needs_root, program, program_by, python, signal, wait_for};

/// From SIGTERM to SIGKILL.
const GRACE: Duration = Duration::from_secs(5);
/// A time limit that no test reaches.
const LONG: Duration = Duration::from_secs(600);
/// The variable by which a test finds all processes of its children.
const MARK: &str = "VARTA_TEST_MARK";

/// One end of a connection with a spawner.
struct Line(OwnedFd);

impl Line {
    fn send(&self, message: &[u8], fds: &[BorrowedFd<'_>]) {
        let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = SendAncillaryBuffer::new(&mut room);
        if !fds.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(fds));
        }
        let sent = sendmsg(&self.0, &[IoSlice::new(message)], &mut control, SendFlags::NOSIGNAL);
        sent.expect("it takes messages");
    }

    /// `None`: the other side has hung up.
    fn receive(&self) -> Option<Value> {
        let timeout = Timespec::try_from(SOON).expect("a time");
        let mut polled = [PollFd::new(&self.0, PollFlags::IN)];
        assert!(poll(&mut polled, Some(&timeout)).expect("poll") > 0, "waited {SOON:?} for a message");
        let mut bytes = vec![0; 1 << 20];
        let mut none = RecvAncillaryBuffer::default();
        let read = recvmsg(&self.0, &mut [IoSliceMut::new(&mut bytes)], &mut none, RecvFlags::empty());
        let count = read.map_or(0, |read| read.bytes);
        (count > 0).then(|| serde_json::from_slice(&bytes[..count]).expect("JSON"))
    }
}

struct Spawner {
    line: Line,
    process: Child,
    mark: String,
}

impl Spawner {
    fn start() -> Self {
        Self::start_by(program())
    }

    /// By a command that executes the program with the arguments that it is given.
    fn start_by(mut command: Command) -> Self {
        let (line, other) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .expect("a pair");
        let process = command.arg("spawner").stdin(Stdio::from(other)).spawn().expect("start a spawner");
        let mark = format!("{}-{}", std::process::id(), process.id());
        let spawner = Self { line: Line(line), process, mark };
        assert_eq!(spawner.line.receive(), Some(json!({"report": "hello", "version": 1})));
        spawner
    }

    fn order(&self, id: u64, words: &[&str], timeout: Duration) -> Value {
        let ns = u64::try_from(timeout.as_nanos()).expect("a time limit");
        json!({
            "order": "start", "id": id, "pid": 1, "deed": {"run": words}, "timeout_ns": ns, "user": null,
            "env": [["PATH", "/usr/bin:/bin"], [MARK, self.mark]], "evidence": null,
        })
    }

    fn give(&self, order: &Value) {
        self.line.send(order.to_string().as_bytes(), &[]);
    }

    fn run(&self, id: u64, script: &str, timeout: Duration) {
        self.give(&self.order(id, &["/bin/sh", "-c", script], timeout));
    }

    fn report(&self) -> Value {
        self.line.receive().expect("the spawner is there")
    }

    /// The pid of the child that an order starts.
    fn started(&self) -> u32 {
        let report = self.report();
        assert_eq!(report["report"], "started", "{report}");
        u32::try_from(report["child"].as_u64().expect("a child")).expect("a pid")
    }

    fn ended(&self) -> Value {
        let report = self.report();
        assert_eq!(report["report"], "ended", "{report}");
        report
    }

    /// The pids of all that are left of its children.
    fn left(&self) -> Vec<u32> {
        let mark = format!("{MARK}={}\0", self.mark);
        let is_marked = |pid: &u32| {
            let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            String::from_utf8_lossy(&environ).contains(&mark)
        };
        pids().filter(is_marked).collect()
    }

    fn nothing_is_left(&self) {
        wait_for("the end of all children", || self.left().is_empty().then_some(()));
        let own = self.process.id();
        wait_for("the end of supervisors and zombies", || {
            pids().all(|pid| stat(pid).is_none_or(|(_, parent)| parent != own)).then_some(())
        });
    }

    fn stop(mut self) {
        self.nothing_is_left();
        drop(self.line);
        assert!(self.process.wait().expect("our child").success());
    }
}

fn pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").expect("procfs").flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// State and parent of a process.
fn stat(pid: u32) -> Option<(String, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    Some((fields.next()?.to_owned(), fields.next()?.parse().ok()?))
}

fn pidfd(pid: u32) -> OwnedFd {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a pid");
    pidfd_open(pid, PidfdFlags::empty()).expect("it is there")
}

#[test]
fn a_child_is_as_ordinary_as_its_starter_is_not() {
    needs_root("it raises a priority");
    let mut command = Command::new("/bin/sh");
    let odd = "ulimit -n 5000; umask 077; trap '' HUP INT TERM USR1; exec 7</etc/passwd 9</dev/zero; \
               echo 500 >/proc/self/oom_score_adj; cd /tmp; exec nice -n -7 taskset -c 0 \"$0\" \"$@\"";
    command.args(["-c", odd, PROGRAM]).env("VARTA_CONFIG", "/dev/null").env("SECRET", "x");
    let spawner = Spawner::start_by(command);
    let files = ["status", "limits", "stat", "oom_score_adj", "timerslack_ns", "environ"];
    let files = files.map(|file| format!("/proc/self/{file}"));
    let mut words = vec!["/bin/cat"];
    words.extend(files.iter().map(String::as_str));
    spawner.give(&spawner.order(1, &words, LONG));
    let pid = spawner.started();
    let ended = spawner.ended();
    let said = ended["output"].as_str().expect("text");
    let status: BTreeMap<&str, &str> = said.lines().filter_map(|line| line.split_once(":\t")).collect();
    for (name, expected) in [
        ("SigBlk", "0000000000000000"),
        ("SigIgn", "0000000000000000"),
        ("SigCgt", "0000000000000000"),
        ("CapAmb", "0000000000000000"),
        ("NoNewPrivs", "1"),
        ("Umask", "0022"),
        ("Groups", status["Groups"]),
    ] {
        assert_eq!(status[name], expected, "{name}: {said}");
    }
    let allowed = fs::read_to_string("/proc/1/status").expect("read it");
    let allowed = allowed.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:\t"));
    assert_eq!(Some(status["Cpus_allowed_list"]), allowed, "all cores");
    let limit = said.lines().find(|line| line.starts_with("Max open files")).expect("it is listed");
    assert_eq!(limit.split_whitespace().nth(3), Some("1024"), "{limit}");
    let stat = said.lines().find(|line| line.starts_with(&format!("{pid} (cat) "))).expect("its line");
    let own = fs::read_to_string("/proc/self/stat").expect("read it");
    let fields = |stat: &str| -> Vec<String> {
        stat.rsplit_once(") ").expect("fields").1.split(' ').map(str::to_owned).collect()
    };
    let [fields, own] = [stat, &own].map(fields);
    let (group, session, nice) = (&fields[2], &fields[3], &fields[16]);
    assert_eq!((group, nice.as_str()), (&pid.to_string(), "0"), "{stat}");
    // It is 0 if the leader of the session is in another PID namespace, as of a command that is run in a container.
    assert_eq!(session, &own[3], "the session stays");
    let rest: Vec<&str> = said.lines().rev().take(3).collect();
    assert_eq!(rest[2], "0", "oom_score_adj");
    assert_eq!(rest[1], "50000", "timer slack");
    assert_eq!(rest[0], format!("PATH=/usr/bin:/bin\0{MARK}={}\0", spawner.mark), "its whole environment");

    spawner.run(2, "pwd; exec ls -l /proc/self/fd", LONG);
    let pid = spawner.started();
    let ended = spawner.ended();
    let said = ended["output"].as_str().expect("text");
    let of_line = |line: &'_ str| {
        let (before, to) = line.split_once(" -> ")?;
        Some(format!("{} -> {to}", before.rsplit_once(' ')?.1))
    };
    let open: Vec<String> = said.lines().filter_map(of_line).collect();
    assert_eq!((said.lines().next(), open.len()), (Some("/"), 4), "nothing of ours: {said}");
    assert_eq!(open[0], "0 -> /dev/null", "{said}");
    assert!(open[1].starts_with("1 -> pipe") && open[2].starts_with("2 -> pipe"), "{said}");
    assert_eq!(open[3], format!("3 -> /proc/{pid}/fd"), "what ls opens: {said}");
    spawner.stop();
}

#[test]
fn what_a_child_writes_and_how_it_ends_is_reported() {
    let spawner = Spawner::start();
    for (id, script, code, signal, output) in [
        (1, "echo out; echo err >&2; exit 7", json!(7), json!(null), "out\nerr\n"),
        (2, "exit 127", json!(127), json!(null), ""),
        (3, "kill -SEGV $$", json!(null), json!(11), ""),
        (4, r"printf '\377\0\033[31m'", json!(0), json!(null), "\u{fffd}\0\u{1b}[31m"),
        (5, "exec >&- 2>&-; exit 3", json!(3), json!(null), ""),
    ] {
        spawner.run(id, script, LONG);
        spawner.started();
        let ended = spawner.ended();
        assert_eq!((&ended["id"], &ended["code"], &ended["signal"]), (&json!(id), &code, &signal), "{ended}");
        assert_eq!((&ended["output"], &ended["timed_out"]), (&json!(output), &json!(false)), "{ended}");
    }
    // More than is kept, and bytes of which each becomes longer.
    for (id, bytes, script) in [
        (6, 1_000_000, "head -c 1000000 /dev/zero | tr '\\0' x"),
        (7, 100_000, "head -c 100000 /dev/zero"),
        (8, 100_000, "head -c 100000 /dev/zero | tr '\\0' '\\377'"),
    ] {
        spawner.run(id, script, LONG);
        spawner.started();
        let ended = spawner.ended();
        assert_eq!(ended["output_bytes"], json!(bytes));
        let kept = ended["output"].as_str().expect("text").chars().count();
        let least = if id == 6 { 64 * 1024 } else { 20_000 };
        assert!((least..=64 * 1024).contains(&kept), "{id}: {kept}");
    }
    spawner.stop();
}

/// A child that writes and ends between two looks of its supervisor, which is slow to ask whether it has ended.
#[test]
fn what_is_written_last_is_kept() {
    let mut command = program_by("strace");
    let slow = "inject=waitid:delay_enter=300000";
    command.args(["-f", "-qq", "-o/dev/null", "-e", "trace=waitid", "-e", slow, PROGRAM]);
    let spawner = Spawner::start_by(command);
    for id in 0..4 {
        spawner.run(id, &format!("sleep 0.{}; echo last", 4 + id), LONG);
    }
    let mut ended = 0;
    while ended < 4 {
        let report = spawner.report();
        if report["report"] != "started" {
            assert_eq!((&report["code"], &report["output"]), (&json!(0), &json!("last\n")), "{report}");
            ended += 1;
        }
    }
    let Spawner { line, mut process, .. } = spawner;
    drop(line);
    assert!(process.wait().expect("our child").success());
}

#[test]
fn fault_41_what_cannot_be_started_is_said_and_why() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = |name: &str, text: &str, mode| {
        let path = dir.path().join(name);
        fs::write(&path, text).expect("write it");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("set its mode");
        path.to_str().expect("UTF-8").to_owned()
    };
    let no_interpreter = file("a", "#!/there/is/none\n", 0o755);
    let plain = file("b", "#!/bin/sh\n", 0o644);
    // The configuration was read while its mode was another.
    let anybodys = file("c", "#!/bin/sh\n", 0o777);
    let spawner = Spawner::start();
    for (id, program, errno, word) in [
        (1, "/there/is/none", 2, "127"),
        (2, &no_interpreter, 2, "interpreter"),
        (3, &plain, 13, "126"),
        (4, "/", 13, "126"),
        (5, "relative", 0, "absolute"),
        (6, &anybodys, 1, "others can change "),
    ] {
        spawner.give(&spawner.order(id, &[program], LONG));
        let report = spawner.report();
        assert_eq!((&report["report"], &report["id"]), (&json!("not-started"), &json!(id)), "{report}");
        assert_eq!(report["errno"], json!(errno), "{report}");
        assert!(report["why"].as_str().is_some_and(|why| why.contains(word)), "{report}");
    }
    spawner.stop();
}

/// What a script does that an action should not be, and how it ends: with a time limit of half a second.
const NASTY: [(&str, &str, bool); 12] = [
    ("ignores SIGTERM", "trap '' TERM; while :; do sleep 1; done", true),
    ("gets out of its group and session", "setsid sh -c 'trap \"\" TERM; sleep 1000' & sleep 1000", true),
    (
        "forks twice into a session",
        "(setsid sh -c 'sleep 1000 & sleep 1000' &) ; trap '' TERM; while :; do sleep 1; done",
        true,
    ),
    ("forks as fast as it can", "i=0; while [ $i -lt 200 ]; do sleep 1000 & i=$((i+1)); done; wait", true),
    ("floods its output", "exec cat /dev/zero", true),
    ("says and does nothing", "exec sleep 1000", true),
    ("closes its output", "exec >&- 2>&- <&-; exec sleep 1000", true),
    ("stops itself", "kill -STOP $$", true),
    ("stops its whole group", "sleep 1000 & kill -STOP 0; wait", true),
    ("stops its supervisor", "kill -STOP $PPID; sleep 1000", true),
    ("kills its supervisor", "sleep 1000 & kill -KILL $PPID; sleep 1000", false),
    ("ends all it can reach in its group", "sleep 1000 & kill -KILL 0", false),
];

#[test]
fn fault_42_nothing_is_left_of_nasty_children_and_nobody_waits_for_them() {
    let spawner = Spawner::start();
    let begun = Instant::now();
    for (id, (_, script, _)) in (0..).zip(NASTY) {
        spawner.run(id, script, Duration::from_millis(500));
    }
    // A good one among them.
    spawner.run(100, "echo good", LONG);
    let mut ended = BTreeMap::new();
    while ended.len() < NASTY.len() + 1 {
        let report = spawner.report();
        let id = report["id"].as_u64().expect("a number");
        if report["report"] == "ended" {
            ended.insert(id, (report, begun.elapsed()));
        } else {
            assert_eq!(report["report"], "started", "{report}");
        }
    }
    let (report, after) = &ended[&100];
    assert_eq!(report["output"], "good\n");
    let (_, first_killed) = &ended[&0];
    assert!(after < first_killed, "it did not wait for the others");
    assert!(*first_killed >= GRACE, "it had the time to end by itself");
    for (id, (what, _, is_timeout)) in (0..).zip(NASTY) {
        let (report, _) = &ended[&id];
        assert_eq!(report["timed_out"], json!(is_timeout), "{what}: {report}");
        assert!(!report["signal"].is_null() || !report["code"].is_null(), "{what}: {report}");
    }
    let flood = &ended[&4].0;
    assert!(flood["output_bytes"].as_u64() > Some(1 << 20), "{flood}");
    spawner.stop();
}

#[test]
fn what_a_child_leaves_that_ends_in_time_stays_and_is_not_waited_for() {
    let spawner = Spawner::start();
    for (id, script) in [
        // One has the pipe, the other is a service that was started.
        (1, "sleep 1000 & echo $!"),
        (2, "setsid sh -c 'echo $$; exec >&- 2>&-; exec sleep 1000' & sleep 0.2"),
    ] {
        spawner.run(id, script, LONG);
        spawner.started();
        let ended = spawner.ended();
        assert_eq!(ended["code"], json!(0), "{ended}");
        let said = ended["output"].as_str().expect("text");
        let left: u32 = said.trim().parse().unwrap_or_else(|_| panic!("no pid in {said:?}"));
        wait_for("its supervisor to end", || (spawner.left() == [left]).then_some(()));
        signal(left, Signal::KILL);
        spawner.nothing_is_left();
    }
    spawner.stop();
}

#[test]
fn a_cancelled_order_ends_with_all_that_belongs_to_it() {
    let spawner = Spawner::start();
    spawner.run(1, "setsid sleep 1000 & sleep 1000", LONG);
    spawner.started();
    wait_for("its children", || (spawner.left().len() >= 3).then_some(()));
    spawner.give(&json!({"order": "cancel", "id": 2}));
    spawner.give(&json!({"order": "cancel", "id": 1}));
    let ended = spawner.ended();
    assert_eq!((&ended["id"], &ended["timed_out"]), (&json!(1), &json!(false)), "{ended}");
    assert_eq!(ended["signal"], json!(15), "{ended}");
    spawner.stop();
}

#[test]
fn if_the_spawner_dies_its_children_are_killed_at_once() {
    let mut spawner = Spawner::start();
    let kill = format!("trap '' TERM; setsid sleep 1000 & kill -KILL {}; sleep 1000", spawner.process.id());
    spawner.run(1, &kill, LONG);
    while let Some(report) = spawner.line.receive() {
        assert_eq!(report["report"], "started", "{report}");
    }
    spawner.process.wait().expect("our child");
    spawner.nothing_is_left();
}

#[test]
fn if_the_observer_hangs_up_its_children_end_in_their_time() {
    let dir = tempfile::tempdir().expect("a directory");
    let fifo = dir.path().join("go");
    assert!(Command::new("mkfifo").arg(&fifo).status().expect("run mkfifo").success());
    let mut spawner = Spawner::start();
    spawner.run(1, &format!("read line <{0}; echo $line >{0}.out", fifo.display()), LONG);
    spawner.started();
    let Line(line) = spawner.line;
    drop(line);
    assert!(spawner.process.try_wait().expect("our child").is_none());
    fs::write(&fifo, "went on\n").expect("it reads");
    assert!(spawner.process.wait().expect("our child").success());
    assert_eq!(fs::read_to_string(dir.path().join("go.out")).expect("it wrote"), "went on\n");
}

#[test]
fn another_user_has_his_own_groups_and_nothing_else() {
    needs_root("it changes the user");
    let spawner = Spawner::start();
    let mut order = spawner.order(1, &["/usr/bin/id"], LONG);
    order["user"] = json!([65534, 65534]);
    spawner.give(&order);
    spawner.started();
    let said = spawner.ended();
    let said = said["output"].as_str().expect("text");
    assert!(said.starts_with("uid=65534(") && said.contains(" gid=65534("), "{said}");
    assert!(!said.contains("=0(") && !said.contains(",0("), "no group of root: {said}");
    // Without an account there are no groups but the one that is named.
    order["user"] = json!([4_000_000, 4_000_001]);
    order["id"] = json!(2);
    spawner.give(&order);
    spawner.started();
    let said = spawner.ended();
    let said = said["output"].as_str().expect("text").to_owned();
    assert_eq!(said.trim(), "uid=4000000 gid=4000001 groups=4000001");
    spawner.stop();
    // One without the right.
    let mut command = program_by("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", PROGRAM]);
    let spawner = Spawner::start_by(command);
    order["user"] = json!([0, 0]);
    spawner.give(&order);
    let report = spawner.report();
    assert_eq!((&report["report"], &report["errno"]), (&json!("not-started"), &json!(1)), "{report}");
    order["user"] = json!([65534, 65534]);
    spawner.give(&order);
    spawner.started();
    assert_eq!(spawner.ended()["code"], json!(0), "its own user needs no right");
    spawner.stop();
}

#[test]
fn a_signal_goes_to_the_process_behind_the_pidfd_and_to_no_other() {
    let spawner = Spawner::start();
    let mut target = Command::new("sleep").arg("1000").spawn().expect("run sleep");
    let order = |id: u64, pid: u32, signal: u8| {
        let mut order = spawner.order(id, &[], LONG);
        order["pid"] = json!(pid);
        order["deed"] = json!({"signal": signal});
        order.to_string()
    };
    let (pid, own) = (target.id(), std::process::id());
    let (of_target, of_own) = (pidfd(pid), pidfd(own));
    let not_started = |errno: i32, word: &str| {
        let report = spawner.report();
        assert_eq!((&report["report"], &report["errno"]), (&json!("not-started"), &json!(errno)), "{report}");
        assert!(report["why"].as_str().is_some_and(|why| why.contains(word)), "{report}");
    };
    spawner.line.send(order(1, pid, 9).as_bytes(), &[]);
    not_started(0, "no pidfd");
    spawner.line.send(order(2, pid, 9).as_bytes(), &[of_own.as_fd()]);
    not_started(3, "another process");
    let file = fs::File::open("/dev/null").expect("open it");
    spawner.line.send(order(3, pid, 9).as_bytes(), &[file.as_fd()]);
    not_started(9, "no pidfd");
    for none in [0, 65] {
        spawner.line.send(order(4, pid, none).as_bytes(), &[of_target.as_fd()]);
        not_started(0, "no such signal");
    }
    assert_eq!(target.try_wait().expect("our child"), None);
    // A real-time signal, which ends it, too.
    spawner.line.send(order(5, pid, 40).as_bytes(), &[of_target.as_fd()]);
    let started = spawner.report();
    assert_eq!((&started["report"], &started["child"]), (&json!("started"), &json!(null)), "{started}");
    assert_eq!(spawner.ended()["code"], json!(0));
    let status = target.wait().expect("our child");
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(40));
    spawner.line.send(order(6, pid, 9).as_bytes(), &[of_target.as_fd()]);
    not_started(3, "no such process");
    spawner.stop();
}

#[test]
fn fault_40_no_room_for_a_process_is_said_and_over_when_there_is() {
    let group = Cgroup::new(&format!("varta-pids-{}", std::process::id()), "pids", ["pids.max", "pids.max"]);
    let spawner = Spawner::start();
    group.add(spawner.process.id());
    // Not even for a supervisor; for that, but not for a child; for both.
    for (id, most) in [(1, "1"), (2, "2"), (3, "max")] {
        group.write("pids.max", most);
        spawner.give(&spawner.order(id, &["/bin/true"], LONG));
        let report = spawner.report();
        assert_eq!(report["id"], json!(id));
        if most == "max" {
            assert_eq!(report["report"], "started", "{report}");
            assert_eq!(spawner.ended()["code"], json!(0));
        } else {
            assert_eq!(
                (&report["report"], &report["errno"]),
                (&json!("not-started"), &json!(11)),
                "{report}"
            );
        }
        spawner.nothing_is_left();
    }
    spawner.stop();
    wait_for("the end of the group", || group.remove());
}

#[test]
fn fault_39_no_room_for_a_descriptor_is_said_and_over_when_there_is() {
    let mut command = program_by("prlimit");
    command.args(["--nofile=8:64", PROGRAM]);
    let spawner = Spawner::start_by(command);
    spawner.run(1, "exec sleep 1000", LONG);
    spawner.started();
    let mut refused = 0;
    for id in 2..6 {
        spawner.give(&spawner.order(id, &["/bin/true"], LONG));
        let report = spawner.report();
        if report["report"] == "not-started" {
            assert_eq!(report["errno"], json!(24), "{report}");
            refused += 1;
        } else {
            spawner.ended();
        }
        wait_for("its end", || (spawner.left().len() == 1).then_some(()));
    }
    assert!(refused > 0, "8 descriptors were enough");
    let raised = Command::new("prlimit")
        .args([&format!("--pid={}", spawner.process.id()), "--nofile=64:64"])
        .status()
        .expect("run prlimit");
    assert!(raised.success());
    spawner.give(&spawner.order(7, &["/bin/true"], LONG));
    spawner.started();
    assert_eq!(spawner.ended()["code"], json!(0));
    spawner.give(&json!({"order": "cancel", "id": 1}));
    spawner.ended();
    spawner.stop();
}

#[test]
fn what_is_no_order_ends_the_connection_and_leaves_nothing() {
    let long = vec![b' '; 200_000];
    let deep = [vec![b'['; 100_000]].concat();
    let hello = br#"{"report":"hello","version":1}"#;
    let no_version: [&[u8]; 8] = [
        b"x",
        b"{}",
        b"\xff\xfe",
        br#"{"order":"start"}"#,
        br#"{"order":"cancel","id":1,"more":2}"#,
        &long,
        &deep,
        hello,
    ];
    for message in no_version {
        let mut spawner = Spawner::start();
        spawner.line.send(message, &[]);
        assert_eq!(spawner.line.receive(), None);
        assert!(spawner.process.wait().expect("our child").success());
    }
    // Descriptors that nobody asked for are closed; more than one is too much.
    let spawner = Spawner::start();
    let count = || fs::read_dir(format!("/proc/{}/fd", spawner.process.id())).expect("it is ours").count();
    let before = count();
    let file = fs::File::open("/dev/null").expect("open it");
    let cancel = json!({"order": "cancel", "id": 1}).to_string();
    (0..100).for_each(|_| spawner.line.send(cancel.as_bytes(), &[file.as_fd()]));
    spawner.give(&spawner.order(1, &["/bin/true"], LONG));
    spawner.started();
    spawner.ended();
    spawner.nothing_is_left();
    assert_eq!(count(), before);
    spawner.line.send(cancel.as_bytes(), &[file.as_fd(); 3]);
    assert_eq!(spawner.line.receive(), None);
    // One that is started by hand says why it does not serve.
    let output = program().arg("spawner").stdin(Stdio::null()).output().expect("run it");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no socket of an observer"), "{output:?}");
}

#[test]
fn an_order_whose_number_is_under_way_is_refused() {
    let spawner = Spawner::start();
    spawner.run(1, "exec sleep 1000", LONG);
    spawner.started();
    spawner.run(1, "exec sleep 1000", LONG);
    let report = spawner.report();
    assert_eq!(report["report"], "not-started", "{report}");
    assert_eq!(spawner.left().len(), 1);
    spawner.give(&json!({"order": "cancel", "id": 1}));
    spawner.ended();
    spawner.run(1, "exit 4", LONG);
    spawner.started();
    assert_eq!(spawner.ended()["code"], json!(4));
    spawner.stop();
}

/// A process that prints a pid once it is in the state to be seen, and that pid.
struct Subject {
    process: Child,
    pid: u32,
}

impl Subject {
    fn start(program: &str, arguments: &[&str]) -> Self {
        let mut process =
            Command::new(program).args(arguments).stdout(Stdio::piped()).spawn().expect("start it");
        let mut line = String::new();
        let output = process.stdout.take().expect("a pipe");
        BufReader::new(output).read_line(&mut line).expect("it prints");
        let pid = line.trim().parse().unwrap_or_else(|_| panic!("no pid in {line:?}"));
        Self { process, pid }
    }

    fn of_python(script: &str) -> Self {
        let python = python();
        Self::start(python.to_str().expect("UTF-8"), &["-c", script])
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        // A vfork's parent goes on only when the child is gone.
        for pid in pids().filter(|pid| stat(*pid).is_some_and(|(_, parent)| parent == self.process.id())) {
            signal(pid, Signal::KILL);
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What is found about a process, and the order that comes after it.
fn evidence(spawner: &Spawner, id: u64, pid: u32) -> Value {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("evidence.json");
    let mut order = spawner.order(id, &["/bin/true"], LONG);
    (order["pid"], order["evidence"]) = (json!(pid), json!(path));
    spawner.line.send(order.to_string().as_bytes(), &[pidfd(pid).as_fd()]);
    let report = spawner.report();
    assert_eq!(report, json!({"report": "evidence", "id": id, "is_written": true, "why": null}));
    spawner.started();
    assert_eq!(spawner.ended()["code"], json!(0));
    assert_eq!(fs::metadata(&path).expect("it is there").permissions().mode() & 0o7777, 0o600);
    serde_json::from_slice(&fs::read(&path).expect("it is there")).expect("JSON")
}

#[test]
fn evidence_tells_why_a_process_does_nothing_or_too_much() {
    let spawner = Spawner::start();
    let spinning = Subject::start("/bin/sh", &["-c", "echo $$; while :; do :; done"]);
    let locked = Subject::of_python(
        "import os,threading\nlock=threading.Lock()\nlock.acquire()\nprint(os.getpid(),flush=True)\nlock.acquire()",
    );
    let stopped = Subject::start("/bin/sh", &["-c", "echo $$; kill -STOP $$"]);
    let traced = Subject::of_python(
        "import ctypes,os,signal,time\nlibc=ctypes.CDLL(None)\npid=os.fork()\nif pid==0:\n libc.ptrace(0,0,None,None)\n \
         os.kill(os.getpid(),signal.SIGSTOP)\nos.waitpid(pid,os.WUNTRACED)\nprint(pid,flush=True)\ntime.sleep(1000)",
    );
    // The parent of a vfork waits in the kernel until its child executes something.
    let waiting = Subject::of_python(
        "import ctypes,os,platform,time\nlibc=ctypes.CDLL(None)\nclone=56 if platform.machine()=='x86_64' else 220\n\
         vfork=0x4000\nif libc.syscall(clone,vfork|17,None,None,None,None)==0:\n print(os.getppid(),flush=True)\n \
         time.sleep(1000)",
    );
    for (pid, state) in [(stopped.pid, "T"), (waiting.pid, "D"), (traced.pid, "t")] {
        wait_for(state, || stat(pid).is_some_and(|(now, _)| now == state).then_some(()));
    }
    for (id, subject, verdict, state, channel) in [
        (1, &spinning, "spinning", "R", ""),
        (2, &locked, "sleeping", "S", "futex"),
        (3, &stopped, "stopped", "T", "signal"),
        (4, &traced, "traced", "t", ""),
        (5, &waiting, "uninterruptible", "D", ""),
    ] {
        let found = evidence(&spawner, id, subject.pid);
        assert_eq!((&found["verdict"], &found["pid"]), (&json!(verdict), &json!(subject.pid)), "{found:#}");
        let main = &found["threads"][0];
        assert_eq!(main["tid"], json!(subject.pid), "{found:#}");
        if verdict != "spinning" {
            assert_eq!(main["state"], json!(state), "{found:#}");
            assert_eq!(found["cpu_used_ns"], json!(0), "{found:#}");
        }
        let named = main["wait_channel"].as_str().unwrap_or_default();
        assert!(named.contains(channel), "{found:#}");
        assert!(found["between_ns"].as_u64() >= Some(100_000_000), "{found:#}");
        let memory = found["memory"].as_array().expect("lines");
        assert!(
            memory.iter().any(|line| line.as_str().is_some_and(|line| line.starts_with("VmRSS: "))),
            "{found:#}"
        );
        assert!(!found["files"].as_array().expect("files").is_empty(), "{found:#}");
    }
    drop((spinning, locked, stopped, traced, waiting));
    spawner.stop();
}

#[test]
fn evidence_tells_that_the_quota_is_used_up_and_what_it_is() {
    let group =
        Cgroup::new(&format!("varta-quota-{}", std::process::id()), "cpu", ["cpu.max", "cpu.cfs_quota_us"]);
    if group.is_v2() {
        group.write("cpu.max", "1000 100000");
    } else {
        group.write("cpu.cfs_quota_us", "1000");
    }
    let spawner = Spawner::start();
    let subject = Subject::start("/bin/sh", &["-c", "echo $$; while :; do :; done"]);
    group.add(subject.pid);
    let found = wait_for("the quota to be used up", || {
        let found = evidence(&spawner, 1, subject.pid);
        (found["verdict"] == "throttled").then_some(found)
    });
    let files = found["files"].as_array().expect("files");
    let says = |name: &str, what: &str| {
        files.iter().any(|file| {
            let text = |key: &str| file[key].as_str().unwrap_or_default().to_owned();
            text("path").ends_with(&format!("{}/{name}", group.name())) && text("text").contains(what)
        })
    };
    assert!(says("cpu.max", "1000 100000") || says("cpu.cfs_quota_us", "1000"), "{found:#}");
    assert!(says("cpu.stat", "nr_throttled"), "{found:#}");
    drop(subject);
    wait_for("the end of the group", || group.remove());
    spawner.stop();
}

#[test]
fn evidence_of_many_threads_is_bounded_and_without_a_place_the_order_is_carried_out() {
    let spawner = Spawner::start();
    let threads = Subject::of_python(
        "import os,threading,time\nfor _ in range(99): threading.Thread(target=time.sleep,args=(1000,),daemon=True).start()\n\
         print(os.getpid(),flush=True)\ntime.sleep(1000)",
    );
    let found = evidence(&spawner, 1, threads.pid);
    assert_eq!(found["threads_all"], json!(100));
    assert_eq!(found["threads"].as_array().map(Vec::len), Some(64));
    let mut order = spawner.order(2, &["/bin/true"], LONG);
    order["evidence"] = json!("/there/is/none/e.json");
    spawner.give(&order);
    let report = spawner.report();
    assert_eq!((&report["report"], &report["is_written"]), (&json!("evidence"), &json!(false)), "{report}");
    assert!(report["why"].as_str().is_some_and(|why| why.contains("/there/is/none/e.json")), "{report}");
    spawner.started();
    spawner.ended();
    // Cancelled before it began.
    signal(spawner.process.id(), Signal::STOP);
    spawner.give(&order);
    spawner.give(&json!({"order": "cancel", "id": 2}));
    signal(spawner.process.id(), Signal::CONT);
    let report = spawner.report();
    assert_eq!((&report["report"], &report["errno"]), (&json!("not-started"), &json!(125)), "{report}");
    drop(threads);
    spawner.stop();
}

/// A spawner that listens; the test is connected by [`Listening::connect`].
struct Listening {
    process: Child,
    path: PathBuf,
}

impl Listening {
    fn start(path: &Path, arguments: &[&str]) -> Self {
        let mut command = program();
        command.args(["spawner", "--listen"]).arg(path).args(arguments).stdin(Stdio::null());
        Self { process: command.spawn().expect("start a spawner"), path: path.to_owned() }
    }

    fn connect(&self) -> Line {
        let address = SocketAddrUnix::new(&self.path).expect("a path");
        wait_for("the socket", || {
            let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .expect("a socket");
            connect(&socket, &address).ok().map(|()| Line(socket))
        })
    }

    /// Whether a user is heard.
    fn hears(&self, uid: &str) -> bool {
        let script = "import os,socket,sys\ns=socket.socket(socket.AF_UNIX,socket.SOCK_SEQPACKET)\n\
                      uid=int(sys.argv[2])\nos.setresuid(uid,uid,uid)\ns.connect(sys.argv[1])\n\
                      sys.exit(0 if b'hello' in s.recv(1000) else 7)";
        let status = Command::new(python()).args(["-c", script]).arg(&self.path).arg(uid).status();
        match status.expect("run python").code() {
            Some(0) => true,
            Some(7) => false,
            other => panic!("{other:?}"),
        }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn one_that_listens_hears_root_and_who_is_named_and_goes_on_when_they_hang_up() {
    needs_root("it connects as other users");
    let dir = tempfile::tempdir().expect("a directory");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("it is ours");
    let path = dir.path().join("act.sock");
    let hello = Some(json!({"report": "hello", "version": 1}));
    let listening = Listening::start(&path, &["--observer", "4000000"]);
    let line = listening.connect();
    assert_eq!(line.receive(), hello);
    assert!(listening.hears("0") && listening.hears("4000000"));
    assert!(!listening.hears("4000001"));
    // Each has its own numbers, and gets its own reports.
    let other = listening.connect();
    assert_eq!(other.receive(), hello);
    for (line, code) in [(&line, 3), (&other, 4)] {
        let order = json!({
            "order": "start", "id": 1, "pid": 1, "deed": {"run": ["/bin/sh", "-c", format!("exit {code}")]},
            "timeout_ns": 60_000_000_000_u64, "user": null, "env": [], "evidence": null,
        });
        line.send(order.to_string().as_bytes(), &[]);
    }
    for (line, code) in [(&line, 3), (&other, 4)] {
        assert_eq!(line.receive().expect("it is there")["report"], "started");
        assert_eq!(line.receive().expect("it is there")["code"], json!(code));
    }
    drop(line);
    // Two hellos, or nonsense, end the one connection alone.
    let third = listening.connect();
    third.send(b"nonsense", &[]);
    assert_eq!(third.receive(), hello);
    assert_eq!(third.receive(), None);
    other.send(json!({"order": "cancel", "id": 9}).to_string().as_bytes(), &[]);
    assert_eq!(listening.connect().receive(), hello);

    // Another one at the same path gives up; one that comes after a crash does not.
    let second = program().args(["spawner", "--listen"]).arg(&path).output().expect("run it");
    assert_eq!(second.status.code(), Some(69), "{second:?}");
    let file = dir.path().join("file");
    fs::write(&file, "kept").expect("it is ours");
    let third = program().args(["spawner", "--listen"]).arg(&file).output().expect("run it");
    assert_eq!(third.status.code(), Some(69), "{third:?}");
    assert_eq!(fs::read_to_string(&file).expect("it is there"), "kept");
    drop(listening);
    assert!(path.exists());
    assert_eq!(Listening::start(&path, &[]).connect().receive(), hello);
    let nobody =
        program().args(["spawner", "--listen"]).arg(&path).args(["--observer", "no such user"]).output();
    assert_eq!(nobody.expect("run it").status.code(), Some(78));
}
