#!/usr/bin/env bash
# A network plugin for Kubernetes (CNI 1.0.0): joins a pod to its node as topology.sh joins those of
# the namespaces lab. Pods of the lab get their addresses there, others two of their node's.
#
# The runtime calls it on the node, with what to do in CNI_* and the configuration on the standard
# input. /run/netns/spw-<pod> leads to the pod's namespace: `on app1-a` means the same in both labs.
set -euo pipefail

# k3s has an `ip` and an `ethtool` of its own, and puts them first.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

readonly CNI_VERSION=1.0.0
readonly LOCK=/run/spillway-lab-cni.lock

half_made=   # a pod's device
addresses=() # its addresses, by family

here=$(cd "$(dirname "$(realpath "${BASH_SOURCE[0]}")")" && pwd)
MACHINE=$(hostname)
# shellcheck source=vagrant/topology.sh
source "$here/../topology.sh"

# fail CODE MESSAGE: as the specification wants it; codes from 100 on are a plugin's own.
fail() {
  jq --null-input --arg version "$CNI_VERSION" --argjson code "$1" --arg message "$2" \
    '{cniVersion: $version, code: $code, msg: $message}' >&3
  exit 1
}

# Reads CNI_ARGS, `;` between KEY=VALUE.
argument() {
  local pair pairs
  IFS=';' read -ra pairs <<<"${CNI_ARGS-}"
  for pair in "${pairs[@]}"; do [[ $pair != "$1="* ]] || echo "${pair#*=}"; done
}

need() {
  local name
  for name in "$@"; do [[ -n ${!name-} ]] || fail 4 "the runtime has not set $name"; done
}

# The device that an earlier ADD for this container made, if any. Its alias remembers the container:
# nothing is kept in files that could outlive it.
device_of_container() {
  ip -json link | jq -r --arg id "$CNI_CONTAINERID" '.[] | select(.ifalias == $id) | .ifname'
}

# lab_address POD: of a pod of the lab on this node, or nothing.
lab_address() {
  local pod name node address
  [[ $(argument K8S_POD_NAMESPACE) == default ]] || return 0
  for pod in "${PODS[@]}"; do
    read -r name node address <<<"$pod"
    if [[ $name == "$1" && $node == "$MACHINE" ]]; then echo "$address"; fi
  done
}

# The first address of this node's range that leads to no pod.
free_address() {
  local range address last
  case $MACHINE in
    control-plane) range=$PODS_CONTROL_PLANE ;;
    worker1) range=$PODS_WORKER1 ;;
    worker2) range=$PODS_WORKER2 ;;
    *) fail 100 "$MACHINE is no node of the lab: call the machine after one" ;;
  esac
  # Of IPv6 the last part is a decimal number too, as everywhere in the lab.
  range=${range%/*}
  [[ $FAMILY == 6 ]] || range=${range%0}
  for last in {200..249}; do
    address=$range$last
    [[ -n $(ip "-$FAMILY" route show "$address/$HOST_LENGTH") ]] || { echo "$address" && return; }
  done
  fail 11 "${range}200 to ${range}249 are taken on $MACHINE: delete pods, or try again later"
}

# choose_address POD: that of a pod of the lab, or a free one.
choose_address() {
  addresses[FAMILY]=$(lab_address "$1")
  [[ -n ${addresses[FAMILY]} ]] || addresses[FAMILY]=$(free_address)
}

give_address() { address_pod "$1" "$MACHINE" "${addresses[FAMILY]}"; }

add() {
  local pod device
  need CNI_CONTAINERID CNI_NETNS CNI_IFNAME
  [[ $CNI_IFNAME == eth0 ]] || fail 4 "a pod's device is eth0 here, not $CNI_IFNAME"
  [[ -e $CNI_NETNS ]] || fail 3 "there is no namespace $CNI_NETNS"
  device=$(device_of_container)
  [[ -z $device ]] || fail 101 "container $CNI_CONTAINERID is connected already, by $device"
  pod=$(argument K8S_POD_NAME)
  device=$pod
  # Names of devices have 15 characters at most.
  [[ -n $(lab_address "$pod") ]] || device=pod-${CNI_CONTAINERID:0:10}
  ! ip link show "$device" >/dev/null 2>&1 ||
    fail 11 "$device is there for another container: try again when its pod is gone"
  for_families choose_address "$pod"
  half_made=$device
  ln -sfn "$CNI_NETNS" "/run/netns/$PREFIX$device"
  prepare_host "$device"
  make_pod "$device" "$MACHINE"
  for_families give_address "$device"
  ip link set "$device" alias "$CNI_CONTAINERID"
  half_made=
  result "$device"
}

# The next try would find half a pod.
finish() {
  [[ -n $half_made ]] || return 0
  ip link delete "$half_made" || true
  rm -f "/run/netns/$PREFIX$half_made"
  fail 102 "$half_made could not be connected on $MACHINE: the log of k3s says what failed"
}

mac_of() { on "$1" ip -json link show "$2" | jq -r '.[0].address'; }

# result DEVICE
result() {
  jq --null-input --arg version "$CNI_VERSION" --arg device "$1" \
    --arg ipv4 "${addresses[4]}" --arg ipv6 "${addresses[6]}" \
    --arg mac "$(mac_of "$MACHINE" "$1")" --arg pod_mac "$(mac_of "$1" eth0)" \
    --arg namespace "$CNI_NETNS" --argjson mtu "$POD_MTU" '{
      cniVersion: $version,
      interfaces: [{name: $device, mac: $mac, mtu: $mtu},
        {name: "eth0", mac: $pod_mac, mtu: $mtu, sandbox: $namespace}],
      ips: [{address: ($ipv4 + "/32"), gateway: "169.254.1.1", interface: 1},
        {address: ($ipv6 + "/128"), gateway: "fe80::1", interface: 1}],
      routes: [{dst: "0.0.0.0/0", gw: "169.254.1.1"}, {dst: "::/0", gw: "fe80::1"}]
    }' >&3
}

# What is gone already is well: the runtime may ask twice, and after the namespace's end.
del() {
  local device
  need CNI_CONTAINERID CNI_IFNAME
  device=$(device_of_container)
  [[ -n $device ]] || return 0
  ip link delete "$device"
  rm -f "/run/netns/$PREFIX$device"
}

check() {
  local device address ips
  need CNI_CONTAINERID CNI_NETNS CNI_IFNAME
  device=$(device_of_container)
  [[ -n $device ]] || fail 103 "no device of $MACHINE is container $CNI_CONTAINERID's"
  mapfile -t ips < <(jq -r '.prevResult.ips // [] | .[].address' <<<"$configuration")
  ((${#ips[@]})) || fail 7 "CHECK without prevResult in the configuration"
  for address in "${ips[@]}"; do
    # Without -q: `ip` must be able to say all it has to.
    nsenter --net="$CNI_NETNS" -- ip address show dev eth0 | grep -F " $address " ||
      fail 104 "eth0 of the pod behind $device has not $address"
    [[ -n $(ip "-$(family_of "$address")" route show "$address" dev "$device") ]] ||
      fail 105 "$MACHINE has no route to $address by $device"
  done
}

# The result goes to the real standard output; whatever a command says, to the log.
exec 3>&1 1>&2
trap finish EXIT
configuration=$(cat)
if [[ ${CNI_COMMAND-} == VERSION ]]; then
  echo "{\"cniVersion\": \"$CNI_VERSION\", \"supportedVersions\": [\"$CNI_VERSION\"]}" >&3
  exit
fi
version=$(jq -r '.cniVersion // "0.1.0"' <<<"$configuration" 2>/dev/null) ||
  fail 6 "the configuration on the standard input is not JSON"
[[ $version == "$CNI_VERSION" ]] ||
  fail 1 "the configuration asks for CNI $version; this plugin speaks $CNI_VERSION"
# Two pods must not find the same address free.
exec 9>"$LOCK"
flock 9
case ${CNI_COMMAND-} in
  ADD) add ;;
  DEL) del ;;
  CHECK) check ;;
  *) fail 4 "CNI_COMMAND is ADD, DEL, CHECK or VERSION, not '${CNI_COMMAND-}'" ;;
esac
