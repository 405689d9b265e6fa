//! The state document: what is accepted, and every refusal with its exact place and words.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};

use spillway_api::limits::DOCUMENT_BYTES_MAX;
use spillway_api::{
    Document, EgressAddressKind, IpFamily, MacAddress, PolicyTimeouts, PortRange, ReplyVni,
    SHARED_PORTS_DEFAULT,
};

const EXAMPLE: &str = include_str!("example.yaml");
const DUAL_STACK: &str = include_str!("dual-stack.yaml");
const IPV6: &str = include_str!("ipv6.yaml");

fn refusal(text: &str) -> String {
    Document::parse(text).expect_err("the document is refused").to_string()
}

/// The example with one piece of text replaced, which must occur in it.
fn mutated(old: &str, new: &str) -> String {
    assert!(EXAMPLE.contains(old), "the example has no {old:?}");
    EXAMPLE.replacen(old, new, 1)
}

#[test]
fn the_example_is_read_as_written() {
    let document = Document::parse(EXAMPLE).unwrap();
    assert_eq!(document.generation, 1);
    assert_eq!(document.reply_vni, ReplyVni::Fixed(2));
    assert_eq!(document.tunnels[0].address, IpAddr::from([192, 168, 44, 128]));
    assert_eq!(document.tunnels[0].peers[0].direct(), None);
    let mac = MacAddress([2, 0, 0xa9, 0xfe, 0x2c, 1]);
    assert_eq!(document.tunnels[1].peers[0].direct(), Some(("spw-pods", mac)));
    assert_eq!(document.egress_addresses[0].kind, EgressAddressKind::Own);
    let whole = PortRange { first: 1024, last: 65535 };
    assert_eq!(document.egress_addresses[0].port_range(), whole);
    assert_eq!(document.egress_addresses[1].port_range(), SHARED_PORTS_DEFAULT);
    assert_eq!(document.policies[0].pods.len(), 3);
    assert_eq!(document.policies[0].excluded_destinations[0].to_string(), "203.0.113.20/32");
}

#[test]
fn a_document_survives_json_and_yaml() {
    let document = Document::parse(EXAMPLE).unwrap();
    let json = serde_json::to_string_pretty(&document).unwrap();
    assert_eq!(Document::parse(&json).unwrap(), document);
    let yaml = serde_saphyr::to_string(&document).unwrap();
    assert_eq!(Document::parse(&yaml).unwrap(), document);
}

#[test]
fn what_may_be_left_out_has_its_default() {
    let text = mutated("reply_vni: 2\n", "").replacen("    ports: 16384-29999\n", "", 1);
    assert_eq!(Document::parse(&text).unwrap(), {
        let mut document = Document::parse(EXAMPLE).unwrap();
        document.egress_addresses[1].ports = None;
        document
    });
    let flow = Document::parse(&mutated("reply_vni: 2", "reply_vni: flow")).unwrap();
    assert_eq!(flow.reply_vni, ReplyVni::Flow);
    let empty = "generation: 0\ntunnels: []\negress_addresses: []\npolicies: []\n";
    assert!(Document::parse(empty).is_ok());
}

#[test]
fn an_own_address_may_name_where_it_is_announced() {
    let document = Document::parse(&mutated("kind: own", "kind: own\n    announce: eth0")).unwrap();
    assert_eq!(document.egress_addresses[0].announce.as_deref(), Some("eth0"));
    let json = serde_json::to_string(&document).unwrap();
    assert_eq!(Document::parse(&json).unwrap(), document);
}

#[test]
fn pods_may_have_names() {
    let names = "pod_names: [{name: shop/cart-0, addresses: [10.0.1.40, 'fd00::40']}]\n";
    let document = Document::parse(&format!("{EXAMPLE}{names}")).unwrap();
    let [pod] = &document.pod_names[..] else { panic!("one name") };
    assert_eq!(pod.name, "shop/cart-0");
    assert_eq!(
        pod.addresses,
        ["10.0.1.40", "fd00::40"].map(|text| text.parse::<IpAddr>().unwrap())
    );
    let json = serde_json::to_string(&document).unwrap();
    assert_eq!(Document::parse(&json).unwrap(), document);
    assert!(!serde_json::to_string(&Document::parse(EXAMPLE).unwrap()).unwrap().contains("names"));
    let addresses: Vec<String> =
        (0..65_537).map(|n| Ipv4Addr::from(0x0a00_0000 + n).to_string()).collect();
    let many =
        format!("{EXAMPLE}pod_names: [{{name: a/b, addresses: [{}]}}]", addresses.join(", "));
    let said = "expected at most 65536 addresses of named pods of one family, found 65537";
    assert!(refusal(&many).contains(said), "{}", refusal(&many));
}

#[test]
fn a_policy_may_have_several_egress_addresses() {
    let both = ["192.168.44.129", "192.168.44.128"].map(|text| text.parse::<IpAddr>().unwrap());
    let text = mutated(
        "egress_address: 192.168.44.129",
        "egress_addresses: [192.168.44.129, 192.168.44.128]",
    );
    let document = Document::parse(&text).unwrap();
    assert_eq!(document.policies[0].egress_list(), both);
    let yaml = serde_saphyr::to_string(&document).unwrap();
    assert_eq!(Document::parse(&yaml).unwrap(), document);
    assert_eq!(Document::parse(EXAMPLE).unwrap().policies[0].egress_list(), &both[..1]);
}

#[test]
fn lists_may_mix_families() {
    let document = Document::parse(DUAL_STACK).unwrap();
    let policy = &document.policies[0];
    assert_eq!(policy.egress_list()[1], "2001:db8:44::129".parse::<IpAddr>().unwrap());
    let families: Vec<_> = policy.pods.iter().map(|pod| IpFamily::of(*pod)).collect();
    assert_eq!(families, [IpFamily::V4, IpFamily::V6, IpFamily::V6]);
    let prefixes: Vec<_> = policy.destinations.iter().map(ToString::to_string).collect();
    assert_eq!(prefixes, ["0.0.0.0/0", "::/0"]);
    for text in
        [serde_json::to_string(&document).unwrap(), serde_saphyr::to_string(&document).unwrap()]
    {
        assert_eq!(Document::parse(&text).unwrap(), document, "{text}");
    }
}

#[test]
fn tunnels_may_be_of_ipv6_and_nat64_has_its_prefix() {
    let document = Document::parse(IPV6).unwrap();
    assert_eq!(document.underlay(), IpFamily::V6);
    let [first, own_pods] = &document.tunnels[..] else { panic!("two tunnels") };
    assert_eq!(first.address, "fd00:44::128".parse::<IpAddr>().unwrap());
    assert_eq!(first.peers[0].address, "fd00:211::128".parse::<IpAddr>().unwrap());
    let mac = MacAddress([2, 0, 0xa9, 0xfe, 0x2c, 1]);
    assert_eq!(own_pods.peers[0].direct(), Some(("spw-pods", mac)));
    assert_eq!(document.nat64_prefix, Some("64:ff9b::/96".parse().unwrap()));
    for text in
        [serde_json::to_string(&document).unwrap(), serde_saphyr::to_string(&document).unwrap()]
    {
        assert_eq!(Document::parse(&text).unwrap(), document, "{text}");
    }
    let document = Document::parse(EXAMPLE).unwrap();
    assert_eq!((document.underlay(), document.nat64_prefix), (IpFamily::V4, None));
    assert!(!serde_json::to_string(&document).unwrap().contains("nat64"));
}

/// What is in the NAT64 prefix is an IPv4 destination.
#[test]
fn nobody_has_an_address_in_the_nat64_prefix() {
    let within = |inside: &str| {
        format!("{inside} is in nat64_prefix, 64:ff9b::/96, where IPv4 destinations are")
    };
    for (has, gets, says) in [
        ("fd00:44::128", "64:ff9b::1", format!("tunnels[0].address: {}", within("64:ff9b::1"))),
        (
            "fd00:211::128",
            "64:ff9b::1",
            format!("tunnels[0].peers[0].address: {}", within("64:ff9b::1")),
        ),
        (
            "address: 192.168.44.129",
            "address: 64:ff9b::1",
            format!("egress_addresses[0].address: {}", within("64:ff9b::1")),
        ),
        ("10.0.1.40", "64:ff9b::1", format!("policies[0].pods[1]: {}", within("64:ff9b::1"))),
        (
            "2001:db8:203::/64",
            "64:ff9b::198.51.100.0/120",
            "policies[0].destinations[1]: 64:ff9b::c633:6400/120 is in nat64_prefix, where IPv4 \
             destinations decide; did you mean 198.51.100.0/24?"
                .to_owned(),
        ),
        (
            "203.0.113.20/32",
            "64:ff9b::203.0.113.20/128",
            "policies[0].excluded_destinations[0]: 64:ff9b::cb00:7114/128 is in nat64_prefix, where \
             IPv4 destinations decide; did you mean 203.0.113.20/32?"
                .to_owned(),
        ),
    ] {
        let text = IPV6.replacen(has, gets, 1);
        assert_ne!(text, IPV6, "{has}");
        assert!(refusal(&text).ends_with(&says), "{}, not {says}", refusal(&text));
        let without = text.replacen("nat64_prefix: 64:ff9b::/96\n", "", 1);
        if !gets.contains("address") {
            assert!(Document::parse(&without).is_ok(), "{gets}");
        }
    }
    // One around the prefix is IPv6's own matter.
    let text = IPV6.replacen("[203.0.113.20/32]", "['64::/16']", 1);
    assert!(Document::parse(&text).is_ok());
    assert!(Document::parse(&IPV6.replacen("2001:db8:203::/64", "'::/0'", 1)).is_ok());
}

/// It is the author's business: what the policy covers of the other family is dropped.
#[test]
fn a_policy_may_have_an_egress_address_of_one_family_only() {
    let document = Document::parse(DUAL_STACK).unwrap();
    let policy = &document.policies[1];
    assert!(policy.egress_list().iter().all(IpAddr::is_ipv4));
    assert!(policy.destinations.iter().any(|prefix| IpFamily::of_prefix(*prefix) == IpFamily::V6));
}

#[test]
fn ipv6_replies_have_the_vni_of_ipv4_unless_another_is_said() {
    let document = Document::parse(DUAL_STACK).unwrap();
    let of = |document: &Document| IpFamily::ALL.map(|family| document.reply_vni_of(family));
    assert_eq!(of(&document), [ReplyVni::Fixed(9), ReplyVni::Fixed(10)]);
    let flow = DUAL_STACK.replacen("reply_vni_ipv6: 10", "reply_vni_ipv6: flow", 1);
    assert_eq!(of(&Document::parse(&flow).unwrap())[1], ReplyVni::Flow);
    let one = Document::parse(&mutated("reply_vni: 2", "reply_vni: flow")).unwrap();
    assert_eq!(of(&one), [ReplyVni::Flow, ReplyVni::Flow]);
    let too_large = Document { reply_vni_ipv6: Some(ReplyVni::Fixed(1 << 24)), ..document };
    let said = too_large.validate().unwrap_err().to_string();
    assert_eq!(said, "reply_vni_ipv6: 16777216 is no VNI; expected at most 16777215");
}

#[test]
fn a_policys_options_are_read_and_written() {
    let options = "timeouts: {tcp_established: 7200, udp: 604800}\n    midstream_pickup: true\n    \
                   flows_per_pod_max: 16777215\n    endpoint_independent: true";
    let document =
        Document::parse(&mutated("destinations:", &format!("{options}\n    destinations:")))
            .unwrap();
    let policy = &document.policies[0];
    let timeouts =
        PolicyTimeouts { tcp_established: Some(7200), udp: Some(604_800), ..Default::default() };
    assert_eq!((policy.timeouts, policy.midstream_pickup), (timeouts, true));
    assert_eq!((policy.flows_per_pod_max, policy.endpoint_independent), (Some(16_777_215), true));
    let yaml = serde_saphyr::to_string(&document).unwrap();
    assert_eq!(Document::parse(&yaml).unwrap(), document);
    let plain = serde_saphyr::to_string(&Document::parse(EXAMPLE).unwrap()).unwrap();
    assert!(!plain.contains("timeouts") && !plain.contains("midstream"), "{plain}");
}

/// The cases of `refusals.txt`: (what the example has, what it gets, the whole refusal).
fn refusals() -> Vec<[String; 3]> {
    let lines = include_str!("refusals.txt").lines();
    let lines: Vec<&str> =
        lines.filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    let (cases, rest) = lines.as_chunks::<3>();
    assert!(rest.is_empty(), "three lines make a case, found {rest:?}");
    let text = |line: &str, key: &str| {
        assert!(line.starts_with(key), "expected {key}, found {line}");
        let text = line.get("says ".len()..).unwrap_or_default();
        text.replace("\\\\", "\0").replace("\\n", "\n").replace("\\t", "\t").replace('\0', "\\")
    };
    let case =
        |[has, gets, says]: &[&str; 3]| [text(has, "has"), text(gets, "gets"), text(says, "says")];
    cases.iter().map(case).collect()
}

#[test]
fn every_refusal_names_line_column_field_and_what_was_expected() {
    let mut wrong = String::new();
    for [has, gets, says] in refusals() {
        let found = refusal(&mutated(&has, &gets));
        if found != says {
            let _ = writeln!(wrong, "{has:?} -> {gets:?}\n  expected {says}\n  found    {found}");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert!(refusals().len() > 45);
}

#[test]
fn two_policies_of_one_name_are_refused() {
    let policy = &EXAMPLE[EXAMPLE.find("  - name").unwrap()..];
    assert_eq!(
        refusal(&format!("{EXAMPLE}{policy}")),
        "line 24, column 11: policies[1].name: \"app1\" names an earlier policy too"
    );
}

#[test]
fn texts_that_are_no_document_are_refused() {
    let missing = "the field \"generation\" is missing";
    for (text, expected) in [
        ("", "line 1, column 1: unexpected end of file"),
        ("null", missing),
        ("[]", "line 1, column 1: expected fields"),
        ("app1", "line 1, column 1: expected fields"),
        ("{", "line 1, column 1: unclosed bracket '{'"),
    ] {
        assert_eq!(refusal(text), expected, "{text:?}");
    }
    assert!(refusal(&format!("{EXAMPLE}---\n{EXAMPLE}")).contains("multiple"));
    let long = format!("{EXAMPLE}#{}", "x".repeat(DOCUMENT_BYTES_MAX));
    assert!(refusal(&long).ends_with("bytes; at most 67108864 are read"), "{}", refusal(&long));
}

/// A cut in the middle must not pass for a document that selects fewer pods: the last line alone
/// may be missing whole, and a whole policy at the end.
#[test]
fn a_document_that_was_cut_off_is_refused() {
    let whole_policies = DUAL_STACK.find("  - name: without-ipv6").unwrap();
    let cuts = (0..EXAMPLE.len() - 1).map(|end| &EXAMPLE[..end]);
    let dual = (0..DUAL_STACK.len() - 1)
        .filter(|end| !(whole_policies - 1..=whole_policies + 2).contains(end));
    for cut in cuts.chain(dual.map(|end| &DUAL_STACK[..end])) {
        let end = cut.len();
        assert!(Document::parse(cut).is_err(), "accepted up to byte {end}:\n{cut}");
    }
}

/// The same of one with groups, line by line.
#[test]
fn a_document_with_groups_that_was_cut_off_is_refused() {
    let whole = mutated("policies:", "pod_groups: [{name: web, pods: [10.0.1.50]}]\npolicies:");
    let whole = format!("{whole}    pod_groups: [web]\n");
    assert!(Document::parse(&whole).is_ok());
    for (end, _) in whole.match_indices('\n').rev().skip(1) {
        assert!(Document::parse(&whole[..=end]).is_err(), "accepted:\n{}", &whole[..=end]);
    }
}

#[test]
fn an_older_generation_may_not_replace_a_newer_one() {
    let document = Document::parse(&mutated("generation: 1", "generation: 7")).unwrap();
    assert!(document.check_generation(6).is_ok());
    assert!(document.check_generation(7).is_ok());
    assert_eq!(
        document.check_generation(8).unwrap_err().to_string(),
        "generation: 7 is older than the running generation; expected 8 or more"
    );
}

/// `count` policies of `pods` pods each, all different.
fn document_of(policies: u32, pods: u32) -> String {
    let mut text = "generation: 1\ntunnels: []\negress_addresses: [{address: 192.0.2.1, kind: \
                    own}]\npolicies:\n"
        .to_owned();
    for policy in 0..policies {
        let _ = write!(
            text,
            "  - name: p{policy}\n    egress_address: 192.0.2.1\n    destinations: \
             [203.0.113.0/24]\n    pods:\n"
        );
        for pod in 0..pods {
            let address = Ipv4Addr::from(0x0a00_0000 + policy * pods + pod);
            let _ = writeln!(text, "      - {address}");
        }
    }
    text
}

#[test]
fn the_largest_document_is_read_and_one_pod_more_is_refused() {
    let largest = Document::parse(&document_of(4_096, 16)).unwrap();
    assert_eq!(largest.policies.len(), 4_096);
    let one_more = format!("{}      - 10.255.0.1\n", document_of(4_096, 16));
    assert_eq!(
        refusal(&one_more),
        "line 5, column 3: policies: expected at most 65536 different pods of one family, found 65537"
    );
    let of_the_other = format!("{}      - 2001:db8::1\n", document_of(4_096, 16));
    assert!(Document::parse(&of_the_other).is_ok());
    let of_the_other = document_of(4_096, 16).replace("- 10.", "- fd00::10.");
    assert!(refusal(&format!("{of_the_other}      - fd00::1\n")).contains("found 65537"));
    assert!(refusal(&document_of(4_097, 1)).contains("expected at most 4096 policies, found 4097"));
    let with_group =
        document_of(4_096, 16).replace("    pods:\n", "    pod_groups: []\n    pods:\n");
    let grouped = format!("{with_group}pod_groups: [{{name: g, pods: [10.255.0.1]}}]\n");
    assert!(
        refusal(&grouped)
            .contains("expected at most 65536 different pods of one family, found 65537")
    );
    let pods: Vec<String> =
        (0..65_537).map(|n| Ipv4Addr::from(0x0a00_0000 + n).to_string()).collect();
    let group = format!("pod_groups: [{{name: g, pods: [{}]}}]\npolicies:", pods.join(", "));
    assert_eq!(
        refusal(&mutated("policies:", &group)),
        "line 18, column 30: pod_groups[0].pods: expected at most 65536 pods of all groups of one \
         family, found 65537"
    );
}

#[test]
fn each_list_has_its_limit() {
    let prefixes: Vec<String> =
        (0..1_024).map(|n| format!("10.{}.{}.0/24", n >> 8, n & 255)).collect();
    let text = mutated("203.0.113.0/24", &prefixes.join(", "));
    let expected = "expected at most 1024 prefixes, excluded ones included, found 1025";
    assert!(refusal(&text).contains(expected), "{}", refusal(&text));
    let egress: String =
        (0..255).map(|n| format!("  - {{address: 198.51.100.{n}, kind: own}}\n")).collect();
    let text = mutated("policies:\n", &format!("{egress}policies:\n"));
    assert!(refusal(&text).contains("expected at most 256 egress addresses, found 257"));
    let peers: String =
        (0..4_095).map(|n| format!("      - address: 10.200.{}.{}\n", n >> 8, n & 255)).collect();
    let text =
        mutated("  - address: 169.254.44.2\n", &format!("{peers}  - address: 169.254.44.2\n"));
    assert!(
        refusal(&text)
            .contains("tunnels[1].peers: expected at most 4096 peers of all tunnels, found 4097"),
        "{}",
        refusal(&text)
    );
}
