//! Texts that many agents share, such as the unit and the program they run, each stored once: a [`Label`] is its
//! number.
//!
//! The table is that of the whole process. It has a limit, and so has each user's part of it: beyond these a text has no
//! label. Texts that nobody needs any more are freed before that, the longest unneeded first: a sweep is told what
//! living agents need, and whoever holds a [`Text`] keeps it. The number of a freed text is that of no other text ever: a
//! label that outlived its text has none.
//!
//! Time is an argument. Blocks: for a lookup in a table, or while a few texts are freed. Allocates: for a new text.

use std::borrow::{Borrow, Cow};
use std::collections::HashMap;
use std::fmt;
use std::num::NonZeroU32;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};

use parking_lot::{Mutex, RwLock};

use crate::message::is_deceptive;
use crate::table::slots::Slots;
use crate::time::MonoNs;

/// What all texts may take, with what is needed to find them.
const BYTES_MAX: usize = 8 << 20;
/// What the texts of one user may take, except those of user 0.
const USER_BYTES_MAX: usize = 1 << 20;
/// What only user 0 may use of all.
const ROOT_BYTES: usize = 1 << 20;
/// The longest text: a control group's name has at most 255 bytes, and few paths of programs are longer than this.
const TEXT_BYTES_MAX: usize = 1024;
/// What an entry takes besides its text: two references and their count, two records, a number, and the share of unused
/// places.
const ENTRY_BYTES: usize = 128;
/// What is left of an entry without a text.
const FREE_BYTES: usize = 40;

/// Bits of a label that say which place the text has; the others say which of the texts there it is.
const PLACE_BITS: u32 = 17;
/// Texts that a place can have, one after another.
const TEXTS_PER_PLACE: u16 = (1 << (u32::BITS - PLACE_BITS)) - 1;

/// How often to sweep.
pub(crate) const SWEEP_NS: u64 = 5_000_000_000;
/// Who needed a text is not known after so long without a sweep, s. Shorter than any grace, as a text that is used between
/// two sweeps counts as used at the first.
const UNSWEPT_MAX: u32 = 9;
/// A text that was needed so short a time ago is not freed, s: an event may be on its way to its output.
const GRACE: u32 = 60;
/// The same where little room is left, s.
const SHORT_GRACE: u32 = 10;
/// Places looked at while others wait.
const BATCH: u32 = 256;

static TABLE: LazyLock<Labels> = LazyLock::new(Labels::default);
/// Those who sweep the table.
static SWEEPERS: AtomicUsize = AtomicUsize::new(0);

/// The number of a text. `Copy`, so that an event with labels is.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Label(NonZeroU32);

impl Label {
    /// The label of a text, for a process of this user. Control characters and invisible ones become `?`. `None` if there is no room
    /// for one more, or the text is longer than 1024 bytes; [`Label::omitted`] counts these.
    #[must_use]
    pub fn of(text: &str, uid: u32) -> Option<Self> {
        TABLE.add(text, uid, SWEEPERS.load(Ordering::Relaxed) > 0)
    }

    /// The text; `None` if it was freed.
    #[must_use]
    pub fn text(self) -> Option<Text> {
        TABLE.text(self)
    }

    /// How often a text got no label since the process started.
    #[cfg(feature = "http")]
    #[must_use]
    pub fn omitted() -> u64 {
        TABLE.omitted.load(Ordering::Relaxed)
    }

    /// The label of the nth text of a place, counted from 0.
    fn at(place: u32, nth: u16) -> Option<Self> {
        NonZeroU32::new((u32::from(nth) + 1) << PLACE_BITS | place).map(Self)
    }

    const fn place(self) -> u32 {
        self.0.get() & ((1 << PLACE_BITS) - 1)
    }
}

impl fmt::Debug for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text(), f)
    }
}

/// A text of the table, which keeps its label as long as this is held.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Text(Arc<str>);

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl From<Text> for String {
    fn from(text: Text) -> Self {
        (*text).to_owned()
    }
}

impl Borrow<str> for Text {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// While this is held, the table waits for [`sweep`] to make room. Without one, as in a program that only reads events,
/// new texts displace those that were used longest ago.
#[derive(Debug)]
pub(crate) struct Swept(());

impl Swept {
    /// Sweeps follow.
    #[must_use]
    pub fn begin() -> Self {
        SWEEPERS.fetch_add(1, Ordering::Relaxed);
        Self(())
    }
}

impl Drop for Swept {
    fn drop(&mut self) {
        SWEEPERS.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Labels that somebody needs.
#[derive(Debug, Default)]
pub(crate) struct Needed {
    /// A bit for each place.
    places: Vec<u64>,
}

impl Needed {
    /// This one, too.
    pub fn add(&mut self, label: Label) {
        let (word, bit) = Self::bit(label.place());
        if self.places.len() <= word {
            self.places.resize(word + 1, 0);
        }
        self.places[word] |= bit;
    }

    fn has_place(&self, place: u32) -> bool {
        let (word, bit) = Self::bit(place);
        self.places.get(word).is_some_and(|word| word & bit != 0)
    }

    const fn bit(place: u32) -> (usize, u64) {
        ((place / u64::BITS) as usize, 1 << (place % u64::BITS))
    }
}

/// Whether the table, or the part of a user, is so full that it must be swept every [`SWEEP_NS`].
pub(crate) fn is_crowded() -> bool {
    TABLE.index.lock().is_crowded()
}

/// Frees texts that nobody needs where half of the room or more is used, the longest unneeded first. Whoever keeps labels
/// calls this while [`is_crowded`]: what is not among the `needed` for a minute may be freed, where little room is left
/// after ten seconds. While `events_wait` for their output a text makes room only where little is left, and never so
/// soon: they have its label.
pub(crate) fn sweep(needed: &Needed, events_wait: bool, now: MonoNs) {
    TABLE.sweep(needed, events_wait, u32::try_from(now.0 / 1_000_000_000).unwrap_or(u32::MAX));
}

#[derive(Debug, Default)]
struct Labels {
    index: Mutex<Index>,
    /// By place. Locked last, and for a moment only: readers do not wait for the index.
    texts: RwLock<Slots<Place>>,
    omitted: AtomicU64,
}

/// What is at a place.
#[derive(Debug, Default)]
struct Place {
    text: Option<Text>,
    /// The texts it had before.
    before: u16,
}

impl Place {
    fn label(&self, place: u32) -> Option<Label> {
        self.text.as_ref().and_then(|_| Label::at(place, self.before))
    }

    /// Whether somebody has the text besides this place and the index.
    fn is_held(&self) -> bool {
        self.text.as_ref().is_some_and(|text| Arc::strong_count(&text.0) > 2)
    }
}

/// How to find texts, and what they take.
#[derive(Debug, Default)]
struct Index {
    labels: HashMap<Text, Label>,
    /// By place.
    entries: Slots<Entry>,
    /// Places that were used.
    places: u32,
    /// Those of them that have no text and can have one.
    free: Vec<u32>,
    /// What texts with their entries take, all and by user.
    bytes: usize,
    bytes_of: HashMap<u32, usize>,
    /// Time of the last use or sweep, s; without sweeps, the number of texts that were added.
    now: u32,
    /// When a sweep was last.
    swept: Option<u32>,
}

/// What is known of the text at a place.
#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    /// For whom it counts.
    uid: u32,
    /// What it takes; 0: there is none.
    bytes: u32,
    /// When it was last needed.
    used: u32,
}

impl Index {
    /// What all take.
    fn taken(&self) -> usize {
        self.bytes + (self.places as usize - self.labels.len()) * FREE_BYTES
    }

    fn taken_of(&self, uid: u32) -> usize {
        self.bytes_of.get(&uid).copied().unwrap_or(0)
    }

    fn has_room(&self, bytes: usize, uid: u32) -> bool {
        let of_all = self.taken() + bytes;
        match uid {
            0 => of_all <= BYTES_MAX,
            _ => of_all <= BYTES_MAX - ROOT_BYTES && self.taken_of(uid) + bytes <= USER_BYTES_MAX,
        }
    }

    /// Whether more than this many quarters of the room for a user's texts are used.
    fn is_above(&self, quarters: usize, uid: u32) -> bool {
        let is_above = |bytes: usize, max: usize| bytes > max / 4 * quarters;
        is_above(self.taken(), BYTES_MAX - ROOT_BYTES)
            || uid != 0 && is_above(self.taken_of(uid), USER_BYTES_MAX)
    }

    fn is_crowded(&self) -> bool {
        self.is_above(1, 0) || self.bytes_of.keys().any(|uid| self.is_above(1, *uid))
    }

    /// Whether the text of this entry makes room.
    fn is_to_free(&self, entry: &Entry, events_wait: bool) -> bool {
        let grace = match (self.is_above(2, entry.uid), self.is_above(3, entry.uid), events_wait) {
            (_, true, false) => SHORT_GRACE,
            (_, true, true) | (true, false, false) => GRACE,
            (false, false, _) | (true, false, true) => return false,
        };
        self.now.saturating_sub(entry.used) >= grace
    }

    /// The text at the place is gone.
    fn forget(&mut self, place: u32, text: &Text, can_have_more: bool) {
        let entry = std::mem::take(self.entries.of(place));
        self.labels.remove(text);
        self.bytes -= entry.bytes as usize;
        if let Some(bytes) = self.bytes_of.get_mut(&entry.uid) {
            *bytes -= entry.bytes as usize;
            if *bytes == 0 {
                self.bytes_of.remove(&entry.uid);
            }
        }
        if can_have_more {
            self.free.push(place);
        }
        // What was reserved for many short texts is not left beside a few long ones.
        if self.labels.capacity() > 4 * self.labels.len().max(BATCH as usize) {
            self.labels.shrink_to(2 * self.labels.len());
        }
    }
}

impl Labels {
    fn text(&self, label: Label) -> Option<Text> {
        let texts = self.texts.read();
        let place = texts.get(label.place())?;
        place.text.as_ref().filter(|_| place.label(label.place()) == Some(label)).cloned()
    }

    fn add(&self, text: &str, uid: u32, is_swept: bool) -> Option<Label> {
        let text: Cow<'_, str> =
            if text.contains(is_deceptive) { text.replace(is_deceptive, "?").into() } else { text.into() };
        let mut index = self.index.lock();
        if let Some(label) = index.labels.get(&*text).copied() {
            let now = index.now;
            index.entries.of(label.place()).used = now;
            return Some(label);
        }
        let label = self.add_new(&mut index, &text, uid, is_swept);
        if label.is_none() {
            self.omitted.fetch_add(1, Ordering::Relaxed);
        }
        label
    }

    fn add_new(&self, index: &mut Index, text: &str, uid: u32, is_swept: bool) -> Option<Label> {
        if text.len() > TEXT_BYTES_MAX {
            return None;
        }
        let bytes = text.len() + ENTRY_BYTES;
        if !is_swept {
            index.now = index.now.saturating_add(1);
            if !index.has_room(bytes, uid) {
                self.displace(index);
            }
        }
        if !index.has_room(bytes, uid) {
            return None;
        }
        let place = index.free.pop().or_else(|| {
            let next = Some(index.places).filter(|place| *place < 1 << PLACE_BITS)?;
            index.places += 1;
            Some(next)
        })?;
        let text = Text(text.into());
        let label = {
            let mut texts = self.texts.write();
            let at = texts.of(place);
            at.text = Some(text.clone());
            at.label(place)?
        };
        *index.entries.of(place) = Entry { uid, bytes: u32::try_from(bytes).ok()?, used: index.now };
        index.bytes += bytes;
        *index.bytes_of.entry(uid).or_default() += bytes;
        index.labels.insert(text, label);
        Some(label)
    }

    /// Frees the text at the place, unless somebody holds it.
    fn free(&self, index: &mut Index, place: u32) {
        let mut texts = self.texts.write();
        let at = texts.of(place);
        if at.is_held() {
            return;
        }
        let Some(text) = at.text.take() else { return };
        at.before += 1;
        // It has no label for one more.
        let can_have_more = at.before < TEXTS_PER_PLACE;
        drop(texts);
        index.forget(place, &text, can_have_more);
    }

    /// Frees the half of all texts that was used longest ago.
    fn displace(&self, index: &mut Index) {
        let mut used: Vec<(u32, u32)> = (0..index.places)
            .filter_map(|place| {
                index.entries.get(place).filter(|entry| entry.bytes > 0).map(|entry| (entry.used, place))
            })
            .collect();
        used.sort_unstable();
        for (_, place) in &used[..used.len().div_ceil(2)] {
            self.free(index, *place);
        }
    }

    fn sweep(&self, needed: &Needed, events_wait: bool, now: u32) {
        let (places, is_first) = {
            let mut index = self.index.lock();
            index.now = now;
            let before = index.swept.replace(now).and_then(|before| now.checked_sub(before));
            (index.places, before.is_none_or(|unswept| unswept > UNSWEPT_MAX))
        };
        let mut unneeded = Vec::new();
        for from in (0..places).step_by(BATCH as usize) {
            let mut index = self.index.lock();
            let texts = self.texts.read();
            for place in from..places.min(from + BATCH) {
                let is_needed =
                    is_first || needed.has_place(place) || texts.get(place).is_some_and(Place::is_held);
                let entry = index.entries.of(place);
                if is_needed {
                    entry.used = now;
                } else if entry.bytes > 0 {
                    unneeded.push((entry.used, place));
                }
            }
        }
        unneeded.sort_unstable();
        for places in unneeded.chunks(BATCH as usize) {
            let mut index = self.index.lock();
            for (used, place) in places {
                let entry = *index.entries.of(*place);
                // It may have been used meanwhile.
                if entry.used == *used && index.is_to_free(&entry, events_wait) {
                    self.free(&mut index, *place);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    impl Label {
        /// One whose text was freed.
        pub fn freed() -> Self {
            let label = Self::of("a-label-test-freed.service", 0).unwrap();
            label.free();
            label
        }

        /// Frees its text, unless it is held.
        pub fn free(self) {
            TABLE.free(&mut TABLE.index.lock(), self.place());
        }
    }

    impl Labels {
        fn swept(&self, text: &str, uid: u32) -> Option<Label> {
            self.add(text, uid, true)
        }

        fn read(&self, label: Label) -> Option<String> {
            self.text(label).map(|text| text.to_string())
        }

        fn omitted(&self) -> u64 {
            self.omitted.load(Ordering::Relaxed)
        }

        fn taken(&self) -> usize {
            self.index.lock().taken()
        }

        /// As the upkeep does.
        fn sweep_if_crowded(&self, needed: impl IntoIterator<Item = Label>, now: u32) {
            if self.index.lock().is_crowded() {
                self.sweep(&of(needed), false, now);
            }
        }
    }

    impl Needed {
        /// Whether it is needed.
        pub fn has(&self, label: Label) -> bool {
            self.has_place(label.place())
        }
    }

    fn of(needed: impl IntoIterator<Item = Label>) -> Needed {
        let mut all = Needed::default();
        needed.into_iter().for_each(|label| all.add(label));
        all
    }

    /// Some text of 1000 bytes.
    fn long(number: usize) -> String {
        format!("{number:01000}")
    }

    #[test]
    fn a_text_has_one_label() {
        let one = Label::of("a-label-test.service", 0).unwrap();
        let text = one.text();
        assert_eq!(
            (Label::of("a-label-test.service", 7), text.as_deref()),
            (Some(one), Some("a-label-test.service"))
        );
        assert_ne!(Label::of("a-label-test-2.service", 0), Some(one));
        assert_eq!(size_of::<Option<Label>>(), 4);
    }

    #[test]
    fn control_characters_are_replaced() {
        let labels = Labels::default();
        for control in (0..=0x1F).chain(0x7F..=0x9F).filter_map(char::from_u32) {
            let one = labels.swept(&format!("unit{control}"), 0).unwrap();
            assert_eq!(labels.read(one).as_deref(), Some("unit?"), "{control:?}");
        }
        let one = labels.swept("a\nb\u{1b}[2J\u{202e}c", 0).unwrap();
        assert_eq!(labels.read(one).as_deref(), Some("a?b?[2J?c"));
        assert_eq!(labels.swept("a?b?[2J?c", 0), Some(one));
    }

    #[test]
    fn a_user_fills_only_its_own_share_and_all_users_the_table() {
        let labels = Labels::default();
        let fill = |uid: u32| {
            (0..)
                .take_while(|number| labels.swept(&format!("{uid:05}/{number:05}/{:088}", 0), uid).is_some())
                .count()
        };
        let of_one = USER_BYTES_MAX / (100 + ENTRY_BYTES);
        assert_eq!(fill(1000), of_one);
        assert!(labels.swept("another's", 1001).is_some() && labels.swept("root's", 0).is_some());
        assert_eq!(labels.omitted(), 1);
        let more: usize = (2000..2010).map(fill).sum();
        assert!(more < 7 * of_one && labels.taken() <= BYTES_MAX - ROOT_BYTES);
        assert!(labels.swept("root's next", 0).is_some() && labels.swept("another's next", 1002).is_none());
        fill(0);
        assert_eq!(labels.swept(&"x".repeat(200), 0), None, "the table is full");
        assert!(labels.swept("root's", 0).is_some() && labels.taken() <= BYTES_MAX);
    }

    #[test]
    fn a_text_that_is_too_long_has_no_label() {
        let labels = Labels::default();
        assert!(labels.swept(&"x".repeat(TEXT_BYTES_MAX), 0).is_some());
        assert_eq!(labels.swept(&"x".repeat(TEXT_BYTES_MAX + 1), 0), None);
    }

    /// What the entries take is what they are said to take at most, while the map has one place in two, and its least
    /// load.
    #[test]
    fn an_entry_takes_no_more_than_it_says() {
        // Two counts before the text, and what an allocation takes besides its bytes.
        let of_text = 2 * size_of::<usize>() + 16;
        let of_map = (size_of::<(Text, Label)>() + 1) * 16 / 7;
        let of_places = size_of::<Place>() + size_of::<Entry>();
        assert!(of_text + of_map + of_places <= ENTRY_BYTES, "{of_text} + {of_map} + {of_places}");
        assert!(of_places + size_of::<u32>() <= FREE_BYTES);
    }

    /// Containers come and go for as long as one likes, and each has a name of its own.
    #[test]
    fn no_text_is_omitted_however_many_there_were() {
        const LIVING: usize = 1000;
        const PER_SECOND: usize = 100;
        let labels = Labels::default();
        let mut all = Vec::new();
        for number in 0..100_000 {
            let now = u32::try_from(number / PER_SECOND).unwrap();
            if number.is_multiple_of(5 * PER_SECOND) {
                labels.sweep_if_crowded(all.iter().rev().take(LIVING).copied(), now);
            }
            all.push(labels.swept(&format!("{number:064}"), 1000).expect("room"));
            assert!(labels.taken() <= USER_BYTES_MAX + FREE_BYTES * 8192, "{number}");
        }
        let read = |(number, label): (usize, &Label)| {
            labels.read(*label).inspect(|text| assert_eq!(*text, format!("{number:064}"))).is_some()
        };
        let living = all.iter().enumerate().filter(|at| read(*at)).count();
        assert!((LIVING..6000).contains(&living), "{living}");
        assert!(all.iter().enumerate().skip(100_000 - LIVING).all(read), "those that live have their names");
        assert_eq!(labels.omitted(), 0);
    }

    #[test]
    fn what_was_needed_a_short_time_ago_keeps_its_label() {
        let labels = Labels::default();
        // Ten of them are above half of the share, but not above three quarters.
        let fill: Vec<Label> = (0..600).map(|number| labels.swept(&long(number), 7).unwrap()).collect();
        let living = || fill[..500].iter().copied();
        let kept = || fill.iter().filter(|label| labels.text(**label).is_some()).count();
        for now in (1000..1060).step_by(5) {
            labels.sweep_if_crowded(living(), now);
            assert_eq!(kept(), 600, "{now}");
        }
        labels.sweep_if_crowded(living(), 1060);
        // The first hundred of a place that lived are needed, and the others make room.
        assert_eq!(kept(), 500);
        assert!(living().all(|label| labels.text(label).is_some()));
        // Nobody swept for an hour: what was needed in between is not known.
        labels.sweep_if_crowded([], 4660);
        labels.sweep_if_crowded([], 4665);
        assert_eq!(kept(), 500);
    }

    #[test]
    fn while_events_wait_for_their_output_their_labels_have_texts_as_long_as_there_is_room() {
        let labels = Labels::default();
        let sweep = |events_wait, from: u32| {
            (from..from + 100).step_by(5).for_each(|now| labels.sweep(&Needed::default(), events_wait, now));
            labels.index.lock().labels.len()
        };
        let mut add = (0..).map(|number| labels.swept(&long(number), 7));
        assert!(add.by_ref().take(600).all(|label| label.is_some()));
        assert_eq!(sweep(true, 0), 600);
        assert!(add.take(300).all(|label| label.is_some()));
        assert_eq!(sweep(true, 100), 3 * USER_BYTES_MAX / 4 / (1000 + ENTRY_BYTES));
        assert_eq!(sweep(false, 200), USER_BYTES_MAX / 2 / (1000 + ENTRY_BYTES));
    }

    #[test]
    fn a_text_that_is_held_keeps_its_label() {
        let labels = Labels::default();
        let all: Vec<Label> = (0..700).map(|number| labels.swept(&long(number), 7).unwrap()).collect();
        let held = labels.text(all[3]);
        for now in (0..200).step_by(5) {
            labels.sweep(&Needed::default(), false, now);
        }
        assert_eq!(held.as_deref(), Some(&*long(3)));
        assert_eq!((labels.read(all[3]), labels.read(all[4])), (Some(long(3)), None));
        assert_eq!(labels.swept(&long(3), 7), Some(all[3]));
        assert_ne!(labels.swept(&long(4), 7), Some(all[4]), "a label is never used again");
    }

    /// Before a label is used again, its place is given up.
    #[test]
    fn a_place_has_as_many_texts_as_it_has_labels() {
        let labels = Labels::default();
        let mut last = None;
        for number in 0..2 * u32::from(TEXTS_PER_PLACE) {
            let label = labels.swept(&number.to_string(), 0).unwrap();
            assert_eq!(last.and_then(|last| labels.text(last)), None);
            labels.free(&mut labels.index.lock(), label.place());
            last = Some(label);
        }
        assert_eq!(labels.taken(), 2 * FREE_BYTES);
    }

    /// A program that reads events for months.
    #[test]
    fn without_sweeps_new_texts_displace_the_oldest() {
        let labels = Labels::default();
        let all: Vec<Label> =
            (0..100_000).map(|number| labels.add(&format!("{number:064}"), 0, false).unwrap()).collect();
        assert_eq!(labels.read(all[99_999 - 15_000]), Some(format!("{:064}", 99_999 - 15_000)));
        assert_eq!((labels.text(all[0]), labels.omitted()), (None, 0));
        assert!(labels.taken() <= BYTES_MAX);
    }

    #[derive(Clone, Debug)]
    enum Step {
        /// Texts with these numbers, for a user.
        Add { from: usize, count: usize, uid: u32 },
        /// Somebody holds the text, or nobody any more.
        Hold { number: usize, is_held: bool },
        /// Time passes, then a sweep while every nth text is needed.
        Sweep { seconds: u32, nth: usize },
    }

    fn any_step() -> impl Strategy<Value = Step> {
        prop_oneof![
            2 => (0..2000_usize, 1..400_usize, 0..3_u32)
                .prop_map(|(from, count, uid)| Step::Add { from, count, uid }),
            1 => (0..2000_usize, any::<bool>()).prop_map(|(number, is_held)| Step::Hold { number, is_held }),
            2 => (0..40_u32, 1..9_usize).prop_map(|(seconds, nth)| Step::Sweep { seconds, nth }),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        /// Whatever happens, a label reads as its text or as none, what is needed or was a short time ago is kept, and
        /// shares hold.
        #[test]
        fn a_label_is_that_of_its_text_or_of_none(steps in proptest::collection::vec(any_step(), 1..40)) {
            let labels = Labels::default();
            let texts: Vec<String> = (0..2400).map(long).collect();
            let mut given: HashMap<Label, usize> = HashMap::new();
            // By number of the text: the last label, and when it was needed last.
            let mut used: HashMap<usize, (Label, u32)> = HashMap::new();
            let mut held: HashMap<usize, Text> = HashMap::new();
            let mut now = 0;
            for step in steps {
                match step {
                    Step::Add { from, count, uid } => for (number, text) in texts.iter().enumerate().skip(from).take(count) {
                        let Some(label) = labels.swept(text, uid) else { continue };
                        prop_assert_eq!(*given.entry(label).or_insert(number), number);
                        used.insert(number, (label, now));
                    },
                    Step::Hold { number, is_held: true } => {
                        let text = used.get(&number).and_then(|(label, _)| labels.text(*label));
                        held.extend(text.map(|text| (number, text)));
                    }
                    Step::Hold { number, is_held: false } => drop(held.remove(&number)),
                    Step::Sweep { seconds, nth } => {
                        now += seconds;
                        let living = |number: &usize| number.is_multiple_of(nth);
                        let needed = used.iter().filter(|(number, _)| living(number));
                        labels.sweep(&of(needed.map(|(_, (label, _))| *label)), seconds % 4 == 0, now);
                        for (number, (label, at)) in &mut used {
                            if (living(number) || held.contains_key(number)) && labels.text(*label).is_some() {
                                *at = now;
                            }
                        }
                    }
                }
                for (label, number) in &given {
                    if let Some(text) = labels.text(*label) {
                        prop_assert_eq!(&*text, &*texts[*number]);
                    }
                }
                for (number, (label, at)) in &used {
                    if now - at < SHORT_GRACE || held.contains_key(number) {
                        prop_assert!(labels.text(*label).is_some(), "{} was needed at {} of {}", number, at, now);
                    }
                }
                let index = labels.index.lock();
                let mut of_users = HashMap::new();
                for place in 0..index.places {
                    let entry = index.entries.get(place).unwrap();
                    *of_users.entry(entry.uid).or_default() += entry.bytes as usize;
                }
                of_users.retain(|_, bytes| *bytes > 0);
                prop_assert_eq!(index.bytes, of_users.values().sum::<usize>());
                prop_assert!(of_users.iter().all(|(uid, bytes)| *uid == 0 || *bytes <= USER_BYTES_MAX));
                prop_assert_eq!(&of_users, &index.bytes_of);
                prop_assert!(index.taken() <= BYTES_MAX);
            }
        }
    }
}
