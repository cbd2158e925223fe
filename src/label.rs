//! Texts that many agents share, such as the unit and the program they run, each stored once: a [`Label`] is its
//! number.
//!
//! The table is that of the whole process, is never emptied, and has a limit, and so has each user's part of it:
//! beyond these a text has no label. Blocks: for a lookup in a table. Allocates: for a new text.

use std::collections::HashMap;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::LazyLock;

use parking_lot::RwLock;

use crate::message::is_deceptive;

/// What all texts may take, with what is needed to find them.
const BYTES_MAX: usize = 8 << 20;
/// What the texts of one user may take, except those of user 0.
const USER_BYTES_MAX: usize = 1 << 20;
/// What only user 0 may use of all.
const ROOT_BYTES: usize = 1 << 20;
/// The longest text: a control group's name has at most 255 bytes, and few paths of programs are longer than this.
const TEXT_BYTES_MAX: usize = 1024;
/// What an entry takes besides its text: two references, a number, and the share of unused places.
const ENTRY_BYTES: usize = 96;

static TABLE: LazyLock<RwLock<Labels>> = LazyLock::new(RwLock::default);

/// The number of a text. `Copy`, so that an event with labels is.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Label(NonZeroU32);

impl Label {
    /// The label of a text, for a process of this user. Control characters and invisible ones become `?`. `None` if there is no room
    /// for one more, or the text is longer than 1024 bytes; [`Label::omitted`] counts these.
    #[must_use]
    pub fn of(text: &str, uid: u32) -> Option<Self> {
        let known = TABLE.read().find(text);
        known.or_else(|| TABLE.write().add(text, uid))
    }

    /// The text.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        TABLE.read().text(self)
    }

    /// How often a text got no label since the process started.
    #[cfg(feature = "http")]
    #[must_use]
    pub fn omitted() -> u64 {
        TABLE.read().omitted
    }
}

impl fmt::Debug for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

#[derive(Debug, Default)]
struct Labels {
    texts: Vec<&'static str>,
    numbers: HashMap<&'static str, Label>,
    bytes: usize,
    bytes_of: HashMap<u32, usize>,
    omitted: u64,
}

impl Labels {
    fn find(&self, text: &str) -> Option<Label> {
        self.numbers.get(text).copied()
    }

    fn text(&self, Label(number): Label) -> &'static str {
        self.texts.get(number.get() as usize - 1).copied().unwrap_or_default()
    }

    fn add(&mut self, text: &str, uid: u32) -> Option<Label> {
        let text: String = text.chars().map(|c| if is_deceptive(c) { '?' } else { c }).collect();
        if let Some(known) = self.find(&text) {
            return Some(known);
        }
        let bytes = text.len() + ENTRY_BYTES;
        let of_user = self.bytes_of.get(&uid).copied().unwrap_or(0) + bytes;
        let is_room = match uid {
            0 => self.bytes + bytes <= BYTES_MAX,
            _ => self.bytes + bytes <= BYTES_MAX - ROOT_BYTES && of_user <= USER_BYTES_MAX,
        };
        let number = u32::try_from(self.texts.len() + 1).ok().and_then(NonZeroU32::new);
        let Some(number) = number.filter(|_| is_room && text.len() <= TEXT_BYTES_MAX) else {
            self.omitted += 1;
            return None;
        };
        self.bytes += bytes;
        self.bytes_of.insert(uid, of_user);
        // Labels are copied everywhere, so nothing says when a text is not used any more.
        let text: &'static str = Box::leak(text.into_boxed_str());
        self.texts.push(text);
        self.numbers.insert(text, Label(number));
        Some(Label(number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_has_one_label() {
        let one = Label::of("a-label-test.service", 0).unwrap();
        assert_eq!((Label::of("a-label-test.service", 7), one.as_str()), (Some(one), "a-label-test.service"));
        assert_ne!(Label::of("a-label-test-2.service", 0), Some(one));
        assert_eq!(size_of::<Option<Label>>(), 4);
    }

    #[test]
    fn control_characters_are_replaced() {
        let mut labels = Labels::default();
        for control in (0..=0x1F).chain(0x7F..=0x9F).filter_map(char::from_u32) {
            let one = labels.add(&format!("unit{control}"), 0).unwrap();
            assert_eq!(labels.text(one), "unit?", "{control:?}");
        }
        let one = labels.add("a\nb\u{1b}[2J\u{202e}c", 0).unwrap();
        assert_eq!(labels.text(one), "a?b?[2J?c");
        assert_eq!(labels.add("a?b?[2J?c", 0), Some(one));
    }

    #[test]
    fn a_user_fills_only_its_own_share_and_all_users_the_table() {
        let mut labels = Labels::default();
        let fill = |labels: &mut Labels, uid: u32| {
            (0..)
                .take_while(|number| labels.add(&format!("{uid:05}/{number:05}/{:088}", 0), uid).is_some())
                .count()
        };
        let of_one = USER_BYTES_MAX / (100 + ENTRY_BYTES);
        assert_eq!(fill(&mut labels, 1000), of_one);
        assert!(labels.add("another's", 1001).is_some() && labels.add("root's", 0).is_some());
        assert_eq!(labels.omitted, 1);
        let more: usize = (2000..2010).map(|uid| fill(&mut labels, uid)).sum();
        assert!(more < 7 * of_one && labels.bytes <= BYTES_MAX - ROOT_BYTES);
        assert!(labels.add("root's next", 0).is_some() && labels.add("another's next", 1002).is_none());
        fill(&mut labels, 0);
        assert_eq!(labels.add(&"x".repeat(200), 0), None, "the table is full");
        assert!(labels.find("root's").is_some());
    }

    #[test]
    fn a_text_that_is_too_long_has_no_label() {
        let mut labels = Labels::default();
        assert!(labels.add(&"x".repeat(TEXT_BYTES_MAX), 0).is_some());
        assert_eq!(labels.add(&"x".repeat(TEXT_BYTES_MAX + 1), 0), None);
    }
}
