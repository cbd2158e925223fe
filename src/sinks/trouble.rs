//! What is wrong with an output at present. Written by its thread, read by any.

use std::fmt;
use std::io;
use std::time::Duration;

use parking_lot::Mutex;

use crate::message::Reason;

/// What an output's owner is told while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WriteTrouble {
    /// Writing fails and is tried again; nothing is lost yet. Once for each error of an episode,
    /// which lasts until everything held back is written. EAGAIN: a pipe nobody reads.
    Failing {
        /// The kernel's error number.
        errno: i32,
    },
    /// Everything held back is written.
    Recovered {
        /// The last error of the episode.
        errno: i32,
        /// From the first failure to now.
        after: Duration,
    },
    /// The reader of standard output is gone; all further events are discarded. Told once.
    Gone {
        /// The kernel's error number.
        errno: i32,
    },
    /// Another process truncated the file: lines may be lost, it is not known which.
    Cut,
    /// The file is too large and cannot be renamed away; it is written on, and the renaming tried again. Told as
    /// `Failing` is, and over when everything is as it should be.
    Unrotated {
        /// The kernel's error number.
        errno: i32,
    },
}

/// What is wrong with the event output. Shown in words, with what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OutputTrouble {
    /// Events cannot be written at present, for the reason of this error number. They wait.
    Held {
        /// The kernel's error number.
        errno: i32,
    },
    /// The reader of standard output is gone for good: events are discarded and counted.
    Gone,
    /// The file is full and cannot be renamed away; events are written to it all the same.
    Unrotated {
        /// The kernel's error number.
        errno: i32,
    },
}

impl fmt::Display for OutputTrouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = |errno: &i32| io::Error::from_raw_os_error(*errno);
        match self {
            Self::Held { errno } => {
                let why = why(errno);
                let why = Reason(&why);
                write!(f, "cannot write events: {why}; they wait and are tried again; make room, or let somebody read")
            }
            Self::Gone => f.write_str(
                "cannot write events: the reader of standard output is gone; from now on they are discarded, and \
                 counted as dropped; restart the observer with a reader, or write them to a file",
            ),
            Self::Unrotated { errno } => {
                let why = why(errno);
                let why = Reason(&why);
                write!(
                    f,
                    "cannot rename the file of events, which is full: {why}; it is written on; let the observer's \
                     user write in its directory"
                )
            }
        }
    }
}

/// The trouble there is, if any.
#[derive(Debug, Default)]
pub struct OutputState(Mutex<Option<OutputTrouble>>);

impl OutputState {
    /// What is wrong now.
    pub fn trouble(&self) -> Option<OutputTrouble> {
        *self.0.lock()
    }

    /// The writer told this. Gives the error number of an `io` event, if there is to be one; 0: the file was cut.
    pub fn take(&self, told: WriteTrouble) -> Option<i32> {
        let (now, errno) = match told {
            WriteTrouble::Failing { errno } => (Some(OutputTrouble::Held { errno }), Some(errno)),
            WriteTrouble::Unrotated { errno } => (Some(OutputTrouble::Unrotated { errno }), Some(errno)),
            WriteTrouble::Gone { errno } => (Some(OutputTrouble::Gone), Some(errno)),
            WriteTrouble::Recovered { .. } => (None, None),
            WriteTrouble::Cut => return Some(0),
        };
        *self.0.lock() = now;
        errno
    }
}
