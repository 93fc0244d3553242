//! The names of all settings, and names in files and in the environment that look like one of them.

use super::Variables;

/// Every variable that this server reads, but OpenTelemetry's.
pub const NAMES: [&str; 81] = [
    "ALL_PROXY",
    "ANONYMOUS_USERS",
    "ANSWER_NOTES",
    "ANSWER_SOURCES",
    "ANTHROPIC_API_KEY",
    "ANTHROPIC_BASE_URL",
    "AZURE_EMBEDDINGS_NAME",
    "AZURE_GPT_35_TURBO_NAME",
    "AZURE_GPT_45_TURBO_NAME",
    "AZURE_GPT_45_VISION_NAME",
    "AZURE_OPENAI_API_KEY",
    "AZURE_OPENAI_ENDPOINT",
    "BODY_TIMEOUT",
    "CHATBOT_UI_API_CACHE",
    "CLIENT_TIMEOUT",
    "COMMAND_MODEL",
    "CORS_ORIGINS",
    "DATABASE_MIN_CONNECTIONS",
    "DATABASE_POOLER",
    "DATABASE_POOL_SIZE",
    "DATABASE_URL",
    "FRONTEND_TIMEOUT",
    "FRONTEND_URL",
    "GOOGLE_GEMINI_API_KEY",
    "GOOGLE_GEMINI_BASE_URL",
    "GROQ_API_KEY",
    "GROQ_BASE_URL",
    "HEARTBEAT",
    "HOST",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "KEEP_ALIVE_TIMEOUT",
    "LOCAL_EMBEDDINGS_DIR",
    "LOG_FORMAT",
    "MAX_BODY_BYTES",
    "MAX_BUFFERED_BYTES",
    "MAX_FILE_BYTES",
    "MAX_PASSAGES",
    "MAX_REQUESTS",
    "MAX_STREAMS_PER_USER",
    "METRICS_ADDR",
    "MISTRAL_API_KEY",
    "MISTRAL_BASE_URL",
    "MODELS",
    "MODELS_FILE",
    "MODEL_ALIASES",
    "MODEL_FALLBACKS",
    "NEXT_PUBLIC_SUPABASE_ANON_KEY",
    "NEXT_PUBLIC_SUPABASE_URL",
    "NO_PROXY",
    "OAUTH_CLIENTS",
    "OPENAI_API_KEY",
    "OPENAI_BASE_URL",
    "OPENAI_ORGANIZATION_ID",
    "OPENROUTER_API_KEY",
    "OPENROUTER_BASE_URL",
    "PERPLEXITY_API_KEY",
    "PERPLEXITY_BASE_URL",
    "PORT",
    "POSTGRES_BIN_DIR",
    "PRIVATE_UPSTREAMS",
    "PROVIDER_CONNECT_TIMEOUT",
    "PROVIDER_IDLE_TIMEOUT",
    "PUBLISHED_KEYS",
    "RATE_LIMIT_PER_MINUTE",
    "REDIS_URL",
    "REQUIRE_AAL2",
    "RUST_LOG",
    "SESSION_CHECK",
    "SHUTDOWN_GRACE",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "SUPABASE_ANON_KEY",
    "SUPABASE_COOKIE_NAME",
    "SUPABASE_JWKS_URL",
    "SUPABASE_JWT_SECRET",
    "SUPABASE_SERVICE_ROLE_KEY",
    "SUPABASE_URL",
    "TOOL_TIMEOUT",
    "USAGE",
    "USAGE_KEEP_DAYS",
];

/// A variable that is no setting, and the setting that it looks like.
#[derive(Debug, PartialEq, Eq)]
pub struct Lookalike {
    /// The variable's name.
    pub name: String,
    /// The name that was probably meant.
    pub meant: &'static str,
}

/// Returns the variables whose names are nearly those of settings, in alphabetical order.
pub fn lookalikes(variables: &Variables) -> Vec<Lookalike> {
    let mut found: Vec<Lookalike> = variables
        .keys()
        .filter(|name| !NAMES.contains(&name.as_str()) && (6..=40).contains(&name.len()))
        .filter_map(|name| Some(Lookalike { name: name.clone(), meant: nearest(name)? }))
        .collect();
    found.sort_by(|one, other| one.name.cmp(&other.name));
    found
}

fn nearest(name: &str) -> Option<&'static str> {
    let upper = name.to_uppercase();
    NAMES
        .into_iter()
        // Short names are near to too many others; proxies are also set in lower case.
        .filter(|known| known.len() >= 8 && !known.ends_with("_PROXY"))
        .map(|known| (strsim::osa_distance(&upper, known), known))
        .filter(|(distance, known)| *distance <= if known.len() >= 12 { 2 } else { 1 })
        .min()
        .map(|(_, known)| known)
}

/// Returns the names of settings that are in another setting's value: the file's last line had no line break when the
/// next was appended to it.
pub fn glued(value: &str) -> Option<&'static str> {
    NAMES.into_iter().filter(|name| name.len() >= 8).find(|name| {
        value.match_indices(name).any(|(at, _)| value[at + name.len()..].starts_with('='))
            // `X_DATABASE_URL=` is another name.
            && !value.contains(&format!("_{name}="))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(names: &[&str]) -> Vec<(String, &'static str)> {
        let variables = names.iter().map(|name| ((*name).to_owned(), "x".to_owned())).collect();
        lookalikes(&variables).into_iter().map(|it| (it.name, it.meant)).collect()
    }

    #[test]
    fn misspelt_names_are_found_and_others_are_not() {
        for (name, meant) in [
            ("PRIVATE_UPSTREAM", "PRIVATE_UPSTREAMS"),
            ("FRONTEND_ULR", "FRONTEND_URL"),
            ("SUPABASE_JWT_SECERT", "SUPABASE_JWT_SECRET"),
            ("database_url", "DATABASE_URL"),
            ("OPEN_AI_API_KEY", "OPENAI_API_KEY"),
        ] {
            assert_eq!(named(&[name]), [(name.to_owned(), meant)]);
        }
        let others = [
            "PATH",
            "HOSTNAME",
            "http_proxy",
            "XAI_API_KEY",
            "NEXT_PUBLIC_OPENAI_ORGANIZATION_ID",
            "EMAIL_DOMAIN_WHITELIST",
            "NEXT_PUBLIC_OLLAMA_URL",
            "DATABASE_URL",
            "PGPORT",
            "SSL_CERT",
            "LOGNAME",
            "NEXT_PUBLIC_USER_FILE_SIZE_LIMIT",
        ];
        assert_eq!(named(&others), []);
    }

    #[test]
    fn every_setting_of_the_readme_is_known() {
        let readme = include_str!("../../README.md");
        let (_, rest) = readme.split_once("| variable | default | |").expect("the table");
        let (table, _) = rest.split_once("\n\n").expect("its end");
        let cells = table.lines().skip(2).filter_map(|row| row.split('|').nth(1));
        let names = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).filter(|name| !name.starts_with("OTEL_"));
        let unknown: Vec<_> = names.filter(|name| !NAMES.contains(name)).collect();
        assert!(unknown.is_empty(), "{unknown:?}");
    }

    #[test]
    fn a_setting_in_anothers_value_is_found() {
        assert_eq!(glued("10485760DATABASE_URL=postgresql://x"), Some("DATABASE_URL"));
        for value in ["gpt-4=gpt-5", "postgresql://x", "MY_DATABASE_URL=x", "DATABASE_URL"] {
            assert_eq!(glued(value), None, "{value}");
        }
    }
}
