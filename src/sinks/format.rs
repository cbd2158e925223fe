//! The forms of a line.

use super::{jsonl, tsv};
use crate::event::Event;
use crate::time::MonoNs;

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
