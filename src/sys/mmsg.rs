//! recvmmsg into preallocated memory.
