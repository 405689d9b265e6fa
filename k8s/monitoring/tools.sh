#!/usr/bin/env bash
# Puts Debian's or Ubuntu's Prometheus and promtool into DIRECTORY, unpacked, not installed: the package
# would start a service. Prints the directory. Needs root only where the lists of packages are old.
set -euo pipefail

fail() {
  echo "monitoring: $*" >&2
  exit 1
}

# works DIRECTORY: whether the two programs are there and start.
works() {
  "$1/prometheus" --version && "$1/promtool" --version
} >/dev/null 2>&1

# apt-get says of root that its own user may not read the file, which is no matter here.
download() (cd "$build" && apt-get download -qq prometheus 2>/dev/null)

update() {
  local as_root=()
  ((EUID == 0)) || as_root=(sudo --non-interactive)
  "${as_root[@]}" apt-get update -qq
}

main() {
  works "$directory" && return
  command -v apt-get >/dev/null ||
    fail "not Debian or Ubuntu: put prometheus and promtool into $directory by hand"
  mkdir -p "$directory"
  # One at a time: the tests may start together. The last ones find it done.
  exec {lock}<"$directory"
  flock "$lock"
  works "$directory" && return

  build=$(mktemp --directory --tmpdir="$directory" build.XXXX)
  trap 'rm -rf "$build"' EXIT
  # The lists of packages may be old, or not there.
  download || { update && download; } ||
    fail "apt-get download prometheus has failed: \`apt-get update\` may help"
  dpkg-deb --fsys-tarfile "$build"/prometheus_*.deb |
    tar --extract --directory "$build" ./usr/bin/prometheus ./usr/bin/promtool
  mv "$build"/usr/bin/* "$directory/"
  works "$directory" || fail "what the package prometheus has does not start here"
}

(($# == 1)) || fail "usage: tools.sh DIRECTORY"
directory=$(realpath --canonicalize-missing "$1")
main >&2
echo "$directory"
