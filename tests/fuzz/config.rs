//! Any text as configuration: no panic, and either a valid plan or problems that name what is wrong, why, and
//! what to do.
//!
//! Input: the TOML file, then after each NUL one `key=value` of the environment.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use varta_fleet::config::{Layers, Origin};

const MS: u64 = 1_000_000;
const DAY_NS: u64 = 24 * 3600 * 1000 * MS;

fuzz_target!(|input: &[u8]| {
    let text = String::from_utf8_lossy(input);
    let mut parts = text.split('\0');
    let mut layers = Layers::default();
    layers.toml(parts.next().unwrap_or_default(), Path::new("varta.toml"));
    for part in parts {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        layers.set(key, value, Origin::Environment);
    }
    let planned = layers.plan();
    assert_eq!(planned, layers.plan(), "the same text, the same word");
    let plan = match planned {
        Ok(plan) => plan,
        Err(error) => {
            assert!(!error.problems().is_empty());
            for problem in error.problems() {
                assert!(!problem.why.is_empty() && !problem.fix.is_empty(), "{problem:?}");
                assert_eq!(problem.to_string().lines().count(), 1, "{problem}");
            }
            return;
        }
    };
    assert!(plan.dir.is_absolute());
    assert!((1..=64).contains(&plan.shards.len()));
    assert!(plan.agents_max as usize >= plan.shards.len());
    assert!((MS..=1000 * MS).contains(&plan.tick_ns) && plan.max_delay_ns <= 100 * MS);
    assert!(plan.control_writers.is_sorted() && plan.control_writers.len() <= 64);
    assert!(plan.rules.len() <= 200);
    for threshold_ns in plan.rules.iter().map(|rule| rule.threshold_ns).chain([plan.threshold_ns]) {
        assert!((10 * MS..=DAY_NS).contains(&threshold_ns));
        assert!(plan.tick_ns <= threshold_ns / 2 && plan.max_delay_ns <= threshold_ns / 4);
        assert!((plan.threshold_min_ns()..=plan.threshold_max_ns()).contains(&threshold_ns));
    }
    for (index, shard) in plan.shards.iter().enumerate() {
        assert!(shard.socket.is_absolute() && shard.socket.as_os_str().len() <= 107);
        assert!(plan.shards[..index].iter().all(|other| other.socket != shard.socket));
        assert!(shard.allow_uids.as_ref().is_none_or(|uids| uids.is_sorted()));
    }
});
