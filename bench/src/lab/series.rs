//! What was measured, by what it is, and the middle of it.

use std::collections::BTreeMap;

use serde::Serialize;

use super::generator::Direction;
use super::system::System;
use crate::measure::Spread;

/// What a number says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Metric {
    /// The highest rate with at most half a percent lost.
    LossFreePps,
    /// What comes through when far more is sent.
    OverloadPps,
    /// Processor time of the gateway, at 90 % of its loss-free rate.
    CpuSecondsPerMillionPackets,
    /// How busy the gateway's first processor was meanwhile, whoever ran there.
    ProcessorBusyRatio,
    /// The highest rate of packets each of which opens a flow, as without loss.
    NewFlowsPerSecond,
    LatencyP50Ns,
    LatencyP99Ns,
    LatencyP999Ns,
    /// One TCP connection of a pod, real kernels at both ends.
    TcpBitsPerSecond,
}

/// What was measured, and how.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) metric: Metric,
    pub(crate) direction: Direction,
    /// Of frames, as the generator calls it, or what TCP could use.
    pub(crate) size: &'static str,
    /// Percent of the system's own loss-free rate; 0 where it does not apply.
    pub(crate) load: u8,
    pub(crate) system: System,
}

/// All numbers.
#[derive(Debug, Default)]
pub(crate) struct Series {
    values: BTreeMap<Key, Vec<f64>>,
}

/// The middle of some numbers, and how far they are apart.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Summary {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    pub(crate) rounds: usize,
}

impl Summary {
    fn of(values: &[f64]) -> Option<Self> {
        let min = values.iter().copied().reduce(f64::min)?;
        let max = values.iter().copied().reduce(f64::max)?;
        let Spread { median, .. } = Spread::of(values.to_vec());
        Some(Self { median, min, max, rounds: values.len() })
    }
}

impl Series {
    pub(crate) fn add(&mut self, key: Key, value: f64) {
        self.values.entry(key).or_default().push(value);
    }

    pub(crate) fn get(&self, key: &Key) -> Option<Summary> {
        Summary::of(self.values.get(key)?)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Key, Summary)> {
        self.values.iter().filter_map(|(key, values)| Some((key, Summary::of(values)?)))
    }

    /// How many times more of this the one system has than the other: the median of the rounds'
    /// ratios, since systems of one round have met the same weather.
    pub(crate) fn ratio(&self, key: &Key, than: System) -> Option<f64> {
        let of = self.values.get(key)?;
        let to = self.values.get(&Key { system: than, ..key.clone() })?;
        let ratios: Vec<f64> = of.iter().zip(to).map(|(of, to)| of / to).collect();
        Summary::of(&ratios).map(|summary| summary.median)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(system: System) -> Key {
        let metric = Metric::LossFreePps;
        Key { metric, direction: Direction::Forward, size: "64", load: 0, system }
    }

    #[test]
    fn the_median_is_the_middle() {
        for (values, median) in
            [(vec![3.0], 3.0), (vec![9.0, 1.0, 2.0], 2.0), (vec![4.0, 1.0, 2.0, 9.0], 3.0)]
        {
            assert_eq!(Summary::of(&values).unwrap().median, median);
        }
        assert_eq!(Summary::of(&[]), None);
    }

    #[test]
    fn ratios_are_of_the_same_round() {
        let mut series = Series::default();
        for (ours, theirs) in [(2.0, 1.0), (20.0, 10.0), (9.0, 3.0)] {
            series.add(key(System::Spillway), ours);
            series.add(key(System::Kernel), theirs);
        }
        assert_eq!(series.ratio(&key(System::Spillway), System::Kernel), Some(2.0));
        assert_eq!(series.ratio(&key(System::Spillway), System::L2Forward), None);
        assert_eq!(series.get(&key(System::Kernel)).unwrap().max, 10.0);
    }
}
