//! What pods are called, as the programmed document has it: names for people.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use spillway_api::Document;
use spillway_api::limits::PODS_MAX;
use spillway_engine::Nanos;

/// How much earlier than it did a flow may be said to have begun: the engine's time is coarse.
const BEGIN_WITHIN: Nanos = 1 << 24;

/// The names of pods by their addresses. A pod's name is there once, however many addresses it has.
#[derive(Debug, Default)]
pub(crate) struct PodNames {
    now: HashMap<IpAddr, Named>,
    /// Those of pods that have gone, of which flows may be left; another pod may have the address now.
    gone: HashMap<IpAddr, Arc<str>>,
}

/// A pod's name.
#[derive(Clone, Debug)]
struct Named {
    name: Arc<str>,
    /// Flows from before are of the pod that had the address then.
    since: Nanos,
}

impl PodNames {
    /// Those of the next document, which is in force from `time` on.
    pub(crate) fn after(mut self, document: &Document, time: Nanos) -> Self {
        let names = document.pod_names.iter().flat_map(|pod| {
            let name: Arc<str> = pod.name.as_str().into();
            pod.addresses.iter().map(move |address| (*address, Arc::clone(&name)))
        });
        let named = |(address, name): (IpAddr, Arc<str>)| {
            let had = self.now.get(&address);
            let since = match (had, self.gone.get(&address)) {
                (Some(had), _) if had.name == name => had.since,
                // Nobody had the address before, that is known of.
                (None, None) => 0,
                _ => time,
            };
            (address, Named { name, since })
        };
        let now: HashMap<_, _> = names.map(named).collect();
        let is_same = |(address, had): &(IpAddr, Named)| {
            now.get(address).is_some_and(|named| named.name == had.name)
        };
        let gone = self.now.into_iter().filter(|had| !is_same(had));
        let gone: HashMap<_, _> = gone.map(|(address, had)| (address, had.name)).collect();
        if self.gone.len() + gone.len() > PODS_MAX {
            self.gone.clear();
        }
        self.gone.extend(gone);
        Self { now, gone: self.gone }
    }

    /// What the pod with this address is called; none when the document does not say it.
    pub(crate) fn of_pod(&self, address: IpAddr) -> Option<&Arc<str>> {
        self.now.get(&address).map(|named| &named.name)
    }

    /// What the pod of a flow is called that began then; it may have gone before its flow.
    pub(crate) fn of_flow(&self, address: IpAddr, began: Nanos) -> Option<&Arc<str>> {
        let now = self.now.get(&address).filter(|named| began + BEGIN_WITHIN >= named.since);
        now.map(|named| &named.name).or_else(|| self.gone.get(&address))
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
        let names = PodNames::default();
        let names = names.after(
            &document(
                "{name: shop/cart-0, addresses: [10.0.1.40, 'fd00::40']}, \
             {name: shop/cart-1, addresses: [10.0.1.41]}",
            ),
            0,
        );
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
    fn a_flow_that_outlives_its_pod_keeps_its_name_also_when_another_pod_has_the_address() {
        const SECOND: Nanos = 1_000_000_000;
        let address = "10.0.1.40".parse().unwrap();
        let of_flow = |names: &PodNames, began| {
            name(names.of_flow(address, began * SECOND)).map(str::to_owned)
        };
        let (first, second) = (Some("a/b".to_owned()), Some("a/c".to_owned()));
        let first_document = document("{name: a/b, addresses: [10.0.1.40]}");
        let second_document = document("{name: a/c, addresses: [10.0.1.40]}");
        let names = PodNames::default().after(&first_document, 10 * SECOND);
        // One from the process before, which had the same document.
        assert_eq!(of_flow(&names, 9), first);
        let at_once =
            names.after(&second_document, 20 * SECOND).after(&second_document, 30 * SECOND);
        assert_eq!([of_flow(&at_once, 19), of_flow(&at_once, 20)], [first.clone(), second.clone()]);
        // The engine has its time in steps.
        assert_eq!(name(at_once.of_flow(address, 20 * SECOND - 1)), Some("a/c"));

        let names = PodNames::default().after(&first_document, 10 * SECOND);
        let names = names.after(&document(""), 15 * SECOND).after(&document(""), 16 * SECOND);
        assert_eq!((names.of_pod(address), of_flow(&names, 14)), (None, first.clone()));
        let names = names.after(&second_document, 20 * SECOND);
        assert_eq!([of_flow(&names, 14), of_flow(&names, 21)], [first, second.clone()]);
        let names = names.after(&document(""), 30 * SECOND);
        assert_eq!(of_flow(&names, 21), second);
    }
}
