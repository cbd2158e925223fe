//! What may act is what nobody else can change: the file that says what is done, and the programs that do it.
//!
//! Whoever can write the configuration or a program of an action, or replace it in a directory above, has the program
//! run as the user that it runs as. So both belong to root or that user, and nobody else can write there. Programs are
//! checked when a configuration is read, and again right before each start.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, Stat, StatVfsMountFlags};
use rustix::io::Errno;

use super::act::{ActPlan, Action, Deed};
use super::keys::Config;
use super::problem::ConfigProblem;
use super::tables::ActionConfig;
use crate::message::{Reason, Shown};
use crate::sys::accounts::groups_of;

/// Symlinks that the kernel follows in one path.
const LINKS_MAX: usize = 40;
const STICKY: u32 = 0o1000;
const GROUP_OR_OTHERS_WRITE: u32 = 0o022;

/// Why a file may not act.
#[derive(Debug)]
pub enum Distrust {
    /// It cannot be reached.
    Unreachable {
        /// It, or the directory above it at which the path ends.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// It, or what leads to it, can be changed by others.
    Changeable {
        /// It, or a directory or symlink that leads to it.
        path: PathBuf,
        /// Who can.
        by: By,
    },
    /// It is a directory, a device, a pipe or a socket.
    NotAFile {
        /// It.
        path: PathBuf,
    },
    /// A symlink is in its path.
    Symlink {
        /// Its path.
        path: PathBuf,
    },
    /// The user may not execute it, or not search a directory above it.
    Forbidden {
        /// It, or the directory.
        path: PathBuf,
        /// The user.
        uid: u32,
    },
    /// Its file system is mounted with `noexec`.
    NoExec {
        /// It.
        path: PathBuf,
    },
}

/// Who can change a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// Its owner, who is neither root nor the user.
    Owner(u32),
    /// Its group or everybody, by this mode.
    Mode(u32),
}

impl Distrust {
    /// As the kernel would say it.
    pub fn errno(&self) -> i32 {
        match self {
            Self::Unreachable { source, .. } => source.raw_os_error().unwrap_or(0),
            Self::Changeable { .. } => Errno::PERM.raw_os_error(),
            Self::Symlink { .. } => Errno::LOOP.raw_os_error(),
            Self::NotAFile { .. } | Self::Forbidden { .. } | Self::NoExec { .. } => {
                Errno::ACCESS.raw_os_error()
            }
        }
    }

    /// Why.
    pub fn why(&self) -> String {
        match self {
            Self::Unreachable { path, source } if source.kind() == io::ErrorKind::NotFound => {
                format!("there is no {}", Shown(path.display()))
            }
            Self::Unreachable { path, source } => format!("{}: {}", Shown(path.display()), Reason(source)),
            Self::Changeable { path, by: By::Owner(uid) } => {
                format!("{} belongs to user {uid}, who can change it", Shown(path.display()))
            }
            Self::Changeable { path, by: By::Mode(mode) } => {
                format!("others can change {}: its mode is {mode:04o}", Shown(path.display()))
            }
            Self::NotAFile { path } => format!("{} is not a regular file", Shown(path.display())),
            Self::Symlink { path } => {
                format!("a symlink is in the path {}, and may lead elsewhere later", Shown(path.display()))
            }
            Self::Forbidden { path, uid } => {
                format!("user {uid} has no right to execute or search {}", Shown(path.display()))
            }
            Self::NoExec { path } => {
                format!("the file system of {} is mounted with noexec", Shown(path.display()))
            }
        }
    }

    /// What to do.
    pub fn fix(&self) -> String {
        match self {
            Self::Unreachable { .. } => "install it, or correct the path".to_owned(),
            Self::Changeable { path, by: By::Owner(_) } => format!("chown root {}", Shown(path.display())),
            Self::Changeable { path, by: By::Mode(_) } => format!("chmod go-w {}", Shown(path.display())),
            Self::NotAFile { .. } => "name a regular file".to_owned(),
            Self::Symlink { path } => match path.canonicalize() {
                Ok(real) => format!("name {}", Shown(real.display())),
                Err(_) => "name the file itself".to_owned(),
            },
            Self::Forbidden { path, .. } => format!("chmod +x {}", Shown(path.display())),
            Self::NoExec { .. } => "install it elsewhere".to_owned(),
        }
    }
}

impl fmt::Display for Distrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.why(), self.fix())
    }
}

/// Who runs a program.
#[derive(Clone, Debug)]
pub struct Runner {
    uid: u32,
    groups: Vec<u32>,
    /// It may also be another user, whom everybody trusts that trusts this one.
    may_be_another: bool,
}

impl Runner {
    /// The user of this process.
    pub fn own() -> Self {
        let mut groups: Vec<u32> =
            rustix::process::getgroups().unwrap_or_default().iter().map(|gid| gid.as_raw()).collect();
        groups.push(rustix::process::getegid().as_raw());
        Self { uid: rustix::process::geteuid().as_raw(), groups, may_be_another: false }
    }

    /// This user, with these groups.
    pub const fn user(uid: u32, groups: Vec<u32>) -> Self {
        Self { uid, groups, may_be_another: false }
    }

    /// Who runs an action. A spawner that is a service of its own may be root as well as our user.
    fn of(user: Option<(u32, u32)>, has_service: bool) -> Self {
        match user {
            Some((uid, gid)) => Self::user(uid, groups_of(uid, gid).unwrap_or_else(|_| vec![gid])),
            None => Self { may_be_another: has_service, ..Self::own() },
        }
    }

    fn trusts(&self, uid: u32) -> bool {
        uid == 0 || uid == self.uid
    }

    /// Whether it may execute the file or search the directory.
    fn may_execute(&self, stat: &Stat) -> bool {
        let mode = stat.st_mode & 0o111;
        if self.uid == 0 || self.may_be_another {
            return mode != 0 || FileType::from_raw_mode(stat.st_mode).is_dir();
        }
        let shift = match () {
            () if stat.st_uid == self.uid => 6,
            () if self.groups.contains(&stat.st_gid) => 3,
            () => 0,
        };
        mode >> shift & 1 == 1
    }

    /// Whether only root and this user can change what this is, and whom it leads to.
    fn check(&self, stat: &Stat, path: &Path) -> Result<(), Distrust> {
        let changeable = |by| Distrust::Changeable { path: path.to_owned(), by };
        if !self.trusts(stat.st_uid) {
            return Err(changeable(By::Owner(stat.st_uid)));
        }
        let kind = FileType::from_raw_mode(stat.st_mode);
        // In a sticky directory nobody but its owner can replace what belongs to another.
        let is_kept = kind.is_symlink() || kind.is_dir() && stat.st_mode & STICKY != 0;
        if stat.st_mode & GROUP_OR_OTHERS_WRITE != 0 && !is_kept {
            return Err(changeable(By::Mode(stat.st_mode & 0o7777)));
        }
        Ok(())
    }
}

/// Checks that a program may act as this user: it is a regular file that the user may execute, and neither it nor a
/// directory or symlink on the way to it can be changed by anybody but root and the user. Returns the file that was
/// checked, which can be executed but not read (`O_PATH`). May block on the disk.
///
/// # Errors
/// The first reason against it.
pub fn program(path: &Path, runner: &Runner) -> Result<OwnedFd, Distrust> {
    let mut here = PathBuf::from("/");
    let unreachable =
        |path: &Path, errno: Errno| Distrust::Unreachable { path: path.to_owned(), source: errno.into() };
    if path.as_os_str().as_bytes().ends_with(b"/") {
        return Err(Distrust::NotAFile { path: path.to_owned() });
    }
    let root = || {
        open_at(CWD, OsStr::new("/"), OFlags::DIRECTORY).map_err(|errno| unreachable(Path::new("/"), errno))
    };
    let mut dir = root()?;
    let mut left = names(path);
    let mut links = 0;
    loop {
        let stat = rustix::fs::fstat(&dir).map_err(|errno| unreachable(&here, errno))?;
        runner.check(&stat, &here)?;
        if !runner.may_execute(&stat) {
            return Err(Distrust::Forbidden { path: here, uid: runner.uid });
        }
        let Some(name) = left.pop_front() else { return Err(Distrust::NotAFile { path: here }) };
        let there = if name == ".." { here.parent().unwrap_or(&here).to_owned() } else { here.join(&name) };
        let found =
            open_at(dir.as_fd(), &name, OFlags::empty()).map_err(|errno| unreachable(&there, errno))?;
        let stat = rustix::fs::fstat(&found).map_err(|errno| unreachable(&there, errno))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => {
                runner.check(&stat, &there)?;
                links += 1;
                let target = rustix::fs::readlinkat(&found, c"", Vec::new())
                    .and_then(|target| if links > LINKS_MAX { Err(Errno::LOOP) } else { Ok(target) })
                    .map_err(|errno| unreachable(&there, errno))?;
                let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
                if target.is_absolute() {
                    (dir, here) = (root()?, PathBuf::from("/"));
                }
                left = names(&target).into_iter().chain(left).collect();
            }
            FileType::Directory => (dir, here) = (found, there),
            FileType::RegularFile if left.is_empty() => {
                runner.check(&stat, &there)?;
                if !runner.may_execute(&stat) {
                    return Err(Distrust::Forbidden { path: there, uid: runner.uid });
                }
                let mounted = rustix::fs::fstatvfs(&found).map_err(|errno| unreachable(&there, errno))?;
                if mounted.f_flag.contains(StatVfsMountFlags::NOEXEC) {
                    return Err(Distrust::NoExec { path: there });
                }
                return Ok(found);
            }
            _ if left.is_empty() => return Err(Distrust::NotAFile { path: there }),
            _ => return Err(unreachable(&there, Errno::NOTDIR)),
        }
    }
}

/// The names in a path, from the root or the directory that it begins in.
fn names(path: &Path) -> VecDeque<OsString> {
    let name = |part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().filter_map(name).collect()
}

/// Opens a name in a directory, a symlink itself.
fn open_at(dir: BorrowedFd<'_>, name: &OsStr, flags: OFlags) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC | flags, Mode::empty())
}

/// The programs of actions that may not act, as problems of their keys. May block on the disk.
pub fn judge_programs(act: Option<&ActPlan>) -> Vec<ConfigProblem> {
    let actions = act.iter().flat_map(|act| (0..).zip(&act.actions).map(move |numbered| (*act, numbered)));
    let judge = |(act, (i, action)): (&ActPlan, (usize, &Action))| match &action.deed {
        Deed::Run(run) => judge_program(i, run, Runner::of(action.user, act.spawner.is_some())),
        Deed::Signal(_) | Deed::Systemd(_) => None,
    };
    actions.filter_map(judge).collect()
}

/// The same of a configuration that may have other problems, too: what is no path of a program is one of these.
pub fn judge_written(config: &Config) -> Vec<ConfigProblem> {
    let is_path = |path: &String| path.starts_with('/') && !path.contains(['{', '}', '\0', '\n']);
    let judge = |(i, action): (usize, &ActionConfig)| {
        let run = action.run.as_ref().filter(|run| run.first().is_some_and(is_path))?;
        judge_program(i, run, Runner::of(action.user, config.spawner.is_some()))
    };
    config.actions.iter().enumerate().filter_map(judge).collect()
}

fn judge_program(i: usize, run: &[String], runner: Runner) -> Option<ConfigProblem> {
    let distrust = program(Path::new(run.first()?), &runner).err()?;
    let (key, value) = (format!("action[{i}].run"), format!("{run:?}"));
    Some(ConfigProblem::refused(&key, value, distrust.why(), distrust.fix()))
}

/// Opens a configuration to be read. Also returns why it may not say what is done, if it may not: it belongs neither to
/// root nor to our user, others can write it, it is no regular file, or a symlink is in its path. May block on the
/// disk, and for a pipe until it is written.
///
/// # Errors
/// The kernel's, if it cannot be opened.
pub fn config_file(path: &Path) -> io::Result<(File, Result<(), Distrust>)> {
    let opened = match without_symlinks(path) {
        Err(Errno::NOSYS | Errno::PERM) => by_steps(path),
        opened => opened,
    };
    let file = match opened {
        Ok(file) => File::from(file),
        Err(Errno::LOOP | Errno::NOTDIR) => {
            return Ok((File::open(path)?, Err(Distrust::Symlink { path: path.to_owned() })));
        }
        Err(errno) => return Err(errno.into()),
    };
    let stat = rustix::fs::fstat(&file)?;
    let trust = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Runner::own().check(&stat, path),
        _ => Err(Distrust::NotAFile { path: path.to_owned() }),
    };
    Ok((file, trust))
}

const READ: OFlags = OFlags::RDONLY.union(OFlags::CLOEXEC).union(OFlags::NOCTTY);

fn without_symlinks(path: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::openat2(CWD, path, READ, Mode::empty(), ResolveFlags::NO_SYMLINKS)
}

/// The same, where the kernel has no openat2(2) or does not allow it.
fn by_steps(path: &Path) -> Result<OwnedFd, Errno> {
    let mut names = names(path);
    let last = names.pop_back().ok_or(Errno::ISDIR)?;
    let start = if path.is_absolute() { "/" } else { "." };
    let mut dir = open_at(CWD, OsStr::new(start), OFlags::DIRECTORY)?;
    for name in names {
        dir = open_at(dir.as_fd(), &name, OFlags::DIRECTORY)?;
    }
    rustix::fs::openat(&dir, last, READ | OFlags::NOFOLLOW, Mode::empty())
}

#[cfg(test)]
#[path = "trust_tests.rs"]
mod tests;
