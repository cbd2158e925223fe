//! Acquires what a fleet needs before a thread runs: the directory, sockets, memory and the event output. What a
//! thread opens for itself, and the manifest, come with the threads.
//!
//! In: a plan. Out: the locked runtime directory, bound sockets, the memory of the agents, the open event
//! output. Thread: the caller's. Blocks: in the file system. Dropping [`Acquired`] releases everything.
//!
//! Each resource with a name (the socket of a shard, its table, the control socket, HTTP, the event output) comes
//! from one function, which uses what was passed to this process under that name, and else makes it.

use std::io;
#[cfg(feature = "http")]
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::sync::Arc;

use super::error::StartError;
use super::inherited::{Inherited, InheritedError, shard_name};
use crate::config::plan::{EventsPlan, Plan, ShardPlan};
#[cfg(feature = "http")]
use crate::http::Listeners;
use crate::lane::Port;
use crate::lane::kick::Kick;
use crate::process::procfs;
#[cfg(feature = "http")]
use crate::rundir::binding::is_live;
use crate::rundir::binding::{BoundSocket, Kind, Owner};
use crate::rundir::dir::{self, RunDir};
#[cfg(feature = "http")]
use crate::rundir::names::CONTROL;
use crate::rundir::upkeep::Files;
use crate::shard::front::{Front, Limits};
use crate::shard::input::survey::{Survey, survey};
use crate::shard::input::unix::Unix;
use crate::shard::tracker::{Admission, Tracker};
use crate::shard::uids::UidAccounts;
use crate::sinks::{Descriptor, Rotation};
use crate::sys::clock::SystemClock;
use crate::sys::mmsg::is_recvmmsg_refused;
use crate::sys::unix_socket::adopt_receiver;
use crate::table::{self, Header, Table, TableWriter};
use crate::time::Clock;
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
    /// The event output, if there is one.
    pub output: Option<Descriptor>,
    /// Problems that limit the fleet.
    pub warnings: Vec<Warning>,
}

/// The front of a shard on a real socket and the system clock.
pub type ShardFront = Front<Unix, SystemClock>;

/// Acquires everything that this plan needs, first of what was passed. The plan is changed where it has to fit
/// that; see [`Inherited::fit`].
///
/// # Errors
/// The first resource that is refused; everything acquired before is released.
pub fn acquire(plan: &mut Plan, inherited: &mut Inherited) -> Result<Acquired, StartError> {
    inherited.check_names()?;
    let dir = RunDir::open(&plan.dir)?;
    let mut warnings = Warning::of_here();
    warnings.extend(Warning::of_rules(plan));
    warnings.extend(inherited.fit(plan));
    let plan = &*plan;
    let mut sockets = Vec::with_capacity(plan.shards.len());
    for (shard, of) in plan.shards.iter().enumerate() {
        sockets.push(shard_socket(&dir, shard, of, inherited, &mut warnings)?);
    }
    #[cfg(feature = "http")]
    let (control, listeners) = {
        let control = control_socket(&dir, plan, inherited)?;
        let listener = control.fd().try_clone().map_err(StartError::resources("open the control socket"))?;
        let tcp = inherited.take_tcp("http")?;
        (control, Listeners::open(listener.into(), tcp.map(TcpListener::from), &plan.http)?)
    };
    let output = plan.events.as_ref().map(event_output).transpose().map_err(StartError::Events)?;
    #[cfg(not(feature = "http"))]
    if let Some(address) = plan.http.listen {
        return Err(StartError::NoHttp { address });
    }
    let admission = Admission::with_shares(plan.agents_max, plan.uid_agents_max)
        .map_err(StartError::resources("reserve memory for agents"))?;
    // Last: what is received from a passed socket here would be lost if the start failed afterwards.
    let shards =
        sockets.iter_mut().enumerate().map(|(shard, socket)| make_shard(plan, shard, socket, &admission));
    let shards =
        shards.collect::<Result<_, _>>().map_err(StartError::resources("reserve memory for a shard"))?;
    Ok(Acquired {
        shards,
        output,
        warnings,
        #[cfg(feature = "http")]
        listeners,
        files: Files {
            sockets,
            #[cfg(feature = "http")]
            control,
            dir,
        },
    })
}

/// The socket of a shard.
fn shard_socket(
    dir: &RunDir,
    shard: usize,
    of: &ShardPlan,
    inherited: &mut Inherited,
    warnings: &mut Vec<Warning>,
) -> Result<BoundSocket, StartError> {
    if let Some(fd) = inherited.take_receiver(shard, &of.socket)? {
        let name = shard_name(shard);
        let attested = adopt_receiver(fd.as_fd()).map_err(InheritedError::refused(&name))?;
        warnings.extend((!attested.senders).then_some(Warning::UnattestedQueue { shard }));
        warnings.extend((!attested.arrivals).then_some(Warning::UnstampedQueue { shard }));
        return Ok(BoundSocket::passed(fd, of.socket.clone(), Kind::Receiver));
    }
    if let Some(parent) = of.socket.parent().filter(|parent| *parent != dir.path()) {
        dir::vet(parent)?;
    }
    let bound = dir.bind_shard(&of.socket, of.mode, Owner { uid: None, gid: of.group });
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

/// The slot table of a shard, with all slots free.
fn shard_table(plan: &Plan, shard: usize) -> io::Result<(TableWriter, Table)> {
    let number = |count: usize| u16::try_from(count).unwrap_or(u16::MAX);
    let header = Header {
        boot_id: boot_id(),
        pid_namespace: pid_namespace(),
        shard: number(shard),
        shards: number(plan.shards.len()),
    };
    let ahead = (GRANTED_AHEAD / u32::from(header.shards.max(1))).max(GRANTED_AHEAD_MIN);
    table::create_granted(plan.agents_max, header, ahead)
}

/// Opens the event output.
fn event_output(events: &EventsPlan) -> io::Result<Descriptor> {
    let rotation = events.max_bytes.map(|bytes_max| Rotation { bytes_max, keep: events.keep });
    Descriptor::open(events.output.clone(), rotation)
}

fn make_shard(
    plan: &Plan,
    shard: usize,
    socket: &mut BoundSocket,
    admission: &Arc<Admission>,
) -> io::Result<(ShardFront, Arc<Port>)> {
    let (writer, table) = shard_table(plan, shard)?;
    let kick = Arc::new(Kick::new()?);
    let with_beats = plan.events.as_ref().is_some_and(|events| events.beats);
    let port = Port::new(table, Arc::clone(&kick), with_beats)?.with_turned_away(admission.turned_away());
    let transport = transport(socket, kick)?;
    let now = SystemClock.mono();
    let uids = UidAccounts::new(Arc::clone(&port.uids), plan.uid_frames_max);
    let admission = Arc::clone(admission);
    let tracker = Tracker::new(writer, plan.classes(), plan.tick_ns, admission, uids, now);
    let allow_uids = plan.shards[shard].allow_uids.as_deref();
    let front = Front::new(transport, SystemClock, tracker, Limits::from(plan), allow_uids);
    Ok((front, Arc::new(port)))
}

/// Receives from `socket`. If it was passed, its queue limit is found out first.
fn transport(socket: &mut BoundSocket, kick: Arc<Kick>) -> io::Result<Unix> {
    let fd = Arc::clone(socket.fd());
    if !socket.stays() {
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

fn boot_id() -> u128 {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    u128::from_str_radix(&text.trim().replace('-', ""), 16).unwrap_or(0)
}

fn pid_namespace() -> u64 {
    rustix::fs::stat("/proc/self/ns/pid").map_or(0, |stat| stat.st_ino)
}

/// Whether there are processes outside our pid namespace.
fn is_inside_pid_namespace() -> bool {
    /// `PROC_PID_INIT_INO`: the inode of the initial pid namespace, fixed by the kernel.
    const INITIAL: u64 = 0xEFFF_FFFC;
    pid_namespace() != INITIAL
}
