//! `demo`: a small fleet of its own at work.

use crate::exit::{CliError, Exit};

/// Shows a small fleet at work.
pub fn demo() -> Result<Exit, CliError> {
    Err(CliError::new(
        Exit::Runtime,
        "cannot show the demo: this version does not observe yet; use check and route meanwhile",
    ))
}
