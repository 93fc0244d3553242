//! Any text as a URL: what the guard lets through under `deny` leads to no
//! address that is not public, by a list of its own that knows nothing of the
//! guard's; and any text as `PRIVATE_UPSTREAMS`.

#![no_main]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use chatbot_ui_api::http_client::ssrf_guard::UpstreamPolicy;
use libfuzzer_sys::fuzz_target;
use url::{Host, Url};

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let _ = text.parse::<UpstreamPolicy>();
    check(&text);
    check(&format!("http://{text}/"));
    // The numbers of an address straight, which no notation hides.
    if let Ok(bits) = <[u8; 16]>::try_from(data) {
        agree(Ipv6Addr::from(bits).into());
    }
    if let Ok(bits) = <[u8; 4]>::try_from(data) {
        agree(Ipv4Addr::from(bits).into());
    }
});

fn check(text: &str) {
    let Ok(url) = Url::parse(text) else { return };
    let denied = UpstreamPolicy::default().check_url(&url).is_err();
    let allowed = UpstreamPolicy::allow().check_url(&url).is_ok();
    if !matches!(url.scheme(), "http" | "https") || !url.username().is_empty() || url.password().is_some() {
        assert!(denied && !allowed, "{url}");
        return;
    }
    let literal = match url.host() {
        Some(Host::Ipv4(address)) => IpAddr::from(address),
        Some(Host::Ipv6(address)) => IpAddr::from(address),
        Some(Host::Domain(name)) => {
            // What the URL parser takes for a name, the system's resolver must
            // not take for an address. With two dots at the end it takes none.
            assert!(name.strip_suffix('.').unwrap_or(name).parse::<IpAddr>().is_err(), "{url}");
            return;
        }
        None => panic!("an http URL without a host: {url}"),
    };
    assert_eq!(denied, !public(literal), "{url}");
    agree(literal);
}

fn agree(address: IpAddr) {
    let passes = UpstreamPolicy::default().check_address(address, "h", None).is_ok();
    assert_eq!(passes, public(address), "{address}");
}

/// Networks that are not public, by the registries of special-purpose
/// addresses and the clouds' documents.
const SPECIAL_V4: &[(&str, u32)] = &[
    ("0.0.0.0", 8),
    ("10.0.0.0", 8),
    ("100.64.0.0", 10),
    ("127.0.0.0", 8),
    ("168.63.129.16", 32),
    ("169.254.0.0", 16),
    ("172.16.0.0", 12),
    ("192.0.0.0", 24),
    ("192.0.2.0", 24),
    ("192.88.99.0", 24),
    ("192.168.0.0", 16),
    ("198.18.0.0", 15),
    ("198.51.100.0", 24),
    ("203.0.113.0", 24),
    ("224.0.0.0", 4),
    ("240.0.0.0", 4),
];

const SPECIAL_V6: &[(&str, u32)] = &[("2001:db8::", 32), ("3fff::", 20)];

/// A network, and the place of an IPv4 address within its addresses.
type Carrying = ((&'static str, u32), (u32, bool));

/// Positions of IPv4 addresses within IPv6 ones: the network, the address'
/// first bit, and whether its bits are turned round.
const CARRYING: &[Carrying] = &[
    (("::", 96), (96, false)),
    (("::ffff:0:0", 96), (96, false)),
    (("::ffff:0:0:0", 96), (96, false)),
    (("64:ff9b::", 96), (96, false)),
    (("2002::", 16), (16, false)),
    (("2001::", 32), (96, true)),
];

fn public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !SPECIAL_V4.iter().any(|(network, length)| {
            let network: Ipv4Addr = network.parse().expect("an address");
            (u32::from(address) ^ u32::from(network)) >> (32 - length) == 0
        }),
        IpAddr::V6(address) => {
            let bits = u128::from(address);
            let within = |(network, length): (&str, u32)| {
                let network: Ipv6Addr = network.parse().expect("an address");
                (bits ^ u128::from(network)) >> (128 - length) == 0
            };
            // The ISATAP form may stand behind any prefix.
            let isatap = ((bits >> 32) as u32 & 0xfdff_ffff == 0x5efe).then_some((96, false));
            let carries = CARRYING.iter().any(|carrying| within(carrying.0));
            let carried: Vec<Ipv4Addr> = CARRYING
                .iter()
                .filter(|carrying| within(carrying.0))
                .map(|carrying| carrying.1)
                .chain(isatap)
                .map(|(at, turned)| ((bits >> (96 - at)) as u32, turned))
                .map(|(inner, turned)| Ipv4Addr::from(if turned { !inner } else { inner }))
                .collect();
            let loopback_or_none = within(("::", 127));
            let given_out = within(("2000::", 3)) && !SPECIAL_V6.iter().any(|network| within(*network));
            // Of 2001::/23 only Teredo is for use between strangers.
            let protocols = within(("2001::", 23)) && !within(("2001::", 32));
            !loopback_or_none
                && !protocols
                && (given_out || carries && !within(("2000::", 3)))
                && carried.iter().all(|inner| public((*inner).into()))
        }
    }
}
