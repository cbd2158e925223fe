//! Closes descriptors that strangers sent. Only the kernel knows what they are, and close(2) of one may take as long as
//! its sender wants: a socket lingers, a file system asks its server. A shard must not wait for that.
//!
//! In: descriptors, over a ring that is filled by one shard. Thread: `varta-close`. Blocks: in close(2), and while there
//! is nothing to close. Ends: once its shard has dropped its end and everything is closed.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle, Thread};

use crossbeam::queue::ArrayQueue;

use crate::sys::mmsg::{FDS_MAX, MESSAGES_MAX};

/// Places for what nobody waits for: the descriptors of a whole batch.
pub const PLACES: usize = MESSAGES_MAX * FDS_MAX;
/// Places for barriers.
pub const BARRIER_PLACES: usize = 256;

/// The end of the shard: gives descriptors away, and never blocks.
#[derive(Debug)]
pub struct Closer {
    ring: Arc<Ring>,
    thread: Thread,
}

#[derive(Debug)]
struct Ring {
    fds: ArrayQueue<OwnedFd>,
    is_over: AtomicBool,
}

impl Closer {
    /// Starts the thread with a ring for `places` descriptors.
    ///
    /// # Errors
    /// The kernel grants no thread.
    pub fn spawn(places: usize) -> io::Result<(Self, JoinHandle<()>)> {
        let ring = Arc::new(Ring { fds: ArrayQueue::new(places.max(1)), is_over: AtomicBool::new(false) });
        let theirs = Arc::clone(&ring);
        let handle = thread::Builder::new().name("varta-close".into()).spawn(move || close_all(&theirs))?;
        Ok((Self { ring, thread: handle.thread().clone() }, handle))
    }

    /// Places that are free. Others become free at any time; only this end takes any.
    pub fn free(&self) -> usize {
        self.ring.fds.capacity() - self.ring.fds.len()
    }

    /// Has a descriptor closed, after those given before. Never blocks; costs a system call if the thread sleeps.
    ///
    /// # Errors
    /// The descriptor, if no place is free.
    pub fn give(&self, fd: OwnedFd) -> Result<(), OwnedFd> {
        self.ring.fds.push(fd)?;
        self.thread.unpark();
        Ok(())
    }
}

impl Drop for Closer {
    fn drop(&mut self) {
        self.ring.is_over.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

fn close_all(ring: &Ring) {
    loop {
        // Read before the ring is emptied: whatever was given before the end is closed.
        let is_over = ring.is_over.load(Ordering::Acquire);
        while let Some(fd) = ring.fds.pop() {
            drop(fd);
        }
        if is_over {
            return;
        }
        // A descriptor that was given after the last look has unparked this thread, which then does not sleep.
        thread::park();
    }
}

#[cfg(test)]
mod tests {
    use std::io::{PipeReader, PipeWriter, Read, pipe};

    use super::*;

    fn closes(mut reader: PipeReader) {
        assert_eq!(reader.read(&mut [0]).unwrap(), 0, "all writers are closed");
    }

    #[test]
    fn everything_that_was_given_is_closed_in_order_and_at_the_end() {
        let (closer, thread) = Closer::spawn(4).unwrap();
        for _ in 0..100 {
            let (reader, writer) = pipe().unwrap();
            let mut fd = OwnedFd::from(writer);
            while let Err(back) = closer.give(fd) {
                fd = back;
                thread::yield_now();
            }
            closes(reader);
        }
        let (readers, writers): (Vec<PipeReader>, Vec<PipeWriter>) = (0..3).map(|_| pipe().unwrap()).unzip();
        writers.into_iter().for_each(|writer| closer.give(writer.into()).unwrap());
        drop(closer);
        readers.into_iter().for_each(closes);
        thread.join().unwrap();
    }

    /// A full ring gives the descriptor back: a shard that waited for a place would wait for a stranger.
    #[test]
    fn a_ring_without_a_free_place_refuses() {
        let (reader, writer) = pipe().unwrap();
        let ring = Ring { fds: ArrayQueue::new(1), is_over: AtomicBool::new(false) };
        let closer = Closer { ring: Arc::new(ring), thread: thread::current() };
        assert_eq!(closer.free(), 1);
        closer.give(writer.try_clone().unwrap().into()).unwrap();
        assert_eq!(closer.free(), 0);
        drop(closer.give(writer.into()).unwrap_err());
        closer.ring.is_over.store(true, Ordering::Release);
        close_all(&closer.ring);
        closes(reader);
    }
}
