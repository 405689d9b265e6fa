//! Flows across a restart: the process that ends leaves them in a file of the runtime directory,
//! which is a tmpfs where `/run` is; the next one takes them up.
//!
//! ```text
//!  8        4          36        130 for each flow    4
//!  +--------+----------+---------+-------- ~ --------+----------+
//!  | magic  | version  | boot id | records           | checksum |
//!  +--------+----------+---------+-------- ~ --------+----------+
//! ```
//!
//! Numbers are little-endian, and addresses have 16 bytes, IPv4's as RFC 4291, section 2.5.5.2 has
//! them in IPv6; how many records there are follows from the file's length. The
//! checksum is CRC32c over all before it. Times are monotonic, so they mean nothing after a boot.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::{Context as _, ensure};
use spillway_engine::steer::{CLASSES, owner};
use spillway_engine::{Engine, Nanos, NotRestored, SavedDirection, SavedFlow, Traffic, Tuple};

/// The file, in the runtime directory.
const FILE: &str = "flows";

/// Where it is written until it is whole.
const UNFINISHED: &str = "flows.unfinished";

const MAGIC: [u8; 8] = *b"spillway";

/// Of the file's format. Whatever changes [`SavedFlow`], or what its fields mean, changes this.
const VERSION: u32 = 2;

/// Lengths in bytes.
const HEADER_LEN: u64 = 48;
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

/// Leaves the flows of all engines in `directory`; gives their number. No other process has the
/// devices meanwhile.
///
/// # Errors
/// When the file cannot be written: there is none then.
pub(crate) fn leave(
    directory: &Path,
    boot: &BootId,
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
        .and_then(|file| write(file, boot, flows))
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
fn write(to: impl Write, boot: &BootId, flows: impl Iterator<Item = SavedFlow>) -> io::Result<u64> {
    let mut to = BufWriter::new(Summed { to, checksum: 0 });
    to.write_all(&MAGIC)?;
    to.write_all(&VERSION.to_le_bytes())?;
    to.write_all(boot)?;
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
    owners: &[u8; CLASSES],
    engines: &mut [Engine],
) -> anyhow::Result<Option<Restored>> {
    let path = directory.join(FILE);
    let file = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.with_context(|| format!("cannot read {}", path.display()))?,
    };
    std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    let mut restored = Restored::default();
    read(file, boot, |flow| match restore(now, owners, engines, flow) {
        Ok(()) => restored.flows += 1,
        Err(why) => *restored.refused.entry(why).or_default() += 1,
    })
    .with_context(|| format!("cannot use {}", path.display()))?;
    Ok(Some(restored))
}

/// Gives a flow to the worker that its replies come to. Where the pod's own packets come to another
/// one, that one is to hand them over: it had no port left, or there were other workers.
fn restore(
    now: Nanos,
    owners: &[u8; CLASSES],
    engines: &mut [Engine],
    flow: &SavedFlow,
) -> Result<(), NotRestored> {
    let home = owner(owners, flow.egress_port);
    let first = owner(owners, flow.original.source_port);
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

/// Checks the whole file, then calls `each` with its flows, in order.
fn read(
    file: impl Read + Seek,
    boot: &BootId,
    mut each: impl FnMut(&SavedFlow),
) -> anyhow::Result<()> {
    let mut file = BufReader::new(file);
    let length = file.seek(SeekFrom::End(0)).context("cannot seek in it")?;
    let records = length.checked_sub(HEADER_LEN + CHECKSUM_LEN).filter(|r| r % RECORD_LEN == 0);
    file.rewind()?;
    check_header(&mut file, boot)?;
    let records = records.context("its length is wrong: it is damaged")?;

    file.rewind()?;
    let mut sum = Summed { to: io::sink(), checksum: 0 };
    io::copy(&mut file.by_ref().take(length - CHECKSUM_LEN), &mut sum)?;
    let expected = next(&mut file)?;
    ensure!(sum.checksum.to_le_bytes() == expected, "its checksum is wrong: it is damaged");

    file.seek(SeekFrom::Start(HEADER_LEN))?;
    for _ in 0..records / RECORD_LEN {
        each(&read_flow(&mut file)?);
    }
    Ok(())
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
