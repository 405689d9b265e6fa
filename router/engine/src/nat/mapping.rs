//! Endpoint-independent mappings (RFC 4787, REQ-1): where a policy asks for it, all flows of a pod's
//! address and port have one port on the egress address, whatever their remotes.
//!
//! A mapping's port is its own: no other flow, and no other mapping, takes it towards any remote
//! while the mapping lives, and it lives as long as one of its flows does. A flow of before may still
//! hold the port towards its remote. Filtering is by flows as for all others: only a remote that the
//! pod has addressed gets in.

use crate::family::Address;
use crate::flow::{Hasher, Key, Slot, SlotIndex, Table, Translation, Tuple};
use crate::packet::Wire;

/// How many mappings a worker has at most.
pub(crate) const MAPPINGS_MAX: u32 = 65_536;

/// A mapping, found by the pod's side and the egress address.
#[derive(Clone, Copy, Debug)]
struct Mapping<F: Wire> {
    pod: F::Address,
    egress: F::Address,
    pod_port: u16,
    egress_port: u16,
    protocol: u8,
    port: SlotIndex,
    /// Never 0.
    flows: u32,
}

/// A port that a mapping has, found by the outside.
#[derive(Clone, Copy, Debug)]
struct MappedPort<F: Wire> {
    egress: F::Address,
    egress_port: u16,
    protocol: u8,
}

impl<F: Wire> Slot for Mapping<F> {
    type Family = F;

    const EMPTY: Self = Self {
        pod: F::UNSPECIFIED,
        egress: F::UNSPECIFIED,
        pod_port: 0,
        egress_port: 0,
        protocol: 0,
        port: SlotIndex::FIRST,
        flows: 0,
    };

    fn key(&self) -> Key<F> {
        let key = Tuple {
            source: self.pod,
            destination: self.egress,
            source_port: self.pod_port,
            destination_port: 0,
            protocol: self.protocol,
        };
        key.key()
    }
}

impl<F: Wire> Slot for MappedPort<F> {
    type Family = F;

    const EMPTY: Self = Self { egress: F::UNSPECIFIED, egress_port: 0, protocol: 0 };

    fn key(&self) -> Key<F> {
        port_key(self.protocol, self.egress, self.egress_port).key()
    }
}

/// The mappings of one worker.
#[derive(Debug)]
pub(crate) struct Mappings<F: Wire> {
    by_pod: Table<Mapping<F>>,
    by_port: Table<MappedPort<F>>,
    hasher: Hasher,
    live: u32,
    max: u32,
}

impl<F: Wire> Mappings<F> {
    /// Room for as many as `flows_max` flows can have, allocated now.
    pub(crate) fn new(flows_max: u32, hasher: Hasher) -> Self {
        let max = flows_max.min(MAPPINGS_MAX);
        Self { by_pod: Table::new(max), by_port: Table::new(max), hasher, live: 0, max }
    }

    /// Whether there is no room for another.
    pub(crate) fn is_full(&self) -> bool {
        self.live >= self.max
    }

    /// The port that a pod's address and port are mapped to on an egress address.
    pub(crate) fn port_of(&self, original: &Tuple<F::Address>, egress: F::Address) -> Option<u16> {
        self.find(original, egress).map(|index| self.by_pod[index].egress_port)
    }

    /// Whether some mapping has the port that replies of this tuple would come to.
    pub(crate) fn has_port(&self, reply: &Tuple<F::Address>) -> bool {
        if self.live == 0 {
            return false;
        }
        let key = port_key(reply.protocol, reply.destination, reply.destination_port);
        self.by_port.find(&key, self.hasher.tuple(&key)).is_some()
    }

    /// Whether a flow that is translated so can be one of a mapping: it has a port, and no other
    /// mapping has it.
    pub(crate) fn has_room_for(&self, flow: &Translation<F>) -> bool {
        match self.port_of(&flow.original, flow.egress) {
            Some(port) => port == flow.egress_port,
            None => !self.is_full() && flow.egress_port != 0 && !self.has_port(&flow.reply()),
        }
    }

    /// A flow has opened that is translated so: its mapping has one more, and begins with the first.
    /// Without effect when there is no room, which [`Mappings::is_full`] tells before.
    pub(crate) fn opened(&mut self, flow: &Translation<F>) {
        let Translation { original, egress, egress_port } = *flow;
        if let Some(index) = self.find(&original, egress) {
            self.by_pod[index].flows += 1;
            return;
        }
        let Tuple { source: pod, source_port: pod_port, protocol, .. } = original;
        let port = MappedPort { egress, egress_port, protocol };
        let Some(port) = self.by_port.insert(self.hasher.key(&port.key()), port) else {
            return;
        };
        let mapping = Mapping { pod, egress, pod_port, egress_port, protocol, port, flows: 1 };
        self.by_pod.insert(self.hasher.key(&mapping.key()), mapping);
        self.live += 1;
    }

    /// One of a mapping's flows has ended; says whether the mapping has ended with it.
    pub(crate) fn ended(&mut self, flow: &Translation<F>) -> bool {
        let Some(index) = self.find(&flow.original, flow.egress) else { return false };
        let mapping = &mut self.by_pod[index];
        mapping.flows -= 1;
        if mapping.flows > 0 {
            return false;
        }
        let mapping = *mapping;
        let port = port_key(mapping.protocol, mapping.egress, mapping.egress_port);
        self.by_port.remove(self.hasher.tuple(&port), mapping.port);
        self.by_pod.remove(self.hasher.key(&mapping.key()), index);
        self.live -= 1;
        true
    }

    fn find(&self, original: &Tuple<F::Address>, egress: F::Address) -> Option<SlotIndex> {
        let key = Tuple { destination: egress, destination_port: 0, ..*original };
        self.by_pod.find(&key, self.hasher.tuple(&key))
    }
}

/// What a mapped port is found by.
fn port_key<A: Address>(protocol: u8, egress: A, egress_port: u16) -> Tuple<A> {
    Tuple { destination: egress, destination_port: egress_port, protocol, ..Tuple::NONE }
}
