//! What does a scrape cost, of ten agents and of a million?

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use varta_fleet::bench::{busy_sources, scrape};

fn scrapes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("scrape");
    for (shards, agents) in [(1, 10), (4, 10), (4, 1_000_000), (64, 1_000_000)] {
        let sources = busy_sources(shards, agents);
        let name = BenchmarkId::new(format!("{shards} shards"), agents);
        group.bench_function(name, |bencher| bencher.iter(|| scrape(&sources)));
    }
}

criterion_group!(benches, scrapes);
criterion_main!(benches);
