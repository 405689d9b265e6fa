#!/usr/bin/env bash
# Packets of the kernel's own generator (CONFIG_NET_PKTGEN), for hosts that have it: a second opinion
# on `spillway-bench pktgen`, on physical devices the fastest that sends whole kernel packets.
#
# It makes plain UDP, as servers reply to egress addresses: from remote addresses and a port to the
# egress address and a pod's port. Such a packet belongs to a flow only if a pod has opened it first
# (`spillway-bench pktgen run --distribution new` does). VXLAN it cannot make by itself: given a VXLAN
# device (--device vx0, with an address as --egress that its tunnel leads to), the kernel puts the
# outer headers in front.
#
# Its packets carry no label: the sink of `spillway-bench pktgen` passes them to the kernel. Count them
# with `ip -s link`, or where they leave the gateway.
#
# Checked for its syntax and for its refusals only: the kernel of the machine on which it was written
# has no pktgen.
set -euo pipefail

readonly PROC=/proc/net/pktgen

usage() {
  cat <<'TEXT'
usage: kernel-pktgen.sh --device DEV --target-mac MAC --egress IP [options]

  --device DEV            the device to send on
  --target-mac MAC        the next hop's link address
  --egress IP             the address that the packets are for
  --ports FIRST-LAST      its ports, drawn at random (1024-65535); pktgen itself leaves LAST out
  --remotes FIRST-LAST    addresses that they come from, likewise (203.0.113.10-203.0.113.10)
  --remote-port PORT      the port that they come from (8001)
  --size BYTES            of a frame with its FCS, 64 to 1518 (64)
  --rate PPS              of all threads; 0: as fast as it goes (0)
  --threads N             each sends on a processor and a queue of its own (1)
  --seconds S             how long (10)
TEXT
}

fail() {
  echo "kernel-pktgen.sh: $*" >&2
  exit 1
}

# in_range OPTION VALUE LEAST MOST
in_range() {
  if ! [[ $2 =~ ^(0|[1-9][0-9]{0,8})$ ]] || (($2 < $3 || $2 > $4)); then
    fail "$1 is $3 to $4, not '$2'"
  fi
}

# is_range OPTION VALUE: two values with a dash between them.
is_range() {
  [[ $2 =~ ^[0-9.]+-[0-9.]+$ ]] || fail "$1 is FIRST-LAST, not '$2'"
}

# tell FILE COMMAND...: what pktgen does not understand it says in the file itself.
tell() {
  local file=$PROC/$1
  shift
  echo "$*" >"$file" || fail "pktgen refuses '$*': $(grep Result: "$file" || true)"
}

require() {
  ((EUID == 0)) || fail "needs root, to configure the kernel's generator: try sudo"
  [[ -e $PROC ]] || modprobe pktgen 2>/dev/null || true
  [[ -e $PROC ]] ||
    fail "this kernel has no packet generator: $PROC is missing (CONFIG_NET_PKTGEN, module pktgen)." \
      "Use \`spillway-bench pktgen\`"
  ip link show dev "$device" >/dev/null 2>&1 || fail "there is no device $device here"
  (($(nproc) >= threads)) || fail "--threads $threads: there are only $(nproc) processors"
}

parse() {
  device='' target_mac='' egress=''
  ports=1024-65535 remotes=203.0.113.10-203.0.113.10 remote_port=8001
  size=64 rate=0 threads=1 seconds=10
  while (($#)); do
    case $1 in
      -h | --help)
        usage
        exit
        ;;
    esac
    (($# > 1)) || fail "$1 wants a value; see --help"
    case $1 in
      --device) device=$2 ;;
      --target-mac) target_mac=$2 ;;
      --egress) egress=$2 ;;
      --ports) ports=$2 ;;
      --remotes) remotes=$2 ;;
      --remote-port) remote_port=$2 ;;
      --size) size=$2 ;;
      --rate) rate=$2 ;;
      --threads) threads=$2 ;;
      --seconds) seconds=$2 ;;
      *) fail "there is no option '$1'; see --help" ;;
    esac
    shift 2
  done
}

check() {
  [[ $device && $egress ]] || fail "--device, --target-mac and --egress are needed; see --help"
  [[ $target_mac =~ ^([0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}$ ]] ||
    fail "--target-mac is like 02:00:00:00:00:01, not '$target_mac'"
  is_range --ports "$ports"
  is_range --remotes "$remotes"
  in_range --remote-port "$remote_port" 1 65535
  in_range --size "$size" 64 1518
  in_range --rate "$rate" 0 200000000
  in_range --threads "$threads" 1 64
  in_range --seconds "$seconds" 1 86400
}

# configure THREAD: pktgen knows a device by its name and its thread.
configure() {
  local name=$device@$1 setting
  tell "kpktgend_$1" rem_device_all
  tell "kpktgend_$1" add_device "$name"
  # A packet is built anew each time (clone_skb 0), or all would be of one flow; the FCS is not in
  # pktgen's size.
  for setting in "count 0" "clone_skb 0" "pkt_size $((size - 4))" "dst_mac $target_mac" \
    "dst $egress" "src_min ${remotes%-*}" "src_max ${remotes#*-}" "flag IPSRC_RND" \
    "udp_src_min $remote_port" "udp_src_max $remote_port" \
    "udp_dst_min ${ports%-*}" "udp_dst_max ${ports#*-}" "flag UDPDST_RND" "flag UDPCSUM" \
    "queue_map_min $1" "queue_map_max $1"; do
    tell "$name" "$setting"
  done
  if ((rate)); then tell "$name" "ratep $((rate / threads > 0 ? rate / threads : 1))"; fi
}

forget() {
  local thread
  echo stop >"$PROC/pgctrl" || true
  for ((thread = 0; thread < threads; thread++)); do
    echo rem_device_all >"$PROC/kpktgend_$thread" || true
  done
}

main() {
  parse "$@"
  check
  require
  trap forget EXIT
  local thread code=0
  for ((thread = 0; thread < threads; thread++)); do configure "$thread"; done
  # The write lasts until pktgen stops, and pktgen stops when the writer is ended.
  timeout --signal=INT "$seconds" bash -c "echo start >$PROC/pgctrl" || code=$?
  ((code == 0 || code == 124)) || fail "pktgen did not start; see $PROC and dmesg"
  for ((thread = 0; thread < threads; thread++)); do
    echo "$device@$thread:"
    sed -n '/^Result:/,$p' "$PROC/$device@$thread"
  done
}

main "$@"
