//! How long does a start take to adopt the agents that the process before left in a table? The table alone, and
//! with index, free slots, timers and counts of the shard.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};

mod rig;

use rig::{Beating, Inheritance, MS, pids};

fn adopt(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("adopt");
    group.sampling_mode(SamplingMode::Flat);
    for agents in [1_000, 100_000, 1_000_000] {
        group.throughput(Throughput::Elements(u64::from(agents)));
        let mut beating = Beating::new(pids(agents));
        beating.shuffle();
        beating.record();
        beating.drain();
        beating.pass(100 * MS);
        let inheritance = Inheritance::of(beating);
        let took = |rounds: u64, is_whole: bool| {
            let mut took = Duration::ZERO;
            for _ in 0..rounds {
                let prepared = inheritance.prepare();
                let start = Instant::now();
                let table = inheritance.adopt();
                if is_whole {
                    let tracker = prepared.track(table);
                    took += start.elapsed();
                    assert_eq!(tracker.slots_used(), agents);
                } else {
                    took += start.elapsed();
                    black_box(table);
                }
            }
            took
        };
        group.bench_function(BenchmarkId::new("the table", agents), |bencher| {
            bencher.iter_custom(|rounds| took(rounds, false));
        });
        group.bench_function(BenchmarkId::new("the table and the tracker", agents), |bencher| {
            bencher.iter_custom(|rounds| took(rounds, true));
        });
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10);
    targets = adopt
}
criterion_main!(benches);
