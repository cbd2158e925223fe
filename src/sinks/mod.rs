//! Events to a file, a FIFO or standard output: two forms of a line, and the thread that writes them.

use crate::event::Event;
use crate::time::MonoNs;

pub mod jsonl;
pub mod rotation;
pub mod sink;
pub mod trouble;
pub mod tsv;
pub mod writer;

#[cfg(test)]
mod samples;

pub use rotation::Rotation;
pub use sink::Output;
pub use trouble::{OutputState, OutputTrouble};
pub use writer::{EventWriter, WriteTrouble, WriterCounters, WriterReport};

/// Where the kernel has no word to say.
const CUT: &str =
    "the file was cut by somebody else, and what was written since it was copied is lost; rename it instead";
/// Where the kernel has no word to say.
const PUT_BACK: &str = "it had been removed or replaced, and is in place again";

/// The form of an output's lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a line: everything an event says. See [`jsonl`].
    Jsonl,
    /// The six tab-separated columns of varta-watch. See [`tsv`].
    Tsv {
        /// When the observer started; the first column counts from here.
        start: MonoNs,
    },
}

impl Format {
    /// Appends the event's line, newline included, to `out`.
    ///
    /// The newline is the only one and the last byte, whatever the event carries.
    pub fn write_line(&self, event: &Event, out: &mut Vec<u8>) {
        match *self {
            Self::Jsonl => jsonl::write_line(event, out),
            Self::Tsv { start } => tsv::write_line(event, start, out),
        }
    }
}
