//! `POST /api/retrieval/{process,process/docx,retrieve}`: stores a file's passages with their vectors in the database,
//! and finds the nearest ones.

use std::collections::HashMap;

use actix_multipart::Multipart;
use actix_web::{
    HttpRequest, HttpResponse,
    error::PayloadError,
    http::header::{CACHE_CONTROL, CONTENT_TYPE, ContentType},
    mime,
    web::{Bytes, Data},
};
use futures::{StreamExt, TryStreamExt, stream};
use serde::Deserialize;
use serde_json::json;
use uuid::Uuid;

use crate::{
    allowance::Charge,
    db::{
        Db,
        files::{self, Column, Embedded, NewItem, NewVector, NoFile, Replaced},
    },
    error::Error,
    http::{
        body::{self, Body, UnreadBody},
        context::ChatContext,
        user::User,
    },
    llm::{Failure, openai},
    retrieval::{self, Chunk, embed, embed::Embedder, extract::FileKind, ingest::Ingest, local},
};

/// The source of the vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Maker {
    /// OpenAI or Azure, by the profile.
    OpenAi,
    /// A model in this process.
    Local,
    /// No vectors: the original then stores passages without any.
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

    /// Tells if a passage keeps its vector while its text stays the same. A vector made here costs nothing, and may come
    /// from the original, whose model is a coarser one.
    fn keeps(self) -> bool {
        self == Self::OpenAi
    }

    fn column(self) -> Column {
        match self {
            Self::OpenAi | Self::Nobody => Column::OpenAi,
            Self::Local => Column::Local,
        }
    }
}

/// `POST /api/retrieval/process`: a form with `file_id` and `embeddingsProvider`. The file is read from storage.
pub async fn process(
    user: User,
    context: ChatContext,
    db: Data<Db>,
    ingest: Data<Ingest>,
    unread: UnreadBody,
) -> Result<HttpResponse, Error> {
    user.profile()?;
    let (request, form, _charge) = unread.read_bytes(user.id, body::FORM).await?;
    let form = fields(&request, form).await?;
    let maker = Maker::of(form.get("embeddingsProvider").map_or("", String::as_str));
    let missing =
        || Error::Failed { status: 500, message: "Failed to retrieve file metadata: file not found".to_owned() };
    let id = form.get("file_id").and_then(|id| Uuid::try_parse(id).ok()).ok_or_else(missing)?;
    let file = files::find_own(&db, user.id, id, maker.keeps()).await?.map_err(|no_file| match no_file {
        NoFile::Missing => missing(),
        NoFile::Foreign => unauthorized(),
    })?;
    let Some(kind) = FileKind::from_name(&file.name) else {
        return Ok(unsupported());
    };
    check_key(&user, maker)?;
    // The turn first: a file that waits for its turn takes no memory.
    let turn = ingest.turn(user.id).await?;
    let (bytes, charge) = ingest.download(user.id, &file.path).await?;
    let chunks = ingest.parse(turn, move |deadline| {
        let _charge = charge;
        retrieval::file_chunks(kind, &bytes, deadline)
    });
    let chunks = chunks.await?;
    let map_err = Failure::into_error;
    let target = Target { id, embedded: file.embedded, maker, map_err };
    Storing { context: &context, db: &db, ingest: &ingest, user: &user, target }.store(&chunks).await
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

/// `POST /api/retrieval/process/docx`: text that the browser extracted from a Word document.
///
/// Differs: the original writes into any user's file.
pub async fn process_docx(
    user: User,
    context: ChatContext,
    db: Data<Db>,
    ingest: Data<Ingest>,
    unread: UnreadBody,
) -> Result<HttpResponse, Error> {
    user.profile()?;
    let parse = |body: Body| Ok((body.object("text")?, body.into_charge()));
    let (docx, _charge) = unread.parse(user.id, usize::MAX, parse).await?;
    let Docx { text, file_id, embeddings_provider, file_extension } = docx;
    if file_extension != "docx" {
        return Ok(unsupported());
    }
    let maker = Maker::of(&embeddings_provider);
    check_key(&user, maker)?;
    let id = Uuid::try_parse(&file_id).map_err(|_| Error::BadRequest("fileId must be a UUID".to_owned()))?;
    let file = files::find_own(&db, user.id, id, maker.keeps()).await?;
    let embedded = file.map_err(|_| unauthorized())?.embedded;
    let target = Target { id, embedded, maker, map_err: openai::plain_error };
    let turn = ingest.turn(user.id).await?;
    let chunks = ingest.parse(turn, move |_| retrieval::chunks(FileKind::Docx, &text)).await?;
    Storing { context: &context, db: &db, ingest: &ingest, user: &user, target }.store(&chunks).await
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

/// `POST /api/retrieval/retrieve`: finds the passages nearest to `userInput` in the files `fileIds`, at most
/// `sourceCount`.
pub async fn retrieve(
    user: User,
    context: ChatContext,
    db: Data<Db>,
    ingest: Data<Ingest>,
    unread: UnreadBody,
) -> Result<HttpResponse, Error> {
    user.profile()?;
    let Question { user_input, file_ids, embeddings_provider, source_count } =
        unread.parse(user.id, body::QUESTION, |body| body.object("userInput")).await?;
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
        Maker::OpenAi | Maker::Nobody => {
            context.reserve_embeddings(&user, input.len() as u64).await?;
            embedder(&context, &user, context.charge_to(user.id)?)?.embed_one(&input, openai::plain_error).await?
        }
        Maker::Local => locally(&ingest, vec![input]).await?.pop().unwrap_or_default(),
    };
    let results = files::nearest(&db, user.id, &ids, maker.column(), &vector, count).await?;
    Ok(HttpResponse::Ok().json(json!({ "results": results })))
}

/// A file whose passages are stored.
struct Target {
    id: Uuid,
    embedded: Embedded,
    maker: Maker,
    /// Words a failure of the provider.
    map_err: fn(Failure) -> Error,
}

/// Storing the passages of a file.
struct Storing<'a> {
    context: &'a ChatContext,
    db: &'a Db,
    ingest: &'a Ingest,
    user: &'a User,
    target: Target,
}

impl Storing<'_> {
    /// Computes the vectors of the passages that have none yet, and replaces the file's passages in the database.
    ///
    /// Differs: the original asks for all vectors again.
    async fn store(&self, chunks: &[Chunk]) -> Result<HttpResponse, Error> {
        let kept: Vec<bool> = chunks.iter().map(|chunk| self.target.embedded.has(&chunk.content)).collect();
        let mut stored = self.put(chunks, &kept).await?;
        if stored == Replaced::NothingToKeep {
            // Somebody has deleted them meanwhile.
            stored = self.put(chunks, &vec![false; chunks.len()]).await?;
        }
        match stored {
            Replaced::Whole => {
                let said =
                    if chunks.is_empty() { "Embed Successful: the document has no text" } else { "Embed Successful" };
                // The front end does not read this body, and Chromium does not end a request whose body is neither read
                // nor may be stored. A response to a POST is in no cache.
                let caching = (CACHE_CONTROL, "private, no-cache");
                Ok(HttpResponse::Ok().content_type(ContentType::plaintext()).insert_header(caching).body(said))
            }
            Replaced::NoFile => Err(unauthorized()),
            Replaced::NothingToKeep => Err(Error::Internal("a vector that was not to be kept".to_owned())),
        }
    }

    /// Does so with those passages' vectors as they are in the database.
    async fn put(&self, chunks: &[Chunk], kept: &[bool]) -> Result<Replaced, Error> {
        let Self { context, db, ingest, user, target } = self;
        let fresh = || chunks.iter().zip(kept).filter(|(_, kept)| !**kept).map(|(chunk, _)| chunk);
        // Twice: the passages, and the request or the statement that is made of them.
        let mut charge = context.charge_to(user.id)?;
        charge.grow(2 * chunks.iter().map(|chunk| chunk.content.len()).sum::<usize>())?;
        let mut embedder = embedder(context, user, charge.another())?;
        let vectors = match target.maker {
            Maker::OpenAi => {
                let texts: Vec<(&str, usize)> =
                    fresh().map(|chunk| (chunk.content.as_str(), usize::try_from(chunk.tokens).unwrap_or(0))).collect();
                let tokens = texts.iter().map(|(_, tokens)| *tokens as u64).sum();
                context.reserve_embeddings(user, tokens).await?;
                embedder.embed(&texts, target.map_err).await?
            }
            Maker::Local => {
                charge.grow(fresh().count() * local::DIMENSIONS * size_of::<f32>())?;
                locally(ingest, fresh().map(|chunk| chunk.content.clone()).collect()).await?
            }
            Maker::Nobody => Vec::new(),
        };
        let mut vectors = vectors.iter();
        let items: Vec<NewItem<'_>> = chunks
            .iter()
            .zip(kept)
            .map(|(Chunk { content, tokens }, kept)| NewItem {
                content,
                tokens: *tokens,
                vector: match kept {
                    true => NewVector::Kept,
                    false => vectors.next().map_or(NewVector::Nothing, |numbers| NewVector::Numbers(numbers)),
                },
            })
            .collect();
        files::replace_items(db, user.id, target.id, &items, target.maker.column()).await
    }
}

fn embedder<'a>(context: &'a ChatContext, user: &'a User, charge: Charge) -> Result<Embedder<'a>, Error> {
    Ok(Embedder { providers: &context.providers, log: &context.log, profile: user.profile()?, charge })
}

/// Computes vectors in this process.
async fn locally(ingest: &Ingest, texts: Vec<String>) -> Result<Vec<Vec<f32>>, Error> {
    ingest.local.embed(texts).await.map_err(|error| match &error {
        local::Error::Failed(detail) => Error::Internal(detail.clone()),
        local::Error::Busy => Error::Failed { status: 503, message: error.to_string() },
        local::Error::NotBuilt | local::Error::NoFolder | local::Error::Model(_) => {
            Error::Failed { status: 500, message: error.to_string() }
        }
    })
}

fn check_key(user: &User, maker: Maker) -> Result<(), Error> {
    match embed::missing_key(user.profile()?) {
        Some(name) if maker == Maker::OpenAi => Err(Error::Failed {
            status: 500,
            message: format!("{name} API Key not found, make sure it is configured or else use local embeddings"),
        }),
        _ => Ok(()),
    }
}

fn unauthorized() -> Error {
    Error::Failed { status: 500, message: "Unauthorized".to_owned() }
}

fn unsupported() -> HttpResponse {
    HttpResponse::BadRequest().content_type(ContentType::plaintext()).body("Unsupported file type")
}

/// Reads the fields of a form, multipart or URL-encoded.
async fn fields(request: &HttpRequest, form: Vec<u8>) -> Result<HashMap<String, String>, Error> {
    let broken = |_| Error::BadRequest("Failed to parse body as FormData.".to_owned());
    let content_type = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media: Option<mime::Mime> = content_type.parse().ok();
    let mut fields = HashMap::new();
    match media.as_ref().map(mime::Mime::essence_str) {
        Some("multipart/form-data") => {
            let whole = stream::iter([Ok::<_, PayloadError>(Bytes::from(form))]);
            let mut form = Multipart::new(request.headers(), whole.fuse());
            while let Some(mut field) = form.try_next().await.map_err(broken)? {
                let name = field.name().unwrap_or_default().to_owned();
                let mut value = Vec::new();
                while let Some(chunk) = field.try_next().await.map_err(broken)? {
                    value.extend_from_slice(&chunk);
                }
                fields.insert(name, String::from_utf8_lossy(&value).into_owned());
            }
        }
        Some("application/x-www-form-urlencoded") => fields.extend(url::form_urlencoded::parse(&form).into_owned()),
        _ => {
            return Err(Error::BadRequest(
                "Content-Type was not one of \"multipart/form-data\" or \"application/x-www-form-urlencoded\"."
                    .to_owned(),
            ));
        }
    }
    Ok(fields)
}
