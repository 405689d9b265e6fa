//! With which addresses a policy leaves on this gateway. Pure.

use std::net::IpAddr;

use spillway_api::IpFamily;

use crate::cluster::Labels;
use crate::document::families;
use crate::family::{Addresses, PerFamily};
use crate::gateway::Candidate;
use crate::plan::Here;
use crate::policy::{Gateway, Policy};

/// An address, or why there is none; `None` where none is wanted.
type Found = Option<Result<IpAddr, String>>;

/// The egress addresses of a policy on this gateway.
pub(crate) struct Egress {
    /// What each entry that names this node means, by its place in the policy.
    entries: Vec<(usize, PerFamily<Found>)>,
    /// Of each family the first that an entry means.
    pub(crate) default: Addresses,
}

impl Egress {
    /// Looks at the entries that name a node with these labels, which is this one.
    pub(crate) fn find(
        here: &Here,
        policy: &Policy,
        labels: &Labels,
        candidates: &[Candidate<'_>],
    ) -> Self {
        // A family without destinations needs no address, and must not take one from the host.
        let wanted = families(&policy.destinations);
        let ours = policy.gateways.iter().enumerate();
        let ours = ours.filter(|(_, gateway)| gateway.nodes.matches_labels(labels));
        let entries = ours.map(|(entry, gateway)| {
            let chosen = candidates.iter().find(|candidate| candidate.entry == entry);
            let chosen = chosen.map(|candidate| candidate.node);
            let found = PerFamily::of(|family| {
                wanted.get(family).then(|| egress_address(here, gateway, family, chosen))
            });
            (entry, found)
        });
        let entries: Vec<_> = entries.collect();
        let first = |family| entries.iter().find_map(|(_, found)| *present(found).get(family));
        let default = Addresses::of(first);
        Self { entries, default }
    }

    /// Whether no entry names this node.
    pub(crate) fn is_elsewhere(&self) -> bool {
        self.entries.is_empty()
    }

    /// The addresses of an entry's pods.
    pub(crate) fn of_entry(&self, entry: usize) -> Addresses {
        let own = self.entries.iter().find(|(at, _)| *at == entry);
        let own = own.map(|(_, found)| present(found)).unwrap_or_default();
        Addresses::of(|family| own.get(family).or(*self.default.get(family)))
    }

    /// Why a family has no address although the policy has destinations of it.
    pub(crate) fn missing(&self, family: IpFamily) -> Option<&str> {
        if self.default.get(family).is_some() {
            return None;
        }
        let mut found = self.entries.iter().filter_map(|(_, found)| found.get(family).as_ref());
        found.find_map(|found| found.as_ref().err()).map(String::as_str)
    }
}

/// The addresses that were found.
fn present(found: &PerFamily<Found>) -> Addresses {
    Addresses::of(|family| found.get(family).as_ref()?.as_ref().ok().copied())
}

/// The egress address of a family that an entry of a policy means here. One that the host does not
/// have may be announced: by one node only, the one that Cilium has `chosen`.
fn egress_address(
    here: &Here,
    gateway: &Gateway,
    family: IpFamily,
    chosen: Option<&str>,
) -> Result<IpAddr, String> {
    let on_host = here.host.egress_address(gateway, family);
    let (Some(address), Some(device)) = (gateway.address, &here.announce_on) else {
        return on_host;
    };
    let is_elsewhere = gateway.interface.as_ref().is_some_and(|interface| interface != device);
    match chosen {
        _ if here.host.has(address) || is_elsewhere => on_host,
        Some(node) if node == here.node && IpFamily::of(address) == family => Ok(address),
        Some(node) if node == here.node => here.host.first_address(device, family),
        Some(node) => {
            Err(format!("{address} is announced by {node}, the first by name that matches"))
        }
        None => on_host,
    }
}
