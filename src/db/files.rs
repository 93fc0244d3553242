//! `public.files` and `public.file_items`: uploaded files and their passages.

use std::time::Duration;

use serde::Serialize;
use sqlx::{AssertSqlSafe, FromRow, PgConnection};
use uuid::Uuid;

use super::{
    pool::Db,
    vector::{Vector, VectorType, Vectors},
};
use crate::error::Error;

/// Time limit for storing or searching, whatever the amount.
const LIMIT: Duration = Duration::from_secs(60);
/// Up to this number of passages, every one is compared. Above it the index is used; it is faster but may miss passages
/// that are as near.
const EXACT_UP_TO: i64 = 10_000;
/// Passages per insert statement.
const ROWS: usize = 500;

/// Returns NULLs for another user's file, so that nothing of it is read.
const OWN: &str = "select case when user_id = $2 then name end, case when user_id = $2 then file_path end \
     from public.files where id = $1";
const COUNT_TOKENS: &str = "update public.files set tokens = $3 where id = $1 and user_id = $2";
const DELETE_ITEMS: &str = "delete from public.file_items where file_id = $1";
/// Tests for chatbot-ui's collections.
pub(super) const HAS_COLLECTIONS: &str =
    "select to_regclass('public.collections') is not null and to_regclass('public.collection_files') is not null";
const READABLE: &str = "select id from public.files where id = any($1) and (user_id = $2 or sharing <> 'private')";
const READABLE_WITH_COLLECTIONS: &str = "select id from public.files \
     where id = any($1) and (user_id = $2 or sharing <> 'private' or exists ( \
         select from public.collection_files member join public.collections on collections.id = member.collection_id \
         where member.file_id = files.id and collections.sharing <> 'private' \
           and collections.user_id = files.user_id))";

/// Passages that another user put into a file are not read: chatbot-ui's row level security lets everyone add rows of
/// their own to any file.
const OF_THE_OWNER: &str =
    "exists (select from public.files file where file.id = item.file_id and file.user_id = item.user_id)";

fn insert_items(column: Column) -> String {
    format!(
        // A microsecond apart, to preserve the order of a file's passages.
        "insert into public.file_items (file_id, user_id, created_at, content, tokens, {}) \
         select $1, $2, now() + (item.number + $6) * interval '1 microsecond', item.content, item.tokens, item.vector \
         from unnest($3::text[], $4::int4[], $5) with ordinality as item (content, tokens, vector, number)",
        column.name()
    )
}

/// Compares every passage. `materialized` keeps the planner from using the index, which does not consider the list of
/// files and may return too few rows.
fn compare_all(column: Column, schema: &str) -> String {
    format!(
        "with item as materialized ( \
             select id, file_id, content, tokens, {} operator({schema}.<=>) $1 as distance \
             from public.file_items item where file_id = any($2) and {OF_THE_OWNER}) \
         select id, file_id, content, tokens, 1 - distance as similarity from item \
         order by distance, id limit $3",
        column.name()
    )
}

/// The statements about files, for [`super::inspect`]; `schema` is the vector type's.
pub(super) fn statements(schema: &str, collections: bool) -> Vec<String> {
    let readable = if collections { READABLE_WITH_COLLECTIONS } else { READABLE };
    let mut all = [OWN, COUNT_TOKENS, DELETE_ITEMS, readable].map(str::to_owned).to_vec();
    for column in [Column::OpenAi, Column::Local] {
        // Elsewhere the parameter's type is sent with it.
        all.push(insert_items(column).replace("$5", &format!("$5::{schema}.vector[]")));
        all.push(compare_all(column, schema));
    }
    all
}

/// A file that the user owns.
pub struct File {
    /// The file name, whose extension tells the file's kind.
    pub name: String,
    /// Its place in the storage bucket `files`.
    pub path: String,
}

/// The reason why there is no [`File`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoFile {
    /// No file has this id.
    Missing,
    /// The file belongs to another user.
    Foreign,
}

/// The column of a passage's vector, by the model that computed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column {
    /// 1,536 numbers.
    OpenAi,
    /// 384 numbers.
    Local,
}

impl Column {
    const fn name(self) -> &'static str {
        match self {
            Self::OpenAi => "openai_embedding",
            Self::Local => "local_embedding",
        }
    }
}

/// A search result, as the front end expects it. Without `Debug`, because it holds users' text.
#[derive(FromRow, Serialize)]
#[expect(missing_docs, reason = "columns of file_items")]
pub struct Found {
    pub id: Uuid,
    pub file_id: Uuid,
    pub content: String,
    pub tokens: i32,
    /// Cosine similarity, from 1 (same direction) to -1 (opposite); `null` for a passage without a vector.
    pub similarity: Option<f64>,
}

/// Finds a file that the user owns.
///
/// # Errors
/// If the database does not answer.
pub async fn find_own(db: &Db, user: Uuid, id: Uuid) -> Result<Result<File, NoFile>, Error> {
    let query = sqlx::query_as::<_, (Option<String>, Option<String>)>(OWN);
    Ok(match db.optional(query.bind(id).bind(user)).await? {
        Some((Some(name), Some(path))) => Ok(File { name, path }),
        Some(_) => Err(NoFile::Foreign),
        None => Err(NoFile::Missing),
    })
}

/// A passage to be stored. Without `Debug`, because it holds users' text.
#[derive(Clone, Copy)]
pub struct NewItem<'a> {
    /// The passage.
    pub content: &'a str,
    /// Its length in tokens of `cl100k_base`.
    pub tokens: i32,
    /// Its vector, if one was computed.
    pub vector: Option<&'a [f32]>,
}

/// Replaces a file's passages, and stores the sum of their tokens in the file's row: all of it or nothing.
///
/// Differs: the original adds to the existing passages, and reports success if storing failed.
///
/// # Errors
/// If the database does not answer. The inner error is [`NoFile`] if the file does not belong to the user (any more).
pub async fn replace_items(
    db: &Db,
    user: Uuid,
    file: Uuid,
    items: &[NewItem<'_>],
    column: Column,
) -> Result<Result<(), NoFile>, Error> {
    let vector_type = db.vector_type().await?;
    let named = db.names_statements();
    db.transaction(user, LIMIT, async |connection| {
        // Locks the row, so that two requests for one file run one after the other.
        let total: i64 = items.iter().map(|item| i64::from(item.tokens)).sum();
        let updated = sqlx::query(COUNT_TOKENS)
            .bind(file)
            .bind(user)
            .bind(i32::try_from(total).unwrap_or(i32::MAX))
            .persistent(named)
            .execute(&mut *connection)
            .await?;
        if updated.rows_affected() == 0 {
            return Ok(Err(NoFile::Missing));
        }
        sqlx::query(DELETE_ITEMS).bind(file).persistent(named).execute(&mut *connection).await?;
        let sql = insert_items(column);
        for (number, part) in items.chunks(ROWS).enumerate() {
            // Postgres cannot store NUL in text.
            let contents: Vec<String> = part.iter().map(|item| item.content.replace('\0', "")).collect();
            let tokens: Vec<i32> = part.iter().map(|item| item.tokens).collect();
            let vectors = part.iter().map(|item| item.vector).collect();
            sqlx::query(AssertSqlSafe(sql.clone()))
                .bind(file)
                .bind(user)
                .bind(contents)
                .bind(tokens)
                .bind(Vectors(vector_type, vectors))
                .bind(i64::try_from(number * ROWS).unwrap_or(i64::MAX))
                .persistent(named)
                .execute(&mut *connection)
                .await?;
        }
        Ok(Ok(()))
    })
    .await
}

/// The most passages that one search returns.
const MAX_FOUND: i64 = 100;

/// Returns the passages nearest to `vector` in these files, nearest first: at most `count` of them, and at most
/// 100.
///
/// Differs: the original returns every passage if no count is given.
///
/// Only files that the user may read: their own, shared ones, and, if chatbot-ui's collections exist, files in a shared
/// collection.
///
/// Differs: the original searches any file by its id.
///
/// # Errors
/// If the database does not answer.
pub async fn nearest(
    db: &Db,
    user: Uuid,
    files: &[Uuid],
    column: Column,
    vector: &[f32],
    count: Option<i64>,
) -> Result<Vec<Found>, Error> {
    let count = count.unwrap_or(MAX_FOUND).min(MAX_FOUND);
    let vector_type = db.vector_type().await?;
    let named = db.names_statements();
    db.transaction(user, LIMIT, async |connection| {
        let files = readable(connection, named, user, files).await?;
        let counted = "select count(*) from (select from public.file_items where file_id = any($1) limit $2) item";
        let items: i64 = sqlx::query_scalar(counted)
            .bind(&files)
            .bind(EXACT_UP_TO + 1)
            .persistent(named)
            .fetch_one(&mut *connection)
            .await?;
        let search = Search { vector_type, column, vector, files: &files, count, named };
        if items > EXACT_UP_TO {
            let found = search.by_index(connection).await?;
            // An index that does not iterate may return too few.
            if i64::try_from(found.len()).is_ok_and(|found| found >= count) {
                return Ok(found);
            }
        }
        search.exactly(connection).await
    })
    .await
}

async fn readable(connection: &mut PgConnection, named: bool, user: Uuid, files: &[Uuid]) -> sqlx::Result<Vec<Uuid>> {
    let collections: bool = sqlx::query_scalar(HAS_COLLECTIONS).persistent(named).fetch_one(&mut *connection).await?;
    let sql = if collections { READABLE_WITH_COLLECTIONS } else { READABLE };
    sqlx::query_scalar(sql).bind(files).bind(user).persistent(named).fetch_all(connection).await
}

struct Search<'a> {
    vector_type: &'a VectorType,
    column: Column,
    vector: &'a [f32],
    files: &'a [Uuid],
    count: i64,
    named: bool,
}

impl Search<'_> {
    async fn exactly(&self, connection: &mut PgConnection) -> sqlx::Result<Vec<Found>> {
        self.run(connection, compare_all(self.column, &self.vector_type.schema)).await
    }

    async fn by_index(&self, connection: &mut PgConnection) -> sqlx::Result<Vec<Found>> {
        let iterate = if self.vector_type.iterates {
            ", set_config('hnsw.iterative_scan', 'strict_order', true), set_config('hnsw.max_scan_tuples', '200000', true)"
        } else {
            ""
        };
        // The planner underestimates the cost of unpacking a vector, and would prefer to compare and sort them all.
        let settings = format!(
            "select set_config('hnsw.ef_search', '200', true), set_config('enable_sort', 'off', true){iterate}"
        );
        sqlx::query(AssertSqlSafe(settings)).persistent(self.named).execute(&mut *connection).await?;
        let distance = format!("{} operator({}.<=>) $1", self.column.name(), self.vector_type.schema);
        let sql = format!(
            "select id, file_id, content, tokens, 1 - ({distance}) as similarity from public.file_items item \
             where file_id = any($2) and {OF_THE_OWNER} order by {distance} limit $3"
        );
        self.run(connection, sql).await
    }

    async fn run(&self, connection: &mut PgConnection, sql: String) -> sqlx::Result<Vec<Found>> {
        let query = sqlx::query_as::<_, Found>(AssertSqlSafe(sql))
            .bind(Vector(self.vector_type, self.vector))
            .bind(self.files)
            .bind(self.count)
            .persistent(self.named);
        query.fetch_all(connection).await
    }
}
