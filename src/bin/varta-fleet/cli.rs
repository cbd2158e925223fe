//! The command line. Parsing has no effects.

use clap::{Arg, CommandFactory, Parser, Subcommand};

use crate::exit::EXIT_CODES;

const EXAMPLES: &str = "\
Examples:
  varta-fleet check                    what stands in the way of a good start, and what to type
  varta-fleet run                      observe; every setting has a default
  varta-fleet run --threshold 500ms --events - | jq .
  varta-fleet route --pid 4711         the socket that process sends to
  varta-fleet help run                 what a command takes, with examples";

const RUN_EXAMPLES: &str = "\
Examples:
  varta-fleet run --config varta.toml
  varta-fleet run --dir /tmp/varta --shards 2 --threshold 500ms --events -
  VARTA_THRESHOLD=5s varta-fleet run --print-ready

Each setting is taken from its flag, else its environment variable, else the file, else the default. An empty
variable counts as unset; `none` switches off what the file switched on (--events none). For no file at all:
--config /dev/null.
Durations are written 500ms, 2s or 1m30s.";

const RELOAD_NOTES: &str = "\
The observer reads the same file again; its flags and environment stay those of its start. All of it is checked
first: if anything cannot be used, nothing changes, and every problem is printed (exit code 78). What is marked
live in the help of run changes at once; the rest is named, and needs a restart. Only root and the user of the
observer may do this.";

const CHECK_EXAMPLES: &str = "\
Examples:
  varta-fleet check --config varta.toml
  varta-fleet check --agents-max 20000 --shards 4     would this host carry that fleet?
  varta-fleet check --agents-max 1000000 --rate 1     what would a fleet of that size need?

A problem keeps the fleet from working as configured: exit code 78. A note does not.
Run it as the user, and with the limits, that the observer will have.";

const CONFIG_EXAMPLES: &str = "\
Examples:
  varta-fleet config                        what `run` would do, and who said so
  varta-fleet config --default              every key, its meaning and its default
  varta-fleet config --threshold 5s > varta.toml

Takes what `run` takes. What it prints makes the same fleet if `run` reads it.";

const LOAD_EXAMPLES: &str = "\
Examples:
  varta-fleet load --agents 4000 --rate 45000 --observe
  varta-fleet load --socket /run/other.sock --wire 0.1 --for 30s --json
  varta-fleet load --flat-out --agents 8

Run it where the observer runs, on a machine that is otherwise idle. Latencies count from the instant at which
a beat was due, so the wait of one beat shows in all beats behind it.";

const AGENTS_EXAMPLES: &str = "\
Examples:
  varta-fleet agents --state stalled
  varta-fleet agents --sort lost --limit 20
  varta-fleet agents --comm 'worker-*' --json | jq .pid";

const EVENTS_EXAMPLES: &str = "\
Examples:
  varta-fleet events                          all that are kept, 65536 at most
  varta-fleet events --since 10m --kind stall,exit --unit 'worker@*'
  varta-fleet events --since 14:00 --until 14:30 --format words
  varta-fleet events --follow --kind stall,resume,exit
  varta-fleet events --follow --after 0 --pid 4711";

const ACT_EXAMPLES: &str = "\
Examples:
  varta-fleet act list
  varta-fleet act hold 4711 --for 15m --why 'a core dump is written'
  varta-fleet act hold --unit 'worker@*' --for 1h
  varta-fleet act unhold 4711
  varta-fleet act brake release
  varta-fleet act now 4711 restart-worker";

const ACT_NOTES: &str = "\
All but list change something: only root, the user of the observer and those in control-writers may do that. Each is a
line in the audit file.";

const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  varta-fleet completions bash > /etc/bash_completion.d/varta-fleet
  varta-fleet completions fish > ~/.config/fish/completions/varta-fleet.fish";

const MAN_EXAMPLES: &str = "\
Examples:
  varta-fleet man --dir /usr/local/share/man     then: man varta-fleet.toml
  varta-fleet man | man -l -";

const ROUTE_EXAMPLES: &str = "\
Examples:
  varta-fleet route                    for the calling process
  varta-fleet route --pid $$           for a shell script itself
  varta-fleet route --dir /tmp/varta --pid 4711";

const EXEC_EXAMPLES: &str = "\
Examples:
  varta-fleet exec -- backup --all                    told: how it ends
  varta-fleet exec --threshold 30s -- my-daemon       and whether it is silent for so long
  varta-fleet exec --name worker-7 --dir /tmp/varta -- ./worker 7";

const EXEC_NOTES: &str = "\
The program takes the place of this process: it has its pid, and whoever started it sees how it ends. It needs an
observer with [notify] in its configuration, and gets NOTIFY_SOCKET, VARTA_DIR and, with --threshold, WATCHDOG_USEC
and WATCHDOG_PID. With --threshold the program must beat, by WATCHDOG=1 of sd_notify(3): one that does not is stalled
after that time. Without it only its end is told, until it beats by itself.
If the observer does not take the messages within two seconds, the program is started all the same.";

const BEAT_EXAMPLES: &str = "\
Examples:
  varta-fleet beat                                    for the shell that calls it
  varta-fleet beat --name nightly --status 'part 3 of 7'
  varta-fleet beat --pid 4711";

const BEAT_NOTES: &str = "\
The process gets no threshold by that: start it by `varta-fleet exec --threshold`, or give it one by a rule. Only root
may send for another process; in most containers root may not either.";

/// Knows, for every process of a very large fleet on one Linux host, whether it is alive.
#[derive(Debug, Parser)]
#[command(name = "varta-fleet", version, arg_required_else_help = true, disable_help_subcommand = true)]
#[command(after_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"))]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// One variant per command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Observe the fleet until told to stop
    #[command(after_help = format!("{RUN_EXAMPLES}\n\n{EXIT_CODES}"))]
    Run(crate::run::RunArgs),
    /// Show a small fleet at work: beats, a stall, a crash, an exit
    #[command(after_help = EXIT_CODES)]
    Demo,
    /// One agent of the demo
    #[command(hide = true)]
    DemoAgent(crate::demo::DemoAgentArgs),
    /// Show the state of a fleet on one screen; exit code 1 if it is not healthy
    #[command(after_help = EXIT_CODES)]
    Status(crate::status::StatusArgs),
    /// Watch a fleet live: shards, worst agents, events
    #[command(after_help = EXIT_CODES)]
    Top(crate::top::TopArgs),
    /// List the tracked agents
    #[command(after_help = format!("{AGENTS_EXAMPLES}\n\n{EXIT_CODES}"))]
    Agents(crate::agents::AgentsArgs),
    /// Explain in plain words why an agent is judged as it is
    #[command(after_help = EXIT_CODES)]
    Explain(crate::explain::ExplainArgs),
    /// Show past events and follow new ones
    #[command(after_help = format!("{EVENTS_EXAMPLES}\n\n{EXIT_CODES}"))]
    Events(crate::events::EventsArgs),
    /// Show what is done about stalls and exits, and hold, brake or start it by hand
    #[command(after_help = format!("{ACT_EXAMPLES}\n\n{ACT_NOTES}\n\n{EXIT_CODES}"))]
    Act(crate::act::ActArgs),
    /// Have a running observer read its configuration again, and print what changed
    #[command(after_help = format!("{RELOAD_NOTES}\n\n{EXIT_CODES}"))]
    Reload(crate::reload::ReloadArgs),
    /// Check configuration, kernel limits and permissions; print every problem and its fix
    #[command(after_help = format!("{CHECK_EXAMPLES}\n\n{EXIT_CODES}"))]
    Check(crate::check::CheckArgs),
    /// Print the configuration in effect as TOML, with the origin of each line
    #[command(after_help = format!("{CONFIG_EXAMPLES}\n\n{EXIT_CODES}"))]
    Config(crate::config::ShowArgs),
    /// Beat as a fleet does and report what became of the beats: a load generator for this and other observers
    #[command(after_help = format!("{LOAD_EXAMPLES}\n\n{EXIT_CODES}"))]
    Load(crate::load::LoadArgs),
    /// One agent of the load
    #[command(hide = true)]
    LoadAgent(crate::load::LoadAgentArgs),
    /// Print the path of the socket that a process sends its beats to
    #[command(after_help = format!("{ROUTE_EXAMPLES}\n\n{EXIT_CODES}"))]
    Route(crate::route::RouteArgs),
    /// Start a program that is observed from then on, in place of this process
    #[command(after_help = format!("{EXEC_EXAMPLES}\n\n{EXEC_NOTES}\n\n{EXIT_CODES}"))]
    Exec(crate::exec::ExecArgs),
    /// Send one beat from a script, for the script
    #[command(after_help = format!("{BEAT_EXAMPLES}\n\n{BEAT_NOTES}\n\n{EXIT_CODES}"))]
    Beat(crate::exec::BeatArgs),
    /// Show the help of a command
    #[command(hide = true)]
    Help(HelpArgs),
    /// Start the children of actions, as an observer orders
    #[command(hide = true)]
    Spawner(crate::spawner::SpawnerArgs),
    /// Names of actions, for completions
    #[command(hide = true)]
    ActionNames(crate::completions::ActionNamesArgs),
    /// Pids of agents, for completions
    #[command(hide = true)]
    Pids(crate::completions::PidsArgs),
    /// Print completions for a shell
    #[command(after_help = COMPLETIONS_EXAMPLES)]
    Completions(crate::completions::CompletionsArgs),
    /// Print the manual page, or write all manual pages
    #[command(after_help = MAN_EXAMPLES)]
    Man(crate::man::ManArgs),
}

/// Arguments of `help`.
#[derive(Debug, clap::Args)]
pub struct HelpArgs {
    /// Of which command
    pub command: Option<String>,
}

/// Whether the help lists this command.
pub fn is_command(word: &str) -> bool {
    Cli::command().find_subcommand(word).is_some_and(|command| !command.is_hide_set())
}

/// The command that the command line names, as far as that can be told if it cannot be parsed.
pub fn named_command() -> Option<String> {
    std::env::args_os().nth(1)?.into_string().ok().filter(|word| is_command(word))
}

/// The command line to parse; an empty variable counts as not set.
pub fn command() -> clap::Command {
    without_empty_variables(Cli::command())
}

fn without_empty_variables(command: clap::Command) -> clap::Command {
    let unset = |arg: Arg| {
        let is_empty =
            arg.get_env().is_some_and(|name| std::env::var_os(name).is_some_and(|value| value.is_empty()));
        if is_empty { arg.env(None::<&'static str>) } else { arg }
    };
    command.mut_args(unset).mut_subcommands(without_empty_variables)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
