//! `check`: one line for each finding about this configuration, and what to do about it. Nothing is changed, no line
//! holds a secret, and every check that can run does so, whatever failed before.

mod database;
mod front_end;
mod models;
mod project;
mod settings;
mod supabase;
mod usage;

use std::{
    fmt,
    io::{self, IsTerminal},
    process::ExitCode,
    time::Duration,
};

use serde::Serialize;
use serde_json::json;

use super::progress;
use crate::{
    config::{self, Config, Variables},
    http_client::{ClientFactory, causes, ssrf_guard},
};

/// Timeout of one request to another server.
const LIMIT: Duration = Duration::from_secs(5);

/// The result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Ok,
    /// Works, with the restriction that the line names.
    Warn,
    /// Something required does not work, or something is exposed.
    Fail,
}

/// One line of the output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Line {
    level: Level,
    what: String,
    /// The remedy.
    todo: Option<String>,
}

fn ok(what: impl Into<String>) -> Line {
    Line { level: Level::Ok, what: what.into(), todo: None }
}

fn warn(what: impl Into<String>, todo: impl Into<String>) -> Line {
    Line { level: Level::Warn, what: what.into(), todo: Some(todo.into()) }
}

fn fail(what: impl Into<String>, todo: impl Into<String>) -> Line {
    Line { level: Level::Fail, what: what.into(), todo: Some(todo.into()) }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Ok => "ok  ",
            Level::Warn => "warn",
            Level::Fail => "FAIL",
        };
        // An error message from a server may have more than one line.
        let what = self.what.replace(['\n', '\r'], " ");
        match &self.todo {
            None => write!(f, "{level} {what}"),
            Some(todo) => write!(f, "{level} {what} → {todo}"),
        }
    }
}

/// Runs the command; `as_json` prints one JSON object. Exit status 0 if nothing required fails, else 1.
pub fn run(as_json: bool) -> ExitCode {
    super::run(async {
        let lines = match config::variables() {
            Ok(variables) => {
                progress::during("Checking the configuration", String::new, Box::pin(all_lines(&variables))).await
            }
            Err(problem) => vec![fail(format!("settings: {problem}"), "then run check again")],
        };
        let failed = lines.iter().filter(|line| line.level == Level::Fail).count();
        if as_json {
            super::say(&json!({ "failed": failed, "checks": lines }).to_string());
        } else {
            let colours = super::colours(std::io::stdout().is_terminal());
            for line in &lines {
                super::say(&coloured(line, colours));
            }
        }
        match failed {
            0 => Ok(()),
            1 => Err("1 check failed".to_owned()),
            _ => Err(format!("{failed} checks failed")),
        }
    })
}

fn coloured(line: &Line, colours: bool) -> String {
    let text = line.to_string();
    let colour = match line.level {
        Level::Ok => "32",
        Level::Warn => "33",
        Level::Fail => "1;31",
    };
    match text.split_at_checked(4) {
        Some((level, rest)) if colours => format!("\x1b[{colour}m{level}\x1b[0m{rest}"),
        _ => text,
    }
}

async fn all_lines(variables: &Variables) -> Vec<Line> {
    let (config, wrong) = settings::read(variables);
    let mut lines = settings::files(variables);
    lines.extend(settings::process_variables(variables, |name| {
        [name, &name.to_lowercase()].iter().any(|name| std::env::var_os(name).is_some())
    }));
    lines.extend(settings::problems(&wrong));
    lines.extend(settings::misplaced(variables));
    lines.extend(settings::defaults(variables));
    let Some(config) = config else { return lines };
    let is_usable = |prefixes: &[&str]| !wrong.iter().any(|it| prefixes.iter().any(|p| it.variable().starts_with(p)));
    let project = is_usable(&["SUPABASE_", "NEXT_PUBLIC_SUPABASE_", "SESSION_"]);
    let database = is_usable(&["DATABASE_"]);

    lines.extend(settings::exposure(&config));
    let names = Names::of(variables);
    let mut known_as_wrong = Vec::new();
    if project {
        let more = by_settings_alone(variables, &config);
        // What is wrong by itself is not requested with, which would only say the same in other words.
        let is_wrong = |name: &&str| more.iter().any(|it| it.level == Level::Fail && it.what.starts_with(*name));
        known_as_wrong = [names.url, names.public_key, SERVICE_KEY].into_iter().filter(is_wrong).collect();
        lines.extend(more);
    }
    let requests_project = project && !known_as_wrong.contains(&names.url);
    // The slow checks run concurrently.
    let (of_database, of_project, of_model, of_front_end, of_port) = tokio::join!(
        async { if database { database::lines(&config, names.database_is_set).await } else { Vec::new() } },
        async { if requests_project { of_project(&config, &names, &known_as_wrong).await } else { Vec::new() } },
        settings::embeddings(&config),
        front_end::line(&config),
        settings::port(&config),
    );
    lines.extend(of_database);
    lines.extend(of_project);
    lines.extend(of_front_end);
    lines.extend(of_port);
    lines.extend(of_model);
    lines.extend(settings::provider_keys(&config));
    lines
}

const SERVICE_KEY: &str = "SUPABASE_SERVICE_ROLE_KEY";

/// The variables that were read where more than one has the same meaning.
struct Names {
    /// `SUPABASE_URL` or `NEXT_PUBLIC_SUPABASE_URL`.
    url: &'static str,
    /// `SUPABASE_ANON_KEY` or `NEXT_PUBLIC_SUPABASE_ANON_KEY`.
    public_key: &'static str,
    database_is_set: bool,
}

impl Names {
    fn of(variables: &Variables) -> Self {
        let is_set = |name: &str| variables.get(name).is_some_and(|value| !value.trim().is_empty());
        let first = |own: &'static str, theirs| if !is_set(own) && is_set(theirs) { theirs } else { own };
        Self {
            url: first("SUPABASE_URL", "NEXT_PUBLIC_SUPABASE_URL"),
            public_key: first("SUPABASE_ANON_KEY", "NEXT_PUBLIC_SUPABASE_ANON_KEY"),
            database_is_set: is_set("DATABASE_URL"),
        }
    }
}

/// Returns a sentence for each mistake in the settings that shows without a connection; the server logs them when it
/// starts.
pub fn mistakes(variables: &Variables, config: &Config) -> Vec<String> {
    let failed = by_settings_alone(variables, config).into_iter().filter(|line| line.level == Level::Fail);
    let all = settings::misplaced(variables).into_iter().chain(failed);
    all.map(|Line { what, todo, .. }| format!("{what} → {}", todo.unwrap_or_default())).collect()
}

fn by_settings_alone(variables: &Variables, config: &Config) -> Vec<Line> {
    let mut lines = project::address(variables, config);
    lines.extend(project::keys(variables, config, jsonwebtoken::get_current_timestamp()));
    lines
}

async fn of_project(config: &Config, names: &Names, known_as_wrong: &[&str]) -> Vec<Line> {
    let use_proxy = !config.base_urls.all_on_this_machine();
    let factory = ClientFactory::new(config.http_client.clone(), use_proxy, ssrf_guard::system_lookup);
    match factory.and_then(|factory| factory.trusted().map_err(io::Error::other)) {
        Ok(client) => supabase::lines(&client, config, names, known_as_wrong).await,
        Err(error) => vec![fail(
            format!("TLS cannot be set up: {}", causes(&error)),
            "install the system's certificates (Debian: apt install ca-certificates)",
        )],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_line_and_says_what_to_do() {
        assert_eq!(ok("all is well").to_string(), "ok   all is well");
        assert_eq!(warn("two\nlines", "look").to_string(), "warn two lines → look");
        assert_eq!(fail("broken", "fix it").to_string(), "FAIL broken → fix it");
    }

    #[test]
    fn colours_are_around_the_first_word_only() {
        assert_eq!(coloured(&ok("x"), false), "ok   x");
        assert_eq!(coloured(&fail("x", "y"), true), "\x1b[1;31mFAIL\x1b[0m x → y");
    }
}
