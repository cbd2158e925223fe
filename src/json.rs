//! JSON that is safe to print on a terminal. serde_json escapes only what JSON requires, not C1 controls and
//! marks of the writing direction, and processes choose their own names.

use std::fmt;
use std::io;

use serde::Serialize;
use serde_json::Serializer;
use serde_json::ser::Formatter;

use crate::message::is_deceptive;

/// A value as JSON, with every character escaped that could control a terminal or is invisible.
#[derive(Clone, Copy, Debug)]
pub struct Json<T>(pub T);

impl<T: Serialize> Json<T> {
    /// The text of the value.
    ///
    /// # Errors
    /// Those of the value: a key that is not a string, or an error of its own.
    pub fn to_bytes(&self) -> serde_json::Result<Vec<u8>> {
        let mut text = Vec::new();
        self.0.serialize(&mut Serializer::with_formatter(&mut text, Escaping))?;
        Ok(text)
    }
}

impl<T: Serialize> fmt::Display for Json<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.to_bytes().map_err(|_| fmt::Error)?;
        f.write_str(str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

struct Escaping;

impl Formatter for Escaping {
    fn write_string_fragment<W: io::Write + ?Sized>(&mut self, writer: &mut W, text: &str) -> io::Result<()> {
        let mut rest = text;
        while let Some((at, c)) = rest.char_indices().find(|(_, c)| is_deceptive(*c)) {
            writer.write_all(&rest.as_bytes()[..at])?;
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(writer, "\\u{unit:04x}")?;
            }
            rest = &rest[at + c.len_utf8()..];
        }
        writer.write_all(rest.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_steers_a_terminal_is_escaped() {
        let text = Json(["a\u{9b}2J\u{202e}b\u{7f}\n\"ü"]).to_string();
        assert_eq!(text, r#"["a\u009b2J\u202eb\u007f\n\"ü"]"#);
    }

    proptest! {
        #[test]
        fn it_is_the_same_value_in_harmless_characters(key in any::<String>(), value in any::<String>()) {
            let value = serde_json::json!({ key: value });
            let text = Json(&value).to_string();
            prop_assert!(!text.contains(is_deceptive), "{text:?}");
            prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
        }
    }
}
