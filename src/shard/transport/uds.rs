//! Datagrams from a Unix socket.
