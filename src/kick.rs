//! Waking a shard from another thread.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

/// A bell: rung by any thread, heard by the one that polls it. Rings before it is heard are one ring.
#[derive(Debug)]
pub struct Kick {
    fd: OwnedFd,
}

impl Kick {
    /// Makes a silent one. Costs a descriptor.
    ///
    /// # Errors
    /// The kernel's: no descriptors left.
    pub fn new() -> io::Result<Self> {
        Ok(Self { fd: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)? })
    }

    /// Ends the wait of the thread that polls this, or its next one. Never blocks; one system call.
    pub fn kick(&self) {
        // EAGAIN: rung 2^64 - 2 times without being heard, so it is ringing. eventfd(2) knows no other
        // error for an open descriptor and eight bytes.
        let _ = retry(|| rustix::io::write(&self.fd, &1_u64.to_ne_bytes()));
    }

    /// Takes the ring back. Never blocks. Returns whether it had rung.
    pub fn consume(&self) -> bool {
        let mut count = [0; 8];
        retry(|| rustix::io::read(&self.fd, &mut count)).is_ok()
    }
}

impl AsFd for Kick {
    /// Readable while it rings.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_rings_are_heard_once() {
        let kick = Kick::new().unwrap();
        assert!(!kick.consume());
        kick.kick();
        kick.kick();
        assert!(kick.consume());
        assert!(!kick.consume());
    }

    #[test]
    fn ringing_without_end_blocks_nobody() {
        let kick = Kick::new().unwrap();
        rustix::io::write(&kick, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        kick.kick();
        assert!(kick.consume());
    }
}
