//! `completions`: made from the definitions of the flags.

use std::io::{self, Write};

use clap_complete::Shell;

use crate::exit::{CliError, Exit};

/// Arguments of `completions`.
#[derive(clap::Args, Debug)]
pub struct CompletionsArgs {
    /// For which shell
    shell: Shell,
}

/// Prints the completion script.
pub fn completions(args: &CompletionsArgs, mut command: clap::Command) -> Result<Exit, CliError> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut command, "varta-fleet", &mut text);
    io::stdout().lock().write_all(&text)?;
    Ok(Exit::Clean)
}
