//! What does it cost to receive one datagram: one call each, batches of several sizes, io_uring?
//!
//! Sender and receiver are one thread and only receiving is timed, so neither wakeups nor other load count.
//! The result is why a batch has 64 places, and why it uses recvmmsg(2). On a 2-core AMD EPYC machine, 400
//! queued: one call each 959 ns, batches of 8 820, 16 806, 32 799, 64 796, 128 794, 512 792, multishot
//! io_uring 867. Batches above 64 gain nothing. io_uring costs more and does not report that the queue was
//! empty, which the watermark needs.

#![expect(unsafe_code, reason = "the system calls themselves are what is measured")]

use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use io_uring::{IoUring, cqueue, opcode, types};

const SO_PASSRIGHTS: libc::c_int = 83;
const DATA_BYTES: usize = 64;
const CONTROL_BYTES: usize = 64;
/// Each sender may have 278 frames queued.
const SENDERS: usize = 4;
/// The most that is queued at a time, if the queue takes as many.
const QUEUED_MAX: usize = 400;

/// A bound socket and its senders.
struct Pair {
    receiver: UnixDatagram,
    senders: Vec<UnixDatagram>,
    _dir: tempfile::TempDir,
}

impl Pair {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("socket");
        let receiver = UnixDatagram::bind(&path).expect("bind");
        receiver.set_nonblocking(true).expect("non-blocking");
        for (option, value) in [(libc::SO_PASSCRED, 1), (libc::SO_TIMESTAMPNS, 1), (SO_PASSRIGHTS, 0)] {
            let value: libc::c_int = value;
            // SAFETY: the descriptor is open, and exactly the four initialised bytes of `value` are read.
            unsafe {
                libc::setsockopt(
                    receiver.as_raw_fd(),
                    libc::SOL_SOCKET,
                    option,
                    (&raw const value).cast(),
                    4,
                );
            }
        }
        let senders = (0..SENDERS).map(|_| {
            let sender = UnixDatagram::unbound().expect("a socket");
            sender.set_nonblocking(true).expect("non-blocking");
            sender.connect(&path).expect("connect");
            sender
        });
        Self { receiver, senders: senders.collect(), _dir: dir }
    }

    /// Sends until the queue is full or has `QUEUED_MAX` datagrams; returns their number.
    fn fill(&self) -> usize {
        let turn = self.senders.iter().cycle().take(QUEUED_MAX);
        turn.take_while(|sender| sender.send(&[7; 32]).is_ok()).count()
    }
}

/// Buffers for this many datagrams a call.
struct Room {
    headers: Vec<libc::mmsghdr>,
    _slices: Vec<libc::iovec>,
    _data: Vec<[u8; DATA_BYTES]>,
    _control: Vec<[u64; CONTROL_BYTES / 8]>,
}

impl Room {
    fn new(places: usize) -> Self {
        let mut data = vec![[0; DATA_BYTES]; places];
        let mut control = vec![[0; CONTROL_BYTES / 8]; places];
        let slice = |room: &mut [u8; DATA_BYTES]| libc::iovec {
            iov_base: room.as_mut_ptr().cast(),
            iov_len: DATA_BYTES,
        };
        let mut slices: Vec<libc::iovec> = data.iter_mut().map(slice).collect();
        let headers = slices.iter_mut().zip(&mut control).map(|(slice, control)| {
            // SAFETY: `mmsghdr` holds integers and raw pointers, for which all zeroes are a value.
            let mut header: libc::mmsghdr = unsafe { std::mem::zeroed() };
            header.msg_hdr.msg_iov = slice;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = control.as_mut_ptr().cast();
            header.msg_hdr.msg_controllen = CONTROL_BYTES as _;
            header
        });
        Self { headers: headers.collect(), _slices: slices, _data: data, _control: control }
    }

    /// Receives everything by one recvmsg(2) for each datagram.
    fn drain_one_by_one(&mut self, receiver: &UnixDatagram) -> usize {
        let header = &mut self.headers[0];
        let mut taken = 0;
        loop {
            let into = &raw mut header.msg_hdr;
            // SAFETY: a header that points into memory which lives as long as it does.
            if unsafe { libc::recvmsg(receiver.as_raw_fd(), into, libc::MSG_DONTWAIT) } < 0 {
                return taken;
            }
            header.msg_hdr.msg_controllen = CONTROL_BYTES as _;
            taken += 1;
        }
    }

    /// Receives everything that is queued.
    fn drain(&mut self, receiver: &UnixDatagram) -> usize {
        let mut taken = 0;
        loop {
            let places = libc::c_uint::try_from(self.headers.len()).expect("few");
            let (fd, headers) = (receiver.as_raw_fd(), self.headers.as_mut_ptr());
            // SAFETY: `places` headers that point into memory which lives as long as they do.
            let got =
                unsafe { libc::recvmmsg(fd, headers, places, libc::MSG_DONTWAIT, std::ptr::null_mut()) };
            let got = usize::try_from(got).unwrap_or(0);
            for header in &mut self.headers[..got] {
                header.msg_hdr.msg_controllen = CONTROL_BYTES as _;
            }
            taken += got;
            if got < self.headers.len() {
                return taken;
            }
        }
    }
}

const BUFFERS: u16 = 1024;
const BUFFER_BYTES: u32 = 256;

/// A ring with one request that delivers every datagram into provided buffers.
struct Multishot {
    ring: IoUring,
    entries: *mut types::BufRingEntry,
    tail: u16,
    pool: Vec<u8>,
    header: Box<libc::msghdr>,
}

impl Multishot {
    fn new(receiver: &UnixDatagram) -> Self {
        let mut builder = IoUring::builder();
        builder.setup_single_issuer().setup_defer_taskrun().setup_coop_taskrun().setup_cqsize(2048);
        let ring: IoUring = builder.build(8).expect("io_uring is not allowed here");
        let bytes = usize::from(BUFFERS) * size_of::<types::BufRingEntry>();
        // SAFETY: a new mapping at an address the kernel chooses overlaps nothing.
        let entries = unsafe {
            let flags = libc::MAP_ANONYMOUS | libc::MAP_PRIVATE;
            libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)
        };
        assert_ne!(entries, libc::MAP_FAILED);
        // SAFETY: the mapping has room for `BUFFERS` entries and is never unmapped.
        unsafe { ring.submitter().register_buf_ring_with_flags(entries as u64, BUFFERS, 0, 0) }
            .expect("register");
        // SAFETY: all zeroes are a value of `msghdr`.
        let mut header: Box<libc::msghdr> = Box::new(unsafe { std::mem::zeroed() });
        header.msg_controllen = CONTROL_BYTES as _;
        let pool = vec![0; usize::from(BUFFERS) * BUFFER_BYTES as usize];
        let mut multishot = Self { ring, entries: entries.cast(), tail: 0, pool, header };
        (0..BUFFERS).for_each(|buffer| multishot.give(buffer));
        multishot.publish();
        multishot.arm(receiver);
        multishot
    }

    fn give(&mut self, buffer: u16) {
        let at = usize::from(self.tail & (BUFFERS - 1));
        let start = usize::from(buffer) * BUFFER_BYTES as usize;
        // SAFETY: `at` is inside the mapping.
        let entry = unsafe { self.entries.add(at) };
        // SAFETY: zeroed memory is a valid entry, which the kernel reads only once the tail is published.
        let entry = unsafe { &mut *entry };
        entry.set_addr(self.pool[start..].as_mut_ptr() as u64);
        entry.set_len(BUFFER_BYTES);
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
    }

    fn publish(&self) {
        // SAFETY: the tail lies in the first entry of the mapping.
        let tail = unsafe { types::BufRingEntry::tail(self.entries) };
        // SAFETY: it is aligned, and only ever accessed atomically.
        let tail = unsafe { &*tail.cast::<AtomicU16>() };
        tail.store(self.tail, Ordering::Release);
    }

    fn arm(&mut self, receiver: &UnixDatagram) {
        let request =
            opcode::RecvMsgMulti::new(types::Fd(receiver.as_raw_fd()), &raw const *self.header, 0).build();
        // SAFETY: header, buffers and socket outlive the ring.
        unsafe { self.ring.submission().push(&request) }.expect("room for one");
        self.ring.submit().expect("submit");
    }

    fn drain(&mut self, receiver: &UnixDatagram, queued: usize) -> usize {
        let mut taken = 0;
        while taken < queued {
            self.ring.submit_and_wait(1).expect("there is more");
            let mut returned = Vec::new();
            let mut is_over = false;
            for done in self.ring.completion() {
                is_over |= !cqueue::more(done.flags());
                returned.extend(cqueue::buffer_select(done.flags()));
            }
            taken += returned.len();
            returned.into_iter().for_each(|buffer| self.give(buffer));
            self.publish();
            if is_over {
                self.arm(receiver);
            }
        }
        taken
    }
}

fn timed(pair: &Pair, rounds: u64, mut drain: impl FnMut(usize) -> usize) -> Duration {
    let mut took = Duration::ZERO;
    for _ in 0..rounds {
        let queued = pair.fill();
        let start = Instant::now();
        let taken = drain(queued);
        took += start.elapsed();
        assert_eq!(taken, queued);
    }
    took
}

fn receive(criterion: &mut Criterion) {
    let pair = Pair::new();
    let queued = pair.fill();
    assert_eq!(Room::new(64).drain(&pair.receiver), queued);
    let mut group = criterion.benchmark_group("receive");
    group.throughput(Throughput::Elements(queued as u64));
    for places in [1, 8, 16, 32, 64, 128, 512] {
        let mut room = Room::new(places);
        group.bench_function(BenchmarkId::new("recvmmsg", places), |bencher| {
            bencher.iter_custom(|rounds| timed(&pair, rounds, |_| room.drain(&pair.receiver)));
        });
    }
    let mut room = Room::new(1);
    group.bench_function("recvmsg", |bencher| {
        bencher.iter_custom(|rounds| timed(&pair, rounds, |_| room.drain_one_by_one(&pair.receiver)));
    });
    let mut multishot = Multishot::new(&pair.receiver);
    group.bench_function("io_uring, multishot", |bencher| {
        bencher.iter_custom(|rounds| timed(&pair, rounds, |queued| multishot.drain(&pair.receiver, queued)));
    });
}

criterion_group!(benches, receive);
criterion_main!(benches);
