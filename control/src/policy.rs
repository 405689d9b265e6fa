//! A `CiliumEgressGatewayPolicy`, read and understood: everything that is wrong with it is said,
//! with the field where it is.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use spillway_api::{Nat64Prefix, check_host_address, check_not_mapped};

use crate::labels::{Key, Selector, SelectorSpec, namespace_key, node_key, pod_key};

/// The annotation that puts a policy before others: a whole number, higher first, 0 if absent.
pub const PRIORITY_ANNOTATION: &str = "spillway.io/priority";

/// Gateways of one policy, as in Cilium's CRD.
const GATEWAYS_MAX: usize = 64;

/// Something wrong with a policy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Fault {
    /// Where: a path from the object's root, as `spec.selectors[0].podSelector`.
    pub field: String,
    /// What is wrong, and what was expected.
    pub message: String,
}

impl Fault {
    fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// The policy as it is written.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    #[serde(default)]
    selectors: Option<Vec<RuleSpec>>,
    #[serde(default, rename = "destinationCIDRs")]
    destinations: Option<Vec<String>>,
    #[serde(default, rename = "excludedCIDRs")]
    exclusions: Option<Vec<String>>,
    #[serde(default)]
    egress_gateway: Option<GatewaySpec>,
    #[serde(default)]
    egress_gateways: Option<Vec<GatewaySpec>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RuleSpec {
    #[serde(default)]
    pod_selector: Option<SelectorSpec>,
    #[serde(default)]
    namespace_selector: Option<SelectorSpec>,
    #[serde(default)]
    node_selector: Option<SelectorSpec>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct GatewaySpec {
    #[serde(default)]
    node_selector: Option<SelectorSpec>,
    #[serde(default)]
    interface: Option<String>,
    #[serde(default, rename = "egressIP")]
    egress_ip: Option<String>,
}

/// A policy that can be carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Higher goes first.
    pub priority: i32,
    /// A pod is selected when one of them matches, and its node.
    pub selectors: Vec<PodSelector>,
    /// All node selectors of the policy: one of them must match the pod's node, whichever rule it
    /// stands in. Empty: any node. (Cilium's way; `lint` warns of it.)
    pub nodes: Vec<Selector>,
    /// Where the pods' traffic is translated.
    pub destinations: Vec<IpNet>,
    /// Where it is not, unless a longer destination says so.
    pub exclusions: Vec<IpNet>,
    /// Who may carry it out.
    pub gateways: Vec<Gateway>,
    /// What is not carried out, though the policy is.
    pub warnings: Vec<Fault>,
}

/// Both must match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodSelector {
    /// Of the pod.
    pub pod: Selector,
    /// Of its namespace.
    pub namespace: Selector,
}

/// One entry of a policy's gateways.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// The nodes that may be it.
    pub nodes: Selector,
    /// The interface whose first address of each family is the egress address, or which must hold
    /// `address`.
    pub interface: Option<String>,
    /// The egress address; that of the other family is the first one of the same interface.
    pub address: Option<IpAddr>,
}

impl Policy {
    /// Understands a policy's priority annotation and `spec`.
    ///
    /// # Errors
    ///
    /// Every fault, in the order of the fields. The whole policy is refused: half of one would
    /// send traffic where its author does not expect it.
    pub fn parse(priority: Option<&str>, spec: &Value) -> Result<Self, Vec<Fault>> {
        let mut unknown = Vec::new();
        let mut note = |path: serde_ignored::Path<'_>| {
            unknown.push(Fault::new(field_path(&path), "unknown field; it has no effect"));
        };
        let mut track = serde_path_to_error::Track::new();
        let input = serde_ignored::Deserializer::new(spec, &mut note);
        let spec = Spec::deserialize(serde_path_to_error::Deserializer::new(input, &mut track))
            .map_err(|error| {
                vec![Fault::new(format!("spec.{}", track.path()), error.to_string())]
            })?;
        let mut faults = Vec::new();
        let mut policy = Self {
            priority: parse_priority(priority, &mut faults),
            selectors: Vec::new(),
            nodes: Vec::new(),
            destinations: Vec::new(),
            exclusions: Vec::new(),
            gateways: Vec::new(),
            warnings: unknown,
        };
        policy.add_rules(spec.selectors.as_deref().unwrap_or_default(), &mut faults);
        policy.add_prefixes(&spec, &mut faults);
        policy.add_gateways(&spec, &mut faults);
        if faults.is_empty() { Ok(policy) } else { Err(faults) }
    }

    /// The policy where NAT64 has this prefix: a destination or exclusion in it is the IPv4 one that it
    /// stands for. Cilium's agents must be told of it in IPv6's form, to send what pods write there
    /// to a gateway.
    ///
    /// # Errors
    ///
    /// Every fault: what is in the prefix is IPv4's, and no address of the gateway.
    pub fn with_nat64(mut self, prefix: Nat64Prefix) -> Result<Self, Vec<Fault>> {
        let mut faults = Vec::new();
        for (field, prefixes) in [
            ("spec.destinationCIDRs", &mut self.destinations),
            ("spec.excludedCIDRs", &mut self.exclusions),
        ] {
            for net in &mut *prefixes {
                let IpNet::V6(inside) = *net else { continue };
                match prefix.extract(inside) {
                    Some(meant) => *net = meant.into(),
                    None if prefix.net().contains(&inside) => {
                        let message =
                            format!("{inside} holds no IPv4 address (RFC 6052, section 2.2)");
                        faults.push(Fault::new(field, message));
                    }
                    None => {}
                }
            }
            prefixes.sort_unstable();
            prefixes.dedup();
        }
        let addresses = self.gateways.iter().filter_map(|gateway| gateway.address);
        for address in addresses.filter(|address| IpNet::from(prefix.net()).contains(address)) {
            let message = format!("{address} is in the NAT64 prefix, {prefix}: no host has it");
            faults.push(Fault::new("spec.egressGateway", message));
        }
        if faults.is_empty() { Ok(self) } else { Err(faults) }
    }

    fn add_rules(&mut self, rules: &[RuleSpec], faults: &mut Vec<Fault>) {
        if rules.is_empty() {
            faults.push(Fault::new("spec.selectors", "required; one selector at least"));
        }
        for (index, rule) in rules.iter().enumerate() {
            let at = format!("spec.selectors[{index}]");
            if rule.pod_selector.is_none() && rule.namespace_selector.is_none() {
                let message = "expected a podSelector or a namespaceSelector; nodeSelector alone \
                               selects no pods";
                faults.push(Fault::new(&at, message));
            }
            let mut of = |spec: &Option<SelectorSpec>, name: &str, key| {
                let spec = spec.as_ref()?;
                understood(spec, &format!("{at}.{name}"), key, faults)
            };
            let pod = of(&rule.pod_selector, "podSelector", pod_key).unwrap_or_default();
            let namespace = of(&rule.namespace_selector, "namespaceSelector", namespace_key)
                .unwrap_or_default();
            self.nodes.extend(of(&rule.node_selector, "nodeSelector", node_key));
            self.selectors.push(PodSelector { pod, namespace });
        }
        let with_nodes = rules.iter().filter(|rule| rule.node_selector.is_some()).count();
        if with_nodes > 0 && rules.len() > 1 {
            let message = "as in Cilium, every rule's pods must be on a node that one of all the \
                           nodeSelectors matches: write a policy for each pair";
            self.warnings.push(Fault::new("spec.selectors", message));
        }
    }

    fn add_prefixes(&mut self, spec: &Spec, faults: &mut Vec<Fault>) {
        for (field, texts, prefixes) in [
            ("destinationCIDRs", &spec.destinations, &mut self.destinations),
            ("excludedCIDRs", &spec.exclusions, &mut self.exclusions),
        ] {
            for (index, text) in texts.iter().flatten().enumerate() {
                let field = format!("spec.{field}[{index}]");
                match parse_prefix(text) {
                    Ok(prefix) => prefixes.push(prefix),
                    Err(message) => faults.push(Fault::new(field, message)),
                }
            }
            prefixes.sort_unstable();
            prefixes.dedup();
        }
        if spec.destinations.as_ref().is_none_or(Vec::is_empty) {
            faults.push(Fault::new("spec.destinationCIDRs", "required; one prefix at least"));
        }
    }

    fn add_gateways(&mut self, spec: &Spec, faults: &mut Vec<Fault>) {
        let several = spec.egress_gateways.as_deref().unwrap_or_default();
        let entries: Vec<(String, &GatewaySpec)> = if several.is_empty() {
            spec.egress_gateway.iter().map(|one| ("spec.egressGateway".into(), one)).collect()
        } else {
            let at = |index| format!("spec.egressGateways[{index}]");
            several.iter().enumerate().map(|(index, one)| (at(index), one)).collect()
        };
        if entries.is_empty() {
            faults.push(Fault::new("spec.egressGateway", "required"));
        }
        if entries.len() > GATEWAYS_MAX {
            let message = format!("{} gateways; at most {GATEWAYS_MAX}", entries.len());
            faults.push(Fault::new("spec.egressGateways", message));
        }
        for (at, entry) in entries {
            let nodes = match &entry.node_selector {
                Some(selector) => {
                    understood(selector, &format!("{at}.nodeSelector"), node_key, faults)
                }
                None => {
                    faults.push(Fault::new(format!("{at}.nodeSelector"), "required"));
                    None
                }
            };
            let address = parse_address(entry.egress_ip.as_deref(), &at, faults);
            let interface = entry.interface.clone().filter(|name| !name.is_empty());
            let nodes = nodes.unwrap_or_default();
            self.gateways.push(Gateway { nodes, interface, address });
        }
    }
}

/// A path of serde_ignored's as serde_path_to_error writes one.
fn field_path(path: &serde_ignored::Path<'_>) -> String {
    use serde_ignored::Path;
    match path {
        Path::Root => "spec".into(),
        Path::Seq { parent, index } => format!("{}[{index}]", field_path(parent)),
        Path::Map { parent, key } => format!("{}.{key}", field_path(parent)),
        Path::Some { parent }
        | Path::NewtypeStruct { parent }
        | Path::NewtypeVariant { parent } => field_path(parent),
    }
}

fn understood(
    spec: &SelectorSpec,
    field: &str,
    key: fn(&str) -> Key,
    faults: &mut Vec<Fault>,
) -> Option<Selector> {
    let refuse =
        |(below, message): (String, String)| Fault::new(format!("{field}.{below}"), message);
    Selector::new(spec, key).map_err(|fault| faults.push(refuse(fault))).ok()
}

fn parse_priority(text: Option<&str>, faults: &mut Vec<Fault>) -> i32 {
    let Some(text) = text else { return 0 };
    text.trim().parse().unwrap_or_else(|_| {
        let field = format!("metadata.annotations[{PRIORITY_ANNOTATION}]");
        faults.push(Fault::new(field, format!("{text:?} is no whole number; higher goes first")));
        0
    })
}

/// Cilium ignores host bits, so a manifest may have them.
fn parse_prefix(text: &str) -> Result<IpNet, String> {
    let prefix = text.parse::<IpNet>().map_err(|_| {
        format!("{text:?} is no prefix; expected for instance 203.0.113.0/24 or 2001:db8::/32")
    })?;
    check_not_mapped(prefix.trunc()).map(|()| prefix.trunc())
}

/// An empty address is none, as in Cilium's CRD.
fn parse_address(text: Option<&str>, at: &str, faults: &mut Vec<Fault>) -> Option<IpAddr> {
    let text = text.filter(|text| !text.is_empty())?;
    let parsed = text.parse::<IpAddr>().map_err(|_| {
        format!("{text:?} is no address; expected for instance 192.0.2.10 or 2001:db8::10")
    });
    let checked = parsed.and_then(|address| check_host_address(address).map(|()| address));
    checked.map_err(|message| faults.push(Fault::new(format!("{at}.egressIP"), message))).ok()
}
