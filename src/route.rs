//! Which shard an agent beats on: a hash of a stable 32-bit key, normally its pid.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::message::{Reason, Shown, is_deceptive};

/// Name of the manifest in the runtime directory.
pub const MANIFEST: &str = "fleet.json";
/// Name of the only hash, as in the manifest.
pub const HASH: &str = "fibonacci32";
const MANIFEST_VERSION: u32 = 1;

/// The shard, in `0..shards`, that the key maps to.
///
/// `key` is the agent's pid, or any other stable number where pids repeat (in containers). Multiplies by a
/// prime next to 2^32 over the golden ratio and scales; in any language with 64-bit integers: `((key *
/// 2654435761 & 4294967295) * shards) >> 32`. 0 for `shards` = 0. A few ns.
///
/// With 2 to 32 shards the busiest has at most 1.12 times the mean load for a thousand sequential or even
/// keys, for 4096 keys a power of two apart (up to 1024), and for 16 384 keys any other step up to 64 apart.
/// A few steps resonate with the constant: 4096 keys exactly 615 apart load one of 32 shards with three times
/// the mean. 50 000 random keys stay within 1.12 (`tests/it/route.rs`).
#[inline]
#[must_use]
pub const fn shard_for(key: u32, shards: u32) -> u32 {
    let hash = key.wrapping_mul(0x9E37_79B1) as u64;
    ((hash * shards as u64) >> 32) as u32
}

/// What agents need to find their shard: the content of `fleet.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Layout of this file: 1.
    pub version: u32,
    /// Name of the hash: `fibonacci32`, [`shard_for`].
    pub hash: String,
    /// Every shard, ordered by index.
    pub shards: Vec<ManifestShard>,
    /// Paths of the sockets for daemons that speak the protocol of sd_notify(3), if there are any; as for shards.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notify: Vec<PathBuf>,
    /// Process id of the observer.
    pub pid: u32,
}

/// One shard of the manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestShard {
    /// Number of the shard, from 0.
    pub index: u32,
    /// Path of its socket. In the file, a relative path begins at the directory of the file, so that it holds
    /// wherever that directory is mounted; as read, it begins with the directory that was read.
    pub socket: PathBuf,
}

/// Common to every version of the manifest.
#[derive(Deserialize)]
struct Layout {
    version: u32,
}

impl Manifest {
    /// The manifest of an observer with process id `pid` and these sockets, ordered by shard.
    #[must_use]
    pub fn new(sockets: &[PathBuf], pid: u32) -> Self {
        let shards =
            (0..).zip(sockets).map(|(index, socket)| ManifestShard { index, socket: socket.clone() });
        Self {
            version: MANIFEST_VERSION,
            hash: HASH.to_owned(),
            shards: shards.collect(),
            notify: Vec::new(),
            pid,
        }
    }

    /// The same, with these sockets for daemons.
    #[must_use]
    pub fn with_notify(mut self, sockets: &[PathBuf]) -> Self {
        self.notify = sockets.to_vec();
        self
    }

    /// Reads the manifest of the fleet that runs in `dir`; paths of sockets in `dir` begin with `dir`. Reads
    /// one small file; may block on the disk.
    ///
    /// # Errors
    /// `NotFound` if no fleet runs there; `InvalidData` if the file is not a manifest that this version can
    /// read.
    pub fn read(dir: &Path) -> io::Result<Self> {
        let path = dir.join(MANIFEST);
        let text = std::fs::read_to_string(&path).map_err(|error| {
            io::Error::new(
                error.kind(),
                format!(
                    "cannot read {}: {}; is a fleet running there?",
                    Shown(path.display()),
                    Reason(&error)
                ),
            )
        })?;
        let invalid = |why: String| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{} is not a fleet manifest: {why}", Shown(path.display())),
            )
        };
        let not_json = |error: serde_json::Error| invalid(error.to_string());
        // The version first: another version may have another layout, and the version is then the error to
        // report.
        let Layout { version } = serde_json::from_str(&text).map_err(not_json)?;
        if version != MANIFEST_VERSION {
            return Err(invalid(format!("version {version} (this program knows {MANIFEST_VERSION})")));
        }
        let mut manifest: Self = serde_json::from_str(&text).map_err(not_json)?;
        if manifest.hash != HASH {
            return Err(invalid(format!("hash {:?} (this program knows {HASH:?})", manifest.hash)));
        }
        if manifest.shards.is_empty() {
            return Err(invalid("it names no shard".to_owned()));
        }
        let is_harmless = |socket: &PathBuf| !socket.to_string_lossy().contains(is_deceptive);
        if !manifest.shards.iter().map(|shard| &shard.socket).chain(&manifest.notify).all(is_harmless) {
            return Err(invalid("a socket's path holds control characters".to_owned()));
        }
        if !(0..).zip(&manifest.shards).all(|(index, shard)| shard.index == index) {
            return Err(invalid("its shards are not numbered 0, 1, 2…".to_owned()));
        }
        for shard in &mut manifest.shards {
            shard.socket = dir.join(&shard.socket);
        }
        for socket in &mut manifest.notify {
            *socket = dir.join(&*socket);
        }
        Ok(manifest)
    }

    /// The socket an agent with this key sends to.
    #[must_use]
    pub fn socket_for(&self, key: u32) -> &Path {
        let shards = u32::try_from(self.shards.len()).unwrap_or(u32::MAX);
        &self.shards[shard_for(key, shards) as usize].socket
    }
}

/// The socket that the agent with this key sends to, in the fleet that runs in `dir`.
///
/// Reads the manifest, so it may block on the disk: call it once, when connecting.
///
/// # Errors
/// As [`Manifest::read`].
pub fn socket_for(dir: &Path, key: u32) -> io::Result<PathBuf> {
    Ok(Manifest::read(dir)?.socket_for(key).to_owned())
}
