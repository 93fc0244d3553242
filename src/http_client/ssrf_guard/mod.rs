//! Protection against server-side request forgery (SSRF) through the URLs that
//! users choose: custom models, tools, Azure endpoints. Without it, users could
//! read what only this server can reach.
//!
//! A URL is checked when it is used (host literals in every notation, since the
//! URL parser normalizes them), at every redirect, and once more when its name
//! is resolved: the connection goes to the very addresses that were checked, so
//! DNS rebinding gains nothing.

mod address;
mod setting;

use std::{
    error::Error as StdError,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use futures::future::BoxFuture;
use ipnet::IpNet;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

use address::{AddressClass, classify, embedded};

/// The policy of `PRIVATE_UPSTREAMS`: the word `allow` or `deny`, hosts,
/// addresses and networks, separated by commas. A host or an address may have a
/// port, which then is the only one that it opens.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UpstreamPolicy {
    /// Whether private addresses are allowed, except link-local and metadata
    /// ones.
    pub allow: bool,
    entries: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    target: Target,
    /// `None` for every port.
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    Host(String),
    Network(IpNet),
}

impl Target {
    fn is_host(&self, host: &str) -> bool {
        matches!(self, Self::Host(listed) if listed.eq_ignore_ascii_case(host.trim_end_matches('.')))
    }
}

/// The reason why a URL is refused. Shown to users, so it contains no resolved
/// address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The scheme is neither http nor https.
    #[error("`{0}` is not a URL that begins with http:// or https://")]
    NotHttp(String),
    /// The URL contains credentials (`http://name:password@host`), which serve
    /// to deceive.
    #[error("a URL must not contain a user name or password")]
    Credentials,
    /// The host is, or resolves to, an address that is not public.
    #[error(
        "`{0}` leads to a private address, where this server does not connect; its operator can allow it with PRIVATE_UPSTREAMS"
    )]
    Private(String),
}

impl UpstreamPolicy {
    /// A policy that allows private addresses, for a server that listens on
    /// loopback only.
    pub fn allow() -> Self {
        Self { allow: true, ..Self::default() }
    }

    /// Checks a URL as far as possible without resolving its name.
    ///
    /// # Errors
    /// If the URL is refused.
    pub fn check_url(&self, url: &Url) -> Result<(), Refusal> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(Refusal::NotHttp(url.as_str().chars().take(200).collect()));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Refusal::Credentials);
        }
        let port = url.port_or_known_default();
        match url.host() {
            Some(Host::Ipv4(address)) => self.check_address(address.into(), &address.to_string(), port),
            Some(Host::Ipv6(address)) => self.check_address(address.into(), &address.to_string(), port),
            // Whoever resolves the name may not know the port.
            Some(Host::Domain(host)) if self.closes(host, port) => Err(Refusal::Private(host.to_owned())),
            Some(Host::Domain(_)) => Ok(()),
            None => Err(Refusal::NotHttp(url.as_str().chars().take(200).collect())),
        }
    }

    /// Tells if a host is listed, and only with other ports than this.
    fn closes(&self, host: &str, port: Option<u16>) -> bool {
        let mut ports =
            self.entries.iter().filter(|entry| entry.target.is_host(host)).map(|entry| entry.port).peekable();
        !self.allow && ports.peek().is_some() && ports.all(|listed| listed.is_some() && listed != port)
    }

    /// Checks an address that `host` is or resolved to, and every address that
    /// is embedded in it. The port is `None` where only [`Self::check_url`]
    /// knew it: then the ports of listed hosts were checked there, and
    /// addresses that are listed with a port are not allowed.
    ///
    /// # Errors
    /// [`Refusal::Private`], with the host, if the address is refused.
    pub fn check_address(&self, address: IpAddr, host: &str, port: Option<u16>) -> Result<(), Refusal> {
        let allowed = |address: IpAddr| match classify(address) {
            AddressClass::Public => true,
            AddressClass::Private if self.allow => true,
            class => self.lists(address, host, port, class),
        };
        if allowed(address) && embedded(address).all(allowed) {
            return Ok(());
        }
        Err(Refusal::Private(host.to_owned()))
    }

    fn lists(&self, address: IpAddr, host: &str, port: Option<u16>, class: AddressClass) -> bool {
        self.entries.iter().any(|entry| match &entry.target {
            Target::Host(_) => {
                entry.target.is_host(host)
                    && (entry.port.is_none() || port.map_or(!self.allow, |port| entry.port == Some(port)))
            }
            Target::Network(network) => {
                // 0.0.0.0/0 does not name the metadata service.
                let named = class < AddressClass::Metadata
                    || (classify(network.network()) == class && network.prefix_len() >= 10);
                named && network.contains(&address) && (entry.port.is_none() || entry.port == port)
            }
        })
    }
}

/// Returns whether a host, as written in a setting, is this machine.
pub fn is_this_machine(host: &str) -> bool {
    match host.trim_matches(['[', ']']).parse::<IpAddr>() {
        Ok(address) => address.is_loopback(),
        Err(_) => host.eq_ignore_ascii_case("localhost"),
    }
}

/// A resolver of names; tests have their own.
pub type Lookup = fn(String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>>;

/// Resolves a name by the system's resolver.
pub fn system_lookup(host: String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
    Box::pin(async move { Ok(tokio::net::lookup_host((host, 0)).await?.map(|found| found.ip()).collect()) })
}

/// A resolver for reqwest that returns only the addresses that the policy
/// allows.
pub(super) struct GuardedResolver {
    pub policy: Arc<UpstreamPolicy>,
    pub lookup: Lookup,
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (policy, lookup, host) = (self.policy.clone(), self.lookup, name.as_str().to_owned());
        Box::pin(async move { Ok(Box::new(addresses(Some(&policy), lookup, host, None).await?.into_iter()) as Addrs) })
    }
}

/// Resolves a name to the addresses that the policy, if there is one, allows
/// for a port, if it is known. The port is for the caller to set.
///
/// # Errors
/// [`Refusal`] if the policy allows none of them; an IO error if the name
/// cannot be resolved.
pub(super) async fn addresses(
    policy: Option<&UpstreamPolicy>,
    lookup: Lookup,
    host: String,
    port: Option<u16>,
) -> Result<Vec<SocketAddr>, Box<dyn StdError + Send + Sync>> {
    let mut found = lookup(host.clone()).await?;
    let any = !found.is_empty();
    if let Some(policy) = policy {
        found.retain(|address| policy.check_address(*address, &host, port).is_ok());
    }
    if found.is_empty() && any {
        return Err(Refusal::Private(host).into());
    }
    Ok(found.into_iter().map(|address| SocketAddr::new(address, 0)).collect())
}

#[cfg(test)]
mod tests;
