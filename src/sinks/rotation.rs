//! A log that would grow too large is renamed away: `log` becomes `log.1`, `log.1` becomes `log.2`, the oldest goes.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

/// When a file is renamed away, and how many are kept beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// Size that a file does not exceed, unless a single line does.
    pub bytes_max: u64,
    /// Files kept beside the one that is written; at least one.
    pub keep: u32,
}

impl Rotation {
    /// How many bytes from the front of `lines` still belong into a file of `size` bytes: whole lines. 0: none does.
    pub fn share(&self, size: u64, lines: &[u8]) -> usize {
        let room = usize::try_from(self.bytes_max.saturating_sub(size)).unwrap_or(usize::MAX);
        if lines.len() <= room {
            return lines.len();
        }
        let end_of = |part: &[u8]| part.iter().rposition(|byte| *byte == b'\n').map(|last| last + 1);
        match end_of(&lines[..room]) {
            Some(end) => end,
            // A line that is larger than any file has one of its own.
            None if size == 0 => first_line(lines),
            None => 0,
        }
    }

    /// Moves what is at `path` out of the way. Interrupted in the middle, it has lost nothing but perhaps the oldest,
    /// which was to go.
    pub fn make_room(&self, path: &Path) -> io::Result<()> {
        for number in (1..self.keep.max(1)).rev() {
            move_if_there(&numbered(path, number), &numbered(path, number + 1))?;
        }
        move_if_there(path, &numbered(path, 1))
    }
}

/// Length of the first line, newline included; of everything if none ends.
pub fn first_line(lines: &[u8]) -> usize {
    lines.iter().position(|byte| *byte == b'\n').map_or(lines.len(), |last| last + 1)
}

fn move_if_there(from: &Path, to: &Path) -> io::Result<()> {
    match std::fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        moved => moved,
    }
}

fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(format!(".{number}"));
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_takes_whole_lines_and_at_least_one() {
        let rotation = Rotation { bytes_max: 10, keep: 1 };
        assert_eq!(rotation.share(0, b"abc\ndef\n"), 8);
        assert_eq!(rotation.share(0, b"abc\ndef\nghi\n"), 8);
        assert_eq!(rotation.share(4, b"abc\ndef\n"), 4);
        assert_eq!(rotation.share(8, b"abc\n"), 0);
        assert_eq!(rotation.share(11, b"abc\n"), 0);
        assert_eq!(rotation.share(0, b"0123456789abc\nd\n"), 14);
    }

    #[test]
    fn the_oldest_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let rotation = Rotation { bytes_max: 1, keep: 2 };
        for content in ["a", "b", "c"] {
            std::fs::write(&path, content).unwrap();
            rotation.make_room(&path).unwrap();
        }
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).ok();
        assert_eq!((read("log"), read("log.1"), read("log.2")), (None, Some("c".into()), Some("b".into())));
        assert_eq!(read("log.3"), None);
    }
}
