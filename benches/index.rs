//! Do pids that resonate slow down the index? They must not: an agent chooses when it starts, and with that,
//! within limits, its pid.
//!
//! Pids cannot collide in the index; they differ in how many of its pages they touch, 4000 in the worst case.

use std::time::{Duration, Instant};

use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};

mod rig;

use rig::{Beating, pids, pids_of_one_hash, shuffle};
use varta_fleet::bench::PID_MAX;

const AGENTS: u32 = 4_000;

fn index(criterion: &mut Criterion) {
    let every = |stride: u32| (1..=AGENTS).map(|n| n * stride).collect::<Vec<_>>();
    let mut random: Vec<u32> = (2..=PID_MAX).collect();
    shuffle(&mut random);
    random.truncate(AGENTS as usize);
    // Strides of a cache line and of a page of the index.
    let cases = [
        ("one after another", pids(AGENTS)),
        ("every 16th", every(16)),
        ("every 1024th", every(1024)),
        ("at random", random),
        ("of one hash", pids_of_one_hash(AGENTS)),
    ];
    let mut group = criterion.benchmark_group("index");
    group.sampling_mode(SamplingMode::Flat);
    group.throughput(Throughput::Elements(u64::from(AGENTS)));
    for (name, pids) in cases {
        let mut beating = Beating::new(pids);
        // Whatever the pids, they beat in random order.
        beating.shuffle();
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|rounds| {
                let mut took = Duration::ZERO;
                for _ in 0..rounds {
                    beating.record();
                    let start = Instant::now();
                    let ordinary = beating.drain();
                    took += start.elapsed();
                    assert_eq!(ordinary, u64::from(AGENTS), "all beats are ordinary");
                }
                took
            });
        });
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20);
    targets = index
}
criterion_main!(benches);
