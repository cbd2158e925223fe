//! recvmmsg into preallocated memory: many datagrams per call, each with its sender and its arrival.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;

use crate::sys::datagram::{Credentials, Datagram};
use crate::time::WallNs;

/// Most frames per call. With this many, the cost of the call itself is small per frame.
pub const BATCH_MAX: usize = 64;
/// Room for one frame: more than it has, so that a longer datagram is recognised.
const DATA_BYTES: usize = 64;

/// Most messages of the notification protocol per call.
pub const MESSAGES_MAX: usize = 16;
/// Room for one message.
const MESSAGE_BYTES: usize = 4096;
/// Most descriptors that one datagram can carry (SCM_MAX_FD).
pub const FDS_MAX: usize = 253;

/// Header of a control message: length (as wide as a pointer), level, type.
const HEADER_BYTES: usize = 16;
const CREDENTIALS_BYTES: usize = 12;
const STAMP_BYTES: usize = 16;

/// Exactly the room for credentials and stamp: the kernel writes both before any descriptors, and installs no
/// descriptor that has no room (unix(7), MSG_CTRUNC).
const CONTROL_BYTES: usize = space(CREDENTIALS_BYTES) + space(STAMP_BYTES);
/// The same, and the room for all descriptors that can come.
const CONTROL_BYTES_WITH_FDS: usize = CONTROL_BYTES + space(FDS_MAX * size_of::<RawFd>());

/// CMSG_SPACE(3): a control message with its padding.
const fn space(data_bytes: usize) -> usize {
    HEADER_BYTES + data_bytes.next_multiple_of(size_of::<usize>())
}

const _: () = {
    assert!(size_of::<usize>() == 8, "control messages are read as a 64-bit kernel writes them");
    assert!(size_of::<libc::cmsghdr>() == HEADER_BYTES);
    assert!(size_of::<libc::ucred>() == CREDENTIALS_BYTES);
    assert!(size_of::<libc::timespec>() == STAMP_BYTES);
};

/// Memory the kernel writes to. Its address never changes, because the headers point into it.
struct Room<const LEN: usize, const DATA: usize, const CONTROL: usize> {
    headers: [libc::mmsghdr; LEN],
    slices: [libc::iovec; LEN],
    data: [[u8; DATA]; LEN],
    control: [Control<CONTROL>; LEN],
}

/// Aligned like `cmsghdr`, as cmsg(3) requires.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control<const CONTROL: usize>([u8; CONTROL]);

/// The frames of one receive call, 13 KiB of heap.
pub type Batch = BatchOf<BATCH_MAX, DATA_BYTES, CONTROL_BYTES>;
/// The messages of one receive call with their descriptors, 83 KiB of heap.
pub type MessageBatch = BatchOf<MESSAGES_MAX, MESSAGE_BYTES, CONTROL_BYTES_WITH_FDS>;

/// The datagrams of one receive call: at most `LEN`, each of at most `DATA` bytes, with `CONTROL` bytes of control data.
/// Only [`BatchOf::new`] allocates.
pub struct BatchOf<const LEN: usize, const DATA: usize, const CONTROL: usize> {
    /// Owned: allocated by [`BatchOf::new`], freed by drop. Not a `Box`, which must be the only pointer: the
    /// headers point there, too.
    room: NonNull<Room<LEN, DATA, CONTROL>>,
    /// The control data of each datagram, parsed once: a descriptor must not be closed twice.
    attached: [Attached; LEN],
    /// Slots filled by the last call.
    filled: usize,
    /// recvmmsg(2) is not permitted to this process: one recvmsg(2) per datagram instead.
    is_one_by_one: bool,
}

// SAFETY: only this batch owns `room`, which is tied to no thread; every access goes through `self`.
unsafe impl<const LEN: usize, const DATA: usize, const CONTROL: usize> Send for BatchOf<LEN, DATA, CONTROL> {}

impl<const LEN: usize, const DATA: usize, const CONTROL: usize> BatchOf<LEN, DATA, CONTROL> {
    /// Allocates the slots and sets the pointers in the headers, once.
    pub fn new() -> Self {
        // SAFETY: `mmsghdr` holds only integers and raw pointers, for which all zeroes are a valid value.
        let header: libc::mmsghdr = unsafe { std::mem::zeroed() };
        let slice = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: DATA };
        let room = NonNull::from(Box::leak(Box::new(Room {
            headers: [header; LEN],
            slices: [slice; LEN],
            data: [[0; DATA]; LEN],
            control: [Control([0; CONTROL]); LEN],
        })));
        // Derived from the raw pointer, not from references: later references must not invalidate them.
        // SAFETY: just allocated; only an address inside it is computed.
        let slices = unsafe { &raw mut (*room.as_ptr()).slices }.cast::<libc::iovec>();
        // SAFETY: as above.
        let data = unsafe { &raw mut (*room.as_ptr()).data }.cast::<[u8; DATA]>();
        // SAFETY: as above.
        let control = unsafe { &raw mut (*room.as_ptr()).control }.cast::<Control<CONTROL>>();
        let mut batch = Self { room, attached: [Attached::default(); LEN], filled: 0, is_one_by_one: false };
        let room = batch.room_mut();
        for (index, (header, slice)) in room.headers.iter_mut().zip(&mut room.slices).enumerate() {
            slice.iov_base = data.wrapping_add(index).cast();
            header.msg_hdr.msg_iov = slices.wrapping_add(index);
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = control.wrapping_add(index).cast();
            header.msg_hdr.msg_controllen = CONTROL as _;
        }
        batch
    }

    /// Receives what is queued, oldest first, without blocking, and discards the previous datagrams. Returns
    /// the number of datagrams: less than `LEN` means that the queue was empty at some instant during the call.
    /// Descriptors that a datagram carried are closed before this returns.
    ///
    /// This does not wait: recvmmsg(2) checks its timeout only after a datagram has arrived. If a filter
    /// (seccomp) refuses that call, each datagram takes a recvmsg(2) from then on.
    ///
    /// # Errors
    /// The kernel's, other than EAGAIN (0 datagrams) and EINTR (tried again).
    pub fn receive(&mut self, fd: BorrowedFd<'_>) -> io::Result<usize> {
        let used = std::mem::take(&mut self.filled);
        self.prepare(used, CONTROL);
        self.fill(LEN, fd, |_, fd| close(fd))
    }

    /// Makes the first `used` headers ready for another call, with so much room for control data.
    #[inline]
    fn prepare(&mut self, used: usize, control_bytes: usize) {
        for header in &mut self.room_mut().headers[..used] {
            // The kernel wrote the length it used. Without this the next datagram would have no credentials.
            header.msg_hdr.msg_controllen = control_bytes as _;
            header.msg_hdr.msg_flags = 0;
            header.msg_len = 0;
        }
    }

    /// Receives at most `max` datagrams. `on_fd` gets each descriptor and the index of the datagram that carried it.
    #[inline]
    fn fill(
        &mut self,
        max: usize,
        fd: BorrowedFd<'_>,
        mut on_fd: impl FnMut(usize, OwnedFd),
    ) -> io::Result<usize> {
        let filled = loop {
            let taken = if self.is_one_by_one { self.one_by_one(max, fd) } else { self.recvmmsg(max, fd) };
            match taken {
                Ok(filled) => break filled.min(max),
                Err(error) if is_refusal(&error) && !self.is_one_by_one => self.is_one_by_one = true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break 0,
                Err(error) => return Err(error),
            }
        };
        for index in 0..filled {
            self.attached[index] = parse_control(self.control(index), |fd| on_fd(index, own(fd)));
        }
        self.filled = filled;
        Ok(filled)
    }

    /// How many datagrams the last [`BatchOf::receive`] returned.
    pub const fn len(&self) -> usize {
        self.filled
    }

    /// Datagram `index` of the last [`BatchOf::receive`].
    ///
    /// # Panics
    /// If `index` is not below the number that `receive` returned.
    #[inline]
    pub fn datagram(&self, index: usize) -> Datagram<'_> {
        assert!(index < self.filled, "datagram {index} of a batch of {}", self.filled);
        let room = self.room();
        let header = &room.headers[index];
        let length = (header.msg_len as usize).min(DATA);
        let attached = &self.attached[index];
        let is_control_truncated = header.msg_hdr.msg_flags & libc::MSG_CTRUNC != 0;
        // Credentials and stamp are complete, so something else was cut off.
        let is_foreign_cut_off =
            is_control_truncated && attached.credentials.is_some() && attached.stamp.is_some();
        Datagram {
            bytes: &room.data[index][..length],
            is_truncated: header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
            is_control_truncated,
            has_foreign_fds: attached.has_fds || is_foreign_cut_off,
            credentials: attached.credentials,
            stamp: attached.stamp,
        }
    }

    /// The attested sender of datagram `index` of the last [`BatchOf::receive`].
    #[inline]
    pub fn sender(&self, index: usize) -> Option<u32> {
        Some(self.attached[index].credentials?.pid)
    }

    fn recvmmsg(&mut self, max: usize, fd: BorrowedFd<'_>) -> io::Result<usize> {
        let headers = self.room_mut().headers.as_mut_ptr();
        let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
        let max = libc::c_uint::try_from(max.min(LEN)).unwrap_or(0);
        // SAFETY: `fd` is open while it is borrowed. `headers` are LEN initialised headers, at least `max`, each
        // with one slice of DATA bytes and at most CONTROL bytes of control room in the same allocation, which
        // lives as long as self and is unaliased under `&mut self`. recvmmsg(2) writes at most that many headers,
        // and in each at most iov_len and msg_controllen bytes.
        let filled =
            unsafe { libc::recvmmsg(fd.as_raw_fd(), headers, max, flags as _, std::ptr::null_mut()) };
        usize::try_from(filled).map_err(|_| io::Error::last_os_error())
    }

    /// As [`BatchOf::recvmmsg`], with one call per datagram.
    #[cold]
    fn one_by_one(&mut self, max: usize, fd: BorrowedFd<'_>) -> io::Result<usize> {
        let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
        for (index, header) in self.room_mut().headers.iter_mut().take(max).enumerate() {
            let into = &raw mut header.msg_hdr;
            // SAFETY: as in `recvmmsg`, for one header.
            let length = unsafe { libc::recvmsg(fd.as_raw_fd(), into, flags) };
            match u32::try_from(length) {
                Ok(length) => header.msg_len = length,
                // An error must not lose the datagrams received before it.
                Err(_) if index > 0 => return Ok(index),
                Err(_) => return Err(io::Error::last_os_error()),
            }
        }
        Ok(max)
    }

    /// The control bytes of a slot that the kernel has just filled.
    fn control(&self, index: usize) -> &[u8] {
        let room = self.room();
        #[allow(clippy::unnecessary_cast, reason = "narrower than usize with musl")]
        let length = room.headers[index].msg_hdr.msg_controllen as usize;
        &room.control[index].0[..length.min(CONTROL)]
    }

    fn room(&self) -> &Room<LEN, DATA, CONTROL> {
        // SAFETY: allocated in `new`, initialised, freed only by drop; nothing writes to it under `&self`.
        unsafe { self.room.as_ref() }
    }

    fn room_mut(&mut self) -> &mut Room<LEN, DATA, CONTROL> {
        // SAFETY: as in `room`; `&mut self` makes the access exclusive.
        unsafe { self.room.as_mut() }
    }
}

impl MessageBatch {
    /// As [`BatchOf::receive`], at most `max` datagrams; `on_fd` gets each descriptor and the index of the datagram
    /// that carried it.
    ///
    /// Descriptors for which there is no room are released by the kernel before the call returns. That may take as long
    /// as close(2) of a stranger's file: a socket that lingers, for instance. `has_room` is false if the descriptors
    /// must not come all the same: then the kernel installs none.
    ///
    /// # Errors
    /// As [`BatchOf::receive`].
    pub fn receive_with_fds(
        &mut self,
        max: usize,
        has_room: bool,
        fd: BorrowedFd<'_>,
        on_fd: impl FnMut(usize, OwnedFd),
    ) -> io::Result<usize> {
        self.filled = 0;
        self.prepare(MESSAGES_MAX, if has_room { CONTROL_BYTES_WITH_FDS } else { CONTROL_BYTES });
        self.fill(max, fd, on_fd)
    }
}

impl<const LEN: usize, const DATA: usize, const CONTROL: usize> Drop for BatchOf<LEN, DATA, CONTROL> {
    fn drop(&mut self) {
        // SAFETY: the pointer came from a leaked `Box` in `new` and is not used after this.
        drop(unsafe { Box::from_raw(self.room.as_ptr()) });
    }
}

/// Whether recvmmsg(2) is not permitted to this process, for instance by a filter that allows only older
/// calls. Costs one system call, which receives nothing.
pub fn is_recvmmsg_refused() -> bool {
    // SAFETY: -1 is no descriptor, and no header is read or written.
    let tried = unsafe { libc::recvmmsg(-1, std::ptr::null_mut(), 0, 0, std::ptr::null_mut()) };
    tried < 0 && is_refusal(&io::Error::last_os_error())
}

/// Whether a filter returned this instead of the kernel, which returns neither for a socket.
fn is_refusal(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM))
}

/// The control data of one datagram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attached {
    /// SCM_CREDENTIALS.
    pub credentials: Option<Credentials>,
    /// SCM_TIMESTAMPNS.
    pub stamp: Option<WallNs>,
    /// SCM_RIGHTS was present.
    pub has_fds: bool,
}

/// Parses the control messages of one datagram, and passes each descriptor among them to `on_fd`.
///
/// Accepts any bytes: parsing ends at a message that does not fit, and skips messages of unknown kinds.
pub fn parse_control(mut bytes: &[u8], mut on_fd: impl FnMut(RawFd)) -> Attached {
    let mut attached = Attached::default();
    while let Some((header, _)) = bytes.split_first_chunk::<HEADER_BYTES>() {
        let [level, kind] = [int(header, 8), int(header, 12)];
        let length = usize::try_from(long(header, 0)).unwrap_or(0);
        let Some(data) = bytes.get(HEADER_BYTES..length) else { break };
        match (level, kind) {
            (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) => attached.credentials = credentials(data),
            (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) => attached.stamp = stamp(data),
            (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
                attached.has_fds = true;
                let fds = data.as_chunks().0.iter().map(|fd| RawFd::from_ne_bytes(*fd));
                fds.filter(|fd| *fd >= 0).for_each(&mut on_fd);
            }
            _ => {}
        }
        // The last message may lack its padding. `length` is at most the length of a slice: no overflow.
        bytes = bytes.get(length.next_multiple_of(size_of::<usize>())..).unwrap_or_default();
    }
    attached
}

/// `struct ucred`: pid, uid, gid.
fn credentials(data: &[u8]) -> Option<Credentials> {
    let data: &[u8; CREDENTIALS_BYTES] = data.first_chunk()?;
    // The kernel never sends a negative pid; if it did, it would attest nothing.
    Some(Credentials { pid: u32::try_from(int(data, 0)).unwrap_or(0), uid: int(data, 4).cast_unsigned() })
}

/// `struct timespec`: seconds, nanoseconds. `None` before 1970.
fn stamp(data: &[u8]) -> Option<WallNs> {
    let data: &[u8; STAMP_BYTES] = data.first_chunk()?;
    let seconds = u64::try_from(long(data, 0)).ok()?;
    let rest = u64::try_from(long(data, 8)).ok()?;
    Some(WallNs(seconds.saturating_mul(1_000_000_000).saturating_add(rest)))
}

/// The 32-bit integer at `at`; 0 if it is incomplete.
fn int(bytes: &[u8], at: usize) -> i32 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |raw| i32::from_ne_bytes(*raw))
}

/// The 64-bit integer at `at`; 0 if it is incomplete.
fn long(bytes: &[u8], at: usize) -> i64 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |raw| i64::from_ne_bytes(*raw))
}

/// Takes a descriptor that the kernel has just installed in this process.
#[cold]
fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: `fd` came with SCM_RIGHTS of this receive call, is not negative, and nothing else uses it: whoever
    // gets this owns it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Closes a descriptor that came uninvited.
#[cold]
fn close(fd: OwnedFd) {
    drop(fd);
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;
    use std::mem::MaybeUninit;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixDatagram;
    use std::path::Path;

    use proptest::prelude::*;
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

    use super::*;
    use crate::sys::unix_socket::{behave_like_an_older_kernel, bind, open_receiver};

    fn pair() -> (tempfile::TempDir, OwnedFd, UnixDatagram) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let (receiver, _) = open_receiver().unwrap();
        bind(receiver.as_fd(), &path).unwrap();
        let sender = UnixDatagram::unbound().unwrap();
        sender.set_nonblocking(true).unwrap();
        sender.connect(&path).unwrap();
        (dir, receiver, sender)
    }

    /// One batch that uses recvmmsg(2), and one to which it is not permitted.
    fn both() -> [Batch; 2] {
        let mut single = Batch::new();
        single.is_one_by_one = true;
        [Batch::new(), single]
    }

    fn send_with_fds(
        sender: &UnixDatagram,
        data: &[u8],
        fd: BorrowedFd<'_>,
        count: usize,
    ) -> rustix::io::Result<usize> {
        let fds = vec![fd; count];
        let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut room);
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        sendmsg(sender, &[IoSlice::new(data)], &mut control, SendFlags::DONTWAIT)
    }

    /// Number of this process's descriptors that refer to `path`; those of other tests do not count.
    fn open_fds_of(path: &Path) -> usize {
        let fds = std::fs::read_dir("/proc/self/fd").unwrap();
        fds.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok()).filter(|target| target == path).count()
    }

    #[test]
    fn every_length_arrives_and_long_ones_say_so() {
        let (_dir, receiver, sender) = pair();
        let mut batch = Batch::new();
        let mut sent: Vec<u8> = (0..=255).cycle().take(212_960).collect();
        for length in [0, 1, 31, 32, 33, 63, 64, 65, 5000, 212_000, 0, 32] {
            sent.rotate_left(1);
            sender.send(&sent[..length]).unwrap();
            assert_eq!(batch.receive(receiver.as_fd()).unwrap(), 1, "{length}");
            let datagram = batch.datagram(0);
            assert_eq!(datagram.bytes, &sent[..length.min(DATA_BYTES)], "{length}");
            assert_eq!(datagram.is_truncated, length > DATA_BYTES, "{length}");
            assert!(!datagram.is_control_truncated && !datagram.has_foreign_fds, "{length}");
        }
        assert_eq!(batch.receive(receiver.as_fd()).unwrap(), 0);
    }

    #[test]
    fn largest_datagram_is_taken_and_the_next_one_follows() {
        let (_dir, receiver, sender) = pair();
        // As large as the sender's own buffer allows: 212,960 by default.
        let room = rustix::net::sockopt::socket_send_buffer_size(&sender).unwrap();
        assert_eq!(sender.send(&vec![7; room - 32]).unwrap(), room - 32);
        let mut batch = Batch::new();
        assert_eq!(batch.receive(receiver.as_fd()).unwrap(), 1);
        assert!(batch.datagram(0).is_truncated);
        sender.send(&[1; 32]).unwrap();
        assert_eq!(batch.receive(receiver.as_fd()).unwrap(), 1);
        assert!(!batch.datagram(0).is_truncated);
        assert_eq!(batch.datagram(0).bytes, [1; 32]);
    }

    #[test]
    fn order_is_kept_and_sender_and_arrival_are_told() {
        let (_dir, receiver, sender) = pair();
        let [mut whole, mut single] = both();
        let wall = || crate::time::Clock::wall(&crate::sys::clock::SystemClock).0;
        for round in 0..3_u8 {
            let before = wall();
            for index in 0..8 {
                sender.send(&[round * 8 + index; 32]).unwrap();
            }
            let after = wall();
            let batch = if round == 1 { &mut single } else { &mut whole };
            assert_eq!(batch.receive(receiver.as_fd()).unwrap(), 8);
            let mut previous = 0;
            for index in 0..8 {
                let datagram = batch.datagram(usize::from(index));
                assert_eq!(datagram.bytes, [round * 8 + index; 32]);
                let credentials = datagram.credentials.unwrap();
                assert_eq!(credentials.pid, std::process::id());
                assert_eq!(credentials.uid, rustix::process::getuid().as_raw());
                let stamp = datagram.stamp.unwrap().0;
                assert!(previous <= stamp, "arrival order");
                // The clock may be stepped during the test; a stamp of another epoch is a fault.
                assert!(
                    before.abs_diff(stamp) < 3_600_000_000_000 && after.abs_diff(stamp) < 3_600_000_000_000
                );
                previous = stamp;
            }
        }
    }

    #[test]
    fn short_batch_hides_the_previous_one() {
        let (_dir, receiver, sender) = pair();
        for mut batch in both() {
            short_batch_hides_the_previous_one_of(&mut batch, &receiver, &sender);
        }
    }

    fn short_batch_hides_the_previous_one_of(batch: &mut Batch, receiver: &OwnedFd, sender: &UnixDatagram) {
        for _ in 0..5 {
            sender.send(&[9; 60]).unwrap();
        }
        assert_eq!(batch.receive(receiver.as_fd()).unwrap(), 5);
        sender.send(&[1]).unwrap();
        assert_eq!(batch.receive(receiver.as_fd()).unwrap(), 1);
        assert_eq!(batch.datagram(0).bytes, [1]);
        assert!(is_refused(batch, 1));
        assert_eq!(batch.receive(receiver.as_fd()).unwrap(), 0);
        assert!(is_refused(batch, 0));
    }

    fn is_refused(batch: &Batch, index: usize) -> bool {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| batch.datagram(index).bytes.len())).is_err()
    }

    #[test]
    fn one_by_one_takes_as_many_as_a_batch_and_leaves_the_rest() {
        let (_dir, receiver, sender) = pair();
        let mut sent = 0_usize;
        while sent < BATCH_MAX + 5 && sender.send(&[1; 32]).is_ok() {
            sent += 1;
        }
        let [_, mut batch] = both();
        assert_eq!(batch.receive(receiver.as_fd()).unwrap(), sent.min(BATCH_MAX));
        assert_eq!(batch.receive(receiver.as_fd()).unwrap(), sent.saturating_sub(BATCH_MAX));
        assert_eq!(batch.receive(receiver.as_fd()).unwrap(), 0);
        assert!(!is_recvmmsg_refused());
    }

    #[test]
    fn failed_receive_is_an_error_and_leaves_nothing() {
        let mut batch = Batch::new();
        let not_a_socket = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(batch.receive(not_a_socket.as_fd()).unwrap_err().raw_os_error(), Some(libc::ENOTSOCK));
        assert!(std::panic::catch_unwind(|| batch.datagram(0).bytes.len()).is_err());
    }

    #[test]
    fn batch_works_where_it_is_moved_to() {
        let (_dir, receiver, sender) = pair();
        let batch = Batch::new();
        let moved = std::thread::spawn(move || {
            let mut batch = Box::new(batch);
            sender.send(&[5; 32]).unwrap();
            assert_eq!(batch.receive(receiver.as_fd()).unwrap(), 1);
            (batch.datagram(0).bytes == [5; 32], batch.datagram(0).credentials.is_some())
        });
        assert_eq!(moved.join().unwrap(), (true, true));
    }

    #[test]
    fn attached_fds_are_refused_at_the_sender_or_never_installed() {
        let (dir, receiver, sender) = pair();
        let path = dir.path().join("attached");
        let file = std::fs::File::create(&path).unwrap();
        let mut batch = Batch::new();
        match send_with_fds(&sender, &[2; 32], file.as_fd(), 16) {
            Err(errno) => {
                assert_eq!(errno, rustix::io::Errno::PERM);
                assert_eq!(batch.receive(receiver.as_fd()).unwrap(), 0);
            }
            Ok(_) => {
                assert_eq!(batch.receive(receiver.as_fd()).unwrap(), 1);
                assert!(batch.datagram(0).has_foreign_fds);
            }
        }
        assert_eq!(open_fds_of(&path), 1);

        behave_like_an_older_kernel(receiver.as_fd(), false).unwrap();
        for round in 0..10 {
            send_with_fds(&sender, &[round; 32], file.as_fd(), 16).unwrap();
            sender.send(&[99; 32]).unwrap();
            assert_eq!(batch.receive(receiver.as_fd()).unwrap(), 2);
            let datagram = batch.datagram(0);
            assert!(datagram.has_foreign_fds && datagram.is_control_truncated && !datagram.is_truncated);
            assert_eq!(datagram.bytes, [round; 32]);
            assert_eq!(datagram.credentials.map(|from| from.pid), Some(std::process::id()));
            assert!(datagram.stamp.is_some());
            assert!(!batch.datagram(1).has_foreign_fds && !batch.datagram(1).is_control_truncated);
            assert_eq!(open_fds_of(&path), 1, "round {round}");
        }
    }

    #[test]
    fn fds_that_found_room_are_closed_once() {
        let (dir, receiver, sender) = pair();
        behave_like_an_older_kernel(receiver.as_fd(), true).unwrap();
        let path = dir.path().join("attached");
        let file = std::fs::File::create(&path).unwrap();
        let mut batch = Batch::new();
        for count in [1, 2, 12, 16, FDS_MAX] {
            send_with_fds(&sender, &[2; 32], file.as_fd(), count).unwrap();
            assert_eq!(batch.receive(receiver.as_fd()).unwrap(), 1);
            for _ in 0..2 {
                let datagram = batch.datagram(0);
                assert!(datagram.has_foreign_fds);
                assert_eq!((datagram.credentials, datagram.stamp), (None, None));
            }
            assert_eq!(open_fds_of(&path), 1, "{count} attached");
        }
    }

    #[test]
    fn fault_20_however_many_fds_come_along_none_stays() {
        for bare in [false, true] {
            let (dir, receiver, sender) = pair();
            behave_like_an_older_kernel(receiver.as_fd(), bare).unwrap();
            let path = dir.path().join("attached");
            let file = std::fs::File::create(&path).unwrap();
            let mut batch = Batch::new();
            let mut received = 0;
            for round in 0..10_000 {
                // Received every few sends, so that a call takes several; the kernel limits descriptors in
                // flight (ETOOMANYREFS).
                send_with_fds(&sender, &[2; 32], file.as_fd(), FDS_MAX).unwrap();
                if round % 5 == 4 {
                    let filled = batch.receive(receiver.as_fd()).unwrap();
                    assert!((0..filled).all(|index| batch.datagram(index).has_foreign_fds));
                    received += filled;
                }
                assert!(round % 1000 != 0 || open_fds_of(&path) == 1, "round {round}, bare: {bare}");
            }
            assert_eq!((received, open_fds_of(&path)), (10_000, 1), "bare: {bare}");
        }
    }

    fn message(level: i32, kind: i32, data: &[u8]) -> Vec<u8> {
        let mut bytes = (HEADER_BYTES + data.len()).to_ne_bytes().to_vec();
        bytes.extend(level.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(data);
        bytes.resize(space(data.len()), 0);
        bytes
    }

    #[test]
    fn control_messages_are_read_in_any_order_and_unknown_ones_skipped() {
        let ucred: Vec<u8> = [7_i32, 1000, 100].iter().flat_map(|number| number.to_ne_bytes()).collect();
        let timespec: Vec<u8> = [3_i64, 5].iter().flat_map(|number| number.to_ne_bytes()).collect();
        let fds: Vec<u8> = [4_i32, -24, 6].iter().flat_map(|fd| fd.to_ne_bytes()).collect();
        let bytes = [
            message(libc::SOL_SOCKET, 9999, &[1; 5]),
            message(libc::SOL_SOCKET, libc::SCM_RIGHTS, &fds),
            message(libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS, &timespec),
            message(libc::SOL_IP, libc::SCM_RIGHTS, &fds),
            message(libc::SOL_SOCKET, libc::SCM_CREDENTIALS, &ucred),
        ]
        .concat();
        let mut closed = Vec::new();
        let attached = parse_control(&bytes, |fd| closed.push(fd));
        assert_eq!(attached.credentials, Some(Credentials { pid: 7, uid: 1000 }));
        assert_eq!(attached.stamp, Some(WallNs(3_000_000_005)));
        assert!(attached.has_fds);
        assert_eq!(closed, [4, 6]);
        // The last message is parsed even without its padding.
        assert_eq!(parse_control(&bytes[..bytes.len() - 4], |_| {}).credentials, attached.credentials);
        assert_eq!(parse_control(&bytes[..bytes.len() - 5], |_| {}).credentials, None);
    }

    #[test]
    fn impossible_values_attest_nothing() {
        let negative: Vec<u8> = [-1_i32; 3].iter().flat_map(|number| number.to_ne_bytes()).collect();
        let bytes = message(libc::SOL_SOCKET, libc::SCM_CREDENTIALS, &negative);
        assert_eq!(parse_control(&bytes, |_| {}).credentials, Some(Credentials { pid: 0, uid: u32::MAX }));
        let bytes = message(libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS, &[0xff; STAMP_BYTES]);
        assert_eq!(parse_control(&bytes, |_| {}).stamp, None);
        for length in [0, 1, 15, usize::MAX, usize::MAX - 7] {
            let mut bytes = message(libc::SOL_SOCKET, libc::SCM_RIGHTS, &[0; 8]);
            bytes[..8].copy_from_slice(&length.to_ne_bytes());
            assert_eq!(parse_control(&bytes, |_| panic!("no descriptor here")), Attached::default());
        }
    }

    proptest! {
        #[test]
        fn any_control_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut fds = 0;
            parse_control(&bytes, |fd| { assert!(fd >= 0); fds += 1; });
            prop_assert!(fds <= bytes.len() / 4);
        }

        #[test]
        fn any_messages_of_known_kinds_are_read_without_panic(
            messages in proptest::collection::vec(
                (0..80_u64, prop_oneof![Just(1_i32), any::<i32>()], prop_oneof![Just(1_i32), Just(2), Just(35)],
                 proptest::collection::vec(any::<u8>(), 0..40)), 0..8),
            keep in 0..400_usize,
        ) {
            let mut bytes = Vec::new();
            for (length, level, kind, data) in messages {
                let mut one = message(level, kind, &data);
                if length < 40 {
                    one[..8].copy_from_slice(&length.to_ne_bytes());
                }
                bytes.extend(one);
            }
            bytes.truncate(keep);
            let mut fds = 0;
            let attached = parse_control(&bytes, |fd| { assert!(fd >= 0); fds += 1; });
            prop_assert!(fds <= bytes.len() / 4);
            prop_assert!(fds == 0 || attached.has_fds);
        }
    }
}
