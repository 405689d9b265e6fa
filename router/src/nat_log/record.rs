//! What the NAT log holds: a line of JSON each.

use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use spillway_api::{Event, EventKind, Flow, FlowTotal, POLICY_NOT_KNOWN, Tuple};

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

impl Record {
    /// What is logged of an event; nothing of single packets.
    pub(crate) fn of_event(event: Event) -> Option<Self> {
        let reply = event.reply?;
        let at = time(event.time_us);
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
            EventKind::Drop | EventKind::Forward => None,
        }
    }

    /// A flow that is there now.
    pub(crate) fn of_flow(flow: Flow, now: Timestamp) -> Self {
        let age = SignedDuration::from_secs(i64::try_from(flow.age_s).unwrap_or(i64::MAX));
        let mut session = Session::of(now, flow.protocol, &flow.original, &flow.reply);
        session.began = now.checked_sub(age).ok();
        session.pod = flow.pod;
        session.policy = Some(flow.policy).filter(|name| name != POLICY_NOT_KNOWN);
        session.peer = Some(flow.peer);
        Self::Live(session)
    }

    /// The session that it is about.
    pub(crate) fn session(&self) -> Option<&Session> {
        match self {
            Self::Begin(session) | Self::End(session) | Self::Live(session) => Some(session),
            Self::Gap(_) | Self::Complete(_) => None,
            Self::Start(_) | Self::Mark(_) | Self::Stop(_) => None,
        }
    }

    /// When it was written, or what it tells ended.
    pub(crate) fn time(&self) -> Timestamp {
        match self {
            Self::Begin(session) | Self::End(session) | Self::Live(session) => session.time,
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
