//! What the names of pods must be. Nothing is decided by them, so a name may be that of a pod that no
//! policy selects; but one address must not have two names.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use super::{PodCounts, at_most, check_host_address, check_new_name};
use crate::document::{Document, PodName};
use crate::limits::POD_NAMES_MAX;
use crate::scalar::quote;
use crate::yaml::{FieldPath, Problem};

impl Document {
    pub(super) fn check_pod_names(&self) -> Result<(), Problem> {
        let root = FieldPath::root("pod_names");
        at_most(&root, self.pod_names.len(), POD_NAMES_MAX, "names of pods")?;
        let (mut names, mut counts) = (BTreeSet::new(), PodCounts::default());
        let mut name_of: HashMap<IpAddr, &str> = HashMap::new();
        for (index, PodName { name, addresses }) in self.pod_names.iter().enumerate() {
            let path = root.clone().index(index);
            check_new_name(&path.clone().field("name"), &mut names, name, "pod")?;
            check_has_namespace(&path.clone().field("name"), name)?;
            let path = path.field("addresses");
            for (index, address) in addresses.iter().enumerate() {
                let problem = |message| path.clone().index(index).problem(message);
                check_host_address(*address).map_err(problem)?;
                if let Some(other) = name_of.insert(*address, name) {
                    return Err(problem(format!("{address} is called {} already", quote(other))));
                }
                counts.add(*address);
            }
        }
        counts.check(&root, "addresses of named pods")
    }
}

fn check_has_namespace(path: &FieldPath, name: &str) -> Result<(), Problem> {
    let mut parts = name.split('/');
    let both = [parts.next(), parts.next()];
    if both.iter().all(|part| part.is_some_and(|part| !part.is_empty())) && parts.next().is_none() {
        return Ok(());
    }
    Err(path.problem(format!("expected NAMESPACE/NAME, found {}", quote(name))))
}
