//! Says at most once a second what could be said a thousand times. Pure: time is an argument.

use std::time::{Duration, Instant};

/// How long nothing more is said.
const INTERVAL: Duration = Duration::from_secs(1);

/// One kind of thing to say, and how often it was left untold.
#[derive(Debug, Default)]
pub(crate) struct Seldom {
    next: Option<Instant>,
    untold: u64,
}

impl Seldom {
    /// Whether to say it now: if so, how often it was left untold since the last time.
    pub(crate) fn tell(&mut self, now: Instant) -> Option<u64> {
        if self.next.is_some_and(|next| now < next) {
            self.untold += 1;
            return None;
        }
        self.next = Some(now + INTERVAL);
        Some(std::mem::take(&mut self.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_told_in_a_second_and_the_others_are_counted() {
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let mut seldom = Seldom::default();
        assert_eq!(seldom.tell(at(0)), Some(0));
        assert_eq!((1..=999).filter(|ms| seldom.tell(at(*ms)).is_some()).count(), 0);
        assert_eq!(seldom.tell(at(1000)), Some(999));
        assert_eq!(seldom.tell(at(5000)), Some(0));
    }
}
