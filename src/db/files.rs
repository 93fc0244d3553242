//! `public.files` and `public.file_items`: what users uploaded, and the
//! passages of it.

use std::time::Duration;

use serde::Serialize;
use sqlx::{AssertSqlSafe, FromRow, PgConnection};
use uuid::Uuid;

use super::{
    pool::Db,
    vector::{Vector, VectorType, Vectors},
};
use crate::error::Error;

/// For storing or searching, however much there is.
const LIMIT: Duration = Duration::from_secs(60);
/// Up to so many passages every one is compared. Beyond, the index is faster;
/// it may pass over some that are as near.
const EXACT_UP_TO: i64 = 10_000;
/// Passages a statement.
const ROWS: usize = 500;

/// Of somebody else's row nothing is read.
const OWN: &str = "select case when user_id = $2 then name end, case when user_id = $2 then file_path end \
     from public.files where id = $1";
const COUNT_TOKENS: &str = "update public.files set tokens = $3 where id = $1 and user_id = $2";
const DELETE_ITEMS: &str = "delete from public.file_items where file_id = $1";
/// Whether chatbot-ui's collections exist.
pub(super) const HAS_COLLECTIONS: &str =
    "select to_regclass('public.collections') is not null and to_regclass('public.collection_files') is not null";
const READABLE: &str = "select id from public.files where id = any($1) and (user_id = $2 or sharing <> 'private')";
const READABLE_WITH_COLLECTIONS: &str = "select id from public.files \
     where id = any($1) and (user_id = $2 or sharing <> 'private' or exists ( \
         select from public.collection_files member join public.collections on collections.id = member.collection_id \
         where member.file_id = files.id and collections.sharing <> 'private' \
           and collections.user_id = files.user_id))";

/// A passage that somebody else put into a file is not read: chatbot-ui's row
/// level security lets everyone add rows of their own to any file.
const OF_THE_OWNER: &str =
    "exists (select from public.files file where file.id = item.file_id and file.user_id = item.user_id)";

fn insert_items(column: Column) -> String {
    format!(
        // A microsecond apart, so that a file's passages can be read in order.
        "insert into public.file_items (file_id, user_id, created_at, content, tokens, {}) \
         select $1, $2, now() + (item.number + $6) * interval '1 microsecond', item.content, item.tokens, item.vector \
         from unnest($3::text[], $4::int4[], $5) with ordinality as item (content, tokens, vector, number)",
        column.name()
    )
}

/// Compares every passage: `materialized` keeps the planner from the index,
/// which knows nothing of the files and may return too few.
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

/// What is sent for files, for [`super::inspect`]; `schema` is the vector
/// type's.
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

/// A file of the user's own.
pub struct File {
    /// Says what kind of file it is.
    pub name: String,
    /// Its place in the storage bucket `files`.
    pub path: String,
}

/// Why there is no [`File`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoFile {
    /// There is none with this id.
    Missing,
    /// It is somebody else's.
    Foreign,
}

/// The column that a passage's vector stands in, by the model that made it.
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

/// A passage that was found, as the front end knows it. Without `Debug`, as
/// it is what a user wrote.
#[derive(FromRow, Serialize)]
#[expect(missing_docs, reason = "columns of file_items")]
pub struct Found {
    pub id: Uuid,
    pub file_id: Uuid,
    pub content: String,
    pub tokens: i32,
    /// 1 for the same direction, -1 for the opposite; `null` for a passage
    /// without a vector.
    pub similarity: Option<f64>,
}

/// A file, if it is the user's own.
///
/// # Errors
/// Where the database does not answer.
pub async fn find_own(db: &Db, user: Uuid, id: Uuid) -> Result<Result<File, NoFile>, Error> {
    let query = sqlx::query_as::<_, (Option<String>, Option<String>)>(OWN);
    Ok(match db.optional(query.bind(id).bind(user)).await? {
        Some((Some(name), Some(path))) => Ok(File { name, path }),
        Some(_) => Err(NoFile::Foreign),
        None => Err(NoFile::Missing),
    })
}

/// A passage to be stored. Without `Debug`, as it is a user's text.
#[derive(Clone, Copy)]
pub struct NewItem<'a> {
    /// The passage.
    pub content: &'a str,
    /// Its length in tokens of `cl100k_base`.
    pub tokens: i32,
    /// Its vector, if one was made.
    pub vector: Option<&'a [f32]>,
}

/// Puts these passages in the place of the file's own, and their tokens' sum
/// into the file's row: all of it or nothing.
///
/// Differs: the original adds to what is there, and answers with success
/// where storing failed.
///
/// # Errors
/// Where the database does not answer; [`NoFile`] where the file is not the
/// user's (any more).
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
        // Locks the row: of two that process one file, one comes after the other.
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
            // Postgres holds no NUL in a text.
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

/// Most passages of one search.
const MAX_FOUND: i64 = 100;

/// The passages nearest to `vector` in these files, the nearest first, as
/// many as `count` says and at most [`MAX_FOUND`].
///
/// Differs: the original returns every passage if no count is given.
///
/// Only files that the user may read: his own, those that are shared, and,
/// where chatbot-ui's collections exist, those in a shared collection.
///
/// Differs: the original searches any file whose id it is given.
///
/// # Errors
/// Where the database does not answer.
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
            // An index that does not iterate may come back with too few.
            if i64::try_from(found.len()).is_ok_and(|found| found >= count) {
                return Ok(found);
            }
        }
        search.exactly(connection).await
    })
    .await
}

async fn readable(connection: &mut PgConnection, named: bool, user: Uuid, files: &[Uuid]) -> Result<Vec<Uuid>, Error> {
    let collections: bool = sqlx::query_scalar(HAS_COLLECTIONS).persistent(named).fetch_one(&mut *connection).await?;
    let sql = if collections { READABLE_WITH_COLLECTIONS } else { READABLE };
    Ok(sqlx::query_scalar(sql).bind(files).bind(user).persistent(named).fetch_all(connection).await?)
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
    async fn exactly(&self, connection: &mut PgConnection) -> Result<Vec<Found>, Error> {
        self.run(connection, compare_all(self.column, &self.vector_type.schema)).await
    }

    async fn by_index(&self, connection: &mut PgConnection) -> Result<Vec<Found>, Error> {
        let iterate = if self.vector_type.iterates {
            ", set_config('hnsw.iterative_scan', 'strict_order', true), set_config('hnsw.max_scan_tuples', '200000', true)"
        } else {
            ""
        };
        // The planner does not know how dear it is to unpack a vector, and
        // would rather compare and sort them all.
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

    async fn run(&self, connection: &mut PgConnection, sql: String) -> Result<Vec<Found>, Error> {
        let query = sqlx::query_as::<_, Found>(AssertSqlSafe(sql))
            .bind(Vector(self.vector_type, self.vector))
            .bind(self.files)
            .bind(self.count)
            .persistent(self.named);
        Ok(query.fetch_all(connection).await?)
    }
}
