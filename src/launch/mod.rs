//! Programs that become agents by the way they are started, and beats for others.
//!
//! In: a command and the socket of an observer for daemons. Out: messages of the notification protocol, and the program in
//! place of this process.
//!
//! 1. The program keeps the pid of this process, so that whoever started it waits for it, sends it signals and sees how it
//!    ends. Its descriptors, its terminal, its process group, its mask and its dispositions of signals are those that this
//!    process was started with.
//! 2. This process enrols itself, and so the program: the kernel attests its pid. What it sends last is the threshold, right
//!    before the program takes its place.
//! 3. Two messages: one alone, from a program that ends within a second, would be taken for the word of a script.
//! 4. Monitoring never keeps a program from running: if the observer takes no message in time, it runs all the same.

mod speaker;

use std::env;
use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::Access;
use rustix::io::Errno;

use crate::message::{Reason, Shown};
use crate::sys::execute::execute;
use speaker::{Person, Speaker};

/// How long a message waits for room in the queue of the observer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longest name that is understood, bytes.
const NAME_BYTES_MAX: usize = 255;
/// Where programs are looked for if `PATH` is not set, as execvp(3) has it.
const PATH: &str = "/bin:/usr/bin";

/// A program to start.
#[derive(Clone, Debug)]
pub struct Launch<'a> {
    /// The program, by its name or path, and its arguments.
    pub command: &'a [OsString],
    /// Absolute path of a socket for daemons.
    pub socket: &'a Path,
    /// Absolute path of the runtime directory.
    pub dir: &'a Path,
    /// The longest silence, if it is to be judged by silence from now on. Whole microseconds count.
    pub threshold: Option<Duration>,
    /// Its name as an instance. `None`: the file name of the program.
    pub name: Option<&'a str>,
}

/// Why a program was not started, or a beat not sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// There is no such program.
    #[error("cannot start {}: {}; name a program in PATH, or its path", Shown(program), Reason(source))]
    NotFound {
        /// As it was named.
        program: String,
        /// The kernel's reason.
        source: io::Error,
    },
    /// There is one that cannot be run.
    #[error("cannot start {}: {}; name a program that this user may execute", Shown(program), Reason(source))]
    NotExecutable {
        /// As it was named.
        program: String,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The kernel does not let this process send in the name of another.
    #[error(
        "cannot beat for process {pid}: {}; run this as root, which in a container needs the capability CAP_SYS_ADMIN, \
         or let the process beat by itself",
        Reason(source)
    )]
    NotForOthers {
        /// The process.
        pid: u32,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The process for which to beat is not there.
    #[error("cannot beat for process {pid}: {}; name one that runs", Reason(source))]
    NoProcess {
        /// The process.
        pid: u32,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The observer did not take the message.
    #[error("cannot send to {}: {}; is the observer running?", Shown(socket.display()), Reason(source))]
    Unheard {
        /// Its socket.
        socket: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
}

/// Why a text cannot be the name of an instance or a status; `None`: it can.
#[must_use]
pub fn unfit(text: &str) -> Option<&'static str> {
    match text {
        "" => Some("it is empty; write at least one character"),
        _ if text.len() > NAME_BYTES_MAX => Some("it is longer than 255 bytes; write a shorter one"),
        // A message has an assignment a line: what stands behind a line end would be another one.
        _ if text.contains(char::is_control) => Some("it holds control characters; leave them out"),
        _ => None,
    }
}

/// Starts a program in place of this process and has it observed. `on_trouble` is told why the observer may not know of it.
/// Returns only if the program was not started. Waits for the observer for at most two seconds.
pub fn launch(launch: &Launch<'_>, on_trouble: impl FnOnce(&LaunchError)) -> LaunchError {
    let program = launch.command.first().map(OsString::as_os_str).unwrap_or_default();
    let failed = |source: io::Error| {
        let program = program.to_string_lossy().into_owned();
        match source.kind() {
            io::ErrorKind::NotFound => LaunchError::NotFound { program, source },
            _ => LaunchError::NotExecutable { program, source },
        }
    };
    // First, so that nothing is known of a program that is not there.
    if let Err(source) = look_for(program) {
        return failed(source);
    }
    let environment = environment(launch);
    let file_name = Path::new(program).file_name().unwrap_or(program);
    show_as(file_name);
    if let Err(source) = enrol(launch, &name_of(launch, file_name)) {
        on_trouble(&LaunchError::Unheard { socket: launch.socket.to_owned(), source });
    }
    failed(execute(launch.command, &environment))
}

/// Sends one beat for a process, with a name or a status. Waits for the observer for at most two seconds.
///
/// # Errors
/// It was not sent.
pub fn beat_for(
    pid: u32,
    socket: &Path,
    name: Option<&str>,
    status: Option<&str>,
) -> Result<(), LaunchError> {
    let unheard = |source| LaunchError::Unheard { socket: socket.to_owned(), source };
    let mut text = "WATCHDOG=1".to_owned();
    for (variable, value) in [("X_VARTA_NAME", name), ("STATUS", status)] {
        if let Some(value) = value {
            text.push_str(&format!("\n{variable}={value}"));
        }
    }
    let person = Person::of(pid).map_err(|source| LaunchError::NoProcess { pid, source })?;
    let speaker = Speaker::to(socket.as_os_str(), PATIENCE).map_err(unheard)?;
    speaker.say(text.as_bytes(), Some(person), &[]).map_err(|source| match source.kind() {
        // The socket was connected to before: this is about the credentials.
        io::ErrorKind::PermissionDenied => LaunchError::NotForOthers { pid, source },
        _ => unheard(source),
    })
}

/// Whether there is a program of this name that may be executed, as execvp(3) looks for it.
fn look_for(program: &OsStr) -> io::Result<()> {
    let is_there = |path: &Path| -> io::Result<()> {
        let is_file = std::fs::metadata(path)?.is_file();
        rustix::fs::access(path, Access::EXEC_OK)?;
        if is_file { Ok(()) } else { Err(Errno::ACCESS.into()) }
    };
    if program.as_bytes().contains(&b'/') {
        return is_there(Path::new(program));
    }
    let mut worst = io::Error::from(Errno::NOENT);
    if program.is_empty() {
        return Err(worst);
    }
    for dir in env::split_paths(&env::var_os("PATH").unwrap_or_else(|| PATH.into())) {
        match is_there(&dir.join(program)) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => worst = error,
            Err(_) => {}
        }
    }
    Err(worst)
}

/// The environment of the program: that of this process, and where and how often it should beat.
fn environment(launch: &Launch<'_>) -> Vec<(OsString, OsString)> {
    let mut set: Vec<(&str, OsString)> =
        vec![("NOTIFY_SOCKET", launch.socket.into()), ("VARTA_DIR", launch.dir.into())];
    if let Some(threshold) = launch.threshold {
        set.push(("WATCHDOG_USEC", threshold.as_micros().to_string().into()));
        set.push(("WATCHDOG_PID", std::process::id().to_string().into()));
    }
    let is_set = |name: &OsStr| set.iter().any(|(known, _)| name == *known);
    let others = env::vars_os().filter(|(name, _)| !is_set(name));
    others.chain(set.iter().map(|(name, value)| (OsString::from(name), value.clone()))).collect()
}

/// The name of the instance: as given, else what of the file name of the program can be one.
fn name_of(launch: &Launch<'_>, file_name: &OsStr) -> String {
    let given = launch.name.map(str::to_owned);
    let mut name = given.unwrap_or_else(|| file_name.to_string_lossy().replace(char::is_control, "\u{fffd}"));
    name.truncate(name.floor_char_boundary(NAME_BYTES_MAX));
    name
}

/// Takes the name that the process will have anyway: whoever looks before the program runs sees that.
fn show_as(file_name: &OsStr) {
    if let Ok(name) = CString::new(file_name.as_bytes()) {
        // Ignored: it is for display only.
        let _ = rustix::thread::set_name(&name);
    }
}

fn enrol(launch: &Launch<'_>, name: &str) -> io::Result<()> {
    let speaker = Speaker::to(launch.socket.as_os_str(), PATIENCE)?;
    let name = format!("X_VARTA_NAME={name}");
    speaker.say(name.as_bytes(), None, &[])?;
    let last = launch.threshold.map(|threshold| format!("WATCHDOG_USEC={}", threshold.as_micros()));
    speaker.say(last.unwrap_or(name).as_bytes(), None, &[])
}
