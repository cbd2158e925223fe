//! Checks of values that several keys share.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::plan::ShardPlan;
use super::problem::ConfigProblem;
use super::values::written;
use crate::message::{Reason, is_deceptive};
use crate::process::unit::UNIT_SUFFIXES;
use crate::route::MANIFEST;
use crate::rundir::names::{CONTROL, LOCK, SYMLINK};

/// Files in the runtime directory that are neither sockets of shards nor events. The symlink is not
/// among them: a shard's socket may be bound in its place.
pub(super) const OWN_FILES: [(&str, &str); 3] =
    [(LOCK, "lock"), (MANIFEST, "manifest"), (CONTROL, "control socket")];

/// Refuses paths with control or invisible characters: paths are printed, one on each line, and read by
/// scripts.
pub(super) fn judge_characters(key: &str, path: &Path, problems: &mut Vec<ConfigProblem>) {
    // A character that no path can contain was reported before.
    let is_told = problems.iter().any(|problem| problem.key == key);
    if !is_told && path.to_string_lossy().contains(is_deceptive) {
        let why = "it holds characters that control a terminal or cannot be seen";
        problems.push(ConfigProblem::refused(key, format!("{path:?}"), why, "name another path"));
    }
}

/// Whether the duration is in the range; reports a problem if not.
pub(super) fn in_range(
    key: &str,
    value: Duration,
    range: std::ops::RangeInclusive<Duration>,
    problems: &mut Vec<ConfigProblem>,
) -> bool {
    if range.contains(&value) {
        return true;
    }
    let (least, most) = (written(*range.start()), written(*range.end()));
    let why = if value < *range.start() {
        format!("it is shorter than {least}")
    } else {
        format!("it is longer than {most}")
    };
    let value = format!("\"{}\"", written(value));
    problems.push(ConfigProblem::refused(
        key,
        value,
        why,
        format!("write a duration from {least} to {most}"),
    ));
    false
}

/// The path made absolute; a relative one starts in the current directory.
pub(super) fn absolute(key: &str, path: &Path, problems: &mut Vec<ConfigProblem>) -> PathBuf {
    let mut refused = |why: String, fix: &str| {
        problems.push(ConfigProblem::refused(key, format!("{path:?}"), why, fix));
        path.to_owned()
    };
    if path.as_os_str().is_empty() {
        return refused("it is empty".to_owned(), "write a path, or leave it out");
    }
    if path.as_os_str().as_bytes().contains(&0) {
        return refused("it contains a NUL byte, and no path can".to_owned(), "take it out");
    }
    match std::path::absolute(path) {
        Ok(path) => path,
        Err(error) => refused(
            format!("it is relative to a directory that cannot be found: {}", Reason(&error)),
            "write it from / on",
        ),
    }
}

/// Whether a socket can have this path.
pub(super) fn names_a_file(path: &Path) -> bool {
    let bytes = path.as_os_str().as_bytes();
    path.file_name().is_some() && !bytes.ends_with(b"/") && !bytes.contains(&0)
}

/// What is written is appended to an existing file: it must not be one that the observer needs.
pub(super) fn judge_output(
    key: &str,
    path: &Path,
    dir: &Path,
    shards: &[&ShardPlan],
    problems: &mut Vec<ConfigProblem>,
) {
    let own = OWN_FILES.iter().chain(&[(SYMLINK, "symlink")]);
    let file = own
        .filter(|(name, _)| dir.join(name) == path)
        .map(|(_, whose)| format!("the observer's own {whose}"));
    let socket = (0..)
        .zip(shards)
        .filter(|(_, shard): &(usize, _)| shard.socket == path)
        .map(|(i, _)| format!("the socket of shard {i}"));
    if let Some(what) = file.chain(socket).next() {
        let why = format!("it is {what}");
        problems.push(ConfigProblem::refused(key, format!("{path:?}"), why, "name another file"));
    }
}

/// Whether the names that a pattern matches may end as those of units.
pub(super) fn may_end_as_unit(pattern: &str) -> bool {
    let end = pattern.rsplit(['*', '?']).next().unwrap_or_default();
    let is_whole = end.len() == pattern.len();
    UNIT_SUFFIXES.iter().any(|suffix| end.ends_with(suffix) || !is_whole && suffix.ends_with(end))
}

/// Refuses a pattern for units that matches nothing. `matches`: the full name of the table that it is in.
pub(super) fn judge_unit_pattern(matches: &str, pattern: Option<&str>, problems: &mut Vec<ConfigProblem>) {
    let Some(pattern) = pattern else { return };
    let is_of_names = |c: char| c.is_ascii_alphanumeric() || ":_.\\@-*?".contains(c);
    let why = if pattern.is_empty() {
        "it is empty and matches nothing"
    } else if !pattern.chars().all(is_of_names) {
        "it has a character that no name of a unit has, so it matches nothing"
    } else if !may_end_as_unit(pattern) {
        "the names of units end in .service or .scope, so it matches nothing"
    } else {
        return;
    };
    let fix = "write the name of a unit or a pattern, such as \"worker@*.service\"";
    problems.push(ConfigProblem::refused(&format!("{matches}.unit"), format!("{pattern:?}"), why, fix));
}

/// Refuses patterns for names and programs that match nothing. `matches`: the full name of the table that they are in.
pub(super) fn judge_patterns(
    matches: &str,
    comm: Option<&str>,
    exe: Option<&str>,
    problems: &mut Vec<ConfigProblem>,
) {
    if let Some(pattern) = comm {
        let key = format!("{matches}.comm");
        let refused = |why, fix| ConfigProblem::refused(&key, format!("{pattern:?}"), why, fix);
        if pattern.is_empty() {
            problems.push(refused(
                "it is empty and matches nothing",
                "write a name or a pattern, such as \"batch-*\"",
            ));
        } else if pattern.len() > 15 {
            problems.push(refused(
                "it is longer than 15 bytes, and the kernel keeps only 15 of a name, so it matches nothing",
                "shorten it and end it with *, or match by exe",
            ));
        }
    }
    if let Some(pattern) = exe
        && !pattern.starts_with(['/', '*', '?'])
    {
        problems.push(ConfigProblem::refused(
            &format!("{matches}.exe"),
            format!("{pattern:?}"),
            "exe is an absolute path, so it matches nothing",
            "begin it with / or *",
        ));
    }
}
