//! Exit codes of the program, and the message of each failure.

use std::fmt;
use std::io;
use std::process::ExitCode;

use varta_fleet::config::{ConfigError, Origin, ProblemKind};
use varta_fleet::{Reason, Shown, StartError};

/// The exit codes, as `--help` lists them.
pub const EXIT_CODES: &str = "\
Exit codes:
  0   clean
  1   something failed while running
  2   the command line is not understood
  3   of status --plugin nagios, which has codes of its own: the fleet cannot be asked
  69  a socket is in use by another observer, or there is no fleet to talk to
  77  permission denied
  78  the configuration is refused, or check found problems
  126 of exec: the program cannot be run; else exec ends as the program does
  127 of exec: there is no such program";

/// How the program ends; the numbers follow sysexits.h where it has one. `status --plugin` ends with the number that
/// means the same to its monitoring system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// All went well.
    Clean = 0,
    /// Something failed while running.
    Runtime = 1,
    /// The command line is not understood.
    Usage = 2,
    /// Of `status --plugin nagios`: the fleet cannot be asked.
    Unknown = 3,
    /// A socket is in use by another observer, or there is no fleet to talk to.
    Unavailable = 69,
    /// Permission denied.
    Permission = 77,
    /// The configuration is refused, or `check` found problems.
    Config = 78,
    /// Of `exec`, as env(1): the program cannot be run.
    NotExecutable = 126,
    /// Of `exec`, as env(1): there is no such program.
    NotFound = 127,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command failed, and its exit code.
#[derive(Debug)]
pub struct CliError {
    exit: Exit,
    message: String,
    is_broken_pipe: bool,
}

impl CliError {
    /// A failure. `message`: what failed, on what, why, what to do.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), is_broken_pipe: false }
    }

    /// The exit code of this failure.
    pub const fn exit(&self) -> Exit {
        self.exit
    }

    /// Whether the reader of standard output hung up: `varta-fleet … | head` is no failure.
    pub const fn is_broken_pipe(&self) -> bool {
        self.is_broken_pipe
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<ConfigError> for CliError {
    fn from(error: ConfigError) -> Self {
        // An unreadable value of a flag is a usage error; a value that makes no sense is a configuration
        // error.
        let mistyped =
            |kind, origin: &Option<Origin>| kind == ProblemKind::Unreadable && *origin == Some(Origin::Flag);
        let problems = error.problems();
        let exit = if problems.iter().any(|problem| mistyped(problem.kind, &problem.origin)) {
            Exit::Usage
        } else if problems.iter().any(|problem| problem.kind == ProblemKind::Denied) {
            Exit::Permission
        } else {
            Exit::Config
        };
        Self::new(exit, error.to_string())
    }
}

impl From<StartError> for CliError {
    fn from(error: StartError) -> Self {
        let exit = match (&error, error.kind()) {
            (_, io::ErrorKind::AddrInUse) => Exit::Unavailable,
            (_, io::ErrorKind::PermissionDenied) => Exit::Permission,
            (StartError::Config(_) | StartError::Inherited(_) | StartError::NoHttp { .. }, _) => Exit::Config,
            // An unusable path is a configuration error; a kernel without descriptors or room is not.
            (
                StartError::RunDir(_)
                | StartError::Bind { .. }
                | StartError::Events(_)
                | StartError::Act(_)
                | StartError::Control(_)
                | StartError::Http(_),
                io::ErrorKind::InvalidInput
                | io::ErrorKind::NotFound
                | io::ErrorKind::AlreadyExists
                | io::ErrorKind::NotADirectory
                | io::ErrorKind::IsADirectory
                | io::ErrorKind::InvalidFilename
                | io::ErrorKind::AddrNotAvailable
                | io::ErrorKind::ReadOnlyFilesystem,
            ) => Exit::Config,
            _ => Exit::Runtime,
        };
        Self::new(exit, error.to_string())
    }
}

/// Standard output failed.
impl From<io::Error> for CliError {
    fn from(error: io::Error) -> Self {
        let message =
            format!("cannot write to standard output: {}; give it a reader with room", Reason(&error));
        Self { exit: Exit::Runtime, message, is_broken_pipe: error.kind() == io::ErrorKind::BrokenPipe }
    }
}

/// `no shards`, `1 shard`, `2 shards`.
pub fn counted(n: u64, what: &str) -> String {
    match n {
        0 => format!("no {what}s"),
        1 => format!("1 {what}"),
        n => format!("{n} {what}s"),
    }
}

/// Converts an error of clap to our grammar: what and why from its first lines, then what to write and where to read more.
/// `command`: the one that was named.
pub fn usage(error: &clap::Error, command: Option<&str>) -> CliError {
    let text = error.to_string();
    let (text, usage) = text.split_once("\nUsage: ").unwrap_or((&text, ""));
    let usage = usage.split("\n\n").next().unwrap_or_default();
    let usage = usage.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty()).peekable();
    let mut what =
        lines.next().unwrap_or_default().trim_start_matches("error: ").trim_end_matches('.').to_owned();
    if what.ends_with(':') {
        let mut lead = " ";
        while let Some(item) = lines.next_if(|line| !line.starts_with("tip: ")) {
            what.push_str(&format!("{lead}{item}"));
            lead = ", ";
        }
    }
    // The words of the standard library say what it did, not what is wrong.
    let what =
        what.replace("invalid digit found in string", "it is no whole number; write digits, such as 4711");
    let what = what.replace("cannot parse integer from empty string", "it is empty");
    let what = match (what.rfind(" is not in "), what.rfind("..=")) {
        (Some(at), Some(to)) if to > at => {
            format!("{} is not from {} to {}", &what[..at], &what[at + 11..to], &what[to + 3..])
        }
        _ => what,
    };
    let mut advice = String::new();
    for line in lines {
        let values = line.strip_prefix("[possible values: ").and_then(|rest| rest.strip_suffix(']'));
        if let Some(values) = values {
            advice.push_str(&format!("; write one of {}", Shown(values)));
        } else if let Some(tip) = line.strip_prefix("tip: ") {
            advice.push_str(&format!("; {}", Shown(tip)));
        } else if !line.starts_with("For more information") {
            advice.push_str(&format!("; {}", Shown(line)));
        }
    }
    let command = command.map_or_else(String::new, |command| format!("{command} "));
    let usage = if usage.is_empty() { usage } else { format!("; usage: {usage}") };
    let what = Shown(what);
    CliError::new(
        Exit::Usage,
        format!("cannot read the command line: {what}{advice}{usage}; more: varta-fleet {command}--help"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli;

    #[test]
    fn what_is_missing_and_what_there_is_to_choose_from_are_named() {
        for (line, said) in [
            (
                "explain",
                "required arguments were not provided: <PID>; usage: varta-fleet explain <PID>; more: varta-fleet explain --help",
            ),
            ("agents --state foo", "for '--state <STATE>'; write one of up, stalled, "),
            (
                "statsu",
                "unrecognized subcommand 'statsu'; a similar subcommand exists: 'status'; usage: varta-fleet",
            ),
            ("explain 1 --json=7", "unexpected value '7' for '--json' found; no more were expected; usage: "),
            (
                "explain abc",
                "invalid value 'abc' for '<PID>': it is no whole number; write digits, such as 4711; more: varta-fleet explain --help",
            ),
            ("explain 0", "invalid value '0' for '<PID>': 0 is not from 1 to 4294967295; more: "),
            (
                "load --for 5",
                "invalid value '5' for '--for <DURATION>': 5 has no unit; write 5s or 5ms; more: ",
            ),
            (
                "status --plugin npd --json",
                "'--plugin <SYSTEM>' cannot be used with '--json'; usage: varta-fleet status ",
            ),
            (
                "agents --state",
                "a value is required for '--state <STATE>' but none was supplied; write one of up, ",
            ),
            (
                "check extra",
                "unexpected argument 'extra' found; usage: varta-fleet check [OPTIONS]; more: varta-fleet check --help",
            ),
        ] {
            let words = std::iter::once("varta-fleet").chain(line.split(' '));
            let error = cli::command().try_get_matches_from(words).unwrap_err();
            let command = line.split(' ').next().filter(|word| cli::is_command(word));
            let told = usage(&error, command).to_string();
            assert!(told.contains(said) && !told.contains('\n'), "{told}");
        }
    }
}
