//! Authorization, row by row of the route table. A new row fails here until
//! it has a rule of its own: which ids it is told, and what it may say of them.

use chatbot_ui_api::{
    http::table::{self, Access, Row},
    http_client::ssrf_guard,
};
use reqwest::{
    RequestBuilder,
    header::{AUTHORIZATION, CONTENT_TYPE},
};
use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;

use crate::support::{
    App, User, chat_body, client, message, postgres,
    retrieval::{SERVICE_KEY, Stand, vector},
    rows::{self, File},
    upstream::{Reply, Upstream},
};

/// A user's rows; or ids of the same kinds that do not exist.
#[derive(Clone, Copy)]
struct Things {
    user: Uuid,
    model: Uuid,
    file: Uuid,
    item: Uuid,
}

impl Things {
    fn nobodys() -> Self {
        let [user, model, file, item] = [(); 4].map(|()| Uuid::new_v4());
        Self { user, model, file, item }
    }

    /// A text with these ids taken out, so that answers can be compared.
    fn without_ids(self, text: &str) -> String {
        [self.user, self.model, self.file, self.item]
            .iter()
            .fold(text.to_owned(), |text, id| text.replace(&id.to_string(), "ID"))
    }
}

/// A request, and what its answer may tell.
struct Attempt {
    what: &'static str,
    body: Body,
    told: Told,
}

enum Body {
    Json(Value),
    /// With a boundary of its own.
    Form(Vec<(&'static str, String)>),
    None,
}

enum Told {
    /// The same as of ids that do not exist.
    AsOfNobodys,
    /// This, because it is everybody's to know.
    Open(u16, Value),
    /// These words of somebody else's, as the original has them: whoever has
    /// the id of a file, which is random, learns that it is one.
    Words(&'static str),
}

/// The rule of each row: every way in which it can be told whose things it is
/// asked for. `own` is a file of the one who asks.
fn attempts(path: &str, things: Things, name: &str, own: Uuid) -> Vec<Attempt> {
    let Things { user, model, file, item } = things;
    let json = |what, body: Value| Attempt { what, body: Body::Json(body), told: Told::AsOfNobodys };
    // What these read is the user's own profile: naming another in the
    // body is not heard.
    let named_in_body = || {
        let mut body = chat_body();
        body["customModelId"] = json!(model);
        body["user_id"] = json!(user);
        body["userId"] = json!(user);
        body["profile"] = json!({ "user_id": user, "openai_api_key": null });
        body["chatSettings"]["userId"] = json!(user);
        body["messages"][0]["file_id"] = json!(file);
        body["fileIds"] = json!([file, item]);
        body["input"] = json!("hello");
        body["selectedTools"] = json!([{ "name": "t", "schema": { "id": file } }]);
        vec![json("ids that no member is for", body)]
    };
    let question = |files: Value, maker: &str| json!({ "userInput": "water", "fileIds": files, "embeddingsProvider": maker, "sourceCount": 10 });
    match path {
        "/api/chat/openai"
        | "/api/chat/groq"
        | "/api/chat/mistral"
        | "/api/chat/openrouter"
        | "/api/chat/perplexity"
        | "/api/chat/azure"
        | "/api/chat/anthropic"
        | "/api/chat/google"
        | "/api/chat/tools"
        | "/api/command" => named_in_body(),
        "/api/chat/custom" => {
            let mut upper = chat_body();
            upper["customModelId"] = json!(model.to_string().to_uppercase());
            let mut upper = json("in capitals", upper);
            upper.what = "the model's id in capitals";
            named_in_body().into_iter().chain([upper]).collect()
        }
        "/api/retrieval/process" => {
            let form = |what, maker: &str, told| Attempt {
                what,
                body: Body::Form(vec![
                    ("file_id", file.to_string()),
                    ("embeddingsProvider", maker.to_owned()),
                    ("user_id", user.to_string()),
                ]),
                told,
            };
            vec![
                form("a file", "openai", Told::Words("Unauthorized")),
                form("a file, without vectors", "none", Told::Words("Unauthorized")),
            ]
        }
        "/api/retrieval/process/docx" => ["openai", "none"]
            .map(|maker| {
                json(
                    "a file",
                    json!({ "text": "mine now", "fileId": file, "embeddingsProvider": maker, "fileExtension": "docx" }),
                )
            })
            .into(),
        "/api/retrieval/retrieve" => vec![
            json("a file", question(json!([file]), "openai")),
            json("among one's own", question(json!([own, file, own]), "openai")),
            json("a passage and a user", question(json!([item, user, model]), "openai")),
        ],
        // Not counted there.
        "/api/usage" | "/api/assistants/openai" => {
            vec![Attempt { what: "nothing", body: Body::None, told: Told::AsOfNobodys }]
        }
        // User names are for all who are signed in: by them workspaces are shared.
        "/api/username/available" => vec![Attempt {
            what: "a name",
            body: Body::Json(json!({ "username": name, "userId": user })),
            told: Told::Open(200, json!({ "isAvailable": false })),
        }],
        "/api/username/get" => vec![Attempt {
            what: "a user",
            body: Body::Json(json!({ "userId": user })),
            told: Told::Open(200, json!({ "username": name })),
        }],
        // Which keys the server has, whether it is well, how it is asked.
        "/api/keys" | "/healthz" | "/readyz" | "/openapi.json" | "/openapi-3.0.json" | "/api/docs" => Vec::new(),
        other => panic!("no rule for {other}: say here which ids it is told, and what may come of it"),
    }
}

fn request(app: &App, row: &Row, body: &Body) -> RequestBuilder {
    let request = client().request(row.method.as_str().parse().expect("a method"), app.url(&row.path));
    match body {
        Body::None => request,
        Body::Json(body) => request.body(body.to_string()),
        Body::Form(fields) => {
            let field = |(name, value): &(&str, String)| {
                format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
            };
            let form: String = fields.iter().map(field).collect();
            request.header(CONTENT_TYPE, "multipart/form-data; boundary=b").body(format!("{form}--b--\r\n"))
        }
    }
}

async fn answer(request: RequestBuilder) -> (u16, String) {
    let answer = request.send().await.expect("an answer");
    (answer.status().as_u16(), answer.text().await.expect("whole"))
}

/// A user with their own keys for everything, and rows of all kinds.
async fn somebody(app: &App, stand: &Stand, key: &str, model_url: &str) -> (User, Things) {
    let columns = [
        "openai_api_key",
        "groq_api_key",
        "mistral_api_key",
        "openrouter_api_key",
        "perplexity_api_key",
        "azure_openai_api_key",
        "anthropic_api_key",
        "google_gemini_api_key",
        "azure_openai_45_vision_id",
        "azure_openai_45_turbo_id",
        "azure_openai_35_turbo_id",
    ];
    let endpoint = ("azure_openai_endpoint", stand.url.as_str());
    let profile: Vec<(&str, &str)> = columns.iter().map(|column| (*column, key)).chain([endpoint]).collect();
    let user = app.user(&profile).await;
    let model = rows::model(&app.db, user.id, model_url, key).await;
    let file = file(&app.db, &user, &format!("{}/notes", user.id)).await;
    stand.put(&format!("{}/notes", user.id), format!("the notes of {key}").into_bytes());
    let passage = format!("the water of {key}");
    let item = rows::item(&app.db, user.id, file, (&passage, 3), &vector("water")).await;
    (user, Things { user: user.id, model, file, item })
}

async fn file(db: &PgPool, owner: &User, path: &str) -> Uuid {
    File { name: "notes.txt", path: Some(path), sharing: "private" }.insert(db, owner.id).await
}

/// All that a user has, as text.
async fn all_of(db: &PgPool, user: &User) -> String {
    let sql = "select string_agg(line, ' ' order by line) from ( \
                   select p::text as line from public.profiles p where user_id = $1 union all \
                   select m::text from public.models m where user_id = $1 union all \
                   select f::text from public.files f where user_id = $1 union all \
                   select i::text from public.file_items i where user_id = $1) rows";
    sqlx::query_scalar(sql).bind(user.id).fetch_one(db).await.expect("rows")
}

async fn start(stand: &Stand) -> App {
    let base = format!("{}/v1", stand.url);
    let names = [
        "OPENAI_BASE_URL",
        "GROQ_BASE_URL",
        "MISTRAL_BASE_URL",
        "OPENROUTER_BASE_URL",
        "PERPLEXITY_BASE_URL",
        "ANTHROPIC_BASE_URL",
        "GOOGLE_GEMINI_BASE_URL",
    ];
    let settings = [("SUPABASE_URL", stand.url.as_str()), ("SUPABASE_SERVICE_ROLE_KEY", SERVICE_KEY)];
    let settings: Vec<(&str, &str)> = names.iter().map(|name| (*name, base.as_str())).chain(settings).collect();
    App::start_on(postgres::database().await, &settings, ssrf_guard::system_lookup).await
}

#[tokio::test]
async fn without_a_session_a_users_row_is_not_served() {
    let stand = Stand::start();
    let app = start(&stand).await;
    for row in table::table() {
        let things = Things::nobodys();
        // Every row must have a rule.
        let attempts = attempts(&row.path, things, "x", things.file);
        match row.access {
            Access::User => {
                assert!(!attempts.is_empty(), "{}: no attempt", row.path);
                for body in attempts.iter().map(|attempt| &attempt.body).chain([&Body::None]) {
                    let came = answer(request(&app, &row, body)).await;
                    assert_eq!(came, (500, r#"{"message":"User not found"}"#.to_owned()), "{}", row.path);
                    let forged = request(&app, &row, body).header(AUTHORIZATION, "Bearer a.b.c");
                    assert_eq!(answer(forged).await.0, 401, "{}", row.path);
                }
            }
            Access::Anyone => assert!(attempts.is_empty(), "{}: its answer depends on no id", row.path),
        }
    }
}

#[tokio::test]
async fn what_is_anothers_is_as_what_is_not_there() {
    let (stand, upstream) = (Stand::start(), Upstream::start().await);
    upstream.script("sk-case-victim", vec![Reply::json(400, &json!({ "error": { "message": "asked" } }))]);
    let app = start(&stand).await;
    let (victim, theirs) = somebody(&app, &stand, "sk-case-victim", &upstream.url()).await;
    let (other, own) = somebody(&app, &stand, "sk-case-other", &upstream.url()).await;
    let name: String = sqlx::query_scalar("select username from public.profiles where user_id = $1")
        .bind(victim.id)
        .fetch_one(&app.db)
        .await
        .expect("a name");
    let before = all_of(&app.db, &victim).await;

    for row in table::table().iter().filter(|row| row.access == Access::User) {
        let nobodys = Things::nobodys();
        let pairs = attempts(&row.path, theirs, &name, own.file).into_iter();
        for (of_theirs, of_nobodys) in pairs.zip(attempts(&row.path, nobodys, "nobody's name", own.file)) {
            let ask = |attempt: &Attempt, user: &User| {
                answer(request(&app, row, &attempt.body).header(AUTHORIZATION, user.bearer()))
            };
            let what = format!("{}: {}", row.path, of_theirs.what);
            let (status, text) = ask(&of_theirs, &other).await;
            assert!(!text.contains("sk-case-victim"), "{what}: {text}");
            match &of_theirs.told {
                Told::AsOfNobodys => {
                    let (expected, words) = ask(&of_nobodys, &other).await;
                    assert_eq!((status, theirs.without_ids(&text)), (expected, nobodys.without_ids(&words)), "{what}");
                }
                Told::Open(expected, body) => {
                    assert_eq!((status, serde_json::from_str(&text).ok().as_ref()), (*expected, Some(body)), "{what}");
                }
                Told::Words(words) => {
                    assert_eq!((status, text), (500, json!({ "message": words }).to_string()), "{what}")
                }
            }
        }
        assert_eq!(all_of(&app.db, &victim).await, before, "{}", row.path);
        assert!(stand.asked("sk-case-victim").is_empty() && upstream.connections() == 0, "{}", row.path);
        assert!(
            !stand.asked("sk-case-other").iter().any(|asked| asked.body.to_string().contains("victim")),
            "{}",
            row.path
        );
    }

    // The ids are right: to their owner each of them is something else.
    for path in ["/api/chat/custom", "/api/retrieval/retrieve", "/api/retrieval/process", "/api/retrieval/process/docx"]
    {
        let table = table::table();
        let row = table.iter().find(|row| row.path == path).expect(path);
        let ask = |things| {
            let attempt = attempts(path, things, &name, theirs.file).swap_remove(0);
            answer(request(&app, row, &attempt.body).header(AUTHORIZATION, victim.bearer()))
        };
        assert_ne!(ask(theirs).await, ask(Things::nobodys()).await, "{path}");
    }
}

#[tokio::test]
async fn a_files_path_never_leads_into_another_users_folder() {
    let stand = Stand::start();
    let app = start(&stand).await;
    let (victim, _) = somebody(&app, &stand, "sk-case-victim", "http://h").await;
    let (other, _) = somebody(&app, &stand, "sk-case-other", "http://h").await;
    let table = table::table();
    let row = table.iter().find(|row| row.path == "/api/retrieval/process").expect("the route");
    let (theirs, own) = (victim.id, other.id);
    for path in [
        format!("{theirs}/notes"),
        format!("/{theirs}/notes"),
        format!("{own}/../{theirs}/notes"),
        format!("./{theirs}/notes"),
        format!("{own}/..\\..\\{theirs}/notes"),
        format!("{own}\\..\\{theirs}\\notes"),
        format!("{own}/%2e%2e/{theirs}/notes"),
        format!("{own}/..%2f{theirs}%2fnotes"),
        format!("%2e%2e/files/{theirs}/notes"),
        format!("{}/notes", theirs.to_string().to_uppercase()),
        format!("{{{theirs}}}/notes"),
        format!("{}/notes", theirs.simple()),
        format!("urn:uuid:{theirs}/notes"),
        format!("{theirs}/notes?x=/{own}/"),
        format!("{own}/../../../../rest/v1/profiles"),
        format!("{own}/\n/{theirs}/notes"),
        "..".to_owned(),
        String::new(),
    ] {
        let file = file(&app.db, &other, &path).await;
        let form = Body::Form(vec![("file_id", file.to_string()), ("embeddingsProvider", "openai".to_owned())]);
        let asked = request(&app, row, &form).header(AUTHORIZATION, other.bearer()).send().await;
        let (status, words) = message(asked.expect("an answer")).await;
        assert!(status == 500 && words.starts_with("Failed to retrieve file: "), "{path:?}: {status} {words}");
    }
    assert!(stand.asked("sk-case-other").is_empty(), "nothing was read");
}

#[tokio::test]
async fn what_anyone_is_told_is_no_secret() {
    let settings = [("OPENAI_API_KEY", "sk-MARKED"), ("AZURE_OPENAI_ENDPOINT", "https://MARKED.example")];
    let app = App::start(&settings).await;
    for row in table::table().iter().filter(|row| row.access == Access::Anyone) {
        let (status, text) = answer(request(&app, row, &Body::None)).await;
        assert!(status == 200 && !text.contains("MARKED") && !text.contains("only-for-tests"), "{}: {text}", row.path);
        if row.path == "/api/keys" {
            let keys: Value = serde_json::from_str(&text).expect("JSON");
            assert!(keys["isUsingEnvKeyMap"].as_object().expect("names").values().all(Value::is_boolean));
        }
    }
}
