//! A record of the flows, kept by the engines' events alone: at each moment it says who has which address
//! and port. And what flows have carried, by policy and egress address, against what was sent.

use std::collections::BTreeMap;

use spillway_engine::{
    AccountNumber, Accounts, BlockEvent, Carried, EndReason, FlowChange, FlowRecord, PortBlock,
    Traffic, Tuple,
};

use super::*;

/// What the events have said: the worker and the pod's tuple, by reply tuple.
#[derive(Debug, Default)]
pub(super) struct Told {
    flows: BTreeMap<Tuple, (usize, Tuple)>,
    /// The worker and the pod that have a block, by its address and first port.
    blocks: BTreeMap<(IpAddr, u16), (usize, IpAddr)>,
    /// When they were followed last.
    until: u64,
    pub(super) ends: BTreeMap<EndReason, u64>,
    /// What the flows had carried that the engines have taken up from others.
    before: Carried,
    was_restarted: bool,
    /// Of each epoch, the last one first.
    lists: Vec<(u32, Vec<Option<AccountNumber>>)>,
}

/// The accounts of the policies of both families, by index: never the same for two epochs in turn.
const POLICY_ACCOUNTS: AccountNumber = 6;

/// The account of each egress address.
fn egress_accounts() -> impl Iterator<Item = (IpAddr, AccountNumber)> {
    let v4 = [EGRESS, OTHER_EGRESS].map(IpAddr::V4);
    let v6 = [EGRESS6, OTHER_EGRESS6].map(IpAddr::V6);
    v4.into_iter().chain(v6).zip(POLICY_ACCOUNTS..)
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

    /// The same of blocks.
    fn take_block(&mut self, worker: usize, event: &BlockEvent) {
        let PortBlock { pod, egress, first, .. } = event.block;
        let (key, owner) = ((egress, first), (worker, pod));
        if event.is_begin {
            assert_eq!(self.blocks.insert(key, owner), None, "{event:?}");
        } else {
            assert_eq!(self.blocks.remove(&key), Some(owner), "{event:?}");
        }
    }
}

impl World {
    /// The engines have begun anew with the flows of others: they are asked for their blocks.
    pub(super) fn told_of_blocks(&mut self) {
        self.told.blocks.clear();
        for (worker, engine) in self.cluster.engines.iter().enumerate() {
            let (mut blocks, mut cursor) = (Vec::new(), Some(0));
            while let Some(from) = cursor {
                cursor = engine.port_blocks(from, 1000, &mut blocks);
            }
            for PortBlock { pod, egress, first, .. } in blocks {
                assert_eq!(self.told.blocks.insert((egress, first), (worker, pod)), None);
            }
        }
    }

    /// Follows the events: as many flows live as they say.
    pub(super) fn follow_events(&mut self) {
        let Self { cluster, told, .. } = self;
        for (worker, engine) in cluster.engines.iter_mut().enumerate() {
            assert_eq!(engine.take_events(|event| told.take(worker, &event)), 0, "none is lost");
        }
        for (worker, engine) in cluster.engines.iter_mut().enumerate() {
            let lost = engine.take_block_events(|event| told.take_block(worker, &event));
            assert_eq!(lost, 0, "none is lost");
        }
        if self.block > 1 {
            self.totals.flows_in_blocks += told.flows.len() as u64;
            for (reply, (worker, original)) in &told.flows {
                let first = reply.destination_port / self.block * self.block;
                let of = told.blocks.get(&(reply.destination, first));
                assert_eq!(of, Some(&(*worker, original.source)), "{reply:?}");
            }
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
        self.check_carried();
    }

    /// The accounts of the tables of the next epoch.
    pub(super) fn next_accounts(&mut self) -> Accounts {
        let epoch = self.cluster.input.epoch + 1;
        let number = AccountNumber::try_from(epoch % 6).unwrap();
        let list = (0..POLICY_ACCOUNTS).map(|index| Some((number + index) % POLICY_ACCOUNTS));
        self.told.lists.insert(0, (epoch, list.collect()));
        Accounts::new(self.told.lists.clone(), egress_accounts())
    }

    /// What live and ended flows have carried is what was forwarded, over all egress addresses; and over all
    /// policies, as far as it is known which one flows had.
    pub(super) fn check_carried(&self) {
        let accounts = &self.cluster.input.accounts;
        let (mut by_egress, mut by_policy) = (Carried::default(), Carried::default());
        for engine in &self.cluster.engines {
            egress_accounts().for_each(|(_, account)| by_egress.add(engine.carried(account)));
            (0..POLICY_ACCOUNTS).for_each(|account| by_policy.add(engine.carried(account)));
        }
        for flow in self.cluster.flows() {
            let carried = carried(&flow);
            assert!(accounts.egress(flow.reply.destination).is_some());
            by_egress.add(carried);
            if accounts.policy(flow.epoch, flow.policy).is_some() {
                by_policy.add(carried);
            }
        }
        by_egress.subtract(self.told.before);
        let sent = Traffic {
            packets: self.cluster.sum(|counters| counters.forward.packets),
            bytes: self.cluster.sum(|counters| counters.forward.bytes),
        };
        assert_eq!(by_egress.forward, sent);
        // A RST that nobody believes is passed on, and no flow's.
        assert!(by_egress.reply.packets <= self.cluster.sum(|counters| counters.reply.packets));
        if !self.told.was_restarted {
            assert_eq!(by_policy, by_egress);
        }
    }

    /// The engines are others, and have taken up these flows.
    pub(super) fn carried_before(&mut self) {
        self.told.was_restarted = true;
        self.told.before = Carried::default();
        for flow in self.cluster.flows() {
            self.told.before.add(carried(&flow));
        }
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

fn carried(flow: &FlowRecord) -> Carried {
    Carried { forward: flow.forward_traffic, reply: flow.reply_traffic }
}
