//! What does it cost to decode 32 bytes, and to refuse them?

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
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

criterion_group!(benches, decode);
criterion_main!(benches);
