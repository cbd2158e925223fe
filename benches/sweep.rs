//! What does it cost to judge n agents if none is due, if all are due and have beaten, and if all are due and
//! silent? Their timers expire in the order of their last beats: in turn, or at random.

use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};

mod rig;

use rig::{Beating, MS, pids};

/// Beats of one round fall into two or three ticks.
const ROUNDS_TO_MIX: u32 = 16;

fn sweep(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("sweep");
    group.sampling_mode(SamplingMode::Flat);
    for agents in [1_000, 100_000, 1_000_000] {
        group.throughput(Throughput::Elements(1));
        let mut beating = Beating::new(pids(agents));
        group.bench_function(BenchmarkId::new("none due", agents), |bencher| {
            bencher.iter(|| assert_eq!(beating.judge(), 0, "nobody is due"));
        });

        group.throughput(Throughput::Elements(u64::from(agents)));
        let mut beating = Beating::new(pids(agents));
        beating.pass(600 * MS);
        group.bench_function(BenchmarkId::new("all due and alive", agents), |bencher| {
            judge(bencher, &mut beating, Beating::make_due, 0);
        });
        let shuffled = |beating: &mut Beating| {
            beating.shuffle();
            beating.make_due();
        };
        // Each round mixes the order a little more.
        for _ in 0..ROUNDS_TO_MIX {
            shuffled(&mut beating);
            beating.judge();
        }
        group.bench_function(BenchmarkId::new("all due and alive, at random", agents), |bencher| {
            judge(bencher, &mut beating, shuffled, 0);
        });

        let mut beating = Beating::new(pids(agents));
        group.bench_function(BenchmarkId::new("all due and silent", agents), |bencher| {
            judge(bencher, &mut beating, Beating::make_silent, u64::from(agents));
        });
    }
}

fn judge(
    bencher: &mut criterion::Bencher<'_>,
    beating: &mut Beating,
    prepare: impl Fn(&mut Beating),
    stalled: u64,
) {
    bencher.iter_custom(|rounds| {
        let mut took = Duration::ZERO;
        for _ in 0..rounds {
            prepare(beating);
            let start = Instant::now();
            let found = beating.judge();
            took += start.elapsed();
            assert_eq!(found, stalled, "stalled");
        }
        took
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10);
    targets = sweep
}
criterion_main!(benches);
