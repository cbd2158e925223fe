//! The content of `/metrics`: one table of families, read per shard and never per agent, so that a scrape
//! costs the same whatever the size of the fleet.
//!
//! prometheus-client writes the text as OpenMetrics; [`prometheus_text`] converts it to the older format for
//! clients that request it.

use std::fmt;
use std::fmt::Write as _;
use std::sync::Arc;

use hdrhistogram::Histogram;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::resources::Resources;
use super::sources::Sources;
use super::traffic::{CODES, Traffic};
use crate::action::counts::Counts;
use crate::action::thread::Act;
use crate::event::{BrakeScope, SessionWhy};
use crate::label;
use crate::lane::Port;
use crate::lane::counters::ShardCounters;
use crate::refusal::Refusal;
use crate::rules::Death;
use crate::time::MonoNs;
use crate::view::tally::{Histograms, Reader, ShardTally, Tally};
use crate::view::units::UnitCounts;

/// Bounds of times, ns. The histograms know a value to 1 %, so a value that close to a bound may be counted
/// on either side of it.
const TIMES_NS: &[u64] = &[
    10,
    25,
    50,
    100,
    250,
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
];
const ACT_TIMES_NS: &[u64] = &[
    10_000_000,
    100_000_000,
    1_000_000_000,
    5_000_000_000,
    10_000_000_000,
    30_000_000_000,
    60_000_000_000,
    300_000_000_000,
];
const FRAMES: &[u64] = &[1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024];
const NS_PER_SECOND: f64 = 1e9;

/// The data of one scrape, taken once.
pub struct Reading {
    sources: Arc<Sources>,
    tally: Arc<Tally>,
    /// The distributions of all shards together.
    merged: Histograms,
    resources: Resources,
    traffic: Traffic,
    crash_loops: u64,
    /// Of the thread that acts; of none, if there is none.
    act: Counts,
    now: MonoNs,
}

impl Reading {
    /// The data as of `now`. Waits for the aggregator at most 0.1 s, normally for microseconds.
    pub fn take(sources: &Arc<Sources>, traffic: Traffic, crash_loops: u64, now: MonoNs) -> Self {
        let tally = sources.copies.take();
        let merged = tally.merged();
        Self {
            sources: Arc::clone(sources),
            tally,
            merged,
            resources: Resources::now(),
            traffic,
            crash_loops,
            act: sources.act.lock().as_ref().map(Act::counts).unwrap_or_default(),
            now,
        }
    }

    fn port(&self, shard: usize) -> &Port {
        &self.sources.ports[shard]
    }

    fn counters(&self, shard: usize) -> &ShardCounters {
        &self.port(shard).counters
    }

    /// The counts of each unit, and last those of the others.
    fn units(&self) -> impl Iterator<Item = (&str, UnitCounts)> {
        let units = &self.tally.units;
        units.by_name().into_iter().chain([("other", units.other)])
    }

    fn told(&self, shard: usize) -> &ShardTally {
        &self.tally.shards[shard]
    }
}

impl fmt::Debug for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reading").field("now", &self.now).finish_non_exhaustive()
    }
}

/// One family.
struct Family {
    /// Without the `_total` of a counter.
    name: &'static str,
    help: &'static str,
    values: Values,
}

/// The source and the labels of its values.
enum Values {
    Counter(Read),
    Gauge(Read),
    Times(fn(&Histograms) -> &Histogram<u64>),
    Frames(fn(&Histograms) -> &Histogram<u64>),
    /// How long actions took.
    ActTimes,
}

/// One count of a unit.
type OfUnit = fn(&UnitCounts) -> u64;

enum Read {
    Fleet(fn(&Reading) -> f64),
    /// One value of the fleet, if it is known; otherwise no series.
    Known(fn(&Reading) -> Option<f64>),
    Shard(fn(&Reading, usize) -> f64),
    /// One value per value of a label.
    Label(&'static str, fn() -> Vec<&'static str>, fn(&Reading, usize) -> f64),
    /// One value per unit with counts of its own, and one of the others.
    Unit(OfUnit),
    /// The same for each value of another label.
    UnitLabel(&'static str, &'static [(&'static str, OfUnit)]),
    /// One value per action and phase of it; none without actions.
    Step,
    /// One value per shard and value of a label.
    ShardLabel(&'static str, fn() -> Vec<&'static str>, fn(&Reading, usize, usize) -> f64),
}

use Read::{Fleet, Known, Label, Shard, ShardLabel, Step, Unit, UnitLabel};
use Values::{ActTimes, Counter, Frames, Gauge, Times};

/// Every family, in the order of the text.
const FAMILIES: &[Family] = &[
    Family {
        name: "varta_frames",
        help: "Datagrams received: the sum of beats and refused frames",
        values: Counter(Shard(|of, shard| {
            let counters = of.counters(shard);
            let refused: u64 = Refusal::ALL.iter().map(|reason| counters.refused(*reason)).sum();
            number(counters.beats.get() + refused)
        })),
    },
    Family {
        name: "varta_beats",
        help: "Accepted frames",
        values: Counter(Shard(|of, shard| number(of.counters(shard).beats.get()))),
    },
    Family {
        name: "varta_frames_refused",
        help: "Datagrams that were no beat, by reason",
        values: Counter(ShardLabel(
            "reason",
            || Refusal::ALL.iter().map(|reason| reason.as_str()).collect(),
            |of, shard, reason| number(of.counters(shard).refused(Refusal::ALL[reason])),
        )),
    },
    Family {
        name: "varta_notify_messages",
        help: "Messages of daemons that were understood and are no beats; beats, these and refused frames are all frames",
        values: Counter(Shard(|of, shard| number(of.counters(shard).messages.get()))),
    },
    Family {
        name: "varta_notify_assignments_refused",
        help: "Assignments in messages of daemons whose values cannot be true, such as WATCHDOG_USEC=0; the rest of the message counts",
        values: Counter(Shard(|of, shard| number(of.counters(shard).assignments_refused.get()))),
    },
    Family {
        name: "varta_notify_fds",
        help: "Descriptors that came with messages of daemons, and were closed",
        values: Counter(Shard(|of, shard| number(of.counters(shard).fds.get()))),
    },
    Family {
        name: "varta_notify_one_shots",
        help: "Scripts that sent a message and ended: no agents",
        values: Counter(Fleet(|of| number(of.tally.one_shots))),
    },
    Family {
        name: "varta_beats_lost",
        help: "Beats lost before they reached us, from gaps in nonces: a lower bound",
        values: Counter(Shard(|of, shard| number(of.counters(shard).beats_lost.get()))),
    },
    Family {
        name: "varta_stalls",
        help: "Stalls told; certain is false if we could not see for a whole threshold or not ask whether the process exists",
        values: Counter(ShardLabel(
            "certain",
            || vec!["true", "false"],
            |of, shard, certain| {
                let told = of.told(shard);
                number(if certain == 0 { told.stalls_certain } else { told.stalls_uncertain })
            },
        )),
    },
    Family {
        name: "varta_stalls_refuted",
        help: "Stalls that the resuming beat proved wrong: the lost beats would have left no silence",
        values: Counter(Shard(|of, shard| number(of.told(shard).stalls_refuted))),
    },
    Family {
        name: "varta_resumes",
        help: "Silences that ended after a stall",
        values: Counter(Shard(|of, shard| number(of.told(shard).resumes))),
    },
    Family {
        name: "varta_standstills",
        help: "Standstills told: agents that beat and did not advance for the progress threshold of their rule",
        values: Counter(ShardLabel(
            "certain",
            || vec!["true", "false"],
            |of, shard, certain| {
                let told = of.told(shard);
                number(if certain == 0 { told.standstills_certain } else { told.standstills_uncertain })
            },
        )),
    },
    Family {
        name: "varta_advances",
        help: "Standstills that ended with an advance",
        values: Counter(Shard(|of, shard| number(of.told(shard).advances))),
    },
    Family {
        name: "varta_exits",
        help: "Agents whose process is gone",
        values: Counter(Shard(|of, shard| number(of.told(shard).exits))),
    },
    Family {
        name: "varta_deaths",
        help: "Exits that nobody asked for (neither status 0 nor SIGTERM, SIGINT, SIGHUP, SIGPIPE), by how the process ended",
        values: Counter(ShardLabel(
            "how",
            || Death::WORDS.to_vec(),
            |of, shard, how| number(of.told(shard).deaths[how]),
        )),
    },
    Family {
        name: "varta_sessions",
        help: "Sessions and streams begun, by what began them",
        values: Counter(ShardLabel(
            "why",
            || SessionWhy::ALL.iter().map(|why| why.as_str()).collect(),
            |of, shard, why| number(of.told(shard).sessions[why]),
        )),
    },
    Family {
        name: "varta_agents",
        help: "Agents tracked, by what was told of them last",
        values: Gauge(ShardLabel(
            "state",
            || vec!["up", "stalled", "frozen"],
            |of, shard, state| {
                let told = of.told(shard);
                number([told.up - told.frozen, told.stalled, told.frozen][state])
            },
        )),
    },
    Family {
        name: "varta_agents_standstill",
        help: "Agents at a standstill; each is among the agents up, stalled or frozen, too",
        values: Gauge(Shard(|of, shard| number(of.told(shard).still))),
    },
    Family {
        name: "varta_thresholds_too_short",
        help: "Rules, or the threshold, by kind of agent, that are not above the usual period of such agents; 32 are kept",
        values: Gauge(Fleet(|of| number(of.tally.too_short.all().len() as u64))),
    },
    Family {
        name: "varta_config_last_reload_successful",
        help: "1 if the configuration that was read last is in force, 0 if it was refused",
        values: Gauge(Fleet(|of| if of.tally.is_reload_refused { 0.0 } else { 1.0 })),
    },
    Family {
        name: "varta_config_last_reload_success_timestamp_seconds",
        help: "When the configuration in force was read: at the start or by a reload",
        values: Gauge(Fleet(|of| number(of.tally.configured.0) / NS_PER_SECOND)),
    },
    Family {
        name: "varta_agents_max",
        help: "Most agents the whole fleet tracks",
        values: Gauge(Fleet(|of| number(of.sources.plan.agents_max.into()))),
    },
    Family {
        name: "varta_agents_off_hash",
        help: "Agents whose pid does not hash to the shard they beat on",
        values: Gauge(Shard(|of, shard| number(of.told(shard).off_hash))),
    },
    Family {
        name: "varta_agents_unwatched",
        help: "Agents whose exit is noticed at their threshold only, for want of a descriptor",
        values: Gauge(Fleet(|of| number(of.tally.shards.iter().map(|shard| shard.unwatched).sum()))),
    },
    Family {
        name: "varta_decode_seconds",
        help: "Time to decode and track one frame",
        values: Times(|of| &of.decode_ns),
    },
    Family {
        name: "varta_queue_seconds",
        help: "From a frame's arrival in the kernel's queue to its being read",
        values: Times(|of| &of.queue_ns),
    },
    Family {
        name: "varta_stall_lateness_seconds",
        help: "From the deadline, last arrival plus threshold, to the telling of a stall",
        values: Times(|of| &of.lateness_ns),
    },
    Family {
        name: "varta_batch_frames",
        help: "Datagrams of one receive call that found any",
        values: Frames(|of| &of.batch_frames),
    },
    Family {
        name: "varta_receive_calls",
        help: "Calls of recvmmsg",
        values: Counter(Shard(|of, shard| number(of.counters(shard).receive_calls.get()))),
    },
    Family {
        name: "varta_socket_queue_limit",
        help: "Limit of the socket's queue, net.unix.max_dgram_qlen when it was made; it holds one datagram more",
        values: Gauge(Shard(|of, shard| number(of.counters(shard).queue_limit.get()))),
    },
    Family {
        name: "varta_reports_dropped",
        help: "Reports that found their lane full: the histograms miss them",
        values: Counter(Shard(|of, shard| number(of.counters(shard).reports_dropped.get()))),
    },
    Family {
        name: "varta_blind_seconds",
        help: "How long the shard could not see, in windows that ended",
        values: Counter(Shard(|of, shard| seconds(of.counters(shard).blind_ns.get()))),
    },
    Family {
        name: "varta_shard_blind",
        help: "1 while the shard cannot see: it was paused, or its queue is full",
        values: Gauge(Shard(|of, shard| number(of.counters(shard).is_blind.get()))),
    },
    Family {
        name: "varta_shard_up",
        help: "1 while the shard's thread runs and is not stuck",
        values: Gauge(Shard(|of, shard| flag(of.port(shard).is_alive()))),
    },
    Family {
        name: "varta_shard_reachable",
        help: "1 while the shard's socket is at its path, so that new agents find it",
        values: Gauge(Shard(|of, shard| flag(!of.told(shard).is_unreachable))),
    },
    Family {
        name: "varta_shard_tick_age_seconds",
        help: "Since the shard last finished a turn; up to a second where nothing happens",
        values: Gauge(Shard(|of, shard| seconds(of.now.since(MonoNs(of.counters(shard).turned_at.get()))))),
    },
    Family {
        name: "varta_shard_panics",
        help: "Panics of the shard's thread; it went on after each, or was given up",
        values: Counter(Shard(|of, shard| number(of.counters(shard).panics.get()))),
    },
    Family {
        name: "varta_socket_errors",
        help: "Failed calls on the shard's socket",
        values: Counter(Shard(|of, shard| number(of.counters(shard).io_errors.get()))),
    },
    Family {
        name: "varta_clock_steps",
        help: "Steps of the wall clock that a shard saw, most of any shard",
        values: Counter(Fleet(|of| {
            let steps = of.sources.ports.iter().map(|port| port.counters.clock_steps.get());
            number(steps.max().unwrap_or(0))
        })),
    },
    Family {
        name: "varta_directory_in_order",
        help: "1 while lock, manifest, symlink and control socket are in the runtime directory",
        values: Gauge(Fleet(|of| flag(!of.tally.is_unlisted))),
    },
    Family {
        name: "varta_thread_priority_raised",
        help: "1 if these threads run at the priority they ask for, and their session or control group is weighed accordingly",
        values: Gauge(Label(
            "thread",
            || vec!["shards", "aggregator"],
            |of, thread| flag(of.sources.is_raised[thread]),
        )),
    },
    Family {
        name: "varta_slot_reads_busy",
        help: "Times a slot had to be read again because its shard was writing it",
        values: Counter(Fleet(|of| number(of.tally.slot_reads_busy + of.traffic.slot_reads_busy))),
    },
    Family {
        name: "varta_events",
        help: "Events told",
        values: Counter(Fleet(|of| number(of.tally.events))),
    },
    Family {
        name: "varta_events_dropped",
        help: "Events that a reader was too slow for and is told of, or that lost their reader",
        values: Counter(Label(
            "output",
            || Reader::ALL.iter().map(|reader| reader.as_str()).collect(),
            |of, reader| number(of.tally.events_dropped[reader]),
        )),
    },
    Family {
        name: "varta_event_write_errors",
        help: "Failures of the event output",
        values: Counter(Fleet(|of| number(of.tally.event_write_errors))),
    },
    Family {
        name: "varta_event_output_failing",
        help: "1 while something is wrong with the event output: it cannot be written, or renamed away, or is not read",
        values: Gauge(Fleet(|of| flag(of.sources.output.trouble().is_some()))),
    },
    Family {
        name: "varta_lookups_failed",
        help: "Processes that the kernel would not tell about",
        values: Counter(Fleet(|of| number(of.tally.lookups_failed))),
    },
    Family {
        name: "varta_unit_agents",
        help: "Agents by unit of the service manager; at most 256 units have series of their own, the rest is other, which jumps when a unit loses its own",
        values: Gauge(UnitLabel("state", &[("up", |of| of.up), ("stalled", |of| of.stalled)])),
    },
    Family {
        name: "varta_unit_stalls",
        help: "Stalls told, by unit; a unit that loses its series adds its total to other, which jumps",
        values: Counter(Unit(|of| of.stalls)),
    },
    Family {
        name: "varta_unit_deaths",
        help: "Exits that nobody asked for, by unit, but for those of which the kernel did not say how; a unit that loses its series adds its total to other, which jumps",
        values: Counter(Unit(|of| of.deaths)),
    },
    Family {
        name: "varta_units_folded",
        help: "Units whose counts were added to those of other, to make room for another unit",
        values: Counter(Fleet(|of| number(of.tally.units.folded))),
    },
    Family {
        name: "varta_crash_loops",
        help: "Units, or programs of a user, that died more than three times in the last minute after less than a minute of life",
        values: Gauge(Fleet(|of| number(of.crash_loops))),
    },
    Family {
        name: "varta_actions",
        help: "Steps of actions, by action and outcome: due, held, started, ended, failed, cancelled or refused",
        values: Counter(Step),
    },
    Family {
        name: "varta_actions_waiting",
        help: "Actions that are due and held",
        values: Gauge(Fleet(|of| number(of.act.waiting))),
    },
    Family {
        name: "varta_actions_running",
        help: "Actions whose child runs",
        values: Gauge(Fleet(|of| number(of.act.running))),
    },
    Family {
        name: "varta_action_seconds",
        help: "How long actions took, from the order to the end",
        values: ActTimes,
    },
    Family {
        name: "varta_brake_engaged",
        help: "Brakes that hold actions, by what they hold",
        values: Gauge(Label(
            "scope",
            || BrakeScope::ALL.iter().map(|scope| scope.as_str()).collect(),
            |of, scope| number(of.act.brakes[scope]),
        )),
    },
    Family {
        name: "varta_held_agents",
        help: "Agents with an action that an operator holds",
        values: Gauge(Fleet(|of| number(of.act.held_agents))),
    },
    Family {
        name: "varta_evidence",
        help: "How often evidence was collected before an action",
        values: Counter(Label(
            "outcome",
            || vec!["written", "unavailable"],
            |of, outcome| number(of.act.evidence[outcome]),
        )),
    },
    Family {
        name: "varta_spawner_up",
        help: "Whether there is a process that starts actions; 0 also without actions",
        values: Gauge(Fleet(|of| flag(of.act.has_spawner))),
    },
    Family {
        name: "varta_spawner_restarts",
        help: "How often it was started or connected to again",
        values: Counter(Fleet(|of| number(of.act.spawner_restarts))),
    },
    Family {
        name: "varta_audit_lines_lost",
        help: "Lines of the audit file that could not be written",
        values: Counter(Fleet(|of| number(of.act.audit_lost))),
    },
    Family {
        name: "varta_labels_omitted",
        help: "How often a unit, container or program was looked up that has no label: their table, or the part of its user, is full of names that are needed, or it is too long",
        values: Counter(Fleet(|_| number(label::Label::omitted()))),
    },
    Family {
        name: "varta_table_refused_uid",
        help: "Frames refused because their user has its share of the agents; among those refused as table_full",
        values: Counter(Fleet(|of| {
            number(of.sources.ports.iter().map(|port| port.uids.share_refused.get()).sum())
        })),
    },
    Family {
        name: "varta_http_requests",
        help: "Requests answered, by status code",
        values: Counter(Label(
            "code",
            || CODES.iter().map(|(_, word)| *word).collect(),
            |of, code| number(of.traffic.answered[code]),
        )),
    },
    Family {
        name: "varta_http_connections",
        help: "Open connections",
        values: Gauge(Fleet(|of| number(of.traffic.connections))),
    },
    Family {
        name: "varta_http_connections_evicted",
        help: "Idle connections closed to make room for others",
        values: Counter(Fleet(|of| number(of.traffic.evicted))),
    },
    Family {
        name: "varta_build_info",
        help: "The version that runs; always 1",
        values: Gauge(Label("version", || vec![env!("CARGO_PKG_VERSION")], |_, _| 1.0)),
    },
    Family {
        name: "process_cpu_seconds",
        help: "CPU time of this process",
        values: Counter(Known(|of| of.resources.cpu_seconds)),
    },
    Family {
        name: "process_resident_memory_bytes",
        help: "Resident memory",
        values: Gauge(Known(|of| of.resources.resident_bytes.map(number))),
    },
    Family {
        name: "process_virtual_memory_bytes",
        help: "Address space, most of it reserved and not used",
        values: Gauge(Known(|of| of.resources.virtual_bytes.map(number))),
    },
    Family {
        name: "process_threads",
        help: "Threads",
        values: Gauge(Known(|of| of.resources.threads.map(number))),
    },
    Family {
        name: "process_open_fds",
        help: "Open descriptors, where Linux counts them: since 6.2",
        values: Gauge(Known(|of| of.resources.open_fds.map(number))),
    },
    Family {
        name: "process_max_fds",
        help: "Most descriptors this process may have",
        values: Gauge(Known(|of| of.resources.max_fds.map(number))),
    },
    Family {
        name: "process_start_time_seconds",
        help: "When the fleet started, since 1970",
        values: Gauge(Fleet(|of| seconds(of.sources.started.1.0))),
    },
];

#[expect(clippy::cast_precision_loss, reason = "metrics are doubles")]
const fn number(count: u64) -> f64 {
    count as f64
}

fn seconds(ns: u64) -> f64 {
    number(ns) / NS_PER_SECOND
}

const fn flag(is_true: bool) -> f64 {
    if is_true { 1.0 } else { 0.0 }
}

impl Collector for Reading {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for family in FAMILIES {
            let of =
                encoder.encode_descriptor(family.name, family.help, None, family.values.metric_type())?;
            family.values.encode(self, of)?;
        }
        Ok(())
    }
}

impl Values {
    const fn metric_type(&self) -> MetricType {
        match self {
            Counter(_) => MetricType::Counter,
            Gauge(_) => MetricType::Gauge,
            Times(_) | Frames(_) | ActTimes => MetricType::Histogram,
        }
    }

    fn encode(&self, reading: &Reading, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        match self {
            Counter(read) => read.each(reading, &mut encoder, |encoder, value| match whole(value) {
                Some(count) => encoder.encode_counter::<NoLabelSet, u64, u64>(&count, None),
                None => encoder.encode_counter::<NoLabelSet, f64, u64>(&value, None),
            }),
            Gauge(read) => read.each(reading, &mut encoder, |encoder, value| match whole(value) {
                Some(count) => encoder.encode_gauge(&count),
                None => encoder.encode_gauge(&value),
            }),
            Times(of) => encode_histogram(of(&reading.merged), TIMES_NS, NS_PER_SECOND, &mut encoder),
            Frames(of) => encode_histogram(of(&reading.merged), FRAMES, 1.0, &mut encoder),
            ActTimes => encode_histogram(&reading.act.took_ns, ACT_TIMES_NS, NS_PER_SECOND, &mut encoder),
        }
    }
}

/// The value as an integer, if it is one.
fn whole(value: f64) -> Option<u64> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is whole and in range")]
    (value.fract() == 0.0 && (0.0..9e15).contains(&value)).then_some(value as u64)
}

impl Read {
    /// Writes all values, including 0: a series that appears late has no rate at first.
    fn each(
        &self,
        reading: &Reading,
        encoder: &mut MetricEncoder<'_>,
        write: impl Fn(&mut MetricEncoder<'_>, f64) -> fmt::Result,
    ) -> fmt::Result {
        let shards = 0..reading.sources.ports.len();
        match self {
            Fleet(read) => write(encoder, read(reading)),
            Known(read) => read(reading).map_or(Ok(()), |value| write(encoder, value)),
            Shard(read) => {
                for shard in shards {
                    let labels = [("shard", shard.to_string())];
                    write(&mut encoder.encode_family(&labels)?, read(reading, shard))?;
                }
                Ok(())
            }
            Label(label, values, read) => {
                for (index, value) in values().into_iter().enumerate() {
                    write(&mut encoder.encode_family(&[(*label, value)])?, read(reading, index))?;
                }
                Ok(())
            }
            Unit(read) => {
                for (unit, counts) in reading.units() {
                    write(&mut encoder.encode_family(&[("unit", unit)])?, number(read(&counts)))?;
                }
                Ok(())
            }
            UnitLabel(label, values) => {
                for (unit, counts) in reading.units() {
                    for (value, read) in *values {
                        let labels = [("unit", unit), (*label, *value)];
                        write(&mut encoder.encode_family(&labels)?, number(read(&counts)))?;
                    }
                }
                Ok(())
            }
            Step => {
                for ((action, phase), count) in &reading.act.steps {
                    let labels = [("action", action.as_str()), ("outcome", phase.as_str())];
                    write(&mut encoder.encode_family(&labels)?, number(*count))?;
                }
                Ok(())
            }
            ShardLabel(label, values, read) => {
                let values = values();
                for shard in shards {
                    for (index, value) in values.iter().enumerate() {
                        let labels = [("shard", shard.to_string()), (*label, (*value).to_owned())];
                        write(&mut encoder.encode_family(&labels)?, read(reading, shard, index))?;
                    }
                }
                Ok(())
            }
        }
    }
}

fn encode_histogram(
    histogram: &Histogram<u64>,
    bounds: &[u64],
    per: f64,
    encoder: &mut MetricEncoder<'_>,
) -> fmt::Result {
    let Buckets { counts, sum } = Buckets::of(histogram, bounds);
    let upper = bounds.iter().map(|bound| number(*bound) / per).chain([f64::INFINITY]);
    let buckets: Vec<(f64, u64)> = upper.zip(counts).collect();
    encoder.encode_histogram::<NoLabelSet>(sum / per, histogram.len(), &buckets, None)
}

/// A histogram with few, wide cells.
#[derive(Debug, PartialEq)]
pub struct Buckets {
    /// Number of values up to each bound and above the previous one; the last cell: above all bounds.
    pub counts: Vec<u64>,
    /// Sum of all values, to 1 %.
    pub sum: f64,
}

impl Buckets {
    /// Counts the values of a histogram by `bounds`. One pass over its cells.
    pub fn of(histogram: &Histogram<u64>, bounds: &[u64]) -> Self {
        let mut counts = vec![0; bounds.len() + 1];
        let mut sum = 0.0;
        for step in histogram.iter_recorded() {
            let value = histogram.median_equivalent(step.value_iterated_to());
            let count = step.count_since_last_iteration();
            counts[bounds.partition_point(|bound| *bound < value)] += count;
            sum += number(value) * number(count);
        }
        Self { counts, sum }
    }

    /// The number of values up to each bound; the last count has no bound.
    pub fn cumulative(&self, bounds: &[u64]) -> Vec<(Option<u64>, u64)> {
        let mut so_far = 0;
        let upper = bounds.iter().copied().map(Some).chain([None]);
        let counted = upper.zip(&self.counts).map(|(bound, count)| {
            so_far += count;
            (bound, so_far)
        });
        counted.collect()
    }
}

/// The bounds of a distribution: of times in ns, or of frames.
pub const fn bounds(is_time: bool) -> &'static [u64] {
    if is_time { TIMES_NS } else { FRAMES }
}

/// All families as OpenMetrics text.
pub fn openmetrics_text(reading: Reading) -> String {
    let mut text = String::with_capacity(64 * 1024);
    let mut registry = Registry::default();
    registry.register_collector(Box::new(reading));
    let written = prometheus_client::encoding::text::encode(&mut text, &registry);
    debug_assert!(written.is_ok(), "a String takes everything");
    text
}

/// The same in the older format of Prometheus: counters are described under their whole name, and units and
/// the end marker are omitted.
pub fn prometheus_text(openmetrics: &str) -> String {
    let mut text = String::with_capacity(openmetrics.len());
    for line in openmetrics.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("EOF" | "UNIT"), ..) => {}
            (Some("#"), Some(what @ ("HELP" | "TYPE")), Some(name), Some(rest)) if is_counter(name) => {
                let _ = writeln!(text, "# {what} {name}_total {rest}");
            }
            _ => {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    text
}

fn is_counter(name: &str) -> bool {
    FAMILIES.iter().any(|family| family.name == name && matches!(family.values, Counter(_)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::lab::standin::sources;

    fn text(agents: u64) -> String {
        let sources = Arc::new(sources(2));
        let mut tally = Tally::of_shards(2);
        for shard in &mut tally.shards {
            shard.up = agents;
            shard.histograms.queue_ns.saturating_record_n(1_500, agents);
            shard.histograms.queue_ns.saturating_record(7_000_000);
        }
        sources.copies.keep(tally);
        openmetrics_text(Reading::take(&sources, Traffic::default(), 0, MonoNs(5)))
    }

    #[test]
    fn fault_46_a_million_agents_have_the_series_of_ten() {
        let series = |text: &str| -> Vec<String> {
            let samples = text.lines().filter(|line| !line.starts_with('#'));
            samples.map(|line| line.rsplit_once(' ').unwrap().0.to_owned()).collect()
        };
        let (few, many) = (text(10), text(1_000_000));
        assert_eq!(series(&few), series(&many));
        assert!(many.len() < 32 * 1024, "{} bytes", many.len());
    }

    #[test]
    fn every_family_is_named_described_and_there_once() {
        let text = text(1);
        let mut names = BTreeSet::new();
        for Family { name, help, values } in FAMILIES {
            assert!(names.insert(*name), "{name} is there twice");
            assert!(name.starts_with("varta_") || name.starts_with("process_"), "{name}");
            assert!(help.len() > 5 && !help.ends_with('.') && !help.contains('\n'), "{name}: {help}");
            assert!(!name.ends_with("_total"), "{name}: the encoder adds it");
            if matches!(values, Times(_) | ActTimes) {
                assert!(name.ends_with("_seconds"), "{name}");
            }
            assert_eq!(text.matches(&format!("# HELP {name} {help}\n")).count(), 1, "{name}");
            let sample = format!("\n{name}");
            let needs_actions = matches!(values, Counter(Step));
            assert!(text.contains(&sample) || needs_actions, "{name} has no sample");
        }
        let values: BTreeSet<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("varta_frames_refused_total{shard=\"1\""))
            .collect();
        assert_eq!(values.len(), Refusal::ALL.len());
    }

    #[test]
    fn buckets_are_cumulative_and_hold_every_value() {
        let text = text(3);
        let bucket = |le: &str| {
            let line = format!("varta_queue_seconds_bucket{{le=\"{le}\"}} ");
            text.lines().find_map(|found| found.strip_prefix(&line)).map(str::to_owned)
        };
        let counts = ["0.000001", "0.0000025", "0.005", "0.01", "10.0", "+Inf"].map(bucket);
        assert_eq!(counts.map(|count| count.unwrap_or_default()), ["0", "6", "6", "8", "8", "8"]);
        assert!(text.contains("\nvarta_queue_seconds_count 8\n"));
    }

    #[test]
    fn the_older_format_names_counters_in_full() {
        let plain = prometheus_text(&text(1));
        assert!(
            plain.contains("# HELP varta_beats_total Accepted frames\n# TYPE varta_beats_total counter\n")
        );
        assert!(plain.contains("# TYPE varta_agents gauge\n"));
        assert!(plain.contains("# TYPE varta_queue_seconds histogram\n"));
        assert!(!plain.contains("# EOF"));
    }
}
