//! Events as JSON Lines, schema version 1: one object per line, its fields always in the same order.
//!
//! ```text
//! {"v":1,"seq":7,"ts":"2026-03-01T12:00:00.000000000Z","mono_ns":2500000000,"kind":"stall","shard":1,"pid":4711,"session":1,"nonce":42,"status":"ok","payload":0,"silent_ns":2000000000,"last_nonce":42,"certain":true,"blind_ns":0}
//! ```
//!
//! The fields of a line and their reader are in `src/event/json.rs`.

use crate::event::Event;

/// Appends the event's JSON object and a newline to `out`.
///
/// Allocates nothing once `out` has room, except for the text of an error number. The line contains no other
/// newline: strings are escaped.
pub fn write_line(event: &Event, out: &mut Vec<u8>) {
    let written = serde_json::to_writer(&mut *out, event);
    debug_assert!(written.is_ok(), "a Vec takes every byte, and every key is a string: {written:?}");
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::samples::one_of_each;

    #[test]
    fn lines_are_appended() {
        let mut out = b"before\n".to_vec();
        for event in one_of_each() {
            write_line(&event, &mut out);
        }
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!((lines[0], lines.len()), ("before", one_of_each().len() + 1));
    }
}
