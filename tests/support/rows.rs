//! Rows of the database as Supabase and the front end insert them.

use sqlx::PgExecutor;
use uuid::Uuid;

/// A user and a session, with the profile that a trigger inserts.
pub async fn account<'c>(db: impl PgExecutor<'c>, user: Uuid, session: Uuid, email: &str) {
    // One statement, whose parts see the same snapshot; the foreign key is
    // checked at its end.
    let sql = "with users as (insert into auth.users (id, aud, role, email) \
               values ($1, 'authenticated', 'authenticated', $3)) \
               insert into auth.sessions (id, user_id) values ($2, $1)";
    sqlx::query(sql).bind(user).bind(session).bind(email).execute(db).await.expect("a user with a session");
}

/// A custom model of a user.
pub struct Model<'a> {
    pub base_url: &'a str,
    pub api_key: &'a str,
    pub sharing: &'a str,
}

impl Model<'_> {
    pub async fn insert<'c>(self, db: impl PgExecutor<'c>, owner: Uuid) -> Uuid {
        let sql = "insert into public.models (user_id, base_url, api_key, sharing, description, model_id, name) \
                   values ($1, $2, $3, $4, '', 'x', '') returning id";
        let insert = sqlx::query_scalar(sql).bind(owner).bind(self.base_url).bind(self.api_key).bind(self.sharing);
        insert.fetch_one(db).await.expect("a model")
    }
}

/// A custom model that is its owner's alone.
pub async fn model<'c>(db: impl PgExecutor<'c>, owner: Uuid, base_url: &str, api_key: &str) -> Uuid {
    Model { base_url, api_key, sharing: "private" }.insert(db, owner).await
}

/// An uploaded file. Without a path its object is at `<owner>/<id>`.
pub struct File<'a> {
    pub name: &'a str,
    pub path: Option<&'a str>,
    pub sharing: &'a str,
}

impl File<'_> {
    pub async fn insert<'c>(self, db: impl PgExecutor<'c>, owner: Uuid) -> Uuid {
        let sql = "insert into public.files (id, user_id, name, file_path, sharing, description, size, tokens, type) \
                   values ($1, $2, $3, $4, $5, '', 0, -1, '')";
        let id = Uuid::new_v4();
        let path = self.path.map_or_else(|| format!("{owner}/{id}"), str::to_owned);
        let insert = sqlx::query(sql).bind(id).bind(owner).bind(self.name).bind(path).bind(self.sharing);
        insert.execute(db).await.expect("a file");
        id
    }
}

/// A passage of a file with its vector.
pub async fn item<'c>(
    db: impl PgExecutor<'c>,
    owner: Uuid,
    file: Uuid,
    (content, tokens): (&str, i32),
    vector: &[f32],
) -> Uuid {
    // An array rather than a vector: that type's schema is not always in the path.
    let sql = "insert into public.file_items (file_id, user_id, content, tokens, openai_embedding) \
               values ($1, $2, $3, $4, $5::real[]) returning id";
    let insert = sqlx::query_scalar(sql).bind(file).bind(owner).bind(content).bind(tokens).bind(vector);
    insert.fetch_one(db).await.expect("a passage")
}
