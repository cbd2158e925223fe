//! The sources of a fleet that does not run, for tests and benches.

use std::path::PathBuf;
use std::sync::Arc;

use crate::config::Config;
use crate::history::History;
#[cfg(feature = "bench")]
use crate::http::metrics::{Reading, openmetrics_text};
#[cfg(feature = "bench")]
use crate::http::traffic::Traffic;
use crate::http::{Sources, Terms, TermsInForce};
use crate::lane::Port;
use crate::lane::kick::Kick;
use crate::process::names::Names;
use crate::table::{self, Header};
use crate::time::{MonoNs, WallNs};
use crate::view::copies::Copies;
use crate::view::health::Vitals;
use crate::view::tally::Tally;

/// What it publishes.
///
/// # Panics
/// Without memory.
#[expect(clippy::unwrap_used, reason = "for tests and benches")]
pub fn sources(shards: u16) -> Sources {
    let dir = PathBuf::from("/run/test");
    let config = Config { dir: Some(dir.clone()), shards: Some(shards.into()), ..Config::default() };
    let port = |shard| {
        let header = Header { boot_id: 0, pid_namespace: 0, shard, shards };
        let (_, table) = table::create(8, header).unwrap();
        Arc::new(Port::new(table, Arc::new(Kick::new().unwrap()), false).unwrap())
    };
    let ports: Arc<[Arc<Port>]> = (0..shards).map(port).collect();
    let plan = config.plan().unwrap();
    let vitals = Vitals::new(Arc::clone(&ports), Arc::default());
    Sources {
        ports,
        copies: Arc::new(Copies::of(Tally::of_shards(shards.into()))),
        history: Arc::new(History::create(0, 0, 0).unwrap()),
        names: Arc::new(Names::new(shards.into())),
        vitals,
        output: Arc::default(),
        terms: Arc::new(TermsInForce::new(Terms::of(&plan))),
        plan,
        act: Arc::default(),
        reloader: Arc::default(),
        dir,
        is_raised: [true; 2],
        run: 2,
        started: (MonoNs(1), WallNs(2)),
        address: None,
    }
}

/// One scrape of it.
#[cfg(feature = "bench")]
pub fn scrape(sources: &Arc<Sources>) -> String {
    openmetrics_text(Reading::take(sources, Traffic::default(), 0, sources.now()))
}

/// The same, with so many agents that beat and as many latencies of each kind.
#[cfg(feature = "bench")]
pub fn busy(shards: u16, agents: u64) -> Arc<Sources> {
    let sources = sources(shards);
    let mut tally = Tally::of_shards(shards.into());
    for shard in &mut tally.shards {
        shard.up = agents / u64::from(shards);
        for latency in 0..agents.min(100_000) {
            shard.histograms.queue_ns.saturating_record(latency * 97 % 5_000_000);
            shard.histograms.decode_ns.saturating_record(latency * 31 % 20_000);
            shard.histograms.lateness_ns.saturating_record(latency * 101 % 11_000_000);
        }
    }
    sources.copies.keep(tally);
    Arc::new(sources)
}
