//! A histogram of latencies: every power of two is cut into 32 buckets, so that a bucket's middle is
//! less than 1.6 % from what is in it. sink.bpf.c fills it, per processor.

/// How many bits of a value decide its bucket, after the highest one.
const BITS: u32 = 5;

/// How many buckets there are: up to 2^36 ns, more than a minute.
pub(crate) const BUCKETS: usize = 1024;

/// Values by bucket.
#[derive(Clone, Debug)]
pub(crate) struct Histogram {
    counts: Vec<u64>,
}

impl Histogram {
    pub(crate) fn new() -> Self {
        Self { counts: vec![0; BUCKETS] }
    }

    /// Adds one processor's buckets.
    pub(crate) fn add(&mut self, counts: impl Iterator<Item = u64>) {
        for (sum, count) in self.counts.iter_mut().zip(counts) {
            *sum += count;
        }
    }

    /// How many values there are.
    pub(crate) fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The middle of the bucket below or in which `share` of all values are; 0 when there are none.
    pub(crate) fn quantile(&self, share: f64) -> u64 {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
        let rank = ((self.count() as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        let bucket = self.counts.iter().position(|&count| {
            seen += count;
            seen >= rank
        });
        bucket.map_or(0, middle)
    }
}

/// The middle of a bucket.
fn middle(bucket: usize) -> u64 {
    let (row, column) = (bucket >> BITS, (bucket & ((1 << BITS) - 1)) as u64);
    if row == 0 {
        return column;
    }
    let shift = row - 1;
    (((1 << BITS) + column) << shift) + ((1 << shift) >> 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As in sink.bpf.c.
    fn bucket(value: u64) -> usize {
        let value = value.min((1 << 36) - 1);
        let shift = (64 - value.leading_zeros()).saturating_sub(BITS + 1);
        ((shift as usize) << BITS) + usize::try_from(value >> shift).unwrap()
    }

    #[test]
    fn a_buckets_middle_is_close_to_all_of_its_values() {
        let mut value = 0u64;
        while value < 1 << 36 {
            let middle = middle(bucket(value));
            assert!(middle.abs_diff(value) as f64 <= value as f64 / 62.0, "{value}: {middle}");
            value += 1 + value / 1000;
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_are_those_of_the_sorted_values() {
        let mut histogram = Histogram::new();
        let mut counts = vec![0; BUCKETS];
        for value in 1..=10_000 {
            counts[bucket(value)] += 1;
        }
        // Two processors.
        histogram.add(counts.iter().map(|count| count / 2));
        histogram.add(counts.iter().map(|count| count - count / 2));
        assert_eq!(histogram.count(), 10_000);
        for share in [0.01, 0.5, 0.9, 0.99, 0.999, 1.0] {
            let (found, exact) = (histogram.quantile(share) as f64, share * 10_000.0);
            assert!((found / exact - 1.0).abs() < 0.02, "{share}: {found}");
        }
    }

    #[test]
    fn an_empty_histogram_has_no_quantile() {
        assert_eq!(Histogram::new().quantile(0.5), 0);
    }
}
