//! One loaded steering program and its maps, kept by their descriptors alone.

use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use libbpf_rs::skel::{OpenSkel as _, SkelBuilder as _};
use libbpf_rs::{MapCore as _, MapFlags, MapHandle, MapMut, OpenMapMut};

use super::barrier::Barrier;
use super::outcome::{Count, OUTCOMES};
use super::plan::{EgressPorts, Operation, SteerPeer, Underlay};
use super::tree::Node;
use super::{SteeringConfig, SteeringError, Unclassified};

#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    clippy::undocumented_unsafe_blocks,
    clippy::unwrap_used
)]
mod skeleton {
    include!(concat!(env!("OUT_DIR"), "/steer.skel.rs"));
}

/// That of steer.h, for the tunnels that replies go through.
const UNDERLAY_6: u8 = 0x10;

/// The maps that express policy: all devices' programs share them.
#[derive(Debug)]
pub(crate) struct PolicyMaps {
    tunnels: ByFamily,
    peers: ByFamily,
    pods: ByFamily,
    nodes: MapHandle,
    egress: ByFamily,
    owners: MapHandle,
    barrier: Barrier,
}

/// Two maps, one for each family's addresses.
#[derive(Debug)]
struct ByFamily {
    v4: MapHandle,
    v6: MapHandle,
}

/// One device's program and the maps that are its own.
#[derive(Debug)]
pub(crate) struct Program {
    fd: OwnedFd,
    xsks: MapHandle,
    outcomes: MapHandle,
    shared: PolicyMaps,
}

fn load_error(what: &'static str) -> impl Fn(libbpf_rs::Error) -> SteeringError {
    move |source| SteeringError::Load { what, source }
}

fn share(map: &mut OpenMapMut<'_>, with: &MapHandle) -> Result<(), SteeringError> {
    map.reuse_fd(with.as_fd()).map_err(load_error("cannot share a steering map"))
}

impl Program {
    /// Loads the program with room for `sockets`; with the policy maps of an earlier one, if any.
    pub(crate) fn load(
        config: &SteeringConfig,
        sockets: u32,
        shared: Option<&PolicyMaps>,
    ) -> Result<Self, SteeringError> {
        let mut object = MaybeUninit::uninit();
        let mut open = skeleton::SteerSkelBuilder::default()
            .open(&mut object)
            .map_err(load_error("cannot open the steering program"))?;
        let constants = open.maps.rodata_data.as_deref_mut().ok_or_else(|| {
            load_error("the steering program lacks its constants")(
                std::io::Error::from(std::io::ErrorKind::NotFound).into(),
            )
        })?;
        constants.tunnel_port = config.tunnel_port;
        constants.workers = u32::from(config.workers);
        constants.port_mask = config.port_mask;
        constants.pass_unclassified = u8::from(config.unclassified == Unclassified::Pass);
        open.maps
            .xsks
            .set_max_entries(sockets)
            .map_err(load_error("cannot size the map of sockets"))?;
        if let Some(shared) = shared {
            share(&mut open.maps.tunnels, &shared.tunnels.v4)?;
            share(&mut open.maps.tunnels_ipv6, &shared.tunnels.v6)?;
            share(&mut open.maps.peers, &shared.peers.v4)?;
            share(&mut open.maps.peers_ipv6, &shared.peers.v6)?;
            share(&mut open.maps.pods, &shared.pods.v4)?;
            share(&mut open.maps.pods_ipv6, &shared.pods.v6)?;
            share(&mut open.maps.nodes, &shared.nodes)?;
            share(&mut open.maps.egress, &shared.egress.v4)?;
            share(&mut open.maps.egress_ipv6, &shared.egress.v6)?;
            share(&mut open.maps.owners, &shared.owners)?;
        }
        let loaded = open.load().map_err(load_error("the kernel refuses the steering program"))?;
        let handle = load_error("cannot keep a steering map");
        let maps = &loaded.maps;
        Ok(Self {
            fd: loaded.progs.steer.as_fd().try_clone_to_owned().map_err(|e| handle(e.into()))?,
            xsks: MapHandle::try_from(&maps.xsks).map_err(&handle)?,
            outcomes: MapHandle::try_from(&maps.outcomes).map_err(&handle)?,
            shared: PolicyMaps {
                tunnels: ByFamily::new(&maps.tunnels, &maps.tunnels_ipv6).map_err(&handle)?,
                peers: ByFamily::new(&maps.peers, &maps.peers_ipv6).map_err(&handle)?,
                pods: ByFamily::new(&maps.pods, &maps.pods_ipv6).map_err(&handle)?,
                nodes: MapHandle::try_from(&maps.nodes).map_err(&handle)?,
                egress: ByFamily::new(&maps.egress, &maps.egress_ipv6).map_err(&handle)?,
                owners: MapHandle::try_from(&maps.owners).map_err(&handle)?,
                barrier: Barrier::new().map_err(&handle)?,
            },
        })
    }

    /// The maps that further programs are to share.
    pub(crate) fn policy_maps(&self) -> Result<PolicyMaps, SteeringError> {
        self.shared.duplicate().map_err(load_error("cannot share the steering maps"))
    }

    /// Puts a socket into its place in the map of sockets.
    pub(crate) fn set_socket(
        &self,
        slot: u32,
        socket: BorrowedFd<'_>,
    ) -> Result<(), SteeringError> {
        self.xsks
            .update(&slot.to_ne_bytes(), &socket.as_raw_fd().to_ne_bytes(), MapFlags::ANY)
            .map_err(|source| SteeringError::Map { map: "xsks", source })
    }

    /// The counters, summed over the processors.
    pub(crate) fn outcomes(&self) -> Result<[Count; OUTCOMES], SteeringError> {
        let mut counts = [Count::default(); OUTCOMES];
        for (index, count) in (0u32..).zip(&mut counts) {
            let values = self
                .outcomes
                .lookup_percpu(&index.to_ne_bytes(), MapFlags::ANY)
                .map_err(|source| SteeringError::Map { map: "outcomes", source })?;
            for value in values.iter().flatten() {
                let (packets, bytes) = value.split_at(8);
                count.packets += u64::from_ne_bytes(packets.try_into().unwrap_or_default());
                count.bytes += u64::from_ne_bytes(bytes.try_into().unwrap_or_default());
            }
        }
        Ok(counts)
    }
}

impl AsFd for Program {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl ByFamily {
    fn new(v4: &MapMut<'_>, v6: &MapMut<'_>) -> libbpf_rs::Result<Self> {
        Ok(Self { v4: MapHandle::try_from(v4)?, v6: MapHandle::try_from(v6)? })
    }

    fn of(&self, address: IpAddr) -> &MapHandle {
        match address {
            IpAddr::V4(_) => &self.v4,
            IpAddr::V6(_) => &self.v6,
        }
    }

    fn duplicate(&self) -> libbpf_rs::Result<Self> {
        Ok(Self { v4: MapHandle::try_from(&self.v4)?, v6: MapHandle::try_from(&self.v6)? })
    }
}

impl PolicyMaps {
    fn duplicate(&self) -> libbpf_rs::Result<Self> {
        Ok(Self {
            tunnels: self.tunnels.duplicate()?,
            peers: self.peers.duplicate()?,
            pods: self.pods.duplicate()?,
            nodes: MapHandle::try_from(&self.nodes)?,
            egress: self.egress.duplicate()?,
            owners: MapHandle::try_from(&self.owners)?,
            barrier: Barrier::new()?,
        })
    }

    /// Says which worker owns each class.
    pub(crate) fn set_owners(&self, owners: &[u8; 256]) -> Result<(), SteeringError> {
        for (class, owner) in (0u32..).zip(owners) {
            let owner = u32::from(*owner).to_ne_bytes();
            self.owners
                .update(&class.to_ne_bytes(), &owner, MapFlags::ANY)
                .map_err(|source| SteeringError::Map { map: "owners", source })?;
        }
        Ok(())
    }

    /// Carries one step of a plan out. Removing what is not there is no error, so that a plan
    /// that was interrupted can be made again.
    pub(crate) fn carry_out(&self, operation: &Operation) -> Result<(), SteeringError> {
        let (map, result) = match *operation {
            Operation::SetTunnel(a) => ("tunnels", set(self.tunnels.of(a), &key(a), &[1])),
            Operation::RemoveTunnel(a) => ("tunnels", remove(self.tunnels.of(a), &key(a))),
            Operation::SetPeer(a, peer) => {
                ("peers", set(self.peers.of(a), &key(a), &peer_value(a, peer)))
            }
            Operation::RemovePeer(a) => ("peers", remove(self.peers.of(a), &key(a))),
            Operation::AwaitPrograms => ("barrier", self.barrier.wait()),
            Operation::SetNode(index, node) => {
                ("nodes", set(&self.nodes, &index.to_ne_bytes(), &node_value(&node)))
            }
            Operation::SetPods(a, block) => ("pods", set(self.pods.of(a), &key(a), &words(&block))),
            Operation::RemovePods(a) => ("pods", remove(self.pods.of(a), &key(a))),
            Operation::SetEgress(a, ports, underlay) => {
                ("egress", set(self.egress.of(a), &key(a), &egress_ports(ports, underlay)))
            }
            Operation::RemoveEgress(a) => ("egress", remove(self.egress.of(a), &key(a))),
        };
        result.map_err(|source| SteeringError::Map { map, source })
    }
}

fn set(map: &MapHandle, key: &[u8], value: &[u8]) -> libbpf_rs::Result<()> {
    map.update(key, value, MapFlags::ANY)
}

fn remove(map: &MapHandle, key: &[u8]) -> libbpf_rs::Result<()> {
    match map.delete(key) {
        Err(error) if error.kind() == libbpf_rs::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// An address as the program's maps have it: the bytes of the header.
fn key(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// A peer's tunnel address; of an IPv6 peer `struct peer_ipv6` of steer.h.
fn peer_value(address: IpAddr, peer: SteerPeer) -> Vec<u8> {
    let mut value = key(peer.tunnel);
    if address.is_ipv6() {
        value.extend(peer.key.octets());
    }
    value
}

/// `struct node` of steer.h.
fn node_value(node: &Node) -> Vec<u8> {
    [words(&node.last), words(&[0]), words(&node.next)].concat()
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// `struct egress_ports` of steer.h.
fn egress_ports(ports: EgressPorts, underlay: Underlay) -> [u8; 12] {
    let mut value = [0; 12];
    value[..2].copy_from_slice(&ports.first.to_ne_bytes());
    value[2..4].copy_from_slice(&ports.last.to_ne_bytes());
    value[4] = u8::from(ports.own);
    value[5] = match underlay {
        Underlay::V4 => 0,
        Underlay::V6 => UNDERLAY_6,
    };
    value[8..].copy_from_slice(&ports.announce.unwrap_or_default().to_ne_bytes());
    value
}
