#!/usr/bin/env bash
# Checks the manifests without a cluster: the chart, that base/ is what it renders, both against
# Kubernetes' schemas of several versions, and what a reviewer would look at first.
# KUBEBUILDER_ASSETS names the directory of kubectl.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
: "${KUBEBUILDER_ASSETS:?names a directory with kubectl: run \`make manifests\`}"

readonly VERSIONS=(1.27 1.31 1.34)
# Cilium's definition is not rendered: it is brought by a Job.
readonly CILIUMS=$here/crds/ciliumegressgatewaypolicies.yaml

python() { "$here/python.sh" "$@"; }

rendered=$(mktemp --directory)
trap 'rm -rf "$rendered"' EXIT
python "$here/render.py" --check
python "$here/check_chart.py" "$rendered"
"$KUBEBUILDER_ASSETS/kubectl" kustomize "$here" >"$rendered/kustomize.yaml"
for version in "${VERSIONS[@]}"; do
  python -m kubernetes_validate --quiet --strict -k "$version" "$rendered"/*.yaml "$CILIUMS" ||
    { echo "k8s/check.sh: not valid for Kubernetes $version" >&2 && exit 1; }
done
for way in default kustomize; do
  python "$here/check.py" "$rendered/$way.yaml" "$CILIUMS" \
    "$here/example-policy.yaml" "$here"/../control/tests/policies/*.yaml \
    "$here/../vagrant/policy.yaml" "$here/../vagrant/policy-ipv6.yaml"
done
echo "manifests: valid for Kubernetes ${VERSIONS[*]}"
