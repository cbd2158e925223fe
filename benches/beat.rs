//! What does an ordinary beat cost a shard after its receipt: arrival, sender, decoding, lookup, write?
//!
//! If agents beat in order, the processor prefetches their memory. In random order, different in each round,
//! most beats miss the caches once there are more agents than the caches hold.

use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};

mod rig;

use rig::{Beating, pids};

fn beat(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("beat");
    group.sampling_mode(SamplingMode::Flat);
    for agents in [1_000, 100_000, 1_000_000] {
        group.throughput(Throughput::Elements(u64::from(agents)));
        for order in ["in turn", "at random"] {
            let mut beating = Beating::new(pids(agents));
            group.bench_function(BenchmarkId::new(order, agents), |bencher| {
                bencher.iter_custom(|rounds| {
                    let mut took = Duration::ZERO;
                    for _ in 0..rounds {
                        if order == "at random" {
                            beating.shuffle();
                        }
                        beating.record();
                        let start = Instant::now();
                        let ordinary = beating.drain();
                        took += start.elapsed();
                        assert_eq!(ordinary, u64::from(agents), "all beats are ordinary");
                    }
                    took
                });
            });
        }
    }
}

criterion_group! {
    name = benches;
    // A round of a million agents takes a while, most of it for the recording.
    config = Criterion::default().sample_size(10);
    targets = beat
}
criterion_main!(benches);
