//! Messages to the user on standard error, written by a thread of their own, so that a reader that stops
//! reading blocks no other thread.
//!
//! The descriptor is shared with other processes, so it is not made non-blocking. Once the queue is full,
//! messages are dropped, and their number is printed when the reader reads again.
//!
//! Every command prints plain words, with priorities for the journal. `run` prints for who reads it: see [`begin`].

use std::backtrace::{Backtrace, BacktraceStatus};
use std::env;
use std::io::{self, IsTerminal, Write};
use std::panic::{self, PanicHookInfo};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use crossbeam::channel::{Receiver, Sender, bounded};
use rustix::io::Errno;
use serde_json::json;
use varta_fleet::plan::LogFormat;

use crate::exit::counted;

/// Most messages that wait for the reader.
const QUEUED: usize = 256;
/// How long the end of the program waits for the reader.
const LAST_WORD: Duration = Duration::from_millis(500);

static QUEUE: OnceLock<Option<Sender<Message>>> = OnceLock::new();
static DROPPED: AtomicU64 = AtomicU64::new(0);
static FORM: OnceLock<Form> = OnceLock::new();

enum Message {
    Text(String),
    /// All messages before it are written; [`flush`] waits for the drop of this sender.
    Mark(Sender<()>),
}

/// How much a message matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Error,
    Warning,
    Info,
}

impl Level {
    const fn word(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Info => "info",
        }
    }

    /// As in syslog(3).
    const fn priority(self) -> u8 {
        match self {
            Self::Error => 3,
            Self::Warning => 4,
            Self::Info => 6,
        }
    }
}

/// The form of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// `warning: text`, and information without a word before it.
    Plain,
    /// The same with a priority before each line, which journald takes off.
    Journal,
    /// The same with the time and always a level.
    Timed,
    /// An object on each line.
    Json,
}

impl Form {
    fn of(format: LogFormat) -> Self {
        match format {
            LogFormat::Json => Self::Json,
            LogFormat::Plain => Self::Plain,
            _ if is_journal() => Self::Journal,
            _ if is_terminal() => Self::Plain,
            _ => Self::Timed,
        }
    }

    /// `now`: the time, where it is printed.
    fn line(self, level: Level, text: &str, now: impl FnOnce() -> String) -> String {
        let plain = || match level {
            Level::Info => text.to_owned(),
            level => format!("{}: {text}", level.word()),
        };
        match self {
            Self::Plain => format!("{}\n", plain()),
            Self::Journal => plain().lines().map(|line| format!("<{}>{line}\n", level.priority())).collect(),
            Self::Timed => format!("{} {}: {text}\n", now(), level.word()),
            Self::Json => format!("{}\n", json!({"ts": now(), "level": level.word(), "message": text})),
        }
    }
}

/// Whether standard error is connected to journald: `JOURNAL_STREAM` names the file that it is, by device and
/// inode. Without the comparison, a process whose standard error was redirected would take it for its own.
fn is_journal() -> bool {
    let Ok(stream) = env::var("JOURNAL_STREAM") else { return false };
    let Ok(stat) = rustix::fs::fstat(rustix::stdio::stderr()) else { return false };
    stream == format!("{}:{}", stat.st_dev, stat.st_ino)
}

/// Whether a person reads standard error.
pub fn is_terminal() -> bool {
    io::stderr().is_terminal()
}

/// From now on messages have this form; the first call counts. With `auto` it depends on the reader: plain words
/// for a terminal, priorities for the journal, else the time and the level.
pub fn begin(format: LogFormat) {
    let _ = FORM.set(Form::of(format));
}

/// Prints a failure. As the other functions here, it never waits for the reader.
pub fn error(text: &str) {
    say(Level::Error, text);
}

/// Prints what limits the observer.
pub fn warn(text: &str) {
    say(Level::Warning, text);
}

/// Prints what is worth to know, one line or more.
pub fn info(text: &str) {
    say(Level::Info, text);
}

fn formed(level: Level, text: &str) -> String {
    let form = FORM.get().copied().unwrap_or_else(|| if is_journal() { Form::Journal } else { Form::Plain });
    form.line(level, text, || humantime::format_rfc3339_millis(SystemTime::now()).to_string())
}

fn say(level: Level, text: &str) {
    let text = formed(level, text);
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

/// Writes a line that a program waits for, without a form, after all messages. May wait for the reader.
pub fn answer(line: &str) -> io::Result<()> {
    flush();
    io::stderr().write_all(line.as_bytes())
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
    panic::set_hook(Box::new(|panic| error(&told(panic))));
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
            write(&formed(
                Level::Warning,
                &format!("{lost} dropped here, because standard error was not read"),
            ));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reader_gets_its_form() {
        let line = |form: Form, level, text: &str| form.line(level, text, || "NOW".to_owned());
        let warning = |form| line(form, Level::Warning, "it is \"cold\"\noutside");
        assert_eq!(warning(Form::Plain), "warning: it is \"cold\"\noutside\n");
        assert_eq!(warning(Form::Journal), "<4>warning: it is \"cold\"\n<4>outside\n");
        assert_eq!(warning(Form::Timed), "NOW warning: it is \"cold\"\noutside\n");
        let json: serde_json::Value = serde_json::from_str(&warning(Form::Json)).expect("JSON");
        assert_eq!(json, json!({"ts": "NOW", "level": "warning", "message": "it is \"cold\"\noutside"}));
        assert_eq!(warning(Form::Json).lines().count(), 1);
        assert_eq!(line(Form::Plain, Level::Info, "well"), "well\n");
        assert_eq!(line(Form::Timed, Level::Info, "well"), "NOW info: well\n");
        assert_eq!(line(Form::Journal, Level::Error, "no"), "<3>error: no\n");
    }
}
