#!/usr/bin/env bash
# Boots Debian's kernels in virtual machines and runs the tests of steering there: each kernel's
# verifier must accept the program, and it must do the same everywhere. Needs no KVM.
#
#   xdp/kernels/test.sh STEERING_TEST_BINARY [DIRECTORY]
#
# SUITES are Debian's suites whose kernels are taken; DIRECTORY keeps them, target/kernels unless
# said.
set -euo pipefail

SUITES=${SUITES:-bookworm}
MIRROR=${MIRROR:-http://deb.debian.org/debian}
MACHINE_SECONDS=600 # an emulated machine is some ten times slower

here=$(dirname "$(readlink -f "$0")")
tests=$(readlink -f "${1:?usage: xdp/kernels/test.sh STEERING_TEST_BINARY [DIRECTORY]}")
directory=${2:-$here/../../target/kernels}
mkdir -p "$directory"
directory=$(readlink -f "$directory")

fail() {
  echo "kernels: $*" >&2
  exit 1
}

# apt with the lists of one suite, apart from the system's.
apt_of() {
  local suite=$1 state=$directory/$1/apt
  shift
  mkdir -p "$state/lists/partial" "$state/cache/archives/partial"
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $MIRROR $suite main" \
    >"$state/sources.list"
  "$@" -qq -o "Dir::State::lists=$state/lists" -o "Dir::Cache=$state/cache" \
    -o "Dir::Etc::sourcelist=$state/sources.list" -o Dir::Etc::sourceparts=- \
    -o Acquire::Languages=none -o APT::Sandbox::User=root \
    -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false "${arguments[@]}"
}

# The newest kernel of a suite, unpacked.
fetch_kernel() {
  local suite=$1 package
  local -a parts
  local -a arguments=(update)
  apt_of "$suite" apt-get || fail "no package lists of Debian $suite at $MIRROR"
  arguments=(depends --important linux-image-cloud-amd64)
  package=$(apt_of "$suite" apt-cache | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p')
  [[ $package ]] || fail "Debian $suite has no kernel for machines in clouds"
  [[ -e $directory/$suite/$package ]] && return
  # Newer ones come in parts.
  arguments=(depends --important "$package")
  mapfile -t parts < <(apt_of "$suite" apt-cache |
    sed -n 's/.*Depends: \(linux-\(binary\|modules\)-[0-9].*\)/\1/p')
  arguments=(download "$package" "${parts[@]}")
  (cd "$directory/$suite" && apt_of "$suite" apt-get) || fail "cannot download $package"
  rm -rf "$directory/$suite/root"
  for package in "${arguments[@]:1}"; do
    dpkg-deb --extract "$directory/$suite/$package"_*.deb "$directory/$suite/root"
  done
  touch "$directory/$suite/${arguments[1]}"
}

# The machine's only files: the tests, ip, the libraries of both, and a shell.
make_root() {
  local root=$1 modules=$2 file library
  rm -rf "$root"
  mkdir -p "$root/bin" "$root/sbin"
  cp "$here/init" "$root/init"
  cp "$(command -v busybox)" "$root/bin/busybox"
  cp "$tests" "$root/steering"
  cp "$(command -v ip)" "$root/sbin/ip"
  for file in "$tests" "$(command -v ip)"; do
    while read -r library; do
      mkdir -p "$root/$(dirname "$library")"
      cp -L "$library" "$root/$library"
    done < <(ldd "$file" | grep -o '/[^ ]*')
  done
  file=$(find "$modules" -name 'veth.ko*')
  case $file in
    *.xz) xz --decompress --stdout "$file" >"$root/veth.ko" ;;
    *) cp "$file" "$root/veth.ko" ;;
  esac
}

# Boots a kernel, and shows what the tests in it say. Without cmpxchg16b (cx16), in which QEMU 7.2 spoils
# the flags now and then: kernels from 6.4 on use it to allocate memory, and panicked.
run_kernel() {
  local suite=$1 log=$directory/$1/log
  make_root "$directory/$suite/machine" "$directory/$suite/root"
  (cd "$directory/$suite/machine" && find . | cpio --quiet --create --format newc) \
    >"$directory/$suite/initrd"
  timeout "$MACHINE_SECONDS" qemu-system-x86_64 -nodefaults -no-reboot -display none \
    -serial stdio -m 1024 -smp 1 -cpu max,-cx16 -kernel "$(find "$directory/$suite/root" -name 'vmlinuz*')" \
    -initrd "$directory/$suite/initrd" -append 'console=ttyS0 quiet panic=-1' \
    </dev/null | tr -d '\r' >"$log" || fail "the machine of $suite did not end by itself: $log"
  grep -q '^ENDED 0$' "$log" || { cat "$log" >&2; fail "the tests failed with Debian $suite's kernel"; }
  echo "Debian $suite: $(grep -a '^KERNEL' "$log"): $(grep -a '^test result' "$log")"
}

for suite in $SUITES; do
  fetch_kernel "$suite"
  run_kernel "$suite"
done
