//! What operators ordered, in a file of the runtime directory: the next observer keeps to it.
//!
//! An operator who holds the actions for a process has a reason that a restart of the observer does not end. Thread:
//! act. Blocks: on the disk, when an order is given and at the start.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::num::NonZeroU64;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::hold::{Hold, HoldOf};
use crate::pattern::Pattern;
use crate::process::procfs::identify;
use crate::rundir::names::ORDERS;
use crate::sys::clock::SystemClock;
use crate::time::MonoNs;

const VERSION: u8 = 1;
/// A thousand holds with their texts take less.
const BYTES_MAX: u64 = 4 << 20;

/// Where orders are kept, and the boot and pid namespace that they are of.
#[derive(Clone, Debug)]
pub struct Orders {
    /// The runtime directory.
    pub dir: PathBuf,
    /// The boot whose clock the times are of.
    pub boot_id: u128,
    /// Inode of the namespace of the pids.
    pub pid_namespace: u64,
}

/// What is ordered.
#[derive(Clone, Debug, Default)]
pub struct Ordered {
    /// Nothing is started for anybody.
    pub is_braked: bool,
    /// For whom nothing is started.
    pub holds: Vec<(HoldOf, MonoNs, String)>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Written {
    version: u8,
    boot_id: u128,
    pid_namespace: u64,
    brake: bool,
    holds: Vec<WrittenHold>,
}

#[derive(Debug, Deserialize, Serialize)]
struct WrittenHold {
    #[serde(flatten)]
    of: Whom,
    until_ns: u64,
    text: String,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
enum Whom {
    /// The process, and which incarnation of the pid it is, if that could be found out.
    Pid(u32, Option<NonZeroU64>),
    Unit(String),
    Comm(String),
}

impl Orders {
    fn path(&self) -> PathBuf {
        self.dir.join(ORDERS)
    }

    /// Keeps these orders. Without any there is no file.
    ///
    /// # Errors
    /// The kernel's; what was kept before still is.
    pub fn keep(&self, is_braked: bool, holds: &[Hold]) -> io::Result<()> {
        let path = self.path();
        if !is_braked && holds.is_empty() {
            return match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
        }
        let hold = |hold: &Hold| WrittenHold {
            of: match &hold.of {
                HoldOf::Pid(pid) => Whom::Pid(*pid, incarnation_of(*pid)),
                HoldOf::Unit(pattern, _) => Whom::Unit(pattern.clone()),
                HoldOf::Comm(pattern, _) => Whom::Comm(pattern.clone()),
            },
            until_ns: hold.until.0,
            text: hold.text.clone(),
        };
        let written = Written {
            version: VERSION,
            boot_id: self.boot_id,
            pid_namespace: self.pid_namespace,
            brake: is_braked,
            holds: holds.iter().map(hold).collect(),
        };
        let mut text = serde_json::to_vec(&written)?;
        text.push(b'\n');
        let new = self.dir.join(format!("{ORDERS}.new"));
        if let Err(error) = fs::remove_file(&new)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error);
        }
        let written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new);
        let written =
            written.and_then(|mut file| file.write_all(&text)).and_then(|()| fs::rename(&new, path));
        if written.is_err() {
            let _ = fs::remove_file(&new);
        }
        written
    }

    /// The orders that an observer before this one had, as far as they still hold at `now`.
    ///
    /// # Errors
    /// The kernel's, or `InvalidData` for a file that no observer leaves.
    pub fn recall(&self, now: MonoNs) -> io::Result<Ordered> {
        let flags = (rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK).bits().cast_signed();
        let file = match OpenOptions::new().read(true).custom_flags(flags).open(self.path()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Ordered::default()),
            opened => opened?,
        };
        let written = read(file)?;
        if (written.version, written.boot_id, written.pid_namespace)
            != (VERSION, self.boot_id, self.pid_namespace)
        {
            return Ok(Ordered::default());
        }
        let hold = |WrittenHold { of, until_ns, text }: WrittenHold| {
            let of = match of {
                Whom::Pid(pid, known) => {
                    // Another process may have the pid by now.
                    let is_same = known.is_none_or(|known| incarnation_of(pid) == Some(known));
                    is_same.then_some(HoldOf::Pid(pid))?
                }
                Whom::Unit(pattern) => HoldOf::Unit(pattern.clone(), Pattern::new(&pattern)),
                Whom::Comm(pattern) => HoldOf::Comm(pattern.clone(), Pattern::new(&pattern)),
            };
            (MonoNs(until_ns) > now).then_some((of, MonoNs(until_ns), text))
        };
        Ok(Ordered { is_braked: written.brake, holds: written.holds.into_iter().filter_map(hold).collect() })
    }
}

fn read(file: File) -> io::Result<Written> {
    let invalid = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_owned());
    if !file.metadata()?.is_file() {
        return Err(invalid("it is no file"));
    }
    let mut text = Vec::new();
    file.take(BYTES_MAX).read_to_end(&mut text)?;
    serde_json::from_slice(&text).map_err(|error| invalid(&error.to_string()))
}

fn incarnation_of(pid: u32) -> Option<NonZeroU64> {
    identify(pid, &SystemClock).ok().map(|found| found.incarnation.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn orders(dir: &tempfile::TempDir) -> Orders {
        Orders { dir: dir.path().to_owned(), boot_id: u128::MAX - 3, pid_namespace: 7 }
    }

    fn hold(of: HoldOf, until: u64) -> Hold {
        Hold { id: 1, of, until: MonoNs(until), text: "a \"dump\"\n".to_owned() }
    }

    #[test]
    fn what_is_kept_is_recalled_as_long_as_it_holds() {
        let dir = tempfile::tempdir().unwrap();
        let kept = orders(&dir);
        assert!(kept.recall(MonoNs(0)).unwrap().holds.is_empty(), "none was given");
        let own = std::process::id();
        let unit = HoldOf::Unit("w*".to_owned(), Pattern::new("w*"));
        kept.keep(true, &[hold(HoldOf::Pid(own), 50), hold(unit.clone(), 90)]).unwrap();
        let recalled = kept.recall(MonoNs(10)).unwrap();
        let whom: Vec<_> = recalled.holds.iter().map(|(of, until, _)| (of.clone(), until.0)).collect();
        assert_eq!(whom, [(HoldOf::Pid(own), 50), (unit, 90)]);
        assert!(recalled.is_braked && recalled.holds[0].2 == "a \"dump\"\n");
        assert_eq!(kept.recall(MonoNs(50)).unwrap().holds.len(), 1, "one is over");
        let elsewhere = Orders { boot_id: 4, ..kept.clone() };
        assert!(elsewhere.recall(MonoNs(10)).unwrap().holds.is_empty(), "of another boot");
        kept.keep(false, &[]).unwrap();
        assert!(!kept.path().exists());
        kept.keep(false, &[]).unwrap();
    }

    #[test]
    fn a_hold_is_not_for_the_next_process_with_the_pid() {
        let dir = tempfile::tempdir().unwrap();
        let kept = orders(&dir);
        kept.keep(false, &[hold(HoldOf::Pid(std::process::id()), 50)]).unwrap();
        let text = fs::read_to_string(kept.path()).unwrap();
        let number = incarnation_of(std::process::id()).unwrap().to_string();
        fs::write(kept.path(), text.replace(&number, "1")).unwrap();
        assert!(kept.recall(MonoNs(10)).unwrap().holds.is_empty());
    }

    #[test]
    fn what_no_observer_leaves_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let kept = orders(&dir);
        fs::write(kept.path(), "{").unwrap();
        assert!(kept.recall(MonoNs(0)).is_err());
        fs::remove_file(kept.path()).unwrap();
        std::os::unix::fs::symlink("/dev/null", kept.path()).unwrap();
        assert!(kept.recall(MonoNs(0)).is_err(), "a link is not followed");
    }
}
