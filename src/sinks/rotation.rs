//! Renames a log before it grows too large: `log` becomes `log.1`, `log.1` becomes `log.2`, the oldest is
//! removed.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

/// When a file is rotated, and how many old files are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// Largest size of a file, unless a single line is larger.
    pub bytes_max: u64,
    /// Old files kept; at least one.
    pub keep: u32,
}

impl Rotation {
    /// How many bytes from the front of `lines` still fit into a file of `size` bytes, in whole lines; 0:
    /// none.
    pub fn share(&self, size: u64, lines: &[u8]) -> usize {
        let room = usize::try_from(self.bytes_max.saturating_sub(size)).unwrap_or(usize::MAX);
        if lines.len() <= room {
            return lines.len();
        }
        let end_of = |part: &[u8]| part.iter().rposition(|byte| *byte == b'\n').map(|last| last + 1);
        match end_of(&lines[..room]) {
            Some(end) => end,
            // A line larger than any file gets a file of its own.
            None if size == 0 => first_line(lines),
            None => 0,
        }
    }

    /// Renames the file at `path` and the old files. If interrupted, it has lost at most the oldest file,
    /// which was to be removed.
    pub fn make_room(&self, path: &Path) -> io::Result<()> {
        for number in (1..self.keep.max(1)).rev() {
            move_if_there(&numbered(path, number), &numbered(path, number + 1))?;
        }
        move_if_there(path, &numbered(path, 1))
    }
}

/// Length of the first line, newline included; of everything if there is no newline.
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
