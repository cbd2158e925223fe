//! The agents of an observer, in a file of the runtime directory. An observer that can adopt nothing reads from it
//! whom it has to miss.

use std::io;

use serde::{Deserialize, Serialize};

use super::dir::RunDir;
use crate::process::expected::Expected;

/// Most agents of a roster.
pub const AGENTS_MAX: usize = 65_536;

/// A roster as it is written.
#[derive(Debug, Deserialize, PartialEq, Eq, Serialize)]
struct Roster {
    version: u8,
    /// The boot whose start times it has.
    boot_id: u128,
    /// Inode of the namespace whose pids it has.
    pid_namespace: u64,
    agents: Vec<Expected>,
}

const VERSION: u8 = 1;
/// What most agents take in the file.
const AGENT_BYTES: usize = 80;

/// Writes the roster of agents of this boot and pid namespace.
///
/// # Errors
/// The kernel's; the roster before is still there.
pub fn write(dir: &RunDir, (boot_id, pid_namespace): (u128, u64), agents: Vec<Expected>) -> io::Result<()> {
    let roster = Roster { version: VERSION, boot_id, pid_namespace, agents };
    // Most agents take less, so that it is not moved as it grows.
    let mut text = Vec::with_capacity(AGENT_BYTES * roster.agents.len() + 128);
    serde_json::to_writer(&mut text, &roster)?;
    text.push(b'\n');
    dir.write_roster(&text)
}

/// Reads whom an observer before this one had, in this boot and pid namespace.
///
/// # Errors
/// The kernel's, or `InvalidData` for a file that no observer leaves.
pub fn read(dir: &RunDir, (boot_id, pid_namespace): (u128, u64)) -> io::Result<Vec<Expected>> {
    let Some(text) = dir.read_roster()? else { return Ok(Vec::new()) };
    let no_roster = |error| io::Error::new(io::ErrorKind::InvalidData, error);
    let mut roster: Roster = serde_json::from_slice(&text).map_err(no_roster)?;
    let is_ours = (roster.version, roster.boot_id, roster.pid_namespace) == (VERSION, boot_id, pid_namespace);
    if !is_ours {
        return Ok(Vec::new());
    }
    roster.agents.truncate(AGENTS_MAX);
    Ok(roster.agents)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::process::expected::Absence;

    const HERE: (u128, u64) = (u128::MAX - 5, 7);

    fn agents() -> Vec<Expected> {
        let agent = |(pid, absence)| {
            let comm = "a \"b\"\n(c)".into();
            Expected { pid, uid: 1000, start: 9, comm, absence }
        };
        [(7, None), (8, Some(Absence::Awaited)), (9, Some(Absence::Missing))].map(agent).to_vec()
    }

    #[test]
    fn what_is_written_is_read_in_the_same_boot_and_namespace() {
        let place = tempfile::tempdir().unwrap();
        let dir = RunDir::open(place.path()).unwrap();
        assert_eq!(read(&dir, HERE).unwrap(), [], "none was written");
        write(&dir, HERE, agents()).unwrap();
        assert_eq!(read(&dir, HERE).unwrap(), agents());
        assert_eq!(read(&dir, (1, HERE.1)).unwrap(), [], "of another boot");
        assert_eq!(read(&dir, (HERE.0, 1)).unwrap(), [], "of another namespace");
    }

    #[test]
    fn what_is_no_roster_is_refused() {
        let place = tempfile::tempdir().unwrap();
        let dir = RunDir::open(place.path()).unwrap();
        let path = place.path().join("roster");
        for text in ["", "{}", "[1]", "{\"version\":1,\"boot_id\":1,\"pid_namespace\":1,\"agents\":[{}]}"] {
            fs::write(&path, text).unwrap();
            assert_eq!(read(&dir, HERE).unwrap_err().kind(), io::ErrorKind::InvalidData, "{text:?}");
        }
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert_eq!(read(&dir, HERE).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert!(write(&dir, HERE, agents()).is_err(), "a directory is in the way");
    }
}
