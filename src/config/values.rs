//! The forms of values: read from the environment, a flag or the file, and shown again.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::{self, Deserialize, Deserializer, Visitor};
use toml::Value;

use super::bounds::WRITERS_MAX;
use crate::message::Reason;
use crate::sys::accounts;

/// The form of a key's values, and which of them can be used.
pub(super) struct Form<T> {
    /// For messages: `a duration, such as …`.
    pub(super) takes: &'static str,
    /// For help: `DURATION`.
    pub(super) value_name: &'static str,
    pub(super) parse: fn(&str) -> Result<T, Refused>,
    /// As the operator would write it, without quotes.
    pub(super) show: fn(&T) -> String,
    /// As the file writes it. `None`: only an absent key says it.
    pub(super) value: fn(&T) -> Option<Value>,
    /// Why a value cannot be used with any values of the other keys.
    why_not: fn(&T) -> Option<&'static str>,
    /// What to write instead of such a value; `{key}` stands for the name of the key.
    instead: &'static str,
}

impl<T> Form<T> {
    const fn new(
        takes: &'static str,
        value_name: &'static str,
        parse: fn(&str) -> Result<T, Refused>,
        show: fn(&T) -> String,
        value: fn(&T) -> Option<Value>,
    ) -> Self {
        Self { takes, value_name, parse, show, value, why_not: |_| None, instead: takes }
    }

    const fn refuses(self, why_not: fn(&T) -> Option<&'static str>, instead: &'static str) -> Self {
        Self { why_not, instead, ..self }
    }

    /// Refuses a value of `key` that can never be used.
    pub(super) fn judge(&self, value: &T, key: &str) -> Result<(), Refused> {
        let fix = || format!("write {}", self.instead.replace("{key}", key));
        (self.why_not)(value).map_or(Ok(()), |why| Err(Refused::new(why, fix())))
    }
}

pub(super) const PATH: Form<Option<PathBuf>> = Form::new(
    "a path in quotes, such as \"/run/varta\"",
    "DIR",
    |text| Ok(Some(text.into())),
    |path| path.as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
    |path| path.as_deref().and_then(path_value),
);
/// A file or none, where an empty path would not say which.
pub(super) const FILE: Form<Option<PathBuf>> = Form::new(
    "a path in quotes, or \"none\"",
    "PATH",
    |text| Ok(read_file(text)),
    |path| path.as_ref().map_or("none".to_owned(), |path| path.display().to_string()),
    |path| path.as_deref().map_or(Some("none".into()), path_value),
);
pub(super) const DURATION: Form<Duration> = Form::new(
    "a duration, such as \"500ms\", \"2s\" or \"1m30s\"",
    "DURATION",
    parse_duration,
    |duration| written(*duration),
    |duration| Some(written(*duration).into()),
);
pub(super) const ADDRESS: Form<Option<SocketAddr>> = Form::new(
    "an address and port in quotes, such as \"127.0.0.1:9464\", or \"none\"",
    "ADDR:PORT",
    parse_address,
    or_none,
    |address| Some(or_none(address).into()),
);
pub(super) const OUTPUT: Form<Option<Output>> = Form::new(
    "a path in quotes, \"-\" for standard output, or \"none\"",
    "PATH",
    |text| Ok(read_output(text)),
    or_none,
    |output| Some(or_none(output).into()),
);
pub(super) const EVENTS_FORMAT: Form<EventsFormat> = Form::new(
    "\"jsonl\" or \"tsv\"",
    "FORMAT",
    parse_events_format,
    |format| format.as_str().to_owned(),
    |format| Some(format.as_str().into()),
);
pub(super) const LOG_FORMAT: Form<LogFormat> = Form::new(
    "\"auto\", \"plain\" or \"json\"",
    "FORMAT",
    parse_log_format,
    |format| format.as_str().to_owned(),
    |format| Some(format.as_str().into()),
);
pub(super) const BOOL: Form<bool> =
    Form::new("true or false", "BOOL", parse_bool, bool::to_string, |flag| Some((*flag).into()));
pub(super) const LIMIT: Form<Option<u32>> =
    Form::new("a whole number from 1, or \"none\"", "N", parse_limit, or_none, |limit| {
        Some(limit.map_or_else(|| "none".into(), Value::from))
    })
    .refuses(
        |limit| (*limit == Some(0)).then_some("it lets nobody beat"),
        "a whole number from 1, or {key} = \"none\"",
    );
pub(super) const SIZE: Form<Option<u64>> = Form::new(
    "a number of bytes from 65536, such as \"100MiB\", or \"none\"",
    "SIZE",
    parse_size,
    or_none,
    |size| Some(size.map_or_else(|| "none".into(), size_value)),
)
.refuses(
    |size| size.filter(|size| *size < 65_536).map(|_| "a file would be full within a few hundred events"),
    "a size from 65536 bytes, or \"none\"",
);
pub(super) const MODE: Form<u32> = Form::new(
    "an octal number in quotes, such as \"0660\"",
    "MODE",
    parse_mode,
    |mode| format!("{mode:04o}"),
    |mode| Some(format!("{mode:04o}").into()),
);
pub(super) const GROUP: Form<Option<u32>> = Form::new(
    "the number of a group, or its name in quotes",
    "GROUP",
    |text| parse_group(text).map(Some),
    |group| group.map_or("its own".to_owned(), |group| group.to_string()),
    |group| group.map(Value::from),
);
pub(super) const WRITERS: Form<Option<Vec<u32>>> = Form::new(
    "a list of users, by number or name, such as [1000, \"deploy\"]",
    "USERS",
    parse_users,
    |users| users.as_deref().map_or("none".to_owned(), list_of_users),
    |users| users.clone().map(Value::from),
)
.refuses(
    |users| match users.as_deref() {
        Some([]) => Some("it names nobody"),
        Some(users) if users.len() > WRITERS_MAX => Some("it names more than 64 users"),
        _ => None,
    },
    "1 to 64 users, or leave out {key}",
);
pub(super) const USER: &str = "the number of a user, or its name in quotes";
pub(super) const SIGNAL: &str = "the name of a signal in quotes, such as \"SIGABRT\", or its number";
pub(super) const FACTOR: &str = "a number from 1 to 100, such as 2.0";
pub(super) const RELEASE: &str = "a duration, such as \"1m\", or \"manual\"";

/// A whole number. `takes` names the bounds that `why_not` keeps.
pub(super) const fn number(takes: &'static str, why_not: fn(&u32) -> Option<&'static str>) -> Form<u32> {
    Form::new(takes, "N", parse_number, u32::to_string, |number| Some((*number).into()))
        .refuses(why_not, takes)
}

/// An optional whole number; [`Config::plan`](super::Config::plan) checks its bounds.
pub(super) const fn some_number(takes: &'static str) -> Form<Option<u32>> {
    Form::new(takes, "N", |text| parse_number(text).map(Some), or_none, |number| number.map(Value::from))
}

/// `None`: TOML cannot write a path that is not UTF-8.
fn path_value(path: &Path) -> Option<Value> {
    path.to_str().map(Value::from)
}

/// As text where it is larger than a number of TOML can be.
fn size_value(size: u64) -> Value {
    i64::try_from(size).map_or_else(|_| size.to_string().into(), Value::from)
}

fn or_none<T: ToString>(value: &Option<T>) -> String {
    value.as_ref().map_or("none".to_owned(), T::to_string)
}

/// The core a shard's thread is pinned to: a number, `"auto"` or `"none"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CoreChoice {
    /// A core of its own if more cores are allowed than there are shards, else not pinned.
    #[default]
    Auto,
    /// Not pinned.
    None,
    /// The core with this number in the kernel.
    Core(u32),
}

impl fmt::Display for CoreChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::None => f.write_str("none"),
            Self::Core(n) => n.fmt(f),
        }
    }
}

/// Where events are written: a path, or `-` for standard output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Standard output.
    Stdout,
    /// This file, FIFO or device, appended to.
    File(PathBuf),
}

impl From<String> for Output {
    fn from(text: String) -> Self {
        if text == "-" { Self::Stdout } else { Self::File(text.into()) }
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdout => f.write_str("-"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

/// How events are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventsFormat {
    /// One JSON object on each line.
    #[default]
    Jsonl,
    /// Tab-separated: `observer_ns kind pid nonce status payload`.
    Tsv,
}

impl EventsFormat {
    /// The word that selects it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Jsonl => "jsonl",
            Self::Tsv => "tsv",
        }
    }
}

/// How the program writes its own messages to standard error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum LogFormat {
    /// For the reader: plain words on a terminal, priorities for the journal, else time and level.
    #[default]
    Auto,
    /// Plain words.
    Plain,
    /// One JSON object on each line: `ts`, `level`, `message`.
    Json,
}

impl LogFormat {
    /// The word that selects it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Plain => "plain",
            Self::Json => "json",
        }
    }
}

/// Why a value cannot be used and what to write instead: the text after `cannot use …:`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(super) why: String,
    pub(super) fix: String,
}

impl Refused {
    pub(super) fn new(why: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { why: why.into(), fix: fix.into() }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.why, self.fix)
    }
}

/// Reads a duration in the form of the configuration: `500ms`, `2s`, `1m30s`, `0`.
///
/// # Errors
/// Why it cannot be read, and how to write it.
pub fn read_duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|Refused { why, fix }| format!("{why}; {fix}"))
}

pub(super) fn parse_duration(text: &str) -> Result<Duration, Refused> {
    let bare = text.trim();
    if bare == "0" {
        return Ok(Duration::ZERO);
    }
    if !bare.is_empty() && bare.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return Err(Refused::new(format!("{bare} has no unit"), format!("write {bare}s or {bare}ms")));
    }
    humantime::parse_duration(bare)
        .map_err(|_| Refused::new("it is not a duration", "write it like 500ms, 2s or 1m30s"))
}

pub(super) fn parse_number(text: &str) -> Result<u32, Refused> {
    let bare = text.trim();
    let is_too_large = !bare.is_empty() && bare.bytes().all(|byte| byte.is_ascii_digit());
    let why = if is_too_large { "it is far too large" } else { "it is not a whole number" };
    bare.parse().map_err(|_| Refused::new(why, "write digits only, such as 4"))
}

pub(super) fn parse_limit(text: &str) -> Result<Option<u32>, Refused> {
    if text.trim() == "none" { Ok(None) } else { parse_number(text).map(Some) }
}

pub(super) fn parse_mode(text: &str) -> Result<u32, Refused> {
    u32::from_str_radix(text.trim().trim_start_matches("0o"), 8)
        .map_err(|_| Refused::new("it is not an octal number", "write it like \"0660\""))
}

pub(super) fn parse_user(text: &str) -> Result<u32, Refused> {
    parse_account(text, "user", accounts::user_id)
}

/// Users behind commas, or `none`.
fn parse_users(text: &str) -> Result<Option<Vec<u32>>, Refused> {
    if text.trim() == "none" {
        Ok(None)
    } else {
        text.split(',').map(parse_user).collect::<Result<_, _>>().map(Some)
    }
}

/// As [`parse_users`] reads them; a list of none as the file writes it.
fn list_of_users(users: &[u32]) -> String {
    if users.is_empty() {
        return "[]".to_owned();
    }
    users.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

pub(super) fn parse_group(text: &str) -> Result<u32, Refused> {
    parse_account(text, "group", accounts::group_id)
}

fn parse_account(
    text: &str,
    what: &str,
    id: impl Fn(&str) -> io::Result<Option<u32>>,
) -> Result<u32, Refused> {
    let name = text.trim();
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    known(id(name), what)
}

/// What the host knows of a user or group.
fn known<T>(found: io::Result<Option<T>>, what: &str) -> Result<T, Refused> {
    match found {
        Ok(Some(id)) => Ok(id),
        Ok(None) => Err(Refused::new(
            format!("there is no such {what} on this host"),
            format!("write the name or number of a {what} that there is"),
        )),
        Err(error) => Err(Refused::new(
            format!("the {what} cannot be looked up: {}", Reason(&error)),
            format!("write the number of the {what}"),
        )),
    }
}

/// `localhost` and no address at all mean 127.0.0.1: no name is looked up, and nobody is served by omission.
pub(super) fn parse_address(text: &str) -> Result<Option<SocketAddr>, Refused> {
    let text = text.trim();
    if text == "none" {
        return Ok(None);
    }
    let fix = "write a numeric address and a port, such as 127.0.0.1:9464 or [::1]:9464, or none";
    let local = text.strip_prefix("localhost:").or_else(|| text.strip_prefix(':'));
    let address = match local {
        Some(port) if port.starts_with('+') => None,
        Some(port) => port.parse().ok().map(|port: u16| SocketAddr::from(([127, 0, 0, 1], port))),
        None => text.parse().ok(),
    };
    address.map(Some).ok_or_else(|| Refused::new("it is not an address with a port", fix))
}

pub(super) fn read_output(text: &str) -> Option<Output> {
    (text != "none").then(|| text.to_owned().into())
}

fn read_file(text: &str) -> Option<PathBuf> {
    (text != "none").then(|| text.into())
}

/// Signals by name. The numbers are those of this architecture.
const SIGNALS: [(&str, i32); 31] = [
    ("SIGHUP", libc::SIGHUP),
    ("SIGINT", libc::SIGINT),
    ("SIGQUIT", libc::SIGQUIT),
    ("SIGILL", libc::SIGILL),
    ("SIGTRAP", libc::SIGTRAP),
    ("SIGABRT", libc::SIGABRT),
    ("SIGBUS", libc::SIGBUS),
    ("SIGFPE", libc::SIGFPE),
    ("SIGKILL", libc::SIGKILL),
    ("SIGUSR1", libc::SIGUSR1),
    ("SIGSEGV", libc::SIGSEGV),
    ("SIGUSR2", libc::SIGUSR2),
    ("SIGPIPE", libc::SIGPIPE),
    ("SIGALRM", libc::SIGALRM),
    ("SIGTERM", libc::SIGTERM),
    ("SIGSTKFLT", libc::SIGSTKFLT),
    ("SIGCHLD", libc::SIGCHLD),
    ("SIGCONT", libc::SIGCONT),
    ("SIGSTOP", libc::SIGSTOP),
    ("SIGTSTP", libc::SIGTSTP),
    ("SIGTTIN", libc::SIGTTIN),
    ("SIGTTOU", libc::SIGTTOU),
    ("SIGURG", libc::SIGURG),
    ("SIGXCPU", libc::SIGXCPU),
    ("SIGXFSZ", libc::SIGXFSZ),
    ("SIGVTALRM", libc::SIGVTALRM),
    ("SIGPROF", libc::SIGPROF),
    ("SIGWINCH", libc::SIGWINCH),
    ("SIGIO", libc::SIGIO),
    ("SIGPWR", libc::SIGPWR),
    ("SIGSYS", libc::SIGSYS),
];

/// The largest number of a signal.
const SIGNAL_MAX: u8 = 64;

fn parse_signal(text: &str) -> Result<u8, Refused> {
    let bare = text.trim();
    if let Ok(number) = bare.parse() {
        return signal_numbered(number);
    }
    let name = if bare.starts_with("SIG") { bare.to_owned() } else { format!("SIG{bare}") };
    if let Some((_, number)) = SIGNALS.iter().find(|(known, _)| *known == name) {
        return signal_numbered((*number).into());
    }
    let near = SIGNALS.map(|(known, _)| (strsim::damerau_levenshtein(&name.to_uppercase(), known), known));
    let fix = match near.iter().min() {
        Some((distance, nearest)) if *distance <= 2 => format!("did you mean {nearest}?"),
        _ => "write a name that kill -l lists, such as SIGABRT, or its number".to_owned(),
    };
    Err(Refused::new("there is no such signal", fix))
}

fn signal_numbered(number: i64) -> Result<u8, Refused> {
    let known = u8::try_from(number).ok().filter(|number| (1..=SIGNAL_MAX).contains(number));
    known.ok_or_else(|| {
        Refused::new("there is no such signal", format!("write its name, or a number from 1 to {SIGNAL_MAX}"))
    })
}

/// The name of a signal, or its number if it has none.
#[must_use]
pub(super) fn signal_name(signal: u8) -> String {
    let named = SIGNALS.iter().find(|(_, number)| *number == i32::from(signal));
    named.map_or_else(|| signal.to_string(), |(name, _)| (*name).to_owned())
}

pub(super) fn parse_size(text: &str) -> Result<Option<u64>, Refused> {
    let bare = text.trim();
    if bare == "none" {
        return Ok(None);
    }
    let (digits, shift) = [("KiB", 10), ("MiB", 20), ("GiB", 30)]
        .into_iter()
        .find_map(|(unit, shift)| Some((bare.strip_suffix(unit)?.trim_end(), shift)))
        .unwrap_or((bare, 0));
    let number = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift));
    let unreadable = || Refused::new("it is not a size", "write it like 100MiB, 2GiB or 1000000, or none");
    number.map(Some).ok_or_else(unreadable)
}

pub(super) fn parse_bool(text: &str) -> Result<bool, Refused> {
    text.trim().parse().map_err(|_| Refused::new("it is neither true nor false", "write true or false"))
}

pub(super) fn parse_events_format(text: &str) -> Result<EventsFormat, Refused> {
    match text.trim() {
        "jsonl" => Ok(EventsFormat::Jsonl),
        "tsv" => Ok(EventsFormat::Tsv),
        _ => Err(Refused::new("there is no such format", "write jsonl or tsv")),
    }
}

pub(super) fn parse_log_format(text: &str) -> Result<LogFormat, Refused> {
    match text.trim() {
        "auto" => Ok(LogFormat::Auto),
        "plain" => Ok(LogFormat::Plain),
        "json" => Ok(LogFormat::Json),
        _ => Err(Refused::new("there is no such format", "write auto, plain or json")),
    }
}

/// A duration as the operator would write it: `1m30s`, `24h`, `0`.
#[must_use]
pub fn written(duration: Duration) -> String {
    if duration.is_zero() {
        return "0".to_owned();
    }
    let (seconds, nanos) = (duration.as_secs(), u64::from(duration.subsec_nanos()));
    let parts = [
        (seconds / 3600, "h"),
        (seconds / 60 % 60, "m"),
        (seconds % 60, "s"),
        (nanos / 1_000_000, "ms"),
        (nanos / 1000 % 1000, "us"),
        (nanos % 1000, "ns"),
    ];
    parts.iter().filter(|(count, _)| *count > 0).map(|(count, unit)| format!("{count}{unit}")).collect()
}

pub(super) fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    struct DurationVisitor;
    impl Visitor<'_> for DurationVisitor {
        type Value = Duration;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(DURATION.takes)
        }
        fn visit_str<E: de::Error>(self, text: &str) -> Result<Duration, E> {
            parse_duration(text).map_err(E::custom)
        }
        fn visit_i64<E: de::Error>(self, n: i64) -> Result<Duration, E> {
            match n {
                0 => Ok(Duration::ZERO),
                n => Err(E::custom(Refused::new(
                    "it has no unit",
                    format!("write \"{n}s\" or \"{n}ms\", in quotes"),
                ))),
            }
        }
        fn visit_u64<E: de::Error>(self, n: u64) -> Result<Duration, E> {
            self.visit_i64(i64::try_from(n).unwrap_or(i64::MAX))
        }
    }
    deserializer.deserialize_any(DurationVisitor)
}

/// A number, or a word that stands for none.
struct NumberVisitor<T> {
    takes: &'static str,
    parse: fn(&str) -> Result<Option<T>, Refused>,
}

impl<T: TryFrom<i64> + TryFrom<u64>> NumberVisitor<T> {
    fn number<E: de::Error>(&self, number: Option<T>) -> Result<Option<T>, E> {
        let refused = || E::custom(Refused::new("it is out of range", format!("write {}", self.takes)));
        number.map(Some).ok_or_else(refused)
    }
}

impl<T: TryFrom<i64> + TryFrom<u64>> Visitor<'_> for NumberVisitor<T> {
    type Value = Option<T>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.takes)
    }
    fn visit_str<E: de::Error>(self, text: &str) -> Result<Option<T>, E> {
        (self.parse)(text).map_err(E::custom)
    }
    fn visit_i64<E: de::Error>(self, n: i64) -> Result<Option<T>, E> {
        self.number(T::try_from(n).ok())
    }
    fn visit_u64<E: de::Error>(self, n: u64) -> Result<Option<T>, E> {
        self.number(T::try_from(n).ok())
    }
}

pub(super) fn limit<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    let parse = |text: &str| match text {
        "none" => Ok(None),
        _ => Err(Refused::new(
            "it is neither a number nor \"none\"",
            "write digits without quotes, or \"none\"",
        )),
    };
    deserializer.deserialize_any(NumberVisitor { takes: LIMIT.takes, parse })
}

pub(super) fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    deserializer.deserialize_any(NumberVisitor { takes: SIZE.takes, parse: parse_size })
}

pub(super) fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SocketAddr>, D::Error> {
    struct AddressVisitor;
    impl Visitor<'_> for AddressVisitor {
        type Value = Option<SocketAddr>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(ADDRESS.takes)
        }
        fn visit_str<E: de::Error>(self, text: &str) -> Result<Option<SocketAddr>, E> {
            parse_address(text).map_err(E::custom)
        }
    }
    deserializer.deserialize_str(AddressVisitor)
}

pub(super) fn output<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Output>, D::Error> {
    struct OutputVisitor;
    impl Visitor<'_> for OutputVisitor {
        type Value = Option<Output>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(OUTPUT.takes)
        }
        fn visit_str<E: de::Error>(self, text: &str) -> Result<Option<Output>, E> {
            Ok(read_output(text))
        }
    }
    deserializer.deserialize_str(OutputVisitor)
}

pub(super) fn file<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
    Ok(read_file(&String::deserialize(deserializer)?))
}

/// How long no agent must stall until a brake is released; `None`: `"manual"`.
pub(super) fn release<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    struct ReleaseVisitor;
    impl Visitor<'_> for ReleaseVisitor {
        type Value = Option<Duration>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(RELEASE)
        }
        fn visit_str<E: de::Error>(self, text: &str) -> Result<Option<Duration>, E> {
            if text == "manual" {
                return Ok(None);
            }
            parse_duration(text)
                .map(Some)
                .map_err(|Refused { why, fix }| E::custom(Refused::new(why, format!("{fix}, or \"manual\""))))
        }
    }
    deserializer.deserialize_any(ReleaseVisitor)
}

/// A factor in hundredths.
pub(super) fn factor<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    struct FactorVisitor;
    impl Visitor<'_> for FactorVisitor {
        type Value = u32;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(FACTOR)
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the range is checked before"
        )]
        fn visit_f64<E: de::Error>(self, factor: f64) -> Result<u32, E> {
            let hundredths = (factor * 100.0).round();
            if (0.0..=f64::from(u32::MAX)).contains(&hundredths) {
                return Ok(hundredths as u32);
            }
            Err(E::custom(Refused::new("it is out of range", format!("write {FACTOR}"))))
        }
        fn visit_i64<E: de::Error>(self, factor: i64) -> Result<u32, E> {
            let hundredths = factor.checked_mul(100).and_then(|hundredths| u32::try_from(hundredths).ok());
            hundredths.ok_or_else(|| E::custom(Refused::new("it is out of range", format!("write {FACTOR}"))))
        }
        fn visit_u64<E: de::Error>(self, factor: u64) -> Result<u32, E> {
            self.visit_i64(i64::try_from(factor).unwrap_or(i64::MAX))
        }
    }
    deserializer.deserialize_any(FactorVisitor)
}

/// A signal by name or number.
pub(super) struct Signal(pub(super) u8);

impl<'de> Deserialize<'de> for Signal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SignalVisitor;
        impl Visitor<'_> for SignalVisitor {
            type Value = Signal;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(SIGNAL)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Signal, E> {
                parse_signal(text).map(Signal).map_err(E::custom)
            }
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Signal, E> {
                signal_numbered(number).map(Signal).map_err(E::custom)
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Signal, E> {
                self.visit_i64(i64::try_from(number).unwrap_or(i64::MAX))
            }
        }
        deserializer.deserialize_any(SignalVisitor)
    }
}

pub(super) fn signal<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u8>, D::Error> {
    Signal::deserialize(deserializer).map(|signal| Some(signal.0))
}

/// A user by number or name, with the group that the host knows it by.
pub(super) fn account<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<(u32, u32)>, D::Error> {
    struct RunsAs;
    impl Visitor<'_> for RunsAs {
        type Value = (u32, u32);
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(USER)
        }
        fn visit_str<E: de::Error>(self, text: &str) -> Result<(u32, u32), E> {
            let found = match text.trim().parse() {
                Ok(uid) => accounts::account_of(uid),
                Err(_) => accounts::account_named(text.trim()),
            };
            known(found, "user").map_err(E::custom)
        }
        fn visit_i64<E: de::Error>(self, n: i64) -> Result<(u32, u32), E> {
            let found = u32::try_from(n).map_or(Ok(None), accounts::account_of);
            known(found, "user").map_err(E::custom)
        }
        fn visit_u64<E: de::Error>(self, n: u64) -> Result<(u32, u32), E> {
            self.visit_i64(i64::try_from(n).unwrap_or(i64::MAX))
        }
    }
    deserializer.deserialize_any(RunsAs).map(Some)
}

pub(super) fn octal<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    struct OctalVisitor;
    impl Visitor<'_> for OctalVisitor {
        type Value = u32;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(MODE.takes)
        }
        fn visit_str<E: de::Error>(self, text: &str) -> Result<u32, E> {
            parse_mode(text).map_err(E::custom)
        }
    }
    deserializer.deserialize_str(OctalVisitor)
}

pub(super) fn some_duration<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Duration>, D::Error> {
    duration(deserializer).map(Some)
}

pub(super) fn some_octal<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    octal(deserializer).map(Some)
}

/// A user or group by number or name.
struct AccountVisitor {
    takes: &'static str,
    parse: fn(&str) -> Result<u32, Refused>,
}

impl Visitor<'_> for AccountVisitor {
    type Value = u32;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.takes)
    }
    fn visit_str<E: de::Error>(self, text: &str) -> Result<u32, E> {
        (self.parse)(text).map_err(E::custom)
    }
    fn visit_i64<E: de::Error>(self, n: i64) -> Result<u32, E> {
        let refused = |_| E::custom(Refused::new("it is out of range", format!("write {}", self.takes)));
        u32::try_from(n).map_err(refused)
    }
    fn visit_u64<E: de::Error>(self, n: u64) -> Result<u32, E> {
        self.visit_i64(i64::try_from(n).unwrap_or(i64::MAX))
    }
}

pub(super) fn group<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    deserializer.deserialize_any(AccountVisitor { takes: GROUP.takes, parse: parse_group }).map(Some)
}

pub(super) fn user<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    deserializer.deserialize_any(AccountVisitor { takes: USER, parse: parse_user }).map(Some)
}

pub(super) fn users<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<u32>>, D::Error> {
    struct User(u32);
    impl<'de> Deserialize<'de> for User {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            deserializer.deserialize_any(AccountVisitor { takes: USER, parse: parse_user }).map(User)
        }
    }
    let users = Vec::<User>::deserialize(deserializer)?;
    Ok(Some(users.into_iter().map(|user| user.0).collect()))
}

impl<'de> Deserialize<'de> for CoreChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct CoreVisitor;
        impl Visitor<'_> for CoreVisitor {
            type Value = CoreChoice;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the number of a core, \"auto\" or \"none\"")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<CoreChoice, E> {
                match text {
                    "auto" => Ok(CoreChoice::Auto),
                    "none" => Ok(CoreChoice::None),
                    _ => Err(E::custom(Refused::new(
                        "it is neither a number nor \"auto\" nor \"none\"",
                        "write core = 2, core = \"auto\" or core = \"none\"",
                    ))),
                }
            }
            fn visit_i64<E: de::Error>(self, n: i64) -> Result<CoreChoice, E> {
                u32::try_from(n).map(CoreChoice::Core).map_err(|_| {
                    E::custom(Refused::new(
                        "no core has such a number",
                        "write one of those that nproc counts, from 0",
                    ))
                })
            }
            fn visit_u64<E: de::Error>(self, n: u64) -> Result<CoreChoice, E> {
                self.visit_i64(i64::try_from(n).unwrap_or(i64::MAX))
            }
        }
        deserializer.deserialize_any(CoreVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration(" 1m30s "), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_duration("0"), Ok(Duration::ZERO));
        assert_eq!(parse_duration("5").unwrap_err().to_string(), "5 has no unit; write 5s or 5ms");
        for bad in ["", "-1s", "2 parsecs", "s", "1e9s", "99999999999999999999s"] {
            assert!(parse_duration(bad).unwrap_err().to_string().contains("1m30s"), "{bad:?}");
        }
    }

    #[test]
    fn durations_are_written_as_they_are_read() {
        for text in ["10ms", "2s", "1m30s", "24h", "0", "1h1m1s1ms1us1ns"] {
            let duration = parse_duration(text).unwrap();
            assert_eq!(written(duration), text);
        }
    }

    #[test]
    fn users_are_behind_commas() {
        assert_eq!(parse_users("root, 7,0"), Ok(Some(vec![0, 7, 0])));
        assert_eq!(parse_users("none"), Ok(None));
        for bad in ["", "root,", ",7", "no such user"] {
            assert!(
                parse_users(bad).unwrap_err().to_string().contains("no such user on this host"),
                "{bad:?}"
            );
        }
        let refused = |users: Option<Vec<u32>>| {
            WRITERS.judge(&users, "control-writers").err().map(|refused| refused.to_string())
        };
        let most: Vec<u32> = (0..64).collect();
        assert_eq!((refused(None), refused(Some(most.clone()))), (None, None));
        let told = refused(Some(vec![])).unwrap();
        assert_eq!(told, "it names nobody; write 1 to 64 users, or leave out control-writers");
        assert!(refused(Some([most, vec![64]].concat())).unwrap().contains("more than 64 users"));
        assert_eq!(list_of_users(&[7, 8]), "7,8");
    }

    #[test]
    fn an_address_without_a_host_is_of_this_host() {
        let loopback = Ok(Some(SocketAddr::from(([127, 0, 0, 1], 9464))));
        for text in ["127.0.0.1:9464", "localhost:9464", ":9464", " :9464 "] {
            assert_eq!(parse_address(text), loopback, "{text}");
        }
        assert_eq!(parse_address("none"), Ok(None));
        for bad in
            ["9464", "localhost", "localhost:", ":", ":99999", "host:9464", "localhost:9464x", ":+9464"]
        {
            assert!(parse_address(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_may_have_a_unit() {
        for (text, bytes) in
            [("65536", 65_536), ("64KiB", 65_536), (" 100 MiB ", 104_857_600), ("2GiB", 1 << 31)]
        {
            assert_eq!(parse_size(text), Ok(Some(bytes)));
        }
        assert_eq!(parse_size("none"), Ok(None));
        for bad in ["", "MiB", "1MB", "-1", "1.5GiB", "99999999999GiB"] {
            assert!(parse_size(bad).unwrap_err().to_string().contains("100MiB"), "{bad:?}");
        }
    }
}
