#!/usr/bin/env bash
# Rehearses `machines.sh story` without machines: the whole of scenario.sh by the commands of
# machines.sh, on pretended machines, with a real API server, the router and spillway-control.
#
#   rehearse.sh [DIRECTORY]     captures go to DIRECTORY, target/lab when it is not named
#
# Stand-ins, which are this file under other names, take the place of vagrant, ssh and sudo, of k3s
# and systemctl on the machines, and of what keeps worker2's containers. So it says nothing of
# those, nor of provision.sh; but of every command that machines.sh and the story give. Needs root.
set -euo pipefail

here=$(cd "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/.." && pwd)
# A file system of its own is mounted there, and gone with the rehearsal.
readonly FILES=$here/.vagrant
binaries=${BINARIES:-$here/../target/release}
: "${KUBEBUILDER_ASSETS:?names a directory with etcd, kube-apiserver and kubectl}"

# On worker2's loopback, because spillway-control is there.
kubectl() {
  nsenter --target "$(<"$FILES/worker2")" --net -- "$KUBEBUILDER_ASSETS/kubectl" \
    --kubeconfig "$FILES/admin.kubeconfig" --cache-dir "$FILES/cache" "$@"
}

# --- stand-ins -------------------------------------------------------------------------------

# ssh -F FILE -o OPTION... MACHINE [COMMAND]
stand_in_ssh() {
  local machine
  shift 2
  while [[ $1 == -o ]]; do shift 2; done
  machine=$1
  shift
  # Asked for a connection to share, or whether there is one.
  [[ ${1-} != -[OM] ]] || return 0
  [[ $* != *"$here"* ]] || { echo "ssh: no machine has $here: $*" >&2 && return 255; }
  exec nsenter --target "$(<"$FILES/$machine")" --net --mount --uts -- \
    bash -c "${*//\/spillway\/vagrant/"$here"}"
}

stand_in_k3s() {
  local state=RUNNING code=0
  if [[ -e $FILES/exit ]]; then state=EXITED code=$(<"$FILES/exit"); fi
  case $1-$2 in
    kubectl-*) kubectl "${@:2}" ;;
    crictl-ps) [[ $state == EXITED ]] || echo router ;;
    crictl-inspect)
      echo "{\"info\": {\"pid\": $(<"$FILES/container")},
        \"status\": {\"state\": \"CONTAINER_$state\", \"exitCode\": $code}}"
      ;;
    *) return 1 ;;
  esac
}

# The router's container, with the pins where the DaemonSet mounts them. Outlives the kubelet.
stand_in_shim() {
  local code=0
  # shellcheck disable=SC2016 # for the container to expand
  unshare --mount bash -c 'mkdir -p /run/spillway/bpf /sys/fs/bpf/spillway
    mount --bind /sys/fs/bpf/spillway /run/spillway/bpf
    echo "$$" >"$1/container"
    exec "$2" run --config "$3"' router "$FILES" "$binaries/spillway" \
    "$here/machines/config.yaml" || code=$?
  echo "$code" >"$FILES/exit"
}

# worker2's kubelet and what makes the DaemonSet's pod: both containers run while the node has its
# label, and the router's is started again when it ended.
stand_in_kubelet() {
  local control='' wanted
  echo "$$" >"$FILES/kubelet"
  while sleep 0.2; do
    wanted=$(kubectl get node worker2 \
      --output jsonpath='{.metadata.labels.spillway\.io/gateway}') || continue
    if [[ $wanted == true && -z $control ]]; then
      kubectl create -f "$FILES/pod.json" >/dev/null
      start_control &
      control=$!
    fi
    if [[ $wanted == true && -e $FILES/exit ]]; then
      rm "$FILES/exit"
      setsid "$FILES/bin/shim" >>"$FILES/router.log" 2>&1 &
    fi
    if [[ $wanted != true && -n $control ]]; then
      kill "$control"
      [[ -e $FILES/exit ]] || kill "$(<"$FILES/container")"
      until [[ -e $FILES/exit ]]; do sleep 0.1; done
      kubectl delete -f "$FILES/pod.json" --grace-period=0 --force >/dev/null 2>&1
      control=
    fi
  done
}

start_control() {
  export KUBECONFIG=$FILES/control.kubeconfig NODE_NAME=worker2
  # What kustomization.yaml gives it.
  export SPILLWAY_ANNOUNCE_ON=uplink SPILLWAY_NAT64_PREFIX=64:ff9b::/96
  SPILLWAY_OWN_PODS='{address: 169.254.44.2, peers: [{address: 169.254.44.1, device: spw-pods,
    mac: "02:00:a9:fe:2c:01"}]}' \
    exec "$binaries/spillway-control" run >>"$FILES/control.log" 2>&1
}

case ${0##*/} in
  vagrant) printf 'Host %s\n' router control-plane worker1 worker2 ;;
  ssh) stand_in_ssh "$@" ;;
  sudo) "$@" ;;
  systemctl) cat "$FILES/kubelet" ;;
  k3s) stand_in_k3s "$@" ;;
  kubelet) stand_in_kubelet ;;
  shim) stand_in_shim ;;
esac
[[ ${0##*/} == rehearse.sh ]] || exit 0

# --- the rehearsal ---------------------------------------------------------------------------

if [[ ! ${MACHINES_REHEARSAL_INSIDE-} ]]; then
  ((EUID == 0)) || { echo "rehearse.sh: needs root, for namespaces: try sudo" >&2 && exit 1; }
  mkdir -p "$FILES"
  # Made by sudo, it would be in the way of its owner's `vagrant up`.
  [[ -z ${SUDO_UID:-} ]] || chown "$SUDO_UID:${SUDO_GID:-0}" "$FILES"
  # With a process namespace, so that nothing is left running whatever happens.
  MACHINES_REHEARSAL_INSIDE=1 exec unshare --net --mount --propagation private --pid --fork \
    --mount-proc --kill-child "$0" "$@"
fi

captures= # the story's matter
# shellcheck source=vagrant/checks.sh
source "$here/checks.sh"
# shellcheck source=vagrant/cluster.sh
source "$here/cluster.sh"
# shellcheck source=vagrant/machines/pretend.sh
source "$here/machines/pretend.sh"

lay_out_files() {
  local name
  mount -t tmpfs none "$FILES"
  mount -t bpf none /sys/fs/bpf
  mkdir "$FILES/bin"
  for name in vagrant ssh sudo systemctl k3s kubelet shim; do
    ln -s "$here/machines/rehearse.sh" "$FILES/bin/$name"
  done
  ln -s "$(realpath "$binaries/spillway")" "$FILES/bin/spillway"
  export PATH=$FILES/bin:$PATH
  touch "$FILES/exit"
  cat >"$FILES/pod.json" <<'JSON'
{"apiVersion": "v1", "kind": "Pod",
 "metadata": {"name": "spillway", "namespace": "spillway-system",
  "labels": {"app.kubernetes.io/component": "gateway"}},
 "spec": {"nodeName": "worker2", "containers": [{"name": "router", "image": "none"}]}}
JSON
}

start_servers() {
  local address
  for address in "$SERVER" "$EXCLUDED"; do
    on outside python3 "$here/services/http_server.py" "$address" 8000 2>/dev/null &
    on outside python3 "$here/services/http_server.py" "$address" 8080 "$EGRESS" 2>/dev/null &
    on outside python3 "$here/services/udp_echo.py" serve "$address" 8001 &
  done
  await "the server answers" on outside curl --silent "http://$(in_url "$SERVER"):8000/"
}

start_cluster() {
  local host
  for host in "${!holder[@]}"; do echo "${holder[$host]}" >"$FILES/$host"; done
  "$API_SERVER" files "$FILES"
  in_machine worker2 ip link set lo up
  in_machine worker2 "$API_SERVER" etcd "$FILES" 2>/dev/null &
  in_machine worker2 "$API_SERVER" server "$FILES" 2>"$FILES/api-server.log" &
  local WITHIN_S=120
  await "the API server is ready" kubectl get --raw /readyz
  await "the default namespace" kubectl get namespace default
  in_machine worker2 env KUBECONFIG="$FILES/admin.kubeconfig" \
    "$binaries/spillway-control" crds install
  add_objects
  control_kubeconfig "$FILES"
}

# connect NODE POD
connect() {
  sandbox "$1" "$2"
  cni "$1" ADD "$2" "$2" >/dev/null
}

lay_out_files
start_machines
for_families start_servers
connect worker1 app1-a
connect worker1 app1-b
connect worker1 app2-a
connect worker2 app1-c
start_cluster
in_machine worker2 "$FILES/bin/kubelet" 2>"$FILES/kubelet.log" &
await "the kubelet" test -s "$FILES/kubelet"
"$here/machines.sh" story "$@"
