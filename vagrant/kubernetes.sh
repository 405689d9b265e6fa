#!/usr/bin/env bash
# The lab of netns.sh with a real Kubernetes API server, and spillway-control on the gateway.
#
#   kubernetes.sh [DIRECTORY]     the story of the control plane, in a lab of its own; captures go to
#                                 DIRECTORY, target/lab when it is not named
#   kubernetes.sh up              a lab to look around in, without any policy; nothing when it is up
#   kubernetes.sh down
#   kubernetes.sh kubectl ARGUMENTS...
#   kubernetes.sh control ARGUMENTS...    spillway-control
#   kubernetes.sh pod NAME[.NAMESPACE] NODE NUMBER [LABEL=VALUE...]
#                                 one more pod, whose address ends in NUMBER; nothing when it is there
#
# There are no kubelets: this script makes the objects that they would make, and plays Cilium's
# agent, which sends a selected pod's traffic to the gateway: the story by itself, `up` by
# agent.sh. A lab that is up is replaced, by the story, and removed in the end.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
captures=$here/../target/lab
binaries=${BINARIES:-$here/../target/release}
export SPILLWAY=$binaries/spillway STATE=$here/state-empty.yaml
: "${KUBEBUILDER_ASSETS:?run \`make demo-kubernetes\`, which provides the API server}"

readonly RUN=/run/spillway-lab
readonly FILES=$RUN/kubernetes

# shellcheck source=vagrant/checks.sh
source "$here/checks.sh"
# shellcheck source=vagrant/cluster.sh
source "$here/cluster.sh"

on() { lab exec "$@"; }
ask() { lab ask "$@"; }
# The API server is on the gateway's loopback.
kubectl() {
  on worker2 "$KUBEBUILDER_ASSETS/kubectl" --kubeconfig "$FILES/admin.kubeconfig" \
    --cache-dir "$FILES/cache" "$@"
}
control() {
  on worker2 env KUBECONFIG="$FILES/admin.kubeconfig" SPILLWAY_NAT64_PREFIX="$NAT64_PREFIX" \
    "$binaries/spillway-control" "$@"
}

# --- the cluster -----------------------------------------------------------------------------

start_server() {
  lab start api-server worker2 "$API_SERVER" server "$FILES"
  local WITHIN_S=120
  await "the API server is ready" kubectl get --raw /readyz
}

start_cluster() {
  mkdir -p "$FILES"
  "$API_SERVER" files "$FILES"
  lab start etcd worker2 "$API_SERVER" etcd "$FILES"
  start_server
  await "the default namespace" kubectl get namespace default
}

# start_control [OPTION...]
start_control() {
  control_kubeconfig "$FILES"
  lab start control worker2 env KUBECONFIG="$FILES/control.kubeconfig" \
    "$binaries/spillway-control" run --node worker2 --socket "$RUN/spillway/spillway.sock" \
    --own-pods '{address: 169.254.44.2, peers: [{address: 169.254.44.1, device: spw-pods,
      mac: "02:00:a9:fe:2c:01"}]}' "$@"
}

# said POLICY: its line in the table.
said() { kubectl get spillwaypolicystatuses --no-headers "$1.worker2"; }
reads() { matches "$1" said "$2"; }

# steer add|del POD: Cilium's agent on worker1 sends a pod's traffic to the gateway, or no longer.
steer() { on worker1 ip "-$FAMILY" rule "$1" from "$(address_of "$2")" lookup 100 priority 100; }

# programmed_pod POD: the router has it, by this family.
programmed_pod() { matches "^$(pattern_of "$1") " ask policies; }
gone_pod() { lacks "^$(pattern_of "$1") " ask policies; }

# dropped REASON: the line of that in the table, if it is not for nothing.
dropped() { ask drops | grep -E "$1.* [1-9]"; }
# more_dropped REASON LINE: it is another line than that.
more_dropped() {
  local line
  line=$(dropped "$1") || true
  [[ -n $line && $line != "$2" ]] || { echo "still: $line" && return 1; }
}

# --- the chapters ----------------------------------------------------------------------------

before() {
  chapter "A cluster: two nodes, four pods, an API server; Spillway runs and has nothing to do"
  lab up --queues 2 --workers 2
  start_cluster
  check "spillway-control crds install brings the definitions" \
    matches "ciliumegressgatewaypolicies.cilium.io: created" control crds install
  check "again: Cilium's is left alone" \
    matches "ciliumegressgatewaypolicies.cilium.io: is there" control crds install
  add_objects
  start_control --nat64-prefix "$NAT64_PREFIX"
  check "app1-a is seen as its nodes are" equal "$GATEWAY" http app1-a "$SERVER"
}

labelled_node() {
  kubectl label node worker2 egress-node=true spillway.io/gateway=true >/dev/null
  for_translated with_policy
}

with_policy() {
  local file=$here/$POLICY_FILE
  chapter "A node is labelled, a policy applied: pods leave with the egress address"
  check "spillway-control lint: the policy is good" \
    matches "1 policies, 0 refused" control lint "$file"
  check "kubectl apply" kubectl apply -f "$file"
  await "the policy is programmed" reads "True +True +False" "$POLICY"
  check "kubectl get spillwaypolicystatuses: the gateway, the address, three pods" \
    reads "^$POLICY.worker2 +$POLICY +worker2 +$EGRESS +3 +True +True +False +Programmed" "$POLICY"
  local pod
  for pod in app1-a app1-b app1-c; do
    check "$pod is seen as $EGRESS" equal "$EGRESS" http "$pod" "$SERVER"
  done
  check "app2-a is seen as worker1" equal "$WORKER1" http app2-a "$SERVER"
  check "app1-a at the excluded destination is seen as worker1" \
    equal "$WORKER1" http app1-a "$EXCLUDED"
  check "explain: the policy, the gateway, the address" \
    matches "egress address: $EGRESS" control explain default/app1-a "$SERVER"
  check "explain: the exclusion" \
    matches "excludes $EXCLUDED" control explain default/app1-a "$EXCLUDED"
  check "explain: what is in the cluster" \
    matches "$WORKER1 is in the cluster" control explain default/app1-a "$WORKER1"
}

labels() {
  chapter "A pod is labelled: it joins within a second. The label is removed: nothing leaks"
  steer add app2-a
  local since=$EPOCHREALTIME took flow deselected no_policy
  flow=$(pattern_of app2-a)
  kubectl label pod app2-a app=app1 --overwrite >/dev/null
  await "the pod is programmed" programmed_pod app2-a
  took=$(((${EPOCHREALTIME/[.,]/} - ${since/[.,]/}) / 1000))
  check "programmed after ${took} ms, kubectl included" test "$took" -lt 1500
  check "app2-a is seen as $EGRESS" equal "$EGRESS" http app2-a "$SERVER"
  check "its flow is there" matches "$flow" ask flows
  download_start app2-a
  await "the download begins" matches "$flow.* established" ask flows
  capture_start unlabelled
  # What another family's telling of this chapter has left there does not count.
  deselected=$(dropped deselected) || true
  no_policy=$(dropped no-policy) || true
  kubectl label pod app2-a app=app2 --overwrite >/dev/null
  await "the pod is gone" gone_pod app2-a
  check "its download ends here: late packets die by name" \
    await "a late packet" more_dropped deselected "$deselected"
  check "its node still sends it here: it gets no answer" fails http app2-a "$SERVER" 1
  check "nothing of it is the kernel's: that dies by name too" more_dropped no-policy "$no_policy"
  download_end
  capture_stop
  check "capture: nothing leaks with the gateway's address" none "$(to_server) and src $GATEWAY"
  steer del app2-a
  capture_start unsteered
  check "its node has heard of it, too: app2-a is seen as worker1" \
    equal "$WORKER1" http app2-a "$SERVER"
  capture_stop
  check "nothing leaves with the egress address anymore" none "src $EGRESS"
}

faults() {
  chapter "A policy with an address that is nowhere says so"
  sed "s/name: $POLICY$/name: nowhere/; s/$EGRESS/$NOWHERE/" "$here/$POLICY_FILE" |
    kubectl apply -f - >/dev/null
  await "it is reported" reads "False" nowhere
  check "its status: EgressAddressMissing" reads "EgressAddressMissing" nowhere
  # An event is told after the status that it tells of.
  check "its events: the address and the gateway" \
    within matches "$NOWHERE.*worker2" kubectl get events -o wide
  check "app1-a goes on" equal "$EGRESS" http app1-a "$SERVER"
  kubectl delete cegp nowhere >/dev/null
}

# One pod is as all are in a cluster of IPv6 alone.
nat64() {
  local ipv4 ipv6
  ipv4=$(address_of app1-b)
  ipv6=$(use_family 6 && address_of app1-b)
  chapter "A pod has IPv6 only: the policy of IPv4 destinations is its own too, by NAT64"
  lose_ipv4 app1-b
  set_status /api/v1/namespaces/default/pods/app1-b \
    "{\"podIP\": \"$ipv6\", \"podIPs\": [{\"ip\": \"$ipv6\"}]}"
  await "its IPv4 address is gone" lacks "^${ipv4//./\\.} " ask policies
  check "app1-b is seen as $EGRESS at 64:ff9b::$SERVER" \
    equal "$EGRESS" http app1-b "64:ff9b::$SERVER"
  check "app1-b is not seen at the excluded destination" \
    fails http app1-b "64:ff9b::$EXCLUDED" 1
  check "the policy's status: three pods, and nothing is wrong" \
    reads "^app1.worker2 +app1 +worker2 +$EGRESS +3 +True +True +False +Programmed" app1
  check "explain: the policy, the gateway, the address" \
    matches "egress address: $EGRESS" control explain default/app1-b "64:ff9b::$SERVER"
  check "spillway flows: the pod's address, and the server's as the pod has it" \
    matches "$ipv6.*$(by_nat64 "$SERVER").*$EGRESS" ask flows
  regain_ipv4 app1-b "$ipv4"
  set_status /api/v1/namespaces/default/pods/app1-b "{\"podIP\": \"$ipv4\",
    \"podIPs\": [{\"ip\": \"$ipv4\"}, {\"ip\": \"$ipv6\"}]}"
  await "its IPv4 address is back" programmed_pod app1-b
  check "app1-b has both again, and is seen as $EGRESS" equal "$EGRESS" http app1-b "$SERVER"
}

# seen_by_egress POD WHEN
seen_by_egress() {
  check "$2: $1 is seen as $EGRESS" equal "$EGRESS" http "$1" "$SERVER"
}

# For `outage`, which counts.
request() {
  asked=$((asked + 1))
  [[ $(http app1-a "$SERVER") != "$EGRESS" ]] || answered=$((answered + 1))
}

outage() {
  chapter "The API server is stopped for 30 seconds: forwarding is unharmed"
  lab stop api-server
  local end=$((SECONDS + 30)) asked=0 answered=0
  while ((SECONDS < end)); do for_translated request; done
  check "$asked requests in the meantime are all seen as the egress address" \
    test "$asked" = "$answered"
  start_server
  for_translated steer add app2-a
  kubectl label pod app2-a app=app1 --overwrite >/dev/null
  # shellcheck disable=SC2034 # await reads it
  local WITHIN_S=30
  for_translated await "the change has arrived" programmed_pod app2-a
  for_translated seen_by_egress app2-a "a change after it arrives"
}

gone() {
  chapter "The control plane ends, then the policy is deleted"
  lab stop control
  for_translated seen_by_egress app1-a "without spillway-control"
  policies | kubectl delete -f - >/dev/null
  for_translated seen_by_egress app1-a "nobody has told the router"
  start_control --nat64-prefix "$NAT64_PREFIX"
  await "the policy is gone" lacks "app1" ask policies
  check "spillway-control is back: no policy" lacks "app1" ask policies
  await "its status is gone" lacks "app1" kubectl get spillwaypolicystatuses
}

explain() {
  local log
  for log in spillway control api-server; do
    printf '\n# The end of %s\n' "$RUN/log/$log"
    tail -n 40 "$RUN/log/$log" || true
  done
  printf '\n# kubectl get spillwaypolicystatuses\n'
  kubectl get spillwaypolicystatuses -o wide || true
}

# --- a lab to look around in -----------------------------------------------------------------

up() {
  if [[ -e $FILES/up ]] && kubectl get --raw /readyz >/dev/null 2>&1; then
    echo "the lab is up, with Kubernetes"
    return
  fi
  # Half a lab is made again.
  lab down >/dev/null
  lab up --mode none --queues 2 --workers 2 >/dev/null
  lab spillway start
  start_cluster
  control crds install >/dev/null
  add_objects
  kubectl label node worker2 spillway.io/gateway=true >/dev/null
  start_control
  await "spillway-control has programmed the router" lacks '"generation": (1|null),' \
    ask status -o json
  lab start agent worker2 "$here/agent.sh"
  touch "$FILES/up"
  echo "the lab is up, with Kubernetes"
}

# pod NAME[.NAMESPACE] NODE NUMBER [LABEL=VALUE...]
pod() {
  (($# >= 3)) || usage
  local name=${1%%.*} namespace=default node=$2 ranges
  [[ $1 != *.* ]] || namespace=${1#*.}
  if kubectl get pod --namespace "$namespace" "$name" >/dev/null 2>&1; then return; fi
  case $node in
    worker1) ranges=("$PODS_WORKER1" "$(use_family 6 && echo "$PODS_WORKER1")") ;;
    worker2) ranges=("$PODS_WORKER2" "$(use_family 6 && echo "$PODS_WORKER2")") ;;
    *) usage ;;
  esac
  local ipv4=${ranges[0]%0/*}$3 ipv6=${ranges[1]%/*}$3
  # First what may be refused.
  add_pod "$name" "$namespace" "$node" "$ipv4" "$ipv6" "${@:4}"
  lab add-pod "$name" "$node" "$ipv4" "$ipv6"
}

# The head of this file.
usage() {
  sed -n '2,/^set/{ /^set/d; s/^# \{0,1\}//p }' "${BASH_SOURCE[0]}" >&2
  exit 2
}

each_label() { for_translated labels; }
each_fault() { for_translated faults; }
both_families() {
  if translated 4 && translated 6; then nat64; fi
}

case ${1:-} in
  up) up ;;
  down) lab down ;;
  kubectl) kubectl "${@:2}" ;;
  control) control "${@:2}" ;;
  pod) pod "${@:2}" ;;
  -*) usage ;;
  *)
    captures=${1:-$captures}
    story before labelled_node each_label each_fault both_families outage gone
    ;;
esac
