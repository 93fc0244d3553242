//! `usage`: what was used, from the ledger, as a table, JSON or CSV. Rows are printed as they come, so that no export
//! is too large.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::ValueEnum;
use futures::TryStreamExt;
use sqlx::{PgConnection, Row, postgres::PgRow};
use uuid::Uuid;

use crate::{
    config::{self, Config},
    db::{
        inspect,
        usage::{self, Schema},
    },
};

/// The groups of the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum By {
    /// By day (UTC), the first one first.
    Day,
    /// By provider and model, those with most tokens first.
    Model,
    /// By user, those with most tokens first.
    User,
}

/// The form of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Columns, for people.
    Table,
    /// A list of objects, one a line.
    Json,
    /// With a line of names.
    Csv,
}

/// Runs the command, for everybody or for the user with this e-mail address or id.
pub fn run(user: Option<&str>, by: By, form: Form) -> ExitCode {
    super::run(async {
        let config = Config::new(&config::variables()?).map_err(|error| error.to_string())?;
        let options = &config.database.options;
        let mut connection = inspect::connect(&config.database).await.map_err(|error| {
            let (host, port) = (options.get_host(), options.get_port());
            format!("the database at {host}:{port} cannot be reached: {error}. `chatbot-ui-api check` says more")
        })?;
        let refused = |error: sqlx::Error| format!("the ledger cannot be read: {}", super::refusal(&error));
        match usage::look_up(&mut connection).await.map_err(refused)? {
            Schema::Usable => {}
            Schema::Missing => {
                return Err("usage is not counted in this database: run chatbot-ui-api migrate --usage".to_owned());
            }
            Schema::Forbidden => {
                return Err("this role may not read the ledger: run docs/role.sql as its owner".to_owned());
            }
        }
        let user = match user {
            Some(user) => Some(find(&mut connection, user).await?),
            None => None,
        };
        let with_names = by == By::User && usage::can_read_addresses(&mut connection).await;
        let sql = usage::export(by == By::Day, by == By::Model, with_names, user);
        let mut rows = sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).fetch(&mut connection);
        let names: &[&str] = match by {
            By::Day => &["day"],
            By::Model => &["provider", "model"],
            By::User => &["user"],
        };
        let mut out = io::BufWriter::new(io::stdout().lock());
        let mut count = 0_u64;
        written(begin(&mut out, form, names))?;
        while let Some(row) = rows.try_next().await.map_err(refused)? {
            let cells = cells(&row).map_err(refused)?;
            written(line(&mut out, form, names, &cells, count == 0))?;
            count += 1;
        }
        written(end(&mut out, form, count))
    })
}

/// Finds a user by the id, or by the e-mail address.
async fn find(connection: &mut PgConnection, user: &str) -> Result<Uuid, String> {
    if let Ok(id) = Uuid::try_parse(user) {
        return Ok(id);
    }
    let found = usage::user_with_address(connection, user).await.map_err(|error| {
        format!(
            "the users cannot be looked up in auth.users: {}. Give the user's id in place of the address, or run this with a DATABASE_URL whose role may read them",
            super::refusal(&error)
        )
    })?;
    found.ok_or_else(|| format!("no user has the address {user}"))
}

/// A failure to print is the reader's end, as in `| head`.
fn written(result: io::Result<()>) -> Result<(), String> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => other.map_err(|error| format!("the output cannot be written: {error}")),
    }
}

const NUMBERS: [&str; 7] =
    ["requests", "input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens", "tokens", "usd"];

fn cells(row: &PgRow) -> sqlx::Result<Vec<Option<String>>> {
    (0..row.len()).map(|column| row.try_get(column)).collect()
}

fn begin(out: &mut impl Write, form: Form, names: &[&str]) -> io::Result<()> {
    match form {
        Form::Json => write!(out, "["),
        Form::Csv => writeln!(out, "{},{}", names.join(","), NUMBERS.join(",")),
        Form::Table => {
            for name in names {
                write!(out, "{name:<28} ")?;
            }
            writeln!(out, "{}", NUMBERS.map(|name| format!("{name:>16}")).join(" "))
        }
    }
}

fn line(out: &mut impl Write, form: Form, names: &[&str], cells: &[Option<String>], first: bool) -> io::Result<()> {
    let text = |cell: &Option<String>| cell.clone().unwrap_or_default();
    match form {
        Form::Csv => {
            let cells: Vec<String> = cells.iter().map(|cell| quoted(&text(cell))).collect();
            writeln!(out, "{}", cells.join(","))
        }
        Form::Json => {
            let mut object = serde_json::Map::new();
            for (name, cell) in names.iter().zip(cells) {
                object.insert((*name).to_owned(), cell.clone().into());
            }
            for (name, cell) in NUMBERS.iter().zip(cells.iter().skip(names.len())) {
                let number = cell.as_deref().and_then(|cell| serde_json::from_str(cell).ok()).unwrap_or_default();
                object.insert((*name).to_owned(), number);
            }
            let object = serde_json::Value::Object(object);
            write!(out, "{}{object}", if first { "\n" } else { ",\n" })
        }
        Form::Table => {
            for cell in &cells[..names.len().min(cells.len())] {
                // A terminal must not read what a client named a model.
                let cell: String = text(cell).chars().map(|c| if c.is_control() { '?' } else { c }).collect();
                write!(out, "{cell:<28} ")?;
            }
            let numbers: Vec<String> =
                cells.iter().skip(names.len()).map(|cell| format!("{:>16}", text(cell))).collect();
            writeln!(out, "{}", numbers.join(" "))
        }
    }
}

fn end(out: &mut impl Write, form: Form, count: u64) -> io::Result<()> {
    match form {
        Form::Json if count == 0 => writeln!(out, "]")?,
        Form::Json => writeln!(out, "\n]")?,
        Form::Table if count == 0 => writeln!(out, "(nothing was used)")?,
        Form::Csv | Form::Table => {}
    }
    out.flush()
}

/// A cell of CSV. What a spreadsheet would take for a formula gets an apostrophe: clients choose models' names.
fn quoted(cell: &str) -> String {
    let is_formula = cell.starts_with(['=', '+', '-', '@', '\t', '\r']) && cell.parse::<f64>().is_err();
    let cell = if is_formula { format!("'{cell}") } else { cell.to_owned() };
    if cell.contains([',', '"', '\n', '\r']) { format!("\"{}\"", cell.replace('"', "\"\"")) } else { cell }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(form: Form) -> String {
        let cell = |text: &str| Some(text.to_owned());
        let numbers = ["1", "9", "4", "5", "2", "14"].map(cell);
        let rows = [vec![cell("openai"), cell("a,\"b")], vec![cell("custom"), cell("=cmd()\n")]];
        let mut out = Vec::new();
        let names = ["provider", "model"];
        begin(&mut out, form, &names).expect("written");
        for (number, row) in rows.iter().enumerate() {
            let usd = if number == 0 { cell("0.00057") } else { None };
            let cells: Vec<_> = row.iter().chain(&numbers).cloned().chain([usd]).collect();
            line(&mut out, form, &names, &cells, number == 0).expect("written");
        }
        end(&mut out, form, 2).expect("written");
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn csv_is_safe_in_a_spreadsheet() {
        assert_eq!(
            printed(Form::Csv),
            "provider,model,requests,input_tokens,cached_tokens,output_tokens,reasoning_tokens,tokens,usd\n\
             openai,\"a,\"\"b\",1,9,4,5,2,14,0.00057\ncustom,\"'=cmd()\n\",1,9,4,5,2,14,\n"
        );
    }

    #[test]
    fn json_has_numbers_and_null_for_an_unknown_price() {
        let json: serde_json::Value = serde_json::from_str(&printed(Form::Json)).expect("JSON");
        assert_eq!((&json[0]["usd"], &json[0]["tokens"]), (&serde_json::json!(0.00057), &serde_json::json!(14)));
        assert_eq!(json[1]["usd"], serde_json::Value::Null);
        let mut none = Vec::new();
        begin(&mut none, Form::Json, &["day"]).and_then(|()| end(&mut none, Form::Json, 0)).expect("written");
        assert_eq!(none, b"[]\n");
    }
}
