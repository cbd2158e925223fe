//! The only unsafe code: each wrapper owns one system call, proves it safe, and holds no policy.

pub mod accounts;
pub mod child;
pub mod clock;
pub mod datagram;
#[cfg(feature = "cli")]
pub mod execute;
pub mod memory;
pub mod mmsg;
pub mod passed;
pub mod pidfd;
pub mod thread;
pub mod unix_socket;

#[cfg(test)]
pub mod allocations;
