#!/usr/bin/env bash
# Runs a process of the lab and stays beside it: only its parent learns how it ends.
#
#   supervise.sh RUN NAME COMMAND...
#
# RUN/pid/NAME gets the process and the time it started, because a number alone may one day be
# somebody else's; RUN/exit/NAME gets its exit code.
set -euo pipefail

run=$1
name=$2
shift 2

"$@" &
pid=$!
read -r stat <"/proc/$pid/stat"
read -ra fields <<<"${stat##*) }"
echo "$pid ${fields[19]}" >"$run/$name.pid"
mv "$run/$name.pid" "$run/pid/$name"

code=0
wait "$pid" || code=$?
echo "$code" >"$run/exit/$name"
