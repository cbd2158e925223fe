//! Patterns for the names of processes and programs: `*` matches any characters, `?` exactly one.

use std::ops::Deref;

/// Longest pattern in a request, in bytes. Process names have at most 15.
#[cfg(feature = "http")]
pub const ASKED_BYTES_MAX: usize = 64;

/// A pattern as a bit-parallel automaton, one bit per place: the places that a text may have reached are a
/// set of bits, and each character of the text moves all of them at once. So a text is read once, whatever
/// the pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// What advances from each place to the next: a certain character, or any.
    steps: Vec<Step>,
    /// Places with a star, as bits.
    stars: Vec<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Any,
    One(char),
}

impl Pattern {
    /// Compiles a pattern.
    pub fn new(text: &str) -> Self {
        let (mut steps, mut starred) = (Vec::new(), Vec::new());
        for c in text.chars() {
            match c {
                // Several stars in a row count as one.
                '*' => starred.push(steps.len()),
                '?' => steps.push(Step::Any),
                c => steps.push(Step::One(c)),
            }
        }
        let mut stars = vec![0; steps.len() / 64 + 1];
        starred.iter().for_each(|place| set(&mut stars, *place));
        Self { steps, stars }
    }

    /// Whether the pattern matches the whole text. One pass over the text, with one step per character for
    /// every 64 places of the pattern.
    pub fn matches(&self, text: &str) -> bool {
        let mut reached = vec![0; self.stars.len()];
        set(&mut reached, 0);
        for c in text.chars() {
            let mut carry = 0;
            for (block, reached) in reached.iter_mut().enumerate() {
                let moving = *reached & self.accepting(block, c);
                *reached = (*reached & self.stars[block]) | moving << 1 | carry;
                carry = moving >> 63;
            }
        }
        let end = self.steps.len();
        reached[end / 64] >> (end % 64) & 1 == 1
    }

    /// Whether a text matches the pattern, if there is one. What is not known, or empty, matches none.
    pub fn takes<T: Deref<Target = str>>(pattern: Option<&Self>, text: impl FnOnce() -> Option<T>) -> bool {
        pattern.is_none_or(|pattern| text().is_some_and(|text| !text.is_empty() && pattern.matches(&text)))
    }

    /// The places in this block from which a character advances.
    fn accepting(&self, block: usize, c: char) -> u64 {
        let steps = self.steps.iter().skip(block * 64).take(64);
        let moves = |step: &Step| matches!(step, Step::Any) || *step == Step::One(c);
        steps.enumerate().fold(0, |places, (place, step)| places | u64::from(moves(step)) << place)
    }
}

fn set(places: &mut [u64], place: usize) {
    places[place / 64] |= 1 << (place % 64);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition of a pattern, written without regard to time.
    fn matches(pattern: &[char], text: &[char]) -> bool {
        match (pattern, text) {
            ([], []) => true,
            (['*', rest @ ..], _) => matches(rest, text) || !text.is_empty() && matches(pattern, &text[1..]),
            ([wanted, rest @ ..], [found, text @ ..]) => {
                (*wanted == '?' || wanted == found) && matches(rest, text)
            }
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn a_pattern_means_what_its_definition_says(pattern in "[ab?*é]{0,8}", text in "[abé]{0,8}") {
            let chars = |text: &str| text.chars().collect::<Vec<_>>();
            let expected = matches(&chars(&pattern), &chars(&text));
            prop_assert_eq!(Pattern::new(&pattern).matches(&text), expected);
        }
    }

    #[test]
    fn long_patterns_go_beyond_one_block() {
        let long = "ab".repeat(100);
        assert!(Pattern::new(&long).matches(&long));
        assert!(Pattern::new(&format!("*{long}?*")).matches(&format!("xx{long}yz")));
        assert!(!Pattern::new(&format!("{long}?")).matches(&long));
        for len in [63, 64, 65, 127, 128, 129] {
            let text = "a".repeat(len);
            assert!(Pattern::new(&text).matches(&text), "{len}");
            assert!(!Pattern::new(&text).matches(&"a".repeat(len - 1)), "{len}");
        }
        assert!(!Pattern::new(&"*a".repeat(500)).matches(&"a".repeat(499)));
        assert!(Pattern::new(&"*".repeat(100_000)).matches("a"));
    }

    #[test]
    fn patterns() {
        for (pattern, text, expected) in [
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("**", "abc", true),
            ("a", "a", true),
            ("a", "ab", false),
            ("ab", "a", false),
            ("?", "", false),
            ("?", "é", true),
            ("b*h", "batch", true),
            ("b*h", "batches", false),
            ("*-?", "a-b-c", true),
            ("*ab", "aab", true),
            ("*a*b", "xxabxb", true),
            ("*a*b", "xxabxbc", false),
            ("/opt/*", "/opt/a/b", true),
            ("a?c*", "abc", true),
            ("A*", "a", false),
        ] {
            assert_eq!(Pattern::new(pattern).matches(text), expected, "{pattern:?} {text:?}");
        }
    }
}
