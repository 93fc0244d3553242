//! `serve --playground`, with a Supabase project at another address.

use std::time::Duration;

use chatbot_ui_api::{auth::PUBLISHED_JWT_SECRET, cli::session};
use serde_json::json;
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use crate::{
    rows,
    supabase::Supabase,
    support::{database, has_chromium, on_a_page, serve},
};

const ANON_KEY: &str = "sb_publishable_x";
const EMAIL: &str = "ada@example.com";

/// A project with one user, whose first session is nearly over.
fn project(user: Uuid, session: Uuid) -> Supabase {
    let supabase = Supabase::with_keys(ANON_KEY, "");
    for (kind, form, lifetime) in [
        ("password", json!({ "email": EMAIL, "password": "right" }), Duration::from_secs(30)),
        ("refresh_token", json!({ "refresh_token": "once" }), Duration::from_hours(1)),
    ] {
        supabase.project.grant(kind, form, usize::MAX, move || {
            let secret = session::Signer::Secret(PUBLISHED_JWT_SECRET.as_bytes());
            let token = session::access_token(secret, user, EMAIL, session, lifetime).expect("signed");
            json!({
                "access_token": token,
                "refresh_token": "once",
                "expires_at": jsonwebtoken::get_current_timestamp() + lifetime.as_secs(),
                "user": { "id": user, "email": EMAIL },
            })
        });
    }
    supabase
}

#[tokio::test]
async fn users_of_a_project_sign_in_with_a_password() {
    if !has_chromium() {
        return;
    }
    let (user, session) = (Uuid::new_v4(), Uuid::new_v4());
    let database = database().await;
    let mut connection = PgConnection::connect(&database).await.expect("connects");
    chatbot_ui_api::cli::migrate::apply(&mut connection).await.expect("migrates");
    rows::account(&mut connection, user, session, EMAIL).await;

    let project = project(user, session);
    let settings =
        [("DATABASE_URL", database.as_str()), ("SUPABASE_URL", &project.url), ("SUPABASE_ANON_KEY", ANON_KEY)];
    let (server, url) = serve(&["serve", "--playground"], &settings, "playground is at ");
    on_a_page(server, url, async |page| {
        page.until("!document.getElementById('sign-in').hidden").await;
        assert_eq!(page.value("document.getElementById('demo-sign-in').hidden").await, true);
        assert_eq!(page.value("document.getElementById('welcome-demo').hidden").await, true, "this is no demo");
        page.is_quiet(&[&page.url]).await;
        page.click("label[for=sign-in-email]").await;
        page.press(EMAIL).await;
        page.click("label[for=sign-in-password]").await;
        page.press("wrong").await;
        page.click("#sign-in button").await;
        page.until("document.querySelector('#sign-in-error p')?.textContent === 'Invalid login credentials'").await;
        let _ = page.driver.browser_log().await;

        page.value("document.getElementById('sign-in-password').value = ''").await;
        page.click("label[for=sign-in-password]").await;
        page.press("right").await;
        page.click("#sign-in button").await;
        page.until("document.activeElement.id === 'question'").await;
        // The first request with the session refreshes it.
        page.until("JSON.parse(sessionStorage.session).expires_at - Date.now() / 1000 > 3000").await;
        page.is_quiet(&[&page.url, &project.url]).await;
        // The user has no key, and the server's sentence says so.
        page.ask("Hello").await;
        let sentence = "OpenAI API Key not found. Please set it in your profile settings.";
        page.until(&format!("document.querySelector('.answer .problem p')?.textContent === '{sentence}'")).await;
        assert_eq!(page.text("#key-note").await, "With the key in your profile, if it has one");
        page.click("#open-settings").await;
        page.until("document.getElementById('usage').textContent === 'Usage is not counted on this server.'").await;
        assert_eq!(page.text("#tools-note").await, "You have no tools: add one in chatbot-ui.");
        assert_eq!(
            page.value("document.getElementById('embeddings').options.length").await,
            1,
            "no local model is set"
        );

        page.driver.refresh().await.expect("loads again");
        page.until("document.getElementById('email').textContent === 'ada@example.com'").await;
    })
    .await;
}
