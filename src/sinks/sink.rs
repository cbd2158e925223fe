//! Where the bytes of an output go: a file, a FIFO or standard output, kept at the path it was asked for.
//!
//! - **File.** Opened in append mode, created with mode 0640 less the umask. Before each write it is compared with
//!   what is at its path: one that was renamed or removed is left, and the path opened (and made) again. One that is
//!   shorter than what was written to it was cut by somebody else.
//! - **FIFO.** Opened without blocking. No reader yet is no error at start. Replaced by another, that one is opened.
//! - **Standard output.** Its descriptor is shared with other processes, so it is not made non-blocking: it is asked for
//!   room and then given what a pipe with room takes at once.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::rotation::{Rotation, first_line};
use crate::message::{Reason, Shown};

/// A pipe that says it has room takes this much without blocking: PIPE_BUF, pipe(7).
const PIPE_ROOM_BYTES: usize = 4096;
/// How long after a rotation failed it is tried again.
const ROTATE_AGAIN: Duration = Duration::from_secs(10);

/// Where the lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// The standard output of this process.
    Stdout,
    /// A file, FIFO or device, appended to.
    File(PathBuf),
}

/// What takes the bytes; in tests it is scripted.
pub trait Sink: Send {
    /// Makes sure that what is written next goes to the file that has the output's name now.
    fn look(&mut self) -> io::Result<Look> {
        Ok(Look::Same)
    }
    /// The next look opens the file anew whatever its name means.
    fn reopen(&mut self) {}
    /// Takes some of `bytes` from the front. `WouldBlock`: no room now.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;
    /// Error number that keeps a file that is too large from being renamed away; it is written on.
    fn unrotated(&self) -> Option<i32> {
        None
    }
    /// Sleeps until there may be room, `timeout` at most.
    fn wait_for_room(&self, timeout: Duration);
    /// EPIPE is final: no new reader can come.
    fn is_gone_after_epipe(&self) -> bool;
    /// What was there already ends in the middle of a line.
    fn ends_mid_line(&self) -> bool;
}

/// What a look found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// The file that was written to before.
    Same,
    /// Another file, now open: what was begun in the old one has to begin again.
    Other,
    /// The same file, truncated by another process: lines may be lost.
    Cut,
}

/// Why there is no writer: what, where, why, and what to do.
#[derive(Debug, thiserror::Error)]
#[error("cannot open event output {}: {}; {remedy}", Shown(.path.display()), Reason(.why))]
struct OpenError {
    path: PathBuf,
    why: io::Error,
    remedy: String,
}

/// An output of the kernel's.
pub struct Descriptor {
    output: Output,
    rotation: Option<Rotation>,
    /// `None`: a FIFO without a reader so far.
    file: Option<File>,
    /// A pipe, socket or terminal that others share and that may block.
    may_block: bool,
    ends_mid_line: bool,
    /// The last byte written ended a line.
    is_between_lines: bool,
    is_to_be_reopened: bool,
    /// Size of a regular file of a path of its own, as of the last write; else 0.
    size: u64,
    unrotated: Option<(i32, Instant)>,
}

impl Descriptor {
    /// Opens the output. A file with a `rotation` is renamed away when it is full.
    ///
    /// # Errors
    /// The output cannot be opened. The kind is the kernel's, the text names the path and what to do.
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

    /// Standard output, which others use, too.
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

    /// Everything from now on goes here.
    fn adopt(&mut self, file: File) {
        self.ends_mid_line = ends_mid_line(&file);
        self.size = file.metadata().ok().filter(Metadata::is_file).map_or(0, |found| found.size());
        self.is_between_lines = true;
        self.is_to_be_reopened = false;
        self.file = Some(file);
    }

    /// How much of `bytes` the open file is to take; makes room for them if it is to take none of them.
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
            // An error shows again in the write that follows.
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

/// Whether a write would get on (also to an error) within `timeout`.
fn has_room(file: &File, timeout: Duration) -> io::Result<bool> {
    let timeout = Timespec::try_from(timeout).map_err(io::Error::other)?;
    let mut files = [PollFd::new(file, PollFlags::OUT)];
    Ok(poll(&mut files, Some(&timeout))? > 0)
}

/// Opens without ever blocking: a FIFO without a reader is ENXIO, a full one says EAGAIN later.
fn open_to_append(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
}

/// Whether the path means another file than the one that is open. Nothing there: a regular file is to be made again, for
/// nobody could find what the old one gets; where a FIFO was, no file is to be. What cannot be seen is as it was.
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
    // ENXIO is also what a socket says, and that is never an output.
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

/// Whether a regular file's last byte is something other than a newline. A file that cannot be read
/// is taken to be whole.
fn ends_mid_line(file: &File) -> bool {
    use std::os::fd::AsRawFd;

    let Ok(found) = file.metadata() else { return false };
    if !found.is_file() || found.size() == 0 {
        return false;
    }
    // Reopened through its descriptor, which is for appending only: the path may mean another file by now.
    let Ok(readable) = File::open(format!("/proc/self/fd/{}", file.as_raw_fd())) else { return false };
    let mut last = [b'\n'];
    readable.read_exact_at(&mut last, found.size() - 1).is_ok() && last != *b"\n"
}
