//! What the NAT log holds: a line of JSON each.

use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use spillway_api::{Event, EventKind, Flow, FlowTotal, POLICY_NOT_KNOWN, PortBlock, Tuple};

use crate::observe::follow::{Gap, time};

/// A line of the NAT log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Record {
    /// A flow began.
    Begin(Session),
    /// A flow ended.
    End(Session),
    /// A flow was there when the log looked: its begin may be from before the log.
    Live(Session),
    /// A pod has a block of ports from now on, and nobody else has one of them.
    BlockBegin(Block),
    /// It has it no more.
    BlockEnd(Block),
    /// A pod had a block when the log looked.
    BlockLive(Block),
    /// Flows may have begun and ended of which nothing is known.
    Gap(Gap),
    /// Every flow that lives is in the log, behind the last gap: what is not has ended.
    Complete(At),
    /// Somebody writes the log again: what follows goes on where it ended, or a gap is told.
    Start(At),
    /// Everything that happened until here is logged.
    Mark(At),
    /// The same, and nobody writes the log from here on.
    Stop(At),
}

/// When.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct At {
    pub(crate) time: Timestamp,
}

/// Who had which egress address and port, towards whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Session {
    /// When it was so.
    pub(crate) time: Timestamp,
    /// When the flow began, if that is not now and is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) began: Option<Timestamp>,
    /// `tcp`, `udp`, `icmp`, `icmpv6`, `sctp`, `gre`, `esp`, or its number: the pod's own.
    pub(crate) protocol: String,
    /// The pod's name, `NAMESPACE/NAME`, where the state document tells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pod: Option<String>,
    pub(crate) pod_address: IpAddr,
    /// An echo's is its identifier.
    pub(crate) pod_port: u16,
    pub(crate) egress_address: IpAddr,
    pub(crate) egress_port: u16,
    pub(crate) remote_address: IpAddr,
    pub(crate) remote_port: u16,
    /// Where the pod has sent to, if that is another form of `remote_address` (NAT64).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pod_destination: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) policy: Option<String>,
    /// The tunnel peer behind which the pod is: its node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) peer: Option<IpAddr>,
    /// Why the flow ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    /// What it carried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) total: Option<FlowTotal>,
}

/// A pod's ports on an egress address, of every protocol and towards every remote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Block {
    /// When it was so.
    pub(crate) time: Timestamp,
    /// When the pod got it, if that is not now and is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) began: Option<Timestamp>,
    /// The pod's name, `NAMESPACE/NAME`, where the state document tells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pod: Option<String>,
    pub(crate) pod_address: IpAddr,
    pub(crate) egress_address: IpAddr,
    pub(crate) first_port: u16,
    pub(crate) last_port: u16,
}

impl Record {
    /// What is logged of an event; nothing of single packets.
    pub(crate) fn of_event(event: Event) -> Option<Self> {
        let reply = event.reply?;
        let at = time(event.time_us);
        if let Some(last_port) = event.last_port {
            let block = Block {
                time: at,
                began: None,
                pod: event.pod,
                pod_address: event.original.source,
                egress_address: reply.destination,
                first_port: reply.destination_port,
                last_port,
            };
            return match event.kind {
                EventKind::BlockBegin => Some(Self::BlockBegin(block)),
                EventKind::BlockEnd => Some(Self::BlockEnd(block)),
                _ => None,
            };
        }
        let began = event.total.and_then(|total| {
            let lasted = i64::try_from(total.duration_ms).ok()?;
            at.checked_sub(SignedDuration::from_millis(lasted)).ok()
        });
        let mut session = Session::of(at, event.protocol, &event.original, &reply);
        session.began = began;
        session.pod = event.pod;
        session.policy = event.policy;
        session.peer = event.peer;
        session.reason = event.reason;
        session.total = event.total;
        match event.kind {
            EventKind::Begin => Some(Self::Begin(Session { began: None, ..session })),
            EventKind::End => Some(Self::End(session)),
            EventKind::Drop | EventKind::Forward | EventKind::BlockBegin | EventKind::BlockEnd => {
                None
            }
        }
    }

    /// A block that a pod has now.
    pub(crate) fn of_block(block: PortBlock, now: Timestamp) -> Self {
        Self::BlockLive(Block {
            time: now,
            began: since(block.age_s, now),
            pod: block.pod,
            pod_address: block.pod_address,
            egress_address: block.egress_address,
            first_port: block.first_port,
            last_port: block.last_port,
        })
    }

    /// A flow that is there now.
    pub(crate) fn of_flow(flow: Flow, now: Timestamp) -> Self {
        let mut session = Session::of(now, flow.protocol, &flow.original, &flow.reply);
        session.began = since(flow.age_s, now);
        session.pod = flow.pod;
        session.policy = Some(flow.policy).filter(|name| name != POLICY_NOT_KNOWN);
        session.peer = Some(flow.peer);
        Self::Live(session)
    }

    /// The session that it is about.
    pub(crate) fn session(&self) -> Option<&Session> {
        match self {
            Self::Begin(session) | Self::End(session) | Self::Live(session) => Some(session),
            Self::BlockBegin(_) | Self::BlockEnd(_) | Self::BlockLive(_) => None,
            Self::Gap(_) | Self::Complete(_) => None,
            Self::Start(_) | Self::Mark(_) | Self::Stop(_) => None,
        }
    }

    /// The block that it is about.
    pub(crate) fn block(&self) -> Option<&Block> {
        match self {
            Self::BlockBegin(block) | Self::BlockEnd(block) | Self::BlockLive(block) => Some(block),
            _ => None,
        }
    }

    /// Whether it says nothing that the records of blocks do not: a session with a port, which is in a block
    /// of its pod.
    pub(crate) fn is_in_a_block(&self) -> bool {
        self.session().is_some_and(|session| session.egress_port != 0)
    }

    /// When it was written, or what it tells ended.
    pub(crate) fn time(&self) -> Timestamp {
        match self {
            Self::Begin(session) | Self::End(session) | Self::Live(session) => session.time,
            Self::BlockBegin(block) | Self::BlockEnd(block) | Self::BlockLive(block) => block.time,
            Self::Gap(gap) => gap.to,
            Self::Complete(at) | Self::Start(at) | Self::Mark(at) | Self::Stop(at) => at.time,
        }
    }

    /// As a line.
    pub(crate) fn line(&self) -> serde_json::Result<Vec<u8>> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        Ok(line)
    }
}

/// When something began that has this age.
fn since(age_s: u64, now: Timestamp) -> Option<Timestamp> {
    let age = SignedDuration::from_secs(i64::try_from(age_s).unwrap_or(i64::MAX));
    now.checked_sub(age).ok()
}

impl Session {
    fn of(time: Timestamp, protocol: String, original: &Tuple, reply: &Tuple) -> Self {
        let destination = original.destination;
        Self {
            time,
            began: None,
            protocol,
            pod: None,
            pod_address: original.source,
            pod_port: original.source_port,
            egress_address: reply.destination,
            egress_port: reply.destination_port,
            remote_address: reply.source,
            remote_port: reply.source_port,
            pod_destination: (destination != reply.source).then_some(destination),
            policy: None,
            peer: None,
            reason: None,
            total: None,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    /// A session of 10.0.1.40:41000, which is seen as 192.168.44.129:41001.
    pub(crate) fn session(time: &str) -> Session {
        let tuple = |source: &str, source_port, destination: &str, destination_port| Tuple {
            source: source.parse().unwrap(),
            source_port,
            destination: destination.parse().unwrap(),
            destination_port,
        };
        let original = tuple("10.0.1.40", 41_000, "203.0.113.10", 443);
        let reply = tuple("203.0.113.10", 443, "192.168.44.129", 41_001);
        Session {
            pod: Some("shop/cart-0".to_owned()),
            policy: Some("app1".to_owned()),
            ..Session::of(at(time), "tcp".to_owned(), &original, &reply)
        }
    }

    /// 64 ports that 10.0.1.40 has on 192.168.44.129.
    pub(crate) fn block(time: &str) -> Block {
        Block {
            time: at(time),
            began: None,
            pod: Some("shop/cart-0".to_owned()),
            pod_address: "10.0.1.40".parse().unwrap(),
            egress_address: "192.168.44.129".parse().unwrap(),
            first_port: 4_096,
            last_port: 4_159,
        }
    }

    #[test]
    fn every_record_is_a_line_and_the_same_again_when_it_is_read() {
        let began = Some(at("2026-11-22T13:00:00Z"));
        let ended =
            Session { began, reason: Some("closed".into()), ..session("2026-11-22T14:00:00Z") };
        let now = At { time: at("2026-11-22T14:00:00.000001Z") };
        let gap = Gap {
            from: now.time,
            to: now.time,
            lost: None,
            why: crate::observe::follow::Why::RouterRestarted,
        };
        for record in [
            Record::Begin(session("2026-11-22T14:00:00Z")),
            Record::End(ended.clone()),
            Record::Live(ended),
            Record::BlockBegin(block("2026-11-22T14:00:00Z")),
            Record::BlockEnd(block("2026-11-22T14:00:00Z")),
            Record::BlockLive(Block { began, ..block("2026-11-22T14:00:00Z") }),
            Record::Gap(gap),
            Record::Complete(now),
            Record::Start(now),
            Record::Mark(now),
            Record::Stop(now),
        ] {
            let line = record.line().unwrap();
            assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
            assert_eq!(serde_json::from_slice::<Record>(&line).unwrap(), record);
        }
    }

    #[test]
    fn a_begin_reads_as_people_expect_it() {
        let line = Record::Begin(session("2026-11-22T14:00:00.5Z")).line().unwrap();
        assert_eq!(
            String::from_utf8(line).unwrap(),
            "{\"event\":\"begin\",\"time\":\"2026-11-22T14:00:00.5Z\",\"protocol\":\"tcp\",\
             \"pod\":\"shop/cart-0\",\"pod_address\":\"10.0.1.40\",\"pod_port\":41000,\
             \"egress_address\":\"192.168.44.129\",\"egress_port\":41001,\
             \"remote_address\":\"203.0.113.10\",\"remote_port\":443,\"policy\":\"app1\"}\n"
        );
    }
}
