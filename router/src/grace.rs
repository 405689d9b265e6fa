//! What a document no longer covers is steered for a grace time, and dropped by name: nodes hear of
//! a change later than the gateway, and what they still send here would leave with the gateway's own
//! address if the kernel had it. Pure: the time is an argument.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use spillway_xdp::SteerTables;
use spillway_xdp::steering::{Address, DestinationSet, EgressPorts, SteerFamily, SteerPeer};

/// How long.
pub(crate) const GRACE: Duration = Duration::from_secs(30);

/// Former sets of one pod, at most: of more, the last two become one.
const FORMER_MAX: usize = 4;

/// A set that a pod had, and how long it still counts.
#[derive(Clone, Debug)]
struct Former<A: Address> {
    set: Arc<DestinationSet<A>>,
    until: Instant,
}

/// What former documents covered, as far as the last one does not.
#[derive(Clone, Debug, Default)]
pub(crate) struct Grace {
    tunnels: BTreeSet<IpAddr>,
    peers: BTreeMap<IpAddr, SteerPeer>,
    v4: Family<Ipv4Addr>,
    v6: Family<Ipv6Addr>,
}

/// One family's part of it.
#[derive(Clone, Debug)]
struct Family<A: Address> {
    /// What the last document covers.
    current: SteerFamily<A>,
    pods: BTreeMap<A, Vec<Former<A>>>,
    egress: BTreeMap<A, (EgressPorts, Instant)>,
}

impl Grace {
    /// What is to be remembered after a document that covers `tables`.
    pub(crate) fn after(&self, tables: SteerTables, now: Instant) -> Self {
        let SteerTables { tunnels, peers, v4, v6 } = tables;
        Self { tunnels, peers, v4: self.v4.after(v4, now), v6: self.v6.after(v6, now) }
    }

    /// What is left of it at a later time.
    pub(crate) fn at(self, now: Instant) -> Self {
        Self { v4: self.v4.at(now), v6: self.v6.at(now), ..self }
    }

    /// When something of it ends next.
    pub(crate) fn ends(&self) -> Option<Instant> {
        self.v4.ends().into_iter().chain(self.v6.ends()).min()
    }

    /// What steering is to be given.
    pub(crate) fn tables(&self) -> SteerTables {
        SteerTables {
            tunnels: self.tunnels.clone(),
            peers: self.peers.clone(),
            v4: self.v4.tables(),
            v6: self.v6.tables(),
        }
    }

    /// The same without the past: when there is no room for it.
    pub(crate) fn forget(self) -> Self {
        Self { v4: self.v4.forget(), v6: self.v6.forget(), ..self }
    }
}

impl<A: Address> Default for Family<A> {
    fn default() -> Self {
        Self { current: SteerFamily::default(), pods: BTreeMap::new(), egress: BTreeMap::new() }
    }
}

impl<A: Address> Family<A> {
    fn after(&self, tables: SteerFamily<A>, now: Instant) -> Self {
        let until = now + GRACE;
        let mut next =
            Self { current: tables, pods: self.pods.clone(), egress: self.egress.clone() };
        // Many pods share few sets.
        let mut lost: HashMap<_, Option<Arc<DestinationSet<A>>>> = HashMap::new();
        for (pod, old) in &self.current.pods {
            let new = next.current.pods.get(pod).copied();
            let lost = lost.entry((*old, new)).or_insert_with(|| {
                let old = self.current.sets.get(*old)?;
                let new = new.and_then(|new| next.current.sets.get(new));
                let new = new.map_or(&[][..], Vec::as_slice);
                covers_more::<A>(old, new).then(|| Arc::new(old.clone()))
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

    fn at(mut self, now: Instant) -> Self {
        self.pods.retain(|_, former| {
            former.retain(|former| former.until > now);
            !former.is_empty()
        });
        let current = &self.current.egress;
        self.egress.retain(|address, (_, until)| *until > now && !current.contains_key(address));
        self
    }

    fn ends(&self) -> Option<Instant> {
        let pods = self.pods.values().flatten().map(|former| former.until);
        pods.chain(self.egress.values().map(|(_, until)| *until)).min()
    }

    fn tables(&self) -> SteerFamily<A> {
        let mut tables = self.current.clone();
        let mut merged: HashMap<(Option<usize>, Vec<*const DestinationSet<A>>), usize> =
            HashMap::new();
        for (pod, former) in &self.pods {
            let own = self.current.pods.get(pod).copied();
            let key = (own, former.iter().map(|former| Arc::as_ptr(&former.set)).collect());
            let index = *merged.entry(key).or_insert_with(|| {
                let own = own.and_then(|own| self.current.sets.get(own)).cloned();
                let sets = former.iter().map(|former| &former.set);
                let all = sets.fold(own.unwrap_or_default(), |all, set| union::<A>(&all, set));
                tables.sets.push(all);
                tables.sets.len() - 1
            });
            tables.pods.insert(*pod, index);
        }
        let egress = self.egress.iter().map(|(address, (ports, _))| (*address, *ports));
        tables.egress.extend(egress);
        tables
    }

    fn forget(self) -> Self {
        Self { current: self.current, ..Self::default() }
    }
}

fn remember<A: Address>(all: &mut Vec<Former<A>>, former: Former<A>) {
    if let Some(known) = all.iter_mut().find(|known| known.set == former.set) {
        known.until = former.until;
    } else if all.len() < FORMER_MAX {
        all.push(former);
    } else if let Some(last) = all.last_mut() {
        let set = Arc::new(union::<A>(&last.set, &former.set));
        *last = Former { set, until: former.until };
    }
}

/// What two sets say of each prefix that either names: the longest prefix of each decides.
fn both<A: Address>(
    one: &[(A::Net, bool)],
    other: &[(A::Net, bool)],
) -> Vec<(A::Net, (bool, bool))> {
    let mut said: BTreeMap<A::Net, (Option<bool>, Option<bool>)> = BTreeMap::new();
    for (prefix, covered) in one {
        said.entry(*prefix).or_default().0 = Some(*covered);
    }
    for (prefix, covered) in other {
        said.entry(*prefix).or_default().1 = Some(*covered);
    }
    // What lies around a prefix: up to which address, and what is said there.
    let mut around: Vec<(u128, (bool, bool))> = Vec::new();
    let mut verdicts = Vec::with_capacity(said.len());
    for (prefix, here) in said {
        let (first, last) = A::range(&prefix);
        while around.pop_if(|(outer, _)| *outer < first).is_some() {}
        let outside = around.last().map_or((false, false), |(_, verdict)| *verdict);
        let inside = (here.0.unwrap_or(outside.0), here.1.unwrap_or(outside.1));
        around.push((last, inside));
        verdicts.push((prefix, inside));
    }
    verdicts
}

/// What either of two sets covers.
fn union<A: Address>(one: &[(A::Net, bool)], other: &[(A::Net, bool)]) -> DestinationSet<A> {
    both::<A>(one, other).into_iter().map(|(prefix, (a, b))| (prefix, a || b)).collect()
}

/// Whether `old` covers something that `new` does not.
fn covers_more<A: Address>(old: &[(A::Net, bool)], new: &[(A::Net, bool)]) -> bool {
    both::<A>(old, new).iter().any(|(_, (old, new))| *old && !new)
}

#[cfg(test)]
#[path = "grace_tests.rs"]
mod tests;
