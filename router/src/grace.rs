//! What a document no longer covers is steered for a grace time, and dropped by name: nodes hear of
//! a change later than the gateway, and what they still send here would leave with the gateway's own
//! address if the kernel had it. Pure: the time is an argument.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::Ipv4Net;
use spillway_xdp::SteerTables;
use spillway_xdp::steering::{DestinationSet, EgressPorts};

/// How long.
pub(crate) const GRACE: Duration = Duration::from_secs(30);

/// Former sets of one pod, at most: of more, the last two become one.
const FORMER_MAX: usize = 4;

/// A set that a pod had, and how long it still counts.
#[derive(Clone, Debug)]
struct Former {
    set: Arc<DestinationSet>,
    until: Instant,
}

/// What former documents covered, as far as the last one does not.
#[derive(Clone, Debug, Default)]
pub(crate) struct Grace {
    /// What the last document covers.
    current: SteerTables,
    pods: BTreeMap<Ipv4Addr, Vec<Former>>,
    egress: BTreeMap<Ipv4Addr, (EgressPorts, Instant)>,
}

impl Grace {
    /// What is to be remembered after a document that covers `tables`.
    pub(crate) fn after(&self, tables: SteerTables, now: Instant) -> Self {
        let until = now + GRACE;
        let mut next =
            Self { current: tables, pods: self.pods.clone(), egress: self.egress.clone() };
        // Many pods share few sets.
        let mut lost: HashMap<(usize, Option<usize>), Option<Arc<DestinationSet>>> = HashMap::new();
        for (pod, old) in &self.current.pods {
            let new = next.current.pods.get(pod).copied();
            let lost = lost.entry((*old, new)).or_insert_with(|| {
                let old = self.current.sets.get(*old)?;
                let new = new.and_then(|new| next.current.sets.get(new));
                covers_more(old, new.map_or(&[], Vec::as_slice)).then(|| Arc::new(old.clone()))
            });
            if let Some(set) = lost {
                let former = Former { set: Arc::clone(set), until };
                remember(next.pods.entry(*pod).or_default(), former);
            }
        }
        let gone = self.current.egress.iter();
        let gone = gone.filter(|(address, _)| !next.current.egress.contains_key(address));
        // Whoever has such an address next, answers for it at once.
        let silent = |ports: &EgressPorts| EgressPorts { announce: None, ..*ports };
        next.egress.extend(gone.map(|(address, ports)| (*address, (silent(ports), until))));
        next.at(now)
    }

    /// What is left of it at a later time.
    pub(crate) fn at(mut self, now: Instant) -> Self {
        self.pods.retain(|_, former| {
            former.retain(|former| former.until > now);
            !former.is_empty()
        });
        let current = &self.current.egress;
        self.egress.retain(|address, (_, until)| *until > now && !current.contains_key(address));
        self
    }

    /// When something of it ends next.
    pub(crate) fn ends(&self) -> Option<Instant> {
        let pods = self.pods.values().flatten().map(|former| former.until);
        pods.chain(self.egress.values().map(|(_, until)| *until)).min()
    }

    /// What steering is to be given.
    pub(crate) fn tables(&self) -> SteerTables {
        let mut tables = self.current.clone();
        let mut merged: HashMap<(Option<usize>, Vec<*const DestinationSet>), usize> =
            HashMap::new();
        for (pod, former) in &self.pods {
            let own = self.current.pods.get(pod).copied();
            let key = (own, former.iter().map(|former| Arc::as_ptr(&former.set)).collect());
            let index = *merged.entry(key).or_insert_with(|| {
                let own = own.and_then(|own| self.current.sets.get(own)).cloned();
                let sets = former.iter().map(|former| &former.set);
                let all = sets.fold(own.unwrap_or_default(), |all, set| union(&all, set));
                tables.sets.push(all);
                tables.sets.len() - 1
            });
            tables.pods.insert(*pod, index);
        }
        let egress = self.egress.iter().map(|(address, (ports, _))| (*address, *ports));
        tables.egress.extend(egress);
        tables
    }

    /// The same without the past: when there is no room for it.
    pub(crate) fn forget(self) -> Self {
        Self { current: self.current, ..Self::default() }
    }
}

fn remember(all: &mut Vec<Former>, former: Former) {
    if let Some(known) = all.iter_mut().find(|known| known.set == former.set) {
        known.until = former.until;
    } else if all.len() < FORMER_MAX {
        all.push(former);
    } else if let Some(last) = all.last_mut() {
        *last = Former { set: Arc::new(union(&last.set, &former.set)), until: former.until };
    }
}

/// What two sets say of each prefix that either names: the longest prefix of each decides.
fn both(one: &[(Ipv4Net, bool)], other: &[(Ipv4Net, bool)]) -> Vec<(Ipv4Net, (bool, bool))> {
    let mut said: BTreeMap<Ipv4Net, (Option<bool>, Option<bool>)> = BTreeMap::new();
    for (prefix, covered) in one {
        said.entry(*prefix).or_default().0 = Some(*covered);
    }
    for (prefix, covered) in other {
        said.entry(*prefix).or_default().1 = Some(*covered);
    }
    let mut around: Vec<(Ipv4Net, (bool, bool))> = Vec::new();
    let mut verdicts = Vec::with_capacity(said.len());
    for (prefix, here) in said {
        while around.last().is_some_and(|(outer, _)| !outer.contains(&prefix)) {
            around.pop();
        }
        let outside = around.last().map_or((false, false), |(_, verdict)| *verdict);
        let inside = (here.0.unwrap_or(outside.0), here.1.unwrap_or(outside.1));
        around.push((prefix, inside));
        verdicts.push((prefix, inside));
    }
    verdicts
}

/// What either of two sets covers.
fn union(one: &[(Ipv4Net, bool)], other: &[(Ipv4Net, bool)]) -> DestinationSet {
    both(one, other).into_iter().map(|(prefix, (a, b))| (prefix, a || b)).collect()
}

/// Whether `old` covers something that `new` does not.
fn covers_more(old: &[(Ipv4Net, bool)], new: &[(Ipv4Net, bool)]) -> bool {
    both(old, new).iter().any(|(_, (old, new))| *old && !new)
}

#[cfg(test)]
#[path = "grace_tests.rs"]
mod tests;
