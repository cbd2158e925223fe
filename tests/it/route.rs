//! The shard of a pid, and the manifest that agents read: what other languages compute, and what is refused.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use proptest::prelude::*;
use serde_json::json;
use tempfile::TempDir;
use varta_fleet::{MANIFEST, Manifest, shard_for, socket_for};

// --- the hash -------------------------------------------------------------------------------------

/// The documented formula, in integers that cannot overflow.
fn formula(key: u32, shards: u32) -> u32 {
    let hash = (u128::from(key) * 2_654_435_761) & 4_294_967_295;
    u32::try_from((hash * u128::from(shards)) >> 32).expect("below `shards`")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_shard_is_what_the_formula_says(key: u32, shards: u32) {
        prop_assert_eq!(shard_for(key, shards), formula(key, shards));
    }

    #[test]
    fn the_shard_exists(key: u32, shards in 1..=u32::MAX) {
        prop_assert!(shard_for(key, shards) < shards);
    }
}

#[test]
fn every_key_is_on_shard_0_of_one_shard_and_of_none() {
    for key in [0, 1, 2, 4_242, 4_194_304, u32::MAX] {
        assert_eq!(shard_for(key, 1), 0);
        assert_eq!(shard_for(key, 0), 0);
    }
}

/// Agents in other languages hard-code the formula: these values may never change.
#[test]
fn known_keys_are_on_known_shards() {
    for (key, shards, shard) in
        [(1, 4, 2), (2, 4, 0), (7, 4, 1), (4242, 8, 5), (32768, 16, 11), (4194303, 32, 25)]
    {
        assert_eq!(shard_for(key, shards), shard, "key {key} of {shards} shards");
    }
}

#[test]
fn the_shell_computes_the_same() {
    // Keys from 2^31 on overflow the shell's 64-bit product; the mask keeps the bits that matter.
    let cases: Vec<(u32, u32)> = [1, 2, 7, 4_242, 32_768, 4_194_303, 2_147_483_648, u32::MAX]
        .into_iter()
        .flat_map(|key| [2, 3, 8, 31, 64, 1_024].map(|shards| (key, shards)))
        .collect();
    let script: String = cases
        .iter()
        .map(|(key, shards)| {
            format!("PID={key} N={shards}; echo $(( ((PID * 2654435761 & 4294967295) * N) >> 32 ));\n")
        })
        .collect();
    let output = Command::new("sh").args(["-c", &script]).output().expect("run sh");
    assert!(output.status.success(), "{output:?}");
    let printed: Vec<u32> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| line.parse().expect("a number a line"))
        .collect();
    let expected: Vec<u32> = cases.iter().map(|&(key, shards)| shard_for(key, shards)).collect();
    assert_eq!(printed, expected, "for {cases:?}");
}

// --- spread ---------------------------------------------------------------------------------------

/// What the documentation of `shard_for` promises.
const BUSIEST: f64 = 1.12;
const FIRST_PIDS: [u32; 4] = [300, 1_001, 32_768, 2_000_000];

/// The load of the busiest shard as a multiple of the mean, the highest over 2 to 32 shards.
fn busiest(keys: impl Iterator<Item = u32> + Clone) -> f64 {
    let over_mean = |shards: u32| {
        let mut load = vec![0_u32; shards as usize];
        for key in keys.clone() {
            load[shard_for(key, shards) as usize] += 1;
        }
        let busiest = load.iter().copied().max().unwrap_or(0);
        f64::from(busiest) * f64::from(shards) / f64::from(load.iter().sum::<u32>())
    };
    (2..=32).map(over_mean).fold(0.0, f64::max)
}

fn strided(first: u32, stride: u32, agents: u32) -> impl Iterator<Item = u32> + Clone {
    (0..agents).map(move |i| first + i * stride)
}

#[test]
fn a_thousand_sequential_or_even_pids_spread() {
    for first in FIRST_PIDS {
        for stride in [1, 2] {
            let ratio = busiest(strided(first, stride, 1_000));
            assert!(ratio <= BUSIEST, "{ratio} from {first} by {stride}");
        }
    }
}

#[test]
fn four_thousand_pids_spread_at_every_stride_of_a_power_of_two() {
    for first in FIRST_PIDS {
        for stride in (2..=10).map(|exponent| 1 << exponent) {
            let ratio = busiest(strided(first, stride, 4_096));
            assert!(ratio <= BUSIEST, "{ratio} from {first} by {stride}");
        }
    }
}

#[test]
fn sixteen_thousand_pids_spread_at_every_stride_up_to_64_and_its_multiples() {
    for first in FIRST_PIDS {
        for stride in (1..64).chain((64..=1_024).step_by(64)) {
            let ratio = busiest(strided(first, stride, 16_384));
            assert!(ratio <= BUSIEST, "{ratio} from {first} by {stride}");
        }
    }
}

/// Random pids: how close the shards are to the mean depends on the number of pids.
#[test]
fn fifty_thousand_random_pids_spread() {
    // xorshift32 with a fixed seed: the same pids in every run.
    let mut state = 0x9747_b28c_u32;
    let pids: Vec<u32> = (0..50_000)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            2 + state % 4_194_302
        })
        .collect();
    let ratio = busiest(pids.iter().copied());
    assert!(ratio <= BUSIEST, "{ratio}");
}

/// The limit of any multiplicative hash: a few strides resonate with its constant. Documents that the spread
/// is not even for all keys; `pid % shards` would put these on one shard.
#[test]
fn a_resonant_stride_triples_the_busiest_shard_and_no_more() {
    let ratio = busiest(strided(300, 615, 4_096));
    assert!((2.0..3.0).contains(&ratio), "{ratio}");
    let worst = (1..=1_024).map(|stride| busiest(strided(300, stride, 4_096))).fold(0.0, f64::max);
    assert!(worst < 3.0, "{worst}");
}

// --- the manifest ---------------------------------------------------------------------------------

fn directory() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

fn sockets(count: u32) -> Vec<PathBuf> {
    (0..count).map(|index| PathBuf::from(format!("/run/varta/shard-{index}.sock"))).collect()
}

/// The error text of reading a manifest with this content; checks that it names the file.
fn refusal(content: &str) -> String {
    let dir = directory();
    let path = dir.path().join(MANIFEST);
    fs::write(&path, content).expect("write a manifest");
    let error = Manifest::read(dir.path()).expect_err("an unusable manifest was accepted");
    assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
    let text = error.to_string();
    let path = path.to_str().expect("UTF-8");
    assert!(text.contains(path) && text.contains("not a fleet manifest"), "{text}");
    // Both functions report the same error.
    let same = socket_for(dir.path(), 4_242).expect_err("an unusable manifest was accepted");
    assert_eq!(same.to_string(), text);
    text
}

#[test]
fn a_manifest_is_read_as_it_was_written() {
    let dir = directory();
    let manifest = Manifest::new(&sockets(3), 815);
    let text = serde_json::to_string(&manifest).expect("plain data");
    fs::write(dir.path().join(MANIFEST), text).expect("write a manifest");
    assert_eq!(Manifest::read(dir.path()).expect("its own manifest"), manifest);
}

/// A relative path in a manifest is relative to the directory it is read from.
#[test]
fn a_relative_socket_is_in_the_directory_that_was_read() {
    let dir = directory();
    let written = [PathBuf::from("shard-0.sock"), PathBuf::from("/srv/shard-1.sock")];
    let text = serde_json::to_string(&Manifest::new(&written, 815)).expect("plain data");
    fs::write(dir.path().join(MANIFEST), text).expect("write a manifest");
    let expected = [dir.path().join("shard-0.sock"), PathBuf::from("/srv/shard-1.sock")];
    assert_eq!(Manifest::read(dir.path()).expect("its own manifest"), Manifest::new(&expected, 815));
    for key in [2, 300, 4_242] {
        let socket = socket_for(dir.path(), key).expect("a good manifest");
        assert_eq!(socket, expected[shard_for(key, 2) as usize]);
    }
}

/// Agents in other languages read this file: its layout is a contract.
#[test]
fn a_manifest_has_the_documented_shape() {
    let written = serde_json::to_value(Manifest::new(&sockets(2), 815)).expect("plain data");
    let documented = json!({
        "version": 1,
        "hash": "fibonacci32",
        "shards": [
            { "index": 0, "socket": "/run/varta/shard-0.sock" },
            { "index": 1, "socket": "/run/varta/shard-1.sock" },
        ],
        "pid": 815,
    });
    assert_eq!(written, documented);
}

/// A later observer may add fields without cutting off agents that know this layout.
#[test]
fn an_unknown_field_of_a_manifest_is_ignored() {
    let mut value = serde_json::to_value(Manifest::new(&sockets(2), 815)).expect("plain data");
    value["generation"] = json!(3);
    value["shards"][0]["core"] = json!(5);
    let dir = directory();
    fs::write(dir.path().join(MANIFEST), value.to_string()).expect("write a manifest");
    assert_eq!(Manifest::read(dir.path()).expect("a known layout"), Manifest::new(&sockets(2), 815));
}

#[test]
fn an_agent_is_sent_to_the_socket_of_its_shard() {
    let dir = directory();
    let manifest = Manifest::new(&sockets(5), 815);
    let text = serde_json::to_string(&manifest).expect("plain data");
    fs::write(dir.path().join(MANIFEST), text).expect("write a manifest");
    for key in [2, 300, 4_242, 4_194_303, u32::MAX] {
        let expected = PathBuf::from(format!("/run/varta/shard-{}.sock", shard_for(key, 5)));
        assert_eq!(manifest.socket_for(key), expected);
        assert_eq!(socket_for(dir.path(), key).expect("a good manifest"), expected);
    }
}

#[test]
fn a_missing_manifest_asks_whether_a_fleet_runs() {
    let dir = directory();
    for dir in [dir.path(), &dir.path().join("absent")] {
        let error = Manifest::read(dir).expect_err("there is none");
        assert_eq!(error.kind(), ErrorKind::NotFound);
        let text = error.to_string();
        for part in ["cannot read", path_text(dir), MANIFEST, "no such file", "is a fleet running there?"] {
            assert!(text.contains(part), "{part:?} is not in {text:?}");
        }
    }
}

#[test]
fn what_is_not_json_is_refused_with_the_place() {
    for content in ["", "not json", "{\"version\": 1,", "[]", "{}", "{\"version\": \"one\"}"] {
        let text = refusal(content);
        assert!(text.contains("line 1 column"), "{content:?}: {text}");
    }
}

#[test]
fn another_version_is_refused_as_such() {
    let mut value = serde_json::to_value(Manifest::new(&sockets(2), 815)).expect("plain data");
    value["version"] = json!(2);
    let text = refusal(&value.to_string());
    assert!(text.contains("version 2") && text.contains("knows 1"), "{text}");
}

/// Another version may have another layout: the error is about the version.
#[test]
fn another_version_of_another_shape_is_refused_for_its_version() {
    for content in [
        json!({ "version": 2 }),
        json!({ "version": 2, "rings": [] }),
        json!({ "version": 2, "hash": 7, "shards": {} }),
    ] {
        let text = refusal(&content.to_string());
        assert!(text.contains("version 2") && text.contains("knows 1"), "{text}");
    }
}

#[test]
fn another_hash_is_refused_as_such() {
    let mut value = serde_json::to_value(Manifest::new(&sockets(2), 815)).expect("plain data");
    value["hash"] = json!("modulo");
    let text = refusal(&value.to_string());
    assert!(text.contains("\"modulo\"") && text.contains("knows \"fibonacci32\""), "{text}");
}

#[test]
fn misnumbered_shards_are_refused() {
    for numbers in [vec![1, 2], vec![1, 0], vec![0, 2], vec![0, 0], vec![5]] {
        let mut value =
            serde_json::to_value(Manifest::new(&sockets(2)[..numbers.len()], 815)).expect("plain data");
        for (position, number) in numbers.iter().enumerate() {
            value["shards"][position]["index"] = json!(number);
        }
        let text = refusal(&value.to_string());
        assert!(text.contains("not numbered 0, 1, 2"), "{numbers:?}: {text}");
    }
}

#[test]
fn no_shards_at_all_are_refused_as_such() {
    let value = serde_json::to_value(Manifest::new(&[], 815)).expect("plain data");
    let text = refusal(&value.to_string());
    assert!(text.contains("names no shard"), "{text}");
}

fn path_text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}
