//! The most important fact about a fleet, in the words that every surface shows.

use std::fmt;

use super::fleet::{Cause, Died, Fleet, Headline, Level};

/// Deaths of a minute are critical if they are this many at least, and more than one agent in [`WAVE_SHARE`].
const WAVE_MIN: u64 = 3;
const WAVE_SHARE: u64 = 20;

impl Fleet {
    /// The most important fact about it.
    #[must_use]
    pub fn headline_now(&self) -> Headline {
        let agents = self.up + self.stalled;
        let mut facts: Vec<(Level, String)> = Vec::new();
        let mut say = |level: Level, fact: String| facts.push((level, fact));
        if !self.is_healthy {
            say(Level::Critical, "not healthy: agents are not observed as they should be".to_owned());
        }
        if self.stalled > 0 {
            let are = if self.stalled == 1 { "is" } else { "are" };
            say(Level::Critical, format!("{} of {} {are} stalled", self.stalled, counted(agents, "agent")));
        }
        if self.died.agents > 0 {
            say(self.died.level(), self.died.to_string());
        }
        match &*self.crash_loops {
            [] => {}
            [only] => say(Level::Critical, only.to_string()),
            [most, rest @ ..] => say(Level::Critical, format!("{most}, and {} more do", rest.len())),
        }
        let blind = self.shards.iter().filter(|shard| shard.is_blind).count() as u64;
        if blind > 0 {
            say(Level::Warning, format!("{} cannot see", counted(blind, "shard")));
        }
        if agents == 0 {
            facts.push((Level::Warning, "no agent beats".to_owned()));
        }
        let Some(level) = facts.iter().map(|(level, _)| *level).max() else {
            let text = format!("All well: {} beat", counted(agents, "agent"));
            return Headline { level: Level::Ok, text };
        };
        let texts: Vec<String> = facts.into_iter().map(|(_, fact)| fact).collect();
        Headline { level, text: sentence(&texts.join("; ")) }
    }
}

impl Died {
    /// A wave is critical.
    #[must_use]
    pub const fn level(&self) -> Level {
        match self.agents {
            0 => Level::Ok,
            agents if agents >= WAVE_MIN && agents * WAVE_SHARE > self.of => Level::Critical,
            _ => Level::Warning,
        }
    }
}

impl fmt::Display for Died {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} died", self.agents, counted(self.of, "agent"))?;
        match &*self.causes {
            [only] => write!(f, " {only} in the last minute"),
            [most, ..] => write!(f, " in the last minute, {} {most}", most.agents),
            [] => f.write_str(" in the last minute"),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.code, self.signal) {
            (Some(code), _) => write!(f, "with exit status {code}"),
            (_, Some(signal)) => write!(f, "by signal {signal}"),
            _ if self.how == "oom" => f.write_str("by signal 9, out of memory,"),
            _ => f.write_str("of a panic"),
        }
    }
}

/// It begins with a capital letter.
fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

/// `1 shard`, `2 shards`.
fn counted(n: u64, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

#[cfg(test)]
mod tests {
    use super::super::fleet::Shard;
    use super::*;

    fn fleet(up: u64, stalled: u64, died: &[(u64, Option<u8>, Option<u8>)]) -> Fleet {
        let cause = |&(agents, code, signal): &(u64, Option<u8>, Option<u8>)| {
            let how = if code.is_some() { "code" } else { "signal" };
            Cause { how: how.to_owned(), code, signal, agents }
        };
        let causes: Vec<Cause> = died.iter().map(cause).collect();
        let agents = causes.iter().map(|cause| cause.agents).sum();
        let died = Died { agents, of: up + stalled + agents, causes, ..Died::default() };
        let shards = vec![Shard { is_alive: true, ..Shard::default() }];
        Fleet { up, stalled, is_healthy: true, died, shards, ..Fleet::default() }
    }

    #[test]
    fn what_is_wrong_comes_first() {
        let said = |fleet: &Fleet| {
            let Headline { level, text } = fleet.headline_now();
            (level, text)
        };
        let is = |level: Level, text: &str| (level, text.to_owned());
        assert_eq!(said(&fleet(0, 0, &[])), is(Level::Warning, "No agent beats"));
        assert_eq!(said(&fleet(1, 0, &[])), is(Level::Ok, "All well: 1 agent beat"));
        assert_eq!(said(&fleet(3, 0, &[])), is(Level::Ok, "All well: 3 agents beat"));
        assert_eq!(said(&fleet(3, 1, &[])), is(Level::Critical, "1 of 4 agents is stalled"));
        let killed = fleet(150, 0, &[(150, None, Some(9))]);
        assert_eq!(
            said(&killed),
            is(Level::Critical, "150 of 300 agents died by signal 9 in the last minute")
        );
        let mixed = fleet(298, 0, &[(1, Some(3), None), (1, None, Some(6))]);
        let text = "2 of 300 agents died in the last minute, 1 with exit status 3";
        assert_eq!(said(&mixed), is(Level::Warning, text));
        let mut all = fleet(3, 2, &[(1, None, Some(11))]);
        all.shards[0].is_blind = true;
        all.is_healthy = false;
        let text = "Not healthy: agents are not observed as they should be; 2 of 5 agents are stalled; \
                    1 of 6 agents died by signal 11 in the last minute; 1 shard cannot see";
        assert_eq!(said(&all), is(Level::Critical, text));
    }
}
