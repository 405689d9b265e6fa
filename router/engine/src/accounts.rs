//! What policies and egress addresses have carried, of flows that have ended: added up where a flow ends,
//! never for a packet. Who asks adds what live flows have carried.

use std::net::IpAddr;

use crate::Traffic;
use crate::map::Map;
use crate::policy::PolicyIndex;
use crate::tables::EPOCH_NONE;

/// What a policy, or an egress address, is counted by: below [`ACCOUNTS_MAX`], and the same from one document to
/// the next.
pub type AccountNumber = u16;

/// Accounts at most: of all policies and egress addresses that a document may have, and as many former ones.
pub const ACCOUNTS_MAX: usize = 2 * (4_096 + 256);

/// What flows have carried, both ways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// From pods.
    pub forward: Traffic,
    /// To pods.
    pub reply: Traffic,
}

impl Carried {
    /// Adds more; wraps around.
    pub fn add(&mut self, more: Self) {
        self.forward.add(more.forward);
        self.reply.add(more.reply);
    }

    /// Takes some away; wraps around.
    pub fn subtract(&mut self, less: Self) {
        self.forward.subtract(less.forward);
        self.reply.subtract(less.reply);
    }
}

/// The accounts of policies and egress addresses. None: nothing is counted.
#[derive(Clone, Debug, Default)]
pub struct Accounts {
    /// Of the policies in their order, and the first epoch that has them: the last one first.
    policies: Vec<(u32, Vec<Option<AccountNumber>>)>,
    egress: Map<IpAddr, AccountNumber>,
}

impl Accounts {
    /// Of lists of policies, each with the first epoch that has it, the last one first; and of egress
    /// addresses.
    #[must_use]
    pub fn new(
        policies: Vec<(u32, Vec<Option<AccountNumber>>)>,
        egress: impl IntoIterator<Item = (IpAddr, AccountNumber)>,
    ) -> Self {
        Self { policies, egress: egress.into_iter().collect() }
    }

    /// The account of the policy that tables of an epoch had at `index`.
    #[must_use]
    pub fn policy(&self, epoch: u32, index: PolicyIndex) -> Option<AccountNumber> {
        // Epochs wrap around: the nearer half of them is later. That of nothing is before all.
        let is_since = |since: u32| epoch != EPOCH_NONE && epoch.wrapping_sub(since) < 1 << 31;
        let (_, list) = self.policies.iter().find(|(since, _)| is_since(*since))?;
        list.get(usize::from(index)).copied().flatten()
    }

    /// The account of an egress address.
    #[must_use]
    pub fn egress(&self, address: IpAddr) -> Option<AccountNumber> {
        self.egress.get(&address).copied()
    }
}

/// What one worker's ended flows of one family have carried, by account.
#[derive(Debug)]
pub(crate) struct Ledger(Vec<Carried>);

impl Ledger {
    pub(crate) fn new() -> Self {
        Self(vec![Carried::default(); ACCOUNTS_MAX])
    }

    /// What is in an account.
    pub(crate) fn carried(&self, account: AccountNumber) -> Carried {
        self.0.get(usize::from(account)).copied().unwrap_or_default()
    }

    /// A flow of this account has ended, or goes on under another one.
    pub(crate) fn add(&mut self, account: Option<AccountNumber>, carried: Carried) {
        if let Some(sum) = account.and_then(|account| self.0.get_mut(usize::from(account))) {
            sum.add(carried);
        }
    }

    /// A flow comes under this account that has carried so much before: with what it will have carried in
    /// the end, the account has no more than came in between.
    pub(crate) fn subtract(&mut self, account: Option<AccountNumber>, carried: Carried) {
        if let Some(sum) = account.and_then(|account| self.0.get_mut(usize::from(account))) {
            sum.subtract(carried);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_that_of_the_policies_of_the_epoch() {
        let address = IpAddr::from([192, 0, 2, 1]);
        let accounts = Accounts::new(
            vec![(9, vec![Some(7), Some(3)]), (5, vec![Some(1), None])],
            [(address, 8)],
        );
        for (epoch, index, expected) in
            [(9, 0, Some(7)), (90, 1, Some(3)), (8, 0, Some(1)), (5, 1, None), (4, 0, None)]
        {
            assert_eq!(accounts.policy(epoch, index), expected, "{epoch} {index}");
        }
        assert_eq!((accounts.policy(9, 2), accounts.policy(0, 0)), (None, None));
        assert_eq!(accounts.egress(address), Some(8));
        assert_eq!(accounts.egress(IpAddr::from([192, 0, 2, 2])), None);
    }

    #[test]
    fn what_a_flow_had_before_is_not_counted_again() {
        let traffic = |packets, bytes| Traffic { packets, bytes };
        let carried = |n| Carried { forward: traffic(n, 100 * n), reply: traffic(2 * n, 9 * n) };
        let mut ledger = Ledger::new();
        // Ten under the first account, then fifty in all.
        ledger.add(Some(0), carried(10));
        ledger.subtract(Some(8_703), carried(10));
        ledger.add(Some(8_703), carried(50));
        assert_eq!((ledger.carried(0), ledger.carried(8_703)), (carried(10), carried(40)));
        ledger.add(Some(8_704), carried(1));
        ledger.add(None, carried(1));
        assert_eq!(ledger.carried(8_704), Carried::default());
    }
}
