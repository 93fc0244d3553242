//! chatbot-ui's own migrations, by what each leaves in the database: finds those that were not applied.

use sqlx::{AssertSqlSafe, PgConnection, Row};

/// A migration of chatbot-ui, and a table or `table.column` that it makes. Those that make neither are left out.
const MIGRATIONS: [(&str, &str); 21] = [
    ("20240108234541_add_profiles", "profiles"),
    ("20240108234542_add_workspaces", "workspaces"),
    ("20240108234543_add_folders", "folders"),
    ("20240108234544_add_files", "files"),
    ("20240108234545_add_file_items", "file_items"),
    ("20240108234546_add_presets", "presets"),
    ("20240108234547_add_assistants", "assistants"),
    ("20240108234548_add_chats", "chats"),
    ("20240108234549_add_messages", "messages"),
    ("20240108234550_add_prompts", "prompts"),
    ("20240108234551_add_collections", "collections"),
    ("20240115135033_add_openrouter", "profiles.openrouter_api_key"),
    ("20240115171510_add_assistant_files", "assistant_files"),
    ("20240115171524_add_tools", "tools"),
    ("20240115172125_add_assistant_tools", "assistant_tools"),
    ("20240118224049_add_azure_embeddings", "profiles.azure_openai_embeddings_id"),
    ("20240125194719_add_custom_models", "models"),
    ("20240129232644_add_workspace_images", "workspaces.image_path"),
    ("20240212063532_add_at_assistants", "messages.assistant_id"),
    ("20240213085646_add_context_length_to_custom_models", "models.context_length"),
    ("20240302004845_add_groq", "profiles.groq_api_key"),
];

/// Returns the migrations of chatbot-ui that are missing; `None` if the database does not have its schema, but this
/// project's own, or nothing.
///
/// # Errors
/// If the database does not answer.
pub async fn find(connection: &mut PgConnection) -> sqlx::Result<Option<Vec<&'static str>>> {
    // Only this project's migrations make that function.
    let of_chatbot_ui = "select exists (select from pg_class where relnamespace = 'public'::regnamespace and relname in ('profiles', 'workspaces')) \
         and not exists (select from pg_proc where pronamespace = 'public'::regnamespace and proname = 'chatbot_ui_api_updated_at')";
    if !sqlx::raw_sql(of_chatbot_ui).fetch_one(&mut *connection).await?.try_get::<bool, _>(0)? {
        return Ok(None);
    }
    let traces: Vec<String> = MIGRATIONS
        .iter()
        .map(|(_, trace)| {
            let (table, column) = trace.split_once('.').unwrap_or((trace, ""));
            format!("('{table}', '{column}')")
        })
        .collect();
    let sql = format!(
        "select exists (select from pg_class where relnamespace = 'public'::regnamespace and relname = trace.of_table \
             and (trace.of_column = '' or exists (select from pg_attribute \
                 where attrelid = pg_class.oid and attname = trace.of_column and not attisdropped))) as found \
         from (values {}) trace (of_table, of_column)",
        traces.join(", ")
    );
    let rows = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(connection).await?;
    let mut missing = Vec::new();
    for (row, (name, _)) in rows.iter().zip(MIGRATIONS) {
        if !row.try_get::<bool, _>("found")? {
            missing.push(name);
        }
    }
    Ok(Some(missing))
}
