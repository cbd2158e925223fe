//! What the fleet was like: 24 hours of counts in fixed memory that outlives the process.
//!
//! In: a sample a second ([`Recorder`]). Out: the samples of the last 15 minutes by second, of 4 hours by ten seconds
//! and of 24 hours by minute. Thread: upkeep writes; any thread reads, and never sees half of a sample. Blocks: never.
//! Allocates: at creation only.
//!
//! The memory is a sealed memfd of plain words. A successor copies it and never writes that of its predecessor, which
//! may still run: so neither can harm the other, whoever of them goes on in the end.

mod memory;
mod recorder;
pub mod rings;
#[cfg(any(test, feature = "http"))]
mod shown;

pub use memory::{History, NAME};
pub use recorder::Recorder;
#[cfg(feature = "http")]
pub use shown::Busy;
