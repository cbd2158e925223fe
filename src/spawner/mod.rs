//! The spawner: a small process that starts the children of actions, so that the observer never does.
//!
//! ```text
//! observer -[Order, pidfd]-> spawner -[Order]-> supervisor -> child
//!     ^--------[Report]---------+ ^----[Report]-----+
//! ```
//!
//! All three are this program: the observer starts the spawner (or connects to one that is a service of its own), and the
//! spawner starts a supervisor for each child, and for each order that systemd is given, which needs no child. Neither
//! waits for the next one.

pub mod client;
pub mod found;
pub mod protocol;
pub mod serve;

mod child;
pub mod evidence;
mod line;
#[cfg(feature = "systemd")]
mod systemd;
mod tree;
