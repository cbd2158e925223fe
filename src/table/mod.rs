//! The slot table of one shard: shared data, written by the shard only, readable by any thread.
//!
//! In: the records of the shard. Out: consistent copies of single slots. Thread: the writer belongs to the
//! shard; readers anywhere. Blocks: never. Allocates: at creation only.
//!
//! The table is one sealed memfd: a header page, the hot halves, the cold halves, their rare words, their extra
//! words. It is plain data, so a successor can map it ([`adopt`](mod@adopt)), and can rebuild index, free list
//! and timers from it alone.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};

use crate::sys::memory::{Words, prefetch};
use crate::time::MonoNs;

pub mod admission;
pub mod adopt;
pub mod key;
pub mod place;
pub mod sequence;
pub mod slot;
pub mod slots;
pub mod status_lines;
pub mod turned_away;
pub mod word;

use sequence::{begin, end, high, read_once, repair};
use slot::{COLD_WORDS, Cold, EXTRA_WORDS, HOT_WORDS, Hot, RARE_WORDS};

/// Words of the header: one page.
const HEADER_WORDS: usize = 512;
/// `vartaflt` in byte order.
const MAGIC: u64 = u64::from_le_bytes(*b"vartaflt");
/// Incremented whenever the meaning of a word changes.
const LAYOUT: u64 = 5;
/// Words of a slot, in all areas together.
const SLOT_WORDS: usize = HOT_WORDS + COLD_WORDS + RARE_WORDS + EXTRA_WORDS;
const SLOT_BYTES: u64 = (SLOT_WORDS * size_of::<u64>()) as u64;
/// A read that meets the writer this often returns [`Busy`].
const READ_ATTEMPTS: u32 = 64;

/// The header's description of the whole table; written once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The boot whose clocks the instants belong to.
    pub boot_id: u128,
    /// Inode of the pid namespace the pids belong to.
    pub pid_namespace: u64,
    /// Index of the shard.
    pub shard: u16,
    /// Number of shards of the fleet.
    pub shards: u16,
}

/// Indices of the header's words.
mod header {
    pub const MAGIC: usize = 0;
    pub const LAYOUT: usize = 1;
    pub const SLOT_BYTES: usize = 2;
    pub const CAPACITY: usize = 3;
    pub const BOOT_ID: [usize; 2] = [4, 5];
    pub const PID_NAMESPACE: usize = 6;
    pub const SHARD: usize = 7;
    pub const SHARDS: usize = 8;
    pub const GENERATION: usize = 9;
    pub const IS_CLEAN: usize = 10;
    pub const USED: usize = 11;
    // A cache line of its own, written in every turn.
    pub const ALIVE_AT: usize = 16;
    pub const WATERMARK: usize = 17;
    pub const PAUSED_NS: usize = 18;
    pub const PAUSED_FROM: usize = 19;
    pub const CLOCK_OFFSET: usize = 20;
}

/// How far the shard has come: what a successor needs beside the slots. Written once a turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// When the shard last ran.
    pub alive_at: MonoNs,
    /// Everything that arrived until here has been processed.
    pub watermark: MonoNs,
    /// Length of the pauses before `paused_from`, ns.
    pub paused_ns: u64,
    /// Pauses from here on are not counted in `paused_ns`: the begin of the first pause before which frames that
    /// are still queued may have arrived; without one, the last instant at which the shard ran.
    pub paused_from: MonoNs,
    /// REALTIME - MONOTONIC, ns.
    pub clock_offset: i64,
}

/// The reading half; cheap to clone.
#[derive(Clone, Debug)]
pub struct Table {
    words: Arc<Words<AtomicU64>>,
    capacity: u32,
    grants: Arc<Grants>,
}

/// For how many slots the kernel has granted memory. Without a grant, a touch of a slot can raise SIGBUS.
#[derive(Debug)]
struct Grants {
    /// Slots from this one on must not be touched yet.
    slots: AtomicU32,
    /// How many slots beyond the used ones are granted ahead.
    ahead: u32,
    /// The kernel's last refusal; 0 = none.
    errno: AtomicI32,
    /// Memory is granted for extra words, too.
    has_extra: AtomicBool,
    /// The kernel has no memory left.
    #[cfg(test)]
    is_refusing: AtomicBool,
}

/// The writing half. There is one; it cannot be cloned.
#[derive(Debug)]
pub struct TableWriter {
    table: Table,
}

/// The extra words of a slot.
pub type Extra = [u64; EXTRA_WORDS];

/// The writer was inside the slot at every attempt to read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy;

/// Reserves a table of `capacity` slots; the kernel allocates memory as they are touched. Touches only the
/// header.
///
/// # Errors
/// The kernel's, if it grants no memfd or no address space.
#[cfg(any(test, feature = "bench"))]
pub fn create(capacity: u32, header: Header) -> io::Result<(TableWriter, Table)> {
    let (writer, table) = create_granted(capacity, header, 0)?;
    table.grants.slots.store(capacity, Ordering::Relaxed);
    Ok((writer, table))
}

/// Reserves a table of `capacity` slots and obtains memory for the first `ahead` of them; for more, see
/// [`Table::grant_ahead`]. Touches only the header.
///
/// # Errors
/// The kernel's, if it grants no memfd, address space or memory.
pub fn create_granted(capacity: u32, header: Header, ahead: u32) -> io::Result<(TableWriter, Table)> {
    let words = Words::<AtomicU64>::sealed(&format!("varta-shard-{}", header.shard), words_of(capacity))?;
    words.grant(0..HEADER_WORDS)?;
    let table = Table::of(words, capacity, ahead);
    table.put(header::LAYOUT, LAYOUT);
    table.put(header::SLOT_BYTES, SLOT_BYTES);
    table.put(header::CAPACITY, u64::from(capacity));
    let [high, low] = halves(header.boot_id);
    table.put(header::BOOT_ID[0], high);
    table.put(header::BOOT_ID[1], low);
    table.put(header::PID_NAMESPACE, header.pid_namespace);
    table.put(header::SHARD, u64::from(header.shard));
    table.put(header::SHARDS, u64::from(header.shards));
    table.put(header::GENERATION, 1);
    table.put(header::USED, 0);
    // Written last, so that a half-written header is never taken for a table.
    table.words[header::MAGIC].store(MAGIC, Ordering::Release);
    table.grant(ahead.min(capacity))?;
    Ok((TableWriter { table: table.clone() }, table))
}

/// Length of a table of so many slots.
const fn words_of(capacity: u32) -> usize {
    HEADER_WORDS + capacity as usize * SLOT_WORDS
}

impl Table {
    /// The table in these words, without a grant for any slot.
    fn of(words: Words<AtomicU64>, capacity: u32, ahead: u32) -> Self {
        let grants = Grants {
            slots: AtomicU32::new(0),
            ahead,
            errno: AtomicI32::new(0),
            has_extra: AtomicBool::new(false),
            #[cfg(test)]
            is_refusing: AtomicBool::new(false),
        };
        Self { words: Arc::new(words), capacity, grants: Arc::new(grants) }
    }

    /// The memfd that holds the table, to be handed to a successor.
    pub fn memfd(&self) -> BorrowedFd<'_> {
        match self.words.memfd() {
            Some(memfd) => memfd,
            None => unreachable!("a table is a memfd"),
        }
    }

    fn get(&self, index: usize) -> u64 {
        self.words[index].load(Ordering::Relaxed)
    }

    #[inline]
    fn put(&self, index: usize, value: u64) {
        self.words[index].store(value, Ordering::Relaxed);
    }

    /// Number of slots.
    #[inline]
    #[must_use]
    pub const fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Slots from this one on must not be touched: there may be no memory for them.
    #[inline]
    pub fn granted(&self) -> u32 {
        self.grants.slots.load(Ordering::Acquire)
    }

    /// Obtains memory for agents to come, if less than half of the reserve is left beyond the `used` slots.
    /// Two loads if there is nothing to do. Called by one thread at a time, not by the shard: it may take
    /// milliseconds.
    ///
    /// # Errors
    /// The kernel's, if it has no memory. Agents are refused until it has.
    pub fn grant_ahead(&self, used: u32) -> io::Result<()> {
        let granted = self.granted();
        if granted == self.capacity || granted.saturating_sub(used) > self.grants.ahead / 2 {
            return Ok(());
        }
        let until = used.saturating_add(self.grants.ahead).min(self.capacity);
        let outcome = self.grant(until);
        let errno = outcome.as_ref().err().map_or(0, |error| error.raw_os_error().unwrap_or(libc::ENOMEM));
        self.grants.errno.store(errno, Ordering::Relaxed);
        outcome
    }

    /// Obtains memory for the extra words of all slots that have memory, and of those that get some later. Before it,
    /// no extra word may be written.
    ///
    /// # Errors
    /// The kernel's, if it has no memory.
    pub fn grant_extra(&self) -> io::Result<()> {
        let start = self.extra_start();
        self.words.grant(start..start + self.granted() as usize * EXTRA_WORDS)?;
        self.grants.has_extra.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn grant(&self, until: u32) -> io::Result<()> {
        #[cfg(test)]
        if self.grants.is_refusing.load(Ordering::Relaxed) {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        let slots = self.granted() as usize..until as usize;
        let mut start = HEADER_WORDS;
        let areas = if self.grants.has_extra.load(Ordering::Relaxed) { 4 } else { 3 };
        for each in [HOT_WORDS, COLD_WORDS, RARE_WORDS, EXTRA_WORDS].into_iter().take(areas) {
            self.words.grant(start + slots.start * each..start + slots.end * each)?;
            start += self.capacity as usize * each;
        }
        self.grants.slots.store(until, Ordering::Release);
        Ok(())
    }

    /// Slots from this one on were never written; they take no memory until they are touched.
    pub fn used(&self) -> u32 {
        let used = self.words[header::USED].load(Ordering::Acquire);
        u32::try_from(used).unwrap_or(u32::MAX).min(self.capacity)
    }

    /// Why the kernel grants no memory for more agents, if it refused.
    pub fn grant_error(&self) -> Option<io::Error> {
        match self.grants.errno.load(Ordering::Relaxed) {
            0 => None,
            errno => Some(io::Error::from_raw_os_error(errno)),
        }
    }

    #[inline]
    fn hot(&self, slot: u32) -> &[AtomicU64; HOT_WORDS] {
        let start = HEADER_WORDS + slot as usize * HOT_WORDS;
        fixed(&self.words[start..start + HOT_WORDS])
    }

    #[inline]
    fn cold(&self, slot: u32) -> &[AtomicU64; COLD_WORDS] {
        let start = HEADER_WORDS + self.capacity as usize * HOT_WORDS + slot as usize * COLD_WORDS;
        fixed(&self.words[start..start + COLD_WORDS])
    }

    #[inline]
    fn rare(&self, slot: u32) -> &[AtomicU64; RARE_WORDS] {
        let before = self.capacity as usize * (HOT_WORDS + COLD_WORDS);
        let start = HEADER_WORDS + before + slot as usize * RARE_WORDS;
        fixed(&self.words[start..start + RARE_WORDS])
    }

    fn extra(&self, slot: u32) -> &[AtomicU64; EXTRA_WORDS] {
        let start = self.extra_start() + slot as usize * EXTRA_WORDS;
        fixed(&self.words[start..start + EXTRA_WORDS])
    }

    const fn extra_start(&self) -> usize {
        HEADER_WORDS + self.capacity as usize * (HOT_WORDS + COLD_WORDS + RARE_WORDS)
    }

    #[inline]
    fn load_cold(&self, slot: u32) -> Cold {
        Cold::from_words(load_all(self.cold(slot)), || load_all(self.rare(slot)))
    }

    /// A consistent copy of both halves of a slot.
    ///
    /// # Errors
    /// [`Busy`] if the writer was inside the slot at all 64 attempts: read again later.
    pub fn read(&self, slot: u32) -> Result<(Hot, Cold), Busy> {
        let hot = self.hot(slot);
        self.read_words(slot, || (load_tail(hot), self.load_cold(slot)))
            .map(|(frame_pid, (words, cold))| (Hot::from_words(frame_pid, words), cold))
    }

    /// A consistent copy of the hot half of a slot.
    ///
    /// # Errors
    /// As [`Table::read`].
    pub fn read_hot(&self, slot: u32) -> Result<Hot, Busy> {
        let hot = self.hot(slot);
        self.read_words(slot, || load_tail(hot)).map(|(frame_pid, words)| Hot::from_words(frame_pid, words))
    }

    /// A consistent copy of both halves of a slot and of its extra words, if they are its holder's.
    ///
    /// # Errors
    /// As [`Table::read`].
    pub fn read_with_extra(&self, slot: u32) -> Result<(Hot, Cold, Option<Extra>), Busy> {
        let hot = self.hot(slot);
        let read = || (load_tail(hot), self.load_cold(slot), load_all(self.extra(slot)));
        let (frame_pid, (words, cold, extra)) = self.read_words(slot, read)?;
        Ok((Hot::from_words(frame_pid, words), cold, cold.has_extra.then_some(extra)))
    }

    /// The generation of a slot's holder at this moment or later; a single word cannot be torn.
    #[inline]
    pub fn generation(&self, slot: u32) -> u32 {
        slot::generation_of(self.cold(slot)[0].load(Ordering::Relaxed))
    }

    fn read_words<T>(&self, slot: u32, read: impl Fn() -> T) -> Result<(u32, T), Busy> {
        let sequence = &self.hot(slot)[0];
        for _ in 0..READ_ATTEMPTS {
            if let Some((first, value)) = read_once(sequence, &read) {
                return Ok((high(first), value));
            }
            std::hint::spin_loop();
        }
        Err(Busy)
    }
}

impl TableWriter {
    /// The reading half.
    #[must_use]
    pub const fn table(&self) -> &Table {
        &self.table
    }

    /// The hot half as last written. One cache line.
    #[inline]
    #[must_use]
    pub fn hot(&self, slot: u32) -> Hot {
        let words = self.table.hot(slot);
        Hot::from_words(high(words[0].load(Ordering::Relaxed)), load_tail(words))
    }

    /// Prefetches the hot half.
    #[inline]
    pub fn prefetch_hot(&self, slot: u32) {
        prefetch(&self.table.hot(slot)[0]);
    }

    /// The cold half as last written.
    #[must_use]
    pub fn cold(&self, slot: u32) -> Cold {
        self.table.load_cold(slot)
    }

    /// The extra words as last written, if they are the holder's.
    #[must_use]
    pub fn extra(&self, slot: u32) -> Option<Extra> {
        self.cold(slot).has_extra.then(|| load_all(self.table.extra(slot)))
    }

    /// Replaces both halves and the extra words at once, which are the holder's afterwards.
    pub fn write_with_extra(&mut self, slot: u32, hot: &Hot, cold: &Cold, extra: &Extra) {
        let sequence = &self.table.hot(slot)[0];
        begin(sequence);
        store_all(self.table.extra(slot), extra);
        // Opens the record again, which is open, and closes it.
        self.write(slot, hot, &Cold { has_extra: true, ..*cold });
    }

    /// Replaces the hot half. One cache line.
    #[inline]
    pub fn write_hot(&mut self, slot: u32, hot: &Hot) {
        let words = self.table.hot(slot);
        begin(&words[0]);
        store_all(&words[1..], &hot.to_words());
        end(&words[0], hot.frame_pid);
    }

    /// Replaces both halves at once: no reader gets one without the other.
    pub fn write(&mut self, slot: u32, hot: &Hot, cold: &Cold) {
        let words = self.table.hot(slot);
        begin(&words[0]);
        store_all(&words[1..], &hot.to_words());
        let (cold, rare) = cold.to_words();
        store_all(self.table.cold(slot), &cold);
        if slot::has_rare(&cold) {
            store_all(self.table.rare(slot), &rare);
        }
        end(&words[0], hot.frame_pid);
    }

    /// Records in the header that no slot from this one on was ever written.
    pub fn mark_used(&mut self, slots: u32) {
        self.table.words[header::USED].store(u64::from(slots), Ordering::Release);
    }

    /// Slots from this one on were never written; they take no memory until they are touched.
    pub fn used(&self) -> u32 {
        self.table.used()
    }

    /// Makes slots readable again that an interrupted writer left open. Call before a rebuild.
    pub fn repair(&mut self) {
        for slot in 0..self.used() {
            repair(&self.table.hot(slot)[0]);
        }
    }

    /// Records in the header how far the shard has come.
    #[inline]
    pub fn mark_progress(&mut self, progress: &Progress) {
        let table = &self.table;
        table.put(header::ALIVE_AT, progress.alive_at.0);
        table.put(header::WATERMARK, progress.watermark.0);
        table.put(header::CLOCK_OFFSET, progress.clock_offset.cast_unsigned());
        table.put(header::PAUSED_NS, progress.paused_ns);
        // Last: of a writer killed in between, a pause may count twice, which delays a judgement, never not at all.
        table.words[header::PAUSED_FROM].store(progress.paused_from.0, Ordering::Release);
    }

    /// Records in the header that the writer stopped in order and nothing is half written.
    pub fn mark_clean(&mut self) {
        self.table.words[header::IS_CLEAN].store(1, Ordering::Release);
    }
}

#[expect(clippy::cast_possible_truncation, reason = "takes the two halves apart")]
const fn halves(number: u128) -> [u64; 2] {
    [(number >> 64) as u64, number as u64]
}

#[inline]
fn fixed<const N: usize>(words: &[AtomicU64]) -> &[AtomicU64; N] {
    match words.try_into() {
        Ok(words) => words,
        Err(_) => unreachable!("the slice was cut to length"),
    }
}

#[inline]
fn load_all<const N: usize>(words: &[AtomicU64; N]) -> [u64; N] {
    std::array::from_fn(|index| words[index].load(Ordering::Relaxed))
}

/// Everything after the first word, which belongs to the sequence protocol.
#[inline]
fn load_tail(words: &[AtomicU64; HOT_WORDS]) -> [u64; HOT_WORDS - 1] {
    std::array::from_fn(|index| words[index + 1].load(Ordering::Relaxed))
}

#[inline]
fn store_all(words: &[AtomicU64], values: &[u64]) {
    for (word, value) in words.iter().zip(values) {
        word.store(*value, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::slot::{Account, State};
    use super::*;
    use crate::wire::Status;

    impl Table {
        /// Makes the kernel refuse memory, or grant it again.
        pub fn refuse_grants(&self, is_refusing: bool) {
            self.grants.is_refusing.store(is_refusing, Ordering::Relaxed);
        }

        /// Memory the kernel has allocated to the table, bytes.
        pub fn memory(&self) -> u64 {
            rustix::fs::fstat(self.memfd()).expect("it is open").st_blocks as u64 * 512
        }

        /// Leaves the slot as a writer does that is interrupted inside it.
        pub fn open(&self, slot: u32) {
            begin(&self.hot(slot)[0]);
        }

        /// Closes the slot again.
        pub fn close(&self, slot: u32) {
            repair(&self.hot(slot)[0]);
        }
    }

    const HEADER: Header = Header { boot_id: 5 << 64 | 6, pid_namespace: 7, shard: 1, shards: 4 };

    #[test]
    fn what_is_written_is_read_and_neighbours_stay() {
        let (mut writer, table) = create(3, HEADER).expect("table");
        let hot = Hot {
            frame_pid: 9,
            pid: 8,
            status: Status::Degraded,
            state: State::Stalled,
            account: Account::new(7, 4),
            ..Hot::default()
        };
        let plain = Cold { generation: 2, stalls: 3, ..Cold::default() };
        for cold in [plain, Cold { stall_nonce: 9, ..plain }, plain] {
            writer.write(1, &hot, &cold);
            assert_eq!(table.read(1), Ok((hot, cold)));
            assert_eq!((writer.hot(1), writer.cold(1)), (hot, cold));
        }
        for other in [0, 2] {
            assert_eq!(table.read(other), Ok((Hot::default(), Cold::default())));
        }
    }

    #[test]
    fn the_header_says_whose_table_it_is() {
        let (mut writer, table) = create(3, HEADER).expect("table");
        let word = |index: usize| table.words[index].load(Ordering::Relaxed);
        assert_eq!(word(header::MAGIC).to_le_bytes(), *b"vartaflt");
        assert_eq!(word(header::LAYOUT), LAYOUT);
        assert_eq!(word(header::SLOT_BYTES), 64 + 64 + 128 + 64);
        assert_eq!(word(header::CAPACITY), 3);
        assert_eq!((word(header::BOOT_ID[0]), word(header::BOOT_ID[1])), (5, 6));
        assert_eq!((word(header::PID_NAMESPACE), word(header::SHARD), word(header::SHARDS)), (7, 1, 4));
        assert_eq!((word(header::GENERATION), word(header::IS_CLEAN)), (1, 0));
        writer.mark_progress(&Progress { alive_at: MonoNs(77), ..Progress::default() });
        writer.mark_clean();
        assert_eq!((word(header::ALIVE_AT), word(header::IS_CLEAN)), (77, 1));
    }

    #[test]
    fn a_slot_left_open_reads_busy_until_repaired() {
        let (mut writer, table) = create(2, HEADER).expect("table");
        writer.mark_used(2);
        begin(&writer.table.hot(1)[0]);
        assert_eq!(table.read(1), Err(Busy));
        assert!(table.read(0).is_ok());
        writer.repair();
        assert!(table.read(1).is_ok());
    }

    /// Memory is granted ahead of use, in steps. A slot without a grant must not be touched.
    #[test]
    fn fault_79_memory_is_granted_ahead_of_use_and_not_all_at_once() {
        const MANY: u32 = 1 << 20;
        let (_, table) = create_granted(MANY, HEADER, 1000).expect("table");
        // Nothing is granted for extra words.
        let each = SLOT_BYTES - (EXTRA_WORDS * size_of::<u64>()) as u64;
        // Three areas, which begin and end within pages.
        let slack = 8 * 4096;
        let expected = |slots: u64| slots * each..slots * each + slack;
        assert_eq!(table.granted(), 1000);
        assert!(expected(1000).contains(&table.memory()), "{}", table.memory());
        table.grant_ahead(499).expect("granted");
        assert_eq!(table.granted(), 1000, "half is left");
        table.grant_ahead(500).expect("granted");
        assert_eq!(table.granted(), 1500);
        assert!(expected(1500).contains(&table.memory()), "{}", table.memory());
        table.refuse_grants(true);
        assert!(table.grant_ahead(1200).is_err() && table.grant_error().is_some());
        assert_eq!(table.granted(), 1500);
        table.refuse_grants(false);
        table.grant_ahead(1200).expect("granted");
        assert!(table.grant_error().is_none());
        assert_eq!(table.granted(), 2200);
        table.grant_ahead(MANY - 1).expect("granted");
        assert_eq!(table.granted(), MANY);
    }

    #[test]
    fn memory_for_extra_words_is_granted_where_they_are_used() {
        let (_, table) = create_granted(1 << 20, HEADER, 1000).expect("table");
        table.grant_extra().expect("granted");
        let expected = |slots: u64| slots * SLOT_BYTES..slots * SLOT_BYTES + 10 * 4096;
        assert!(expected(1000).contains(&table.memory()), "{}", table.memory());
        table.grant_ahead(600).expect("granted");
        assert_eq!(table.granted(), 1600);
        assert!(expected(1600).contains(&table.memory()), "{}", table.memory());
    }

    #[test]
    fn extra_words_are_those_of_the_holder_alone() {
        let (mut writer, table) = create(2, HEADER).expect("table");
        let hot = Hot { pid: 8, state: State::Up, ..Hot::default() };
        let cold = Cold { generation: 1, ..Cold::default() };
        writer.write(0, &hot, &cold);
        assert_eq!(table.read_with_extra(0), Ok((hot, cold, None)));
        let extra = [1, 2, 3, 4, 5, 6, 7, 8];
        writer.write_with_extra(0, &hot, &cold, &extra);
        assert_eq!(writer.extra(0), Some(extra));
        let with = Cold { has_extra: true, ..cold };
        assert_eq!(table.read_with_extra(0), Ok((hot, with, Some(extra))));
        assert_eq!(table.read_with_extra(1), Ok((Hot::default(), Cold::default(), None)));
        writer.write(0, &hot, &Cold { generation: 2, ..cold });
        assert_eq!(writer.extra(0), None);
    }

    #[test]
    fn readers_in_other_threads_never_see_a_torn_slot() {
        let (mut writer, table) = create(1, HEADER).expect("table");
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut seen = 0_u64;
                while !done.load(Ordering::Relaxed) || seen == 0 {
                    if let Ok((hot, cold)) = table.read(0) {
                        let beats = cold.beats(&hot);
                        assert_eq!(beats, hot.payload);
                        assert_eq!(beats, cold.beats_lost);
                        assert_eq!(cold.jump_lost, if beats % 2 == 0 { beats } else { 0 });
                        seen = seen.max(beats);
                    }
                }
                seen
            });
            for beats in 1..=200_000 {
                let n = u64::from(beats);
                let hot = Hot { account: Account::new(7, beats), payload: n, ..Hot::default() };
                let jump_lost = if n % 2 == 0 { n } else { 0 };
                writer.write(0, &hot, &Cold { beats_lost: n, jump_lost, ..Cold::default() });
            }
            done.store(true, Ordering::Relaxed);
            assert!(reader.join().expect("reader") > 0);
        });
    }
}
