//! Plans are carried out on a model of the maps, one operation at a time.

use super::*;

const DESTINATIONS: [Ipv4Addr; 3] =
    [Ipv4Addr::new(203, 0, 113, 10), Ipv4Addr::new(203, 0, 113, 20), Ipv4Addr::new(8, 8, 8, 8)];

/// The maps that decide over a pod's frame.
#[derive(Default)]
struct Model {
    pods: BTreeMap<Ipv4Addr, u32>,
    destinations: BTreeMap<(u32, Ipv4Net), bool>,
}

impl Model {
    fn carry_out(&mut self, operation: Operation) {
        match operation {
            Operation::SetPod(pod, set) => drop(self.pods.insert(pod, set)),
            Operation::RemovePod(pod) => assert!(self.pods.remove(&pod).is_some()),
            Operation::SetDestination(set, net, on) => {
                self.destinations.insert((set, net), on);
            }
            Operation::RemoveDestination(set, net) => {
                assert!(self.destinations.remove(&(set, net)).is_some());
            }
            _ => {}
        }
    }

    /// What steering would say: `None` for a pod that is not selected.
    fn verdict(&self, pod: Ipv4Addr, destination: Ipv4Addr) -> Option<bool> {
        let set = self.pods.get(&pod)?;
        let entries = self.destinations.iter().map(|((set, net), on)| (*set, *net, *on));
        Some(longest(
            entries.filter(|(of, ..)| of == set).map(|(_, net, on)| (net, on)),
            destination,
        ))
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

#[test]
fn no_pod_is_ever_without_its_old_or_its_new_verdict() {
    let mut programmed = Programmed::default();
    let mut model = Model::default();
    let mut current = SteerTables::default();
    // A walk over the 256 tables: an odd step visits all of them.
    for step in 0..512u32 {
        let next = tables(step * 91 % 256);
        let (operations, after) = programmed.plan(&next).unwrap();
        for operation in operations {
            model.carry_out(operation);
            for pod in (0..4).map(|pod| Ipv4Addr::new(10, 0, 1, pod)) {
                for destination in DESTINATIONS {
                    let verdict = model.verdict(pod, destination);
                    let (old, new) =
                        (wanted(&current, pod, destination), wanted(&next, pod, destination));
                    assert!(
                        verdict == old || verdict == new,
                        "{pod} to {destination} after {operation:?}: {verdict:?}, not {old:?} or {new:?}"
                    );
                }
            }
        }
        let kept: usize = next.sets.iter().map(Vec::len).sum();
        assert_eq!(model.destinations.len(), kept, "nothing of old sets stays");
        programmed = after;
        current = next;
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
