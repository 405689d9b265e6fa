//! Flows: from a number to addresses and ports.

use std::net::Ipv4Addr;

use anyhow::{Result, ensure};

use super::label::FLOWS_MAX;
use super::options::{Addresses, Ports};

/// All flows there can be. Flow *f* has the port `f % ports`, the remote address and port
/// `f / ports`, and the pod `f % pods`: so each has a (pod's port, remote) of its own, and a NAT that
/// keeps a pod's port where it is free keeps all of them, whichever pods share an egress address.
/// That is what makes replies predictable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flows {
    pub(crate) pods: Addresses,
    pub(crate) ports: Ports,
    pub(crate) remotes: Addresses,
    pub(crate) remote_ports: Ports,
}

/// The pod's end of a flow and the other one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ends {
    pub(crate) pod: Ipv4Addr,
    pub(crate) port: u16,
    pub(crate) remote: Ipv4Addr,
    pub(crate) remote_port: u16,
}

impl Flows {
    /// Checks that there are `count` flows.
    ///
    /// # Errors
    ///
    /// When there are none, too few, or more than a label can tell apart.
    pub(crate) fn ensure_count(&self, count: u32) -> Result<()> {
        ensure!(count > 0, "--flows 0: there is nothing to send");
        ensure!(count <= FLOWS_MAX, "--flows {count}: {FLOWS_MAX} are the most");
        let remotes = u64::from(self.remotes.count) * u64::from(self.remote_ports.count());
        let most = remotes * u64::from(self.ports.count());
        ensure!(
            u64::from(count) <= most,
            "--flows {count}: {} ports to {remotes} remote addresses and ports make {most}; give \
             more --ports, --remotes or --remote-ports",
            self.ports.count(),
        );
        Ok(())
    }

    /// The flow of that number.
    pub(crate) fn ends(&self, flow: u32) -> Ends {
        let ports = self.ports.count();
        let target = flow / ports;
        Ends {
            pod: self.pods.nth(flow % self.pods.count),
            port: self.ports.nth(flow % ports),
            remote: self.remotes.nth(target / self.remote_ports.count()),
            remote_port: self.remote_ports.nth(target % self.remote_ports.count()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn flows(pods: &str, ports: &str, remotes: &str, remote_ports: &str) -> Flows {
        Flows {
            pods: pods.parse().unwrap(),
            ports: ports.parse().unwrap(),
            remotes: remotes.parse().unwrap(),
            remote_ports: remote_ports.parse().unwrap(),
        }
    }

    #[test]
    fn every_flow_has_its_own_port_and_remote_and_pods_take_turns() {
        let flows = flows("10.0.1.40+4", "1024-1033", "203.0.113.10+3", "80-81");
        flows.ensure_count(60).unwrap();
        let ends: Vec<_> = (0..60).map(|flow| flows.ends(flow)).collect();
        let kept: HashSet<_> =
            ends.iter().map(|ends| (ends.port, ends.remote, ends.remote_port)).collect();
        assert_eq!(kept.len(), 60);
        for pod in 40..44 {
            let count = ends.iter().filter(|ends| ends.pod == Ipv4Addr::new(10, 0, 1, pod)).count();
            assert_eq!(count, 15);
        }
        let last = Ends {
            pod: Ipv4Addr::new(10, 0, 1, 43),
            port: 1033,
            remote: Ipv4Addr::new(203, 0, 113, 12),
            remote_port: 81,
        };
        assert_eq!(ends[59], last);
    }

    #[test]
    fn a_count_that_cannot_be_is_refused_with_what_to_change() {
        let flows = flows("10.0.1.40", "1024-1033", "203.0.113.10", "80-80");
        for (count, reason) in [
            (0, "nothing to send"),
            (11, "10 ports to 1 remote addresses and ports make 10; give more --ports"),
            (FLOWS_MAX + 1, "16777216 are the most"),
        ] {
            let error = flows.ensure_count(count).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}
