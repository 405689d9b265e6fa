//! `spillway-control` against a real etcd and kube-apiserver, as the service account that the
//! manifests give it. Needs root and `KUBEBUILDER_ASSETS`: `make test` provides both.
#![allow(clippy::unwrap_used, reason = "these are tests")]

mod router;
mod server;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use spillway_testing::{Process, veth_pair, wait_until};

use router::Router;
use server::ApiServer;

const CONTROL: &str = env!("CARGO_BIN_EXE_spillway-control");
const SOON: Duration = Duration::from_secs(30);
const ACCOUNT: &str = "spillway-control";

/// A cluster of two nodes, the second of which is this gateway.
struct Cluster {
    api: ApiServer,
    router: Router,
}

impl Cluster {
    fn new(name: &str) -> Self {
        let api = ApiServer::start(name);
        let run = |command: &[&str]| api.namespace.run(command);
        veth_pair(&api.namespace, "uplink", &api.namespace, "far", 1);
        run(&["ip", "address", "add", "192.168.44.128/24", "dev", "uplink"]);
        run(&["ip", "address", "add", "192.168.44.129/24", "dev", "uplink"]);
        let kubeconfig = api.kubeconfig("admin");
        let install =
            ["env", &format!("KUBECONFIG={}", kubeconfig.display()), CONTROL, "crds", "install"];
        let said = run(&install);
        assert!(said.contains("ciliumegressgatewaypolicies.cilium.io: created"), "{said}");
        let said = run(&install);
        assert!(
            said.contains("ciliumegressgatewaypolicies.cilium.io: is there, left alone"),
            "{said}"
        );
        api.apply(&json!({"apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": "spillway-system"}}));
        api.apply_file("k8s/base/rbac.yaml");
        let path = format!("/api/v1/namespaces/spillway-system/serviceaccounts/{ACCOUNT}/token");
        let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"audiences": ["https://kubernetes.default.svc"]}});
        let token = api.kubectl(&["create", "--raw", &path, "-f", "-"], &request.to_string());
        let token: Value = serde_json::from_str(&token).unwrap();
        api.write_kubeconfig(ACCOUNT, token["status"]["token"].as_str().unwrap());
        api.add_node("worker1", "192.168.211.128", &json!({}));
        let labels = json!({"egress-node": "true", "spillway.io/gateway": "true"});
        api.add_node("worker2", "192.168.44.128", &labels);
        Self { api, router: Router::start() }
    }

    /// Starts `spillway-control run` as its service account.
    fn control(&self) -> Process {
        self.control_with(&[])
    }

    /// The same with more options.
    fn control_with(&self, options: &[&str]) -> Process {
        let kubeconfig = format!("KUBECONFIG={}", self.api.kubeconfig(ACCOUNT).display());
        let socket = format!("--socket={}", self.router.socket().display());
        let words = ["env", &kubeconfig, CONTROL, "run", "--node=worker2", &socket];
        self.api.namespace.spawn(words.iter().chain(options))
    }

    /// Waits until the router has these pods in a policy; none when the policy is not there.
    fn wait_for_pods(&self, policy: &str, pods: &[&str]) {
        wait_until(&format!("{policy} has the pods {pods:?}"), SOON, || {
            let Some(document) = self.router.document() else { return false };
            let groups = document.groups();
            let found = document.policies.iter().filter(|one| one.name == policy);
            let found = found.flat_map(|one| one.pod_lists(&groups)).flatten();
            let mut found: Vec<String> = found.map(ToString::to_string).collect();
            found.sort();
            found == pods
        });
    }

    /// What is said of a policy: its conditions as `Type=Status/Reason`, sorted.
    fn conditions(&self, policy: &str) -> Vec<String> {
        let name = format!("{policy}.worker2");
        let Ok(text) = self.api.try_kubectl("admin", &["get", "sps", &name, "-o", "json"], "")
        else {
            return Vec::new();
        };
        let object: Value = serde_json::from_str(&text).unwrap();
        let conditions = object["status"]["conditions"].as_array().unwrap();
        let mut said: Vec<String> = conditions
            .iter()
            .map(|one| format!("{}={}/{}", one["type"], one["status"], one["reason"]))
            .map(|text| text.replace('"', ""))
            .collect();
        said.sort();
        said
    }

    fn wait_for_conditions(&self, policy: &str, expected: &[&str]) {
        let mut last = Vec::new();
        let deadline = Instant::now() + SOON;
        while last != expected {
            assert!(Instant::now() < deadline, "{policy}: {last:?}, not {expected:?}");
            last = self.conditions(policy);
        }
    }
}

fn policy(name: &str, app: &str, address: &str) -> Value {
    json!({
        "apiVersion": "cilium.io/v2", "kind": "CiliumEgressGatewayPolicy",
        "metadata": {"name": name},
        "spec": {
            "selectors": [{"podSelector": {"matchLabels": {"app": app}}}],
            "destinationCIDRs": ["203.0.113.0/24"],
            "egressGateway": {"nodeSelector": {"matchLabels": {"egress-node": "true"}},
                "egressIP": address},
        },
    })
}

#[test]
fn policies_become_documents_and_are_answered() {
    let cluster = Cluster::new("api");
    let api = &cluster.api;
    api.apply_file("control/tests/policies/tutorials.yaml");
    api.kubectl(&["delete", "cegp", "--all"], "");
    api.run_pod("app1-a", "app1", "worker1", &["10.0.1.40"]);
    // worker1 was a gateway once.
    api.apply(&json!({"apiVersion": "spillway.io/v1alpha1", "kind": "SpillwayPolicyStatus",
        "metadata": {"name": "app1.worker1"},
        "spec": {"policy": "app1", "gateway": "worker1"}}));
    let mut control = cluster.control();
    api.apply(&policy("app1", "app1", "192.168.44.129"));
    cluster.wait_for_pods("app1", &["10.0.1.40"]);
    wait_until("what worker1 has said is gone", SOON, || {
        api.try_kubectl("admin", &["get", "sps", "app1.worker1"], "").is_err()
    });
    let good =
        ["Accepted=True/Accepted", "Conflicted=False/NoConflict", "Programmed=True/Programmed"];
    cluster.wait_for_conditions("app1", &good);
    let table = api.kubectl(&["get", "spillwaypolicystatuses"], "");
    let row: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().collect();
    let expected = [
        "app1.worker2",
        "app1",
        "worker2",
        "192.168.44.129",
        "1",
        "True",
        "True",
        "False",
        "Programmed",
    ];
    assert_eq!(row[..9], expected, "{table}");

    // A pod that is labelled later joins within a second.
    api.run_pod("late", "none", "worker1", &["10.0.1.41"]);
    let before = Instant::now();
    api.kubectl(&["label", "pod", "late", "app=app1", "--overwrite"], "");
    let labelled = Instant::now();
    cluster.wait_for_pods("app1", &["10.0.1.40", "10.0.1.41"]);
    let (whole, alone) = (before.elapsed(), labelled.elapsed());
    assert!(alone < Duration::from_secs(1), "{alone:?}, with kubectl {whole:?}");
    api.kubectl(&["label", "pod", "late", "app-"], "");
    cluster.wait_for_pods("app1", &["10.0.1.40"]);

    // An address that is nowhere, then there: nobody has to touch the policy.
    api.apply(&policy("missing", "app1", "192.168.44.200"));
    let missing =
        [good[0], "Conflicted=True/SameDestination", "Programmed=False/EgressAddressMissing"];
    cluster.wait_for_conditions("missing", &missing);
    api.namespace.run(["ip", "address", "add", "192.168.44.200/24", "dev", "uplink"]);
    cluster.wait_for_conditions("missing", &[good[0], missing[1], good[2]]);
    let events = api.kubectl(&["get", "events", "-A", "-o", "json"], "");
    let events: Value = serde_json::from_str(&events).unwrap();
    let told =
        |reason: &str| {
            events["items"].as_array().unwrap().iter().any(|event| {
                event["reason"] == reason && event["involvedObject"]["name"] == "missing"
            })
        };
    for reason in ["EgressAddressMissing", "SameDestination", "Programmed"] {
        assert!(told(reason), "no event {reason} in {events:#}");
    }
    api.kubectl(&["delete", "cegp", "missing"], "");
    wait_until("its status is gone", SOON, || cluster.conditions("missing").is_empty());
    assert!(control.is_running());
}

/// What `explain` says is what the router is given: also of what is in the cluster.
#[test]
fn explain_knows_what_the_running_control_plane_knows() {
    let cluster = Cluster::new("explain");
    let api = &cluster.api;
    api.run_pod("app1-a", "app1", "worker1", &["10.0.1.40"]);
    let mut all = policy("all", "app1", "192.168.44.129");
    all["spec"]["destinationCIDRs"] = json!(["0.0.0.0/0"]);
    api.apply(&all);
    // This API server is on the loopback, and tells nobody.
    api.apply(&json!({"apiVersion": "v1", "kind": "Endpoints",
        "metadata": {"namespace": "default", "name": "kubernetes"},
        "subsets": [{"addresses": [{"ip": "192.168.44.5"}], "ports": [{"port": 6443}]}]}));
    let ranges = "--cluster-ranges=172.20.0.0/16";
    let _control = cluster.control_with(&[ranges]);
    cluster.wait_for_pods("all", &["10.0.1.40"]);
    let path = "jsonpath={.spec.clusterIP}";
    let service = api.kubectl(&["get", "service", "kubernetes", "-o", path], "");

    let document = cluster.router.document().unwrap();
    let kubeconfig = format!("KUBECONFIG={}", api.kubeconfig(ACCOUNT).display());
    for (to, origin) in [
        ("203.0.113.10", None),
        ("192.168.211.128", Some("node worker1")),
        ("172.20.1.1", Some("one of --cluster-ranges")),
        (&service, Some("services")),
        ("192.168.44.5", Some("the API server")),
    ] {
        // It exits with 1 where no policy decides.
        let explain = format!("{kubeconfig} {CONTROL} explain default/app1-a {to} {ranges} --json");
        let said = api.namespace.run(["sh", "-c", &format!("env {explain} || [ $? = 1 ]")]);
        let said: Value = serde_json::from_str(&said).unwrap();
        let policy = origin.is_none().then_some("all");
        assert_eq!(said["policy"].as_str(), policy, "{said:#}");
        let to: IpAddr = to.parse().unwrap();
        let excluded = &document.policies[0].excluded_destinations;
        assert_eq!(excluded.iter().any(|range| range.contains(&to)), origin.is_some(), "{to}");
        let why = said["why"].to_string();
        assert!(origin.is_none_or(|origin| why.contains(&format!(": {origin})"))), "{why}");
    }
}

/// What was said of a former policy of the same name is no answer for the new one; and the API server
/// forgets it with the former one.
#[test]
fn a_policy_that_is_made_again_is_told_of_again() {
    let cluster = Cluster::new("again");
    let api = &cluster.api;
    let mut control = cluster.control();
    let policy = policy("again", "app1", "192.168.44.200");
    api.apply(&policy);
    let missing = [
        "Accepted=True/Accepted",
        "Conflicted=False/NoConflict",
        "Programmed=False/EgressAddressMissing",
    ];
    cluster.wait_for_conditions("again", &missing);
    api.kubectl(&["replace", "--force", "-f", "-"], &policy.to_string());
    let uid = api.kubectl(&["get", "cegp", "again", "-o", "jsonpath={.metadata.uid}"], "");
    wait_until("its status belongs to the new one", SOON, || {
        let path = "jsonpath={.metadata.ownerReferences[0].uid}";
        let owner = api.try_kubectl("admin", &["get", "sps", "again.worker2", "-o", path], "");
        owner.is_ok_and(|owner| owner == uid)
    });
    let about = format!("involvedObject.uid={uid},reason=EgressAddressMissing");
    wait_until("an event tells of the new one", SOON, || {
        let events = api.kubectl(&["get", "events", "--field-selector", &about, "-o", "name"], "");
        !events.is_empty()
    });
    assert_eq!(cluster.conditions("again"), missing);
    assert!(control.is_running());
}

/// A pod and a policy of both families. The gateway gets its IPv6 address later: until then only
/// that family is refused.
#[test]
fn a_missing_family_is_said_and_the_other_one_is_carried() {
    let cluster = Cluster::new("dual");
    let api = &cluster.api;
    api.run_pod("app1-a", "app1", "worker1", &["10.0.1.40", "fd00:10:1::40"]);
    let mut both = policy("both", "app1", "192.168.44.129");
    both["spec"]["destinationCIDRs"] = json!(["203.0.113.0/24", "2001:db8:203::/48"]);
    both["spec"]["excludedCIDRs"] = json!(["2001:db8:203::20/128"]);
    api.apply(&both);
    let _control = cluster.control();
    cluster.wait_for_pods("both", &["10.0.1.40", "fd00:10:1::40"]);
    let refused =
        ["Accepted=True/Accepted", "Conflicted=False/NoConflict", "Programmed=False/FamilyRefused"];
    cluster.wait_for_conditions("both", &refused);
    let egress = || {
        let text = api.kubectl(&["get", "sps", "both.worker2", "-o", "json"], "");
        serde_json::from_str::<Value>(&text).unwrap()["status"]["egressAddresses"].clone()
    };
    assert_eq!(egress(), json!(["192.168.44.129"]));

    api.namespace.sysctl("net/ipv6/conf/uplink/disable_ipv6", "0");
    let address = "2001:db8:44::129";
    let add = ["ip", "address", "add", &format!("{address}/64"), "dev", "uplink", "nodad"];
    api.namespace.run(add);
    cluster.wait_for_conditions("both", &[refused[0], refused[1], "Programmed=True/Programmed"]);
    assert_eq!(egress(), json!(["192.168.44.129", address]));
    let document = cluster.router.document().unwrap();
    let listed: Vec<String> =
        document.egress_addresses.iter().map(|egress| egress.address.to_string()).collect();
    assert_eq!(listed, ["192.168.44.129", address]);

    // An IPv6 address that the policy names itself.
    let mut named = policy("named", "app1", address);
    named["spec"]["destinationCIDRs"] = json!(["2001:db8:204::/48"]);
    api.apply(&named);
    cluster.wait_for_pods("named", &["fd00:10:1::40"]);
}

#[test]
fn outages_change_nothing_and_are_made_up_for() {
    let cluster = Cluster::new("outage");
    let api = &cluster.api;
    api.run_pod("app1-a", "app1", "worker1", &["10.0.1.40"]);
    api.apply(&policy("app1", "app1", "192.168.44.129"));
    let mut control = cluster.control();
    cluster.wait_for_pods("app1", &["10.0.1.40"]);

    // The API server is away for a while.
    let before = cluster.router.count();
    api.stop();
    api.resume();
    api.run_pod("app1-b", "app1", "worker1", &["10.0.1.41"]);
    cluster.wait_for_pods("app1", &["10.0.1.40", "10.0.1.41"]);
    assert_eq!(cluster.router.count(), before + 1, "an outage is no change");

    // The router has been started anew.
    cluster.router.forget();
    cluster.wait_for_pods("app1", &["10.0.1.40", "10.0.1.41"]);

    // So has control; what runs is not touched while it does not know the cluster.
    let running = cluster.router.document().unwrap();
    assert!(control.is_running());
    drop(control);
    api.stop();
    let _control = cluster.control();
    api.resume();
    api.kubectl(&["delete", "pod", "app1-b", "--grace-period=0", "--force"], "");
    cluster.wait_for_pods("app1", &["10.0.1.40"]);
    let now = cluster.router.document().unwrap();
    assert!(now.generation > running.generation);
}

#[test]
fn what_etcd_has_forgotten_is_listed_anew() {
    let cluster = Cluster::new("compacted");
    let api = &cluster.api;
    api.run_pod("app1-a", "app1", "worker1", &["10.0.1.40"]);
    api.run_pod("app1-b", "app1", "worker1", &["10.0.1.41"]);
    api.apply(&policy("app1", "app1", "192.168.44.129"));
    let control = cluster.control();
    cluster.wait_for_pods("app1", &["10.0.1.40", "10.0.1.41"]);

    // While control sleeps, its connections end, a pod goes and another comes, and etcd forgets the
    // history in between: its watches get 410 Gone.
    control.signal("STOP");
    api.stop();
    api.resume();
    api.kubectl(&["delete", "pod", "app1-a", "--grace-period=0", "--force"], "");
    api.run_pod("app1-c", "app1", "worker1", &["10.0.1.42"]);
    api.compact();
    api.stop();
    api.resume();
    control.signal("CONT");
    cluster.wait_for_pods("app1", &["10.0.1.41", "10.0.1.42"]);
}

#[test]
fn a_slow_and_flapping_api_server_is_followed() {
    let cluster = Cluster::new("slow");
    let api = &cluster.api;
    api.run_pod("app1-a", "app1", "worker1", &["10.0.1.40"]);
    api.apply(&policy("app1", "app1", "192.168.44.129"));
    let mut control = cluster.control();
    cluster.wait_for_pods("app1", &["10.0.1.40"]);
    for (round, pods) in [&["10.0.1.40", "10.0.1.41"][..], &["10.0.1.40"]].iter().enumerate() {
        api.stop();
        api.resume();
        if round == 0 {
            api.run_pod("app1-b", "app1", "worker1", &["10.0.1.41"]);
        } else {
            api.kubectl(&["delete", "pod", "app1-b", "--grace-period=0", "--force"], "");
        }
        // Away again before control has recovered.
        api.stop();
        api.resume();
        cluster.wait_for_pods("app1", pods);
    }
    // A connection of 500 kbit/s, for etcd too.
    let slow = "tc qdisc add dev lo root tbf rate 500kbit burst 16kb latency 10s";
    api.run_pod("app1-c", "none", "worker1", &["10.0.1.42"]);
    api.namespace.run(slow.split(' '));
    api.kubectl(&["label", "pod", "app1-c", "app=app1", "--overwrite"], "");
    cluster.wait_for_pods("app1", &["10.0.1.40", "10.0.1.42"]);
    assert!(control.is_running());
}

#[test]
fn the_service_account_may_do_nothing_more() {
    let cluster = Cluster::new("rbac");
    let may = |verb: &str, what: &str| {
        let asked = cluster.api.try_kubectl(ACCOUNT, &["auth", "can-i", verb, what, "-A"], "");
        asked.is_ok_and(|answer| answer.trim() == "yes")
    };
    for (verb, what) in [
        ("watch", "pods"),
        ("list", "nodes"),
        ("patch", "spillwaypolicystatuses.spillway.io"),
        ("list", "ciliumegressgatewaypolicies.cilium.io"),
    ] {
        assert!(may(verb, what), "{verb} {what}");
    }
    for (verb, what) in [
        ("get", "secrets"),
        ("create", "pods"),
        ("delete", "pods"),
        ("patch", "nodes"),
        ("patch", "ciliumegressgatewaypolicies.cilium.io"),
        ("create", "customresourcedefinitions.apiextensions.k8s.io"),
        ("get", "configmaps"),
        ("create", "serviceaccounts/token"),
    ] {
        assert!(!may(verb, what), "{verb} {what}");
    }
}
