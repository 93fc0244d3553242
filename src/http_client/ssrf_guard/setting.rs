//! `PRIVATE_UPSTREAMS` as text. An entry that could never match is an error, since its author believes in it.

use std::{net::IpAddr, str::FromStr};

use ipnet::IpNet;
use url::Host;

use super::{Entry, Target, UpstreamPolicy};

/// Words that are meant as a switch: no host has such a name.
const SWITCHES: [&str; 12] = ["yes", "no", "true", "false", "on", "off", "1", "0", "all", "any", "none", "private"];

const FORM: &str =
    "write `allow`, `deny`, or a list of hosts, addresses and networks such as `ollama:11434,10.0.0.0/8`";

impl FromStr for UpstreamPolicy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut policy = Self::default();
        let mut deny = false;
        for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            match entry {
                "allow" => policy.allow = true,
                "deny" => deny = true,
                _ => policy.entries.push(parse(entry)?),
            }
        }
        if deny && policy.allow {
            return Err("has both `allow` and `deny`: write one of them".to_owned());
        }
        Ok(policy)
    }
}

/// Parses an entry of the list.
///
/// # Errors
/// If the entry could match nothing: what to write.
fn parse(text: &str) -> Result<Entry, String> {
    let wrong = |what: &str| Err(format!("has the entry `{text}`, {what}"));
    if ["allow", "deny"].iter().any(|word| word.eq_ignore_ascii_case(text)) {
        return wrong(&format!("which is no host: write `{}`", text.to_ascii_lowercase()));
    }
    if SWITCHES.iter().any(|switch| switch.eq_ignore_ascii_case(text)) {
        return wrong("which is no host: write `allow` or `deny`, or list hosts and networks");
    }
    if text.contains(['"', '\'', '`']) {
        return wrong("whose quotes would be part of the name: write it without them");
    }
    if text.contains("://") {
        return wrong("which is a URL: write its host only, or host:port");
    }
    if text.contains('*') {
        return wrong("which has a `*`, and names are compared whole: list each host, or a network such as 10.0.0.0/8");
    }
    if text.contains(|c: char| c.is_whitespace() || c == ';') {
        return wrong("which is not one entry: separate entries with commas");
    }
    if let Ok(network) = text.parse::<IpNet>() {
        return match network {
            IpNet::V6(v6) if v6.addr().to_ipv4_mapped().is_some() => {
                wrong("which is a network of IPv4 addresses in IPv6: write the IPv4 network")
            }
            _ => Ok(Entry { target: Target::Network(network.trunc()), port: None }),
        };
    }
    if text.contains('/') {
        return wrong("which is neither a host nor a network: a host has no path, and a network looks like 10.0.0.0/8");
    }
    // An IPv6 address has colons of its own.
    if let Ok(address) = text.parse::<IpAddr>() {
        return match address {
            IpAddr::V6(v6) if v6.segments()[..6] == [0; 6] && v6.segments()[6] != 0 => {
                wrong("which is an address without a port: write the address in brackets, as in [::1]:11434")
            }
            _ => Ok(Entry { target: Target::Network(address.to_canonical().into()), port: None }),
        };
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let port = match port.map(str::parse::<u16>) {
        None => None,
        Some(Ok(port)) if port > 0 => Some(port),
        Some(_) => return wrong("whose port is not a number from 1 to 65535"),
    };
    let target = match Host::parse(host) {
        Ok(Host::Domain(name)) if is_name(name.trim_end_matches('.')) => {
            Target::Host(name.trim_end_matches('.').to_owned())
        }
        // `127.1` and `0x7f000001` are addresses in URLs; a list is better read by people.
        Ok(Host::Ipv4(address)) if address.to_string() == host => Target::Network(IpAddr::V4(address).into()),
        Ok(Host::Ipv4(address)) => return wrong(&format!("which is an address in an odd notation: write {address}")),
        Ok(Host::Ipv6(address)) => Target::Network(IpAddr::V6(address).to_canonical().into()),
        Ok(Host::Domain(_)) | Err(_) => return wrong(&format!("which can match nothing: {FORM}")),
    };
    Ok(Entry { target, port })
}

/// Tells if a name can be resolved: labels of letters, digits, hyphens and underscores.
fn is_name(name: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    name.len() <= 253 && name.split('.').all(label)
}
