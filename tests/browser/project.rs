//! `serve --playground`, with a Supabase project at another address.

use std::net::TcpListener;

use actix_web::{
    App, HttpRequest, HttpResponse, HttpServer,
    web::{self, Data, Json},
};
use chatbot_ui_api::{auth::PUBLISHED_JWT_SECRET, cli::session};
use serde_json::{Value, json};
use sqlx::{Connection, Executor, PgConnection};
use std::time::Duration;
use uuid::Uuid;

use crate::support::{database, has_chromium, on_a_page, serve};

const EMAIL: &str = "ada@example.com";

#[derive(Clone, Copy)]
struct Account {
    user: Uuid,
    session: Uuid,
}

/// The little of a project that the page asks, for any page.
fn project(account: Account) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    std::thread::spawn(move || {
        let server = HttpServer::new(move || {
            App::new()
                .app_data(Data::new(account))
                .wrap(actix_web::middleware::DefaultHeaders::new().add(("access-control-allow-origin", "*")))
                .route("/auth/v1/token", web::post().to(token))
                .route("/rest/v1/models", web::get().to(async || HttpResponse::Ok().json(json!([]))))
                .default_service(web::to(preflight))
        });
        let server = server.workers(1).disable_signals().listen(listener).expect("listens").run();
        actix_web::rt::System::new().block_on(server)
    });
    url
}

async fn preflight() -> HttpResponse {
    let allowed = "apikey, authorization, content-type, prefer";
    HttpResponse::Ok().insert_header(("access-control-allow-headers", allowed)).finish()
}

/// A session that is nearly over, for the password; a fresh one, for its refresh token.
async fn token(account: Data<Account>, request: HttpRequest, form: Json<Value>) -> HttpResponse {
    assert_eq!(request.headers().get("apikey").expect("a key"), "sb_publishable_x");
    let Account { user, session } = **account;
    let lifetime = match request.query_string() {
        "grant_type=password" if form["password"] == "right" && form["email"] == EMAIL => Duration::from_secs(30),
        "grant_type=refresh_token" if form["refresh_token"] == "once" => Duration::from_hours(1),
        _ => return HttpResponse::BadRequest().json(json!({ "msg": "Invalid login credentials" })),
    };
    let token = session::access_token(PUBLISHED_JWT_SECRET.as_bytes(), user, EMAIL, session, lifetime).expect("signed");
    let expires_at = jsonwebtoken::get_current_timestamp() + lifetime.as_secs();
    let user = json!({ "id": user, "email": EMAIL });
    HttpResponse::Ok()
        .json(json!({ "access_token": token, "refresh_token": "once", "expires_at": expires_at, "user": user }))
}

#[tokio::test]
async fn users_of_a_project_sign_in_with_a_password() {
    if !has_chromium() {
        return;
    }
    let account = Account { user: Uuid::new_v4(), session: Uuid::new_v4() };
    let database = database().await;
    let mut connection = PgConnection::connect(&database).await.expect("connects");
    chatbot_ui_api::cli::migrate::apply(&mut connection).await.expect("migrates");
    let Account { user, session } = account;
    let sql = format!(
        "insert into auth.users (id, email) values ('{user}', '{EMAIL}'); \
         insert into auth.sessions (id, user_id) values ('{session}', '{user}')"
    );
    connection.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(sql))).await.expect("a user");

    let project = project(account);
    let settings =
        [("DATABASE_URL", database.as_str()), ("SUPABASE_URL", &project), ("SUPABASE_ANON_KEY", "sb_publishable_x")];
    let (server, url) = serve(&["serve", "--playground"], &settings, "playground is at ");
    on_a_page(server, url, async |page| {
        page.until("!document.getElementById('sign-in').hidden").await;
        assert_eq!(page.value("document.getElementById('demo-sign-in').hidden").await, true);
        page.is_quiet(&[&page.url]).await;
        page.click("label[for=sign-in-email]").await;
        page.press(EMAIL).await;
        page.click("label[for=sign-in-password]").await;
        page.press("wrong").await;
        page.click("#sign-in button").await;
        page.until("document.querySelector('#toast p')?.textContent === 'Invalid login credentials'").await;
        let _ = page.driver.browser_log().await;

        page.value("document.getElementById('sign-in-password').value = ''").await;
        page.click("label[for=sign-in-password]").await;
        page.press("right").await;
        page.click("#sign-in button").await;
        page.until("document.activeElement.id === 'question'").await;
        // The first thing that is asked with the session refreshes it.
        page.until("JSON.parse(sessionStorage.session).expires_at - Date.now() / 1000 > 3000").await;
        page.is_quiet(&[&page.url, &project]).await;
        // The user has no key, and the server's sentence says so.
        page.ask("Hello").await;
        let sentence = "OpenAI API Key not found. Please set it in your profile settings.";
        page.until(&format!("document.querySelector('#toast p')?.textContent === '{sentence}'")).await;

        page.driver.refresh().await.expect("loads again");
        page.until("document.getElementById('email').textContent === 'ada@example.com'").await;
    })
    .await;
}
