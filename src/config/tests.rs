use super::*;
use crate::{auth::PUBLISHED_JWT_SECRET, db};

fn config(variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    Config::new(&variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
}

fn problem(variables: &[(&str, &str)]) -> String {
    config(variables).expect_err("must be refused").to_string()
}

#[test]
fn nothing_set_is_the_local_stack() {
    let config = config(&[]).expect("defaults are right");
    assert_eq!((config.host.as_str(), config.port), ("127.0.0.1", 8000));
    assert_eq!(config.database.options.get_port(), 54322);
    assert_eq!(config.database.pooler, db::Pooler::Session);
    assert_eq!(config.sessions.cookie_name, "sb-127-auth-token");
    assert_eq!(config.sessions.jwks_url.as_str(), "http://127.0.0.1:54321/auth/v1/.well-known/jwks.json");
    assert!(config.sessions.jwt_secret.is_some());
    assert!(config.http_client.private_upstreams.allow);
}

#[test]
fn the_cookie_is_named_by_the_hosts_first_label() {
    for (url, name) in [
        ("http://localhost:54321", "sb-localhost-auth-token"),
        ("https://AbCdefgh.supabase.co/", "sb-abcdefgh-auth-token"),
        ("http://10.0.0.5:8000", "sb-10-auth-token"),
        ("https://api.example.com", "sb-api-auth-token"),
        ("http://supabase_kong:8000", "sb-supabase_kong-auth-token"),
        ("http://[::1]:1", "sb-[::1]-auth-token"),
    ] {
        let config = config(&[("NEXT_PUBLIC_SUPABASE_URL", url), ("SUPABASE_JWT_SECRET", "a secret of our own")]);
        assert_eq!(config.expect(url).sessions.cookie_name, name);
    }
}

#[test]
fn the_published_secret_is_for_this_machine_only() {
    let hosted = ("SUPABASE_URL", "https://abc.supabase.co");
    assert!(config(&[hosted]).expect("key set only").sessions.jwt_secret.is_none());
    assert!(
        problem(&[hosted, ("SUPABASE_JWT_SECRET", PUBLISHED_JWT_SECRET)])
            .starts_with("SUPABASE_JWT_SECRET is a secret that Supabase publishes")
    );
}

#[test]
fn a_wrong_one_is_named() {
    assert_eq!(problem(&[("PORT", "eighty")]), "PORT must be a whole number from 0 to 65535");
    assert!(problem(&[("SUPABASE_URL", "abc.supabase.co")]).starts_with("SUPABASE_URL must be a URL"));
    assert!(problem(&[("NEXT_PUBLIC_SUPABASE_URL", "x")]).starts_with("NEXT_PUBLIC_SUPABASE_URL must"));
    assert!(problem(&[("OPENAI_BASE_URL", "ftp://x")]).starts_with("OPENAI_BASE_URL must"));
    assert!(problem(&[("SUPABASE_COOKIE_NAME", "a=b")]).starts_with("SUPABASE_COOKIE_NAME must"));
    assert!(problem(&[("SESSION_CHECK", "no")]).starts_with("SESSION_CHECK must"));
    for address in ["9090", ":9090", "::1:9090", "localhost:", "localhost:70000", "http://x:1"] {
        assert!(problem(&[("METRICS_ADDR", address)]).starts_with("METRICS_ADDR must be HOST:PORT"), "{address}");
    }
    assert!(problem(&[("PRIVATE_UPSTREAMS", "10.0.0.0/40")]).starts_with("PRIVATE_UPSTREAMS"));
    for url in ["127.0.0.1:3000", "http://x/app", "http://x?a", "http://u:p@x", "http://localhost:8000"] {
        assert!(problem(&[("FRONTEND_URL", url)]).starts_with("FRONTEND_URL "), "{url}");
    }
    for origins in
        ["*", "chat.example.com", "https://chat.example.com/", "https://a.example/x", "https://a.example:443", "null"]
    {
        assert!(problem(&[("CORS_ORIGINS", origins)]).starts_with("CORS_ORIGINS "), "{origins}");
    }
    assert!(problem(&[("CORS_ORIGINS", "https://a.example,*")]).starts_with("CORS_ORIGINS cannot be `*`"));
    assert!(problem(&[("PROVIDER_IDLE_TIMEOUT", "0")]).starts_with("PROVIDER_IDLE_TIMEOUT must"));
    assert!(problem(&[("TOOL_TIMEOUT", "a minute")]).starts_with("TOOL_TIMEOUT must"));
    for name in ["SUPABASE_URL", "NEXT_PUBLIC_SUPABASE_URL", "SUPABASE_JWKS_URL", "OPENAI_BASE_URL"] {
        for url in ["http://u:hunter2@127.0.0.1/", "http://hunter2@127.0.0.1/", "http://:hunter2@127.0.0.1/"] {
            let problem = problem(&[(name, url)]);
            assert!(problem.starts_with(name) && !problem.contains("hunter2"), "{problem}");
        }
    }
    assert!(problem(&[("MAX_REQUESTS", "0")]).starts_with("MAX_REQUESTS must be a whole number from 1"));
    assert!(problem(&[("MAX_STREAMS_PER_USER", "-1")]).starts_with("MAX_STREAMS_PER_USER must"));
    assert!(problem(&[("RATE_LIMIT_PER_MINUTE", "0")]).starts_with("RATE_LIMIT_PER_MINUTE must"));
    for wrong in [
        "127.0.0.1:6379",
        "http://u:hunter2@x",
        "redis://u:hunter2@:x/y",
        "unix:///hunter2",
        "rediss://u:hunter2@h/0#insecure",
    ] {
        let url = problem(&[("REDIS_URL", wrong)]);
        assert!(url.starts_with("REDIS_URL must look like") && !url.contains("hunter2"), "{url}");
    }
    for unencoded in ["hunter2@:x/y", "p/hunter2@h:1/x", "?hunter2@h:1/x", "1?hunter2@h/x", "1#hunter2@h/x"] {
        let url = problem(&[("DATABASE_URL", &format!("postgresql://u:{unencoded}"))]);
        assert!(url.starts_with("DATABASE_URL must look like") && !url.contains("hunter2"), "{url}");
    }
    for right in ["u:p%40ss%2Fword@h:1/x?sslmode=require", "u:p@h?host=/run/a@b", "/x?host=/run/x&user=a@b"] {
        let right = format!("postgresql://{right}");
        assert!(config(&[("DATABASE_URL", &right)]).is_ok(), "{right}");
    }
}

#[test]
fn a_listening_server_denies_private_upstreams() {
    for (host, allows) in [("0.0.0.0", false), ("::1", true), ("localhost", true), ("10.1.2.3", false)] {
        let config = config(&[("HOST", host)]).expect(host);
        assert_eq!(config.http_client.private_upstreams.allow, allows, "{host}");
    }
}

#[test]
fn the_pooler_is_known_by_its_port_or_by_its_setting() {
    let is_pooled = |port: u16, setting: &str| {
        let url = format!("postgresql://u:p@db.example.com:{port}/x");
        let config = config(&[("DATABASE_URL", &url), ("DATABASE_POOLER", setting)]);
        config.expect("right").database.pooler == db::Pooler::Transaction
    };
    assert!(is_pooled(6543, "") && is_pooled(5432, "transaction") && is_pooled(6543, "transaction"));
    assert!(!is_pooled(5432, "") && !is_pooled(6543, "session") && !is_pooled(5432, "session"));
    assert!(problem(&[("DATABASE_POOLER", "pgbouncer")]).starts_with("DATABASE_POOLER must"));
}

#[test]
fn origins_are_listed_with_commas() {
    let config = config(&[("CORS_ORIGINS", "https://Chat.example.com, http://localhost:3000,")]).expect("right");
    assert_eq!(config.cors_origins, ["https://chat.example.com", "http://localhost:3000"]);
}

#[test]
fn debug_shows_no_secret() {
    let config = config(&[
        ("DATABASE_URL", "postgresql://u:hunter2@db:6543/x"),
        ("OPENAI_API_KEY", "sk-hunter2"),
        ("SUPABASE_JWT_SECRET", "hunter2-hunter2-hunter2"),
        ("REDIS_URL", "rediss://u:hunter2@cache.example.com"),
    ])
    .expect("right");
    assert_eq!(config.database.pooler, db::Pooler::Transaction);
    let shown = format!("{config:?}");
    assert!(shown.contains("cache.example.com:6379") && !shown.contains("hunter2"), "{shown}");
}
