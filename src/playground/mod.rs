//! The playground: one page at `/` for trying the server, and an example of a client. Its files are stored next to this
//! one and served unchanged; they only call this server's public routes and the Supabase project. `vendor/` has the one
//! library that is not ours, which reads Markdown, with its licence.
//!
//! Its routes are separate from [`crate::http`]: they are installed only if
//! [`Config::playground`](crate::config::Config::playground) is set.

use std::collections::BTreeMap;

use actix_web::{
    HttpResponse,
    http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY},
    web::{self, ServiceConfig},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Serialize;
use serde_json::Value;
use url::Url;

use crate::{
    error::Error,
    llm::catalogue::{Catalogue, Date, catalogue},
};

const SCRIPT: &str = "text/javascript; charset=utf-8";
const JSON: &str = "application/json";

/// Path, media type, content.
const FILES: [(&str, &str, &str); 17] = [
    ("/", "text/html; charset=utf-8", include_str!("index.html")),
    ("/playground/style.css", "text/css; charset=utf-8", include_str!("style.css")),
    ("/playground/script.js", SCRIPT, include_str!("script.js")),
    ("/playground/page.js", SCRIPT, include_str!("page.js")),
    ("/playground/choice.js", SCRIPT, include_str!("choice.js")),
    ("/playground/conversation.js", SCRIPT, include_str!("conversation.js")),
    ("/playground/turn.js", SCRIPT, include_str!("turn.js")),
    ("/playground/markdown.js", SCRIPT, include_str!("markdown.js")),
    ("/playground/picture.js", SCRIPT, include_str!("picture.js")),
    ("/playground/problems.js", SCRIPT, include_str!("problems.js")),
    ("/playground/usage.js", SCRIPT, include_str!("usage.js")),
    ("/playground/supabase.js", SCRIPT, include_str!("supabase.js")),
    ("/playground/server.js", SCRIPT, include_str!("server.js")),
    ("/playground/request.js", SCRIPT, include_str!("request.js")),
    ("/playground/vendor/markdown-it.js", SCRIPT, include_str!("vendor/markdown-it.js")),
    ("/playground/vendor/LICENSE.txt", "text/plain; charset=utf-8", include_str!("vendor/LICENSE.txt")),
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
    /// Files can be embedded on the server too.
    local_embeddings: bool,
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
    /// (or publishable) key; `local_embeddings`: the server has the model for them.
    ///
    /// # Errors
    /// If the key is missing, or gives access to the whole project, since everyone who loads the page can read it: a
    /// sentence.
    pub fn of_a_project(supabase_url: &Url, anon_key: Option<&str>, local_embeddings: bool) -> Result<Self, String> {
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
            local_embeddings,
            policy: policy(&format!("'self' {}", supabase_url.origin().ascii_serialization())),
        })
    }

    /// Creates the settings for the demo, whose stand-in for Supabase is on the page's own origin.
    pub fn of_the_demo(user: DemoUser) -> Self {
        Self {
            supabase_url: String::new(),
            anon_key: "demo".to_owned(),
            demo_user: Some(user),
            local_embeddings: false,
            policy: policy("'self'"),
        }
    }
}

/// Returns the content security policy: the page's own scripts, pictures that are on the page already, and requests to
/// `allowed` only. So an answer can neither run anything nor have the browser fetch anything.
fn policy(allowed: &str) -> String {
    format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src {allowed}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
}

/// Tells if a key bypasses row level security: a secret key, or a service role's token.
fn is_secret(key: &str) -> bool {
    let claims = key.split('.').nth(1).and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
    let claims: Option<Value> = claims.and_then(|json| serde_json::from_slice(&json).ok());
    key.starts_with("sb_secret_") || claims.is_some_and(|claims| claims["role"] == "service_role")
}

/// A model that the page offers, with list prices in US dollars for a million tokens.
#[derive(Debug, Serialize)]
struct Offered {
    id: &'static str,
    images: bool,
    input: Option<f64>,
    cached: Option<f64>,
    output: Option<f64>,
}

/// Returns a catalogue's models that are served on this day, by provider; the newest lines first. Families and models for
/// embeddings are none that can be chosen.
fn models(catalogue: &Catalogue, today: Date) -> BTreeMap<&'static str, Vec<Offered>> {
    let mut models: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for model in catalogue.models().iter().rev().filter(|model| !model.is_retired(today)) {
        let ids = model.ids.iter().filter(|id| !id.ends_with('*') && !id.starts_with("text-embedding"));
        let (images, prices) = (model.images, model.prices);
        models.entry(model.provider).or_default().extend(ids.map(|id| Offered {
            id,
            images,
            input: prices.input,
            cached: prices.cached,
            output: prices.output,
        }));
    }
    models
}

/// Installs the page.
pub fn configure(routes: &mut ServiceConfig, settings: &Settings) {
    for (path, media, content) in FILES {
        serve(routes, path, media, &settings.policy, move || content.into());
    }
    let json = |value: Result<String, _>| value.unwrap_or_else(|error| format!("\"{error}\""));
    let page = web::Bytes::from(json(serde_json::to_string(settings)));
    serve(routes, "/playground/settings.json", JSON, &settings.policy, move || page.clone());
    // Made anew each time, since models retire while the server runs.
    let current = move || json(serde_json::to_string(&models(catalogue(), Date::today()))).into();
    serve(routes, "/playground/models.json", JSON, &settings.policy, current);
}

fn serve(
    routes: &mut ServiceConfig,
    path: &str,
    media: &'static str,
    policy: &str,
    content: impl Fn() -> web::Bytes + Clone + 'static,
) {
    let policy = policy.to_owned();
    let answer = move || {
        let mut response = HttpResponse::Ok();
        response
            .insert_header((CONTENT_TYPE, media))
            .insert_header((CONTENT_SECURITY_POLICY, policy.clone()))
            .insert_header((REFERRER_POLICY, "no-referrer"))
            // Revalidated, because another version of the server has another page.
            .insert_header((CACHE_CONTROL, "no-cache"));
        std::future::ready(response.body(content()))
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
        Settings::of_a_project(&Url::parse("https://abc.supabase.co").expect("a URL"), key, true)
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
        let models = test::TestRequest::get().uri("/playground/models.json").to_request();
        let models: Value = test::call_and_read_body_json(&server, models).await;
        assert!(models["openai"][0]["id"].is_string(), "{models}");
    }

    #[test]
    fn only_models_that_are_served_are_offered() {
        let today = Date::parse("2026-11-29").expect("a day");
        let models = models(catalogue(), today);
        for provider in ["openai", "anthropic", "google", "groq", "mistral", "perplexity"] {
            assert!(models[provider].iter().any(|model| model.output.is_some()), "{provider}");
        }
        for (provider, models) in &models {
            for Offered { id, .. } in models {
                assert!(!id.contains("embedding") && !id.contains('*'), "{id}");
                assert!(!catalogue().model(provider, id).expect("a line").is_retired(today), "{id}");
            }
        }
        let openai: Vec<&str> = models["openai"].iter().map(|model| model.id).collect();
        assert!(openai.contains(&"gpt-6.1-sol") && !openai.contains(&"gpt-4"), "{openai:?}");
        let later = Date::parse("2027-02-01").expect("a day");
        assert!(!super::models(catalogue(), later)["openai"].iter().any(|model| model.id == "gpt-4o"));
    }

    #[test]
    fn the_page_may_ask_its_server_and_the_project() {
        let policy = project(Some("k")).expect("public").policy;
        assert!(policy.contains("connect-src 'self' https://abc.supabase.co;"), "{policy}");
        let demo = Settings::of_the_demo(DemoUser { email: "e", password: "p" });
        assert!(demo.policy.contains("connect-src 'self';"));
    }
}
