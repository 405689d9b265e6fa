//! The command line.

use std::net::Ipv4Addr;
use std::str::FromStr;

use anyhow::{Context as _, Result, anyhow, bail, ensure};

/// Sends packets from pods, or replies to them, and says what arrives.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The three commands; `run` is the other two in one process.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Send and receive on this machine: what is lost is known exactly.
    Run {
        #[command(flatten)]
        send: SendOptions,
        #[command(flatten)]
        sink: RunSink,
        #[command(flatten)]
        output: Output,
    },
    /// Only send.
    Send {
        #[command(flatten)]
        send: SendOptions,
        #[command(flatten)]
        output: Output,
    },
    /// Only receive, until --seconds, Ctrl-C or SIGTERM.
    Receive {
        #[command(flatten)]
        sink: ReceiveSink,
        #[command(flatten)]
        output: Output,
    },
}

/// How the result is told.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Output {
    /// Print the result as JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// Do not show the progress on standard error.
    #[arg(long)]
    pub(crate) quiet: bool,
}

/// What is sent, where and how fast.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct SendOptions {
    /// The device to send on.
    #[arg(long)]
    pub(crate) device: String,
    /// Its network namespace: a name of `ip netns`, or a path. Default: this one.
    #[arg(long, value_name = "NAME|PATH")]
    pub(crate) netns: Option<String>,
    /// How to send: live frames of an XDP program, or AF_XDP sockets.
    #[arg(long, value_enum, default_value_t = Backend::Live)]
    pub(crate) backend: Backend,
    /// Sending threads. Each is a stream with its own sequence numbers and its share of the flows.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=16))]
    pub(crate) threads: u8,
    /// The CPU of each thread, for instance 0 or 0,1. Default: any.
    #[arg(long, value_delimiter = ',')]
    pub(crate) cpus: Vec<u32>,
    /// The next hop's link address.
    #[arg(long)]
    pub(crate) target_mac: Mac,
    /// The sender's link address. Default: the device's.
    #[arg(long)]
    pub(crate) source_mac: Option<Mac>,
    #[command(flatten)]
    pub(crate) traffic: TrafficOptions,
    /// Packets per second of all threads, for instance 500k or 1.2M. Default: as fast as it goes.
    #[arg(long)]
    pub(crate) rate: Option<Rate>,
    /// How long to send.
    #[arg(long)]
    pub(crate) seconds: Option<f64>,
    /// How many packets to send.
    #[arg(long)]
    pub(crate) count: Option<u64>,
}

/// What packets look like, and which flows they are of.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct TrafficOptions {
    /// Pods' packets in VXLAN, or plain replies to their egress address.
    #[arg(long, value_enum, default_value_t = Traffic::Tunnel)]
    pub(crate) traffic: Traffic,
    /// The node's tunnel address (tunnel).
    #[arg(long, required_if_eq("traffic", "tunnel"))]
    pub(crate) tunnel_source: Option<Ipv4Addr>,
    /// The gateway's tunnel address (tunnel).
    #[arg(long, required_if_eq("traffic", "tunnel"))]
    pub(crate) tunnel_target: Option<Ipv4Addr>,
    /// The UDP port that VXLAN is sent to.
    #[arg(long, default_value_t = 8472)]
    pub(crate) tunnel_port: u16,
    /// The VXLAN network identifier.
    #[arg(long, default_value_t = 40000, value_parser = clap::value_parser!(u32).range(..1 << 24))]
    pub(crate) vni: u32,
    /// Source of the Ethernet header in VXLAN.
    #[arg(long, default_value = "02:00:00:00:00:01")]
    pub(crate) inner_source_mac: Mac,
    /// Target of the Ethernet header in VXLAN.
    #[arg(long, default_value = "02:00:00:00:00:02")]
    pub(crate) inner_target_mac: Mac,
    /// One outer UDP source port for all flows. Default: 49152 to 65535, by flow.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) outer_source_port: Option<u16>,
    /// The egress address that replies are sent to (replies).
    #[arg(long, required_if_eq("traffic", "replies"))]
    pub(crate) egress: Option<Ipv4Addr>,
    /// The first pod's address, and how many follow: 10.0.1.40+4.
    #[arg(long, default_value = "10.0.1.40")]
    pub(crate) pods: Addresses,
    /// The pods' ports.
    #[arg(long, default_value = "1024-65535")]
    pub(crate) ports: Ports,
    /// The first remote address, and how many follow.
    #[arg(long, default_value = "203.0.113.10")]
    pub(crate) remotes: Addresses,
    /// The remote ports.
    #[arg(long, default_value = "8001-8001")]
    pub(crate) remote_ports: Ports,
    /// How many flows: flow f has port f % ports, remote f / ports, pod f % pods.
    #[arg(long, default_value_t = 1000)]
    pub(crate) flows: u32,
    /// Which flow is next: uniform, zipf:1.1, elephant:0.5 (the share of one flow), or new: each once.
    /// Of several threads each chooses so among its own flows.
    #[arg(long, default_value = "uniform")]
    pub(crate) distribution: Distribution,
    /// UDP datagrams, or TCP segments that open a connection.
    #[arg(long, value_enum, default_value_t = Protocol::Udp)]
    pub(crate) protocol: Protocol,
    /// Bytes of the inner frame with its FCS (RFC 2544), 64 to 1518, or imix: 7:4:1 of 64, 576, 1500.
    /// Default: 64, or 76 for tcp-syn, the least.
    #[arg(long)]
    pub(crate) size: Option<Size>,
    /// Decides the random order of flows.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
}

/// Where `run` receives.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct RunSink {
    /// The device to receive on.
    #[arg(long)]
    pub(crate) sink_device: String,
    /// Its network namespace: a name of `ip netns`, or a path. Default: this one.
    #[arg(long, value_name = "NAME|PATH")]
    pub(crate) sink_netns: Option<String>,
    /// The UDP port of VXLAN that is received.
    #[arg(long, default_value_t = 8472)]
    pub(crate) sink_tunnel_port: u16,
    /// The (inner) source address that packets should have.
    #[arg(long)]
    pub(crate) expect_source: Option<Ipv4Addr>,
}

/// Where `receive` receives, and how long.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ReceiveSink {
    /// The device to receive on.
    #[arg(long)]
    pub(crate) device: String,
    /// Its network namespace: a name of `ip netns`, or a path. Default: this one.
    #[arg(long, value_name = "NAME|PATH")]
    pub(crate) netns: Option<String>,
    /// The UDP port of VXLAN that is received.
    #[arg(long, default_value_t = 8472)]
    pub(crate) tunnel_port: u16,
    /// The (inner) source address that packets should have.
    #[arg(long)]
    pub(crate) expect_source: Option<Ipv4Addr>,
    /// Send plain packets back to where they came from.
    #[arg(long)]
    pub(crate) reflect: bool,
    /// How many flows at most are looked after for reordering.
    #[arg(long, default_value_t = 1 << 22)]
    pub(crate) flows: u32,
    /// How long to receive. Default: until Ctrl-C or SIGTERM.
    #[arg(long)]
    pub(crate) seconds: Option<f64>,
}

/// How frames are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Backend {
    /// An XDP program on live frames.
    Live,
    /// AF_XDP sockets.
    Afxdp,
}

/// Which way packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Traffic {
    /// From pods, in VXLAN.
    Tunnel,
    /// To an egress address, plain.
    Replies,
}

/// What is in the IPv4 packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Protocol {
    /// UDP datagrams.
    Udp,
    /// TCP segments with SYN, and the label as data.
    TcpSyn,
}

/// A link address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mac(pub(crate) [u8; 6]);

impl FromStr for Mac {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let bytes: Option<Vec<u8>> =
            text.split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
        let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
        bytes
            .map(Self)
            .with_context(|| format!("'{text}' is no link address like 02:00:00:00:00:01"))
    }
}

/// Consecutive addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Addresses {
    pub(crate) first: Ipv4Addr,
    pub(crate) count: u32,
}

impl Addresses {
    /// The address of that number, from 0 on.
    pub(crate) fn nth(&self, number: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.first.to_bits().wrapping_add(number))
    }
}

impl FromStr for Addresses {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (first, count) = text.split_once('+').unwrap_or((text, "1"));
        let expected = || format!("'{text}' is no address or addresses like 10.0.1.40+4");
        let first: Ipv4Addr = first.parse().with_context(expected)?;
        let count: u32 = count.parse().with_context(expected)?;
        ensure!(count > 0, "'{text}': there must be at least one address");
        ensure!(
            first.to_bits().checked_add(count - 1).is_some(),
            "'{text}' ends above all addresses"
        );
        Ok(Self { first, count })
    }
}

/// Consecutive ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ports {
    pub(crate) first: u16,
    pub(crate) last: u16,
}

impl Ports {
    /// How many there are.
    pub(crate) fn count(&self) -> u32 {
        u32::from(self.last - self.first) + 1
    }

    /// The port of that number, from 0 on.
    pub(crate) fn nth(&self, number: u32) -> u16 {
        u16::try_from(u32::from(self.first) + number).unwrap_or(self.last)
    }
}

impl FromStr for Ports {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let expected = || format!("'{text}' is no range of ports like 1024-65535");
        let (first, last) =
            (first.parse().with_context(expected)?, last.parse().with_context(expected)?);
        ensure!(0 < first && first <= last, "{}", expected());
        Ok(Self { first, last })
    }
}

/// Packets per second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rate(pub(crate) f64);

impl FromStr for Rate {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (number, unit) = match text.strip_suffix(['k', 'K']) {
            Some(number) => (number, 1e3),
            None => text.strip_suffix('M').map_or((text, 1.0), |number| (number, 1e6)),
        };
        let rate = number.parse::<f64>().ok().map(|number| number * unit);
        rate.filter(|rate| (1.0..=1e9).contains(rate)).map(Self).ok_or_else(|| {
            anyhow!("'{text}' is no rate from 1 to 1000M packets per second, like 500k")
        })
    }
}

/// How the next packet's flow is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Distribution {
    /// All alike.
    Uniform,
    /// By Zipf's law with this exponent.
    Zipf(f64),
    /// The first flow has this share of the packets, all flows alike have the rest.
    Elephant(f64),
    /// Packet n is of flow n: each opens one.
    New,
}

impl FromStr for Distribution {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, parameter) = text.split_once(':').map_or((text, None), |(n, p)| (n, Some(p)));
        let number = |default: f64| match parameter {
            Some(parameter) => parameter.parse().with_context(|| format!("'{text}' has no number")),
            None => Ok(default),
        };
        match name {
            "uniform" if parameter.is_none() => Ok(Self::Uniform),
            "new" if parameter.is_none() => Ok(Self::New),
            "zipf" => {
                let exponent = number(1.1)?;
                ensure!(exponent > 0.0 && exponent <= 10.0, "'{text}': above 0, up to 10");
                Ok(Self::Zipf(exponent))
            }
            "elephant" => {
                let share = number(0.5)?;
                ensure!((0.0..=1.0).contains(&share), "'{text}': the share is 0 to 1");
                Ok(Self::Elephant(share))
            }
            _ => bail!("'{text}' is none of uniform, zipf:1.1, elephant:0.5, new"),
        }
    }
}

impl std::fmt::Display for Distribution {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Uniform => write!(f, "uniform"),
            Self::Zipf(exponent) => write!(f, "zipf:{exponent}"),
            Self::Elephant(share) => write!(f, "elephant:{share}"),
            Self::New => write!(f, "new"),
        }
    }
}

/// The length of inner Ethernet frames in bytes, with the FCS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Size {
    /// All the same.
    Bytes(u16),
    /// The simple Internet mix: 7 of 64 bytes, 4 of 576, 1 of 1500.
    Imix,
}

impl FromStr for Size {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        if text == "imix" {
            return Ok(Self::Imix);
        }
        let bytes = text.parse().ok().filter(|bytes| (64..=1518).contains(bytes));
        bytes
            .map(Self::Bytes)
            .ok_or_else(|| anyhow!("'{text}' is neither 64 to 1518 bytes nor imix"))
    }
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "{bytes}"),
            Self::Imix => write!(f, "imix"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_sense_is_read() {
        assert_eq!("500k".parse::<Rate>().unwrap(), Rate(500e3));
        assert_eq!("1.2M".parse::<Rate>().unwrap(), Rate(1.2e6));
        assert_eq!("70".parse::<Rate>().unwrap(), Rate(70.0));
        assert_eq!("02:00:c0:a8:d3:80".parse::<Mac>().unwrap().0, [2, 0, 0xc0, 0xa8, 0xd3, 0x80]);
        let pods: Addresses = "10.0.1.254+4".parse().unwrap();
        assert_eq!(pods.nth(3), Ipv4Addr::new(10, 0, 2, 1));
        assert_eq!("80".parse::<Ports>().unwrap(), Ports { first: 80, last: 80 });
        assert_eq!("1-65535".parse::<Ports>().unwrap().count(), 65_535);
        for distribution in ["uniform", "zipf:1.1", "elephant:0.25", "new"] {
            let parsed: Distribution = distribution.parse().unwrap();
            assert_eq!(parsed.to_string(), distribution);
        }
        for size in ["64", "1518", "imix"] {
            assert_eq!(size.parse::<Size>().unwrap().to_string(), size);
        }
    }

    #[test]
    fn what_makes_none_is_refused() {
        for rate in ["0", "-1", "k", "2G", "1001M", "nan"] {
            rate.parse::<Rate>().unwrap_err();
        }
        for mac in ["02:00:00:00:00", "02:00:00:00:00:01:02", "02-00-00-00-00-01", "g0:0:0:0:0:0"] {
            mac.parse::<Mac>().unwrap_err();
        }
        for addresses in ["10.0.1.40+0", "10.0.1", "255.255.255.255+2", "10.0.1.40+"] {
            addresses.parse::<Addresses>().unwrap_err();
        }
        for ports in ["0-1", "2-1", "65536", "1-"] {
            ports.parse::<Ports>().unwrap_err();
        }
        for distribution in ["zipf:0", "zipf:nan", "zipf:x", "elephant:1.5", "uniform:1", "normal"]
        {
            distribution.parse::<Distribution>().unwrap_err();
        }
        for size in ["63", "1519", "mix"] {
            size.parse::<Size>().unwrap_err();
        }
    }
}
