//! pgvector's type in binary format. Its OID and its schema differ from database to database, and the schema need not
//! be on the search path (on Supabase it is `extensions`), so both are looked up once and then used explicitly.

use sqlx::{
    Connection, FromRow, PgConnection, Postgres, Type,
    encode::{Encode, IsNull},
    error::BoxDynError,
    postgres::{PgArgumentBuffer, PgTypeInfo, types::Oid},
};

use super::pool::Db;
use crate::error::Error;

/// The type `vector` of one database.
#[derive(Debug, Clone, FromRow)]
pub struct VectorType {
    oid: Oid,
    array_oid: Oid,
    /// Quoted, for use in a statement.
    pub schema: String,
    /// The index supports iterative scans (pgvector 0.8 and later).
    pub iterates: bool,
}

pub(super) const LOOK_UP: &str = "select type.oid as oid, type.typarray as array_oid, quote_ident(space.nspname) as schema, \
            string_to_array(extension.extversion, '.')::int[] >= array[0, 8] as iterates \
     from pg_extension extension \
     join pg_namespace space on space.oid = extension.extnamespace \
     join pg_type type on type.typnamespace = space.oid and type.typname = 'vector' \
     where extension.extname = 'vector'";

impl Db {
    /// Returns the database's vector type, looked up on first use.
    ///
    /// # Errors
    /// [`Error::Internal`] if pgvector is not installed.
    pub(super) async fn vector_type(&self) -> Result<&VectorType, Error> {
        self.vector
            .get_or_try_init(|| async {
                let query = sqlx::query_as::<_, VectorType>(LOOK_UP);
                self.optional(query).await?.ok_or_else(|| {
                    Error::Internal(
                        "the database has no pgvector: run `create extension vector`, then migrate".to_owned(),
                    )
                })
            })
            .await
    }

    /// Lets a connection look up the type before a statement needs it. sqlx looks up an unknown type between preparing
    /// and executing, which discards an unnamed statement: the first statement on each connection fails. Therefore a
    /// dummy statement is sent first, in a transaction of its own.
    pub(super) async fn learn_vector_type(&self, connection: &mut PgConnection) -> sqlx::Result<()> {
        let Some(VectorType { schema, .. }) = self.vector.get() else {
            return Ok(());
        };
        let mut transaction = connection.begin().await?;
        let sql = format!("select null::{schema}.vector, null::{schema}.vector[]");
        let _ = sqlx::query(sqlx::AssertSqlSafe(sql)).persistent(false).execute(&mut *transaction).await;
        transaction.rollback().await
    }
}

/// One vector as a parameter.
pub struct Vector<'a>(pub &'a VectorType, pub &'a [f32]);

/// An array of vectors as a parameter; `None` is NULL.
pub struct Vectors<'a>(pub &'a VectorType, pub Vec<Option<&'a [f32]>>);

/// pgvector's `vector_recv`: the number of dimensions, sixteen unused bits, and the numbers.
fn write(buffer: &mut Vec<u8>, numbers: &[f32]) -> Result<(), BoxDynError> {
    buffer.extend_from_slice(&u16::try_from(numbers.len())?.to_be_bytes());
    buffer.extend_from_slice(&[0, 0]);
    buffer.extend(numbers.iter().flat_map(|number| number.to_be_bytes()));
    Ok(())
}

// The OID is known per value, not per Rust type; `produces` returns it.
impl Type<Postgres> for Vector<'_> {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_name("vector")
    }
}

impl Encode<'_, Postgres> for Vector<'_> {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        write(buffer, self.1)?;
        Ok(IsNull::No)
    }

    fn produces(&self) -> Option<PgTypeInfo> {
        Some(PgTypeInfo::with_oid(self.0.oid))
    }
}

impl Type<Postgres> for Vectors<'_> {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_name("_vector")
    }
}

impl Encode<'_, Postgres> for Vectors<'_> {
    /// Writes Postgres' `array_recv` format: dimensions, a flag for NULLs, the element type, each dimension's length
    /// and first index, then the elements with their lengths.
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        let nulls = i32::from(self.1.iter().any(Option::is_none));
        buffer.extend_from_slice(&1i32.to_be_bytes());
        buffer.extend_from_slice(&nulls.to_be_bytes());
        buffer.extend_from_slice(&self.0.oid.0.to_be_bytes());
        buffer.extend_from_slice(&i32::try_from(self.1.len())?.to_be_bytes());
        buffer.extend_from_slice(&1i32.to_be_bytes());
        for vector in &self.1 {
            match vector {
                None => buffer.extend_from_slice(&(-1i32).to_be_bytes()),
                Some(numbers) => {
                    buffer.extend_from_slice(&i32::try_from(4 + 4 * numbers.len())?.to_be_bytes());
                    write(buffer, numbers)?;
                }
            }
        }
        Ok(IsNull::No)
    }

    fn produces(&self) -> Option<PgTypeInfo> {
        Some(PgTypeInfo::with_oid(self.0.array_oid))
    }
}
