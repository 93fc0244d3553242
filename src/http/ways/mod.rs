//! The ways to have a chat answered: the model that the client named, by each key for it, then the operator's
//! fallbacks. Whatever a way leads to, the client's messages are put into its form and failures into its route's words.

mod target;

use std::sync::Arc;

use actix_web::web::Data;
use secrecy::SecretString;
use uuid::Uuid;

use super::{body::BLOCKING_FROM, chat_body::ChatBody, user::User};
use crate::{
    allowance::Turns,
    credentials::{Key, Keys, Profile},
    error::Error,
    llm::{
        Providers,
        access::Access,
        azure,
        catalogue::Date,
        circuits::Circuit,
        failover::Way,
        offers::Hosted,
        providers::{CUSTOM, Vendor},
        request::Extras,
    },
    telemetry::RequestLog,
};
pub use target::{MakeRound, MapErr};

/// The differences between the routes that a chat is posted to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Posted {
    /// A provider's own route.
    Chat,
    /// Google's, to which messages come in Google's form.
    Google,
    /// The route for tools.
    Tools,
}

/// The ways to have one chat answered. Only the first is prepared unless it fails.
pub struct Ways {
    body: Arc<ChatBody>,
    posted: Posted,
    turns: Arc<Turns>,
    user: Uuid,
    /// The server's keys.
    keys: Arc<Keys>,
    organization: Option<SecretString>,
    providers: Data<Providers>,
    log: RequestLog,
    list: Vec<Kept>,
}

struct Kept {
    source: Source,
    model: String,
    /// The key's place among the server's; `None` for a user's own.
    number: Option<usize>,
    rank: usize,
}

enum Source {
    Hosted(Vendor, SecretString),
    Azure(azure::Access),
    Custom(Access),
}

/// Returns the values of a key: the server's with their places, or the user's own one.
fn values(profile: &Profile, key: Key) -> Vec<(SecretString, Option<usize>)> {
    let is_of_server = profile.is_from_environment(key);
    profile.keys(key).cloned().enumerate().map(|(number, value)| (value, is_of_server.then_some(number))).collect()
}

fn numbered(keys: &Keys, key: Key) -> Vec<(SecretString, Option<usize>)> {
    keys.all(key).cloned().enumerate().map(|(number, value)| (value, Some(number))).collect()
}

/// Tells if there is a key for a provider.
///
/// # Errors
/// [`Error::KeyNotFound`] if neither the server nor the user has one.
pub fn check_key(user: &User, vendor: Vendor) -> Result<(), Error> {
    user.profile()?.key(vendor.key()).map(|_| ()).ok_or(Error::KeyNotFound(vendor.title()))
}

/// A chat as it was posted, to which ways are to be found.
#[derive(Clone, Copy)]
pub struct Incoming<'a> {
    /// The sender.
    pub user: &'a User,
    /// The body.
    pub body: &'a Arc<ChatBody>,
    /// The route that it was posted to.
    pub posted: Posted,
    /// Turns on a core.
    pub turns: &'a Data<Turns>,
    /// This worker's clients of providers.
    pub providers: &'a Data<Providers>,
    /// The request's record.
    pub log: &'a RequestLog,
}

impl Incoming<'_> {
    /// Returns no ways yet, and the model that the client named.
    fn no_ways(&self) -> (Ways, String) {
        let profile = self.user.optional_profile();
        let ways = Ways {
            body: self.body.clone(),
            posted: self.posted,
            turns: self.turns.clone().into_inner(),
            user: self.user.id,
            keys: profile.map(|profile| profile.environment.clone()).unwrap_or_default(),
            organization: profile.and_then(|profile| profile.openai_organization().cloned()),
            providers: self.providers.clone(),
            log: self.log.clone(),
            list: Vec::new(),
        };
        (ways, self.body.chat().model)
    }

    /// Returns the ways to a provider's model.
    ///
    /// # Errors
    /// If there is no key for it.
    pub fn hosted(&self, vendor: Vendor) -> Result<Ways, Error> {
        check_key(self.user, vendor)?;
        let (mut ways, model) = self.no_ways();
        ways.add(Hosted { vendor, model }, &values(self.user.profile()?, vendor.key()), 0);
        ways.add_fallbacks();
        Ok(ways)
    }

    /// Returns the ways to a model that the operator offers: by the server's own keys alone.
    ///
    /// # Errors
    /// If the server has none.
    pub fn offered(&self, model: Hosted) -> Result<Ways, Error> {
        self.user.profile()?;
        let (mut ways, _) = self.no_ways();
        ways.organization = ways.keys.get(Key::OpenAiOrganization).cloned();
        let values = numbered(&ways.keys, model.vendor.key());
        if values.is_empty() {
            let title = model.vendor.title();
            return Err(Error::Failed {
                status: 500,
                message: format!(
                    "This server offers {}, but has no key for {title}: please tell its operator.",
                    model.model
                ),
            });
        }
        ways.add(model, &values, 0);
        ways.add_fallbacks();
        Ok(ways)
    }

    /// Returns the ways to a deployment of Azure's.
    ///
    /// # Errors
    /// If the profile was not read, which is a bug.
    pub fn azure(&self, deployment: &str, access: &azure::Access) -> Result<Ways, Error> {
        let (mut ways, _) = self.no_ways();
        for (key, number) in values(self.user.profile()?, Key::AzureOpenAi) {
            let source = Source::Azure(access.with_key(key));
            ways.list.push(Kept { source, model: deployment.to_owned(), number, rank: 0 });
        }
        Ok(ways)
    }

    /// Returns the one way to a server that a user chose.
    pub fn custom(&self, base_url: &str, key: &SecretString) -> Ways {
        let (mut ways, model) = self.no_ways();
        let base_url = match base_url.trim() {
            "" => (CUSTOM.base_url)(&self.providers.base_urls),
            base_url => base_url,
        };
        let access =
            Access { base_url: base_url.to_owned(), key: key.clone(), organization: None, extras: Extras::default() };
        ways.list.push(Kept { source: Source::Custom(access), model, number: None, rank: 0 });
        ways
    }
}

impl Ways {
    fn add(&mut self, model: Hosted, values: &[(SecretString, Option<usize>)], rank: usize) {
        self.list.extend(values.iter().map(|(value, number)| Kept {
            source: Source::Hosted(model.vendor, value.clone()),
            model: model.model.clone(),
            number: *number,
            rank,
        }));
    }

    /// Adds the operator's fallbacks, unless the user's own key is used: that is the user's choice.
    fn add_fallbacks(&mut self) {
        let Some(Kept { source: Source::Hosted(vendor, _), model, number: Some(_), .. }) = self.list.first() else {
            return;
        };
        let named = Hosted { vendor: *vendor, model: model.clone() };
        let fallbacks = self.providers.routing.fallbacks(&named, Date::today());
        for (rank, model) in (1..).zip(fallbacks) {
            let values = numbered(&self.keys, model.vendor.key());
            self.add(model, &values, rank);
        }
    }

    /// Returns whose turn it takes to make a request of the chat and some `added` bytes, if that would occupy a worker.
    pub fn blocking(&self, added: usize) -> Option<(Arc<Turns>, Uuid)> {
        let is_large = self.body.bytes() + added >= BLOCKING_FROM;
        is_large.then(|| (self.turns.clone(), self.user))
    }

    /// Tells if one of the ways leads to Google.
    pub fn may_be_google(&self) -> bool {
        self.list.iter().any(|kept| matches!(kept.source, Source::Hosted(Vendor::Google, _)))
    }

    /// Returns the ways for [`crate::llm::failover`].
    pub fn ways(&self) -> Vec<Way> {
        let way = |kept: &Kept| Way { provider: kept.source.path(), circuit: self.circuit(kept), model: kept.rank };
        self.list.iter().map(way).collect()
    }

    fn circuit(&self, kept: &Kept) -> Option<Circuit> {
        let key = match &kept.source {
            Source::Hosted(vendor, _) => vendor.key(),
            Source::Azure(_) => Key::AzureOpenAi,
            Source::Custom(_) => return None,
        };
        self.providers.routing.circuits.find(key, kept.number?)
    }

    /// Returns the name of the first way's provider, and its model, for the record.
    pub fn first(&self) -> (&'static str, &str) {
        self.list.first().map_or(("", ""), |kept| (kept.source.path(), &kept.model))
    }
}

impl Source {
    fn path(&self) -> &'static str {
        match self {
            Self::Hosted(vendor, _) => vendor.name(),
            Self::Azure(_) => azure::PROVIDER,
            Self::Custom(_) => CUSTOM.path,
        }
    }
}
