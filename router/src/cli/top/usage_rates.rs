//! What goes through each egress address and each policy in a second, from two counts of a router. Pure.
//!
//! The router counts every few seconds, and for whoever asks: so the time between two counts is what it
//! says, and not the time between two questions.

use std::collections::HashMap;
use std::net::IpAddr;

use spillway_api::{Traffic as Carried, Usage};

use super::rates::{Traffic, per_second};

/// Each second, of those that are in both counts.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct UsageRates {
    pub(super) egress_addresses: HashMap<IpAddr, BothWays>,
    /// By name.
    pub(super) policies: HashMap<String, BothWays>,
}

/// Each second, from pods to the outside and back.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct BothWays {
    pub(super) forward: Traffic,
    pub(super) reply: Traffic,
}

impl UsageRates {
    /// None where there are none: one of the two was not counted, or they are the same count.
    pub(super) fn between(before: &Usage, now: &Usage) -> Option<Self> {
        let elapsed_ms = now.counted_at_ms.checked_sub(before.counted_at_ms)?;
        if !(before.counted && now.counted) || elapsed_ms == 0 {
            return None;
        }
        let seconds = elapsed_ms as f64 / 1_000.0;
        let earlier = before.egress_addresses.iter().map(|egress| (egress.address, egress.traffic));
        let earlier: HashMap<IpAddr, Carried> = earlier.collect();
        let egress_addresses = now.egress_addresses.iter().filter_map(|egress| {
            let before = earlier.get(&egress.address)?;
            Some((egress.address, BothWays::between(before, &egress.traffic, seconds)))
        });
        let earlier = before.policies.iter().map(|policy| (policy.name.as_str(), policy.traffic));
        let earlier: HashMap<&str, Carried> = earlier.collect();
        let policies = now.policies.iter().filter_map(|policy| {
            let before = earlier.get(policy.name.as_str())?;
            Some((policy.name.clone(), BothWays::between(before, &policy.traffic, seconds)))
        });
        Some(Self { egress_addresses: egress_addresses.collect(), policies: policies.collect() })
    }
}

impl BothWays {
    fn between(before: &Carried, now: &Carried, seconds: f64) -> Self {
        let rate =
            |counter: fn(&Carried) -> u64| per_second(counter(before), counter(now), seconds);
        Self {
            forward: Traffic {
                packets: rate(|carried| carried.original_packets),
                bits: 8.0 * rate(|carried| carried.original_bytes),
            },
            reply: Traffic {
                packets: rate(|carried| carried.reply_packets),
                bits: 8.0 * rate(|carried| carried.reply_bytes),
            },
        }
    }

    /// Bits both ways: by them the busiest is found.
    pub(super) fn bits(&self) -> f64 {
        self.forward.bits + self.reply.bits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::sample;

    /// What was counted so many milliseconds after the start, with so much carried by the first of each.
    fn counted(at_ms: u64, carried: Carried) -> Usage {
        let mut usage = Usage { counted_at_ms: at_ms, ..sample::usage() };
        usage.egress_addresses[0].traffic = carried;
        usage.policies[0].traffic = carried;
        usage
    }

    fn carried(packets: u64) -> Carried {
        Carried {
            original_packets: packets,
            original_bytes: 100 * packets,
            reply_packets: 2 * packets,
            reply_bytes: 3_000 * packets,
        }
    }

    #[test]
    fn rates_are_of_the_time_between_two_counts() {
        let (before, now) = (counted(1_000, carried(10)), counted(6_000, carried(60)));
        let rates = UsageRates::between(&before, &now).unwrap();
        let expected = BothWays {
            forward: Traffic { packets: 10.0, bits: 8_000.0 },
            reply: Traffic { packets: 20.0, bits: 240_000.0 },
        };
        let [used, unused] = [0, 1].map(|at| now.egress_addresses[at].address);
        assert_eq!(rates.egress_addresses[&used], expected);
        assert_eq!(rates.egress_addresses[&unused], BothWays::default());
        assert_eq!(rates.policies[&now.policies[0].name], expected);
        assert_eq!(expected.bits(), 248_000.0);
    }

    #[test]
    fn without_two_counts_there_are_none() {
        let now = counted(6_000, carried(60));
        for before in [
            now.clone(),
            counted(7_000, carried(10)),
            Usage { counted: false, ..counted(1_000, carried(10)) },
        ] {
            assert_eq!(UsageRates::between(&before, &now), None, "{before:?}");
        }
        let not_counted = Usage { counted: false, ..now };
        assert_eq!(UsageRates::between(&counted(1_000, carried(10)), &not_counted), None);
    }

    #[test]
    fn one_that_has_come_has_no_rate_yet_and_a_counter_that_went_back_has_not_moved() {
        let (mut before, now) = (counted(0, carried(70)), counted(5_000, carried(60)));
        before.policies.clear();
        let rates = UsageRates::between(&before, &now).unwrap();
        assert!(rates.policies.is_empty());
        let first = now.egress_addresses[0].address;
        assert_eq!(rates.egress_addresses[&first], BothWays::default());
    }
}
