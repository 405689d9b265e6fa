#!/usr/bin/env bash
# The story: what Spillway does for the pods of the lab, told in steps that are checked.
#
#   scenario.sh [DIRECTORY]     captures go to DIRECTORY, target/lab when it is not named
#
# A lab that is up is replaced, and removed in the end. QUEUES and WORKERS say how many Spillway
# has, SPILLWAY names another binary than target/release/spillway. The last line says how many
# checks passed; the exit code is 1 when one did not.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
captures=${1:-$here/../target/lab}
spillway=${SPILLWAY:-$here/../target/release/spillway}
lab_options=(--queues "${QUEUES:-1}" --workers "${WORKERS:-1}")

readonly RUN=/run/spillway-lab
readonly SERVER=203.0.113.10 EXCLUDED=203.0.113.20
readonly EGRESS=192.168.44.129 GATEWAY=192.168.44.128 WORKER1=192.168.211.128
readonly APP1=(app1-a app1-b app1-c)
readonly WITHIN_S=10
# What leaves towards the server outside the tunnel. Replies and the tunnel go elsewhere.
readonly TO_SERVER="dst host $SERVER and not udp port 8472"

passed=0
failed=0
capture=      # the file
capture_pid=  # tcpdump, on the router
download_pid= # a curl, on app1-a

lab() { "$here/netns.sh" "$@"; }
# Where a command runs is known here only: the same story can be told on virtual machines.
on() { lab exec "$@"; }
ask() { on worker2 "$spillway" "$@" --socket "$RUN/spillway/spillway.sock"; }

chapter() { printf '\n# %s\n' "$*"; }

# --- checks ----------------------------------------------------------------------------------

# check WHAT COMMAND...: the command must succeed; what it says is shown when it does not.
check() {
  local what=$1 output
  shift
  if output=$("$@" 2>&1); then
    passed=$((passed + 1))
    echo "ok $((passed + failed)) - $what"
  else
    failed=$((failed + 1))
    echo "not ok $((passed + failed)) - $what"
    printf '    command: %s\n    output:  %s\n' "$*" "${output:-(none)}"
  fi
}

# equal EXPECTED COMMAND...: the command must print exactly that.
equal() {
  local expected=$1 actual
  shift
  actual=$("$@") || true
  [[ $actual == "$expected" ]] || { echo "expected '$expected', saw '$actual'" && return 1; }
}

# matches PATTERN COMMAND...: a line that the command prints must match the regular expression.
matches() {
  local pattern=$1 actual
  shift
  actual=$("$@") || true
  grep -qE -- "$pattern" <<<"$actual" || { echo "no /$pattern/ in: $actual" && return 1; }
}

# lacks PATTERN COMMAND...: the command must succeed, and no line that it prints must match.
lacks() {
  local pattern=$1 actual
  shift
  actual=$("$@") || { echo "it failed: $actual" && return 1; }
  if grep -E -- "$pattern" <<<"$actual"; then return 1; fi
}

# refused PATTERN COMMAND...: the command must fail, and say why.
refused() {
  local pattern=$1 actual
  shift
  if actual=$("$@" 2>&1); then echo "it succeeded: $actual" && return 1; fi
  grep -qiE -- "$pattern" <<<"$actual" || { echo "no /$pattern/ in: $actual" && return 1; }
}

fails() {
  local actual
  if actual=$("$@" 2>/dev/null); then echo "it succeeded: $actual" && return 1; fi
}

# await WHAT COMMAND...: waits until a command succeeds; the story cannot go on without.
await() {
  local what=$1 deadline=$((SECONDS + WITHIN_S))
  shift
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < deadline)) || { echo "scenario.sh: $what: not within $WITHIN_S s" >&2 && exit 1; }
    sleep 0.05
  done
}

# --- what hosts do ---------------------------------------------------------------------------

# http HOST SERVER [TIMEOUT_S]: prints the address that the server saw.
http() { on "$1" curl --silent --show-error --max-time "${3:-5}" "http://$2:8000/"; }
# allowed HOST: prints the status that the server with the allow-list gives.
allowed() {
  on "$1" curl --silent --max-time 5 --output /dev/null --write-out '%{http_code}' \
    "http://$SERVER:8080/"
}
# udp HOST SERVER [TRIES]: prints the address and port that the server saw.
udp() { on "$1" python3 "$here/services/udp_echo.py" ask "$2" 8001 "${3:-3}"; }
# pings HOST DESTINATION [OPTION...]: one echo request, one reply.
pings() { on "$1" ping -n -c 1 -W 2 "${@:3}" "$2"; }
trace() { on app1-a traceroute -n -U -w 1 -q 1 -m 6 "$SERVER"; }

# download HOST BYTES: what arrives must have the checksum that the server tells.
download() {
  local expected actual
  expected=$(on "$1" curl --silent --max-time 20 "http://$SERVER:8000/sha256?bytes=$2")
  actual=$(on "$1" curl --silent --connect-timeout 5 --max-time 120 \
    "http://$SERVER:8000/download?bytes=$2" | sha256sum | cut -d' ' -f1)
  [[ -n $expected && $expected == "$actual" ]] || { echo "$actual is not '$expected'" && return 1; }
}

# shared_port HOST: the server must see the node's address and a port that is Spillway's.
shared_port() {
  local seen port
  seen=$(udp "$1" "$SERVER") || true
  port=${seen##*:}
  if ! [[ $seen =~ ^$GATEWAY:[0-9]+$ ]] || ((port < 16384 || port > 29999)); then
    echo "saw '$seen'"
    return 1
  fi
}

# --- captures on the router ------------------------------------------------------------------

capture_start() {
  local said=$captures/tcpdump.log
  capture=$captures/$1.pcap
  rm -f "$said" "$capture"
  # Files are written by `cat`: a confined tcpdump may not write where this script may.
  on router bash -c 'echo "pid $$" >&2; exec tcpdump -i any -n -U -w -' \
    > >(exec cat >"$capture") 2> >(exec cat >"$said") &
  await "tcpdump on the router listens" grep -q 'listening on' "$said"
  capture_pid=$(sed -n 's/^pid //p' "$said")
}

capture_stop() {
  [[ -n $capture_pid ]] || return 0
  # Packets of the last step are on their way to the file; when this one is in it, they are too.
  pings router "$SERVER" -p 5b5b >/dev/null
  await "the capture is complete" marked
  on router kill "$capture_pid"
  capture_pid=
}

marked() { tcpdump -n -x -r "$capture" icmp 2>/dev/null | grep -q '5b5b 5b5b'; }

# seen FILTER: how many packets of the last capture match. The marking ping is from 203.0.113.1.
seen() { tcpdump -n -r "$capture" "($1) and not host 203.0.113.1" 2>/dev/null | wc -l; }
some() { (($(seen "$1") > 0)) || { echo "no packet matches: $1" && return 1; }; }
none() {
  (($(seen "$1") == 0)) && return
  tcpdump -n -r "$capture" "($1) and not host 203.0.113.1" 2>/dev/null | head -5
  return 1
}

# --- the chapters ----------------------------------------------------------------------------

before() {
  chapter "Before: pods leave with the addresses of their nodes"
  lab up --mode none
  local pod
  for pod in app1-a app1-b app2-a; do
    check "$pod is seen as worker1 by HTTP" equal "$WORKER1" http "$pod" "$SERVER"
    check "$pod is seen as worker1 by UDP" matches "^$WORKER1:" udp "$pod" "$SERVER"
  done
  check "app1-c is seen as worker2 by HTTP" equal "$GATEWAY" http app1-c "$SERVER"
  check "app1-c is seen as worker2 by UDP" matches "^$GATEWAY:" udp app1-c "$SERVER"
  check "app1-a pings the server" pings app1-a "$SERVER"
  check "app1-a pings app1-c on the other node" pings app1-a 10.0.2.182
  check "the allow-list keeps app1-a out" equal 403 allowed app1-a
}

with_policy() {
  chapter "With the policy: app1 leaves with the egress address"
  lab up "${lab_options[@]}"
  capture_start policy
  local pod
  for pod in "${APP1[@]}"; do
    check "$pod is seen as $EGRESS by HTTP" equal "$EGRESS" http "$pod" "$SERVER"
    check "$pod is seen as $EGRESS by UDP" matches "^$EGRESS:" udp "$pod" "$SERVER"
    check "$pod pings the server" pings "$pod" "$SERVER"
  done
  capture_stop
  check "capture: the tunnel's leg, worker1 to the gateway on UDP 8472" \
    some "udp dst port 8472 and src $WORKER1 and dst $GATEWAY"
  check "capture: the tunnel's leg back" \
    some "udp dst port 8472 and src $GATEWAY and dst $WORKER1"
  check "capture: echo requests leave with the egress address" \
    some "icmp[icmptype] == icmp-echo and src $EGRESS and dst $SERVER"
  check "capture: TCP leaves with the egress address" some "tcp and src $EGRESS and dst $SERVER"
  check "capture: UDP leaves with the egress address" some "udp and src $EGRESS and dst $SERVER"
  check "capture: nothing leaves with another address" none "$TO_SERVER and not src $EGRESS"
}

not_selected() {
  chapter "What the policy does not select goes on as before"
  check "app2-a is seen as worker1 by HTTP" equal "$WORKER1" http app2-a "$SERVER"
  check "app2-a is seen as worker1 by UDP" matches "^$WORKER1:" udp app2-a "$SERVER"
  check "app2-a pings the server" pings app2-a "$SERVER"
  check "app1-a is seen as worker1 at the excluded destination" \
    equal "$WORKER1" http app1-a "$EXCLUDED"
  check "app1-c is seen as worker2 at the excluded destination" \
    equal "$GATEWAY" http app1-c "$EXCLUDED"
  # A source node that knows no exclusions: the gateway's kernel has the frame and masquerades it.
  on worker1 ip route del throw "$EXCLUDED" table 100
  check "app1-a is seen as worker2 there, when its node sends that to the gateway too" \
    equal "$GATEWAY" http app1-a "$EXCLUDED"
  on worker1 ip route add throw "$EXCLUDED" table 100
  check "app1-a pings app1-c, through the same tunnel" pings app1-a 10.0.2.182
  check "app1-c pings app2-a, through the same tunnel" pings app1-c 10.0.1.50
}

operator() {
  chapter "The operator sees it"
  check "spillway status: generation 1 is programmed" matches '"generation": ?1,' ask status -o json
  check "spillway policies: app1-a, its destination, the egress address, the gateway, the policy" \
    matches "^10\.0\.1\.40 +203\.0\.113\.0/24 +$EGRESS +$GATEWAY +app1$" ask policies
  check "spillway policies: the excluded destination" \
    matches "^10\.0\.1\.40 +203\.0\.113\.20/32 .* Excluded CIDR +app1$" ask policies
  check "spillway policies -o json: the fields of cilium-dbg" \
    matches "\"egressIP\": ?\"$EGRESS\"" ask policies -o json
  http app1-a "$SERVER" >/dev/null || true
  check "spillway flows: a connection of app1-a and its translation" \
    matches "10\.0\.1\.40.*$EGRESS|$EGRESS.*10\.0\.1\.40" ask flows
  check "spillway flows: nothing of app2-a" lacks "10\.0\.1\.50" ask flows
  check "spillway drops: no reply was without its flow" lacks "no-flow" ask drops
  local pod
  for pod in "${APP1[@]}"; do
    check "the allow-list lets $pod in" equal 200 allowed "$pod"
  done
  check "the allow-list keeps app2-a out" equal 403 allowed app2-a
}

real_traffic() {
  chapter "Real traffic"
  local path
  check "app1-a downloads 100 MiB, identical byte for byte" download app1-a 104857600
  check "app1-c, on the gateway, too" download app1-c 104857600
  check "200 connections open at once all succeed" \
    equal "200 $EGRESS" on app1-a python3 "$here/services/http_many.py" "$SERVER" 8000 200
  check "1,000 UDP flows that speak 5 times each are all answered" \
    equal "5000 $EGRESS" on app1-a python3 "$here/services/udp_many.py" "$SERVER" 8001 1000 5
  check "both directions met at their owner: no packet at a wrong worker, none without its flow" \
    lacks "wrong-worker|no-flow" ask drops
  check "ping -s 1400 is answered" pings app1-a "$SERVER" -s 1400
  path=$(trace) || true
  check "traceroute -n -U shows the router beyond the gateway" \
    matches "^ *[0-9]+ +192\.168\.44\.1 " echo "$path"
  check "traceroute -n -U ends at the server" matches "^ *[0-9]+ +${SERVER//./\\.} " echo "$path"
}

shared_address() {
  chapter "The node's own address as egress address, while the node goes on using it"
  check "spillway apply: a document with it is taken" ask apply "$here/state-shared.yaml"
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
    none "$TO_SERVER and not icmp and not (src $GATEWAY and src portrange 16384-29999)"
  node_talks
  check "app2-a still leaves with its node's address" equal "$WORKER1" http app2-a "$SERVER"
  sed 's/^generation: 1$/generation: 3/' "$here/state.yaml" >"$captures/state-3.yaml"
  check "spillway apply: back to the own egress address" ask apply "$captures/state-3.yaml"
  check "app1-a is seen as $EGRESS again" equal "$EGRESS" http app1-a "$SERVER"
  check "spillway apply: an older document is refused" \
    refused "generation" ask apply "$here/state.yaml"
}

node_talks() {
  check "the node itself talks HTTP" equal "$GATEWAY" http worker2 "$SERVER"
  check "the node itself talks UDP" matches "^$GATEWAY:" udp worker2 "$SERVER"
  # ping takes any identifier; those of Spillway's range are Spillway's.
  check "the node itself pings" pings worker2 "$SERVER" -e 77
  check "the node is pinged" pings outside "$GATEWAY"
}

# A download that is under way, and slow enough to be so for long.
download_start() {
  local into=$captures/under-way
  rm -f "$into"
  on app1-a curl --silent --limit-rate 100K --max-time 60 --output "$into" \
    "http://$SERVER:8000/download?bytes=104857600" &
  download_pid=$!
  await "the download begins" test -s "$into"
}

download_end() {
  [[ -n $download_pid ]] || return 0
  kill "$download_pid" 2>/dev/null || true
  wait "$download_pid" || true
  download_pid=
  rm -f "$captures/under-way"
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
  check "$2: their packets reach the gateway" some "udp dst port 8472 and dst $GATEWAY"
  check "$2: nothing leaves, with whatever address" none "$TO_SERVER"
  check "$2: app2-a goes on" equal "$WORKER1" http app2-a "$SERVER"
}

killed() {
  chapter "Spillway killed, in the middle of a download: selected traffic stops and never leaks"
  download_start
  capture_start killing
  check "it is killed" lab spillway kill
  capture_stop
  check "at that moment: nothing leaves with another address" \
    none "$TO_SERVER and not src $EGRESS"
  capture_start killed
  silence killed "killed"
  download_end
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
  check "spillway detach says what was detached" matches eth0 lab spillway detach
  check "app1-a leaks, with the gateway's own address" equal "$GATEWAY" http app1-a "$SERVER"
  check "app1-c gets no answer: its tunnel ends at Spillway" fails http app1-c "$SERVER" 1
}

# What someone needs who looks for the reason of a failure.
explain() {
  printf '\n# The end of %s\n' "$RUN/log/spillway"
  tail -n 40 "$RUN/log/spillway" || true
  printf '\n# spillway drops\n'
  ask drops || true
  printf '\n# spillway status\n'
  ask status || true
}

finish() {
  local code=$?
  trap - EXIT
  set +e
  if ((code != 0)); then
    failed=$((failed + 1))
    echo "not ok $((passed + failed)) - the story is told to its end (exit code $code)"
  fi
  [[ -z $capture_pid ]] || on router kill "$capture_pid"
  download_end
  ((failed == 0)) || explain 2>&1
  lab down >/dev/null || failed=$((failed + 1))
  # Made by sudo, they would be in the way of their owner's `cargo clean`.
  [[ -z ${SUDO_UID:-} ]] || chown -R "$SUDO_UID:${SUDO_GID:-0}" "$captures"
  printf '\ncaptures: %s\n' "$(cd "$captures" && pwd)/*.pcap"
  echo "$passed passed, $failed failed"
  exit $((failed > 0))
}

mkdir -p "$captures"
trap finish EXIT
trap 'exit 130' INT TERM
before
with_policy
not_selected
operator
real_traffic
shared_address
killed
stopped
detached
