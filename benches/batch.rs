//! What does a shard's turn with 64 beats cost, without the system calls?

use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use varta_fleet::bench::BATCH_MAX;

mod rig;

use rig::Turning;

fn batch(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("batch");
    group.throughput(Throughput::Elements(BATCH_MAX as u64));
    let mut turning = Turning::new();
    group.bench_function("turn", |bencher| {
        bencher.iter_custom(|turns| {
            let mut took = Duration::ZERO;
            for _ in 0..turns {
                turning.record();
                let start = Instant::now();
                turning.turn();
                took += start.elapsed();
                turning.check();
                turning.collect();
            }
            took
        });
    });
}

criterion_group!(benches, batch);
criterion_main!(benches);
