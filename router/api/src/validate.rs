//! What a state document must be beyond its types. Each check names the field that breaks it.
//!
//! Only what no gateway could carry out is refused. A policy without pods, or an exclusion outside
//! of its destinations, is an author's business: refusing it would stop all other policies too.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::document::{Document, EgressAddress, EgressAddressKind, PodGroup, Policy, ReplyVni};
use crate::family::{IpFamily, check_host_address, check_not_mapped};
use crate::limits::{
    EGRESS_ADDRESSES_MAX, NAME_BYTES_MAX, POD_GROUPS_MAX, PODS_MAX, POLICIES_MAX, PORT_FIRST,
    PORT_LAST, PREFIXES_PER_POLICY_MAX, VNI_MAX,
};
use crate::nat64::Nat64Prefix;
use crate::scalar::{PortRange, quote};
use crate::yaml::{FieldPath, Problem};

mod pod_names;
mod tunnels;

pub use tunnels::check_device_name;

impl PortRange {
    /// Every port that may be leased.
    pub const WHOLE: Self = Self { first: PORT_FIRST, last: PORT_LAST };
}

impl Document {
    /// Checks everything that the types cannot express.
    ///
    /// # Errors
    ///
    /// The first [`Problem`], with its field; without a line, as there is no text.
    pub fn validate(&self) -> Result<(), Problem> {
        self.check_tunnels()?;
        self.check_reply_vni()?;
        self.check_egress_addresses()?;
        self.check_policies()?;
        self.check_pod_names()
    }

    fn check_reply_vni(&self) -> Result<(), Problem> {
        let both = [("reply_vni", Some(self.reply_vni)), ("reply_vni_ipv6", self.reply_vni_ipv6)];
        for (field, reply_vni) in both {
            if let Some(ReplyVni::Fixed(vni)) = reply_vni
                && vni > VNI_MAX
            {
                let message = format!("{vni} is no VNI; expected at most {VNI_MAX}");
                return Err(FieldPath::root(field).problem(message));
            }
        }
        Ok(())
    }

    fn check_egress_addresses(&self) -> Result<(), Problem> {
        let path = FieldPath::root("egress_addresses");
        at_most(&path, self.egress_addresses.len(), EGRESS_ADDRESSES_MAX, "egress addresses")?;
        let tunnels: HashSet<IpAddr> = self.tunnels.iter().map(|tunnel| tunnel.address).collect();
        let peers = self.tunnels.iter().flat_map(|tunnel| &tunnel.peers);
        let peers: HashSet<IpAddr> = peers.map(|peer| peer.address).collect();
        let mut seen = HashSet::new();
        for (index, egress) in self.egress_addresses.iter().enumerate() {
            let path = path.clone().index(index);
            let address_path = path.clone().field("address");
            check_host(&address_path, egress.address)?;
            check_outside(&address_path, egress.address, self.nat64_prefix)?;
            check_unique(&address_path, &mut seen, egress.address, "is listed twice")?;
            if peers.contains(&egress.address) {
                let message = format!("{} is a tunnel peer, not ours", egress.address);
                return Err(address_path.problem(message));
            }
            if egress.kind == EgressAddressKind::Own && tunnels.contains(&egress.address) {
                let message = format!(
                    "{} is also a tunnel address, which the host uses; expected shared",
                    egress.address
                );
                return Err(path.field("kind").problem(message));
            }
            check_ports(&path, egress)?;
            check_announce(&path.field("announce"), egress)?;
        }
        Ok(())
    }

    /// What no pod's address may be.
    fn not_pods(&self) -> NotPods {
        let tunnels = self.tunnels.iter().map(|tunnel| tunnel.address);
        let egress = self.egress_addresses.iter().map(|egress| egress.address);
        NotPods { ours: tunnels.chain(egress).collect(), nat64_prefix: self.nat64_prefix }
    }

    /// Returns every pod of a group with the group's name.
    fn check_pod_groups(&self) -> Result<HashMap<IpAddr, &str>, Problem> {
        let path = FieldPath::root("pod_groups");
        at_most(&path, self.pod_groups.len(), POD_GROUPS_MAX, "groups of pods")?;
        let not_pods = self.not_pods();
        let (mut names, mut group_of) = (BTreeSet::new(), HashMap::new());
        let mut counts = PodCounts::default();
        for (index, PodGroup { name, pods }) in self.pod_groups.iter().enumerate() {
            let path = path.clone().index(index);
            check_new_name(&path.clone().field("name"), &mut names, name, "group")?;
            let path = path.field("pods");
            for (index, pod) in pods.iter().enumerate() {
                check_pod(|| path.clone().index(index), *pod, &not_pods)?;
                if let Some(other) = group_of.insert(*pod, name.as_str()) {
                    let message = format!("{pod} is in the group {} already", quote(other));
                    return Err(path.index(index).problem(message));
                }
                counts.add(*pod);
            }
            counts.check(&path, "pods of all groups")?;
        }
        Ok(group_of)
    }

    fn check_policies(&self) -> Result<(), Problem> {
        let group_of = self.check_pod_groups()?;
        let groups = self.groups();
        let path = FieldPath::root("policies");
        at_most(&path, self.policies.len(), POLICIES_MAX, "policies")?;
        let egress: HashSet<_> =
            self.egress_addresses.iter().map(|egress| egress.address).collect();
        let not_pods = self.not_pods();
        let mut names = BTreeSet::new();
        let mut pods: HashSet<IpAddr> = group_of.keys().copied().collect();
        let mut counts = PodCounts::default();
        pods.iter().for_each(|pod| counts.add(*pod));
        for (index, policy) in self.policies.iter().enumerate() {
            let path = path.clone().index(index);
            check_new_name(&path.clone().field("name"), &mut names, &policy.name, "policy")?;
            check_policy_egress(&path, policy, &egress)?;
            check_prefixes(&path, policy)?;
            if let Some(prefix) = self.nat64_prefix {
                let (destinations, excluded) =
                    (&policy.destinations, &policy.excluded_destinations);
                check_not_embedded(&path.clone().field("destinations"), destinations, prefix)?;
                check_not_embedded(&path.clone().field("excluded_destinations"), excluded, prefix)?;
            }
            let its_groups = check_groups(&path.clone().field("pod_groups"), policy, &groups)?;
            let path = path.field("pods");
            check_pods(&path, &policy.pods, &not_pods)?;
            for (index, pod) in policy.pods.iter().enumerate() {
                if let Some(group) = group_of.get(pod).filter(|group| its_groups.contains(*group)) {
                    let group = quote(group);
                    let message = format!("{pod} is in the policy's group {group} already");
                    return Err(path.index(index).problem(message));
                }
            }
            let new = policy.pods.iter().filter(|pod| pods.insert(**pod));
            new.for_each(|pod| counts.add(*pod));
            counts.check(&FieldPath::root("policies"), "different pods")?;
        }
        Ok(())
    }
}

/// What no pod's address may be: one of ours, or one that stands for an IPv4 destination.
struct NotPods {
    ours: HashSet<IpAddr>,
    nat64_prefix: Option<Nat64Prefix>,
}

/// Different addresses of pods, by family: one family's leave the other's room alone.
#[derive(Default)]
struct PodCounts {
    v4: usize,
    v6: usize,
}

impl PodCounts {
    fn add(&mut self, pod: IpAddr) {
        match IpFamily::of(pod) {
            IpFamily::V4 => self.v4 += 1,
            IpFamily::V6 => self.v6 += 1,
        }
    }

    fn check(&self, path: &FieldPath, what: &str) -> Result<(), Problem> {
        at_most(path, self.v4.max(self.v6), PODS_MAX, &format!("{what} of one family"))
    }
}

fn check_ports(path: &FieldPath, egress: &EgressAddress) -> Result<(), Problem> {
    let Some(ports) = egress.ports else {
        return Ok(());
    };
    let path = path.clone().field("ports");
    if egress.kind == EgressAddressKind::Own {
        let message = "of an own address every port is ours; expected ports only with kind: shared";
        return Err(path.problem(message));
    }
    if ports.first > ports.last {
        return Err(path.problem(format!("expected the lower port first, found {ports}")));
    }
    if ports.first < PORT_FIRST {
        let message = format!("expected ports from {} only, found {ports}", PortRange::WHOLE);
        return Err(path.problem(message));
    }
    Ok(())
}

fn check_announce(path: &FieldPath, egress: &EgressAddress) -> Result<(), Problem> {
    let Some(device) = &egress.announce else {
        return Ok(());
    };
    if egress.kind == EgressAddressKind::Shared {
        let message = "a shared address is on the host, which answers for it; expected announce \
                       only with kind: own";
        return Err(path.problem(message));
    }
    check_device_name(device).map_err(|message| path.problem(message))
}

/// `names` are those of its kind before it.
fn check_new_name<'a>(
    path: &FieldPath,
    names: &mut BTreeSet<&'a str>,
    name: &'a str,
    kind: &str,
) -> Result<(), Problem> {
    if !(1..=NAME_BYTES_MAX).contains(&name.len()) || name.contains(char::is_control) {
        let message = format!(
            "expected a name of 1 to {NAME_BYTES_MAX} bytes without control characters, found {}",
            quote(name)
        );
        return Err(path.problem(message));
    }
    if !names.insert(name) {
        return Err(path.problem(format!("{} names an earlier {kind} too", quote(name))));
    }
    Ok(())
}

/// Returns the names of the policy's groups.
fn check_groups<'a>(
    path: &FieldPath,
    policy: &'a Policy,
    groups: &HashMap<&str, &PodGroup>,
) -> Result<HashSet<&'a str>, Problem> {
    if policy.pod_groups.is_none() && !groups.is_empty() {
        let message = "is missing, in a document that has pod_groups; expected [] for none";
        return Err(path.problem(message));
    }
    let mut names = HashSet::new();
    for (index, name) in policy.pod_groups.iter().flatten().enumerate() {
        let problem = |what: &str| path.clone().index(index).problem(quote(name) + what);
        if !groups.contains_key(name.as_str()) {
            return Err(problem(" is not in pod_groups"));
        }
        if !names.insert(name.as_str()) {
            return Err(problem(" is listed twice in this policy"));
        }
    }
    Ok(names)
}

/// A policy has one address, or several, each of them listed in the document. They need not be of
/// both families: what the policy covers of the other one is dropped.
fn check_policy_egress(
    path: &FieldPath,
    policy: &Policy,
    listed: &HashSet<IpAddr>,
) -> Result<(), Problem> {
    let (one, several) =
        (path.clone().field("egress_address"), path.clone().field("egress_addresses"));
    let check_listed = |path: FieldPath, address: &IpAddr| match listed.contains(address) {
        true => Ok(()),
        false => Err(path.problem(format!("{address} is not in the document's egress_addresses"))),
    };
    match (&policy.egress_address, &policy.egress_addresses) {
        (Some(address), None) => check_listed(one, address),
        (None, Some(addresses)) if addresses.is_empty() => {
            Err(several.problem("expected one address at least, found none"))
        }
        (None, Some(addresses)) => {
            let mut seen = HashSet::new();
            for (index, address) in addresses.iter().enumerate() {
                let path = several.clone().index(index);
                check_listed(path.clone(), address)?;
                check_unique(&path, &mut seen, *address, "is listed twice in this policy")?;
            }
            Ok(())
        }
        (Some(_), Some(_)) => {
            Err(several.problem("expected either this or egress_address, found both"))
        }
        (None, None) => {
            Err(one.problem("is missing; expected this or, for several, egress_addresses"))
        }
    }
}

fn check_prefixes(path: &FieldPath, policy: &Policy) -> Result<(), Problem> {
    let destinations = path.clone().field("destinations");
    if policy.destinations.is_empty() {
        return Err(destinations.problem("expected one prefix at least, found none"));
    }
    let count = policy.destinations.len() + policy.excluded_destinations.len();
    at_most(&destinations, count, PREFIXES_PER_POLICY_MAX, "prefixes, excluded ones included")?;
    let excluded = path.clone().field("excluded_destinations");
    check_each_prefix(&destinations, &policy.destinations)?;
    check_each_prefix(&excluded, &policy.excluded_destinations)
}

/// In the NAT64 prefix the IPv4 destinations and exclusions decide. One in IPv6's form would be a
/// second opinion: two policies could then disagree with what steering takes for which of them.
fn check_not_embedded(
    path: &FieldPath,
    prefixes: &[IpNet],
    nat64_prefix: Nat64Prefix,
) -> Result<(), Problem> {
    for (index, prefix) in prefixes.iter().enumerate() {
        let IpNet::V6(inside) = prefix else { continue };
        if nat64_prefix.net().contains(inside) {
            let meant = nat64_prefix.extract(*inside);
            let meant = meant.map(|meant| format!("; did you mean {meant}?")).unwrap_or_default();
            let message =
                format!("{prefix} is in nat64_prefix, where IPv4 destinations decide{meant}");
            return Err(path.clone().index(index).problem(message));
        }
    }
    Ok(())
}

fn check_each_prefix(path: &FieldPath, prefixes: &[IpNet]) -> Result<(), Problem> {
    for (index, prefix) in prefixes.iter().enumerate() {
        let path = || path.clone().index(index);
        if prefix.trunc() != *prefix {
            let message = format!(
                "{prefix} has bits set beyond its length; did you mean {} or {}?",
                prefix.trunc(),
                IpNet::from(prefix.addr())
            );
            return Err(path().problem(message));
        }
        check_not_mapped(*prefix).map_err(|message| path().problem(message))?;
    }
    Ok(())
}

fn check_pods(path: &FieldPath, pods: &[IpAddr], not_pods: &NotPods) -> Result<(), Problem> {
    let mut seen = HashSet::with_capacity(pods.len());
    for (index, pod) in pods.iter().enumerate() {
        let path = || path.clone().index(index);
        check_pod(path, *pod, not_pods)?;
        if !seen.insert(*pod) {
            return Err(path().problem(format!("{pod} is listed twice in this policy")));
        }
    }
    Ok(())
}

/// There may be a million pods to check: `path` is asked for when one is bad.
fn check_pod(path: impl Fn() -> FieldPath, pod: IpAddr, not_pods: &NotPods) -> Result<(), Problem> {
    check_host_address(pod).map_err(|message| path().problem(message))?;
    if not_pods.ours.contains(&pod) {
        return Err(path().problem(format!("{pod} is a tunnel or egress address, not a pod's")));
    }
    outside(pod, not_pods.nat64_prefix).map_err(|message| path().problem(message))
}

/// Nobody has an address in the NAT64 prefix: it stands for an IPv4 destination.
fn check_outside(
    path: &FieldPath,
    address: IpAddr,
    nat64_prefix: Option<Nat64Prefix>,
) -> Result<(), Problem> {
    outside(address, nat64_prefix).map_err(|message| path.problem(message))
}

fn outside(address: IpAddr, nat64_prefix: Option<Nat64Prefix>) -> Result<(), String> {
    match (address, nat64_prefix) {
        (IpAddr::V6(inside), Some(prefix)) if prefix.net().contains(&inside) => {
            Err(format!("{address} is in nat64_prefix, {prefix}, where IPv4 destinations are"))
        }
        _ => Ok(()),
    }
}

fn check_host(path: &FieldPath, address: IpAddr) -> Result<(), Problem> {
    check_host_address(address).map_err(|message| path.problem(message))
}

fn check_unique(
    path: &FieldPath,
    seen: &mut HashSet<IpAddr>,
    address: IpAddr,
    complaint: &str,
) -> Result<(), Problem> {
    if seen.insert(address) {
        return Ok(());
    }
    Err(path.problem(format!("{address} {complaint}")))
}

fn at_most(path: &FieldPath, count: usize, max: usize, what: &str) -> Result<(), Problem> {
    if count <= max {
        return Ok(());
    }
    Err(path.problem(format!("expected at most {max} {what}, found {count}")))
}
