//! What pods are called, as the programmed document has it: names for people.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use spillway_api::Document;
use spillway_api::limits::PODS_MAX;

/// The names of pods by their addresses. A pod's name is there once, however many addresses it has.
#[derive(Debug, Default)]
pub(crate) struct PodNames {
    now: HashMap<IpAddr, Arc<str>>,
    /// Those of pods that have gone, of which flows may be left.
    gone: HashMap<IpAddr, Arc<str>>,
}

impl PodNames {
    /// Those of the next document.
    pub(crate) fn after(mut self, document: &Document) -> Self {
        let names = document.pod_names.iter().flat_map(|pod| {
            let name: Arc<str> = pod.name.as_str().into();
            pod.addresses.iter().map(move |address| (*address, Arc::clone(&name)))
        });
        let now: HashMap<_, _> = names.collect();
        let gone: HashMap<_, _> =
            self.now.into_iter().filter(|(address, _)| !now.contains_key(address)).collect();
        self.gone.retain(|address, _| !now.contains_key(address));
        if self.gone.len() + gone.len() > PODS_MAX {
            self.gone.clear();
        }
        self.gone.extend(gone);
        Self { now, gone: self.gone }
    }

    /// What the pod with this address is called; none when the document does not say it.
    pub(crate) fn of_pod(&self, address: IpAddr) -> Option<&Arc<str>> {
        self.now.get(&address)
    }

    /// What the pod of a flow is called, which may have gone before it.
    pub(crate) fn of_flow(&self, address: IpAddr) -> Option<&Arc<str>> {
        self.of_pod(address).or_else(|| self.gone.get(&address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A document that names these pods.
    fn document(names: &str) -> Document {
        let text = "generation: 1\ntunnels: []\negress_addresses: []\npolicies: []\npod_names: ";
        Document::parse(&format!("{text}[{names}]\n")).unwrap()
    }

    fn name(found: Option<&Arc<str>>) -> Option<&str> {
        found.map(AsRef::as_ref)
    }

    #[test]
    fn every_address_of_a_pod_has_its_name() {
        let names = PodNames::default().after(&document(
            "{name: shop/cart-0, addresses: [10.0.1.40, 'fd00::40']}, \
             {name: shop/cart-1, addresses: [10.0.1.41]}",
        ));
        for (address, expected) in [
            ("10.0.1.40", Some("shop/cart-0")),
            ("fd00::40", Some("shop/cart-0")),
            ("10.0.1.41", Some("shop/cart-1")),
            ("10.0.1.42", None),
        ] {
            assert_eq!(name(names.of_pod(address.parse().unwrap())), expected, "{address}");
        }
    }

    #[test]
    fn a_flow_that_outlives_its_pod_keeps_its_name_until_another_pod_has_the_address() {
        let address = "10.0.1.40".parse().unwrap();
        let names = PodNames::default().after(&document("{name: a/b, addresses: [10.0.1.40]}"));
        let names = names.after(&document("")).after(&document(""));
        assert_eq!((names.of_pod(address), name(names.of_flow(address))), (None, Some("a/b")));
        let names = names.after(&document("{name: a/c, addresses: [10.0.1.40]}"));
        assert_eq!(name(names.of_flow(address)), Some("a/c"));
        let names = names.after(&document(""));
        assert_eq!(name(names.of_flow(address)), Some("a/c"));
    }
}
