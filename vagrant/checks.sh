# shellcheck shell=bash
# What the stories check with, and what their hosts do. Sourced by scenario.sh and kubernetes.sh,
# which say where captures go ($captures), what `on HOST COMMAND` is, and what someone needs who
# looks for the reason of a failure (`explain`).
# shellcheck disable=SC2034,SC2154

# shellcheck source=vagrant/addresses.sh
source "$here/addresses.sh"

WITHIN_S=10

passed=0
failed=0
capture=      # the file
capture_pid=  # tcpdump, on the router
download_pid= # a curl, on a pod
download_code=
gap_pid= # what measures a gap, on a pod

lab() { "${LAB:-$here/netns.sh}" "$@"; }

chapter() {
  local of=
  [[ $FAMILY == 4 ]] || of="IPv$FAMILY: "
  printf '\n# %s%s\n' "$of" "$*"
}

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

# within COMMAND...: the command must succeed before long.
within() {
  local deadline=$((SECONDS + WITHIN_S))
  until "$@" >/dev/null 2>&1 || ((SECONDS >= deadline)); do sleep 0.05; done
  "$@"
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
http() { on "$1" curl --silent --show-error --max-time "${3:-5}" "http://$(in_url "$2"):8000/"; }
# allowed HOST: prints the status that the server with the allow-list gives.
allowed() {
  on "$1" curl --silent --max-time 5 --output /dev/null --write-out '%{http_code}' \
    "http://$(in_url "$SERVER"):8080/"
}
# udp HOST SERVER [TRIES [BYTES [whole|cut [QUESTION]]]]: prints the address and port that the server
# saw, and the size of its answer if one was asked for.
udp() { on "$1" python3 "$here/services/udp_echo.py" ask "$2" 8001 "${@:3}"; }
# endpoint ADDRESS: the pattern of that, for an address with any port.
endpoint() { if [[ $1 == *:* ]]; then echo "\\[$1\\]:[0-9]+"; else echo "${1//./\\.}:[0-9]+"; fi; }
# pattern_of POD: of its address.
pattern_of() {
  local address
  address=$(address_of "$1")
  echo "${address//./\\.}"
}
# pings HOST DESTINATION [OPTION...]: one echo request, one reply.
pings() { on "$1" ping -n -c 1 -W 2 "${@:3}" "$2"; }
# mac_of HOST DEVICE: prints its link address.
mac_of() { on "$1" ip -brief link show dev "$2" | awk '{ print $3 }'; }
# trace POD
trace() { on "$1" traceroute -n -U -w 1 -q 1 -m 6 "$SERVER"; }

# over_nat64 COMMAND...: with the server called as pods without IPv4 do.
over_nat64() {
  local server
  server=$(by_nat64 "$SERVER")
  local SERVER=$server
  "$@"
}
# lose_ipv4 POD: it has IPv6 only from here on.
lose_ipv4() { on "$1" ip -4 address flush dev eth0; }
# regain_ipv4 POD ADDRESS
regain_ipv4() {
  on "$1" ip address add "$2/32" dev eth0
  on "$1" ip route add 169.254.1.1 dev eth0
  on "$1" ip route add default via 169.254.1.1 dev eth0
}

# checksum_of HOST BYTES: prints the checksum that the server tells of a download.
checksum_of() {
  on "$1" curl --silent --max-time 20 "http://$(in_url "$SERVER"):8000/sha256?bytes=$2"
}

# download HOST BYTES: what arrives must have that checksum.
download() {
  local expected actual
  expected=$(checksum_of "$1" "$2")
  actual=$(on "$1" curl --silent --connect-timeout 5 --max-time 120 \
    "http://$(in_url "$SERVER"):8000/download?bytes=$2" | sha256sum | cut -d' ' -f1)
  [[ -n $expected && $expected == "$actual" ]] || { echo "$actual is not '$expected'" && return 1; }
}

# throughput POD sends|receives: two seconds of iperf3 between the pod and the server. What both said
# stays with the captures; it must be no error, and more than nothing.
throughput() {
  local log=$captures/iperf3.log result=$captures/iperf3-$2.json server options=()
  [[ $2 == sends ]] || options=(--reverse)
  rm -f "$log" "$result"
  on outside timeout 30 iperf3 --server --one-off --forceflush --bind "$SERVER" >"$log" 2>&1 &
  server=$!
  await "iperf3 listens" grep -q 'Server listening' "$log"
  on "$1" timeout 20 iperf3 --client "$SERVER" --time 2 --json "${options[@]}" >"$result" || true
  wait "$server" || { echo "iperf3 on the server: $(<"$log")" && return 1; }
  jq -e '.error == null and .end.sum_received.bytes > 0' "$result" ||
    { cat "$result" && return 1; }
}

# rate sends|receives: what arrived in the last throughput.
rate() {
  jq -r '"\(.end.sum_received.bits_per_second / 1e6 | round) Mbit/s"' "$captures/iperf3-$1.json"
}

# download_start POD [FILE [BYTES [RATE]]]: one that would take a minute or more.
download_start() {
  on "$1" curl --silent --limit-rate "${4:-100K}" --max-time 60 \
    "http://$(in_url "$SERVER"):8000/download?bytes=${3:-104857600}" >"${2:-/dev/null}" &
  download_pid=$!
}

# Lets the one that was started come to its end.
download_finish() {
  download_code=0
  wait "$download_pid" || download_code=$?
  download_pid=
}

# has_arrived FILE CHECKSUM: it must have come to its end, and be that.
has_arrived() {
  local actual
  actual=$(sha256sum <"$1" | cut -d' ' -f1)
  [[ $download_code == 0 && $actual == "$2" ]] ||
    { echo "curl: exit code $download_code; $actual is not '$2'" && return 1; }
}

download_end() {
  [[ -n $download_pid ]] || return 0
  kill "$download_pid" 2>/dev/null || true
  wait "$download_pid" || true
  download_pid=
}

# gap_start POD FILE: speaks to the UDP echo without a pause, until `gap_finish`.
gap_start() {
  # Nothing that is started meanwhile inherits its input.
  coproc GAP { on "$1" python3 "$here/services/udp_gap.py" "$SERVER" 8001 >"$2"; }
  gap_pid=$!
  await "UDP is answered" grep -q begun "$2"
}

gap_finish() {
  local input=${GAP[1]}
  exec {input}>&-
  wait "$gap_pid" || true
}

# shared_port HOST: the server must see the node's address and a port that is Spillway's.
shared_port() {
  local seen port
  seen=$(udp "$1" "$SERVER") || true
  port=${seen##*:}
  if ! [[ $seen =~ ^$(endpoint "$GATEWAY")$ ]] || ((port < 16384 || port > 29999)); then
    echo "saw '$seen'"
    return 1
  fi
}

# --- captures on the router ------------------------------------------------------------------

# capture_start NAME [FILTER]: of everything, unless the filter says less.
capture_start() {
  local filter=${2:-not tcp port 22} said=$captures/tcpdump.log
  capture=$captures/$1-ipv$FAMILY.pcap
  rm -f "$said" "$capture"
  # Files are written by `cat`: a confined tcpdump may not write where this script may.
  # Without ssh, which may be what carries this very capture.
  # shellcheck disable=SC2016 # for the router to expand
  on router bash -c 'echo "pid $$" >&2; exec tcpdump -i any -n -U -w - "$1"' bash "$filter" \
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

marked() { tcpdump -n -x -r "$capture" 'icmp or icmp6' 2>/dev/null | grep -q '5b5b 5b5b'; }

# matching FILTER: packets of the last capture; without the marking ping, which is the router's, and
# without neighbour discovery, of which hosts send each other some by unicast, as they do with ARP.
matching() {
  tcpdump -n -r "$capture" \
    "($1) and not host $ROUTER_OUTSIDE and not (icmp6 and ip6[40] >= 133 and ip6[40] <= 137)" \
    2>/dev/null
}
some() { (($(matching "$1" | wc -l) > 0)) || { echo "no packet matches: $1" && return 1; }; }
none() {
  local packets
  # What tcpdump cannot understand matches nothing either.
  tcpdump -d -r "$capture" "$1" >/dev/null || return 1
  packets=$(matching "$1") || true # the last one may not be whole
  [[ -n $packets ]] || return 0
  head -5 <<<"$packets"
  return 1
}

# The tunnel's legs, by what its outer headers say.
tunnel_to_gateway() {
  echo "udp dst port 8472 and src $UNDERLAY_WORKER1 and dst $UNDERLAY_GATEWAY"
}
tunnel_to_worker1() {
  echo "udp dst port 8472 and src $UNDERLAY_GATEWAY and dst $UNDERLAY_WORKER1"
}

# to_server: what leaves towards the server outside the tunnel. Replies and the tunnel go elsewhere.
to_server() { echo "dst host $SERVER and not udp port 8472"; }
# untranslated: what leaves as a pod without IPv4 has sent it, or with a wrong address.
untranslated() { echo "dst net $NAT64_PREFIX or ($(to_server) and not src $EGRESS)"; }

# --- the story -------------------------------------------------------------------------------

# story CHAPTER...: tells it, cleans up and ends.
story() {
  local chapter
  mkdir -p "$captures"
  trap finish EXIT
  trap 'exit 130' INT TERM
  for chapter in "$@"; do "$chapter"; done
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
