# shellcheck shell=bash
# The names and addresses of the lab, which README.md draws. Sourced by topology.sh, which makes
# them, and by checks.sh, whose stories speak of them.
# shellcheck disable=SC2034

readonly EGRESS=192.168.44.129
readonly ANNOUNCED=192.168.44.130 # on no host: Spillway itself answers for it
readonly GATEWAY=192.168.44.128
readonly WORKER1=192.168.211.128
readonly CONTROL_PLANE=192.168.211.10
readonly SERVER=203.0.113.10
readonly EXCLUDED=203.0.113.20
readonly SHARED_PORTS=16384-29999 # of an egress address that the node uses too

readonly NODES=(router worker1 worker2 outside)
# name, node, address; app1-a is of the app app1
readonly PODS=(
  "app1-a worker1 10.0.1.40"
  "app1-b worker1 10.0.1.41"
  "app2-a worker1 10.0.1.50"
  "app1-c worker2 10.0.2.182"
)
