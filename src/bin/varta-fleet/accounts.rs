//! Names of users and groups, as `/etc/passwd` and `/etc/group` have them. Those of another directory service go by
//! their numbers.

use std::collections::HashMap;
use std::fs;

use varta_fleet::Shown;

/// Names of users by number, and numbers by name.
#[derive(Clone, Debug, Default)]
pub struct Users {
    names: HashMap<u32, String>,
    uids: HashMap<String, u32>,
}

impl Users {
    /// Those of this host; none if the file cannot be read.
    pub fn of_host() -> Self {
        Self::parse(&fs::read_to_string("/etc/passwd").unwrap_or_default())
    }

    /// The groups of this host: they have the same form as far as it matters.
    pub fn groups_of_host() -> Self {
        Self::parse(&fs::read_to_string("/etc/group").unwrap_or_default())
    }

    fn parse(text: &str) -> Self {
        let mut users = Self::default();
        for line in text.lines() {
            let mut fields = line.split(':');
            let (Some(name), Some(Ok(uid))) = (fields.next(), fields.nth(1).map(str::parse)) else {
                continue;
            };
            // The first line of a number or name is the one that the system uses.
            users.names.entry(uid).or_insert_with(|| name.to_owned());
            users.uids.entry(name.to_owned()).or_insert(uid);
        }
        users
    }

    /// The name of a user, else its number.
    pub fn name(&self, uid: u32) -> String {
        self.names.get(&uid).map_or_else(|| uid.to_string(), |name| Shown(name).to_string())
    }

    /// The number of a user, written as its number or its name.
    pub fn uid(&self, text: &str) -> Option<u32> {
        text.parse().ok().or_else(|| self.uids.get(text).copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_go_by_name_or_number() {
        let users = Users::parse(
            "root:x:0:0:root:/root:/bin/sh\ntoor:x:0:0::/:/bin/sh\nb\u{1b}:x:7:7::/:/\n\nbad:x\n",
        );
        assert_eq!(
            (users.name(0), users.name(7), users.name(9)),
            ("root".into(), "b\\u{1b}".into(), "9".into())
        );
        assert_eq!((users.uid("toor"), users.uid("12"), users.uid("nobody")), (Some(0), Some(12), None));
    }
}
