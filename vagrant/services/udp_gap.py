#!/usr/bin/env python3
"""Measures how long the lab's UDP echo is out of reach.

    udp_gap.py ADDRESS PORT     prints a line with the first answer; when its input ends, the longest
                                time without one in milliseconds, and each address:port that the server
                                saw

One socket asks again a millisecond after it had its answer, or after 5 ms without.
"""

import select
import socket
import sys
import time

QUESTION = b"who am I?"
PATIENCE_S = 0.005
PAUSE_S = 0.001


def has_ended(stream):
    return bool(select.select([stream], [], [], 0)[0]) and not stream.readline()


def measure(endpoint):
    seen, longest, last = set(), 0, None
    family = socket.AF_INET6 if ":" in endpoint[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        client.settimeout(PATIENCE_S)
        client.connect(endpoint)
        while not has_ended(sys.stdin):
            client.send(QUESTION)
            try:
                seen.add(client.recv(65535).decode().strip())
            except OSError:
                continue
            now = time.monotonic()
            if last is None:
                print("begun", flush=True)
            else:
                longest = max(longest, now - last)
            last = now
            time.sleep(PAUSE_S)
    print(round(longest * 1000), "ms", *sorted(seen))


def main():
    address, port = sys.argv[1:]
    measure((address, int(port)))


if __name__ == "__main__":
    main()
