//! Any words of a table that another process left: no panic, and what is adopted is consistent.
//!
//! Input: changes of 10 bytes, the number of a word and the bits of it that are flipped. With an odd number of them
//! the table is adopted as a larger one.

#![no_main]

use libfuzzer_sys::fuzz_target;
use varta_fleet::fuzzing::{Change, adopt_changed};

fuzz_target!(|input: &[u8]| {
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |all, byte| all << 8 | u64::from(*byte));
    let (chunks, _) = input.as_chunks::<10>();
    let changes: Vec<Change> = chunks
        .iter()
        .map(|bytes| Change { word: u16::from_le_bytes([bytes[0], bytes[1]]), flip: number(&bytes[2..]) })
        .collect();
    adopt_changed(&changes, if changes.len().is_multiple_of(2) { 8 } else { 16 });
});
