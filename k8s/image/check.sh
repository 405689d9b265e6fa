#!/usr/bin/env bash
# Checks a root file system that rootfs.sh has laid out, without a container runtime. Needs root.
#
#   check.sh [--no-router] DIRECTORY
#
# What is in it, that both programs start in it and, unless --no-router is given, that the router
# runs in it as the DaemonSet runs it: with a read-only root, ../base/config.yaml, the capabilities of
# ../base/daemonset.yaml and no others; and that steering outlives it.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
readonly DAEMONSET=$here/../base/daemonset.yaml
readonly READ_ONLY=/run/spillway/read-only/spillway.sock

fail() {
  echo "image: $*" >&2
  exit 1
}

contents() {
  local file found
  for file in usr/bin/spillway{,-control} etc/{passwd,group} \
    usr/share/doc/spillway/{LICENSE,LICENSES/GPL-2.0-only.txt,LICENSES/BSD-2-Clause.txt}; do
    [[ -s $root/$file ]] || fail "/$file is missing or empty"
  done
  # Nothing but the two programs and libraries may be executed: no shell above all.
  found=$(find "$root" -type f -perm /111 ! -path "$root/usr/bin/spillway*" ! -name '*.so*' \
    -printf '/%P ')
  [[ -z $found ]] || fail "executable, and none of ours: $found"
  found=$(find "$root" -regextype posix-extended \
    -regex '.*/(sh|bash|dash|ash|zsh|ksh|busybox|apt|dpkg|apk|perl|python[0-9.]*)' -printf '/%P ')
  [[ -z $found ]] || fail "a shell or the like: $found"
  found=$(find "$root" \( -perm /6000 -o \( -perm -0002 ! -type l \) \) -printf '/%P ')
  [[ -z $found ]] || fail "set-user-ID, or writable for everyone: $found"
}

starts() {
  local program said
  for program in spillway spillway-control; do
    said=$(chroot "$root" "/usr/bin/$program" --version) || fail "$program does not start"
    [[ $said == "$program "* ]] || fail "$program --version says: $said"
    echo "image: $said"
  done
}

# as_container NAME COMMAND...: becomes COMMAND in the image, as the container NAME would run it: with its
# capabilities, its user and its groups.
as_container() {
  exec python3 - "$view" "$DAEMONSET" "$@" <<'PYTHON'
import ctypes, os, re, sys

NUMBERS = {"NET_ADMIN": 12, "NET_RAW": 13, "IPC_LOCK": 14, "PERFMON": 38, "BPF": 39}
PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 24, 38

root, daemonset, name, *command = sys.argv[1:]
pod = open(daemonset).read()
rest = pod.split(f"\n        - name: {name}\n", 1)[1]
container = re.split(r"^ {8}- name: ", rest, flags=re.MULTILINE)[0]
user, group = (int(found[1]) if (found := re.search(rf"{field}: (\d+)", container)) else 0
               for field in ("runAsUser", "runAsGroup"))
groups = [int(one) for one in re.search(r"supplementalGroups: \[(.*)\]", pod)[1].split(",")]
added = re.search(r"^ *add: \[(.*)\]$", container, re.MULTILINE)
keep = {NUMBERS[one.strip()] for one in added[1].split(",")} if added else set()
last = int(open("/proc/sys/kernel/cap_last_cap").read())
prctl = ctypes.CDLL(None, use_errno=True).prctl
os.chroot(root)
os.chdir("/")
for capability in set(range(last + 1)) - keep:
    if prctl(PR_CAPBSET_DROP, capability, 0, 0, 0):
        sys.exit(f"cannot drop capability {capability}: {os.strerror(ctypes.get_errno())}")
if prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
    sys.exit("cannot set no_new_privs")
os.setgroups(groups)
os.setresgid(group, group, group)
os.setresuid(user, user, user)
os.execve("/usr/bin/" + command[0], command, {"PATH": "/usr/bin", "NODE_NAME": "none"})
PYTHON
}

in_container() { (as_container "$@"); }

await() {
  local what=$1 count
  shift
  for ((count = 0; count < 100; count++)); do
    ! "$@" >/dev/null 2>&1 || return 0
    sleep 0.1
  done
  cat "$scratch/log" >&2
  fail "$what: not within 10 s"
}

attached() { ip link show dev "$device" | grep -q xdp; }

# lay_out VIEW MODE [DIRECTORY]: the image with its mount points, read-only, then the volumes, as a
# runtime does. MODE is that of /run/spillway, or of the one DIRECTORY in it that is mounted: rw or ro.
lay_out() {
  local run=run/spillway${3+/$3}
  view=$1
  cp -r "$root" "$view"
  mkdir -p "$view"/{proc,etc/spillway,"$run"}
  mount --bind "$view" "$view"
  mount -o remount,bind,ro "$view"
  mount -t proc none "$view/proc"
  mount --bind "$scratch/etc" "$view/etc/spillway"
  mount --bind "$scratch/run${3+/$3}" "$view/$run"
  mount -o "remount,bind,$2" "$view/$run"
}

start_router() {
  as_container router spillway run --config /etc/spillway/config.yaml 2>"$scratch/log" &
  pid=$!
  await "the router answers" in_container router spillway status
}

stop_router() {
  kill "$pid"
  local code=0
  wait "$pid" || code=$?
  ((code == 0)) || cat "$scratch/log" >&2
  ((code == 0)) || fail "the router ends with $code"
}

# In namespaces of its own, which end with it.
router() {
  local said
  # Gone with the namespace: nothing to clean up.
  scratch=/mnt
  mount -t tmpfs none "$scratch"
  mkdir -p "$scratch"/{etc,run/bpf,run/read-only}
  cp "$here/../base/config.yaml" "$scratch/etc/"
  device=$(sed -n 's/^ *- name: //p' "$scratch/etc/config.yaml")
  ip link set lo up
  ip link add "$device" type veth peer name far
  ip link set "$device" up
  ip link set far up
  # Packet memory is more than this: without IPC_LOCK it is refused.
  ulimit -l 64

  lay_out "$scratch/control" ro
  lay_out "$scratch/metrics" ro read-only
  lay_out "$scratch/router" rw
  # Without the host's bpffs it must fail, because it may not mount one: the proof that this script
  # takes capabilities away.
  said=$(in_container router spillway run --config /etc/spillway/config.yaml 2>&1) &&
    fail "the router runs without a bpffs"
  [[ $said == *"cannot mount a bpffs"* ]] || fail "without a bpffs the router says: $said"
  mount -t bpf none "$view/run/spillway/bpf"

  start_router
  attached || fail "steering is not attached"
  # The control plane connects as root without capabilities, on a read-only mount.
  view=$scratch/control in_container control spillway status >/dev/null ||
    fail "control cannot reach the router"
  # What the network asks, nobody's user answers, who can ask and change nothing.
  local ask=(in_container metrics spillway)
  view=$scratch/metrics "${ask[@]}" status --socket "$READ_ONLY" >/dev/null ||
    fail "metrics cannot reach the router"
  said=$(view=$scratch/metrics "${ask[@]}" drain --socket "$READ_ONLY" 2>&1) &&
    fail "metrics can drain the router"
  [[ $said == *"this socket is read-only"* ]] || fail "metrics drains the router, which says: $said"
  stop_router
  attached || fail "steering has not outlived the router"
  start_router
  in_container router spillway detach >/dev/null || fail "detach fails"
  ! attached || fail "steering is attached after detach"
  stop_router
  echo "image: the router runs in it with $(sed -n 's/^ *add: //p' "$DAEMONSET")"
}

with_router=yes
if [[ ${1-} == --no-router ]]; then
  with_router=
  shift
fi
[[ $# == 1 && -d ${1-} ]] || fail "usage: check.sh [--no-router] DIRECTORY"
root=$(realpath "$1")
((EUID == 0)) || fail "needs root, for chroot and namespaces"

if [[ ${SPILLWAY_IMAGE_INSIDE-} ]]; then
  router
  exit
fi
contents
starts
if [[ $with_router ]]; then
  # With a process namespace, so that nothing is left running whatever happens.
  SPILLWAY_IMAGE_INSIDE=1 unshare --net --mount --propagation private --pid --fork --kill-child \
    "$0" "$root"
fi
echo "image: $(du --summarize --bytes "$root" | cut -f1 | numfmt --to=iec) in all"
