//! The configuration from flags and environment variables; [`Layers`] interprets it.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args, FromArgMatches};
use varta_fleet::config::{ConfigError, KEYS, Layers, Origin};
use varta_fleet::plan::Plan;

/// The prefix of our environment variables.
const PREFIX: &str = "VARTA_";

/// The configuration from flags and environment variables: one of each for every settable key.
#[derive(Clone, Debug)]
pub struct ConfigArgs {
    file: Option<PathBuf>,
    written: Vec<(&'static str, String, Origin)>,
    /// Variables with our prefix that match no key.
    unknown: Vec<(String, String)>,
}

impl ConfigArgs {
    /// File, environment and flags; each overrides the one before.
    pub fn layers(&self) -> Layers {
        let mut layers = Layers::default();
        if let Some(path) = &self.file {
            layers.file(path);
        }
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
            file: matches.get_one("config").cloned(),
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
        let file = Arg::new("config")
            .long("config")
            .value_name("FILE")
            .help("Read settings from this TOML file [default: none]")
            .value_parser(clap::value_parser!(PathBuf));
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
        command.arg(file).args(keys)
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}
