#!/usr/bin/env bash
# Runs the tutorials, each command of them, in a lab of their own beside one that is up. Needs root.
#
#   test.sh [FILE.md...]    all of this directory, in the order of their names, unless some are named
#
# BINARIES is the directory of spillway and spillway-control, target/release unless said.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
: "${KUBEBUILDER_ASSETS:?names a directory with an API server: run \`make tutorials\`}"

if [[ ! ${TUTORIALS_TEST_INSIDE-} ]]; then
  ((EUID == 0)) || { echo "test.sh: needs root, for namespaces: try sudo" >&2 && exit 1; }
  # Root may run this in a user's tree.
  export PYTHONDONTWRITEBYTECODE=1
  "$here/run_test.py"
  # With a process namespace, so that nothing is left running whatever happens.
  TUTORIALS_TEST_INSIDE=1 exec unshare --net --mount --propagation private --pid --fork \
    --mount-proc --kill-child "$0" "$@"
fi
mount -t tmpfs none /run # where namespaces have their names, and the lab its files
mkdir /run/netns
tutorials=("$@")
(($#)) || tutorials=("$here"/[0-9]*.md)
if ! "$here/run.py" "${tutorials[@]}"; then
  tail -n 20 /run/spillway-lab/log/{spillway,control,agent} >&2 || true
  exit 1
fi
"$here/../kubernetes.sh" down
if compgen -G "/run/netns/*" >/dev/null; then
  echo "test.sh: \`kubernetes.sh down\` has left $(echo /run/netns/*)" >&2
  exit 1
fi
