//! Flows across a restart: the process that ends leaves them in a file of the runtime directory,
//! which is a tmpfs where `/run` is; the next one takes them up.
//!
//! ```text
//!  8        4          36        4      4       20 for each      130 for each      4
//!  +--------+----------+---------+------+-------+------- ~ ------+------- ~ -------+----------+
//!  | magic  | version  | boot id | pods | peers | numbers        | flows           | checksum |
//!  +--------+----------+---------+------+-------+------- ~ ------+------- ~ -------+----------+
//! ```
//!
//! Integers are little-endian, and addresses have 16 bytes, IPv4's as RFC 4291, section 2.5.5.2 has
//! them in IPv6. Before the flows is what stands for IPv6 addresses in them ([`crate::numbers`]): as
//! many pods' and peers' numbers as is said, each with its address. How many flows there are follows
//! from the file's length. The checksum is CRC32c over all before it. Times are monotonic, so they
//! mean nothing after a boot.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::{Context as _, ensure};
use spillway_engine::steer::Owners;
use spillway_engine::{Engine, Nanos, NotRestored, SavedDirection, SavedFlow, Traffic, Tuple};

use crate::numbers::Assigned;

/// The file, in the runtime directory.
const FILE: &str = "flows";

/// Where it is written until it is whole.
const UNFINISHED: &str = "flows.unfinished";

const MAGIC: [u8; 8] = *b"spillway";

/// Of the file's format. Whatever changes [`SavedFlow`], or what its fields mean, changes this.
const VERSION: u32 = 3;

/// Lengths in bytes.
const HEADER_LEN: u64 = 48;
const COUNTS_LEN: u64 = 8;
const NUMBER_LEN: u64 = 20;
const RECORD_LEN: u64 = 130;
const CHECKSUM_LEN: u64 = 4;

/// What a boot is known by, as the kernel writes it: a UUID.
pub(crate) type BootId = [u8; 36];

/// This boot's.
///
/// # Errors
/// When the kernel does not tell.
pub(crate) fn boot_id() -> anyhow::Result<BootId> {
    const PATH: &str = "/proc/sys/kernel/random/boot_id";
    let text = std::fs::read(PATH).with_context(|| format!("cannot read {PATH}"))?;
    text.first_chunk().copied().with_context(|| format!("cannot understand {PATH}"))
}

/// What became of the flows in a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Restored {
    /// How many go on.
    pub(crate) flows: u64,
    /// How many do not, and why.
    pub(crate) refused: BTreeMap<NotRestored, u64>,
}

impl fmt::Display for Restored {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} flows go on", self.flows)?;
        for (why, count) in &self.refused {
            write!(formatter, "; {count} do not: {why}")?;
        }
        Ok(())
    }
}

/// What was in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TakenUp {
    /// What became of the flows.
    pub(crate) restored: Restored,
    /// What stands for IPv6 addresses in them.
    pub(crate) numbers: Assigned,
}

/// Leaves the flows of all engines in `directory`, and what stands for IPv6 addresses in them; gives
/// the number of flows. No other process has the devices meanwhile.
///
/// # Errors
/// When the file cannot be written: there is none then.
pub(crate) fn leave(
    directory: &Path,
    boot: &BootId,
    numbers: &Assigned,
    flows: impl Iterator<Item = SavedFlow>,
) -> anyhow::Result<u64> {
    let (unfinished, path) = (directory.join(UNFINISHED), directory.join(FILE));
    // Another process may not have come to the end of it.
    let _ = std::fs::remove_file(&unfinished);
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&unfinished)
        .and_then(|file| write(file, boot, numbers, flows))
        .and_then(|count| std::fs::rename(&unfinished, &path).map(|()| count));
    written.with_context(|| {
        // What is left of it is of no use, and would be written over.
        let _ = std::fs::remove_file(&unfinished);
        format!("cannot write {}", path.display())
    })
}

/// Passes bytes on, and adds them to their checksum.
struct Summed<W> {
    to: W,
    checksum: u32,
}

impl<W: Write> Write for Summed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.to.write(bytes)?;
        let bytes = bytes.get(..written).unwrap_or(bytes);
        self.checksum = crc32c::crc32c_append(self.checksum, bytes);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// Writes the whole file; gives the number of its flows.
fn write(
    to: impl Write,
    boot: &BootId,
    numbers: &Assigned,
    flows: impl Iterator<Item = SavedFlow>,
) -> io::Result<u64> {
    let mut to = BufWriter::new(Summed { to, checksum: 0 });
    to.write_all(&MAGIC)?;
    to.write_all(&VERSION.to_le_bytes())?;
    to.write_all(boot)?;
    write_numbers(&mut to, numbers)?;
    let mut count = 0;
    for flow in flows {
        write_flow(&mut to, &flow)?;
        count += 1;
    }
    let Summed { mut to, checksum } = to.into_inner()?;
    to.write_all(&checksum.to_le_bytes())?;
    Ok(count)
}

/// Takes up the flows that an earlier process has left in `directory`, each by the engine of the
/// worker that owns it; `None` when there are none. The file is gone before it is used: if these
/// flows were the end of this process, they would not be that of the next one.
///
/// # Errors
/// Why none of them goes on: the file is of another format or boot, damaged, or cannot be read.
pub(crate) fn take_up(
    directory: &Path,
    boot: &BootId,
    now: Nanos,
    owners: &Owners,
    engines: &mut [Engine],
) -> anyhow::Result<Option<TakenUp>> {
    let path = directory.join(FILE);
    let file = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.with_context(|| format!("cannot read {}", path.display()))?,
    };
    std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    let mut restored = Restored::default();
    let numbers = read(file, boot, |flow| match restore(now, owners, engines, flow) {
        Ok(()) => restored.flows += 1,
        Err(why) => *restored.refused.entry(why).or_default() += 1,
    })
    .with_context(|| format!("cannot use {}", path.display()))?;
    Ok(Some(TakenUp { restored, numbers }))
}

/// Gives a flow to the worker that its replies come to. Where the pod's own packets come to another
/// one, that one is to hand them over: it had no port left, or there were other workers.
fn restore(
    now: Nanos,
    owners: &Owners,
    engines: &mut [Engine],
    flow: &SavedFlow,
) -> Result<(), NotRestored> {
    let home = owners.owner(flow.egress_port);
    let first = owners.owner(flow.original.source_port);
    if let Some(engine) = engines.get_mut(usize::from(first)).filter(|_| first != home) {
        engine.redirect(now, &flow.original, home)?;
    }
    let engine = engines.get_mut(usize::from(home)).ok_or(NotRestored::WrongWorker)?;
    let restored = engine.restore(now, flow);
    if restored.is_err()
        && let Some(engine) = engines.get_mut(usize::from(first)).filter(|_| first != home)
    {
        engine.forget_redirect(&flow.original);
    }
    restored
}

/// Checks the whole file, then calls `each` with its flows, in order; gives its numbers.
fn read(
    file: impl Read + Seek,
    boot: &BootId,
    mut each: impl FnMut(&SavedFlow),
) -> anyhow::Result<Assigned> {
    let mut file = BufReader::new(file);
    let length = file.seek(SeekFrom::End(0)).context("cannot seek in it")?;
    file.rewind()?;
    check_header(&mut file, boot)?;
    const LENGTH: &str = "its length is wrong: it is damaged";
    let counts = read_counts(&mut file).context(LENGTH)?;
    let numbers_len = NUMBER_LEN * (u64::from(counts.pods) + u64::from(counts.peers));
    let records = length.checked_sub(HEADER_LEN + COUNTS_LEN + numbers_len + CHECKSUM_LEN);
    let records = records.filter(|records| records % RECORD_LEN == 0).context(LENGTH)?;

    file.rewind()?;
    let mut sum = Summed { to: io::sink(), checksum: 0 };
    io::copy(&mut file.by_ref().take(length - CHECKSUM_LEN), &mut sum)?;
    let expected = next(&mut file)?;
    ensure!(sum.checksum.to_le_bytes() == expected, "its checksum is wrong: it is damaged");

    file.seek(SeekFrom::Start(HEADER_LEN + COUNTS_LEN))?;
    let numbers = read_numbers(&mut file, counts)?.context("its numbers are none of Spillway's")?;
    for _ in 0..records / RECORD_LEN {
        each(&read_flow(&mut file)?);
    }
    Ok(numbers)
}

fn check_header(file: &mut impl Read, boot: &BootId) -> anyhow::Result<()> {
    const SHORT: &str = "it is too short: it is damaged";
    let magic: [u8; 8] = next(file).context(SHORT)?;
    ensure!(magic == MAGIC, "these are no flows of Spillway");
    let version = u32::from_le_bytes(next(file).context(SHORT)?);
    ensure!(version == VERSION, "its format is {version}, and this spillway knows {VERSION} only");
    let of: BootId = next(file).context(SHORT)?;
    ensure!(of == *boot, "it is from before the machine was booted");
    Ok(())
}

/// The next bytes.
fn next<const N: usize>(file: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// How many numbers there are.
#[derive(Clone, Copy)]
struct Counts {
    pods: u32,
    peers: u32,
}

/// Writes the [`COUNTS_LEN`] bytes of the counts, and [`NUMBER_LEN`] bytes for each number.
fn write_numbers(to: &mut impl Write, numbers: &Assigned) -> io::Result<()> {
    let Assigned { pods, peers } = numbers;
    for count in [pods.all().len(), peers.all().len()] {
        let count = u32::try_from(count).map_err(io::Error::other)?;
        to.write_all(&count.to_le_bytes())?;
    }
    for (number, address) in pods.all().chain(peers.all()) {
        to.write_all(&number.octets())?;
        to.write_all(&address.octets())?;
    }
    Ok(())
}

fn read_counts(from: &mut impl Read) -> io::Result<Counts> {
    let mut count = || next(from).map(u32::from_le_bytes);
    Ok(Counts { pods: count()?, peers: count()? })
}

/// Reads the numbers in the same order; `None` when nobody has given them.
fn read_numbers(from: &mut impl Read, counts: Counts) -> io::Result<Option<Assigned>> {
    let mut of = |count: u32| -> io::Result<Vec<_>> {
        let number = |_| Ok((next::<4>(from)?.into(), next::<16>(from)?.into()));
        (0..count).map(number).collect()
    };
    let (pods, peers) = (of(counts.pods)?, of(counts.peers)?);
    Ok(Assigned::restore(pods.into_iter(), peers.into_iter()))
}

/// Writes the [`RECORD_LEN`] bytes of one flow.
fn write_flow(to: &mut impl Write, flow: &SavedFlow) -> io::Result<()> {
    // Every field is named: a new one must not be forgotten.
    let SavedFlow {
        original,
        egress,
        egress_port,
        created_ns,
        expected,
        forward,
        reply,
        peer,
        inner_mac,
        vni,
    } = flow;
    let Tuple { source, destination, source_port, destination_port, protocol } = original;
    write_address(to, *source)?;
    write_address(to, *destination)?;
    to.write_all(&source_port.to_le_bytes())?;
    to.write_all(&destination_port.to_le_bytes())?;
    to.write_all(&[*protocol])?;
    write_address(to, *egress)?;
    to.write_all(&egress_port.to_le_bytes())?;
    to.write_all(&created_ns.to_le_bytes())?;
    to.write_all(&expected.to_le_bytes())?;
    for SavedDirection { progress, last_seen_ns, traffic } in [forward, reply] {
        to.write_all(&[*progress])?;
        to.write_all(&last_seen_ns.to_le_bytes())?;
        to.write_all(&traffic.packets.to_le_bytes())?;
        to.write_all(&traffic.bytes.to_le_bytes())?;
    }
    to.write_all(&peer.octets())?;
    to.write_all(inner_mac)?;
    to.write_all(vni)
}

/// Reads them in the same order.
fn read_flow(from: &mut impl Read) -> io::Result<SavedFlow> {
    let original = Tuple {
        source: read_address(from)?,
        destination: read_address(from)?,
        source_port: u16::from_le_bytes(next(from)?),
        destination_port: u16::from_le_bytes(next(from)?),
        protocol: u8::from_le_bytes(next(from)?),
    };
    Ok(SavedFlow {
        original,
        egress: read_address(from)?,
        egress_port: u16::from_le_bytes(next(from)?),
        created_ns: u64::from_le_bytes(next(from)?),
        expected: u32::from_le_bytes(next(from)?),
        forward: read_direction(from)?,
        reply: read_direction(from)?,
        peer: Ipv4Addr::from(next::<4>(from)?),
        inner_mac: next(from)?,
        vni: next(from)?,
    })
}

fn write_address(to: &mut impl Write, address: IpAddr) -> io::Result<()> {
    let address = match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    };
    to.write_all(&address.octets())
}

fn read_address(from: &mut impl Read) -> io::Result<IpAddr> {
    Ok(Ipv6Addr::from(next::<16>(from)?).to_canonical())
}

fn read_direction(from: &mut impl Read) -> io::Result<SavedDirection> {
    Ok(SavedDirection {
        progress: u8::from_le_bytes(next(from)?),
        last_seen_ns: u64::from_le_bytes(next(from)?),
        traffic: Traffic {
            packets: u64::from_le_bytes(next(from)?),
            bytes: u64::from_le_bytes(next(from)?),
        },
    })
}

#[cfg(test)]
#[path = "handover_tests.rs"]
mod tests;
