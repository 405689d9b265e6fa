#!/usr/bin/env bash
# Takes the pictures of the README: `spillway top` and the web page, in the lab, with traffic.
#
#   screenshots.sh [DIRECTORY]
#
# They go to DIRECTORY, router/docs when it is not named. Needs root, `make packages browser`, and a
# lab that nobody else uses: one that is up is replaced, and removed in the end. SPILLWAY names
# another binary than target/release/spillway. Takes two minutes: the charts must have something to
# show.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
SPILLWAY=$(realpath "${SPILLWAY:-$here/../target/release/spillway}")
export SPILLWAY
directory=$(realpath "${1:-$here/../router/docs}")
# shellcheck source=vagrant/addresses.sh
source "$here/addresses.sh"
readonly SOCKET=/run/spillway-lab/spillway/spillway.sock
readonly PAGE=http://127.0.0.1:9602/

lab() { "$here/netns.sh" "$@"; }
work=$(mktemp -d)
terminal() { tmux -u -S "$work/tmux" "$@"; }

clean_up() {
  terminal kill-server 2>/dev/null || true
  lab down >/dev/null
  rm -rf "$work"
}
trap clean_up EXIT

# downloads POD URL MEGABYTES_A_SECOND: one after the other, for as long as the lab is up.
downloads() {
  lab start "downloads-$1-$3" "$1" bash -c "
    while :; do
      curl -s -o /dev/null --limit-rate \$((RANDOM % $3 + 1))M '$2/download?bytes=4000000'
    done"
}

# What pods send: streams of three seconds, each of another rate.
uploads() {
  lab start streams outside iperf3 --server --bind "$SERVER"
  lab start uploads app1-b bash -c "
    while :; do iperf3 --client '$SERVER' --time 3 --bitrate \$((RANDOM % 20 + 5))M; sleep 0.2; done"
}

traffic() {
  local url=http://$SERVER:8000
  downloads app1-a "$url" 4
  downloads app1-b "$url" 2
  downloads app1-c "$url" 3
  uploads
  lab start requests app1-a bash -c "while :; do curl -s -o /dev/null '$url/'; sleep 0.3; done"
  # What dies on its way, so that there is something to say about drops: at the second router.
  lab start short-lived app1-c ping -i 0.4 -t 2 "$SERVER"
}

lab up --queues 2 --workers 2
traffic
LC_ALL=C.UTF-8 terminal -f /dev/null new-session -d -x 110 -y 25 \
  "env -u NO_COLOR '$SPILLWAY' top --socket '$SOCKET'"
lab start page worker2 "$SPILLWAY" serve --page --socket "$SOCKET"
# What the driver starts ends with it: it is the first process of a namespace of its own.
lab start browser worker2 unshare --pid --fork --kill-child --mount-proc chromedriver --port=9515

shoot() { lab exec worker2 python3 "$here/services/screenshot.py" "$@"; }
chart="return Number(document.querySelector('#chart').dataset.points) >= 75"
shoot "$PAGE" "$directory/page.png" 1280x1240 --until "$chart" --phone "$directory/page-phone.png"
terminal capture-pane -e -p >"$work/top.ansi"
python3 "$here/services/terminal_html.py" <"$work/top.ansi" >"$work/top.html"
shoot "file://$work/top.html" "$directory/top.png" fit
ls -l "$directory"/*.png
