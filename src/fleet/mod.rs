//! The wiring: a plan becomes a running fleet, which can be asked and stopped.
//!
//! Thread: the caller's.

mod error;
mod handle;
mod start;

pub use error::StartError;
pub use handle::{Handle, Subscription};
pub use start::{Fleet, StopReport};
