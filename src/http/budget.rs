//! Limits the bytes of unread responses on all connections together: a thousand slow clients must not take a
//! thousand times the largest response.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};

use hyper::body::{Body, Bytes, Frame, SizeHint};

/// Most bytes that may wait, not counting small responses.
pub const BYTES_MAX: usize = 16 << 20;
/// Responses up to this size are always sent: health, and a few agents. The number of connections limits them.
pub const SMALL: usize = 16 << 10;
/// A body is sent in pieces of this size.
const PIECE: usize = 16 << 10;

/// The waiting bytes of all connections. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Budget(Arc<AtomicUsize>);

/// Waiting bytes, until this is dropped.
#[derive(Debug)]
pub struct Charge {
    bytes: usize,
    of: Arc<AtomicUsize>,
}

impl Budget {
    /// Counts `bytes`; `None` if there is no room for them.
    pub fn charge(&self, bytes: usize) -> Option<Charge> {
        // Only one thread charges, so load and add need not be one step.
        let is_room = bytes <= SMALL || self.0.load(Relaxed).saturating_add(bytes) <= BYTES_MAX;
        is_room.then(|| {
            self.0.fetch_add(bytes, Relaxed);
            Charge { bytes, of: Arc::clone(&self.0) }
        })
    }

    /// Counts these bytes until the last holder drops them; `None` if there is no room.
    pub fn hold(&self, bytes: Bytes) -> Option<Bytes> {
        let charge = self.charge(bytes.len())?;
        Some(Bytes::from_owner(Held { bytes, _charge: charge }))
    }

    /// How many bytes to make at once: fewer if many wait.
    pub fn share(&self) -> usize {
        if self.0.load(Relaxed) > BYTES_MAX / 2 { SMALL } else { 4 * SMALL }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.of.fetch_sub(self.bytes, Relaxed);
    }
}

struct Held {
    bytes: Bytes,
    _charge: Charge,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A whole response sent in pieces. Passed on at once, all of it would count as sent while it still waits.
#[derive(Debug)]
pub struct Sliced(pub Bytes);

impl Body for Sliced {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let rest = &mut self.0;
        let piece = rest.split_to(rest.len().min(PIECE));
        Poll::Ready((!piece.is_empty()).then_some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fault_74_what_waits_is_counted_until_the_last_piece_of_it_is_gone() {
        let budget = Budget::default();
        let held = budget.hold(Bytes::from(vec![0; BYTES_MAX - SMALL])).unwrap();
        assert!(budget.hold(Bytes::from(vec![0; SMALL + 1])).is_none(), "there is no room");
        assert!(budget.hold(Bytes::from(vec![0; SMALL])).is_some(), "but for a small one there is");
        let mut rest = held;
        let piece = rest.split_to(100);
        drop(rest);
        assert!(budget.charge(SMALL + 1).is_none());
        drop(piece);
        assert!(budget.charge(BYTES_MAX).is_some());
    }
}
