//! Any bytes as `/proc/PID/stat` and `/proc/PID/status`: no panic, and no name that a process chooses makes
//! it look like another one.
//!
//! Input: the file. The second half takes the same bytes as the name of a process.

#![no_main]

use libfuzzer_sys::fuzz_target;
use varta_fleet::fuzzing::{parse_inner_pids, parse_stat};

fuzz_target!(|input: &[u8]| {
    let _ = parse_stat(input);
    let _ = parse_inner_pids(input);

    // The kernel keeps 15 bytes, none of them NUL.
    let name: Vec<u8> = input.iter().copied().filter(|byte| *byte != 0).take(15).collect();
    let mut stat = b"4711 (".to_vec();
    stat.extend(&name);
    stat.extend(b") S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20 21\n");
    let stat = parse_stat(&stat).expect("what the kernel writes is understood");
    assert_eq!(stat.comm, String::from_utf8_lossy(&name));
    assert_eq!((stat.is_zombie, stat.start_ticks), (false, 4242), "named {name:?}");

    // In `status` the kernel escapes newlines and backslashes.
    let mut status = b"Name:\t".to_vec();
    for byte in name {
        match byte {
            b'\n' => status.extend(b"\\n"),
            b'\\' => status.extend(b"\\\\"),
            other => status.push(other),
        }
    }
    status.extend(b"\nUmask:\t0022\nPid:\t4711\nUid:\t1000\t1001\t1002\t1003\nNSpid:\t4711\t7\n");
    assert_eq!(parse_inner_pids(&status), [7]);
});
