//! Plans are carried out on a model of the maps, one operation at a time.

use super::super::tree::{COVERED, NOT_COVERED};
use super::*;

const DESTINATIONS: [Ipv4Addr; 3] =
    [Ipv4Addr::new(203, 0, 113, 10), Ipv4Addr::new(203, 0, 113, 20), Ipv4Addr::new(8, 8, 8, 8)];

/// The maps that decide over a pod's frame, and the programs that look into them meanwhile.
#[derive(Default)]
struct Model {
    pods: BTreeMap<u32, Block>,
    nodes: HashMap<Reference, Node>,
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
            Operation::SetPods(number, block) => drop(self.pods.insert(number, block)),
            Operation::RemovePods(number) => drop(self.pods.remove(&number)),
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

    fn verdicts(&self, set: Reference) -> Vec<bool> {
        DESTINATIONS.map(|destination| self.walk(set, destination)).to_vec()
    }

    fn walk(&self, mut set: Reference, destination: Ipv4Addr) -> bool {
        while set != NOT_SELECTED && set < NOT_COVERED {
            let node = &self.nodes[&set];
            let before = |last: &&u32| **last < u32::from(destination);
            set = node.next[node.last.iter().filter(before).count()];
        }
        set == COVERED
    }

    /// What steering would say: `None` for a pod that is not selected.
    fn verdict(&self, pod: Ipv4Addr, destination: Ipv4Addr) -> Option<bool> {
        let address = u32::from(pod);
        let set = self.pods.get(&(address >> BLOCK_BITS))?[address as usize % BLOCK_PODS];
        (set != NOT_SELECTED).then(|| self.walk(set, destination))
    }

    /// After each operation every pod has one of its tables' verdicts.
    fn check(&self, tables: &[&SteerTables], operation: Operation) {
        for pod in (0..4).map(|pod| Ipv4Addr::new(10, 0, 1, pod)) {
            for destination in DESTINATIONS {
                let verdict = self.verdict(pod, destination);
                let allowed: Vec<_> =
                    tables.iter().map(|tables| wanted(tables, pod, destination)).collect();
                assert!(
                    allowed.contains(&verdict),
                    "{pod} to {destination} after {operation:?}: {verdict:?}, not of {allowed:?}"
                );
            }
        }
    }
}

fn longest(entries: impl Iterator<Item = (Ipv4Net, bool)>, destination: Ipv4Addr) -> bool {
    let matching = entries.filter(|(net, _)| net.contains(&destination));
    matching.max_by_key(|(net, _)| net.prefix_len()).is_some_and(|(_, on)| on)
}

fn wanted(tables: &SteerTables, pod: Ipv4Addr, destination: Ipv4Addr) -> Option<bool> {
    let set = &tables.sets[*tables.pods.get(&pod)?];
    Some(longest(set.iter().copied(), destination))
}

/// Tables that a small number stands for: each of four pods has one of three sets, or none.
fn tables(mut number: u32) -> SteerTables {
    let net = |text: &str| text.parse::<Ipv4Net>().unwrap();
    let sets = [
        vec![(net("203.0.113.0/24"), true), (net("203.0.113.20/32"), false)],
        vec![(net("203.0.113.0/24"), true)],
        vec![(net("0.0.0.0/0"), true), (net("203.0.113.0/24"), false)],
    ];
    let mut pods = BTreeMap::new();
    for pod in 0..4 {
        let choice = (number % 4) as usize;
        number /= 4;
        if choice < sets.len() {
            pods.insert(Ipv4Addr::new(10, 0, 1, pod), choice);
        }
    }
    // Only the sets that are used, as the router gives them.
    let used: Vec<usize> = (0..sets.len()).filter(|set| pods.values().any(|s| s == set)).collect();
    for set in pods.values_mut() {
        *set = used.iter().position(|used| used == set).unwrap();
    }
    let sets = used.iter().map(|set| sets[*set].clone()).collect();
    SteerTables { pods, sets, ..SteerTables::default() }
}

/// Enough for the three sets of `tables`, but not twice.
const FEW_NODES: u32 = 5;

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

#[test]
fn the_same_tables_again_need_no_operation() {
    let tables = tables(27);
    let (_, programmed) = Programmed::default().plan(&tables).unwrap();
    assert_eq!(programmed.plan(&tables).unwrap().0, []);
}

#[test]
fn more_than_fits_is_refused_before_anything_changes() {
    let address = |index: usize| Ipv4Addr::from(u32::try_from(index).unwrap());
    let full = SteerTables {
        pods: (0..PODS_MAX).map(|pod| (address(pod), 0)).collect(),
        sets: vec![vec![("0.0.0.0/0".parse().unwrap(), true)]],
        ..SteerTables::default()
    };
    let (_, programmed) = Programmed::default().plan(&full).unwrap();
    let mut more = full;
    more.pods.insert(address(PODS_MAX), 0);
    let refused = programmed.plan(&more).unwrap_err();
    assert_eq!(refused, TooMany { what: "pods", count: PODS_MAX + 1, max: PODS_MAX });
    assert_eq!(
        refused.to_string(),
        "65537 pods do not fit: the steering program has room for 65536"
    );
}
