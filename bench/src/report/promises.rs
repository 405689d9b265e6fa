//! Each promise, its target, and what was measured: met or missed, in the words of the numbers.

use anyhow::{Context as _, Result};

use super::input::{Direction, Measured, Steering};
use super::markdown::{grouped, short, table};

/// Forwarding from pods, any flow as likely as any other, bursts of 64.
struct Forward {
    flows: u32,
    ns_most: f64,
    /// How many times the naive engine's rate, in the same run.
    times_naive_least: f64,
    /// What the naive engine needs on the machine that the targets were set on.
    reference_naive_ns: f64,
    /// And what VPP 26.06 needs there: nat44-ed with the nodes of VXLAN; from pods, and replies.
    reference_vpp_ns: [f64; 2],
}

const FORWARD: [Forward; 4] = [
    Forward {
        flows: 1_000,
        ns_most: 20.0,
        times_naive_least: 1.0,
        reference_naive_ns: 20.0,
        reference_vpp_ns: [61.0, 54.0],
    },
    Forward {
        flows: 64_512,
        ns_most: 30.0,
        times_naive_least: 1.3,
        reference_naive_ns: 40.0,
        reference_vpp_ns: [106.0, 115.0],
    },
    Forward {
        flows: 1_032_192,
        ns_most: 50.0,
        times_naive_least: 5.0,
        reference_naive_ns: 272.0,
        reference_vpp_ns: [310.0, 264.0],
    },
    Forward {
        flows: 4_128_768,
        ns_most: 70.0,
        times_naive_least: 5.0,
        reference_naive_ns: 361.0,
        reference_vpp_ns: [314.0, 326.0],
    },
];

/// How many nanoseconds a packet may take among how many flows.
pub(super) fn forward_targets() -> impl Iterator<Item = (f64, f64)> {
    FORWARD.iter().map(|forward| (f64::from(forward.flows), forward.ns_most))
}

const INSTRUCTIONS_MOST: f64 = 240.0;
const REPLY_MORE_NS_MOST: f64 = 5.0;
const IPV6_TIMES_IPV4_MOST: f64 = 1.2;
const NEW_FLOW_NS_MOST: f64 = 300.0;
const NEW_FLOWS_PER_US_LEAST: f64 = 1.5;
const NEW_FLOWS_AMONG: u32 = 258_048;
const EXPIRY_US_MOST: f64 = 200.0;
const EXPIRY_OF: u32 = 1_032_192;
const BYTES_PER_FLOW_MOST: f64 = 200.0;
const TWO_WORKERS_LEAST: f64 = 1.9;

/// By how much the naive engine may be slower than on the reference machine and still be a peer.
const SLOWER_MOST: f64 = 1.2;

/// The text whose number the engine's test `no_allocation` checks.
const ENGINE_README: &str = include_str!("../../../router/engine/README.md");

/// One line.
#[derive(Clone)]
struct Promise {
    what: String,
    target: String,
    measured: Option<(f64, bool)>,
    /// What else a reader has to know before believing it.
    remark: String,
}

impl Promise {
    fn at_most(what: String, most: f64, measured: Option<f64>) -> Self {
        let measured = measured.map(|number| (number, number <= most));
        Self { what, target: format!("≤ {most}"), measured, remark: String::new() }
    }

    fn at_least(what: String, least: f64, measured: Option<f64>) -> Self {
        let measured = measured.map(|number| (number, number >= least));
        Self { what, target: format!("≥ {least}"), measured, remark: String::new() }
    }

    fn row(&self) -> Vec<String> {
        let [measured, verdict] = match self.measured {
            None => ["–".to_owned(), "not measured".to_owned()],
            Some((number, true)) => [short(number), "met".to_owned()],
            Some((number, false)) => [short(number), "**missed**".to_owned()],
        };
        vec![self.what.clone(), self.target.clone(), measured, verdict + &self.remark]
    }
}

/// All promises, and how this machine compares.
pub(super) fn section(measured: &Measured) -> Result<String> {
    let promises =
        [forwarding(measured), families(measured), lives(measured)?, end_to_end(measured)];
    let promises = promises.concat();
    let rows: Vec<_> = promises.iter().map(Promise::row).collect();
    Ok(format!(
        "\n## Promises\n{}{}{}",
        table(&["promise", "target", "measured", ""], &rows),
        naive(measured),
        vpp(measured),
    ))
}

fn forwarding(measured: &Measured) -> Vec<Promise> {
    let mut promises = Vec::new();
    for Forward { flows, ns_most, times_naive_least, reference_naive_ns, .. } in &FORWARD {
        let what = format!("forward, {} flows", grouped(*flows));
        let ours = measured.ns(Direction::Forward, *flows, "spillway");
        let naive = measured.ns(Direction::Forward, *flows, "naive");
        let ratio = naive.zip(ours).map(|(naive, ours)| naive / ours);
        promises.push(Promise::at_most(format!("{what}, ns"), *ns_most, ours));
        let times = format!("{what}, times as fast as naive in the same run");
        promises.push(Promise {
            remark: slower_naive(naive, *reference_naive_ns),
            ..Promise::at_least(times, *times_naive_least, ratio)
        });
        if *flows == 64_512 {
            let line = measured.instructions.iter().find(|line| line.name == "forward-udp");
            let count = line.map(|line| line.instructions_per_packet);
            let what = format!("{what}, instructions a packet");
            promises.push(Promise::at_most(what, INSTRUCTIONS_MOST, count));
        }
    }
    for Forward { flows, .. } in &FORWARD {
        let [forward, reply] =
            [Direction::Forward, Direction::Reply].map(|way| measured.ns(way, *flows, "spillway"));
        let more = reply.zip(forward).map(|(reply, forward)| reply - forward);
        let what = format!("reply, {} flows, ns more than forward", grouped(*flows));
        promises.push(Promise::at_most(what, REPLY_MORE_NS_MOST, more));
    }
    promises
}

/// IPv6 beside IPv4, in the same run.
fn families(measured: &Measured) -> Vec<Promise> {
    let mut promises = Vec::new();
    for way in [Direction::Forward, Direction::Reply] {
        for Forward { flows, .. } in &FORWARD {
            let [ipv4, ipv6] =
                ["IPv4", "IPv6"].map(|family| measured.ns_of(family, way, *flows, "spillway"));
            let times = ipv6.zip(ipv4).map(|(ipv6, ipv4)| ipv6 / ipv4);
            let what = format!("{}, {} flows, IPv6's ns times IPv4's", way.name(), grouped(*flows));
            promises.push(Promise::at_most(what, IPV6_TIMES_IPV4_MOST, times));
        }
    }
    promises
}

/// A ratio to a peer that is itself too slow proves less.
fn slower_naive(here: Option<f64>, reference: f64) -> String {
    let times = here.map(|here| here / reference).filter(|times| *times > SLOWER_MOST);
    times.map_or_else(String::new, |times| {
        format!("; but naive took {} × as long as on the reference machine", short(times))
    })
}

fn lives(measured: &Measured) -> Result<Vec<Promise>> {
    let life = |name, flows| {
        let mut lives = measured.lives().filter(|(its, _)| *its == name);
        lives.find(|(_, line)| line.flows == flows && line.variant == "spillway").map(|(_, it)| it)
    };
    let new = life("new", NEW_FLOWS_AMONG).map(|line| line.ns_per_flow);
    let both = life("new, with its first reply", NEW_FLOWS_AMONG).map(|it| 1e3 / it.ns_per_flow);
    let longest = life("its end", EXPIRY_OF).and_then(|line| line.round_us_longest_and_p999);
    let two = measured.scaling().find(|line| line.workers == 2).map(|line| line.times_one);
    let bytes = Some(bytes_per_flow(ENGINE_README)?);
    let [among, of] = [NEW_FLOWS_AMONG, EXPIRY_OF].map(grouped);
    Ok(vec![
        Promise::at_most(format!("new flow, {among} flows, ns"), NEW_FLOW_NS_MOST, new),
        Promise::at_least(
            format!("new flows with their first reply, {among} flows, million a second"),
            NEW_FLOWS_PER_US_LEAST,
            both,
        ),
        Promise::at_most(
            "bytes a flow, all in (counted by the engine's test `no_allocation`)".to_owned(),
            BYTES_PER_FLOW_MOST,
            bytes,
        ),
        Promise {
            remark: longest.map_or_else(String::new, |[_, most_of]| {
                format!("; of 999 in 1,000 {} µs", short(most_of))
            }),
            ..Promise::at_most(
                format!("{of} flows end at once, longest round of the loop, µs"),
                EXPIRY_US_MOST,
                longest.map(|[longest, _]| longest),
            )
        },
        Promise::at_least("two workers, times one".to_owned(), TWO_WORKERS_LEAST, two),
    ])
}

/// What the engine's README says, which a test of the engine holds against its allocator.
fn bytes_per_flow(readme: &str) -> Result<f64> {
    let number =
        readme.split_once("Memory: ").and_then(|(_, rest)| rest.split_once(" bytes for each flow"));
    let (number, _) = number.context("the engine's README no longer says what a flow needs")?;
    number.parse().with_context(|| format!("the engine's README: {number} bytes for each flow"))
}

/// The lab has judged its own.
fn end_to_end(measured: &Measured) -> Vec<Promise> {
    let mut promises = Vec::new();
    for line in &measured.lab {
        for target in &line.targets {
            let (way, size, against) = (&line.direction, &line.size, &target.against);
            promises.push(Promise {
                what: format!("lab, {way}, frames of {size}, loss-free rate, times {against}"),
                target: format!("≥ {}", target.ratio_target),
                measured: Some((target.ratio, target.met)),
                remark: String::new(),
            });
        }
    }
    if promises.is_empty() {
        for against in ["kernel", "l2-forward"] {
            promises.push(Promise {
                what: format!("lab, loss-free rate, times {against}"),
                target: "see the lab".to_owned(),
                measured: None,
                remark: String::new(),
            });
        }
    }
    promises
}

/// How much slower than the reference this machine is, as far as a peer can say.
fn naive(measured: &Measured) -> String {
    let mut rows = Vec::new();
    let mut slower_at = Vec::new();
    for Forward { flows, reference_naive_ns, .. } in &FORWARD {
        let Some(here) = measured.ns(Direction::Forward, *flows, "naive") else { continue };
        let times = here / reference_naive_ns;
        if times > SLOWER_MOST {
            slower_at.push(grouped(*flows));
        }
        rows.push(vec![grouped(*flows), short(here), reference_naive_ns.to_string(), short(times)]);
    }
    if rows.is_empty() {
        return String::new();
    }
    let verdict = if slower_at.is_empty() {
        "It is nowhere slower here by more than a fifth.".to_owned()
    } else {
        format!(
            "It is slower here by more than a fifth with {} flows: this machine was slower, or \
             busier, than the reference, or this naive engine is no peer. Targets in nanoseconds \
             are harder to meet by as much, and a ratio to a naive engine so slow proves less.",
            slower_at.join(" and "),
        )
    };
    format!(
        "\n### This machine and the reference\n\nHow long the naive engine \
         takes says how fast a machine is. {verdict} No number here is scaled.\n{}",
        table(&["flows", "naive here, ns", "on the reference machine, ns", "times as long"], &rows),
    )
}

/// Engine and steering together, beside VPP, which has no steering program.
fn vpp(measured: &Measured) -> String {
    let steering = [Direction::Forward, Direction::Reply].map(|way| steering_ns(measured, way));
    let mut rows = Vec::new();
    for Forward { flows, reference_vpp_ns, .. } in &FORWARD {
        let ways = [Direction::Forward, Direction::Reply].into_iter().zip(steering);
        for ((way, steering), vpp) in ways.zip(reference_vpp_ns) {
            let engine = measured.ns(way, *flows, "spillway");
            let Some((engine, steering)) = engine.zip(steering) else { continue };
            rows.push(vec![
                format!("{}, {}", way.name(), grouped(*flows)),
                short(engine),
                range(steering),
                range(steering.map(|ns| ns + engine)),
                vpp.to_string(),
            ]);
        }
    }
    if rows.is_empty() {
        return String::new();
    }
    let heads =
        ["flows", "engine, ns", "steering, ns", "together, ns", "VPP on the reference machine, ns"];
    format!(
        "\n### Beside VPP\n\nVPP 26.06's nat44-ed with its VXLAN nodes has no steering program, so \
         Spillway's cost is the engine's and the steering program's: the cheapest and the dearest \
         case measured, of many different frames. VPP was measured on the reference machine, not \
         in this run.\n{}",
        table(&heads, &rows),
    )
}

/// The cheapest and the dearest case of a way's steered frames.
fn steering_ns(measured: &Measured, way: Direction) -> Option<[f64; 2]> {
    let frame =
        if way == Direction::Forward { "steered, from a tunnel" } else { "steered, a reply" };
    let is_it = |line: &&Steering| line.frame == frame && line.distinct_frames > 1;
    let all = || measured.steering.iter().filter(is_it).map(|line| line.ns_per_frame.median);
    Some([all().reduce(f64::min)?, all().reduce(f64::max)?])
}

/// One number, or from the one to the other.
fn range([low, high]: [f64; 2]) -> String {
    let [low, high] = [low, high].map(short);
    if low == high { low } else { format!("{low}–{high}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A measured world: 64,512 flows at so many nanoseconds, by us and by the naive engine.
    fn measured(ours: f64, naive: f64) -> Measured {
        let line = |name: &str, variant: &str, family: &str, ns: f64| {
            serde_json::json!({
                "name": name, "family": family, "protocol": "udp", "flows": 64_512, "distribution": "uniform",
                "burst": 64, "variant": variant, "ns_per_packet": ns,
                "ns_per_packet_quartiles": [ns, ns],
            })
        };
        let end = serde_json::json!({
            "name": "teardown", "protocol": "udp", "flows": EXPIRY_OF, "variant": "spillway",
            "ns_per_flow": 40.0, "ns_per_flow_quartiles": [1, 2], "round_us_longest_and_p999": [201.0, 150.0],
        });
        let lines = [
            line("forward", "spillway", "IPv4", ours),
            line("forward", "naive", "IPv4", naive),
            line("reply", "spillway", "IPv4", ours + 5.5),
            line("forward", "spillway", "IPv6", 36.0),
            end,
        ];
        let engine = lines.map(|line| serde_json::from_value(line).unwrap()).into();
        Measured { engine, ..Measured::default() }
    }

    #[test]
    fn a_target_that_is_met_is_said_to_be_met() {
        let text = section(&measured(29.9, 40.0)).unwrap();
        assert!(text.contains("| forward, 64,512 flows, ns | ≤ 30 | 29.9 | met |"), "{text}");
        let times = "64,512 flows, times as fast as naive in the same run | ≥ 1.3 | 1.34 | met |";
        assert!(text.contains(times), "{text}");
        assert!(text.contains("nowhere slower here"), "{text}");
        let times = "| forward, 64,512 flows, IPv6's ns times IPv4's | ≤ 1.2 |";
        assert!(text.contains(&format!("{times} 1.20 | **missed** |")), "{text}");
        let other = section(&measured(30.1, 40.0)).unwrap();
        assert!(other.contains(&format!("{times} 1.20 | met |")), "{other}");
        assert!(text.contains("| 64,512 | 40.0 | 40 | 1.00 |"), "{text}");
    }

    #[test]
    fn a_target_that_is_missed_is_said_to_be_missed() {
        let text = section(&measured(50.0, 60.0)).unwrap();
        for line in [
            "| forward, 64,512 flows, ns | ≤ 30 | 50.0 | **missed** |",
            "| ≥ 1.3 | 1.20 | **missed**; but naive took 1.50 × as long as on the reference",
            "| reply, 64,512 flows, ns more than forward | ≤ 5 | 5.50 | **missed** |",
            "longest round of the loop, µs | ≤ 200 | 201 | **missed**; of 999 in 1,000 150 µs |",
            "slower here by more than a fifth with 64,512 flows",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
    }

    #[test]
    fn what_the_lab_says_of_itself_is_told() {
        let line = serde_json::json!({
            "name": "lab", "system": "spillway", "metric": "loss_free_pps", "direction": "forward",
            "size": "64", "median": 1e6, "min": 1e6, "max": 1e6, "rounds": 1,
            "targets": [{"against": "kernel", "ratio_target": 2.5, "ratio": 2.499, "met": false}],
        });
        let lab = vec![serde_json::from_value(line).unwrap()];
        let text = section(&Measured { lab, ..Measured::default() }).unwrap();
        let line =
            "forward, frames of 64, loss-free rate, times kernel | ≥ 2.5 | 2.50 | **missed** |";
        assert!(text.contains(line), "{text}");
    }

    #[test]
    fn steering_is_added_where_others_are_compared() {
        let quarters = serde_json::json!({"low": 1, "median": 70.0, "high": 80});
        let line = serde_json::json!({
            "name": "steering", "frame": "steered, from a tunnel", "outcome": "steer-tunnel",
            "pods": 10, "sets": 1, "cidrs_per_set": 1, "distinct_frames": 16_384,
            "ns_per_frame": quarters, "ns_without": quarters, "samples": 3,
        });
        let mut measured = measured(29.5, 40.0);
        measured.steering.push(serde_json::from_value(line).unwrap());
        let text = section(&measured).unwrap();
        assert!(text.contains("| forward, 64,512 | 29.5 | 70.0 | 99.5 | 106 |"), "{text}");
        assert!(!text.contains("| reply, 64,512 | "), "{text}");
    }

    #[test]
    fn the_engines_readme_says_what_a_flow_needs() {
        let bytes = bytes_per_flow(ENGINE_README).unwrap();
        assert!(bytes > 0.0 && bytes < 1000.0, "{bytes}");
        assert!(bytes_per_flow("Memory: enough.").is_err());
    }
}
