#!/usr/bin/env bash
# Installs, upgrades and removes Spillway in a real API server, by Helm and by Kustomize. It is in
# namespaces of its own, which end with this. Needs root. There are no nodes, and nobody but the API
# server: cluster.py plays the job controller. KUBEBUILDER_ASSETS names the directory of programs.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly API_SERVER=$here/../control/testing/api-server.sh
: "${KUBEBUILDER_ASSETS:?names a directory with an API server: run \`make manifests\`}"

fail() {
  echo "k8s/cluster.sh: $*" >&2
  exit 1
}

# start LOG COMMAND...: starts it in the background.
start() {
  local log=$1
  shift
  "$@" >"$log" 2>&1 &
}

# await WHAT COMMAND...
await() {
  local what=$1 end=$((SECONDS + 120))
  shift
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < end)) || { tail -n 30 "$files"/*.log >&2 && fail "$what: not within two minutes"; }
    sleep 0.2
  done
}

((EUID == 0)) || fail "needs root, for namespaces"
if [[ ! ${SPILLWAY_CLUSTER_INSIDE-} ]]; then
  # With a process namespace, so that nothing is left running whatever happens.
  SPILLWAY_CLUSTER_INSIDE=1 exec unshare --net --mount --propagation private --pid --mount-proc \
    --fork --kill-child "$0"
fi

# Gone with the namespace: nothing to clean up.
mount -t tmpfs none /mnt
readonly files=/mnt
ip link set lo up
export KUBECONFIG=$files/admin.kubeconfig HOME=$files
"$API_SERVER" files "$files"
start "$files/etcd.log" "$API_SERVER" etcd "$files"
start "$files/server.log" "$API_SERVER" server "$files"
await "the API server is ready" "$KUBEBUILDER_ASSETS/kubectl" get --raw /readyz
await "the default namespace" "$KUBEBUILDER_ASSETS/kubectl" get namespace default
PATH=$KUBEBUILDER_ASSETS:$PATH "$here/python.sh" "$here/cluster.py"
