//! One line of the event file.

use std::fmt;

use serde_json::Value;

/// One event, from a line of JSON Lines.
#[derive(Clone, Debug)]
pub struct Event {
    fields: Value,
    line: String,
}

impl Event {
    /// # Panics
    /// If it is not one JSON object of schema version 1.
    pub fn parse(line: &str) -> Self {
        let fields: Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in the line {line:?}"));
        assert_eq!(fields["v"], 1, "{line}");
        Self { fields, line: line.to_owned() }
    }

    pub fn kind(&self) -> &str {
        self.str("kind")
    }

    /// The agent that the event concerns.
    pub fn pid(&self) -> Option<u32> {
        self.fields["pid"].as_u64().map(|pid| u32::try_from(pid).expect("pids have 32 bits"))
    }

    /// Whether the event is of this kind and concerns this agent.
    pub fn is(&self, kind: &str, pid: u32) -> bool {
        self.kind() == kind && self.pid() == Some(pid)
    }

    pub fn has(&self, field: &str) -> bool {
        !self.fields[field].is_null()
    }

    /// Whether the field is there and is null.
    pub fn is_null(&self, field: &str) -> bool {
        self.fields.get(field).is_some_and(Value::is_null)
    }

    /// # Panics
    /// If the field is not such a number; the same holds for the methods below.
    pub fn u64(&self, field: &str) -> u64 {
        self.fields[field].as_u64().unwrap_or_else(|| panic!("no number {field} in {self}"))
    }

    pub fn str(&self, field: &str) -> &str {
        self.fields[field].as_str().unwrap_or_else(|| panic!("no text {field} in {self}"))
    }

    pub fn bool(&self, field: &str) -> bool {
        self.fields[field].as_bool().unwrap_or_else(|| panic!("no {field} in {self}"))
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line)
    }
}
