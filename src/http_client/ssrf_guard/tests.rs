use std::net::{Ipv4Addr, Ipv6Addr};

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
    assert_eq!(listed.check_address(address, "ollama", Some(80)), Ok(()));
    assert_eq!(listed.check_address(address, "Ollama.", None), Ok(()));
    assert!(listed.check_address(address, "ollama.evil.example", None).is_err());
}

#[test]
fn a_port_opens_that_port_alone() {
    let listed = policy("127.0.0.1:11434,ollama:11434,[::1]:8080,open,open:80");
    assert_eq!(check(&listed, "http://127.0.0.1:11434/v1"), Ok(()));
    assert_eq!(check(&listed, "http://[::ffff:127.0.0.1]:11434/v1"), Ok(()));
    assert_eq!(check(&listed, "http://[::1]:8080/"), Ok(()));
    assert_eq!(check(&listed, "http://Ollama.:11434/v1"), Ok(()));
    assert_eq!(check(&listed, "https://open/"), Ok(()), "listed without a port, too");
    for url in [
        "http://127.0.0.1:54323/",
        "http://127.0.0.1/",
        "http://[::1]:11434/",
        "http://ollama:54323/",
        "https://ollama/",
    ] {
        assert!(matches!(check(&listed, url), Err(Refusal::Private(_))), "{url}");
    }
    let private = IpAddr::from([127, 0, 0, 1]);
    assert_eq!(listed.check_address(private, "localhost", Some(11434)), Ok(()));
    assert!(listed.check_address(private, "localhost", Some(54323)).is_err());
    assert!(listed.check_address(private, "localhost", None).is_err(), "the port is not known");
    assert_eq!(listed.check_address(private, "ollama", None), Ok(()), "check_url knew the port");
    assert_eq!(check(&policy("allow,ollama:11434"), "http://ollama:80/"), Ok(()));
}

#[test]
fn every_address_inside_another_must_be_allowed() {
    for (text, url) in [
        ("10.0.0.0/8", "http://[fd12:3456::5efe:a00:1]/"),
        ("8.8.8.0/24", "http://[fd12:3456::5efe:808:808]/"),
        ("fd12::/16", "http://[fd12:3456::5efe:a00:1]/"),
        ("10.0.0.0/8", "http://[fe80::5efe:a00:1]/"),
        ("deny", "http://[2002:808:808::5efe:a00:1]/"),
        ("deny", "http://[2002:a00:1::5efe:808:808]/"),
        ("::/0", "http://[::ffff:10.0.0.1]/"),
        ("64:ff9b::/96", "http://[64:ff9b::a00:1]/"),
    ] {
        assert!(matches!(check(&policy(text), url), Err(Refusal::Private(_))), "{url} with {text}");
    }
    for (text, url) in [
        ("10.0.0.0/8,fd12::/16", "http://[fd12:3456::5efe:a00:1]/"),
        ("10.0.0.0/8", "http://[64:ff9b::a00:1]/"),
        ("::ffff:10.0.0.1", "http://10.0.0.1/"),
    ] {
        assert_eq!(check(&policy(text), url), Ok(()), "{url} with {text}");
    }
}

#[test]
fn entries_that_can_match_nothing_are_refused_with_what_to_write() {
    for (text, sentence) in [
        ("*", "list each host"),
        ("*.internal", "list each host"),
        ("10.0.*", "list each host"),
        ("Allow", "write `allow`"),
        ("DENY", "write `deny`"),
        ("private", "write `allow` or `deny`"),
        ("allow,deny", "one of them"),
        ("deny,allow", "one of them"),
        ("'deny'", "without them"),
        ("\"ollama\"", "without them"),
        ("http://ollama", "its host only"),
        ("ollama/v1", "no path"),
        ("ollama:11434/v1", "no path"),
        ("10.0.0.0/40", "10.0.0.0/8"),
        ("10.0.0.0/8:80", "10.0.0.0/8"),
        ("a b", "commas"),
        ("deny;allow", "commas"),
        ("10.0.0.1-10.0.0.9", "can match nothing"),
        ("some?", "can match nothing"),
        ("a..b", "can match nothing"),
        ("-ollama", "can match nothing"),
        ("ollama:", "1 to 65535"),
        ("ollama:0", "1 to 65535"),
        ("ollama:http", "1 to 65535"),
        ("::1:8080", "[::1]:11434"),
        ("0x7f.2", "write 127.0.0.2"),
        ("::ffff:10.0.0.0/104", "the IPv4 network"),
    ] {
        let problem = text.parse::<UpstreamPolicy>().expect_err(text);
        assert!(problem.contains(sentence), "{text}: {problem}");
    }
    for text in
        ["host.docker.internal:11434", "supabase_kong_x", "ollama.", "10.0.0.5/8", "::1", "[::1]", "bücher.example"]
    {
        assert!(text.parse::<UpstreamPolicy>().is_ok(), "{text}");
    }
}

proptest! {
    #[test]
    fn an_ipv4_address_is_treated_alike_in_every_ipv6_form(bits: u32, allow: bool) {
        let v4 = Ipv4Addr::from_bits(bits);
        let policy = UpstreamPolicy { allow, ..UpstreamPolicy::default() };
        let plain = policy.check_address(v4.into(), "h", None);
        let [a, b, c, d] = v4.octets();
        let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        for embedding in [
            v4.to_ipv6_mapped(),
            Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low),
            Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 1),
            Ipv6Addr::new(0x2001, 0, 5, 5, 5, 5, !high, !low),
        ] {
            prop_assert_eq!(&policy.check_address(embedding.into(), "h", None), &plain, "{} as {}", v4, embedding);
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
