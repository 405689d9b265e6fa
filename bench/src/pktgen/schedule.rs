//! The order in which flows are sent.

use std::ops::RangeInclusive;

use rand::rngs::SmallRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use rand_distr::{Distribution as _, Zipf};

use super::options::Distribution;

/// How long the order of random flows is at least, before it starts again. A schedule of 4 M flows
/// takes 16 MB: the generator reads it one after the other.
const LENGTH_MIN: usize = 1 << 16;

/// How long it is when each flow is drawn by chance.
const DRAWS: RangeInclusive<usize> = 1 << 20..=1 << 22;

/// The order of `flows` flows, from 0 on. It is repeated; empty, it says that packet *n* is of flow
/// *n*.
///
/// Whatever is decided by chance is decided here, before the first packet: so the generator in BPF
/// and that in Rust choose alike, and choosing costs the same for every distribution.
pub(crate) fn schedule(distribution: Distribution, flows: u32, seed: u64) -> Vec<u32> {
    let mut random = SmallRng::seed_from_u64(seed);
    match distribution {
        Distribution::New => Vec::new(),
        Distribution::Uniform => uniform(flows, &mut random),
        Distribution::Zipf(exponent) => zipf(flows, exponent, &mut random),
        Distribution::Elephant(share) => (0..draws(flows))
            .map(|_| if random.random_bool(share) { 0 } else { random.random_range(0..flows) })
            .collect(),
    }
}

/// How many flows are drawn: so many that rare ones have their chance.
fn draws(flows: u32) -> usize {
    (8 * flows as usize).clamp(*DRAWS.start(), *DRAWS.end())
}

/// Every flow once, shuffled, and again in another order. No flow is rarer than another, and none
/// comes back while a cache may still have it: the hardest uniform choice.
fn uniform(flows: u32, random: &mut SmallRng) -> Vec<u32> {
    let mut round: Vec<u32> = (0..flows).collect();
    let mut schedule = Vec::new();
    while schedule.len() < LENGTH_MIN {
        round.shuffle(random);
        schedule.extend_from_slice(&round);
    }
    schedule
}

/// Flows drawn by Zipf's law. Which of them is frequent is drawn, too: not the first ones.
fn zipf(flows: u32, exponent: f64, random: &mut SmallRng) -> Vec<u32> {
    let Ok(law) = Zipf::new(f64::from(flows), exponent) else {
        return Vec::new(); // Excluded where the option is read: the exponent is above 0.
    };
    let mut ranked: Vec<u32> = (0..flows).collect();
    ranked.shuffle(random);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "1 to `flows`")]
    (0..draws(flows))
        .map(|_| ranked[(law.sample(random) as usize - 1).min(ranked.len() - 1)])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often each flow comes, the most frequent first.
    fn counts(schedule: &[u32], flows: usize) -> Vec<usize> {
        let mut counts = vec![0; flows];
        for &flow in schedule {
            counts[flow as usize] += 1;
        }
        counts.sort_unstable_by(|a, b| b.cmp(a));
        counts
    }

    #[test]
    fn uniform_is_all_flows_alike_in_another_order_each_round() {
        let schedule = schedule(Distribution::Uniform, 1000, 1);
        assert_eq!(schedule.len() % 1000, 0);
        assert!(schedule.len() >= LENGTH_MIN);
        let all: Vec<u32> = (0..1000).collect();
        let mut rounds = schedule.chunks(1000);
        let first = rounds.next().unwrap();
        assert_ne!(first, all);
        for round in rounds {
            assert_ne!(round, first);
            let mut sorted = round.to_vec();
            sorted.sort_unstable();
            assert_eq!(sorted, all);
        }
    }

    #[test]
    fn uniform_of_many_flows_is_one_round() {
        assert_eq!(schedule(Distribution::Uniform, 4_194_304, 1).len(), 4_194_304);
    }

    #[test]
    fn zipf_follows_its_law_and_the_frequent_flows_are_not_the_first() {
        let (flows, exponent) = (1000, 1.1);
        let schedule = schedule(Distribution::Zipf(exponent), 1000, 7);
        let counts = counts(&schedule, flows);
        let weight = |rank: usize| (rank as f64 + 1.0).powf(-exponent);
        let total: f64 = (0..flows).map(weight).sum();
        for rank in [0, 1, 9, 99] {
            let expected = weight(rank) / total;
            let found = counts[rank] as f64 / schedule.len() as f64;
            assert!((found / expected - 1.0).abs() < 0.05, "rank {rank}: {found} of {expected}");
        }
        let most = schedule.iter().filter(|&&flow| flow == 0).count();
        assert!(most < counts[0], "flow 0 is the most frequent one");
    }

    #[test]
    fn an_elephant_has_its_share_and_the_others_the_rest_alike() {
        let schedule = schedule(Distribution::Elephant(0.5), 100, 3);
        let counts = counts(&schedule, 100);
        let share = |count: usize| count as f64 / schedule.len() as f64;
        assert!((share(counts[0]) - 0.505).abs() < 0.005, "{}", share(counts[0]));
        assert!((share(counts[99]) - 0.005).abs() < 0.0005, "{}", share(counts[99]));
    }

    #[test]
    fn the_same_seed_gives_the_same_order_and_another_another() {
        let order = |seed| schedule(Distribution::Uniform, 1000, seed);
        assert_eq!(order(1), order(1));
        assert_ne!(order(1), order(2));
    }
}
