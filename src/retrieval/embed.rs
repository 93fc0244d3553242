//! Texts → vectors, with OpenAI or Azure, in batches within their limits.

use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    allowance::Charge,
    credentials::{Key, Profile},
    error::Error,
    llm::{
        self, ATTEMPTS, Attempt, Call, Failure, Providers, Reading, azure,
        dispatch::{MakeCall, Unanswered, dispatch_whole},
        failover::{self, failover},
        providers::OPENAI,
        tokens::tokens,
    },
    telemetry::RequestLog,
};

/// The model.
pub const MODEL: &str = "text-embedding-3-small";
/// Dimensions of a vector of [`MODEL`], and of its column.
const DIMENSIONS: usize = 1536;
/// OpenAI accepts 2,048 texts and 300,000 tokens per request; fewer texts keep the response small, at some 20 KB per
/// text.
const MAX_TEXTS: usize = 512;
const MAX_TOKENS: usize = 250_000;
/// The most JSON values in an answer: the numbers of [`MAX_TEXTS`] vectors, and the members around them.
const MAX_NODES: usize = MAX_TEXTS * (DIMENSIONS + 32);

#[derive(Serialize)]
struct Request<'a, I> {
    model: &'a str,
    input: &'a I,
}

#[derive(Deserialize)]
struct Reply {
    data: Vec<Embedding>,
    #[serde(default)]
    usage: Value,
}

#[derive(Deserialize)]
struct Embedding {
    /// Some servers leave it out and answer in order.
    index: Option<usize>,
    embedding: Vec<f32>,
}

/// Returns the key of a profile's service, and its names in metrics and in the error about its key.
fn service(profile: &Profile) -> (Key, &'static str, &'static str) {
    match profile.use_azure_openai {
        true => (Key::AzureOpenAi, azure::PROVIDER, azure::NAME),
        false => (Key::OpenAi, OPENAI.path, OPENAI.name),
    }
}

/// Returns the name of a profile's service in metrics.
pub fn provider(profile: &Profile) -> &'static str {
    service(profile).1
}

/// Returns the service's name, as used in the error about its key, if the profile's service has no key.
pub fn missing_key(profile: &Profile) -> Option<&'static str> {
    let (key, _, name) = service(profile);
    profile.key(key).is_none().then_some(name)
}

/// Client for embeddings.
pub struct Embedder<'a> {
    /// This worker's clients.
    pub providers: &'a Providers,
    /// The request's record.
    pub log: &'a RequestLog,
    /// Determines keys and service.
    pub profile: &'a Profile,
    /// What vectors and answers are charged to, as long as this lives.
    pub charge: Charge,
}

impl Embedder<'_> {
    /// Computes a vector for each text. Without texts, no request is made.
    ///
    /// # Errors
    /// If a key is missing, if the allowance of bytes is used up, or if the provider fails, mapped by `map_err`.
    pub async fn embed(
        &mut self,
        texts: &[(&str, usize)],
        map_err: fn(Failure) -> Error,
    ) -> Result<Vec<Vec<f32>>, Error> {
        let mut vectors = Vec::with_capacity(texts.len());
        for batch in batches(texts) {
            let input: Vec<&str> = batch.iter().map(|(text, _)| *text).collect();
            vectors.extend(self.request(&input, input.len(), map_err).await?);
        }
        Ok(vectors)
    }

    /// Computes the vector of one text.
    ///
    /// # Errors
    /// As in [`Embedder::embed`].
    pub async fn embed_one(&mut self, text: &str, map_err: fn(Failure) -> Error) -> Result<Vec<f32>, Error> {
        let vectors = self.request(&text, 1, map_err).await?;
        vectors.into_iter().next().ok_or_else(|| Error::Internal("no vector".to_owned()))
    }

    async fn request<I: Serialize>(
        &mut self,
        input: &I,
        count: usize,
        map_err: fn(Failure) -> Error,
    ) -> Result<Vec<Vec<f32>>, Error> {
        self.charge.grow(count * DIMENSIONS * size_of::<f32>())?;
        let (key, provider, name) = service(self.profile);
        {
            let mut facts = self.log.note();
            facts.provider = Some(provider);
            facts.model = Some(MODEL.to_owned());
        }
        self.profile.key(key).ok_or(Error::KeyNotFound(name))?;
        let circuits = &self.providers.routing.circuits;
        let ways = failover::by_keys(self.profile, provider, key, circuits);
        let asked = failover(circuits, &ways, self.log, async |failover::Attempt { at, is_only }| {
            let value = self.profile.keys(key).nth(at).ok_or(Unanswered::Invalid(Error::KeyNotFound(name)))?;
            let attempts = if is_only { ATTEMPTS } else { 1 };
            if self.profile.use_azure_openai {
                self.request_azure(input, value, attempts).await
            } else {
                self.request_openai(input, value, attempts).await
            }
        });
        let reply: Reply = Box::pin(asked).await.map_err(|(_, unanswered)| unanswered.into_error(map_err))?;
        self.log.count(tokens(&reply.usage.to_string()), true);
        in_order(reply, count).ok_or_else(|| {
            map_err(Failure::Unusable("The provider answered with vectors that do not match the request".to_owned()))
        })
    }

    /// What an answer may take until it is parsed.
    fn reading(&self) -> Reading {
        Reading { charge: self.charge.another(), max_nodes: MAX_NODES }
    }

    async fn request_openai<I: Serialize>(
        &self,
        input: &I,
        key: &SecretString,
        attempts: u32,
    ) -> Result<Reply, Unanswered> {
        let organization = self.profile.openai_organization();
        let base_url = &self.providers.base_urls.openai;
        let request = Request { model: MODEL, input };
        let call = OPENAI.post(base_url, "/embeddings", &request, key, organization).map_err(Unanswered::Invalid)?;
        let call = Call { attempts, ..call };
        Ok(llm::complete(self.providers, &call, self.log, self.reading()).await?)
    }

    async fn request_azure<I: Serialize>(
        &self,
        input: &I,
        key: &SecretString,
        attempts: u32,
    ) -> Result<Reply, Unanswered> {
        let access = azure::access(self.profile).map_err(Unanswered::Invalid)?.with_key(key.clone());
        let deployment = azure::embeddings_deployment(self.profile).map_err(Unanswered::Invalid)?;
        let request = azure::request(self.providers, deployment.clone(), &access);
        let call = |attempt: &Attempt<'_>| {
            let call = azure::embeddings(&Request { model: &deployment, input }, attempt, &access)?;
            Ok(Call { attempts, ..call })
        };
        let call = MakeCall::Inline(Box::new(call));
        let answer = Box::pin(dispatch_whole(self.providers, request, call, self.log, self.reading())).await;
        Ok(answer?.0)
    }
}

/// Orders vectors by the provider's index; by position where there is none.
fn in_order(reply: Reply, count: usize) -> Option<Vec<Vec<f32>>> {
    let mut vectors = vec![Vec::new(); count];
    for (place, Embedding { index, embedding }) in reply.data.into_iter().enumerate() {
        *vectors.get_mut(index.unwrap_or(place))? = embedding;
    }
    vectors.iter().all(|vector| vector.len() == DIMENSIONS).then_some(vectors)
}

fn batches<'a, 'b>(texts: &'a [(&'b str, usize)]) -> Vec<&'a [(&'b str, usize)]> {
    let mut batches = Vec::new();
    let (mut start, mut tokens) = (0, 0);
    for (at, (_, count)) in texts.iter().enumerate() {
        if at > start && (at - start == MAX_TEXTS || tokens + count > MAX_TOKENS) {
            batches.push(&texts[start..at]);
            (start, tokens) = (at, 0);
        }
        tokens += count;
    }
    if start < texts.len() {
        batches.push(&texts[start..]);
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_stay_within_the_limits() {
        let sizes = |counts: &[usize]| -> Vec<usize> {
            let texts: Vec<(&str, usize)> = counts.iter().map(|count| ("", *count)).collect();
            batches(&texts).iter().map(|batch| batch.len()).collect()
        };
        assert!(sizes(&[]).is_empty());
        assert_eq!(sizes(&[1; 512]), [512]);
        assert_eq!(sizes(&[1; 1100]), [512, 512, 76]);
        assert_eq!(sizes(&[100_000; 5]), [2, 2, 1]);
        assert_eq!(sizes(&[900_000, 1, 250_000]), [1, 1, 1], "one that is too large goes alone");
    }

    #[test]
    fn vectors_are_matched_by_index_or_by_place() {
        let vector = |number: f32| vec![number; DIMENSIONS];
        let reply = |data: &[(Option<usize>, Vec<f32>)]| Reply {
            data: data
                .iter()
                .map(|(index, embedding)| Embedding { index: *index, embedding: embedding.clone() })
                .collect(),
            usage: Value::Null,
        };
        let both = Some(vec![vector(0.0), vector(1.0)]);
        assert_eq!(in_order(reply(&[(Some(1), vector(1.0)), (Some(0), vector(0.0))]), 2), both);
        assert_eq!(in_order(reply(&[(None, vector(0.0)), (None, vector(1.0))]), 2), both);
        assert_eq!(in_order(reply(&[(Some(0), vector(0.0))]), 2), None);
        assert_eq!(in_order(reply(&[(Some(2), vector(0.0)), (Some(0), vector(0.0))]), 2), None);
        assert_eq!(in_order(reply(&[(Some(0), vec![1.0])]), 1), None);
    }
}
