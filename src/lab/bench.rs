//! Private modules, exported for `benches/`.
//!
//! Compiled only with the feature `bench`. It is a feature, not a `--cfg` as for the fuzz targets, so that
//! cargo skips the benches without it (`required-features`) and builds the dependencies of benches and tests
//! once. Nothing here is documented or stable.

pub use crate::config::bounds::PID_MAX;
pub use crate::config::classes::Classes;
#[cfg(feature = "http")]
pub use crate::http::Drawn;
#[cfg(feature = "http")]
pub use crate::lab::standin::{busy as busy_sources, scrape, sources};
pub use crate::lane::kick::Kick;
pub use crate::lane::report::SAMPLES_MAX;
pub use crate::lane::{Doorbell, Port};
pub use crate::notify::message::{Envelope, read as read_message};
pub use crate::rules::Sender;
pub use crate::shard::Shard;
pub use crate::shard::front::{Front, Heard, Limits};
pub use crate::shard::input::Transport;
pub use crate::shard::tracker::{Outcome, Tracker};
pub use crate::shard::uids::UidAccounts;
pub use crate::sys::datagram::{Credentials, Datagram};
pub use crate::sys::mmsg::BATCH_MAX;
pub use crate::table::admission::Admission;
pub use crate::table::adopt::{Legacy, adopt};
pub use crate::table::{Header, Table, TableWriter, create};
