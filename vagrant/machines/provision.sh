#!/usr/bin/env bash
# Makes a machine of the lab from a fresh Debian; ../Vagrantfile calls it there, as root:
#
#   JOIN_TOKEN=TOKEN provision.sh HOST
#
# The network as host.sh has it; on the nodes a small Kubernetes, k3s, with cni.sh for its pods; on
# worker2 the image; on control-plane the manifests and the pods. May be run again.
set -Eeuo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repository=$(cd "$here/../.." && pwd)
host=${1:?router, control-plane, worker1 or worker2}
# shellcheck source=vagrant/topology.sh
source "$here/../topology.sh"

# The checksum is the release's own, of sha256sum-amd64.txt. A new version: both together.
readonly K3S_VERSION=v1.34.2+k3s1
readonly K3S_SHA256=15811d34187e03fe29d0e46108c42cc33e62cec1b3d9d80f50944536ebcad40a
# What k3s keeps every pod's namespace with; the lab's pods do nothing else than that.
readonly PAUSE_IMAGE=docker.io/rancher/mirrored-pause:3.6
readonly WITHIN_S=180

trap 'echo "provision.sh: $host: failed in line $LINENO: $BASH_COMMAND" >&2
  echo "provision.sh: the cause is above; once it is gone: vagrant provision $host" >&2' ERR

fail() {
  trap - ERR
  echo "provision.sh: $host: $*" >&2
  exit 1
}

step() { echo "--- $host: $*"; }

await() {
  local what=$1 deadline=$((SECONDS + WITHIN_S))
  shift
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < deadline)) || fail "$what: not within $WITHIN_S s; see \`journalctl -u k3s\`"
    sleep 0.5
  done
}

kubectl() { k3s kubectl "$@"; }

# --- every machine ---------------------------------------------------------------------------

install_packages() {
  local packages=(conntrack curl ethtool iperf3 iproute2 iputils-ping jq nftables python3
    tcpdump traceroute)
  case $host in
    control-plane | worker1) packages+=(containernetworking-plugins) ;;
    worker2) packages+=(containernetworking-plugins libelf1 podman zlib1g) ;;
  esac
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${packages[@]}" >/dev/null
}

# After every start of the machine, and before Kubernetes.
start_network() {
  local more=
  [[ $host != router ]] || more="ExecStart=$here/host.sh router serve"
  cat >/etc/systemd/system/spillway-lab.service <<UNIT
[Unit]
Description=The network of Spillway's lab
After=network.target
Before=k3s.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=$here/host.sh $host up
$more

[Install]
WantedBy=multi-user.target
UNIT
  systemctl daemon-reload
  systemctl enable --quiet spillway-lab
  systemctl start spillway-lab ||
    fail "no network: see \`journalctl -u spillway-lab\`; to begin anew, \`vagrant reload $host\`"
}

# --- nodes -----------------------------------------------------------------------------------

fetch_k3s() {
  local file=/usr/local/bin/k3s url
  url=https://github.com/k3s-io/k3s/releases/download/${K3S_VERSION/+/%2B}/k3s
  # shellcheck disable=SC2015 # both must hold
  [[ -x $file ]] && sha256sum --check --status <<<"$K3S_SHA256  $file" && return
  curl --fail --silent --show-error --location --retry 3 --output "$file.new" "$url" ||
    fail "cannot fetch $url"
  sha256sum --check --status <<<"$K3S_SHA256  $file.new" ||
    fail "$url has the checksum $(sha256sum "$file.new" | cut -d' ' -f1), not $K3S_SHA256"
  chmod 755 "$file.new"
  mv "$file.new" "$file"
}

# Without flannel, k3s' container runtime looks where every other does.
install_cni() {
  mkdir -p /opt/cni/bin /etc/cni/net.d
  ln -sf "$here/cni.sh" /opt/cni/bin/spillway-lab
  ln -sf /usr/lib/cni/loopback /opt/cni/bin/loopback
  # The first by name counts, and podman brings an 87-podman-bridge.conflist.
  cat >/etc/cni/net.d/05-spillway-lab.conflist <<'JSON'
{"cniVersion": "1.0.0", "name": "spillway-lab", "plugins": [{"type": "spillway-lab"}]}
JSON
}

# write_k3s_config IPV4 IPV6
write_k3s_config() {
  mkdir -p /etc/rancher/k3s
  (
    umask 077
    cat >/etc/rancher/k3s/config.yaml <<YAML
token: ${JOIN_TOKEN:?the Vagrantfile gives it}
node-name: $host
node-ip: $1,$2
pause-image: $PAUSE_IMAGE
YAML
    if [[ $host != control-plane ]]; then
      echo "server: https://$CONTROL_PLANE:6443" >>/etc/rancher/k3s/config.yaml
      return
    fi
    # Nothing that the story does not need. The pods' network is cni.sh.
    cat >>/etc/rancher/k3s/config.yaml <<YAML
advertise-address: $1
cluster-cidr: 10.0.0.0/16,fd00:10::/56
service-cidr: 10.96.0.0/16,fd00:10:96::/112
flannel-backend: none
disable-network-policy: true
disable-helm-controller: true
disable: [coredns, local-storage, metrics-server, servicelb, traefik]
node-taint: ["node-role.kubernetes.io/control-plane:NoSchedule"]
YAML
  )
}

# start_k3s server|agent
start_k3s() {
  cat >/etc/systemd/system/k3s.service <<UNIT
[Unit]
Description=Kubernetes (k3s $1)
Wants=network-online.target
After=network-online.target
Requires=spillway-lab.service
After=spillway-lab.service

[Service]
Type=notify
ExecStart=/usr/local/bin/k3s $1
# Pods outlive it.
KillMode=process
Delegate=yes
LimitNOFILE=1048576
LimitNPROC=infinity
TasksMax=infinity
TimeoutStartSec=${WITHIN_S}s
Restart=always
RestartSec=5s

[Install]
WantedBy=multi-user.target
UNIT
  systemctl daemon-reload
  systemctl enable --quiet k3s
  systemctl restart k3s || fail "k3s does not start: see \`journalctl -u k3s\`"
}

# start_node server|agent CONTROL_PLANE|WORKER1|GATEWAY
start_node() {
  step "Kubernetes: k3s $K3S_VERSION, $1"
  fetch_k3s
  install_cni
  write_k3s_config "${!2}" "$(use_family 6 && echo "${!2}")"
  start_k3s "$1"
}

# --- control-plane ---------------------------------------------------------------------------

apply_manifests() {
  step "the manifests of k8s/, as machines/kustomization.yaml changes them, and the pods"
  await "the API server is ready" kubectl get --raw /readyz
  kubectl apply --kustomize "$here"
  await "the service account of pods" kubectl get serviceaccount default
  local pod name node
  for pod in "${PODS[@]}"; do
    read -r name node _ <<<"$pod"
    apply_pod "$name" "$node"
  done
}

# Its address is cni.sh's matter. By selector, because a pod may wait so for its node.
apply_pod() {
  kubectl apply -f - <<YAML
apiVersion: v1
kind: Pod
metadata:
  name: $1
  namespace: default
  labels: {app: ${1%-*}}
spec:
  nodeSelector: {kubernetes.io/hostname: $2}
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 0
  containers:
    - name: main
      image: $PAUSE_IMAGE
YAML
}

# --- worker2 ---------------------------------------------------------------------------------

build_image() {
  local image container
  image=$(sed -n 's/^ *image: //p' "$repository/k8s/base/daemonset.yaml" | sort -u)
  step "the image $image: some ten minutes"
  # In the machine's network: podman needs no bridge and no rules of its own then.
  podman build --network host --tag "$image" --file "$repository/k8s/image/Containerfile" \
    "$repository"
  podman save "$image" | k3s ctr --namespace k8s.io images import -
  # For the operator on this node, above all where no pod runs: machines.sh asks and detaches by it.
  container=$(podman create "$image")
  podman cp "$container:/usr/bin/spillway" /usr/local/bin/spillway
  podman rm "$container" >/dev/null
  spillway --version
}

# --- this machine ----------------------------------------------------------------------------

((EUID == 0)) || fail "needs root, and a machine of its own: ../Vagrantfile calls it"
step "packages"
install_packages
step "network"
start_network
case $host in
  control-plane)
    start_node server CONTROL_PLANE
    apply_manifests
    ;;
  worker1) start_node agent WORKER1 ;;
  worker2)
    start_node agent GATEWAY
    build_image
    ;;
esac
step "ready"
