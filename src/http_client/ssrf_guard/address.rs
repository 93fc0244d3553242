//! Classes of addresses, and the addresses that are embedded in others.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The class of an address, the most restricted last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum AddressClass {
    Public,
    Private,
    /// Link-local addresses and the clouds' metadata services.
    Metadata,
}

/// Returns the IPv4 addresses that are embedded in an IPv6 one: mapped, compatible, translated, NAT64, 6to4, Teredo,
/// and, under any prefix, ISATAP. A 6to4 address may have an ISATAP one inside.
pub(super) fn embedded(address: IpAddr) -> impl Iterator<Item = IpAddr> {
    let segments = match address {
        IpAddr::V6(address) => Some(address.segments()),
        IpAddr::V4(_) => None,
    };
    segments.into_iter().flat_map(|segments| [by_prefix(segments), isatap(segments)]).flatten().map(IpAddr::V4)
}

fn by_prefix([a, b, c, d, e, f, g, h]: [u16; 8]) -> Option<Ipv4Addr> {
    match (a, b) {
        (0, 0) if (c, d, e) == (0, 0, 0) && (f == 0xffff || (f == 0 && (g, h) != (0, 0) && (g, h) != (0, 1))) => {
            Some(v4(g, h))
        }
        // ::ffff:0:a.b.c.d, the IPv4-translated form.
        (0, 0) if (c, d, e, f) == (0, 0, 0xffff, 0) => Some(v4(g, h)),
        (0x64, 0xff9b) if (c, d, e, f) == (0, 0, 0, 0) => Some(v4(g, h)),
        (0x2002, _) => Some(v4(b, c)),
        (0x2001, 0) => Some(v4(!g, !h)),
        _ => None,
    }
}

fn isatap([.., e, f, g, h]: [u16; 8]) -> Option<Ipv4Addr> {
    ((e & 0xfdff, f) == (0, 0x5efe)).then(|| v4(g, h))
}

fn v4(high: u16, low: u16) -> Ipv4Addr {
    let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
    Ipv4Addr::new(a, b, c, d)
}

/// Returns the class of an address by itself. One that only carries another is public.
pub(super) fn classify(address: IpAddr) -> AddressClass {
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
        segments if by_prefix(segments).is_some() => AddressClass::Public,
        // Loopback, unique local, site-local, multicast, discard-only,
        // local-use NAT64, segment routing, and unallocated space.
        _ => AddressClass::Private,
    }
}
