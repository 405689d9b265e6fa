//! The steering program from the outside: loaded once per device, with policy maps that all
//! devices share, and attached by a pinned link that outlives the process.
//!
//! ```text
//!  load ─→ register_socket (every queue × worker) ─→ apply ─→ attach
//!                                                      ↑        │
//!                                                      └────────┘ apply again, at any time
//! ```
//!
//! Where an earlier process left its program on a device, `attach` replaces it in one step, with
//! the new program's maps already filled: selected traffic is dropped until then, never passed.

mod address;
mod barrier;
pub(crate) mod error;
mod family;
mod inspect;
mod link;
mod nodes;
mod outcome;
mod pin;
mod plan;
mod program;
mod tree;
mod trial;

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::PathBuf;

pub use address::Address;
pub use error::SteeringError;
pub use family::{DestinationSet, SteerFamily};
pub use inspect::{DeviceXdp, ForeignProgram, Occupant, inspect};
pub use link::AttachMode;
pub use outcome::{Count, OUTCOMES, SteerOutcome, Verdict};
pub use pin::{DeviceLock, detach, ensure_bpffs, is_bpffs};
pub use plan::{
    DESTINATIONS_MAX, EGRESS_MAX, EgressPorts, PEERS_MAX, PODS_MAX, SteerPeer, SteerTables,
    TUNNELS_MAX, TooMany,
};
pub use trial::{Trial, Tried, test_run};

use link::Link;
use plan::Programmed;
use program::{PolicyMaps, Program};

/// What becomes of frames to the tunnel that cannot be classified.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unclassified {
    /// Dropped: once the kernel has made a packet of them, they could leak.
    #[default]
    Drop,
    /// Left to the kernel.
    Pass,
}

/// Where in the kernel the program shall run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum XdpMode {
    /// Native; where the driver has none, generic, with a warning.
    #[default]
    Auto,
    /// Native or not at all.
    Native,
    /// Generic.
    Generic,
}

/// What is fixed when the program is loaded.
#[derive(Clone, Debug)]
pub struct SteeringConfig {
    /// UDP port of the tunnel.
    pub tunnel_port: u16,
    /// How many workers there are, at least 1.
    pub workers: u8,
    /// The worker that owns each class of ports, each less than `workers`.
    pub owners: [u8; 256],
    /// The bits of a port that its class is taken from: all of them, or, so that ports in a row are of one
    /// class, all but the lowest.
    pub port_mask: u16,
    /// What becomes of frames to the tunnel that cannot be classified.
    pub unclassified: Unclassified,
    /// Where links are pinned: a bpffs, see [`ensure_bpffs`].
    pub pin_directory: PathBuf,
}

/// A device to steer on.
#[derive(Clone, Debug)]
pub struct SteeredDevice {
    /// Its name.
    pub name: String,
    /// Its number in this network namespace.
    pub ifindex: u32,
    /// How many receive queues it has.
    pub queues: u32,
    /// Where the program shall run.
    pub mode: XdpMode,
}

/// What [`Steering::attach`] did on a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The device's name.
    pub device: String,
    /// Where the program runs.
    pub mode: AttachMode,
    /// It took the place of an earlier process's program.
    pub replaced: bool,
}

/// One device and its program.
#[derive(Debug)]
struct Steered {
    device: SteeredDevice,
    program: Program,
    registered: Vec<bool>,
    pin: PathBuf,
    link: Option<Link>,
}

/// The steering programs of all devices.
#[derive(Debug)]
pub struct Steering {
    config: SteeringConfig,
    maps: PolicyMaps,
    programmed: Programmed,
    devices: Vec<Steered>,
}

impl Steering {
    /// Loads a program for each device. Nothing is attached yet.
    ///
    /// # Errors
    /// When the kernel refuses the program or its maps.
    pub fn load(config: &SteeringConfig, devices: &[SteeredDevice]) -> Result<Self, SteeringError> {
        let mut maps = None;
        let mut steered = Vec::with_capacity(devices.len());
        for device in devices {
            let sockets = device.queues * u32::from(config.workers);
            let program = Program::load(config, sockets, maps.as_ref())?;
            if maps.is_none() {
                maps = Some(program.policy_maps()?);
            }
            steered.push(Steered {
                device: device.clone(),
                program,
                registered: vec![false; sockets as usize],
                pin: pin::link_path(&config.pin_directory, device.ifindex)?,
                link: None,
            });
        }
        let maps = maps.ok_or_else(|| SteeringError::Load {
            what: "cannot steer without a device",
            source: io::Error::from(io::ErrorKind::InvalidInput).into(),
        })?;
        maps.set_owners(&config.owners)?;
        Ok(Self {
            config: config.clone(),
            maps,
            programmed: Programmed::default(),
            devices: steered,
        })
    }

    /// Whether an earlier process left its program on some device.
    #[must_use]
    pub fn is_inherited(&self) -> bool {
        self.devices.iter().any(|steered| steered.pin.exists())
    }

    /// Gives the frames of a receive queue that belong to a worker to a socket.
    ///
    /// # Errors
    /// When the kernel refuses the socket: it must be an AF_XDP socket that is bound.
    pub fn register_socket(
        &mut self,
        device: usize,
        queue: u32,
        worker: u8,
        socket: BorrowedFd<'_>,
    ) -> Result<(), SteeringError> {
        let slot = queue * u32::from(self.config.workers) + u32::from(worker);
        let Some(steered) = self.devices.get_mut(device) else { return Ok(()) };
        steered.program.set_socket(slot, socket)?;
        if let Some(registered) = steered.registered.get_mut(slot as usize) {
            *registered = true;
        }
        Ok(())
    }

    /// Programs new tables, by single steps none of which leaves a pod without a verdict.
    ///
    /// # Errors
    /// [`SteeringError::TooMany`] before anything has changed; [`SteeringError::Map`] when the
    /// kernel refuses a step: what was programmed before it stays, and the next call goes on.
    pub fn apply(&mut self, tables: &SteerTables) -> Result<(), SteeringError> {
        let (operations, next) = self.programmed.plan(tables)?;
        for operation in &operations {
            if let Err(error) = self.maps.carry_out(operation) {
                self.programmed.interrupted(next);
                return Err(error);
            }
        }
        self.programmed = next;
        Ok(())
    }

    /// Attaches the programs, or puts them in the place of an earlier process's ones.
    ///
    /// # Errors
    /// When a receive queue has no socket, when a device runs somebody else's program, or when it
    /// cannot run one.
    pub fn attach(&mut self) -> Result<Vec<Attachment>, SteeringError> {
        for steered in &self.devices {
            steered.check_sockets(self.config.workers)?;
        }
        self.devices.iter_mut().map(Steered::attach).collect()
    }

    /// How often each outcome came up, by device and [`SteerOutcome`].
    ///
    /// # Errors
    /// When the kernel does not let the counters be read.
    pub fn outcomes(&self) -> Result<Vec<[Count; OUTCOMES]>, SteeringError> {
        self.devices.iter().map(|steered| steered.program.outcomes()).collect()
    }

    /// The program of a device, for [`test_run`] in tests.
    #[must_use]
    pub fn program(&self, device: usize) -> Option<BorrowedFd<'_>> {
        self.devices.get(device).map(|steered| steered.program.as_fd())
    }
}

impl Steered {
    fn check_sockets(&self, workers: u8) -> Result<(), SteeringError> {
        let Some(slot) = self.registered.iter().position(|registered| !registered) else {
            return Ok(());
        };
        let slot = u32::try_from(slot).unwrap_or(u32::MAX);
        Err(SteeringError::MissingSocket {
            device: self.device.name.clone(),
            queue: slot / u32::from(workers),
            worker: u8::try_from(slot % u32::from(workers)).unwrap_or(u8::MAX),
        })
    }

    fn attach(&mut self) -> Result<Attachment, SteeringError> {
        let replaced = self.take_over()?;
        if !replaced {
            let link = self.create()?;
            link.pin(&self.pin)?;
            self.link = Some(link);
        }
        let attached = link::query(self.device.ifindex)
            .map_err(|source| self.refused("any", source))?
            .program
            .map_or(AttachMode::Native, |(_, mode)| mode);
        if attached == AttachMode::Generic {
            self.prepare_generic();
        }
        Ok(Attachment { device: self.device.name.clone(), mode: attached, replaced })
    }

    /// Puts our program in the place of the one that an earlier process left, if there is one.
    fn take_over(&mut self) -> Result<bool, SteeringError> {
        if !self.pin.exists() {
            return Ok(false);
        }
        let link = Link::open(&self.pin)?;
        match link.replace(self.program.as_fd()) {
            Ok(()) => {
                self.link = Some(link);
                Ok(true)
            }
            // The link's device is gone, and this one only got its number.
            Err(e) if e.raw_os_error() == Some(libc::ENOLINK) => {
                fs::remove_file(&self.pin)
                    .map_err(|e| SteeringError::file("cannot unpin", &self.pin, e))?;
                Ok(false)
            }
            Err(source) => Err(self.refused("the inherited", source)),
        }
    }

    /// Attaches to a device that has no program of ours.
    fn create(&self) -> Result<Link, SteeringError> {
        let ifindex = self.device.ifindex;
        let found = link::query(ifindex).map_err(|source| self.refused("any", source))?;
        if let Some((program, _)) = found.program {
            let device = self.device.name.clone();
            return Err(SteeringError::Occupied { device, program });
        }
        let native = || Link::create(self.program.as_fd(), ifindex, AttachMode::Native);
        let generic = || {
            Link::create(self.program.as_fd(), ifindex, AttachMode::Generic)
                .map_err(|source| self.refused("generic", source))
        };
        match self.device.mode {
            XdpMode::Native => native().map_err(|source| self.refused("native", source)),
            XdpMode::Generic => generic(),
            XdpMode::Auto => native().or_else(|error| {
                let name = &self.device.name;
                tracing::warn!("{name} has no native XDP ({error}): generic mode, slower");
                generic()
            }),
        }
    }

    /// Generic XDP sees frames after GRO and LRO have merged them: too large, and not as sent.
    fn prepare_generic(&self) {
        let name = &self.device.name;
        if let Err(error) = crate::device::ethtool::set_gro_lro_off(name) {
            tracing::warn!(
                "cannot switch GRO and LRO off on {name} ({error}): merged packets will be \
                 dropped. Try `ethtool -K {name} gro off lro off`"
            );
        }
    }

    fn refused(&self, mode: &'static str, source: io::Error) -> SteeringError {
        SteeringError::Attach { device: self.device.name.clone(), mode, source }
    }
}
