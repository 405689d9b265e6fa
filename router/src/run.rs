//! `spillway run`: start-up, the main thread's event loop, and the end.
//!
//! The main thread never sees a packet. It follows the kernel, the state file and the operator's
//! socket, and programs steering and workers; between events it sleeps.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use mio::{Events, Interest, Poll, Token};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook_mio::v1_0::Signals;
use spillway_engine::steer::Owners;
use spillway_engine::tables::{Tables, TablesInput};
use spillway_engine::{Carried, Engine, EngineConfig};
use spillway_xdp::device::{self, DeviceInfo, DevicesConfig, SocketFd};
use spillway_xdp::steering::{self, DeviceLock, SteeredDevice, Steering, SteeringConfig};

use crate::accounts::Book;
use crate::answer::answer;
use crate::capture;
use crate::census;
use crate::config::{Config, Mode, Unclassified};
use crate::gateway::{Gateway, GatewayParts};
use crate::handover::{self, TakenUp};
use crate::kernel::Kernel;
use crate::log::Log;
use crate::numbers::Assigned;
use crate::server::{Access, Server};
use crate::state_file::StateFile;
use crate::worker::now;
use crate::workers::Workers;

const SIGNALS: Token = Token(0);
const KERNEL: Token = Token(1);
const STATE: Token = Token(2);
const WORKERS: Token = Token(3);
const SERVER: Token = Token(16);
const READ_ONLY_SERVER: Token = Token(SERVER.0 + Server::TOKENS);

/// How soon the kernel's tables are asked for again after an error.
const KERNEL_RETRY: Duration = Duration::from_secs(1);

/// Runs the router until SIGTERM or SIGINT. Steering stays attached, so that selected traffic is
/// dropped, not leaked, until the router runs again or `spillway detach` removes it. The flows are
/// left to the next process.
///
/// # Errors
/// When it cannot start, or when a worker has died.
pub(crate) fn run(config: Config, state: Option<&Path>, log: Log) -> anyhow::Result<()> {
    let mut poll = Poll::new().context("cannot make an event loop")?;
    let mut signals = Signals::new([SIGTERM, SIGINT]).context("cannot catch signals")?;
    poll.registry().register(&mut signals, SIGNALS, Interest::READABLE)?;
    let waker = Arc::new(mio::Waker::new(poll.registry(), WORKERS)?);

    // The devices are this process's until its flows are left.
    let (mut gateway, _locks) = start(config, &waker, log)?;
    let outcome = forward(&mut gateway, state, &mut poll, &mut signals);
    gateway.kernel.release_neighbours();
    let Gateway { workers, config, numbers, .. } = gateway;
    leave_flows(&config.runtime_dir, &numbers, &workers.stop());
    outcome
}

/// Opens what the main thread listens to, and serves it until a signal ends it.
fn forward(
    gateway: &mut Gateway,
    state: Option<&Path>,
    poll: &mut Poll,
    signals: &mut Signals,
) -> anyhow::Result<()> {
    let source = gateway.kernel.source();
    poll.registry().register(source, KERNEL, Interest::READABLE)?;
    let (socket, read_only) = (gateway.config.socket(), gateway.config.read_only_socket());
    let group = gateway.config.read_only_group;
    let servers = [
        Server::bind(&socket, Access::Full, poll.registry(), SERVER)?,
        Server::bind(&read_only, Access::ReadOnly { group }, poll.registry(), READ_ONLY_SERVER)?,
    ];
    let state = state.map(StateFile::open).transpose().context("cannot follow the state file")?;
    if let Some(state) = &state {
        state.register(poll.registry(), STATE)?;
    }
    if !gateway.steering.is_inherited() {
        gateway.attach()?;
    }
    tracing::info!("listening on {}, and read-only on {}", socket.display(), read_only.display());

    let mut main = Main { gateway, servers, state, kernel_again: None };
    main.read_state()?;
    main.serve(poll, signals)
}

/// Opens devices, steering and workers. Nothing is steered yet.
fn start(
    config: Config,
    waker: &Arc<mio::Waker>,
    log: Log,
) -> anyhow::Result<(Gateway, Vec<DeviceLock>)> {
    std::fs::create_dir_all(&config.runtime_dir)
        .with_context(|| format!("cannot make {}", config.runtime_dir.display()))?;
    let kernel = Kernel::open()?;
    let names = config.devices.iter().map(|device| device.name.as_str());
    let devices: Vec<DeviceInfo> = names.map(device::probe).collect::<Result<_, _>>()?;
    let take = |info: &DeviceInfo| DeviceLock::take(&config.runtime_dir, &info.name, info.ifindex);
    let locks = devices.iter().map(take).collect::<Result<_, _>>()?;
    let (lanes, sockets) = device::open(&devices_config(&config), &devices)?;
    let owners = owners(&config);
    steering::ensure_bpffs(&config.pin_directory())?;
    let steering = load_steering(&config, owners, &devices, &sockets)?;

    let hash_key = secret()?;
    let [seed, ..] = secret()?;
    let engine_config = EngineConfig {
        worker: 0,
        owners,
        blocks_per_pod: config.port_blocks.blocks_per_pod(),
        flows_max: config.flows_max,
        flows_max_ipv6: config.flows_max,
        hash_key,
        seed,
        timeouts: config.timeouts.to_engine(),
        pod_flows: Arc::default(),
        mss_clamp: config.mss_clamp,
        events: config.events.kept > 0,
    };
    let engine = |worker| {
        let seed = seed.wrapping_add(u64::from(worker));
        Engine::new(&EngineConfig { worker, seed, ..engine_config.clone() })
    };
    let mut engines: Vec<Engine> = (0..config.workers).map(engine).collect();
    let numbers = take_up_flows(&config.runtime_dir, &owners, &mut engines);
    let restored = engines.iter().flat_map(Engine::saved).map(|flow| {
        let (forward, reply) = (flow.forward.traffic, flow.reply.traffic);
        (flow.egress, Carried { forward, reply })
    });
    let book = Book::new(restored);
    let parts = engines.into_iter().zip(lanes).collect();
    let tables = Arc::new(Tables::new(TablesInput::default()));
    let workers = Workers::start(parts, &tables, waker, &config)?;
    let engine = engine_config;
    let parts = GatewayParts {
        config,
        devices,
        sockets,
        kernel,
        steering,
        workers,
        engine,
        numbers,
        book,
        log,
    };
    Ok((Gateway::new(parts), locks))
}

/// Goes on with the flows of an earlier process, if it has left any, and with its numbers.
fn take_up_flows(directory: &Path, owners: &Owners, engines: &mut [Engine]) -> Assigned {
    let boot = handover::boot_id();
    let taken = boot.and_then(|boot| handover::take_up(directory, &boot, now(), owners, engines));
    match taken {
        Ok(None) => Assigned::default(),
        Ok(Some(TakenUp { restored, numbers })) => {
            if restored.refused.is_empty() {
                tracing::info!("of the process before: {restored}");
            } else {
                tracing::warn!("of the process before: {restored}");
            }
            numbers
        }
        Err(error) => {
            tracing::warn!(
                "the flows of the process before do not go on: {error:#}. Pods must open their \
                 connections anew"
            );
            Assigned::default()
        }
    }
}

/// Leaves the flows to the next process.
fn leave_flows(directory: &Path, numbers: &Assigned, engines: &[Engine]) {
    let flows = engines.iter().flat_map(Engine::saved);
    match handover::boot_id().and_then(|boot| handover::leave(directory, &boot, numbers, flows)) {
        Ok(count) => tracing::info!("{count} flows are left to the next process"),
        Err(error) => tracing::warn!(
            "the next process will not go on with the flows: {error:#}. Pods must open their \
             connections anew"
        ),
    }
}

/// Class → worker: an equal share for each. Port blocks are of one class each.
pub(crate) fn owners(config: &Config) -> Owners {
    let of_class = std::array::from_fn(|class| {
        let worker = class % usize::from(config.workers.max(1));
        u8::try_from(worker).unwrap_or_default()
    });
    Owners { of_class, run: config.port_blocks.run() }
}

/// The devices as they are to be opened.
pub(crate) fn devices_config(config: &Config) -> DevicesConfig {
    let device = |from: &crate::config::DeviceConfig| {
        let mut to = device::DeviceConfig::new(from.name.clone());
        to.queues = from.queues;
        to.zero_copy = from.zero_copy;
        to
    };
    DevicesConfig {
        workers: config.workers,
        frame_size: config.frame_size,
        umem_frames: config.umem_frames,
        devices: config.devices.iter().map(device).collect(),
    }
}

/// Loads the steering programs and gives each its sockets. Nothing is attached.
pub(crate) fn load_steering(
    config: &Config,
    owners: Owners,
    devices: &[DeviceInfo],
    sockets: &[SocketFd],
) -> anyhow::Result<Steering> {
    let steering_config = SteeringConfig {
        tunnel_port: config.tunnel_port,
        workers: config.workers,
        owners: owners.of_class,
        port_mask: owners.run.mask(),
        unclassified: match config.unclassified_tunnel_frames {
            Unclassified::Drop => steering::Unclassified::Drop,
            Unclassified::Pass => steering::Unclassified::Pass,
        },
        pin_directory: config.pin_directory(),
    };
    let devices: Vec<SteeredDevice> = devices
        .iter()
        .zip(&config.devices)
        .map(|(info, config)| SteeredDevice {
            name: info.name.clone(),
            ifindex: info.ifindex,
            queues: info.queues,
            mode: match config.mode {
                Mode::Auto => steering::XdpMode::Auto,
                Mode::Native => steering::XdpMode::Native,
                Mode::Generic => steering::XdpMode::Generic,
            },
        })
        .collect();
    let mut steering = Steering::load(&steering_config, &devices)?;
    for SocketFd { device, queue, worker, fd } in sockets {
        use std::os::fd::AsFd as _;
        steering.register_socket(usize::from(*device), *queue, *worker, fd.as_fd())?;
    }
    Ok(steering)
}

/// Random numbers that nobody outside can know.
fn secret() -> anyhow::Result<[u64; 4]> {
    let mut bytes = [0; 32];
    let length = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .context("the kernel gives no random numbers")?;
    anyhow::ensure!(length == bytes.len(), "the kernel gives too few random numbers");
    let (words, _) = bytes.as_chunks::<8>();
    Ok(std::array::from_fn(|at| words.get(at).map_or(0, |word| u64::from_ne_bytes(*word))))
}

/// The main thread.
struct Main<'a> {
    gateway: &'a mut Gateway,
    /// The operator's, and the read-only one.
    servers: [Server; 2],
    state: Option<StateFile>,
    /// When the kernel's changes must be looked at again, event or not.
    kernel_again: Option<Instant>,
}

impl Main<'_> {
    /// Serves events until a signal ends it.
    fn serve(&mut self, poll: &mut Poll, signals: &mut Signals) -> anyhow::Result<()> {
        let mut events = Events::with_capacity(64);
        loop {
            let Gateway { grace, announcements, limits, captures, census, log, .. } = &self.gateway;
            let limits = Some(limits.next());
            let deadlines = [
                self.servers.iter().filter_map(Server::deadline).min(),
                self.kernel_again,
                grace.ends(),
                announcements.next(),
                limits,
                captures.deadline(),
                census.next(),
                log.deadline(),
            ];
            let deadline = deadlines.into_iter().flatten().min();
            let timeout = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            match poll.poll(&mut events, timeout) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                result => result.context("cannot wait for events")?,
            }
            for event in &events {
                match event.token() {
                    SIGNALS => {
                        if let Some(signal) = signals.pending().next() {
                            tracing::info!("signal {signal}: ending; steering stays attached");
                            return Ok(());
                        }
                    }
                    KERNEL => self.follow_kernel()?,
                    STATE => self.read_state()?,
                    WORKERS => {
                        self.gateway.resolve_neighbours();
                        self.gateway.follow_events();
                    }
                    token => {
                        let Self { gateway, servers, .. } = self;
                        servers.iter_mut().any(|server| {
                            server.ready(token, &mut |request| answer(gateway, request))
                        });
                    }
                }
            }
            let now = Instant::now();
            self.servers.iter_mut().for_each(|server| server.expire(now));
            self.gateway.end_grace(now);
            self.gateway.announce(now)?;
            self.gateway.watch_limits(now);
            self.gateway.log.expire(now);
            capture::expire(self.gateway, now);
            census::go_on(self.gateway, now);
            if self.kernel_again.is_some_and(|at| at <= now) {
                self.follow_kernel()?;
            }
        }
    }

    /// Takes in what the kernel has changed.
    fn follow_kernel(&mut self) -> anyhow::Result<()> {
        self.kernel_again = None;
        match self.gateway.kernel.follow() {
            Ok(changes) => {
                if changes.unfinished {
                    self.kernel_again = Some(Instant::now());
                }
                if changes.any() {
                    self.gateway.kernel_changed()?;
                }
            }
            Err(error) => {
                tracing::warn!("{error}: the last known routes and neighbours stay in force");
                self.kernel_again = Some(Instant::now() + KERNEL_RETRY);
            }
        }
        Ok(())
    }

    /// Programs the state file's document, if it has changed. A bad one is refused.
    fn read_state(&mut self) -> anyhow::Result<()> {
        let Some(file) = &mut self.state else { return Ok(()) };
        let source = file.path().display().to_string();
        let text = match file.changed() {
            None => return Ok(()),
            Some(Err(message)) => {
                self.gateway.refuse(&source, message);
                return Ok(());
            }
            Some(Ok(text)) => text,
        };
        match self.gateway.config.parse_document(&text) {
            Ok(document) => {
                if let Err(error) = self.gateway.apply(document, &source) {
                    self.gateway.refuse(&source, format!("{error:#}"));
                }
            }
            Err(problem) => self.gateway.refuse(&source, problem.to_string()),
        }
        Ok(())
    }
}
