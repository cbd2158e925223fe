//! The result of the beats: counted by each agent, merged, printed.

use std::collections::BTreeMap;
use std::fmt;
use std::fmt::Write as _;
use std::io;

use hdrhistogram::Histogram;
use varta_fleet::Reason;

use super::args::LoadArgs;
use super::observed::Observed;
use super::schedule::Schedule;
use crate::exit::counted;

/// Longer than any wait; longer times count as a minute.
const LONGEST_NS: u64 = 60_000_000_000;
/// Most bytes that agents write at once: below PIPE_BUF.
const LINE_BYTES: usize = 3500;

/// The result of the beats that were due while counting.
#[derive(Debug)]
pub struct Sent {
    sent: u64,
    /// Refused, by error number.
    refused: BTreeMap<i32, u64>,
    /// From the due time of a beat to its sending, ns: the lateness of the load generator itself.
    late_ns: Histogram<u64>,
    /// From the due time of a beat until the kernel accepted or refused it, ns.
    send_ns: Histogram<u64>,
}

impl Default for Sent {
    fn default() -> Self {
        let histogram = || match Histogram::new_with_bounds(1, LONGEST_NS, 2) {
            Ok(histogram) => histogram,
            Err(error) => unreachable!("bounds are constants: {error}"),
        };
        Self { sent: 0, refused: BTreeMap::new(), late_ns: histogram(), send_ns: histogram() }
    }
}

impl Sent {
    /// Records one beat; `errno` is the error number if it was refused.
    pub fn record(&mut self, errno: Option<i32>, due: u64, started: u64, done: u64) {
        match errno {
            None => self.sent += 1,
            Some(errno) => *self.refused.entry(errno).or_default() += 1,
        }
        self.late_ns.saturating_record(started.saturating_sub(due));
        self.send_ns.saturating_record(done.saturating_sub(due));
    }

    /// Adds the counts of another agent.
    pub fn merge(&mut self, other: &Self) {
        self.sent += other.sent;
        for (errno, count) in &other.refused {
            *self.refused.entry(*errno).or_default() += count;
        }
        for (mine, others) in [(&mut self.late_ns, &other.late_ns), (&mut self.send_ns, &other.send_ns)] {
            // Cannot fail: the bounds are the same.
            let _ = mine.add(others);
        }
    }

    /// As lines for a pipe with many writers: a word, then pairs of numbers.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!("sent {}:0\n", self.sent)];
        let refused = self.refused.iter().map(|(errno, count)| (errno.unsigned_abs().into(), *count));
        let recorded = |histogram: &Histogram<u64>| {
            histogram
                .iter_recorded()
                .map(|step| (step.value_iterated_to(), step.count_at_value()))
                .collect::<Vec<(u64, u64)>>()
        };
        let sections = [
            ("refused", refused.collect()),
            ("late", recorded(&self.late_ns)),
            ("send", recorded(&self.send_ns)),
        ];
        for (word, pairs) in sections {
            for pairs in pairs.chunks(LINE_BYTES / 24) {
                let mut line = word.to_owned();
                for (value, count) in pairs {
                    let _ = write!(line, " {value}:{count}");
                }
                lines.push(line + "\n");
            }
        }
        lines
    }

    /// Adds the counts of a line of [`Sent::lines`].
    pub fn take(&mut self, line: &str) -> Result<(), String> {
        let (word, pairs) = line.split_once(' ').unwrap_or((line, ""));
        for pair in pairs.split_ascii_whitespace() {
            let numbers = pair
                .split_once(':')
                .and_then(|(value, count)| Some((value.parse::<u64>().ok()?, count.parse::<u64>().ok()?)));
            match (word, numbers) {
                ("sent", Some((sent, _))) => self.sent += sent,
                ("refused", Some((errno, count))) => {
                    *self.refused.entry(i32::try_from(errno).unwrap_or(0)).or_default() += count;
                }
                ("late", Some((value, count))) => self.late_ns.saturating_record_n(value, count),
                ("send", Some((value, count))) => self.send_ns.saturating_record_n(value, count),
                _ => return Err(format!("an agent failed: {line}")),
            }
        }
        Ok(())
    }

    fn refused(&self) -> u64 {
        self.refused.values().sum()
    }
}

/// The report at the end.
pub struct Report<'a> {
    /// The arguments of the command.
    pub args: &'a LoadArgs,
    /// Number of sockets used.
    pub shards: usize,
    /// When beats were due.
    pub schedule: &'a Schedule,
    /// The result of the beats.
    pub sent: &'a Sent,
    /// What the observer did meanwhile.
    pub observed: Option<&'a Observed>,
}

impl Report<'_> {
    /// As one JSON object; times in ns.
    pub fn json(&self) -> serde_json::Value {
        let quantiles = |histogram: &Histogram<u64>| {
            serde_json::json!({
                "p50": histogram.value_at_quantile(0.5),
                "p90": histogram.value_at_quantile(0.9),
                "p99": histogram.value_at_quantile(0.99),
                "p999": histogram.value_at_quantile(0.999),
                "max": histogram.max(),
            })
        };
        let refused: serde_json::Map<_, _> = self
            .sent
            .refused
            .iter()
            .map(|(errno, count)| (word_of(*errno), serde_json::Value::from(*count)))
            .collect();
        serde_json::json!({
            "agents": self.schedule.agents,
            "shards": self.shards,
            "rate": self.schedule.rate,
            "seconds": seconds(self.schedule.length_ns),
            "wire": self.args.wire,
            "forged": self.args.forge,
            "sent": self.sent.sent,
            "refused": refused,
            "late_ns": quantiles(&self.sent.late_ns),
            "send_ns": quantiles(&self.sent.send_ns),
            "observer_cpu_ns": self.observed.map(Observed::cpu_ns),
            "observer_cpu_ns_per_beat": self.observed.map(|observed| per(observed.cpu_ns(), self.sent.sent)),
            "observer_cpu_ns_by_thread": self.observed.map(|observed| &observed.cpu),
            "observed": self.observed.and_then(|observed| observed.counts.as_ref()),
        })
    }
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { args, shards, schedule, sent, observed } = self;
        let pace = schedule.rate.map_or("as fast as they go".to_owned(), |rate| {
            format!("{} a second together", counted(rate, "beat"))
        });
        writeln!(
            f,
            "{}{}, {pace}, on {} for {} s",
            counted(schedule.agents.into(), "agent"),
            if args.forge { " forged by one sender" } else { "" },
            counted(*shards as u64, "socket"),
            seconds(schedule.length_ns),
        )?;
        let due = sent.sent + sent.refused();
        writeln!(f, "sent     {:>12}  {:.0}/s", sent.sent, per(sent.sent, 1) / seconds(schedule.length_ns))?;
        writeln!(f, "refused  {:>12}  {:.4} %", sent.refused(), 100.0 * per(sent.refused(), due))?;
        for (errno, count) in &sent.refused {
            writeln!(f, "  {count:>19}  {}", word_of(*errno))?;
        }
        writeln!(f, "{:<9}{:>9}{:>9}{:>9}{:>9}{:>9}", "", "p50", "p90", "p99", "p99.9", "max")?;
        for (name, histogram) in [("late", &sent.late_ns), ("send", &sent.send_ns)] {
            write!(f, "{name:<9}")?;
            for quantile in [0.5, 0.9, 0.99, 0.999, 1.0] {
                write!(f, "{:>9}", micros(histogram.value_at_quantile(quantile)))?;
            }
            writeln!(f)?;
        }
        writeln!(
            f,
            "late: a beat's sending began so long after it was due; send: the kernel was done with it"
        )?;
        let Some(observed) = observed else { return Ok(()) };
        writeln!(
            f,
            "observer {:>12.3} us of CPU a beat, {:.1} % of a core",
            per(observed.cpu_ns(), sent.sent) / 1000.0,
            100.0 * per(observed.cpu_ns(), schedule.length_ns)
        )?;
        for (thread, ns) in observed.cpu.iter().filter(|(_, ns)| **ns > 0) {
            writeln!(f, "  {thread:<16} {:>9.3} us a beat", per(*ns, sent.sent) / 1000.0)?;
        }
        match &observed.counts {
            Some(counts) => write!(f, "{counts}"),
            None => Ok(()),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a few digits are shown")]
fn per(amount: u64, of: u64) -> f64 {
    amount as f64 / of.max(1) as f64
}

fn seconds(ns: u64) -> f64 {
    per(ns, 1_000_000_000)
}

fn micros(ns: u64) -> String {
    match ns {
        0..10_000_000 => format!("{:.1}us", per(ns, 1000)),
        _ => format!("{:.1}ms", per(ns, 1_000_000)),
    }
}

fn word_of(errno: i32) -> String {
    let error = io::Error::from_raw_os_error(errno);
    Reason(&error).to_string()
}
