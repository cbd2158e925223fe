//! The notification protocol of sd_notify(3), which thousands of daemons speak without knowing of this project: what
//! a datagram says, what it means for the process that sent it, and what becomes of the descriptors that came with it.
//!
//! The protocol has no session and no nonce: a session is one incarnation of a process, as the kernel attests it.

pub mod closer;
pub mod message;
pub mod daemon;
