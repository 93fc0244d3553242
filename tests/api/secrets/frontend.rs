//! Requests to the front end, with marks everywhere: paths, query strings,
//! headers and bodies, of requests and responses, also without a front end.

use std::time::Duration;

use reqwest::{
    Client, Method,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, COOKIE, REFERER},
    redirect::Policy,
};
use serde_json::json;

use super::{ANON, MARK, Server, show};
use crate::support::{
    tokens,
    upstream::{End, Reply, Step, Upstream},
};

/// Responses of a front end, in success and in failure.
fn replies() -> Vec<Reply> {
    let page = Reply {
        headers: vec![
            ("content-type".to_owned(), "text/html".to_owned()),
            ("set-cookie".to_owned(), "sb-127-auth-token=MARKEDcookie; Path=/".to_owned()),
        ],
        steps: vec![Step::Write(b"MARKEDpage".to_vec())],
        ..Reply::default()
    };
    vec![
        page.clone(),
        Reply {
            status: 307,
            headers: vec![("location".to_owned(), "/MARKEDplace?code=MARKEDcode".to_owned())],
            ..Reply::default()
        },
        Reply::json(500, &json!({ "stack": "MARKEDstack" })),
        Reply { end: End::Reset, ..page.clone() },
        Reply { end: End::Refuse, ..page.clone() },
        // A header without a valid name: no HTTP response.
        Reply { headers: vec![("MARKED name".to_owned(), "MARKEDvalue".to_owned())], ..page },
    ]
}

async fn pass_on(there: bool, format: &str) {
    let upstream = Upstream::start().await;
    let times = replies().len();
    let address = if there { upstream.url() } else { "http://127.0.0.1:9".to_owned() };
    let settings = [
        ("FRONTEND_URL", address.as_str()),
        ("DATABASE_URL", "postgresql://MARKEDrole:MARKEDpassword@127.0.0.1:9/MARKEDdatabase"),
        ("SUPABASE_ANON_KEY", ANON),
    ];
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let server = Server::start(&["serve"], &settings, format).await;
    let client = Client::builder().pool_max_idle_per_host(0).redirect(Policy::none()).build().expect("a client");
    for method in [Method::GET, Method::POST] {
        upstream.script_any(replies());
        for _ in 0..times {
            let mut request = client
                .request(method.clone(), format!("{}/MARKEDpath?code=MARKEDquery", server.url))
                .header(COOKIE, "sb-127-auth-token={\"access_token\":\"MARKED\"}; other=MARKEDcookie")
                .header(AUTHORIZATION, "Bearer MARKEDtoken")
                .header(REFERER, "http://127.0.0.1/MARKED?code=MARKED")
                .header("user-agent", "MARKEDagent")
                .header("x-forwarded-for", "MARKEDaddress")
                .header(ACCEPT, if method == Method::GET { "text/html" } else { "*/*" });
            if method == Method::POST {
                request = request.header(CONTENT_TYPE, "text/x-component").body("MARKEDbody");
            }
            let answer = request.send().await.expect("an answer");
            let down = answer.status() == 502;
            assert!(there || down);
            let text = answer.text().await.unwrap_or_default();
            assert!(!(down && text.contains(MARK)), "{text}");
        }
    }
    assert_eq!(upstream.all().len(), if there { 2 * times } else { 0 });

    let metrics = server.metrics().await;
    let written = tokio::time::timeout(Duration::from_secs(20), server.stop()).await.expect("it stops");
    let lines = written.lines().filter(|line| line.contains("request_id")).collect::<Vec<_>>();
    assert_eq!(lines.len(), 2 * times, "{lines:#?}");
    for secret in [MARK, tokens::SECRET, ANON] {
        for text in [&written, &metrics] {
            if let Some(shown) = show(text, secret) {
                panic!("{secret} is shown: {shown}");
            }
        }
    }
}

#[tokio::test]
async fn nothing_secret_is_written_of_what_is_passed_on() {
    tokio::join!(pass_on(true, "json"), pass_on(true, "text"), pass_on(false, "json"));
}
