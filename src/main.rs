//! The command line; the commands are implemented in the library.

use std::process::ExitCode;

use chatbot_ui_api::{cli, demo};
use clap::{CommandFactory, Parser, Subcommand};

/// The /api routes of chatbot-ui as one small server.
///
/// Settings come from .env, .env.local and the environment; later ones override. See the README for the list.
#[derive(Parser)]
#[command(
    version,
    after_help = "Examples:\n  chatbot-ui-api demo              try it, with nothing to set up\n  chatbot-ui-api check             check the settings\n  chatbot-ui-api migrate           create the tables in DATABASE_URL\n  PORT=9000 chatbot-ui-api         serve on another port"
)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Run the server (the default)
    #[command(
        after_help = "Examples:\n  chatbot-ui-api serve                       with .env and .env.local of this folder\n  HOST=0.0.0.0 chatbot-ui-api serve          reachable from other machines\n  chatbot-ui-api serve --playground          with a page at / to try it\n  LOG_FORMAT=json RUST_LOG=debug chatbot-ui-api serve"
    )]
    Serve {
        /// Also serve a page at / to try the server with, for the Supabase project's users
        #[arg(long)]
        playground: bool,
    },
    /// Run everything on this machine: a private Postgres, a user, a scripted provider and the server
    #[command(
        after_help = "Examples:\n  chatbot-ui-api demo\n  PORT=8001 chatbot-ui-api demo              a second one"
    )]
    Demo,
    /// Create the tables in a database that lacks them; leaves chatbot-ui's own schema unchanged
    #[command(
        after_help = "Examples:\n  chatbot-ui-api migrate                     in the local Supabase stack's database\n  DATABASE_URL=postgresql://me:secret@db/app chatbot-ui-api migrate\n  chatbot-ui-api migrate --usage             the ledger and the budgets, in a schema of their own"
    )]
    Migrate {
        /// Create the ledger's schema instead, in which usage is counted and budgets are kept
        #[arg(long)]
        usage: bool,
    },
    /// Check the configuration: one line for each finding and what to do about it; exit status 1 if something required
    /// fails
    #[command(
        after_help = "Examples:\n  chatbot-ui-api check                       before the first start\n  chatbot-ui-api check | grep -v '^ok'       only what needs attention\n  chatbot-ui-api check --json | jq .failed   for a script"
    )]
    Check {
        /// Print one JSON object instead of lines
        #[arg(long)]
        json: bool,
    },
    /// Print the model that is called for each of chatbot-ui's picker, the reason, its end and its price
    #[command(
        args_conflicts_with_subcommands = true,
        after_help = "Examples:\n  chatbot-ui-api models                      by the catalogue and MODEL_ALIASES\n  chatbot-ui-api models --ask                and whether the providers list them\n  chatbot-ui-api models sync                 put those of MODELS into every user's picker"
    )]
    Models {
        /// Check each provider's list of models, with the server's own keys
        #[arg(long)]
        ask: bool,
        #[command(subcommand)]
        action: Option<ModelsAction>,
    },
    /// Create a session for a user of a local database: a token, a cookie and a curl line
    #[command(
        after_help = "Examples:\n  chatbot-ui-api token --user demo@example.com\n  chatbot-ui-api token --user demo@example.com --json | jq -r .token"
    )]
    Token {
        /// The user's e-mail address
        #[arg(long, value_name = "EMAIL")]
        user: String,
        /// Print one JSON object instead of text
        #[arg(long)]
        json: bool,
    },
    /// Print what was used, and what it cost by the catalogue's prices
    #[command(
        after_help = "Examples:\n  chatbot-ui-api usage                       everybody, by day\n  chatbot-ui-api usage --by user             who spent what\n  chatbot-ui-api usage --user demo@example.com --by model --csv > usage.csv"
    )]
    Usage {
        /// Only this user, by the e-mail address or the id
        #[arg(long, value_name = "EMAIL")]
        user: Option<String>,
        /// The groups of the rows
        #[arg(long, value_enum, default_value_t = cli::usage::By::Day)]
        by: cli::usage::By,
        /// Print a list of JSON objects
        #[arg(long, conflicts_with = "csv")]
        json: bool,
        /// Print CSV
        #[arg(long)]
        csv: bool,
    },
    /// Test if a server with these settings answers on this machine: exit status 0 if it does, for container health
    /// checks
    #[command(
        after_help = "Examples:\n  chatbot-ui-api health                      the process serves (/healthz)\n  chatbot-ui-api health --ready              the database answers too (/readyz)"
    )]
    Health {
        /// Request /readyz instead of /healthz
        #[arg(long)]
        ready: bool,
    },
    /// Print a completion script for a shell
    #[command(
        after_help = "Examples:\n  chatbot-ui-api completions bash > ~/.local/share/bash-completion/completions/chatbot-ui-api\n  chatbot-ui-api completions zsh > ~/.zfunc/_chatbot-ui-api\n  chatbot-ui-api completions fish > ~/.config/fish/completions/chatbot-ui-api.fish"
    )]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    #[command(
        after_help = "Examples:\n  chatbot-ui-api man | man -l -\n  chatbot-ui-api man > /usr/local/share/man/man1/chatbot-ui-api.1"
    )]
    Man,
    /// Print the OpenAPI document of all routes
    #[command(after_help = "Examples:\n  chatbot-ui-api openapi | jq '.paths | keys'")]
    Openapi,
}

#[derive(Subcommand)]
enum ModelsAction {
    /// Put the models of MODELS and MODELS_FILE into every user's picker, by rows of `models` that hold no key, and take
    /// those away that are not in them any more
    #[command(
        after_help = "Examples:\n  MODELS=openai:gpt-6.1-sol,anthropic:claude-opus-5-5 chatbot-ui-api models sync\n  chatbot-ui-api models sync --dry-run       only print what would change\n  chatbot-ui-api models sync --remove        take them all away"
    )]
    Sync {
        /// Change nothing
        #[arg(long)]
        dry_run: bool,
        /// Take all models away that this command put there
        #[arg(long)]
        remove: bool,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match arguments.command.unwrap_or(Command::Serve { playground: false }) {
        Command::Serve { playground } => cli::serve::run(playground),
        Command::Demo => demo::run(),
        Command::Migrate { usage } => cli::migrate::run(usage),
        Command::Check { json } => cli::check::run(json),
        Command::Models { action: Some(ModelsAction::Sync { dry_run, remove }), .. } => {
            cli::models::sync::run(dry_run, remove)
        }
        Command::Models { ask, action: None } => cli::models::run(ask),
        Command::Token { user, json } => cli::token::run(&user, json),
        Command::Usage { user, by, json, csv } => {
            let form = match (json, csv) {
                (true, _) => cli::usage::Form::Json,
                (_, true) => cli::usage::Form::Csv,
                _ => cli::usage::Form::Table,
            };
            cli::usage::run(user.as_deref(), by, form)
        }
        Command::Health { ready } => cli::health::run(ready),
        Command::Completions { shell } => cli::help::completions(shell, &mut Arguments::command()),
        Command::Man => cli::help::manual(Arguments::command()),
        Command::Openapi => cli::openapi::run(),
    }
}
