//! Where the bytes of an output go: a file, a FIFO or standard output. A file or FIFO is followed by its
//! path.
//!
//! - **File.** Opened in append mode, created with mode 0640 less the umask. Before each write it is compared
//!   with the file at its path: if that was renamed or removed, the path is opened (or created) again. A file
//!   shorter than what was written to it was truncated by another process.
//! - **FIFO.** Opened without blocking. A missing reader is no error at start. If the FIFO is replaced, the
//!   new one is opened.
//! - **Standard output.** Other processes share the descriptor, so it is not set non-blocking: it is polled
//!   for room, and a write is no larger than what a pipe with room accepts without blocking.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::rotation::{Rotation, first_line};
use crate::config::plan::Output;
use crate::message::{Reason, Shown};

/// A pipe that polls writable accepts this much without blocking: PIPE_BUF, pipe(7).
const PIPE_ROOM_BYTES: usize = 4096;
/// Pause before a failed rotation is tried again.
const ROTATE_AGAIN: Duration = Duration::from_secs(10);

/// The target of the bytes; scripted in tests.
pub trait Sink: Send {
    /// Makes sure that the next write goes to the file now at the output's path.
    fn look(&mut self) -> io::Result<Look> {
        Ok(Look::Same)
    }
    /// Another writer has finished with the same output since it was opened: its end is another one now.
    fn begin(&mut self) {}
    /// Makes the next look open the path anew, even if the file there is the same.
    fn reopen(&mut self) {}
    /// Writes some of `bytes` from the front. `WouldBlock`: no room now.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;
    /// Error number of a rotation that failed; the full file is still written to.
    fn unrotated(&self) -> Option<i32> {
        None
    }
    /// Sleeps until there may be room, at most `timeout`.
    fn wait_for_room(&self, timeout: Duration);
    /// Whether EPIPE is final: no new reader can come.
    fn is_gone_after_epipe(&self) -> bool;
    /// Whether the existing content ends in the middle of a line.
    fn ends_mid_line(&self) -> bool;
}

/// The result of a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// The file that was written to before.
    Same,
    /// Another file, now open: a line begun in the old file must begin again.
    Other,
    /// The same file, truncated by another process: lines may be lost.
    Cut,
}

/// Why an output cannot be opened: what, where, why, and what to do.
#[derive(Debug, thiserror::Error)]
#[error("cannot open event output {}: {}; {remedy}", Shown(.path.display()), Reason(.why))]
struct OpenError {
    path: PathBuf,
    why: io::Error,
    remedy: String,
}

/// An output that is a descriptor of the kernel.
pub struct Descriptor {
    output: Output,
    rotation: Option<Rotation>,
    /// `None`: a FIFO that has had no reader so far.
    file: Option<File>,
    /// A pipe, socket or terminal that is shared and may block.
    may_block: bool,
    ends_mid_line: bool,
    /// The last byte written ended a line.
    is_between_lines: bool,
    is_to_be_reopened: bool,
    /// Size of a regular file opened by path, as of the last write; else 0.
    size: u64,
    unrotated: Option<(i32, Instant)>,
}

impl Descriptor {
    /// Opens the output. A file with a `rotation` is rotated when it is full.
    ///
    /// # Errors
    /// The output cannot be opened. The kind is the kernel's; the text names the path and what to do.
    pub fn open(output: Output, rotation: Option<Rotation>) -> io::Result<Self> {
        match &output {
            Output::Stdout => {
                let file = File::from(io::stdout().as_fd().try_clone_to_owned()?);
                Self::shared(file)
            }
            Output::File(path) => {
                let file = match open_to_append(path) {
                    Ok(file) => Some(file),
                    Err(error) if has_no_reader(path, &error) => None,
                    Err(error) => return Err(refusal(path, error)),
                };
                let mut descriptor = Self::of(output, rotation, false);
                if let Some(file) = file {
                    descriptor.adopt(file);
                }
                Ok(descriptor)
            }
        }
    }

    /// Standard output, which other processes share.
    pub fn shared(file: File) -> io::Result<Self> {
        let may_block = !file.metadata()?.is_file();
        let mut descriptor = Self::of(Output::Stdout, None, may_block);
        descriptor.file = Some(file);
        Ok(descriptor)
    }

    const fn of(output: Output, rotation: Option<Rotation>, may_block: bool) -> Self {
        Self {
            output,
            rotation,
            file: None,
            may_block,
            ends_mid_line: false,
            is_between_lines: true,
            is_to_be_reopened: false,
            size: 0,
            unrotated: None,
        }
    }

    /// Device and inode of the file, if one is open.
    pub fn file(&self) -> Option<(u64, u64)> {
        let found = self.file.as_ref()?.metadata().ok()?;
        Some((found.dev(), found.ino()))
    }

    /// Makes `file` the target of all further writes.
    fn adopt(&mut self, file: File) {
        self.ends_mid_line = ends_mid_line(&file);
        self.size = file.metadata().ok().filter(Metadata::is_file).map_or(0, |found| found.size());
        self.is_between_lines = true;
        self.is_to_be_reopened = false;
        self.file = Some(file);
    }

    /// How much of `bytes` to write to the open file. Rotates first if none of them fits.
    fn share(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (Some(rotation), Output::File(path), Some(file)) = (self.rotation, &self.output, &self.file)
        else {
            return Ok(bytes.len());
        };
        if !self.is_between_lines {
            return Ok(first_line(bytes));
        }
        let share = rotation.share(self.size, bytes);
        let is_soon = self.unrotated.is_some_and(|(_, at)| at.elapsed() < ROTATE_AGAIN);
        if share > 0 || is_soon || !file.metadata()?.is_file() {
            return Ok(if share > 0 { share } else { bytes.len() });
        }
        if let Err(error) = rotation.make_room(path) {
            self.unrotated = Some((error.raw_os_error().unwrap_or(libc::EIO), Instant::now()));
            return Ok(bytes.len());
        }
        self.unrotated = None;
        let file = open_to_append(path)?;
        self.adopt(file);
        Ok(rotation.share(self.size, bytes).max(first_line(bytes)))
    }
}

impl Sink for Descriptor {
    fn look(&mut self) -> io::Result<Look> {
        let Output::File(path) = &self.output else { return Ok(Look::Same) };
        let Some(file) = &self.file else {
            let file = open_to_append(path)?;
            self.adopt(file);
            return Ok(Look::Same);
        };
        let found = file.metadata()?;
        if self.is_to_be_reopened || is_elsewhere(path, &found) {
            let opened = open_to_append(path)?;
            if !is_same(&found, &opened.metadata()?) {
                self.adopt(opened);
                return Ok(Look::Other);
            }
            self.is_to_be_reopened = false;
            self.file = Some(opened);
        }
        if !found.is_file() {
            return Ok(Look::Same);
        }
        let is_cut = found.size() < self.size;
        self.size = found.size();
        if !is_cut {
            return Ok(Look::Same);
        }
        self.is_between_lines = true;
        self.ends_mid_line = self.file.as_ref().is_some_and(ends_mid_line);
        Ok(Look::Cut)
    }

    fn begin(&mut self) {
        // If it cannot be opened any more, the first look finds that again.
        if let Output::File(path) = &self.output
            && let Ok(file) = open_to_append(path)
        {
            self.adopt(file);
        }
    }

    fn reopen(&mut self) {
        self.is_to_be_reopened = true;
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let share = self.share(bytes)?;
        let bytes = &bytes[..share];
        let Some(file) = &mut self.file else { return Err(io::Error::from_raw_os_error(libc::EBADF)) };
        if !self.may_block {
            let written = file.write(bytes)?;
            self.is_between_lines = written.checked_sub(1).is_none_or(|last| bytes[last] == b'\n');
            self.size += written as u64;
            return Ok(written);
        }
        if !has_room(file, Duration::ZERO)? {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        file.write(&bytes[..bytes.len().min(PIPE_ROOM_BYTES)])
    }

    fn unrotated(&self) -> Option<i32> {
        self.unrotated.map(|(errno, _)| errno)
    }

    fn wait_for_room(&self, timeout: Duration) {
        if let Some(file) = &self.file {
            // An error occurs again in the write that follows.
            let _ = has_room(file, timeout);
        }
    }

    fn is_gone_after_epipe(&self) -> bool {
        self.output == Output::Stdout
    }

    fn ends_mid_line(&self) -> bool {
        self.ends_mid_line
    }
}

/// Whether a write would succeed or fail without blocking within `timeout`.
fn has_room(file: &File, timeout: Duration) -> io::Result<bool> {
    let timeout = Timespec::try_from(timeout).map_err(io::Error::other)?;
    let mut files = [PollFd::new(file, PollFlags::OUT)];
    Ok(poll(&mut files, Some(&timeout))? > 0)
}

/// Opens without ever blocking: a FIFO without reader fails with ENXIO, a full one with EAGAIN later.
fn open_to_append(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
}

/// Whether the path names another file than the open one. If it names none, a regular file is created again,
/// since no reader could find the old one; a FIFO is not. If the path cannot be read, the file counts as
/// unchanged.
fn is_elsewhere(path: &Path, open: &Metadata) -> bool {
    match std::fs::metadata(path) {
        Ok(found) => !is_same(&found, open),
        Err(error) => error.kind() == io::ErrorKind::NotFound && open.is_file(),
    }
}

fn is_same(one: &Metadata, other: &Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

fn has_no_reader(path: &Path, error: &io::Error) -> bool {
    // A socket fails with ENXIO, too, and is never an output.
    error.raw_os_error() == Some(libc::ENXIO)
        && std::fs::metadata(path).is_ok_and(|found| found.file_type().is_fifo())
}

fn refusal(path: &Path, why: io::Error) -> io::Error {
    let remedy = match why.kind() {
        io::ErrorKind::NotFound => format!("create {}", Shown(path.parent().unwrap_or(path).display())),
        io::ErrorKind::PermissionDenied => {
            "let the observer's user write there, or name another file".to_owned()
        }
        io::ErrorKind::IsADirectory => "name a file in it".to_owned(),
        _ => "name another file".to_owned(),
    };
    io::Error::new(why.kind(), OpenError { path: path.to_owned(), why, remedy })
}

/// Whether the last byte of a regular file is not a newline. A file that cannot be read counts as whole.
fn ends_mid_line(file: &File) -> bool {
    use std::os::fd::AsRawFd;

    let Ok(found) = file.metadata() else { return false };
    if !found.is_file() || found.size() == 0 {
        return false;
    }
    // Opened through the descriptor, which is append-only: the path may name another file by now.
    let Ok(readable) = File::open(format!("/proc/self/fd/{}", file.as_raw_fd())) else { return false };
    let mut last = [b'\n'];
    readable.read_exact_at(&mut last, found.size() - 1).is_ok() && last != *b"\n"
}
