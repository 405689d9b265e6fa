//! `spillway trace`.

use std::net::IpAddr;

use clap::{Args, ValueEnum};
use spillway_api::{Trace, TraceProtocol, TraceRequest};

use super::place::Place;
use super::table::Align::Left;
use super::table::Table;

/// The packet.
#[derive(Debug, Args)]
pub(super) struct Packet {
    /// Who sends: a pod, or for an egress address the outside. A port may follow:
    /// 10.0.1.40:40000, [fd00::40]:40000.
    #[arg(long, value_name = "ADDRESS")]
    from: Place,
    /// Who receives. A port may follow, and of an egress address must.
    #[arg(long, value_name = "ADDRESS")]
    to: Place,
    /// Its protocol. A TCP packet is the SYN of a new connection, or belongs to the one that there is.
    #[arg(long, value_enum, default_value_t = Protocol::Tcp)]
    protocol: Protocol,
    /// The sender's port, or a pod's echo identifier.
    #[arg(long, value_name = "PORT")]
    from_port: Option<u16>,
    /// The receiver's port, or the echo identifier that is answered.
    #[arg(long, value_name = "PORT")]
    to_port: Option<u16>,
    /// The whole IP packet, without the tunnel's headers.
    #[arg(long, value_name = "BYTES")]
    size: Option<u16>,
    /// The tunnel peer that the packet comes from: the pod's node.
    #[arg(long, value_name = "ADDRESS")]
    peer: Option<IpAddr>,
    /// Routers may fragment the packet, if it is IPv4; mostly hosts do not let them.
    #[arg(long)]
    may_fragment: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Protocol {
    Tcp,
    Udp,
    /// Echo request and reply; ICMPv6's for IPv6.
    Icmp,
}

impl Packet {
    /// What the router is asked.
    ///
    /// # Errors
    ///
    /// When a port is said twice.
    pub(super) fn request(&self) -> anyhow::Result<TraceRequest> {
        Ok(TraceRequest {
            from: self.from.address,
            to: self.to.address,
            protocol: match self.protocol {
                Protocol::Tcp => TraceProtocol::Tcp,
                Protocol::Udp => TraceProtocol::Udp,
                Protocol::Icmp => TraceProtocol::Icmp,
            },
            from_port: port("from", self.from, self.from_port)?,
            to_port: port("to", self.to, self.to_port)?,
            size: self.size,
            peer: self.peer,
            may_fragment: self.may_fragment,
        })
    }
}

/// The port, said in either way.
fn port(name: &str, place: Place, option: Option<u16>) -> anyhow::Result<Option<u16>> {
    match (place.port, option) {
        (Some(_), Some(port)) => {
            anyhow::bail!("--{name} {place} has a port already: leave --{name}-port {port} out")
        }
        (port, option) => Ok(port.or(option)),
    }
}

/// The steps for people.
pub(super) fn table(trace: &Trace) -> String {
    let mut table = Table::new([("Step", Left), ("Verdict", Left), ("Why", Left)]);
    for step in &trace.steps {
        table.row([step.step.clone(), step.verdict.clone(), step.detail.clone()]);
    }
    table.text()
}

#[cfg(test)]
mod tests {
    use spillway_api::TraceStep;

    use super::*;

    #[test]
    fn a_port_is_said_once() {
        let place: Place = "10.0.1.40:53".parse().unwrap();
        assert_eq!(port("to", place, None).unwrap(), Some(53));
        assert_eq!(
            port("to", place, Some(54)).unwrap_err().to_string(),
            "--to 10.0.1.40:53 has a port already: leave --to-port 54 out"
        );
    }

    #[test]
    fn each_step_is_a_row() {
        let step = |step: &str, verdict: &str, detail: &str| TraceStep {
            step: step.to_owned(),
            verdict: verdict.to_owned(),
            detail: detail.to_owned(),
        };
        let steps = vec![
            step("steering", "pass-not-covered", "left to the kernel"),
            step("verdict", "kernel", "Spillway never sees it"),
        ];
        assert_eq!(
            table(&Trace { steps }),
            "Step       Verdict            Why\n\
             steering   pass-not-covered   left to the kernel\n\
             verdict    kernel             Spillway never sees it\n"
        );
    }
}
