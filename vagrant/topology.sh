# shellcheck shell=bash
# The lab's topology: hosts, links, addresses, routes. README.md draws it. Sourced by netns.sh, for
# which every host is a network namespace, and by machines/, where $MACHINE names the host that the
# machine is.

# shellcheck source=vagrant/addresses.sh
source "$(dirname "${BASH_SOURCE[0]}")/addresses.sh"

readonly PREFIX=spw-
readonly POD_TUNNEL_KERNEL=169.254.44.1 # the gateway's kernel, towards Spillway
readonly POD_TUNNEL=169.254.44.2        # Spillway, towards the gateway's own pods
readonly VXLAN_PEER=169.254.10.1        # the other node's VXLAN device, for static neighbours only
readonly SERVERS=("$SERVER" "$EXCLUDED")
readonly VNI=40000
readonly POD_MTU=1450
readonly UPLINK=uplink                  # the nodes' device towards the router
readonly SUBNETS=(192.168.211.0/24 192.168.44.0/24 203.0.113.0/24)

# Link addresses that the state document, static neighbours or frames name.
readonly MAC_VX_WORKER1=02:00:c0:a8:d3:80
readonly MAC_VX_WORKER2=02:00:c0:a8:2c:80
readonly MAC_PODS_KERNEL=02:00:a9:fe:2c:01
readonly MAC_PODS=02:00:a9:fe:2c:02

# Runs a command in a host's network: that of this machine, or a namespace. nsenter, not `ip netns
# exec`: that mounts another /sys, in which a bpffs that was mounted outside cannot be seen.
on() {
  local host=$1
  shift
  if [[ $host == "${MACHINE-}" ]]; then
    "$@"
  else
    nsenter --net="/run/netns/$PREFIX$host" -- "$@"
  fi
}

# What `ip link ... netns` calls a host's network: a namespace's name, or a process that is in it.
netns_of() { if [[ $1 == "${MACHINE-}" ]]; then echo "$$"; else echo "$PREFIX$1"; fi; }

# A veth pair between two hosts, with as many queues as asked for.
link() {
  local a=$1 a_device=$2 b=$3 b_device=$4 queues=${5:-1}
  ip link add name "$a_device" netns "$(netns_of "$a")" numrxqueues "$queues" \
    numtxqueues "$queues" type veth peer name "$b_device" netns "$(netns_of "$b")" \
    numrxqueues "$queues" numtxqueues "$queues"
  start_device "$a" "$a_device"
  start_device "$b" "$b_device"
}

# Checksums are finished by the sending kernel: AF_XDP sees frames as they are. With them go the
# segmentation offloads, which only the kernel's own forwarding can do with.
start_device() {
  on "$1" ethtool --offload "$2" tx "${OFFLOADS:-off}" >/dev/null
  on "$1" ip link set "$2" up
}

make_namespace() {
  ip netns add "$PREFIX$1"
  prepare_host "$1"
}

prepare_host() {
  # Replies of selected pods come through the tunnel, not the way that the kernel would send.
  on "$1" sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0
  on "$1" sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1
  on "$1" ip link set lo up
}

# route_by HOST ROUTER: to each subnet but the host's own. No default route, because a machine has
# its own for what is no part of the lab.
route_by() {
  local subnet
  for subnet in "${SUBNETS[@]}"; do
    [[ ${2%.*} == "${subnet%.*}" ]] || on "$1" ip route add "$subnet" via "$2"
  done
}

# The subnets of the nodes and of the outside meet in the router.
make_router() {
  on router ip address add 192.168.211.1/24 dev worker1
  on router ip address add 192.168.44.1/24 dev worker2
  on router ip address add 203.0.113.1/24 dev outside
  on router sysctl -qw net.ipv4.ip_forward=1
}

make_outside() {
  local address
  for address in "${SERVERS[@]}"; do on outside ip address add "$address/24" dev eth0; done
  route_by outside 203.0.113.1
}

make_worker1() {
  on worker1 ip address add "$WORKER1/24" dev "$UPLINK"
  route_by worker1 192.168.211.1
  make_node worker1 "$MAC_VX_WORKER1" "$MAC_VX_WORKER2" 10.0.2.0/24 "$GATEWAY"
}

make_worker2() {
  local queues=$1
  on worker2 ip address add "$GATEWAY/24" dev "$UPLINK"
  on worker2 ip address add "$EGRESS/32" dev "$UPLINK"
  route_by worker2 192.168.44.1
  # The node itself must not open connections from ports that Spillway leases.
  on worker2 sysctl -qw net.ipv4.ip_local_reserved_ports="$SHARED_PORTS"
  make_node worker2 "$MAC_VX_WORKER2" "$MAC_VX_WORKER1" 10.0.1.0/24 "$WORKER1"
  make_pod_tunnel "$queues"
}

# A route into the tunnel. The static neighbour gives frames the inner destination that the other
# node's kernel takes for its own: a frame that Spillway passes by mistake is forwarded there.
route_into_tunnel() {
  local node=$1 peer=$2
  shift 2
  on "$node" ip route add "$@" encap ip id "$VNI" dst "$peer" via "$VXLAN_PEER" dev vx0 onlink
}

# A node as a CNI makes it: forwarding, one VXLAN device, pods masqueraded on the uplink.
make_node() {
  local node=$1 mac=$2 peer_mac=$3 peer_pods=$4 peer=$5
  on "$node" sysctl -qw net.ipv4.ip_forward=1
  on "$node" ip link add vx0 address "$mac" type vxlan external dstport 8472
  on "$node" ip link set vx0 up mtu "$POD_MTU" arp off
  on "$node" ip neighbour add "$VXLAN_PEER" lladdr "$peer_mac" dev vx0
  route_into_tunnel "$node" "$peer" "$peer_pods"
  masquerade_pods "$node"
}

# On the uplink only, and away from the ports that Spillway leases: what leaks is told apart. A ping
# has no port to choose.
masquerade_pods() {
  on "$1" nft -f - <<NFT
table ip spillway-lab {
  chain postrouting {
    type nat hook postrouting priority srcnat
    oifname != "$UPLINK" return
    ip saddr 10.0.0.0/16 meta l4proto { tcp, udp } masquerade to :32768-65535
    ip saddr 10.0.0.0/16 masquerade
  }
}
NFT
}

# make_pod NAME NODE ADDRESS: joins a pod's namespace, which is there, to its node.
make_pod() {
  local name=$1 node=$2 address=$3
  link "$name" eth0 "$node" "$name"
  # Both ends: what the kernel cannot fit is then refused with an error, not lost in the pair.
  on "$name" ip link set eth0 mtu "$POD_MTU"
  on "$node" ip link set "$name" mtu "$POD_MTU"
  on "$name" ip address add "$address/32" dev eth0
  on "$name" ip route add 169.254.1.1 dev eth0
  on "$name" ip route add default via 169.254.1.1
  on "$node" ip address add 169.254.1.1/32 dev "$name"
  on "$node" ip route add "$address" dev "$name"
}

# The gateway's own pods take the same tunnel as everyone: into a pair whose far end is Spillway's.
make_pod_tunnel() {
  local queues=$1
  link worker2 spw-pods0 worker2 spw-pods "$queues"
  on worker2 ip link set spw-pods0 address "$MAC_PODS_KERNEL"
  on worker2 ip link set spw-pods address "$MAC_PODS"
  on worker2 ip address add "$POD_TUNNEL_KERNEL/30" dev spw-pods0
  on worker2 ip neighbour add "$POD_TUNNEL" lladdr "$MAC_PODS" dev spw-pods0
}

# What Cilium's agent on a node would do for the policy app1: its pods' traffic to its destinations
# goes to the gateway, that to the excluded one as before.
steer_pods_to_gateway() {
  local on_node=$1 tunnel=$GATEWAY pod name node address
  [[ $on_node != worker2 ]] || tunnel=$POD_TUNNEL
  for pod in "${PODS[@]}"; do
    read -r name node address <<<"$pod"
    [[ $name == app1-* && $node == "$on_node" ]] || continue
    on "$node" ip rule add from "$address" lookup 100 priority 100
  done
  route_into_tunnel "$on_node" "$tunnel" 203.0.113.0/24 table 100
  on "$on_node" ip route add throw "$EXCLUDED/32" table 100
}

# What Spillway does on the gateway, done by its kernel: the pods' nodes send the same VXLAN, and
# replies return in it, by the routes to the other node's pods.
translate_in_kernel() {
  local pod name node address addresses=()
  for pod in "${PODS[@]}"; do
    read -r name node address <<<"$pod"
    if [[ $name == app1-* ]]; then addresses+=("$address"); fi
  done
  on worker2 nft -f - <<NFT
table ip spillway-kernel {
  chain postrouting {
    # Before the node's masquerading.
    type nat hook postrouting priority srcnat - 1
    oifname != "$UPLINK" return
    ip daddr $EXCLUDED return
    ip saddr { $(IFS=,; echo "${addresses[*]}") } ip daddr 203.0.113.0/24 snat to $EGRESS
  }
}
NFT
}

make_topology() {
  local mode=$1 queues=$2 host pod name node address
  for host in "${NODES[@]}" "${PODS[@]%% *}"; do make_namespace "$host"; done
  link worker1 "$UPLINK" router worker1
  link worker2 "$UPLINK" router worker2 "$queues"
  link outside eth0 router outside
  make_router
  make_outside
  make_worker1
  make_worker2 "$queues"
  for pod in "${PODS[@]}"; do
    read -r name node address <<<"$pod"
    make_pod "$name" "$node" "$address"
  done
  case $mode in
    spillway)
      steer_pods_to_gateway worker1
      steer_pods_to_gateway worker2
      ;;
    kernel)
      # The gateway's own pods need no tunnel to it.
      steer_pods_to_gateway worker1
      translate_in_kernel
      ;;
  esac
}

# A namespace lives as long as a process in it does, so those that were left there end first.
remove_topology() {
  local host pids
  for host in "${NODES[@]}" "${PODS[@]%% *}"; do
    [[ -e /run/netns/$PREFIX$host ]] || continue
    mapfile -t pids < <(ip netns pids "$PREFIX$host")
    if ((${#pids[@]})); then kill -KILL "${pids[@]}" 2>/dev/null || true; fi
    ip netns delete "$PREFIX$host"
  done
}
