//! A tool's document: pasted, or at an address that was pasted instead.

use reqwest::header::ACCEPT;
use url::Url;

use super::{SelectedTool, ToolClient, document::MAX_BYTES, offer::Tool};
use crate::{
    allowance::Charge,
    error::Error,
    http_client::{self, ReadError},
};

/// Reads what was selected into a tool whose document is still text. Documents are charged twice, for what they become
/// when they are parsed.
///
/// # Errors
/// If the user's or the server's allowance of bytes is used up.
pub async fn tool(client: &ToolClient, selected: SelectedTool, mut charge: Charge) -> Result<(Tool, Charge), Error> {
    let SelectedTool { name, schema, custom_headers: headers } = selected;
    let Some(pasted) = schema else {
        let document = Err(format!("its document is larger than {} MiB", MAX_BYTES / 1024 / 1024));
        return Ok((Tool { name, document, location: None, headers }, charge));
    };
    let Some(location) = address(&pasted) else {
        charge.grow(pasted.len() * 2)?;
        return Ok((Tool { name, document: Ok(pasted), location: None, headers }, charge));
    };
    let document = fetch(client, &location, &mut charge).await?;
    charge.grow(document.as_ref().map_or(0, String::len))?;
    Ok((Tool { name, document, location: Some(location), headers }, charge))
}

/// The URL, if that is all that was pasted.
fn address(pasted: &str) -> Option<Url> {
    let pasted = pasted.trim();
    if pasted.len() >= 2048 || pasted.contains(char::is_whitespace) {
        return None;
    }
    Url::parse(pasted).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
}

/// Fetches a document; the inner error is the reason why there is none.
async fn fetch(client: &ToolClient, location: &Url, charge: &mut Charge) -> Result<Result<String, String>, Error> {
    if let Err(refusal) = client.http.policy.check_url(location) {
        return Ok(Err(format!("its document was not fetched: {refusal}")));
    }
    let get = async {
        let request =
            client.http.client.get(location.clone()).header(ACCEPT, "application/json, application/yaml, */*;q=0.5");
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) => {
                return Ok(Err(match http_client::refusal(&error) {
                    Some(refusal) => format!("its document was not fetched: {refusal}"),
                    None => "its document could not be fetched: the server cannot be reached".to_owned(),
                }));
            }
        };
        if !response.status().is_success() {
            return Ok(Err(format!("its document could not be fetched: the server answered {}", response.status())));
        }
        Ok(match http_client::read(response, MAX_BYTES, Some(charge)).await {
            Ok(body) => {
                Ok(String::from_utf8(body)
                    .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
            }
            Err(ReadError::TooLarge) => Err(format!("its document is larger than {} MiB", MAX_BYTES / 1024 / 1024)),
            Err(ReadError::Broken(_)) => Err("its document could not be fetched: the connection broke".to_owned()),
            Err(ReadError::Unaffordable(error)) => return Err(error),
        })
    };
    let in_time = tokio::time::timeout(client.timeout, get).await;
    in_time.unwrap_or_else(|_| Ok(Err("its document could not be fetched in time".to_owned())))
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
