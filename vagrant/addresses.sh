# shellcheck shell=bash
# The names and addresses of the lab, which README.md draws. Sourced by topology.sh, which makes
# them, and by checks.sh, whose stories speak of them.
# shellcheck disable=SC2034

# THE GATE: the families that Spillway translates, of `4 6`. Hosts have both whatever it says; the
# stories are told, pods steered and documents written for these.
readonly FAMILIES=(4 6)

readonly SHARED_PORTS=16384-29999 # of an egress address that the node uses too
readonly NODES=(router worker1 worker2 outside)

# use_family 4|6: the same names for the addresses of that family. IPv4's are there from the start.
use_family() {
  FAMILY=$1
  case $FAMILY in
    4)
      IP=ip # what nft calls it
      # What tcpdump does.
      ICMP=icmp
      ECHO_REQUEST="icmp[icmptype] == icmp-echo"
      FRAGMENT="ip[6:2] & 0x3fff != 0"
      HEADERS=28 # bytes, with UDP's or an echo's
      EGRESS=192.168.44.129
      ANNOUNCED=192.168.44.130 # on no host: Spillway itself answers for it
      NOWHERE=192.168.44.77    # on no host at all
      GATEWAY=192.168.44.128
      WORKER1=192.168.211.128
      CONTROL_PLANE=192.168.211.10
      SERVER=203.0.113.10
      EXCLUDED=203.0.113.20
      # The router's, towards worker1, worker2 and the outside.
      ROUTER_WORKER1=192.168.211.1
      ROUTER_WORKER2=192.168.44.1
      ROUTER_OUTSIDE=203.0.113.1
      HOST_LENGTH=32
      SUBNET_LENGTH=24
      SUBNETS=(192.168.211.0/24 192.168.44.0/24 203.0.113.0/24)
      DESTINATIONS=203.0.113.0/24
      POD_RANGE=10.0.0.0/16
      POLICY=app1
      POLICY_FILE=policy.yaml
      PODS_CONTROL_PLANE=10.0.0.0/24
      PODS_WORKER1=10.0.1.0/24
      PODS_WORKER2=10.0.2.0/24
      POD_GATEWAY=169.254.1.1 # its node, for every pod
      VXLAN_PEER=169.254.10.1 # the other node's VXLAN device, for static neighbours only
      # name, node, address; app1-a is of the app app1
      PODS=(
        "app1-a worker1 10.0.1.40"
        "app1-b worker1 10.0.1.41"
        "app2-a worker1 10.0.1.50"
        "app1-c worker2 10.0.2.182"
      )
      ;;
    6)
      IP=ip6
      ICMP=icmp6
      ECHO_REQUEST="icmp6 and ip6[40] == 128"
      FRAGMENT="ip6[6] == 44"
      HEADERS=48
      EGRESS=2001:db8:44::129
      ANNOUNCED=2001:db8:44::130
      NOWHERE=2001:db8:44::77
      GATEWAY=2001:db8:44::128
      WORKER1=2001:db8:211::128
      CONTROL_PLANE=2001:db8:211::10
      SERVER=2001:db8:203::10
      EXCLUDED=2001:db8:203::20
      ROUTER_WORKER1=2001:db8:211::1
      ROUTER_WORKER2=2001:db8:44::1
      ROUTER_OUTSIDE=2001:db8:203::1
      HOST_LENGTH=128
      SUBNET_LENGTH=64
      SUBNETS=(2001:db8:211::/64 2001:db8:44::/64 2001:db8:203::/64)
      DESTINATIONS=2001:db8:203::/64
      POD_RANGE=fd00:10::/56
      POLICY=app1-ipv6
      POLICY_FILE=policy-ipv6.yaml
      PODS_CONTROL_PLANE=fd00:10::/64
      PODS_WORKER1=fd00:10:0:1::/64
      PODS_WORKER2=fd00:10:0:2::/64
      POD_GATEWAY=fe80::1
      VXLAN_PEER=fe80::10:1
      PODS=(
        "app1-a worker1 fd00:10:0:1::40"
        "app1-b worker1 fd00:10:0:1::41"
        "app2-a worker1 fd00:10:0:1::50"
        "app1-c worker2 fd00:10:0:2::182"
      )
      ;;
  esac
}
use_family 4

# use_underlay 4|6: the addresses of the tunnels, which are of one family for packets of both.
use_underlay() {
  UNDERLAY=$1
  case $UNDERLAY in
    4)
      ENCAP=ip # what ip-route calls it
      UNDERLAY_GATEWAY=192.168.44.128
      UNDERLAY_WORKER1=192.168.211.128
      POD_TUNNEL_KERNEL=169.254.44.1 # the gateway's kernel, towards Spillway
      POD_TUNNEL=169.254.44.2        # Spillway, towards the gateway's own pods
      POD_TUNNEL_LENGTH=30
      POD_MTU=1450
      ;;
    6)
      ENCAP=ip6
      UNDERLAY_GATEWAY=2001:db8:44::128
      UNDERLAY_WORKER1=2001:db8:211::128
      POD_TUNNEL_KERNEL=fd00:44::1
      POD_TUNNEL=fd00:44::2
      POD_TUNNEL_LENGTH=126
      POD_MTU=1430
      ;;
    *) return 1 ;;
  esac
}
use_underlay 4

# for_families COMMAND...: runs it with the addresses of each family. IPv4's are there again then.
for_families() { run_for "4 6" "$@"; }
# for_translated COMMAND...: the same, for those that Spillway translates.
for_translated() { run_for "${FAMILIES[*]}" "$@"; }
run_for() {
  local family
  for family in $1; do
    use_family "$family"
    "${@:2}"
  done
  use_family 4
}

# translated FAMILY: whether Spillway translates it.
translated() { [[ " ${FAMILIES[*]} " == *" $1 "* ]]; }

# address_of POD
address_of() {
  local pod name address
  for pod in "${PODS[@]}"; do
    read -r name _ address <<<"$pod"
    [[ $name != "$1" ]] || { echo "$address" && return; }
  done
  return 1
}

# document FILE: a state document of this directory, as it is for this lab: without the lines that
# end in `# IPv6`, if Spillway does not translate that, and with the addresses of its tunnels, which
# lines of their own name.
document() {
  local ipv6=() tunnels=()
  translated 6 || ipv6=(-e '/# IPv6$/d')
  [[ $UNDERLAY == 4 ]] || mapfile -t tunnels < <(tunnels_of_ipv6)
  sed "${ipv6[@]}" "${tunnels[@]}" -e '' "$1"
}
tunnels_of_ipv6() (
  names=(UNDERLAY_GATEWAY UNDERLAY_WORKER1 POD_TUNNEL_KERNEL POD_TUNNEL)
  for name in "${names[@]}"; do
    use_underlay 4
    ipv4=${!name//./\\.}
    use_underlay 6
    printf -- '--expression=s/^\\( *- address: \\)%s$/\\1%s/\n' "$ipv4" "${!name}"
  done
)

# policies: those of app1, of the families that Spillway translates.
policies() { for_translated policy_document; }
policy_document() {
  echo ---
  cat "$(dirname "${BASH_SOURCE[0]}")/$POLICY_FILE"
}

# What IPv6 pods put in front of the address of a server that has IPv4 only (RFC 6052).
readonly NAT64_PREFIX=64:ff9b::/96

# by_nat64 IPV4: that address, as hosts write it.
by_nat64() {
  local parts
  IFS=. read -ra parts <<<"$1"
  printf '%s%x:%x\n' "${NAT64_PREFIX%/*}" $((parts[0] << 8 | parts[1])) \
    $((parts[2] << 8 | parts[3]))
}

# family_of ADDRESS
family_of() { if [[ $1 == *:* ]]; then echo 6; else echo 4; fi; }

# in_url ADDRESS: as RFC 3986 writes it there.
in_url() { if [[ $1 == *:* ]]; then echo "[$1]"; else echo "$1"; fi; }
