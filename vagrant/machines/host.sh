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

# adopt DEVICE ADDRESS: gives the network card of an address its name; the kernel's depends on the
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
  for address in "${SERVERS[@]}"; do
    serve "http-$address" python3 "$services/http_server.py" "$address" 8000
    serve "allow-$address" python3 "$services/http_server.py" "$address" 8080 "$EGRESS"
    serve "udp-$address" python3 "$services/udp_echo.py" serve "$address" 8001
  done
  for address in "${SERVERS[@]}"; do
    answers curl -s "http://$address:8000/"
    answers curl -s "http://$address:8080/"
    answers python3 "$services/udp_echo.py" ask "$address" 8001 1
  done
}

up() {
  prepare_host "$MACHINE"
  case $MACHINE in
    router)
      adopt worker1 192.168.211.1
      adopt worker2 192.168.44.1
      make_namespace outside
      link outside eth0 router outside
      make_router
      make_outside
      ;;
    control-plane)
      adopt "$UPLINK" "$CONTROL_PLANE"
      ip address add "$CONTROL_PLANE/24" dev "$UPLINK"
      route_by control-plane 192.168.211.1
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
  while ip rule del lookup 100 2>/dev/null; do :; done
  ip route flush table 100 2>/dev/null || true
}

case ${2-} in
  up) up ;;
  serve) serve_all ;;
  steer)
    unsteer
    steer_pods_to_gateway "$MACHINE"
    ;;
  unsteer) unsteer ;;
  *) fail "usage: host.sh HOST up|serve|steer|unsteer" ;;
esac
