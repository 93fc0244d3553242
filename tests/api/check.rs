//! `check`, run as a person runs it: a good configuration, then each usual
//! mistake, which it must name, and end with status 1.

use std::net::TcpListener;

use serde_json::json;
use sqlx::Executor;

use crate::support::{
    App,
    binary::{Said, run, run_with_files},
    pgbouncer::PgBouncer,
    ports::Port,
    postgres,
    supabase::Supabase,
    tokens,
    upstream::{Reply, Upstream},
};

const SECRET: &str = "a secret that only this project has";
const PUBLIC_KEY: &str = r#"{"kty":"EC","crv":"P-256","alg":"ES256","kid":"a","use":"sig","x":"M5Sjqn5zwC9Kl1zVfUUGvv9boQjCGd45G8sdopBExB4","y":"P6IXMvA2WYXSHSOMTBH2jsw_9rrzGy89FjPf6oOsIxQ"}"#;

fn key(role: &str) -> String {
    tokens::sign(&json!({ "iss": "supabase", "role": role, "exp": 4_000_000_000u64 }), SECRET)
}

const PUBLISHABLE: &str = "sb_publishable_of_this_project";
const SECRET_KEY: &str = "sb_secret_of_this_project";

/// A project that lets only its own keys in.
fn project(anon: &str, service: &str) -> Supabase {
    let supabase = Supabase::with_keys(anon, service);
    supabase.project.publish(vec![serde_json::from_str(PUBLIC_KEY).expect("JSON")]);
    supabase
}

/// Settings with which all is well, for the role of `docs/role.sql`.
struct Good {
    database: postgres::Database,
    variables: Vec<(String, String)>,
    _project: Supabase,
}

/// Settings of a project as it is made today: sessions signed with ES256, newer keys.
async fn of_today() -> Good {
    let database = postgres::hosted_database().await;
    let project = project(PUBLISHABLE, SECRET_KEY);
    let variables = [
        ("DATABASE_URL", database.role_url.clone()),
        ("SUPABASE_URL", project.url.clone()),
        ("SUPABASE_ANON_KEY", PUBLISHABLE.to_owned()),
        ("SUPABASE_SERVICE_ROLE_KEY", SECRET_KEY.to_owned()),
        ("PUBLISHED_KEYS", "deny".to_owned()),
    ];
    let variables = variables.map(|(name, value)| (name.to_owned(), value)).to_vec();
    Good { database, variables, _project: project }
}

impl Good {
    async fn new() -> Self {
        Self::on(postgres::database().await)
    }

    fn on(database: postgres::Database) -> Self {
        let project = project(&key("anon"), &key("service_role"));
        let variables = [
            ("DATABASE_URL", database.role_url.clone()),
            ("SUPABASE_URL", project.url.clone()),
            ("SUPABASE_JWT_SECRET", SECRET.to_owned()),
            ("SUPABASE_ANON_KEY", key("anon")),
            ("SUPABASE_SERVICE_ROLE_KEY", key("service_role")),
            ("OPENAI_API_KEY", "sk-hunter2".to_owned()),
        ];
        let variables = variables.map(|(name, value)| (name.to_owned(), value)).to_vec();
        Self { database, variables, _project: project }
    }

    /// The output of `check` with some settings replaced by these.
    async fn but(&self, changed: &[(&str, &str)]) -> Said {
        let mut variables: Vec<(&str, &str)> =
            self.variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        variables.retain(|(name, _)| changed.iter().all(|(other, _)| other != name));
        variables.extend(changed);
        let said = run(&["check"], &variables).await;
        for secret in [SECRET, SECRET_KEY, &key("anon"), &key("service_role"), "hunter2", "only-for-tests"] {
            assert!(!said.out.contains(secret) && !said.err.contains(secret), "a secret is shown: {said:?}");
        }
        said
    }

    /// `check` fails with these words in a line that says what to do.
    async fn fails(&self, changed: &[(&str, &str)], words: &str) {
        let said = self.but(changed).await;
        let named =
            said.out.lines().any(|line| line.starts_with("FAIL") && line.contains(words) && line.contains(" → "));
        assert!(named && said.status == 1, "{words}: {said:?}");
    }

    async fn warns(&self, changed: &[(&str, &str)], words: &str) {
        let said = self.but(changed).await;
        let named =
            said.out.lines().any(|line| line.starts_with("warn") && line.contains(words) && line.contains(" → "));
        assert!(named && said.status == 0, "{words}: {said:?}");
    }

    async fn sql(&self, sql: &'static str) {
        self.database.pool.execute(sqlx::raw_sql(sql)).await.expect(sql);
    }
}

#[tokio::test]
async fn a_project_of_today_passes() {
    let said = of_today().await.but(&[]).await;
    assert_eq!(said.status, 0, "{said:?}");
    assert!(said.out.lines().all(|line| line.starts_with("ok   ")), "{}", said.out);
    for words in [
        "sessions by the function of docs/role.sql",
        "session keys: 1 public (ES256)",
        "it takes SUPABASE_ANON_KEY",
        "it takes SUPABASE_SERVICE_ROLE_KEY",
    ] {
        assert!(said.out.contains(words), "{words}: {}", said.out);
    }
}

#[tokio::test]
async fn a_good_configuration_with_older_keys_passes() {
    let own = Good::new().await;
    let supabase = Good::on(postgres::supabase_database_for_an_app().await);
    for good in [own, supabase] {
        let said = good.but(&[]).await;
        assert_eq!(said.status, 0, "{said:?}");
        assert!(said.out.lines().all(|line| line.starts_with("ok   ")), "{}", said.out);
        for words in [
            "lets chatbot_ui_api in",
            "users, sessions and profiles can be read",
            "custom models: they can be read",
            "can be read and written, with pgvector",
            "it hides nothing from this role",
            "1 public (ES256), and the secret",
            "it takes SUPABASE_ANON_KEY",
            "it takes SUPABASE_SERVICE_ROLE_KEY",
            "OPENAI_API_KEY (used for every user)",
        ] {
            assert!(said.out.contains(words), "{words}: {}", said.out);
        }
        assert!(!said.out.contains('\x1b'), "no colours where there is no terminal");
    }
}

#[tokio::test]
async fn offered_models_are_looked_for_in_every_picker() {
    for database in [postgres::database().await, postgres::supabase_database_for_an_app().await] {
        let good = Good::on(database);
        good.sql("insert into auth.users (id, aud, role, email) values (gen_random_uuid(), '', '', 'a@b')").await;
        let offers = ("MODELS", "openai:gpt-4o");
        let url = ("DATABASE_URL", good.database.role_url.as_str());
        good.warns(&[offers], "offered models: 1 rows of MODELS' models are not in users' pickers").await;
        assert!(good.but(&[offers]).await.out.contains("run chatbot-ui-api models sync; a server with MODELS"));
        let synced = run(&["models", "sync"], &[offers, url]).await;
        assert_eq!(synced.status, 0, "{synced:?}");
        let said = good.but(&[offers]).await;
        assert!(said.status == 0 && said.out.contains("ok   offered models: all 1 of MODELS"), "{said:?}");
        good.sql("delete from public.models; drop policy \"chatbot_ui_api offers\" on public.models").await;
        good.warns(&[offers], "offered models: 1 rows").await;
        assert!(good.but(&[offers]).await.out.contains("this role may not add them"));
        let refused = run(&["models", "sync"], &[offers, url]).await;
        assert!(refused.status == 1 && refused.err.contains("as the owner of the tables"), "{refused:?}");
        good.fails(&[("MODELS", "claude-opus-5-5")], "MODELS offers models that need ANTHROPIC_API_KEY").await;
    }
}

#[tokio::test]
async fn every_wrong_setting_is_named_and_the_rest_is_looked_at_all_the_same() {
    let good = Good::new().await;
    let said = good.but(&[("PORT", "eighty"), ("LOCAL_EMBEDDINGS_DIR", "/nowhere")]).await;
    assert_eq!(said.status, 1);
    assert!(said.out.contains("FAIL setting PORT must be a whole number"), "{}", said.out);
    assert!(said.out.contains("FAIL local embeddings:"), "{}", said.out);
    assert!(said.out.contains("ok   accounts:"), "{}", said.out);
    assert!(said.err.ends_with("chatbot-ui-api: 2 checks failed\n"), "{}", said.err);
}

/// A stand-in for Next.js' server with chatbot-ui's middleware. Its redirects go to `localhost`; a page that is not
/// requested there is rewritten to `localhost`, which Next.js takes for another server, and redirects to itself.
fn next_js(host: &'static str) -> Upstream {
    Upstream::answering(move |request| {
        let asked = request.header("host").unwrap_or_default();
        let port = asked.rsplit(':').next().unwrap_or_default();
        let to = |path: &str| ("location".to_owned(), format!("http://{host}:{port}{path}"));
        match request.path.as_str() {
            "/login" if host == "localhost" => Reply::json(200, &json!({})),
            "/login" | "/" => Reply { status: 307, headers: vec![to("/login")], steps: Vec::new(), ..Reply::default() },
            _ => Reply { status: 404, headers: Vec::new(), steps: Vec::new(), ..Reply::default() },
        }
    })
}

#[tokio::test]
async fn the_front_end_is_asked() {
    let good = Good::new().await;
    let well = next_js("localhost");
    let url = format!("http://localhost:{}", well.address.port());
    let said = good.but(&[("FRONTEND_URL", &url)]).await;
    assert!(said.status == 0 && said.out.contains(&format!("ok   front end: {url}/ answers")), "{}", said.out);

    let again = next_js("127.0.0.1");
    let line = format!(
        "front end: {}/ redirects /login to itself for ever → start the Next.js app with `-H localhost`",
        again.url()
    );
    good.fails(&[("FRONTEND_URL", &again.url())], &line).await;

    let closed = Port::reserve();
    good.warns(&[("FRONTEND_URL", &format!("http://{}", closed.address))], "cannot be reached").await;
}

#[tokio::test]
async fn files_that_do_not_say_what_they_should() {
    let fails = async |files: &[(&str, &[u8])], words: &str| {
        let said = run_with_files(&["check"], &[], files).await;
        assert!(said.status == 1 && said.out.contains(words), "{words}: {said:?}");
    };
    let glued = b"NEXT_PUBLIC_USER_FILE_SIZE_LIMIT=10485760DATABASE_URL=postgresql://me:hunter2@127.0.0.1:1/x\n";
    let words = "FAIL settings: the value of NEXT_PUBLIC_USER_FILE_SIZE_LIMIT has DATABASE_URL= in it, so DATABASE_URL is not set → begin a new line before DATABASE_URL";
    fails(&[(".env.local", glued)], words).await;
    let utf_16: Vec<u8> = "\u{feff}PORT=8000\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    fails(&[(".env.local", &utf_16)], "FAIL settings: .env.local is in UTF-16, so no setting in it can be read").await;
    for name in [".env.production", ".env.production.local"] {
        let words = format!("warn settings: {name} is not read by this server");
        fails(&[(name, b"PORT=8000\n"), (".env.local", b"")], &words).await;
    }
    // Not set, and nothing there.
    fails(&[], "(DATABASE_URL is not set: this is its default)").await;
    fails(
        &[],
        "not set, so the local Supabase stack's default is used: SUPABASE_URL (http://127.0.0.1:54321), DATABASE_URL",
    )
    .await;
}

#[tokio::test]
async fn names_that_are_nearly_a_settings() {
    let good = Good::new().await;
    for (name, meant) in [
        ("PRIVATE_UPSTREAM", "PRIVATE_UPSTREAMS"),
        ("FRONTEND_ULR", "FRONTEND_URL"),
        ("SUPABASE_JWT_SECERT", "SUPABASE_JWT_SECRET"),
    ] {
        let line = format!("settings: {name} is no setting, and has no effect → rename it, if {meant} is meant");
        good.warns(&[(name, "hunter2")], &line).await;
        // A port that cannot be listened on ends the start after its warnings.
        let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = taken.local_addr().expect("an address").port().to_string();
        let said = run(&["serve"], &[(name, "hunter2"), ("PORT", &port)]).await;
        assert!(said.err.contains(&line) && said.status == 1, "{said:?}");
    }
}

#[tokio::test]
async fn ports_that_are_taken() {
    let good = Good::new().await;
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    taken.set_nonblocking(true).expect("a socket");
    let port = taken.local_addr().expect("an address").port().to_string();
    drop(taken);
    let app = App::start(&[]).await;
    let ours = app.address.port().to_string();
    let said = good.but(&[("PORT", &ours)]).await;
    let line = format!("ok   port: 127.0.0.1:{ours} is this server's, which runs already");
    assert!(said.status == 0 && said.out.contains(&line), "{said:?}");
    let other = Upstream::answering(|_| Reply::json(200, &json!({})));
    let theirs = other.address.port().to_string();
    good.fails(&[("PORT", &theirs)], &format!("port: 127.0.0.1:{theirs} is taken by another program")).await;
    assert_eq!(good.but(&[("PORT", &port)]).await.status, 0);
}

#[tokio::test]
async fn the_variable_that_was_read_is_named_and_one_cause_once() {
    let good = Good::new().await;
    let closed = Port::reserve();
    let url = format!("http://{}", closed.address);
    let cookie = ("SUPABASE_COOKIE_NAME", "sb-127-auth-token");
    let said = good
        .but(&[
            ("SUPABASE_URL", ""),
            ("NEXT_PUBLIC_SUPABASE_URL", &url),
            ("PUBLISHED_KEYS", "deny"),
            ("SUPABASE_JWT_SECRET", ""),
            cookie,
        ])
        .await;
    let about: Vec<&str> = said.out.lines().filter(|line| line.contains("cannot be re")).collect();
    let words = "session keys: the key set of NEXT_PUBLIC_SUPABASE_URL cannot be read";
    assert!(about.len() == 1 && about[0].contains(words), "{}", said.out);

    let wrong = ("NEXT_PUBLIC_SUPABASE_ANON_KEY", "sb_publishable_x");
    good.fails(&[("SUPABASE_ANON_KEY", ""), wrong], "it refuses NEXT_PUBLIC_SUPABASE_ANON_KEY").await;
    let said = good.but(&[("SUPABASE_SERVICE_ROLE_KEY", "Bearer hunter2")]).await;
    let about: Vec<&str> = said.out.lines().filter(|line| line.starts_with("FAIL")).collect();
    assert!(about.len() == 1 && about[0].contains("begins with `Bearer `"), "{}", said.out);
}

#[tokio::test]
async fn as_json() {
    let good = Good::new().await;
    let variables: Vec<(&str, &str)> =
        good.variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let said = run(&["check", "--json"], &[variables, vec![("PORT", "eighty")]].concat()).await;
    let answer: serde_json::Value = serde_json::from_str(&said.out).expect("JSON");
    assert_eq!((said.status, &answer["failed"]), (1, &json!(1)));
    let failed = answer["checks"].as_array().expect("a list").iter().find(|check| check["level"] == "fail");
    let line =
        json!({ "level": "fail", "what": "setting PORT must be a whole number from 0 to 65535", "todo": "fix PORT" });
    assert_eq!(failed, Some(&line));
}

#[tokio::test]
async fn databases_that_cannot_be_reached() {
    let good = Good::new().await;
    let url = &good.database.role_url;
    let closed = Port::reserve();
    good.fails(&[("DATABASE_URL", &format!("postgresql://me:hunter2@{}/x", closed.address))], "cannot be reached")
        .await;
    good.fails(&[("DATABASE_URL", &url.replace("only-for-tests", "hunter2"))], "refuses the login of chatbot_ui_api")
        .await;
    let (server, _) = url.rsplit_once('/').expect("a path");
    good.fails(&[("DATABASE_URL", &format!("{server}/nothing"))], "has no database called nothing").await;
    // A slash in the password would end the host: what follows is part of it.
    let said = good.but(&[("DATABASE_URL", "postgresql://me:pass/hunter2@db.example.com:5432/x")]).await;
    assert!(said.out.contains("FAIL setting DATABASE_URL must look like"), "{}", said.out);
    // One that accepts and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let place = silent.local_addr().expect("an address");
    good.fails(&[("DATABASE_URL", &format!("postgresql://me:hunter2@{place}/x"))], "gives no answer within 5 s").await;
}

#[tokio::test]
async fn tables_columns_and_rights_that_are_missing() {
    let good = Good::new().await;
    good.sql("alter table public.profiles drop column groq_api_key, drop column openrouter_api_key").await;
    good.fails(&[], "public.profiles lacks groq_api_key, openrouter_api_key").await;

    let good = Good::new().await;
    good.sql("drop table public.models cascade").await;
    good.fails(&[], "custom models: relation \"public.models\" does not exist").await;

    let good = Good::new().await;
    good.sql("revoke insert on public.file_items from chatbot_ui_api; revoke insert (file_id, user_id, created_at, content, tokens, local_embedding, openai_embedding) on public.file_items from chatbot_ui_api").await;
    good.fails(&[], "files: permission denied for table file_items").await;

    let good = Good::new().await;
    good.sql("alter table public.file_items drop column local_embedding; alter table public.file_items add column local_embedding vector(3); grant select (local_embedding), insert (local_embedding) on public.file_items to chatbot_ui_api").await;
    good.fails(&[], "public.file_items.local_embedding is a vector(3)").await;

    let good = Good::new().await;
    good.sql("drop table public.file_items; drop table public.files").await;
    good.warns(&[], "there are no tables for them, so retrieval does not work").await;
}

#[tokio::test]
async fn sessions_that_may_not_be_looked_up() {
    let good = Good::new().await;
    good.sql("alter function chatbot_ui_api.account_state owner to chatbot_ui_api").await;
    good.fails(&[], "sessions cannot be looked up: permission denied for schema auth → the owner of the function")
        .await;
    good.sql("drop function chatbot_ui_api.account_state").await;
    good.fails(&[], "sessions cannot be looked up: permission denied for schema auth → run docs/role.sql again").await;
    good.warns(&[("SESSION_CHECK", "token")], "profiles can be read; SESSION_CHECK=token").await;
    good.sql(include_str!("../../docs/role.sql")).await;
    let said = good.but(&[]).await;
    assert!(said.status == 0 && said.out.contains("sessions by the function of docs/role.sql"), "{said:?}");
}

#[tokio::test]
async fn half_of_chatbot_uis_tables() {
    let good = Good::on(postgres::supabase_database_for_an_app().await);
    good.sql("drop table public.models cascade; alter table public.profiles drop column groq_api_key").await;
    let missing =
        "20240125194719_add_custom_models, 20240213085646_add_context_length_to_custom_models, 20240302004845_add_groq";
    good.fails(&[], &format!("migrations of chatbot-ui are missing: {missing} → in chatbot-ui's folder")).await;
    good.fails(&[], "public.profiles lacks groq_api_key → apply the missing migrations first").await;
    good.fails(&[], "custom models: relation \"public.models\" does not exist → apply the missing migrations first")
        .await;
    let superuser = [("DATABASE_URL", good.database.superuser_url.as_str())];
    let said = run(&["migrate"], &superuser).await;
    assert!(said.status == 1 && said.err.contains(&format!("These migrations are missing: {missing}.")), "{said:?}");
}

#[tokio::test]
async fn a_service_key_of_another_project() {
    let good = Good::new().await;
    good.fails(
        &[("SUPABASE_SERVICE_ROLE_KEY", &tokens::sign(&json!({ "iss": "supabase", "role": "service_role" }), SECRET))],
        "storage: SUPABASE_SERVICE_ROLE_KEY does not open the bucket files: it is no service key, or another project's",
    )
    .await;
}

#[tokio::test]
async fn row_level_security_that_hides_rows() {
    let good = Good::new().await;
    good.sql("drop policy \"chatbot_ui_api reads\" on public.profiles").await;
    good.fails(&[], "it hides rows from chatbot_ui_api, so users seem not to exist: public.profiles (reads)").await;

    let good = Good::new().await;
    good.sql("drop policy \"chatbot_ui_api\" on public.file_items; create policy reads on public.file_items for select to chatbot_ui_api using (true)").await;
    good.fails(&[], "public.file_items (deletes), public.file_items (inserts)").await;
}

#[tokio::test]
async fn keys_and_addresses_that_do_not_fit() {
    let good = Good::new().await;
    let service = key("service_role");
    good.fails(&[("SUPABASE_JWT_SECRET", "another-secret-of-some-length")], "SUPABASE_ANON_KEY: was not signed with")
        .await;
    good.fails(
        &[("SUPABASE_ANON_KEY", "sb_secret_hunter2")],
        "SUPABASE_ANON_KEY: holds a key that begins with sb_secret_",
    )
    .await;
    good.fails(&[("SUPABASE_SERVICE_ROLE_KEY", "sb_publishable_x")], "SUPABASE_SERVICE_ROLE_KEY: holds a key that")
        .await;
    good.fails(&[("SUPABASE_JWT_SECRET", "sb_secret_hunter2")], "SUPABASE_JWT_SECRET is an API key").await;
    good.fails(&[("SUPABASE_ANON_KEY", &service)], "is a key for the role service_role").await;
    good.fails(&[("SUPABASE_ANON_KEY", "sb_publishable_x")], "it refuses SUPABASE_ANON_KEY").await;
    good.fails(&[("SUPABASE_SERVICE_ROLE_KEY", "sb_secret_hunter2")], "it refuses SUPABASE_SERVICE_ROLE_KEY").await;
    good.fails(&[("NEXT_PUBLIC_SUPABASE_URL", "http://localhost:54321")], "the front end's is sb-localhost-auth-token")
        .await;
    good.fails(&[("OPENAI_API_KEY", "sk-hunter2\n")], "OPENAI_API_KEY holds a space").await;
    let closed = Port::reserve();
    good.warns(&[("SUPABASE_URL", &format!("http://{}", closed.address))], "the key set cannot be read").await;
    good.warns(&[("SUPABASE_SERVICE_ROLE_KEY", "")], "uploaded files cannot be read").await;
    good.warns(&[("HOST", "0.0.0.0"), ("PRIVATE_UPSTREAMS", "allow")], "lets users' URLs lead to private").await;
}

#[tokio::test]
async fn a_pooler_in_transaction_mode_that_is_not_told_of() {
    let good = Good::new().await;
    let Some(pooler) = PgBouncer::start(&good.database.role_url).await else { return };
    let url = pooler.url(&good.database.role_url);
    good.fails(
        &[("DATABASE_URL", url.as_str())],
        "leads to a pooler in transaction mode, and DATABASE_POOLER says session",
    )
    .await;
    let said = good.but(&[("DATABASE_URL", url.as_str()), ("DATABASE_POOLER", "transaction")]).await;
    assert!(said.status == 0 && said.out.contains("ok   pooler: in transaction mode"), "{said:?}");
}
