//! Objects as an API server has them, and the document that must come of them.
#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::net::IpAddr;

use ipnet::IpNet;
use proptest::prelude::*;
use serde_json::{Value, json};
use spillway_api::{Document, EgressAddressKind, ReplyVni};
use spillway_control::cluster::{Change, Cluster, Network, Underlay};
use spillway_control::explain::explain;
use spillway_control::family::PerFamily;
use spillway_control::gateway::Host;
use spillway_control::objects;
use spillway_control::plan::{Here, Plan, plan};

/// One object, there or gone.
#[derive(Clone, Debug)]
struct Event {
    object: Value,
    gone: bool,
}

fn there(object: Value) -> Event {
    Event { object, gone: false }
}

fn change<K, V>(gone: bool, (key, value): (K, V)) -> Change<K, V> {
    if gone { Change::Gone(key) } else { Change::Set(key, value) }
}

fn feed(cluster: &mut Cluster, events: &[Event]) {
    for Event { object, gone } in events {
        let (object, gone) = (object.clone(), *gone);
        match object["kind"].as_str().unwrap() {
            "Pod" => cluster
                .change_pods(change(gone, objects::pod(serde_json::from_value(object).unwrap()))),
            "Node" => cluster
                .change_nodes(change(gone, objects::node(serde_json::from_value(object).unwrap()))),
            "Service" => cluster.change_services(change(
                gone,
                objects::service(serde_json::from_value(object).unwrap()),
            )),
            "Endpoints" => cluster.change_api_servers(change(
                gone,
                objects::api_server(serde_json::from_value(object).unwrap()),
            )),
            "Namespace" => cluster.change_namespaces(change(
                gone,
                objects::namespace(serde_json::from_value(object).unwrap()),
            )),
            _ => cluster.change_policies(change(
                gone,
                objects::policy(serde_json::from_value(object).unwrap()),
            )),
        }
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn pod(name: &str, app: &str, node: &str, ip: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": "default", "name": name, "uid": name, "labels": {"app": app}},
        "spec": {"nodeName": node, "containers": []},
        "status": {"podIP": ip, "phase": "Running"},
    })
}

/// A pod with several addresses.
fn dual_pod(name: &str, app: &str, ips: &[&str]) -> Value {
    let mut pod = pod(name, app, "worker1", ips[0]);
    pod["status"]["podIPs"] = ips.iter().map(|ip| json!({ "ip": ip })).collect();
    pod
}

fn node(name: &str, ip: &str, labels: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "spec": {"podCIDR": "10.0.0.0/16"},
        "status": {"addresses": [{"type": "InternalIP", "address": ip}]},
    })
}

/// Gives a node another internal address.
fn add_address(node: &mut Value, ip: &str) {
    let addresses = node["status"]["addresses"].as_array_mut().unwrap();
    addresses.push(json!({"type": "InternalIP", "address": ip}));
}

fn policy(name: &str, priority: i32, app: &str, destinations: &Value) -> Value {
    json!({
        "apiVersion": "cilium.io/v2", "kind": "CiliumEgressGatewayPolicy",
        "metadata": {"name": name, "uid": name, "generation": 1,
            "annotations": {"spillway.io/priority": priority.to_string()}},
        "spec": {
            "selectors": [{"podSelector": {"matchLabels": {"app": app}}}],
            "destinationCIDRs": destinations,
            "egressGateway": {"nodeSelector": {"matchLabels": {"egress-node": "true"}},
                "egressIP": "192.168.44.129"},
        },
    })
}

fn worlds() -> Vec<Event> {
    let gateway = json!({
        "egress-node": "true", "spillway.io/gateway": "true", "kubernetes.io/hostname": "worker2",
    });
    vec![
        there(json!({"apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": "default", "labels": {"team": "a"}}})),
        there(node("worker1", "192.168.211.128", &json!({}))),
        there(node("worker2", "192.168.44.128", &gateway)),
        there(pod("app1-a", "app1", "worker1", "10.0.1.40")),
        there(pod("app1-b", "app1", "worker1", "10.0.1.41")),
        there(pod("app2-a", "app2", "worker1", "10.0.1.50")),
    ]
}

fn here() -> Here {
    let addresses = ["192.168.44.128", "192.168.44.129"].map(|ip| ip.parse().unwrap());
    let host = Host {
        interfaces: [("eth0".into(), addresses.into())].into(),
        default_interfaces: PerFamily { v4: Some("eth0".into()), v6: None },
    };
    Here { node: "worker2".into(), host, ..Here::default() }
}

fn planned(events: &[Event]) -> Plan {
    let mut cluster = Cluster::default();
    feed(&mut cluster, events);
    plan(&cluster, &here())
}

fn with(policies: impl IntoIterator<Item = Value>) -> Vec<Event> {
    worlds().into_iter().chain(policies.into_iter().map(there)).collect()
}

/// Which policy of the document translates; the router's rule, one address at a time.
fn decides(document: &Document, pod: IpAddr, to: IpAddr) -> Option<&str> {
    let longest =
        |nets: &[IpNet]| nets.iter().filter(|net| net.contains(&to)).map(IpNet::prefix_len).max();
    let groups = document.groups();
    let covers = |policy: &&spillway_api::Policy| {
        let length = longest(&policy.destinations)?;
        let excluded = longest(&policy.excluded_destinations);
        let selects = policy.pod_lists(&groups).any(|pods| pods.contains(&pod));
        (selects && excluded.is_none_or(|e| e < length)).then_some(length)
    };
    let mut best: Option<(u8, &str)> = None;
    for policy in &document.policies {
        if let Some(length) = covers(&policy)
            && best.is_none_or(|(longest, _)| length > longest)
        {
            best = Some((length, policy.name.split('#').next().unwrap()));
        }
    }
    best.map(|(_, name)| name)
}

#[test]
fn a_policy_becomes_a_document_that_the_router_takes() {
    let plan = planned(&with([policy("app1", 0, "app1", &json!(["203.0.113.0/24"]))]));
    let text = serde_json::to_string(&plan.document).unwrap();
    assert_eq!(Document::parse(&text).unwrap(), plan.document);
    assert_eq!(plan.document.tunnels[0].address, ip("192.168.44.128"));
    assert_eq!(plan.document.tunnels[0].peers[0].address, ip("192.168.211.128"));
    let [egress] = &plan.document.egress_addresses[..] else { panic!("{text}") };
    assert_eq!(
        (egress.address.to_string().as_str(), egress.kind),
        ("192.168.44.129", EgressAddressKind::Own)
    );
    let [one] = &plan.document.policies[..] else { panic!("{text}") };
    assert_eq!(one.pods, ["10.0.1.40", "10.0.1.41"].map(ip));
    let report = &plan.reports[0];
    assert_eq!((report.pods, report.pods_sent_here), (2, 2));
    assert!(report.accepted.holds && report.carried.holds && !report.conflicted.holds);
}

#[test]
fn every_tutorials_policy_is_accepted() {
    let text = include_str!("policies/tutorials.yaml");
    let policies: Vec<Value> = serde_saphyr::from_multiple(text).unwrap();
    assert_eq!(policies.len(), 6);
    for report in planned(&with(policies)).reports {
        assert!(report.accepted.holds, "{report:?}");
        let expected =
            if report.policy == "egress-sample" { "EgressAddressMissing" } else { "Programmed" };
        assert_eq!(report.carried.reason, expected, "{report:?}");
    }
}

#[test]
fn what_is_in_the_cluster_is_never_translated() {
    let service = |name: &str, address: &str| {
        json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"namespace": "default", "name": name}, "spec": {"clusterIP": address}})
    };
    let network =
        Network { cluster_ranges: vec!["172.20.0.0/16".parse().unwrap()], ..Network::default() };
    let mut cluster = Cluster::new(network);
    let events = with([
        policy("all", 0, "app1", &json!(["0.0.0.0/0"])),
        policy("inside", 0, "app1", &json!(["10.0.1.0/24"])),
        service("kubernetes", "10.96.0.1"),
        service("shop", "10.96.3.200"),
        service("headless", "None"),
        json!({"apiVersion": "v1", "kind": "Endpoints",
            "metadata": {"namespace": "default", "name": "kubernetes"},
            "subsets": [{"addresses": [{"ip": "192.168.44.5"}]}]}),
    ]);
    feed(&mut cluster, &events);
    let plan = plan(&cluster, &here());
    let [all] = &plan.document.policies[..] else { panic!("{plan:?}") };
    let excluded: Vec<String> = all.excluded_destinations.iter().map(ToString::to_string).collect();
    assert_eq!(
        excluded,
        [
            "10.0.0.0/16",
            "10.96.0.0/22",
            "169.254.0.0/16",
            "172.20.0.0/16",
            "192.168.44.5/32",
            "192.168.44.128/32",
            "192.168.211.128/32",
        ]
    );
    assert_eq!(plan.reports[1].carried.reason, "NothingOutside");

    let (pod, key) = (ip("10.0.1.40"), ("default".to_owned(), "app1-a".to_owned()));
    for (to, why) in [
        ("10.0.1.50", "10.0.0.0/16: the pods of node worker1"),
        ("10.96.3.200", "10.96.0.0/22: services"),
        ("169.254.169.254", "169.254.0.0/16: link-local addresses"),
        ("172.20.1.1", "172.20.0.0/16: one of --cluster-ranges"),
        ("192.168.44.5", "192.168.44.5/32: the API server"),
        ("192.168.44.128", "192.168.44.128/32: node worker2"),
    ] {
        let found = explain(&cluster, &key, ip(to));
        assert_eq!((found.policy.as_deref(), decides(&plan.document, pod, ip(to))), (None, None));
        let range = found.in_cluster.expect(to).to_string();
        assert_eq!(why.split_once(": ").unwrap().0, range);
        let said = format!("{to} is in the cluster ({why}): it is never translated, whatever");
        assert!(found.why[0].starts_with(&said), "{found}");
    }
    let outside = explain(&cluster, &key, ip("10.96.4.1"));
    assert_eq!((outside.policy.as_deref(), outside.in_cluster), (Some("all"), None), "{outside}");
}

#[test]
fn priority_goes_before_length_and_length_before_name() {
    let wide = json!(["203.0.0.0/16"]);
    let narrow = json!(["203.0.113.0/24"]);
    let (pod, to) = (ip("10.0.1.40"), ip("203.0.113.10"));
    for (first, second, winner) in [
        (policy("a", 0, "app1", &wide), policy("b", 0, "app1", &narrow), "b"),
        (policy("a", 1, "app1", &wide), policy("b", 0, "app1", &narrow), "a"),
        (policy("a", -1, "app1", &narrow), policy("b", 0, "app1", &wide), "b"),
        (policy("b", 0, "app1", &narrow), policy("a", 0, "app1", &narrow), "a"),
    ] {
        let events = with([first, second]);
        assert_eq!(decides(&planned(&events).document, pod, to), Some(winner), "{events:?}");
        let mut cluster = Cluster::default();
        feed(&mut cluster, &events);
        let found = explain(&cluster, &("default".into(), "app1-a".into()), to);
        assert_eq!(found.policy.as_deref(), Some(winner), "{found}");
        assert_eq!(found.gateway.as_deref(), Some("worker2"));
    }
}

#[test]
fn the_loser_of_a_conflict_is_told() {
    let to = json!(["203.0.113.0/24"]);
    let plan = planned(&with([policy("a", 0, "app1", &to), policy("b", 0, "app1", &to)]));
    assert!(!plan.reports[0].conflicted.holds);
    assert!(plan.reports[1].conflicted.holds);
    assert!(plan.reports[1].conflicted.message.starts_with("policy a has 203.0.113.0/24"));
    let apart = planned(&with([policy("a", 0, "app1", &to), policy("b", 0, "app2", &to)]));
    assert!(apart.reports.iter().all(|report| !report.conflicted.holds));
}

#[test]
fn every_way_not_to_be_programmed_has_a_name() {
    let to = json!(["203.0.113.0/24"]);
    let mut missing = policy("missing", 0, "app1", &to);
    missing["spec"]["egressGateway"]["egressIP"] = "192.168.44.200".into();
    let mut nowhere = policy("nowhere", 0, "app1", &to);
    nowhere["spec"]["egressGateway"]["nodeSelector"] = json!({"matchLabels": {"no": "node"}});
    let mut refused = policy("refused", 0, "app1", &to);
    refused["spec"]["destinationCIDRs"] = json!(["everywhere"]);
    let many: Vec<String> =
        (0..1025).map(|n| format!("198.{}.{}.0/32", n / 256, n % 256)).collect();
    let vast = policy("vast", 0, "app1", &json!(many));
    let plan = planned(&with([missing, nowhere, refused, vast]));
    assert_eq!(plan.document.policies, []);
    let reasons: Vec<_> = plan.reports.iter().map(|report| report.carried.reason).collect();
    assert_eq!(reasons, ["EgressAddressMissing", "NoGateway", "Refused", "TooManyPrefixes"]);
    assert!(plan.reports[0].carried.message.contains("192.168.44.200"));
    assert!(plan.reports[2].accepted.message.contains("spec.destinationCIDRs[0]"));
}

#[test]
fn pods_without_an_address_of_their_own_are_not_selected() {
    let mut host = pod("app1-host", "app1", "worker1", "192.168.211.128");
    host["spec"]["hostNetwork"] = true.into();
    let mut ended = pod("app1-ended", "app1", "worker1", "10.0.1.60");
    ended["status"]["phase"] = "Succeeded".into();
    let waiting = pod("app1-waiting", "app1", "worker1", "");
    let one = policy("app1", 0, "app1", &json!(["203.0.113.0/24"]));
    let plan = planned(&with([host, ended, waiting, one]));
    assert_eq!(plan.document.policies[0].pods.len(), 2);
}

#[test]
fn a_pod_that_several_policies_select_is_named_once() {
    let net = json!(["203.0.113.0/24"]);
    let both = json!(["198.51.100.0/24"]);
    // The address of a pod that ends is another one's already.
    let successor = pod("app1-next", "app1", "worker1", "10.0.1.40");
    let plan = planned(&with([
        policy("one", 0, "app1", &net),
        policy("other", 0, "app1", &both),
        policy("third", 0, "app2", &both),
        successor,
    ]));
    let Document { pod_groups, policies, .. } = &plan.document;
    let [group] = &pod_groups[..] else { panic!("{pod_groups:?}") };
    assert_eq!(group.pods, ["10.0.1.40", "10.0.1.41"].map(ip));
    let groups_of = |one: &spillway_api::Policy| one.pod_groups.clone().unwrap();
    let named: Vec<_> = policies.iter().map(|one| (groups_of(one), &one.pods[..])).collect();
    let group = vec![group.name.clone()];
    let alone = [ip("10.0.1.50")];
    assert_eq!(named, [(group.clone(), &[][..]), (group, &[][..]), (vec![], &alone[..])]);
    let text = serde_json::to_string(&plan.document).unwrap();
    assert_eq!(Document::parse(&text).unwrap(), plan.document);
}

#[test]
fn the_documents_pods_have_their_names_and_no_others() {
    let elsewhere = pod("app3", "app3", "worker1", "10.0.1.70");
    let both = dual_pod("app1-both", "app1", &["10.0.1.80", "fd00:10:1::80"]);
    let net = json!(["203.0.113.0/24"]);
    let document = planned(&with([policy("one", 0, "app1", &net), elsewhere, both])).document;
    let names: Vec<_> =
        document.pod_names.iter().map(|pod| (&*pod.name, &*pod.addresses)).collect();
    // The policy has no IPv6 destination, so the document has no IPv6 address of a pod.
    assert!(names.contains(&("default/app1-both", &[ip("10.0.1.80")][..])), "{names:?}");
    let named: usize = names.iter().map(|(_, addresses)| addresses.len()).sum();
    assert_eq!(named, document.pods().count());

    // While one pod ends, another may have its address already: it is called neither.
    let successor = pod("app1-next", "app1", "worker1", "10.0.1.80");
    let both = dual_pod("app1-both", "app1", &["10.0.1.80", "fd00:10:1::80"]);
    let document = planned(&with([policy("one", 0, "app1", &net), both, successor])).document;
    let called = |pod: &&spillway_api::PodName| pod.addresses.contains(&ip("10.0.1.80"));
    assert!(document.pods().any(|pod| pod == ip("10.0.1.80")));
    assert_eq!(document.pod_names.iter().find(called), None);
}

/// Where the pods of [`events`] send.
const REMOTES: [&str; 6] = [
    "203.0.113.1",
    "203.0.113.200",
    "203.0.1.1",
    "198.51.100.1",
    "2001:db8:203::1",
    "2001:db8:204::1",
];

/// The addresses that a pod of [`events`] may have.
fn pod_addresses(number: u8) -> [String; 2] {
    [format!("10.0.1.{}", 100 + number), format!("fd00:10:1::{number}")]
}

/// Changes of few objects, so that they meet: pods that move and end, policies that change, nodes
/// and namespaces that are relabelled.
fn events() -> impl Strategy<Value = Vec<Event>> {
    let app = prop_oneof![Just("app1"), Just("app2")];
    let net = prop_oneof![
        Just(json!(["203.0.113.0/24"])),
        Just(json!(["203.0.0.0/16"])),
        Just(json!(["203.0.113.0/25", "198.51.100.0/24"])),
        Just(json!(["2001:db8:203::/48", "203.0.113.0/24"])),
        Just(json!(["2001:db8::/32"])),
        Just(json!(["64:ff9b::203.0.113.0/120", "2001:db8:203::/48"])),
    ];
    let pods = (0u8..4, app.clone(), 1u8..4).prop_map(|(pod_number, app, has)| {
        let both = pod_addresses(pod_number);
        let own: Vec<&str> =
            (0..2).filter(|bit| has >> bit & 1 == 1).map(|bit| both[bit].as_str()).collect();
        dual_pod(&format!("pod{pod_number}"), app, &own)
    });
    let policies = (0u8..3, 0i32..2, app, net).prop_map(|(number, priority, app, net)| {
        policy(&format!("p{number}"), priority, app, &net)
    });
    let nodes = prop::bool::ANY.prop_map(|gateway| {
        let labels = if gateway { json!({"egress-node": "true"}) } else { json!({}) };
        node("worker2", "192.168.44.128", &labels)
    });
    let object = prop_oneof![4 => pods, 3 => policies, 1 => nodes];
    let event =
        (object, prop::bool::weighted(0.2)).prop_map(|(object, gone)| Event { object, gone });
    prop::collection::vec(event, 1..40)
}

proptest! {
    /// However the cluster came to be, the same objects give the same plan; and its document
    /// decides as the rule says: priority, length, name.
    #[test]
    fn only_the_objects_count_and_not_their_history(events in events(), seed in any::<u64>()) {
        let network = if seed & 2 == 0 { Network::default() } else { nat64() };
        let mut cluster = Cluster::new(network.clone());
        feed(&mut cluster, &worlds());
        feed(&mut cluster, &events);
        let lived = plan(&cluster, &dual_here());

        // The last state of every object, in another order.
        let mut last = std::collections::BTreeMap::new();
        for event in worlds().into_iter().chain(events) {
            let key = (event.object["kind"].to_string(), event.object["metadata"]["name"].to_string());
            last.insert(key, event);
        }
        let mut fresh: Vec<Event> = last.into_values().filter(|event| !event.gone).collect();
        let length = fresh.len() as u64;
        fresh.rotate_left(usize::try_from(seed % length).unwrap());
        if seed % 2 == 0 { fresh.reverse(); }
        let mut told_anew = Cluster::new(network.clone());
        feed(&mut told_anew, &fresh);
        prop_assert_eq!(&lived, &plan(&told_anew, &dual_here()));

        let text = serde_json::to_string(&lived.document).unwrap();
        let read = Document::parse(&text).unwrap();
        prop_assert_eq!(&read, &lived.document);
        for pod in &read.pod_names {
            let key = pod.name.split_once('/').map(|(namespace, name)| (namespace.into(), name.into()));
            let has = cluster.pod(&key.unwrap()).unwrap().addresses;
            prop_assert!(pod.addresses.iter().all(|address| has.iter().any(|own| own == *address)));
            prop_assert!(pod.addresses.iter().all(|address| read.pods().any(|one| one == *address)));
        }
        for number in 0..4 {
            let key = ("default".into(), format!("pod{number}"));
            let [v4, v6] = pod_addresses(number).map(|text| ip(&text));
            for to in REMOTES.map(ip) {
                let pod = if to.is_ipv4() { v4 } else { v6 };
                let told = explain(&cluster, &key, to);
                let carried = told.policy.filter(|_| told.gateway.as_deref() == Some("worker2"));
                prop_assert_eq!(decides(&lived.document, pod, to), carried.as_deref());
            }
            // What is in the NAT64 prefix, the IPv4 destinations decide.
            for to in REMOTES.map(ip) {
                let (IpAddr::V4(four), Some(prefix)) = (to, network.nat64_prefix) else { continue };
                let told = explain(&cluster, &key, prefix.embed(four.into()).addr().into());
                let carried = told.policy.filter(|_| told.gateway.as_deref() == Some("worker2"));
                prop_assert_eq!(decides(&lived.document, v6, to), carried.as_deref());
            }
        }
    }
}

/// The plan of a node whose host has no egress address but may announce some on `eth0`.
fn announcing(node: &str, announce_on: Option<&str>, events: &[Event]) -> Plan {
    let mut cluster = Cluster::default();
    feed(&mut cluster, events);
    let host = Host {
        interfaces: [("eth0".into(), vec!["192.168.44.128".parse().unwrap()])].into(),
        default_interfaces: PerFamily { v4: Some("eth0".into()), v6: None },
    };
    let announce_on = announce_on.map(Into::into);
    plan(&cluster, &Here { node: node.into(), host, announce_on, ..Here::default() })
}

#[test]
fn an_address_that_the_host_does_not_have_is_announced_where_that_is_allowed() {
    let events = with([policy("p", 0, "app1", &json!(["203.0.113.0/24"]))]);
    let missing = announcing("worker2", None, &events);
    assert_eq!(missing.reports[0].carried.reason, "EgressAddressMissing");
    assert!(missing.document.egress_addresses.is_empty());

    let plan = announcing("worker2", Some("eth0"), &events);
    assert!(plan.reports[0].carried.holds, "{:?}", plan.reports[0]);
    let [egress] = &plan.document.egress_addresses[..] else { panic!("{:?}", plan.document) };
    assert_eq!(egress.address, ip("192.168.44.129"));
    assert_eq!((egress.kind, egress.announce.as_deref()), (EgressAddressKind::Own, Some("eth0")));
    plan.document.validate().unwrap();

    // One that the host has is the host's to answer for.
    let mut cluster = Cluster::default();
    feed(&mut cluster, &events);
    let here = Here { announce_on: Some("eth0".into()), ..here() };
    let on_host = spillway_control::plan::plan(&cluster, &here).document.egress_addresses;
    assert_eq!((on_host.len(), &on_host[0].announce), (1, &None));
}

#[test]
fn only_the_device_that_announces_and_only_one_node_has_the_address() {
    let mut named = policy("p", 0, "app1", &json!(["203.0.113.0/24"]));
    named["spec"]["egressGateway"]["interface"] = json!("eth0");
    let plan = announcing("worker2", Some("eth0"), &with([named.clone()]));
    assert!(plan.reports[0].carried.holds, "{:?}", plan.reports[0]);
    let other = announcing("worker2", Some("eth1"), &with([named]));
    assert_eq!(other.reports[0].carried.reason, "EgressAddressMissing");

    let mut events = with([policy("p", 0, "app1", &json!(["203.0.113.0/24"]))]);
    let labels = json!({"egress-node": "true", "spillway.io/gateway": "true"});
    events.push(there(node("worker3", "192.168.44.133", &labels)));
    assert!(announcing("worker2", Some("eth0"), &events).reports[0].carried.holds);
    let second = announcing("worker3", Some("eth0"), &events);
    let said = &second.reports[0].carried;
    assert_eq!(
        (said.reason, said.message.as_str()),
        (
            "EgressAddressMissing",
            "192.168.44.129 is announced by worker2, the first by name that matches"
        )
    );
    assert!(second.document.egress_addresses.is_empty());
    // When the first one goes, the second takes over.
    events.push(Event { object: node("worker2", "192.168.44.128", &labels), gone: true });
    assert!(announcing("worker3", Some("eth0"), &events).reports[0].carried.holds);
}

/// A gateway whose `eth0` has addresses of both families.
fn dual_here() -> Here {
    let addresses = ["192.168.44.128", "192.168.44.129", "2001:db8:44::128", "2001:db8:44::129"];
    let default = Some("eth0".to_owned());
    let host = Host {
        interfaces: [("eth0".into(), addresses.map(ip).into())].into(),
        default_interfaces: PerFamily { v4: default.clone(), v6: default },
    };
    Here { host, ..here() }
}

/// A world of pods that have both families or one.
fn dual_planned(here: &Here, policies: impl IntoIterator<Item = Value>) -> Plan {
    let mut cluster = Cluster::default();
    feed(&mut cluster, &with(policies));
    feed(
        &mut cluster,
        &[
            there(dual_pod("app1-dual", "app1", &["10.0.1.60", "fd00:10:1::60"])),
            there(dual_pod("app1-six", "app1", &["fd00:10:1::61"])),
        ],
    );
    let plan = plan(&cluster, here);
    plan.document.validate().unwrap();
    plan
}

fn both_families(address: Option<&str>, interface: Option<&str>) -> Value {
    let mut both = policy("both", 0, "app1", &json!(["0.0.0.0/0", "::/0"]));
    both["spec"]["excludedCIDRs"] = json!(["203.0.113.20/32", "2001:db8:203::20/128"]);
    both["spec"]["egressGateway"]["egressIP"] = json!(address);
    both["spec"]["egressGateway"]["interface"] = json!(interface);
    both
}

#[test]
fn a_policy_for_both_families_has_an_egress_address_of_each() {
    for (address, interface, expected) in [
        (Some("192.168.44.129"), None, ["192.168.44.129", "2001:db8:44::128"]),
        (Some("2001:db8:44::129"), None, ["192.168.44.128", "2001:db8:44::129"]),
        (None, Some("eth0"), ["192.168.44.128", "2001:db8:44::128"]),
        (None, None, ["192.168.44.128", "2001:db8:44::128"]),
    ] {
        let plan = dual_planned(&dual_here(), [both_families(address, interface)]);
        let [one] = &plan.document.policies[..] else { panic!("{plan:?}") };
        assert_eq!(one.egress_list(), expected.map(ip));
        assert_eq!(plan.reports[0].egress_addresses, expected.map(ip));
        assert_eq!(plan.reports[0].carried.reason, "Programmed", "{:?}", plan.reports[0]);
        assert_eq!((plan.reports[0].pods, plan.reports[0].pods_sent_here), (4, 4));
        let pods = ["10.0.1.40", "10.0.1.41", "10.0.1.60", "fd00:10:1::60", "fd00:10:1::61"];
        assert_eq!(one.pods, pods.map(ip));
        assert_eq!(one.destinations, ["0.0.0.0/0", "::/0"].map(|net| net.parse().unwrap()));
        let is_shared = |address: &IpAddr| {
            *address != ip("192.168.44.129") && *address != ip("2001:db8:44::129")
        };
        for egress in &plan.document.egress_addresses {
            let shared = egress.kind == EgressAddressKind::Shared;
            assert_eq!(shared, is_shared(&egress.address), "{egress:?}");
        }
    }
}

#[test]
fn only_the_family_without_an_egress_address_is_refused() {
    let plan = dual_planned(&here(), [both_families(Some("192.168.44.129"), None)]);
    let [one] = &plan.document.policies[..] else { panic!("{plan:?}") };
    assert_eq!(one.egress_list(), [ip("192.168.44.129")]);
    // It is covered all the same: the router drops it.
    let [four, six] = ["10.0.1.60", "fd00:10:1::60"].map(ip);
    assert_eq!(decides(&plan.document, four, ip("198.51.100.1")), Some("both"));
    assert_eq!(decides(&plan.document, six, ip("2001:db8:203::1")), Some("both"));
    let report = &plan.reports[0];
    assert_eq!(report.egress_addresses, [ip("192.168.44.129")]);
    assert_eq!(
        (report.carried.holds, report.carried.reason, report.carried.message.as_str()),
        (
            false,
            "FamilyRefused",
            "IPv6 is refused, and only that family: eth0 of this gateway has no IPv6 address"
        )
    );
    // Nothing is refused where no pod has the family, or the policy does not ask for it.
    let alone = planned(&with([both_families(Some("192.168.44.129"), None)]));
    assert_eq!(alone.reports[0].carried.reason, "Programmed");
    let four = policy("four", 0, "app1", &json!(["0.0.0.0/0"]));
    let plan = dual_planned(&dual_here(), [four]);
    assert_eq!(plan.reports[0].carried.reason, "Programmed");
    assert_eq!(plan.reports[0].egress_addresses, [ip("192.168.44.129")]);
    assert_eq!(plan.document.policies[0].pods, ["10.0.1.40", "10.0.1.41", "10.0.1.60"].map(ip));
    assert_eq!(plan.document.egress_addresses.len(), 1);
}

#[test]
fn without_an_address_of_either_family_nothing_is_carried() {
    for address in ["192.168.44.200", "2001:db8:44::200"] {
        let plan = dual_planned(&dual_here(), [both_families(Some(address), None)]);
        assert_eq!(plan.document.policies, []);
        let said = &plan.reports[0].carried;
        assert_eq!(said.reason, "EgressAddressMissing");
        assert!(said.message.contains(address), "{}", said.message);
    }
}

#[test]
fn an_ipv6_address_is_announced_too() {
    let named = both_families(Some("2001:db8:44::200"), None);
    let here = Here { announce_on: Some("eth0".into()), ..dual_here() };
    let plan = dual_planned(&here, [named]);
    assert_eq!(plan.reports[0].carried.reason, "Programmed", "{:?}", plan.reports[0]);
    let announced: Vec<_> = plan
        .document
        .egress_addresses
        .iter()
        .map(|egress| (egress.address, egress.kind, egress.announce.as_deref()))
        .collect();
    assert_eq!(
        announced,
        [
            (ip("192.168.44.128"), EgressAddressKind::Shared, None),
            (ip("2001:db8:44::200"), EgressAddressKind::Own, Some("eth0")),
        ]
    );
}

#[test]
fn what_is_in_the_cluster_is_never_translated_in_ipv6_either() {
    let mut inside = node("worker3", "192.168.44.133", &json!({}));
    inside["spec"]["podCIDRs"] = json!(["10.3.0.0/16", "fd00:10:3::/48"]);
    add_address(&mut inside, "2001:db8:44::133");
    let service = json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": "default", "name": "kubernetes"},
        "spec": {"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00:96::1"]}});
    let plan = dual_planned(&dual_here(), [inside, service, both_families(None, None)]);
    let excluded = &plan.document.policies[0].excluded_destinations;
    let excluded: Vec<String> = excluded.iter().map(ToString::to_string).collect();
    let v6: Vec<&str> =
        excluded.iter().map(String::as_str).filter(|net| net.contains(':')).collect();
    assert_eq!(
        v6,
        [
            "2001:db8:44::133/128",
            "2001:db8:203::20/128",
            "fd00:10:3::/48",
            "fd00:96::1/128",
            "fe80::/10"
        ]
    );
}

/// Ranges of the cluster are in no policy: what covers all but those is not cut in pieces for them.
#[test]
fn priorities_of_policies_for_everything_do_not_fall_into_pieces() {
    let mut policies: Vec<Value> = (0..100_u32)
        .map(|number| {
            let mut one = node(&format!("node{number}"), "192.168.50.1", &json!({}));
            let address = format!("2001:db8:44::{:x}:1", number.wrapping_mul(40_503) & 0xffff);
            add_address(&mut one, &address);
            one
        })
        .collect();
    let mut high = both_families(None, None);
    high["metadata"]["annotations"]["spillway.io/priority"] = "1".into();
    let mut low = both_families(None, None);
    low["metadata"]["name"] = "low".into();
    low["spec"]["destinationCIDRs"] = json!(["::/0"]);
    policies.extend([high, low]);
    let plan = dual_planned(&dual_here(), policies);
    let part = plan.document.policies.iter().find(|policy| policy.name == "low").unwrap();
    let prefixes = part.destinations.len() + part.excluded_destinations.len();
    assert!(prefixes < 350, "{prefixes}");
}

#[test]
fn addresses_that_no_packet_has_are_refused_with_their_policy() {
    for (field, value) in [
        ("egressIP", "fe80::1"),
        ("egressIP", "ff02::1"),
        ("egressIP", "224.0.0.1"),
        ("egressIP", "::ffff:192.0.2.1"),
    ] {
        let mut one = policy("p", 0, "app1", &json!(["::/0"]));
        one["spec"]["egressGateway"][field] = value.into();
        let plan = dual_planned(&dual_here(), [one]);
        let said = &plan.reports[0].accepted;
        assert!(said.message.contains("spec.egressGateway.egressIP"), "{said:?}");
        assert!(said.message.contains(value), "{said:?}");
    }
    // A pod's is left out: one pod must not make the router refuse the document of all.
    let odd = dual_pod("app1-odd", "app1", &["10.0.1.70", "fe80::70"]);
    let plan = dual_planned(&dual_here(), [odd, both_families(None, None)]);
    assert!(plan.document.policies[0].pods.contains(&ip("10.0.1.70")));
    assert!(!plan.document.policies[0].pods.contains(&ip("fe80::70")));
}

#[test]
fn a_pod_without_the_destinations_family_is_explained() {
    let mut cluster = Cluster::default();
    feed(&mut cluster, &with([both_families(None, None)]));
    feed(&mut cluster, &[there(dual_pod("app1-dual", "app1", &["10.0.1.60", "fd00:10:1::60"]))]);
    let explained =
        |pod: &str, to: &str| explain(&cluster, &("default".into(), pod.into()), ip(to));
    let six = explained("app1-dual", "2001:db8:203::1");
    assert_eq!(six.policy.as_deref(), Some("both"), "{six}");
    assert_eq!(six.destination.map(|net| net.to_string()).as_deref(), Some("::/0"));
    assert_eq!(explained("app1-dual", "2001:db8:203::20").policy, None);
    let only_four = explained("app1-a", "2001:db8:203::1");
    assert_eq!(only_four.policy, None);
    assert!(only_four.why[0].contains("no IPv6 address of its own"), "{only_four}");
}

#[test]
fn replies_have_the_vnis_that_are_configured() {
    let vni = (ReplyVni::Fixed(9), Some(ReplyVni::Fixed(10)));
    let here = Here { reply_vni: vni.0, reply_vni_ipv6: vni.1, ..dual_here() };
    let document = dual_planned(&here, []).document;
    assert_eq!((document.reply_vni, document.reply_vni_ipv6), vni);
}

fn nat64() -> Network {
    Network { nat64_prefix: "64:ff9b::/96".parse().ok(), ..Network::default() }
}

/// The plan for `worlds`, an IPv6-only pod and some policies, in a network.
fn planned_in(network: Network, here: &Here, policies: impl IntoIterator<Item = Value>) -> Plan {
    let mut cluster = Cluster::new(network);
    feed(&mut cluster, &with(policies));
    feed(&mut cluster, &[there(dual_pod("app1-six", "app1", &["fd00:10:1::61"]))]);
    let plan = plan(&cluster, here);
    plan.document.validate().unwrap();
    plan
}

#[test]
fn with_nat64_policies_for_ipv4_take_ipv6_only_pods() {
    let four = || policy("four", 0, "app1", &json!(["203.0.113.0/24"]));
    let plan = planned_in(nat64(), &here(), [four()]);
    assert_eq!(plan.document.nat64_prefix, nat64().nat64_prefix);
    let [one] = &plan.document.policies[..] else { panic!("{plan:?}") };
    assert_eq!(one.pods, ["10.0.1.40", "10.0.1.41", "fd00:10:1::61"].map(ip));
    assert_eq!(one.egress_list(), [ip("192.168.44.129")]);
    assert_eq!(plan.reports[0].carried.reason, "Programmed", "{:?}", plan.reports[0]);

    let plan = planned_in(Network::default(), &here(), [four()]);
    assert_eq!(plan.document.nat64_prefix, None);
    assert_eq!(plan.document.policies[0].pods, ["10.0.1.40", "10.0.1.41"].map(ip));
}

/// Cilium's agents steer by what the pods write, so that is what its policy must have.
#[test]
fn a_destination_in_the_nat64_prefix_is_the_ipv4_one() {
    let four = policy("four", 0, "app1", &json!(["64:ff9b::203.0.113.0/120", "203.0.113.0/24"]));
    let all = policy("all", 0, "app1", &json!(["64:ff9b::/96"]));
    let plan = planned_in(nat64(), &here(), [four, all]);
    let of = |index: usize| plan.document.policies[index].destinations.clone();
    assert_eq!(
        [of(0), of(1)],
        ["0.0.0.0/0", "203.0.113.0/24"].map(|net| vec![net.parse().unwrap()])
    );
    assert!(plan.reports.iter().all(|report| report.carried.reason == "Programmed"), "{plan:?}");
    // What one leaves alone is the other's.
    let mut first = policy("first", 1, "app1", &json!(["64:ff9b::/96"]));
    first["spec"]["excludedCIDRs"] = json!(["64:ff9b::10.0.0.0/104"]);
    let second = policy("second", 0, "app1", &json!(["64:ff9b::/96"]));
    let plan = planned_in(nat64(), &here(), [first, second]);
    let leaves_alone = |index: usize, address: &str| {
        let excluded = &plan.document.policies[index].excluded_destinations;
        assert!(excluded.iter().all(|net| net.addr().is_ipv4()), "{excluded:?}");
        excluded.iter().any(|net| net.contains(&ip(address)))
    };
    for (address, of_first, of_second) in [("10.1.0.1", true, false), ("8.8.8.8", false, true)] {
        let left_alone = (leaves_alone(0, address), leaves_alone(1, address));
        assert_eq!(left_alone, (of_first, of_second), "{address}");
    }
    // Without NAT64 they are IPv6's own.
    let all = policy("all", 0, "app1", &json!(["64:ff9b::/96"]));
    let plan = planned_in(Network::default(), &dual_here(), [all]);
    assert_eq!(plan.document.policies[0].destinations, ["64:ff9b::/96".parse().unwrap()]);
    assert_eq!(plan.document.policies[0].pods, [ip("fd00:10:1::61")]);
}

/// One author's mistake must not make the router refuse the document of all.
#[test]
fn what_cannot_be_in_the_nat64_prefix_is_refused_with_its_policy() {
    let network = Network { nat64_prefix: "2001:db8:64::/48".parse().ok(), ..nat64() };
    let odd = policy("odd", 0, "app1", &json!(["2001:db8:64:0:ff00::/72"]));
    let mut ours = policy("ours", 0, "app1", &json!(["203.0.113.0/24"]));
    ours["spec"]["egressGateway"]["egressIP"] = "2001:db8:64::1".into();
    let here = Here { announce_on: Some("eth0".into()), ..dual_here() };
    let plan = planned_in(network, &here, [odd, ours]);
    assert_eq!(plan.document.policies, []);
    let said: Vec<&str> = plan.reports.iter().map(|r| r.accepted.message.as_str()).collect();
    assert_eq!(
        said,
        [
            "spec.destinationCIDRs: 2001:db8:64:0:ff00::/72 holds no IPv4 address (RFC 6052, \
             section 2.2)",
            "spec.egressGateway: 2001:db8:64::1 is in the NAT64 prefix, 2001:db8:64::/48: no host \
             has it",
        ]
    );
}

/// An IPv6-only pod needs what its destinations need: for IPv4's an IPv4 egress address.
#[test]
fn with_nat64_an_ipv6_only_pod_is_refused_what_has_no_egress_address() {
    let six = || {
        let mut six = both_families(None, Some("eth1"));
        six["spec"]["selectors"] = json!([{"podSelector": {"matchLabels": {"app": "app6"}}}]);
        six
    };
    let only_six = |network| {
        let mut cluster = Cluster::new(network);
        feed(&mut cluster, &with([six()]));
        feed(&mut cluster, &[there(dual_pod("six", "app6", &["fd00:10:1::66"]))]);
        let mut here = dual_here();
        here.host.interfaces.insert("eth1".into(), vec![ip("2001:db8:55::1")]);
        plan(&cluster, &here).reports[0].carried.clone()
    };
    assert_eq!(only_six(Network::default()).reason, "Programmed");
    let refused = only_six(nat64());
    assert_eq!(refused.reason, "FamilyRefused");
    assert!(refused.message.starts_with("IPv4 is refused, and only that family"), "{refused:?}");
}

#[test]
fn an_address_in_the_nat64_prefix_is_explained_by_ipv4s_policies() {
    let mut cluster = Cluster::new(nat64());
    feed(&mut cluster, &with([policy("four", 0, "app1", &json!(["203.0.113.0/24"]))]));
    feed(&mut cluster, &[there(dual_pod("app1-six", "app1", &["fd00:10:1::61"]))]);
    let explained = |to: &str| explain(&cluster, &("default".into(), "app1-six".into()), ip(to));
    let found = explained("64:ff9b::203.0.113.10");
    assert_eq!(found.policy.as_deref(), Some("four"), "{found}");
    assert_eq!(found.destination, "203.0.113.0/24".parse().ok());
    assert_eq!(found.egress_address, Some(ip("192.168.44.129")));
    assert!(found.why[0].contains("is 203.0.113.10 in the NAT64 prefix"), "{found}");
    assert_eq!(explained("64:ff9b::198.51.100.1").policy, None);
    let told = explained("203.0.113.10");
    assert_eq!(told.policy, None);
    assert!(told.why[1].contains("reaches 203.0.113.10 as 64:ff9b::cb00:710a"), "{told}");
}

/// The worlds' nodes, which are dual-stack if they have an IPv4 address.
fn tunnels(underlay: Underlay, gateway: &[&str], other: &[&str]) -> Vec<(IpAddr, Vec<IpAddr>)> {
    let with_addresses = |name, addresses: &[&str], labels| {
        let mut one = node(name, addresses[0], &labels);
        addresses[1..].iter().for_each(|address| add_address(&mut one, address));
        there(one)
    };
    let labels = json!({"egress-node": "true", "spillway.io/gateway": "true"});
    let mut cluster = Cluster::new(Network { underlay, ..Network::default() });
    let nodes =
        [with_addresses("worker2", gateway, labels), with_addresses("worker1", other, json!({}))];
    feed(&mut cluster, &nodes);
    let document = plan(&cluster, &here()).document;
    document.validate().unwrap();
    let peers =
        |tunnel: &spillway_api::Tunnel| tunnel.peers.iter().map(|peer| peer.address).collect();
    document.tunnels.iter().map(|tunnel| (tunnel.address, peers(tunnel))).collect()
}

#[test]
fn tunnels_are_of_the_underlays_family() {
    let (four, six) = ("192.168.44.128", "2001:db8:44::128");
    let (peer_four, peer_six) = ("192.168.211.128", "2001:db8:211::128");
    let one = |address, peers: &[&str]| vec![(ip(address), peers.iter().map(|p| ip(p)).collect())];
    for (underlay, gateway, peer, expected) in [
        (Underlay::Auto, &[six, four][..], &[peer_six, peer_four][..], one(four, &[peer_four])),
        (Underlay::Auto, &[six], &[peer_six], one(six, &[peer_six])),
        // A node of the other family is no peer, and changes nothing.
        (Underlay::Auto, &[six], &[peer_four], one(six, &[])),
        (Underlay::Auto, &[six], &[peer_four, peer_six], one(six, &[peer_six])),
        (Underlay::Ipv6, &[four, six], &[peer_four, peer_six], one(six, &[peer_six])),
        (Underlay::Ipv6, &[four], &[peer_six], vec![]),
        (Underlay::Ipv4, &[six], &[peer_four], vec![]),
        // No router would take it as a peer.
        (Underlay::Ipv6, &[six], &["fe80::1"], one(six, &[])),
    ] {
        assert_eq!(
            tunnels(underlay, gateway, peer),
            expected,
            "{underlay:?}: {gateway:?}, {peer:?}"
        );
    }
}
