//! The work whose instructions `scripts/instructions` counts and compares with `benches/instructions.json`.
//!
//!     instructions                    list the measures, one per line
//!     instructions NAME prepare       prepare the work
//!     instructions NAME work          prepare and do the work
//!
//! The last two print the number of units and the processor feature that the work uses. The count is the
//! difference between their instructions, divided by the units: everything before and after the work is the
//! same in both. Nothing here depends on time, addresses or chance.

use std::hint::black_box;
use std::process::ExitCode;

use varta_fleet::bench::{Outcome, Sender};
use varta_fleet::time::Clock;
use varta_fleet::wire::{self, Version};

mod rig;

use rig::{Beating, MS, ROUND, Turning, UID, frame, pids, pids_of_one_hash};

/// Prepares the work, does it if the argument is true, and returns its units.
type Measure = fn(bool) -> u64;

const MEASURES: [(&str, Measure); 7] = [
    ("decode-0.1", |is_done| decode(Version::V01, is_done)),
    ("decode-0.2", |is_done| decode(Version::V02, is_done)),
    ("beat", |is_done| beat(pids(AGENTS), is_done)),
    ("beat-one-hash", |is_done| beat(pids_of_one_hash(4_000), is_done)),
    ("sweep-alive", sweep_alive),
    ("sweep-stalled", sweep_stalled),
    ("batch", batch),
];

const AGENTS: u32 = 10_000;
const DECODED: u64 = 64_000;
/// As long as a threshold: each agent is judged once or twice.
const BATCHES: usize = 2 * ROUND;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (name, is_done) = match arguments[..] {
        [] => {
            for (name, _) in MEASURES {
                println!("{name}");
            }
            return ExitCode::SUCCESS;
        }
        [name, "prepare"] => (name, false),
        [name, "work"] => (name, true),
        _ => return usage(),
    };
    let Some((_, measure)) = MEASURES.iter().find(|(known, _)| *known == name) else { return usage() };
    println!("units {}", measure(is_done));
    println!("cpu {}", cpu());
    ExitCode::SUCCESS
}

fn usage() -> ExitCode {
    eprintln!("usage: instructions [NAME prepare|work]");
    ExitCode::from(2)
}

/// What is chosen at run time and affects the counts: the crc32c crate uses the processor's instruction if
/// there is one. memcpy(3) chooses, too, but copies little here: far less than a count may rise by.
fn cpu() -> String {
    #[cfg(target_arch = "x86_64")]
    let (name, is_there) = ("sse4.2", is_x86_feature_detected!("sse4.2"));
    #[cfg(target_arch = "aarch64")]
    let (name, is_there) = ("crc", std::arch::is_aarch64_feature_detected!("crc"));
    format!("{} {}{name}", std::env::consts::ARCH, if is_there { "" } else { "without " })
}

/// Decodes valid frames.
fn decode(version: Version, is_done: bool) -> u64 {
    let frames: Vec<_> = pids(64).into_iter().map(|pid| frame(version, pid, 7).encode()).collect();
    assert!(frames.iter().all(|bytes| wire::decode(bytes).is_ok()));
    let rounds = if is_done { DECODED / frames.len() as u64 } else { 0 };
    for _ in 0..rounds {
        for bytes in &frames {
            let _ = black_box(wire::decode(black_box(bytes)));
        }
    }
    DECODED
}

/// An ordinary beat through the tracker: decoded frame and attested sender in, slot written. The count must
/// be the same for all pids.
fn beat(pids: Vec<u32>, is_done: bool) -> u64 {
    let mut beating = Beating::new(pids.clone());
    let arrival = beating.recorder.clock.mono() + MS;
    let sender = |pid| Sender { pid, uid: UID, arrival, paused_before: 0 };
    let beats: Vec<_> = pids.iter().map(|pid| (frame(Version::V02, *pid, 2), sender(*pid))).collect();
    let mut ordinary = 0;
    for (frame, sender) in if is_done { &beats[..] } else { &[] } {
        let outcome = beating.front.tracker.on_frame(black_box(frame), black_box(sender));
        ordinary += u64::from(matches!(outcome, Outcome::Beat(_)));
    }
    let agents = pids.len() as u64;
    assert_eq!(ordinary, if is_done { agents } else { 0 }, "all beats are ordinary");
    agents
}

/// Judges agents whose timer expired and that have beaten since, as happens to each once a threshold.
fn sweep_alive(is_done: bool) -> u64 {
    let mut beating = Beating::new(pids(AGENTS));
    beating.pass(600 * MS);
    beating.make_due();
    assert_eq!(beating.judge(), 0, "all are alive");
    beating.make_due();
    if is_done {
        assert_eq!(black_box(beating.judge()), 0, "all are alive");
    }
    u64::from(AGENTS)
}

/// Judges silent agents, as after a freeze of the host.
fn sweep_stalled(is_done: bool) -> u64 {
    let mut beating = Beating::new(pids(AGENTS));
    beating.make_silent();
    if is_done {
        assert_eq!(black_box(beating.judge()), u64::from(AGENTS), "all are silent");
    }
    u64::from(AGENTS)
}

/// A turn of a shard with 64 beats: sleep, receive, decode, track, judge, publish.
fn batch(is_done: bool) -> u64 {
    let mut turning = Turning::new();
    for _ in 0..BATCHES {
        turning.record();
    }
    for _ in 0..if is_done { BATCHES } else { 0 } {
        turning.turn();
    }
    turning.check();
    BATCHES as u64
}
