//! The steering program alone: what it adds to a frame's way through the kernel, by
//! `BPF_PROG_TEST_RUN`. The README beside this file says how, and how far that goes.

mod replay;
mod world;

use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::rc::Rc;
use std::sync::atomic::Ordering;

use anyhow::{Context as _, Result, bail, ensure};
use serde::Serialize;
use spillway_testing::{Namespace, veth_pair};
use spillway_xdp::device::{self, DeviceConfig, DevicesConfig, Lane};
use spillway_xdp::steering::{SteeredDevice, Steering, SteeringConfig, Unclassified, XdpMode};

use crate::measure::Spread;
use crate::stop;
use replay::{FRAMES_MAX, Frame, Replay};
use world::{Family, Kind, Size, World};

/// What to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How often each case is measured, in turn with the others.
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Print an array of objects instead of a table.
    #[arg(long)]
    json: bool,
}

/// Runs of a case in a row. The kernel waits some 10 ms for other processors before each.
const SAMPLES: u32 = 2;
/// Frames of each run: every one once, so that the caches are as full of them as they ever are.
const REPEAT: u32 = FRAMES_MAX;

const SIZES: [Size; 6] = [
    Size { pods: 10, sets: 1, cidrs: 1 },
    Size { pods: 10, sets: 1, cidrs: 1_000 },
    Size { pods: 10_000, sets: 1, cidrs: 1 },
    Size { pods: 10_000, sets: 1, cidrs: 1_000 },
    Size { pods: 10_000, sets: 100, cidrs: 10 },
    Size { pods: 10_000, sets: 100, cidrs: 1_000 },
];

/// One line of the result.
#[derive(Debug, Serialize)]
struct Row {
    name: &'static str,
    frame: &'static str,
    outcome: &'static str,
    pods: u32,
    sets: usize,
    cidrs_per_set: usize,
    distinct_frames: u32,
    /// Without what the kernel's loop and the replaying program cost.
    ns_per_frame: Spread,
    /// What they cost.
    ns_without: Spread,
    /// How many samples count: see `calm`.
    samples: usize,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let is_root = rustix::process::geteuid().is_root();
    ensure!(is_root, "loading BPF programs needs root: `sudo spillway-bench steering`");
    // The namespaces are removed on the way out.
    let stop = stop::on_signals()?;
    let mut rig = Rig::new()?;
    let mut cases = rig.cases()?;
    for _ in 0..args.rounds {
        for case in &mut cases {
            if stop.load(Ordering::Relaxed) {
                bail!("interrupted");
            }
            case.measure(&mut rig)?;
        }
    }
    let rows: Vec<Row> = cases.iter().map(Case::row).collect();
    if args.json {
        return Ok(writeln!(std::io::stdout().lock(), "{}", serde_json::to_string_pretty(&rows)?)?);
    }
    table(&rows)
}

/// A device with sockets, so that steered frames have somewhere to go; none is ever attached.
struct Rig {
    replay: Replay,
    device: SteeredDevice,
    sockets: Vec<device::SocketFd>,
    worlds: Vec<(Size, Steering)>,
    _lanes: Vec<Lane>,
    namespaces: [Namespace; 2],
}

/// One kind of frames in one world.
struct Case {
    world: usize,
    size: Size,
    kind: Kind,
    family: Family,
    distinct: u32,
    frames: Rc<[Frame]>,
    samples: Vec<Sample>,
}

/// What the kernel says of a run, in nanoseconds per frame.
#[derive(Clone, Copy, Debug)]
struct Sample {
    /// With the steering program.
    with: f64,
    /// With the empty program, right before and right after.
    without: [f64; 2],
}

impl Rig {
    fn new() -> Result<Self> {
        let namespaces = [Namespace::new("bench-steering"), Namespace::new("bench-steering-peer")];
        veth_pair(&namespaces[0], "eth0", &namespaces[1], "eth0", 1);
        let (info, lanes, sockets) = namespaces[0].enter(|| -> Result<_> {
            let info = device::probe("eth0")?;
            let devices = DevicesConfig {
                workers: 1,
                frame_size: 2048,
                umem_frames: 0,
                devices: vec![DeviceConfig::new("eth0")],
            };
            let (lanes, sockets) = device::open(&devices, std::slice::from_ref(&info))?;
            Ok((info, lanes, sockets))
        })?;
        let device = SteeredDevice {
            name: info.name,
            ifindex: info.ifindex,
            queues: info.queues,
            mode: XdpMode::Native,
        };
        let replay = Replay::load()?;
        let worlds = Vec::new();
        let mut rig = Self { replay, device, sockets, worlds, _lanes: lanes, namespaces };
        for size in SIZES {
            rig.worlds.push((size, rig.load(&World::new(size))?));
        }
        Ok(rig)
    }

    /// A steering program of its own, with its tables and a socket.
    fn load(&self, world: &World) -> Result<Steering> {
        let config = SteeringConfig {
            tunnel_port: world::TUNNEL_PORT,
            workers: 1,
            owners: [0; 256],
            port_mask: u16::MAX,
            unclassified: Unclassified::Drop,
            // Only what is attached is pinned.
            pin_directory: "/nonexistent".into(),
        };
        let device = std::slice::from_ref(&self.device);
        let namespace = &self.namespaces[0];
        let mut steering = namespace.enter(|| Steering::load(&config, device))?;
        for socket in &self.sockets {
            steering.register_socket(0, socket.queue, socket.worker, socket.fd.as_fd())?;
        }
        steering.apply(&world.tables)?;
        Ok(steering)
    }

    fn cases(&self) -> Result<Vec<Case>> {
        let mut cases = Vec::new();
        for (index, (size, _)) in self.worlds.iter().enumerate() {
            let mut world = World::new(*size);
            let kinds = Kind::ALL.into_iter().filter(|kind| index == 0 || kind.depends_on_size());
            // The families beside each other, so that they are measured at about the same time.
            let kinds = kinds.flat_map(|kind| Family::ALL.map(|family| (kind, family)));
            for (kind, family) in kinds {
                let frames: Rc<[Frame]> = world.frames(kind, family)?.into();
                for distinct in [1, FRAMES_MAX] {
                    cases.push(Case {
                        world: index,
                        size: *size,
                        kind,
                        family,
                        distinct,
                        frames: frames.clone(),
                        samples: Vec::new(),
                    });
                }
            }
        }
        Ok(cases)
    }
}

impl Case {
    /// Some more samples: the empty program and the steering program in turn.
    fn measure(&mut self, rig: &mut Rig) -> Result<()> {
        let (_, steering) = &rig.worlds[self.world];
        let replay = &mut rig.replay;
        replay.fill(&self.frames)?;
        let mut before = replay.run_empty(self.distinct, REPEAT)?;
        for _ in 0..SAMPLES {
            let with = self.run(steering, replay)?;
            let after = replay.run_empty(self.distinct, REPEAT)?;
            self.samples.push(Sample { with, without: [before, after] });
            before = after;
        }
        Ok(())
    }

    /// A run of the steering program, which must decide as it should each time.
    fn run(&self, steering: &Steering, replay: &mut Replay) -> Result<f64> {
        let program = steering.program(0).context("one device, one program")?;
        let outcome = self.kind.outcome();
        let before = steering.outcomes()?[0][outcome as usize].packets;
        let with = replay.run(program, self.distinct, REPEAT)?;
        let counted = steering.outcomes()?[0][outcome as usize].packets - before;
        ensure!(
            counted == u64::from(REPEAT),
            "{}: {counted} frames of {REPEAT} were {outcome:?}: what was measured is not this",
            self.kind.describe(self.family),
        );
        Ok(with)
    }

    fn row(&self) -> Row {
        let calm = calm(&self.samples);
        let without = |sample: &Sample| (sample.without[0] + sample.without[1]) / 2.0;
        Row {
            name: "steering",
            frame: self.kind.describe(self.family),
            outcome: self.kind.outcome().name(),
            pods: self.size.pods,
            sets: self.size.sets,
            cidrs_per_set: self.size.cidrs,
            distinct_frames: self.distinct,
            ns_per_frame: Spread::of(calm.iter().map(|s| s.with - without(s)).collect()),
            ns_without: Spread::of(calm.iter().map(without).collect()),
            samples: calm.len(),
        }
    }
}

/// The calmest third of the samples: those beside which the empty program was fastest. On a machine
/// shared with others a core is at times half as fast.
fn calm(samples: &[Sample]) -> Vec<Sample> {
    let control = |sample: &Sample| sample.without[0].max(sample.without[1]);
    let mut calm = samples.to_vec();
    calm.sort_by(|one, other| control(one).total_cmp(&control(other)));
    calm.truncate(samples.len().div_ceil(3));
    calm
}

fn table(rows: &[Row]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{:<36} {:>7} {:>5} {:>6} {:>7} {:>6}  quarters",
        "frame", "pods", "sets", "CIDRs", "frames", "ns"
    )?;
    for row in rows {
        let ns = row.ns_per_frame;
        writeln!(
            out,
            "{:<36} {:>7} {:>5} {:>6} {:>7} {:>6.0}  {:.0}-{:.0}",
            row.frame,
            row.pods,
            row.sets,
            row.cidrs_per_set,
            row.distinct_frames,
            ns.median,
            ns.low,
            ns.high,
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_beside_a_slow_control_does_not_count() {
        let sample = |with, before, after| Sample { with, without: [before, after] };
        let samples =
            [sample(180.0, 41.0, 20.0), sample(90.0, 20.0, 22.0), sample(95.0, 21.0, 35.0)];
        let counted: Vec<f64> = calm(&samples).iter().map(|sample| sample.with).collect();
        assert_eq!(counted, [90.0]);
    }

    #[test]
    fn some_sample_always_counts() {
        let sample = Sample { with: 90.0, without: [20.0, 80.0] };
        assert_eq!(calm(&[sample]).len(), 1);
    }
}
