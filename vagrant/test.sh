#!/usr/bin/env bash
# Tests the lab itself, without Spillway: its hosts have the addresses that README.md lists, and
# reach each other by both families as far as the kernel carries that. Takes half a minute,
# needs root, and is in nobody's way: a lab that is up has other namespaces.
# shellcheck disable=SC2317 # `check` and its kind call the functions
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
captures= # the test takes none

# shellcheck source=vagrant/checks.sh
source "$here/checks.sh"

on() { lab exec "$@"; }

# node_address NODE
node_address() { if [[ $1 == worker1 ]]; then echo "$WORKER1"; else echo "$GATEWAY"; fi; }

# has_exactly HOST ADDRESS...: these, and those of links.
has_exactly() { equal "$(printf '%s\n' "${@:2}" | sort)" global_addresses "$1"; }
global_addresses() {
  on "$1" ip -json address | jq -r '.[].addr_info[] | select(.scope == "global").local
    | select(startswith("169.254.") or startswith("fd00:44:") | not)' | sort
}

# sees HOST NAME ADDRESS SERVER: the server must see that address, by TCP and by UDP.
sees() {
  check "$1 is seen as $2 by HTTP" equal "$3" http "$1" "$4"
  check "$1 is seen as $2 by UDP" matches "^$(endpoint "$3")$" udp "$1" "$4"
}

# --- the chapters ----------------------------------------------------------------------------

addresses() {
  local _ host ipv4 ipv6 rows=0
  chapter "The addresses are those of README.md"
  while IFS='|' read -r _ host ipv4 ipv6 _; do
    host=${host//[\` ]/}
    # shellcheck disable=SC2086 # several, between spaces
    check "$host has${ipv4}and$ipv6" has_exactly "$host" ${ipv4//,/} ${ipv6//,/}
    rows=$((rows + 1))
  done < <(sed -n '/^| host | IPv4/,/^$/p' "$here/README.md" | grep '^| `')
  check "every host is listed" equal "$(hosts | wc -l)" echo "$rows"
}
hosts() { printf '%s\n' "${NODES[@]}" "${PODS[@]%% *}"; }

nodes() {
  chapter "Nodes and the outside"
  sees worker1 worker1 "$WORKER1" "$SERVER"
  # Not as the egress address, which it has as well.
  sees worker2 worker2 "$GATEWAY" "$SERVER"
  check "worker1 pings worker2" pings worker1 "$GATEWAY"
  check "worker2 pings worker1" pings worker2 "$WORKER1"
  check "the outside pings worker1" pings outside "$WORKER1"
  check "the outside pings the egress address" pings outside "$EGRESS"
  check "nobody has the address that Spillway would announce" \
    fails pings outside "$ANNOUNCED" -W 1
}

pods() {
  local pod other name node address
  chapter "Pods, masqueraded on their nodes"
  for pod in "${PODS[@]}"; do
    read -r name node address <<<"$pod"
    sees "$name" "$node" "$(node_address "$node")" "$SERVER"
    check "$name pings the server" pings "$name" "$SERVER"
    check "$name pings the excluded destination" pings "$name" "$EXCLUDED"
    check "$node pings $name" pings "$node" "$address"
    for other in "${PODS[@]%% *}"; do
      [[ $other == "$name" ]] || check "$name pings $other" pings "$name" "$(address_of "$other")"
    done
  done
}

# A server in a pod on the other node sees the pod's own address.
tunnel() {
  local server payload=$((POD_MTU - HEADERS))
  server=$(address_of app1-c)
  chapter "Pods on both nodes, through the tunnel, which is of IPv$UNDERLAY"
  lab start "pod-http-$FAMILY" app1-c python3 "$here/services/http_server.py" "$server" 8000
  lab start "pod-udp-$FAMILY" app1-c python3 "$here/services/udp_echo.py" serve "$server" 8001
  await "the pod's web server answers" http app1-c "$server"
  await "the pod's UDP echo answers" udp app1-c "$server" 1
  sees app1-a itself "$(address_of app1-a)" "$server"
  sees app2-a itself "$(address_of app2-a)" "$server"
  check "the largest packet fits" pings app1-a "$server" -M "do" -s "$payload"
  check "a larger one does not" fails pings app1-a "$server" -M "do" -s "$((payload + 1))"
  check "unless it is cut" pings app1-a "$server" -s 4000
}

translated_by_kernel() {
  local pod
  chapter "With --mode kernel: app1 leaves with the egress address"
  for pod in app1-a app1-b app1-c; do
    sees "$pod" "the egress address" "$EGRESS" "$SERVER"
    check "$pod pings the server" pings "$pod" "$SERVER"
    check "the allow-list lets $pod in" equal 200 allowed "$pod"
  done
  sees app1-a worker1 "$WORKER1" "$EXCLUDED"
  sees app1-c worker2 "$GATEWAY" "$EXCLUDED"
  sees app2-a worker1 "$WORKER1" "$SERVER"
  check "the allow-list keeps app2-a out" equal 403 allowed app2-a
}

if [[ ! ${LAB_TEST_INSIDE-} ]]; then
  ((EUID == 0)) || { echo "test.sh: needs root, for namespaces: try sudo" >&2 && exit 1; }
  # With a process namespace, so that nothing is left running whatever happens.
  LAB_TEST_INSIDE=1 exec unshare --mount --propagation private --pid --fork --mount-proc \
    --kill-child "$0"
fi
mount -t tmpfs none /run # where namespaces have their names, and the lab its files
mkdir /run/netns
for underlay in 4 6; do
  use_underlay "$underlay"
  lab up --mode none --underlay "$underlay"
  addresses
  for_families nodes
  for_families pods
  for_families tunnel
  lab up --mode kernel --underlay "$underlay"
  for_families translated_by_kernel
done
check "nothing is left of it" lab down
echo
echo "lab: $passed passed, $failed failed"
exit $((failed > 0))
