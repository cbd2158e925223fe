//! What the spawner does: takes orders, has a [supervisor](super::child) for each child, and passes reports on.
//!
//! In: orders, each with the pidfd of the process it is about. Out: reports. Thread: the main one of a process of its own,
//! beside those of [evidence](super::evidence). Blocks: in one poll of all connections and supervisors, with the next time limit.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::{SocketFlags, SocketType, accept_with};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open, umask};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::message::Reason;
use crate::spawner::child::{GRACE, KILLED_WITHIN, SUPERVISOR, poll_until, start_supervisor, supervise};
use crate::spawner::evidence::{Outcome, Search, Searches, WITHIN, search};
use crate::spawner::line::{Attached, Line, Received};
use crate::spawner::protocol::{Deed, Order, Report, VERSION};
use crate::spawner::tree::kill_descendants;
use crate::sys::child::set_default_timer_slack;
use crate::sys::pidfd::send_signal;
use crate::sys::thread::set_own_nice;
use crate::sys::unix_socket::{bind, listen, open_connected, shape_of};

/// Orders that are carried out at once, at most.
const JOBS_MAX: usize = 256;
/// Connections at once, at most: those of an observer and its successor, and some to spare.
const CLIENTS_MAX: usize = 8;
/// How long no connection is accepted after one could not be.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// Reports that wait for a client to read them. One that does not is no client any more.
const REPORTS_MAX: usize = 4 * JOBS_MAX;
/// How much later than its time limit a supervisor must have reported: one that does not was stopped or is stuck.
const OVERDUE: Duration = GRACE.saturating_add(KILLED_WITHIN).saturating_add(Duration::from_secs(5));

/// Serves the observer that started this process, until it hangs up and every child has ended.
///
/// For a program that embeds a fleet whose configuration has actions: the fleet starts `/proc/self/exe spawner`, with the
/// socket as standard input, so the program calls this first of all if its first argument is `spawner`, and ends when it
/// returns. `varta-fleet` does. Blocks. Changes the whole process: its priority, cores, umask, name and standard input.
///
/// # Errors
/// Standard input is not such a socket; or the kernel's.
pub fn serve_spawner() -> io::Result<()> {
    let line = take_stdin()?;
    if std::env::args_os().next().is_some_and(|name| name == SUPERVISOR) {
        name_this(c"varta-order");
        return supervise(line);
    }
    name_this(c"varta-spawner");
    become_ordinary();
    let mut service = Service::new(None);
    service.welcome(line);
    service.run()
}

/// Serves whoever connects to a socket at this path, if it is root, the user of this process or `uid`. A socket there
/// that nobody listens on is replaced. Blocks for ever.
///
/// # Errors
/// The path is in use; or the kernel's.
pub fn serve_spawner_at(path: &Path, uid: Option<u32>) -> io::Result<()> {
    // A supervisor has the same arguments.
    if std::env::args_os().next().is_some_and(|name| name == SUPERVISOR) {
        return serve_spawner();
    }
    name_this(c"varta-spawner");
    become_ordinary();
    let socket = listen_at(path)?;
    Service::new(Some(Listener { socket, uid })).run()
}

fn take_stdin() -> io::Result<Line> {
    let shape = shape_of(rustix::stdio::stdin());
    if shape.kind.is_none_or(|(_, kind)| kind != SocketType::SEQPACKET) || !shape.is_connected {
        let why = "standard input is no socket of an observer, which starts this by itself";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    let socket = rustix::stdio::stdin().try_clone_to_owned()?;
    rustix::stdio::dup2_stdin(fs::File::open("/dev/null")?)?;
    Ok(Line::new(socket))
}

fn name_this(name: &std::ffi::CStr) {
    // Ignored: it is for whoever lists processes.
    let _ = rustix::thread::set_name(name);
}

/// What the observer has that its children should not: a failure leaves them with it, which is no reason not to act.
fn become_ordinary() {
    let _ = set_own_nice(0);
    let mut all = CpuSet::new();
    (0..CpuSet::MAX_CPU).for_each(|core| all.set(core));
    let _ = sched_setaffinity(None, &all);
    let _ = fs::write("/proc/self/oom_score_adj", "0");
    set_default_timer_slack();
    umask(Mode::from_raw_mode(0o022));
}

/// Anybody may connect, but who it is decides whether it is heard.
fn listen_at(path: &Path) -> io::Result<OwnedFd> {
    let socket = open_connected(SocketType::SEQPACKET)?;
    let before = umask(Mode::from_raw_mode(0o111));
    let mut bound = bind(socket.as_fd(), path);
    if bound.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse) && is_stale(path) {
        fs::remove_file(path)?;
        bound = bind(socket.as_fd(), path);
    }
    umask(before);
    bound?;
    listen(socket.as_fd())?;
    Ok(socket)
}

/// Whether it is a socket that nobody listens on. A connection to another file is refused, too.
fn is_stale(path: &Path) -> bool {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|about| about.file_type().is_socket());
    let probe = open_connected(SocketType::SEQPACKET).map_err(|_| Errno::MFILE);
    let address = rustix::net::SocketAddrUnix::new(path);
    let connected = probe.and_then(|probe| rustix::net::connect(&probe, &address?));
    is_socket && connected == Err(Errno::CONNREFUSED)
}

struct Listener {
    socket: OwnedFd,
    uid: Option<u32>,
}

struct Client {
    number: u64,
    uid: u32,
    line: Line,
    waiting: VecDeque<Vec<u8>>,
    is_lost: bool,
}

/// An order under way.
struct Job {
    /// Who gave it.
    client: u64,
    id: u64,
    supervisor: Child,
    /// Of the supervisor.
    pidfd: OwnedFd,
    /// `None`: it has hung up.
    line: Option<Line>,
    /// The process group of the child, and its number.
    group: Option<Pid>,
    is_started: bool,
    /// When the supervisor is overdue.
    until: Option<Instant>,
    is_overdue: bool,
    /// Its last report is passed on.
    is_done: bool,
}

/// An order that waits for evidence.
struct Waiting {
    client: u64,
    order: Order,
    pidfd: Option<OwnedFd>,
    search: Search,
    /// Not longer than until then.
    until: Instant,
}

struct Service {
    listener: Option<Listener>,
    /// Not before, since it failed.
    accept_again: Option<Instant>,
    clients: Vec<Client>,
    clients_ever: u64,
    searches: Searches,
    waiting: Vec<Waiting>,
    jobs: Vec<Job>,
}

impl Service {
    fn new(listener: Option<Listener>) -> Self {
        Self {
            listener,
            accept_again: None,
            clients: Vec::new(),
            clients_ever: 0,
            searches: Searches::default(),
            waiting: Vec::new(),
            jobs: Vec::new(),
        }
    }

    fn welcome(&mut self, line: Line) {
        self.clients_ever += 1;
        let uid = line.peer().map_or(rustix::process::geteuid().as_raw(), |peer| peer.uid);
        let (number, waiting) = (self.clients_ever, VecDeque::new());
        let client = Client { number, uid, line, waiting, is_lost: false };
        self.clients.push(client);
        self.report(self.clients_ever, &Report::Hello { version: VERSION });
    }

    fn run(&mut self) -> io::Result<()> {
        while self.listener.is_some() || !self.clients.is_empty() || self.jobs.iter().any(|job| !job.is_done)
        {
            self.wait()?;
            self.accept(Instant::now());
            self.take_orders();
            self.take_evidence(Instant::now());
            self.take_reports();
            self.end_overdue(Instant::now());
            self.clients.iter_mut().for_each(Client::flush);
            self.clients.retain(|client| !client.is_lost);
            // Nobody would know of it.
            let clients = &self.clients;
            self.waiting.retain(|waiting| clients.iter().any(|client| client.number == waiting.client));
        }
        Ok(())
    }

    fn wait(&self) -> io::Result<()> {
        let mut fds = Vec::new();
        let has_room = self.clients.len() < CLIENTS_MAX && self.accept_again.is_none();
        if let Some(listener) = self.listener.as_ref().filter(|_| has_room) {
            fds.push(PollFd::new(&listener.socket, PollFlags::IN));
        }
        for client in &self.clients {
            let room = if client.waiting.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
            fds.push(PollFd::new(&client.line, PollFlags::IN | room));
        }
        for job in &self.jobs {
            fds.push(PollFd::new(&job.pidfd, PollFlags::IN));
            fds.extend(job.line.as_ref().map(|line| PollFd::new(line, PollFlags::IN)));
        }
        fds.extend(self.waiting.iter().map(|waiting| PollFd::new(&waiting.search, PollFlags::IN)));
        let due = self.jobs.iter().filter(|job| !job.is_done && !job.is_overdue).filter_map(|job| job.until);
        let due = due.chain(self.waiting.iter().map(|waiting| waiting.until)).chain(self.accept_again);
        poll_until(&mut fds, due.min())
    }

    fn accept(&mut self, now: Instant) {
        if self.accept_again.is_some_and(|at| now < at) {
            return;
        }
        self.accept_again = None;
        for _ in 0..CLIENTS_MAX {
            let Some(listener) = self.listener.as_ref().filter(|_| self.clients.len() < CLIENTS_MAX) else {
                return;
            };
            let socket = match accept_with(&listener.socket, SocketFlags::CLOEXEC) {
                Ok(socket) => socket,
                Err(Errno::AGAIN) => return,
                // Mostly no room for a descriptor: the connection waits, and would wake this at once.
                Err(_) => {
                    self.accept_again = Some(now + ACCEPT_AGAIN);
                    return;
                }
            };
            let line = Line::new(socket);
            let own = rustix::process::geteuid().as_raw();
            let trusted = [Some(0), Some(own), listener.uid];
            if line.peer().is_ok_and(|peer| trusted.contains(&Some(peer.uid))) {
                self.welcome(line);
            }
        }
    }

    fn take_orders(&mut self) {
        for at in 0..self.clients.len() {
            let client = &mut self.clients[at];
            let number = client.number;
            match client.line.receive() {
                Ok(Received::Nothing) => {}
                Ok(Received::Message(message, attached)) => match Order::decode(&message) {
                    Ok(order) => self.carry_out(number, order, attached),
                    // What else it means is not known either.
                    Err(_) => client.is_lost = true,
                },
                Ok(Received::End) | Err(_) => client.is_lost = true,
            }
        }
    }

    fn carry_out(&mut self, client: u64, order: Order, attached: Attached) {
        let (id, pid, evidence) = match &order {
            Order::Start { id, pid, evidence, .. } => (*id, *pid, evidence.clone()),
            Order::Cancel { id } => {
                self.cancel(client, *id, &order);
                return;
            }
        };
        let is_same = |one: u64, order: &Order| {
            one == client && matches!(order, Order::Start { id: it, .. } if *it == id)
        };
        let is_under_way = self.jobs.iter().any(|job| (job.client, job.id) == (client, id) && !job.is_done)
            || self.waiting.iter().any(|waiting| is_same(waiting.client, &waiting.order));
        let refused = if let Some(why) = order.fault() {
            (0, why)
        } else if is_under_way {
            (0, "an order of this number is under way")
        } else if self.jobs.len() + self.waiting.len() >= JOBS_MAX {
            (libc::EAGAIN, "so many orders are under way that no more is taken")
        } else {
            match (pidfd_of(pid, attached), evidence) {
                (Err(refused), _) => refused,
                (Ok(pidfd), None) => return self.perform(client, &order, pidfd),
                (Ok(pidfd), Some(path)) => return self.look_first(client, order, pidfd, path.into()),
            }
        };
        self.refuse(client, id, refused.0, refused.1);
    }

    fn refuse(&mut self, client: u64, id: u64, errno: i32, why: &str) {
        self.report(client, &Report::NotStarted { id, errno, why: why.to_owned() });
    }

    fn look_first(&mut self, client: u64, order: Order, pidfd: Option<OwnedFd>, path: PathBuf) {
        let Order::Start { id, pid, .. } = order else { return };
        let own = rustix::process::geteuid().as_raw();
        let owner = self.clients.iter().find(|one| one.number == client).map_or(own, |client| client.uid);
        // Without room for another descriptor it waits for the whole time.
        let its = pidfd.as_ref().and_then(|pidfd| pidfd.try_clone().ok());
        match self.searches.start(move || search(pid, its.as_ref(), &path, owner)) {
            Ok(search) => {
                let until = Instant::now() + WITHIN;
                self.waiting.push(Waiting { client, order, pidfd, search, until });
            }
            Err(why) => {
                self.report_evidence(client, id, Err(why));
                self.perform(client, &order, pidfd);
            }
        }
    }

    fn report_evidence(&mut self, client: u64, id: u64, outcome: Outcome) {
        let (is_written, why) = (outcome.is_ok(), outcome.err());
        self.report(client, &Report::Evidence { id, is_written, why });
    }

    /// Goes on with the orders whose evidence is there, or took too long.
    fn take_evidence(&mut self, now: Instant) {
        for waiting in std::mem::take(&mut self.waiting) {
            let outcome = waiting.search.outcome();
            let outcome = match outcome {
                None if now < waiting.until => {
                    self.waiting.push(waiting);
                    continue;
                }
                None => Err(format!("it took longer than {WITHIN:?}")),
                Some(outcome) => outcome,
            };
            if let Order::Start { id, .. } = waiting.order {
                self.report_evidence(waiting.client, id, outcome);
                self.perform(waiting.client, &waiting.order, waiting.pidfd);
            }
        }
    }

    fn perform(&mut self, client: u64, order: &Order, pidfd: Option<OwnedFd>) {
        let Order::Start { id, deed, .. } = order else { return };
        match deed {
            Deed::Signal(signal) => self.signal(client, *id, *signal, pidfd),
            Deed::Run(_) | Deed::Systemd { .. } => {
                if let Err(error) = self.start(client, order, pidfd) {
                    let errno = error.raw_os_error().unwrap_or(0);
                    let why = format!("cannot start a supervisor: {}", Reason(&error));
                    self.refuse(client, *id, errno, &why);
                }
            }
        }
    }

    fn signal(&mut self, client: u64, id: u64, signal: u8, pidfd: Option<OwnedFd>) {
        let sent = pidfd.ok_or_else(|| io::Error::other("no pidfd came with the order"));
        match sent.and_then(|pidfd| send_signal(pidfd.as_fd(), signal)) {
            Ok(()) => {
                self.report(client, &Report::Started { id, child: None });
                let (code, output) = (Some(0), String::new());
                let ended =
                    Report::Ended { id, code, signal: None, timed_out: false, output, output_bytes: 0 };
                self.report(client, &ended);
            }
            Err(error) => {
                let errno = error.raw_os_error().unwrap_or(0);
                let why = format!("cannot send signal {signal}: {}", Reason(&error));
                self.report(client, &Report::NotStarted { id, errno, why });
            }
        }
    }

    fn start(&mut self, client: u64, order: &Order, pidfd: Option<OwnedFd>) -> io::Result<()> {
        let Order::Start { id, timeout_ns, .. } = *order else { return Ok(()) };
        let message = order.encode().ok_or(Errno::MSGSIZE)?;
        let (mut supervisor, line) = start_supervisor()?;
        let pid = i32::try_from(supervisor.id()).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH);
        let opened = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()));
        let told = line.send(&message, pidfd.as_ref().map(AsFd::as_fd));
        let until = Instant::now().checked_add(Duration::from_nanos(timeout_ns).saturating_add(OVERDUE));
        match (opened, told) {
            (Ok(pidfd), Ok(true)) => {
                self.jobs.push(Job {
                    client,
                    id,
                    supervisor,
                    pidfd,
                    line: Some(line),
                    group: None,
                    is_started: false,
                    until,
                    is_overdue: false,
                    is_done: false,
                });
                Ok(())
            }
            (opened, told) => {
                // Without an order it has done nothing; that it ends at once is certain.
                supervisor.kill()?;
                supervisor.wait()?;
                Err(opened.err().map(io::Error::from).or(told.err()).unwrap_or_else(|| Errno::AGAIN.into()))
            }
        }
    }

    fn cancel(&mut self, client: u64, id: u64, order: &Order) {
        let is_it = |waiting: &Waiting| {
            waiting.client == client && matches!(waiting.order, Order::Start { id: it, .. } if it == id)
        };
        if let Some(at) = self.waiting.iter().position(is_it) {
            self.waiting.remove(at);
            self.refuse(client, id, libc::ECANCELED, "it was cancelled");
            return;
        }
        let job = self.jobs.iter().find(|job| (job.client, job.id) == (client, id) && !job.is_done);
        // One that has ended is about to be reported.
        if let (Some(line), Some(message)) = (job.and_then(|job| job.line.as_ref()), order.encode()) {
            // Ignored: a supervisor that is gone is noticed by its pidfd.
            let _ = line.send(&message, None);
        }
    }

    /// What supervisors report, and the end of those who end.
    fn take_reports(&mut self) {
        let mut jobs = std::mem::take(&mut self.jobs);
        jobs.retain_mut(|job| {
            // Whoever has ended reports nothing more.
            let ended = job.supervisor.try_wait();
            while let Some(report) = job.next_report() {
                self.report(job.client, &report);
            }
            let has_ended = !matches!(ended, Ok(None));
            if has_ended && !job.is_done {
                for report in job.bereaved() {
                    self.report(job.client, &report);
                }
            }
            !has_ended
        });
        self.jobs = jobs;
    }

    fn end_overdue(&mut self, now: Instant) {
        for job in &mut self.jobs {
            if !job.is_done && !job.is_overdue && job.until.is_some_and(|until| now >= until) {
                job.is_overdue = true;
                kill_descendants(job.supervisor.id());
                // Ignored: its pidfd tells of its end.
                let _ = job.supervisor.kill();
            }
        }
    }

    fn report(&mut self, client: u64, report: &Report) {
        // An observer that is gone is told nothing.
        let client = self.clients.iter_mut().find(|one| one.number == client);
        if let (Some(client), Some(message)) = (client, report.encode()) {
            client.waiting.push_back(message);
            client.flush();
            client.is_lost |= client.waiting.len() > REPORTS_MAX;
        }
    }
}

impl Client {
    fn flush(&mut self) {
        while let Some(message) = self.waiting.front() {
            match self.line.send(message, None) {
                Ok(true) => drop(self.waiting.pop_front()),
                Ok(false) => return,
                Err(_) => {
                    self.is_lost = true;
                    return;
                }
            }
        }
    }
}

impl Job {
    fn next_report(&mut self) -> Option<Report> {
        loop {
            let received = self.line.as_ref()?.receive();
            let message = match received {
                Ok(Received::Nothing) => return None,
                Ok(Received::Message(message, _)) => message,
                Ok(Received::End) | Err(_) => break,
            };
            if let Ok(number) = message.as_slice().try_into() {
                self.group = Pid::from_raw(i32::from_ne_bytes(number)).filter(|pid| !pid.is_init());
                continue;
            }
            match Report::decode(&message) {
                Ok(report @ Report::Started { .. }) => {
                    self.is_started = true;
                    return Some(report);
                }
                Ok(report @ (Report::Ended { .. } | Report::NotStarted { .. })) => {
                    self.is_done = true;
                    return Some(report);
                }
                // A supervisor says nothing else.
                _ => break,
            }
        }
        self.line = None;
        None
    }

    /// The supervisor died before its child did: was killed by it, perhaps.
    fn bereaved(&self) -> Vec<Report> {
        let id = self.id;
        let signal = u8::try_from(Signal::KILL.as_raw()).ok();
        let (timed_out, output) = (self.is_overdue, String::new());
        let ended = Report::Ended { id, code: None, signal, timed_out, output, output_bytes: 0 };
        let Some(group) = self.group else {
            if self.is_started {
                return vec![ended];
            }
            return vec![Report::NotStarted { id, errno: 0, why: "its supervisor was killed".to_owned() }];
        };
        // The child itself is dead, as it dies with its supervisor.
        let _ = kill_process_group(group, Signal::KILL);
        let child = u32::try_from(group.as_raw_nonzero().get()).ok();
        let started = (!self.is_started).then_some(Report::Started { id, child });
        started.into_iter().chain([ended]).collect()
    }
}

/// The pidfd that came with an order, if it is one and of this process.
fn pidfd_of(pid: u32, attached: Attached) -> Result<Option<OwnedFd>, (i32, &'static str)> {
    let fd = match attached {
        Attached::Nothing => return Ok(None),
        Attached::Lost => return Err((libc::EMFILE, "there is no room for the pidfd of the order")),
        Attached::Descriptor(fd) => fd,
    };
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).unwrap_or_default();
    let named = info.lines().find_map(|line| line.strip_prefix("Pid:")).map(str::trim);
    match named {
        // -1: it is gone, of which a signal tells, and a program may be meant to know.
        Some(named) if named == "-1" || named == pid.to_string() => Ok(Some(fd)),
        Some(_) => Err((libc::ESRCH, "the pidfd that came with the order is of another process")),
        None => Err((libc::EBADF, "what came with the order is no pidfd")),
    }
}
