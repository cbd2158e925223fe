//! Binding a socket path.
