#!/usr/bin/env bash
# What one machine of the lab does for its part of the topology, with the functions of topology.sh.
#
#   host.sh HOST up          network cards, links, addresses, routes: once after each start
#   host.sh router serve     the servers of the outside: after that
#   host.sh NODE steer       this node's pods of app1 go to the gateway
#   host.sh NODE unsteer     and no longer
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
MACHINE=${1:?router, control-plane, worker1 or worker2}
# shellcheck source=vagrant/topology.sh
source "$here/../topology.sh"

readonly WITHIN_S=15

fail() {
  echo "host.sh: $*" >&2
  exit 1
}

# adopt DEVICE IPV4: gives the network card of an address its name; the kernel's depends on the
# hypervisor. ../Vagrantfile makes the card's link address of the same numbers.
adopt() {
  local mac found
  # shellcheck disable=SC2086 # four numbers
  mac=$(printf '02:10:%02x:%02x:%02x:%02x' ${2//./ })
  found=$(ip -json link | jq -r --arg mac "$mac" '.[] | select(.address == $mac) | .ifname')
  [[ -n $found ]] || fail "no network card has $mac, for $2: see ../Vagrantfile"
  [[ $found == "$1" ]] || ip link set "$found" down name "$1"
  start_device "$MACHINE" "$1"
}

# serve NAME COMMAND...: a server of the outside. Ends with the machine, starts anew when it fails.
serve() {
  local name=$1
  shift
  systemd-run --quiet --collect --unit "spillway-lab-$name" --property Restart=on-failure \
    nsenter --net="/run/netns/${PREFIX}outside" -- "$@"
}

# answers COMMAND...: waits until a server answers to a command of its own host.
answers() {
  local deadline=$((SECONDS + WITHIN_S))
  until on outside "$@" >/dev/null 2>&1; do
    ((SECONDS < deadline)) || fail "no answer within $WITHIN_S s to: $*; see journalctl"
    sleep 0.05
  done
}

serve_all() {
  local services=$here/../services address
  for address in "$SERVER" "$EXCLUDED"; do
    serve "http-$address" python3 "$services/http_server.py" "$address" 8000
    serve "allow-$address" python3 "$services/http_server.py" "$address" 8080 "$EGRESS"
    serve "udp-$address" python3 "$services/udp_echo.py" serve "$address" 8001
  done
  for address in "$SERVER" "$EXCLUDED"; do
    answers curl -s "http://$(in_url "$address"):8000/"
    answers curl -s "http://$(in_url "$address"):8080/"
    answers python3 "$services/udp_echo.py" ask "$address" 8001 1
  done
}

address_control_plane() {
  add_address control-plane "$UPLINK" "$CONTROL_PLANE/$SUBNET_LENGTH"
  route_by control-plane "$ROUTER_WORKER1"
}

up() {
  prepare_host "$MACHINE"
  case $MACHINE in
    router)
      adopt worker1 "$ROUTER_WORKER1"
      adopt worker2 "$ROUTER_WORKER2"
      make_namespace outside
      link outside eth0 router outside
      make_router
      make_outside
      ;;
    control-plane)
      adopt "$UPLINK" "$CONTROL_PLANE"
      for_families address_control_plane
      ;;
    worker1)
      adopt "$UPLINK" "$WORKER1"
      make_worker1
      ;;
    worker2)
      adopt "$UPLINK" "$GATEWAY"
      make_worker2 1
      ;;
    *) fail "no machine of the lab is called $MACHINE" ;;
  esac
}

unsteer() {
  while ip "-$FAMILY" rule del lookup 100 2>/dev/null; do :; done
  ip "-$FAMILY" route flush table 100 2>/dev/null || true
}

case ${2-} in
  up) up ;;
  serve) for_families serve_all ;;
  steer)
    for_families unsteer
    steer "$MACHINE"
    ;;
  unsteer) for_families unsteer ;;
  *) fail "usage: host.sh HOST up|serve|steer|unsteer" ;;
esac
