//! The table of counters that the program prints on SIGUSR1.

use std::fmt;

/// One complete table.
#[derive(Clone, Debug)]
pub struct Table(String);

impl Table {
    /// The last complete table in this text, and the number of complete tables.
    pub fn last(text: &str) -> (Option<Self>, usize) {
        let is_end = |line: &str| line.starts_with("events ");
        let mut tables = Vec::new();
        let mut table = String::new();
        for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
            if line.starts_with("histogram ") {
                table.clear();
            }
            table.push_str(line);
            if is_end(line) {
                tables.push(Self(std::mem::take(&mut table)));
            }
        }
        let count = tables.len();
        (tables.pop(), count)
    }

    /// A column of a shard's row.
    ///
    /// # Panics
    /// If there is no such number; the same holds for the methods below.
    pub fn shard(&self, shard: u32, column: &str) -> u64 {
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let is_head = |line: &&str| line.starts_with("shard ") && line.contains(" beats ");
        let head = words(self.0.lines().find(is_head).unwrap_or_else(|| panic!("no counters in\n{self}")));
        let at = head.iter().position(|word| word == column);
        let row = self.0.lines().map(words).find(|row| row.first() == Some(&shard.to_string()));
        let number = row.zip(at).and_then(|(row, at)| row[at].parse().ok());
        number.unwrap_or_else(|| panic!("no {column} of shard {shard} in\n{self}"))
    }

    /// A column of a user's row on a shard; 0 if the user is not among the busiest.
    pub fn uid(&self, shard: u32, uid: u32, column: &str) -> u64 {
        let mut lines = self.0.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let head = lines
            .find(|words| words.starts_with(&["shard", "uid"]))
            .unwrap_or_else(|| panic!("no users in\n{self}"));
        let at =
            head.iter().position(|word| *word == column).unwrap_or_else(|| panic!("no {column} in\n{self}"));
        let row = lines.find(|words| words.starts_with(&[&*shard.to_string(), &*uid.to_string()]));
        row.map_or(0, |words| words[at].parse().unwrap_or_else(|_| panic!("no number: {words:?}")))
    }

    /// Events reported so far, whether written or not.
    pub fn events(&self) -> u64 {
        let number = self.0.lines().find_map(|line| line.strip_prefix("events ")?.split(',').next());
        number.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no events in\n{self}"))
    }

    /// Datagrams that the shard refused for this reason.
    pub fn refused(&self, shard: u32, reason: &str) -> u64 {
        let lead = format!("shard {shard} refused: ");
        let Some(list) = self.0.lines().find_map(|line| line.strip_prefix(&lead)) else { return 0 };
        let of_reason = list.split(", ").find_map(|entry| entry.strip_prefix(reason)?.strip_prefix(' '));
        of_reason.map_or(0, |number| number.parse().unwrap_or_else(|_| panic!("no number: {number}")))
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
