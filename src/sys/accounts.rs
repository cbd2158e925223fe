//! Users and groups by name, as the host knows them (getpwnam_r(3), getgrnam_r(3)).

use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;
use std::ptr;

/// First size of the buffer for the strings of one entry, which include the members of a group.
const ROOM: usize = 1 << 10;
/// Larger than any entry.
const ROOM_MAX: usize = 1 << 24;

/// getpwnam_r(3), or getgrnam_r(3) with entries of its own.
type Ask<E> = unsafe extern "C" fn(
    *const libc::c_char,
    *mut E,
    *mut libc::c_char,
    libc::size_t,
    *mut *mut E,
) -> libc::c_int;

/// The id of the user with this name; `None` if there is none. May block on the disk or a directory service.
///
/// # Errors
/// The kernel's or the C library's, if the lookup fails.
pub fn user_id(name: &str) -> io::Result<Option<u32>> {
    find(name, libc::getpwnam_r, |entry| entry.pw_uid)
}

/// As [`user_id`], of a group.
///
/// # Errors
/// As [`user_id`].
pub fn group_id(name: &str) -> io::Result<Option<u32>> {
    find(name, libc::getgrnam_r, |entry| entry.gr_gid)
}

fn find<E>(name: &str, by: Ask<E>, id: fn(&E) -> u32) -> io::Result<Option<u32>> {
    let Ok(name) = CString::new(name) else { return Ok(None) };
    with_room(|room| {
        let mut entry = MaybeUninit::<E>::uninit();
        let mut found = ptr::null_mut();
        // SAFETY: `name` ends in NUL; `entry`, `room` of the given length and `found` are exclusively
        // borrowed until it returns.
        let errno =
            unsafe { by(name.as_ptr(), entry.as_mut_ptr(), room.as_mut_ptr(), room.len(), &raw mut found) };
        // SAFETY: `found` is null or points to `entry`, which is initialised then.
        (errno, unsafe { found.as_ref() }.map(id))
    })
}

/// Repeats the lookup with a larger buffer until the answer fits.
fn with_room(ask: impl Fn(&mut [libc::c_char]) -> (i32, Option<u32>)) -> io::Result<Option<u32>> {
    let mut room = vec![0; ROOM];
    loop {
        match ask(&mut room) {
            (0, found) => return Ok(found),
            (libc::EINTR, _) => {}
            (libc::ERANGE, _) if room.len() < ROOM_MAX => room.resize(2 * room.len(), 0),
            // Some libraries return this for an unknown name.
            (libc::ENOENT | libc::ESRCH, _) => return Ok(None),
            (errno, _) => return Err(io::Error::from_raw_os_error(errno)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_known_and_others_are_not() {
        assert_eq!((user_id("root").unwrap(), group_id("root").unwrap()), (Some(0), Some(0)));
        for name in ["", "nobody of this name", "0", "ro\0ot"] {
            assert_eq!((user_id(name).unwrap(), group_id(name).unwrap()), (None, None), "{name:?}");
        }
    }

    #[test]
    fn room_grows_with_the_answer() {
        let asked = with_room(|room| if room.len() < 100_000 { (libc::ERANGE, None) } else { (0, Some(7)) });
        assert_eq!(asked.unwrap(), Some(7));
        assert_eq!(with_room(|_| (libc::ERANGE, None)).unwrap_err().raw_os_error(), Some(libc::ERANGE));
    }
}
