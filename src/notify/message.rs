//! One datagram of the notification protocol: assignments, one a line, as sd_notify(3) defines them.
//!
//! | Assignment | What it is here |
//! |---|---|
//! | `READY=1` `RELOADING=1` `STOPPING=1` | a phase; see [`daemon`](super::daemon) |
//! | `WATCHDOG=1` | a beat |
//! | `WATCHDOG=trigger` | the process reports that it failed |
//! | `WATCHDOG_USEC=` | its threshold, µs, and a beat; 0 is refused |
//! | `EXTEND_TIMEOUT_USEC=` | no verdict before so many µs have passed |
//! | `STATUS=` | a line of text; empty: none |
//! | `ERRNO=` `EXIT_STATUS=` `BUSERROR=` | why it fails |
//! | `MAINPID=` with or without `MAINPIDFDID=`, `MAINPIDFD=1` with one descriptor | the process it speaks for |
//! | `BARRIER=1`, alone, with one descriptor | the descriptor is closed after all earlier messages were taken |
//! | `X_VARTA_NAME=` | the name of an instance |
//!
//! Everything else is ignored, including what only a service manager can do (`FDSTORE=1`, `NOTIFYACCESS=`). Of two
//! assignments to one variable the first counts, as it does for systemd. Numbers are decimal.

use std::str;

use crate::config::bounds::PID_MAX;

/// Longest message, bytes, with the NUL that may end it. As systemd has it.
pub const MESSAGE_BYTES_MAX: usize = 4096;
/// So much of a status is kept, bytes; never half a character.
pub const STATUS_BYTES_MAX: usize = 255;
/// Longest name of an instance or of a D-Bus error, bytes.
pub const NAME_BYTES_MAX: usize = 255;
/// Largest number of an error: the kernel returns no larger one (MAX_ERRNO).
const ERRNO_MAX: u64 = 4095;

/// What the kernel says of a datagram, beside its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Envelope {
    /// It was longer than the buffer (MSG_TRUNC).
    pub is_truncated: bool,
    /// Control data was cut off (MSG_CTRUNC): more descriptors came than there is room for.
    pub is_control_truncated: bool,
    /// The kernel attests a sender.
    pub is_attested: bool,
    /// Descriptors that came with it.
    pub fds: usize,
}

/// Why a datagram is ignored. The first failing check is reported; variants are in the order of the checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// No bytes at all: a probe for a listener. One froze process 1 once (CVE-2016-7796).
    Empty,
    /// More than [`MESSAGE_BYTES_MAX`].
    TooLong,
    /// Control data is missing: the sender may be missing with it.
    TruncatedControl,
    /// The kernel attests no sender.
    Unattested,
    /// A NUL within the message.
    InnerNul,
    /// A barrier beside other assignments, or without the one descriptor that it is.
    BadBarrier,
}

/// What a datagram says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// The sender waits until its descriptor is closed, which says that all its earlier messages were taken.
    Barrier,
    /// Assignments.
    Fields(Fields<'a>),
}

/// The assignments of one message. Plain data: the kernel attests none of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fields<'a> {
    /// `READY=1`: the start is over, or a reload.
    pub is_ready: bool,
    /// `RELOADING=1`.
    pub is_reloading: bool,
    /// `STOPPING=1`.
    pub is_stopping: bool,
    /// `WATCHDOG=`.
    pub watchdog: Option<Watchdog>,
    /// `WATCHDOG_USEC=`, µs, not 0.
    pub watchdog_us: Option<u64>,
    /// `EXTEND_TIMEOUT_USEC=`, µs, not 0.
    pub extend_us: Option<u64>,
    /// `STATUS=`, the first [`STATUS_BYTES_MAX`] bytes. Any characters but line ends: escape it in every output.
    pub status: Option<&'a str>,
    /// `ERRNO=`.
    pub errno: Option<u16>,
    /// `EXIT_STATUS=`.
    pub exit_status: Option<u8>,
    /// `BUSERROR=`, visible ASCII.
    pub bus_error: Option<&'a str>,
    /// `MAINPID=` or `MAINPIDFD=1`.
    pub main: Option<Main>,
    /// `X_VARTA_NAME=`. As `status`.
    pub name: Option<&'a str>,
    /// Assignments to one of these variables that were refused.
    pub invalid: u16,
}

/// The value of `WATCHDOG=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watchdog {
    /// `1`: the process works.
    Beat,
    /// `trigger`: it has found that it does not.
    Trigger,
}

/// The process for which the sender claims to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Main {
    /// That of the descriptor that came with the message.
    Pidfd,
    /// That with this id, in the pid namespace of the sender.
    Pid {
        /// Never 0.
        pid: u32,
        /// Its incarnation: the inode of its pidfd, if it was sent.
        pidfd_inode: Option<u64>,
    },
}

impl Fields<'_> {
    /// Whether nothing was understood: such a message says only that somebody can send.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        Fields { invalid: 0, ..*self } == Fields::default()
    }
}

/// Reads one datagram.
///
/// Never panics, never allocates; its time is in proportion to the bytes, of which at most [`MESSAGE_BYTES_MAX`] are
/// read. `bytes` is what was received, `envelope` what came with it.
///
/// # Errors
/// The first failing check, in the order of [`Fault`]'s variants. A refused value spoils its own assignment only, and
/// is counted in [`Fields::invalid`].
pub fn read(bytes: &[u8], envelope: Envelope) -> Result<Message<'_>, Fault> {
    if bytes.is_empty() && !envelope.is_truncated {
        return Err(Fault::Empty);
    }
    if envelope.is_truncated || bytes.len() > MESSAGE_BYTES_MAX {
        return Err(Fault::TooLong);
    }
    if envelope.is_control_truncated {
        return Err(Fault::TruncatedControl);
    }
    if !envelope.is_attested {
        return Err(Fault::Unattested);
    }
    let text = bytes.strip_suffix(b"\0").unwrap_or(bytes);
    if text.contains(&0) {
        return Err(Fault::InnerNul);
    }
    let mut reader = Reader::default();
    for line in text.split(|byte| matches!(byte, b'\n' | b'\r')).filter(|line| !line.is_empty()) {
        reader.take(line);
    }
    if reader.has_barrier {
        let is_alone = reader.lines == 1 && envelope.fds == 1;
        return if is_alone { Ok(Message::Barrier) } else { Err(Fault::BadBarrier) };
    }
    Ok(Message::Fields(reader.finish(envelope.fds)))
}

/// Variables of which the first assignment counts, as bits.
mod seen {
    pub const WATCHDOG: u16 = 1;
    pub const WATCHDOG_USEC: u16 = 1 << 1;
    pub const EXTEND: u16 = 1 << 2;
    pub const STATUS: u16 = 1 << 3;
    pub const ERRNO: u16 = 1 << 4;
    pub const EXIT_STATUS: u16 = 1 << 5;
    pub const BUS_ERROR: u16 = 1 << 6;
    pub const MAIN_PID: u16 = 1 << 7;
    pub const MAIN_PIDFD_INODE: u16 = 1 << 8;
    pub const NAME: u16 = 1 << 9;
}

#[derive(Default)]
struct Reader<'a> {
    fields: Fields<'a>,
    seen: u16,
    lines: usize,
    has_barrier: bool,
    has_main_pidfd: bool,
    main_pid: Option<u32>,
    main_pidfd_inode: Option<u64>,
}

impl<'a> Reader<'a> {
    fn take(&mut self, line: &'a [u8]) {
        self.lines += 1;
        let Some(at) = line.iter().position(|byte| *byte == b'=') else { return };
        let (variable, value) = (&line[..at], &line[at + 1..]);
        let fields = &mut self.fields;
        // Of these the value 1 counts, wherever it stands.
        match variable {
            b"READY" => fields.is_ready |= value == b"1",
            b"RELOADING" => fields.is_reloading |= value == b"1",
            b"STOPPING" => fields.is_stopping |= value == b"1",
            b"BARRIER" => self.has_barrier |= value == b"1",
            b"MAINPIDFD" => self.has_main_pidfd |= value == b"1",
            _ => self.take_first(variable, value),
        }
    }

    fn take_first(&mut self, variable: &[u8], value: &'a [u8]) {
        let bit = match variable {
            b"WATCHDOG" => seen::WATCHDOG,
            b"WATCHDOG_USEC" => seen::WATCHDOG_USEC,
            b"EXTEND_TIMEOUT_USEC" => seen::EXTEND,
            b"STATUS" => seen::STATUS,
            b"ERRNO" => seen::ERRNO,
            b"EXIT_STATUS" => seen::EXIT_STATUS,
            b"BUSERROR" => seen::BUS_ERROR,
            b"MAINPID" => seen::MAIN_PID,
            b"MAINPIDFDID" => seen::MAIN_PIDFD_INODE,
            b"X_VARTA_NAME" => seen::NAME,
            _ => return,
        };
        if self.seen & bit != 0 {
            return;
        }
        self.seen |= bit;
        let fields = &mut self.fields;
        let is_valid = match bit {
            seen::WATCHDOG => keep(&mut fields.watchdog, watchdog(value)),
            seen::WATCHDOG_USEC => {
                keep(&mut fields.watchdog_us, number(value, u64::MAX).filter(|us| *us > 0))
            }
            seen::EXTEND => keep(&mut fields.extend_us, number(value, u64::MAX).filter(|us| *us > 0)),
            seen::STATUS => keep(&mut fields.status, text(value).map(|text| cut(text, STATUS_BYTES_MAX))),
            seen::ERRNO => keep(&mut fields.errno, number(value, ERRNO_MAX)),
            seen::EXIT_STATUS => keep(&mut fields.exit_status, number(value, u64::from(u8::MAX))),
            seen::BUS_ERROR => keep(&mut fields.bus_error, visible(value)),
            seen::MAIN_PID => {
                keep(&mut self.main_pid, number(value, u64::from(PID_MAX)).filter(|pid| *pid > 0))
            }
            seen::MAIN_PIDFD_INODE => keep(&mut self.main_pidfd_inode, number(value, u64::MAX)),
            _ => {
                keep(&mut fields.name, text(value).filter(|name| (1..=NAME_BYTES_MAX).contains(&name.len())))
            }
        };
        fields.invalid += u16::from(!is_valid);
    }

    /// What several assignments and the descriptors mean together.
    fn finish(self, fds: usize) -> Fields<'a> {
        let mut fields = self.fields;
        fields.main = if self.has_main_pidfd {
            // It wins over an id, even where it is refused.
            let is_valid = fds == 1;
            fields.invalid += u16::from(!is_valid);
            is_valid.then_some(Main::Pidfd)
        } else {
            // Of a refused incarnation no process is known.
            let is_incarnation_refused =
                self.seen & seen::MAIN_PIDFD_INODE != 0 && self.main_pidfd_inode.is_none();
            self.main_pid
                .filter(|_| !is_incarnation_refused)
                .map(|pid| Main::Pid { pid, pidfd_inode: self.main_pidfd_inode })
        };
        fields
    }
}

/// Keeps a value that was understood. False if it was not.
fn keep<T>(place: &mut Option<T>, value: Option<T>) -> bool {
    *place = value;
    place.is_some()
}

fn watchdog(value: &[u8]) -> Option<Watchdog> {
    match value {
        b"1" => Some(Watchdog::Beat),
        b"trigger" => Some(Watchdog::Trigger),
        _ => None,
    }
}

/// A decimal number up to `max`.
fn number<T: TryFrom<u64>>(value: &[u8], max: u64) -> Option<T> {
    if value.is_empty() {
        return None;
    }
    let number = value.iter().try_fold(0_u64, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })?;
    if number > max { None } else { T::try_from(number).ok() }
}

fn text(value: &[u8]) -> Option<&str> {
    str::from_utf8(value).ok()
}

/// A name of visible ASCII characters.
fn visible(value: &[u8]) -> Option<&str> {
    let is_name = (1..=NAME_BYTES_MAX).contains(&value.len()) && value.iter().all(u8::is_ascii_graphic);
    if is_name { text(value) } else { None }
}

/// The longest beginning of at most `max` bytes that ends between two characters.
fn cut(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
