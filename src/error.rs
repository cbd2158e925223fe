//! Only what a caller of the library can receive.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::config::ConfigError;
use crate::rundir::binding::BindError;
use crate::rundir::dir::RunDirError;

/// A failure of the system as our messages tell it: in lower case, and without the number that the
/// standard library adds. Other errors are told as they are.
///
/// ```
/// let error = std::io::Error::from_raw_os_error(2);
/// assert_eq!(varta_fleet::Reason(&error).to_string(), "no such file or directory");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Reason<'a>(pub &'a io::Error);

impl fmt::Display for Reason<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.to_string();
        let Some(code) = self.0.raw_os_error() else { return f.write_str(&text) };
        let text = text.strip_suffix(&format!(" (os error {code})")).unwrap_or(&text);
        // Not of "RPC …" or "I/O error", which are names.
        let is_word = text.chars().nth(1).is_some_and(char::is_lowercase);
        match text.chars().next() {
            Some(first) if is_word => write!(f, "{}{}", first.to_lowercase(), &text[first.len_utf8()..]),
            _ => f.write_str(text),
        }
    }
}

/// Text that somebody else chose (a path, a pattern, an argument) as our messages show it: what could end the
/// line, move the cursor or turn the writing direction is escaped. Other text is shown as it is.
///
/// ```
/// let path = std::path::Path::new("/run/a\n\u{1b}[31mb");
/// assert_eq!(varta_fleet::Shown(path.display()).to_string(), "/run/a\\n\\u{1b}[31mb");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Shown<T>(pub T);

impl<T: fmt::Display> fmt::Display for Shown<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Write::write_fmt(&mut Escaping(f), format_args!("{}", self.0))
    }
}

struct Escaping<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl fmt::Write for Escaping<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.chars().try_for_each(|c| {
            if is_deceptive(c) {
                write!(self.0, "{}", c.escape_debug())
            } else {
                fmt::Write::write_char(self.0, c)
            }
        })
    }
}

/// Control characters, and those without a shape of their own: line and paragraph separators, marks and
/// overrides of the writing direction.
pub(crate) fn is_deceptive(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
        )
}

/// Why a fleet did not start. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The configuration is refused.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The runtime directory cannot be used.
    #[error(transparent)]
    RunDir(#[from] RunDirError),
    /// A shard's socket cannot be bound.
    #[error("cannot start shard {shard}: {source}")]
    Bind {
        /// Index of the shard.
        shard: usize,
        /// Why.
        source: BindError,
    },
    /// The event output cannot be opened.
    #[error(transparent)]
    Events(io::Error),
    /// The control socket cannot be bound.
    #[error(transparent)]
    Control(BindError),
    /// Questions cannot be answered where they should be.
    #[cfg(feature = "http")]
    #[error(transparent)]
    Http(#[from] crate::http::HttpError),
    /// This build answers no questions.
    #[error(
        "cannot serve http on {address}: this build has no http; build it with the feature `http`, or leave it out"
    )]
    NoHttp {
        /// Where it was to.
        address: std::net::SocketAddr,
    },
    /// The kernel grants no memory, descriptor or thread.
    #[error(
        "cannot {what}: {}; lower agents-max or shards, or raise the limits of this process",
        Reason(source)
    )]
    Resources {
        /// What was asked for.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl StartError {
    /// What kind of failure it is: `AddrInUse` another observer runs, `PermissionDenied`, `InvalidInput`
    /// the configuration, others at run time.
    #[must_use]
    pub fn kind(&self) -> io::ErrorKind {
        match self {
            Self::Config(_) => io::ErrorKind::InvalidInput,
            Self::RunDir(error) => error.kind(),
            Self::Bind { source, .. } => source.kind(),
            Self::Events(error) => error.kind(),
            Self::Control(error) => error.kind(),
            #[cfg(feature = "http")]
            Self::Http(error) => error.kind(),
            Self::NoHttp { .. } => io::ErrorKind::InvalidInput,
            Self::Resources { source, .. } => source.kind(),
        }
    }
}

/// Something that works less well than it should; the fleet runs all the same.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Warning {
    /// A thread runs at ordinary priority.
    #[error(
        "cannot raise the priority of {thread}: {why}; under load beats may be refused by the kernel; \
         grant CAP_SYS_NICE or set LimitNICE=-20"
    )]
    Priority {
        /// Which threads.
        thread: &'static str,
        /// The kernel's answer.
        why: String,
    },
    /// A shard is not pinned to the core it was given.
    #[error("cannot pin shard {shard} to core {core}: this process may not use it; it runs unpinned")]
    Pinning {
        /// Index of the shard.
        shard: usize,
        /// The core.
        core: usize,
    },
    /// Somebody removed or replaced a file by which agents find the fleet. It is back.
    #[error("{} had been removed or replaced, and is in place again; find out who removes it", Shown(path.display()))]
    PutBack {
        /// The file, or the runtime directory.
        path: PathBuf,
    },
    /// The same, and it could not be put back.
    #[error("agents that start now do not find {}: {why}", Shown(path.display()))]
    Unreachable {
        /// The file, or the runtime directory.
        path: PathBuf,
        /// What is in the way, and what to do.
        why: String,
    },
    /// The thread that answers questions died. Agents are observed all the same.
    #[error(
        "the HTTP thread died: metrics, API and page are not answered any more, agents are observed all the same; \
         restart the observer when it suits you, and report the panic above"
    )]
    Unanswered,
    /// recvmmsg(2) is refused to this process.
    #[error(
        "a filter (seccomp) refuses recvmmsg to this process: each datagram takes a call of its own, which costs \
         more CPU under load; allow it (SystemCallFilter=@system-service, or the runtime's profile)"
    )]
    OneByOne,
    /// We are inside a pid namespace.
    #[error(
        "this observer runs inside a pid namespace: agents outside of it cannot be attested and are \
         refused as unattested; run the observer on the host to see them"
    )]
    PidNamespace,
    /// Lookups cannot work: /proc numbers processes otherwise, or is not there.
    #[error(
        "/proc is not there or of another pid namespace: no agent can be looked up, so the \
         largest threshold among the rules that may match holds, containers' own pids stay unknown and forged pids are not told; mount a proc of this namespace \
         (unshare --mount-proc)"
    )]
    ForeignProcfs,
    /// Lookups of other users' processes cannot work.
    #[error(
        "/proc hides other users' processes: their agents cannot be looked up, so the largest \
         threshold among the rules that may match holds for them, and forged pids are not told; mount it without hidepid (ProtectProc=default), or run the observer as root"
    )]
    HiddenProcfs,
    /// A rule looks at what may not be read of other users' processes.
    #[error(
        "without CAP_SYS_PTRACE the programs of other users' processes cannot be read: where a rule matches by exe, \
         the largest threshold among those that may match holds for them; grant it, match by comm or uid, or run \
         the observer as root"
    )]
    UnreadablePrograms,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_shown_is_one_harmless_line_and_plain_text_stays(text in any::<String>()) {
            let shown = Shown(&text).to_string();
            prop_assert!(!shown.chars().any(is_deceptive), "{shown:?}");
            if !text.chars().any(is_deceptive) {
                prop_assert_eq!(shown, text);
            }
        }
    }
}
