#!/usr/bin/env bash
# Installs the Debian or Ubuntu packages of a list, packages.txt unless said, that are missing, and
# says which.
set -euo pipefail

list=${1:-$(dirname "$0")/packages.txt}
missing=()
while read -r package; do
  dpkg-query --show --showformat '${db:Status-Status}\n' "$package" 2>/dev/null |
    grep -qx installed || missing+=("$package")
done < <(sed 's/#.*//; s/[[:space:]]//g; /^$/d' "$list")

if ! command -v cargo >/dev/null; then
  echo "packages: cargo is not on the PATH. Install Rust first: https://rustup.rs" >&2
  exit 1
fi
((${#missing[@]})) || exit 0

if ! command -v apt-get >/dev/null; then
  echo "packages: this is not Debian or Ubuntu; install by hand: ${missing[*]}" >&2
  exit 1
fi
as_root=()
((EUID == 0)) || as_root=(sudo)
echo "packages: installing ${missing[*]}"
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}" >/dev/null
