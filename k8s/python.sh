#!/usr/bin/env bash
# Becomes a Python that has what the manifests' tests need: Helm, Kubernetes' schemas, JSON schemas.
# Installs it first, once.
#
#   python.sh ARGUMENTS...
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
tools=$here/../target/tools/manifests
# helm-python-sdk is Helm 4.2 itself, as a library.
readonly PACKAGES=(helm-python-sdk==0.2.2 jsonschema==4.26.0 kubernetes-validate==1.37.0)

if [[ "$(cat "$tools/ready" 2>/dev/null)" != "${PACKAGES[*]}" ]]; then
  rm -rf "$tools"
  python3 -m venv "$tools"
  "$tools/bin/pip" install --quiet --disable-pip-version-check --only-binary helm-python-sdk \
    "${PACKAGES[@]}"
  echo "${PACKAGES[*]}" >"$tools/ready"
fi
# Root may run this in a user's tree.
export PYTHONDONTWRITEBYTECODE=1
exec "$tools/bin/python" "$@"
