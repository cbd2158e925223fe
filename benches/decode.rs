//! What does it cost to decode 32 bytes, and to refuse them? And to read a message of a daemon?

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use varta_fleet::bench::{Envelope, read_message};
use varta_fleet::wire::{self, FRAME_BYTES, Version};

mod rig;

use rig::{frame, pids};

fn decode(criterion: &mut Criterion) {
    let good = |version| pids(64).into_iter().map(move |pid| frame(version, pid, 7).encode());
    let damaged = good(Version::V02).map(|mut bytes| {
        bytes[20] ^= 1;
        bytes
    });
    let cases: [(&str, Vec<[u8; FRAME_BYTES]>); 4] = [
        ("0.1", good(Version::V01).collect()),
        ("0.2", good(Version::V02).collect()),
        ("bad checksum", damaged.collect()),
        ("no frame", vec![[0; FRAME_BYTES]; 64]),
    ];
    let mut group = criterion.benchmark_group("decode");
    for (name, frames) in cases {
        group.throughput(Throughput::Elements(frames.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                for bytes in &frames {
                    let _ = black_box(wire::decode(black_box(bytes)));
                }
            });
        });
    }
}

fn messages(criterion: &mut Criterion) {
    let of_php_fpm = "READY=1\nWATCHDOG=1\nSTATUS=Processes active: 0, idle: 1, Requests: 0, slow: 0, Traffic: \
                      0.00req/sec";
    let longest = format!("STATUS={}", "x".repeat(4096 - "STATUS=".len()));
    let envelope = Envelope { is_attested: true, ..Envelope::default() };
    let mut group = criterion.benchmark_group("message");
    for (name, text) in [("beat", "WATCHDOG=1"), ("beat of php-fpm", of_php_fpm), ("4096 bytes", &longest)] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| black_box(read_message(black_box(text.as_bytes()), envelope).is_ok()));
        });
    }
}

criterion_group!(benches, decode, messages);
criterion_main!(benches);
