//! What an operator can do about a reason for which packets are dropped. Pure.

use spillway_engine::DropReason;

/// What to do about a reason, in a sentence; `None` where nothing here is to be set right: the packet
/// itself is wrong, or it must not pass.
pub(crate) const fn remedy(reason: DropReason) -> Option<&'static str> {
    let remedy = match reason {
        DropReason::PortsExhausted => {
            "Give the policy more `egress_addresses`, or its pods fewer connections to one remote."
        }
        DropReason::MappingsExhausted => "Give fewer policies `endpoint_independent`.",
        DropReason::FlowTableFull => "Raise `flows_max`.",
        DropReason::PodFlowLimit => "See which pod it is with `spillway flows`.",
        DropReason::RedirectsFull => "Give the policies more `egress_addresses`.",
        DropReason::FragmentsFull => "See who sends fragments: no setting changes this limit.",
        DropReason::HandOffFull => "Give `workers` more processors.",
        DropReason::NotProgrammed => "See `spillway status` for why no document is in force.",
        DropReason::Draining => {
            "Let another gateway have the pod's traffic, or let flows begin here again: `spillway \
             drain --undo`."
        }
        DropReason::NoPolicy => {
            "What was deselected less than 30 seconds ago is still taken, and not let go with another \
             address; so is what lies in the NAT64 prefix without an IPv4 destination of a policy."
        }
        DropReason::NoEgressAddress => {
            "Give the policy an egress address of the destination's family."
        }
        DropReason::MappingConflict => {
            "A flow of before has the port: the pod can reach the remote from another port."
        }
        DropReason::AddressTaken | DropReason::NeedsOwnAddress => {
            "Give the policy an egress address of its own (`kind: own`), or several."
        }
        DropReason::NoFlow => {
            "Spillway lets in what answers a pod. See `spillway flows`: the flow may have been idle for \
             too long, or the router was killed."
        }
        DropReason::NoRoute => {
            "Give the gateway's kernel a route: `ip route get DESTINATION from EGRESS` must find one."
        }
        DropReason::RouteUnreachable => "See `ip rule` and `ip route` on the gateway.",
        DropReason::LocalDestination => {
            "Exclude the gateway's own addresses from the policy, so that the kernel has the packet."
        }
        DropReason::Hairpin => {
            "Exclude the egress address from the policy: pods cannot reach each other by it."
        }
        DropReason::ForeignDevice => {
            "Add the device that the route leads out of to `devices` in the configuration."
        }
        DropReason::ExceedsMtu | DropReason::ExceedsTunnelMtu => {
            "Hosts that hear of it send smaller packets; see that nothing filters ICMP between them \
             and the gateway."
        }
        DropReason::NeighbourUnresolved => {
            "See whether the next hop is up: `ip neigh` on the gateway, and its link."
        }
        _ => return None,
    };
    Some(remedy)
}
