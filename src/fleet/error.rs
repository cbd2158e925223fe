//! Why a fleet did not start.

use std::io;

use super::inherited::InheritedError;
use super::takeover::TakeoverError;
use crate::config::ConfigError;
use crate::message::Reason;
use crate::rundir::binding::BindError;
use crate::rundir::dir::RunDirError;

/// Why a fleet did not start. Everything acquired before was released.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The configuration is refused.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The runtime directory cannot be used.
    #[error(transparent)]
    RunDir(#[from] RunDirError),
    /// A passed descriptor is refused.
    #[error(transparent)]
    Inherited(#[from] InheritedError),
    /// The observer that was to be taken over goes on.
    #[error(transparent)]
    Takeover(#[from] TakeoverError),
    /// A shard's socket cannot be bound.
    #[error("cannot start shard {shard}: {source}")]
    Bind {
        /// Index of the shard.
        shard: usize,
        /// The reason.
        source: BindError,
    },
    /// The event output cannot be opened.
    #[error(transparent)]
    Events(io::Error),
    /// The thread that acts cannot be started: the audit file cannot be opened, or the kernel grants no thread.
    #[error("cannot start the thread that acts: {}", Reason(.0))]
    Act(io::Error),
    /// The control socket cannot be bound.
    #[error(transparent)]
    Control(BindError),
    /// HTTP requests cannot be answered as configured.
    #[cfg(feature = "http")]
    #[error(transparent)]
    Http(#[from] crate::http::HttpError),
    /// This build has no HTTP.
    #[error(
        "cannot serve http on {address}: this build has no http; build it with the feature `http`, or leave it out"
    )]
    NoHttp {
        /// The configured address.
        address: std::net::SocketAddr,
    },
    /// The kernel grants no memory, descriptor or thread.
    #[error(
        "cannot {what}: {}; lower agents-max or shards, or raise the limits of this process",
        Reason(source)
    )]
    Resources {
        /// What was requested.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl StartError {
    /// The kernel refused `what`.
    pub(super) fn resources(what: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::Resources { what, source }
    }

    /// The kind of the failure: `AddrInUse` if another observer runs, `PermissionDenied`, `InvalidInput` for
    /// the configuration, others at run time.
    #[must_use]
    pub fn kind(&self) -> io::ErrorKind {
        match self {
            Self::Config(_) | Self::Inherited(_) => io::ErrorKind::InvalidInput,
            Self::RunDir(error) => error.kind(),
            Self::Takeover(error) => error.kind(),
            Self::Bind { source, .. } => source.kind(),
            Self::Events(error) | Self::Act(error) => error.kind(),
            Self::Control(error) => error.kind(),
            #[cfg(feature = "http")]
            Self::Http(error) => error.kind(),
            Self::NoHttp { .. } => io::ErrorKind::InvalidInput,
            Self::Resources { source, .. } => source.kind(),
        }
    }
}
