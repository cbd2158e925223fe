//! Names in the runtime directory.

/// The symlink to the socket of shard 0.
pub const SYMLINK: &str = "varta.sock";
/// The lock file.
pub const LOCK: &str = "lock";
/// The list of the agents, for a start that can adopt nothing.
pub const ROSTER: &str = "roster";
/// What operators ordered about actions, if anything.
pub const ORDERS: &str = "orders";
/// The control socket.
pub const CONTROL: &str = "control.sock";
/// The directory of what was found about processes before something was done to them, if no other is configured.
pub const EVIDENCE: &str = "evidence";
/// The socket by which a successor takes over.
pub const TAKEOVER: &str = "takeover.sock";
