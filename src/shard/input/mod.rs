//! Where a shard's datagrams come from: the kernel, or a recording.

use std::io;

use crate::sys::datagram::Datagram;
use crate::time::MonoNs;

pub mod notify;
pub mod survey;
pub mod unix;

/// A source of datagrams, chosen once, before the loop.
///
/// Used by one thread. Does not allocate after construction.
pub trait Transport {
    /// Whether its datagrams are messages of the notification protocol, and not frames.
    const HAS_MESSAGES: bool = false;

    /// Sleeps until a datagram is queued (only if `for_datagrams`), the shard is kicked, or it is `until`.
    /// `now` is the last reading of the same clock. A shard blocks nowhere else. Consumes a kick. May return
    /// early.
    ///
    /// # Errors
    /// The kernel's, other than EINTR. Returns only after a pause, so that a caller that retries at once does
    /// not spin.
    fn wait(&mut self, for_datagrams: bool, now: MonoNs, until: MonoNs) -> io::Result<()>;

    /// Fills the batch with the queued datagrams, in order of arrival, without blocking, and discards the
    /// previous batch. Returns the number of datagrams; see [`Transport::was_emptied_by`].
    ///
    /// # Errors
    /// The kernel's, other than EAGAIN (0 datagrams) and EINTR (tried again).
    fn receive(&mut self) -> io::Result<usize>;

    /// Datagram `index` of the last batch; `index` is below the returned number.
    fn datagram(&self, index: usize) -> Datagram<'_>;

    /// The attested sender of datagram `index` of the last batch, without reading the rest; `None` if the
    /// kernel attests none.
    fn sender(&self, index: usize) -> Option<u32>;

    /// Descriptors that came with datagram `index` of the last batch, as far as they were taken.
    fn fds(&self, _index: usize) -> usize {
        0
    }

    /// Everything that datagram `index` says was done: closes the descriptors that came with it, soon and on another
    /// thread. `is_barrier`: its sender waits for that.
    fn let_go(&mut self, _index: usize, _is_barrier: bool) {}

    /// Whether the last [`Transport::receive`], which returned `len`, found the queue empty at some instant.
    fn was_emptied_by(&self, len: usize) -> bool {
        len < self.batch_max()
    }

    /// Most datagrams one [`Transport::receive`] returns.
    fn batch_max(&self) -> usize;

    /// `net.unix.max_dgram_qlen` when the socket was made, in the namespace where it was made: it holds one
    /// datagram more than this.
    fn queue_limit(&self) -> u32;
}
