#!/usr/bin/env bash
# The lab in network namespaces. See README.md beside this file.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=vagrant/topology.sh
source "$here/topology.sh"

readonly RUN=/run/spillway-lab
readonly SOCKET=$RUN/spillway/spillway.sock
readonly SPILLWAY_LOG=$RUN/log/spillway
readonly SPILLWAY=${SPILLWAY:-$here/../target/release/spillway}
readonly WITHIN_S=15

usage() {
  cat <<'TEXT'
usage: netns.sh up [--mode spillway|kernel|none] [--queues N] [--workers N] [--flows N]
                   [--offloads on|off] [--underlay 4|6]
       netns.sh down
       netns.sh status
       netns.sh exec HOST COMMAND...
       netns.sh spillway start|stop|kill|detach
       netns.sh policy own|shared|announced
       netns.sh ask COMMAND...
       netns.sh log
       netns.sh start NAME HOST COMMAND...
       netns.sh stop NAME
       netns.sh add-pod NAME NODE IPV4 IPV6

HOST is router, worker1, worker2 (the gateway), outside, app1-a, app1-b, app2-a or app1-c, or a pod
that was added.
`up` starts Spillway on the gateway with vagrant/state.yaml; STATE names another document. With
--mode kernel the gateway's kernel does that work (VXLAN, conntrack, nftables SNAT), with --mode none
nobody does. --flows is how many flows each of Spillway's workers keeps; --offloads on lets the
kernel send large segments through the lab, which Spillway does not take. --underlay is the family
of the tunnels between the nodes: IPv4 if it is left out.
`exec` runs a command in HOST's network; its files and processes are those of this machine.
`policy` gives app1 the gateway's second address for egress, the one that the node uses too, or one
that Spillway itself announces.
`ask` is `spillway COMMAND...` to the running Spillway; `log` prints the end of its log.
`start` leaves a process running there, until `stop` or `down`; its log is in the directory that
`status` names. `add-pod` makes one more pod, whose addresses are of NODE's range.
SPILLWAY names another binary than target/release/spillway.
TEXT
}

wrong_usage() {
  usage >&2
  exit 2
}

fail() {
  echo "netns.sh: $*" >&2
  exit 1
}

# await COMMAND...: waits until a command succeeds; it looks often, so that nothing waits longer.
await() {
  local deadline=$((SECONDS + WITHIN_S))
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < deadline)) || return 1
    sleep 0.05
  done
}

# --- processes -------------------------------------------------------------------------------

# start NAME HOST COMMAND...: starts a process in a host's namespace.
start() {
  local name=$1 host=$2
  shift 2
  rm -f "$RUN/pid/$name" "$RUN/exit/$name"
  # A session of its own: Ctrl-C is for the script, and the lab outlives the terminal.
  setsid "$here/supervise.sh" "$RUN" "$name" nsenter --net="/run/netns/$PREFIX$host" -- "$@" \
    </dev/null >>"$RUN/log/$name" 2>&1 &
  disown "$!"
  await test -e "$RUN/pid/$name" || fail "$name did not start; its log is $RUN/log/$name"
}

# pid_of NAME: prints the number of a process that `start` started, if it still runs.
pid_of() {
  local pid started stat fields
  [[ -e $RUN/pid/$1 && ! -e $RUN/exit/$1 ]] || return 1
  read -r pid started <"$RUN/pid/$1"
  # It may end at any moment.
  stat=$(cat "/proc/$pid/stat" 2>/dev/null) || return 1
  read -ra fields <<<"${stat##*) }"
  [[ ${fields[19]} == "$started" && ${fields[0]} != Z ]] || return 1
  echo "$pid"
}

# stop NAME SIGNAL: ends a process, and waits for its end and its exit code.
stop() {
  local name=$1 pid
  pid=$(pid_of "$name") || return 0
  kill "-$2" "$pid" 2>/dev/null || true
  await test -e "$RUN/exit/$name" || return 1
}

start_services() {
  local address
  for address in "$SERVER" "$EXCLUDED"; do
    start "http-$address" outside python3 "$here/services/http_server.py" "$address" 8000
    start "allow-$address" outside python3 "$here/services/http_server.py" "$address" 8080 \
      "$EGRESS"
    start "udp-$address" outside python3 "$here/services/udp_echo.py" serve "$address" 8001
  done
  for address in "$SERVER" "$EXCLUDED"; do
    answers "http-$address" curl -s "http://$(in_url "$address"):8000/"
    answers "allow-$address" curl -s "http://$(in_url "$address"):8080/"
    answers "udp-$address" python3 "$here/services/udp_echo.py" ask "$address" 8001 1
  done
}

# answers NAME COMMAND...: waits until a server answers to a command of its own host.
answers() {
  local name=$1
  shift
  await on outside "$@" || fail "$name does not answer; its log is $RUN/log/$name"
}

# --- Spillway --------------------------------------------------------------------------------

write_config() {
  local queues=$1 workers=$2 flows=$3
  cat >"$RUN/spillway.yaml" <<YAML
# Made by netns.sh up. router/config.example.yaml explains every option.
devices:
  - name: $UPLINK
    queues: $queues
  - name: spw-pods
    queues: $queues
workers: $workers
flows_max: $flows
runtime_dir: $RUN/spillway
YAML
  document "${STATE:-$here/state.yaml}" >"$RUN/state.yaml"
}

ask() { on worker2 "$SPILLWAY" "$@" --socket "$SOCKET"; }

# Prints the number of the document that is programmed, or nothing.
generation() { ask status -o json 2>/dev/null | sed -n 's/.*"generation": *\([0-9]\+\).*/\1/p'; }

spillway_programmed() { [[ -n $(generation) ]]; }

# For `await`: nothing is left to wait for when it is programmed, or has ended.
spillway_decided() {
  spillway_programmed || [[ -e $RUN/exit/spillway ]]
}

spillway_start() {
  if pid_of spillway >/dev/null; then fail "Spillway runs already"; fi
  [[ -e $RUN/spillway.yaml ]] || fail "the lab is down: run \`$0 up\`"
  [[ -x $SPILLWAY ]] || fail "there is no $SPILLWAY: run \`make build\`, or set SPILLWAY"
  start spillway worker2 "$SPILLWAY" run --config "$RUN/spillway.yaml" --state "$RUN/state.yaml"
  await spillway_decided || true
  if ! spillway_programmed; then
    tail -n 20 "$SPILLWAY_LOG" >&2
    if pid_of spillway >/dev/null; then
      fail "Spillway did not program $RUN/state.yaml within $WITHIN_S s; see $SPILLWAY_LOG"
    fi
    fail "Spillway ended with exit code $(<"$RUN/exit/spillway"); see $SPILLWAY_LOG"
  fi
}

# spillway_end SIGNAL CODE: ends it, and fails unless its exit code is CODE.
spillway_end() {
  local code
  pid_of spillway >/dev/null || fail "Spillway does not run"
  stop spillway "$1" || fail "Spillway does not end on SIG$1; its log is $SPILLWAY_LOG"
  code=$(<"$RUN/exit/spillway")
  [[ $code == "$2" ]] || fail "Spillway ended with exit code $code on SIG$1, not $2"
}

spillway_command() {
  case ${1:-} in
    start) spillway_start ;;
    stop) spillway_end TERM 0 ;;
    kill) spillway_end KILL 137 ;;
    detach) on worker2 "$SPILLWAY" detach --runtime-dir "$RUN/spillway" ;;
    *) wrong_usage ;;
  esac
}

# policy own|shared|announced: puts a document of this directory, as newer than the one that is running.
policy() {
  local document running
  case ${1:-} in
    own) document=$here/state.yaml ;;
    shared) document=$here/state-shared.yaml ;;
    announced) document=$here/state-announced.yaml ;;
    *) wrong_usage ;;
  esac
  running=$(generation)
  [[ -n $running ]] || fail "Spillway does not run: run \`$0 spillway start\`"
  document "$document" | sed "s/^generation: .*/generation: $((running + 1))/" |
    ask apply -
}

# --- commands --------------------------------------------------------------------------------

require() {
  ((EUID == 0)) || fail "needs root, to make network namespaces: try sudo"
  local tool
  for tool in conntrack curl ethtool ip nft nsenter python3 sysctl; do
    command -v "$tool" >/dev/null || fail "$tool is missing: run \`make packages\`"
  done
}

# Tries in a namespace that ends with the command: a missing module is named, not guessed.
require_kernel() {
  unshare --net ip link add probe type veth 2>/dev/null ||
    fail "this kernel has no veth devices (module veth)"
  unshare --net ip link add probe type vxlan external dstport 8472 2>/dev/null ||
    fail "this kernel has no VXLAN devices (module vxlan)"
  [[ -d /proc/sys/net/ipv6 ]] ||
    fail "this kernel has no IPv6 (module ipv6, or the boot option ipv6.disable)"
  local ip
  for ip in ip ip6; do
    unshare --net nft "add table $ip probe;
      add chain $ip probe nat { type nat hook postrouting priority srcnat; };
      add rule $ip probe nat masquerade" 2>/dev/null ||
      fail "this kernel cannot masquerade $ip (modules nf_tables, nft_chain_nat, nft_masq)"
  done
}

# in_range OPTION MAXIMUM VALUE
in_range() {
  if ! [[ $3 =~ ^[1-9][0-9]{0,7}$ ]] || (($3 > $2)); then fail "$1 is 1 to $2, not '$3'"; fi
}

up() {
  local mode=spillway queues=1 workers=1 flows=65536 offloads=off underlay=4
  while (($#)); do
    (($# > 1)) || wrong_usage
    case $1 in
      --mode) mode=$2 ;;
      --queues) queues=$2 ;;
      --workers) workers=$2 ;;
      --flows) flows=$2 ;;
      --offloads) offloads=$2 ;;
      --underlay) underlay=$2 ;;
      *) wrong_usage ;;
    esac
    shift 2
  done
  [[ $mode =~ ^(spillway|kernel|none)$ ]] || fail "--mode is spillway, kernel or none, not '$mode'"
  [[ $offloads =~ ^(on|off)$ ]] || fail "--offloads is on or off, not '$offloads'"
  if [[ $mode == spillway && $offloads == on ]]; then
    fail "--offloads on is for other modes: Spillway takes frames as they are on a wire"
  fi
  use_underlay "$underlay" || fail "--underlay is 4 or 6, not '$underlay'"
  in_range --queues 64 "$queues"
  in_range --workers 64 "$workers"
  in_range --flows 16777216 "$flows"
  readonly OFFLOADS=$offloads
  bring_up "$mode" "$queues" "$workers" "$flows"
}

bring_up() {
  local mode=$1 queues=$2 workers=$3 flows=$4
  local options="mode=$mode queues=$queues workers=$workers flows=$flows offloads=$OFFLOADS"
  options+=" underlay=$UNDERLAY"
  if ! is_up "$mode" "$options"; then
    require_kernel
    down
    mkdir -p "$RUN/pid" "$RUN/exit" "$RUN/log"
    write_config "$queues" "$workers" "$flows"
    make_topology "$mode" "$queues"
    for_families start_services
    if [[ $mode == spillway ]]; then spillway_start; fi
    forget_connections
    # Last: a lab that was not finished is made again.
    echo "$options" >"$RUN/options"
  fi
  echo "the lab is up: $options"
}

is_up() {
  [[ -e $RUN/options && $(<"$RUN/options") == "$2" ]] || return 1
  [[ $1 != spillway ]] || spillway_programmed
}

# A connection that a node's kernel remembers would keep its translation whatever the mode.
forget_connections() {
  local node
  for node in worker1 worker2; do on "$node" conntrack -F >/dev/null 2>&1; done
}

# Works on half a lab too, whatever part was made.
down() {
  local file name
  for file in "$RUN"/pid/*; do
    name=$(basename "$file")
    stop "$name" TERM || stop "$name" KILL || fail "$name does not end: $(<"$file")"
  done
  remove_topology
  if mountpoint -q "$RUN/spillway/bpf"; then umount "$RUN/spillway/bpf"; fi
  rm -rf "$RUN"
}

addresses() {
  local pod
  echo "egress address   $EGRESS"
  echo "gateway          worker2 $GATEWAY"
  echo "servers          $SERVER $EXCLUDED"
  for pod in "${PODS[@]}"; do echo "pod              $pod"; done
}

status() {
  if [[ ! -e $RUN/options ]]; then
    echo "the lab is down"
    return
  fi
  local pid
  echo "options          $(<"$RUN/options")"
  for_families addresses
  echo "operator socket  $SOCKET"
  if pid=$(pid_of spillway); then
    echo "spillway         process $pid"
  else
    echo "spillway         not running"
  fi
  echo "configuration    $RUN/spillway.yaml"
  echo "state document   $RUN/state.yaml"
  echo "log              $SPILLWAY_LOG"
}

run_on() {
  (($# >= 2)) || wrong_usage
  [[ -e /run/netns/$PREFIX$1 ]] || fail "there is no host $1: see \`$0 help\`; is the lab up?"
  # In this process's place, so that a signal to it reaches the command.
  exec nsenter --net="/run/netns/$PREFIX$1" -- "${@:2}"
}

# The lab that is up says of which family its tunnels are.
recall_underlay() {
  local option options=()
  [[ ! -e $RUN/options ]] || read -ra options <"$RUN/options"
  for option in "${options[@]}"; do
    [[ $option != underlay=* ]] || use_underlay "${option#*=}"
  done
}

main() {
  shopt -s nullglob
  local command=${1:-}
  (($# == 0)) || shift
  case $command in
    up | down | exec | spillway | policy | ask | start | stop | add-pod) require ;;
  esac
  recall_underlay
  case $command in
    up) up "$@" ;;
    down)
      down
      echo "the lab is down"
      ;;
    status) status ;;
    exec) run_on "$@" ;;
    spillway) spillway_command "$@" ;;
    policy) policy "$@" ;;
    ask)
      [[ -e $RUN/options ]] || fail "the lab is down: run \`$0 up\`"
      ask "$@"
      ;;
    log) tail -n 40 "$SPILLWAY_LOG" ;;
    start)
      (($# >= 3)) || wrong_usage
      [[ -e $RUN/options ]] || fail "the lab is down: run \`$0 up\`"
      start "$@"
      ;;
    stop)
      (($# == 1)) || wrong_usage
      stop "$1" TERM || stop "$1" KILL || fail "$1 does not end"
      ;;
    add-pod)
      (($# == 4)) || wrong_usage
      [[ -e $RUN/options ]] || fail "the lab is down: run \`$0 up\`"
      [[ ! -e /run/netns/$PREFIX$1 ]] || fail "there is a host $1 already"
      add_pod_host "$@"
      ;;
    -h | --help | help) usage ;;
    *) wrong_usage ;;
  esac
}

main "$@"
