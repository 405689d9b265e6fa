//! What flows hold beside their entries and their port, where their policy has options: a count
//! among their pod's flows, a share of an endpoint-independent mapping. Touched only when a flow opens
//! or ends.

use std::sync::Arc;

use crate::DropReason;
use crate::flow::{FLOWS_PER_POD_MAX, Hasher, Place, PodFlows, SlotIndex, Translation, Tuple};
use crate::nat::Mappings;
use crate::packet::Wire;
use crate::policy::PolicyIndex;
use crate::tables::{EgressAddress, FamilyTables};

/// What one flow holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Holding {
    /// Where it is counted among its pod's flows.
    pub(super) place: Option<Place>,
    /// Whether it is one of a mapping's.
    pub(super) is_mapped: bool,
}

impl Holding {
    const MAPPED: u32 = 1 << 31;

    /// In 32 bits: 0 is nothing.
    fn packed(self) -> u32 {
        let place = self.place.map_or(0, |place| place.number() + 1);
        place | if self.is_mapped { Self::MAPPED } else { 0 }
    }

    fn of_packed(packed: u32) -> Self {
        let place = (packed & !Self::MAPPED).checked_sub(1).map(Place::of_number);
        Self { place, is_mapped: packed & Self::MAPPED != 0 }
    }
}

/// What the flows of one worker hold.
#[derive(Debug)]
pub(super) struct Holdings<F: Wire> {
    pub(super) mappings: Mappings<F>,
    pod_flows: Arc<PodFlows>,
    hasher: Hasher,
    /// By the place of the flow's original.
    of_flow: Vec<u32>,
}

impl<F: Wire> Holdings<F> {
    /// For a table of `flows_max` flows with so many slots.
    pub(super) fn new(
        flows_max: u32,
        slots: usize,
        pod_flows: Arc<PodFlows>,
        hasher: Hasher,
    ) -> Self {
        let mappings = Mappings::new(flows_max, hasher);
        Self { mappings, pod_flows, hasher, of_flow: vec![0; slots] }
    }

    /// Counts a new flow of a pod, where its policy limits them.
    pub(super) fn admit(
        &self,
        tables: &FamilyTables<F>,
        policy: PolicyIndex,
        original: &Tuple<F::Address>,
    ) -> Result<Option<Place>, DropReason> {
        let Some(max) = tables.options(Some(policy)).flows_per_pod_max else { return Ok(None) };
        let identity = self.identity(tables, policy, original);
        self.pod_flows.open(identity, max).map(Some).ok_or(DropReason::PodFlowLimit)
    }

    /// Whether [`Holdings::admit`] would.
    pub(super) fn may_admit(
        &self,
        tables: &FamilyTables<F>,
        policy: PolicyIndex,
        original: &Tuple<F::Address>,
    ) -> bool {
        let max = tables.options(Some(policy)).flows_per_pod_max;
        let identity = self.identity(tables, policy, original);
        max.is_none_or(|max| self.pod_flows.has_room(identity, max))
    }

    /// A counted flow does not come about.
    pub(super) fn give_back(&self, place: Option<Place>) {
        if let Some(place) = place {
            self.pod_flows.close(place);
        }
    }

    /// Whether a pod's address and port have a mapping here.
    pub(super) fn has_mapping(&self, original: &Tuple<F::Address>, egress: F::Address) -> bool {
        self.mappings.port_of(original, egress).is_some()
    }

    /// The port that a flow must have because its pod's address and port are mapped already.
    pub(super) fn mapped_port(
        &self,
        original: &Tuple<F::Address>,
        egress: &EgressAddress<F>,
    ) -> Result<Option<u16>, DropReason> {
        let Some(port) = self.mappings.port_of(original, egress.address) else {
            return match self.mappings.is_full() {
                true => Err(DropReason::MappingsExhausted),
                false => Ok(None),
            };
        };
        match (egress.port_first..=egress.port_last).contains(&port) {
            true => Ok(Some(port)),
            false => Err(DropReason::MappingConflict),
        }
    }

    /// A flow has opened that holds this.
    pub(super) fn opened(
        &mut self,
        flow: SlotIndex,
        translation: &Translation<F>,
        holding: Holding,
    ) {
        if holding.is_mapped {
            self.mappings.opened(translation);
        }
        // Mostly it holds nothing, and that of the flow before it was taken back.
        if holding != Holding::default()
            && let Some(packed) = self.of_flow.get_mut(flow.number())
        {
            *packed = holding.packed();
        }
    }

    /// A flow of an earlier engine gets what its policy's options want of it: beyond every limit, as live
    /// flows stay, and once.
    pub(super) fn take_up(
        &mut self,
        tables: &FamilyTables<F>,
        policy: PolicyIndex,
        flow: SlotIndex,
        translation: &Translation<F>,
    ) {
        if self.of_flow.get(flow.number()) != Some(&0) {
            return;
        }
        let options = tables.options(Some(policy));
        let is_limited = options.flows_per_pod_max.is_some();
        let identity = self.identity(tables, policy, &translation.original);
        let place =
            if is_limited { self.pod_flows.open(identity, FLOWS_PER_POD_MAX) } else { None };
        let is_mapped = options.endpoint_independent && self.mappings.has_room_for(translation);
        self.opened(flow, translation, Holding { place, is_mapped });
    }

    /// A pod under a policy.
    fn identity(
        &self,
        tables: &FamilyTables<F>,
        policy: PolicyIndex,
        original: &Tuple<F::Address>,
    ) -> u64 {
        self.hasher.address_with(tables.policy_identity(policy), original.source)
    }

    /// A flow has ended that was at this place; says whether a mapping has ended with it.
    pub(super) fn ended(&mut self, flow: SlotIndex, translation: &Translation<F>) -> bool {
        let Some(packed) = self.of_flow.get_mut(flow.number()) else { return false };
        let holding = Holding::of_packed(std::mem::take(packed));
        self.give_back(holding.place);
        holding.is_mapped && self.mappings.ended(translation)
    }
}
