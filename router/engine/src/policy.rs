//! Policies: which pods leave to where, and as whom. Pure data, flattened when it is built, so
//! that the forwarding path and the steering program both need one longest-prefix match.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use crate::family::{Family, V4};
use crate::lpm::PrefixMap;
use crate::map::Map;

mod options;
mod pairing;

pub use options::NatOptions;
pub(crate) use pairing::paired;
pub use pairing::paired_address;

/// Index of a policy in [`Policies::policies`].
pub type PolicyIndex = u16;

/// A policy as the state document gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy<F: Family = V4> {
    /// Its name, unique in the document.
    pub name: String,
    /// The addresses that the outside sees; each pod has one of them ([`paired_address`]).
    pub egress_addresses: Vec<F::Address>,
    /// Where its pods' traffic is translated.
    pub destinations: Vec<F::Net>,
    /// Parts of `destinations` where it is not. Excludes from this policy only.
    pub excluded: Vec<F::Net>,
    /// The addresses of the pods that it selects beside those of its groups.
    pub pods: Vec<F::Address>,
    /// Indices of the groups whose pods it selects.
    pub pod_groups: Vec<usize>,
    /// What it asks of the NAT beyond the default.
    pub options: NatOptions,
}

/// Policies in their order of precedence, flattened for lookups.
#[derive(Clone, Debug)]
pub struct Policies<F: Family = V4> {
    policies: Vec<Policy<F>>,
    /// Hashes of their names: what a policy is known by from one document to the next.
    identities: Vec<u64>,
    sets: Vec<PolicySet<F>>,
    /// The sets again, arranged for lookups.
    maps: Vec<PrefixMap<F, Option<PolicyIndex>>>,
    /// Every selected pod with the index of its set, ascending by address.
    pods: Vec<(F::Address, usize)>,
    set_of_pod: Map<F::Address, usize>,
}

/// What several policies together say of destinations: pods that the same policies select share
/// a set. Longest prefix wins; `None` is a hole that no policy covers.
pub type PolicySet<F = V4> = Vec<(<F as Family>::Net, Option<PolicyIndex>)>;

impl<F: Family> Default for Policies<F> {
    fn default() -> Self {
        Self::new(Vec::new(), &[])
    }
}

impl<F: Family> Policies<F> {
    /// Flattens `policies`, whose order is their precedence: where two policies cover the same
    /// pod and destination with prefixes of the same length, the earlier one wins; otherwise the
    /// longer prefix does. One policy's exclusions never touch another policy. `groups` are the
    /// pods of each group.
    ///
    /// # Panics
    /// When there are more than 65,535 policies, which a document's limits rule out, or a policy's
    /// group is not in `groups`.
    #[must_use]
    pub fn new(policies: Vec<Policy<F>>, groups: &[&[F::Address]]) -> Self {
        assert!(policies.len() <= usize::from(PolicyIndex::MAX), "more than 65,535 policies");
        let of_group = selecting_groups(&policies, groups);
        let (mut sets, mut pods) = (Vec::new(), Vec::new());
        let mut set_of_selection: HashMap<Vec<PolicyIndex>, usize> = HashMap::new();
        let mut set_of_way: HashMap<Way, Option<usize>> = HashMap::new();
        for (pod, way) in ways(&policies, groups) {
            let set = set_of_way.entry(way).or_insert_with_key(|way| {
                let selecting = way.selecting(&of_group);
                // Pods of a group that no policy names are selected by none.
                (!selecting.is_empty()).then(|| {
                    *set_of_selection.entry(selecting).or_insert_with_key(|selecting| {
                        sets.push(flatten::<F>(&policies, selecting));
                        sets.len() - 1
                    })
                })
            });
            pods.extend(set.map(|set| (pod, set)));
        }
        let maps = sets.iter().map(|set| PrefixMap::new(set)).collect();
        let set_of_pod = pods.iter().copied().collect();
        let identities = policies.iter().map(|policy| identity(&policy.name)).collect();
        Self { policies, identities, sets, maps, pods, set_of_pod }
    }

    /// The policies, in order of precedence.
    #[must_use]
    pub fn policies(&self) -> &[Policy<F>] {
        &self.policies
    }

    /// What a policy is known by from one document to the next: a hash of its name, the same for all
    /// of this process.
    pub(crate) fn identity(&self, policy: PolicyIndex) -> u64 {
        self.identities.get(usize::from(policy)).copied().unwrap_or_default()
    }

    /// The distinct sets that pods have, each ascending by network address and length, without
    /// prefixes that say no more than the one around them.
    #[must_use]
    pub fn sets(&self) -> &[PolicySet<F>] {
        &self.sets
    }

    /// Every selected pod with the index of its set in [`Policies::sets`], ascending by address.
    pub fn pods(&self) -> impl Iterator<Item = (F::Address, usize)> + '_ {
        self.pods.iter().copied()
    }

    /// The policy that covers traffic of `pod` to `destination`, if any.
    #[must_use]
    pub fn lookup(&self, pod: F::Address, destination: F::Address) -> Option<PolicyIndex> {
        let set = self.set_of_pod.get(&pod)?;
        self.maps.get(*set)?.lookup(destination).flatten()
    }
}

fn identity(name: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}

/// How a pod comes to be selected: pods of one group share one, however many policies name it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Way {
    groups: Vec<usize>,
    /// The policies that name the pod itself.
    policies: Vec<PolicyIndex>,
}

impl Way {
    /// The policies that select its pods, ascending.
    fn selecting(&self, of_group: &[Vec<PolicyIndex>]) -> Vec<PolicyIndex> {
        let groups = self.groups.iter().filter_map(|group| of_group.get(*group)).flatten();
        let mut selecting: Vec<_> = groups.chain(&self.policies).copied().collect();
        selecting.sort_unstable();
        selecting.dedup();
        selecting
    }
}

/// The policies that name each group.
fn selecting_groups<F: Family>(
    policies: &[Policy<F>],
    groups: &[&[F::Address]],
) -> Vec<Vec<PolicyIndex>> {
    let mut of_group: Vec<Vec<PolicyIndex>> = vec![Vec::new(); groups.len()];
    for (index, policy) in (0..).zip(policies) {
        for group in &policy.pod_groups {
            assert!(*group < groups.len(), "a policy names a group that is not there");
            if let Some(selecting) = of_group.get_mut(*group) {
                selecting.push(index);
            }
        }
    }
    of_group
}

/// How each pod comes to be selected.
fn ways<F: Family>(policies: &[Policy<F>], groups: &[&[F::Address]]) -> BTreeMap<F::Address, Way> {
    let mut ways: BTreeMap<F::Address, Way> = BTreeMap::new();
    for (group, pods) in groups.iter().enumerate() {
        for pod in *pods {
            ways.entry(*pod).or_default().groups.push(group);
        }
    }
    for (index, policy) in (0..).zip(policies) {
        for pod in &policy.pods {
            ways.entry(*pod).or_default().policies.push(index);
        }
    }
    ways
}

/// What one policy says of one prefix.
#[derive(Clone, Copy)]
struct Statement {
    /// The policy's place among those that select the pod.
    place: usize,
    excluded: bool,
}

/// What the policies of `selecting` (ascending) together say, as a set.
fn flatten<F: Family>(policies: &[Policy<F>], selecting: &[PolicyIndex]) -> PolicySet<F> {
    let statements = statements(policies, selecting);
    let mut verdicts = vec![None; selecting.len()];
    let mut set = PolicySet::<F>::new();
    // The prefixes around the current one, outermost first, each with what holds inside of it.
    let mut around: Vec<(F::Net, &[Statement], Option<PolicyIndex>)> = Vec::new();
    for (prefix, said) in &statements {
        while around.last().is_some_and(|(outer, ..)| !F::contains(*outer, *prefix)) {
            around.pop();
        }
        let outside = around.last().and_then(|(.., verdict)| *verdict);
        let levels = around.iter().map(|(outer, said, _)| (F::length(*outer), *said));
        let levels = levels.chain([(F::length(*prefix), said.as_slice())]);
        let inside = decide(levels, &mut verdicts).and_then(|place| selecting.get(place).copied());
        around.push((*prefix, said, inside));
        if inside != outside {
            set.push((*prefix, inside));
        }
    }
    set
}

/// Everything that the policies say, by prefix, ascending by network address and length.
fn statements<F: Family>(
    policies: &[Policy<F>],
    selecting: &[PolicyIndex],
) -> BTreeMap<F::Net, Vec<Statement>> {
    let mut statements: BTreeMap<F::Net, Vec<Statement>> = BTreeMap::new();
    for (place, index) in selecting.iter().enumerate() {
        let Some(policy) = policies.get(usize::from(*index)) else { continue };
        // Exclusions come last, so that they win where a policy says both of one prefix.
        let said = policy.destinations.iter().map(|prefix| (prefix, false));
        for (prefix, excluded) in said.chain(policy.excluded.iter().map(|prefix| (prefix, true))) {
            statements
                .entry(F::truncated(*prefix))
                .or_default()
                .push(Statement { place, excluded });
        }
    }
    statements
}

/// Which policy wins inside of the innermost level, by its place. `levels` are the prefix lengths
/// from the outermost prefix inwards with what is said of them; `verdicts` is room to work in, one
/// for each policy: the length of the destination prefix that covers the innermost level.
fn decide<'a>(
    levels: impl Iterator<Item = (u8, &'a [Statement])>,
    verdicts: &mut [Option<u8>],
) -> Option<usize> {
    verdicts.fill(None);
    for (length, said) in levels {
        for statement in said {
            if let Some(verdict) = verdicts.get_mut(statement.place) {
                *verdict = (!statement.excluded).then_some(length);
            }
        }
    }
    let covering = verdicts.iter().enumerate();
    let covering = covering.filter_map(|(place, verdict)| verdict.map(|length| (length, place)));
    covering.max_by_key(|(length, place)| (*length, std::cmp::Reverse(*place))).map(|best| best.1)
}

#[cfg(test)]
mod tests;
