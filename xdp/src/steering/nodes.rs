//! Which nodes of the map are in use.
//!
//! A node that no pod leads to any more may still be read, by a program that has looked its pod up a
//! moment ago. So it is not written again before every program that ran then has ended, and that is
//! waited for only when no other node is left.

/// The nodes of the map.
#[derive(Clone, Debug)]
pub(crate) struct Nodes {
    max: u32,
    /// From here on no node was ever used. Node 0 never is: 0 means a pod that is not selected.
    unused: u32,
    /// Nobody can be reading these.
    free: Vec<u32>,
    /// Somebody may be reading these.
    retired: Vec<u32>,
}

impl Nodes {
    /// All nodes of a map of `max`, none in use.
    pub(crate) fn new(max: u32) -> Self {
        Self { max, unused: 1, free: Vec::new(), retired: Vec::new() }
    }

    /// A node to be written; none when all are in use or retired.
    pub(crate) fn take(&mut self) -> Option<u32> {
        if let Some(node) = self.free.pop() {
            return Some(node);
        }
        let node = self.unused;
        self.unused += u32::from(node < self.max);
        (node < self.max).then_some(node)
    }

    /// Gives nodes back that somebody may be reading.
    pub(crate) fn retire(&mut self, nodes: impl IntoIterator<Item = u32>) {
        self.retired.extend(nodes);
    }

    /// Every program that could be reading a retired node has ended. Says whether there are any.
    pub(crate) fn settle(&mut self) -> bool {
        let some = !self.retired.is_empty();
        self.free.append(&mut self.retired);
        some
    }

    /// It is not known whether what is free was waited for; and `busy` ones are not free at all.
    pub(crate) fn doubt(&mut self, busy: &std::collections::HashSet<u32>) {
        self.retired.append(&mut self.free);
        self.retired.retain(|node| !busy.contains(node));
    }

    /// How many are neither in use nor kept.
    #[cfg(test)]
    pub(crate) fn available(&self) -> usize {
        (self.max - self.unused) as usize + self.free.len() + self.retired.len()
    }
}
