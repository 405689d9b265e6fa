//! The state document: everything that a gateway shall do, as one declaration. It is replaced as a
//! whole, never patched. The README beside this crate describes it for people who write one.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::de::{Deserializer, Error, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use crate::family::IpFamily;
use crate::limits::{FLOWS_PER_POD_MAX, VNI_MAX};
use crate::nat64::Nat64Prefix;
use crate::options::PolicyTimeouts;
use crate::scalar::{MacAddress, PortRange, many, one, quote, some_many, some_one};
use crate::shape::{fields, list, some_list, some_whole, whole};
use crate::yaml::{self, Problem};

/// The ports of a shared egress address that are leased unless the document says others. Linux
/// gives out 32768 and above by itself, Kubernetes node ports begin at 30000.
pub const SHARED_PORTS_DEFAULT: PortRange = PortRange { first: 16_384, last: 29_999 };

/// The whole state of a gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// Grows with every change that its author makes. Over the socket, a lower one than the
    /// running one is refused.
    #[serde(deserialize_with = "whole::<_, _, 0, { u64::MAX }>")]
    pub generation: u64,
    /// Our tunnel addresses, and who may send to each; all of one family.
    #[serde(deserialize_with = "list")]
    pub tunnels: Vec<Tunnel>,
    /// The VXLAN network identifier of replies. Default: 2.
    #[serde(default)]
    pub reply_vni: ReplyVni,
    /// That of IPv6 replies, where it is another. Default: `reply_vni`.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "some_vni")]
    pub reply_vni_ipv6: Option<ReplyVni>,
    /// Where pods' IPv6 addresses reach IPv4 destinations (NAT64, RFC 6146). Default: nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "some_prefix")]
    pub nat64_prefix: Option<Nat64Prefix>,
    /// The addresses that the outside sees.
    #[serde(deserialize_with = "list")]
    pub egress_addresses: Vec<EgressAddress>,
    /// Pods that several policies select, named once.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "list")]
    pub pod_groups: Vec<PodGroup>,
    /// Which pods leave to where, and as whom. Where two policies cover the same pod and
    /// destination, the longer prefix wins; of prefixes of equal length the earlier policy's.
    #[serde(deserialize_with = "list")]
    pub policies: Vec<Policy>,
    /// What pods are called: for people, nothing is decided by it. Default: no names.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "list")]
    pub pod_names: Vec<PodName>,
}

/// One of our tunnel addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tunnel {
    /// The address that peers send their VXLAN frames to.
    #[serde(deserialize_with = "one")]
    pub address: IpAddr,
    /// The nodes that may send to it. Frames of anyone else are dropped.
    #[serde(deserialize_with = "list")]
    pub peers: Vec<Peer>,
}

/// A node whose pods send their traffic through a tunnel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// Its address: the outer source of its frames and the outer destination of replies.
    #[serde(deserialize_with = "one")]
    pub address: IpAddr,
    /// The device on which it is reached, when the kernel's routes do not say it. Needs `mac`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Its link address on `device`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddress>,
}

/// An address that the outside sees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EgressAddress {
    /// The address.
    #[serde(deserialize_with = "one")]
    pub address: IpAddr,
    /// Whether it is Spillway's alone.
    pub kind: EgressAddressKind,
    /// The ports and echo identifiers that are ours; for a shared address only.
    /// Default: [`SHARED_PORTS_DEFAULT`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<PortRange>,
    /// The device on which Spillway itself answers for the address (ARP or neighbour discovery,
    /// ping) and announces it; for an own address that is not on the host. Default: none, the host
    /// answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub announce: Option<String>,
}

/// Who uses an egress address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EgressAddressKind {
    /// Spillway alone: every port from 1024 on is leased, every reply is ours.
    Own,
    /// The host too: only a range of ports and echo identifiers is ours.
    Shared,
}

/// Pods that several policies select: without groups, a pod is written once for each of them, and
/// 10,000 pods under 100 policies are a million addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PodGroup {
    /// Its name, unique among the document's groups.
    pub name: String,
    /// The addresses of its pods, of both families where they have both. An address is in one
    /// group at most.
    #[serde(deserialize_with = "many")]
    pub pods: Vec<IpAddr>,
}

/// What a pod is called.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PodName {
    /// Its namespace and name, `NAMESPACE/NAME`; unique in the document.
    pub name: String,
    /// Its addresses, of both families where it has both. An address is one pod's.
    #[serde(deserialize_with = "many")]
    pub addresses: Vec<IpAddr>,
}

/// Which pods leave to where, and as whom. Each family stands for itself: what a pod's IPv6 address
/// sends to an IPv6 destination leaves with an IPv6 egress address, or not at all. What it sends to
/// an IPv4 destination in the NAT64 prefix leaves with an IPv4 egress address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Its name, unique in the document.
    pub name: String,
    /// The address that the outside sees; one of the document's `egress_addresses`. A policy has
    /// either this or `egress_addresses`.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "some_one")]
    pub egress_address: Option<IpAddr>,
    /// Several such addresses. Each pod has one of them of each family, the same for all its flows.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "some_many")]
    pub egress_addresses: Option<Vec<IpAddr>>,
    /// Where its pods' traffic is translated; one at least. Where there is no egress address of a
    /// destination's family, the traffic is dropped.
    #[serde(deserialize_with = "many")]
    pub destinations: Vec<IpNet>,
    /// Parts of `destinations` where it is not.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "many")]
    pub excluded_destinations: Vec<IpNet>,
    /// How long its flows may stay idle, where not as the configuration says.
    #[serde(
        default,
        skip_serializing_if = "PolicyTimeouts::is_default",
        deserialize_with = "fields"
    )]
    pub timeouts: PolicyTimeouts,
    /// Whether a TCP segment in the middle of a connection may open a flow. Default: no.
    #[serde(default, skip_serializing_if = "is_no")]
    pub midstream_pickup: bool,
    /// Flows that one pod may have under the policy; 1 to [`FLOWS_PER_POD_MAX`]. Default: no limit.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "some_whole::<_, _, 1, FLOWS_PER_POD_MAX>"
    )]
    pub flows_per_pod_max: Option<u32>,
    /// Whether all flows of a pod's address and port have one port on the egress address, whatever
    /// their remotes (RFC 4787, REQ-1). Default: no.
    #[serde(default, skip_serializing_if = "is_no")]
    pub endpoint_independent: bool,
    /// The names of the groups whose pods it selects. Each policy of a document that has groups
    /// must say them, and be it `[]`: one that was cut off must not pass.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "some_list")]
    pub pod_groups: Option<Vec<String>>,
    /// The addresses of the pods that it selects beside those of its groups.
    #[serde(deserialize_with = "many")]
    pub pods: Vec<IpAddr>,
}

/// The VXLAN network identifier of replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyVni {
    /// Always this one, at most [`VNI_MAX`].
    Fixed(u32),
    /// The one that the flow's own frames carry.
    Flow,
}

impl Default for ReplyVni {
    /// 2, the identity "world", as Cilium expects.
    fn default() -> Self {
        Self::Fixed(2)
    }
}

impl Document {
    /// Reads a document from YAML or JSON and checks it.
    ///
    /// # Errors
    ///
    /// The first [`Problem`], with line, column and field.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        yaml::parse(text, Self::validate)
    }

    /// The family of the tunnels, and so of the network between the nodes; IPv4's where there are
    /// none.
    #[must_use]
    pub fn underlay(&self) -> IpFamily {
        self.tunnels.first().map_or(IpFamily::V4, |tunnel| IpFamily::of(tunnel.address))
    }

    /// The addresses of all pods, of policies and of groups; one may be there several times.
    pub fn pods(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let of_policies = self.policies.iter().map(|policy| &policy.pods);
        of_policies.chain(self.pod_groups.iter().map(|group| &group.pods)).flatten().copied()
    }

    /// The VXLAN network identifier of replies of a family.
    #[must_use]
    pub fn reply_vni_of(&self, family: IpFamily) -> ReplyVni {
        match family {
            IpFamily::V4 => self.reply_vni,
            IpFamily::V6 => self.reply_vni_ipv6.unwrap_or(self.reply_vni),
        }
    }

    /// The groups of pods by their names.
    #[must_use]
    pub fn groups(&self) -> HashMap<&str, &PodGroup> {
        self.pod_groups.iter().map(|group| (group.name.as_str(), group)).collect()
    }

    /// Whether the document may be put over the socket while one of generation `running` runs.
    ///
    /// # Errors
    ///
    /// A problem with `generation` when it is lower than `running`: its author has not seen the
    /// running state. An equal one may be put again. A file is not asked: whoever changes it on
    /// the gateway means it.
    pub fn check_generation(&self, running: u64) -> Result<(), Problem> {
        if self.generation >= running {
            return Ok(());
        }
        let message = format!(
            "{} is older than the running generation; expected {running} or more",
            self.generation
        );
        Err(yaml::FieldPath::root("generation").problem(message))
    }
}

/// Whether an option is off, as it is where nothing is said.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_no(option: &bool) -> bool {
    !option
}

impl Policy {
    /// The addresses that the outside sees, in either form.
    #[must_use]
    pub fn egress_list(&self) -> &[IpAddr] {
        self.egress_addresses.as_deref().unwrap_or(self.egress_address.as_slice())
    }

    /// The lists of pods that it selects, none of them twice: its own, then those of its groups.
    pub fn pod_lists<'a>(
        &'a self,
        groups: &HashMap<&str, &'a PodGroup>,
    ) -> impl Iterator<Item = &'a [IpAddr]> {
        let names = self.pod_groups.iter().flatten();
        let groups = names.filter_map(|name| groups.get(name.as_str()));
        [self.pods.as_slice()].into_iter().chain(groups.map(|group| group.pods.as_slice()))
    }
}

impl Peer {
    /// Device and link address, when the document says how the peer is reached.
    #[must_use]
    pub fn direct(&self) -> Option<(&str, MacAddress)> {
        self.device.as_deref().zip(self.mac)
    }
}

impl EgressAddress {
    /// The ports and echo identifiers that are ours on this address.
    #[must_use]
    pub fn port_range(&self) -> PortRange {
        match self.kind {
            EgressAddressKind::Own => PortRange::WHOLE,
            EgressAddressKind::Shared => self.ports.unwrap_or(SHARED_PORTS_DEFAULT),
        }
    }
}

impl Serialize for ReplyVni {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Fixed(vni) => serializer.serialize_u32(*vni),
            Self::Flow => serializer.serialize_str("flow"),
        }
    }
}

impl<'de> Deserialize<'de> for ReplyVni {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ReplyVniVisitor)
    }
}

/// Reads one that may be left out.
fn some_vni<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<ReplyVni>, D::Error> {
    ReplyVni::deserialize(deserializer).map(Some)
}

/// Reads one that may be left out.
fn some_prefix<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Nat64Prefix>, D::Error> {
    Nat64Prefix::deserialize(deserializer).map(Some)
}

struct ReplyVniVisitor;

impl ReplyVniVisitor {
    fn refused<E: Error>(found: impl fmt::Display) -> E {
        E::custom(format!("expected \"flow\" or a number from 0 to {VNI_MAX}, found {found}"))
    }
}

impl Visitor<'_> for ReplyVniVisitor {
    type Value = ReplyVni;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"flow\" or a number from 0 to {VNI_MAX}")
    }

    fn visit_unit<E: Error>(self) -> Result<ReplyVni, E> {
        Err(Self::refused("nothing"))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<ReplyVni, E> {
        let vni = u32::try_from(number).ok().filter(|vni| *vni <= VNI_MAX);
        vni.map(ReplyVni::Fixed).ok_or_else(|| Self::refused(number))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<ReplyVni, E> {
        u64::try_from(number).map_err(|_| Self::refused(number)).and_then(|n| self.visit_u64(n))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<ReplyVni, E> {
        match text {
            "flow" => Ok(ReplyVni::Flow),
            text => Err(Self::refused(quote(text))),
        }
    }
}
