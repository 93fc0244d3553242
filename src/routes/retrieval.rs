//! `POST /api/retrieval/{process,process/docx,retrieve}`: files in, passages
//! with vectors into the database, the nearest of them out.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use actix_multipart::{Multipart, MultipartError};
use actix_web::{
    HttpRequest, HttpResponse,
    http::header::{CONTENT_TYPE, ContentType},
    mime,
    web::Payload,
};
use futures::TryStreamExt;
use serde::Deserialize;
use serde_json::json;
use uuid::Uuid;

use super::{
    answer::Exchange,
    body::{self, Body},
};
use crate::{
    auth::User,
    db::files::{self, Column, NoFile},
    error::Error,
    llm::{Failure, openai},
    retrieval::{self, Chunk, embed, embed::Embedder, extract, extract::FileKind, local, storage},
};

/// For taking the text out of one file and cutting it.
const PARSE_TIME: Duration = Duration::from_secs(10);
/// For a file's turn, while others are read.
const PARSE_QUEUE: Duration = Duration::from_secs(30);
/// A form holds an id and a word.
const MAX_FORM_BYTES: usize = 64 * 1024;

/// Who makes the vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Maker {
    /// OpenAI or Azure, by the profile.
    OpenAi,
    /// A model in this process.
    Local,
    /// Nobody: the original stores passages without vectors then.
    Nobody,
}

impl Maker {
    fn of(name: &str) -> Self {
        match name {
            "openai" => Self::OpenAi,
            "local" => Self::Local,
            _ => Self::Nobody,
        }
    }

    fn column(self) -> Column {
        match self {
            Self::OpenAi | Self::Nobody => Column::OpenAi,
            Self::Local => Column::Local,
        }
    }
}

/// `POST /api/retrieval/process`: a form with `file_id` and
/// `embeddingsProvider`. The file is read from storage.
pub async fn process(
    user: User,
    exchange: Exchange,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Error> {
    user.profile()?;
    let form = form(&request, payload).await?;
    let maker = Maker::of(form.get("embeddingsProvider").map_or("", String::as_str));
    let state = &exchange.state;
    let missing =
        || Error::Provider { status: 500, message: "Failed to retrieve file metadata: file not found".to_owned() };
    let id = form.get("file_id").and_then(|id| Uuid::try_parse(id).ok()).ok_or_else(missing)?;
    let file = files::find_own(&state.db, user.id, id).await?.map_err(|no_file| match no_file {
        NoFile::Missing => missing(),
        NoFile::Foreign => unauthorized(),
    })?;
    let Some(kind) = FileKind::from_name(&file.name) else {
        return Ok(unsupported());
    };
    let config = &state.config;
    let bytes = storage::download(
        &exchange.clients.trusted,
        &config.sessions.supabase_url,
        config.service_role_key.as_ref(),
        user.id,
        &file.path,
        config.max_file_bytes,
    )
    .await?;
    check_key(&user, maker)?;
    let chunks = parse(&exchange, move |deadline| retrieval::file_chunks(kind, &bytes, deadline)).await?;
    store(&exchange, &user, id, &chunks, maker, Failure::into_error).await
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Docx {
    #[serde(default)]
    text: String,
    #[serde(default)]
    file_id: String,
    #[serde(default)]
    embeddings_provider: String,
    #[serde(default)]
    file_extension: String,
}

/// `POST /api/retrieval/process/docx`: text that the browser took out of a
/// Word document.
///
/// Differs: the original writes into anybody's file.
pub async fn process_docx(user: User, exchange: Exchange, body: Body) -> Result<HttpResponse, Error> {
    user.profile()?;
    let Docx { text, file_id, embeddings_provider, file_extension } = body.object("text")?;
    if file_extension != "docx" {
        return Ok(unsupported());
    }
    let maker = Maker::of(&embeddings_provider);
    check_key(&user, maker)?;
    let id = Uuid::try_parse(&file_id).map_err(|_| Error::BadRequest("fileId must be a UUID".to_owned()))?;
    let file = files::find_own(&exchange.state.db, user.id, id).await?;
    file.map_err(|_| unauthorized())?;
    let chunks = parse(&exchange, move |_| Ok(retrieval::chunks(FileKind::Docx, &text))).await?;
    store(&exchange, &user, id, &chunks, maker, openai::plain_error).await
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Question {
    #[serde(default)]
    user_input: Option<String>,
    #[serde(default)]
    file_ids: Option<Vec<String>>,
    #[serde(default)]
    embeddings_provider: String,
    #[serde(default)]
    source_count: Option<f64>,
}

/// `POST /api/retrieval/retrieve`: the passages nearest to `userInput` in the
/// files `fileIds`, at most `sourceCount`.
pub async fn retrieve(user: User, exchange: Exchange, body: Body) -> Result<HttpResponse, Error> {
    user.profile()?;
    let Question { user_input, file_ids, embeddings_provider, source_count } = body.object("userInput")?;
    let maker = Maker::of(&embeddings_provider);
    if maker == Maker::Nobody {
        return Ok(HttpResponse::Ok().json(json!({ "results": [] })));
    }
    let bad = |sentence: &str| Error::BadRequest(sentence.to_owned());
    let input = user_input.ok_or_else(|| bad("userInput is missing"))?;
    let ids: Result<Vec<Uuid>, _> = file_ids.unwrap_or_default().iter().map(|id| Uuid::try_parse(id)).collect();
    let ids = ids.map_err(|_| bad("fileIds must be UUIDs"))?;
    let count = match source_count {
        None => None,
        Some(count) if count >= 0.0 && count.fract() == 0.0 && count <= 1e6 => Some(count as i64),
        Some(_) => return Err(bad("sourceCount must be a whole number")),
    };
    check_key(&user, maker)?;
    let vector = match maker {
        Maker::OpenAi | Maker::Nobody => embedder(&exchange, &user)?.embed_one(&input, openai::plain_error).await?,
        Maker::Local => locally(&exchange, vec![input]).await?.pop().unwrap_or_default(),
    };
    let results = files::nearest(&exchange.state.db, user.id, &ids, maker.column(), &vector, count).await?;
    Ok(HttpResponse::Ok().json(json!({ "results": results })))
}

/// Makes vectors of the passages and puts both in the place of the file's old.
async fn store(
    exchange: &Exchange,
    user: &User,
    file: Uuid,
    chunks: &[Chunk],
    maker: Maker,
    words: fn(Failure) -> Error,
) -> Result<HttpResponse, Error> {
    let vectors = match maker {
        Maker::OpenAi => {
            let texts: Vec<(&str, usize)> = chunks
                .iter()
                .map(|chunk| (chunk.content.as_str(), usize::try_from(chunk.tokens).unwrap_or(0)))
                .collect();
            embedder(exchange, user)?.embed(&texts, words).await?
        }
        Maker::Local => locally(exchange, chunks.iter().map(|chunk| chunk.content.clone()).collect()).await?,
        Maker::Nobody => Vec::new(),
    };
    let stored = files::replace_items(&exchange.state.db, user.id, file, chunks, maker.column(), &vectors).await?;
    stored.map_err(|_| unauthorized())?;
    Ok(HttpResponse::Ok().content_type(ContentType::plaintext()).body("Embed Successful"))
}

fn embedder<'a>(exchange: &'a Exchange, user: &'a User) -> Result<Embedder<'a>, Error> {
    Ok(Embedder {
        clients: &exchange.clients,
        log: &exchange.log,
        profile: user.profile()?,
        base_urls: &exchange.state.config.base_urls,
    })
}

/// Vectors made in this process.
async fn locally(exchange: &Exchange, texts: Vec<String>) -> Result<Vec<Vec<f32>>, Error> {
    exchange.state.local.embed(texts).await.map_err(|error| match &error {
        local::Error::Failed(detail) => Error::Internal(detail.clone()),
        local::Error::Busy => Error::Provider { status: 503, message: error.to_string() },
        local::Error::NotBuilt | local::Error::NoFolder | local::Error::Model(_) => {
            Error::Provider { status: 500, message: error.to_string() }
        }
    })
}

/// Reads a file on a thread of its own, when it is its turn.
async fn parse(
    exchange: &Exchange,
    read: impl FnOnce(Instant) -> Result<Vec<Chunk>, extract::Error> + Send + 'static,
) -> Result<Vec<Chunk>, Error> {
    let busy = || Error::Provider {
        status: 503,
        message: "Too many files are being read. Please try again in a moment.".to_owned(),
    };
    let turn = tokio::time::timeout(PARSE_QUEUE, exchange.state.parsing.acquire()).await;
    let _turn = turn.map_err(|_| busy())?.map_err(|_| busy())?;
    let read = tokio::task::spawn_blocking(move || read(Instant::now() + PARSE_TIME)).await;
    read.map_err(|error| Error::Internal(error.to_string()))?
        .map_err(|error| Error::Provider { status: 500, message: error.to_string() })
}

fn check_key(user: &User, maker: Maker) -> Result<(), Error> {
    match embed::missing_key(user.profile()?) {
        Some(name) if maker == Maker::OpenAi => Err(Error::Provider {
            status: 500,
            message: format!("{name} API Key not found, make sure it is configured or else use local embeddings"),
        }),
        _ => Ok(()),
    }
}

fn unauthorized() -> Error {
    Error::Provider { status: 500, message: "Unauthorized".to_owned() }
}

fn unsupported() -> HttpResponse {
    HttpResponse::BadRequest().content_type(ContentType::plaintext()).body("Unsupported file type")
}

/// The fields of a form, of either kind.
async fn form(request: &HttpRequest, payload: Payload) -> Result<HashMap<String, String>, Error> {
    let broken = || Error::BadRequest("Failed to parse body as FormData.".to_owned());
    let content_type = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media: Option<mime::Mime> = content_type.parse().ok();
    let mut fields = HashMap::new();
    match media.as_ref().map(mime::Mime::essence_str) {
        Some("multipart/form-data") => {
            let broken = |error| match error {
                MultipartError::Payload(error) => body::broken(&error),
                _ => broken(),
            };
            let mut form = Multipart::new(request.headers(), body::in_time(request, payload.into_inner()));
            let mut room = MAX_FORM_BYTES;
            while let Some(mut field) = form.try_next().await.map_err(broken)? {
                let name = field.name().unwrap_or_default().to_owned();
                let mut value = Vec::new();
                while let Some(chunk) = field.try_next().await.map_err(broken)? {
                    room = room.checked_sub(chunk.len()).ok_or(Error::BodyTooLarge(MAX_FORM_BYTES))?;
                    value.extend_from_slice(&chunk);
                }
                fields.insert(name, String::from_utf8_lossy(&value).into_owned());
            }
        }
        Some("application/x-www-form-urlencoded") => {
            let body = body::read(request, payload.into_inner()).await?;
            fields.extend(url::form_urlencoded::parse(&body).into_owned());
        }
        _ => {
            return Err(Error::BadRequest(
                "Content-Type was not one of \"multipart/form-data\" or \"application/x-www-form-urlencoded\"."
                    .to_owned(),
            ));
        }
    }
    Ok(fields)
}
