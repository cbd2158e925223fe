//! What the program says to people: to standard error, by a thread of its own, so that a reader who stops reading
//! holds up nobody else.
//!
//! Its descriptor is shared with other processes, so it is not made non-blocking. What nobody reads is dropped once
//! the queue is full, and that is said when somebody reads again.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::panic::{self, PanicHookInfo};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, bounded};
use rustix::io::Errno;

use crate::exit::counted;

/// Messages that wait for their reader, at most.
const QUEUED: usize = 256;
/// How long the end of the program waits for the reader.
const LAST_WORD: Duration = Duration::from_millis(500);

static QUEUE: OnceLock<Option<Sender<Message>>> = OnceLock::new();
static DROPPED: AtomicU64 = AtomicU64::new(0);

enum Message {
    Text(String),
    /// Everything before it is written: whoever waits for the other end's drop may go on.
    Mark(Sender<()>),
}

/// Says `text`, a line or more. Never waits for who reads it.
pub fn say(text: &str) {
    let text = format!("{text}\n");
    match QUEUE.get_or_init(spawn) {
        Some(queue) => {
            if queue.try_send(Message::Text(text)).is_err() {
                DROPPED.fetch_add(1, Ordering::Relaxed);
            }
        }
        // No thread is left for it: better late than never.
        None => write(&text),
    }
}

/// Waits until all that was said is written, but not for ever.
pub fn flush() {
    let Some(Some(queue)) = QUEUE.get() else { return };
    let (mark, is_written) = bounded(0);
    if queue.send_timeout(Message::Mark(mark), LAST_WORD).is_ok() {
        let _ = is_written.recv_timeout(LAST_WORD);
    }
}

/// From here on, panics are said the same way: a thread that panics must not wait for a reader either.
pub fn take_panics() {
    panic::set_hook(Box::new(|panic| say(&told(panic))));
}

fn told(panic: &PanicHookInfo<'_>) -> String {
    let thread = thread::current();
    let name = thread.name().unwrap_or("<unnamed>");
    let backtrace = Backtrace::capture();
    match backtrace.status() {
        BacktraceStatus::Captured => format!("thread '{name}' {panic}\n{backtrace}"),
        _ => format!("thread '{name}' {panic}"),
    }
}

fn spawn() -> Option<Sender<Message>> {
    let (queue, messages) = bounded(QUEUED);
    thread::Builder::new().name("varta-stderr".into()).spawn(move || write_all(&messages)).ok()?;
    Some(queue)
}

fn write_all(messages: &Receiver<Message>) {
    for message in messages {
        match message {
            Message::Text(text) => write(&text),
            Message::Mark(mark) => drop(mark),
        }
        let dropped = DROPPED.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            let lost = counted(dropped, "message");
            write(&format!("warning: {lost} were dropped here, because nobody read standard error\n"));
        }
    }
}

/// Without the standard library's lock, which others could wait for.
fn write(text: &str) {
    let mut left = text.as_bytes();
    while !left.is_empty() {
        match rustix::io::write(rustix::stdio::stderr(), left) {
            Ok(0) => return,
            Ok(written) => left = &left[written..],
            Err(Errno::INTR) => {}
            // Another process made it non-blocking.
            Err(Errno::AGAIN) => thread::sleep(Duration::from_millis(10)),
            // Closed, or its disk is full: there is no other place to report it.
            Err(_) => return,
        }
    }
}
