//! What a packet looks like. generate.bpf.c is the twin of this file: a test holds their bytes
//! against each other.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result, ensure};
use etherparse::{EtherType, Ethernet2Header, IpNumber, Ipv4Header, TcpHeader, UdpHeader};

use super::flows::Flows;
use super::label::{LABEL_LEN, Label};
use super::options::{Mac, Protocol, Size, Traffic, TrafficOptions};

/// Outer Ethernet, IPv4, UDP and VXLAN headers, in bytes.
pub(crate) const ENCAPSULATION: usize = 50;

/// How many sizes there are, one after the other.
pub(crate) const SIZES: usize = 12;

/// Offsets and lengths, as label.h has them.
const ETHERNET: usize = 14;
const IP: usize = 20;
const UDP: usize = 8;
const TCP: usize = 20;

/// What Ethernet puts behind a frame; sizes count it (RFC 2544), memory does not have it.
const FCS: u16 = 4;

/// The simple Internet mix, 7:4:1, spread.
const IMIX: [u16; SIZES] = [64, 576, 64, 64, 576, 64, 1500, 64, 576, 64, 576, 64];

/// One kind of packet. What differs from packet to packet is written by [`write`](Self::write), or
/// by the BPF program; all else is in `headers`, and in sums that its checksums are made from.
#[derive(Clone, Debug)]
pub(crate) struct Template {
    pub(crate) traffic: Traffic,
    pub(crate) protocol: Protocol,
    pub(crate) flows: Flows,
    /// The pods' address, in replies.
    pub(crate) egress: Option<Ipv4Addr>,
    pub(crate) outer_source_port: Option<u16>,
    /// Lengths of inner frames, in turn; without FCS.
    pub(crate) sizes: [u16; SIZES],
    /// All headers, zero where packets differ.
    pub(crate) headers: Vec<u8>,
    /// Sums of 16-bit words as they are in memory: of the outer and the inner IPv4 header, and of
    /// what else is in the transport's checksum.
    pub(crate) outer_ip_sum: u32,
    pub(crate) ip_sum: u32,
    pub(crate) transport_sum: u32,
}

impl Template {
    /// The kind of packet that is asked for, between these link addresses.
    ///
    /// # Errors
    ///
    /// When options are missing or do not fit together.
    pub(crate) fn new(options: &TrafficOptions, source: Mac, target: Mac) -> Result<Self> {
        let flows = Flows {
            pods: options.pods,
            ports: options.ports,
            remotes: options.remotes,
            remote_ports: options.remote_ports,
        };
        flows.ensure_count(options.flows)?;
        let mut headers = Vec::new();
        let mut outer_ip_sum = 0;
        let mut macs = (source, target);
        if options.traffic == Traffic::Tunnel {
            headers.extend(encapsulation(options, source, target)?);
            outer_ip_sum = sum(&headers[ETHERNET..][..IP]);
            macs = (options.inner_source_mac, options.inner_target_mac);
        }
        let inner = headers.len();
        headers.extend(ethernet(macs.0, macs.1));
        let (protocol, transport) = transport(options.protocol);
        headers.extend(ip(protocol, None, 63)?);
        headers.extend(&transport);
        let label = Label { stream: 0, flow: 0, sequence: 0, time_ns: 0 }.to_bytes();
        let fixed = [sum(&[0, protocol.0]), sum(&transport), sum(&label)];
        Ok(Self {
            traffic: options.traffic,
            protocol: options.protocol,
            flows,
            egress: options.egress.filter(|_| options.traffic == Traffic::Replies),
            outer_source_port: options.outer_source_port,
            sizes: sizes(options)?,
            outer_ip_sum,
            ip_sum: sum(&headers[inner + ETHERNET..][..IP]),
            transport_sum: fixed.iter().sum(),
            headers,
        })
    }

    /// What is in front of the inner frame, in bytes.
    fn inner(&self) -> usize {
        if self.traffic == Traffic::Tunnel { ENCAPSULATION } else { 0 }
    }

    /// The length of the longest frame.
    pub(crate) fn longest(&self) -> usize {
        self.inner() + usize::from(self.sizes.iter().copied().max().unwrap_or_default())
    }

    /// The length of the packet with that sequence number.
    pub(crate) fn length(&self, sequence: u32) -> usize {
        self.inner() + usize::from(self.sizes[sequence as usize % SIZES])
    }

    /// Writes a packet to the start of `frame`, which must be as long as it can become; returns its
    /// length.
    pub(crate) fn write(&self, label: Label, frame: &mut [u8]) -> usize {
        let length = self.length(label.sequence);
        let (packet, _) = frame.split_at_mut(length);
        let (headers, payload) = packet.split_at_mut(self.headers.len());
        headers.copy_from_slice(&self.headers);
        payload[..LABEL_LEN].copy_from_slice(&label.to_bytes());
        payload[LABEL_LEN..].fill(0);
        let (outer, inner) = headers.split_at_mut(self.inner());
        if self.traffic == Traffic::Tunnel {
            self.write_outer(label.flow, length, outer);
        }
        self.write_inner(&label, length - outer.len(), inner);
        length
    }

    /// The outer UDP source port: what a node's kernel takes from a hash of the flow.
    fn outer_port(&self, flow: u32) -> u16 {
        let hashed = 49152 + (flow.wrapping_mul(0x9e37_79b1) >> 18) as u16;
        self.outer_source_port.unwrap_or(hashed)
    }

    fn write_outer(&self, flow: u32, length: usize, outer: &mut [u8]) {
        let ip_length = be16(length - ETHERNET);
        let check = checksum(self.outer_ip_sum + sum(&ip_length));
        let (ip, udp) = outer[ETHERNET..].split_at_mut(IP);
        ip[2..4].copy_from_slice(&ip_length);
        ip[10..12].copy_from_slice(&check);
        udp[..2].copy_from_slice(&self.outer_port(flow).to_be_bytes());
        udp[4..6].copy_from_slice(&be16(length - ETHERNET - IP));
    }

    fn write_inner(&self, label: &Label, length: usize, inner: &mut [u8]) {
        let ends = self.flows.ends(label.flow);
        let near = (self.egress.unwrap_or(ends.pod).octets(), ends.port.to_be_bytes());
        let remote = (ends.remote.octets(), ends.remote_port.to_be_bytes());
        let (source, target) =
            if self.traffic == Traffic::Tunnel { (near, remote) } else { (remote, near) };
        let ip_length = be16(length - ETHERNET);
        let transport_length = be16(length - ETHERNET - IP);
        let addresses = sum(&near.0) + sum(&remote.0);
        let (ip, transport) = inner[ETHERNET..].split_at_mut(IP);
        ip[2..4].copy_from_slice(&ip_length);
        ip[10..12].copy_from_slice(&checksum(self.ip_sum + sum(&ip_length) + addresses));
        ip[12..16].copy_from_slice(&source.0);
        ip[16..20].copy_from_slice(&target.0);
        transport[..2].copy_from_slice(&source.1);
        transport[2..4].copy_from_slice(&target.1);
        // The label's magic is in `transport_sum`.
        let rest = sum(&near.1) + sum(&remote.1) + sum(&label.to_bytes()[2..]);
        let total = self.transport_sum + sum(&transport_length) + addresses + rest;
        if self.protocol == Protocol::TcpSyn {
            transport[16..18].copy_from_slice(&checksum(total));
        } else {
            let check = checksum(total + sum(&transport_length));
            transport[4..6].copy_from_slice(&transport_length);
            // 0 is for none.
            transport[6..8].copy_from_slice(&if check == [0, 0] { [0xff; 2] } else { check });
        }
    }
}

/// The inner frames' lengths without FCS, in turn.
fn sizes(options: &TrafficOptions) -> Result<[u16; SIZES]> {
    let least = match options.protocol {
        Protocol::Udp => 64,
        Protocol::TcpSyn => 76,
    };
    let sizes = match options.size {
        Some(Size::Bytes(bytes)) => [bytes; SIZES],
        Some(Size::Imix) => IMIX,
        None => [least; SIZES],
    };
    ensure!(
        sizes.iter().all(|&size| size >= least),
        "a segment of tcp-syn has a label too: {least} bytes at least, which --size {} is not",
        options.size.map(|size| size.to_string()).unwrap_or_default()
    );
    Ok(sizes.map(|size| size - FCS))
}

fn ethernet(source: Mac, target: Mac) -> Vec<u8> {
    let header =
        Ethernet2Header { source: source.0, destination: target.0, ether_type: EtherType::IPV4 };
    header.to_bytes().to_vec()
}

/// An IPv4 header without length and checksum, with addresses if they are the same in all packets.
fn ip(protocol: IpNumber, ends: Option<(Ipv4Addr, Ipv4Addr)>, time_to_live: u8) -> Result<Vec<u8>> {
    let (source, target) = ends.unwrap_or((Ipv4Addr::UNSPECIFIED, Ipv4Addr::UNSPECIFIED));
    let header = Ipv4Header::new(0, time_to_live, protocol, source.octets(), target.octets())?;
    let mut bytes = Ipv4Header { dont_fragment: ends.is_none(), ..header }.to_bytes().to_vec();
    bytes[2..4].fill(0);
    Ok(bytes)
}

/// The transport's header without ports, length and checksum.
fn transport(protocol: Protocol) -> (IpNumber, Vec<u8>) {
    match protocol {
        Protocol::Udp => (IpNumber::UDP, vec![0; UDP]),
        Protocol::TcpSyn => {
            let header = TcpHeader { syn: true, ..TcpHeader::new(0, 0, 1, 64240) };
            debug_assert_eq!(header.header_len(), TCP);
            (IpNumber::TCP, header.to_bytes().to_vec())
        }
    }
}

/// What a node puts in front of a pod's frame. As a kernel does, it leaves the UDP checksum out.
fn encapsulation(options: &TrafficOptions, source: Mac, target: Mac) -> Result<Vec<u8>> {
    let ends = options.tunnel_source.zip(options.tunnel_target);
    let ends = ends.context("--traffic tunnel needs --tunnel-source and --tunnel-target")?;
    let udp = UdpHeader { destination_port: options.tunnel_port, ..UdpHeader::default() };
    let [_, vni @ ..] = options.vni.to_be_bytes();
    let vxlan = [8, 0, 0, 0, vni[0], vni[1], vni[2], 0];
    Ok([
        ethernet(source, target),
        ip(IpNumber::UDP, Some(ends), 64)?,
        udp.to_bytes().to_vec(),
        vxlan.to_vec(),
    ]
    .concat())
}

fn be16(length: usize) -> [u8; 2] {
    u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes()
}

/// The sum of 16-bit words as they are in memory. The internet checksum is the same in either byte
/// order, as long as it is the same all the way (RFC 1071).
fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks_exact(2).map(|word| u32::from(u16::from_ne_bytes([word[0], word[1]]))).sum()
}

/// The complement of a sum, as it is in memory.
fn checksum(sum: u32) -> [u8; 2] {
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    #[expect(clippy::cast_possible_truncation, reason = "the carry is folded in")]
    let folded = folded as u16;
    (!folded).to_ne_bytes()
}

#[cfg(test)]
pub(crate) mod tests;
