#!/usr/bin/env bash
# Tests what the machines do for their network, host.sh and cni.sh, without machines: each is a
# namespace of network, mounts and names, in namespaces of the test's own, which end with it. Takes
# seconds, needs root, and is in nobody's way: neither the lab nor another test is touched.
# shellcheck disable=SC2317 # `check` and its kind call the functions
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
captures= # the test takes none

# shellcheck source=vagrant/checks.sh
source "$here/checks.sh"
# shellcheck source=vagrant/machines/pretend.sh
source "$here/machines/pretend.sh"

serve() {
  on outside python3 "$here/services/http_server.py" "$SERVER" 8000 2>/dev/null &
  await "the server answers" on outside curl --silent "http://$(in_url "$SERVER"):8000/"
}

# added IPV4 IPV6 NODE CONTAINER POD: the plugin must connect the pod with these addresses.
added() {
  sandbox "$3" "$4"
  equal "$1/32 $2/128" addresses "$3" "$4" "$5"
}
addresses() { cni "$1" ADD "$2" "$3" | jq -r '[.ips[].address] | join(" ")'; }

# error CODE COMMAND...: the plugin must fail, and say it as the specification wants it.
error() {
  local code=$1 output
  shift
  if output=$("$@" 2>/dev/null); then echo "it succeeded: $output" && return 1; fi
  jq -e --argjson code "$code" '.cniVersion == "1.0.0" and .code == $code and .msg != ""' \
    <<<"$output" >/dev/null || { echo "not an error $code: $output" && return 1; }
}

# with_result ADDRESS...: what CHECK gets, the configuration with the result of ADD.
with_result() {
  jq --null-input --args '{cniVersion: "1.0.0", name: "lab",
    prevResult: {ips: [$ARGS.positional[] | {address: .}]}}' "$@"
}

# --- the chapters ----------------------------------------------------------------------------

pods() {
  chapter "Pods are connected as topology.sh says"
  check "VERSION" equal 1.0.0 eval 'cni worker1 VERSION "" | jq -r ".supportedVersions[]"'
  check "app1-a has its addresses" added 10.0.1.40 fd00:10:0:1::40 worker1 a1 app1-a
  check "app1-b has its addresses" added 10.0.1.41 fd00:10:0:1::41 worker1 b1 app1-b
  check "app2-a has its addresses" added 10.0.1.50 fd00:10:0:1::50 worker1 a2 app2-a
  check "app1-c has its addresses" added 10.0.2.182 fd00:10:0:2::182 worker2 c1 app1-c
  check "a pod of no name has two of its node's" \
    added 10.0.1.200 fd00:10:0:1::200 worker1 0123456789abcdef job-x
  check "the next one the next" \
    added 10.0.1.201 fd00:10:0:1::201 worker1 fedcba9876543210 job-y
  check "a pod of the lab's on another node than its own is nobody special" \
    added 10.0.2.200 fd00:10:0:2::200 worker2 elsewhere app1-a
  check "CHECK: app1-a is connected" \
    cni worker1 CHECK a1 app1-a "$(with_result 10.0.1.40/32 fd00:10:0:1::40/128)"
  check "CHECK: another address is not app1-a's" \
    error 104 cni worker1 CHECK a1 app1-a "$(with_result 10.0.1.99/32)"
  check "CHECK: nor is another one of IPv6" \
    error 104 cni worker1 CHECK a1 app1-a "$(with_result 10.0.1.40/32 fd00:10:0:1::99/128)"
}

traffic() {
  chapter "They reach each other and the outside"
  check "app1-a pings app1-c through the tunnel" pings app1-a "$(address_of app1-c)"
  check "app1-c pings app2-a through the tunnel" pings app1-c "$(address_of app2-a)"
  check "app1-a is seen as worker1" equal "$WORKER1" http app1-a "$SERVER"
  check "app1-c is seen as worker2" equal "$GATEWAY" http app1-c "$SERVER"
  check "worker1 pings control-plane" pings worker1 "$CONTROL_PLANE"
  check "worker2 pings control-plane, through the router" pings worker2 "$CONTROL_PLANE"
  check "control-plane pings the server, through the router" pings control-plane "$SERVER"
  check "a pod's largest packet fits" \
    pings app1-a "$(address_of app1-c)" -M "do" -s "$((1450 - HEADERS))"
}

steering() {
  chapter "Steering: app1 goes to the gateway, whose kernel masquerades where no Spillway runs"
  check "host.sh worker1 steer" in_machine worker1 "$here/machines/host.sh" worker1 steer
  check "again" in_machine worker1 "$here/machines/host.sh" worker1 steer
  check "app1-a is seen as worker2" equal "$GATEWAY" http app1-a "$SERVER"
  check "app2-a is seen as worker1" equal "$WORKER1" http app2-a "$SERVER"
  check "host.sh worker1 unsteer" in_machine worker1 "$here/machines/host.sh" worker1 unsteer
  # The kernel goes on for connections that it remembers; this is a new one.
  check "app1-a is seen as worker1" equal "$WORKER1" http app1-a "$SERVER"
}

ends() {
  chapter "Pods end"
  check "ADD again for the same container is refused" error 101 cni worker1 ADD a1 app1-a
  sandbox worker1 a9
  check "ADD of a pod that another container still is, is refused" \
    error 11 cni worker1 ADD a9 app1-a
  check "DEL" cni worker1 DEL a1 app1-a
  check "app1-a's device is gone" fails in_machine worker1 ip link show app1-a
  check "its name is gone" fails in_machine worker1 test -L /run/netns/spw-app1-a
  check "DEL again succeeds" cni worker1 DEL a1 app1-a
  check "CHECK fails then" error 103 cni worker1 CHECK a1 app1-a "$(with_result 10.0.1.40/32)"
  check "the pod may come back" \
    equal "10.0.1.40/32 fd00:10:0:1::40/128" addresses worker1 a9 app1-a
  check "a late DEL of the old container harms nobody" cni worker1 DEL a1 app1-a
  check "app1-a is connected still" pings app1-a "$(address_of app1-c)"
  in_machine worker1 ip netns delete cni-0123456789abcdef
  check "DEL succeeds where the namespace is gone" cni worker1 DEL 0123456789abcdef job-x
  check "its addresses are free again" added 10.0.1.200 fd00:10:0:1::200 worker1 later job-z
}

faults() {
  chapter "What the runtime gets wrong is answered by name"
  check "another version" error 1 cni worker1 ADD v1 app1-a '{"cniVersion": "0.4.0"}'
  check "no JSON" error 6 cni worker1 ADD v1 app1-a 'no JSON'
  check "an unknown command" error 4 cni worker1 GC v1
  check "a namespace that is not there" error 3 cni worker1 ADD v1 job-v
  sandbox worker1 v2
  in_machine worker1 ip -n cni-v2 link add eth0 type veth peer name eth1
  check "a pod that has an eth0 already" error 102 cni worker1 ADD v2 job-v
  check "nothing is left of it" fails in_machine worker1 ip link show pod-v2
}

if [[ ! ${MACHINES_TEST_INSIDE-} ]]; then
  ((EUID == 0)) || { echo "test.sh: needs root, for namespaces: try sudo" >&2 && exit 1; }
  # With a process namespace, so that nothing is left running whatever happens.
  MACHINES_TEST_INSIDE=1 exec unshare --net --mount --propagation private --pid --fork \
    --mount-proc --kill-child "$0"
fi
start_machines
for_families serve
pods
# Steering for the families that Spillway translates.
for family in 4 6; do
  use_family "$family"
  traffic
  ! translated "$family" || steering
done
use_family 4
ends
faults
echo
echo "machines: $passed passed, $failed failed"
exit $((failed > 0))
