//! Stand-ins for the parts of Supabase that the playground's page calls: signing in (GoTrue), three tables (PostgREST)
//! and uploading (Storage). Their responses have the original format, for the demo's one user only.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use actix_web::{
    HttpRequest, HttpResponse,
    http::header::AUTHORIZATION,
    web::{self, Bytes, Data, Json, Path, Query, ServiceConfig},
};
use jsonwebtoken::get_current_timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;

use crate::{cli::session, error::Error, http::user::User, playground::DemoUser};

/// Lifetime of an access token, as in Supabase; the page refreshes it in time.
const LIFETIME: Duration = Duration::from_hours(1);
/// Size limit of all uploads together, which are kept in memory.
const ROOM: usize = 64 * 1024 * 1024;

/// The id of the user's tool.
const TOOL: Uuid = Uuid::from_u128(0xdec0_0000_0000_4000_8000_0000_0000_0003);

/// The stand-ins' shared state.
pub struct Supabase {
    /// The demo's database, as its superuser.
    pub db: PgPool,
    /// Signs access tokens.
    pub jwt_secret: String,
    /// The user who can sign in.
    pub user: (Uuid, DemoUser),
    /// The address of the OpenAPI document of the user's one tool.
    pub tool: String,
    /// The key that the server sends to read an upload.
    pub service_key: String,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    /// Sessions by refresh token; each token is valid once.
    refresh_tokens: HashMap<String, Uuid>,
    objects: HashMap<String, Bytes>,
}

impl Supabase {
    /// Creates stand-ins that know `user` and have no sessions yet.
    pub fn new(db: PgPool, jwt_secret: String, user: (Uuid, DemoUser), tool: String) -> Self {
        let service_key = format!("sb_secret_{}", Uuid::new_v4().simple());
        Self { db, jwt_secret, user, tool, service_key, kept: Mutex::default() }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_user(&self, form: &Value) -> bool {
        let (_, user) = &self.user;
        form["email"] == user.email && form["password"] == user.password
    }

    /// Returns a new access token and a new refresh token in GoTrue's format.
    fn session(&self, session: Uuid) -> Result<Value, Error> {
        let (id, DemoUser { email, .. }) = &self.user;
        let token =
            session::access_token(session::Signer::Secret(self.jwt_secret.as_bytes()), *id, email, session, LIFETIME);
        let refresh_token = Uuid::new_v4().simple().to_string();
        self.kept().refresh_tokens.insert(refresh_token.clone(), session);
        Ok(json!({
            "access_token": token.map_err(Error::Internal)?,
            "token_type": "bearer",
            "expires_in": LIFETIME.as_secs(),
            "expires_at": get_current_timestamp() + LIFETIME.as_secs(),
            "refresh_token": refresh_token,
            "user": { "id": id, "aud": "authenticated", "role": "authenticated", "email": email },
        }))
    }
}

/// Routes for the page, at the page's own address.
pub fn for_the_page(routes: &mut ServiceConfig, supabase: Data<Supabase>) {
    routes
        .app_data(supabase)
        .app_data(web::PayloadConfig::new(ROOM))
        .route("/auth/v1/token", web::post().to(token))
        .route("/auth/v1/logout", web::post().to(sign_out))
        .route("/rest/v1/models", web::get().to(models))
        .route("/rest/v1/tools", web::get().to(tools))
        .route("/rest/v1/files", web::post().to(add_file))
        .route("/storage/v1/object/files/{path:.*}", web::post().to(upload));
}

/// Routes for the server, at `SUPABASE_URL`.
pub fn for_the_server(routes: &mut ServiceConfig, supabase: Data<Supabase>) {
    routes.app_data(supabase).route("/storage/v1/object/files/{path:.*}", web::get().to(download));
}

#[derive(Deserialize)]
struct Grant {
    grant_type: String,
}

async fn token(supabase: Data<Supabase>, grant: Query<Grant>, form: Json<Value>) -> Result<HttpResponse, Error> {
    let refused = |code: &str, words: &str| {
        Ok(HttpResponse::BadRequest().json(json!({ "code": 400, "error_code": code, "msg": words })))
    };
    let session = match grant.grant_type.as_str() {
        "password" if supabase.is_user(&form) => {
            let session = Uuid::new_v4();
            let sql = "insert into auth.sessions (id, user_id) values ($1, $2)";
            sqlx::query(sql).bind(session).bind(supabase.user.0).execute(&supabase.db).await?;
            session
        }
        "password" => return refused("invalid_credentials", "Invalid login credentials"),
        "refresh_token" => {
            let token = form["refresh_token"].as_str().unwrap_or_default();
            let Some(session) = supabase.kept().refresh_tokens.remove(token) else {
                return refused("refresh_token_not_found", "Invalid Refresh Token: Refresh Token Not Found");
            };
            session
        }
        _ => return refused("validation_failed", "unsupported_grant_type"),
    };
    Ok(HttpResponse::Ok().json(supabase.session(session)?))
}

/// Ends all sessions, which is GoTrue's default.
async fn sign_out(supabase: Data<Supabase>, user: User) -> Result<HttpResponse, Error> {
    sqlx::query("delete from auth.sessions where user_id = $1").bind(user.id).execute(&supabase.db).await?;
    supabase.kept().refresh_tokens.clear();
    Ok(HttpResponse::NoContent().finish())
}

async fn models(supabase: Data<Supabase>, user: User) -> Result<HttpResponse, Error> {
    let sql = "select id, name, model_id from public.models where user_id = $1 order by name";
    let rows: Vec<(Uuid, String, String)> = sqlx::query_as(sql).bind(user.id).fetch_all(&supabase.db).await?;
    let row = |(id, name, model): &(Uuid, String, String)| json!({ "id": id, "name": name, "model_id": model });
    Ok(HttpResponse::Ok().json(rows.iter().map(row).collect::<Vec<_>>()))
}

/// Responds with the one tool, which is in no table.
async fn tools(supabase: Data<Supabase>, _user: User) -> HttpResponse {
    let tool = json!({ "id": TOOL, "name": "Dice", "schema": supabase.tool, "custom_headers": {} });
    HttpResponse::Ok().json([tool])
}

#[derive(Deserialize)]
struct NewFile {
    name: String,
    description: String,
    file_path: String,
    size: i32,
    tokens: i32,
    r#type: String,
}

async fn add_file(supabase: Data<Supabase>, user: User, file: Json<NewFile>) -> Result<HttpResponse, Error> {
    let sql = "insert into public.files (user_id, name, description, file_path, size, tokens, type) \
               values ($1, $2, $3, $4, $5, $6, $7) returning id";
    let query = sqlx::query_scalar(sql).bind(user.id).bind(&file.name).bind(&file.description).bind(&file.file_path);
    let id: Uuid = query.bind(file.size).bind(file.tokens).bind(&file.r#type).fetch_one(&supabase.db).await?;
    Ok(HttpResponse::Created().json([json!({ "id": id, "name": file.name, "file_path": file.file_path })]))
}

async fn upload(supabase: Data<Supabase>, user: User, path: Path<String>, bytes: Bytes) -> HttpResponse {
    let refused = |status: &str, words: &str| {
        HttpResponse::BadRequest().json(json!({ "statusCode": status, "error": "Unauthorized", "message": words }))
    };
    if !path.starts_with(&format!("{}/", user.id)) {
        return refused("403", "new row violates row-level security policy");
    }
    let mut kept = supabase.kept();
    if kept.objects.values().map(Bytes::len).sum::<usize>() + bytes.len() > ROOM {
        return refused(
            "413",
            "The demo keeps uploads in memory, and the memory for them is full. Restart the demo to free it",
        );
    }
    kept.objects.insert(path.clone(), bytes);
    HttpResponse::Ok().json(json!({ "Id": Uuid::new_v4(), "Key": format!("files/{path}") }))
}

async fn download(supabase: Data<Supabase>, path: Path<String>, request: HttpRequest) -> HttpResponse {
    // The newer secret keys are sent in `apikey` only.
    let key = request.headers().get("apikey").and_then(|key| key.to_str().ok());
    if key != Some(&supabase.service_key) || request.headers().contains_key(AUTHORIZATION) {
        return HttpResponse::Forbidden().finish();
    }
    match supabase.kept().objects.get(path.as_str()) {
        Some(bytes) => HttpResponse::Ok().body(bytes.clone()),
        None => HttpResponse::BadRequest().json(json!({ "statusCode": "404", "message": "Object not found" })),
    }
}
