#!/usr/bin/env bash
# The lab in virtual machines, with the commands of netns.sh. See README.md beside this file.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=vagrant/topology.sh
source "$here/topology.sh"

readonly THERE=/spillway/vagrant # this directory, in the machines
readonly MACHINES=(router control-plane worker1 worker2)
readonly SSH_CONFIG=$here/.vagrant/ssh-config
readonly WITHIN_S=180 # a kubelet waits longer before each new start

usage() {
  cat <<'TEXT'
usage: machines.sh up [--mode spillway|none]
       machines.sh down
       machines.sh status
       machines.sh exec HOST COMMAND...
       machines.sh spillway start|stop|kill|detach
       machines.sh policy own|shared|announced
       machines.sh ask COMMAND...
       machines.sh log
       machines.sh kubectl COMMAND...
       machines.sh story [DIRECTORY]

The machines are made before, by `vagrant up` in this directory. HOST is router, control-plane,
worker1, worker2 (the gateway), outside, app1-a, app1-b, app2-a or app1-c.
`up` makes worker2 a gateway, applies the policy app1 and steers its pods there; with --mode none,
it undoes that, as `down` does. The machines run on: `vagrant halt` and `vagrant destroy` end them.
`exec` runs a command in HOST's network, as root on its machine; paths of this directory are
translated. `spillway stop` and `kill` end the router as SIGTERM and SIGKILL do, and hold the
kubelet, which would start it again, until `start`.
`policy` gives app1 the gateway's second address for egress, the one that the node uses too, or one
that Spillway itself announces.
`ask` is `spillway COMMAND...` to the running Spillway; `log` prints the end of its log.
`story` is scenario.sh, told here.
TEXT
}

wrong_usage() {
  usage >&2
  exit 2
}

fail() {
  echo "machines.sh: $*" >&2
  exit 1
}

# await WHAT COMMAND...: waits until a command succeeds.
await() {
  local what=$1 deadline=$((SECONDS + WITHIN_S))
  shift
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < deadline)) || fail "$what: not within $WITHIN_S s; see \`$0 status\`"
    sleep 0.2
  done
}

# --- the way there ---------------------------------------------------------------------------

# ssh_to MACHINE [OPTION...] [COMMAND]
ssh_to() {
  local machine=$1 sockets=${VAGRANT_HOME:-$HOME/.vagrant.d}
  shift
  ssh -F "$SSH_CONFIG" -o ControlPath="$sockets/spillway-lab-%C" -o LogLevel=ERROR "$machine" "$@"
}

learn_way() {
  # Only what vagrant has finished saying.
  VAGRANT_CWD=$here vagrant ssh-config >"$SSH_CONFIG.new" ||
    fail "the machines are not up: run \`vagrant up\` in $here"
  mv "$SSH_CONFIG.new" "$SSH_CONFIG"
}

# One connection for each machine, which all commands share. Opened apart from them: a command's
# output would not end before the connection does.
connect() {
  [[ -e $SSH_CONFIG ]] || learn_way
  ! ssh_to "$1" -O check 2>/dev/null || return 0
  ssh_to "$1" -M -N -f -o ControlPersist=yes </dev/null >/dev/null 2>&1 && return
  # Machines that were made anew have other keys and perhaps addresses.
  learn_way
  ssh_to "$1" -M -N -f -o ControlPersist=yes </dev/null >/dev/null 2>&1 ||
    fail "$1 cannot be reached by ssh: run \`vagrant up $1\` in $here"
}

# machine_of HOST: the machine that a host is, or is on.
machine_of() {
  local machine pod name node
  for machine in "${MACHINES[@]}"; do [[ $1 != "$machine" ]] || { echo "$1" && return; }; done
  for pod in "outside router" "${PODS[@]}"; do
    read -r name node _ <<<"$pod"
    [[ $1 != "$name" ]] || { echo "$node" && return; }
  done
  return 1
}

# on HOST COMMAND...: replaces that of topology.sh.
on() {
  local host=$1 machine prefix=(sudo)
  machine=$(machine_of "$host") || fail "there is no host $host: see \`$0 help\`"
  shift
  connect "$machine"
  [[ $host == "$machine" ]] || prefix+=(nsenter --net="/run/netns/$PREFIX$host" --)
  ssh_to "$machine" "$(printf '%q ' "${prefix[@]}" "${@//"$here"/$THERE}")"
}

kubectl() { on control-plane k3s kubectl "$@"; }

# --- Spillway --------------------------------------------------------------------------------

ask() { on worker2 spillway "$@"; }

# programmed_with EGRESS|GATEWAY|ANNOUNCED: every pod of app1 leaves with it, by each family that
# Spillway translates.
programmed_with() (
  said=$(ask policies) || exit 1
  for family in "${FAMILIES[@]}"; do
    use_family "$family"
    for pod in "${PODS[@]}"; do
      read -r name _ address <<<"$pod"
      [[ $name == app1-* ]] || continue
      grep -qE "^${address//./\\.} +${DESTINATIONS//./\\.} +${!1//./\\.} " <<<"$said" || exit 1
    done
  done
)

# For sed: the policies' egress address is another one.
instead_of_egress() { echo "s|egressIP: ${EGRESS//./\\.}$|egressIP: ${!1}|"; }

policy() {
  local address
  case ${1:-} in
    own) address=EGRESS ;;
    shared) address=GATEWAY ;;
    announced) address=ANNOUNCED ;;
    *) wrong_usage ;;
  esac
  policies | sed "$(for_families instead_of_egress "$address")" | kubectl apply -f -
  await "the policy with ${!address} is programmed" programmed_with "$address"
}

# The kubelet would start the router again at once. Its containers and their runtime go on.
signal_kubelet() {
  # shellcheck disable=SC2016 # for the machine to expand
  on worker2 bash -c 'kill "-$1" "$(systemctl show --property MainPID --value k3s)"' bash "$1"
}

# inspect CONTAINER FIELD
inspect() { on worker2 k3s crictl inspect --output json "$1" | jq -r "$2"; }
exited() { [[ $(inspect "$1" .status.state) == CONTAINER_EXITED ]]; }

# spillway_end SIGNAL CODE: ends the router, and fails unless its exit code is CODE.
spillway_end() {
  local container code
  signal_kubelet STOP
  container=$(on worker2 k3s crictl ps --quiet --name '^router$')
  [[ -n $container ]] || fail "Spillway does not run: \`$0 spillway start\` first"
  on worker2 kill "-$1" "$(inspect "$container" .info.pid)"
  await "Spillway ends on SIG$1" exited "$container"
  code=$(inspect "$container" .status.exitCode)
  [[ $code == "$2" ]] || fail "Spillway ended with exit code $code on SIG$1, not $2"
}

spillway_start() {
  signal_kubelet CONT
  await "Spillway is programmed" programmed_with EGRESS
}

# Where no pod runs there is none to run it in. The pins are where the pod would have them.
detach() {
  on worker2 unshare --mount bash -c '
    [[ ! -d /sys/fs/bpf/spillway ]] || mount --bind /sys/fs/bpf/spillway /run/spillway/bpf
    exec spillway detach'
}

spillway_command() {
  case ${1:-} in
    start) spillway_start ;;
    stop) spillway_end TERM 0 ;;
    kill) spillway_end KILL 137 ;;
    detach) detach ;;
    *) wrong_usage ;;
  esac
}

# --- commands --------------------------------------------------------------------------------

each_node() {
  local node
  for node in worker1 worker2; do on "$node" "$@"; done
}

# A connection that a node's kernel remembers would keep its translation whatever the mode.
forget_connections() { each_node conntrack -F >/dev/null 2>&1; }

# Policies can be applied, and pods of the lab run.
ready() {
  local pod
  await "the definitions are there" kubectl get crd ciliumegressgatewaypolicies.cilium.io
  for pod in "${PODS[@]%% *}"; do
    kubectl wait --for=condition=Ready --timeout="${WITHIN_S}s" "pod/$pod" >/dev/null ||
      fail "pod $pod does not run: see \`$0 kubectl describe pod $pod\`"
  done
}

up() {
  local mode=spillway
  if (($#)); then
    [[ $# == 2 && $1 == --mode ]] ||
      fail "up takes --mode only: Vagrantfile and machines/config.yaml say the rest"
    mode=$2
  fi
  [[ $mode == spillway || $mode == none ]] || fail "--mode is spillway or none, not '$mode'"
  learn_way
  signal_kubelet CONT
  ready
  if [[ $mode == spillway ]]; then make_gateway; else unmake_gateway; fi
  forget_connections
  echo "the lab is up: mode=$mode, in machines"
}

make_gateway() {
  local node
  kubectl label --overwrite node worker2 spillway.io/gateway=true egress-node=true >/dev/null
  policy own >/dev/null
  for node in worker1 worker2; do on "$node" "$THERE/machines/host.sh" "$node" steer; done
}

no_gateway_pod() {
  local said
  said=$(kubectl --namespace spillway-system get pods --output name \
    --selector app.kubernetes.io/component=gateway) || return 1
  [[ -z $said ]]
}

# Steering outlives the pod, so it goes last.
unmake_gateway() {
  local node
  for node in worker1 worker2; do on "$node" "$THERE/machines/host.sh" "$node" unsteer; done
  policies | kubectl delete --ignore-not-found -f - >/dev/null
  kubectl label node worker2 spillway.io/gateway- egress-node- >/dev/null
  await "the gateway's pod is gone" no_gateway_pod
  detach >/dev/null
}

down() {
  signal_kubelet CONT
  unmake_gateway
  forget_connections
  echo "the lab is down: the machines run on, and are ended by \`vagrant destroy\`"
}

status() {
  kubectl get nodes,pods --output wide
  kubectl --namespace spillway-system get pods --output wide
  kubectl get spillwaypolicystatuses
  ask status || echo "Spillway does not run"
}

log() {
  local container
  for container in router control; do
    kubectl --namespace spillway-system logs --tail 40 --container "$container" \
      --selector app.kubernetes.io/component=gateway
  done
}

require() {
  local tool
  for tool in jq ssh vagrant; do
    command -v "$tool" >/dev/null || fail "$tool is missing: install it"
  done
}

main() {
  local command=${1:-}
  (($# == 0)) || shift
  case $command in
    up | down | status | exec | spillway | policy | ask | log | kubectl) require ;;
  esac
  case $command in
    up) up "$@" ;;
    down) down ;;
    status) status ;;
    exec)
      (($# >= 2)) || wrong_usage
      on "$@"
      ;;
    spillway) spillway_command "$@" ;;
    policy) policy "$@" ;;
    ask) ask "$@" ;;
    log) log ;;
    kubectl) kubectl "$@" ;;
    story) LAB=$here/machines.sh exec "$here/scenario.sh" "$@" ;;
    -h | --help | help) usage ;;
    *) wrong_usage ;;
  esac
}

main "$@"
