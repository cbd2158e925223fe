//! The configuration from the file, environment variables and flags, which [`Layers`] interprets; and `config`,
//! which prints it.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args, FromArgMatches};
use varta_fleet::config::{ConfigError, KEYS, Layers, Origin, example};
use varta_fleet::plan::Plan;

use crate::exit::{CliError, Exit};

/// The file that is read if none is named.
const FILE: &str = "/etc/varta-fleet.toml";

/// The prefix of our environment variables.
const PREFIX: &str = "VARTA_";

/// The configuration from flags and environment variables: one of each for every settable key.
#[derive(Clone, Debug)]
pub struct ConfigArgs {
    file: FileArgs,
    written: Vec<(&'static str, String, Origin)>,
    /// Variables with our prefix that match no key.
    unknown: Vec<(String, String)>,
}

/// Arguments of `config`.
#[derive(clap::Args, Debug)]
pub struct ShowArgs {
    /// What to print.
    #[command(flatten)]
    config: ConfigArgs,
    /// Print a file with every key, its meaning and its default instead, in which nothing is set
    #[arg(long = "default")]
    is_default: bool,
}

/// Prints the configuration in effect, or the example.
pub fn config(args: &ShowArgs) -> Result<Exit, CliError> {
    let text = if args.is_default { example() } else { args.config.layers().effective()? };
    io::stdout().lock().write_all(text.as_bytes())?;
    Ok(Exit::Clean)
}

/// Which file to read.
#[derive(clap::Args, Clone, Debug)]
pub struct FileArgs {
    /// Read settings from this TOML file [default: /etc/varta-fleet.toml if it is there]
    #[arg(long = "config", value_name = "FILE", env = "VARTA_CONFIG", hide_env_values = true)]
    path: Option<PathBuf>,
}

impl FileArgs {
    /// What the file says. Only the one that nobody named may be missing.
    pub fn layers(&self) -> Layers {
        let mut layers = Layers::default();
        match &self.path {
            Some(path) => layers.file(path),
            None => layers.file_if_there(Path::new(FILE)),
        }
        layers
    }
}

impl ConfigArgs {
    /// File, environment and flags; each overrides the one before.
    pub fn layers(&self) -> Layers {
        let mut layers = self.file.layers();
        for (key, text, origin) in &self.written {
            layers.set(key, text, origin.clone());
        }
        for (name, text) in &self.unknown {
            layers.unknown_variable(name, text);
        }
        layers
    }

    /// The resulting plan.
    pub fn plan(&self) -> Result<Plan, ConfigError> {
        self.layers().plan()
    }
}

impl FromArgMatches for ConfigArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let written = KEYS.iter().filter(|key| key.is_settable()).filter_map(|key| {
            let text = matches.get_one::<String>(key.name)?;
            let origin = match matches.value_source(key.name)? {
                ValueSource::EnvVariable => Origin::Environment,
                _ => Origin::Flag,
            };
            Some((key.name, text.clone(), origin))
        });
        let text = |text: OsString| text.to_string_lossy().into_owned();
        let unknown = std::env::vars_os()
            .filter(|(_, value)| !value.is_empty())
            .map(|(name, value)| (text(name), text(value)))
            .filter(|(name, _)| name.starts_with(PREFIX) && !KEYS.iter().any(|key| key.variable == name));
        Ok(Self {
            file: FileArgs::from_arg_matches(matches)?,
            written: written.collect(),
            unknown: unknown.collect(),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for ConfigArgs {
    fn augment_args(command: clap::Command) -> clap::Command {
        let keys = KEYS.iter().filter(|key| key.is_settable()).map(|key| {
            let arg = Arg::new(key.name)
                .long(key.name)
                .value_name(key.value_name)
                .help(key.help_with_default())
                .env(key.variable)
                .hide_env_values(true)
                .allow_negative_numbers(true)
                .action(ArgAction::Set);
            if key.value_name == "BOOL" {
                arg.num_args(0..=1).require_equals(true).default_missing_value("true")
            } else {
                arg
            }
        });
        FileArgs::augment_args(command).args(keys)
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}
