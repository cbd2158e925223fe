//! Users and groups by name, as the host knows them (getpwnam_r(3), getgrnam_r(3)), and the group of a user.

use std::ffi::{CStr, CString};
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

/// The groups of the account of this user, `gid` among them; only `gid` if it has no account. May block as
/// [`user_id`].
///
/// # Errors
/// As [`user_id`].
pub fn groups_of(uid: u32, gid: u32) -> io::Result<Vec<u32>> {
    let Some(name) = name_of(uid)? else { return Ok(vec![gid]) };
    let mut groups = vec![0; 64];
    loop {
        let mut count = libc::c_int::try_from(groups.len()).unwrap_or(libc::c_int::MAX);
        // SAFETY: `name` ends in NUL; `groups` has room for `count` groups, and both are exclusively borrowed until it
        // returns.
        let found = unsafe { libc::getgrouplist(name.as_ptr(), gid, groups.as_mut_ptr(), &raw mut count) };
        let count = usize::try_from(count).unwrap_or_default();
        if found >= 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        // Too little room; some libraries do not say how much is needed.
        let more = count.max(2 * groups.len());
        if more > ROOM_MAX {
            return Err(io::Error::from_raw_os_error(libc::ERANGE));
        }
        groups.resize(more, 0);
    }
}

/// The id and the group of the user with this name; `None` if there is none. May block as [`user_id`].
///
/// # Errors
/// As [`user_id`].
pub fn account_named(name: &str) -> io::Result<Option<(u32, u32)>> {
    find(name, libc::getpwnam_r, |entry| (entry.pw_uid, entry.pw_gid))
}

/// The id and the group of the user with this id; `None` if there is none. May block as [`user_id`].
///
/// # Errors
/// As [`user_id`].
pub fn account_of(uid: u32) -> io::Result<Option<(u32, u32)>> {
    entry_of(uid, |entry| (entry.pw_uid, entry.pw_gid))
}

/// The name of a user, `None` without an account.
fn name_of(uid: u32) -> io::Result<Option<CString>> {
    // SAFETY: the name is a string in the room of the entry, which ends in NUL and is not written meanwhile.
    entry_of(uid, |entry| unsafe { CStr::from_ptr(entry.pw_name) }.to_owned())
}

/// What `take` takes of the account of a user, while its strings are there.
fn entry_of<T>(uid: u32, take: fn(&libc::passwd) -> T) -> io::Result<Option<T>> {
    with_room(|room| {
        let mut entry = MaybeUninit::<libc::passwd>::uninit();
        let mut found = ptr::null_mut();
        // SAFETY: `entry`, `room` of the given length and `found` are exclusively borrowed until it returns.
        let errno = unsafe {
            libc::getpwuid_r(uid, entry.as_mut_ptr(), room.as_mut_ptr(), room.len(), &raw mut found)
        };
        // SAFETY: `found` is null or points to `entry`, which is initialised then.
        (errno, unsafe { found.as_ref() }.map(take))
    })
}

fn find<E, T>(name: &str, by: Ask<E>, id: fn(&E) -> T) -> io::Result<Option<T>> {
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
fn with_room<T>(ask: impl Fn(&mut [libc::c_char]) -> (i32, Option<T>)) -> io::Result<Option<T>> {
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
            assert_eq!(account_named(name).unwrap(), None, "{name:?}");
        }
        assert_eq!((account_named("root").unwrap(), account_of(0).unwrap()), (Some((0, 0)), Some((0, 0))));
        assert_eq!(account_of(u32::MAX - 7).unwrap(), None);
    }

    #[test]
    fn groups_are_those_of_the_account() {
        assert_eq!(groups_of(0, 0).unwrap().first(), Some(&0));
        assert!(groups_of(0, 4711).unwrap().contains(&4711));
        assert_eq!(groups_of(3_999_999_999, 7).unwrap(), [7], "there is no such account");
    }

    #[test]
    fn room_grows_with_the_answer() {
        let asked = with_room(|room| if room.len() < 100_000 { (libc::ERANGE, None) } else { (0, Some(7)) });
        assert_eq!(asked.unwrap(), Some(7));
        assert_eq!(
            with_room::<u32>(|_| (libc::ERANGE, None)).unwrap_err().raw_os_error(),
            Some(libc::ERANGE)
        );
    }
}
