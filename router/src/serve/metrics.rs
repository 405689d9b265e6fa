//! What a router answers, as Prometheus reads it. Pure.
//!
//! Each label's values are bounded by a limit of the router: its workers, its devices, the egress
//! addresses and policies of its document, and what the code enumerates. No label comes from a packet or
//! names a pod.

use std::fmt::{self, Write as _};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeMetric, MetricEncoder, NoLabelSet,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use spillway_api::{
    APPLY_BOUNDS_US, Device, Drops, EgressUsage, PolicyUsage, Programming, Status, SteeringOutcome,
    Traffic, Usage, Verdict, Worker,
};

/// What every name starts with.
const PREFIX: &str = "spillway";

/// A name without what a counter's ends with, what it means, and where it is found.
type Row<T, V = u64> = (&'static str, &'static str, fn(&T) -> V);

const ROUTER_GAUGES: &[Row<Status, f64>] = &[
    ("uptime_seconds", "Seconds since the router started.", |s| s.uptime_s as f64),
    ("programmed", "Whether a state document is in force: 0 or 1.", |s| {
        flag(s.generation.is_some())
    }),
    ("generation", "Generation of the programmed state document; 0 before the first.", |s| {
        s.generation.unwrap_or_default() as f64
    }),
    (
        "document_refused",
        "Whether the last state document was refused, so that the one before it runs: 0 or 1.",
        |s| flag(s.refused.is_some()),
    ),
    (
        "draining",
        "Whether no new flow begins, because the gateway is being drained: 0 or 1.",
        |s| flag(s.draining_s.is_some()),
    ),
    ("last_apply_seconds", "How long the programmed state document took to program.", |s| {
        seconds(s.programming.last_us)
    }),
    ("policies", "Programmed policies.", |s| s.programmed.policies as f64),
    ("egress_addresses", "Programmed egress addresses.", |s| s.programmed.egress_addresses as f64),
    ("tunnels", "Programmed tunnel addresses.", |s| s.programmed.tunnels as f64),
    ("peers", "Programmed tunnel peers.", |s| s.programmed.peers as f64),
    ("reports", "What an operator should know: `spillway status` shows the words.", |s| {
        s.reports.len() as f64
    }),
    (
        "worker_flows_max",
        "Flows of each family that one worker can have; further ones are refused.",
        |s| s.flows_max as f64,
    ),
    ("umem_frames_max", "All frames of memory.", |s| s.frames.total as f64),
    ("events_kept", "Events of flows and packets that can be asked for.", |s| s.events.kept as f64),
];

const ROUTER_COUNTERS: &[Row<Status>] = &[
    ("documents_applied", "State documents that were programmed.", |s| s.programming.applied),
    ("documents_refused", "State documents that were refused.", |s| s.programming.refused),
    ("events", "Flows that began or ended, and packets that were sampled.", |s| s.events.noted),
    ("events_lost", "Such events that were lost because too many came at once.", |s| s.events.lost),
];

const WORKER_COUNTERS: &[Row<Worker>] = &[
    ("worker_received_packets", "Packets received.", |w| w.received),
    ("worker_transmitted_packets", "Packets sent.", |w| w.transmitted),
    ("worker_dropped_packets", "Packets dropped, for whatever reason.", |w| w.dropped),
    ("worker_fragmented_packets", "Packets sent that were cut into fragments.", |w| w.fragmented),
    (
        "worker_handed_off_packets",
        "Frames handed to other workers: fragments, and packets of flows that those have adopted.",
        |w| w.handed_off,
    ),
    ("worker_taken_over_packets", "Frames that other workers have handed over.", |w| w.taken_over),
    (
        "worker_answered_packets",
        "ARP requests, neighbour solicitations and pings for announced addresses that were answered.",
        |w| w.answered,
    ),
    ("worker_announcements", "Announcements of addresses.", |w| w.announced),
    (
        "worker_icmp_errors_sent",
        "ICMP errors of Spillway's own, to senders whose packets were dropped.",
        |w| w.errors_sent,
    ),
    (
        "worker_icmp_errors_limited",
        "Such errors that were not sent because their receiver had too many.",
        |w| w.errors_limited,
    ),
    ("worker_tx_ring_full_packets", "Packets that found the transmit ring full.", |w| {
        w.tx_ring_full
    }),
    (
        "worker_frames_missing",
        "Times that no frame of memory was free for a fragment, an ICMP error or a copy.",
        |w| w.frames_missing,
    ),
    ("worker_flows_created", "Flows created.", |w| w.flows_created),
    ("worker_flows_restored", "Flows taken up from the process before.", |w| w.flows_restored),
    ("worker_flows_expired", "Flows ended by their timeout.", |w| w.flows_expired),
    ("worker_flows_deselected", "Flows ended because the document no longer selects them.", |w| {
        w.flows_deselected
    }),
    (
        "worker_leases_crowded",
        "Leases of ports that found few left towards their remote, or none: more than 32 ports had to be \
         looked at.",
        |w| w.leases_crowded,
    ),
];

const DEVICE_GAUGES: &[Row<Device, f64>] = &[
    ("device_attached", "Whether the steering program is attached to the device: 0 or 1.", |d| {
        flag(d.is_attached())
    }),
    ("device_mtu_bytes", "The largest IP packet that the device carries.", |d| d.mtu.into()),
    ("device_queues", "Receive queues of the device.", |d| d.queues.into()),
];

const DEVICE_COUNTERS: &[Row<Device>] = &[
    (
        "device_rx_dropped_frames",
        "Frames dropped after steering, for any reason but a full receive ring.",
        |d| d.rings.rx_dropped,
    ),
    ("device_rx_ring_full_frames", "Frames dropped because a receive ring was full.", |d| {
        d.rings.rx_ring_full
    }),
    (
        "device_fill_ring_empty_frames",
        "Frames that found a fill ring empty; rx_dropped has them too.",
        |d| d.rings.fill_ring_empty,
    ),
    (
        "device_rx_invalid_descriptors",
        "Descriptors on fill rings that the kernel refused; never, unless there is a bug.",
        |d| d.rings.rx_invalid_descriptors,
    ),
    (
        "device_tx_invalid_descriptors",
        "Descriptors on transmit rings that the kernel refused; never, unless there is a bug.",
        |d| d.rings.tx_invalid_descriptors,
    ),
];

/// A router's answers, of one moment.
#[derive(Clone, Debug)]
pub(super) struct Answers {
    pub(super) status: Status,
    pub(super) drops: Drops,
    /// None of a router that is older.
    pub(super) usage: Option<Usage>,
}

/// Everything that is told of them, in OpenMetrics; without them, that there are none.
pub(super) fn open_metrics(answers: Option<Answers>) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix(PREFIX);
    registry.register_collector(Box::new(Exposition(answers)));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

/// The same in the text format before OpenMetrics (0.0.4), for who does not ask for that one: a family is
/// named there as its samples are.
pub(super) fn plain(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    let mut help = "";
    for line in open_metrics.lines() {
        let Some(comment) = line.strip_prefix("# ") else {
            text.push_str(line);
            text.push('\n');
            continue;
        };
        if let Some(described) = comment.strip_prefix("HELP ") {
            help = described.split_once(' ').map_or("", |(_, help)| help);
        } else if let Some((name, kind)) =
            comment.strip_prefix("TYPE ").and_then(|typed| typed.split_once(' '))
        {
            let (suffix, kind) = match kind {
                "counter" => ("_total", kind),
                "info" => ("_info", "gauge"),
                _ => ("", kind),
            };
            // A String takes all that is written.
            let _ = writeln!(text, "# HELP {name}{suffix} {help}\n# TYPE {name}{suffix} {kind}");
        }
    }
    text
}

#[derive(Debug)]
struct Exposition(Option<Answers>);

impl Collector for Exposition {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        let up = [(Labels::new(), flag(self.0.is_some()))];
        page.gauges("up", "Whether the router answers on its socket: 0 or 1.", up)?;
        let Some(Answers { status, drops, usage }) = &self.0 else { return Ok(()) };
        page.router(status)?;
        page.workers(&status.workers)?;
        page.devices(&status.devices)?;
        page.drops(drops)?;
        usage.as_ref().map_or(Ok(()), |usage| page.usage(usage))
    }
}

/// Labels of a series, in the order in which they are shown.
type Labels = Vec<(&'static str, String)>;

/// What is being written.
struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn router(&mut self, status: &Status) -> fmt::Result {
        let build =
            [("version", status.version.clone()), ("api_version", status.api_version.to_string())];
        self.info(
            "build",
            "Version of the router, and of its operator's interface.",
            [build.into()],
        )?;
        for (name, help, value) in ROUTER_GAUGES {
            self.gauges(name, help, [(Labels::new(), value(status))])?;
        }
        for (name, help, value) in ROUTER_COUNTERS {
            self.counters(name, help, [(Labels::new(), value(status))])?;
        }
        let applied = [(Labels::new(), Durations(status.programming))].into_iter();
        let help = "How long state documents took to program.";
        self.family("apply_duration_seconds", help, MetricType::Histogram, applied)?;
        let refused = status.refused.iter().map(|refused| (Labels::new(), refused.age_s as f64));
        let help = "Seconds since the last state document was refused; absent if it was not.";
        self.gauges("document_refused_age_seconds", help, refused)?;
        let author = status.author_age_s.iter().map(|age_s| (Labels::new(), *age_s as f64));
        let help = "Seconds since spillway-control last saw to it that its document is in force; absent \
                    without it.";
        self.gauges("author_age_seconds", help, author)?;
        let pods = [("ipv4", status.programmed.pods_ipv4), ("ipv6", status.programmed.pods_ipv6)];
        let pods = pods.map(|(family, count)| (one("family", family), count as f64));
        self.gauges("pods", "Addresses of selected pods.", pods)?;
        let frames = status.frames;
        let places = [
            ("free", frames.free),
            ("receiving", frames.receiving),
            ("transmitting", frames.transmitting),
            ("held", frames.held),
        ];
        let places = places.map(|(place, count)| (one("place", place), count as f64));
        let help = "Frames of memory by where they are: free, with the kernel to receive into or to be \
                    sent, or held by workers.";
        self.gauges("umem_frames", help, places)
    }

    fn workers(&mut self, workers: &[Worker]) -> fmt::Result {
        for (name, help, value) in WORKER_COUNTERS {
            self.counters(name, help, workers.iter().map(|w| (of_worker(w), value(w))))?;
        }
        let held = workers.iter().map(|worker| (of_worker(worker), worker.held as f64));
        self.gauges("worker_held_packets", "Packets that wait for a neighbour.", held)?;
        let blocks = workers.iter().map(|worker| (of_worker(worker), worker.port_blocks as f64));
        self.gauges("worker_port_blocks", "Blocks of ports that pods have.", blocks)?;
        let flows = by(workers, "family", |worker| {
            let ipv4 = worker.flows.saturating_sub(worker.flows_ipv6);
            [("ipv4", ipv4), ("ipv6", worker.flows_ipv6)]
        });
        let flows = flows.map(|(labels, flows)| (labels, flows as f64));
        self.gauges("worker_flows", "Live flows, by the family that they leave by.", flows)?;
        let packets = |w: &Worker| [("original", w.forward_packets), ("reply", w.reply_packets)];
        let help = "Packets sent on: original ones of pods to the outside, replies to pods.";
        self.counters("worker_forwarded_packets", help, by(workers, "direction", packets))?;
        let bytes = |w: &Worker| [("original", w.forward_bytes), ("reply", w.reply_bytes)];
        let help = "Bytes of their IP packets, without link and tunnel headers.";
        self.counters("worker_forwarded_bytes", help, by(workers, "direction", bytes))
    }

    fn devices(&mut self, devices: &[Device]) -> fmt::Result {
        let info = devices.iter().map(|device| {
            let mut labels = of_device(&device.name);
            labels.push(("mac", device.mac.to_string()));
            labels.push(("xdp_mode", device.xdp_mode.clone()));
            labels.push(("zero_copy", device.zero_copy.to_string()));
            labels
        });
        self.info("device", "A device that the router receives and sends on.", info)?;
        for (name, help, value) in DEVICE_GAUGES {
            self.gauges(name, help, devices.iter().map(|d| (of_device(&d.name), value(d))))?;
        }
        for (name, help, value) in DEVICE_COUNTERS {
            self.counters(name, help, devices.iter().map(|d| (of_device(&d.name), value(d))))?;
        }
        Ok(())
    }

    fn drops(&mut self, drops: &Drops) -> fmt::Result {
        let reasons = drops.engine.iter().map(|drop| (one("reason", &drop.reason), drop.packets));
        let help =
            "Packets dropped, over all workers, by reason: `spillway drops --all` describes each.";
        self.counters("dropped_packets", help, reasons)?;
        let frames = drops.steering.iter().map(|of| (of_outcome(of), of.packets));
        let help = "Frames by what the steering program did with them: `spillway drops --all` describes \
                    each outcome.";
        self.counters("steering_frames", help, frames)?;
        let bytes = drops.steering.iter().map(|of| (of_outcome(of), of.bytes));
        self.counters("steering_bytes", "Bytes of those frames, Ethernet headers included.", bytes)
    }

    fn usage(&mut self, usage: &Usage) -> fmt::Result {
        let help = "Whether live flows were counted by egress address and policy; they are not until the \
                    first count is complete: 0 or 1.";
        self.gauges("usage_counted", help, [(Labels::new(), flag(usage.counted))])?;
        if !usage.counted {
            return Ok(());
        }
        let of = |egress: &EgressUsage| one("egress_address", &egress.address.to_string());
        let egress = &usage.egress_addresses;
        let flows = egress.iter().map(|egress| (of(egress), egress.flows as f64));
        self.gauges("egress_flows", "Live flows that leave with an egress address.", flows)?;
        let ports = egress.iter().map(|egress| (of(egress), egress.ports as f64));
        let help = "Ports of an egress address that may be leased towards one remote.";
        self.gauges("egress_ports_max", help, ports)?;
        let fullest = egress.iter().map(|egress| {
            let ports = egress.fullest.as_ref().map_or(0, |remote| remote.ports);
            (of(egress), ports as f64)
        });
        let help =
            "Ports of an egress address that are leased towards the remote that has most of them.";
        self.gauges("egress_ports_fullest", help, fullest)?;
        let traffic = || egress.iter().map(|egress| (of(egress), &egress.traffic));
        let help = "Packets sent on with an egress address and back from it, those of ended flows included.";
        self.traffic("egress", help, traffic)?;
        let of_policy = |policy: &PolicyUsage| (one("policy", &policy.name), policy.flows as f64);
        let policies = usage.policies.iter().map(of_policy);
        self.gauges("policy_flows", "Live flows of a policy.", policies)?;
        let traffic = || {
            let policies = usage.policies.iter();
            policies.map(|policy| (one("policy", &policy.name), &policy.traffic))
        };
        self.traffic(
            "policy",
            "Packets sent on of a policy's flows, ended ones included.",
            traffic,
        )?;
        let help = "Live flows that have not spoken since the policies changed.";
        let others = usage.flows_of_no_policy as f64;
        self.gauges("policy_flows_unknown", help, [(Labels::new(), others)])
    }

    /// What flows have carried, of each of some; `help` says what their packets are.
    fn traffic<'a, I: Iterator<Item = (Labels, &'a Traffic)>>(
        &mut self,
        prefix: &str,
        help: &str,
        each: impl Fn() -> I,
    ) -> fmt::Result {
        let both = |of: fn(&Traffic) -> [u64; 2]| {
            each().flat_map(move |(labels, traffic)| {
                ["original", "reply"].into_iter().zip(of(traffic)).map(move |(direction, count)| {
                    ([labels.clone(), one("direction", direction)].concat(), count)
                })
            })
        };
        let packets = both(|of| [of.original_packets, of.reply_packets]);
        self.counters(&format!("{prefix}_forwarded_packets"), help, packets)?;
        let bytes = both(|of| [of.original_bytes, of.reply_bytes]);
        let help = "Bytes of their IP packets, without link and tunnel headers.";
        self.counters(&format!("{prefix}_forwarded_bytes"), help, bytes)
    }

    fn counters<V: EncodeCounterValue>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = (Labels, V)>,
    ) -> fmt::Result {
        let rows = rows.into_iter().map(|(labels, value)| (labels, ConstCounter::new(value)));
        self.family(name, help, MetricType::Counter, rows)
    }

    fn gauges(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = (Labels, f64)>,
    ) -> fmt::Result {
        let rows = rows.into_iter().map(|(labels, value)| (labels, ConstGauge::new(value)));
        self.family(name, help, MetricType::Gauge, rows)
    }

    /// A family without series is left out.
    fn family<M: EncodeMetric>(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        rows: impl Iterator<Item = (Labels, M)>,
    ) -> fmt::Result {
        let mut rows = rows.peekable();
        if rows.peek().is_none() {
            return Ok(());
        }
        let mut family = self.0.encode_descriptor(name, help, None, kind)?;
        for (labels, metric) in rows {
            if labels.is_empty() {
                return metric.encode(family);
            }
            metric.encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn info(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = Labels>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Info)?;
        rows.into_iter().try_for_each(|labels| family.encode_info(&labels))
    }
}

/// How long state documents took to program, as a histogram.
struct Durations(Programming);

impl EncodeMetric for Durations {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let Self(programming) = self;
        let bounds = APPLY_BOUNDS_US.map(seconds).into_iter().chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.zip(programming.durations).collect();
        let (sum, count) = (seconds(programming.total_us), programming.applied);
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

/// Two series of each worker, told apart by one more label.
fn by<'a>(
    workers: &'a [Worker],
    name: &'static str,
    values: impl Fn(&Worker) -> [(&'static str, u64); 2] + 'a,
) -> impl Iterator<Item = (Labels, u64)> + 'a {
    workers.iter().flat_map(move |worker| {
        values(worker).map(|(which, value)| {
            let mut labels = of_worker(worker);
            labels.push((name, which.to_owned()));
            (labels, value)
        })
    })
}

fn of_worker(worker: &Worker) -> Labels {
    vec![("worker", worker.id.to_string())]
}

fn of_device(name: &str) -> Labels {
    one("device", name)
}

fn of_outcome(of: &SteeringOutcome) -> Labels {
    let verdict = match of.verdict {
        Verdict::Pass => "pass",
        Verdict::Steer => "steer",
        Verdict::Drop => "drop",
    };
    let mut labels = of_device(&of.device);
    labels.push(("outcome", of.outcome.clone()));
    labels.push(("verdict", verdict.to_owned()));
    labels
}

fn one(name: &'static str, value: &str) -> Labels {
    vec![(name, value.to_owned())]
}

fn flag(holds: bool) -> f64 {
    if holds { 1.0 } else { 0.0 }
}

fn seconds(microseconds: u64) -> f64 {
    microseconds as f64 / 1e6
}

#[cfg(test)]
#[path = "metrics_tests.rs"]
mod tests;
