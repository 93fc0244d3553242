//! The playground: one page at `/` for trying the server, and an example of a
//! client. Its files lie beside this one as they are sent; they ask this
//! server's public routes and the Supabase project, and nobody else.
//!
//! Its routes stand apart from [`crate::http`]: they are there only where
//! [`Config::playground`](crate::config::Config::playground) says so.

use actix_web::{
    HttpResponse,
    http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY},
    web::{self, ServiceConfig},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Serialize;
use serde_json::Value;
use url::Url;

use crate::error::Error;

/// Path, type, content.
const FILES: [(&str, &str, &str); 4] = [
    ("/", "text/html; charset=utf-8", include_str!("index.html")),
    ("/playground/style.css", "text/css; charset=utf-8", include_str!("style.css")),
    ("/playground/script.js", "text/javascript; charset=utf-8", include_str!("script.js")),
    ("/playground/icon.svg", "image/svg+xml", include_str!("icon.svg")),
];

/// What the page needs to know, as `/playground/settings.json` says it. All
/// of it is public.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Settings {
    /// Empty where the stand-in for Supabase is where the page is.
    supabase_url: String,
    anon_key: String,
    demo_user: Option<DemoUser>,
    #[serde(skip)]
    policy: String,
}

/// Whom a button of the page signs in.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "what one signs in with")]
pub struct DemoUser {
    pub email: &'static str,
    pub password: &'static str,
}

impl Settings {
    /// For the users of a Supabase project: its address as browsers reach it,
    /// and its anonymous (or publishable) key.
    ///
    /// # Errors
    /// A sentence, where there is no such key, or where it is one that opens
    /// the whole project: whoever loads the page can read it.
    pub fn of_a_project(supabase_url: &Url, anon_key: Option<&str>) -> Result<Self, String> {
        let key = anon_key.ok_or(
            "--playground needs SUPABASE_ANON_KEY or NEXT_PUBLIC_SUPABASE_ANON_KEY: its page signs in with it",
        )?;
        if is_secret(key) {
            return Err("--playground shows SUPABASE_ANON_KEY (or NEXT_PUBLIC_SUPABASE_ANON_KEY) to everybody, and it holds a secret key of the project: set the anonymous or the publishable one".to_owned());
        }
        Ok(Self {
            supabase_url: supabase_url.as_str().trim_end_matches('/').to_owned(),
            anon_key: key.to_owned(),
            demo_user: None,
            policy: policy(&format!("'self' {}", supabase_url.origin().ascii_serialization())),
        })
    }

    /// For the demo, whose stand-in for Supabase is where the page is.
    pub fn of_the_demo(user: DemoUser) -> Self {
        Self {
            supabase_url: String::new(),
            anon_key: "demo".to_owned(),
            demo_user: Some(user),
            policy: policy("'self'"),
        }
    }
}

/// The page runs its own script, and asks `asked` alone.
fn policy(asked: &str) -> String {
    format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src {asked}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
}

/// A key that passes row level security: a secret key, or a service role's token.
fn is_secret(key: &str) -> bool {
    let claims = key.split('.').nth(1).and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
    let claims: Option<Value> = claims.and_then(|json| serde_json::from_slice(&json).ok());
    key.starts_with("sb_secret_") || claims.is_some_and(|claims| claims["role"] == "service_role")
}

/// Installs the page.
pub fn configure(routes: &mut ServiceConfig, settings: &Settings) {
    for (path, media, content) in FILES {
        serve(routes, path, media, content, &settings.policy);
    }
    match serde_json::to_string(settings) {
        Ok(json) => serve(routes, "/playground/settings.json", "application/json", json, &settings.policy),
        Err(error) => tracing::error!(%error, "the playground has no settings"),
    }
}

fn serve(routes: &mut ServiceConfig, path: &str, media: &'static str, content: impl Into<web::Bytes>, policy: &str) {
    let (content, policy) = (content.into(), policy.to_owned());
    let answer = move || {
        let mut response = HttpResponse::Ok();
        response
            .insert_header((CONTENT_TYPE, media))
            .insert_header((CONTENT_SECURITY_POLICY, policy.clone()))
            .insert_header((REFERRER_POLICY, "no-referrer"))
            // Another version of the server has another page.
            .insert_header((CACHE_CONTROL, "no-cache"));
        std::future::ready(response.body(content.clone()))
    };
    let resource = web::resource(path)
        .route(web::get().to(answer.clone()))
        .route(web::head().to(answer))
        .default_service(web::to(async || Err::<String, _>(Error::MethodNotAllowed("GET, HEAD"))));
    routes.service(resource);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project(key: Option<&str>) -> Result<Settings, String> {
        Settings::of_a_project(&Url::parse("https://abc.supabase.co").expect("a URL"), key)
    }

    #[test]
    fn no_secret_key_is_shown() {
        let token = |role: &str| format!("e30.{}.x", URL_SAFE_NO_PAD.encode(format!("{{\"role\":\"{role}\"}}")));
        assert!(project(None).expect_err("no key").contains("needs SUPABASE_ANON_KEY"));
        for key in ["sb_secret_abc", &token("service_role")] {
            let sentence = project(Some(key)).expect_err("a secret");
            assert!(sentence.contains("secret key") && !sentence.contains(key), "{sentence}");
        }
        for key in ["sb_publishable_abc", &token("anon"), "anything"] {
            assert_eq!(project(Some(key)).expect("public").anon_key, key);
        }
    }

    #[actix_web::test]
    async fn the_files_are_served_with_the_policy() {
        use actix_web::{App, test};
        let settings = Settings::of_the_demo(DemoUser { email: "e", password: "p" });
        let server = test::init_service(App::new().configure(|routes| configure(routes, &settings))).await;
        for (path, media, content) in FILES {
            let answer = test::call_service(&server, test::TestRequest::get().uri(path).to_request()).await;
            assert_eq!(answer.status(), 200, "{path}");
            assert_eq!(answer.headers().get(CONTENT_TYPE).expect("a type"), media);
            assert!(
                answer
                    .headers()
                    .get(CONTENT_SECURITY_POLICY)
                    .expect("a policy")
                    .to_str()
                    .expect("text")
                    .starts_with("default-src 'none';")
            );
            assert_eq!(test::read_body(answer).await, content);
            let answer = test::call_service(&server, test::TestRequest::post().uri(path).to_request()).await;
            assert_eq!(answer.status(), 405, "{path}");
        }
        let settings = test::TestRequest::get().uri("/playground/settings.json").to_request();
        let settings: Value = test::call_and_read_body_json(&server, settings).await;
        assert_eq!(settings["demoUser"]["email"], "e");
        assert_eq!(settings["supabaseUrl"], "");
    }

    #[test]
    fn the_page_may_ask_its_server_and_the_project() {
        let policy = project(Some("k")).expect("public").policy;
        assert!(policy.contains("connect-src 'self' https://abc.supabase.co;"), "{policy}");
        let demo = Settings::of_the_demo(DemoUser { email: "e", password: "p" });
        assert!(demo.policy.contains("connect-src 'self';"));
    }
}
