//! How messages display texts of the system and of other programs.

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt;

/// An error of the system as messages display it: in lower case, and without the error number that the
/// standard library appends. Other errors are displayed unchanged.
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
        // Leaves names such as "RPC …" or "I/O error" unchanged.
        let is_word = text.chars().nth(1).is_some_and(char::is_lowercase);
        match text.chars().next() {
            Some(first) if is_word => write!(f, "{}{}", first.to_lowercase(), &text[first.len_utf8()..]),
            _ => f.write_str(text),
        }
    }
}

/// Text from outside (a path, a pattern, an argument) as messages display it: characters that could end the
/// line, move the cursor or change the writing direction are escaped. Other text is unchanged.
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

/// A word of a shell: text from outside in a command that a message or the page shows. What could end the line or steer a
/// terminal is written in the ANSI-C quoting of the shell.
///
/// ```
/// let word = |text: &str| varta_fleet::quoted(text.as_ref());
/// assert_eq!([word("/run/a"), word("/a b"), word("/a\n")], ["/run/a", "'/a b'", r"$'\x2f\x61\x0a'"]);
/// ```
#[must_use]
pub fn quoted(text: &OsStr) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_@%+=:,./-".contains(c);
    match text.to_str() {
        Some(plain) if !plain.is_empty() && plain.chars().all(is_plain) => plain.to_owned(),
        Some(harmless) if !harmless.contains(is_deceptive) => {
            format!("'{}'", harmless.replace('\'', r"'\''"))
        }
        // Byte by byte.
        _ => {
            let bytes = text.as_bytes().iter().map(|byte| format!("\\x{byte:02x}"));
            format!("$'{}'", bytes.collect::<String>())
        }
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

/// Control characters, and invisible characters: line and paragraph separators, marks and overrides of the
/// writing direction.
pub(crate) fn is_deceptive(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
        )
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
