//! What policies are called, in the tables of now and of some time ago: a flow knows its policy by an index
//! into those that it last looked at. Pure.

use std::collections::VecDeque;
use std::sync::Arc;

use spillway_api::Document;
use spillway_engine::policy::PolicyIndex;
use spillway_engine::tables::EPOCH_NONE;

/// Lists of policies that are remembered: that of the document in force, and of those before it.
const LISTS_MAX: usize = 16;

/// The policies of a document, in their order.
#[derive(Debug)]
struct List {
    /// The first epoch of tables with these policies: whatever else has changed since, an index means the
    /// same.
    since_epoch: u32,
    names: Vec<Arc<str>>,
}

/// The names of policies, by epoch.
#[derive(Debug, Default)]
pub(crate) struct PolicyNames {
    /// The last one first.
    lists: VecDeque<List>,
}

impl PolicyNames {
    /// From this epoch on tables have the policies of this document.
    pub(crate) fn change(&mut self, document: &Document, epoch: u32) {
        if self.lists.front().is_some_and(|list| list.is_of(document)) {
            return;
        }
        let names = document.policies.iter().map(|policy| policy.name.as_str().into()).collect();
        self.lists.push_front(List { since_epoch: epoch, names });
        self.lists.truncate(LISTS_MAX);
    }

    /// Every list with the first epoch that has it, the last one first.
    pub(crate) fn lists(&self) -> impl Iterator<Item = (u32, &[Arc<str>])> {
        self.lists.iter().map(|list| (list.since_epoch, list.names.as_slice()))
    }

    /// The name of the policy that tables of an epoch had at `index`; none when that is too long ago, or of
    /// another process.
    pub(crate) fn name(&self, epoch: u32, index: PolicyIndex) -> Option<Arc<str>> {
        let is_since = |list: &&List| epoch != EPOCH_NONE && is_not_before(epoch, list.since_epoch);
        let list = self.lists.iter().find(is_since)?;
        list.names.get(usize::from(index)).cloned()
    }

    /// The same, if the document in force has had the policy there since then.
    pub(crate) fn name_now(&self, epoch: u32, index: PolicyIndex) -> Option<&Arc<str>> {
        let list = self.lists.front()?;
        let is_since = is_not_before(epoch, list.since_epoch);
        list.names.get(usize::from(index)).filter(|_| is_since)
    }
}

impl List {
    fn is_of(&self, document: &Document) -> bool {
        let theirs = document.policies.iter().map(|policy| policy.name.as_str());
        self.names.iter().map(AsRef::as_ref).eq(theirs)
    }
}

/// Whether an epoch is another one, or after it. Epochs wrap around: the nearer half of them is later.
fn is_not_before(epoch: u32, other: u32) -> bool {
    epoch.wrapping_sub(other) < 1 << 31
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A document with policies of these names.
    fn document(names: &[&str]) -> Document {
        let policy = |name: &&str| {
            format!(
                "{{name: {name}, egress_address: 192.0.2.1, destinations: [203.0.113.0/24], pods: []}}"
            )
        };
        let policies: Vec<String> = names.iter().map(policy).collect();
        let text = format!(
            "generation: 1\ntunnels: []\negress_addresses: [{{address: 192.0.2.1, kind: own}}]\n\
             policies: [{}]\n",
            policies.join(", ")
        );
        Document::parse(&text).unwrap()
    }

    #[test]
    fn an_index_means_the_policy_that_its_epoch_had_there() {
        let mut names = PolicyNames::default();
        assert_eq!((names.name(1, 0), names.name_now(1, 0)), (None, None), "nothing is programmed");
        names.change(&document(&["a", "b"]), 5);
        // The same policies again: nothing has changed.
        names.change(&document(&["a", "b"]), 7);
        names.change(&document(&["b", "c"]), 9);
        let name = |epoch, index| names.name(epoch, index).map(|name| name.to_string());
        assert_eq!(name(4, 0), None, "before the first document");
        assert_eq!(name(EPOCH_NONE, 0), None, "taken up from another process");
        for (epoch, index, expected) in
            [(5, 0, "a"), (8, 1, "b"), (9, 0, "b"), (9, 1, "c"), (100, 0, "b")]
        {
            assert_eq!(name(epoch, index).as_deref(), Some(expected), "{epoch} {index}");
        }
        assert_eq!(name(9, 2), None);
        assert_eq!(names.name_now(8, 1), None, "of a document before");
        assert_eq!(names.name_now(10, 1).map(AsRef::as_ref), Some("c"));
        assert_eq!(names.name_now(EPOCH_NONE, 0), None);
    }

    #[test]
    fn other_policies_or_another_order_are_another_list_and_the_oldest_goes() {
        let mut names = PolicyNames::default();
        for (epoch, list) in (1..).zip([&["a", "b"][..], &["b", "a"], &["a"], &["a", "b", "c"]]) {
            names.change(&document(list), epoch);
            assert_eq!(names.lists.len(), epoch as usize);
        }
        for epoch in 5..50 {
            names.change(&document(&[&format!("p{epoch}")]), epoch);
        }
        assert_eq!(names.lists.len(), LISTS_MAX);
        assert_eq!(names.name(50 - 16, 0).as_deref(), Some("p34"));
        assert_eq!(names.name(50 - 17, 0), None);
    }

    #[test]
    fn epochs_go_round() {
        let mut names = PolicyNames::default();
        names.change(&document(&["a"]), u32::MAX - 1);
        names.change(&document(&["b"]), 2);
        assert_eq!(names.name(u32::MAX, 0).as_deref(), Some("a"));
        assert_eq!(names.name(3, 0).as_deref(), Some("b"));
    }
}
