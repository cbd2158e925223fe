//! Any bytes as `fleet.json`: no panic, and an accepted manifest routes every key to a shard.

#![no_main]

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use varta_fleet::{MANIFEST, Manifest};

/// The directory of the file that this process writes and reads; in memory if possible.
static DIRECTORY: LazyLock<PathBuf> = LazyLock::new(|| {
    let memory = PathBuf::from("/dev/shm");
    let parent = if memory.is_dir() { memory } else { std::env::temp_dir() };
    let directory = parent.join(format!("varta-fuzz-manifest-{}", std::process::id()));
    fs::create_dir_all(&directory).expect("a directory for one file");
    directory
});

fuzz_target!(|input: &[u8]| {
    let path = DIRECTORY.join(MANIFEST);
    fs::write(&path, input).expect("write the file");
    let read = Manifest::read(&DIRECTORY);
    fs::remove_file(&path).expect("remove the file");
    let manifest = match read {
        Ok(manifest) => manifest,
        Err(error) => {
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            assert!(error.to_string().contains(MANIFEST), "{error}: does not say which file");
            return;
        }
    };
    for key in [0, 1, 4711, u32::MAX / 2, u32::MAX] {
        let socket = manifest.socket_for(key);
        assert!(manifest.shards.iter().any(|shard| shard.socket == socket));
    }
    fs::write(&path, serde_json::to_vec(&manifest).expect("plain data")).expect("write the file");
    let again = Manifest::read(&DIRECTORY);
    fs::remove_file(&path).expect("remove the file");
    assert_eq!(again.expect("what was accepted is accepted again"), manifest);
});
