//! One writer, any number of readers, no lock: a record of words guarded by a sequence.
//!
//! The low half of the first word is the sequence, odd while the writer is inside; the high half is the
//! caller's. Words are relaxed atomics, so a torn read is merely a wrong value, and the sequence shows the
//! reader that it has to discard it.

use std::sync::atomic::Ordering;

use super::word::Word;

const SEQUENCE: u64 = 0xFFFF_FFFF;

/// Opens the record for writing: readers fail until [`end`].
#[inline]
pub fn begin<W: Word<Value = u64>>(sequence: &W) {
    let word = sequence.load(Ordering::Relaxed);
    sequence.store(word | 1, Ordering::Relaxed);
    // A reader that loads a word written after this fence also loads the odd sequence before it.
    W::fence(Ordering::Release);
}

/// Closes the record, with `high` as the high half of its first word.
#[inline]
pub fn end<W: Word<Value = u64>>(sequence: &W, high: u32) {
    let low = (sequence.load(Ordering::Relaxed) | 1).wrapping_add(1) & SEQUENCE;
    sequence.store(u64::from(high) << 32 | low, Ordering::Release);
}

/// Makes the sequence even again after a writer was interrupted inside; the words stay as they are.
#[inline]
pub fn repair<W: Word<Value = u64>>(sequence: &W) {
    let word = sequence.load(Ordering::Relaxed);
    if word & 1 == 1 {
        end(sequence, high(word));
    }
}

/// The caller's half of the first word.
#[inline]
pub const fn high(word: u64) -> u32 {
    (word >> 32) as u32
}

/// Tries once to read the record: `read` loads its words. Returns the first word and the result of `read`, or
/// `None` if the writer was inside meanwhile.
#[inline]
pub fn read_once<W: Word<Value = u64>, T>(sequence: &W, read: impl FnOnce() -> T) -> Option<(u64, T)> {
    let before = sequence.load(Ordering::Acquire);
    if before & 1 == 1 {
        return None;
    }
    let value = read();
    // Pairs with the fence in `begin`: if any word came from a later write, `after` differs.
    W::fence(Ordering::Acquire);
    let after = sequence.load(Ordering::Relaxed);
    (before == after).then_some((before, value))
}

#[cfg(test)]
mod tests {
    use loom::sync::Arc;
    use loom::sync::atomic::AtomicU64;

    use super::*;

    struct Record {
        sequence: AtomicU64,
        words: [AtomicU64; 2],
    }

    fn write(record: &Record, value: u64) {
        begin(&record.sequence);
        for word in &record.words {
            word.store(value, Ordering::Relaxed);
        }
        end(&record.sequence, u32::try_from(value).expect("small"));
    }

    #[test]
    fn loom_no_reader_ever_sees_half_a_write() {
        loom::model(|| {
            let record = Arc::new(Record { sequence: Word::new(0), words: [Word::new(0), Word::new(0)] });
            let reader = {
                let record = Arc::clone(&record);
                loom::thread::spawn(move || {
                    let seen = read_once(&record.sequence, || {
                        (record.words[0].load(Ordering::Relaxed), record.words[1].load(Ordering::Relaxed))
                    });
                    if let Some((first, (a, b))) = seen {
                        assert_eq!(a, b, "torn read");
                        assert_eq!(u64::from(high(first)), a, "the high half belongs to the record");
                    }
                })
            };
            write(&record, 1);
            write(&record, 2);
            reader.join().expect("reader");
        });
    }

    /// After the repair the record is what the interrupted writer left. A reader gets the record before, as
    /// left, or after the next write, never a mixture.
    #[test]
    fn fault_33_loom_no_reader_sees_a_mixture_when_a_dead_writer_is_repaired() {
        loom::model(|| {
            let record = Arc::new(Record { sequence: Word::new(0), words: [Word::new(0), Word::new(0)] });
            let reader = {
                let record = Arc::clone(&record);
                loom::thread::spawn(move || {
                    let seen = read_once(&record.sequence, || {
                        (record.words[0].load(Ordering::Relaxed), record.words[1].load(Ordering::Relaxed))
                    });
                    if let Some((first, words)) = seen {
                        // Before, as left by the interrupted writer, and after the next write.
                        let expected = [(0, (0, 0)), (0, (1, 0)), (2, (2, 2))];
                        let nth = usize::try_from((first & SEQUENCE) / 2).expect("small");
                        assert_eq!((high(first), words), expected[nth]);
                    }
                })
            };
            begin(&record.sequence);
            record.words[0].store(1, Ordering::Relaxed);
            repair(&record.sequence);
            write(&record, 2);
            reader.join().expect("reader");
        });
    }

    #[test]
    fn a_record_left_open_reads_busy_until_repaired() {
        use std::sync::atomic::AtomicU64;
        let sequence = AtomicU64::new(0);
        end(&sequence, 9);
        begin(&sequence);
        assert!(read_once(&sequence, || ()).is_none());
        repair(&sequence);
        let (first, ()) = read_once(&sequence, || ()).expect("readable");
        assert_eq!(high(first), 9);
        repair(&sequence);
        assert_eq!(sequence.load(Ordering::Relaxed), first, "an even sequence is left alone");
    }

    #[test]
    fn the_sequence_wraps_without_touching_the_high_half() {
        use std::sync::atomic::AtomicU64;
        let sequence = AtomicU64::new(7 << 32 | 0xFFFF_FFFE);
        begin(&sequence);
        assert_eq!(high(sequence.load(Ordering::Relaxed)), 7);
        end(&sequence, 7);
        assert_eq!(sequence.load(Ordering::Relaxed), 7 << 32);
    }
}
