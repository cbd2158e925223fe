//! A successor goes on for an observer that still runs, without a gap.
//!
//! | From | Message | Meaning |
//! |---|---|---|
//! | successor | `varta takeover 1` | it wants to take over; the number is the version of this table |
//! | observer | `refused WHY` | it may not; the conversation is over |
//! | observer | `fd NAME`, `kept NAME` | a descriptor comes with it; a `kept` one another process keeps, too |
//! | observer | `end PID TIME` | those were all, of this process, in the time namespace with this inode |
//! | successor | `ready` | it has checked and opened everything that it can beforehand |
//! | observer | `busy WHY` | not now; it may be `ready` again, a second later |
//! | observer | `offered NUMBER` | its threads are parked; whoever decides the [`Offer`](crate::journal::Offer) first goes on |
//! | successor | `taken` | it has decided it, and reads the first datagram now |
//! | observer | `over` | nobody took it in time, so the observer goes on; the successor may be `ready` again, a second later |
//! | successor | `observing` | it has started |
//!
//! A conversation that ends before the offer is taken leaves the observer as it was. Each message is one of a seqpacket socket in
//! the runtime directory; either side talks only to root and to its own user.

mod line;
mod offer;
mod take;

pub use line::{LISTENER, LOCK};
pub use offer::{Handed, Offerer, Reply, Successors};
pub use take::{Takeover, TakeoverError};
