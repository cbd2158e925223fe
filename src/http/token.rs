//! The secret that TCP clients must send.

use std::fmt;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use subtle::ConstantTimeEq;

use crate::message::{Reason, Shown};

/// Shorter tokens could be guessed.
const BYTES_MIN: usize = 16;
const BYTES_MAX: usize = 4096;
const GROUP_OR_OTHERS: u32 = 0o077;

/// The secret; never printed.
pub struct Token(Vec<u8>);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

/// Why a token file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// It cannot be read.
    #[error("cannot read token file {}: {}; create it: head -c 24 /dev/urandom | base64 > FILE, mode 0600", Shown(path.display()), Reason(source))]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// It is a pipe, a device or a directory.
    #[error("token file {} is not a regular file; write the token into one: head -c 24 /dev/urandom | base64 > FILE, mode 0600", Shown(path.display()))]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// Other users could read or replace it.
    #[error("token file {} can be read or written by others (owner {uid}, mode {mode:04o}); chown it to the user of the observer and chmod 600 it", Shown(path.display()))]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its owner.
        uid: u32,
        /// Its mode.
        mode: u32,
    },
    /// It holds no token.
    #[error("token file {} does not hold one line of {BYTES_MIN} to {BYTES_MAX} visible ASCII characters; write one: head -c 24 /dev/urandom | base64 > FILE", Shown(path.display()))]
    Unusable {
        /// The file.
        path: PathBuf,
    },
}

impl TokenError {
    /// The kind of the failure.
    #[must_use]
    pub fn kind(&self) -> io::ErrorKind {
        match self {
            Self::Unreadable { source, .. } => source.kind(),
            Self::NotAFile { .. } | Self::Exposed { .. } | Self::Unusable { .. } => {
                io::ErrorKind::InvalidInput
            }
        }
    }
}

impl Token {
    /// Reads the token from a file that only its owner (our user or root) may access. May block on the disk.
    ///
    /// # Errors
    /// See [`TokenError`].
    pub fn read(path: &Path) -> Result<Self, TokenError> {
        let unreadable = |source| TokenError::Unreadable { path: path.to_owned(), source };
        // NONBLOCK: opening a pipe must not wait for its other end.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(path, flags, Mode::empty());
        let file = File::from(opened.map_err(|errno| unreadable(errno.into()))?);
        let about = file.metadata().map_err(unreadable)?;
        if !about.is_file() {
            return Err(TokenError::NotAFile { path: path.to_owned() });
        }
        let (uid, mode) = (about.uid(), about.mode() & 0o7777);
        let is_ours = uid == 0 || uid == rustix::process::geteuid().as_raw();
        if !is_ours || mode & GROUP_OR_OTHERS != 0 {
            return Err(TokenError::Exposed { path: path.to_owned(), uid, mode });
        }
        let mut text = Vec::new();
        file.take(BYTES_MAX as u64 + 2).read_to_end(&mut text).map_err(unreadable)?;
        let token = text.trim_ascii_end();
        let is_usable =
            (BYTES_MIN..=BYTES_MAX).contains(&token.len()) && token.iter().all(u8::is_ascii_graphic);
        if !is_usable {
            return Err(TokenError::Unusable { path: path.to_owned() });
        }
        Ok(Self(token.to_owned()))
    }

    /// Whether `guess` is the token. Takes the same time for every guess of the same length.
    pub fn is(&self, guess: &[u8]) -> bool {
        self.0.ct_eq(guess).into()
    }
}

/// The token in a file, read again when the file is replaced or written.
#[derive(Debug)]
pub struct TokenFile {
    path: PathBuf,
    token: Token,
    /// The file at the last read, valid or not; `None`: there was none.
    seen: Option<Version>,
}

/// Changes when the file is replaced or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Version {
    device: u64,
    inode: u64,
    /// Distinguishes two changes within one tick of the file system's clock.
    size: u64,
    changed: (i64, i64),
}

impl Version {
    fn of(path: &Path) -> Option<Self> {
        let of = |about: Metadata| Self {
            device: about.dev(),
            inode: about.ino(),
            size: about.size(),
            changed: (about.ctime(), about.ctime_nsec()),
        };
        fs::metadata(path).ok().map(of)
    }
}

impl TokenFile {
    /// As [`Token::read`].
    ///
    /// # Errors
    /// As [`Token::read`].
    pub fn open(path: &Path) -> Result<Self, TokenError> {
        // Taken before the read: a write during the read counts as a change.
        let seen = Version::of(path);
        Ok(Self { path: path.to_owned(), token: Token::read(path)?, seen })
    }

    /// Reads the file again if it was replaced or written; `None` if not. If the file is unusable, the former
    /// token stays in force. One system call if nothing changed. May block on the disk.
    pub fn look_again(&mut self) -> Option<Result<(), TokenError>> {
        let now = Version::of(&self.path);
        if now == self.seen {
            return None;
        }
        self.seen = now;
        Some(Token::read(&self.path).map(|token| self.token = token))
    }

    /// The token in force.
    pub const fn token(&self) -> &Token {
        &self.token
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn read(content: &str, mode: u32) -> Result<Token, TokenError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        Token::read(&path)
    }

    #[test]
    fn a_token_is_one_line_that_only_its_owner_reads() {
        let token = read("0123456789abcdef\n", 0o600).unwrap();
        assert!(token.is(b"0123456789abcdef"));
        assert!(!token.is(b"0123456789abcdeF") && !token.is(b"") && !token.is(b"0123456789abcdef\n"));
        assert_eq!(format!("{token:?}"), "Token");
        for mode in [0o640, 0o604, 0o620] {
            let told = read("0123456789abcdef", mode).unwrap_err().to_string();
            assert!(told.contains("chmod 600"), "{told}");
        }
        for content in ["", "short\n", "0123456789 abcdef", "0123456789abcdef\n0123456789abcdef"] {
            assert!(read(content, 0o600).unwrap_err().to_string().contains("one line"), "{content:?}");
        }
        for path in ["/dev/zero", "/tmp"] {
            let told = Token::read(Path::new(path)).unwrap_err().to_string();
            assert!(told.contains("not a regular file"), "{told}");
        }
        let absent = Token::read(Path::new("/nonexistent/token")).unwrap_err();
        assert_eq!(absent.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_pipe_does_not_hang_whoever_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, Mode::RWXU).unwrap();
        assert!(matches!(Token::read(&path), Err(TokenError::NotAFile { .. })));
    }

    #[test]
    fn a_replaced_token_is_taken_and_a_useless_one_leaves_the_one_before_in_force() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let write = |content: &str| {
            let new = dir.path().join("new");
            fs::write(&new, content).unwrap();
            fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).unwrap();
            fs::rename(new, &path).unwrap();
        };
        write("0123456789abcdef");
        let mut file = TokenFile::open(&path).unwrap();
        assert!(file.look_again().is_none());
        write("fedcba9876543210");
        assert!(matches!(file.look_again(), Some(Ok(()))));
        assert!(file.token().is(b"fedcba9876543210") && !file.token().is(b"0123456789abcdef"));
        write("short");
        assert!(matches!(file.look_again(), Some(Err(TokenError::Unusable { .. }))));
        assert!(file.look_again().is_none(), "it is told once");
        fs::remove_file(&path).unwrap();
        assert!(matches!(file.look_again(), Some(Err(TokenError::Unreadable { .. }))));
        assert!(file.token().is(b"fedcba9876543210"));
        write("0123456789abcdef");
        assert!(matches!(file.look_again(), Some(Ok(()))));
        assert!(file.token().is(b"0123456789abcdef"));
    }
}
