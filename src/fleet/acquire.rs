//! Acquires what a fleet needs before a thread runs: the directory, sockets, memory and the event output. What a
//! thread opens for itself, and the manifest, come with the threads.
//!
//! In: a plan. Out: the locked runtime directory, bound sockets, the memory of the agents, the open event
//! output. Thread: the caller's. Blocks: in the file system. Dropping [`Acquired`] releases everything.
//!
//! Each resource with a name (the socket of a shard, its table, the control socket, HTTP, the event output) comes
//! from one function, which uses what was passed to this process under that name, and else makes it.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::io;
#[cfg(feature = "http")]
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::net::sockopt;

use super::error::StartError;
use super::inherited::{Inherited, InheritedError, of_queue, shard_name};
use super::predecessor::{
    Adopted, FLEET, Left, NotAdopted, OfShard, Predecessor, ToStore, table_name, the_only, told_name,
};
use super::takeover::{LISTENER, Takeover};
use crate::config::plan::{EventsPlan, Plan, ShardPlan};
use crate::history::{self, History};
#[cfg(feature = "http")]
use crate::http::Listeners;
use crate::journal::{Estate, Identity, Journal, KeptTable, SocketFile};
use crate::lane::Port;
use crate::lane::kick::Kick;
use crate::message::Reason;
use crate::notify::closer::{BARRIER_PLACES, Closer, PLACES};
use crate::notify::daemon::Terms;
use crate::process::procfs;
use crate::rundir::binding::{BoundSocket, FileId, Kind, Owner, is_live};
use crate::rundir::dir::{self, RunDir};
#[cfg(feature = "http")]
use crate::rundir::names::CONTROL;
use crate::rundir::names::TAKEOVER;
use crate::rundir::upkeep::Files;
use crate::shard::front::{Front, Limits};
use crate::shard::input::Transport;
use crate::shard::input::notify::{Messages, NotifyUnix};
use crate::shard::input::survey::{LIMIT_UNKNOWN, Survey, survey};
use crate::shard::input::unix::Unix;
use crate::shard::tracker::{Admission, Tracker};
use crate::shard::uids::UidAccounts;
use crate::sinks::{Descriptor, Rotation};
use crate::sys::clock::{SystemClock, boottime_ns};
use crate::sys::mmsg::is_recvmmsg_refused;
use crate::sys::unix_socket::{self, adopt_notify_receiver, adopt_receiver};
use crate::table::adopt::Legacy;
use crate::table::{self, Header, Table, TableWriter};
use crate::time::{Clock, MonoNs};
use crate::warning::Warning;

/// Agents for which memory is granted ahead: of all shards together, and at least of one shard. More than
/// start at once; the next grant is requested when half is left.
const GRANTED_AHEAD: u32 = 16_384;
const GRANTED_AHEAD_MIN: u32 = 1024;

/// Everything a fleet needs besides threads.
pub struct Acquired {
    /// The runtime directory and the sockets.
    pub files: Files,
    /// The listeners for HTTP requests.
    #[cfg(feature = "http")]
    pub listeners: Listeners,
    /// Front and port of each shard.
    pub shards: Vec<(ShardFront, Arc<Port>)>,
    /// What is reported from.
    pub estate: Estate,
    /// What it was like so far.
    pub history: Arc<History>,
    /// What a successor will need.
    pub to_store: Vec<ToStore>,
    /// What was adopted, if there was a predecessor.
    pub adopted: Option<Adopted>,
    /// The count of all agents.
    pub admission: Arc<Admission>,
    /// The event output, if there is one.
    pub output: Option<Descriptor>,
    /// Problems that limit the fleet.
    pub warnings: Vec<Warning>,
    /// The observer that this one took over from, to be told how that ended.
    pub takeover: Option<Takeover>,
}

/// The front of a shard on a real socket and the system clock.
#[expect(clippy::large_enum_variant, reason = "one for each shard, at the start only")]
pub enum ShardFront {
    /// It receives frames.
    Frames(Front<Unix, SystemClock>),
    /// It receives messages of daemons.
    Messages(Front<NotifyUnix, SystemClock>),
}

impl ShardFront {
    fn queue_limit(&self) -> u32 {
        match self {
            Self::Frames(front) => front.queue_limit(),
            Self::Messages(front) => front.queue_limit(),
        }
    }
}

/// Acquires everything that this plan needs, first of what was passed. The plan is changed where it has to fit
/// that; see [`Inherited::fit`].
///
/// If it was passed by an observer that still runs, that observer goes on until everything is open that can be: only
/// then it is taken over, and what it left is adopted.
///
/// # Errors
/// The first resource that is refused; everything acquired before is released.
pub fn acquire(plan: &mut Plan, inherited: &mut Inherited) -> Result<Acquired, StartError> {
    inherited.check_names()?;
    let held =
        inherited.takeover.as_mut().and_then(|takeover| Some((takeover.lock.take()?, &takeover.tenure)));
    let mut dir = match held {
        Some((lock, tenure)) => RunDir::of_another(&plan.dir, lock, tenure.clone())?,
        None => RunDir::open(&plan.dir)?,
    };
    let mut warnings = Warning::of_here();
    warnings.extend(Warning::of_rules(plan));
    warnings.extend(inherited.fit(plan));
    let mut takeover = inherited.takeover.take();
    let plan = &*plan;
    let headers: Vec<Header> =
        plan.all_shards().enumerate().map(|(shard, _)| header_of(plan, shard)).collect();
    let ahead = (GRANTED_AHEAD / u32::from(headers[0].shards.max(1))).max(GRANTED_AHEAD_MIN);
    let found = Left::find(inherited, &headers);
    let left = match (found, &takeover) {
        (Err(why), Some(takeover)) if why.shortage().is_none() => return Err(takeover.unusable(why).into()),
        (Ok(None), Some(takeover)) => return Err(takeover.unusable("it handed over no agents").into()),
        (found, _) => unless_unfit(found, &mut warnings)?.flatten(),
    };
    let is_taken_over = takeover.is_some();
    let listener = takeover.as_mut().and_then(|takeover| takeover.listener.take());
    // The files of an observer that still runs are looked after by that.
    let hold = |socket: &mut BoundSocket, name: &str| {
        if let Some(takeover) = takeover.as_ref().filter(|_| socket.stays()) {
            socket.held_by(&takeover.tenure, takeover.is_kept(name));
        }
    };
    let mut sockets = Vec::with_capacity(headers.len());
    for (shard, of) in plan.all_shards().enumerate() {
        let number = plan.lasting_number(shard);
        let known = left.as_ref().and_then(|left| left.socket(number));
        let kind = if shard < plan.shards.len() { Kind::Receiver } else { Kind::Notify };
        let mut socket = shard_socket(&dir, (number, of), kind, known, inherited, &mut warnings)?;
        hold(&mut socket, &shard_name(number));
        sockets.push(socket);
    }
    #[cfg(feature = "http")]
    let (control, listeners) = {
        let mut control = control_socket(&dir, plan, inherited)?;
        hold(&mut control, "control");
        let listener = control.fd().try_clone().map_err(StartError::resources("open the control socket"))?;
        let tcp = inherited.take_tcp("http")?.map(TcpListener::from);
        // Another address is another listener; that of a socket unit has to be the configured one.
        let is_wanted = |tcp: &TcpListener| tcp.local_addr().ok() == plan.http.listen;
        let tcp = tcp.filter(|tcp| !is_taken_over || is_wanted(tcp));
        (control, Listeners::open(listener.into(), tcp, &plan.http)?)
    };
    let mut successors = successors_socket(&dir, listener, &mut warnings);
    successors.iter_mut().for_each(|socket| hold(socket, LISTENER));
    let mut output = plan.events.as_ref().map(event_output).transpose().map_err(StartError::Events)?;
    #[cfg(not(feature = "http"))]
    if let Some(address) = plan.http.listen {
        return Err(StartError::NoHttp { address });
    }
    let admission = Admission::with_shares(plan.agents_max, plan.uid_agents_max)
        .map_err(StartError::resources("reserve memory for agents"))?;
    let history = History::create(headers[0].boot_id, boottime_ns(), SystemClock.wall().0)
        .map_err(StartError::resources("reserve memory for the history"))?;
    // Last: what is received from a passed socket here would be lost if the start failed afterwards. And from here on
    // an observer that is taken over observes no more.
    if let (Some(takeover), Some(left)) = (&takeover, &left) {
        rehearse(plan, &dir, &headers, left)?;
        takeover.take(left.journal())?;
        dir.sign();
        if let Some(socket) = &successors {
            // Successors are told the process that listens, by the kernel, as it was then.
            let _ = unix_socket::listen(socket.fd().as_fd());
        }
        // It may have ended in the middle of a line, or have been rotated.
        output = match plan.events.as_ref().map(event_output) {
            Some(Ok(again)) => Some(again),
            Some(Err(_)) | None => output,
        };
    }
    if let Err(why) = go_on(&history, inherited) {
        warnings.push(Warning::NoHistory { why });
    }
    let in_reserve = StartError::resources("reserve memory for a shard");
    let now = SystemClock.mono();
    let adopted = left.map(|left| left.adopt(plan.agents_max, ahead, now)).transpose();
    let mut predecessor = unless_unfit(adopted, &mut warnings)?.flatten();
    let adopted = predecessor.as_ref().map(|predecessor| predecessor.adopted(now));
    let (mut shards, mut to_store) = (Vec::new(), Vec::new());
    let mut estate = estate(&headers[0], &mut predecessor, now).map_err(&in_reserve)?;
    for ((shard, socket), header) in sockets.iter_mut().enumerate().zip(&headers) {
        let of = predecessor.as_mut().and_then(|predecessor| predecessor.shards[shard].take());
        let is_new = of.as_ref().map_or((true, true), |of| {
            (is_taken_over || of.legacy.is_copied, is_taken_over || of.kept.is_copied)
        });
        let memory = shard_memory(plan, header, ahead, of, &estate.journal).map_err(&in_reserve)?;
        let number = plan.lasting_number(shard);
        to_store
            .push(ToStore::memory(table_name(number), memory.table.memfd(), is_new.0).map_err(&in_reserve)?);
        to_store
            .push(ToStore::memory(told_name(number), memory.kept.memfd(), is_new.1).map_err(&in_reserve)?);
        let (name, is_new) = (shard_name(number), is_taken_over || !socket.stays());
        to_store.push(ToStore { name, fd: Arc::clone(socket.fd()), is_new });
        estate.kept.push(memory.kept);
        let parts = (memory.writer, memory.table, memory.legacy);
        shards.push(make_shard(plan, shard, socket, &admission, parts).map_err(&in_reserve)?);
        estate.journal.set_socket(number, socket_file(socket, &shards[shard].0));
    }
    if let Some(agents) = admission.beyond() {
        warnings.push(Warning::MoreAgents { agents, agents_max: plan.agents_max });
    }
    to_store.push(
        ToStore::memory(FLEET.to_owned(), estate.journal.memfd(), is_taken_over || predecessor.is_none())
            .map_err(&in_reserve)?,
    );
    to_store.push(ToStore::memory(history::NAME.to_owned(), history.memfd(), true).map_err(&in_reserve)?);
    Ok(Acquired {
        estate,
        history: Arc::new(history),
        to_store,
        adopted,
        shards,
        admission,
        output,
        warnings,
        takeover,
        #[cfg(feature = "http")]
        listeners,
        files: Files {
            sockets,
            #[cfg(feature = "http")]
            control,
            takeover: successors,
            dir,
        },
    })
}

/// Copies the history that an observer before this one left, if it did.
///
/// # Errors
/// It cannot be used, for this reason.
fn go_on(history: &History, inherited: &mut Inherited) -> Result<(), String> {
    let left = inherited.take(history::NAME);
    if left.is_empty() {
        return Ok(());
    }
    let left = the_only(left, history::NAME).map_err(|why| why.to_string())?;
    history.go_on_from(left, boottime_ns()).map_err(|why| why.to_string())
}

/// A warning if what was left is unfit: the fleet starts anew. A shortage may pass, so it fails the start.
fn unless_unfit<T>(
    found: Result<T, NotAdopted>,
    warnings: &mut Vec<Warning>,
) -> Result<Option<T>, StartError> {
    found.map(Some).or_else(|why| match why.shortage() {
        Some(errno) => {
            let shortage = io::Error::from_raw_os_error(errno);
            Err(StartError::resources("adopt what the observer before left")(shortage))
        }
        None => {
            warnings.push(Warning::StartsAnew { why: why.to_string() });
            Ok(None)
        }
    })
}

/// The socket of the shard with this lasting number.
fn shard_socket(
    dir: &RunDir,
    (shard, of): (usize, &ShardPlan),
    kind: Kind,
    known: Option<SocketFile>,
    inherited: &mut Inherited,
    warnings: &mut Vec<Warning>,
) -> Result<BoundSocket, StartError> {
    if let Some(fd) = inherited.take_receiver(shard, &of.socket)? {
        let name = shard_name(shard);
        let adopt = if kind == Kind::Notify { adopt_notify_receiver } else { adopt_receiver };
        let attested = adopt(fd.as_fd()).map_err(InheritedError::refused(&name))?;
        warnings.extend(of_queue(shard, attested));
        let cookie = sockopt::socket_cookie(&fd).ok();
        let Some(known) = known.filter(|known| cookie == Some(known.cookie)) else {
            return Ok(BoundSocket::passed(fd, of.socket.clone(), kind));
        };
        let file_id = FileId { dev: known.dev, inode: known.inode };
        let mut socket = BoundSocket::known(fd, of.socket.clone(), kind, file_id, known.queue_limit);
        if let Some(file) = socket.names().iter().find(|file| socket.is_at(file)) {
            socket.found_at(file).map_err(InheritedError::refused(&name))?;
        }
        return Ok(socket);
    }
    if let Some(parent) = of.socket.parent().filter(|parent| *parent != dir.path()) {
        dir::vet(parent)?;
    }
    let bound = dir.bind_shard(&of.socket, kind, of.mode, Owner { uid: None, gid: of.group });
    bound.map_err(|source| StartError::Bind { shard, source })
}

/// The socket for HTTP requests.
#[cfg(feature = "http")]
fn control_socket(dir: &RunDir, plan: &Plan, inherited: &mut Inherited) -> Result<BoundSocket, StartError> {
    let path = dir.path().join(CONTROL);
    if let Some(fd) = inherited.take_listener("control", &path)? {
        let mut socket = BoundSocket::passed(fd, path, Kind::Listener);
        let names = socket.names();
        if let Some(name) = names.iter().find(|name| is_live(name, Kind::Listener)) {
            socket.found_at(name).map_err(InheritedError::refused("control"))?;
        }
        return Ok(socket);
    }
    let owner = Owner { uid: None, gid: plan.control_group };
    dir.bind_control(plan.control_mode, owner).map_err(StartError::Control)
}

/// Fails if the kernel would not grant this process what a start needs, or the files cannot be written: an observer that
/// still runs is not to be taken over then. Touches nothing of that.
fn rehearse(plan: &Plan, dir: &RunDir, headers: &[Header], left: &Left) -> Result<(), StartError> {
    /// Descriptors of a shard, and of the rest: a few more than there are.
    const FDS: (usize, usize) = (8, 48);
    /// Threads besides those of the shards, and the two that each shard of daemons has beside it.
    const THREADS: usize = 12;
    let paths: Vec<_> = plan.all_shards().map(|shard| shard.socket.clone()).collect();
    dir.rehearse(&paths)?;
    let needed = FDS.0 * paths.len() + FDS.1;
    let fds: io::Result<Vec<Kick>> = (0..needed).map(|_| Kick::new()).collect();
    drop(fds.map_err(StartError::resources("open what a fleet needs"))?);
    let (release, held) = crossbeam::channel::bounded::<std::convert::Infallible>(0);
    let thread = |_| {
        let held = held.clone();
        std::thread::Builder::new().name("varta-rehearse".into()).spawn(move || {
            let _ = held.recv();
        })
    };
    let threads: io::Result<Vec<_>> = (0..3 * paths.len() + THREADS).map(thread).collect();
    drop(release);
    for thread in threads.map_err(StartError::resources("start a thread"))? {
        let _ = thread.join();
    }
    for (shard, header) in (0..).zip(headers).filter(|(shard, _)| left.needs_memory(*shard, plan.agents_max))
    {
        table::create_granted(plan.agents_max, *header, left.agents_max(shard))
            .map_err(StartError::resources("reserve memory for a shard"))?;
    }
    Ok(())
}

/// The socket for successors: that of the observer that is taken over, or a new one. Without it nobody can take over,
/// which is no reason not to observe.
fn successors_socket(
    dir: &RunDir,
    listener: Option<OwnedFd>,
    warnings: &mut Vec<Warning>,
) -> Option<BoundSocket> {
    let bound = match listener {
        Some(listener) => {
            let path = dir.path().join(TAKEOVER);
            let mut socket = BoundSocket::passed(listener, path.clone(), Kind::Takeover);
            socket.found_at(&path).map(|()| socket).map_err(|error| Reason(&error).to_string())
        }
        None => dir.bind_takeover().map_err(|error| error.to_string()),
    };
    bound.map_err(|why| warnings.push(Warning::NoTakeover { why })).ok()
}

/// The header of the table of a shard.
fn header_of(plan: &Plan, shard: usize) -> Header {
    let number = |count: usize| u16::try_from(count).unwrap_or(u16::MAX);
    Header {
        boot_id: boot_id(),
        pid_namespace: pid_namespace(),
        shard: number(plan.lasting_number(shard)),
        shards: number(plan.shards.len()),
    }
}

/// The journal of the predecessor, or a new one; the tables of the shards are added later.
fn estate(header: &Header, predecessor: &mut Option<Predecessor>, now: MonoNs) -> io::Result<Estate> {
    let adoption = predecessor.as_ref().map(|predecessor| predecessor.adoption(now));
    let journal = match predecessor {
        Some(predecessor) => Arc::clone(&predecessor.journal),
        None => {
            let fleet = RandomState::new().hash_one(now.0);
            let Header { boot_id, pid_namespace, .. } = *header;
            let identity = Identity { boot_id, pid_namespace, fleet };
            Arc::new(Journal::create(&identity, SystemClock.wall().0, now)?)
        }
    };
    Ok(Estate { journal, kept: Vec::new(), adoption })
}

/// What outlives this process of one shard.
struct ShardMemory {
    writer: TableWriter,
    table: Table,
    kept: KeptTable,
    legacy: Option<Legacy>,
}

/// That of the predecessor, or a table with all slots free.
fn shard_memory(
    plan: &Plan,
    header: &Header,
    ahead: u32,
    of: Option<OfShard>,
    journal: &Journal,
) -> io::Result<ShardMemory> {
    if let Some(OfShard { writer, table, legacy, kept }) = of {
        return Ok(ShardMemory { writer, table, kept, legacy: Some(legacy) });
    }
    let (writer, table) = table::create_granted(plan.agents_max, *header, ahead)?;
    let mut kept = KeptTable::create(plan.agents_max, header.shard, &journal.identity())?;
    kept.grant_ahead(table.granted(), 0)?;
    Ok(ShardMemory { writer, table, kept, legacy: None })
}

fn socket_file(socket: &BoundSocket, front: &ShardFront) -> SocketFile {
    let FileId { dev, inode } = socket.file_id();
    let cookie = sockopt::socket_cookie(socket.fd()).unwrap_or(0);
    SocketFile { dev, inode, cookie, queue_limit: front.queue_limit() }
}

/// Opens the event output.
pub fn event_output(events: &EventsPlan) -> io::Result<Descriptor> {
    let rotation = events.max_bytes.map(|bytes_max| Rotation { bytes_max, keep: events.keep });
    Descriptor::open(events.output.clone(), rotation)
}

fn make_shard(
    plan: &Plan,
    shard: usize,
    socket: &mut BoundSocket,
    admission: &Arc<Admission>,
    (writer, table, legacy): (TableWriter, Table, Option<Legacy>),
) -> io::Result<(ShardFront, Arc<Port>)> {
    let kick = Arc::new(Kick::new()?);
    let with_beats = plan.events.as_ref().is_some_and(|events| events.beats);
    let mut port = Port::new(table, Arc::clone(&kick), with_beats)?.with_turned_away(admission.turned_away());
    let now = SystemClock.mono();
    let uids = UidAccounts::new(Arc::clone(&port.uids), plan.uid_frames_max);
    let admission = Arc::clone(admission);
    let mut tracker = Tracker::new(writer, plan.classes(), plan.tick_ns, admission, uids, now);
    let allow_uids = plan.all_shards().nth(shard).and_then(|of| of.allow_uids.as_deref());
    let limits = Limits::from(plan);
    let front = match plan.notify.as_ref().filter(|_| shard >= plan.shards.len()) {
        None => ShardFront::Frames(front(transport(socket, kick)?, tracker, limits, allow_uids, legacy)),
        Some(notify) => {
            port = port.of_daemons(Terms::from(notify))?;
            if let Some(daemons) = &port.daemons {
                tracker = tracker.of_daemons(Arc::clone(daemons));
            }
            let limits =
                Limits { threshold_min_ns: limits.threshold_min_ns.min(notify.threshold_min_ns), ..limits };
            let transport = notify_transport(socket, kick)?;
            ShardFront::Messages(front(transport, tracker, limits, allow_uids, legacy))
        }
    };
    Ok((front, Arc::new(port)))
}

/// A front on a tracker that has not done anything yet; on the table of a predecessor, it goes on after that.
fn front<T: Transport>(
    transport: T,
    tracker: Tracker,
    limits: Limits,
    allow_uids: Option<&[u32]>,
    legacy: Option<Legacy>,
) -> Front<T, SystemClock> {
    match &legacy {
        None => Front::new(transport, SystemClock, tracker, limits, allow_uids),
        Some(legacy) => {
            Front::adopted(transport, SystemClock, tracker.go_on_after(legacy), limits, allow_uids, legacy)
        }
    }
}

/// Receives messages from `socket`. Starts the two threads that close what comes along; they end once it is dropped.
fn notify_transport(socket: &mut BoundSocket, kick: Arc<Kick>) -> io::Result<NotifyUnix> {
    let mut queue_limit = socket.queue_limit();
    if queue_limit == 0 {
        // An empty message would not be harmless everywhere, so the queue is not surveyed.
        queue_limit = LIMIT_UNKNOWN;
        if let Some(name) = socket.names().iter().find(|name| is_live(name, Kind::Notify)) {
            socket.found_at(name)?;
        }
    }
    let messages = Messages::new(Closer::spawn(BARRIER_PLACES)?.0, Closer::spawn(PLACES)?.0);
    Unix::with(messages, VecDeque::new(), Arc::clone(socket.fd()), queue_limit, kick)
}

/// Receives from `socket`. If it was passed and its queue limit is not known, that is found out first.
fn transport(socket: &mut BoundSocket, kick: Arc<Kick>) -> io::Result<Unix> {
    let fd = Arc::clone(socket.fd());
    if socket.queue_limit() != 0 {
        return Unix::new(fd, socket.queue_limit(), kick);
    }
    let Survey { queue_limit, name, backlog } = survey(&fd, &socket.names())?;
    if let Some(name) = name {
        socket.found_at(&name)?;
    }
    Unix::after(backlog, fd, queue_limit, kick)
}

impl Warning {
    /// Limits of an observer in the place where this process runs. Four system calls.
    #[must_use]
    pub fn of_here() -> Vec<Self> {
        let procfs = match () {
            () if !procfs::is_procfs_ours() => Some(Self::ForeignProcfs),
            () if procfs::is_procfs_hiding() => Some(Self::HiddenProcfs),
            () => None,
        };
        let namespace = is_inside_pid_namespace().then_some(Self::PidNamespace);
        let calls = is_recvmmsg_refused().then_some(Self::OneByOne);
        namespace.into_iter().chain(procfs).chain(calls).collect()
    }
}

impl Warning {
    /// Rules of this plan that an observer could not apply in the place where this process runs. One system
    /// call.
    #[must_use]
    pub fn of_rules(plan: &Plan) -> Option<Self> {
        let looks_at_programs = plan.rules.iter().any(|rule| rule.matcher.exe.is_some());
        (looks_at_programs && !procfs::may_look_into_others()).then_some(Self::UnreadablePrograms)
    }
}

pub fn boot_id() -> u128 {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    u128::from_str_radix(&text.trim().replace('-', ""), 16).unwrap_or(0)
}

pub fn pid_namespace() -> u64 {
    rustix::fs::stat("/proc/self/ns/pid").map_or(0, |stat| stat.st_ino)
}

/// Whether there are processes outside our pid namespace.
fn is_inside_pid_namespace() -> bool {
    /// `PROC_PID_INIT_INO`: the inode of the initial pid namespace, fixed by the kernel.
    const INITIAL: u64 = 0xEFFF_FFFC;
    pid_namespace() != INITIAL
}
