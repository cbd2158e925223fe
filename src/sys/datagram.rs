//! One datagram, and what the kernel says of it.

use crate::time::WallNs;

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
