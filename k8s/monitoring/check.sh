#!/usr/bin/env bash
# Checks what monitors Spillway, without a cluster: the rules and their tests by promtool, that each alert
# has its runbook, that the dashboard is one. That their queries find anything is checked by
# router/tests/veth/metrics.rs, with a router and a Prometheus. KUBEBUILDER_ASSETS names the directory of
# kubectl; k8s/check.sh has made the Python environment.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=$here/../../target/tools/manifests/bin/python
: "${KUBEBUILDER_ASSETS:?names a directory with kubectl: run \`make manifests\`}"

tools=$("$here/tools.sh" "$here/../../target/tools/prometheus")
work=$(mktemp --directory)
trap 'rm -rf "$work"' EXIT

"$python" "$here/check.py" rules >"$work/rules.json"
cp "$here/rules_test.yaml" "$work/"
"$tools/promtool" check rules --lint=all --lint-fatal "$work/rules.json"
"$tools/promtool" test rules "$work/rules_test.yaml"
"$KUBEBUILDER_ASSETS/kubectl" kustomize "$here" >"$work/rendered.yaml"
"$python" "$here/check.py" check "$work/rendered.yaml"
echo "monitoring: rules, runbooks and dashboard are good"
