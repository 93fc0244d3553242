//! The small commands, run as a person runs them: `token`, `health`,
//! `completions`, `man`, and the help of each.

use serde_json::Value;

use crate::support::{App, binary::run, chat_body, client, message, ports::Port, postgres};

#[tokio::test]
async fn a_token_opens_the_door_as_bearer_and_as_cookie() {
    for database in [postgres::database().await, postgres::supabase_database_for_an_app().await] {
        let url = database.superuser_url.clone();
        let app = App::start_on(database, &[], chatbot_ui_api::http_client::ssrf_guard::system_lookup).await;
        let sql = "insert into auth.users (id, aud, role, email) values (gen_random_uuid(), 'authenticated', 'authenticated', 'Ann@example.com')";
        sqlx::raw_sql(sql).execute(&app.db).await.expect("a user");

        let said = run(&["token", "--user", "ann@EXAMPLE.com", "--json"], &[("DATABASE_URL", &url)]).await;
        assert_eq!((said.status, said.err.as_str()), (0, ""), "{}", said.out);
        let said: Value = serde_json::from_str(&said.out).expect("JSON");
        let (token, cookie) = (said["token"].as_str().expect("text"), said["cookie"].as_str().expect("text"));
        for (name, value) in [("authorization", format!("Bearer {token}")), ("cookie", cookie.to_owned())] {
            let request = client().post(app.url("/api/chat/openai")).header(name, value).body(chat_body().to_string());
            let (_, words) = message(request.send().await.expect("an answer")).await;
            assert!(words.starts_with("OpenAI API Key not found"), "{name}: {words}");
        }

        let said = run(&["token", "--user", "ann@example.com"], &[("DATABASE_URL", &url)]).await;
        for words in [
            "Cookie:\n\n  sb-127-auth-token=",
            "curl -N http://127.0.0.1:8000/api/chat/openai -H 'Authorization: Bearer ",
            "HS256",
        ] {
            assert!(said.out.contains(words), "{words}: {}", said.out);
        }
    }
}

#[tokio::test]
async fn a_token_is_for_users_of_this_machine_that_exist() {
    let database = postgres::database().await;
    let url = database.superuser_url.as_str();
    let fails = async |email: &str, more: &[(&str, &str)], words: &str| {
        let variables = [&[("DATABASE_URL", url)], more].concat();
        let said = run(&["token", "--user", email], &variables).await;
        assert!(said.status == 1 && said.out.is_empty() && said.err.contains(words), "{words}: {said:?}");
    };
    fails("nobody@example.com", &[], "no user has the address nobody@example.com").await;
    fails("a@b", &[("SUPABASE_URL", "https://abc.supabase.co")], "SUPABASE_URL leads to abc.supabase.co").await;
    fails("a@b", &[("DATABASE_URL", "postgresql://me@db.example/x")], "DATABASE_URL leads to db.example").await;
    fails("a@b", &[("DATABASE_URL", &database.role_url)], "permission denied for schema auth. Run this with").await;
}

#[tokio::test]
async fn health_follows_the_server() {
    let app = App::start(&[]).await;
    let port = app.address.port().to_string();
    for arguments in [&["health"][..], &["health", "--ready"]] {
        assert_eq!(run(arguments, &[("PORT", &port)]).await.status, 0, "{arguments:?}");
    }
    assert_eq!(run(&["health"], &[("PORT", &port), ("HOST", "0.0.0.0")]).await.status, 0);
    sqlx::raw_sql("revoke usage on schema chatbot_ui_api from chatbot_ui_api").execute(&app.db).await.expect("revokes");
    assert_eq!(run(&["health"], &[("PORT", &port)]).await.status, 0);
    // The answer of /readyz is kept for a second.
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    let said = run(&["health", "--ready"], &[("PORT", &port)]).await;
    assert!(said.status == 1 && said.err.contains("answers with status 503"), "{said:?}");
    let closed = Port::reserve();
    let said = run(&["health"], &[("PORT", &closed.number().to_string())]).await;
    assert!(said.status == 1 && said.err.contains("cannot be reached"), "{said:?}");
}

#[tokio::test]
async fn every_command_is_in_the_completions_and_the_manual_and_shows_examples() {
    let help = run(&["--help"], &[]).await.out;
    let (_, commands) = help.split_once("Commands:\n").expect("commands");
    let commands: Vec<&str> = commands
        .lines()
        .take_while(|line| !line.is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .collect();
    assert!(commands.len() >= 8, "{commands:?}");
    let manual = run(&["man"], &[]).await.out;
    let completions = run(&["completions", "bash"], &[]).await.out;
    for command in commands {
        let help = run(&[command, "--help"], &[]).await.out;
        assert!(
            help.contains("Examples:\n  chatbot-ui-api ") || help.contains(&format!("chatbot-ui-api {command}")),
            "{help}"
        );
        assert!(help.contains("Examples:"), "{help}");
        assert!(manual.contains(&format!("COMMAND {}", command.to_uppercase())), "{command}");
        assert!(completions.contains(command), "{command}");
    }
    for shell in ["zsh", "fish", "elvish", "powershell"] {
        assert!(run(&["completions", shell], &[]).await.out.contains("chatbot-ui-api"), "{shell}");
    }
}
