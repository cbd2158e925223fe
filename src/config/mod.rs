//! What the operator wrote: kebab-case keys, a unit on every duration, unknown keys refused.
//!
//! [`Layers`] combines a file, the environment and flags into a [`Config`]; a program can also build one
//! from [`Config::default`] and its public fields. [`Config::plan`] turns it into what will run.

pub(crate) mod act;
mod actions;
pub(crate) mod bounds;
mod checks;
pub(crate) mod classes;
mod document;
mod keys;
mod layers;
pub(crate) mod live;
pub(crate) mod placeholder;
pub(crate) mod plan;
mod problem;
pub(crate) mod sizing;
mod tables;
mod triggers;
pub(crate) mod trust;
pub(crate) mod validate;
mod values;

pub use act::{ActionMatch, Trigger, UnitVerb};
pub use document::example;
pub use keys::{Config, KEYS, Key, TABLES};
pub use layers::Layers;
pub use live::{KeyChange, KeySet};
pub use problem::{ConfigError, ConfigProblem, Origin, ProblemKind};
pub use tables::{
    ActionConfig, BrakeConfig, HttpConfig, MetricsConfig, NotifyConfig, PhaseConfig, ProgressOf, RetryConfig,
    RuleConfig, RuleMatch, ShardConfig, ShareConfig, StartsConfig,
};
pub use values::{CoreChoice, EventsFormat, LogFormat, Output, read_duration, written};
