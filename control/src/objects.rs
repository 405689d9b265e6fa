//! What is read of Kubernetes' objects.

use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1 as core;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ObjectMeta, PartialObjectMeta};

use spillway_api::check_host_address;

use crate::cluster::{Labels, Node, Pod, PodKey, PolicyObject};
use crate::family::Addresses;
use crate::policy::{PRIORITY_ANNOTATION, Policy};

/// `CiliumEgressGatewayPolicy`.
#[must_use]
pub fn policy_resource() -> ApiResource {
    resource("cilium.io", "v2", "CiliumEgressGatewayPolicy", "ciliumegressgatewaypolicies")
}

/// Cilium's record of a pod.
#[must_use]
pub fn endpoint_resource() -> ApiResource {
    resource("cilium.io", "v2", "CiliumEndpoint", "ciliumendpoints")
}

/// What we say of a policy.
#[must_use]
pub fn status_resource() -> ApiResource {
    resource("spillway.io", "v1alpha1", "SpillwayPolicyStatus", "spillwaypolicystatuses")
}

fn resource(group: &str, version: &str, kind: &str, plural: &str) -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural)
}

/// A policy's name, and what it says.
#[must_use]
pub fn policy(object: DynamicObject) -> (String, PolicyObject) {
    let priority = object.metadata.annotations.as_ref();
    let priority = priority.and_then(|all| all.get(PRIORITY_ANNOTATION)).map(String::as_str);
    let policy = Policy::parse(priority, &object.data["spec"]);
    let ObjectMeta { name, uid, generation, .. } = object.metadata;
    let uid = uid.unwrap_or_default();
    (name.unwrap_or_default(), PolicyObject { uid, generation: generation.unwrap_or(0), policy })
}

/// A pod.
#[must_use]
pub fn pod(object: core::Pod) -> (PodKey, Pod) {
    let (spec, status) = (object.spec.unwrap_or_default(), object.status.unwrap_or_default());
    let ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    let several = status.pod_ips.into_iter().flatten().map(|entry| entry.ip);
    let texts = several.chain(status.pod_ip).filter(|_| !ended && spec.host_network != Some(true));
    let addresses = texts.filter_map(|ip| ip.parse::<IpAddr>().ok());
    // The router would refuse the whole document for one that no packet comes from.
    let addresses = addresses.filter(|address| check_host_address(*address).is_ok());
    let addresses = Addresses::first_of(addresses);
    let pod = Pod {
        uid: object.metadata.uid.clone().unwrap_or_default(),
        labels: object.metadata.labels.clone().unwrap_or_default(),
        service_account: spec.service_account_name.unwrap_or_default(),
        node: spec.node_name.unwrap_or_default(),
        addresses,
    };
    (pod_key(object.metadata), pod)
}

/// A Cilium endpoint has its pod's name.
#[must_use]
pub fn endpoint(object: PartialObjectMeta<DynamicObject>) -> (PodKey, String) {
    let uid = object.metadata.uid.clone().unwrap_or_default();
    (pod_key(object.metadata), uid)
}

fn pod_key(metadata: ObjectMeta) -> PodKey {
    (metadata.namespace.unwrap_or_default(), metadata.name.unwrap_or_default())
}

/// A service's addresses in the cluster.
#[must_use]
pub fn service(object: core::Service) -> (PodKey, Vec<IpAddr>) {
    let spec = object.spec.unwrap_or_default();
    let texts = spec.cluster_ips.into_iter().flatten().chain(spec.cluster_ip);
    // A headless service has "None".
    let mut addresses: Vec<IpAddr> = texts.filter_map(|text| text.parse().ok()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    (pod_key(object.metadata), addresses)
}

/// Where the API server's own addresses are: a namespace, and which of its endpoints.
pub(crate) const API_SERVER: (&str, &str) = ("default", "metadata.name=kubernetes");

/// The API server's own addresses: the endpoints of the service `kubernetes`.
#[must_use]
pub fn api_server(object: core::Endpoints) -> (PodKey, Vec<IpAddr>) {
    let addresses = object.subsets.into_iter().flatten().flat_map(|subset| subset.addresses);
    let addresses = addresses.flatten().filter_map(|address| address.ip.parse().ok()).collect();
    (pod_key(object.metadata), addresses)
}

/// A namespace's labels.
#[must_use]
pub fn namespace(object: core::Namespace) -> (String, Labels) {
    (object.metadata.name.unwrap_or_default(), object.metadata.labels.unwrap_or_default())
}

/// A node.
#[must_use]
pub fn node(object: core::Node) -> (String, Node) {
    let (spec, status) = (object.spec.unwrap_or_default(), object.status.unwrap_or_default());
    let internal = status.addresses.into_iter().flatten().filter(|a| a.type_ == "InternalIP");
    let internal = internal.filter_map(|a| a.address.parse().ok());
    // No router would take the others as a peer.
    let internal: Vec<IpAddr> = internal.filter(|a| check_host_address(*a).is_ok()).collect();
    let ranges = spec.pod_cidrs.into_iter().flatten().chain(spec.pod_cidr);
    let mut pod_ranges: Vec<IpNet> = ranges.filter_map(|range| range.parse().ok()).collect();
    pod_ranges.sort_unstable();
    pod_ranges.dedup();
    let mut conditions = status.conditions.into_iter().flatten();
    let ready = conditions.any(|one| one.type_ == "Ready" && one.status == "True");
    let labels = object.metadata.labels.unwrap_or_default();
    let node = Node { labels, internal, pod_ranges, ready };
    (object.metadata.name.unwrap_or_default(), node)
}
