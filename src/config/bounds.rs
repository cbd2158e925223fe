//! Limits of every fleet.

/// Longest path a socket can have, in bytes: `sun_path` of unix(7) less the NUL.
pub const SOCKET_PATH_MAX: usize = 107;
/// Most shards of one fleet.
pub const SHARDS_MAX: u32 = 64;
/// Most sockets for daemons of one fleet, each with a shard of its own.
pub const NOTIFY_MAX: u32 = 16;
/// Largest process id that Linux assigns (PID_MAX_LIMIT).
pub const PID_MAX: u32 = 4_194_304;
/// Most agents that one fleet tracks: as many as there can be processes.
pub const AGENTS_MAX: u32 = PID_MAX;
/// Most agents with series of their own: their page takes half of what may be pending on all connections.
pub const METRICS_AGENTS_MAX: u32 = 250_000;
/// Most units with series of their own.
pub const UNITS_MAX: usize = 256;
/// Most patterns of units that have series before others: no more units have any.
pub const UNIT_PATTERNS_MAX: usize = UNITS_MAX;
/// Longest URL of a dashboard, bytes.
pub const URL_BYTES_MAX: usize = 2048;
/// Most users who may hold, brake and start actions, beside root and the observer's own.
pub const WRITERS_MAX: usize = 64;
/// Most rules: each slot holds the number of its agent's rule in one byte.
pub const RULES_MAX: usize = 200;
/// Most phases of a rule that the payload shows: a slot notes by which of them its agent was judged.
pub const PHASES_MAX: usize = 16;
/// Most beats that a start can take.
pub const START_BEATS_MAX: u32 = 100_000;
/// Most actions: an agent is compared with each of them.
pub const ACTIONS_MAX: usize = 100;
/// Most bytes of the arguments and the environment of an action together: with every character escaped they fit into
/// one message to the spawner.
pub const ACTION_BYTES_MAX: usize = 16 * 1024;
