//! Names in the runtime directory.

/// The symlink to the socket of shard 0.
pub const SYMLINK: &str = "varta.sock";
/// The lock file.
pub const LOCK: &str = "lock";
/// The socket that answers questions.
pub const CONTROL: &str = "control.sock";
