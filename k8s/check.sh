#!/usr/bin/env bash
# Checks the manifests without a cluster: against Kubernetes' schemas of several versions, and for
# what a reviewer would look at first. KUBEBUILDER_ASSETS names the directory of kubectl.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
tools=$here/../target/tools/manifests
: "${KUBEBUILDER_ASSETS:?names a directory with kubectl: run \`make manifests\`}"

readonly VERSIONS=(1.27 1.31 1.34)
readonly PACKAGES=(kubernetes-validate==1.37.0 jsonschema==4.26.0)

if [[ ! -e $tools/ready ]]; then
  rm -rf "$tools"
  python3 -m venv "$tools"
  "$tools/bin/pip" install --quiet --disable-pip-version-check "${PACKAGES[@]}"
  touch "$tools/ready"
fi

rendered=$(mktemp --suffix .yaml)
trap 'rm -f "$rendered"' EXIT
"$KUBEBUILDER_ASSETS/kubectl" kustomize "$here" >"$rendered"
for version in "${VERSIONS[@]}"; do
  # Cilium's definition is not rendered: it is brought by a Job.
  "$tools/bin/kubernetes-validate" --quiet --strict -k "$version" "$rendered" \
    "$here/crds/ciliumegressgatewaypolicies.yaml" ||
    { echo "k8s/check.sh: not valid for Kubernetes $version" >&2 && exit 1; }
done
"$tools/bin/python" "$here/check.py" "$rendered" "$here/crds/ciliumegressgatewaypolicies.yaml" \
  "$here/example-policy.yaml" "$here"/../control/tests/policies/*.yaml \
  "$here/../vagrant/policy.yaml" "$here/../vagrant/policy-ipv6.yaml"
echo "manifests: valid for Kubernetes ${VERSIONS[*]}"
