# shellcheck shell=bash
# The lab's topology: hosts, links, addresses, routes. README.md draws it. Sourced by netns.sh, for
# which every host is a network namespace, and by machines/, where $MACHINE names the host that the
# machine is.

# shellcheck source=vagrant/addresses.sh
source "$(dirname "${BASH_SOURCE[0]}")/addresses.sh"

readonly PREFIX=spw-
readonly VNI=40000
readonly UPLINK=uplink # the nodes' device towards the router

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
  # Addresses are those of addresses.sh, no router's, and usable at once: nobody else can have them.
  local setting settings=(disable_ipv6=0 accept_ra=0 autoconf=0 router_solicitations=0
    accept_dad=0 dad_transmits=0)
  for setting in "${settings[@]}"; do
    on "$1" sysctl -qw "net.ipv6.conf.all.$setting" "net.ipv6.conf.default.$setting"
  done
  on "$1" ip link set lo up
}

# The host passes on what is not for it.
forward() { on "$1" sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1; }

# add_address HOST DEVICE ADDRESS/LENGTH [FLAG...]
add_address() {
  local host=$1 device=$2 address=$3 flags=("${@:4}")
  [[ $FAMILY == 4 ]] || flags+=(nodad)
  on "$host" ip address add "$address" dev "$device" "${flags[@]}"
}

# route_by HOST ROUTER: to each subnet but the host's own. No default route, because a machine has
# its own for what is no part of the lab.
route_by() {
  local subnet
  for subnet in "${SUBNETS[@]}"; do
    [[ ${2%[.:]*} == "${subnet%[.:]*}" ]] || on "$1" ip route add "$subnet" via "$2"
  done
}

# The subnets of the nodes and of the outside meet in the router.
make_router() {
  forward router
  for_families address_router
}

address_router() {
  add_address router worker1 "$ROUTER_WORKER1/$SUBNET_LENGTH"
  add_address router worker2 "$ROUTER_WORKER2/$SUBNET_LENGTH"
  add_address router outside "$ROUTER_OUTSIDE/$SUBNET_LENGTH"
}

make_outside() { for_families address_outside; }

address_outside() {
  local address
  for address in "$SERVER" "$EXCLUDED"; do
    add_address outside eth0 "$address/$SUBNET_LENGTH"
  done
  route_by outside "$ROUTER_OUTSIDE"
}

make_worker1() {
  make_node worker1 "$MAC_VX_WORKER1"
  for_families address_worker1
}

address_worker1() {
  add_address worker1 "$UPLINK" "$WORKER1/$SUBNET_LENGTH"
  route_by worker1 "$ROUTER_WORKER1"
  join_node worker1 "$MAC_VX_WORKER2" "$PODS_WORKER2" "$UNDERLAY_GATEWAY"
}

make_worker2() {
  local queues=$1
  # The node itself must not open connections from ports that Spillway leases, of either family.
  on worker2 sysctl -qw net.ipv4.ip_local_reserved_ports="$SHARED_PORTS"
  make_node worker2 "$MAC_VX_WORKER2"
  for_families address_worker2
  make_pod_tunnel "$queues"
}

address_worker2() {
  add_address worker2 "$UPLINK" "$GATEWAY/$SUBNET_LENGTH"
  # Never the source of what the node itself sends: of IPv4 the first address is, of IPv6 one that
  # is not deprecated.
  local flags=()
  [[ $FAMILY == 4 ]] || flags=(preferred_lft 0)
  add_address worker2 "$UPLINK" "$EGRESS/$HOST_LENGTH" "${flags[@]}"
  route_by worker2 "$ROUTER_WORKER2"
  join_node worker2 "$MAC_VX_WORKER1" "$PODS_WORKER1" "$UNDERLAY_WORKER1"
}

# A route into the tunnel. The static neighbour gives frames the inner destination that the other
# node's kernel takes for its own: a frame that Spillway passes by mistake is forwarded there.
route_into_tunnel() {
  local node=$1 peer=$2
  local encap=("$ENCAP" id "$VNI" dst "$peer")
  # Without it the kernel leaves the outer UDP checksum out, and takes none of IPv6 without.
  [[ $UNDERLAY == 4 ]] || encap+=(csum)
  shift 2
  on "$node" ip route add "$@" encap "${encap[@]}" via "$VXLAN_PEER" dev vx0 onlink
}

# A node as a CNI makes it: forwarding, and one VXLAN device.
make_node() {
  forward "$1"
  on "$1" ip link add vx0 address "$2" type vxlan external dstport 8472
  on "$1" ip link set vx0 up mtu "$POD_MTU" arp off
}

# The other node's pods through the tunnel, and pods masqueraded on the uplink.
join_node() {
  local node=$1 peer_mac=$2 peer_pods=$3 peer=$4
  on "$node" ip neighbour add "$VXLAN_PEER" lladdr "$peer_mac" dev vx0
  route_into_tunnel "$node" "$peer" "$peer_pods"
  masquerade_pods "$node"
}

# On the uplink only, and away from the ports that Spillway leases: what leaks is told apart. A ping
# has no port to choose.
masquerade_pods() {
  on "$1" nft -f - <<NFT
table $IP spillway-lab {
  chain postrouting {
    type nat hook postrouting priority srcnat
    oifname != "$UPLINK" return
    $IP saddr $POD_RANGE meta l4proto { tcp, udp } masquerade to :32768-65535
    $IP saddr $POD_RANGE masquerade
  }
}
NFT
}

# make_pod NAME NODE: the pair between a pod's namespace, which is there, and its node.
make_pod() {
  link "$1" eth0 "$2" "$1"
  # Both ends: what the kernel cannot fit is then refused with an error, not lost in the pair.
  on "$1" ip link set eth0 mtu "$POD_MTU"
  on "$2" ip link set "$1" mtu "$POD_MTU"
}

# address_pod NAME NODE ADDRESS
address_pod() {
  local name=$1 node=$2 address=$3
  add_address "$name" eth0 "$address/$HOST_LENGTH"
  add_address "$node" "$name" "$POD_GATEWAY/$HOST_LENGTH"
  on "$name" ip route add "$POD_GATEWAY" dev eth0
  on "$name" ip route add default via "$POD_GATEWAY" dev eth0
  on "$node" ip route add "$address" dev "$name"
}

# The gateway's own pods take the same tunnel as everyone: into a pair whose far end is Spillway's.
make_pod_tunnel() {
  local queues=$1
  link worker2 spw-pods0 worker2 spw-pods "$queues"
  on worker2 ip link set spw-pods0 address "$MAC_PODS_KERNEL"
  on worker2 ip link set spw-pods address "$MAC_PODS"
  # What Spillway leaves of it is nobody's: of IPv4 the kernel drops what has its own address as
  # source, of IPv6 it would send it round again.
  on worker2 sysctl -qw net.ipv6.conf.spw-pods.disable_ipv6=1
  local flags=()
  [[ $UNDERLAY == 4 ]] || flags=(nodad)
  on worker2 ip address add "$POD_TUNNEL_KERNEL/$POD_TUNNEL_LENGTH" dev spw-pods0 "${flags[@]}"
  on worker2 ip neighbour add "$POD_TUNNEL" lladdr "$MAC_PODS" dev spw-pods0
}

# What Cilium's agent on a node would do for the policy app1: its pods' traffic to its destinations
# goes to the gateway, that to the excluded one as before.
steer_pods_to_gateway() {
  local on_node=$1 tunnel=$UNDERLAY_GATEWAY pod name node address
  [[ $on_node != worker2 ]] || tunnel=$POD_TUNNEL
  for pod in "${PODS[@]}"; do
    read -r name node address <<<"$pod"
    [[ $name == app1-* && $node == "$on_node" ]] || continue
    on "$node" ip "-$FAMILY" rule add from "$address" lookup 100 priority 100
  done
  route_into_tunnel "$on_node" "$tunnel" "$DESTINATIONS" table 100
  # The gateway knows which of these are excluded: nobody else could do anything with them.
  [[ $FAMILY == 4 ]] || route_into_tunnel "$on_node" "$tunnel" "$NAT64_PREFIX" table 100
  on "$on_node" ip route add throw "$EXCLUDED/$HOST_LENGTH" table 100
}

# steer NODE: that, for the families that Spillway translates.
steer() { for_translated steer_pods_to_gateway "$1"; }

# What Spillway does on the gateway, done by its kernel: the pods' nodes send the same VXLAN, and
# replies return in it, by the routes to the other node's pods.
translate_in_kernel() {
  local pod name address addresses=()
  for pod in "${PODS[@]}"; do
    read -r name _ address <<<"$pod"
    if [[ $name == app1-* ]]; then addresses+=("$address"); fi
  done
  on worker2 nft -f - <<NFT
table $IP spillway-kernel {
  chain postrouting {
    # Before the node's masquerading.
    type nat hook postrouting priority srcnat - 1
    oifname != "$UPLINK" return
    $IP daddr $EXCLUDED return
    $IP saddr { $(IFS=,; echo "${addresses[*]}") } $IP daddr $DESTINATIONS snat to $EGRESS
  }
}
NFT
}

address_pods() {
  local pod
  for pod in "${PODS[@]}"; do
    # shellcheck disable=SC2086 # name, node, address
    address_pod $pod
  done
}

make_topology() {
  local mode=$1 queues=$2 host pod name node
  for host in "${NODES[@]}" "${PODS[@]%% *}"; do make_namespace "$host"; done
  link worker1 "$UPLINK" router worker1
  link worker2 "$UPLINK" router worker2 "$queues"
  link outside eth0 router outside
  make_router
  make_outside
  make_worker1
  make_worker2 "$queues"
  for pod in "${PODS[@]}"; do
    read -r name node _ <<<"$pod"
    make_pod "$name" "$node"
  done
  for_families address_pods
  case $mode in
    spillway)
      steer worker1
      steer worker2
      ;;
    kernel)
      # The gateway's own pods need no tunnel to it.
      for_families steer_pods_to_gateway worker1
      for_families translate_in_kernel
      ;;
  esac
}

# add_pod_host NAME NODE IPV4 IPV6: one more pod, that no policy's steering knows of.
add_pod_host() {
  local name=$1 node=$2
  make_namespace "$name"
  make_pod "$name" "$node"
  use_family 4
  address_pod "$name" "$node" "$3"
  use_family 6
  address_pod "$name" "$node" "$4"
  use_family 4
}

# A namespace lives as long as a process in it does, so those that were left there end first.
remove_topology() {
  local namespace host pids
  for namespace in "/run/netns/$PREFIX"*; do
    [[ -e $namespace ]] || continue
    host=${namespace##*/}
    mapfile -t pids < <(ip netns pids "$host")
    if ((${#pids[@]})); then kill -KILL "${pids[@]}" 2>/dev/null || true; fi
    ip netns delete "$host"
  done
}
