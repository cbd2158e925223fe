//! Why a socket may not be used: whose it is, its mode, and what to do.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use varta_fleet::Shown;

use crate::accounts::Users;
use crate::exit::{CliError, Exit};

/// Permission bit of a group: it may write to a socket, which connect(2) asks for.
const GROUP_WRITE: u32 = 0o020;
/// It may search a directory.
const GROUP_SEARCH: u32 = 0o010;

/// `EACCES` on a socket. `failed`: what failed, on what; `keys`: the configuration of its mode and its group.
pub fn denied(failed: &str, socket: &Path, keys: [&str; 2]) -> CliError {
    let (users, groups) = (Users::of_host(), Users::groups_of_host());
    let uid = rustix::process::geteuid().as_raw();
    let us = users.name(uid);
    let (path, is_socket) = guilty(socket);
    let Some((path, found)) = path else {
        let message = format!("{failed}: permission denied for user {us}; use sudo");
        return CliError::new(Exit::Permission, message);
    };
    let mode = found.mode() & 0o7777;
    let owners = format!("{}:{}", users.name(found.uid()), groups.name(found.gid()));
    let what = if is_socket { "it".to_owned() } else { format!("its directory {}", Shown(path.display())) };
    let bit = if is_socket { GROUP_WRITE } else { GROUP_SEARCH };
    // The group of root is nobody's to join.
    let advice = if mode & bit != 0 && found.gid() != 0 {
        let group = groups.name(found.gid());
        format!("use sudo, or join the group {group} (sudo usermod -aG {group} {us}, then log in again)")
    } else if is_socket {
        let [mode, group] = keys;
        format!(
            "use sudo, or let a group use it: `{mode}` and `{group}` in the configuration of the observer"
        )
    } else {
        "use sudo, or let this user search it".to_owned()
    };
    CliError::new(
        Exit::Permission,
        format!(
            "{failed}: permission denied: {what} belongs to {owners}, has mode {mode:04o}, and you are user {us}; {advice}"
        ),
    )
}

/// What denies access: the socket, or the directory above it that may not be searched.
fn guilty(socket: &Path) -> (Option<(&Path, Metadata)>, bool) {
    if let Ok(found) = fs::metadata(socket) {
        return (Some((socket, found)), true);
    }
    let above =
        socket.ancestors().skip(1).find_map(|path| fs::metadata(path).ok().map(|found| (path, found)));
    (above, false)
}
