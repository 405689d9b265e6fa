//! Following a router's events: which number comes next, and what was lost on the way. Pure.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use spillway_api::EventPage;

/// How much earlier than what was known already an event may be: workers tell of it a little later.
const LATE_MAX: SignedDuration = SignedDuration::from_secs(2);

/// How far a router's events are read. It may be kept, to go on from there later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Position {
    /// When the router began to number: another one begins at another time.
    since_us: u64,
    /// The number of the next event.
    next: u64,
    /// What the router has told to be lost.
    lost: u64,
    /// Until when nothing is missing but what was told.
    pub(crate) until: Timestamp,
}

/// A time of which not every event is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Gap {
    /// Where it begins.
    pub(crate) from: Timestamp,
    /// Where it ends.
    pub(crate) to: Timestamp,
    /// How many events are missing; none when nobody knows.
    pub(crate) lost: Option<u64>,
    /// Why.
    pub(crate) why: Why,
}

/// Why events are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Why {
    /// The router was restarted: what it had not told yet is gone.
    RouterRestarted,
    /// The router keeps so many events only, and newer ones took their places before they were read.
    ReadTooLate,
    /// More happened at a time than the router could take note of.
    RouterBusy,
    /// Nobody wrote the log.
    NotLogged,
    /// The log ends, or has another gap, before it had all flows that were there.
    NotComplete,
    /// The clock was set back: times from the one to the other came twice.
    ClockSetBack,
}

impl Why {
    /// For people.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::RouterRestarted => "the router was restarted",
            Self::ReadTooLate => "newer events took their places before they were read",
            Self::RouterBusy => "more happened at a time than the router could take note of",
            Self::NotLogged => "nobody wrote the log",
            Self::NotComplete => "the log did not come to have all flows that were there",
            Self::ClockSetBack => "the clock was set back, and these times came twice",
        }
    }
}

/// What a page of events is asked for, and what it leaves out.
#[derive(Debug)]
pub(crate) struct Follower {
    /// What the first page is asked for, when there is no position yet.
    first: u64,
    position: Option<Position>,
}

impl Follower {
    /// One that begins with the oldest event that the router keeps, and takes no older one for lost.
    pub(crate) fn oldest() -> Self {
        Self { first: 0, position: None }
    }

    /// One that begins with the router's first event: those that it keeps no longer are lost.
    pub(crate) fn whole() -> Self {
        Self { first: 1, position: None }
    }

    /// One that goes on where another was.
    pub(crate) fn from(position: Position) -> Self {
        Self { first: 1, position: Some(position) }
    }

    /// How far events are read.
    pub(crate) fn position(&self) -> Option<&Position> {
        self.position.as_ref()
    }

    /// What the next page is asked for.
    pub(crate) fn cursor(&self) -> u64 {
        self.position.as_ref().map_or(self.first, |position| position.next)
    }

    /// Takes a page that was asked for at `asked`.
    pub(crate) fn take(&mut self, page: &EventPage, asked: Timestamp) -> Taken {
        let since = time(page.since_us);
        let start = |next| Position { since_us: page.since_us, next, lost: 0, until: since };
        let position = self.position.get_or_insert_with(|| start(self.first));
        if position.since_us != page.since_us {
            let from = position.until;
            *position = start(1);
            // The clock may have been set back meanwhile.
            let (from, to) = (from.min(since), from.max(since));
            return Taken::Restarted(Gap { from, to, lost: None, why: Why::RouterRestarted });
        }
        let mut gaps = Vec::new();
        if let Some(gap) = set_back(position.until, page, asked) {
            position.until = gap.from;
            gaps.push(gap);
        }
        let (from, next) = (position.until, position.next);
        if next > 0 && page.first > next {
            let begin = page.events.first().map_or(asked, |event| time(event.time_us));
            let (to, lost) = (begin.max(from), Some(page.first - next));
            gaps.push(Gap { from, to, lost, why: Why::ReadTooLate });
        }
        if page.lost > position.lost {
            // Until now: there may be more pages.
            let (to, lost) = (asked.max(from), Some(page.lost - position.lost));
            gaps.push(Gap { from, to, lost, why: Why::RouterBusy });
        }
        (position.next, position.lost) = (page.next, page.lost);
        let end = page.events.last().map_or(asked, |event| time(event.time_us));
        position.until = end.max(from);
        Taken::Whole(gaps)
    }
}

/// The time that comes twice, if the clock was set back since everything was known `until` then.
fn set_back(until: Timestamp, page: &EventPage, asked: Timestamp) -> Option<Gap> {
    let times = || page.events.iter().map(|event| time(event.time_us));
    let earliest = times().fold(asked, Timestamp::min);
    let is_back = until.duration_since(earliest) > LATE_MAX;
    let gap = |to| Gap { from: earliest, to, lost: Some(0), why: Why::ClockSetBack };
    is_back.then(|| gap(times().fold(until, Timestamp::max)))
}

/// What has become of a page.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It is what was asked for, and this is missing before its end.
    Whole(Vec<Gap>),
    /// It is of another router than the one before, and was asked for by that one's numbers: it is to
    /// be asked for again.
    Restarted(Gap),
}

/// Now, as exactly as events have it.
pub(crate) fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now)
}

/// A time of an event.
pub(crate) fn time(microseconds: u64) -> Timestamp {
    let microseconds = i64::try_from(microseconds).unwrap_or(i64::MAX);
    Timestamp::from_microsecond(microseconds).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use spillway_api::{Event, EventKind, Tuple};

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// A page of events with these numbers, each at the second of its number, from a router that began
    /// to number at second 0.
    fn page(numbers: std::ops::Range<u64>, first: u64, lost: u64) -> EventPage {
        let nobody = std::net::IpAddr::from([0; 4]);
        let tuple =
            Tuple { source: nobody, source_port: 0, destination: nobody, destination_port: 0 };
        let event = |number| Event {
            number,
            time_us: number * 1_000_000,
            worker: 0,
            kind: EventKind::Begin,
            protocol: "tcp".to_owned(),
            original: tuple,
            reply: None,
            pod: None,
            policy: None,
            peer: None,
            reason: None,
            total: None,
            last_port: None,
        };
        EventPage {
            next: numbers.end,
            events: numbers.map(event).collect(),
            first,
            lost,
            since_us: 0,
            port_blocks: false,
        }
    }

    fn whole(gaps: impl Into<Vec<Gap>>) -> Taken {
        Taken::Whole(gaps.into())
    }

    #[test]
    fn pages_follow_each_other_without_a_gap() {
        let mut follower = Follower::whole();
        assert_eq!(follower.cursor(), 1);
        assert_eq!(follower.take(&page(1..4, 1, 0), at(9)), whole([]));
        assert_eq!(follower.cursor(), 4);
        assert_eq!(follower.take(&page(4..4, 1, 0), at(20)), whole([]));
        assert_eq!(follower.position().unwrap().until, at(20));
    }

    #[test]
    fn events_that_made_room_before_they_were_read_are_a_gap() {
        let gap =
            |from, lost| Gap { from: at(from), to: at(7), lost: Some(lost), why: Why::ReadTooLate };
        let mut follower = Follower::whole();
        follower.take(&page(1..4, 1, 0), at(9));
        assert_eq!(follower.take(&page(7..9, 7, 0), at(9)), whole([gap(3, 3)]));
        // Who begins with the oldest has lost none of those before.
        assert_eq!(Follower::oldest().take(&page(7..9, 7, 0), at(9)), whole([]));
        assert_eq!(Follower::whole().take(&page(7..9, 7, 0), at(9)), whole([gap(0, 6)]));
    }

    #[test]
    fn events_that_the_router_could_not_note_are_a_gap_each_time() {
        let gap = |from, to, lost| Gap {
            from: at(from),
            to: at(to),
            lost: Some(lost),
            why: Why::RouterBusy,
        };
        let mut follower = Follower::oldest();
        assert_eq!(follower.take(&page(1..4, 1, 5), at(9)), whole([gap(0, 9, 5)]));
        assert_eq!(follower.take(&page(4..4, 1, 5), at(9)), whole([]));
        assert_eq!(follower.take(&page(4..4, 1, 7), at(11)), whole([gap(9, 11, 2)]));
    }

    #[test]
    fn a_clock_that_is_set_back_is_told_once_and_followed() {
        let gap =
            |from, to| Gap { from: at(from), to: at(to), lost: Some(0), why: Why::ClockSetBack };
        let mut follower = Follower::whole();
        follower.take(&page(1..4, 1, 0), at(9));
        follower.take(&page(4..4, 1, 0), at(5_000));
        // A worker may be late.
        assert_eq!(follower.take(&page(4..4, 1, 0), at(4_998)), whole([]));
        assert_eq!(follower.take(&page(4..4, 1, 0), at(1_400)), whole([gap(1_400, 5_000)]));
        assert_eq!(follower.position().unwrap().until, at(1_400));
        assert_eq!(follower.take(&page(4..4, 1, 0), at(1_401)), whole([]));
        // Between two events of a page.
        let mut of_both = page(4..6, 1, 0);
        of_both.events[0].time_us = 1_500_000_000;
        of_both.events[1].time_us = 1_300_000_000;
        assert_eq!(follower.take(&of_both, at(1_301)), whole([gap(1_300, 1_500)]));
        assert_eq!(follower.position().unwrap().until, at(1_300));
        // While one router ended and the next began.
        let restarted =
            follower.take(&EventPage { since_us: 60_000_000, ..page(1..1, 1, 0) }, at(61));
        let why = Why::RouterRestarted;
        assert_eq!(
            restarted,
            Taken::Restarted(Gap { from: at(60), to: at(1_300), lost: None, why })
        );
    }

    #[test]
    fn a_restarted_router_is_noticed_and_read_from_its_first_event() {
        let mut follower = Follower::oldest();
        follower.take(&page(1..4, 1, 0), at(9));
        let kept = serde_json::to_string(follower.position().unwrap()).unwrap();
        let mut follower = Follower::from(serde_json::from_str(&kept).unwrap());
        assert_eq!(follower.cursor(), 4);
        let of_another = |page| EventPage { since_us: 60_000_000, ..page };
        let gap = Gap { from: at(3), to: at(60), lost: None, why: Why::RouterRestarted };
        let restarted = follower.take(&of_another(page(70..72, 70, 2)), at(99));
        assert_eq!(restarted, Taken::Restarted(gap));
        assert_eq!(follower.cursor(), 1);
        let Taken::Whole(gaps) = follower.take(&of_another(page(70..72, 70, 2)), at(99)) else {
            panic!("it was asked for by its own numbers");
        };
        assert_eq!(gaps.iter().map(|gap| gap.lost).collect::<Vec<_>>(), [Some(69), Some(2)]);
    }
}
