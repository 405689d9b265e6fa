#!/usr/bin/env bash
# Lays out the image's root file system and tries it: two programs, the libraries that they load,
# and nothing else. No shell, no package manager. Needs no container runtime.
#
#   rootfs.sh DIRECTORY BINARIES     DIRECTORY is made; BINARIES has spillway and spillway-control
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=${1:?the directory to make}
binaries=${2:?the directory of the programs}
readonly PROGRAMS=(spillway spillway-control)

fail() {
  echo "rootfs.sh: $*" >&2
  exit 1
}

# libraries FILE: the paths of the libraries it loads, the dynamic linker with them.
libraries() {
  local said
  said=$(ldd "$1") || fail "ldd $1: $said"
  if grep 'not found' <<<"$said" >&2; then fail "$1 needs what is not here"; fi
  grep -oE '/[^ ]+' <<<"$said"
}

# copyright LIBRARY: ships the terms of the Debian package that a library is from.
copyright() {
  local package
  # Where /lib is a link to /usr/lib, packages may still name the old place.
  package=$(dpkg-query -S "$1" "/usr$1" "${1#/usr}" 2>/dev/null | grep -oE '^[^:, ]+' | sort -u) \
    || true
  [[ -n $package && $package != *$'\n'* ]] || fail "whose is $1? Packages: ${package:-none}"
  install -D -m 644 "/usr/share/doc/$package/copyright" \
    "$root/usr/share/doc/$package/copyright"
}

[[ ! -e $root ]] || fail "$root is there: remove it first"
mkdir -p "$root"/{usr/bin,etc/spillway,run/spillway,tmp,usr/share/doc/spillway}
for program in "${PROGRAMS[@]}"; do
  [[ -x $binaries/$program ]] || fail "there is no $binaries/$program: run \`make build\`"
  # Symbols are for whoever debugs the build; they are most of the size.
  strip -o "$root/usr/bin/$program" "$binaries/$program"
  while read -r library; do
    # Where the program looks for it, whatever links lead there.
    install -D "$library" "$root$library"
    copyright "$library"
  done < <(libraries "$binaries/$program")
done
# The API server's certificate is checked against the service account's own authority; these two
# files are for what asks who it is.
echo "root:x:0:0:root:/:/nonexistent" >"$root/etc/passwd"
echo "root:x:0:" >"$root/etc/group"
cp "$here/../../LICENSE" "$root/usr/share/doc/spillway/"
cp -r "$here/../../xdp/LICENSES" "$root/usr/share/doc/spillway/"

for program in "${PROGRAMS[@]}"; do
  chroot "$root" "/usr/bin/$program" --version || fail "$program does not start in $root"
done
[[ ! -e $root/bin/sh && ! -e $root/usr/bin/sh ]] || fail "there is a shell in $root"
echo "root file system: $(du -sh "$root" | cut -f1), $(find "$root" -type f | wc -l) files"
