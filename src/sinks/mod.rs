//! Events to a file, a FIFO or standard output: two forms of a line, and the thread that writes them.
//!
//! Thread: events, which writes; what is wrong with an output is read by any.

mod format;
pub mod jsonl;
pub mod rotation;
pub mod sink;
pub mod trouble;
pub mod tsv;
pub mod writer;

pub use format::Format;
pub use rotation::Rotation;
pub use sink::{Descriptor, Output};
pub use trouble::{OutputState, OutputTrouble, WriteTrouble};
pub use writer::{EventWriter, WriterCounters, WriterReport};
