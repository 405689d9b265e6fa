//! From the log's records to who had an address and port. Pure; of all records it keeps those that the
//! question is about.

use std::collections::HashMap;
use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use crate::nat_log::record::{Block, Record, Session};
use crate::observe::follow::{Gap, Why};

/// How much a begin may differ that is known from a flow's age: ages are in whole seconds.
const AGE_WITHIN: SignedDuration = SignedDuration::from_secs(2);

/// Holders of one answer, at most.
pub(crate) const HOLDERS_MAX: usize = 10_000;

/// What is asked.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
    /// The time, from its earliest to its latest.
    pub(crate) from: Timestamp,
    pub(crate) to: Timestamp,
    /// As the outside saw it, in the router's words; any if nothing is said.
    pub(crate) protocol: Option<String>,
    /// Towards this remote only.
    pub(crate) remote: Option<IpAddr>,
    pub(crate) remote_port: Option<u16>,
}

impl Question {
    fn is_about(&self, session: &Session) -> bool {
        session.egress_address == self.address
            && session.egress_port == self.port
            && self.protocol.as_ref().is_none_or(|name| is_protocol(session, name))
            && self.remote.is_none_or(|remote| session.remote_address == remote)
            && self.remote_port.is_none_or(|port| session.remote_port == port)
    }

    /// Of whom a block's pod spoke with nothing is known: any protocol, any remote.
    fn is_about_block(&self, block: &Block) -> bool {
        let ports = block.first_port..=block.last_port;
        block.egress_address == self.address && ports.contains(&self.port)
    }

    /// Whether it is about any of the time between these two.
    fn meets(&self, from: Timestamp, to: Timestamp) -> bool {
        from <= self.to && to >= self.from
    }
}

/// With NAT64 an echo is ICMPv6's to the pod, and ICMP's to the outside.
fn is_protocol(session: &Session, name: &str) -> bool {
    let is_ipv4 = session.egress_address.is_ipv4();
    session.protocol == name || (is_ipv4 && session.protocol == "icmpv6" && name == "icmp")
}

/// Who had it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Holder {
    pub(crate) pod: Option<String>,
    pub(crate) pod_address: IpAddr,
    /// Its session; none where the pod had a whole block of ports: it may have spoken with anybody.
    #[serde(flatten)]
    pub(crate) session: Option<HolderSession>,
    /// The block's first and last port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) block: Option<(u16, u16)>,
    /// Since when.
    pub(crate) from: Timestamp,
    /// Until when; none of what has not ended yet.
    pub(crate) to: Option<Timestamp>,
}

/// What a [`Holder`] did with the port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct HolderSession {
    pub(crate) pod_port: u16,
    pub(crate) protocol: String,
    pub(crate) remote_address: IpAddr,
    pub(crate) remote_port: u16,
    pub(crate) policy: Option<String>,
    /// The tunnel peer behind which the pod was: its node.
    pub(crate) peer: Option<IpAddr>,
}

/// Why there may have been somebody else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Uncertain {
    /// Nothing is known of that time.
    NoRecords,
    /// What is known begins later.
    Before(Timestamp),
    /// What is known ends earlier.
    After(Timestamp),
    /// Something is missing there.
    Gap(Gap),
    /// They are more than are kept.
    TooMany,
}

/// What is known of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Answer {
    /// Who had it, in the order of their begins.
    pub(crate) holders: Vec<Holder>,
    /// Why these may not be all.
    pub(crate) uncertain: Option<Uncertain>,
}

/// What a session or a block is known by, while it lasts: no two have the same at one time.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Session { protocol: String, pod: (IpAddr, u16), remote: (IpAddr, u16) },
    Block { pod: IpAddr },
}

/// A record of somebody who had it.
#[derive(Clone, Copy)]
enum Seen<'a> {
    Session(&'a Session),
    Block(&'a Block),
}

impl Seen<'_> {
    fn key(self) -> Key {
        match self {
            Self::Session(session) => Key::Session {
                protocol: session.protocol.clone(),
                pod: (session.pod_address, session.pod_port),
                remote: (session.remote_address, session.remote_port),
            },
            Self::Block(block) => Key::Block { pod: block.pod_address },
        }
    }

    fn is_asked_for(self, question: &Question) -> bool {
        match self {
            Self::Session(session) => question.is_about(session),
            Self::Block(block) => question.is_about_block(block),
        }
    }

    fn time(self) -> Timestamp {
        match self {
            Self::Session(session) => session.time,
            Self::Block(block) => block.time,
        }
    }

    fn began(self) -> Option<Timestamp> {
        match self {
            Self::Session(session) => session.began,
            Self::Block(block) => block.began,
        }
    }

    /// Who has it from its begin on.
    fn holder(self) -> Holder {
        let from = self.began().unwrap_or(self.time());
        match self {
            Self::Session(session) => Holder {
                pod: session.pod.clone(),
                pod_address: session.pod_address,
                session: Some(HolderSession {
                    pod_port: session.pod_port,
                    protocol: session.protocol.clone(),
                    remote_address: session.remote_address,
                    remote_port: session.remote_port,
                    policy: session.policy.clone(),
                    peer: session.peer,
                }),
                block: None,
                from,
                to: None,
            },
            Self::Block(block) => Holder {
                pod: block.pod.clone(),
                pod_address: block.pod_address,
                session: None,
                block: Some((block.first_port, block.last_port)),
                from,
                to: None,
            },
        }
    }
}

/// What is known so far.
#[derive(Debug)]
pub(crate) struct History {
    question: Question,
    /// Sessions of the address and port that have not ended.
    open: HashMap<Key, Holder>,
    /// Those that have, at a time that the question is about.
    ended: Vec<Holder>,
    /// The first thing that is missing of the time that the question is about.
    gap: Option<Gap>,
    is_cut_off: bool,
    /// Since when there may be flows that no record has told of: until all that live are in the log.
    incomplete: Option<Timestamp>,
    /// The times of the first and the last record.
    known: Option<(Timestamp, Timestamp)>,
}

impl History {
    pub(crate) fn new(question: Question) -> Self {
        let (open, ended) = (HashMap::new(), Vec::new());
        Self { question, open, ended, gap: None, is_cut_off: false, incomplete: None, known: None }
    }

    /// The time of the last record.
    fn end(&self) -> Option<Timestamp> {
        self.known.map(|(_, end)| end)
    }

    /// Whether the question can be answered by what is known.
    pub(crate) fn is_enough(&self) -> bool {
        let reaches = self.end().is_some_and(|end| self.question.to <= end);
        reaches && self.incomplete.is_none_or(|since| self.question.to < since)
    }

    /// Takes the next record, in the order of their times.
    pub(crate) fn add(&mut self, record: &Record) {
        match record {
            Record::Begin(session) | Record::Live(session) => self.begin(Seen::Session(session)),
            Record::End(session) => self.finish(Seen::Session(session)),
            Record::BlockBegin(block) | Record::BlockLive(block) => self.begin(Seen::Block(block)),
            Record::BlockEnd(block) => self.finish(Seen::Block(block)),
            Record::Gap(gap) => self.gap(gap),
            Record::Complete(_) => self.incomplete = None,
            // Until it has reached the router it knows nothing.
            Record::Start(_) => return,
            Record::Mark(_) | Record::Stop(_) => {}
        }
        // A log that is begun later than its router has the router's events from before, too.
        let time = record.time();
        let begin = if let Record::Gap(gap) = record { gap.from } else { time };
        if self.known.is_none() && !matches!(record, Record::Complete(_)) {
            self.incomplete = Some(begin);
        }
        let known = self.known.get_or_insert((begin, time));
        *known = (known.0.min(begin), known.1.max(time));
    }

    /// From this time on, records come from elsewhere: nothing is known from the last one to it.
    pub(crate) fn goes_on_at(&mut self, time: Timestamp) {
        match self.end() {
            Some(end) if end < time => {
                self.add(&Record::Gap(Gap {
                    from: end,
                    to: time,
                    lost: None,
                    why: Why::NotLogged,
                }));
            }
            Some(_) => {}
            None => (self.known, self.incomplete) = (Some((time, time)), Some(time)),
        }
    }

    /// Everything that happened until this time is known, and all flows that live then.
    pub(crate) fn is_known_until(&mut self, time: Timestamp) {
        self.incomplete = None;
        if let Some((_, end)) = &mut self.known {
            *end = time.max(*end);
        }
    }

    fn begin(&mut self, seen: Seen<'_>) {
        if !seen.is_asked_for(&self.question) {
            return;
        }
        let (key, holder) = (seen.key(), seen.holder());
        match self.open.get(&key) {
            // The same session, seen again.
            Some(open) if holder.from.duration_since(open.from).abs() <= AGE_WITHIN => {}
            // Another one: nobody saw the end of the one before.
            _ => {
                self.close(&key, holder.from);
                self.open.insert(key, holder);
            }
        }
    }

    fn finish(&mut self, seen: Seen<'_>) {
        if !seen.is_asked_for(&self.question) {
            return;
        }
        let ended = self.open.remove(&seen.key()).unwrap_or_else(|| {
            let known = self.known.map_or(seen.time(), |(begin, _)| begin);
            Holder { from: seen.began().unwrap_or(known), ..seen.holder() }
        });
        // The clock may have been set back a little meanwhile.
        self.keep(Holder { to: Some(seen.time().max(ended.from)), ..ended });
    }

    /// What was open may have ended in a gap, and somebody else may have been there. What is there
    /// still, the next records say.
    fn gap(&mut self, gap: &Gap) {
        self.miss_what_is_incomplete(gap.to);
        self.incomplete = Some(gap.from);
        if self.question.meets(gap.from, gap.to) {
            self.gap.get_or_insert_with(|| gap.clone());
        }
        let open: Vec<Key> = self.open.keys().cloned().collect();
        for key in open {
            self.close(&key, gap.from);
        }
    }

    /// Until this time nobody has told of all flows that were there.
    fn miss_what_is_incomplete(&mut self, to: Timestamp) {
        if let Some(from) = self.incomplete.filter(|from| self.question.meets(*from, to.max(*from)))
        {
            let gap = Gap { from, to: to.max(from), lost: None, why: Why::NotComplete };
            self.gap.get_or_insert(gap);
        }
    }

    fn close(&mut self, key: &Key, at: Timestamp) {
        if let Some(open) = self.open.remove(key) {
            let to = Some(at.max(open.from));
            self.keep(Holder { to, ..open });
        }
    }

    /// Keeps one that has ended, if the question is about it.
    fn keep(&mut self, ended: Holder) {
        let to = ended.to.unwrap_or(Timestamp::MAX);
        if !self.question.meets(ended.from, to) {
            return;
        }
        match self.ended.len() < HOLDERS_MAX {
            true => self.ended.push(ended),
            false => self.is_cut_off = true,
        }
    }

    /// What is known.
    pub(crate) fn answer(mut self) -> Answer {
        self.end().into_iter().for_each(|end| self.miss_what_is_incomplete(end));
        let open: Vec<Holder> = self.open.drain().map(|(_, holder)| holder).collect();
        open.into_iter().for_each(|holder| self.keep(holder));
        let mut holders: Vec<Holder> = Vec::new();
        self.ended.sort_by_key(|holder| holder.from);
        for holder in self.ended {
            let is_near =
                |before: &&mut Holder| holder.from.duration_since(before.from) <= AGE_WITHIN;
            let mut near = holders.iter_mut().rev().take_while(is_near);
            let before = near.find(|before| is_same(before, &holder));
            match before {
                // One that was seen on both sides of a gap.
                Some(before) => before.to = before.to.zip(holder.to).map(|(a, b)| a.max(b)),
                None => holders.push(holder),
            }
        }
        let Question { from, to, .. } = self.question;
        let uncertain = match self.known {
            None => Some(Uncertain::NoRecords),
            Some((begin, _)) if from < begin => Some(Uncertain::Before(begin)),
            Some((_, end)) if to > end => Some(Uncertain::After(end)),
            Some(_) if self.is_cut_off => Some(Uncertain::TooMany),
            Some(_) => self.gap.map(Uncertain::Gap),
        };
        Answer { holders, uncertain }
    }
}

/// Whether two, of which the later began when the earlier did as far as is known, are one.
fn is_same(earlier: &Holder, later: &Holder) -> bool {
    let with = |holder: &Holder| {
        let session = holder.session.as_ref();
        session.map(|it| (it.pod_port, it.protocol.clone(), it.remote_address, it.remote_port))
    };
    earlier.pod_address == later.pod_address
        && with(earlier) == with(later)
        && earlier.to.is_none_or(|to| to > later.from)
}

#[cfg(test)]
#[path = "history_tests.rs"]
mod tests;
