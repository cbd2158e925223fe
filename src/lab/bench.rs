//! Private modules, opened for what is in `benches/`.
//!
//! Exists only with the feature `bench`. A feature and not a `--cfg` as the fuzz targets have: cargo then leaves
//! the benches out where it is off (`required-features`), and builds their dependencies once for benches and
//! tests. Nothing of it is documented or promised.

#[cfg(feature = "http")]
pub use crate::http::standin::{busy as busy_sources, scrape};
pub use crate::lane::kick::Kick;
pub use crate::lane::report::SAMPLES_MAX;
pub use crate::lane::{Doorbell, Port};
pub use crate::rules::Sender;
pub use crate::shard::Shard;
pub use crate::shard::front::{Front, Heard, Limits};
pub use crate::shard::input::Transport;
pub use crate::shard::tracker::{Outcome, Tracker};
pub use crate::sys::datagram::{Credentials, Datagram};
pub use crate::sys::mmsg::BATCH_MAX;
pub use crate::table::admission::Admission;
pub use crate::table::{Origin, create};
