//! Descriptors that were passed to this process, by name: sockets of the service manager's units, and what its
//! store kept of an observer before this one.
//!
//! In: `LISTEN_PID`, `LISTEN_FDS` and `LISTEN_FDNAMES`, as sd_listen_fds(3) describes. Out: descriptors by name.
//! The order of the descriptors means nothing: versions of systemd sort them differently. Thread: the caller's.

use std::collections::BTreeSet;
use std::env;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rustix::net::{AddressFamily, SocketType, sockopt};

use super::takeover::{Takeover, TakeoverError};
use crate::config::plan::{NOTIFY_MAX, Plan, SHARDS_MAX, ShardPlan};
use crate::history;
use crate::message::{Reason, Shown};
use crate::rundir::binding::{FileId, is_temporary_name_of};
#[cfg(feature = "http")]
use crate::rundir::names::CONTROL;
use crate::sys::passed;
use crate::sys::unix_socket::{Attested, Shape, attested_of, shape_of};
use crate::warning::Warning;

const PID: &str = "LISTEN_PID";
const COUNT: &str = "LISTEN_FDS";
const NAMES: &str = "LISTEN_FDNAMES";

/// Descriptors that were passed to this process, by name. What is never taken is closed with it.
#[derive(Debug, Default)]
pub struct Inherited {
    fds: Vec<(String, OwnedFd)>,
    /// Another observer runs with them.
    pub(super) takeover: Option<Takeover>,
}

/// Why passed descriptors are refused. Nothing was used; all were closed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InheritedError {
    /// A variable makes no sense.
    #[error(
        "cannot use the passed descriptors: {variable} is {value:?}: {why}; unset {PID}, or let systemd set all three"
    )]
    Variable {
        /// The variable.
        variable: &'static str,
        /// Its value.
        value: String,
        /// What is wrong with it.
        why: String,
    },
    /// A descriptor is not open.
    #[error("cannot use passed descriptor {fd}: {}; {COUNT} counts more than were passed", Reason(source))]
    NotOpen {
        /// Its number.
        fd: i32,
        /// The kernel's reason.
        source: io::Error,
    },
    /// Nothing here has this name.
    #[error(
        "a descriptor was passed as {name:?}, and no such name is known; known are {KNOWN}; set FileDescriptorName= in \
         its .socket unit to one of these"
    )]
    Unknown {
        /// The name.
        name: String,
    },
    /// Two sockets have the same name.
    #[error("different sockets were passed as {name}; stop the .socket unit of one of them")]
    Twice {
        /// The name.
        name: String,
    },
    /// It is not what its name says.
    #[error("the descriptor passed as {name} is {found}, not {expected}; correct its .socket unit")]
    WrongKind {
        /// The name.
        name: String,
        /// What was passed.
        found: String,
        /// What is needed.
        expected: &'static str,
    },
    /// It is bound elsewhere than configured.
    #[error(
        "the socket passed as {name} is bound to {}, and {} is configured; configure where it is bound, or change its \
         .socket unit", Shown(found.display()), Shown(configured.display())
    )]
    Elsewhere {
        /// The name.
        name: String,
        /// Where it is bound.
        found: PathBuf,
        /// Where it should be.
        configured: PathBuf,
    },
    /// The kernel refused.
    #[error("cannot use the descriptor passed as {name}: {}", Reason(source))]
    Refused {
        /// The name.
        name: String,
        /// The kernel's reason.
        source: io::Error,
    },
}

impl InheritedError {
    pub(super) fn refused(name: &str) -> impl Fn(io::Error) -> Self {
        move |source| Self::Refused { name: name.to_owned(), source }
    }
}

/// The names, for messages.
const KNOWN: &str = "shard-0 to shard-63 and notify-0 to notify-15 (datagram sockets), control and http (listening \
                     stream sockets)";

/// What a name says of its descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// The socket of the shard with this lasting number.
    Shard(usize),
    /// A listening socket.
    Listener,
    /// Memory that an observer before this one left in the store: of this shard, or of the fleet.
    State(Option<usize>),
}

impl Role {
    fn of(name: &str) -> Option<Self> {
        let index = |text: &str, count: u32| {
            let index = text.parse::<u32>().ok().filter(|index| *index < count)?;
            // Neither `shard-01` nor `shard-+1`.
            (index.to_string() == text).then_some(index as usize)
        };
        match name {
            "control" | "http" => return Some(Self::Listener),
            "fleet" | history::NAME => return Some(Self::State(None)),
            _ => {}
        }
        let (kind, rest) = name.split_once('-')?;
        let (text, of) = rest.split_once('-').map_or((rest, None), |(text, of)| (text, Some(of)));
        let shard = match kind {
            "shard" => index(text, SHARDS_MAX)?,
            "notify" => SHARDS_MAX as usize + index(text, NOTIFY_MAX)?,
            _ => return None,
        };
        match of {
            None => Some(Self::Shard(shard)),
            Some("table" | "told") => Some(Self::State(Some(shard))),
            Some(_) => None,
        }
    }
}

/// The name of the socket of the shard with this [lasting number](Plan::lasting_number).
pub(super) fn shard_name(shard: usize) -> String {
    match shard.checked_sub(SHARDS_MAX as usize) {
        None => format!("shard-{shard}"),
        Some(of_daemons) => format!("notify-{of_daemons}"),
    }
}

impl FromIterator<(String, OwnedFd)> for Inherited {
    fn from_iter<T: IntoIterator<Item = (String, OwnedFd)>>(fds: T) -> Self {
        Self { fds: fds.into_iter().collect(), takeover: None }
    }
}

impl Inherited {
    /// Takes the descriptors that the service manager passed to this process, and removes the variables that
    /// describe them. None if it passed none, or on a second call. Call it before this process has a second
    /// thread, and before it closes descriptors that it did not open.
    ///
    /// # Errors
    /// See [`InheritedError`]: variables that contradict each other, and names that are not known.
    pub fn from_service_manager() -> Result<Self, InheritedError> {
        let variable = |name: &str| env::var_os(name).map(|value| value.to_string_lossy().into_owned());
        if variable(PID).and_then(|pid| pid.parse().ok()) != Some(std::process::id()) {
            return Ok(Self::default());
        }
        let names = names_of(variable(COUNT), variable(NAMES))?;
        let count = u16::try_from(names.len()).unwrap_or(u16::MAX);
        let fds = passed::take(count).map_err(|(fd, source)| InheritedError::NotOpen { fd, source })?;
        passed::forget(&[PID, COUNT, NAMES]);
        let inherited: Self = names.into_iter().zip(fds).collect();
        inherited.check_names()?;
        Ok(inherited)
    }

    /// Takes over from the observer that runs in this runtime directory: asks it for its descriptors. It goes on until
    /// [`Fleet::start_with`](crate::Fleet::start_with) has checked and opened everything, and if that fails, it just goes
    /// on. Returns its pid; `None` if no observer runs there, or one that does not hand over: then a start begins anew,
    /// or says that the directory is in use. Waits a few seconds at most for its answers. Once `is_cancelled`, a take-over
    /// that has not come about does not any more, and the start fails.
    ///
    /// # Errors
    /// It refuses, or cannot be asked.
    pub fn take_over(
        &mut self,
        dir: &Path,
        is_cancelled: Arc<AtomicBool>,
    ) -> Result<Option<u32>, TakeoverError> {
        let Some((takeover, fds)) = Takeover::begin(dir, is_cancelled)? else { return Ok(None) };
        let pid = takeover.pid();
        self.fds.extend(fds);
        self.takeover = Some(takeover);
        Ok(Some(pid))
    }

    /// The names, each as often as it was passed.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.fds.iter().map(|(name, _)| name.as_str())
    }

    /// Takes the descriptors of this name: several, if the service manager passed several.
    pub fn take(&mut self, name: &str) -> Vec<OwnedFd> {
        self.fds.extract_if(.., |(other, _)| other == name).map(|(_, fd)| fd).collect()
    }

    /// What a start with `plan` would refuse or warn of. Changes nothing; the sockets are taken.
    ///
    /// # Errors
    /// As a start.
    pub fn inspect(&mut self, plan: &Plan) -> Result<Vec<Warning>, InheritedError> {
        self.check_names()?;
        let mut plan = plan.clone();
        let mut warnings = self.fit(&mut plan);
        for (place, of) in plan.all_shards().enumerate() {
            let shard = plan.lasting_number(place);
            if let Some(fd) = self.take_receiver(shard, &of.socket)? {
                let attested =
                    attested_of(fd.as_fd()).map_err(InheritedError::refused(&shard_name(shard)))?;
                warnings.extend(of_queue(shard, attested));
            }
        }
        #[cfg(feature = "http")]
        {
            self.take_listener("control", &plan.dir.join(CONTROL))?;
            self.take_tcp("http")?;
        }
        Ok(warnings)
    }

    /// A socket that nobody would serve is refused. Anything else of an unknown name may be what a later version
    /// kept in the store.
    pub(super) fn check_names(&self) -> Result<(), InheritedError> {
        match self.unknown().find(|(_, fd)| sockopt::socket_type(fd).is_ok()) {
            Some((name, _)) => Err(InheritedError::Unknown { name: name.clone() }),
            None => Ok(()),
        }
    }

    fn unknown(&self) -> impl Iterator<Item = &(String, OwnedFd)> {
        self.fds.iter().filter(|(name, _)| Role::of(name).is_none())
    }

    /// Makes `plan` fit what was passed: each socket and each table is observed, so shards are added if more were
    /// passed than are configured. The files of passed sockets have the mode and group that their units gave them. Returns
    /// what the operator should know of it.
    pub(super) fn fit(&self, plan: &mut Plan) -> Vec<Warning> {
        let mut warnings = Vec::new();
        let unknown: BTreeSet<&str> = self.unknown().map(|(name, _)| name.as_str()).collect();
        if !unknown.is_empty() {
            let names = Shown(unknown.into_iter().collect::<Vec<_>>().join(", ")).to_string();
            warnings.push(Warning::UnknownStored { names });
        }
        let passed: BTreeSet<usize> = self
            .names()
            .filter_map(|name| match Role::of(name)? {
                Role::Shard(shard) => Some(shard),
                Role::Listener | Role::State(_) => None,
            })
            .collect();
        let of_state = self.names().filter_map(|name| match Role::of(name)? {
            Role::State(shard) => shard,
            Role::Listener | Role::Shard(_) => None,
        });
        let all: BTreeSet<usize> = passed.iter().copied().chain(of_state).collect();
        let is_of_frames = |shard: &usize| *shard < SHARDS_MAX as usize;
        let numbers = plan.all_shards().enumerate().map(|(place, _)| plan.lasting_number(place));
        let numbers: BTreeSet<usize> = numbers.collect();
        let idle: Vec<usize> =
            all.iter().copied().filter(|shard| !is_of_frames(shard) && !numbers.contains(shard)).collect();
        if !idle.is_empty() {
            warnings.push(Warning::NotifyOff { names: listed(idle) });
        }
        let (all, passed): (BTreeSet<usize>, BTreeSet<usize>) = (
            all.into_iter().filter(is_of_frames).collect(),
            passed.into_iter().filter(is_of_frames).collect(),
        );
        let configured = plan.shards.len();
        let (Some(last), Some(model)) = (all.last(), plan.shards.last().cloned()) else {
            return warnings;
        };
        for shard in configured..=*last {
            plan.shards
                .push(ShardPlan { socket: plan.dir.join(format!("shard-{shard}.sock")), ..model.clone() });
        }
        plan.agents_max = plan.agents_max.max(u32::try_from(plan.shards.len()).unwrap_or(u32::MAX));
        let surplus: Vec<usize> = all.range(configured..).copied().collect();
        if !surplus.is_empty() {
            let (names, shards) = (listed(surplus), plan.shards.len());
            warnings.push(match self.takeover {
                Some(_) => Warning::TakenOverShards { configured, names, shards },
                None => Warning::SurplusShards { configured, names, shards },
            });
        }
        let missing: Vec<usize> = (0..plan.shards.len()).filter(|shard| !passed.contains(shard)).collect();
        // What an observer that is taken over does not have is new.
        if !missing.is_empty() && !passed.is_empty() && self.takeover.is_none() {
            warnings.push(Warning::MissingShards { names: listed(missing) });
        }
        for shard in passed {
            let of = &mut plan.shards[shard];
            if let Ok(stat) = rustix::fs::lstat(&of.socket) {
                (of.mode, of.group) = (stat.st_mode & 0o777, Some(stat.st_gid));
            }
        }
        warnings
    }

    /// Takes the datagram socket of a shard, which must be bound to `path`.
    pub(super) fn take_receiver(
        &mut self,
        shard: usize,
        path: &Path,
    ) -> Result<Option<OwnedFd>, InheritedError> {
        let name = shard_name(shard);
        let Some(fd) = self.take_one(&name)? else { return Ok(None) };
        let shape = shape_of(fd.as_fd());
        let expected = "a bound Unix datagram socket";
        let is_right = shape.kind == Some((AddressFamily::UNIX, SocketType::DGRAM)) && !shape.is_connected;
        must(is_right, &name, &shape, expected)?;
        check_path(&name, shape, path, expected)?;
        Ok(Some(fd))
    }

    /// Takes the listening Unix socket `name`, which must be bound to `path`.
    #[cfg(feature = "http")]
    pub(super) fn take_listener(
        &mut self,
        name: &str,
        path: &Path,
    ) -> Result<Option<OwnedFd>, InheritedError> {
        let Some(fd) = self.take_one(name)? else { return Ok(None) };
        let shape = shape_of(fd.as_fd());
        let expected = "a listening Unix stream socket";
        let is_right = shape.kind == Some((AddressFamily::UNIX, SocketType::STREAM)) && shape.is_listening;
        must(is_right, name, &shape, expected)?;
        check_path(name, shape, path, expected)?;
        rustix::io::ioctl_fionbio(&fd, true).map_err(|errno| InheritedError::refused(name)(errno.into()))?;
        Ok(Some(fd))
    }

    /// Takes the listening TCP socket `name`.
    #[cfg(feature = "http")]
    pub(super) fn take_tcp(&mut self, name: &str) -> Result<Option<OwnedFd>, InheritedError> {
        let Some(fd) = self.take_one(name)? else { return Ok(None) };
        let shape = shape_of(fd.as_fd());
        let is_tcp =
            matches!(shape.kind, Some((AddressFamily::INET | AddressFamily::INET6, SocketType::STREAM)));
        must(is_tcp && shape.is_listening, name, &shape, "a listening TCP socket")?;
        rustix::io::ioctl_fionbio(&fd, true).map_err(|errno| InheritedError::refused(name)(errno.into()))?;
        Ok(Some(fd))
    }

    /// The socket of this name, which a socket unit and the store may both have passed.
    fn take_one(&mut self, name: &str) -> Result<Option<OwnedFd>, InheritedError> {
        let mut fds = self.take(name);
        let cookies: BTreeSet<_> = fds.iter().map(|fd| sockopt::socket_cookie(fd).ok()).collect();
        if cookies.len() > 1 || fds.len() > 1 && cookies.contains(&None) {
            return Err(InheritedError::Twice { name: name.to_owned() });
        }
        Ok(fds.pop())
    }
}

/// What is missing of the datagrams that a passed socket had queued.
pub(super) fn of_queue(shard: usize, attested: Attested) -> impl Iterator<Item = Warning> {
    let senders = (!attested.senders).then_some(Warning::UnattestedQueue { shard });
    senders.into_iter().chain((!attested.arrivals).then_some(Warning::UnstampedQueue { shard }))
}

/// `shard-2, shard-3`.
fn listed(shards: Vec<usize>) -> String {
    shards.into_iter().map(shard_name).collect::<Vec<_>>().join(", ")
}

/// The name of each descriptor, from the values of the two variables.
fn names_of(count: Option<String>, names: Option<String>) -> Result<Vec<String>, InheritedError> {
    let wrong = |variable, value: &str, why: String| InheritedError::Variable {
        variable,
        value: value.to_owned(),
        why,
    };
    let Some(count) = count else { return Ok(Vec::new()) };
    let number =
        count.parse::<u16>().map_err(|_| wrong(COUNT, &count, "it is no count of descriptors".to_owned()))?;
    if number == 0 {
        return Ok(Vec::new());
    }
    let Some(names) = names else {
        return Err(wrong(
            COUNT,
            &count,
            format!("{NAMES} is missing, and descriptors are known by their names"),
        ));
    };
    let listed: Vec<String> = names.split(':').map(str::to_owned).collect();
    if listed.len() != usize::from(number) {
        let why = format!("it has {} names, and {COUNT} is {number}", listed.len());
        return Err(wrong(NAMES, &names, why));
    }
    Ok(listed)
}

fn must(is_right: bool, name: &str, shape: &Shape, expected: &'static str) -> Result<(), InheritedError> {
    let wrong =
        || InheritedError::WrongKind { name: name.to_owned(), found: Found(shape).to_string(), expected };
    if is_right { Ok(()) } else { Err(wrong()) }
}

/// Whether a socket is bound to `path`, or to a temporary name of it as by an observer before this one.
fn check_path(name: &str, shape: Shape, path: &Path, expected: &'static str) -> Result<(), InheritedError> {
    let Some(found) = shape.path.clone() else {
        return must(false, name, &shape, expected);
    };
    let is_name = match (found.file_name(), path.file_name()) {
        (Some(found), Some(name)) => found == name || is_temporary_name_of(found, name),
        _ => false,
    };
    let directory = |path: &Path| {
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        rustix::fs::stat(directory.unwrap_or(Path::new("."))).ok().as_ref().map(FileId::from)
    };
    if is_name && (found.parent() == path.parent() || directory(&found) == directory(path)) {
        return Ok(());
    }
    Err(InheritedError::Elsewhere { name: name.to_owned(), found, configured: path.to_owned() })
}

/// What was passed, in words.
struct Found<'a>(&'a Shape);

impl fmt::Display for Found<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shape { kind, is_listening, is_connected, path } = self.0;
        let Some((family, of)) = *kind else { return f.write_str("no socket") };
        f.write_str(if *is_connected {
            "a connected "
        } else if *is_listening {
            "a listening "
        } else {
            "a "
        })?;
        f.write_str(match family {
            AddressFamily::UNIX => "Unix ",
            AddressFamily::INET | AddressFamily::INET6 => "network ",
            _ => "",
        })?;
        f.write_str(match of {
            SocketType::DGRAM => "datagram socket",
            SocketType::STREAM => "stream socket",
            SocketType::SEQPACKET => "seqpacket socket",
            _ => "socket",
        })?;
        if family == AddressFamily::UNIX && path.is_none() { f.write_str(" without a path") } else { Ok(()) }
    }
}

#[cfg(test)]
#[path = "inherited_tests.rs"]
mod tests;
