//! When announced addresses are told to their links (RFC 5227, section 2.3): as soon as Spillway has
//! one, when its device comes back, and when the device's link address changes. Pure: the time is an
//! argument.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// How often an address is announced, since a link may lose a frame …
const TIMES: u8 = 3;

/// … and how far apart.
const INTERVAL: Duration = Duration::from_secs(1);

/// Where an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The device's index.
    pub(crate) ifindex: u32,
    /// Its link address.
    pub(crate) mac: [u8; 6],
}

/// Announcements that are still to be made of one address.
#[derive(Clone, Copy, Debug)]
struct Pending {
    at: Instant,
    left: u8,
}

/// The announced addresses, and what is still to be said of them.
#[derive(Debug, Default)]
pub(crate) struct Announcements {
    places: BTreeMap<IpAddr, Place>,
    pending: BTreeMap<IpAddr, Pending>,
}

impl Announcements {
    /// Takes over where addresses are now, on devices that can send. What is new or elsewhere is to
    /// be announced; what is gone is not any more.
    pub(crate) fn follow(&mut self, places: BTreeMap<IpAddr, Place>, now: Instant) {
        self.pending.retain(|address, _| places.contains_key(address));
        for (address, place) in &places {
            if self.places.get(address) != Some(place) {
                self.pending.insert(*address, Pending { at: now, left: TIMES });
            }
        }
        self.places = places;
    }

    /// When something is due next.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.pending.values().map(|pending| pending.at).min()
    }

    /// The addresses that are to be announced now.
    pub(crate) fn due(&mut self, now: Instant) -> Vec<IpAddr> {
        let due = self.pending.iter_mut().filter(|(_, pending)| pending.at <= now);
        let due = due.map(|(address, pending)| {
            *pending = Pending { at: now + INTERVAL, left: pending.left.saturating_sub(1) };
            *address
        });
        let due = due.collect();
        self.pending.retain(|_, pending| pending.left > 0);
        due
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const ONE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));
    const HERE: Place = Place { ifindex: 7, mac: [2, 0, 0, 0, 0, 1] };

    fn follow(announcements: &mut Announcements, places: &[(IpAddr, Place)], now: Instant) {
        announcements.follow(places.iter().copied().collect(), now);
    }

    /// Waits for what is due, as the main thread does: how long after `start` what was announced.
    fn told(announcements: &mut Announcements, start: Instant) -> Vec<(u64, Vec<IpAddr>)> {
        let mut told = Vec::new();
        while let Some(at) = announcements.next() {
            told.push(((at - start).as_secs(), announcements.due(at)));
            assert!(told.len() < 100, "it has an end");
        }
        told
    }

    #[test]
    fn a_new_address_is_announced_three_times_and_then_no_more() {
        let (mut announcements, start) = (Announcements::default(), Instant::now());
        assert_eq!(announcements.next(), None);
        follow(&mut announcements, &[(ONE, HERE)], start);
        assert_eq!(announcements.next(), Some(start));
        assert_eq!(announcements.due(start), [ONE]);
        assert!(announcements.due(start).is_empty(), "not twice at once");
        assert_eq!(told(&mut announcements, start), [(1, vec![ONE]), (2, vec![ONE])]);
        follow(&mut announcements, &[(ONE, HERE)], start);
        assert_eq!(announcements.next(), None, "nothing has changed");
    }

    #[test]
    fn addresses_do_not_wait_for_each_other() {
        let (mut announcements, start) = (Announcements::default(), Instant::now());
        let later = start + Duration::from_secs(10);
        follow(&mut announcements, &[(ONE, HERE)], start);
        assert_eq!(told(&mut announcements, start).len(), 3);
        follow(&mut announcements, &[(ONE, HERE), (OTHER, HERE)], later);
        let expected = [10, 11, 12].map(|second| (second, vec![OTHER]));
        assert_eq!(told(&mut announcements, start), expected);
    }

    #[test]
    fn what_moves_or_comes_back_is_announced_again() {
        let (mut announcements, start) = (Announcements::default(), Instant::now());
        let moved = [Place { ifindex: 8, ..HERE }, Place { mac: [2, 0, 0, 0, 0, 2], ..HERE }];
        for place in [HERE, moved[0], moved[1], HERE] {
            follow(&mut announcements, &[(ONE, place)], start);
            assert_eq!(told(&mut announcements, start).len(), 3);
        }
        // Its device goes down, and comes up again.
        follow(&mut announcements, &[], start);
        assert_eq!(announcements.next(), None);
        follow(&mut announcements, &[(ONE, HERE)], start);
        assert_eq!(told(&mut announcements, start).len(), 3);
    }

    #[test]
    fn what_is_gone_is_not_announced_any_more() {
        let (mut announcements, start) = (Announcements::default(), Instant::now());
        follow(&mut announcements, &[(ONE, HERE), (OTHER, HERE)], start);
        assert_eq!(announcements.due(start), [ONE, OTHER]);
        follow(&mut announcements, &[(OTHER, HERE)], start);
        assert_eq!(told(&mut announcements, start), [(1, vec![OTHER]), (2, vec![OTHER])]);
    }
}
