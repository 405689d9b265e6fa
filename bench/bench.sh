#!/usr/bin/env bash
# `make bench`: measures one part after another, then writes the report into bench/results. What was
# measured stays in target/bench, each part in a file of its own.
set -euo pipefail
cd "$(dirname "$0")/.."

bench=target/release/spillway-bench
measured=target/bench
as_root=()
if ((EUID != 0)); then
  as_root=(sudo -E env PATH="$PATH")
fi

tell() {
  printf '%s  %s\n' "$(date +%H:%M:%S)" "$1" >&2
}

# A part's output counts when the part has come to its end: the report takes no half of one.
measure() {
  local part=$1
  shift
  tell "$part"
  "$@" "$bench" "$part" --json >"$measured/$part.part"
  mv "$measured/$part.part" "$measured/$part.json"
}

mkdir -p "$measured"
rm -f "$measured"/*.json "$measured"/*.part
cat /proc/stat >"$measured/stat"

measure engine
tell instructions
# More instructions than the budget allows are a number to report; `make bench-quick` fails on them.
"$bench" instructions --json >"$measured/instructions.json" || [[ -s $measured/instructions.json ]]
measure steering "${as_root[@]}"
measure lab "${as_root[@]}"

tell report
"$bench" report --engine "$measured/engine.json" --instructions "$measured/instructions.json" \
  --steering "$measured/steering.json" --lab "$measured/lab.json" \
  --stat-before "$measured/stat" --out bench/results
