# shellcheck shell=bash
# Machines that are none: each is a namespace of network, mounts and names, in which host.sh and
# cni.sh do what they do in virtual machines. Sourced by test.sh and rehearse.sh, in namespaces of
# their own, which end with them: neither the lab nor another test is touched.
# shellcheck disable=SC2154

# The process that holds each machine's namespaces.
declare -A holder

on() {
  local host=$1
  shift
  case $host in
    app*) in_pod "$(node_of "$host")" "$host" "$@" ;;
    outside) in_pod router outside "$@" ;;
    *) in_machine "$host" "$@" ;;
  esac
}
in_machine() { nsenter --target "${holder[$1]}" --net --mount --uts -- "${@:2}"; }
in_pod() { in_machine "$1" nsenter --net="/run/netns/spw-$2" -- "${@:3}"; }
node_of() { if [[ $1 == app1-c ]]; then echo worker2; else echo worker1; fi; }

# --- the machines ----------------------------------------------------------------------------

# A machine begins with an empty /run, where network namespaces have their names.
# shellcheck disable=SC2016 # for the machine to expand
machine() {
  unshare --net --mount --uts bash -c 'mount -t tmpfs none /run
    mkdir /run/netns
    ln -s "$2/machines/cni.sh" /run/spillway-lab
    hostname "$1"
    touch /run/ready
    exec sleep infinity' machine "$1" "$here" &
  holder[$1]=$!
  await "the machine $1" in_machine "$1" test -e /run/ready
}

# card MACHINE DEVICE ADDRESS SWITCH: a network card, with the link address of Vagrantfile.
card() {
  local mac
  # shellcheck disable=SC2086 # four numbers
  mac=$(printf '02:10:%02x:%02x:%02x:%02x' ${3//./ })
  ip link add "port${3#192.168.}" up master "switch$4" type veth \
    peer name "$2" address "$mac" netns "${holder[$1]}"
}

start_machines() {
  local host subnet
  for subnet in 211 44; do ip link add "switch$subnet" up type bridge; done
  for host in router control-plane worker1 worker2; do machine "$host"; done
  card router eth1 192.168.211.1 211
  card router eth2 192.168.44.1 44
  card control-plane eth1 192.168.211.10 211
  card worker1 ens6 192.168.211.128 211
  card worker2 enp0s8 192.168.44.128 44
  for host in router control-plane worker1 worker2; do
    check "host.sh $host up" in_machine "$host" "$here/machines/host.sh" "$host" up
  done
}

# --- the plugin ------------------------------------------------------------------------------

# cni NODE COMMAND CONTAINER [POD [CONFIGURATION]]: as the container runtime calls it.
cni() {
  local configuration=${5:-'{"cniVersion": "1.0.0", "name": "lab", "type": "spillway-lab"}'}
  in_machine "$1" env CNI_COMMAND="$2" CNI_CONTAINERID="$3" CNI_NETNS="/run/netns/cni-$3" \
    CNI_IFNAME=eth0 CNI_PATH=/run \
    CNI_ARGS="IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=${4-}" \
    /run/spillway-lab <<<"$configuration"
}

# sandbox NODE CONTAINER: the namespace that the runtime makes for a pod.
sandbox() {
  in_machine "$1" ip netns add "cni-$2"
  in_machine "$1" ip -n "cni-$2" link set lo up
}
