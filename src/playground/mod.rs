//! The playground: one page at `/` for trying the server, and an example of a client. Its files are stored next to this
//! one and served unchanged; they only call this server's public routes and the Supabase project.
//!
//! Its routes are separate from [`crate::http`]: they are installed only if
//! [`Config::playground`](crate::config::Config::playground) is set.

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

/// Path, media type, content.
const FILES: [(&str, &str, &str); 4] = [
    ("/", "text/html; charset=utf-8", include_str!("index.html")),
    ("/playground/style.css", "text/css; charset=utf-8", include_str!("style.css")),
    ("/playground/script.js", "text/javascript; charset=utf-8", include_str!("script.js")),
    ("/playground/icon.svg", "image/svg+xml", include_str!("icon.svg")),
];

/// The page's settings, served as `/playground/settings.json`. All of it is public.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Settings {
    /// Empty if the stand-in for Supabase is on the page's own origin.
    supabase_url: String,
    anon_key: String,
    demo_user: Option<DemoUser>,
    #[serde(skip)]
    policy: String,
}

/// The user that a button of the page signs in.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "credentials for signing in")]
pub struct DemoUser {
    pub email: &'static str,
    pub password: &'static str,
}

impl Settings {
    /// Creates the settings for the users of a Supabase project: its address as seen from browsers, and its anonymous
    /// (or publishable) key.
    ///
    /// # Errors
    /// If the key is missing, or gives access to the whole project, since everyone who loads the page can read it: a
    /// sentence.
    pub fn of_a_project(supabase_url: &Url, anon_key: Option<&str>) -> Result<Self, String> {
        let key = anon_key.ok_or(
            "--playground needs SUPABASE_ANON_KEY or NEXT_PUBLIC_SUPABASE_ANON_KEY: its page signs in with it",
        )?;
        if is_secret(key) {
            return Err("--playground shows SUPABASE_ANON_KEY (or NEXT_PUBLIC_SUPABASE_ANON_KEY) to everyone, but it is a secret key of the project: set the anonymous or the publishable key".to_owned());
        }
        Ok(Self {
            supabase_url: supabase_url.as_str().trim_end_matches('/').to_owned(),
            anon_key: key.to_owned(),
            demo_user: None,
            policy: policy(&format!("'self' {}", supabase_url.origin().ascii_serialization())),
        })
    }

    /// Creates the settings for the demo, whose stand-in for Supabase is on the page's own origin.
    pub fn of_the_demo(user: DemoUser) -> Self {
        Self {
            supabase_url: String::new(),
            anon_key: "demo".to_owned(),
            demo_user: Some(user),
            policy: policy("'self'"),
        }
    }
}

/// Returns the content security policy: the page's own script, and requests to `allowed` only.
fn policy(allowed: &str) -> String {
    format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src {allowed}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
}

/// Tells if a key bypasses row level security: a secret key, or a service role's token.
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
            // Revalidated, because another version of the server has another page.
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
