//! Objects as an API server has them, and the document that must come of them.
#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use proptest::prelude::*;
use serde_json::{Value, json};
use spillway_api::{Document, EgressAddressKind};
use spillway_control::cluster::{Change, Cluster};
use spillway_control::explain::explain;
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

fn pod(name: &str, app: &str, node: &str, ip: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": "default", "name": name, "uid": name, "labels": {"app": app}},
        "spec": {"nodeName": node, "containers": []},
        "status": {"podIP": ip, "phase": "Running"},
    })
}

fn node(name: &str, ip: &str, labels: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "spec": {"podCIDR": "10.0.0.0/16"},
        "status": {"addresses": [{"type": "InternalIP", "address": ip}]},
    })
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
        default_interface: Some("eth0".into()),
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
fn decides(document: &Document, pod: Ipv4Addr, to: Ipv4Addr) -> Option<&str> {
    let longest = |nets: &[Ipv4Net]| {
        nets.iter().filter(|net| net.contains(&to)).map(Ipv4Net::prefix_len).max()
    };
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
    assert_eq!(plan.document.tunnels[0].address, Ipv4Addr::new(192, 168, 44, 128));
    assert_eq!(plan.document.tunnels[0].peers[0].address, Ipv4Addr::new(192, 168, 211, 128));
    let [egress] = &plan.document.egress_addresses[..] else { panic!("{text}") };
    assert_eq!(
        (egress.address.to_string().as_str(), egress.kind),
        ("192.168.44.129", EgressAddressKind::Own)
    );
    let [one] = &plan.document.policies[..] else { panic!("{text}") };
    assert_eq!(one.pods, [Ipv4Addr::new(10, 0, 1, 40), Ipv4Addr::new(10, 0, 1, 41)]);
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
    let plan = planned(&with([
        policy("all", 0, "app1", &json!(["0.0.0.0/0"])),
        policy("inside", 0, "app1", &json!(["10.0.1.0/24"])),
        service("kubernetes", "10.96.0.1"),
        service("shop", "10.96.3.200"),
        service("headless", "None"),
        json!({"apiVersion": "v1", "kind": "Endpoints",
            "metadata": {"namespace": "default", "name": "kubernetes"},
            "subsets": [{"addresses": [{"ip": "192.168.44.5"}]}]}),
    ]));
    let [all] = &plan.document.policies[..] else { panic!("{plan:?}") };
    let excluded: Vec<String> = all.excluded_destinations.iter().map(ToString::to_string).collect();
    assert_eq!(
        excluded,
        [
            "10.0.0.0/16",
            "10.96.0.0/22",
            "169.254.0.0/16",
            "192.168.44.5/32",
            "192.168.44.128/32",
            "192.168.211.128/32"
        ]
    );
    assert_eq!(plan.reports[1].carried.reason, "NothingOutside");
}

#[test]
fn priority_goes_before_length_and_length_before_name() {
    let wide = json!(["203.0.0.0/16"]);
    let narrow = json!(["203.0.113.0/24"]);
    let (pod, to) = (Ipv4Addr::new(10, 0, 1, 40), Ipv4Addr::new(203, 0, 113, 10));
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
    assert_eq!(group.pods, [Ipv4Addr::new(10, 0, 1, 40), Ipv4Addr::new(10, 0, 1, 41)]);
    let groups_of = |one: &spillway_api::Policy| one.pod_groups.clone().unwrap();
    let named: Vec<_> = policies.iter().map(|one| (groups_of(one), &one.pods[..])).collect();
    let group = vec![group.name.clone()];
    let alone = [Ipv4Addr::new(10, 0, 1, 50)];
    assert_eq!(named, [(group.clone(), &[][..]), (group, &[][..]), (vec![], &alone[..])]);
    let text = serde_json::to_string(&plan.document).unwrap();
    assert_eq!(Document::parse(&text).unwrap(), plan.document);
}

/// Changes of few objects, so that they meet: pods that move and end, policies that change, nodes
/// and namespaces that are relabelled.
fn events() -> impl Strategy<Value = Vec<Event>> {
    let app = prop_oneof![Just("app1"), Just("app2")];
    let net = prop_oneof![
        Just(json!(["203.0.113.0/24"])),
        Just(json!(["203.0.0.0/16"])),
        Just(json!(["203.0.113.0/25", "198.51.100.0/24"])),
    ];
    let pods = (0u8..4, app.clone()).prop_map(|(pod_number, app)| {
        pod(&format!("pod{pod_number}"), app, "worker1", &format!("10.0.1.{}", 100 + pod_number))
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
        let mut cluster = Cluster::default();
        feed(&mut cluster, &worlds());
        feed(&mut cluster, &events);
        let lived = plan(&cluster, &here());

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
        prop_assert_eq!(&lived, &planned(&fresh));

        let text = serde_json::to_string(&lived.document).unwrap();
        let read = Document::parse(&text).unwrap();
        prop_assert_eq!(&read, &lived.document);
        for number in 100..104 {
            let pod = Ipv4Addr::new(10, 0, 1, number);
            for to in [[203, 0, 113, 1], [203, 0, 113, 200], [203, 0, 1, 1], [198, 51, 100, 1]] {
                let key = ("default".into(), format!("pod{}", number - 100));
                let told = explain(&cluster, &key, to.into());
                let carried = told.policy.filter(|_| told.gateway.as_deref() == Some("worker2"));
                prop_assert_eq!(decides(&lived.document, pod, to.into()), carried.as_deref());
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
        default_interface: Some("eth0".into()),
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
    assert_eq!(egress.address, Ipv4Addr::new(192, 168, 44, 129));
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
