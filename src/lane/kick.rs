//! Waking a shard from another thread.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;

use crossbeam::utils::CachePadded;
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

use crate::table::word::Word;
use crate::time::MonoNs;

/// A bell: rung by any thread, heard by the thread that polls it. Several rings before it is heard count as
/// one.
#[derive(Debug)]
pub struct Kick {
    fd: OwnedFd,
}

impl Kick {
    /// Creates a bell that has not rung. Takes a descriptor.
    ///
    /// # Errors
    /// The kernel's: no descriptors left.
    pub fn new() -> io::Result<Self> {
        Ok(Self { fd: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)? })
    }

    /// Ends the wait of the thread that polls this, or its next wait. Never blocks; one system call.
    pub fn kick(&self) {
        // EAGAIN: rung 2^64 - 2 times without being heard, so it is ringing. For an open descriptor and eight
        // bytes eventfd(2) has no other error.
        let _ = retry(|| rustix::io::write(&self.fd, &1_u64.to_ne_bytes()));
    }

    /// Resets the bell. Never blocks. Returns whether it had rung.
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

/// When a thread was kicked; 0 = not since it last checked. The first of several kicks counts.
#[derive(Debug)]
pub struct KickedAt<W: Word<Value = u64>>(CachePadded<W>);

impl<W: Word<Value = u64>> Default for KickedAt<W> {
    fn default() -> Self {
        Self(CachePadded::new(W::new(0)))
    }
}

impl<W: Word<Value = u64>> KickedAt<W> {
    /// Call [`Kick::kick`] after this.
    pub fn set(&self, now: MonoNs) {
        let _ = self.0.compare_exchange(0, now.0.max(1));
    }

    /// When the thread was kicked, if it was since the last call. Only for that thread.
    #[inline]
    pub fn take(&self) -> Option<MonoNs> {
        if self.0.load(Ordering::Relaxed) == 0 {
            return None;
        }
        Some(MonoNs(self.0.swap(0, Ordering::Relaxed)))
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

    impl<W: Word<Value = u64>> KickedAt<W> {
        /// Whether the thread was kicked and has not checked.
        pub fn is_set(&self) -> bool {
            self.0.load(Ordering::Relaxed) != 0
        }
    }

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
    /// No kick is lost. Unparking stands for the kernel's bell: it also counts once however often it is rung,
    /// and ends the next wait. loom reports a deadlock if the thread sleeps on a kick.
    #[test]
    fn loom_no_kick_is_lost() {
        use loom::sync::Arc;
        use loom::sync::atomic::AtomicU64;

        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(|| {
            let kicked_at = Arc::new(KickedAt::<AtomicU64>::default());
            // What the kickers published before.
            let answers = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
            let shard = loom::thread::current();
            for kicker in 0..2 {
                let (kicked_at, answers, shard) =
                    (Arc::clone(&kicked_at), Arc::clone(&answers), shard.clone());
                loom::thread::spawn(move || {
                    answers[kicker].store(1, Ordering::Release);
                    kicked_at.set(MonoNs(7));
                    shard.unpark();
                });
            }
            let mut is_kick_known = false;
            loop {
                is_kick_known |= kicked_at.take().is_some();
                if is_kick_known && answers.iter().all(|answer| answer.load(Ordering::Acquire) == 1) {
                    break;
                }
                loom::thread::park();
            }
        });
    }
}
