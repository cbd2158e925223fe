//! What `scripts/package` makes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// A version above any that is released.
pub const NEXT: &str = "99.0";

/// A directory with all packages of this tree, and the .deb once more as version [`NEXT`].
pub fn packages() -> &'static Path {
    static PACKAGES: OnceLock<PathBuf> = OnceLock::new();
    PACKAGES.get_or_init(|| {
        let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("packages");
        let _ = fs::remove_dir_all(&out);
        for arguments in [&[][..], &["deb", "--version", NEXT]] {
            let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/package"));
            let output =
                command.args(["--quick", "--out"]).arg(&out).args(arguments).output().expect("run it");
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "scripts/package {arguments:?}: {}\n{said}", output.status);
        }
        out
    })
}

/// The only package whose name has this start and end.
pub fn made(start: &str, end: &str) -> PathBuf {
    let all = fs::read_dir(packages()).expect("packages").map(|entry| entry.expect("an entry").path());
    let is = |path: &PathBuf| {
        let name = path.file_name().expect("it has one").to_string_lossy();
        name.starts_with(start) && name.ends_with(end)
    };
    let found: Vec<_> = all.filter(is).collect();
    let [one] = &found[..] else { panic!("{start}…{end}: {found:?}") };
    one.clone()
}

/// The path of the .deb of this version where [`Rig::bare`](super::Rig::bare) shows [`packages`].
pub fn deb(version: &str) -> String {
    let path = made(&format!("varta-fleet_{version}"), ".deb");
    format!("/packages/{}", path.file_name().expect("it has one").to_string_lossy())
}
