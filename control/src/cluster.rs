//! What is known of the cluster, kept ready for planning: which policy selects which pods. Pure:
//! objects come in, in any order; the same objects always give the same answers.

use std::collections::BTreeMap;
use std::net::IpAddr;

use clap::ValueEnum;
use fixedbitset::FixedBitSet;
use ipnet::IpNet;
use spillway_api::{IpFamily, Nat64Prefix};

use crate::family::Addresses;
use crate::labels::{Key, Selector};
use crate::pods::Pods;
use crate::policy::{Fault, Policy};

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// Namespace and name of a pod.
pub type PodKey = (String, String);

/// What a pod's selection depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// Its unique identifier.
    pub uid: String,
    /// Its labels.
    pub labels: Labels,
    /// The name of its service account.
    pub service_account: String,
    /// The node it runs on; empty before it is scheduled.
    pub node: String,
    /// Its own addresses: none before it has one, after it has ended, and when they are the host's.
    pub addresses: Addresses,
}

/// What is known of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Its labels.
    pub labels: Labels,
    /// Its internal addresses, in Kubernetes' order.
    pub internal: Vec<IpAddr>,
    /// The ranges that its pods' addresses are from.
    pub pod_ranges: Vec<IpNet>,
    /// Whether the cluster takes it for ready.
    pub ready: bool,
}

/// Which family the tunnels between nodes are of, as Cilium's `underlay-protocol` says it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Underlay {
    /// IPv4 for a node that has an internal IPv4 address, IPv6 for any other.
    #[default]
    Auto,
    /// IPv4, as Cilium has it if nothing is said.
    Ipv4,
    /// IPv6.
    Ipv6,
}

impl Underlay {
    /// A node's end of its tunnels.
    #[must_use]
    pub fn address(self, node: &Node) -> Option<IpAddr> {
        let first = |family| {
            let mut internal = node.internal.iter();
            internal.find(|address| IpFamily::of(**address) == family).copied()
        };
        match self {
            Self::Auto => first(IpFamily::V4).or_else(|| first(IpFamily::V6)),
            Self::Ipv4 => first(IpFamily::V4),
            Self::Ipv6 => first(IpFamily::V6),
        }
    }
}

/// What no object tells of the cluster's network, and what is the same for all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Network {
    /// The family of the tunnels.
    pub underlay: Underlay,
    /// Where pods' IPv6 addresses reach IPv4 destinations through gateways, if they do.
    pub nat64_prefix: Option<Nat64Prefix>,
    /// Ranges of the cluster that no object tells: services, pods of some address managers.
    pub cluster_ranges: Vec<IpNet>,
}

/// A policy object, understood or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyObject {
    /// Its unique identifier.
    pub uid: String,
    /// Grows with every change of its spec.
    pub generation: i64,
    /// What it says, or why it is refused.
    pub policy: Result<Policy, Vec<Fault>>,
}

/// A change of one kind's objects.
#[derive(Clone, Debug)]
pub enum Change<K, V> {
    /// All there are: others are gone.
    All(Vec<(K, V)>),
    /// One is there, new or changed.
    Set(K, V),
    /// One is gone.
    Gone(K),
}

/// The cluster.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    network: Network,
    policies: BTreeMap<String, PolicyObject>,
    pods: Pods,
    namespaces: BTreeMap<String, Labels>,
    nodes: BTreeMap<String, Node>,
    /// The addresses of services.
    services: BTreeMap<PodKey, Vec<IpAddr>>,
    /// Where the API server is.
    api_servers: BTreeMap<PodKey, Vec<IpAddr>>,
    /// Unique identifiers of Cilium's endpoints, by which Cilium chooses among gateways.
    endpoints: BTreeMap<PodKey, String>,
    /// The numbers of the pods with an address that each policy selects; a refused one has no entry.
    selected: BTreeMap<String, FixedBitSet>,
}

impl Cluster {
    /// One of which nothing else is known yet.
    #[must_use]
    pub fn new(network: Network) -> Self {
        Self { network, ..Self::default() }
    }

    /// Takes a change of policies, by name. Destinations in the NAT64 prefix are IPv4's from here on.
    pub fn change_policies(&mut self, mut change: Change<String, PolicyObject>) {
        if let Some(prefix) = self.network.nat64_prefix {
            let translated = |object: &mut PolicyObject| {
                let policy = std::mem::replace(&mut object.policy, Err(Vec::new()));
                object.policy = policy.and_then(|policy| policy.with_nat64(prefix));
            };
            match &mut change {
                Change::All(objects) => objects.iter_mut().for_each(|(_, o)| translated(o)),
                Change::Set(_, object) => translated(object),
                Change::Gone(_) => {}
            }
        }
        for name in apply(&mut self.policies, change) {
            self.select_policy(&name);
        }
    }

    /// Takes a change of pods.
    pub fn change_pods(&mut self, change: Change<PodKey, Pod>) {
        for number in self.pods.change(change) {
            self.select_pod(number);
        }
    }

    /// Takes a change of namespaces: their labels, by name.
    pub fn change_namespaces(&mut self, change: Change<String, Labels>) {
        for name in apply(&mut self.namespaces, change) {
            let numbers: Vec<usize> = self.pods.in_namespace(&name).collect();
            for number in numbers {
                self.select_pod(number);
            }
        }
    }

    /// Takes a change of nodes, by name.
    pub fn change_nodes(&mut self, change: Change<String, Node>) {
        let before: BTreeMap<String, Labels> =
            self.nodes.iter().map(|(name, node)| (name.clone(), node.labels.clone())).collect();
        let changed = apply(&mut self.nodes, change);
        let relabelled =
            |name: &String| self.nodes.get(name).map(|n| &n.labels) != before.get(name);
        if !changed.iter().any(relabelled) {
            return;
        }
        let by_node = |object: &PolicyObject| {
            object.policy.as_ref().is_ok_and(|policy| !policy.nodes.is_empty())
        };
        let policies = self.policies.iter().filter(|(_, object)| by_node(object));
        let names: Vec<String> = policies.map(|(name, _)| name.clone()).collect();
        for name in names {
            self.select_policy(&name);
        }
    }

    /// Takes a change of Cilium's endpoints: their unique identifiers, by the pod's name.
    pub fn change_endpoints(&mut self, change: Change<PodKey, String>) {
        apply(&mut self.endpoints, change);
    }

    /// Takes a change of services: their cluster addresses, by namespace and name.
    pub fn change_services(&mut self, change: Change<PodKey, Vec<IpAddr>>) {
        apply(&mut self.services, change);
    }

    /// Takes a change of the API server's endpoints: their addresses, by namespace and name.
    pub fn change_api_servers(&mut self, change: Change<PodKey, Vec<IpAddr>>) {
        apply(&mut self.api_servers, change);
    }

    /// The addresses of all services.
    pub fn services(&self) -> impl Iterator<Item = IpAddr> {
        self.services.values().flatten().copied()
    }

    /// The addresses of the API server.
    pub fn api_servers(&self) -> impl Iterator<Item = IpAddr> {
        self.api_servers.values().flatten().copied()
    }

    /// The cluster's network.
    #[must_use]
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Whether a pod with these addresses has traffic to destinations of a family.
    #[must_use]
    pub fn reaches(&self, pod: Addresses, family: IpFamily) -> bool {
        let translated = family == IpFamily::V4 && self.network.nat64_prefix.is_some();
        pod.get(family).is_some() || (translated && pod.v6.is_some())
    }

    /// All policies in the order of their names.
    pub fn policies(&self) -> impl Iterator<Item = (&str, &PolicyObject)> {
        self.policies.iter().map(|(name, object)| (name.as_str(), object))
    }

    /// All nodes in the order of their names.
    pub fn nodes(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.nodes.iter().map(|(name, node)| (name.as_str(), node))
    }

    /// A node.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.get(name)
    }

    /// A pod.
    #[must_use]
    pub fn pod(&self, key: &PodKey) -> Option<&Pod> {
        self.pods.get(key)
    }

    /// The pods with an address that a policy selects, with their numbers; in no order.
    pub fn selected(&self, policy: &str) -> impl Iterator<Item = (usize, &PodKey, &Pod)> {
        let numbers = self.selected.get(policy).into_iter().flat_map(FixedBitSet::ones);
        numbers
            .filter_map(|number| self.pods.by_number(number).map(|(key, pod)| (number, key, pod)))
    }

    /// The pod with this number.
    #[must_use]
    pub fn pod_by_number(&self, number: usize) -> Option<(&PodKey, &Pod)> {
        self.pods.by_number(number)
    }

    /// The addresses of the pod with this number.
    #[must_use]
    pub fn addresses(&self, number: usize) -> Addresses {
        self.pod_by_number(number).map(|(_, pod)| pod.addresses).unwrap_or_default()
    }

    /// The numbers of the pods that a policy selects. They mean nothing after the next change.
    #[must_use]
    pub fn selected_numbers(&self, policy: &str) -> Option<&FixedBitSet> {
        self.selected.get(policy)
    }

    /// The first by name of the pods with these numbers.
    #[must_use]
    pub fn first_by_name(&self, numbers: impl Iterator<Item = usize>) -> Option<&PodKey> {
        numbers.filter_map(|number| self.pods.by_number(number)).map(|(key, _)| key).min()
    }

    /// What Cilium chooses a pod's gateway by: its endpoint's identifier; without Cilium, its own.
    #[must_use]
    pub fn spread_key<'a>(&'a self, key: &PodKey, pod: &'a Pod) -> &'a str {
        self.endpoints.get(key).unwrap_or(&pod.uid)
    }

    /// Whether the policy selects the pod, which may be without an address yet.
    #[must_use]
    pub fn selects(&self, policy: &Policy, (namespace, _): &PodKey, pod: &Pod) -> bool {
        let labels = self.namespaces.get(namespace);
        let value = |key: &Key| match key {
            Key::Label(name) => pod.labels.get(name).map(String::as_str),
            Key::NamespaceLabel(name) => labels?.get(name).map(String::as_str),
            Key::Namespace => Some(namespace.as_str()),
            Key::ServiceAccount => Some(pod.service_account.as_str()),
        };
        let node =
            || self.nodes.get(&pod.node).map_or(const { &Labels::new() }, |node| &node.labels);
        let selected = policy.selectors.iter().any(|rule| {
            // A namespace that is not known yet has no labels to go by.
            let known = labels.is_some() || rule.namespace == Selector::default();
            known && rule.pod.matches(value) && rule.namespace.matches(value)
        });
        selected
            && (policy.nodes.is_empty()
                || policy.nodes.iter().any(|selector| selector.matches_labels(node())))
    }

    fn select_policy(&mut self, name: &str) {
        let Some(policy) = self.policies.get(name).and_then(|object| object.policy.as_ref().ok())
        else {
            self.selected.remove(name);
            return;
        };
        let with_address = self.pods.iter().filter(|(.., pod)| !pod.addresses.is_empty());
        let selected = with_address.filter(|(_, key, pod)| self.selects(policy, key, pod));
        let selected = selected.map(|(number, ..)| number).collect();
        self.selected.insert(name.to_owned(), selected);
    }

    /// A pod is different, or gone.
    fn select_pod(&mut self, number: usize) {
        let pod = self.pods.by_number(number).filter(|(_, pod)| !pod.addresses.is_empty());
        let selects = |object: &PolicyObject| {
            pod.zip(object.policy.as_ref().ok())
                .is_some_and(|((key, pod), policy)| self.selects(policy, key, pod))
        };
        let answers: Vec<bool> = self.policies.values().map(selects).collect();
        for (name, selected) in self.policies.keys().zip(answers) {
            let Some(pods) = self.selected.get_mut(name) else { continue };
            pods.grow(number + 1);
            pods.set(number, selected);
        }
    }
}

/// Changes the objects of one kind; returns the keys of those that are different now.
fn apply<K: Ord + Clone, V: PartialEq>(map: &mut BTreeMap<K, V>, change: Change<K, V>) -> Vec<K> {
    match change {
        Change::Set(key, value) => {
            if map.get(&key) == Some(&value) {
                return Vec::new();
            }
            map.insert(key.clone(), value);
            vec![key]
        }
        Change::Gone(key) => map.remove(&key).map(|_| key).into_iter().collect(),
        Change::All(objects) => {
            let mut before = std::mem::take(map);
            let mut changed = Vec::new();
            for (key, value) in objects {
                if before.remove(&key).as_ref() != Some(&value) {
                    changed.push(key.clone());
                }
                map.insert(key, value);
            }
            changed.extend(before.into_keys());
            changed
        }
    }
}
