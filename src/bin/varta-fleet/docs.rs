//! `completions` and `man`: made of the same definitions as the flags.

use std::io::{self, Write};

use clap::CommandFactory;
use clap_complete::Shell;

use crate::args::Cli;
use crate::exit::{CliError, Exit};

/// Arguments of `completions`.
#[derive(clap::Args, Debug)]
pub struct CompletionsArgs {
    /// For which shell
    shell: Shell,
}

/// Prints what the shell reads.
pub fn completions(args: &CompletionsArgs) -> Result<Exit, CliError> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "varta-fleet", &mut text);
    io::stdout().lock().write_all(&text)?;
    Ok(Exit::Clean)
}

/// Prints the manual: one page with every command.
pub fn man() -> Result<Exit, CliError> {
    let mut text = Vec::new();
    let mut all = Cli::command();
    all.build();
    let page = clap_mangen::Man::new(all.clone());
    page.render_title(&mut text)?;
    page.render_name_section(&mut text)?;
    page.render_synopsis_section(&mut text)?;
    page.render_description_section(&mut text)?;
    for command in all.get_subcommands().filter(|command| !command.is_hide_set()) {
        writeln!(text, ".SH \"{}\"", command.get_name().to_uppercase())?;
        let page = clap_mangen::Man::new(command.clone());
        let mut section = Vec::new();
        page.render_description_section(&mut section)?;
        page.render_options_section(&mut section)?;
        page.render_extra_section(&mut section)?;
        // Its sections are parts of ours.
        text.extend(String::from_utf8_lossy(&section).replace(".SH ", ".SS ").into_bytes());
    }
    page.render_version_section(&mut text)?;
    io::stdout().lock().write_all(&text)?;
    Ok(Exit::Clean)
}
