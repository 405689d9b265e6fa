#!/usr/bin/env bash
# A Kubernetes API server for tests and the demo, on 127.0.0.1 of the network namespace that it is
# started in.
#
#   api-server.sh files DIRECTORY            makes certificates, keys and admin.kubeconfig
#   api-server.sh kubeconfig DIRECTORY USER TOKEN
#   api-server.sh etcd DIRECTORY             becomes etcd, with its data there
#   api-server.sh server DIRECTORY           becomes kube-apiserver
#
# KUBEBUILDER_ASSETS names the directory of the programs, as kubernetes.sh beside this file fills it.
set -euo pipefail

: "${KUBEBUILDER_ASSETS:?names a directory with etcd, kube-apiserver and kubectl: see kubernetes.sh}"
command=${1:?files, kubeconfig, etcd or server}
directory=$(realpath "${2:?the directory}")

kubeconfig() {
  cat >"$directory/$1.kubeconfig" <<YAML
apiVersion: v1
kind: Config
current-context: test
contexts: [{name: test, context: {cluster: test, user: test}}]
clusters:
  - name: test
    cluster: {server: "https://127.0.0.1:6443", certificate-authority: $directory/ca.crt}
users: [{name: test, user: {token: "$2"}}]
YAML
}

files() {
  cd "$directory"
  local new_key=(-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes)
  openssl req -x509 "${new_key[@]}" -days 2 -subj /CN=test-ca -keyout ca.key -out ca.crt
  openssl req "${new_key[@]}" -subj /CN=kube-apiserver -keyout server.key -out server.csr
  printf 'subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth\n' >server.ext
  openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 \
    -extfile server.ext -out server.crt
  openssl ecparam -name prime256v1 -genkey -noout -out sa.key
  # Whoever can read this directory may be the admin.
  local token
  token=$(openssl rand -hex 16)
  echo "$token,admin,admin-uid,\"system:masters\"" >tokens.csv
  kubeconfig admin "$token"
}

case $command in
  files) files 2>/dev/null ;;
  kubeconfig) kubeconfig "${3:?the user}" "${4:?the token}" ;;
  etcd)
    exec "$KUBEBUILDER_ASSETS/etcd" --data-dir="$directory/etcd" --unsafe-no-fsync \
      --listen-client-urls=http://127.0.0.1:2379 --advertise-client-urls=http://127.0.0.1:2379 \
      --listen-peer-urls=http://127.0.0.1:2380 --log-level=error
    ;;
  server)
    exec "$KUBEBUILDER_ASSETS/kube-apiserver" --etcd-servers=http://127.0.0.1:2379 \
      --bind-address=127.0.0.1 --advertise-address=127.0.0.1 --secure-port=6443 \
      --cert-dir="$directory/certificates" \
      --tls-cert-file="$directory/server.crt" --tls-private-key-file="$directory/server.key" \
      --client-ca-file="$directory/ca.crt" --token-auth-file="$directory/tokens.csv" \
      --service-account-key-file="$directory/sa.key" \
      --service-account-signing-key-file="$directory/sa.key" \
      --service-account-issuer=https://kubernetes.default.svc \
      --authorization-mode=RBAC --disable-admission-plugins=ServiceAccount \
      --service-cluster-ip-range=10.96.0.0/16 --allow-privileged=true
    ;;
  *)
    echo "api-server.sh: no command $command" >&2
    exit 2
    ;;
esac
