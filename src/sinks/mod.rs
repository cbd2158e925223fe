//! Events to a file, a FIFO or standard output: two formats of a line, and the thread that writes them.
//!
//! Thread: events, which writes; any thread may read what is wrong with an output.

mod format;
pub mod jsonl;
pub mod rotation;
pub mod sink;
pub mod trouble;
pub mod tsv;
pub mod writer;

pub use format::Format;
pub use rotation::Rotation;
pub use sink::Descriptor;
pub use trouble::{OutputState, OutputTrouble, WriteTrouble};
pub use writer::{Earlier, EventWriter, Queue, WriterCounters, WriterReport};
