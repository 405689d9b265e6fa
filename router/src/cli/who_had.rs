//! `spillway who-had`.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::place::Place;
use super::table::Align::Left;
use super::table::Table;
use super::time::{Moment, before, duration};
use super::{Query, print};
use crate::answer::protocol;
use crate::observe::follow::now;
use crate::who_had::{Answer, HOLDERS_MAX, Holder, Question, Uncertain, ask};

/// Nobody had it.
const NOBODY: u8 = 3;

/// Nobody knows who had it.
const UNKNOWN: u8 = 4;

/// What is asked.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// An egress address, a port (or echo identifier) of it, and a time: RFC 3339, now, or -5m for
    /// five minutes ago. 192.0.2.1:40000@2026-11-22T14:00:00Z, [2001:db8::1]:40000@-5m.
    #[arg(value_name = "ADDRESS:PORT@TIME")]
    what: What,
    /// Of this protocol: tcp, udp, icmp, icmpv6, sctp, gre, esp, or its number.
    #[arg(long, value_name = "PROTOCOL", value_parser = protocol)]
    protocol: Option<String>,
    /// Towards this remote: several pods may have one port, each towards another one. A port may follow.
    #[arg(long, value_name = "ADDRESS[:PORT]")]
    remote: Option<Place>,
    /// How wrong the time may be, either way.
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "0s")]
    within: Duration,
    /// The file that `spillway nat-log` writes; those that it has rotated are found beside it. May be
    /// given for each of several gateways. Without it only the running router is asked.
    #[arg(long, value_name = "FILE")]
    log: Vec<PathBuf>,
}

/// `ADDRESS:PORT@TIME`.
#[derive(Clone, Debug)]
struct What {
    socket: SocketAddr,
    time: Moment,
}

impl FromStr for What {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let example = "192.0.2.1:40000@2026-11-22T14:00:00Z or [2001:db8::1]:40000@-5m";
        let parts =
            text.split_once('@').and_then(|(socket, time)| Some((socket.parse().ok()?, time)));
        let (socket, time) =
            parts.ok_or_else(|| format!("expected ADDRESS:PORT@TIME, such as {example}"))?;
        Ok(Self { socket, time: time.parse()? })
    }
}

/// There is nobody to show.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
struct Unanswered {
    message: String,
    code: u8,
}

/// The exit code of an error: 3 when nobody had the port, 4 when nobody knows, otherwise 1.
pub(super) fn exit_code(error: &anyhow::Error) -> ExitCode {
    error.downcast_ref::<Unanswered>().map_or(ExitCode::FAILURE, |error| error.code.into())
}

impl Options {
    fn question(&self, now: Timestamp) -> anyhow::Result<Question> {
        let at = self.what.time.at(now);
        let within = SignedDuration::try_from(self.within)?;
        let socket = self.what.socket;
        Ok(Question {
            address: socket.ip().to_canonical(),
            port: socket.port(),
            from: before(at, self.within).unwrap_or(Timestamp::MIN),
            to: at.checked_add(within).unwrap_or(Timestamp::MAX).min(now.max(at)),
            protocol: self.protocol.clone(),
            remote: self.remote.map(|remote| remote.address.to_canonical()),
            remote_port: self.remote.and_then(|remote| remote.port),
        })
    }
}

/// Shows who had it.
pub(super) fn who_had(options: &Options, query: &Query) -> anyhow::Result<()> {
    let now = now();
    let question = options.question(now)?;
    let (answer, notes) = ask(&question, &options.log, &query.socket.path, now)?;
    for note in notes {
        say(&note);
    }
    match query.output {
        super::Output::Json => print(&json(&question, &answer)?)?,
        super::Output::Table if answer.holders.is_empty() => {}
        super::Output::Table => print(&table(&answer.holders))?,
    }
    let asked = format!("{} at {}", options.what.socket, question.from);
    let why = answer.uncertain.as_ref().map(words);
    match (answer.holders.is_empty(), why) {
        (false, None) => Ok(()),
        (false, Some(why)) => {
            say(&format!("these may not be all: {why}"));
            Ok(())
        }
        (true, None) => {
            Err(Unanswered { message: format!("nobody had {asked}"), code: NOBODY }.into())
        }
        (true, Some(why)) => {
            let message = format!("nobody knows who had {asked}: {why}");
            Err(Unanswered { message, code: UNKNOWN }.into())
        }
    }
}

fn say(note: &str) {
    // Standard error may be closed: then nobody wants to know.
    let _ = writeln!(io::stderr(), "spillway: {note}");
}

/// Why it is not known.
fn words(uncertain: &Uncertain) -> String {
    match uncertain {
        Uncertain::TooMany => {
            format!(
                "they are more than {HOLDERS_MAX}: --remote, --protocol and --within ask for fewer"
            )
        }
        Uncertain::NoRecords => "the log is empty".to_owned(),
        Uncertain::Before(begin) => format!("what is known begins at {begin}"),
        Uncertain::After(end) => format!("what is known ends at {end}"),
        Uncertain::Gap(gap) => {
            let mut words = format!("a gap from {} to {}", gap.from, gap.to);
            if let Some(lost) = gap.lost {
                // Writing to a string cannot fail.
                let _ = write!(words, ", {lost} events");
            }
            words + ": " + gap.why.words()
        }
    }
}

fn json(question: &Question, answer: &Answer) -> serde_json::Result<String> {
    #[derive(Serialize)]
    struct Document<'a> {
        address: IpAddr,
        port: u16,
        from: Timestamp,
        to: Timestamp,
        #[serde(flatten)]
        answer: &'a Answer,
    }
    let Question { address, port, from, to, .. } = *question;
    serde_json::to_string_pretty(&Document { address, port, from, to, answer })
        .map(|text| text + "\n")
}

fn table(holders: &[Holder]) -> String {
    let columns = ["Pod", "Address", "Protocol", "Remote", "Policy", "Node", "From", "To"];
    let mut table = Table::new(columns.map(|heading| (heading, Left)));
    for holder in holders {
        let or_unknown = |text: &Option<String>| text.clone().unwrap_or_else(|| "?".to_owned());
        let pod = holder.pod_address;
        // Who has a whole block of ports may have spoken with anybody.
        let any = || "any".to_owned();
        let [address, protocol, remote, policy, node] = match &holder.session {
            None => [pod.to_string(), any(), any(), any(), "?".to_owned()],
            Some(session) => [
                SocketAddr::new(pod, session.pod_port).to_string(),
                session.protocol.clone(),
                SocketAddr::new(session.remote_address, session.remote_port).to_string(),
                or_unknown(&session.policy),
                or_unknown(&session.peer.map(|peer| peer.to_string())),
            ],
        };
        table.row([
            or_unknown(&holder.pod),
            address,
            protocol,
            remote,
            policy,
            node,
            holder.from.to_string(),
            holder.to.map_or("still there".to_owned(), |to| to.to_string()),
        ]);
    }
    table.text()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_is_an_address_a_port_and_a_time() {
        let what: What = "[2001:db8::1]:40000@-5m".parse().unwrap();
        assert_eq!(what.socket.to_string(), "[2001:db8::1]:40000");
        assert_eq!(what.time, Moment::Ago(Duration::from_secs(300)));
        for text in
            ["192.0.2.1:40000", "192.0.2.1@now", "192.0.2.1:40000@", "192.0.2.1:40000@yesterday"]
        {
            assert!(text.parse::<What>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_asked_is_put_as_the_log_has_it() {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            options: Options,
        }
        let now: Timestamp = "2026-11-22T14:00:00Z".parse().unwrap();
        let words = ["", "[::ffff:192.0.2.1]:1@now", "--remote", "::ffff:203.0.113.10"];
        for (protocol, expected) in [("TCP", "tcp"), ("6", "tcp"), ("58", "icmpv6"), ("99", "99")] {
            let line = [&words[..], &["--protocol", protocol]].concat();
            let line = <Line as clap::Parser>::try_parse_from(line).unwrap();
            let question = line.options.question(now).unwrap();
            assert_eq!(question.address, IpAddr::from([192, 0, 2, 1]));
            assert_eq!(question.remote, Some([203, 0, 113, 10].into()));
            assert_eq!(question.protocol.as_deref(), Some(expected));
        }
        let line = [&words[..], &["--protocol", "tpc"]].concat();
        assert!(<Line as clap::Parser>::try_parse_from(line).is_err());
    }

    #[test]
    fn a_time_that_may_be_wrong_is_asked_for_whole_but_not_for_the_future() {
        let now: Timestamp = "2026-11-22T14:00:00Z".parse().unwrap();
        let options = |what: &str, within| Options {
            what: what.parse().unwrap(),
            protocol: None,
            remote: None,
            within: Duration::from_secs(within),
            log: Vec::new(),
        };
        for (what, within, from, to) in [
            ("192.0.2.1:1@-5m", 0, "2026-11-22T13:55:00Z", "2026-11-22T13:55:00Z"),
            ("192.0.2.1:1@-5m", 60, "2026-11-22T13:54:00Z", "2026-11-22T13:56:00Z"),
            ("192.0.2.1:1@now", 60, "2026-11-22T13:59:00Z", "2026-11-22T14:00:00Z"),
        ] {
            let question = options(what, within).question(now).unwrap();
            let expected: [Timestamp; 2] = [from, to].map(|text| text.parse().unwrap());
            assert_eq!([question.from, question.to], expected, "{what}");
        }
    }
}
