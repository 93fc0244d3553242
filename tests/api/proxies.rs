//! The environment's proxies: for the providers that the settings name, and
//! for nobody's choice.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
};

use crate::{
    process::serve,
    support::{
        User, chat_body, client, postgres, rows,
        tls::{AUTHORITY, Answer, Tls},
        upstream::{Reply, Upstream},
    },
};

const NAMES: [&str; 6] = ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];

#[tokio::test]
async fn what_users_choose_is_asked_without_a_proxy() {
    let (upstream, proxy) = (Upstream::start().await, Upstream::start().await);
    let database = postgres::database().await;
    let proxy_url = proxy.url();
    let settings: Vec<_> = NAMES.iter().map(|name| (*name, proxy_url.as_str())).collect();
    let database_url = ("DATABASE_URL", database.role_url.as_str());
    let (_child, url) = serve(&[&settings[..], &[database_url]].concat()).await;
    let user = User::create(&database.pool, &[("openai_api_key", "sk-case-trusted")]).await;
    let model = rows::model(&database.pool, user.id, &upstream.url(), "sk-case-direct").await;
    upstream.script("sk-case-direct", vec![Reply::json(400, &json!({ "error": { "message": "direct" } }))]);
    let ask = async |route: &str| {
        let mut body = chat_body();
        body["customModelId"] = json!(model);
        let request = client().post(format!("{url}/api/chat/{route}")).header("authorization", user.bearer());
        request.body(body.to_string()).send().await.expect("an answer").text().await.expect("whole")
    };
    let said = ask("custom").await;
    assert!(said.contains("direct"), "{said}");
    let for_key_set = proxy.all().iter().filter(|request| request.path.ends_with("/jwks.json")).count();
    assert_eq!((upstream.connections(), proxy.connections() - for_key_set), (1, 0));
    // The proxy is a proxy: the providers that the settings name are asked through it.
    ask("openai").await;
    assert!(proxy.connections() > 0);
}

/// A proxy that tunnels, and answers by itself what is not for a tunnel; with
/// the heads that it was sent.
async fn proxy() -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://us%40er:pass@{}", listener.local_addr().expect("an address"));
    let heads = Arc::new(Mutex::new(Vec::new()));
    let told = heads.clone();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let told = told.clone();
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(socket.read_u8().await?);
                }
                let head = String::from_utf8_lossy(&head).into_owned();
                told.lock().expect("no panic").push(head.clone());
                let Some(place) = head.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next()) else {
                    return socket.write_all(b"HTTP/1.1 418 No\r\ncontent-length: 0\r\n\r\n").await;
                };
                let mut provider = TcpStream::connect(place).await?;
                socket.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").await?;
                copy_bidirectional(&mut socket, &mut provider).await.map(|_| ())
            });
        }
    });
    (url, heads)
}

#[tokio::test]
async fn a_proxy_tunnels_to_providers_and_sees_no_key() {
    let delta = "data: {\"choices\":[{\"delta\":{\"content\":\"Hello\"}}]}\n\n";
    let answer = Answer { first: delta.into(), wait: Duration::ZERO, rest: "data: [DONE]\n\n".into() };
    let provider = Tls::start(move |_| answer.clone()).await;
    let ((proxy, heads), database) = (proxy().await, postgres::database().await);
    let (base, neighbour) = (format!("https://{}/v1", provider.address), Upstream::start().await);
    let near = neighbour.url().replace("127.0.0.1", "localhost");
    neighbour.script("sk-mistral", vec![Reply::json(400, &json!({ "error": { "message": "near" } }))]);
    let settings = [
        ("DATABASE_URL", database.role_url.as_str()),
        ("OPENAI_BASE_URL", &base),
        ("GROQ_BASE_URL", "http://groq.invalid:81/v1"),
        ("MISTRAL_BASE_URL", "http://127.0.0.1:1/v1"),
        ("MISTRAL_BASE_URL", &near),
        ("NO_PROXY", "localhost"),
        ("SSL_CERT_FILE", AUTHORITY),
    ];
    let proxies: Vec<_> = NAMES.iter().map(|name| (*name, proxy.as_str())).collect();
    let (_child, url) = serve(&[&settings[..], &proxies].concat()).await;
    let keys = [("openai_api_key", "sk-hunter2"), ("groq_api_key", "sk-groq"), ("mistral_api_key", "sk-mistral")];
    let user = User::create(&database.pool, &keys).await;
    // One connection, and so one worker with its connections.
    let client = reqwest::Client::new();
    let ask = async |route: &str| {
        let request = client.post(format!("{url}/api/chat/{route}")).header("authorization", user.bearer());
        request.body(chat_body().to_string()).send().await.expect("an answer").text().await.expect("whole")
    };
    // Twice: the second goes through the same tunnel.
    for _ in 0..2 {
        assert_eq!(ask("openai").await, "Hello");
    }
    ask("groq").await;
    assert!(ask("mistral").await.contains("near"));
    let mut heads = heads.lock().expect("no panic").clone();
    heads.retain(|head| !head.contains("/jwks.json"));
    let [tunnel, plain] = &heads[..] else { panic!("{heads:#?}") };
    let letter = "\r\nproxy-authorization: basic dXNAZXI6cGFzcw==\r\n".to_ascii_lowercase();
    assert!(tunnel.starts_with(&format!("CONNECT {} HTTP/1.1\r\n", provider.address)), "{tunnel}");
    assert!(plain.starts_with("POST http://groq.invalid:81/v1/chat/completions HTTP/1.1\r\nhost: groq.invalid:81\r\n"));
    for head in [tunnel, plain] {
        assert!(head.to_ascii_lowercase().contains(&letter), "{head}");
    }
    assert!(!tunnel.contains("hunter2") && plain.contains("sk-groq"));
}
