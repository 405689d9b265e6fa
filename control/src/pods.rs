//! Pods, numbered: a set of pods is a set of bits, whatever their names are.

use std::collections::{BTreeMap, BTreeSet};

use slab::Slab;

use crate::cluster::{Change, Pod, PodKey};

/// All pods. A pod's number stays the same while it is there, and goes to another one later: never
/// let it show in what is planned.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pods {
    numbers: BTreeMap<PodKey, usize>,
    pods: Slab<(PodKey, Pod)>,
}

impl Pods {
    /// A pod by its name.
    pub(crate) fn get(&self, key: &PodKey) -> Option<&Pod> {
        self.numbers.get(key).map(|number| &self.pods[*number].1)
    }

    /// A pod by its number.
    pub(crate) fn by_number(&self, number: usize) -> Option<(&PodKey, &Pod)> {
        self.pods.get(number).map(|(key, pod)| (key, pod))
    }

    /// All pods with their numbers.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, &PodKey, &Pod)> {
        self.pods.iter().map(|(number, (key, pod))| (number, key, pod))
    }

    /// The numbers of a namespace's pods.
    pub(crate) fn in_namespace<'a>(
        &'a self,
        namespace: &'a str,
    ) -> impl Iterator<Item = usize> + use<'a> {
        let from = (namespace.to_owned(), String::new());
        let pods = self.numbers.range(from..);
        pods.take_while(move |(key, _)| key.0 == namespace).map(|(_, number)| *number)
    }

    /// Takes a change; returns the numbers of the pods that are different or gone now.
    pub(crate) fn change(&mut self, change: Change<PodKey, Pod>) -> Vec<usize> {
        match change {
            Change::Set(key, pod) => self.set(key, pod).into_iter().collect(),
            Change::Gone(key) => self.remove(&key).into_iter().collect(),
            Change::All(pods) => {
                let there: BTreeSet<&PodKey> = pods.iter().map(|(key, _)| key).collect();
                let known = self.numbers.keys();
                let gone: Vec<PodKey> = known.filter(|key| !there.contains(key)).cloned().collect();
                // All of those first: the others may get their numbers.
                let mut changed: Vec<usize> =
                    gone.iter().filter_map(|key| self.remove(key)).collect();
                changed.extend(pods.into_iter().filter_map(|(key, pod)| self.set(key, pod)));
                changed
            }
        }
    }

    /// Its number when it is new or different.
    fn set(&mut self, key: PodKey, pod: Pod) -> Option<usize> {
        let Some(&number) = self.numbers.get(&key) else {
            let number = self.pods.insert((key.clone(), pod));
            self.numbers.insert(key, number);
            return Some(number);
        };
        let known = &mut self.pods[number].1;
        if *known == pod {
            return None;
        }
        *known = pod;
        Some(number)
    }

    /// The number that it had.
    fn remove(&mut self, key: &PodKey) -> Option<usize> {
        let number = self.numbers.remove(key)?;
        self.pods.remove(number);
        Some(number)
    }
}
