//! Private parsers, opened for the fuzz targets in `tests/fuzz`. Exists only with `--cfg fuzzing`, which no
//! build but theirs sets: nobody can turn it on as a feature, and nothing of it is in a release.

pub use crate::process::procfs::{Stat, parse_inner_pids, parse_stat};
pub use crate::sinks::Format;
pub use crate::sys::datagram::Credentials;
pub use crate::sys::mmsg::{Attached, parse_control};
