//! Any control bytes of a datagram: no panic, no descriptor that is not there, none twice; and messages as
//! the kernel writes them are parsed correctly.
//!
//! Input: the control bytes. The second half reads the same bytes as instructions: one byte for the kind, one
//! for the length, then the data.

#![no_main]

use std::os::fd::RawFd;

use libfuzzer_sys::fuzz_target;
use varta_fleet::fuzzing::{Attached, Credentials, parse_control};
use varta_fleet::time::WallNs;

const SOL_SOCKET: i32 = 1;
const SCM_RIGHTS: i32 = 1;
const SCM_CREDENTIALS: i32 = 2;
const SCM_TIMESTAMPNS: i32 = 35;
const HEADER_BYTES: usize = 16;

fuzz_target!(|input: &[u8]| {
    let (attached, fds) = parsed(input);
    assert!(fds.len() <= input.len() / 4, "more descriptors than there is room for");
    assert!(fds.is_empty() || attached.has_fds);
    let (again, fds_again) = parsed(input);
    assert_eq!((attached, &fds), (again, &fds_again), "the same bytes say the same");
    // Cutting the input adds nothing.
    for keep in 0..input.len().min(96) {
        let (_, cut) = parsed(&input[..keep]);
        assert!(fds.starts_with(&cut), "{cut:?} of the first {keep} bytes, {fds:?} of all");
    }

    let (bytes, expected, expected_fds) = as_the_kernel_writes(input);
    assert_eq!(parsed(&bytes), (expected, expected_fds));
});

fn parsed(bytes: &[u8]) -> (Attached, Vec<RawFd>) {
    let mut fds = Vec::new();
    let attached = parse_control(bytes, |fd| {
        assert!(fd >= 0, "{fd} is an error, not a descriptor");
        fds.push(fd);
    });
    (attached, fds)
}

fn as_the_kernel_writes(mut script: &[u8]) -> (Vec<u8>, Attached, Vec<RawFd>) {
    let mut bytes = Vec::new();
    let mut attached = Attached::default();
    let mut fds = Vec::new();
    while let Some(([choice, length], rest)) = script.split_first_chunk() {
        let (data, rest) = rest.split_at(usize::from(*length).min(rest.len()));
        script = rest;
        let (level, kind) = match choice % 5 {
            0 => (SOL_SOCKET, SCM_RIGHTS),
            1 => (SOL_SOCKET, SCM_CREDENTIALS),
            2 => (SOL_SOCKET, SCM_TIMESTAMPNS),
            3 => (SOL_SOCKET, i32::from(*choice) + 100),
            _ => (SOL_SOCKET + 1, SCM_RIGHTS),
        };
        bytes.extend((HEADER_BYTES + data.len()).to_ne_bytes());
        bytes.extend(level.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        let number = |at: usize| i32::from_ne_bytes(data[at..at + 4].try_into().expect("four bytes"));
        let long = |at: usize| i64::from_ne_bytes(data[at..at + 8].try_into().expect("eight bytes"));
        match (level, kind) {
            (SOL_SOCKET, SCM_RIGHTS) => {
                attached.has_fds = true;
                fds.extend((0..data.len() / 4).map(|at| number(4 * at)).filter(|fd| *fd >= 0));
            }
            (SOL_SOCKET, SCM_CREDENTIALS) => {
                attached.credentials = (data.len() >= 12).then(|| Credentials {
                    pid: u32::try_from(number(0)).unwrap_or(0),
                    uid: number(4).cast_unsigned(),
                });
            }
            (SOL_SOCKET, SCM_TIMESTAMPNS) => {
                attached.stamp = (data.len() >= 16 && long(0) >= 0 && long(8) >= 0).then(|| {
                    let ns = i128::from(long(0)) * 1_000_000_000 + i128::from(long(8));
                    WallNs(u64::try_from(ns).unwrap_or(u64::MAX))
                });
            }
            _ => {}
        }
    }
    (bytes, attached, fds)
}
