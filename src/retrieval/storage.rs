//! Supabase Storage, which holds uploaded files. Downloads use the service key, so the caller checks access before.

use percent_encoding::utf8_percent_encode;
use reqwest::header::{AUTHORIZATION, HeaderName, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
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
            // Storage's status for a missing object is 400.
            let reason = if matches!(response.status().as_u16(), 400 | 404) {
                "Object not found".to_owned()
            } else {
                format!("the storage server answered with status {}", response.status().as_u16())
            };
            return Err(failed(&reason));
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

/// Adds one of the project's API keys; `None` if it has characters that are not allowed in a header.
pub fn with_key(request: reqwest::RequestBuilder, key: &str) -> Option<reqwest::RequestBuilder> {
    let mut apikey = HeaderValue::from_str(key).ok()?;
    apikey.set_sensitive(true);
    let request = request.header(HeaderName::from_static("apikey"), apikey);
    // The newer keys are not JWTs, and rejected as bearer tokens.
    Some(if key.starts_with("sb_") { request } else { request.header(AUTHORIZATION, format!("Bearer {key}")) })
}
