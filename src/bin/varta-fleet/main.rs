//! The command line of varta-fleet: parse, load, call one function per command, map to an exit code.

mod access;
mod act;
mod accounts;
mod agents;
mod check;
mod cli;
mod client;
mod clock;
mod completions;
mod config;
mod demo;
mod events;
mod exec;
mod exit;
mod explain;
mod load;
mod log;
mod man;
mod reload;
mod route;
mod run;
mod service;
mod spawner;
mod status;
mod stderr;
mod top;
mod words;

use std::env;
use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;

use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches};
use signal_hook::consts::SIGXFSZ;
use signal_hook::flag;

use cli::{Cli, Command};
use exit::{CliError, Exit};

fn main() -> ExitCode {
    // Without this, a file at its size limit (RLIMIT_FSIZE) would kill the process instead of failing like a
    // full disk. A failure of the call is ignored.
    let _ = flag::register(SIGXFSZ, Arc::default());
    let read = |words: Vec<OsString>| {
        cli::command().try_get_matches_from(words).and_then(|matches| Cli::from_arg_matches(&matches))
    };
    let mut cli = read(env::args_os().collect());
    if let Ok(Cli { command: Command::Help(args) }) = &cli {
        let words = [Some("varta-fleet".to_owned()), args.command.clone(), Some("--help".to_owned())];
        cli = read(words.into_iter().flatten().map(OsString::from).collect());
    }
    let outcome = match cli {
        Ok(cli) => execute(cli.command),
        Err(help)
            if !help.use_stderr() || help.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand =>
        {
            // Ignored: the reader may have hung up.
            let _ = help.print();
            return if help.use_stderr() { Exit::Usage.into() } else { Exit::Clean.into() };
        }
        Err(usage) => Err(exit::usage(&usage, cli::named_command().as_deref())),
    };
    let code = match outcome {
        Ok(exit) => exit.into(),
        Err(error) if error.is_broken_pipe() => Exit::Clean.into(),
        Err(error) => {
            stderr::error(&error.to_string());
            error.exit().into()
        }
    };
    stderr::flush();
    code
}

fn execute(command: Command) -> Result<Exit, CliError> {
    match command {
        Command::Run(args) => run::run(&args.config, args.options),
        Command::Demo => demo::demo(),
        Command::DemoAgent(args) => demo::agent(&args),
        Command::Load(args) => load::load(&args),
        Command::LoadAgent(args) => load::agent(&args),
        Command::Act(args) => act::act(&args),
        Command::Reload(args) => reload::reload(&args),
        Command::Config(args) => config::config(&args),
        Command::Check(args) => check::check(&args),
        Command::Route(args) => route::route(&args),
        Command::Exec(args) => exec::exec(&args),
        Command::Beat(args) => exec::beat(&args),
        Command::Status(args) => status::status(&args),
        Command::Top(args) => top::top(&args),
        Command::Agents(args) => agents::agents(&args),
        Command::Explain(args) => explain::explain(&args),
        Command::Events(args) => events::events(&args),
        // Replaced by the help that it asks for.
        Command::Help(_) => Ok(Exit::Clean),
        Command::Spawner(args) => spawner::spawner(&args),
        Command::ActionNames(args) => completions::action_names(&args),
        Command::Pids(args) => completions::pids(&args),
        Command::Completions(args) => completions::completions(&args, &Cli::command()),
        Command::Man(args) => man::man(&args, Cli::command()),
    }
}
