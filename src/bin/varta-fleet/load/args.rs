//! The arguments of `load`.

use std::path::PathBuf;
use std::time::Duration;

use varta_fleet::config::read_duration;
use varta_fleet::wire::Version;

use crate::client::FleetArgs;

/// Arguments of `load`.
#[derive(clap::Args, Debug)]
pub struct LoadArgs {
    /// Which fleet to beat for.
    #[command(flatten)]
    pub fleet: FleetArgs,
    /// Beat on this socket instead of a fleet's; several: each agent on the one its pid hashes to
    #[arg(long, value_name = "PATH")]
    pub socket: Vec<PathBuf>,
    /// How many agents, a process each
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=30_000))]
    pub agents: u32,
    /// Beats a second, of all agents together [default: 2 for each agent]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub rate: Option<u64>,
    /// As fast as possible: each agent sends its next beat once the kernel took the one before
    #[arg(long, conflicts_with_all = ["rate", "forge"])]
    pub flat_out: bool,
    /// One sender beats in the name of all agents, real processes that sleep; needs root
    #[arg(long)]
    pub forge: bool,
    /// Wire version: 0.1, 0.2, or mixed, half of the agents each
    #[arg(long, value_name = "VERSION", default_value = "0.2", value_parser = ["0.1", "0.2", "mixed"])]
    pub wire: String,
    /// How long to measure
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = read_duration)]
    pub r#for: Duration,
    /// How long to beat before that
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = read_duration)]
    pub warm_up: Duration,
    /// Also report what the fleet counted and the CPU it took; with PID, of another observer: its CPU alone
    #[arg(long, value_name = "PID", num_args = 0..=1)]
    pub observe: Option<Option<u32>>,
    /// One JSON object instead of words
    #[arg(long)]
    pub json: bool,
}

/// The wire version of agent `index`.
pub fn version_of(wire: &str, index: u32) -> &str {
    match wire {
        "mixed" if index.is_multiple_of(2) => "0.1",
        "mixed" => "0.2",
        one => one,
    }
}

/// The version of a word.
pub fn wire_version(word: &str) -> Version {
    if word == "0.1" { Version::V01 } else { Version::V02 }
}
