//! The most important fact about a fleet, in the words that every surface shows.

use std::fmt;

use super::act::ActBrake;
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
        match &*self.brakes {
            [] => {}
            [only] => say(braked(only), format!("actions are held: {only}")),
            [most, rest @ ..] => {
                let held =
                    format!("actions are held: {most}, and {}", counted(rest.len() as u64, "more brake"));
                say(self.brakes.iter().map(braked).max().unwrap_or_default(), held);
            }
        }
        if self.stalled > 0 {
            let are = if self.stalled == 1 { "is" } else { "are" };
            say(Level::Critical, format!("{} of {} {are} stalled", self.stalled, counted(agents, "agent")));
        }
        if self.standstill > 0 {
            let are = if self.standstill == 1 { "is" } else { "are" };
            let text = format!("{} of {} {are} at a standstill", self.standstill, counted(agents, "agent"));
            say(Level::Critical, text);
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
            return Headline { text, ..Headline::default() };
        };
        let texts: Vec<String> = facts.into_iter().map(|(_, fact)| fact).collect();
        let runbook = self.runbook().map(str::to_owned);
        Headline { level, text: sentence(&texts.join("; ")), runbook }
    }

    /// The section of the runbook on what is worst.
    fn runbook(&self) -> Option<&'static str> {
        match () {
            () if !self.is_healthy => Some("VartaShardDown"),
            // The stalls that engaged it are a wave, and which to look at is said there.
            () if self.brakes.iter().any(|brake| !brake.by_hand) => Some("VartaBrakeEngaged"),
            () if self.stalled > 2 => Some("VartaStallWave"),
            () if self.stalled > 0 => Some("VartaAgentsStalled"),
            () if self.standstill > 0 => Some("VartaStandstill"),
            // The deaths of a loop look like a wave.
            () if !self.crash_loops.is_empty() => Some("VartaCrashLoop"),
            () if self.died.agents > 0 => Some("VartaExitWave"),
            () if self.shards.iter().any(|shard| shard.is_blind) => Some("VartaBlind"),
            () if !self.brakes.is_empty() => Some("VartaBrakeEngaged"),
            () => None,
        }
    }

    /// The address of what is to be done, if somebody has to do something and this observer serves its runbook.
    #[must_use]
    pub fn what_to_do(&self) -> Option<String> {
        let section = self.headline_now().runbook?.to_lowercase();
        self.http.as_ref().map(|http| format!("http://{http}/runbook#{section}"))
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

/// An operator who engaged it knows of it.
const fn braked(brake: &ActBrake) -> Level {
    if brake.by_hand { Level::Warning } else { Level::Critical }
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
    use super::super::dead::CrashLoop;
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
            let Headline { level, text, .. } = fleet.headline_now();
            (level, text)
        };
        let is = |level: Level, text: &str| (level, text.to_owned());
        assert_eq!(said(&fleet(0, 0, &[])), is(Level::Warning, "No agent beats"));
        assert_eq!(said(&fleet(1, 0, &[])), is(Level::Ok, "All well: 1 agent beat"));
        assert_eq!(said(&fleet(3, 0, &[])), is(Level::Ok, "All well: 3 agents beat"));
        assert_eq!(said(&fleet(3, 1, &[])), is(Level::Critical, "1 of 4 agents is stalled"));
        let mut still = fleet(3, 0, &[]);
        still.standstill = 1;
        assert_eq!(said(&still), is(Level::Critical, "1 of 3 agents is at a standstill"));
        still.standstill = 2;
        assert_eq!(said(&still), is(Level::Critical, "2 of 3 agents are at a standstill"));
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

    #[test]
    fn a_brake_is_red_and_one_by_hand_is_known() {
        let said = |fleet: &Fleet| {
            let Headline { level, text, runbook } = fleet.headline_now();
            (level, text, runbook.unwrap_or_default())
        };
        let engaged =
            ActBrake { scope: "uid".to_owned(), uid: Some(0), stalls: 12, agents: 30, ..ActBrake::default() };
        let by_hand = ActBrake { scope: "fleet".to_owned(), by_hand: true, ..ActBrake::default() };
        let brake = "VartaBrakeEngaged".to_owned();
        let mut braked = fleet(30, 0, &[]);
        braked.brakes = vec![engaged.clone()];
        let text = "Actions are held: 12 of 30 agents of user 0 stalled at once";
        assert_eq!(said(&braked), (Level::Critical, text.to_owned(), brake.clone()));
        (braked.up, braked.stalled) = (18, 12);
        let text = format!("{text}; 12 of 30 agents are stalled");
        assert_eq!(said(&braked), (Level::Critical, text, brake.clone()));
        let mut braked = fleet(30, 0, &[]);
        braked.brakes = vec![by_hand.clone()];
        let text = "Actions are held: an operator engaged the brake";
        assert_eq!(said(&braked), (Level::Warning, text.to_owned(), brake.clone()));
        let of_unit = ActBrake { uid: None, unit: Some("w.service".to_owned()), ..engaged };
        braked.brakes = vec![by_hand, of_unit];
        let text = format!("{text}, and 1 more brake");
        assert_eq!(said(&braked), (Level::Critical, text, brake));
        assert_eq!(braked.brakes[1].to_string(), "12 of 30 agents of w.service stalled at once");
    }

    #[test]
    fn what_is_to_be_done_is_a_section_of_the_runbook() {
        let book = include_str!("../../scripts/deploy/prometheus/RUNBOOK.md");
        let is = |fleet: &Fleet, expected: Option<&str>| {
            assert_eq!(fleet.headline_now().runbook.as_deref(), expected);
            let section = expected.map(|name| format!("\n## {name}\n"));
            assert!(section.is_none_or(|section| book.contains(&section)), "{expected:?}");
        };
        is(&fleet(3, 0, &[]), None);
        is(&fleet(0, 0, &[]), None);
        let mut worse = fleet(3, 0, &[]);
        worse.shards[0].is_blind = true;
        is(&worse, Some("VartaBlind"));
        worse.brakes = vec![ActBrake { by_hand: true, ..ActBrake::default() }];
        is(&worse, Some("VartaBlind"));
        worse.died.agents = 4;
        is(&worse, Some("VartaExitWave"));
        let mut still = worse.clone();
        still.standstill = 1;
        is(&still, Some("VartaStandstill"));
        is(&worse, Some("VartaExitWave"));
        worse.crash_loops = vec![CrashLoop::default()];
        is(&worse, Some("VartaCrashLoop"));
        worse.stalled = 1;
        is(&worse, Some("VartaAgentsStalled"));
        worse.stalled = 3;
        is(&worse, Some("VartaStallWave"));
        worse.brakes = vec![ActBrake::default()];
        is(&worse, Some("VartaBrakeEngaged"));
        worse.is_healthy = false;
        is(&worse, Some("VartaShardDown"));
        assert_eq!(worse.what_to_do(), None, "nobody serves it");
        worse.http = Some("[::1]:9464".to_owned());
        assert_eq!(worse.what_to_do().as_deref(), Some("http://[::1]:9464/runbook#vartasharddown"));
    }
}
