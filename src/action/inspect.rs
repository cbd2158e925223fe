//! What of this host hinders the actions of a plan, found before one is needed.
//!
//! Thread: the caller's, of `check`. Blocks: on the disk and in procfs.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::Access;

use crate::config::act::{ActPlan, Action, Deed};
use crate::config::plan::Plan;
use crate::message::{Reason, Shown};
use crate::pattern::Pattern;
use crate::process::unit::{is_in_group, unit_of};

/// Bits of capabilities(7).
const CAP_KILL: u64 = 1 << 5;
const CAP_SETGID: u64 = 1 << 6;
const CAP_SETUID: u64 = 1 << 7;

/// Where systemd shows that it runs (sd_booted(3)).
const SYSTEMD: &str = "/run/systemd/system";
/// The socket of the system bus (D-Bus Specification, "Well-known Message Bus Instances").
const BUS: &str = "/run/dbus/system_bus_socket";

/// What hinders an action, or all of them.
#[derive(Debug)]
#[non_exhaustive]
pub enum ActionTrouble {
    /// A unit pattern matches the unit of no process.
    NoSuchUnit {
        /// The action.
        name: String,
        /// The pattern.
        pattern: String,
    },
    /// A pattern for control groups matches the group of no process.
    NoSuchGroup {
        /// The action.
        name: String,
        /// The pattern.
        pattern: String,
    },
    /// Signals to processes of other users would be refused.
    MayNotSignal {
        /// The action.
        name: String,
        /// Our user.
        uid: u32,
    },
    /// The user of a program cannot be changed to.
    MayNotBecome {
        /// The action.
        name: String,
        /// The user of the program.
        user: u32,
        /// Our user.
        uid: u32,
    },
    /// There is no systemd that could be asked.
    NoSystemd {
        /// The action.
        name: String,
    },
    /// There is no bus by which systemd could be asked.
    NoBus {
        /// The action.
        name: String,
    },
    /// systemd asks polkit whether one who is not root may.
    MayNotAskSystemd {
        /// The action.
        name: String,
        /// Our user.
        uid: u32,
    },
    /// The audit file cannot be written.
    Audit {
        /// It, or its directory.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The directory of evidence cannot be written.
    Evidence {
        /// It.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// No spawner can be reached.
    Spawner {
        /// Its socket.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// No share is more than 100 percent.
    NoShare,
}

impl ActionTrouble {
    /// Whether actions cannot work as configured; else they can, for some processes or perhaps later.
    #[must_use]
    pub const fn is_problem(&self) -> bool {
        match self {
            Self::MayNotBecome { .. }
            | Self::NoSystemd { .. }
            | Self::NoBus { .. }
            | Self::Audit { .. }
            | Self::Evidence { .. }
            | Self::Spawner { .. } => true,
            Self::NoSuchUnit { .. }
            | Self::NoSuchGroup { .. }
            | Self::MayNotSignal { .. }
            | Self::MayNotAskSystemd { .. }
            | Self::NoShare => false,
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn fix(&self) -> String {
        match self {
            Self::NoSuchUnit { .. } => {
                "if one should: compare it with varta-fleet status --by unit, or systemctl list-units".to_owned()
            }
            Self::NoSuchGroup { .. } => {
                "if one should: compare it with /proc/PID/cgroup, or systemd-cgls".to_owned()
            }
            Self::MayNotSignal { .. } => {
                "AmbientCapabilities=CAP_KILL in the unit of the observer, or a spawner of root, or a match with uid"
                    .to_owned()
            }
            Self::MayNotBecome { .. } => "name a spawner that root runs, or leave out user".to_owned(),
            Self::NoSystemd { .. } => "write run or signal instead".to_owned(),
            Self::NoBus { .. } => "install dbus, or start dbus.socket".to_owned(),
            Self::MayNotAskSystemd { .. } => "name a spawner that root runs, or allow it in polkit".to_owned(),
            Self::Audit { path, source } | Self::Evidence { path, source }
                if source.kind() == io::ErrorKind::NotFound =>
            {
                format!("create the directory {}", Shown(path.display()))
            }
            Self::Audit { .. } => "let the observer's user write there, or name another file with audit".to_owned(),
            Self::Evidence { .. } => {
                "let the observer's user write there, or name another directory with evidence-dir".to_owned()
            }
            Self::Spawner { .. } => {
                "start the service of the spawner, correct spawner, or leave it out: the observer starts one".to_owned()
            }
            Self::NoShare => "write a smaller percent if stall waves should be one incident".to_owned(),
        }
    }
}

impl fmt::Display for ActionTrouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchUnit { name, pattern } => {
                write!(f, "action {name}: no process is in a unit that {} matches now", Shown(pattern))
            }
            Self::NoSuchGroup { name, pattern } => {
                write!(f, "action {name}: no process is in a control group that {} matches now", Shown(pattern))
            }
            Self::MayNotSignal { name, uid } => write!(
                f,
                "action {name}: user {uid} may not signal processes of other users, which needs CAP_KILL"
            ),
            Self::MayNotBecome { name, user, uid } => {
                write!(f, "action {name}: user {uid} may not start a program as user {user}, which needs CAP_SETUID")
            }
            Self::NoSystemd { name } => {
                write!(f, "action {name}: there is no systemd to ask on this host, no {SYSTEMD}")
            }
            Self::NoBus { name } => {
                write!(f, "action {name}: there is no system bus, by which systemd is asked, no {BUS}")
            }
            Self::MayNotAskSystemd { name, uid } => {
                write!(f, "action {name}: systemd does nothing to units for user {uid} unless polkit allows it")
            }
            Self::Audit { path, source } => {
                write!(f, "cannot write the audit file, {}: {}", Shown(path.display()), Reason(source))
            }
            Self::Evidence { path, source } => {
                write!(f, "cannot write evidence into {}: {}", Shown(path.display()), Reason(source))
            }
            Self::Spawner { path, why } => {
                write!(f, "no spawner can be reached at {}: {why}", Shown(path.display()))
            }
            Self::NoShare => f.write_str(
                "share of [brake] has percent = 100, which is never exceeded: no stall wave holds actions back",
            ),
        }
    }
}

/// What of this host hinders the actions of a plan. Nothing, if it has none.
#[must_use]
pub fn inspect(plan: &Plan) -> Vec<ActionTrouble> {
    let Some(act) = &plan.act else { return Vec::new() };
    let host = Host {
        rights: Rights::own(),
        has_systemd: Path::new(SYSTEMD).is_dir(),
        has_bus: Path::new(BUS).exists(),
        groups: groups().unwrap_or_default(),
    };
    let mut troubles: Vec<_> = act.actions.iter().flat_map(|action| of_action(action, act, &host)).collect();
    if act.brake.percent == 100 {
        troubles.push(ActionTrouble::NoShare);
    }
    troubles.extend(act.audit.as_deref().and_then(of_audit));
    troubles.extend(of_evidence(act, &plan.dir));
    troubles.extend(act.spawner.as_deref().and_then(|path| of_spawner(path, host.rights.uid)));
    troubles
}

/// What actions depend on.
struct Host {
    rights: Rights,
    has_systemd: bool,
    has_bus: bool,
    /// The control groups of all processes, as procfs shows them.
    groups: BTreeSet<String>,
}

/// What a spawner that we start may do.
#[derive(Clone, Copy)]
struct Rights {
    uid: u32,
    capabilities: u64,
}

impl Rights {
    /// Of what this process starts: root's own, and those of others that an exec keeps.
    fn own() -> Self {
        let uid = rustix::process::geteuid().as_raw();
        let field = if uid == 0 { "CapEff:" } else { "CapAmb:" };
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let written = status.lines().find_map(|line| line.strip_prefix(field));
        let capabilities = written.and_then(|text| u64::from_str_radix(text.trim(), 16).ok());
        Self { uid, capabilities: capabilities.unwrap_or_default() }
    }

    const fn has(self, capabilities: u64) -> bool {
        self.capabilities & capabilities == capabilities
    }
}

fn groups() -> io::Result<BTreeSet<String>> {
    let processes = fs::read_dir("/proc")?.flatten();
    let is_process = |name: &str| name.bytes().all(|byte| byte.is_ascii_digit());
    let processes = processes.filter(|entry| entry.file_name().to_str().is_some_and(is_process));
    Ok(processes.filter_map(|entry| fs::read_to_string(entry.path().join("cgroup")).ok()).collect())
}

/// Whether a process is in such a unit, as control groups are named: who may make groups may name some.
fn has_unit(groups: &BTreeSet<String>, pattern: &Pattern) -> bool {
    let units = groups.iter().filter_map(|groups| unit_of(groups));
    units.into_iter().any(|unit| unit.split('/').next().is_some_and(|outermost| pattern.matches(outermost)))
}

fn of_action(action: &Action, act: &ActPlan, host: &Host) -> Vec<ActionTrouble> {
    let mut troubles = Vec::new();
    let name = || action.name.as_str().to_owned();
    let uid = host.rights.uid;
    if let Some(pattern) = &action.matcher.unit
        && !has_unit(&host.groups, &Pattern::new(pattern))
    {
        troubles.push(ActionTrouble::NoSuchUnit { name: name(), pattern: pattern.clone() });
    }
    if let Some(pattern) = &action.matcher.cgroup {
        let compiled = Pattern::new(pattern);
        if !host.groups.iter().any(|groups| is_in_group(groups, &compiled)) {
            troubles.push(ActionTrouble::NoSuchGroup { name: name(), pattern: pattern.clone() });
        }
    }
    if matches!(action.deed, Deed::Systemd(_)) && !host.has_systemd {
        troubles.push(ActionTrouble::NoSystemd { name: name() });
    } else if matches!(action.deed, Deed::Systemd(_)) && !host.has_bus {
        troubles.push(ActionTrouble::NoBus { name: name() });
    }
    // A spawner that is a service of its own has rights of its own.
    if act.spawner.is_some() {
        return troubles;
    }
    match &action.deed {
        Deed::Signal(_) if action.matcher.uid != Some(uid) && !host.rights.has(CAP_KILL) => {
            troubles.push(ActionTrouble::MayNotSignal { name: name(), uid });
        }
        Deed::Systemd(_) if host.has_systemd && uid != 0 => {
            troubles.push(ActionTrouble::MayNotAskSystemd { name: name(), uid });
        }
        Deed::Run(_) => {
            let user = action.user.map_or(uid, |(user, _)| user);
            if user != uid && !host.rights.has(CAP_SETUID | CAP_SETGID) {
                troubles.push(ActionTrouble::MayNotBecome { name: name(), user, uid });
            }
        }
        _ => {}
    }
    troubles
}

fn of_audit(path: &Path) -> Option<ActionTrouble> {
    let trouble = |path: &Path, source| Some(ActionTrouble::Audit { path: path.to_owned(), source });
    match fs::metadata(path) {
        Ok(about) if !about.is_file() => trouble(path, io::Error::other("it is not a regular file")),
        Ok(_) => trouble(path, rustix::fs::access(path, Access::WRITE_OK).err()?.into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let dir = path.parent().unwrap_or(path);
            trouble(dir, writable(dir).err()?)
        }
        Err(error) => trouble(path, error),
    }
}

/// One in the runtime directory is made when it is needed.
fn of_evidence(act: &ActPlan, dir: &Path) -> Option<ActionTrouble> {
    let path = &act.evidence_dir;
    let is_in_ours = path.starts_with(dir);
    if is_in_ours && !path.exists() || !act.actions.iter().any(|action| action.evidence) {
        return None;
    }
    let source = writable(path).err()?;
    Some(ActionTrouble::Evidence { path: path.clone(), source })
}

/// Whether files can be made in this directory.
fn writable(dir: &Path) -> io::Result<()> {
    if !fs::metadata(dir)?.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    Ok(rustix::fs::access(dir, Access::WRITE_OK | Access::EXEC_OK)?)
}

fn of_spawner(path: &Path, uid: u32) -> Option<ActionTrouble> {
    let why = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => "there is no such socket".to_owned(),
        Err(error) => Reason(&error).to_string(),
        Ok(about) if !about.file_type().is_socket() => "it is not a socket".to_owned(),
        Ok(about) if about.uid() != 0 && about.uid() != uid => {
            format!("it belongs to user {}, and only root and user {uid} are believed", about.uid())
        }
        Ok(_) => Reason(&rustix::fs::access(path, Access::WRITE_OK).err()?.into()).to_string(),
    };
    Some(ActionTrouble::Spawner { path: path.to_owned(), why })
}

#[cfg(test)]
#[path = "inspect_tests.rs"]
mod tests;
