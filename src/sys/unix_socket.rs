//! The receiving Unix datagram socket, its options set before it has a name.
