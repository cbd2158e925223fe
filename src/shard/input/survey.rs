//! Finds out the queue limit of a socket that was bound elsewhere, and whether its path leads to it.
//!
//! The kernel does not tell the limit of a socket: it is `net.unix.max_dgram_qlen` of the network namespace and
//! the moment in which the socket was made. A limit that is believed to be too long hides that beats were
//! refused, and makes false stalls. So the queue is filled once with empty datagrams, and what it held is
//! counted while it is emptied. Senders are refused only from the last empty datagram to the first receive call,
//! a few microseconds.
//!
//! In: a socket, names that may lead to it. Out: its limit, and the datagrams received meanwhile, with sender and
//! stamp. Thread: the one that starts the fleet, before the shard's. Does not block.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use crate::sys::mmsg::{BATCH_MAX, Batch};
use crate::sys::unix_socket::send_empty;

/// A longer queue counts as one of this limit: to fill it would take 50 MB of kernel memory and 0.1 s.
pub const LIMIT_MAX: u32 = 65_536;
/// The limit of a socket to which nothing can be sent. Shorter than any in use: a queue that is believed to be
/// shorter than it is makes stalls late, never false.
pub const LIMIT_UNKNOWN: u32 = 10;
/// Attempts, if others keep the queue full.
const ROUNDS: usize = 4;

/// What was found out about a socket.
pub struct Survey {
    /// Its queue limit, or [`LIMIT_MAX`] if that is lower.
    pub queue_limit: u32,
    /// The name that leads to it; `None`: none does, and the limit is unknown.
    pub name: Option<PathBuf>,
    /// What was received from it, oldest first.
    pub backlog: VecDeque<Batch>,
}

/// Surveys `socket`, a non-blocking receiver. `names`: paths that may lead to it, the likeliest first.
///
/// # Errors
/// The kernel's, from a receive call.
pub fn survey(socket: &OwnedFd, names: &[PathBuf]) -> io::Result<Survey> {
    let mut found = Survey { queue_limit: LIMIT_UNKNOWN, name: None, backlog: VecDeque::new() };
    for name in names {
        // One datagram first: what is at that name may be someone else's.
        if found.fill_and_count(socket, name, 1)?.is_none() {
            continue;
        }
        found.name = Some(name.clone());
        if let Some(held) = found.fill_and_count(socket, name, LIMIT_MAX + 1)? {
            found.queue_limit = held.saturating_sub(1);
        }
        break;
    }
    Ok(found)
}

impl Survey {
    /// Sends up to `max` empty datagrams to `name`, and returns how many datagrams the queue of `socket` held
    /// when the last of them was in it; `None` if none of them came.
    ///
    /// If another sender took the last place between our last datagram and the one that was refused, the
    /// result is lower by one: on the safe side.
    fn fill_and_count(&mut self, socket: &OwnedFd, name: &Path, max: u32) -> io::Result<Option<u32>> {
        for _ in 0..ROUNDS {
            self.receive_all(socket, u32::MAX)?;
            let Ok(sent) = send_empty(name, max) else { return Ok(None) };
            let held = self.receive_all(socket, sent)?;
            if sent > 0 {
                return Ok((held > 0).then_some(held));
            }
        }
        Ok(None)
    }

    /// Receives until the queue is empty or `ours` of our datagrams were received, and keeps what others sent.
    /// Returns how many datagrams came up to the last one of ours.
    fn receive_all(&mut self, socket: &OwnedFd, ours: u32) -> io::Result<u32> {
        let own_pid = std::process::id();
        let (mut received, mut of_ours, mut up_to_ours) = (0, 0, 0);
        while of_ours < ours && received <= 2 * LIMIT_MAX {
            let mut batch = Batch::new();
            let len = batch.receive(socket.as_fd())?;
            let mut is_of_others = false;
            for index in 0..len {
                received += 1;
                if batch.sender(index) == Some(own_pid) && batch.datagram(index).bytes.is_empty() {
                    of_ours += 1;
                    up_to_ours = received;
                } else {
                    is_of_others = true;
                }
            }
            if is_of_others {
                self.backlog.push_back(batch);
            }
            if len < BATCH_MAX {
                break;
            }
        }
        Ok(up_to_ours)
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixDatagram;
    use std::sync::Arc;

    use super::*;
    use crate::lane::kick::Kick;
    use crate::shard::input::Transport;
    use crate::shard::input::unix::Unix;
    use crate::sys::unix_socket::{bind, open_receiver, queue_limit};

    fn receiver() -> (tempfile::TempDir, PathBuf, OwnedFd) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let (socket, _) = open_receiver().unwrap();
        bind(socket.as_fd(), &path).unwrap();
        (dir, path, socket)
    }

    /// Sends until the queue is full or has `most`, from as many senders as that takes.
    fn fill(path: &Path, most: u32) -> u32 {
        let mut sent = 0_u32;
        loop {
            let sender = UnixDatagram::unbound().unwrap();
            sender.set_nonblocking(true).unwrap();
            sender.connect(path).unwrap();
            let before = sent;
            while sent < most && sender.send(&sent.to_le_bytes()).is_ok() {
                sent += 1;
            }
            if sent == before || sent == most {
                return sent;
            }
        }
    }

    #[test]
    fn limit_is_found_and_what_was_queued_comes_first_and_in_order() {
        let limit = queue_limit().unwrap().min(LIMIT_MAX);
        for queued in [0, 1, 63, 64, 65, u32::MAX] {
            let (_dir, path, socket) = receiver();
            let sent = fill(&path, queued.min(LIMIT_MAX));
            let survey = survey(&socket, &[path.with_extension("not"), path.clone()]).unwrap();
            assert_eq!((survey.queue_limit, survey.name.as_ref()), (limit, Some(&path)), "{queued}");
            let kick = Arc::new(Kick::new().unwrap());
            let mut unix = Unix::after(survey.backlog, Arc::new(socket), survey.queue_limit, kick).unwrap();
            assert_eq!(fill(&path, 1), 1, "the queue has room again");
            let mut expected = 0;
            loop {
                let len = unix.receive().unwrap();
                for index in 0..len {
                    let bytes = unix.datagram(index).bytes.to_vec();
                    if !bytes.is_empty() {
                        assert_eq!(bytes, (expected % sent.max(1)).to_le_bytes(), "{queued}");
                        assert_eq!(unix.sender(index), Some(std::process::id()));
                        assert!(unix.datagram(index).stamp.is_some());
                        expected += 1;
                    }
                }
                if unix.was_emptied_by(len) {
                    break;
                }
            }
            assert_eq!(expected, sent + 1, "{queued}");
        }
    }

    #[test]
    fn a_name_that_leads_elsewhere_is_found_out() {
        let (_dir, path, socket) = receiver();
        let (_other_dir, other, _other_socket) = receiver();
        let found = survey(&socket, std::slice::from_ref(&other)).unwrap();
        assert_eq!((found.queue_limit, found.name), (LIMIT_UNKNOWN, None));
        let found = survey(&socket, &[other, path.clone()]).unwrap();
        assert_eq!(found.name, Some(path));
    }
}
