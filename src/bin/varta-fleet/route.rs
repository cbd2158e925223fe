//! `route`: the socket a process sends its beats to.

use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use varta_fleet::{MANIFEST, Reason, Shown, socket_for};

use crate::access::denied;
use crate::client::FleetArgs;
use crate::exit::{CliError, Exit};

/// Arguments of `route`.
#[derive(clap::Args, Debug)]
pub struct RouteArgs {
    /// Whose socket.
    #[command(flatten)]
    fleet: FleetArgs,
    /// Process id of the agent [default: the parent of this process, which calls it]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pid: Option<u32>,
}

/// Prints the path, and nothing else on standard output, for use in scripts. Fails if beats of this user
/// would not arrive.
pub fn route(args: &RouteArgs) -> Result<Exit, CliError> {
    let dir = args.fleet.dir()?;
    let pid = args.pid.unwrap_or_else(std::os::unix::process::parent_id);
    let socket =
        socket_for(&dir, pid).map_err(|error| unread(&format!("cannot route pid {pid}"), &dir, &error))?;
    let mut out = io::stdout().lock();
    out.write_all(socket.as_os_str().as_bytes())?;
    out.write_all(b"\n")?;
    out.flush()?;
    hears_us(&socket)
}

/// Why the manifest of the fleet in `dir` cannot be used. `failed`: what cannot be done without.
pub fn unread(failed: &str, dir: &Path, error: &io::Error) -> CliError {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => CliError::new(
            Exit::Unavailable,
            format!(
                "{failed}: no fleet runs in {}, there is no {MANIFEST}; \
                 start one with `varta-fleet run`, or name its directory with --dir or VARTA_DIR",
                Shown(dir.display())
            ),
        ),
        io::ErrorKind::PermissionDenied => {
            let path = dir.join(MANIFEST);
            denied(&format!("{failed}: cannot read {}", Shown(path.display())), &path, ["mode", "group"])
        }
        _ => CliError::new(
            Exit::Runtime,
            format!("{failed}: {error}; restart the observer to have it written again"),
        ),
    }
}

/// Whether this user's beats would arrive. Sends nothing.
pub fn hears_us(socket: &Path) -> Result<Exit, CliError> {
    match UnixDatagram::unbound()?.connect(socket) {
        Ok(()) => Ok(Exit::Clean),
        Err(error) => Err(unheard(socket, &error)),
    }
}

/// Why beats sent to this socket do not arrive, from the error of connect(2).
pub fn unheard(socket: &Path, error: &io::Error) -> CliError {
    let shown = Shown(socket.display());
    match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => CliError::new(
            Exit::Unavailable,
            format!(
                "no observer listens on {shown}: {}; start an observer there, `varta-fleet run`",
                Reason(error)
            ),
        ),
        io::ErrorKind::PermissionDenied => {
            denied(&format!("cannot send to {shown}"), socket, ["mode", "group"])
        }
        _ => CliError::new(Exit::Runtime, format!("cannot send to {shown}: {}", Reason(error))),
    }
}
