//! Private parsers, exported for the fuzz targets in `tests/fuzz`. Compiled only with `--cfg fuzzing`, which
//! only those builds set: it is no feature that a user could enable, and no release contains it.

pub use crate::lab::inheritance::{Change, adopt_changed};
pub use crate::notify::message::{
    Envelope, Fault, Fields, MESSAGE_BYTES_MAX as NOTIFY_BYTES_MAX, Main, Message, STATUS_BYTES_MAX,
    Watchdog, read,
};
pub use crate::process::procfs::{Stat, parse_inner_pids, parse_stat};
pub use crate::sinks::Format;
pub use crate::spawner::protocol::{MESSAGE_BYTES_MAX, Order, Report};
pub use crate::sys::datagram::Credentials;
pub use crate::sys::mmsg::{Attached, parse_control};
