# shellcheck shell=bash
# The tutorials' commands. In a shell of root, from the repository: `source
# vagrant/tutorials/commands.sh`.

vagrant=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# Where what a tutorial captures is put; it goes with the lab.
CAPTURES=/run/spillway-lab
BINARIES=${BINARIES:-$vagrant/../target/release}
SPILLWAY=${SPILLWAY:-$BINARIES/spillway}
KUBEBUILDER_ASSETS=${KUBEBUILDER_ASSETS:-$vagrant/../target/kubernetes}
export BINARIES SPILLWAY KUBEBUILDER_ASSETS

# lab up|down|pod...
lab() { "$vagrant/kubernetes.sh" "$@"; }
# on HOST COMMAND...: runs it in the network of a host of the lab, which may be a pod.
on() { "$vagrant/netns.sh" exec "$@"; }
kubectl() { lab kubectl "$@"; }
spillway-control() { lab control "$@"; }
# spillway COMMAND...: on the gateway, where one would use `kubectl exec`.
spillway() { on worker2 env SPILLWAY_SOCKET="$CAPTURES/spillway/spillway.sock" "$SPILLWAY" "$@"; }

# await PATTERN COMMAND...: runs it again and again until a line of what it prints matches, and prints
# that. Fails after 20 seconds.
await() {
  local pattern=$1 said deadline=$((SECONDS + 20))
  shift
  until said=$("$@" 2>&1) && grep -E -- "$pattern" <<<"$said"; do
    ((SECONDS < deadline)) || { echo "await: no /$pattern/ in 20 s, but: $said" >&2 && return 1; }
    sleep 0.1
  done
}

# begin FILE COMMAND...: starts a capture, as one would in a second terminal, and comes back when it
# listens. What it prints goes to FILE.
begin() {
  local file=$1 deadline=$((SECONDS + 20))
  shift
  : >"$file.log" # it is read before the command may have made it
  "$@" >"$file" 2>"$file.log" &
  begun=$!
  until grep -qE 'listening on|^capturing' "$file.log"; do
    # It may have ended already, with an error.
    if ((SECONDS >= deadline)) || ! kill -0 "$begun"; then cat "$file.log" >&2 && return 1; fi
    sleep 0.05
  done
}

# finish: waits until the capture has seen as many packets as it was to see.
finish() { wait "$begun"; }
