//! Records by slot or pid. Memory is taken in chunks, as numbers are used, and never moved or freed.

use crate::config::bounds::PID_MAX;

/// Records that one for each process id takes, 0 among them.
pub const PIDS: usize = PID_MAX as usize + 1;
/// Slots whose records are allocated together, at the first use of any of them.
const CHUNK: usize = 256;

/// A record for each slot of a shard.
#[derive(Debug)]
pub struct Slots<T> {
    chunks: Vec<Option<Box<[T]>>>,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self { chunks: Vec::new() }
    }
}

impl<T: Default> Slots<T> {
    /// The record of a used slot; `None` if neither it nor any slot of its chunk was used.
    #[inline]
    pub fn get(&self, slot: u32) -> Option<&T> {
        let slot = slot as usize;
        self.chunks.get(slot / CHUNK)?.as_ref().map(|chunk| &chunk[slot % CHUNK])
    }

    /// All records of chunks that were used.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.chunks.iter_mut().flatten().flat_map(|chunk| chunk.iter_mut())
    }

    /// The record of a slot; allocates its chunk at first use.
    #[inline]
    pub fn of(&mut self, slot: u32) -> &mut T {
        let slot = slot as usize;
        if self.chunks.len() <= slot / CHUNK {
            self.chunks.resize_with(slot / CHUNK + 1, || None);
        }
        let chunk =
            self.chunks[slot / CHUNK].get_or_insert_with(|| (0..CHUNK).map(|_| T::default()).collect());
        &mut chunk[slot % CHUNK]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl<T: Default> Slots<T> {
        /// All allocated records, including unused ones.
        pub fn iter(&self) -> impl Iterator<Item = &T> {
            self.chunks.iter().flatten().flat_map(|chunk| chunk.iter())
        }
    }

    #[test]
    fn a_record_is_kept_and_its_neighbours_are_new() {
        let mut slots = Slots::<u64>::default();
        assert_eq!(slots.get(0), None);
        *slots.of(5000) = 7;
        assert_eq!((slots.get(5000), slots.get(5001), slots.get(0)), (Some(&7), Some(&0), None));
        assert_eq!((*slots.of(0), *slots.of(5000)), (0, 7));
        assert_eq!(slots.get(u32::MAX), None);
    }
}
