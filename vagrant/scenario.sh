#!/usr/bin/env bash
# The story: what Spillway does for the pods of the lab, told in steps that are checked.
#
#   scenario.sh [--underlay 4|6] [DIRECTORY]
#
# Captures go to DIRECTORY, target/lab when it is not named. The tunnels are of IPv4, or of the
# family that --underlay names, which machines.sh does not take.
#
# LAB is what has the lab: netns.sh when it is not named, or machines.sh. A lab that is up is
# replaced, and removed in the end. QUEUES and WORKERS say how many Spillway has, SPILLWAY names
# another binary than target/release/spillway; with machines.sh these are fixed. It is told once for
# each of the FAMILIES of addresses.sh. The last line says how many checks passed; the exit code is
# 1 when one did not.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
underlay=()
if [[ ${1-} == --underlay ]]; then
  underlay=("$1" "${2:?4 or 6}")
  shift 2
fi
captures=${1:-$here/../target/lab}
lab_options=(${QUEUES:+--queues "$QUEUES"} ${WORKERS:+--workers "$WORKERS"} "${underlay[@]}")

readonly APP1=(app1-a app1-b app1-c)

# shellcheck source=vagrant/checks.sh
source "$here/checks.sh"
use_underlay "${underlay[1]:-4}"

# Where a command runs is the lab's matter: the same story is told on virtual machines.
on() { lab exec "$@"; }
ask() { lab ask "$@"; }

# --- the chapters ----------------------------------------------------------------------------

before() {
  chapter "Before: pods leave with the addresses of their nodes"
  lab up --mode none "${underlay[@]}"
  local pod
  for pod in app1-a app1-b app2-a; do
    check "$pod is seen as worker1 by HTTP" equal "$WORKER1" http "$pod" "$SERVER"
    check "$pod is seen as worker1 by UDP" matches "^$(endpoint "$WORKER1")$" udp "$pod" "$SERVER"
  done
  check "app1-c is seen as worker2 by HTTP" equal "$GATEWAY" http app1-c "$SERVER"
  check "app1-c is seen as worker2 by UDP" matches "^$(endpoint "$GATEWAY")$" udp app1-c "$SERVER"
  check "app1-a pings the server" pings app1-a "$SERVER"
  check "app1-a pings app1-c on the other node" pings app1-a "$(address_of app1-c)"
  check "the allow-list keeps app1-a out" equal 403 allowed app1-a
}

with_policy() {
  chapter "With the policy: app1 leaves with the egress address"
  lab up "${lab_options[@]}"
  capture_start policy
  local pod
  for pod in "${APP1[@]}"; do
    check "$pod is seen as $EGRESS by HTTP" equal "$EGRESS" http "$pod" "$SERVER"
    check "$pod is seen as $EGRESS by UDP" matches "^$(endpoint "$EGRESS")$" udp "$pod" "$SERVER"
    check "$pod pings the server" pings "$pod" "$SERVER"
  done
  capture_stop
  check "capture: the tunnel's leg, worker1 to the gateway on UDP 8472" \
    some "$(tunnel_to_gateway)"
  check "capture: the tunnel's leg back" some "$(tunnel_to_worker1)"
  check "capture: echo requests leave with the egress address" \
    some "$ECHO_REQUEST and src $EGRESS and dst $SERVER"
  check "capture: TCP leaves with the egress address" some "tcp and src $EGRESS and dst $SERVER"
  check "capture: UDP leaves with the egress address" some "udp and src $EGRESS and dst $SERVER"
  check "capture: nothing leaves with another address" none "$(to_server) and not src $EGRESS"
}

not_selected() {
  chapter "What the policy does not select goes on as before"
  check "app2-a is seen as worker1 by HTTP" equal "$WORKER1" http app2-a "$SERVER"
  check "app2-a is seen as worker1 by UDP" matches "^$(endpoint "$WORKER1")$" udp app2-a "$SERVER"
  check "app2-a pings the server" pings app2-a "$SERVER"
  check "app1-a is seen as worker1 at the excluded destination" \
    equal "$WORKER1" http app1-a "$EXCLUDED"
  check "app1-c is seen as worker2 at the excluded destination" \
    equal "$GATEWAY" http app1-c "$EXCLUDED"
  # A source node that knows no exclusions: the gateway's kernel has the frame and masquerades it.
  on worker1 ip route del throw "$EXCLUDED/$HOST_LENGTH" table 100
  check "app1-a is seen as worker2 there, when its node sends that to the gateway too" \
    equal "$GATEWAY" http app1-a "$EXCLUDED"
  on worker1 ip route add throw "$EXCLUDED/$HOST_LENGTH" table 100
  check "app1-a pings app1-c, through the same tunnel" pings app1-a "$(address_of app1-c)"
  check "app1-c pings app2-a, through the same tunnel" pings app1-c "$(address_of app2-a)"
}

operator() {
  local app1_a app2_a destinations=${DESTINATIONS//./\\.} excluded=${EXCLUDED//./\\.}
  app1_a=$(pattern_of app1-a)
  app2_a=$(pattern_of app2-a)
  chapter "The operator sees it"
  check "spillway status: a state document is programmed" \
    matches '"generation": ?[1-9]' ask status -o json
  check "spillway policies: app1-a, its destination, the egress address, the gateway, the policy" \
    matches "^$app1_a +$destinations +$EGRESS +$UNDERLAY_GATEWAY +app1(-ipv6)?$" ask policies
  check "spillway policies: the excluded destination" \
    matches "^$app1_a +$excluded/$HOST_LENGTH .* Excluded CIDR +app1(-ipv6)?$" ask policies
  check "spillway policies -o json: the fields of cilium-dbg" \
    matches "\"egressIP\": ?\"$EGRESS\"" ask policies -o json
  http app1-a "$SERVER" >/dev/null || true
  check "spillway flows: a connection of app1-a and its translation" \
    matches "$app1_a.*$EGRESS|$EGRESS.*$app1_a" ask flows
  check "spillway flows: nothing of app2-a" lacks "$app2_a" ask flows
  check "spillway drops: no reply was without its flow" lacks "no-flow" ask drops
  local pod
  for pod in "${APP1[@]}"; do
    check "the allow-list lets $pod in" equal 200 allowed "$pod"
  done
  check "the allow-list keeps app2-a out" equal 403 allowed app2-a
}

real_traffic() {
  chapter "Real traffic"
  check "app1-a downloads 100 MiB, identical byte for byte" download app1-a 104857600
  check "app1-c, on the gateway, too" download app1-c 104857600
  check "200 connections open at once all succeed" \
    equal "200 $EGRESS" on app1-a python3 "$here/services/http_many.py" "$SERVER" 8000 200
  check "1,000 UDP flows that speak 5 times each are all answered" \
    equal "5000 $EGRESS" on app1-a python3 "$here/services/udp_many.py" "$SERVER" 8001 1000 5
  check "both directions met at their owner: no packet at a wrong worker, none without its flow" \
    lacks "wrong-worker|no-flow" ask drops
  check "a ping as large as the tunnel carries is answered" \
    pings app1-a "$SERVER" -s "$((POD_MTU - HEADERS))"
}

# The rates are those of this machine at this moment: they are shown, not judged.
both_ways_at_full_speed() {
  chapter "Throughput: two seconds of iperf3 each way"
  # Only what must not be there, and what marks its end: all of it would be gigabytes.
  capture_start throughput "$(to_server) and not src $EGRESS"
  local way
  for way in sends receives; do
    check "app1-a $way as fast as it can" throughput app1-a "$way"
    echo "    app1-a $way: $(rate "$way")"
    check "the server has seen $EGRESS" \
      matches "^Accepted connection from ${EGRESS//./\\.}," cat "$captures/iperf3.log"
  done
  capture_stop
  check "capture: nothing leaves with another address" none "$(to_server) and not src $EGRESS"
  check "no packet at a wrong worker, none without its flow" \
    lacks "wrong-worker|no-flow" ask drops
}

what_a_router_owes() {
  chapter "What a router owes: traceroute shows the gateway, and senders learn what fits the tunnel"
  # Spillway's address towards a pod is that of the tunnel if it is of the pod's family, else nobody's
  # (RFC 7600), which IPv6 does not have: the egress address.
  local path tunnel=$UNDERLAY_GATEWAY own_tunnel=$POD_TUNNEL
  case $FAMILY$UNDERLAY in
    46) tunnel=192.0.0.8 own_tunnel=192.0.0.8 ;;
    64) tunnel=$EGRESS own_tunnel=$EGRESS ;;
  esac
  path=$(trace app1-a) || true
  check "traceroute -n -U shows the gateway" \
    matches "^ *[0-9]+ +${tunnel//./\\.} " echo "$path"
  check "traceroute -n -U shows the router beyond the gateway" \
    matches "^ *[0-9]+ +${ROUTER_WORKER2//./\\.} " echo "$path"
  check "traceroute -n -U ends at the server" matches "^ *[0-9]+ +${SERVER//./\\.} " echo "$path"
  path=$(trace app1-c) || true
  check "traceroute of a pod on the gateway shows it, by the address of that tunnel" \
    matches "^ *[0-9]+ +${own_tunnel//./\\.} " echo "$path"
  # Of IPv4 the gateway cuts it. Of IPv6 only the server may: the first one is lost, and its sender
  # told what fits.
  local payload=$((1500 - HEADERS)) tries=1
  [[ $FAMILY == 4 ]] || tries=2
  check "an answer of 1,500 bytes that may be cut comes through the tunnel, whole again in the pod" \
    matches "^$(endpoint "$EGRESS") $payload$" udp app1-a "$SERVER" "$tries" "$payload" cut
  check "one that may not be cut does not" fails udp app1-a "$SERVER" 1 "$payload" whole
  check "the server has learned what fits" matches "mtu $POD_MTU" on outside ip route get "$EGRESS"
}

fragments() {
  chapter "Fragments: what is larger than any device carries comes whole, both ways"
  capture_start fragments
  local pod
  for pod in app1-a app1-c; do
    check "$pod: a ping of 4,000 bytes is answered" pings "$pod" "$SERVER" -s 4000
    check "$pod: 4,000 bytes by UDP are answered with as many" \
      matches "^$(endpoint "$EGRESS") 4000$" udp "$pod" "$SERVER" 3 4000 cut 4000
  done
  capture_stop
  check "capture: they leave in fragments, from the egress address" \
    some "src $EGRESS and dst $SERVER and $FRAGMENT"
  check "capture: none leaves with another address" none "$(to_server) and not src $EGRESS"
  check "no fragment was dropped" \
    lacks "bad-fragment|fragment-(overlap|timeout)|fragments-full|hand-off" ask drops
}

shared_address() {
  chapter "The node's own address as egress address, while the node goes on using it"
  check "the policy gives the node's own address" lab policy shared
  capture_start shared
  local pod
  for pod in "${APP1[@]}"; do
    check "$pod is seen as $GATEWAY by HTTP" equal "$GATEWAY" http "$pod" "$SERVER"
    check "$pod is seen as $GATEWAY by UDP, on a port of Spillway's range" shared_port "$pod"
    check "$pod pings the server" pings "$pod" "$SERVER"
  done
  capture_stop
  check "capture: TCP leaves on ports of Spillway's range" \
    some "tcp and src $GATEWAY and dst $SERVER and src portrange 16384-29999"
  check "capture: nothing leaves on another port or address" \
    none "$(to_server) and not $ICMP and not (src $GATEWAY and src portrange 16384-29999)"
  check "an answer in fragments is app1-a's" \
    matches "^$(endpoint "$GATEWAY") 4000$" udp app1-a "$SERVER" 3 4000 cut 4000
  node_talks
  check "app2-a still leaves with its node's address" equal "$WORKER1" http app2-a "$SERVER"
  check "the policy gives the own egress address again" lab policy own
  check "app1-a is seen as $EGRESS again" equal "$EGRESS" http app1-a "$SERVER"
  check "spillway apply: an older document is refused" \
    refused "generation" ask apply - < <(document "$here/state.yaml")
}

node_talks() {
  check "the node itself talks HTTP" equal "$GATEWAY" http worker2 "$SERVER"
  check "the node itself talks UDP" matches "^$(endpoint "$GATEWAY")$" udp worker2 "$SERVER"
  check "the node itself gets answers in fragments" \
    matches "^$(endpoint "$GATEWAY") 4000$" udp worker2 "$SERVER" 3 4000 cut 4000
  # ping takes any identifier; those of Spillway's range are Spillway's.
  check "the node itself pings" pings worker2 "$SERVER" -e 77
  check "the node is pinged" pings outside "$GATEWAY"
}

address_of_its_own() {
  chapter "An address of Spillway's own: no host has it, and the link learns where it is"
  # As if another gateway had had it until now.
  on router ip neigh replace "$ANNOUNCED" lladdr 02:00:00:00:00:77 dev worker2 nud stale
  check "the policy gives an address that Spillway announces" lab policy announced
  check "the router beyond learns of it without asking" \
    within matches "$(mac_of worker2 uplink)" on router ip neigh show "$ANNOUNCED"
  on router ip neigh flush dev worker2
  check "the outside pings it" pings outside "$ANNOUNCED"
  local pod
  for pod in "${APP1[@]}"; do
    check "$pod is seen as $ANNOUNCED by HTTP" equal "$ANNOUNCED" http "$pod" "$SERVER"
  done
  check "the node's own address is still pinged" pings outside "$GATEWAY"
  check "the policy gives the address of the host again" lab policy own
  on router ip neigh flush dev worker2
  check "nobody answers for the other any more" fails pings outside "$ANNOUNCED" -W 1
}

# A download that is under way, and slow enough to be so for long.
long_download() {
  local into=$captures/under-way
  rm -f "$into"
  download_start app1-a "$into"
  await "the download begins" test -s "$into"
}

# Waits until no connection of an earlier chapter still closes: what it sends has no flow any more. One
# whose address went meanwhile may go on for minutes, each time twice as long apart: not waited for.
connections_have_ended() {
  local pod tries
  for pod in "${APP1[@]}"; do
    for ((tries = 0; tries < 50; tries++)); do
      on "$pod" ss -Htn state fin-wait-1 state last-ack state closing | grep -q . || break
      sleep 0.1
    done
  done
}

restarted() {
  chapter "Spillway restarted, under load: connections go on"
  connections_have_ended
  capture_start restarted
  restart_under_load app1-a app1-c
  capture_stop
  check "capture: nothing leaves with another address" none "$(to_server) and not src $EGRESS"
}

# restart_under_load DOWNLOADER SPEAKER
restart_under_load() {
  local into=$captures/under-way said=$captures/gap bytes=20971520 checksum
  checksum=$(checksum_of "$1" "$bytes")
  rm -f "$into"
  gap_start "$2" "$said"
  download_start "$1" "$into" "$bytes" 5M
  await "the download begins" test -s "$into"
  check "it exits with 0 on SIGTERM" lab spillway stop
  check "it starts again" lab spillway start
  download_finish
  check "$1's download arrives, identical byte for byte" has_arrived "$into" "$checksum"
  rm "$into"
  gap_finish
  check "$2's UDP went on, from the same port" \
    matches "^[0-9]+ ms $(endpoint "$EGRESS")$" cat "$said"
  check "no packet was without its flow" lacks "tcp-not-syn|no-flow" ask drops
  echo "# without an answer for $(grep -o '^[0-9]* ms' "$said")"
}

# silence NAME HOW: selected pods try everything; nothing must come out.
silence() {
  local pod
  for pod in "${APP1[@]}"; do
    check "$2: $pod gets no answer by HTTP" fails http "$pod" "$SERVER" 1
    check "$2: $pod gets no answer by UDP" fails udp "$pod" "$SERVER" 1
    check "$2: $pod gets no answer by ping" fails pings "$pod" "$SERVER" -W 1
  done
  capture_stop
  check "$2: their packets reach the gateway" some "udp dst port 8472 and dst $UNDERLAY_GATEWAY"
  check "$2: nothing leaves, with whatever address" none "$(to_server)"
  check "$2: app2-a goes on" equal "$WORKER1" http app2-a "$SERVER"
}

killed() {
  chapter "Spillway killed, in the middle of a download: selected traffic stops and never leaks"
  long_download
  capture_start killing
  check "it is killed" lab spillway kill
  capture_stop
  check "at that moment: nothing leaves with another address" \
    none "$(to_server) and not src $EGRESS"
  capture_start killed
  silence killed "killed"
  download_end
  rm "$captures/under-way"
  # Neither half has learned of its end. Where hosts stay, both would be heard of in a later telling:
  # what the server repeats for minutes, and the client's FIN, when it has waited long enough.
  on app1-a ss -HtK dst "$(in_url "$SERVER")" >/dev/null
  on outside ss -HtK dst "$(in_url "$EGRESS")" >/dev/null
  check "it starts again" lab spillway start
  local pod
  for pod in "${APP1[@]}"; do
    check "started again: $pod is seen as $EGRESS" equal "$EGRESS" http "$pod" "$SERVER"
  done
}

stopped() {
  chapter "Spillway stopped: the same"
  check "it exits with 0 on SIGTERM" lab spillway stop
  capture_start stopped
  silence stopped "stopped"
}

detached() {
  chapter "Detached: selected traffic is the kernel's, so the silence above could have failed"
  check "spillway detach says what was detached" matches uplink lab spillway detach
  check "app1-a leaks, with the gateway's own address" equal "$GATEWAY" http app1-a "$SERVER"
  check "app1-c gets no answer: its tunnel ends at Spillway" fails http app1-c "$SERVER" 1
}

# --- NAT64, where both families are translated ------------------------------------------------

nat64() {
  local address
  address=$(address_of app1-b)
  lab up "${lab_options[@]}"
  lose_ipv4 app1-b
  nat64_reaches
  nat64_operator
  nat64_owes
  nat64_fragments
  nat64_restarted
  nat64_stopped
  regain_ipv4 app1-b "$address"
}

nat64_reaches() {
  local pod
  chapter "NAT64: app1-b has no IPv4, and reaches servers that have nothing else"
  check "the server cannot be reached by IPv4" fails http app1-b "$SERVER" 1
  capture_start nat64
  check "app1-b is seen as $EGRESS by HTTP, at 64:ff9b::$SERVER" \
    equal "$EGRESS" http app1-b "64:ff9b::$SERVER"
  check "app1-b is seen as $EGRESS by UDP" \
    matches "^$(endpoint "$EGRESS")$" over_nat64 nat64_udp app1-b
  check "app1-b pings the server" over_nat64 nat64_pings app1-b
  check "the allow-list lets app1-b in" equal 200 over_nat64 allowed app1-b
  for pod in app1-a app1-c; do
    check "$pod, which has both, is seen as $EGRESS that way too" \
      equal "$EGRESS" over_nat64 nat64_http "$pod"
  done
  check "the excluded destination is not translated" fails http app1-b "64:ff9b::$EXCLUDED" 1
  check "app2-a, which no policy selects, reaches nobody so" \
    fails http app2-a "64:ff9b::$SERVER" 1
  capture_stop
  check "capture: TCP, UDP and echo requests leave with the egress address" \
    nat64_left_by tcp udp "$ECHO_REQUEST"
  check "capture: nothing leaves untranslated, or with another address" none "$(untranslated)"
  check "capture: nothing leaves to the excluded destination" \
    none "dst host $EXCLUDED and not udp port 8472"
  check "app1-b downloads 100 MiB, identical byte for byte" \
    over_nat64 download app1-b 104857600
  check "200 connections open at once all succeed" equal "200 $EGRESS" \
    over_nat64 nat64_python app1-b http_many.py 8000 200
  check "1,000 UDP flows that speak 5 times each are all answered" equal "5000 $EGRESS" \
    over_nat64 nat64_python app1-b udp_many.py 8001 1000 5
  check "the server is still reached by its IPv6 address" \
    equal "$(use_family 6 && echo "$EGRESS")" http app1-b "$(use_family 6 && echo "$SERVER")"
}

# For `over_nat64`, which says what the server is called.
nat64_http() { http "$1" "$SERVER" "${@:2}"; }
nat64_udp() { udp "$1" "$SERVER" "${@:2}"; }
nat64_pings() { pings "$1" "$SERVER" "${@:2}"; }
nat64_python() { on "$1" python3 "$here/services/$2" "$SERVER" "${@:3}"; }

# nat64_left_by FILTER...: some of each left with the egress address.
nat64_left_by() {
  local kind
  for kind in "$@"; do some "$kind and src $EGRESS and dst $SERVER" || return 1; done
}

nat64_operator() {
  local app1_b server
  chapter "NAT64: the operator sees what the pod and the server see"
  app1_b=$(use_family 6 && pattern_of app1-b)
  server=$(by_nat64 "$SERVER")
  over_nat64 nat64_http app1-b >/dev/null || true
  check "spillway flows: the pod and the server by IPv6, the egress address" \
    matches "$app1_b.*$server.*${EGRESS//./\\.}" ask flows
  check "spillway flows: no address that nobody has" \
    lacks "(^| )2[45][0-9](\\.[0-9]+){3}" ask flows
  check "spillway policies: app1-b, its IPv4 destinations by IPv6, the egress address" \
    matches "^$app1_b +$(by_nat64 "${DESTINATIONS%/*}")/120 +$EGRESS " ask policies
  check "spillway policies: the excluded destination" \
    matches "^$app1_b +$(by_nat64 "$EXCLUDED")/128 .* Excluded CIDR " ask policies
  check "spillway drops: no reply was without its flow" lacks "no-flow" ask drops
  check "both directions met at their owner" lacks "wrong-worker" ask drops
}

nat64_owes() {
  # As in what_a_router_owes.
  local path payload tunnel=$UNDERLAY_GATEWAY
  [[ $UNDERLAY == 4 ]] || tunnel=192.0.0.8
  chapter "NAT64: what a router owes is told in the pod's own terms"
  path=$(over_nat64 trace app1-b) || true
  check "traceroute shows the gateway" matches "^ *[0-9]+ +$(by_nat64 "$tunnel") " echo "$path"
  check "traceroute shows the router beyond it" \
    matches "^ *[0-9]+ +$(by_nat64 "$ROUTER_WORKER2") " echo "$path"
  check "traceroute ends at the server" \
    matches "^ *[0-9]+ +$(by_nat64 "$SERVER") " echo "$path"
  # IPv6's header is 20 bytes longer: what fits the tunnel by IPv4 does not.
  payload=$((POD_MTU - HEADERS))
  check "an answer of $POD_MTU bytes that may be cut comes through, whole again in the pod" \
    matches "^$(endpoint "$EGRESS") $payload$" over_nat64 nat64_udp app1-b 1 "$payload" cut
  check "one that may not be cut does not" fails over_nat64 nat64_udp app1-b 1 "$payload" whole
  check "the server has learned what fits" \
    matches "mtu $((POD_MTU - 20))" on outside ip route get "$EGRESS"
}

nat64_fragments() {
  chapter "NAT64: fragments, both ways"
  capture_start nat64-fragments
  check "4,000 bytes by UDP are answered with as many" \
    matches "^$(endpoint "$EGRESS") 4000$" over_nat64 nat64_udp app1-b 3 4000 cut 4000
  capture_stop
  check "capture: they leave in fragments, from the egress address" \
    some "src $EGRESS and dst $SERVER and $FRAGMENT"
  check "capture: nothing leaves untranslated, or with another address" none "$(untranslated)"
  check "no fragment was dropped" \
    lacks "bad-fragment|fragment-(overlap|timeout)|fragments-full|hand-off" ask drops
}

nat64_restarted() {
  chapter "NAT64: Spillway restarted, under load: connections go on"
  connections_have_ended
  capture_start nat64-restarted
  over_nat64 restart_under_load app1-b app1-b
  capture_stop
  check "capture: nothing leaves untranslated, or with another address" none "$(untranslated)"
}

nat64_stopped() {
  chapter "NAT64: Spillway stopped: nothing leaks"
  check "it exits with 0 on SIGTERM" lab spillway stop
  capture_start nat64-stopped
  check "app1-b gets no answer by HTTP" fails over_nat64 nat64_http app1-b 1
  check "app1-b gets no answer by UDP" fails over_nat64 nat64_udp app1-b 1
  check "app1-b gets no answer by ping" fails over_nat64 nat64_pings app1-b -W 1
  capture_stop
  check "capture: its packets reach the gateway" \
    some "udp dst port 8472 and dst $UNDERLAY_GATEWAY"
  check "capture: nothing leaves, in whatever form" none "$(to_server) or dst net $NAT64_PREFIX"
}

# What someone needs who looks for the reason of a failure.
explain() {
  printf '\n# The end of its log\n'
  lab log || true
  printf '\n# spillway drops\n'
  ask drops || true
  printf '\n# spillway status\n'
  ask status || true
}

# Each chapter is told of both families, because each has to do with addresses of its own.
each_family() {
  local family chapter
  for family in "${FAMILIES[@]}"; do
    use_family "$family"
    for chapter in before with_policy not_selected operator real_traffic both_ways_at_full_speed \
      what_a_router_owes fragments shared_address address_of_its_own restarted killed stopped \
      detached; do
      "$chapter"
    done
  done
  use_family 4
}

both_families() {
  if translated 4 && translated 6; then nat64; fi
}

story each_family both_families
