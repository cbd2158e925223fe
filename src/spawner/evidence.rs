//! What is found about a process before something is done to it: why it did not beat cannot be seen afterwards.
//!
//! Thread: a worker for each process, which writes a file. It may hang in a read or a write that nothing interrupts: then it
//! is given up, and while two of them hang nothing more is looked for. Blocks: procfs, files of control groups and the
//! directory of the files.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, PipeReader, PipeWriter, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown, lchown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crate::message::{Reason, Shown};
use crate::process::unit::hierarchies;
use crate::spawner::child::poll_until;
use crate::spawner::found::{Evidence, Text, Thread, Verdict};
use crate::sys::clock::{SystemClock, cpu_time_ns};
use crate::time::{Clock as _, duration_ns};
use crossbeam::channel::{Receiver, bounded};
use rustix::event::{PollFd, PollFlags};

/// How long the search may take.
pub const WITHIN: Duration = Duration::from_millis(500);
/// From the first look at CPU time to the second.
const BETWEEN: Duration = Duration::from_millis(100);
/// Searches that may hang before there are no more.
const STUCK_MAX: usize = 2;
/// Searches at once.
const SEARCHES_MAX: usize = 16;
/// Threads that are looked at.
const THREADS_MAX: usize = 64;
/// Control groups above that of the process that are looked at.
const LEVELS_MAX: usize = 8;
/// What is kept of a file of the kernel, bytes.
const TEXT_BYTES_MAX: u64 = 1024;
/// The longest file that is written, bytes.
pub const FILE_BYTES_MAX: usize = 64 * 1024;
/// Files that are kept in a directory.
const FILES_MAX: usize = 200;

/// What a search ends with: why nothing was written, in words.
pub type Outcome = Result<(), String>;

/// Searches, of which some may hang.
#[derive(Debug, Default)]
pub struct Searches {
    running: Arc<AtomicUsize>,
    stuck: Arc<AtomicUsize>,
}

/// One search.
#[derive(Debug)]
pub struct Search {
    outcome: Receiver<Outcome>,
    /// Hangs up at the end.
    end: PipeReader,
    state: Arc<AtomicUsize>,
    stuck: Arc<AtomicUsize>,
}

/// States of a search: who comes second settles the count of those that hang.
const RUNS: usize = 0;
const GIVEN_UP: usize = 1;
const ENDED: usize = 2;

impl Searches {
    /// Starts one.
    ///
    /// # Errors
    /// Why there is none, in words.
    pub fn start(&self, work: impl FnOnce() -> Outcome + Send + 'static) -> Result<Search, String> {
        if self.stuck.load(Ordering::Relaxed) >= STUCK_MAX {
            return Err("unavailable: two searches hang".to_owned());
        }
        if self.running.load(Ordering::Relaxed) >= SEARCHES_MAX {
            return Err("unavailable: so many searches are under way that no more is started".to_owned());
        }
        let failed = |error: io::Error| format!("unavailable: {}", Reason(&error));
        let (end, ends) = io::pipe().map_err(failed)?;
        let (told, outcome) = bounded(1);
        let (state, stuck) = (Arc::new(AtomicUsize::new(RUNS)), Arc::clone(&self.stuck));
        let search = Search { outcome, end, state: Arc::clone(&state), stuck: Arc::clone(&self.stuck) };
        let running = Arc::clone(&self.running);
        running.fetch_add(1, Ordering::Relaxed);
        let worker = move || {
            let outcome = work();
            running.fetch_sub(1, Ordering::Relaxed);
            if state.swap(ENDED, Ordering::AcqRel) == GIVEN_UP {
                stuck.fetch_sub(1, Ordering::Relaxed);
            }
            // Ignored: given up, and so nobody listens.
            let _ = told.send(outcome);
            drop::<PipeWriter>(ends);
        };
        let started = thread::Builder::new().name("varta-evidence".to_owned()).spawn(worker);
        if let Err(error) = started {
            self.running.fetch_sub(1, Ordering::Relaxed);
            return Err(failed(error));
        }
        Ok(search)
    }
}

impl Search {
    /// What it ended with; `None`: it has not.
    pub fn outcome(&self) -> Option<Outcome> {
        self.outcome.try_recv().ok()
    }
}

impl Drop for Search {
    /// Gives it up: it hangs until it ends after all.
    fn drop(&mut self) {
        if self.state.swap(GIVEN_UP, Ordering::AcqRel) == RUNS {
            self.stuck.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl AsFd for Search {
    /// Hangs up when it has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.end.as_fd()
    }
}

/// Looks at the process twice and writes what is found to a new file, which its directory keeps beside the last ones and
/// which belongs to `owner`.
pub fn search(pid: u32, pidfd: Option<&OwnedFd>, path: &Path, owner: u32) -> Outcome {
    let found = look(pid, pidfd);
    let text = serde_json::to_vec_pretty(&found).map_err(|error| error.to_string())?;
    if text.len() > FILE_BYTES_MAX {
        return Err(format!("it is longer than {FILE_BYTES_MAX} bytes"));
    }
    write(path, &text, owner)
        .map_err(|error| format!("cannot write {}: {}", Shown(path.display()), Reason(&error)))
}

fn look(pid: u32, pidfd: Option<&OwnedFd>) -> Evidence {
    let (begun, wall) = (Instant::now(), SystemClock.wall());
    let cpu_ns = cpu_time_ns(pid);
    let (mut threads, threads_all) = threads_of(pid);
    let groups = Groups::of(pid);
    let throttled = groups.throttled();
    let between = Instant::now();
    // Its end ends the wait, too.
    let mut fds: Vec<PollFd<'_>> = pidfd.iter().map(|pidfd| PollFd::new(*pidfd, PollFlags::IN)).collect();
    let waited = poll_until(&mut fds, Some(between + BETWEEN));
    let is_gone = waited.is_ok() && fds.iter().any(|fd| !fd.revents().is_empty());
    let cpu_used_ns = cpu_ns.and_then(|before| cpu_time_ns(pid)?.checked_sub(before));
    let between_ns = duration_ns(between.elapsed());
    for thread in &mut threads {
        let later = stat_of(pid, thread.tid).filter(|(comm, _)| *comm == thread.comm);
        thread.state_later = later.map(|(_, state)| state);
        thread.cpu_used_ns =
            thread.cpu_ns.and_then(|before| thread_cpu(pid, thread.tid)?.checked_sub(before));
    }
    let is_throttled = groups.throttled() > throttled;
    let verdict = if is_gone || threads.is_empty() {
        Verdict::Gone
    } else {
        judge(&threads, groups.is_frozen(), is_throttled, cpu_used_ns.unwrap_or(0), between_ns)
    };
    let mut files = groups.files();
    files.extend(["cpu", "memory", "io"].iter().filter_map(|what| text_of(format!("/proc/pressure/{what}"))));
    let memory = memory_of(pid);
    let took_ns = duration_ns(begun.elapsed());
    let (cpu_ns, cpu_used_ns) = (cpu_ns.filter(|_| !is_gone), cpu_used_ns.filter(|_| !is_gone));
    Evidence {
        pid,
        wall,
        verdict,
        took_ns,
        cpu_ns,
        cpu_used_ns,
        between_ns,
        threads,
        threads_all,
        memory,
        files,
    }
}

/// The main thread comes first. A process that got a fifth of a core, or has a thread that could run at both looks, spins.
fn judge(threads: &[Thread], is_frozen: bool, is_throttled: bool, used_ns: u64, between_ns: u64) -> Verdict {
    let main = threads.first().map_or('?', |main| main.state);
    let stays = |state: char| {
        move |thread: &Thread| thread.state == state && thread.state_later.is_none_or(|later| later == state)
    };
    let wants = threads.iter().any(stays('R')) || used_ns >= between_ns / 5;
    match main {
        _ if is_frozen => Verdict::Frozen,
        't' => Verdict::Traced,
        'T' => Verdict::Stopped,
        'Z' | 'X' => Verdict::Gone,
        _ if is_throttled && (wants || threads.iter().any(|thread| thread.state == 'R') || used_ns > 0) => {
            Verdict::Throttled
        }
        _ if wants => Verdict::Spinning,
        _ if threads.iter().any(stays('D')) => Verdict::Uninterruptible,
        _ => Verdict::Sleeping,
    }
}

/// The first threads, the main one first, and how many there are.
fn threads_of(pid: u32) -> (Vec<Thread>, usize) {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let mut tids: Vec<u32> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    tids.sort_by_key(|tid| (*tid != pid, *tid));
    let all = tids.len();
    let threads = tids.into_iter().take(THREADS_MAX).filter_map(|tid| {
        let (comm, state) = stat_of(pid, tid)?;
        let wait_channel = text_of(format!("/proc/{pid}/task/{tid}/wchan")).map(|file| file.text);
        let wait_channel = wait_channel.filter(|name| !name.is_empty() && name != "0");
        let cpu_ns = thread_cpu(pid, tid);
        Some(Thread { tid, comm, state, state_later: None, wait_channel, cpu_ns, cpu_used_ns: None })
    });
    (threads.collect(), all)
}

/// Name and state of a thread.
fn stat_of(pid: u32, tid: u32) -> Option<(String, char)> {
    let stat = fs::read(format!("/proc/{pid}/task/{tid}/stat")).ok()?;
    let stat = String::from_utf8_lossy(&stat);
    let (head, rest) = stat.rsplit_once(") ")?;
    Some((head.split_once('(')?.1.to_owned(), rest.chars().next()?))
}

/// CPU time of a thread, ns.
fn thread_cpu(pid: u32, tid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{tid}/schedstat")).ok()?;
    text.split(' ').next()?.parse().ok()
}

fn memory_of(pid: u32) -> Vec<String> {
    const LINES: [&str; 7] = ["VmPeak:", "VmSize:", "VmLck:", "VmHWM:", "VmRSS:", "VmSwap:", "FDSize:"];
    let status = fs::read(format!("/proc/{pid}/status")).unwrap_or_default();
    let status = String::from_utf8_lossy(&status);
    let is_memory = |line: &&str| LINES.iter().any(|name| line.starts_with(name));
    status
        .lines()
        .filter(is_memory)
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect()
}

/// The beginning of a small file.
fn text_of(path: String) -> Option<Text> {
    let mut bytes = Vec::new();
    File::open(&path).ok()?.take(TEXT_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    Some(Text { path, text: String::from_utf8_lossy(&bytes).trim_end().to_owned() })
}

/// Directories of the control groups of a process, with the controllers of each: its own and those above.
struct Groups(Vec<(String, &'static [&'static str])>);

/// Files by controller of version 1, and of version 2 under the name of no controller.
const FILES: [(&str, &[&str]); 6] = [
    ("cpu", &["cpu.cfs_quota_us", "cpu.cfs_period_us", "cpu.stat"]),
    ("memory", &["memory.usage_in_bytes", "memory.limit_in_bytes", "memory.failcnt", "memory.oom_control"]),
    ("freezer", &["freezer.state"]),
    ("pids", &["pids.current", "pids.max"]),
    ("cpuset", &["cpuset.cpus"]),
    (
        "",
        &[
            "cgroup.events",
            "cpu.max",
            "cpu.stat",
            "cpu.pressure",
            "memory.current",
            "memory.max",
            "memory.events",
            "memory.pressure",
            "io.pressure",
            "pids.current",
            "pids.max",
        ],
    ),
];

impl Groups {
    fn of(pid: u32) -> Self {
        let groups = text_of(format!("/proc/{pid}/cgroup")).map(|file| file.text).unwrap_or_default();
        let mut found = Vec::new();
        for (controllers, path) in hierarchies(&groups) {
            let files = FILES.iter().find(|(name, _)| controllers.split(',').any(|one| one == *name));
            let Some((name, files)) = files else { continue };
            // A path out of this cgroup namespace leads to another group here.
            if path.split('/').any(|name| name == "..") {
                continue;
            }
            let roots: &[&str] = if name.is_empty() { &["", "/unified"] } else { &["", "/"] };
            let levels = std::iter::successors(Some(path.trim_end_matches('/')), |path| {
                path.rfind('/').map(|end| &path[..end])
            });
            for path in levels.take(LEVELS_MAX) {
                let at = roots.iter().map(|root| match *root {
                    "/" => format!("/sys/fs/cgroup/{name}{path}"),
                    root => format!("/sys/fs/cgroup{root}{path}"),
                });
                let mut at = at.filter(|at| Path::new(at).join("cgroup.procs").exists());
                found.extend(at.next_back().map(|at| (at, *files)));
            }
        }
        Self(found)
    }

    /// Of each group the files that it has; of those above only what holds the process back.
    fn files(&self) -> Vec<Text> {
        let mut own: Option<&[&str]> = None;
        let mut found = Vec::new();
        for (at, files) in &self.0 {
            let is_own = own != Some(*files);
            own = Some(*files);
            let is_limit =
                |file: &str| matches!(file, "cpu.max" | "cpu.cfs_quota_us" | "memory.max" | "pids.max");
            let wanted = files.iter().filter(|file| is_own || is_limit(file));
            found.extend(wanted.filter_map(|file| text_of(format!("{at}/{file}"))));
        }
        found
    }

    fn each<'a>(&'a self, file: &'a str) -> impl Iterator<Item = String> + 'a {
        let has = move |(_, files): &&(String, &'static [&'static str])| files.contains(&file);
        self.0.iter().filter(has).filter_map(move |(at, _)| Some(text_of(format!("{at}/{file}"))?.text))
    }

    /// How often one of them had used up its quota.
    fn throttled(&self) -> u64 {
        let count = |text: String| {
            text.lines().find_map(|line| line.strip_prefix("nr_throttled ")?.trim().parse::<u64>().ok())
        };
        self.each("cpu.stat").filter_map(count).sum()
    }

    fn is_frozen(&self) -> bool {
        self.each("cgroup.events").any(|text| text.lines().any(|line| line == "frozen 1"))
            || self.each("freezer.state").any(|text| text.trim() == "FROZEN")
    }
}

/// Writes a new file for its owner alone, in a directory that is made if need be. The oldest go, so that there are no more
/// than [`FILES_MAX`].
fn write(path: &Path, text: &[u8], owner: u32) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    if DirBuilder::new().mode(0o700).create(directory).is_ok() {
        lchown(directory, Some(owner), None)?;
    }
    make_room(directory);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    if owner != rustix::process::geteuid().as_raw() {
        fchown(&file, Some(owner), None)?;
    }
    file.write_all(text)
}

fn make_room(directory: &Path) {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let is_evidence = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "json");
    let aged = |path: PathBuf| {
        let about = fs::symlink_metadata(&path).ok().filter(fs::Metadata::is_file)?;
        Some((about.modified().unwrap_or(SystemTime::UNIX_EPOCH), path))
    };
    let mut files: Vec<_> = entries.map(|entry| entry.path()).filter(is_evidence).filter_map(aged).collect();
    files.sort();
    for (_, path) in files.iter().take((files.len() + 1).saturating_sub(FILES_MAX)) {
        // Ignored: one more is no harm.
        let _ = fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(30);

    fn ended(search: &Search) -> Option<Outcome> {
        poll_until(&mut [PollFd::new(search, PollFlags::IN)], Some(Instant::now() + SOON)).unwrap();
        search.outcome()
    }

    #[test]
    fn after_two_searches_that_hang_there_are_none_until_one_ends() {
        let searches = Searches::default();
        let mut gates = Vec::new();
        for _ in 0..2 {
            let (gate, closed) = bounded::<()>(0);
            let search = searches.start(move || {
                let _ = closed.recv();
                Ok(())
            });
            assert_eq!(
                ended(&searches.start(|| Err("nothing".to_owned())).unwrap()),
                Some(Err("nothing".to_owned()))
            );
            let search = search.unwrap();
            assert_eq!(search.outcome(), None);
            gates.push((gate, search.end.try_clone().unwrap()));
        }
        let refused = searches.start(|| Ok(())).map(drop);
        assert_eq!(refused, Err("unavailable: two searches hang".to_owned()));
        let (gate, end) = gates.pop().unwrap();
        drop(gate);
        poll_until(&mut [PollFd::new(&end, PollFlags::IN)], Some(Instant::now() + SOON)).unwrap();
        assert_eq!(ended(&searches.start(|| Ok(())).unwrap()), Some(Ok(())));
    }

    fn thread(states: &str) -> Thread {
        let mut states = states.chars();
        Thread {
            tid: 1,
            comm: "x".to_owned(),
            state: states.next().unwrap(),
            state_later: states.next(),
            wait_channel: None,
            cpu_ns: None,
            cpu_used_ns: None,
        }
    }

    #[test]
    fn the_verdict_follows_from_both_looks() {
        let cases: [(&[&str], bool, bool, u64, Verdict); 16] = [
            (&["SS"], false, false, 0, Verdict::Sleeping),
            (&["SS", "SS"], false, true, 0, Verdict::Sleeping),
            (&["RR"], false, false, 0, Verdict::Spinning),
            (&["SS"], false, false, 20, Verdict::Spinning),
            (&["SS"], false, false, 19, Verdict::Sleeping),
            (&["SS", "RR"], false, false, 90, Verdict::Spinning),
            (&["RS"], false, false, 1, Verdict::Sleeping),
            (&["RS"], false, true, 5, Verdict::Throttled),
            (&["RR"], false, true, 5, Verdict::Throttled),
            (&["RR"], true, true, 5, Verdict::Frozen),
            (&["TT"], false, false, 0, Verdict::Stopped),
            (&["tt"], false, true, 0, Verdict::Traced),
            (&["DD"], false, false, 0, Verdict::Uninterruptible),
            (&["SS", "DD"], false, false, 0, Verdict::Uninterruptible),
            (&["DS"], false, false, 0, Verdict::Sleeping),
            (&["ZZ"], false, false, 0, Verdict::Gone),
        ];
        for (threads, is_frozen, is_throttled, used, verdict) in cases {
            let all: Vec<Thread> = threads.iter().map(|states| thread(states)).collect();
            let judged = judge(&all, is_frozen, is_throttled, used, 100);
            assert_eq!(judged, verdict, "{threads:?} {is_frozen} {is_throttled} {used}");
        }
    }

    #[test]
    fn a_file_is_new_and_private_and_the_oldest_go() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join("made").join(name);
        let own = rustix::process::geteuid().as_raw();
        write(&path("first.json"), b"{}", own).unwrap();
        assert_eq!(fs::metadata(path("")).unwrap().permissions().mode() & 0o7777, 0o700);
        fs::remove_file(path("first.json")).unwrap();
        fs::write(path("notes.txt"), "kept").unwrap();
        for number in 0..FILES_MAX + 5 {
            write(&path(&format!("{number}.json")), b"{}", own).unwrap();
            let at = SystemTime::UNIX_EPOCH + Duration::from_secs(number as u64);
            File::open(path(&format!("{number}.json"))).unwrap().set_modified(at).unwrap();
        }
        let left = fs::read_dir(path("")).unwrap().count();
        assert_eq!(left, FILES_MAX + 1);
        assert!(path("notes.txt").exists() && !path("4.json").exists() && path("5.json").exists());
        assert_eq!(fs::metadata(path("5.json")).unwrap().permissions().mode() & 0o7777, 0o600);
        std::os::unix::fs::symlink(path("elsewhere"), path("link.json")).unwrap();
        for there in ["204.json", "link.json"] {
            assert_eq!(write(&path(there), b"{}", own).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        }
        assert!(!path("elsewhere").exists());
    }

    #[test]
    fn nothing_is_found_about_nobody() {
        let found = look(4_194_305, None);
        assert_eq!((found.verdict, found.threads.len(), found.cpu_ns), (Verdict::Gone, 0, None));
        assert!(serde_json::to_vec_pretty(&found).unwrap().len() < FILE_BYTES_MAX);
    }
}
