//! What flows use of egress addresses and policies, counted when somebody asks ([`crate::census`]): while
//! packets are forwarded nothing of it is kept. What they have carried is in their own counts, and that of
//! flows that have ended in [`crate::accounts`]. Pure.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use spillway_api::limits::USAGE_REMOTES_MAX;
use spillway_api::{Document, EgressUsage, PolicyUsage, RemoteUsage, Usage};
use spillway_engine::{Accounts, Carried, FlowRecord, Tuple};

use crate::accounts::{Account, Book, Sums};
use crate::answer::protocol_name;

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
const SCTP: u8 = 132;

/// A remote as an egress address's ports are leased towards it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Remote {
    protocol: u8,
    address: IpAddr,
    port: u16,
}

impl Remote {
    /// Of a flow's reply tuple; none of a protocol without ports. An echo has no port but its own.
    fn of(reply: &Tuple) -> Option<Self> {
        let port = match reply.protocol {
            TCP | UDP | SCTP => reply.source_port,
            ICMP | ICMPV6 => 0,
            _ => return None,
        };
        Some(Self { protocol: reply.protocol, address: reply.source, port })
    }
}

/// How many flows an egress address has to each remote, of so many remotes at most.
///
/// Beyond, one that is new takes one flow from each, and is not counted itself (Misra and Gries, Finding repeated
/// elements, 1982): so of all the flows, each remote lacks at most one for every so many.
#[derive(Debug)]
struct Remotes {
    max: usize,
    flows: HashMap<(IpAddr, Remote), u64>,
}

impl Remotes {
    fn add(&mut self, egress: IpAddr, remote: Remote) {
        if let Some(flows) = self.flows.get_mut(&(egress, remote)) {
            *flows += 1;
        } else if self.flows.len() < self.max {
            self.flows.insert((egress, remote), 1);
        } else {
            self.flows.retain(|_, flows| {
                *flows -= 1;
                *flows > 0
            });
        }
    }

    /// Of each egress address the remote to which it has most flows.
    fn fullest(&self) -> HashMap<IpAddr, (u64, Remote)> {
        let mut fullest: HashMap<IpAddr, (u64, Remote)> = HashMap::new();
        for ((egress, remote), flows) in &self.flows {
            let found = (*flows, *remote);
            let most = fullest.entry(*egress).or_insert(found);
            // Of two that are as full, always the same one.
            *most = found.max(*most);
        }
        fullest
    }
}

/// Flows that were counted so far.
#[derive(Debug)]
pub(crate) struct Count {
    by_egress: HashMap<IpAddr, u64>,
    by_remote: Remotes,
    by_policy: HashMap<Arc<str>, u64>,
    of_no_policy: u64,
    /// What they have carried.
    pub(crate) sums: Sums,
}

impl Count {
    /// Of no flow yet.
    pub(crate) fn new(sums: Sums) -> Self {
        Self {
            by_egress: HashMap::new(),
            by_remote: Remotes { max: USAGE_REMOTES_MAX, flows: HashMap::new() },
            by_policy: HashMap::new(),
            of_no_policy: 0,
            sums,
        }
    }

    /// Counts a flow; `policy` is the one that selects it, if that is known.
    pub(crate) fn add(&mut self, flow: &FlowRecord, policy: Option<&Arc<str>>) {
        let egress = flow.reply.destination;
        *self.by_egress.entry(egress).or_default() += 1;
        if let Some(remote) = Remote::of(&flow.reply) {
            self.by_remote.add(egress, remote);
        }
        let Some(name) = policy else {
            self.of_no_policy += 1;
            return;
        };
        match self.by_policy.get_mut(name) {
            Some(flows) => *flows += 1,
            None => drop(self.by_policy.insert(Arc::clone(name), 1)),
        }
    }

    /// Adds what a flow has carried so far.
    pub(crate) fn add_traffic(&mut self, flow: &FlowRecord, accounts: &Accounts) {
        let carried = Carried { forward: flow.forward_traffic, reply: flow.reply_traffic };
        let policy = accounts.policy(flow.epoch, flow.policy);
        let egress = accounts.egress(flow.reply.destination);
        for account in [policy, egress].into_iter().flatten() {
            self.sums.add(account, carried);
        }
    }

    /// What a document's egress addresses and policies have of the flows, now that all were counted. One that
    /// the document does not list any more is left out with its flows. When it was is for the caller to say.
    pub(crate) fn of(&self, document: &Document, book: &mut Book) -> Usage {
        let mut traffic = |account: &Account| book.total(account, &self.sums);
        let fullest = self.by_remote.fullest();
        let egress_addresses = document.egress_addresses.iter().map(|egress| {
            let (address, ports) = (egress.address, egress.port_range());
            EgressUsage {
                address,
                flows: self.by_egress.get(&address).copied().unwrap_or_default(),
                ports: u64::from(ports.last.saturating_sub(ports.first)) + 1,
                fullest: fullest.get(&address).map(|(ports, remote)| RemoteUsage {
                    protocol: protocol_name(remote.protocol),
                    address: remote.address,
                    port: remote.port,
                    ports: *ports,
                }),
                traffic: traffic(&Account::Egress(address)),
            }
        });
        let egress_addresses = egress_addresses.collect();
        let policies = document.policies.iter().map(|policy| PolicyUsage {
            name: policy.name.clone(),
            flows: self.by_policy.get(policy.name.as_str()).copied().unwrap_or_default(),
            traffic: traffic(&Account::policy(&policy.name)),
        });
        Usage {
            counted: true,
            counting: false,
            counted_at_ms: 0,
            egress_addresses,
            policies: policies.collect(),
            flows_of_no_policy: self.of_no_policy,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use spillway_api::Traffic;
    use spillway_engine::FlowState;

    use super::*;

    const DOCUMENT: &str = "
generation: 1
tunnels: [{address: 192.168.44.128, peers: [{address: 192.168.211.128}]}]
egress_addresses:
  - {address: 192.168.44.129, kind: own}
  - {address: 192.168.44.128, kind: shared}
policies:
  - name: app1
    egress_address: 192.168.44.129
    destinations: [203.0.113.0/24]
    pods: [10.0.1.40]
  - name: app2
    egress_address: 192.168.44.128
    destinations: [203.0.113.0/24]
    pods: [10.0.1.41]
";

    fn count() -> Count {
        Count::new(Sums::default())
    }

    /// A flow of the egress address, from a port to a remote.
    fn flow(egress: &str, protocol: u8, port: u16, remote: (&str, u16)) -> FlowRecord {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let reply = Tuple {
            source: address(remote.0),
            destination: address(egress),
            source_port: remote.1,
            destination_port: port,
            protocol,
        };
        FlowRecord {
            original: Tuple { source: address("10.0.1.40"), ..reply },
            reply,
            state: FlowState::Established,
            created_ns: 0,
            last_seen_ns: 0,
            forward_traffic: spillway_engine::Traffic { packets: 2, bytes: 90 },
            reply_traffic: spillway_engine::Traffic { packets: 1, bytes: 60 },
            policy: 0,
            epoch: 1,
            peer: Ipv4Addr::UNSPECIFIED,
        }
    }

    #[test]
    fn the_fullest_remote_of_each_egress_address_is_found() {
        let (own, shared) = ("192.168.44.129", "192.168.44.128");
        let mut count = count();
        let web = ("203.0.113.10", 443);
        (0..3).for_each(|port| count.add(&flow(own, TCP, 2000 + port, web), Some(&"app1".into())));
        // Another protocol, another port, another address: none of them is that remote.
        count.add(&flow(own, UDP, 2000, web), Some(&"app1".into()));
        count.add(&flow(own, TCP, 2000, ("203.0.113.10", 80)), Some(&"app1".into()));
        count.add(&flow(shared, TCP, 20_000, web), Some(&"app2".into()));
        // Echoes have identifiers in place of both ports.
        (7..12).for_each(|id| count.add(&flow(shared, ICMP, id, ("203.0.113.11", id)), None));
        // Without ports there is none to lease.
        (0..9)
            .for_each(|_| count.add(&flow(own, 47, 0, ("203.0.113.12", 0)), Some(&"app1".into())));

        let usage = count.of(&Document::parse(DOCUMENT).unwrap(), &mut Book::default());
        let remote = |address: &str, protocol, port, ports| {
            let protocol = protocol_name(protocol);
            Some(RemoteUsage { protocol, address: address.parse().unwrap(), port, ports })
        };
        let egress = |address: &str, flows, ports, fullest| EgressUsage {
            address: address.parse().unwrap(),
            flows,
            ports,
            fullest,
            traffic: Traffic::default(),
        };
        let expected = [
            egress(own, 14, 64_512, remote("203.0.113.10", TCP, 443, 3)),
            egress(shared, 6, 13_616, remote("203.0.113.11", ICMP, 0, 5)),
        ];
        assert_eq!(usage.egress_addresses, expected);
        let traffic = Traffic::default();
        let policy = |name: &str, flows| PolicyUsage { name: name.to_owned(), flows, traffic };
        assert_eq!(usage.policies, [policy("app1", 14), policy("app2", 1)]);
        assert_eq!(usage.flows_of_no_policy, 5);
    }

    #[test]
    fn live_flows_traffic_is_that_of_their_policy_and_of_their_egress_address() {
        let (own, other) = ("192.168.44.129", "192.168.44.128");
        let web = ("203.0.113.10", 443);
        let document = Document::parse(DOCUMENT).unwrap();
        let mut book = Book::default();
        book.open(&document);
        let policy = book.number(&Account::policy("app1"));
        let egress = book.number(&Account::Egress(own.parse().unwrap())).unwrap();
        // The first policy of epoch 1 is app1; the other address has no account.
        let accounts = Accounts::new(vec![(1, vec![policy])], [(own.parse().unwrap(), egress)]);
        let mut count = Count::new(Sums::begin(&book, Vec::new()));
        count.add_traffic(&flow(own, TCP, 2000, web), &accounts);
        count.add_traffic(&flow(other, TCP, 2000, web), &accounts);
        let former = FlowRecord { epoch: 0, ..flow(own, TCP, 2001, web) };
        count.add_traffic(&former, &accounts);
        let usage = count.of(&document, &mut book);
        let packets = |traffic: &Traffic| (traffic.original_packets, traffic.reply_packets);
        let policies: Vec<_> = usage.policies.iter().map(|at| packets(&at.traffic)).collect();
        assert_eq!(policies, [(4, 2), (0, 0)]);
        let egress: Vec<_> = usage.egress_addresses.iter().map(|at| packets(&at.traffic)).collect();
        assert_eq!(egress, [(4, 2), (0, 0)]);
    }

    #[test]
    fn of_more_remotes_than_there_is_room_for_the_fullest_is_still_found() {
        let egress: IpAddr = "192.0.2.1".parse().unwrap();
        let remote = |number: u32| Remote {
            protocol: TCP,
            address: Ipv4Addr::from_bits(number).into(),
            port: 443,
        };
        let mut remotes = Remotes { max: 8, flows: HashMap::new() };
        // A hundred flows to one, and a flow to each of a hundred others, mixed.
        for other in 1..=100 {
            remotes.add(egress, remote(0));
            remotes.add(egress, remote(other));
            assert!(remotes.flows.len() <= 8);
        }
        let (flows, fullest) = remotes.fullest()[&egress];
        assert_eq!(fullest, remote(0));
        // Of 200 flows, with room for eight remotes.
        assert!((100 - 200 / 8..=100).contains(&flows), "{flows}");
    }

    #[test]
    fn without_flows_everything_is_there_with_none() {
        let usage = count().of(&Document::parse(DOCUMENT).unwrap(), &mut Book::default());
        assert!(usage.counted);
        assert_eq!(usage.policies.iter().map(|policy| policy.flows).collect::<Vec<_>>(), [0, 0]);
        assert!(usage.egress_addresses.iter().all(|egress| egress.fullest.is_none()));
    }
}
