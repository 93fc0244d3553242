//! The commands; what they do is the library's.

use std::process::ExitCode;

use chatbot_ui_api::cli;
use clap::{Parser, Subcommand};

/// The /api routes of chatbot-ui as one small server.
///
/// Settings come from .env, .env.local and the environment, in rising order
/// of rank; see the README for each.
#[derive(Parser)]
#[command(
    version,
    after_help = "Examples:\n  chatbot-ui-api demo              try it, with nothing to set up\n  chatbot-ui-api migrate           make the tables in DATABASE_URL\n  PORT=9000 chatbot-ui-api         serve on another port"
)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Serve (the default)
    Serve {
        /// Besides, a page at / to try the server with, for the Supabase
        /// project's users
        #[arg(long)]
        playground: bool,
    },
    /// Everything on this machine: a Postgres of its own, a user, a scripted
    /// provider and the server
    Demo,
    /// Make the tables in a database that lacks them; leave chatbot-ui's own
    /// schema alone
    Migrate,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match arguments.command.unwrap_or(Command::Serve { playground: false }) {
        Command::Serve { playground } => cli::serve::run(playground),
        Command::Demo => cli::demo::run(),
        Command::Migrate => cli::migrate::run(),
    }
}
