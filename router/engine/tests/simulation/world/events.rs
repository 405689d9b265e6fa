//! A record of the flows, kept by the engines' events alone: at each moment it says who has which address
//! and port.

use std::collections::BTreeMap;

use spillway_engine::{EndReason, FlowChange, Tuple};

use super::*;

/// What the events have said: the worker and the pod's tuple, by reply tuple.
#[derive(Debug, Default)]
pub(super) struct Told {
    flows: BTreeMap<Tuple, (usize, Tuple)>,
    /// When they were followed last.
    until: u64,
    pub(super) ends: BTreeMap<EndReason, u64>,
}

impl Told {
    /// Takes an event in: who begins finds its address and port free, and who ends has had them.
    fn take(&mut self, worker: usize, event: &spillway_engine::FlowEvent) {
        let (flow, owner) = (&event.flow, (worker, event.flow.original));
        assert!(flow.created_ns <= event.at && self.until <= event.at, "{event:?}");
        match event.change {
            FlowChange::Begin => {
                let had = self.flows.insert(flow.reply, owner);
                assert_eq!(had, None, "{event:?}");
                let traffic = (flow.forward_traffic.packets, flow.reply_traffic.packets);
                assert_eq!(traffic, (0, 0), "{event:?}");
            }
            FlowChange::End(why) => {
                assert_eq!(self.flows.remove(&flow.reply), Some(owner), "{event:?}");
                *self.ends.entry(why).or_default() += 1;
            }
        }
    }
}

impl World {
    /// Follows the events: as many flows live as they say.
    pub(super) fn follow_events(&mut self) {
        let Self { cluster, told, .. } = self;
        for (worker, engine) in cluster.engines.iter_mut().enumerate() {
            assert_eq!(engine.take_events(|event| told.take(worker, &event)), 0, "none is lost");
        }
        let live: u64 = cluster.engines.iter().map(spillway_engine::Engine::flows_live).sum();
        assert_eq!(told.flows.len() as u64, live);
        told.until = cluster.now;
    }

    /// The events have told of every flow that lives, and of no other.
    pub(super) fn check_events(&mut self) {
        self.follow_events();
        let live = (0..).zip(&self.cluster.engines).flat_map(|(worker, engine)| {
            let (mut flows, mut cursor) = (Vec::new(), Some(0));
            while let Some(from) = cursor {
                cursor = engine.flows(from, 1000, &mut flows);
            }
            flows.into_iter().map(move |flow| (flow.reply, (worker, flow.original)))
        });
        assert_eq!(self.told.flows, live.collect());
    }

    /// The engines are others, and a flow lives with this worker now, or nowhere.
    pub(super) fn told_of_restart(&mut self, reply: &Tuple, now_with: Option<usize>) {
        match (self.told.flows.get_mut(reply), now_with) {
            (Some((worker, _)), Some(now_with)) => *worker = now_with,
            (Some(_), None) => drop(self.told.flows.remove(reply)),
            (None, _) => panic!("nobody has told of {reply:?}"),
        }
    }
}
