#!/usr/bin/env bash
# Plays Cilium's agents on both nodes: what the gateway's table (`spillway policies`) has, the pods'
# nodes send to the gateway by VXLAN. All else, excluded destinations and the cluster itself too,
# goes as before. Follows the table until it is ended; `kubernetes.sh up` starts it.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=vagrant/topology.sh
source "$here/topology.sh"

readonly EVERY_S=0.1 # the router tells nobody that its table has changed

# rows: the table, a line for each `POD` and each `POD DESTINATION unicast|throw`. What one policy
# excludes and another covers goes to the gateway.
rows() {
  "$here/netns.sh" ask policies -o json | jq -r '
    group_by([.sourceIP, .destCIDR])[] | .[0].sourceIP,
    "\(.[0].sourceIP) \(.[0].destCIDR) \(if all(.gatewayIP == "Excluded CIDR") then "throw"
      else "unicast" end)"' | sort -u
}

node_of() { case $1 in 10.0.2.* | fd00:10:0:2:*) echo worker2 ;; *) echo worker1 ;; esac; }

# Each pod has a routing table of its own; of the numbers that the kernel does not use itself.
table_of() {
  local sum
  read -r sum _ < <(cksum <<<"$1")
  echo $((1000 + sum % 1000000000))
}

# change add|del ROW
change() {
  local pod destination kind node table tunnel=$UNDERLAY_GATEWAY
  read -r pod destination kind <<<"$2"
  node=$(node_of "$pod")
  table=$(table_of "$pod")
  use_family "$(family_of "$pod")"
  [[ $node != worker2 ]] || tunnel=$POD_TUNNEL
  if [[ -z $destination ]]; then
    on "$node" ip "-$FAMILY" rule "$1" from "$pod" lookup "$table" priority 100
  elif [[ $1 == del ]]; then
    on "$node" ip "-$FAMILY" route del "$kind" "$destination" table "$table"
  elif [[ $kind == throw ]]; then
    on "$node" ip "-$FAMILY" route add throw "$destination" table "$table"
  else
    route_into_tunnel "$node" "$tunnel" "$destination" table "$table"
  fi
}

# The cluster's own addresses are no policy's business.
leave_cluster() {
  local node address
  for node in worker1 worker2; do
    for address in "$POD_RANGE" "$WORKER1" "$GATEWAY"; do
      on "$node" ip "-$FAMILY" rule add to "$address" lookup main priority 50
    done
  done
}

for_families leave_cluster
seen=
while :; do
  # The router may be starting anew: meanwhile the nodes go on with what they know.
  now=$(rows) || now=$seen
  while read -r row; do [[ -z $row ]] || change del "$row"; done \
    < <(comm -23 <(echo "$seen") <(echo "$now"))
  while read -r row; do [[ -z $row ]] || change add "$row"; done \
    < <(comm -13 <(echo "$seen") <(echo "$now"))
  seen=$now
  sleep "$EVERY_S"
done
