//! Where a shard's datagrams come from: the kernel, or a recording.

use std::io;

use crate::sys::datagram::Datagram;
use crate::time::MonoNs;

pub mod unix;

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
    /// `None` if the kernel attests none.
    fn sender(&self, index: usize) -> Option<u32>;

    /// Most datagrams one [`Transport::receive`] returns.
    fn batch_max(&self) -> usize;

    /// `net.unix.max_dgram_qlen` when the socket was made: it holds one datagram more than this.
    fn queue_limit(&self) -> u32;
}
