//! Shell completions and the manual page.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::Command;
use clap_complete::Shell;

/// Prints a shell's completions for `command`.
pub fn completions(shell: Shell, command: &mut Command) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(shell, command, "chatbot-ui-api", &mut script);
    print(&script)
}

/// Prints the manual page of `command`, its subcommands on the same page.
pub fn manual(command: Command) -> ExitCode {
    match page(command) {
        Ok(page) => print(&page),
        Err(_) => ExitCode::FAILURE,
    }
}

fn page(mut command: Command) -> io::Result<Vec<u8>> {
    command.build();
    let mut page = Vec::new();
    let manual = clap_mangen::Man::new(command.clone());
    manual.render_title(&mut page)?;
    manual.render_name_section(&mut page)?;
    manual.render_synopsis_section(&mut page)?;
    manual.render_description_section(&mut page)?;
    manual.render_options_section(&mut page)?;
    for command in command.get_subcommands().filter(|it| it.get_name() != "help") {
        let name = command.get_name().to_uppercase();
        writeln!(page, ".SH \"COMMAND {name}\"")?;
        let mut part = Vec::new();
        let manual = clap_mangen::Man::new(command.clone());
        manual.render_synopsis_section(&mut part)?;
        manual.render_description_section(&mut part)?;
        manual.render_options_section(&mut part)?;
        manual.render_extra_section(&mut part)?;
        // A subcommand's headings become subheadings.
        page.extend_from_slice(String::from_utf8_lossy(&part).replace(".SH ", ".SS ").as_bytes());
    }
    manual.render_extra_section(&mut page)?;
    manual.render_version_section(&mut page)?;
    Ok(page)
}

/// Prints to standard output. A reader that stops early (`| head`) is not an error.
pub(super) fn print(bytes: &[u8]) -> ExitCode {
    let mut out = io::stdout().lock();
    let _ = out.write_all(bytes).and_then(|()| out.flush());
    ExitCode::SUCCESS
}
