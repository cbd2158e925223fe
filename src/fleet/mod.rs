//! The wiring: a plan becomes a running fleet, which can be queried and stopped.
//!
//! Thread: the caller's.

mod act;
mod acquire;
mod error;
mod handle;
mod agents;
mod inherited;
mod predecessor;
mod reload;
mod run;
mod start;
mod stop;
mod takeover;

#[cfg(test)]
pub use agents::Agents;
pub use error::StartError;
pub use handle::{Handle, Subscription};
pub use inherited::{Inherited, InheritedError};
pub use predecessor::{Adopted, ToStore};
#[cfg(test)]
pub use predecessor::{FLEET, Left, Predecessor, table_name, told_name};
#[cfg(feature = "http")]
pub use reload::ReloadRequest;
pub use reload::{Refusal as ReloadRefusal, ReloadError, Reloaded};
pub use start::Fleet;
pub use stop::StopReport;
pub use takeover::{Handed, TakeoverError};
