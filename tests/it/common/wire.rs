//! Datagrams that no stock client sends, encoded by the stock codec.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use varta_vlp_02::{Frame, Status};

/// A valid 0.2 frame.
pub fn frame(pid: u32, nonce: u64) -> [u8; 32] {
    frame_at(pid, nonce, 1)
}

/// A valid 0.2 frame with this time of the agent's clock.
pub fn frame_at(pid: u32, nonce: u64, timestamp: u64) -> [u8; 32] {
    let mut bytes = [0; 32];
    Frame::new(Status::Ok, pid, timestamp, nonce, 0).encode(&mut bytes);
    bytes
}

/// The terminal frame of a crash hook.
pub fn last_word(pid: u32) -> [u8; 32] {
    let mut bytes = [0; 32];
    Frame::new(Status::Critical, pid, 1, u64::MAX, 0).encode(&mut bytes);
    bytes
}

/// A valid 0.1 frame.
pub fn frame_01(pid: u32, nonce: u64) -> [u8; 32] {
    let mut bytes = [0; 32];
    varta_vlp_01::Frame::new(varta_vlp_01::Status::Ok, pid, 1, nonce, 0).encode(&mut bytes);
    bytes
}

/// A non-blocking socket that is connected to a shard.
pub fn sender(socket: &Path) -> UnixDatagram {
    let sender = UnixDatagram::unbound().expect("a socket");
    sender.connect(socket).expect("connect to a shard");
    sender.set_nonblocking(true).expect("it is ours");
    sender
}

/// Sends until the queue is full; returns the number of datagrams that fitted.
pub fn fill(socket: &Path, datagram: &[u8]) -> usize {
    // One socket may have 278 datagrams waiting, so several are needed.
    let mut filled = 0;
    loop {
        let sender = sender(socket);
        let before = filled;
        while sender.send(datagram).is_ok() {
            filled += 1;
        }
        if filled == before {
            return filled;
        }
    }
}

/// Sends a datagram; retries while the queue is full.
pub fn send_at_last(sender: &UnixDatagram, datagram: &[u8]) {
    super::wait_for("room in the queue", || match sender.send(datagram) {
        Ok(_) => Some(()),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
        Err(error) => panic!("cannot send: {error}"),
    });
}
