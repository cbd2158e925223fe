//! The floor: what the kernel alone costs an observer. One recvmmsg loop for each socket discards the frames,
//! with the socket options, priority, pinning and sleep of the observer.
//!
//!     floor --delay-us 1000 SOCKET...    sleep for this long, then drain
//!     floor --delay-us 0 SOCKET...       wake for each datagram
//!
//! Prints `ready`, ends on SIGTERM or at the end of standard input, and prints the number of datagrams.

#![expect(unsafe_code, reason = "the system calls themselves are what is measured")]

use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

const BATCH: usize = BATCH_U32 as usize;
/// The same number in the type of recvmmsg(2).
const BATCH_U32: libc::c_uint = 64;
const CONTROL_BYTES: usize = 64;
const SO_PASSRIGHTS: libc::c_int = 83;

fn main() -> ExitCode {
    let mut sockets = Vec::new();
    let mut delay = Duration::from_millis(1);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--delay-us" => match arguments.next().and_then(|text| text.parse().ok()) {
                Some(us) => delay = Duration::from_micros(us),
                None => return usage(),
            },
            _ if argument.starts_with('-') => return usage(),
            _ => sockets.push(argument),
        }
    }
    if sockets.is_empty() {
        return usage();
    }
    let taken = Arc::new(AtomicU64::new(0));
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    // Like the observer: only if a core is left for others.
    let mut pins = if cores.len() > sockets.len() { cores } else { Vec::new() }.into_iter();
    for path in sockets {
        let pin = pins.next();
        let socket = match open(&path) {
            Ok(socket) => socket,
            Err(error) => {
                eprintln!("floor: cannot bind {path}: {error}");
                return ExitCode::FAILURE;
            }
        };
        let taken = Arc::clone(&taken);
        thread::spawn(move || {
            if let Some(core) = pin {
                core_affinity::set_for_current(core);
            }
            drain(&socket, delay, &taken);
        });
    }
    println!("ready");
    let _ = io::stdout().flush();
    let _ = io::stdin().read(&mut [0]);
    println!("{}", taken.load(Ordering::Relaxed));
    ExitCode::SUCCESS
}

fn usage() -> ExitCode {
    eprintln!("usage: floor [--delay-us N] SOCKET...");
    ExitCode::from(2)
}

fn open(path: &str) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    // Like the observer: options before the bind.
    for (option, value) in [(libc::SO_PASSCRED, 1), (libc::SO_TIMESTAMPNS, 1), (SO_PASSRIGHTS, 0)] {
        let value: libc::c_int = value;
        // SAFETY: the descriptor is open, and exactly the four initialised bytes of `value` are read. Before
        // Linux 6.16, SO_PASSRIGHTS is unknown; this does without it, like the observer.
        unsafe {
            libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, (&raw const value).cast(), 4);
        }
    }
    let address = std::os::unix::net::SocketAddr::from_pathname(path)?;
    // std binds only sockets that it creates.
    rustix::net::bind(
        &socket,
        &rustix::net::SocketAddrUnix::new(address.as_pathname().unwrap_or(path.as_ref()))?,
    )?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn drain(socket: &UnixDatagram, delay: Duration, taken: &AtomicU64) {
    // SAFETY: no memory is passed. If the kernel refuses, the thread runs at ordinary priority, like the
    // observer's.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -20) };
    let mut data = [[0_u8; 64]; BATCH];
    let mut control = [[0_u64; CONTROL_BYTES / 8]; BATCH];
    let mut slices: Vec<libc::iovec> =
        data.iter_mut().map(|room| libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: 64 }).collect();
    let mut headers: Vec<libc::mmsghdr> = slices
        .iter_mut()
        .zip(&mut control)
        .map(|(slice, control)| {
            // SAFETY: `mmsghdr` holds integers and raw pointers, for which all zeroes are a value.
            let mut header: libc::mmsghdr = unsafe { std::mem::zeroed() };
            header.msg_hdr.msg_iov = slice;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = control.as_mut_ptr().cast();
            header.msg_hdr.msg_controllen = CONTROL_BYTES as _;
            header
        })
        .collect();
    let mut poll = libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    loop {
        if delay.is_zero() {
            // SAFETY: one initialised pollfd, which outlives the call.
            unsafe { libc::poll(&raw mut poll, 1, -1) };
        } else {
            thread::sleep(delay);
        }
        loop {
            // SAFETY: BATCH headers that point into `slices`, `data` and `control`, which outlive the call
            // and have the given sizes.
            let got = unsafe {
                libc::recvmmsg(
                    socket.as_raw_fd(),
                    headers.as_mut_ptr(),
                    BATCH_U32,
                    libc::MSG_DONTWAIT,
                    std::ptr::null_mut(),
                )
            };
            let got = usize::try_from(got).unwrap_or(0);
            for header in &mut headers[..got] {
                header.msg_hdr.msg_controllen = CONTROL_BYTES as _;
            }
            taken.fetch_add(got as u64, Ordering::Relaxed);
            if got < BATCH {
                break;
            }
        }
    }
}
