//! What one thread sends, and what it has sent.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::label::Label;
use super::options::{Distribution, SendOptions};
use super::pace::Pace;
use super::schedule::schedule;
use super::template::Template;

/// One thread's packets. Of `streams` streams this one has each flow whose number is `number` modulo
/// `streams`: no two send the same flow, so that its packets have one order.
#[derive(Clone, Debug)]
pub(crate) struct Stream {
    pub(crate) number: u8,
    pub(crate) streams: u8,
    pub(crate) template: Template,
    /// See [`schedule`].
    pub(crate) schedule: Vec<u32>,
    pub(crate) pace: Pace,
    /// How many packets it sends at most: no sequence number comes twice.
    pub(crate) count: u32,
    pub(crate) duration: Option<Duration>,
}

impl Stream {
    /// The streams of a command line.
    ///
    /// # Errors
    ///
    /// When nothing says how much to send, or more than can be told apart is to be sent.
    pub(crate) fn all(options: &SendOptions, template: &Template) -> Result<Vec<Self>> {
        let opens_flows = options.traffic.distribution == Distribution::New;
        ensure!(
            options.seconds.is_some() || options.count.is_some() || opens_flows,
            "say how much to send: --seconds, or --count"
        );
        let seconds = options.seconds.unwrap_or(1.0);
        ensure!(seconds > 0.0 && seconds <= 86_400.0, "--seconds {seconds}: above 0, up to a day");
        let (flows, streams) = (options.traffic.flows, options.threads);
        ensure!(u32::from(streams) <= flows, "--threads {streams}: each needs a flow of its own");
        (0..streams).map(|number| Self::new(options, template, number)).collect()
    }

    fn new(options: &SendOptions, template: &Template, number: u8) -> Result<Self> {
        let (streams, traffic) = (options.threads, &options.traffic);
        let flows = share(u64::from(traffic.flows), number, streams);
        let most = match traffic.distribution {
            Distribution::New => flows,
            _ => u64::from(u32::MAX),
        };
        let count = options.count.map_or(most, |count| share(count, number, streams));
        ensure!(
            count <= most,
            "--count {}: {} is the most (each packet has its own sequence number, and with new its \
             own flow)",
            options.count.unwrap_or_default(),
            most.saturating_mul(u64::from(streams)),
        );
        let seed = traffic.seed.wrapping_add(u64::from(number));
        let rate = options.rate.map(|rate| rate.0 / f64::from(streams));
        Ok(Self {
            number,
            streams,
            template: template.clone(),
            schedule: schedule(traffic.distribution, u32::try_from(flows)?, seed),
            pace: Pace::new(rate),
            count: u32::try_from(count)?,
            duration: options.seconds.map(Duration::from_secs_f64),
        })
    }

    /// The label of a packet. `next` is the place in the schedule, kept by the caller.
    pub(crate) fn label(&self, sequence: u32, next: &mut usize, time_ns: u64) -> Label {
        let choice = self.schedule.get(*next).copied().unwrap_or(sequence);
        *next = if *next + 1 < self.schedule.len() { *next + 1 } else { 0 };
        let flow = choice * u32::from(self.streams) + u32::from(self.number);
        Label { stream: self.number, flow, sequence, time_ns }
    }
}

/// How many of `all` the thread `number` of `threads` has, if they are dealt.
fn share(all: u64, number: u8, threads: u8) -> u64 {
    let threads = u64::from(threads);
    all / threads + u64::from(u64::from(number) < all % threads)
}

/// What was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) frames: u64,
    /// With all headers, without FCS.
    pub(crate) bytes: u64,
    /// When the first and the last frame were made, by the monotonic clock; 0: none was.
    pub(crate) first_ns: u64,
    pub(crate) last_ns: u64,
    /// Whether that is all that was to be sent.
    pub(crate) done: bool,
}

impl Sent {
    /// What two streams have sent.
    pub(crate) fn and(self, other: Self) -> Self {
        let first = [self.first_ns, other.first_ns].into_iter().filter(|&time| time > 0).min();
        Self {
            frames: self.frames + other.frames,
            bytes: self.bytes + other.bytes,
            first_ns: first.unwrap_or_default(),
            last_ns: self.last_ns.max(other.last_ns),
            done: self.done && other.done,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use clap::Parser;

    use super::*;
    use crate::pktgen::template::tests::template;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        send: SendOptions,
    }

    fn streams(line: &str) -> Result<Vec<Stream>> {
        let tunnel = "--tunnel-source 192.168.1.2 --tunnel-target 192.168.2.2";
        let line = format!("generator --device eth0 --target-mac 2:0:0:0:0:1 {tunnel} {line}");
        let options = Line::try_parse_from(line.split_whitespace()).unwrap().send;
        Stream::all(&options, &template(tunnel).unwrap())
    }

    #[test]
    fn streams_share_flows_packets_and_rate_and_no_flow_is_of_two() {
        let streams =
            streams("--threads 3 --flows 10 --distribution new --rate 3k --seconds 2").unwrap();
        let mut all = HashSet::new();
        for stream in &streams {
            assert_eq!(stream.pace, Pace::new(Some(1000.0)));
            let mut next = 0;
            for sequence in 0..stream.count {
                let label = stream.label(sequence, &mut next, 0);
                assert_eq!(label.stream, stream.number);
                assert!(all.insert(label.flow), "{} comes twice", label.flow);
            }
        }
        assert_eq!(all, (0..10).collect());
    }

    #[test]
    fn a_schedule_starts_again_when_it_is_through() {
        let stream = &streams("--flows 1000 --seconds 1").unwrap()[0];
        let (mut next, length) = (0, u32::try_from(stream.schedule.len()).unwrap());
        let flows: Vec<_> = (0..2 * length).map(|n| stream.label(n, &mut next, 0).flow).collect();
        assert_eq!(flows[..length as usize], flows[length as usize..]);
    }

    #[test]
    fn what_has_no_end_or_would_repeat_itself_is_refused() {
        for (line, reason) in [
            ("", "--seconds, or --count"),
            ("--seconds 0", "above 0"),
            ("--count 5000000000", "4294967295 is the most"),
            ("--count 18446744073709551615 --threads 2", "8589934590 is the most"),
            ("--flows 10 --distribution new --count 11", "10 is the most"),
            ("--flows 2 --threads 3 --seconds 1", "a flow of its own"),
        ] {
            let error = streams(line).unwrap_err().to_string();
            assert!(error.contains(reason), "{line}: {error}");
        }
        assert_eq!(streams("--flows 7 --distribution new").unwrap()[0].count, 7);
    }

    #[test]
    fn sums_of_what_was_sent_span_all_streams() {
        let one = Sent { frames: 1, bytes: 60, first_ns: 5, last_ns: 9, done: true };
        let other = Sent { frames: 2, bytes: 120, first_ns: 3, last_ns: 7, done: false };
        let sum = Sent { frames: 3, bytes: 180, first_ns: 3, last_ns: 9, done: false };
        assert_eq!(one.and(other), sum);
        assert_eq!(one.and(Sent::default()).first_ns, 5);
    }
}
