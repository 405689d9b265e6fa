//! What the pods of a document are called. Pure.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;

use fixedbitset::FixedBitSet;
use spillway_api::PodName;

use crate::cluster::Cluster;
use crate::document::Carried;

/// The names of the pods of these policies, with those of their addresses that are among `addresses`,
/// in the names' order. An address that two pods have for a moment is nobody's: a wrong name is worse
/// than none.
pub(crate) fn pod_names(
    cluster: &Cluster,
    carried: &[Carried<'_>],
    addresses: &HashSet<IpAddr>,
) -> Vec<PodName> {
    // Numbers depend on history: they end here.
    let mut numbers = FixedBitSet::new();
    for policy in carried {
        cluster.selected_numbers(policy.name).into_iter().for_each(|pods| numbers.union_with(pods));
    }
    let (mut by_key, mut once, mut again) =
        (BTreeMap::new(), HashSet::new(), HashSet::<IpAddr>::new());
    for (key, pod) in numbers.ones().filter_map(|number| cluster.pod_by_number(number)) {
        let its: BTreeSet<IpAddr> =
            pod.addresses.iter().filter(|address| addresses.contains(address)).collect();
        again.extend(its.iter().filter(|address| !once.insert(**address)));
        by_key.insert(key, its);
    }
    let names = by_key.into_iter().map(|((namespace, name), its)| PodName {
        name: format!("{namespace}/{name}"),
        addresses: its.into_iter().filter(|address| !again.contains(address)).collect(),
    });
    names.filter(|pod| !pod.addresses.is_empty()).collect()
}
