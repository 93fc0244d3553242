//! `public.files` and `public.file_items`: uploaded files and their passages.
//!
//! Passages are stored and searched in one message each, see `Db::message`. No type is looked up for them, as types
//! come from the columns, and the operator from the search path that the message sets: on Supabase pgvector lies in
//! `extensions`, elsewhere in `public`.

use std::{collections::HashSet, fmt::Write, time::Duration};

use serde::Serialize;
use sha2::{Digest, Sha256};
use sqlx::{FromRow, Row};
use uuid::Uuid;

use super::pool::{Db, Value};
use crate::error::Error;

/// Time limit for storing or searching, whatever the amount.
const LIMIT: Duration = Duration::from_secs(60);
const SET_LIMIT: &str = "set local statement_timeout = 60000; ";
/// Up to this number of passages, every one is compared. Above it the index is used; it is faster but may miss passages
/// that are as near.
const EXACT_UP_TO: u32 = 10_000;

/// Returns NULLs for another user's file, so that nothing of it is read.
const OWN: &str = "select case when user_id = $2 then name end, case when user_id = $2 then file_path end, null::text \
     from public.files where id = $1";
/// The same, with the digests of the passages that have a vector of OpenAI's model.
const OWN_WITH_DIGESTS: &str = "select case when user_id = $2 then name end, case when user_id = $2 then file_path end, ( \
         select string_agg(encode(sha256(convert_to(content, 'UTF8')), 'hex'), ' ') from ( \
             select content from public.file_items item \
             where item.file_id = files.id and item.user_id = $2 and item.openai_embedding is not null \
             limit 10000) item) \
     from public.files where id = $1";
/// Tests for chatbot-ui's collections.
pub(super) const HAS_COLLECTIONS: &str =
    "to_regclass('public.collections') is not null and to_regclass('public.collection_files') is not null";
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

/// The statements about files, for [`super::inspect`]; `schema` is the vector type's.
pub(super) fn statements(schema: &str, collections: bool) -> Vec<String> {
    let readable = if collections { READABLE_WITH_COLLECTIONS } else { READABLE };
    let mut all = [OWN, OWN_WITH_DIGESTS, readable].map(str::to_owned).to_vec();
    for column in [Column::OpenAi, Column::Local] {
        let mut replace = String::new();
        write_replace(&mut replace, Uuid::nil(), Uuid::nil(), Sums::default(), "[]", column);
        all.push(lock(Uuid::nil(), Uuid::nil()));
        all.push(replace);
        all.push(compare(column, &format!("operator({schema}.<=>)"), &format!("null::{schema}.vector"), 1));
    }
    all
}

/// A file that the user owns.
pub struct File {
    /// The file name, whose extension tells the file's kind.
    pub name: String,
    /// Its place in the storage bucket `files`.
    pub path: String,
    /// The digests of passages that need not be embedded again.
    pub embedded: Embedded,
}

/// Digests of the stored passages that have a vector of OpenAI's model.
#[derive(Debug, Default)]
pub struct Embedded(HashSet<String>);

impl Embedded {
    /// Tells if a passage of this text had a vector. Whether it still has, [`replace_items`] finds out.
    pub fn has(&self, content: &str) -> bool {
        // Without hashing anything for a new file.
        !self.0.is_empty() && self.0.contains(&hexadecimal(&Sha256::digest(without_nul(content))))
    }
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

/// Finds a file that the user owns. Its digests are read only if asked for.
///
/// # Errors
/// If the database does not answer.
pub async fn find_own(db: &Db, user: Uuid, id: Uuid, digests: bool) -> Result<Result<File, NoFile>, Error> {
    let sql = if digests { OWN_WITH_DIGESTS } else { OWN };
    type Columns = (Option<String>, Option<String>, Option<String>);
    Ok(match db.optional::<Columns>(sql, &[Value::Id(id), Value::Id(user)]).await? {
        Some((Some(name), Some(path), digests)) => {
            let embedded = digests.unwrap_or_default().split_whitespace().map(str::to_owned).collect();
            Ok(File { name, path, embedded: Embedded(embedded) })
        }
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
    /// Its vector.
    pub vector: NewVector<'a>,
}

/// The vector of a [`NewItem`].
#[derive(Clone, Copy)]
pub enum NewVector<'a> {
    /// None was computed.
    Nothing,
    /// This one.
    Numbers(&'a [f32]),
    /// That of the stored passage with the same text.
    Kept,
}

/// The outcome of [`replace_items`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replaced {
    /// Everything is stored.
    Whole,
    /// Nothing was changed: the file does not belong to the user (any more).
    NoFile,
    /// Nothing was changed: a vector that was to be kept is not there any more.
    NothingToKeep,
}

/// Replaces a file's passages, and stores the sum of their tokens in the file's row: all of it or nothing.
///
/// Differs: the original adds to the existing passages, and reports success if storing failed.
///
/// # Errors
/// If the database does not answer.
pub async fn replace_items(
    db: &Db,
    user: Uuid,
    file: Uuid,
    items: &[NewItem<'_>],
    column: Column,
) -> Result<Replaced, Error> {
    let mut sql = format!("{SET_LIMIT}{}; ", lock(user, file));
    write_replace(&mut sql, user, file, Sums::of(items), &items_json(items, column).await, column);
    let rows = db.message(user, LIMIT, sql).await?;
    let row = rows.last().and_then(|rows| rows.first()).ok_or_else(|| Error::Internal("no row".to_owned()))?;
    Ok(match (row.try_get("own")?, row.try_get("complete")?) {
        (true, true) => Replaced::Whole,
        (true, false) => Replaced::NothingToKeep,
        (false, _) => Replaced::NoFile,
    })
}

/// Locks the file's row, so that two requests for one file run one after the other. The statement after it sees what
/// the other one stored.
fn lock(user: Uuid, file: Uuid) -> String {
    format!("select id from public.files where id = '{file}' and user_id = '{user}' for update")
}

/// What a statement says of all its passages.
#[derive(Default)]
struct Sums {
    /// Tokens of all of them.
    tokens: i64,
    /// One of them keeps its vector.
    keeps: bool,
}

impl Sums {
    fn of(items: &[NewItem<'_>]) -> Self {
        let tokens = items.iter().map(|item| i64::from(item.tokens)).sum::<i64>().min(i64::from(i32::MAX));
        Self { tokens, keeps: items.iter().any(|item| matches!(item.vector, NewVector::Kept)) }
    }
}

/// The passages go as one JSON document: one literal, however many they are, and the columns give the types.
fn write_replace(sql: &mut String, user: Uuid, file: Uuid, sums: Sums, items: &str, column: Column) {
    let column = column.name();
    let Sums { tokens: total, keeps } = sums;
    // Nobody can know what the literal ends with.
    let quote = format!("$items_{}$", Uuid::new_v4().simple());
    sql.push_str("with fresh as (select * from json_populate_recordset(null::public.file_items, ");
    sql.push_str(&quote);
    sql.push_str(items);
    sql.push_str(&quote);
    // Writing to a string cannot fail.
    let _ = write!(sql, ") with ordinality), ");
    let _ = match keeps {
        true => write!(
            sql,
            "item as materialized ( \
                 select fresh.content, fresh.tokens, coalesce(fresh.{column}, old.{column}) as vector, ordinality \
                 from fresh left join ( \
                     select distinct on (content) content, {column} from public.file_items \
                     where file_id = '{file}' and user_id = '{user}' and {column} is not null order by content) old \
                   on fresh.{column} is null and old.content = fresh.content), "
        ),
        false => {
            write!(sql, "item as materialized (select content, tokens, {column} as vector, ordinality from fresh), ")
        }
    };
    let complete = if keeps { "not exists (select from item where vector is null)" } else { "true" };
    let _ = write!(
        sql,
        "ready as materialized ( \
             select exists (select from public.files where id = '{file}' and user_id = '{user}') as own, \
                    {complete} as complete), \
         gone as (delete from public.file_items where file_id = '{file}' and (select own and complete from ready)), \
         counted as ( \
             update public.files set tokens = {total} where id = '{file}' and (select own and complete from ready)), \
         added as ( \
             insert into public.file_items (file_id, user_id, created_at, content, tokens, {column}) \
             select '{file}'::uuid, '{user}'::uuid, now() + ordinality * interval '1 microsecond', content, tokens, vector \
             from item where (select own and complete from ready)) \
         select own, complete from ready"
    );
}

/// Writes passages as JSON. Two thousand of them have three million numbers, so others go on meanwhile.
async fn items_json(items: &[NewItem<'_>], column: Column) -> String {
    const AT_ONCE: usize = 16;
    let (column, mut json) = (column.name(), String::new());
    for (number, item) in items.iter().enumerate() {
        if number % AT_ONCE == AT_ONCE - 1 {
            tokio::task::yield_now().await;
        }
        json.push_str(if number == 0 { "[" } else { "," });
        let content = serde_json::Value::from(without_nul(item.content));
        let _ = write!(json, "{{\"content\":{content},\"tokens\":{}", item.tokens);
        if let NewVector::Numbers(numbers) = item.vector {
            let _ = write!(json, ",\"{column}\":");
            write_vector(&mut json, numbers);
        }
        json.push('}');
    }
    json.push_str(if items.is_empty() { "[]" } else { "]" });
    json
}

/// Postgres cannot store NUL in text.
fn without_nul(content: &str) -> String {
    content.replace('\0', "")
}

fn write_vector(sql: &mut String, numbers: &[f32]) {
    for (number, value) in numbers.iter().enumerate() {
        let _ = write!(sql, "{}{value}", if number == 0 { '[' } else { ',' });
    }
    sql.push(']');
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
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
    let mut question = String::from("'");
    write_vector(&mut question, vector);
    question.push_str("'::vector");
    let sql = format!("{SET_LIMIT}{}; {}", prepare(user, files), compare(column, "<=>", &question, count));
    let rows = db.message(user, LIMIT, sql).await?;
    Ok(rows.last().into_iter().flatten().map(Found::from_row).collect::<sqlx::Result<_>>()?)
}

/// Sets, for the rest of the transaction, what [`compare`] goes by: the files that may be read, the search path, and
/// whether there are so many passages that the index is used, with the index's settings.
fn prepare(user: Uuid, files: &[Uuid]) -> String {
    let files: Vec<String> = files.iter().map(|id| format!("'{id}'")).collect();
    let files = format!("array[{}]::uuid[]", files.join(","));
    let [readable, with_collections] =
        [READABLE, READABLE_WITH_COLLECTIONS].map(|sql| sql.replace("$1", &files).replace("$2", &format!("'{user}'")));
    // A branch that is not taken may name tables that do not exist.
    //
    // The planner underestimates the cost of unpacking a vector, and would prefer to compare and sort them all. An
    // index that iterates (pgvector 0.8 and later) goes on until it has found enough.
    format!(
        "do $do$ declare readable uuid[]; begin \
             if {HAS_COLLECTIONS} then readable := array({with_collections}); else readable := array({readable}); end if; \
             perform set_config('chatbot_ui_api.readable', readable::text, true), \
                     set_config('chatbot_ui_api.by_index', 'off', true); \
             perform set_config('search_path', quote_ident(nspname), true) \
             from pg_extension join pg_namespace on pg_namespace.oid = extnamespace where extname = 'vector'; \
             if (select count(*) from ( \
                     select from public.file_items where file_id = any(readable) limit {EXACT_UP_TO} + 1) item) \
                > {EXACT_UP_TO} then \
                 perform set_config('chatbot_ui_api.by_index', 'on', true), set_config('enable_sort', 'off', true), \
                         set_config('hnsw.ef_search', '200', true); \
                 perform set_config('hnsw.iterative_scan', 'strict_order', true), \
                         set_config('hnsw.max_scan_tuples', '200000', true) \
                 from pg_extension \
                 where extname = 'vector' and string_to_array(extversion, '.')::int[] >= array[0, 8]; \
             end if; \
         end $do$"
    )
}

/// Finds the nearest by the index if so set, and by comparing every passage if not, or if the index found too few: one
/// that does not iterate is not told of the list of files. `materialized` keeps the planner from using the index where
/// all are compared.
fn compare(column: Column, operator: &str, question: &str, count: i64) -> String {
    let column = column.name();
    // A query of its own is evaluated once, a function for every row.
    let among = format!(
        "file_id = any((select current_setting('chatbot_ui_api.readable', true)::uuid[])::uuid[]) and {OF_THE_OWNER}"
    );
    let distance = format!("{column} {operator} (select vector from question)");
    format!(
        "with question as materialized (select {question} as vector), \
         indexed as materialized ( \
             select id, {distance} as distance from public.file_items item \
             where current_setting('chatbot_ui_api.by_index', true) = 'on' and {among} \
             order by {distance} limit {count}), \
         compared as materialized ( \
             select id, {distance} as distance from public.file_items item \
             where (select count(*) from indexed) < {count} and {among}), \
         nearest as materialized ( \
             select id, distance from ( \
                 select id, distance from indexed where (select count(*) from indexed) >= {count} \
                 union all select id, distance from compared) both_ways \
             order by distance, id limit {count}) \
         select id, item.file_id, item.content, item.tokens, 1 - nearest.distance as similarity \
         from nearest join public.file_items item using (id) order by nearest.distance, id"
    )
}
