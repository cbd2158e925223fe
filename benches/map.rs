//! What does the map of the status page cost, of ten thousand agents and of a hundred thousand?

use std::io::Write as _;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use flate2::Compression;
use flate2::write::GzEncoder;
use varta_fleet::api::GroupBy;
use varta_fleet::bench::{Drawn, sources};

/// The answer as it is sent.
fn zipped(answer: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(answer).expect("memory");
    encoder.finish().expect("memory")
}

fn maps(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("map");
    group.sample_size(20);
    for (agents, cells) in [(4_000, 4096), (10_000, 4096), (100_000, 2048)] {
        let drawn = Drawn::of(sources(4), agents);
        for by in [GroupBy::Comm, GroupBy::Shard] {
            let name = BenchmarkId::new(format!("by {}", by.as_str()), agents);
            group.bench_function(name, |bencher| bencher.iter(|| zipped(&drawn.answer(cells, by))));
        }
    }
}

criterion_group!(benches, maps);
criterion_main!(benches);
