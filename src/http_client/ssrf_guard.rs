//! Protection against server-side request forgery (SSRF) through the URLs that
//! users choose: custom models, tools, Azure endpoints. Without it, users could
//! read what only this server can reach.
//!
//! A URL is checked when it is used (host literals in every notation, since the
//! URL parser normalizes them), at every redirect, and once more when its name
//! is resolved: the connection goes to the very addresses that were checked, so
//! DNS rebinding gains nothing.

use std::{
    error::Error as StdError,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
    sync::Arc,
};

use futures::future::BoxFuture;
use ipnet::IpNet;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

/// The policy of `PRIVATE_UPSTREAMS`: the word `allow` or `deny`, hosts,
/// addresses and networks, separated by commas.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UpstreamPolicy {
    /// Whether private addresses are allowed, except link-local and metadata
    /// ones.
    pub allow: bool,
    hosts: Vec<String>,
    networks: Vec<IpNet>,
}

const SWITCHES: [&str; 10] = ["yes", "no", "true", "false", "on", "off", "1", "0", "all", "none"];

impl FromStr for UpstreamPolicy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut policy = Self::default();
        for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            match entry {
                "allow" => policy.allow = true,
                "deny" => policy.allow = false,
                // Meant as a switch: no host has such a name.
                word if SWITCHES.iter().any(|switch| switch.eq_ignore_ascii_case(word)) => {
                    return Err(
                        "must be `allow` or `deny` (or a list of hosts and networks), not another switch".to_owned()
                    );
                }
                _ => {
                    if let Ok(address) = entry.trim_matches(['[', ']']).parse::<IpAddr>() {
                        policy.networks.push(address.into());
                    } else if let Ok(network) = entry.parse::<IpNet>() {
                        policy.networks.push(network);
                    } else if let (Ok(Host::Domain(host)), false) = (Host::parse(entry), entry.contains(['/', ':'])) {
                        policy.hosts.push(host.trim_end_matches('.').to_owned());
                    } else {
                        return Err("must be `allow`, `deny`, or a list of hosts, addresses and networks such as `ollama,10.0.0.0/8`".to_owned());
                    }
                }
            }
        }
        Ok(policy)
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

/// The class of an address, the most restricted last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum AddressClass {
    Public,
    Private,
    /// Link-local addresses and the clouds' metadata services.
    Metadata,
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
        match url.host() {
            Some(Host::Ipv4(address)) => self.check_address(address.into(), &address.to_string()),
            Some(Host::Ipv6(address)) => self.check_address(address.into(), &address.to_string()),
            Some(Host::Domain(_)) => Ok(()),
            None => Err(Refusal::NotHttp(url.as_str().chars().take(200).collect())),
        }
    }

    /// Checks an address that `host` is or resolved to.
    ///
    /// # Errors
    /// [`Refusal::Private`], with the host, if the address is refused.
    pub fn check_address(&self, address: IpAddr, host: &str) -> Result<(), Refusal> {
        let inner = embedded(address);
        let class = inner.map_or(AddressClass::Public, classify).max(classify(address));
        let allowed = match class {
            AddressClass::Public => true,
            AddressClass::Private => self.allow,
            AddressClass::Metadata => false,
        };
        if allowed || self.lists(address, host, class) || inner.is_some_and(|inner| self.lists(inner, host, class)) {
            return Ok(());
        }
        Err(Refusal::Private(host.to_owned()))
    }

    fn lists(&self, address: IpAddr, host: &str, wanted: AddressClass) -> bool {
        let host = host.trim_end_matches('.');
        self.hosts.iter().any(|listed| listed.eq_ignore_ascii_case(host))
            || self.networks.iter().any(|network| {
                // 0.0.0.0/0 does not name the metadata service.
                let named = wanted < AddressClass::Metadata
                    || (classify(network.network()) == wanted && network.prefix_len() >= 10);
                named && network.contains(&address)
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

/// Returns the IPv4 address that is embedded in an IPv6 one: mapped, compatible,
/// NAT64, 6to4, Teredo, ISATAP.
fn embedded(address: IpAddr) -> Option<IpAddr> {
    let IpAddr::V6(address) = address else {
        return None;
    };
    let [a, b, c, d, e, f, g, h] = address.segments();
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Some(IpAddr::V4(Ipv4Addr::new(a, b, c, d)))
    };
    match (a, b) {
        (0, 0) if (c, d, e) == (0, 0, 0) && (f == 0xffff || (f == 0 && (g, h) != (0, 0) && (g, h) != (0, 1))) => {
            v4(g, h)
        }
        // ::ffff:0:a.b.c.d, the IPv4-translated form.
        (0, 0) if (c, d, e, f) == (0, 0, 0xffff, 0) => v4(g, h),
        (0x64, 0xff9b) if (c, d, e, f) == (0, 0, 0, 0) => v4(g, h),
        (0x2002, _) => v4(b, c),
        (0x2001, 0) => v4(!g, !h),
        // ISATAP, under any prefix.
        _ if (e & 0xfdff, f) == (0, 0x5efe) => v4(g, h),
        _ => None,
    }
}

fn classify(address: IpAddr) -> AddressClass {
    match address {
        IpAddr::V4(address) => classify_v4(address),
        IpAddr::V6(address) => classify_v6(address),
    }
}

fn classify_v4(address: Ipv4Addr) -> AddressClass {
    match address.octets() {
        // Link-local with AWS', Google's and Azure's metadata service;
        // Alibaba's; Oracle's; Azure's platform address, public by its number.
        [169, 254, ..] | [100, 100, 100, 200] | [192, 0, 0, 192] | [168, 63, 129, 16] => AddressClass::Metadata,
        // The special-purpose registry (RFC 6890 and its successors), multicast
        // and everything else that is not globally reachable.
        [0 | 10 | 127, ..]
        | [100, 64..=127, ..]
        | [172, 16..=31, ..]
        | [192, 0, 0 | 2, _]
        | [192, 88, 99, _]
        | [192, 168, ..]
        | [198, 18 | 19, ..]
        | [198, 51, 100, _]
        | [203, 0, 113, _]
        | [224..=255, ..] => AddressClass::Private,
        _ => AddressClass::Public,
    }
}

fn classify_v6(address: Ipv6Addr) -> AddressClass {
    match address.segments() {
        // AWS' services, and Google's metadata server.
        [0xfd00, 0x0ec2, ..] | [0xfd20, 0x00ce, ..] => AddressClass::Metadata,
        [0xfe80..=0xfebf, ..] => AddressClass::Metadata,
        // Documentation and protocol assignments: benchmarking, ORCHID. Teredo
        // (2001:0::) counts by its embedded address.
        [0x2001, 0x0db8, ..] | [0x3fff, 0..=0x0fff, ..] | [0x2001, 0x0001..=0x01ff, ..] => AddressClass::Private,
        // Global unicast: all that has ever been allocated.
        [0x2000..=0x3fff, ..] => AddressClass::Public,
        // Decided by the embedded IPv4 address.
        _ if embedded(address.into()).is_some() => AddressClass::Public,
        // Loopback, unique local, site-local, multicast, discard-only,
        // local-use NAT64, segment routing, and unallocated space.
        _ => AddressClass::Private,
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
        Box::pin(async move { Ok(Box::new(addresses(Some(&policy), lookup, host).await?.into_iter()) as Addrs) })
    }
}

/// Resolves a name to the addresses that the policy, if there is one, allows.
/// The port is for the caller to set.
///
/// # Errors
/// [`Refusal`] if the policy allows none of them; an IO error if the name
/// cannot be resolved.
pub(super) async fn addresses(
    policy: Option<&UpstreamPolicy>,
    lookup: Lookup,
    host: String,
) -> Result<Vec<SocketAddr>, Box<dyn StdError + Send + Sync>> {
    let mut found = lookup(host.clone()).await?;
    let any = !found.is_empty();
    if let Some(policy) = policy {
        found.retain(|address| policy.check_address(*address, &host).is_ok());
    }
    if found.is_empty() && any {
        return Err(Refusal::Private(host).into());
    }
    Ok(found.into_iter().map(|address| SocketAddr::new(address, 0)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn policy(text: &str) -> UpstreamPolicy {
        text.parse().expect(text)
    }

    fn check(policy: &UpstreamPolicy, url: &str) -> Result<(), Refusal> {
        policy.check_url(&Url::parse(url).expect(url))
    }

    const PRIVATE: &[&str] = &[
        "http://127.0.0.1/",
        "http://127.1/",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0x7f.1/",
        "http://0177.0.0.1/",
        "http://0/",
        "http://0.0.0.0:80/",
        "http://10.0.0.5/",
        "http://172.16.0.1/",
        "http://172.31.255.255/",
        "http://192.168.1.1/",
        "http://100.64.0.1/",
        "http://192.0.2.1/",
        "http://198.18.0.1/",
        "http://224.0.0.1/",
        "http://255.255.255.255/",
        "http://[::1]/",
        "http://[::]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[::ffff:7f00:1]/",
        "http://[::127.0.0.1]/",
        "http://[::ffff:0:127.0.0.1]/",
        "http://[64:ff9b::10.0.0.1]/",
        "http://[64:ff9b:1::1]/",
        "http://[2002:a00:1::]/",
        "http://[2001:0:1:2:3:4:f5ff:fffe]/",
        "http://[fc00::1]/",
        "http://[fd12:3456::1]/",
        "http://[fec0::1]/",
        "http://[ff02::1]/",
        "http://[2001:db8::1]/",
        "http://１２７.０.０.１/",
        "http://①②⑦.⓪.⓪.①/",
        "http://127。0。0。1/",
        "http://127.0.0.1./",
        "http://%31%32%37.0.0.1/",
        "http://%30x7f.1/",
        "http://0x7f000001./",
        "http://017700000001/",
        "http://10.1/",
        "http://192.168.257/",
        "http://0xA.0x0.0x0.0x1/",
        "http:\\\\127.0.0.1\\",
        "http:127.0.0.1",
        "http://\t127.0.0.1\n/",
        "HTTP://127.0.0.1:65535/",
        "http://192.0.0.8/",
        "http://192.88.99.1/",
        "http://198.51.100.7/",
        "http://203.0.113.7/",
        "http://239.255.255.250/",
        "http://240.0.0.1/",
        "http://100.127.255.255/",
        "http://[0:0:0:0:0:0:0:1]/",
        "http://[0000:0000::0001]/",
        "http://[::FFFF:10.0.0.1]/",
        "http://[::a00:1]/",
        "http://[64:ff9b::a00:1]/",
        "http://[64:ff9b::1:808:808]/",
        "http://[64:ff9b:1:ffff:ffff:ffff:808:808]/",
        "http://[2002:7f00:1::1]/",
        "http://[2001:0:808:808::f5ff:fffe]/",
        "http://[2a00::5efe:10.0.0.1]/",
        "http://[2a00::200:5efe:192.168.0.1]/",
        "http://[fdff:ffff::1]/",
        "http://[ff0e::1]/",
        "http://[2001:2::1]/",
        "http://[2001:10::1]/",
        "http://[2001:20::1]/",
        "http://[3fff:fff::1]/",
        "http://[5f00::1]/",
        "http://[100::1]/",
        "http://[4000::1]/",
        "http://[1::1]/",
        "http://[::2:0:0]/",
    ];

    const METADATA: &[&str] = &[
        "http://169.254.169.254/latest/meta-data/",
        "http://169.254.0.1/",
        "http://2852039166/",
        "http://0xa9fea9fe/",
        "http://[::ffff:169.254.169.254]/",
        "http://[64:ff9b::a9fe:a9fe]/",
        "http://[2002:a9fe:a9fe::]/",
        "http://[fe80::1]/",
        "http://[fd00:ec2::254]/",
        "http://[fd00:ec2::23]/",
        "http://[fd20:ce::254]/",
        "http://100.100.100.200/",
        "http://168.63.129.16/",
        "http://169.254.170.2/v2/credentials",
        "http://0251.0376.0251.0376/",
        "http://169.254.43518/",
        "http://169.16689662/",
        "http://１６９.254.169.254/",
        "http://169.254.169.254./",
        "http://[::a9fe:a9fe]/",
        "http://[2a00::5efe:a9fe:a9fe]/",
        "http://192.0.0.192/",
        "http://[febf::1]/",
        "http://[fd20:ce::254]/",
    ];

    #[test]
    fn private_addresses_in_every_notation() {
        for url in PRIVATE {
            assert!(matches!(check(&policy("deny"), url), Err(Refusal::Private(_))), "{url}");
            assert_eq!(check(&policy("allow"), url), Ok(()), "{url}");
        }
    }

    #[test]
    fn metadata_addresses_need_to_be_listed() {
        for url in METADATA {
            for text in ["deny", "allow", "0.0.0.0/0,::/0", "allow,0.0.0.0/0"] {
                assert!(matches!(check(&policy(text), url), Err(Refusal::Private(_))), "{url} with {text}");
            }
        }
        for text in ["169.254.169.254", "169.254.0.0/16", "allow,169.254.169.254"] {
            assert_eq!(check(&policy(text), METADATA[0]), Ok(()), "{text}");
        }
        assert_eq!(check(&policy("fe80::/10"), "http://[fe80::1]/"), Ok(()));
    }

    #[test]
    fn public_addresses_pass() {
        for url in [
            "http://1.1.1.1/",
            "https://8.8.8.8/v1",
            "http://[2606:4700::1111]/",
            "http://[64:ff9b::808:808]/",
            "http://[2002:808:808::]/",
            "http://[2001:0:808:808::f7f7:f7f7]/",
            "http://[2001:4860:4860::8888]/",
            "http://[2a00:1450::1]/",
            "http://[2a00::5efe:808:808]/",
            "http://11.0.0.1/",
            "http://100.128.0.1/",
            "http://223.255.255.255/",
            "http://172.32.0.1/",
            "https://example.com/",
        ] {
            assert_eq!(check(&policy("deny"), url), Ok(()), "{url}");
        }
    }

    #[test]
    fn other_schemes_and_credentials_are_refused() {
        for text in ["allow", "deny"] {
            assert!(matches!(check(&policy(text), "file:///etc/passwd"), Err(Refusal::NotHttp(_))));
            assert!(matches!(check(&policy(text), "gopher://1.1.1.1/"), Err(Refusal::NotHttp(_))));
            assert_eq!(check(&policy(text), "http://user@1.1.1.1/"), Err(Refusal::Credentials));
            assert_eq!(check(&policy(text), "http://:p@1.1.1.1/"), Err(Refusal::Credentials));
        }
    }

    #[test]
    fn invalid_hosts_make_no_url() {
        for text in [
            "http://[fe80::1%25eth0]/",
            "http://[fe80::1%eth0]/",
            "http://[::1/",
            "http://::1/",
            "http://256.0.0.1/",
            "http://1.2.3.4.5/",
            "http://127.0.0.1.0x/",
            "http://0x100000000/",
            "http:///",
            "http://%00/",
            "http://a%2fb/",
        ] {
            assert!(Url::parse(text).is_err(), "{text}: {:?}", Url::parse(text));
        }
        // The part before the @ is a user name, whatever it looks like.
        for text in
            ["http://1.1.1.1@127.0.0.1/", "http://1.1.1.1:80@127.0.0.1/", "http://a:b@[::1]/", "http://%40@1.1.1.1/"]
        {
            assert_eq!(check(&policy("allow"), text), Err(Refusal::Credentials), "{text}");
        }
    }

    #[test]
    fn switches_are_not_taken_as_hosts() {
        for word in ["yes", "no", "True", "false", "on", "OFF", "1", "0", "allow,yes", "ollama,true"] {
            let problem = word.parse::<UpstreamPolicy>().expect_err(word);
            assert!(problem.contains("`allow` or `deny`"), "{problem}");
        }
        assert!("yes.example,1.example,on-premises".parse::<UpstreamPolicy>().is_ok());
    }

    #[test]
    fn a_list_allows_its_hosts_and_networks() {
        let listed = policy("ollama, 10.0.0.0/8,[::1]");
        assert_eq!(check(&listed, "http://10.9.8.7/"), Ok(()));
        assert_eq!(check(&listed, "http://[::1]:11434/"), Ok(()));
        assert!(check(&listed, "http://192.168.0.1/").is_err());
        let address = IpAddr::from([192, 168, 7, 7]);
        assert_eq!(listed.check_address(address, "ollama"), Ok(()));
        assert_eq!(listed.check_address(address, "Ollama."), Ok(()));
        assert!(listed.check_address(address, "ollama.evil.example").is_err());
        for wrong in ["10.0.0.0/40", "http://ollama", "a b", "ollama:11434"] {
            assert!(wrong.parse::<UpstreamPolicy>().is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn an_ipv4_address_is_treated_alike_in_every_ipv6_form(bits: u32, allow: bool) {
            let v4 = Ipv4Addr::from_bits(bits);
            let policy = UpstreamPolicy { allow, ..UpstreamPolicy::default() };
            let plain = policy.check_address(v4.into(), "h");
            let [a, b, c, d] = v4.octets();
            let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
            for embedding in [
                v4.to_ipv6_mapped(),
                Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low),
                Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 1),
                Ipv6Addr::new(0x2001, 0, 5, 5, 5, 5, !high, !low),
            ] {
                prop_assert_eq!(&policy.check_address(embedding.into(), "h"), &plain, "{} as {}", v4, embedding);
            }
        }

        #[test]
        fn any_text_is_parsed_or_refused(text in ".{0,60}") {
            let _ = text.parse::<UpstreamPolicy>();
            if let Ok(url) = Url::parse(&text) {
                let _ = UpstreamPolicy::default().check_url(&url);
            }
        }
    }
}
