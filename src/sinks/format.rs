//! The formats of a line.

use super::{jsonl, tsv};
use crate::event::Event;
use crate::time::MonoNs;

/// The format of an output's lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object per line with every field of the event. See [`jsonl`].
    Jsonl,
    /// The six tab-separated columns of varta-watch. See [`tsv`].
    Tsv {
        /// When the observer started; the first column counts from here.
        start: MonoNs,
    },
}

impl Format {
    /// Appends the event's line, newline included, to `out`. The line contains no other newline, whatever the
    /// event carries.
    pub fn write_line(&self, event: &Event, out: &mut Vec<u8>) {
        match *self {
            Self::Jsonl => jsonl::write_line(event, out),
            Self::Tsv { start } => tsv::write_line(event, start, out),
        }
    }
}
