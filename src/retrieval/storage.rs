//! Supabase Storage, which holds uploaded files. Downloads use the service key, so the caller checks access before.

use std::borrow::Cow;

use percent_encoding::utf8_percent_encode;
use reqwest::header::{AUTHORIZATION, HeaderName, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use url::Url;
use uuid::Uuid;

use crate::{allowance::Charge, error::Error, llm::azure::SEGMENT};

/// The project's storage server.
pub struct Storage {
    /// The HTTP client.
    pub http: reqwest::Client,
    /// The project's URL.
    pub supabase_url: Url,
    /// `SUPABASE_SERVICE_ROLE_KEY`.
    pub service_key: Option<SecretString>,
    /// `MAX_FILE_BYTES`.
    pub max_file_bytes: usize,
}

impl Storage {
    /// Downloads an object in the bucket `files` that belongs to the user.
    ///
    /// The path comes from a row that its owner can write, and the service key opens every user's folder: a folder
    /// named by another user's id is refused. (chatbot-ui names every folder by its owner's id.)
    ///
    /// # Errors
    /// If the download fails: a sentence that begins with `Failed to retrieve file`; 413 for a file of more than
    /// `MAX_FILE_BYTES`, 503 if the user's allowance of bytes is used up.
    pub async fn download(&self, user: Uuid, path: &str, charge: &mut Charge) -> Result<Vec<u8>, Error> {
        let limit = self.max_file_bytes;
        let failed =
            |reason: &str| Error::Failed { status: 500, message: format!("Failed to retrieve file: {reason}") };
        let key =
            self.service_key.as_ref().ok_or_else(|| failed("SUPABASE_SERVICE_ROLE_KEY is not set on the server"))?;
        let segments: Vec<&str> = path.split('/').collect();
        let foreign = Uuid::try_parse(segments[0]).is_ok_and(|folder| folder != user);
        if foreign || segments.iter().any(|segment| matches!(*segment, "" | "." | "..")) {
            return Err(failed("its path is not the user's"));
        }
        let path: Vec<String> =
            segments.iter().map(|segment| utf8_percent_encode(segment, SEGMENT).to_string()).collect();
        let base = self.supabase_url.as_str().trim_end_matches('/');
        let url = format!("{base}/storage/v1/object/files/{}", path.join("/"));

        let request = with_key(self.http.get(url), key.expose_secret())
            .ok_or_else(|| failed("SUPABASE_SERVICE_ROLE_KEY is not a key"))?;
        let mut response = request.send().await.map_err(|_| failed("the storage server cannot be reached"))?;
        if !response.status().is_success() {
            let status = response.status().as_u16();
            let refusal = Refusal::of(status, &beginning(&mut response).await);
            if refusal.is_the_keys() {
                tracing::warn!("storage: {KEY_OF_ANOTHER_PROJECT} ({refusal:?}); `chatbot-ui-api check` says more");
            }
            return Err(failed(&refusal.sentence()));
        }
        let too_large = || Error::Failed {
            status: 413,
            message: format!("The file is larger than {limit} bytes, the most that this server takes"),
        };
        let mut file = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|_| failed("the storage server broke off"))? {
            if file.len() + chunk.len() > limit {
                return Err(too_large());
            }
            charge.grow(chunk.len())?;
            file.extend_from_slice(&chunk);
        }
        Ok(file)
    }
}

/// The cause of a refusal as [`Refusal::BucketNotSeen`], for the operator.
pub const KEY_OF_ANOTHER_PROJECT: &str =
    "SUPABASE_SERVICE_ROLE_KEY does not open the bucket files: it is no service key, or another project's";

/// The reason why storage does not hand an object out. Most refusals have the status 400, and the reason in the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such object, or not for this key.
    NoSuchObject,
    /// There is no such bucket, or not for this key.
    BucketNotSeen,
    /// The key is refused, or may not read the object.
    Denied,
    /// The object's name has characters that storage does not take.
    InvalidName,
    /// Another status.
    Other(u16),
}

impl Refusal {
    /// Reads the reason from a response's status and body.
    pub fn of(status: u16, body: &[u8]) -> Self {
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        let says = |word: &str| ["code", "error"].iter().any(|member| body[*member] == word);
        let inner = body["statusCode"].as_str().and_then(|it| it.parse().ok());
        match inner.or_else(|| body["statusCode"].as_u64().and_then(|it| u16::try_from(it).ok())).unwrap_or(status) {
            _ if says("NoSuchBucket") || says("Bucket not found") => Self::BucketNotSeen,
            _ if says("NoSuchKey") => Self::NoSuchObject,
            _ if says("InvalidKey") => Self::InvalidName,
            401 | 403 => Self::Denied,
            400 | 404 => Self::NoSuchObject,
            other => Self::Other(other),
        }
    }

    fn is_the_keys(self) -> bool {
        matches!(self, Self::BucketNotSeen | Self::Denied)
    }

    fn sentence(self) -> Cow<'static, str> {
        match self {
            Self::NoSuchObject => "Object not found".into(),
            Self::BucketNotSeen | Self::Denied => {
                "the server's key for the storage does not open it. Its operator has to set SUPABASE_SERVICE_ROLE_KEY to this project's".into()
            }
            Self::InvalidName => "the storage does not take the characters of its name".into(),
            Self::Other(status) => format!("the storage server answered with status {status}").into(),
        }
    }
}

/// Reads the first bytes of a refusal; nothing if it breaks off.
pub async fn beginning(response: &mut reqwest::Response) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > 4096 {
            break;
        }
    }
    bytes
}

/// Adds one of the project's API keys; `None` if it has characters that are not allowed in a header.
pub fn with_key(request: reqwest::RequestBuilder, key: &str) -> Option<reqwest::RequestBuilder> {
    let mut apikey = HeaderValue::from_str(key).ok()?;
    apikey.set_sensitive(true);
    let request = request.header(HeaderName::from_static("apikey"), apikey);
    // The newer keys are not JWTs, and rejected as bearer tokens.
    Some(if key.starts_with("sb_") { request } else { request.header(AUTHORIZATION, format!("Bearer {key}")) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_the_bodys_not_the_statuss() {
        for (status, body, reason) in [
            (
                400,
                r#"{"statusCode":"404","error":"Bucket not found","message":"Bucket not found"}"#,
                Refusal::BucketNotSeen,
            ),
            (400, r#"{"statusCode":"404","code":"NoSuchBucket","error":"NoSuchBucket"}"#, Refusal::BucketNotSeen),
            (400, r#"{"statusCode":"404","error":"not_found","code":"NoSuchKey"}"#, Refusal::NoSuchObject),
            (400, r#"{"statusCode":"403","error":"Unauthorized","code":"AccessDenied"}"#, Refusal::Denied),
            (400, r#"{"statusCode":"400","code":"InvalidKey"}"#, Refusal::InvalidName),
            (400, "no JSON", Refusal::NoSuchObject),
            (403, "", Refusal::Denied),
            (502, "<html>", Refusal::Other(502)),
        ] {
            assert_eq!(Refusal::of(status, body.as_bytes()), reason, "{body}");
        }
    }
}
