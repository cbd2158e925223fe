//! The status line that each daemon sent last, beside the table of its shard.
//!
//! A record of fixed size for each slot, guarded by a sequence as the slot is, so that the shard allocates nothing for
//! a text that a stranger chose. Memory is taken as records are written. The lines do not outlive the observer: daemons
//! send them again. Thread: the shard writes, any reads. Blocks: never. Allocates: address space at creation; readers
//! their copy.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

#[cfg(any(test, feature = "http"))]
use super::Busy;
#[cfg(any(test, feature = "http"))]
use super::sequence::read_once;
use super::sequence::{begin, end, high};
use crate::notify::message::STATUS_BYTES_MAX;
use crate::sys::memory::Words;

/// The text, with its length in the first byte.
const TEXT_WORDS: usize = 32;
/// The sequence with the holder's generation, and the text.
const LINE_WORDS: usize = 1 + TEXT_WORDS;
#[cfg(any(test, feature = "http"))]
const READ_ATTEMPTS: u32 = 64;

const _: () = assert!(TEXT_WORDS * size_of::<u64>() == 1 + STATUS_BYTES_MAX);

/// The status lines of the daemons of one shard.
#[derive(Debug)]
pub struct StatusLines {
    words: Words<AtomicU64>,
}

impl StatusLines {
    /// For this many slots, none with a line.
    ///
    /// # Errors
    /// The kernel's, if it grants no address space.
    pub fn new(slots: u32) -> io::Result<Self> {
        Ok(Self { words: Words::anonymous(slots as usize * LINE_WORDS)? })
    }

    /// Replaces the line of a slot whose holder has this generation, unless it is the same. A longer text is cut between
    /// characters. Shard only.
    pub fn put(&self, slot: u32, generation: u32, text: &str) {
        let text = &text.as_bytes()[..text.floor_char_boundary(STATUS_BYTES_MAX)];
        let mut bytes = [0; TEXT_WORDS * size_of::<u64>()];
        bytes[0] = u8::try_from(text.len()).unwrap_or(u8::MAX);
        bytes[1..=text.len()].copy_from_slice(text);
        let words = self.line(slot);
        let new = || words[1..].iter().zip(bytes.as_chunks().0).take(words_of(text.len()));
        let is_same = |(word, bytes): (&AtomicU64, &[u8; 8])| {
            word.load(Ordering::Relaxed) == u64::from_ne_bytes(*bytes)
        };
        if high(words[0].load(Ordering::Relaxed)) == generation && new().all(is_same) {
            return;
        }
        begin(&words[0]);
        // Words behind the text are not read.
        for (word, bytes) in new() {
            word.store(u64::from_ne_bytes(*bytes), Ordering::Relaxed);
        }
        end(&words[0], generation);
    }

    #[cfg(any(test, feature = "http"))]
    /// The line of the holder of a slot that has this generation; empty if it sent none.
    ///
    /// # Errors
    /// [`Busy`] if the shard wrote it at all attempts: read again later.
    pub fn get(&self, slot: u32, generation: u32) -> Result<String, Busy> {
        let words = self.line(slot);
        let read =
            || -> [u64; TEXT_WORDS] { std::array::from_fn(|index| words[index + 1].load(Ordering::Relaxed)) };
        for _ in 0..READ_ATTEMPTS {
            let Some((first, text)) = read_once(&words[0], read) else {
                std::hint::spin_loop();
                continue;
            };
            if high(first) != generation {
                return Ok(String::new());
            }
            let bytes: Vec<u8> = text.iter().flat_map(|word| word.to_ne_bytes()).collect();
            let text = &bytes[1..=usize::from(bytes[0])];
            return Ok(String::from_utf8_lossy(text).into_owned());
        }
        Err(Busy)
    }

    /// A number that changes whenever the line of the holder with this generation does; `None` if it sent none. Of lines that
    /// were changed more often than four billion times in between, some are missed.
    pub fn change(&self, slot: u32, generation: u32) -> Option<u64> {
        let first = self.line(slot)[0].load(Ordering::Acquire);
        (high(first) == generation).then_some(first & u64::from(u32::MAX))
    }

    fn line(&self, slot: u32) -> &[AtomicU64] {
        let start = slot as usize * LINE_WORDS;
        &self.words[start..start + LINE_WORDS]
    }
}

/// Words of a text of so many bytes, with its length.
const fn words_of(bytes: usize) -> usize {
    (1 + bytes).div_ceil(size_of::<u64>())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::sys::allocations::during;

    #[test]
    fn a_line_is_that_of_its_holder_until_the_next() {
        let lines = StatusLines::new(3).unwrap();
        assert_eq!(lines.get(1, 1), Ok(String::new()), "none was sent");
        lines.put(1, 1, "Serving 7 clients");
        assert_eq!(lines.get(1, 1).as_deref(), Ok("Serving 7 clients"));
        assert_eq!(lines.get(1, 2), Ok(String::new()), "it is that of the holder before");
        lines.put(1, 2, "Grüße");
        assert_eq!(lines.get(1, 2).as_deref(), Ok("Grüße"));
        lines.put(1, 2, "");
        assert_eq!(lines.get(1, 2), Ok(String::new()));
        for slot in [0, 2] {
            assert_eq!(lines.get(slot, 0), Ok(String::new()), "the neighbour");
        }
    }

    #[test]
    fn a_line_of_any_length_is_kept_as_far_as_there_is_room() {
        let lines = StatusLines::new(2).unwrap();
        for length in (0..10).chain(250..260) {
            let text = "x".repeat(length);
            assert_eq!(during(|| lines.put(1, 1, &text)), 0);
            assert_eq!(lines.get(1, 1).unwrap(), text[..length.min(STATUS_BYTES_MAX)]);
        }
        lines.put(1, 1, &"ü".repeat(200));
        assert_eq!(lines.get(1, 1).unwrap(), "ü".repeat(127));
        assert_eq!(lines.get(0, 0), Ok(String::new()));
    }

    #[test]
    fn readers_in_other_threads_never_see_a_torn_line() {
        let lines = StatusLines::new(1).unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut seen = 0;
                while !done.load(Ordering::Relaxed) || seen == 0 {
                    let Ok(line) = lines.get(0, 1) else { continue };
                    let first = line.chars().next();
                    assert!(line.chars().all(|char| Some(char) == first), "{line}");
                    seen += u32::from(first.is_some());
                }
            });
            for round in 0..50_000_u32 {
                let letter = char::from(b'a' + u8::try_from(round % 26).unwrap());
                let text = letter.to_string().repeat(round as usize % STATUS_BYTES_MAX + 1);
                lines.put(0, 1, &text);
            }
            done.store(true, Ordering::Relaxed);
            reader.join().unwrap();
        });
    }
}
