//! Triggers of an action as the file writes them: `"stall"`, or `{ exit = { signal = 9 } }`.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use toml::{Table, Value};

use super::act::Trigger;
use super::values::{Refused, Signal, signal_name};

/// What `on` takes.
pub(super) const TRIGGERS: &str = "a list of \"stall\", \"exit\", { exit = { signal = 9 } }, { exit = { code = 1 } }, \
                                   \"terminal\", \"frozen\", \"standstill\", \"missing\" and \"resume\"";

/// The trigger as the file writes it.
pub(super) fn trigger_value(trigger: Trigger) -> Value {
    let filter = match trigger {
        Trigger::ExitCode(code) => ("code", Value::from(i64::from(code))),
        Trigger::ExitSignal(signal) => ("signal", signal_name(signal).into()),
        word => {
            let word = Trigger::WORDS.iter().find(|(_, known)| *known == word);
            return word.map_or_else(String::new, |(word, _)| (*word).to_owned()).into();
        }
    };
    let table = |key: &str, value| Value::Table(Table::from_iter([(key.to_owned(), value)]));
    table("exit", table(filter.0, filter.1))
}

fn unknown<E: de::Error>() -> E {
    E::custom(Refused::new("there is no such trigger in it", format!("write {TRIGGERS}")))
}

/// Serde names the type that it found, which of a list would be that of the list.
macro_rules! no_trigger {
    ($($visit:ident: $type:ty),*) => {
        $(fn $visit<E: de::Error>(self, _: $type) -> Result<Trigger, E> {
            Err(unknown())
        })*
    };
}

impl<'de> Deserialize<'de> for Trigger {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TriggerVisitor;
        impl<'de> Visitor<'de> for TriggerVisitor {
            type Value = Trigger;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(TRIGGERS)
            }
            no_trigger!(visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_f64: f64);
            fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<Trigger, A::Error> {
                Err(unknown())
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Trigger, E> {
                if let Some((_, trigger)) = Trigger::WORDS.iter().find(|(word, _)| *word == text) {
                    return Ok(*trigger);
                }
                let near = Trigger::WORDS
                    .map(|(word, _)| (strsim::damerau_levenshtein(text, word), word))
                    .into_iter();
                let fix = match near.min() {
                    Some((distance, word)) if distance <= 2 => format!("did you mean \"{word}\"?"),
                    _ => format!("write {TRIGGERS}"),
                };
                Err(E::custom(Refused::new(format!("there is no trigger {text:?}"), fix)))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Trigger, A::Error> {
                let mut trigger = None;
                while let Some(key) = map.next_key::<String>()? {
                    if key != "exit" {
                        map.next_value::<IgnoredAny>()?;
                        return Err(unknown());
                    }
                    trigger = Some(map.next_value::<Filter>()?.0);
                }
                trigger.ok_or_else(unknown)
            }
        }
        deserializer.deserialize_any(TriggerVisitor)
    }
}

/// Which exits: `{ signal = 9 }` or `{ code = 1 }`.
struct Filter(Trigger);

const FILTER: &str =
    "write { exit = { signal = 9 } }, by number or name, or { exit = { code = 1 } }, from 0 to 255";

impl<'de> Deserialize<'de> for Filter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Written {
            code: Option<i64>,
            signal: Option<Signal>,
        }
        let refused = |why: &str| de::Error::custom(Refused::new(why, FILTER));
        let written = Written::deserialize(deserializer).map_err(|error| {
            let text = error.to_string();
            match text.trim_end().rsplit_once("; ") {
                Some((why, fix)) => de::Error::custom(Refused::new(why, fix)),
                None => refused("it filters exits by something else than a code or a signal"),
            }
        })?;
        match written {
            Written { code: Some(code), signal: None } => match u8::try_from(code) {
                Ok(code) => Ok(Self(Trigger::ExitCode(code))),
                Err(_) => Err(refused("no process exits with such a code")),
            },
            Written { code: None, signal: Some(Signal(signal)) } => Ok(Self(Trigger::ExitSignal(signal))),
            Written { code: None, signal: None } => Err(refused("it names neither a code nor a signal")),
            Written { .. } => Err(refused("no exit has both a code and a signal")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    struct File {
        on: Vec<Trigger>,
    }

    #[test]
    fn triggers_are_read_as_they_are_written() {
        let words = Trigger::WORDS.iter().map(|(_, trigger)| *trigger);
        let filters =
            [0, 1, 255].map(Trigger::ExitCode).into_iter().chain([1, 9, 34, 64].map(Trigger::ExitSignal));
        for trigger in words.chain(filters) {
            let file: File = toml::from_str(&format!("on = [{}]", trigger_value(trigger))).unwrap();
            assert_eq!(file.on, [trigger]);
        }
        let file: File = toml::from_str("on = [{ exit = { signal = \"KILL\" } }, \"frozen\"]").unwrap();
        assert_eq!(file.on, [Trigger::ExitSignal(9), Trigger::Frozen]);
    }

    #[test]
    fn what_is_no_trigger_is_refused_with_what_to_write() {
        for (on, told) in [
            ("\"stal\"", "there is no trigger \"stal\"; did you mean \"stall\"?"),
            ("\"what\"", "there is no trigger \"what\"; write a list of"),
            ("7", "there is no such trigger in it; write a list of"),
            ("true", "there is no such trigger in it; "),
            ("[]", "there is no such trigger in it; "),
            ("{}", "there is no such trigger in it; "),
            ("{ stall = {} }", "there is no such trigger in it; "),
            ("{ exit = {} }", "it names neither a code nor a signal; write { exit"),
            ("{ exit = 9 }", "it filters exits by something else than a code or a signal; "),
            ("{ exit = { sig = 9 } }", "it filters exits by something else than a code or a signal; "),
            ("{ exit = { code = 1, signal = 9 } }", "no exit has both a code and a signal; "),
            ("{ exit = { code = 256 } }", "no process exits with such a code; "),
            ("{ exit = { code = -1 } }", "no process exits with such a code; "),
            (
                "{ exit = { signal = 0 } }",
                "there is no such signal; write its name, or a number from 1 to 64",
            ),
            ("{ exit = { signal = 65 } }", "there is no such signal; "),
            ("{ exit = { signal = \"SIGKIL\" } }", "there is no such signal; did you mean SIGKILL?"),
        ] {
            let refused = toml::from_str::<File>(&format!("on = [{on}]")).unwrap_err().to_string();
            assert!(refused.contains(told), "{on}: {refused}");
        }
    }
}
