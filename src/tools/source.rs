//! A tool's document: pasted, or at an address that was pasted instead.

use reqwest::header::ACCEPT;
use serde_json::value::RawValue;
use url::Url;

use super::{SelectedTool, ToolClient, arguments::text, document::MAX_BYTES, offer::Tool};
use crate::http_client::{self, ReadError};

/// Reads what was selected into a tool whose document is still text.
pub async fn tool(client: &ToolClient, selected: &SelectedTool<'_>) -> Tool {
    let name = selected.name.map(text).unwrap_or_default().into_owned();
    let headers = selected.custom_headers.map(ToOwned::to_owned);
    let schema = selected.schema.map_or("", RawValue::get);
    // A document may stand there as it is, or as text.
    if schema.len() > 2 * MAX_BYTES {
        let document = Err(format!("its document is larger than {} MiB", MAX_BYTES / 1024 / 1024));
        return Tool { name, document, location: None, headers };
    }
    let pasted = selected.schema.map(text).unwrap_or_default().into_owned();
    let Some(location) = address(&pasted) else {
        return Tool { name, document: Ok(pasted), location: None, headers };
    };
    Tool { name, document: fetch(client, &location).await, location: Some(location), headers }
}

/// The URL, if that is all that was pasted.
fn address(pasted: &str) -> Option<Url> {
    let pasted = pasted.trim();
    let is_url = pasted.len() < 2048 && !pasted.contains(char::is_whitespace);
    Url::parse(pasted).ok().filter(|url| is_url && matches!(url.scheme(), "http" | "https") && url.has_host())
}

async fn fetch(client: &ToolClient, location: &Url) -> Result<String, String> {
    client.http.policy.check_url(location).map_err(|refusal| format!("its document was not fetched: {refusal}"))?;
    let get = async {
        let request =
            client.http.client.get(location.clone()).header(ACCEPT, "application/json, application/yaml, */*;q=0.5");
        let response = request.send().await.map_err(|error| match http_client::refusal(&error) {
            Some(refusal) => format!("its document was not fetched: {refusal}"),
            None => "its document could not be fetched: the server cannot be reached".to_owned(),
        })?;
        if !response.status().is_success() {
            return Err(format!("its document could not be fetched: the server answered {}", response.status()));
        }
        let body = http_client::read(response, MAX_BYTES).await.map_err(|error| match error {
            ReadError::TooLarge => format!("its document is larger than {} MiB", MAX_BYTES / 1024 / 1024),
            ReadError::Broken(_) => "its document could not be fetched: the connection broke".to_owned(),
        })?;
        Ok(String::from_utf8(body).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
    };
    let in_time = tokio::time::timeout(client.timeout, get).await;
    in_time.unwrap_or_else(|_| Err("its document could not be fetched in time".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_told_from_a_document() {
        assert!(address(" https://h/openapi.json\n").is_some());
        for other in ["", "{}", "openapi: 3.0.0", "https://h/a b", "file:///etc/passwd", "see https://h"] {
            assert!(address(other).is_none(), "{other}");
        }
    }
}
