//! Open connections and their requests. Their number is limited; the one idle longest makes room for a new
//! client.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Instant;

use hyper::StatusCode;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

/// All status codes of responses.
pub const CODES: [(StatusCode, &str); 11] = [
    (StatusCode::OK, "200"),
    (StatusCode::BAD_REQUEST, "400"),
    (StatusCode::UNAUTHORIZED, "401"),
    (StatusCode::NOT_FOUND, "404"),
    (StatusCode::METHOD_NOT_ALLOWED, "405"),
    (StatusCode::REQUEST_TIMEOUT, "408"),
    (StatusCode::PAYLOAD_TOO_LARGE, "413"),
    (StatusCode::URI_TOO_LONG, "414"),
    (StatusCode::MISDIRECTED_REQUEST, "421"),
    (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "431"),
    (StatusCode::SERVICE_UNAVAILABLE, "503"),
];

/// Counts since the start, and the number of open connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Responses by status, in the order of [`CODES`].
    pub answered: [u64; CODES.len()],
    /// Open connections.
    pub connections: u64,
    /// Idle connections closed to make room.
    pub evicted: u64,
    /// Slots skipped because they were being written at every attempt.
    pub slot_reads_busy: u64,
}

impl Traffic {
    /// Counts a response.
    pub fn count(&mut self, code: StatusCode) {
        if let Some(index) = CODES.iter().position(|(known, _)| *known == code) {
            self.answered[index] += 1;
        }
    }
}

/// The connections of one listener.
#[derive(Debug)]
pub struct Connections {
    max: usize,
    open: RefCell<BTreeMap<u64, Connection>>,
    last_id: Cell<u64>,
    /// Notified when a connection closes.
    closed: Notify,
}

#[derive(Debug)]
struct Connection {
    task: Option<AbortHandle>,
    /// Responses in progress.
    busy: usize,
    /// Endless responses among them.
    endless: usize,
    idle_since: Instant,
}

/// A connection in the list, until this is dropped.
#[derive(Debug)]
pub struct Entry {
    connections: Rc<Connections>,
    id: u64,
}

/// A response in progress, until this is dropped.
#[derive(Debug)]
pub struct Busy {
    connections: Rc<Connections>,
    id: u64,
    is_endless: bool,
}

impl Connections {
    /// At most `max` connections at a time.
    pub fn new(max: usize) -> Rc<Self> {
        Rc::new(Self { max, open: RefCell::default(), last_id: Cell::new(0), closed: Notify::new() })
    }

    /// Number of open connections.
    pub fn len(&self) -> usize {
        self.open.borrow().len()
    }

    /// Adds a connection, and returns whether another was closed for it; `None` if all are busy.
    pub fn enter(self: &Rc<Self>, now: Instant) -> Option<(Entry, bool)> {
        let is_full = self.len() >= self.max;
        // A client that follows events reconnects without missing any.
        if is_full && !self.evict(|connection| connection.busy == 0) && !self.evict(Connection::is_following)
        {
            return None;
        }
        let id = self.last_id.get() + 1;
        self.last_id.set(id);
        self.open.borrow_mut().insert(id, Connection { task: None, busy: 0, endless: 0, idle_since: now });
        Some((Entry { connections: Rc::clone(self), id }, is_full))
    }

    /// Closes the connection idle longest; false if none is idle.
    pub fn evict_idle(&self) -> bool {
        self.evict(|connection| connection.busy == 0)
    }

    fn evict(&self, may_go: impl Fn(&Connection) -> bool) -> bool {
        let mut open = self.open.borrow_mut();
        let idle = open.iter().filter(|(_, connection)| may_go(connection));
        let Some(id) = idle.min_by_key(|(_, connection)| connection.idle_since).map(|(id, _)| *id) else {
            return false;
        };
        if let Some(task) = open.remove(&id).and_then(|connection| connection.task) {
            task.abort();
        }
        true
    }

    /// Closes all idle connections, and waits until the others are closed.
    pub async fn wind_up(&self) {
        loop {
            while self.evict_idle() {}
            if self.len() == 0 {
                return;
            }
            self.closed.notified().await;
        }
    }
}

impl Connection {
    /// Whether it waits only for events to come.
    const fn is_following(&self) -> bool {
        self.busy == self.endless
    }
}

impl Entry {
    /// Sets the task that serves the connection.
    pub fn is_served_by(&self, task: AbortHandle) {
        if let Some(connection) = self.connections.open.borrow_mut().get_mut(&self.id) {
            connection.task = Some(task);
        }
    }

    /// Marks the begin of a response.
    pub fn begin(&self) -> Busy {
        if let Some(connection) = self.connections.open.borrow_mut().get_mut(&self.id) {
            connection.busy += 1;
        }
        Busy { connections: Rc::clone(&self.connections), id: self.id, is_endless: false }
    }
}

impl Busy {
    /// Marks the response as endless.
    pub fn is_endless(&mut self) {
        if let Some(connection) = self.connections.open.borrow_mut().get_mut(&self.id) {
            connection.endless += 1;
            self.is_endless = true;
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.connections.open.borrow_mut().remove(&self.id);
        self.connections.closed.notify_one();
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        if let Some(connection) = self.connections.open.borrow_mut().get_mut(&self.id) {
            connection.busy -= 1;
            connection.endless -= usize::from(self.is_endless);
            connection.idle_since = Instant::now();
        }
        self.connections.closed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn of_two_idle_ones_the_one_that_was_so_longer_goes() {
        let connections = Connections::new(2);
        let start = Instant::now();
        let (_first, _) = connections.enter(start + Duration::from_secs(5)).unwrap();
        let (second, _) = connections.enter(start).unwrap();
        let _third = connections.enter(start + Duration::from_secs(6)).unwrap();
        assert!(!connections.open.borrow().contains_key(&second.id));
    }

    #[test]
    fn the_one_that_was_idle_longest_makes_room_and_a_busy_one_never_does() {
        let connections = Connections::new(2);
        let start = Instant::now();
        let (first, _) = connections.enter(start).unwrap();
        let (second, evicted) = connections.enter(start + Duration::from_secs(1)).unwrap();
        assert!(!evicted);
        let response = first.begin();
        let (third, evicted) = connections.enter(start + Duration::from_secs(2)).unwrap();
        assert!(evicted);
        let open: Vec<u64> = connections.open.borrow().keys().copied().collect();
        assert_eq!(open, [first.id, third.id], "the second was idle");
        let mut following = third.begin();
        assert!(connections.enter(start).is_none(), "both are busy");
        following.is_endless();
        let (fourth, _) = connections.enter(start).unwrap();
        let open: Vec<u64> = connections.open.borrow().keys().copied().collect();
        assert_eq!(open, [first.id, fourth.id], "the third only followed");
        drop((response, following));
        drop((second, third, first));
        assert_eq!(connections.len(), 1, "leaving twice does nothing");
    }
}
