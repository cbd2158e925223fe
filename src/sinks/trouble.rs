//! What is wrong with an output now. Written by the output's thread, read by any.

use std::fmt;
use std::io;
use std::time::Duration;

use parking_lot::Mutex;

use crate::message::Reason;

/// What the writer reports to the owner of an output while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WriteTrouble {
    /// A write failed and is tried again; nothing is lost yet. Reported once for each error of an episode,
    /// which lasts until everything held back is written. EAGAIN: a full pipe that is not read.
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
    /// The reader of standard output has closed it; all further events are discarded. Reported once.
    Gone {
        /// The kernel's error number.
        errno: i32,
    },
    /// Another process truncated the file: lines may be lost; which is not known.
    Cut,
    /// The file is full and cannot be rotated; it is still written to, and the rotation is tried again.
    /// Reported like `Failing`, and over when the rotation succeeds.
    Unrotated {
        /// The kernel's error number.
        errno: i32,
    },
}

impl WriteTrouble {
    /// The error number of the `io` event to report, if any; 0: the file was cut.
    pub const fn errno(self) -> Option<i32> {
        match self {
            Self::Failing { errno } | Self::Unrotated { errno } | Self::Gone { errno } => Some(errno),
            Self::Recovered { .. } => None,
            Self::Cut => Some(0),
        }
    }
}

/// What is wrong with the event output. Displayed in words, with what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OutputTrouble {
    /// Events cannot be written now, for the reason of this error number. They are held back.
    Held {
        /// The kernel's error number.
        errno: i32,
    },
    /// The reader of standard output has closed it: events are discarded and counted.
    Gone,
    /// The file is full and cannot be rotated; events are still written to it.
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

/// An output's present trouble, if any.
#[derive(Debug, Default)]
pub struct OutputState(Mutex<Option<OutputTrouble>>);

impl OutputState {
    /// The present trouble.
    pub fn trouble(&self) -> Option<OutputTrouble> {
        *self.0.lock()
    }

    /// Another output is in force, with no trouble so far.
    pub fn clear(&self) {
        *self.0.lock() = None;
    }

    /// Records what the writer reported. Returns [`WriteTrouble::errno`].
    pub fn take(&self, told: WriteTrouble) -> Option<i32> {
        let now = match told {
            WriteTrouble::Failing { errno } => Some(OutputTrouble::Held { errno }),
            WriteTrouble::Unrotated { errno } => Some(OutputTrouble::Unrotated { errno }),
            WriteTrouble::Gone { .. } => Some(OutputTrouble::Gone),
            WriteTrouble::Recovered { .. } => None,
            WriteTrouble::Cut => return told.errno(),
        };
        *self.0.lock() = now;
        told.errno()
    }
}
