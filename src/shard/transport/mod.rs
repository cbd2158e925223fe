//! Where a shard's datagrams come from: the kernel, or a recording.

use std::io;

use crate::time::{MonoNs, WallNs};

#[cfg(test)]
pub mod replay;
pub mod uds;

/// The kernel's word on who sent a datagram, in the observer's namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// Process id (not thread id). 0: the sender is invisible here, so nothing is attested.
    pub pid: u32,
    /// User id. 65534 when the sender's is not mapped here.
    pub uid: u32,
}

/// One received datagram, borrowed from the batch.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    /// What was read: all of it, unless `is_truncated`.
    pub bytes: &'a [u8],
    /// The datagram was longer than the room for it (MSG_TRUNC).
    pub is_truncated: bool,
    /// Control data was cut off (MSG_CTRUNC): something was attached that we did not ask for, or
    /// what we asked for did not fit.
    pub is_control_truncated: bool,
    /// Descriptors came along; they are closed already.
    pub has_foreign_fds: bool,
    /// Who sent it; `None` when no credentials came along.
    pub credentials: Option<Credentials>,
    /// When the kernel queued it, CLOCK_REALTIME; `None` when no stamp came along.
    pub stamp: Option<WallNs>,
}

/// A source of datagrams, chosen once before the loop.
///
/// Used by one thread. Nothing here allocates after construction.
pub trait Transport {
    /// Sleeps until a datagram is queued (only if `for_datagrams`), the shard is kicked, or it is `until`; `now`
    /// is the last reading of the same clock. The only place a shard blocks. A kick is consumed. May return
    /// early.
    ///
    /// # Errors
    /// The kernel's, other than EINTR, and not at once: whoever waits again must not do so without a pause.
    fn wait(&mut self, for_datagrams: bool, now: MonoNs, until: MonoNs) -> io::Result<()>;

    /// Fills the batch with what is queued, in order of arrival, without blocking; the previous batch
    /// is gone. Returns the number of datagrams: less than [`Transport::batch_max`] means that the
    /// queue was empty at some instant during the call.
    ///
    /// # Errors
    /// The kernel's, other than EAGAIN (0 datagrams) and EINTR (tried again).
    fn receive(&mut self) -> io::Result<usize>;

    /// Datagram `index` of the last batch, below the number it returned.
    fn datagram(&self, index: usize) -> Datagram<'_>;

    /// The attested sender of datagram `index` of the last batch, before anything else of it is looked at;
    /// `None` if nobody attests one.
    fn sender(&self, index: usize) -> Option<u32>;

    /// Most datagrams one [`Transport::receive`] returns.
    fn batch_max(&self) -> usize;

    /// `net.unix.max_dgram_qlen` when the socket was made: it holds one datagram more than this.
    fn queue_limit(&self) -> u32;
}
