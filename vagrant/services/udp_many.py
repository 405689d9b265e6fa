#!/usr/bin/env python3
"""Many UDP flows at once to the UDP echo: all stay open, each speaks several times.

    udp_many.py ADDRESS PORT FLOWS ROUNDS

Prints how many answers came, and each different address that was seen: "5000 192.168.44.129".
"""

import select
import socket
import sys

# Few enough at a time for the server's socket buffer: what is lost there is not the gateway's.
WINDOW = 50
PATIENCE_S = 2


def ask(clients):
    """One datagram each; returns the addresses that the server saw, one per answer."""
    for client in clients:
        client.send(b"who am I?")
    seen, waiting = [], set(clients)
    while waiting:
        ready, _, _ = select.select(waiting, [], [], PATIENCE_S)
        if not ready:
            break
        for client in ready:
            seen.append(client.recv(65535).decode().rpartition(":")[0].strip("[]"))
            waiting.remove(client)
    return seen


def main():
    address, port, flows, rounds = sys.argv[1:]
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    clients = []
    for _ in range(int(flows)):
        client = socket.socket(family, socket.SOCK_DGRAM)
        client.connect((address, int(port)))
        clients.append(client)
    answers = []
    for _ in range(int(rounds)):
        for first in range(0, len(clients), WINDOW):
            answers += ask(clients[first : first + WINDOW])
    print(len(answers), *sorted(set(answers)))


if __name__ == "__main__":
    main()
