//! Forwarding without an engine: what AF_XDP itself costs, on the devices and workers that Spillway
//! uses. README.md beside this file says what is alike and what is not.

mod program;
mod worker;

use std::fmt;
use std::io::Write as _;
use std::str::FromStr;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use spillway_xdp::device::{self, Accounting, DeviceInfo, DevicesConfig, SocketFd};
use spillway_xdp::{Lane, LaneStatistics};

use crate::stop;
use program::Redirect;
use worker::{Hop, Worker};

/// Queues of all devices times workers at most, as in redirect.bpf.c.
const SLOTS_MAX: u32 = 1024;

/// How to forward.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// One device, which sends back what it receives, or two, each of which sends what the other
    /// one receives. Frames go back to their sender, or to the MAC address given here.
    #[arg(long, value_name = "NAME[=MAC]", value_delimiter = ',', num_args = 1, required = true)]
    devices: Vec<Exit>,
    /// A further device to look after, from which nothing is expected: a gateway has such, too.
    #[arg(long, value_name = "NAME")]
    idle_device: Option<String>,
    /// How many receive queues each device is expected to have; otherwise what it has.
    #[arg(long)]
    queues: Option<u32>,
    /// Worker threads.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    workers: u8,
    /// Go on polling when there is nothing to do.
    #[arg(long)]
    spin: bool,
    /// Take the outer headers off VXLAN frames to this UDP port, as Spillway does.
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    strip: Option<u16>,
    /// End after so many seconds; SIGINT or SIGTERM ends it earlier.
    #[arg(long, default_value_t = 3600)]
    seconds: u32,
    /// Print the counters as JSON.
    #[arg(long)]
    json: bool,
}

/// A device, and where the frames that leave on it go.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Exit {
    name: String,
    next_hop: Option<[u8; 6]>,
}

impl FromStr for Exit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, mac) = match text.split_once('=') {
            Some((name, mac)) => (name, Some(mac)),
            None => (text, None),
        };
        let next_hop = mac.map(parse_mac).transpose()?;
        Ok(Self { name: name.to_owned(), next_hop })
    }
}

fn parse_mac(text: &str) -> Result<[u8; 6], String> {
    let octet = |part: &str| u8::from_str_radix(part, 16).ok().filter(|_| part.len() == 2);
    let octets: Option<Vec<u8>> = text.split(':').map(octet).collect();
    octets
        .and_then(|octets| octets.try_into().ok())
        .ok_or_else(|| format!("expected a MAC address such as 02:00:00:00:00:01, found {text}"))
}

/// What all workers have done.
#[derive(Debug, Serialize)]
struct Summary {
    name: &'static str,
    received: u64,
    transmitted: u64,
    /// Lost since a ring was full, on the way in and on the way out.
    rx_ring_full: u64,
    tx_ring_full: u64,
    /// Frames that are nowhere: a fault.
    missing: i64,
}

impl Summary {
    fn of(lanes: &[LaneStatistics], sockets: &[SocketFd]) -> Result<Self> {
        let mut rx_ring_full = 0;
        for socket in sockets {
            rx_ring_full +=
                socket.statistics().context("cannot read what a socket has lost")?.rx_ring_full;
        }
        let sum = |count: fn(&LaneStatistics) -> u64| lanes.iter().map(count).sum();
        Ok(Self {
            name: "l2-forward",
            received: sum(|lane| lane.received),
            transmitted: sum(|lane| lane.transmitted),
            rx_ring_full,
            tx_ring_full: sum(|lane| lane.tx_ring_full),
            missing: Accounting::of(lanes).missing(),
        })
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "received      {}", self.received)?;
        writeln!(f, "transmitted   {}", self.transmitted)?;
        writeln!(f, "rx_ring_full  {}", self.rx_ring_full)?;
        write!(f, "tx_ring_full  {}", self.tx_ring_full)
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let stop = stop::on_signals()?;
    let (infos, lanes, sockets) = open(args)?;
    let _redirect = Redirect::attach(args.workers, args.strip, &infos, &sockets)?;
    let mut out = std::io::stdout().lock();
    if !args.json {
        // Whoever started this waits for the line.
        writeln!(out, "forwarding; Ctrl-C ends it")?;
    }

    let deadline = Instant::now() + Duration::from_secs(args.seconds.into());
    let hops = hops(&args.devices, &infos);
    let lanes: Vec<LaneStatistics> = thread::scope(|scope| {
        let start = |lane: Lane| {
            let worker = Worker::new(lane, hops.clone(), args.spin);
            let name = format!("worker-{}", worker.number());
            let stop = &stop;
            let work = move || worker.run(|| stop.load(Ordering::Relaxed) || ended(deadline));
            thread::Builder::new().name(name).spawn_scoped(scope, work)
        };
        let threads: Vec<_> = lanes.into_iter().map(start).collect::<Result<_, _>>()?;
        let join = |thread: thread::ScopedJoinHandle<'_, LaneStatistics>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        anyhow::Ok(threads.into_iter().map(join).collect())
    })?;
    let summary = Summary::of(&lanes, &sockets)?;
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&[&summary])?)?;
    } else {
        writeln!(out, "{summary}")?;
    }
    ensure!(summary.missing == 0, "{} frames are missing: a fault", summary.missing);
    Ok(())
}

fn ended(deadline: Instant) -> bool {
    Instant::now() >= deadline
}

fn open(args: &Args) -> Result<(Vec<DeviceInfo>, Vec<Lane>, Vec<SocketFd>)> {
    ensure!(args.devices.len() <= 2, "expected one or two devices, found {}", args.devices.len());
    let names = args.devices.iter().map(|exit| &exit.name).chain(&args.idle_device);
    let infos: Vec<DeviceInfo> =
        names.clone().map(|name| device::probe(name)).collect::<Result<_, _>>()?;
    let slots = infos.iter().map(|info| info.queues).max().unwrap_or(0) * u32::from(args.workers);
    ensure!(slots <= SLOTS_MAX, "{slots} sockets on one device; {SLOTS_MAX} are the most");
    let device = |name: &String| {
        let mut device = device::DeviceConfig::new(name.clone());
        device.queues = args.queues;
        device
    };
    let config = DevicesConfig {
        workers: args.workers,
        frame_size: 2048,
        umem_frames: 0,
        devices: names.map(device).collect(),
    };
    let (lanes, sockets) = device::open(&config, &infos)?;
    Ok((infos, lanes, sockets))
}

/// Where frames go, by the device that received them.
fn hops(exits: &[Exit], infos: &[DeviceInfo]) -> Vec<Hop> {
    let last = exits.len().saturating_sub(1);
    let hop = |entry: usize| {
        // With one device that one, with two the other.
        let exit = last - entry;
        let next_hop = exits.get(exit).and_then(|exit| exit.next_hop);
        let source = infos.get(exit).map(|info| info.mac).unwrap_or_default();
        Hop { device: u16::try_from(exit).unwrap_or_default(), source, next_hop }
    };
    (0..exits.len()).map(hop).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_may_name_its_next_hop() {
        let plain = Exit { name: "eth0".to_owned(), next_hop: None };
        assert_eq!("eth0".parse(), Ok(plain));
        let with = Exit { name: "eth0".to_owned(), next_hop: Some([2, 0, 0, 0, 0, 0x1f]) };
        assert_eq!("eth0=02:00:00:00:00:1f".parse(), Ok(with));
        for wrong in ["eth0=02:00:00:00:00", "eth0=", "eth0=2:0:0:0:0:1", "eth0=02:00:00:00:00:xy"]
        {
            assert!(wrong.parse::<Exit>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn one_device_sends_back_and_two_send_what_the_other_received() {
        let exit = |name: &str| Exit { name: name.to_owned(), next_hop: None };
        let info = |octet| DeviceInfo {
            name: String::new(),
            ifindex: 0,
            mac: [octet; 6],
            mtu: 1500,
            queues: 1,
            combined: false,
            driver: String::new(),
        };
        let to = |hops: Vec<Hop>| hops.iter().map(|h| (h.device, h.source[0])).collect::<Vec<_>>();
        assert_eq!(to(hops(&[exit("a")], &[info(2)])), [(0, 2)]);
        assert_eq!(to(hops(&[exit("a"), exit("b")], &[info(2), info(4)])), [(1, 4), (0, 2)]);
    }
}
