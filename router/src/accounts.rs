//! What policies and egress addresses have carried since the router started: what their flows have that
//! live, and had that have ended. A policy is known by its name, whatever document it is in. Pure.
//!
//! Workers add up what ended flows have carried, by number ([`spillway_engine::accounts`]). A number stays
//! with its policy or address as long as that is in the document, and longer until others need it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use spillway_api::{Document, Traffic};
use spillway_engine::accounts::ACCOUNTS_MAX;
use spillway_engine::{AccountNumber, Accounts, Carried};

use crate::policy_names::PolicyNames;

/// Whose flows' traffic is added up.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Account {
    /// A policy's, by its name.
    Policy(Arc<str>),
    /// An egress address's.
    Egress(IpAddr),
}

impl Account {
    pub(crate) fn policy(name: &str) -> Self {
        Self::Policy(name.into())
    }
}

/// What is known of one account.
#[derive(Debug)]
struct Entry {
    account: Account,
    /// The document that it came with, counted.
    since: u64,
    /// The last document that it was in, counted.
    seen: u64,
    /// What the workers had added up under its number before it was this account's; of one that another had
    /// before, that is seen when it is asked for the first time.
    before: Option<Carried>,
    /// What was shown last: counters do not go back.
    shown: Carried,
}

/// What the workers say of all accounts, by number. Flows are looked at one after the other, and go on
/// meanwhile; so what ended flows have carried is asked for before and after that.
#[derive(Debug, Default)]
pub(crate) struct Sums {
    /// How many documents there were when it was begun.
    documents: u64,
    before: Vec<Carried>,
    /// What live flows have carried.
    pub(crate) live: Vec<Carried>,
    after: Vec<Carried>,
}

impl Sums {
    /// Begun with a book; `ended` is what ended flows have carried.
    pub(crate) fn begin(book: &Book, ended: Vec<Carried>) -> Self {
        Self { documents: book.documents, before: ended, ..Self::default() }
    }

    /// Adds what a live flow has carried to an account.
    pub(crate) fn add(&mut self, account: AccountNumber, carried: Carried) {
        let account = usize::from(account);
        if account >= self.live.len() {
            self.live.resize(account + 1, Carried::default());
        }
        self.live[account].add(carried);
    }

    /// All live flows were looked at; `ended` is what ended flows have carried by now.
    pub(crate) fn end(&mut self, ended: Vec<Carried>) {
        self.after = ended;
    }
}

/// All accounts.
#[derive(Debug, Default)]
pub(crate) struct Book {
    /// By number.
    entries: Vec<Entry>,
    numbers: HashMap<Account, AccountNumber>,
    documents: u64,
    /// What flows of an earlier process had carried there, by egress address.
    restored: HashMap<IpAddr, Carried>,
}

impl Book {
    /// Without documents; of an earlier process there are flows that leave with these addresses and had
    /// carried so much.
    pub(crate) fn new(restored: impl IntoIterator<Item = (IpAddr, Carried)>) -> Self {
        let mut book = Self::default();
        for (egress, carried) in restored {
            book.restored.entry(egress).or_default().add(carried);
        }
        book
    }

    /// Numbers all that a document has: call it with each document.
    pub(crate) fn open(&mut self, document: &Document) {
        self.documents += 1;
        let seen = self.documents;
        let policies = document.policies.iter().map(|policy| Account::policy(&policy.name));
        let egress = document.egress_addresses.iter().map(|egress| Account::Egress(egress.address));
        // Who has a number keeps it: so they come first.
        let (known, new): (Vec<_>, Vec<_>) =
            policies.chain(egress).partition(|account| self.numbers.contains_key(account));
        for account in known {
            if let Some(entry) = self.entry(&account) {
                entry.seen = seen;
            }
        }
        new.into_iter().for_each(|account| self.add(account));
    }

    /// Gives an account a number: a new one, or that of the one that has been gone for the longest time.
    fn add(&mut self, account: Account) {
        let seen = self.documents;
        let restored = match &account {
            Account::Egress(address) => self.restored.remove(address).unwrap_or_default(),
            Account::Policy(_) => Carried::default(),
        };
        let shown = Carried::default();
        let mut entry =
            Entry { account: account.clone(), since: seen, seen, before: Some(restored), shown };
        let mut number = self.entries.len();
        if number < ACCOUNTS_MAX {
            self.entries.push(entry);
        } else {
            let gone = self.entries.iter().enumerate().min_by_key(|(_, entry)| entry.seen);
            let Some((oldest, _)) = gone.filter(|(_, entry)| entry.seen < seen) else { return };
            number = oldest;
            entry.before = None;
            let former = std::mem::replace(&mut self.entries[oldest], entry);
            self.numbers.remove(&former.account);
        }
        if let Ok(number) = AccountNumber::try_from(number) {
            self.numbers.insert(account, number);
        }
    }

    fn entry(&mut self, account: &Account) -> Option<&mut Entry> {
        let number = *self.numbers.get(account)?;
        self.entries.get_mut(usize::from(number))
    }

    /// How many numbers there are: each is below that.
    pub(crate) fn count(&self) -> usize {
        self.entries.len()
    }

    /// The number of an account.
    pub(crate) fn number(&self, account: &Account) -> Option<AccountNumber> {
        self.numbers.get(account).copied()
    }

    /// As the workers need them, where policies are called so.
    pub(crate) fn for_tables(&self, names: &PolicyNames) -> Accounts {
        let number = |name: &Arc<str>| self.number(&Account::Policy(Arc::clone(name)));
        let lists = names.lists().map(|(since, names)| (since, names.iter().map(number).collect()));
        let egress = self.numbers.iter().filter_map(|(account, number)| match account {
            Account::Egress(address) => Some((*address, *number)),
            Account::Policy(_) => None,
        });
        Accounts::new(lists.collect(), egress)
    }

    /// What an account has carried in all, as it is shown: never less than before, and never of another that
    /// had its number when the sums were begun.
    ///
    /// A flow that ended since then is missing in the sums of before, and may be there twice in those of after;
    /// one that came under this policy meanwhile is the other way round. So the lesser is shown: what
    /// is missing this time is there the next time, and what was shown cannot be taken back.
    pub(crate) fn total(&mut self, account: &Account, sums: &Sums) -> Traffic {
        let number = self.number(account).map(usize::from);
        let of = |carried: &[Carried]| number.and_then(|at| carried.get(at)).copied();
        let [before, live, after] =
            [&sums.before, &sums.live, &sums.after].map(|all| of(all).unwrap_or_default());
        let Some(entry) = self.entry(account) else { return Traffic::default() };
        if entry.since <= sums.documents {
            let first = *entry.before.get_or_insert(before);
            let [before, after] = [before, after].map(|mut total| {
                total.subtract(first);
                total.add(live);
                total
            });
            let shown = &mut entry.shown;
            for (shown, before, after) in [
                (&mut shown.forward.packets, before.forward.packets, after.forward.packets),
                (&mut shown.forward.bytes, before.forward.bytes, after.forward.bytes),
                (&mut shown.reply.packets, before.reply.packets, after.reply.packets),
                (&mut shown.reply.bytes, before.reply.bytes, after.reply.bytes),
            ] {
                let lesser = if is_less(after, before) { after } else { before };
                *shown = if is_less(*shown, lesser) { lesser } else { *shown };
            }
        }
        let Carried { forward, reply } = entry.shown;
        Traffic {
            original_packets: forward.packets,
            original_bytes: forward.bytes,
            reply_packets: reply.packets,
            reply_bytes: reply.bytes,
        }
    }
}

/// Of counters: less than nothing is a large number.
fn is_less(one: u64, other: u64) -> bool {
    one.wrapping_sub(other) > 1 << 63
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(policies: &[String], egress: &[&str]) -> Document {
        let policies = policies.iter().map(|name| {
            let egress = egress[0];
            format!(
                "{{name: {name}, egress_address: {egress}, destinations: [203.0.113.0/24], pods: []}}"
            )
        });
        let egress = egress.iter().map(|address| format!("{{address: {address}, kind: own}}"));
        let (policies, egress): (Vec<_>, Vec<_>) = (policies.collect(), egress.collect());
        let (policies, egress) = (policies.join(", "), egress.join(", "));
        let text = format!(
            "{{generation: 1, tunnels: [], egress_addresses: [{egress}], policies: [{policies}]}}"
        );
        Document::parse(&text).unwrap()
    }

    fn carried(packets: u64) -> Carried {
        let traffic = spillway_engine::Traffic { packets, bytes: 100 * packets };
        Carried { forward: traffic, reply: spillway_engine::Traffic::default() }
    }

    /// Negative, as workers have it.
    fn less(packets: u64) -> Carried {
        let mut none = Carried::default();
        none.subtract(carried(packets));
        none
    }

    /// Of flows that had carried so much when they were looked at; others that have ended, before and after.
    fn sums(book: &Book, account: &Account, [before, live, after]: [Carried; 3]) -> Sums {
        let number = book.number(account).unwrap();
        let ended = |carried| {
            let mut all = vec![Carried::default(); book.count()];
            all[usize::from(number)] = carried;
            all
        };
        let mut sums = Sums::begin(book, ended(before));
        sums.add(number, live);
        sums.end(ended(after));
        sums
    }

    fn packets(book: &mut Book, account: &Account, ended: Carried, live: Carried) -> u64 {
        let sums = sums(book, account, [ended, live, ended]);
        let total = book.total(account, &sums);
        assert_eq!(total.original_bytes, 100 * total.original_packets);
        assert_eq!((total.reply_packets, total.reply_bytes), (0, 0));
        total.original_packets
    }

    #[test]
    fn a_total_is_of_live_and_of_ended_flows_and_never_goes_back() {
        let mut book = Book::default();
        book.open(&document(&["a".to_owned()], &["192.0.2.1"]));
        let account = Account::policy("a");
        let mut total = |ended, live| packets(&mut book, &account, ended, live);
        assert_eq!(total(carried(0), carried(5)), 5);
        assert_eq!(total(carried(5), carried(3)), 8);
        // A flow of three ended between the two looks.
        assert_eq!(total(carried(5), carried(0)), 8);
        assert_eq!(total(carried(8), carried(1)), 9);
        // One came that had carried 100 elsewhere; its own look was missed.
        assert_eq!(total(less(92), carried(0)), 9);
        assert_eq!(total(less(92), carried(102)), 10);
        assert_eq!(book.total(&Account::policy("b"), &Sums::default()), Traffic::default());
    }

    #[test]
    fn what_changes_while_flows_are_looked_at_is_never_there_twice() {
        let mut book = Book::default();
        book.open(&document(&["a".to_owned()], &["192.0.2.1"]));
        let account = Account::policy("a");
        let mut total = |of| {
            let sums = sums(&book, &account, of);
            book.total(&account, &sums).original_packets
        };
        // It carried three when it was looked at, and has ended since.
        assert_eq!(total([carried(10), carried(3), carried(13)]), 13);
        // Four ended before they were looked at.
        assert_eq!(total([carried(13), carried(0), carried(17)]), 13);
        assert_eq!(total([carried(17), carried(0), carried(17)]), 17);
        // One comes under this policy that has carried a hundred under another: of which the worker takes
        // as much away as is with the other. It was looked at before it came, and after.
        assert_eq!(total([carried(17), carried(0), less(83)]), 17);
        assert_eq!(total([carried(17), carried(101), less(83)]), 18);
    }

    #[test]
    fn who_gets_the_number_of_another_gets_nothing_that_was_counted_before() {
        let all = |prefix: &str| (0..4_096).map(|n| format!("{prefix}{n}")).collect::<Vec<_>>();
        let mut book = Book::default();
        for prefix in ["a", "b"] {
            book.open(&document(&all(prefix), &["192.0.2.1"]));
        }
        let former = Account::policy("a0");
        let number = book.number(&former);
        let sums = sums(&book, &former, [carried(7), carried(5), carried(9)]);
        book.open(&document(&all("c"), &["192.0.2.1"]));
        let (heir, _) = book.numbers.iter().find(|(_, at)| Some(**at) == number).unwrap();
        let heir = heir.clone();
        assert_eq!(book.total(&heir, &sums), Traffic::default());
        assert_eq!(packets(&mut book, &heir, carried(9), carried(1)), 1);
    }

    #[test]
    fn what_flows_had_carried_before_the_router_started_is_not_its() {
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        let mut book = Book::new([(address, carried(30)), (address, carried(10))]);
        book.open(&document(&["a".to_owned()], &["192.0.2.1"]));
        let account = Account::Egress(address);
        assert_eq!(packets(&mut book, &account, carried(30), carried(12)), 2);
    }

    #[test]
    fn a_policy_keeps_its_number_until_others_need_it() {
        let all = |prefix: &str| (0..4_096).map(|n| format!("{prefix}{n}")).collect::<Vec<_>>();
        let mut book = Book::default();
        book.open(&document(&all("a"), &["192.0.2.1"]));
        let first = Account::policy("a0");
        let number = book.number(&first);
        book.open(&document(&all("b"), &["192.0.2.1"]));
        assert_eq!(book.number(&first), number, "it may come back");
        book.open(&document(&all("c"), &["192.0.2.1"]));
        assert_eq!(book.count(), ACCOUNTS_MAX);
        assert_eq!(book.number(&first), None);
        let numbers: std::collections::BTreeSet<_> =
            all("c").iter().map(|name| book.number(&Account::policy(name)).unwrap()).collect();
        assert_eq!(numbers.len(), 4_096, "each has its own");
        assert!(book.number(&Account::Egress("192.0.2.1".parse().unwrap())).is_some());
        // What the one before it has there is not its.
        let (heir, _) = book.numbers.iter().find(|(_, at)| Some(**at) == number).unwrap();
        let heir = heir.clone();
        assert_eq!(packets(&mut book, &heir, carried(50), carried(1)), 1);
        assert_eq!(packets(&mut book, &heir, carried(52), carried(1)), 3);
    }

    #[test]
    fn workers_know_policies_by_epoch_and_index() {
        let names =
            |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let mut book = Book::default();
        let mut policy_names = PolicyNames::default();
        for (epoch, list) in [(3, ["a", "b"]), (7, ["b", "c"])] {
            let document = document(&names(&list), &["192.0.2.1", "192.0.2.2"]);
            book.open(&document);
            policy_names.change(&document, epoch);
        }
        let accounts = book.for_tables(&policy_names);
        for (epoch, index, name) in [(3, 0, "a"), (5, 1, "b"), (7, 0, "b"), (8, 1, "c")] {
            let number = book.number(&Account::policy(name));
            assert!(number.is_some());
            assert_eq!(accounts.policy(epoch, index), number, "{name}");
        }
        let address: IpAddr = "192.0.2.2".parse().unwrap();
        assert_eq!(accounts.egress(address), book.number(&Account::Egress(address)));
        assert!(accounts.egress(address).is_some());
    }
}
