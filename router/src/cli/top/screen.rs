//! What `spillway top` shows, and what keys and answers change of it. Pure: time comes with the answers.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::rates::{DropRate, Rates, Sample};
use super::units::whole;
use super::usage_rates::UsageRates;

/// Samples that the charts have at most: as many columns as a wide terminal has.
const HISTORY_MAX: usize = 400;

/// How long a reason is shown after the last packet that was dropped for it.
const MOVED_WITHIN: Duration = Duration::from_secs(60);

/// One of the pages that Tab goes round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum View {
    /// Throughput, workers, and what is dropped.
    #[default]
    Overview,
    /// Why packets are dropped, each reason with a sentence.
    Drops,
    /// What flows use of egress addresses and policies.
    Egress,
    /// The most active flows.
    Flows,
}

impl View {
    pub(super) const ALL: [Self; 4] = [Self::Overview, Self::Drops, Self::Egress, Self::Flows];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Overview => "Overview",
            Self::Drops => "Drops",
            Self::Egress => "Egress",
            Self::Flows => "Flows",
        }
    }

    fn moved(self, by: usize) -> Self {
        let mut round = Self::ALL.into_iter().cycle().skip_while(|view| *view != self);
        round.nth(by).unwrap_or_default()
    }
}

/// What a key means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Quit,
    NextView,
    PreviousView,
    View(View),
    Pause,
    Help,
}

/// Throughput of one moment, or none where the router did not answer or has started anew.
pub(super) type Point = Option<(u64, u64)>;

/// What is known of the router.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    /// The last sample.
    pub(super) sample: Option<Sample>,
    /// Between the last two samples.
    pub(super) rates: Option<Rates>,
    /// Between the last two counts of what flows use.
    pub(super) usage_rates: Option<UsageRates>,
    /// Bits each second to the outside and to pods, the newest last.
    pub(super) history: VecDeque<Point>,
    /// Why the router does not answer, and for how long it has not.
    pub(super) trouble: Option<(String, Duration)>,
    /// When each reason has moved last.
    moved: BTreeMap<String, Duration>,
    /// When the first question of those that were not answered was asked.
    silent_since: Option<Duration>,
}

/// Everything that decides what is drawn.
#[derive(Clone, Debug, Default)]
pub(super) struct Screen {
    pub(super) view: View,
    pub(super) help: bool,
    /// What was known when the screen was paused.
    paused: Option<Known>,
    live: Known,
}

impl Screen {
    pub(super) fn new(view: View) -> Self {
        Self { view, ..Self::default() }
    }

    /// What is shown.
    pub(super) fn known(&self) -> &Known {
        self.paused.as_ref().unwrap_or(&self.live)
    }

    pub(super) fn is_paused(&self) -> bool {
        self.paused.is_some()
    }

    /// Whether the router shall be asked for flows.
    pub(super) fn wants_flows(&self) -> bool {
        self.view == View::Flows
    }

    /// Takes an answer, or why there is none at that time.
    pub(super) fn take(&mut self, answer: Result<Sample, (String, Duration)>) {
        match answer {
            Ok(sample) => self.live.answered(sample),
            Err((why, at)) => self.live.silent(why, at),
        }
    }

    /// Does what a key means; whether to go on.
    pub(super) fn press(&mut self, key: Key) -> bool {
        match key {
            Key::Quit => return false,
            Key::NextView => self.view = self.view.moved(1),
            Key::PreviousView => self.view = self.view.moved(View::ALL.len() - 1),
            Key::View(view) => self.view = view,
            Key::Pause => {
                self.paused = if self.is_paused() { None } else { Some(self.live.clone()) };
            }
            Key::Help => self.help = !self.help,
        }
        true
    }
}

impl Known {
    fn answered(&mut self, sample: Sample) {
        self.rates = self.sample.as_ref().and_then(|before| Rates::between(before, &sample));
        // They stay until there is another count, but not longer than the process that counted.
        let rates = self.rates.as_ref();
        self.usage_rates =
            rates.and_then(|rates| rates.usage.clone().or_else(|| self.usage_rates.take()));
        let (drops, at) = (self.rates.as_ref().map_or(&[][..], |rates| &rates.drops), sample.at);
        for drop in drops.iter().filter(|drop| drop.per_second > 0.0) {
            self.moved.insert(drop.reason.clone(), at);
        }
        self.moved.retain(|_, moved| at.saturating_sub(*moved) <= MOVED_WITHIN);
        let point = self.rates.as_ref();
        self.remember(point.map(|rates| (whole(rates.forward.bits), whole(rates.reply.bits))));
        self.sample = Some(sample);
        (self.trouble, self.silent_since) = (None, None);
    }

    /// The last sample stays, so that it can be seen how things were.
    fn silent(&mut self, why: String, at: Duration) {
        let since = *self.silent_since.get_or_insert(at);
        self.trouble = Some((why, at.saturating_sub(since)));
        (self.rates, self.usage_rates) = (None, None);
        self.remember(None);
    }

    fn remember(&mut self, point: Point) {
        if self.history.len() == HISTORY_MAX {
            self.history.pop_front();
        }
        self.history.push_back(point);
    }

    /// The reasons that have moved within the last minute, the fastest first.
    pub(super) fn moving_drops(&self) -> Vec<&DropRate> {
        let drops = self.rates.as_ref().map_or(&[][..], |rates| &rates.drops);
        let mut moving: Vec<&DropRate> =
            drops.iter().filter(|drop| self.moved.contains_key(&drop.reason)).collect();
        moving
            .sort_by(|a, b| b.per_second.total_cmp(&a.per_second).then(b.packets.cmp(&a.packets)));
        moving
    }
}

#[cfg(test)]
#[path = "screen_tests.rs"]
mod tests;
