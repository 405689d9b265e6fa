# shellcheck shell=bash
# A cluster with an API server and nobody else: makes the objects that an administrator and kubelets
# would make. Sourced by kubernetes.sh and machines/rehearse.sh, which say what `kubectl` is;
# after checks.sh.
# shellcheck disable=SC2154

readonly API_SERVER=$here/../control/testing/api-server.sh

# add_node NAME IPV4 IPV6
add_node() {
  kubectl create -f - >/dev/null <<JSON
{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "$1"}}
JSON
  set_status "/api/v1/nodes/$1" "{\"addresses\": [{\"type\": \"InternalIP\", \"address\": \"$2\"},
    {\"type\": \"InternalIP\", \"address\": \"$3\"}]}"
}

# add_pod NAME NAMESPACE NODE IPV4 IPV6 LABEL=VALUE...
add_pod() {
  local metadata
  metadata=$(jq -n '{name: $ARGS.positional[0], namespace: $ARGS.positional[1], labels:
    [$ARGS.positional[2:][] | split("=") | {key: .[0], value: .[1]}] | from_entries}' \
    --args "$1" "$2" "${@:6}")
  kubectl create -f - >/dev/null <<JSON
{"apiVersion": "v1", "kind": "Pod", "metadata": $metadata,
 "spec": {"nodeName": "$3", "containers": [{"name": "main", "image": "none"}]}}
JSON
  set_status "/api/v1/namespaces/$2/pods/$1" "{\"phase\": \"Running\", \"podIP\": \"$4\",
    \"podIPs\": [{\"ip\": \"$4\"}, {\"ip\": \"$5\"}],
    \"conditions\": [{\"type\": \"Ready\", \"status\": \"True\"}]}"
}

# set_status PATH JSON: as a kubelet does.
set_status() {
  kubectl get --raw "$1" | python3 -c '
import json, sys
thing = json.load(sys.stdin)
thing["status"].update(json.loads(sys.argv[1]))
json.dump(thing, sys.stdout)' "$2" |
    kubectl replace --raw "$1/status" -f - >/dev/null
}

# The nodes and pods of the lab, and what spillway-control needs.
add_objects() {
  kubectl create namespace spillway-system >/dev/null
  kubectl apply -f "$here/../k8s/base/rbac.yaml" >/dev/null
  add_node worker1 "$WORKER1" "$(use_family 6 && echo "$WORKER1")"
  add_node worker2 "$GATEWAY" "$(use_family 6 && echo "$GATEWAY")"
  local pod name node address
  for pod in "${PODS[@]}"; do
    read -r name node address <<<"$pod"
    add_pod "$name" default "$node" "$address" "$(use_family 6 && address_of "$name")" \
      "app=${name%-*}"
  done
}

# control_kubeconfig DIRECTORY: makes control.kubeconfig there, as spillway-control's account.
control_kubeconfig() {
  local token
  token=$(kubectl create --raw \
    /api/v1/namespaces/spillway-system/serviceaccounts/spillway-control/token -f - <<<'{
      "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
      "spec": {"audiences": ["https://kubernetes.default.svc"]}}' |
    python3 -c 'import json, sys; print(json.load(sys.stdin)["status"]["token"])')
  "$API_SERVER" kubeconfig "$1" control "$token"
}
