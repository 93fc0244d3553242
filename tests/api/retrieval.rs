//! `POST /api/retrieval/…`: the original's recordings, and whose files.

use std::{fs, path::Path, time::Instant};

use chatbot_ui_api::http_client::ssrf_guard;
use reqwest::header::AUTHORIZATION;
use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;

#[cfg(feature = "local-embeddings")]
#[path = "../../src/retrieval/local/tiny.rs"]
mod tiny;

use crate::support::{
    App, User, client, message,
    pgbouncer::PgBouncer,
    postgres,
    retrieval::{SERVICE_KEY, Stand, vector},
    rows::{self, File},
};

async fn start(stand: &Stand, settings: &[(&str, &str)]) -> App {
    start_on(postgres::database().await, stand, settings).await
}

async fn start_on(database: postgres::Database, stand: &Stand, settings: &[(&str, &str)]) -> App {
    let base = format!("{}/v1", stand.url);
    let all =
        [("SUPABASE_URL", stand.url.as_str()), ("SUPABASE_SERVICE_ROLE_KEY", SERVICE_KEY), ("OPENAI_BASE_URL", &base)];
    let all: Vec<_> = all.into_iter().chain(settings.iter().copied()).collect();
    App::start_on(database, &all, ssrf_guard::system_lookup).await
}

/// A row of `files`, its object at `<owner>/<id>`.
async fn file(db: &PgPool, owner: &User, name: &str, sharing: &str) -> Uuid {
    File { name, path: None, sharing }.insert(db, owner.id).await
}

async fn item(db: &PgPool, owner: &User, file: Uuid, content: &str, tokens: i32) {
    rows::item(db, owner.id, file, (content, tokens), &vector(content)).await;
}

/// What is stored of a file: contents, tokens, and whether each has its own vector.
async fn stored(db: &PgPool, file: Uuid) -> (Vec<(String, i32)>, i32) {
    let items: Vec<(String, i32, Option<String>)> = sqlx::query_as(
        "select content, tokens, openai_embedding::text from public.file_items where file_id = $1 order by created_at",
    )
    .bind(file)
    .fetch_all(db)
    .await
    .expect("items");
    for (content, _, embedding) in &items {
        let embedding: Vec<f32> = serde_json::from_str(embedding.as_deref().expect("a vector")).expect("numbers");
        assert_eq!(embedding, vector(content), "each has its own vector");
    }
    let tokens = sqlx::query_scalar("select tokens from public.files where id = $1").bind(file).fetch_one(db).await;
    (items.into_iter().map(|(content, tokens, _)| (content, tokens)).collect(), tokens.expect("a file"))
}

fn process(app: &App, user: &User, file: Uuid, provider: &str) -> reqwest::RequestBuilder {
    let boundary = "a-boundary";
    let field = |name: &str, value: &str| {
        format!("--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
    };
    let form =
        format!("{}{}--{boundary}--\r\n", field("file_id", &file.to_string()), field("embeddingsProvider", provider));
    client()
        .post(app.url("/api/retrieval/process"))
        .header(AUTHORIZATION, user.bearer())
        .header("content-type", format!("multipart/form-data; boundary={boundary}"))
        .body(form)
}

fn post(app: &App, user: &User, route: &str, body: &Value) -> reqwest::RequestBuilder {
    client()
        .post(app.url(&format!("/api/retrieval/{route}")))
        .header(AUTHORIZATION, user.bearer())
        .body(body.to_string())
}

/// Replays one recorded case; the sentence says where it differs.
async fn replay(app: &App, stand: &Stand, case: &Value) -> Result<(), String> {
    let id = case["id"].as_str().expect("an id");
    let key = format!("sk-case-{id}");
    let (user, other) = (User::create(&app.db, &[]).await, User::create(&app.db, &[]).await);
    for (column, value) in case["profile"].as_object().expect("columns") {
        let sql = match value {
            Value::Bool(value) => {
                format!("update public.profiles set {column} = {value} where user_id = $1 and $2::text is null")
            }
            _ => format!("update public.profiles set {column} = $2 where user_id = $1"),
        };
        let text = value.as_str().map(|text| text.replace("KEY", &key).replace("http://127.0.0.1:9100", &stand.url));
        sqlx::query(sqlx::AssertSqlSafe(sql)).bind(user.id).bind(text).execute(&app.db).await.expect("a profile");
    }
    if let Some(status) = case["embed"]["status"].as_u64() {
        let times = case["embed"]["times"].as_u64().unwrap_or(u64::from(u32::MAX));
        stand.fail(
            &key,
            u16::try_from(status).expect("a status"),
            usize::try_from(times).expect("few"),
            case["embed"]["body"].clone(),
        );
    }
    let owner = if case["owner"] == "other" { other } else { user };
    let name = case["storedName"].as_str().or(case["file"].as_str()).unwrap_or("x.docx");
    let mut file = file(&app.db, &owner, name, "private").await;
    if let (Some(name), true) = (case["file"].as_str(), case["noObject"].is_null()) {
        let bytes =
            fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/retrieval/files").join(name)).expect(name);
        stand.put(&format!("{}/{file}", owner.id), bytes);
    }
    if case["kind"] == "retrieve" {
        for (number, content) in
            ["water is wet", "fire is hot", "earth is old", "air is thin", "water boils at 100"].iter().enumerate()
        {
            item(&app.db, &owner, file, content, 3 + i32::try_from(number).expect("small")).await;
        }
    }
    if case["noRow"] == true {
        file = Uuid::new_v4();
    }
    let mut body: Value =
        serde_json::from_str(&case["body"].to_string().replace("{{FILE_ID}}", &file.to_string())).expect("JSON");
    let request = match case["kind"].as_str() {
        Some("process") => process(app, &user, file, case["provider"].as_str().expect("a provider")),
        Some("docx") => {
            body["fileId"] = file.to_string().into();
            post(app, &user, "process/docx", &body)
        }
        _ => post(app, &user, "retrieve", &body),
    };
    let request = if case["auth"] == "none" { request.header(AUTHORIZATION, "none") } else { request };
    let mut request = request.build().expect("a request");
    if case["auth"] == "none" {
        request.headers_mut().remove(AUTHORIZATION);
    }
    let answer = client().execute(request).await.expect("an answer");
    let status = answer.status().as_u16();
    let text = answer.text().await.expect("whole");

    let expect = &case["expect"];
    let check = |what: &str, came: Value, wanted: &Value| {
        if came == *wanted {
            Ok(())
        } else {
            Err(format!("{id}: {what}: came {came:.400}, wanted {wanted:.400}; answer {text:.300}"))
        }
    };
    check("status", status.into(), &expect["status"])?;
    if expect["text"].is_string() {
        check("text", text.clone().into(), &expect["text"])?;
    }
    let json: Value = serde_json::from_str(&text).unwrap_or_default();
    if let Some(words) = expect["messageHas"].as_str() {
        if !json["message"].as_str().is_some_and(|message| message.contains(words)) {
            return Err(format!("{id}: no {words:?} in {text}"));
        }
    } else if expect["message"].is_string() {
        check("message", json["message"].clone(), &expect["message"])?;
    }
    if expect["json"].is_object() {
        check("json", json.clone(), &expect["json"])?;
    }
    if let Some(results) = expect["results"].as_array() {
        let came = json["results"].as_array().cloned().unwrap_or_default();
        check("how many results", came.len().into(), &results.len().into())?;
        for (came, wanted) in came.iter().zip(results) {
            check("content", came["content"].clone(), &wanted["content"])?;
            check("tokens", came["tokens"].clone(), &wanted["tokens"])?;
            let near = |value: &Value| value.as_f64().expect("a number");
            if (near(&came["similarity"]) - near(&wanted["similarity"])).abs() > 1e-5 {
                return Err(format!("{id}: similarity {came} for {wanted}"));
            }
        }
    }
    if let Some(chunks) = expect["chunks"].as_array() {
        let (items, tokens) = stored(&app.db, file).await;
        let items: Vec<Value> =
            items.into_iter().map(|(content, tokens)| json!({ "content": content, "tokens": tokens })).collect();
        check("chunks", items.into(), &chunks.clone().into())?;
        check("tokens", tokens.into(), &expect["totalTokens"])?;
    }
    let asked = stand.asked(&key);
    // For somebody else's file it says nothing of calls; an empty one makes none.
    let calls = expect["embeddings"].as_array().cloned();
    let Some(calls) = calls.or((case["kind"] != "retrieve").then(Vec::new)) else { return Ok(()) };
    check("how many calls", asked.len().into(), &calls.len().into())?;
    for (asked, wanted) in asked.iter().zip(&calls) {
        check("path", asked.path.clone().into(), &wanted["path"])?;
        check("model", asked.body["model"].clone(), &wanted["model"])?;
        for (name, value) in wanted["headers"].as_object().expect("headers") {
            check(name, asked.headers[name].replace(&key, "KEY").into(), value)?;
        }
        let input = &asked.body["input"];
        check(
            "input",
            if wanted["input"].is_u64() { input.as_array().map(Vec::len).into() } else { input.clone() },
            &wanted["input"],
        )?;
    }
    Ok(())
}

#[tokio::test]
async fn the_originals_recordings() {
    for database in [postgres::database().await, postgres::supabase_database_for_an_app().await] {
        let stand = Stand::start();
        let app = start_on(database, &stand, &[]).await;
        let cases: Vec<Value> = serde_json::from_str(include_str!("../retrieval/cases.json")).expect("JSON");
        let mut failed = Vec::new();
        for case in &cases {
            failed.extend(replay(&app, &stand, case).await.err());
        }
        assert_eq!(cases.len(), 43);
        assert!(failed.is_empty(), "{} of {} cases:\n{}", failed.len(), cases.len(), failed.join("\n"));
    }
}

#[tokio::test]
async fn processing_again_replaces_and_failing_changes_nothing() {
    let stand = Stand::start();
    let app = start(&stand, &[]).await;
    let user = app.user(&[("openai_api_key", "k")]).await;
    let file = file(&app.db, &user, "a.txt", "private").await;
    let path = format!("{}/{file}", user.id);
    for (content, tokens) in [("one two", 2), ("three", 1)] {
        stand.put(&path, content.into());
        assert_eq!(process(&app, &user, file, "openai").send().await.expect("an answer").status(), 200);
        assert_eq!(stored(&app.db, file).await, (vec![(content.to_owned(), tokens)], tokens));
    }
    stand.fail("k", 400, 1, json!({ "error": { "message": "no" } }));
    stand.put(&path, b"four".to_vec());
    assert_eq!(
        message(process(&app, &user, file, "openai").send().await.expect("an answer")).await,
        (400, "400 no".to_owned())
    );
    stand.put(&path, b" \n".to_vec());
    assert_eq!(
        message(process(&app, &user, file, "openai").send().await.expect("an answer")).await,
        (422, "The file has no text. Upload one that has".to_owned())
    );
    assert_eq!(stored(&app.db, file).await.0, [("three".to_owned(), 1)]);
    // A special token is text, and what Postgres cannot hold is left out.
    stand.put(&path, b"a <|endoftext|> b\0c".to_vec());
    let answer = process(&app, &user, file, "openai").send().await.expect("an answer");
    // Chromium would not end a request whose body the page leaves unread.
    assert_eq!(answer.headers()["cache-control"], "private, no-cache");
    assert_eq!(answer.headers()["content-length"], "16");
    assert_eq!(answer.text().await.expect("whole"), "Embed Successful");
}

#[tokio::test]
async fn vectors_and_the_answers_they_come_in_count_among_the_bytes_that_a_user_holds() {
    let stand = Stand::start();
    // A vector has 6 KB, and some 30 KB as JSON.
    let app = start(&stand, &[("MAX_BUFFERED_BYTES", "800000")]).await;
    let user = app.user(&[("openai_api_key", "k")]).await;
    for (rows, status) in [(3, 200), (20, 503), (3, 200)] {
        let file = file(&app.db, &user, "a.csv", "private").await;
        let rows: Vec<String> = (0..rows).map(|number| format!("{number},{}", "word ".repeat(500))).collect();
        stand.put(&format!("{}/{file}", user.id), format!("a,b\n{}", rows.join("\n")).into_bytes());
        let answer = process(&app, &user, file, "openai").send().await.expect("an answer");
        assert_eq!(answer.status(), status, "{} rows", rows.len());
    }
}

#[tokio::test]
async fn a_long_file_goes_in_batches() {
    let stand = Stand::start();
    let app = start(&stand, &[]).await;
    let user = app.user(&[("openai_api_key", "k")]).await;
    let file = file(&app.db, &user, "a.csv", "private").await;
    // Most of the time would go into the index.
    let index = "drop index public.file_items_openai";
    sqlx::query(index).execute(&app.db).await.expect("an index");
    // One passage for every row: more than a batch and more than a statement.
    let rows: Vec<String> = (0..1200).map(|number| format!("{number},{}", "word ".repeat(500))).collect();
    stand.put(&format!("{}/{file}", user.id), format!("a,b\n{}", rows.join("\n")).into_bytes());
    assert_eq!(process(&app, &user, file, "openai").send().await.expect("an answer").status(), 200);
    let (items, _) = stored(&app.db, file).await;
    let asked = stand.asked("k");
    let sizes: Vec<usize> = asked.iter().map(|asked| asked.body["input"].as_array().map_or(0, Vec::len)).collect();
    assert!(items.len() > 1000 && sizes.len() > 1, "{} {sizes:?}", items.len());
    assert_eq!(sizes.iter().sum::<usize>(), items.len());
    assert!(sizes.iter().all(|size| *size <= 512));
}

#[tokio::test]
async fn files_are_read_by_their_owner_or_when_shared() {
    let stand = Stand::start();
    let app = start_on(postgres::supabase_database_for_an_app().await, &stand, &[]).await;
    let owner = app.user(&[("openai_api_key", "k")]).await;
    let other = app.user(&[("openai_api_key", "k")]).await;
    let [private, public, in_private, in_shared] =
        [("p", "private"), ("s", "public"), ("c", "private"), ("d", "private")].map(async |(content, sharing)| {
            let id = file(&app.db, &owner, "a.txt", sharing).await;
            item(&app.db, &owner, id, content, 1).await;
            id
        });
    let (private, public, in_private, in_shared) = (private.await, public.await, in_private.await, in_shared.await);
    for (file, sharing) in [(in_private, "private"), (in_shared, "public")] {
        let collection: Uuid = sqlx::query_scalar(
            "insert into public.collections (user_id, sharing, name) values ($1, $2, '') returning id",
        )
        .bind(owner.id)
        .bind(sharing)
        .fetch_one(&app.db)
        .await
        .expect("a collection");
        sqlx::query("insert into public.collection_files (user_id, collection_id, file_id) values ($1, $2, $3)")
            .bind(owner.id)
            .bind(collection)
            .bind(file)
            .execute(&app.db)
            .await
            .expect("a member");
    }
    let found = async |user: &User| {
        let body = json!({ "userInput": "x", "fileIds": [private, public, in_private, in_shared], "embeddingsProvider": "openai", "sourceCount": 10 });
        let text = post(&app, user, "retrieve", &body).send().await.expect("an answer").text().await.expect("whole");
        let json: Value = serde_json::from_str(&text).expect("JSON");
        let mut found: Vec<String> = json["results"]
            .as_array()
            .expect("results")
            .iter()
            .map(|item| item["content"].as_str().expect("text").to_owned())
            .collect();
        found.sort();
        found.concat()
    };
    assert_eq!(found(&owner).await, "cdps");
    assert_eq!(found(&other).await, "ds");

    // Nor can anybody write there, by any way.
    for file in [private, public, in_shared] {
        stand.put(&format!("{}/{file}", owner.id), b"mine now".to_vec());
        assert_eq!(
            message(process(&app, &other, file, "openai").send().await.expect("an answer")).await,
            (500, "Unauthorized".to_owned())
        );
        let body =
            json!({ "text": "mine now", "fileId": file, "embeddingsProvider": "openai", "fileExtension": "docx" });
        assert_eq!(
            message(post(&app, &other, "process/docx", &body).send().await.expect("an answer")).await,
            (500, "Unauthorized".to_owned())
        );
    }
    let nobody = Uuid::new_v4();
    let body = json!({ "text": "x", "fileId": nobody, "embeddingsProvider": "openai", "fileExtension": "docx" });
    assert_eq!(
        message(post(&app, &other, "process/docx", &body).send().await.expect("an answer")).await.1,
        "Unauthorized"
    );
    let untouched: i64 = sqlx::query_scalar("select count(*) from public.file_items where content = 'mine now'")
        .fetch_one(&app.db)
        .await
        .expect("a count");
    assert_eq!(untouched, 0);
}

#[tokio::test]
async fn a_path_into_somebody_elses_folder_is_refused() {
    let stand = Stand::start();
    let app = start(&stand, &[]).await;
    let (user, other) = (app.user(&[("openai_api_key", "k")]).await, app.user(&[]).await);
    let file = file(&app.db, &user, "a.txt", "private").await;
    stand.put(&format!("{}/secret", other.id), b"secret".to_vec());
    for path in [
        format!("{}/secret", other.id),
        format!("{}/../{}/secret", user.id, other.id),
        format!("{}//secret", other.id),
        format!("./{}/secret", other.id),
        String::new(),
    ] {
        sqlx::query("update public.files set file_path = $1 where id = $2")
            .bind(&path)
            .bind(file)
            .execute(&app.db)
            .await
            .expect("an update");
        let (status, words) = message(process(&app, &user, file, "openai").send().await.expect("an answer")).await;
        assert!(status == 500 && words.starts_with("Failed to retrieve file"), "{path}: {status} {words}");
    }
    assert!(stored(&app.db, file).await.0.is_empty());
}

#[tokio::test]
async fn what_storage_cannot_give_is_said() {
    let stand = Stand::start();
    let user_of = async |app: &App| app.user(&[("openai_api_key", "k")]).await;
    for (settings, status, words) in [
        (vec![("MAX_FILE_BYTES", "10")], 413, "The file is larger than 10 bytes"),
        (vec![("SUPABASE_SERVICE_ROLE_KEY", "")], 500, "SUPABASE_SERVICE_ROLE_KEY is not set"),
        (
            vec![("SUPABASE_SERVICE_ROLE_KEY", "wrong")],
            500,
            "the server's key for the storage does not open it. Its operator has to set SUPABASE_SERVICE_ROLE_KEY to this project's",
        ),
        (vec![("SUPABASE_URL", "http://127.0.0.1:9")], 500, "the storage server cannot be reached"),
    ] {
        let app = start(&stand, &settings).await;
        let user = user_of(&app).await;
        let file = file(&app.db, &user, "a.txt", "private").await;
        stand.put(&format!("{}/{file}", user.id), vec![b'x'; 100]);
        let (came, said) = message(process(&app, &user, file, "openai").send().await.expect("an answer")).await;
        assert!(came == status && said.contains(words), "{came} {said}");
    }
}

#[tokio::test]
async fn forms_and_bodies_that_are_none() {
    let stand = Stand::start();
    let app = start(&stand, &[]).await;
    let user = app.user(&[("openai_api_key", "k")]).await;
    let form = |content_type: &'static str, body: &'static str| {
        let request = client().post(app.url("/api/retrieval/process")).header(AUTHORIZATION, user.bearer());
        request.header("content-type", content_type).body(body).send()
    };
    for (content_type, body, status, words) in [
        ("text/plain", "x", 400, "Content-Type was not one of"),
        ("multipart/form-data", "x", 400, "Failed to parse body as FormData."),
        ("multipart/form-data; boundary=b", "--b\r\nnonsense", 400, "Failed to parse body as FormData."),
        (
            "application/x-www-form-urlencoded",
            "file_id=7&embeddingsProvider=openai",
            500,
            "Failed to retrieve file metadata",
        ),
        ("application/x-www-form-urlencoded", "", 500, "Failed to retrieve file metadata"),
    ] {
        let (came, said) = message(form(content_type, body).await.expect("an answer")).await;
        assert!(came == status && said.starts_with(words), "{content_type}: {came} {said}");
    }
    for (route, body, words) in [
        ("retrieve", json!({ "fileIds": [], "embeddingsProvider": "openai" }), "userInput is missing"),
        (
            "retrieve",
            json!({ "userInput": "x", "fileIds": ["7"], "embeddingsProvider": "openai" }),
            "fileIds must be UUIDs",
        ),
        (
            "retrieve",
            json!({ "userInput": "x", "embeddingsProvider": "openai", "sourceCount": 1.5 }),
            "sourceCount must be a whole number",
        ),
        (
            "process/docx",
            json!({ "text": "x", "fileId": "7", "embeddingsProvider": "openai", "fileExtension": "docx" }),
            "fileId must be a UUID",
        ),
    ] {
        assert_eq!(
            message(post(&app, &user, route, &body).send().await.expect("an answer")).await,
            (400, words.to_owned())
        );
    }
    let other = json!({ "userInput": "x", "embeddingsProvider": "none" });
    assert_eq!(
        post(&app, &user, "retrieve", &other).send().await.expect("an answer").text().await.expect("whole"),
        r#"{"results":[]}"#
    );
}

#[tokio::test]
async fn as_many_as_asked_for_are_found_beside_a_large_index() {
    let stand = Stand::start();
    let app = start(&stand, &[]).await;
    let (user, other) = (app.user(&[("openai_api_key", "k")]).await, app.user(&[]).await);
    let (mine, theirs) =
        (file(&app.db, &user, "a.txt", "private").await, file(&app.db, &other, "b.txt", "private").await);
    for number in 0..6 {
        item(&app.db, &user, mine, &format!("mine {number}"), 1).await;
    }
    // Many that lie nearer, in a file that is not asked about: an index that
    // is filtered afterwards would come back empty.
    sqlx::query(
        "insert into public.file_items (file_id, user_id, content, tokens, openai_embedding) \
         select $1, $2, 'theirs', 1, array_to_vector(array(select (($3::float4[])[i] + random() / 1000)::float4 from generate_series(1, 1536) i where n > 0), 1536, true) \
         from generate_series(1, 400) n",
    )
    .bind(theirs)
    .bind(other.id)
    .bind(vector("the question"))
    .execute(&app.db)
    .await
    .expect("many");
    let body =
        json!({ "userInput": "the question", "fileIds": [mine], "embeddingsProvider": "openai", "sourceCount": 5 });
    let started = Instant::now();
    let text = post(&app, &user, "retrieve", &body).send().await.expect("an answer").text().await.expect("whole");
    let json: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(json["results"].as_array().map(Vec::len), Some(5), "{text:.300}");
    assert!(started.elapsed().as_secs() < 2);
}

#[tokio::test]
async fn local_embeddings_say_what_they_need() {
    let stand = Stand::start();
    let app = start(&stand, &[]).await;
    // No key is needed for them.
    let user = app.user(&[]).await;
    let file = file(&app.db, &user, "a.txt", "private").await;
    stand.put(&format!("{}/{file}", user.id), b"some text".to_vec());
    let (status, words) = message(process(&app, &user, file, "local").send().await.expect("an answer")).await;
    assert!(status == 500 && words.starts_with("Local embeddings need the model all-MiniLM-L6-v2"), "{words}");
    let question = json!({ "userInput": "x", "fileIds": [file], "embeddingsProvider": "local", "sourceCount": 4 });
    let (status, words) = message(post(&app, &user, "retrieve", &question).send().await.expect("an answer")).await;
    assert!(status == 500 && words.contains("LOCAL_EMBEDDINGS_DIR"), "{words}");
}

#[cfg(feature = "local-embeddings")]
#[tokio::test]
async fn local_embeddings_find_what_they_stored() {
    let model = tiny::wide_model();
    let folder = model.path().to_str().expect("a path").to_owned();
    let stand = Stand::start();
    let app =
        start_on(postgres::supabase_database_for_an_app().await, &stand, &[("LOCAL_EMBEDDINGS_DIR", &folder)]).await;
    let user = app.user(&[]).await;
    let file = file(&app.db, &user, "a.csv", "private").await;
    // Three passages of one row each.
    let rows = ["x".repeat(3000), "the river".repeat(400), "7 8 9 ".repeat(600)];
    stand.put(&format!("{}/{file}", user.id), format!("a\n{}\n{}\n{}", rows[0], rows[1], rows[2]).into_bytes());
    assert_eq!(process(&app, &user, file, "local").send().await.expect("an answer").status(), 200);
    let passages: Vec<(String, Option<String>)> =
        sqlx::query_as("select content, openai_embedding::text from public.file_items where file_id = $1 and local_embedding is not null")
            .bind(file)
            .fetch_all(&app.db)
            .await
            .expect("items");
    assert_eq!(passages.len(), 3);
    for (content, openai) in passages {
        assert_eq!(openai, None);
        let question =
            json!({ "userInput": content, "fileIds": [file], "embeddingsProvider": "local", "sourceCount": 1 });
        let text =
            post(&app, &user, "retrieve", &question).send().await.expect("an answer").text().await.expect("whole");
        let found: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(found["results"][0]["content"], content, "a passage is nearest to itself");
        assert!(found["results"][0]["similarity"].as_f64().expect("a number") > 0.999);
    }
}

/// Transactions of several statements, several at once, on two connections.
#[tokio::test]
async fn files_are_stored_and_found_through_pgbouncer() {
    let database = postgres::database().await;
    let Some(pooler) = PgBouncer::start(&database.role_url).await else { return };
    let stand = Stand::start();
    let url = pooler.url(&database.role_url);
    let app = start_on(database, &stand, &[("DATABASE_URL", &url), ("DATABASE_POOLER", "transaction")]).await;
    let user = app.user(&[("openai_api_key", "sk-case-bouncer")]).await;
    let store_and_find = async |number: usize| {
        let text = format!("the passage of file {number}");
        let file = file(&app.db, &user, "a.txt", "private").await;
        stand.put(&format!("{}/{file}", user.id), text.clone().into_bytes());
        let answer = process(&app, &user, file, "openai").send().await.expect("an answer");
        assert_eq!(answer.status(), 200, "{}", answer.text().await.expect("text"));
        let question =
            json!({ "userInput": text, "fileIds": [file], "embeddingsProvider": "openai", "sourceCount": 4 });
        let answer = post(&app, &user, "retrieve", &question).send().await.expect("an answer");
        let found: Value = serde_json::from_str(&answer.text().await.expect("text")).expect("JSON");
        assert_eq!(found["results"][0]["content"], text, "{found}");
    };
    futures::future::join_all((0..8).map(store_and_find)).await;
}
