//! What does the map of the status page cost, with the scan it is of, of ten thousand agents and of a hundred thousand?

use std::io::Write as _;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use flate2::Compression;
use flate2::write::GzEncoder;
use rustix::time::{ClockId, clock_gettime};
use varta_fleet::api::GroupBy;
use varta_fleet::bench::{Drawn, sources};

/// The answer as it is sent.
fn zipped(answer: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(answer).expect("memory");
    encoder.finish().expect("memory")
}

/// CPU time of this thread: other programs do not count.
fn used() -> Duration {
    let used = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(used.tv_sec.unsigned_abs(), u32::try_from(used.tv_nsec).expect("below a second"))
}

fn maps(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("map");
    group.sample_size(20);
    for (agents, cells) in [(4_000, 4096), (10_000, 4096), (100_000, 2048)] {
        let drawn = Drawn::of(sources(4), agents);
        for by in [GroupBy::Comm, GroupBy::Shard] {
            let name = BenchmarkId::new(format!("by {}", by.as_str()), agents);
            group.bench_function(name, |bencher| {
                assert!(drawn.answer(cells, by).len() > 100 * agents.min(1000) as usize, "all are there");
                bencher.iter_custom(|times| {
                    let before = used();
                    (0..times).for_each(|_| drop(zipped(&drawn.answer(cells, by))));
                    used() - before
                });
            });
        }
    }
}

criterion_group!(benches, maps);
criterion_main!(benches);
