//! One datagram with what the kernel attached to it.

use crate::time::WallNs;

/// The sender of a datagram as the kernel attests it, in the observer's namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// Process id (not thread id). 0: the sender is not visible in this pid namespace, so nothing is
    /// attested.
    pub pid: u32,
    /// User id. 65534 if the sender's is not mapped in this user namespace.
    pub uid: u32,
}

/// One received datagram, borrowed from the batch.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    /// The bytes read: the whole datagram unless `is_truncated`.
    pub bytes: &'a [u8],
    /// The datagram was longer than its buffer (MSG_TRUNC).
    pub is_truncated: bool,
    /// Control data was cut off (MSG_CTRUNC): the datagram carried control data that was not asked for, or
    /// the control data did not fit.
    pub is_control_truncated: bool,
    /// The datagram carried descriptors; they are closed already.
    pub has_foreign_fds: bool,
    /// The sender; `None` if the kernel attached no credentials.
    pub credentials: Option<Credentials>,
    /// When the kernel queued it, CLOCK_REALTIME; `None` if the kernel attached no stamp.
    pub stamp: Option<WallNs>,
}
