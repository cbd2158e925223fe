//! Messages to the user on standard error, written by a thread of their own, so that a reader that stops
//! reading blocks no other thread.
//!
//! The descriptor is shared with other processes, so it is not made non-blocking. Once the queue is full,
//! messages are dropped, and their number is printed when the reader reads again.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::panic::{self, PanicHookInfo};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, bounded};
use rustix::io::Errno;

use crate::exit::counted;

/// Most messages that wait for the reader.
const QUEUED: usize = 256;
/// How long the end of the program waits for the reader.
const LAST_WORD: Duration = Duration::from_millis(500);

static QUEUE: OnceLock<Option<Sender<Message>>> = OnceLock::new();
static DROPPED: AtomicU64 = AtomicU64::new(0);

enum Message {
    Text(String),
    /// All messages before it are written; [`flush`] waits for the drop of this sender.
    Mark(Sender<()>),
}

/// Prints `text`, one line or more. Never waits for the reader.
pub fn say(text: &str) {
    let text = format!("{text}\n");
    match QUEUE.get_or_init(spawn) {
        Some(queue) => {
            if queue.try_send(Message::Text(text)).is_err() {
                DROPPED.fetch_add(1, Ordering::Relaxed);
            }
        }
        // No thread could be started, so write directly.
        None => write(&text),
    }
}

/// Waits until all messages are written, for a bounded time.
pub fn flush() {
    let Some(Some(queue)) = QUEUE.get() else { return };
    let (mark, is_written) = bounded(0);
    if queue.send_timeout(Message::Mark(mark), LAST_WORD).is_ok() {
        let _ = is_written.recv_timeout(LAST_WORD);
    }
}

/// From now on panics are printed in the same way: a thread that panics must not wait for a reader either.
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
            write(&format!("warning: {lost} dropped here, because standard error was not read\n"));
        }
    }
}

/// Without the lock of the standard library, for which other threads could wait.
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
