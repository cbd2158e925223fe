//! Names in the runtime directory.

/// The symlink to the socket of shard 0.
pub const SYMLINK: &str = "varta.sock";
/// The lock file.
pub const LOCK: &str = "lock";
/// The control socket.
pub const CONTROL: &str = "control.sock";
