//! One Postgres for the whole run, one database a test, cloned from a template.

use std::{path::PathBuf, sync::LazyLock};

use chatbot_ui_api::{
    cli::migrate,
    demo::postgres::{Options, Programs, Server},
};
use sqlx::{Connection, Executor, PgConnection, PgPool, postgres::PgPoolOptions};
use uuid::Uuid;

use super::programs;

const ROLE: &str = include_str!("../../../docs/role.sql");
const HOSTED: &str = include_str!("hosted.sql");
const SUPABASE: &str = include_str!("supabase.sql");
/// The client takes 4,096 rounds of SHA-256 for each connection otherwise, which
/// is much in a debug build. Before version 16 there is no such setting.
const CHEAP_PASSWORDS: &str = "do $$ begin \
    if current_setting('server_version_num')::int >= 160000 then perform set_config('scram_iterations', '1', false); \
    end if; end $$";
const ROLE_PASSWORD: &str = "only-for-tests";

/// A database for one test.
pub struct Database {
    /// As the superuser.
    pub pool: PgPool,
    /// The same.
    pub superuser_url: String,
    /// As the role that `docs/role.sql` makes.
    pub role_url: String,
}

/// The server; it stops when the tests' process ends, however it ends.
static SERVER: LazyLock<Server> = LazyLock::new(|| {
    // On a thread of its own: tests run on runtimes that end with them.
    std::thread::spawn(|| {
        let runtime =
            Box::leak(Box::new(tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")));
        runtime.block_on(async {
            let programs = Programs::find(&programs::say).await.unwrap_or_else(|error| panic!("{error}"));
            let folder = std::env::temp_dir().join(format!("chatbot-ui-api-test-{}", std::process::id()));
            let server = start(&programs, folder).await;
            make_templates(&server).await;
            server
        })
    })
    .join()
    .expect("Postgres starts")
});

async fn start(programs: &Programs, folder: PathBuf) -> Server {
    let options = Options { durable: false, max_connections: 300, remove: true };
    Server::start(programs, &folder, options).await.unwrap_or_else(|error| panic!("{error}"))
}

async fn make_templates(server: &Server) {
    let mut postgres = connect(&server.url("postgres")).await;
    let url = url::Url::parse(&server.url("postgres")).expect("a URL");
    let password = url.password().expect("a password");
    run(&mut postgres, &format!("{CHEAP_PASSWORDS}; alter role current_user password '{password}'")).await;
    for name in ["template_own", "template_supabase"] {
        run(&mut postgres, &format!("create database {name}")).await;
    }
    let mut own = connect(&server.url("template_own")).await;
    migrate::apply(&mut own).await.expect("migrates");
    run(&mut own, ROLE).await;
    run(&mut own, &format!("{CHEAP_PASSWORDS}; alter role chatbot_ui_api password '{ROLE_PASSWORD}'")).await;
    let mut supabase = connect(&server.url("template_supabase")).await;
    run(&mut supabase, SUPABASE).await;
    run(&mut supabase, ROLE).await;
}

async fn connect(url: &str) -> PgConnection {
    PgConnection::connect(url).await.expect("connects")
}

async fn run(connection: &mut PgConnection, sql: &str) {
    connection.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned()))).await.expect("runs");
}

async fn clone(template: &str) -> String {
    let server = tokio::task::spawn_blocking(|| &*SERVER).await.expect("starts");
    let name = format!("test_{}", Uuid::new_v4().simple());
    let mut postgres = connect(&server.url("postgres")).await;
    run(&mut postgres, &format!("create database {name} template {template} strategy file_copy")).await;
    server.url(&name)
}

async fn for_an_app(url: String) -> Database {
    let pool = PgPoolOptions::new().max_connections(4).connect(&url).await.expect("connects");
    let (_, place) = url.rsplit_once('@').expect("a password");
    let role_url = format!("postgresql://chatbot_ui_api:{ROLE_PASSWORD}@{place}");
    Database { pool, role_url, superuser_url: url }
}

/// A database with this project's tables.
pub async fn database() -> Database {
    for_an_app(clone("template_own").await).await
}

/// The same with the ledger.
pub async fn database_with_ledger() -> Database {
    let database = database().await;
    migrate::make_ledger(&mut connect(&database.superuser_url).await).await.expect("a ledger");
    database
}

/// A server of one test's own, which may be stopped and started again. The
/// folder is the test's to name and goes with the last server that has `remove`.
pub async fn own_server(folder: PathBuf, remove: bool) -> Server {
    let programs = Programs::find(&programs::say).await.unwrap_or_else(|error| panic!("{error}"));
    let options = Options { durable: false, max_connections: 50, remove };
    Server::start(&programs, &folder, options).await.unwrap_or_else(|error| panic!("{error}"))
}

/// A database with this project's tables on such a server.
pub async fn own_database(server: &Server) -> Database {
    make_templates(server).await;
    for_an_app(server.url("template_own")).await
}

/// A database with this project's tables on a Supabase project as it is since April 2025: made, and its role made, by
/// an owner who may read the schema `auth`, and may not open it to others.
pub async fn hosted_database() -> Database {
    let url = empty_database().await;
    let mut superuser = connect(&url).await;
    run(&mut superuser, &format!("{CHEAP_PASSWORDS}; {HOSTED}; alter role hosted_owner password '{ROLE_PASSWORD}'"))
        .await;
    run(
        &mut superuser,
        "do $$ begin execute format('alter database %I owner to hosted_owner', current_database()); end $$",
    )
    .await;
    let (_, place) = url.rsplit_once('@').expect("a password");
    let mut owner = connect(&format!("postgresql://hosted_owner:{ROLE_PASSWORD}@{place}")).await;
    migrate::apply(&mut owner).await.expect("migrates");
    run(&mut owner, ROLE).await;
    for_an_app(url).await
}

/// A database with nothing in it, as the superuser.
pub async fn empty_database() -> String {
    clone("template1").await
}

/// A database with chatbot-ui's own schema, as the superuser.
pub async fn supabase_database() -> String {
    clone("template_supabase").await
}

/// The same, for a server.
pub async fn supabase_database_for_an_app() -> Database {
    for_an_app(supabase_database().await).await
}
