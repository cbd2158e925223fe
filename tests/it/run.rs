//! `run` as an operator uses it: start, signals, a second observer, output, events.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::common::{
    ACTS, Agent, AgentOptions, Client, Event, Observer, Options, PROGRAM, Place, SOON, T, Table, mono_ns,
    needs_root, program, program_by, signal, wait_for,
};
use rustix::process::Signal;
use varta_fleet::Manifest;

/// What `stop` and the fixture assert in every test, under a name of its own.
#[test]
fn events_are_numbered_without_a_gap_from_start_to_stop() {
    let mut observer = Observer::start(Options { shards: 3, ..Options::default() });
    let mut agents = Agent::start_many(&observer, (0..20).map(|_| AgentOptions::default()));
    for agent in &mut agents {
        observer.expect("up", agent.pid(), SOON);
        agent.ask("status degraded");
    }
    for agent in agents.drain(..10) {
        observer.expect("status", agent.pid(), SOON);
        let pid = agent.pid();
        drop(agent);
        observer.expect("exit", pid, T + SOON);
    }
    let ended = observer.stop();
    let first = &ended.events[0];
    assert_eq!((first.kind(), first.u64("seq"), first.u64("shards")), ("start", 1, 3));
    let last = ended.events.last().expect("there are many");
    assert_eq!((last.kind(), last.u64("seq")), ("stop", ended.events.len() as u64));
    for event in &ended.events {
        let ts = event.str("ts");
        assert!(ts.ends_with('Z') && ts.len() == "2026-03-01T12:00:00.000000000Z".len(), "{event}");
    }
}

/// What makes an observer start every thread that it can have.
fn with_all_threads() -> String {
    format!("[notify]\n{ACTS}")
}

/// The guide's table lists the threads of a running fleet and no others.
#[test]
fn the_threads_are_those_that_the_guide_names() {
    let guide = include_str!("../../src/guide/architecture.md");
    let (_, table) = guide.split_once("| Thread | Waits for").expect("a table of threads");
    let named = table.lines().skip(2).map_while(|line| line.strip_prefix("| `")?.split_once('`'));
    let mut named: HashSet<String> = named.map(|(name, _)| name.to_owned()).collect();
    let (_, others) = guide.split_once("The program adds ").expect("a word on the program's own");
    let others = others.split('`').skip(1).step_by(2).take_while(|name| name.starts_with("varta-"));
    named.extend(others.map(str::to_owned));
    // This thread ends once the line is written.
    assert!(named.remove("varta-ready"), "{named:?}");
    named.insert("varta-fleet".to_owned());

    let observer = Observer::start(Options { config: with_all_threads(), ..Options::default() });
    let tasks = Path::new("/proc").join(observer.pid().to_string()).join("task");
    let threads = || {
        let tasks = fs::read_dir(&tasks).expect("its threads").filter_map(Result::ok);
        let names = tasks.filter_map(|task| fs::read_to_string(task.path().join("comm")).ok());
        let names = names.map(|name| name.trim_end().replace(char::is_numeric, "N"));
        names.filter(|name| name != "varta-ready").collect::<HashSet<String>>()
    };
    wait_for("every thread that is named, and no other", || (threads() == named).then_some(()));
}

/// The guide's table names the priority of each thread as a running fleet has it.
#[test]
fn the_priorities_are_those_that_the_guide_names() {
    needs_root("it raises priorities");
    let of = |stat: &str| -> i32 {
        let (_, rest) = stat.rsplit_once(") ").expect("a name in brackets");
        rest.split(' ').nth(16).and_then(|nice| nice.parse().ok()).expect("a nice value")
    };
    // What a process that raises nothing inherits.
    let own = of(&fs::read_to_string("/proc/self/stat").expect("we run"));
    let guide = include_str!("../../src/guide/architecture.md");
    let (_, table) = guide.split_once("| Thread | Waits for").expect("a table of threads");
    let named: HashMap<&str, i32> = table
        .lines()
        .skip(2)
        .map_while(|line| {
            let mut cells = line.strip_prefix("| ")?.split(" | ");
            let name = cells.next()?.split('`').nth(1)?;
            let priority = cells.nth(1)?;
            Some((name, if priority == "ordinary" { own } else { priority.parse().expect("a number") }))
        })
        .collect();
    assert!(named.len() >= 7, "{named:?}");
    let observer = Observer::start(Options { config: with_all_threads(), ..Options::default() });
    let tasks = fs::read_dir(format!("/proc/{}/task", observer.pid())).expect("its threads");
    let mut seen = HashSet::new();
    for task in tasks.filter_map(Result::ok) {
        let Ok(stat) = fs::read_to_string(task.path().join("stat")) else { continue };
        let (head, _) = stat.rsplit_once(") ").expect("a name in brackets");
        let name = head.split_once('(').expect("a bracket").1.replace(char::is_numeric, "N");
        if let Some((name, priority)) = named.get_key_value(name.as_str()) {
            assert_eq!(of(&stat), *priority, "{name}");
            seen.insert(*name);
        }
    }
    assert_eq!(seen, named.keys().copied().collect());
    observer.stop();
}

#[test]
fn fault_34_sigterm_ends_a_flooded_observer_within_a_second_and_removes_its_files() {
    let mut observer = Observer::start(Options { shards: 1, ..Options::default() });
    let flood = || AgentOptions { handles: 8, period: Duration::ZERO, ..AgentOptions::default() };
    let flooders = Agent::start_many(&observer, [flood(), flood()]);
    for flooder in &flooders {
        observer.expect("up", flooder.pid(), SOON);
    }
    let ended = observer.stop();
    // The limit is one second; two are slack for other tests.
    assert!(ended.took < Duration::from_secs(3), "{:?}", ended.took);
}

/// As when a host shuts down or a process group is ended: many agents exit at once, then one after another
/// for longer than a stop waits for any thread.
#[test]
fn fault_75_sigterm_while_agents_die_ends_well_and_stop_is_told_last() {
    const AT_ONCE: usize = 200;
    const AGENTS: u32 = 1000;
    let options = Options { queue_limit: Some(2048), agents_max: 2 * AGENTS, ..Options::default() };
    let mut observer = Observer::start(options);
    let mut parent = Agent::start_with(&observer, AgentOptions { period: T / 2, ..AgentOptions::default() });
    let children = parent.spawn_children(AGENTS);
    for pid in &children {
        observer.expect("up", *pid, SOON);
    }
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for (index, pid) in children.iter().enumerate() {
                signal(*pid, Signal::KILL);
                if index > AT_ONCE {
                    if is_over.load(Ordering::Relaxed) {
                        return;
                    }
                    // The pace of the exits.
                    thread::sleep(Duration::from_millis(8));
                }
            }
        });
        observer.expect("exit", children[0], SOON);
        observer.stop();
        is_over.store(true, Ordering::Relaxed);
    });
}

#[test]
fn fault_28_a_second_observer_is_told_who_is_there_and_leaves_the_first_alone() {
    let mut first = Observer::start(Options::default());
    let mut agent = Agent::start(Client::Rust02, &first);
    first.expect("up", agent.pid(), SOON);
    let files = || -> Vec<_> {
        let names = ["lock", "fleet.json", "control.sock", "varta.sock", "shard-0.sock", "shard-1.sock"];
        let found = names.map(|name| fs::symlink_metadata(first.dir().join(name)).map(|found| found.ino()));
        found.into_iter().map(|inode| inode.expect("a file of the first")).collect()
    };
    let before = files();

    let second = program()
        .args(["run", "--shards", "2", "--dir"])
        .arg(first.dir())
        .output()
        .expect("run a second observer");
    let message = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(69), "{message}");
    assert!(message.contains(&first.pid().to_string()), "it names the holder {}: {message}", first.pid());
    assert!(message.contains(&first.dir().display().to_string()), "{message}");

    assert_eq!(files(), before);
    first.watch(T + T / 2);
    first.no_false_stall(&mut agent);
    let dropped = agent.report().dropped;
    assert_eq!(dropped, 0, "the first goes on reading");
    first.stop();
}

#[test]
fn fault_26_what_a_killed_observer_left_is_replaced_by_the_next() {
    let mut first = Observer::start(Options::default());
    let mut agents = Agent::start_many(&first, Client::ALL.map(reconnecting));
    for agent in &agents {
        first.expect("up", agent.pid(), SOON);
    }
    let place = first.kill();
    assert!(place.socket(1).exists() && place.dir().join("fleet.json").exists());
    let mut second = Observer::start_in(place, Options::default());
    for agent in &agents {
        second.expect("up", agent.pid(), SOON);
    }
    agents.push(Agent::start(Client::Rust02, &second));
    second.watch(2 * T);
    for agent in &mut agents {
        second.no_false_stall(agent);
    }
    second.stop();
}

fn reconnecting(client: Client) -> AgentOptions {
    AgentOptions { client, reconnect_after: 3, ..AgentOptions::default() }
}

/// Voluntary context switches of each thread so far: a waiting thread makes one for each wakeup.
fn wakes(pid: u32) -> HashMap<String, u64> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("its threads");
    let of_thread = |task: PathBuf| -> (String, u64) {
        let status = fs::read_to_string(task.join("status")).expect("a thread's status");
        let field = |name: &str| {
            let line =
                status.lines().find_map(|line| line.strip_prefix(name)).expect("a field of the status");
            line.trim().to_owned()
        };
        (field("Name:"), field("voluntary_ctxt_switches:").parse().expect("a number"))
    };
    tasks.map(|task| of_thread(task.expect("a thread").path())).collect()
}

#[test]
fn a_fleet_without_beats_wakes_once_a_second_a_shard_and_twice_a_second_otherwise() {
    let observer = Observer::start(Options { shards: 4, ..Options::default() });
    let is_shard = |name: &str| name.starts_with("varta-shard-");
    // The start is over once the shards wake only to show that they run.
    let of_shards = |wakes: &HashMap<String, u64>| -> u64 {
        wakes.iter().filter(|(name, _)| is_shard(name)).map(|(_, wakes)| wakes).sum()
    };
    let first = of_shards(&wakes(observer.pid()));
    let started = wait_for("the shards to wake", || {
        let now = wakes(observer.pid());
        (of_shards(&now) >= first + 8).then_some((now, mono_ns()))
    });
    let (before, from) = started;
    let (after, until) = wait_for("each shard to wake five times", || {
        let now = wakes(observer.pid());
        (of_shards(&now) >= of_shards(&before) + 20).then(|| (now, mono_ns()))
    });
    let seconds = (until - from).div_ceil(1_000_000_000);
    let woken: HashMap<&String, u64> =
        after.iter().map(|(name, wakes)| (name, wakes - before[name])).collect();
    let mut others = 0;
    for (name, wakes) in &woken {
        if is_shard(name) {
            assert!(*wakes <= seconds + 1, "{name} in {seconds} s: {woken:?}");
        } else {
            others += wakes;
        }
    }
    // One more for each of the three threads that wake at all: their phase is random.
    assert!(others <= 2 * seconds + 3, "in {seconds} s: {woken:?}");
    observer.stop();
}

#[test]
fn the_runtime_directory_is_as_documented() {
    // The mode is as configured, whatever the umask of the tests.
    let config = "[[shard]]\n[[shard]]\nmode = \"0666\"\n".to_owned();
    let observer = Observer::start(Options { config, ..Options::default() });
    let dir = observer.dir();
    let mode = |name: &str| fs::symlink_metadata(dir.join(name)).expect("it is there").mode() & 0o7777;
    assert_eq!(fs::metadata(&dir).expect("it is there").mode() & 0o7777, 0o755);
    assert_eq!((mode("lock"), mode("shard-0.sock"), mode("shard-1.sock")), (0o600, 0o600, 0o666));
    assert_eq!(fs::read_link(dir.join("varta.sock")).expect("a symlink"), Path::new("shard-0.sock"));
    let manifest = Manifest::read(&dir).expect("a manifest");
    assert_eq!((manifest.version, manifest.hash.as_str(), manifest.pid), (1, "fibonacci32", observer.pid()));
    let sockets: Vec<_> = manifest.shards.into_iter().map(|shard| (shard.index, shard.socket)).collect();
    assert_eq!(sockets, [(0, observer.socket(0)), (1, observer.socket(1))]);
    observer.stop();
}

#[test]
fn sigusr1_prints_histograms_and_counters_and_the_observer_goes_on() {
    let mut observer = Observer::start(Options::default());
    let options =
        AgentOptions { beats: Some(0), sockets: vec![observer.socket(1)], ..AgentOptions::default() };
    let mut agent = Agent::start_with(&observer, options);
    for _ in 0..50 {
        agent.ask("beat");
    }
    observer.expect("up", agent.pid(), SOON);
    // A queue of ten may refuse some beats.
    let sent = agent.report().sent;
    let table = wait_for("all beats to be counted", || {
        let table = observer.table();
        (table.shard(1, "beats") == sent).then_some(table)
    });
    let text = table.to_string();
    let head: Vec<_> = text.lines().next().expect("a table").split_whitespace().collect();
    assert_eq!(head[..6], ["histogram", "p50", "p90", "p99", "p99.9", "max"], "{text}");
    for shard in [0, 1] {
        assert!(text.contains(&format!("decode shard {shard}")), "{text}");
        assert!(text.contains(&format!("queue shard {shard}")), "{text}");
    }
    assert_eq!(
        (table.shard(0, "beats"), table.shard(1, "up"), table.shard(1, "refused")),
        (0, 1, 0),
        "{text}"
    );
    agent.beat();
    observer.expect("stall", agent.pid(), T + SOON);
    // It covers the whole run.
    let last = observer.table();
    assert_eq!((last.shard(1, "beats"), last.shard(1, "stalls")), (sent + 1, 1), "{last}");
    let (_, before) = Table::last(&observer.stderr());
    let (_, at_the_end) = Table::last(&observer.stop().stderr);
    assert_eq!(at_the_end, before, "the end of a run prints one only on a terminal");
}

#[test]
fn what_reads_events_from_standard_output_reads_nothing_else() {
    let observer = Observer::start(Options { events: Some("-".into()), ..Options::default() });
    let mut agent = Agent::start(Client::Rust02, &observer);
    wait_for("beats", || (agent.report().sent > 2).then_some(()));
    let ended = observer.stop_without_events(0);
    assert_eq!(ended.stderr.lines().filter(|line| line.starts_with("ready ")).count(), 1, "{}", ended.stderr);
    let events: Vec<_> = ended.stdout.lines().map(Event::parse).collect();
    let kinds: Vec<_> = events.iter().map(Event::kind).collect();
    assert_eq!((kinds.first(), kinds.last()), (Some(&"start"), Some(&"stop")), "{kinds:?}");
    assert!(kinds.contains(&"up"), "{kinds:?}");
}

// --- cores ----------------------------------------------------------------------------------------

#[test]
fn fault_56_a_shard_whose_core_is_not_there_is_told_and_runs_unpinned() {
    let absent = 1023;
    let config = format!("[[shard]]\ncore = {absent}\n[[shard]]\ncore = \"none\"\n");
    let mut observer = Observer::start(Options { config, ..Options::default() });
    let told = format!("warning: cannot pin shard 0 to core {absent}");
    assert!(observer.stderr().contains(&told), "{}", observer.stderr());
    let allowed = |task: &str| {
        let status = fs::read_to_string(format!("/proc/{task}/status")).expect("a task of the observer");
        status.lines().find(|line| line.starts_with("Cpus_allowed:")).map(str::to_owned)
    };
    let pid = observer.pid();
    for task in fs::read_dir(format!("/proc/{pid}/task")).expect("its threads").flatten() {
        let task = format!("{pid}/task/{}", task.file_name().display());
        assert_eq!(allowed(&task), allowed(&std::process::id().to_string()), "{task}");
    }
    expect_a_stall_of_one_of_two(&mut observer);
    observer.stop();
}

/// A shard never leaves the cores that `taskset` or a unit allows the observer.
#[test]
fn fault_56_a_core_that_is_not_allowed_is_told_and_stays_unused() {
    let cores = allowed_cores();
    let [first, .., last] = cores[..] else { panic!("this test needs two cores, and has {cores:?}") };
    let place = Place::new();
    let config = place.base().join("core.toml");
    fs::write(&config, format!("[[shard]]\ncore = {last}\n")).expect("write a file");
    let child = program_by("taskset")
        .args(["--cpu-list", &first.to_string(), PROGRAM, "run", "--print-ready"])
        .arg("--dir")
        .arg(place.dir())
        .arg("--config")
        .arg(&config)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn();
    let mut child = child.expect("run taskset");
    let mut ready = [0; 6];
    child.stdout.as_mut().expect("piped").read_exact(&mut ready).expect("the ready line");
    let threads = fs::read_dir(format!("/proc/{}/task", child.id())).expect("its threads");
    let allowed: HashSet<_> = threads
        .flatten()
        .map(|task| fs::read_to_string(task.path().join("status")).expect("a thread of it"))
        .filter_map(|text| {
            text.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:").map(str::to_owned))
        })
        .collect();
    signal(child.id(), Signal::TERM);
    let ended = child.wait_with_output().expect("it is our child");
    let stderr = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(allowed, HashSet::from([format!("\t{first}")]), "{stderr}");
    assert!(stderr.contains(&format!("warning: cannot pin shard 0 to core {last}")), "{stderr}");
    assert_eq!(ended.status.code(), Some(0), "{stderr}");
}

fn allowed_cores() -> Vec<usize> {
    let cores = rustix::thread::sched_getaffinity(None).expect("ask for our cores");
    (0..rustix::thread::CpuSet::MAX_CPU).filter(|core| cores.is_set(*core)).collect()
}

/// An agent that beats does not stall; one that is stopped does.
fn expect_a_stall_of_one_of_two(observer: &mut Observer) {
    let mut agents = [0, 1].map(|shard| Agent::start_on(Client::Rust02, observer, shard));
    for agent in &agents {
        observer.expect("up", agent.pid(), SOON);
    }
    agents[0].signal(Signal::STOP);
    observer.expect("stall", agents[0].pid(), T + SOON);
    observer.no_false_stall(&mut agents[1]);
}

/// Processes that use all the CPU time they get, until dropped.
struct Spinners(Vec<std::process::Child>);

impl Spinners {
    fn start(count: usize) -> Self {
        // A limit for processes that the test does not end.
        let spin = || Command::new("timeout").args(["30", "sh", "-c", "while :; do :; done"]).spawn();
        Self((0..count).map(|_| spin().expect("run a shell")).collect())
    }
}

impl Drop for Spinners {
    fn drop(&mut self) {
        for spinner in &mut self.0 {
            // `timeout` forwards SIGTERM to its child.
            signal(spinner.id(), Signal::TERM);
            let _ = spinner.wait();
        }
    }
}

#[test]
fn fault_57_eight_shards_on_a_busy_machine_tell_every_true_stall_and_no_false_one() {
    // On a busy machine agents wait for a core, too, and such a silence is real.
    let threshold = 3 * T;
    let mut observer = Observer::start(Options { shards: 8, threshold, ..Options::default() });
    let mut agents = Agent::start_many(
        &observer,
        (0..16).map(|i| AgentOptions { sockets: vec![observer.socket(i % 8)], ..AgentOptions::default() }),
    );
    for agent in &agents {
        observer.expect("up", agent.pid(), SOON);
    }
    let spinners = Spinners::start(2 * allowed_cores().len());
    observer.watch(threshold);
    for agent in &agents[..8] {
        agent.signal(Signal::STOP);
    }
    for agent in &agents[..8] {
        let stall = observer.expect("stall", agent.pid(), threshold + SOON);
        assert!(stall.u64("silent_ns") >= crate::common::ns(threshold), "{stall}");
        // The limit: three thresholds of awake time, whatever else the machine does.
        assert!(stall.u64("silent_ns") <= 3 * crate::common::ns(threshold), "{stall}");
        agent.signal(Signal::CONT);
        observer.expect("resume", agent.pid(), SOON);
    }
    drop(spinners);
    for agent in &mut agents[8..] {
        observer.no_false_stall(agent);
    }
    observer.stop();
}

// --- a full disk ----------------------------------------------------------------------------------

#[test]
fn fault_36_a_disk_that_stays_full_stops_nothing_but_the_events_and_is_told_at_the_end() {
    let mut observer = Observer::start(Options { events: Some("/dev/full".into()), ..Options::default() });
    wait_for("a word on standard error", || {
        observer.stderr().contains("warning: cannot write events: no space left on device").then_some(())
    });
    let mut agents = Agent::start_many(&observer, (0..4).map(|_| AgentOptions::default()));
    wait_for("all to be up", || {
        let table = observer.table();
        (table.shard(0, "up") + table.shard(1, "up") == 4).then_some(())
    });
    agents[0].signal(Signal::STOP);
    wait_for("the stall", || {
        let table = observer.table();
        (table.shard(0, "stalls") + table.shard(1, "stalls") == 1).then_some(())
    });
    for agent in &mut agents[1..] {
        assert_eq!(agent.report().failed, 0);
    }
    // A run that lost events must not look like a successful one.
    let ended = observer.stop_without_events(1);
    assert!(ended.stderr.contains("could not be written"), "{}", ended.stderr);
    assert!(ended.took < Duration::from_secs(3), "1 s and slack: {:?}", ended.took);
}

#[test]
fn fault_36_a_disk_that_was_full_for_a_while_costs_no_event() {
    let place = Place::new();
    let disk = place.base().join("disk");
    fs::create_dir(&disk).expect("make a directory");
    let options = Options {
        events: Some(disk.join("events")),
        mounts: Some(format!("mount -t tmpfs -o size=64k none '{}'", disk.display())),
        ..Options::default()
    };
    let mut observer = Observer::start_in(place, options);
    let mut agent = Agent::start(Client::Rust02, &observer);
    observer.expect("up", agent.pid(), SOON);

    let filler = inside(&observer, &disk).join("filler");
    let full = fs::write(&filler, vec![0; 1 << 20]).expect_err("more than the disk holds");
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    // More events than fit into the last page of the file. Each is of another agent, since frequent events of
    // one agent are coalesced.
    agent.spawn_children(60);
    wait_for("events that cannot be written", || {
        let written = observer.events().len() as u64;
        (observer.table().events() > written + 20).then_some(())
    });
    fs::remove_file(&filler).expect("make room");

    let io = observer.expect_kind("io", SOON);
    assert_eq!((io.str("place"), io.u64("errno")), ("events", 28), "{io}");
    agent.signal(Signal::KILL);
    observer.expect("exit", agent.pid(), T + SOON);
    let ended = observer.stop();
    let kinds: HashSet<_> = ended.events.iter().map(Event::kind).collect();
    assert!(!kinds.contains("lost"), "the queue holds far more than that");
}

#[test]
fn fault_36_a_list_of_agents_that_finds_no_room_is_said_and_costs_nothing_else() {
    let place = Place::new();
    let dir = place.dir();
    let mounts = format!("mkdir '{0}' && mount -t tmpfs -o size=64k,mode=755 none '{0}'", dir.display());
    let options = Options { mounts: Some(mounts), ..Options::default() };
    let observer = Observer::start_in(place, options);
    let filler = inside(&observer, &dir).join("filler");
    let full = fs::write(&filler, vec![0; 1 << 20]).expect_err("more than the disk holds");
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    // It is written at the stop at the latest.
    let ended = observer.stop_without_events(0);
    let why = format!("cannot write the list of agents to {}: no space left", dir.join("roster").display());
    assert!(ended.stderr.contains(&why) && ended.stderr.contains("free space"), "{}", ended.stderr);
}

// --- a log that goes away, a slow disk ------------------------------------------------------------

/// The complete lines of a file.
fn events_in(path: &Path) -> Vec<Event> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split_inclusive('\n')
        .filter(|line| line.ends_with('\n'))
        .map(|line| Event::parse(line.trim_end()))
        .collect()
}

/// Causes one event. A change that is undone at once may cause none.
fn change_status(agent: &mut Agent, word: &str) {
    agent.ask(format_args!("status {word}"));
    agent.beat();
}

#[test]
fn fault_37_a_log_whose_directory_was_removed_is_told_and_goes_on_once_it_is_back() {
    let place = Place::new();
    let log = place.base().join("log");
    fs::create_dir(&log).expect("make a directory");
    let path = log.join("events");
    let mut observer =
        Observer::start_in(place, Options { events: Some(path.clone()), ..Options::default() });
    let mut agent = Agent::start(Client::Rust02, &observer);
    wait_for("the first events", || (events_in(&path).len() >= 2).then_some(()));
    let written = events_in(&path).len() as u64;
    fs::remove_dir_all(&log).expect("remove the directory");
    change_status(&mut agent, "critical");
    wait_for("a word on standard error", || {
        observer.stderr().contains("warning: cannot write events: no such file or directory").then_some(())
    });
    // The observer still observes.
    change_status(&mut agent, "ok");
    let told = observer.table().events();
    assert!(told > written, "{told} after {written}");
    fs::create_dir(&log).expect("make it again");
    wait_for("events that go on", || observer.stderr().contains("events are written again").then_some(()));
    let ended = observer.stop_without_events(0);
    let events = events_in(&path);
    let seqs: Vec<_> = events.iter().map(|event| event.u64("seq")).collect();
    let first = *seqs.first().expect("some");
    assert!(first > written, "{first} after {written}");
    let expected: Vec<_> = (first..=seqs.last().copied().unwrap_or(0)).collect();
    assert_eq!(seqs, expected, "nothing is missing but what was removed: {}", ended.stderr);
    let told = events.iter().find(|event| event.kind() == "io").expect("it is told");
    assert_eq!((told.str("place"), told.u64("errno")), ("events", 2), "{told}");
}

#[test]
fn fault_37_a_log_on_a_file_system_that_is_read_only_is_told_and_goes_on_once_it_can() {
    let place = Place::new();
    let disk = place.base().join("disk");
    let alias = place.base().join("alias");
    for directory in [&disk, &alias] {
        fs::create_dir(directory).expect("make a directory");
    }
    let path = disk.join("events");
    let options = Options {
        events: Some(path.clone()),
        mounts: Some(format!(
            "mount -t tmpfs none '{0}'\nmount --bind '{0}' '{1}'",
            disk.display(),
            alias.display()
        )),
        ..Options::default()
    };
    let observer = Observer::start_in(place, options);
    let mut agent = Agent::start(Client::Rust02, &observer);
    let seen = inside(&observer, &path);
    wait_for("the first events", || (events_in(&seen).len() >= 2).then_some(()));
    let mount = |arguments: &[&str]| {
        let pid = observer.pid().to_string();
        let mut command = Command::new("nsenter");
        command.args(["--mount", "--target", &pid, "mount"]).args(arguments).arg(&disk);
        assert!(command.status().expect("run nsenter").success(), "mount {arguments:?}");
    };
    // The file system of a file that is open for writing cannot become read-only, so another one is mounted
    // over it and the log is removed.
    mount(&["-t", "tmpfs", "-o", "ro", "none"]);
    fs::remove_file(inside(&observer, &alias).join("events")).expect("remove the log");
    change_status(&mut agent, "critical");
    wait_for("a word on standard error", || {
        observer.stderr().contains("warning: cannot write events: read-only file system").then_some(())
    });
    mount(&["-o", "remount,rw"]);
    wait_for("events that go on", || observer.stderr().contains("events are written again").then_some(()));
    let events = events_in(&seen);
    let told = events.iter().find(|event| event.kind() == "io").expect("it is told");
    assert_eq!((told.str("place"), told.u64("errno")), ("events", 30), "{told}");
    assert_eq!(events.iter().filter(|event| event.is("status", agent.pid())).count(), 1);
    observer.stop_without_events(0);
}

/// A FIFO that is open but not read acts as a disk that accepts nothing: a pipe holds 64 KiB.
#[test]
fn fault_38_while_the_log_takes_nothing_only_its_writer_waits() {
    let place = Place::new();
    let path = place.base().join("fifo");
    assert!(Command::new("mkfifo").arg(&path).status().expect("run mkfifo").success());
    let mut reader = fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(&path)
        .expect("open the reading end");
    let arguments = vec!["--events-beats".to_owned()];
    let options = Options { events: Some(path), arguments, ..Options::default() };
    let mut observer = Observer::start_in(place, options);
    let fast = || AgentOptions { period: Duration::from_millis(1), ..AgentOptions::default() };
    let mut agents = Agent::start_many(&observer, (0..4).map(|_| fast()));
    wait_for("a word on standard error", || {
        observer
            .stderr()
            .contains("warning: cannot write events: resource temporarily unavailable")
            .then_some(())
    });
    // No agent is lost, and all are judged.
    observer.watch(T + T / 4);
    let table = observer.table();
    assert_eq!(table.shard(0, "up") + table.shard(1, "up"), 4, "{table}");
    assert_eq!(table.shard(0, "stalls") + table.shard(1, "stalls"), 0, "{table}");
    agents[0].signal(Signal::STOP);
    wait_for("the stall", || {
        let table = observer.table();
        (table.shard(0, "stalls") + table.shard(1, "stalls") == 1).then_some(())
    });
    for agent in &mut agents[1..] {
        assert_eq!(agent.report().failed, 0);
    }
    // Once the FIFO is read, the deferred events follow in order.
    agents[1..].iter().for_each(|agent| agent.signal(Signal::STOP));
    let mut text = Vec::new();
    wait_for("the stalls in the log", || {
        let mut bytes = [0; 1 << 16];
        while let Ok(read @ 1..) = reader.read(&mut bytes) {
            text.extend_from_slice(&bytes[..read]);
        }
        (String::from_utf8_lossy(&text).matches("\"kind\":\"stall\"").count() == 4).then_some(())
    });
    let seqs: Vec<u64> = String::from_utf8(text)
        .expect("text")
        .lines()
        .filter(|line| line.ends_with('}'))
        .map(Event::parse)
        .filter(|event| event.has("seq"))
        .map(|event| event.u64("seq"))
        .collect();
    assert!(seqs.iter().copied().eq(1..=seqs.len() as u64), "{seqs:?}");
    let ended = observer.stop_without_events(0);
    assert!(ended.stderr.contains("events are written again"), "{}", ended.stderr);
}

/// A path in the observer's mount namespace, as seen from here.
fn inside(observer: &Observer, path: &Path) -> PathBuf {
    let root = Path::new("/proc").join(observer.pid().to_string()).join("root");
    root.join(path.strip_prefix("/").expect("an absolute path"))
}

/// The queue is compared with the agents that exist, not with those that the defaults allow.
#[test]
fn a_queue_that_is_too_short_for_its_agents_is_told_when_they_are_there() {
    let options = Options { shards: 1, queue_limit: Some(4), agents_max: 100_000, ..Options::default() };
    let mut observer = Observer::start(options);
    let some = Agent::start_many(&observer, [AgentOptions::default(), AgentOptions::default()]);
    for agent in &some {
        observer.expect("up", agent.pid(), SOON);
    }
    // Time enough for a warning.
    observer.watch(3 * T);
    assert!(!observer.stderr().contains("max_dgram_qlen"), "{}", observer.stderr());
    let _one_more = Agent::start(Client::Rust02, &observer);
    let told = "net.unix.max_dgram_qlen is 4, and shard 0 has 3 agents, which need 6";
    wait_for("the warning", || observer.stderr().contains(told).then_some(()));
    let ended = observer.stop();
    // The final table has the warning, too.
    assert_eq!(ended.stderr.matches("warning: net.unix.max_dgram_qlen").count(), 1, "{}", ended.stderr);
}

/// Mode and group, of all shards or of one, decide who may beat and who may query.
#[test]
fn sockets_have_the_mode_and_group_that_were_configured() {
    needs_root("it gives sockets to other groups");
    let config = "mode = \"0660\"\ngroup = 4321\ncontrol-mode = \"0666\"\ncontrol-group = \"root\"\n\
                  [[shard]]\n[[shard]]\nmode = \"0620\"\ngroup = 4322\n";
    let observer = Observer::start(Options { config: config.to_owned(), ..Options::default() });
    let access = |name: &str| {
        let about = fs::metadata(observer.dir().join(name)).expect("it is there");
        (about.mode() & 0o7777, about.gid())
    };
    assert_eq!(access("shard-0.sock"), (0o660, 4321));
    assert_eq!(access("shard-1.sock"), (0o620, 4322));
    assert_eq!(access("control.sock"), (0o666, 0));
    let ended = observer.stop();
    assert!(!ended.stderr.contains("can beat"), "{}", ended.stderr);

    let closed = Observer::start(Options::default()).stop();
    assert!(
        closed.stderr.contains("only root can beat: the mode of the sockets is 0600"),
        "{}",
        closed.stderr
    );
}

/// If the kernel groups processes by session (autogroup), a nice value counts only inside its session: the
/// observer raises a session of its own, as a service has one, and leaves a shared one alone.
#[test]
fn fault_82_a_raised_priority_counts_outside_of_its_session() {
    needs_root("it raises priorities");
    // `None` if the kernel does not group by session, and for processes of its first session.
    let nice = |text: &str| text.rsplit_once("nice ").map(|(_, nice)| nice.trim().to_owned());
    let weight = |pid: u32| {
        // A kernel without autogroups has no such file.
        let file = Path::new("/proc").join(pid.to_string()).join("autogroup");
        nice(&fs::read_to_string(file).unwrap_or_default())
    };
    let me = std::process::id();
    let before = weight(me);
    let shared = Observer::start(Options::default());
    assert_eq!(weight(shared.pid()), before);
    shared.stop();
    assert_eq!(weight(me), before);

    let in_session = |command: &str| {
        let mut command_line = Command::new("setsid");
        command_line.arg(command);
        command_line
    };
    let why = "start it in a session of its own: setsid is in util-linux";
    let any = in_session("cat").args(["/proc/self/autogroup"]).output().expect(why);
    let is_grouped = nice(&String::from_utf8_lossy(&any.stdout)).is_some();

    let place = Place::new();
    let mut child = in_session(PROGRAM)
        .env("VARTA_CONFIG", "/dev/null")
        .args(["run", "--shards", "1", "--print-ready", "--dir"])
        .arg(place.dir())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect(why);
    let mut ready = [0; 5];
    Read::read_exact(child.stdout.as_mut().expect("it was piped"), &mut ready).expect("it is ready");
    let raised = weight(child.id());
    signal(child.id(), Signal::TERM);
    child.wait().expect("it is our child");
    assert_eq!(&ready, b"ready");
    assert_eq!(raised.as_deref(), is_grouped.then_some("-20"));
}

/// Messages have the form that their reader needs.
#[test]
fn messages_are_for_who_reads_them() {
    let said = |format: &str| {
        let arguments = vec![format!("--log-format={format}")];
        Observer::start(Options { arguments, ..Options::default() }).stop().stderr
    };
    for line in said("json").lines() {
        let message: serde_json::Value = serde_json::from_str(line).expect(line);
        assert!(message["ts"].is_string() && message["level"].is_string(), "{line}");
        assert!(message["message"].is_string(), "{line}");
    }
    let is_time = |word: &str| word.len() == 24 && word.ends_with('Z') && word.contains('T');
    let of_a_file = said("auto");
    let observing = of_a_file.lines().find(|line| line.contains("observing ")).expect(&of_a_file);
    let words: Vec<&str> = observing.splitn(3, ' ').collect();
    assert!(is_time(words[0]) && words[1] == "info:" && words[2].starts_with("observing "), "{observing}");
    assert!(said("plain").lines().any(|line| line.starts_with("observing ")));
}

/// A configuration or a flag that is refused is an error in the journal, before anything says how to print it.
#[test]
fn the_journal_has_the_level_of_what_is_refused_at_the_start() {
    let place = Place::new();
    for refused in [["--threshold", "1ms"], ["--no-such-flag", "1"]] {
        let path = place.base().join("journal");
        let file = fs::File::create(&path).expect("a file");
        let stat = rustix::fs::fstat(&file).expect("it is open");
        let mut run = Command::new(PROGRAM);
        run.arg("run").args(refused).arg("--dir").arg(place.dir()).stderr(file);
        run.env("JOURNAL_STREAM", format!("{}:{}", stat.st_dev, stat.st_ino));
        assert!(!run.status().expect("it starts").success());
        let said = fs::read_to_string(&path).expect("it is there");
        assert!(said.lines().count() > 0 && said.lines().all(|line| line.starts_with("<3>")), "{said}");
    }
}

/// A person sees plain words, and the counts at the end.
#[test]
fn on_a_terminal_the_end_of_a_run_prints_the_counts() {
    let place = Place::new();
    let run = format!(
        "{PROGRAM} run --shards 1 --dir {dir} & until [ -e {dir}/fleet.json ]; do sleep 0.05; done; kill $!; wait",
        dir = place.dir().display()
    );
    let output = program_by("script").args(["-qec", &run, "/dev/null"]).output().expect("script is there");
    let said = String::from_utf8_lossy(&output.stdout).replace('\r', "");
    assert!(said.lines().any(|line| line.starts_with("observing ")), "{said}");
    assert!(Table::last(&said).0.is_some(), "{said}");
}
