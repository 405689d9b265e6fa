//! Plans are carried out on a model of the maps, one operation at a time.

use std::collections::HashMap;

use ipnet::{Ipv4Net, Ipv6Net};

use super::super::address::Address;
use super::super::tree::{COVERED, NOT_COVERED, NOT_SELECTED, WORD_SHIFT, word_of};
use super::*;

const DESTINATIONS: [Ipv4Addr; 3] =
    [Ipv4Addr::new(203, 0, 113, 10), Ipv4Addr::new(203, 0, 113, 20), Ipv4Addr::new(8, 8, 8, 8)];

/// The maps that decide over a pod's frame, and the programs that look into them meanwhile.
#[derive(Default)]
struct Model {
    pods: BTreeMap<IpAddr, Block>,
    nodes: HashMap<u32, Node>,
    /// What programs that may still run have found in `pods`, and what that must lead them to.
    readers: HashMap<Reference, Vec<bool>>,
    waits: usize,
}

impl Model {
    fn carry_out(&mut self, operation: Operation) {
        match operation {
            Operation::AwaitPrograms => {
                self.readers.clear();
                self.waits += 1;
            }
            Operation::SetNode(index, node) => {
                self.nodes.insert(index, node);
            }
            Operation::SetPods(first, block) => drop(self.pods.insert(first, block)),
            Operation::RemovePods(first) => drop(self.pods.remove(&first)),
            _ => {}
        }
        for (set, verdicts) in &self.readers {
            assert_eq!(self.verdicts(*set), *verdicts, "a tree changed while it was read");
        }
        for set in self.pods.values().flatten() {
            let verdicts = self.verdicts(*set);
            self.readers.insert(*set, verdicts);
        }
    }

    /// What a set's tree says of all destinations, as if it were a tree of either family.
    fn verdicts(&self, set: Reference) -> Vec<bool> {
        DESTINATIONS
            .iter()
            .flat_map(|to| [number(*to), number(mapped(*to))])
            .map(|destination| self.walk(set, destination))
            .collect()
    }

    fn walk(&self, mut set: Reference, destination: u128) -> bool {
        while set != NOT_SELECTED && set < NOT_COVERED {
            let node = &self.nodes[&(set % (1 << WORD_SHIFT))];
            let word = word_of(destination, set >> WORD_SHIFT);
            let before = |last: &&u32| **last < word;
            set = node.next[node.last.iter().filter(before).count()];
        }
        set == COVERED
    }

    /// What steering would say: `None` for a pod that is not selected.
    fn verdict<A: Address>(&self, pod: A, destination: A::Net) -> Option<bool> {
        let (first, place) = pod.block();
        let set = self.pods.get(&first.into())?[place];
        (set != NOT_SELECTED).then(|| self.walk(set, A::range(&destination).0))
    }

    /// After each operation every pod has one of its tables' verdicts.
    fn check(&self, tables: &[&SteerTables], operation: Operation) {
        for number in 0..4 {
            for to in DESTINATIONS {
                let families: Vec<_> = tables.iter().map(|tables| &tables.v4).collect();
                self.check_one(&families, pod(number), to.into(), operation);
                let families: Vec<_> = tables.iter().map(|tables| &tables.v6).collect();
                self.check_one(&families, mapped(pod(number)), mapped(to).into(), operation);
            }
        }
    }

    fn check_one<A: Address>(
        &self,
        tables: &[&SteerFamily<A>],
        pod: A,
        destination: A::Net,
        operation: Operation,
    ) {
        let verdict = self.verdict(pod, destination);
        let allowed: Vec<_> =
            tables.iter().map(|tables| wanted(tables, pod, destination)).collect();
        assert!(
            allowed.contains(&verdict),
            "{pod:?} to {destination:?} after {operation:?}: {verdict:?}, not of {allowed:?}"
        );
    }
}

fn pod(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 1, number)
}

/// An IPv6 address for each IPv4 one.
fn mapped(address: Ipv4Addr) -> Ipv6Addr {
    address.to_ipv6_mapped()
}

/// What the trees know an address by.
fn number<A: Address>(address: A) -> u128
where
    A::Net: From<A>,
{
    A::range(&A::Net::from(address)).0
}

fn wanted<A: Address>(tables: &SteerFamily<A>, pod: A, destination: A::Net) -> Option<bool> {
    let set = &tables.sets[*tables.pods.get(&pod)?];
    let (address, _) = A::range(&destination);
    let ranges = set.iter().map(|(net, on)| (A::range(net), *on));
    let matching = ranges.filter(|((first, last), _)| (*first..=*last).contains(&address));
    Some(matching.min_by_key(|((first, last), _)| last - first).is_some_and(|(_, on)| on))
}

/// Tables that a small number stands for: each of four pods has one of three sets, or none, of one
/// family's; and another number for the other family's.
fn tables(seed: u32) -> SteerTables {
    let v4 = family(seed, pod, |net| net);
    // An IPv6 prefix for each IPv4 one.
    let net = |net: Ipv4Net| Ipv6Net::new(mapped(net.addr()), net.prefix_len() + 96).unwrap();
    let v6 = family((seed * 73 + 5) % 256, |number| mapped(pod(number)), net);
    SteerTables { v4, v6, ..SteerTables::default() }
}

fn family<A: Address>(
    mut number: u32,
    pod: impl Fn(u8) -> A,
    net: impl Fn(Ipv4Net) -> A::Net,
) -> SteerFamily<A> {
    let net = |text: &str| net(text.parse().unwrap());
    let sets = [
        vec![(net("203.0.113.0/24"), true), (net("203.0.113.20/32"), false)],
        vec![(net("203.0.113.0/24"), true)],
        vec![(net("0.0.0.0/0"), true), (net("203.0.113.0/24"), false)],
    ];
    let mut pods = BTreeMap::new();
    for index in 0..4 {
        let choice = (number % 4) as usize;
        number /= 4;
        if choice < sets.len() {
            pods.insert(pod(index), choice);
        }
    }
    // Only the sets that are used, as the router gives them.
    let used: Vec<usize> = (0..sets.len()).filter(|set| pods.values().any(|s| s == set)).collect();
    for set in pods.values_mut() {
        *set = used.iter().position(|used| used == set).unwrap();
    }
    let sets = used.iter().map(|set| sets[*set].clone()).collect();
    SteerFamily { pods, sets, ..SteerFamily::default() }
}

/// Enough for the three sets of `family` in both families, but not twice: of IPv6 each has a node for
/// every word.
const FEW_NODES: u32 = 3 + 3 * 4 + 2;

#[test]
fn no_pod_is_ever_without_its_old_or_its_new_verdict() {
    let mut programmed = Programmed::with_nodes(FEW_NODES);
    let mut model = Model::default();
    let mut current = SteerTables::default();
    // A walk over the 256 tables: an odd step visits all of them.
    for step in 0..512u32 {
        let next = tables(step * 91 % 256);
        let (operations, after) = programmed.plan(&next).unwrap();
        for operation in operations {
            model.carry_out(operation);
            model.check(&[&current, &next], operation);
        }
        programmed = after;
        current = next;
        model.check(&[&current], Operation::AwaitPrograms);
    }
    assert!(model.waits > 10, "nodes were used again, {} times", model.waits);
    let (_, empty) = programmed.plan(&SteerTables::default()).unwrap();
    assert_eq!(empty.nodes.available(), FEW_NODES as usize - 1, "no node is lost");
}

/// A plan that fails at any operation leaves pods with old or new verdicts; the next one puts all in
/// order, whatever tables it leads to.
#[test]
fn an_interrupted_plan_does_no_harm() {
    for step in 0..512u32 {
        let [old, new, later] = [step, step * 91 + 7, step * 57 + 3].map(|n| tables(n % 256));
        let (begin, programmed) = Programmed::with_nodes(3 * FEW_NODES).plan(&old).unwrap();
        let (operations, _) = programmed.plan(&new).unwrap();
        for done in 0..operations.len() {
            let mut model = Model::default();
            let mut programmed = programmed.clone();
            begin.iter().for_each(|operation| model.carry_out(*operation));
            let (operations, next) = programmed.plan(&new).unwrap();
            operations[..done].iter().for_each(|operation| model.carry_out(*operation));
            programmed.interrupted(next);
            let (operations, after) = programmed.plan(&later).unwrap();
            for operation in operations {
                model.carry_out(operation);
                model.check(&[&old, &new, &later], operation);
            }
            model.check(&[&later], Operation::AwaitPrograms);
            let (_, empty) = after.plan(&SteerTables::default()).unwrap();
            assert_eq!(empty.nodes.available(), 3 * FEW_NODES as usize - 1, "no node is lost");
        }
    }
}

/// Replies have as much room as the engine thinks, also when the tables before are the next ones again.
#[test]
fn an_interrupted_change_of_the_underlay_can_be_taken_back() {
    let over = |tunnel: &str, peer: &str| {
        let tunnel: IpAddr = tunnel.parse().unwrap();
        let mut tables = SteerTables::default();
        let steered = SteerPeer { tunnel, key: Ipv4Addr::new(0, 1, 2, 3) };
        tables.tunnels.insert(tunnel);
        tables.peers.insert(peer.parse().unwrap(), steered);
        let ports = EgressPorts { first: 1024, last: 65_535, own: true, announce: None };
        tables.v4.egress.insert(Ipv4Addr::new(198, 51, 100, 1), ports);
        tables
    };
    let old = over("192.0.2.1", "192.0.2.2");
    let new = over("2001:db8::1", "2001:db8::2");
    let moved = over("192.0.2.3", "192.0.2.2");
    let (begin, programmed) = Programmed::default().plan(&old).unwrap();
    for other in [new, moved] {
        let count = programmed.plan(&other).unwrap().0.len();
        for done in 0..=count {
            let (mut egress, mut peers) = (BTreeMap::new(), BTreeMap::new());
            let mut carry_out = |operation: &Operation| match *operation {
                Operation::SetEgress(at, ports, way) => drop(egress.insert(at, (ports, way))),
                Operation::RemoveEgress(at) => drop(egress.remove(&at)),
                Operation::SetPeer(at, peer) => drop(peers.insert(at, peer)),
                Operation::RemovePeer(at) => drop(peers.remove(&at)),
                _ => {}
            };
            let mut programmed = programmed.clone();
            begin.iter().for_each(&mut carry_out);
            let (operations, next) = programmed.plan(&other).unwrap();
            operations[..done].iter().for_each(&mut carry_out);
            programmed.interrupted(next);
            programmed.plan(&old).unwrap().0.iter().for_each(&mut carry_out);
            let ports =
                old.v4.egress.iter().map(|(at, ports)| ((*at).into(), (*ports, Underlay::V4)));
            assert_eq!(egress, ports.collect::<BTreeMap<IpAddr, _>>(), "after {done} operations");
            assert_eq!(peers, old.peers, "after {done} operations");
        }
    }
}

#[test]
fn all_peers_may_change_their_family_at_once() {
    let over = |of: fn(Ipv4Addr) -> IpAddr| {
        let address = |index: u32| of(Ipv4Addr::from_bits(0x0a00_0000 + index));
        let peer = SteerPeer { tunnel: address(0), key: Ipv4Addr::new(0, 1, 2, 3) };
        let peers = (1..).take(PEERS_MAX).map(|index| (address(index), peer)).collect();
        SteerTables { tunnels: [address(0)].into(), peers, ..SteerTables::default() }
    };
    let (_, programmed) = Programmed::default().plan(&over(IpAddr::V4)).unwrap();
    let (operations, _) = programmed.plan(&over(|address| mapped(address).into())).unwrap();
    assert_eq!(operations.len(), 2 * (PEERS_MAX + 1));
}

#[test]
fn the_same_tables_again_need_no_operation() {
    let tables = tables(27);
    let (_, programmed) = Programmed::default().plan(&tables).unwrap();
    assert_eq!(programmed.plan(&tables).unwrap().0, []);
}

#[test]
fn more_than_fits_is_refused_before_anything_changes() {
    let address = |index: usize| Ipv4Addr::from(u32::try_from(index).unwrap());
    let mut full = SteerTables::default();
    full.v4.pods = (0..PODS_MAX).map(|pod| (address(pod), 0)).collect();
    full.v4.sets = vec![vec![("0.0.0.0/0".parse().unwrap(), true)]];
    full.v6.pods = (0..PODS_MAX).map(|pod| (mapped(address(pod)), 0)).collect();
    full.v6.sets = vec![vec![("::/0".parse().unwrap(), true)]];
    let (_, programmed) = Programmed::default().plan(&full).unwrap();
    let mut more = full.clone();
    more.v4.pods.insert(address(PODS_MAX), 0);
    let refused = programmed.plan(&more).unwrap_err();
    assert_eq!(refused, TooMany { what: "pods", count: PODS_MAX + 1, max: PODS_MAX });
    assert_eq!(
        refused.to_string(),
        "65537 pods do not fit: the steering program has room for 65536"
    );
    let mut more = full;
    more.v6.pods.insert(mapped(address(PODS_MAX)), 0);
    let refused = programmed.plan(&more).unwrap_err();
    assert_eq!(refused, TooMany { what: "IPv6 pods", count: PODS_MAX + 1, max: PODS_MAX });
}

/// IPv6 prefixes can use up the nodes before there are too many of them.
#[test]
fn trees_that_do_not_fit_are_refused_before_anything_changes() {
    let programmed = Programmed::with_nodes(5);
    let host = |number: u128| Ipv6Net::from(Ipv6Addr::from(number << 96));
    let mut tables = SteerTables::default();
    tables.v6.pods = [(mapped(pod(1)), 0)].into();
    tables.v6.sets = vec![vec![(host(1), true)]];
    let (_, programmed) = programmed.plan(&tables).expect("a node for each word");
    tables.v6.sets = vec![vec![(host(1), true), (host(2), true)]];
    let refused = programmed.plan(&tables).unwrap_err();
    assert_eq!(refused.what, "nodes of the policy sets' search trees");
}
