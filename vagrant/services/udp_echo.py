#!/usr/bin/env python3
"""Server and client of the lab's UDP echo.

    udp_echo.py serve ADDRESS PORT          answers each datagram with the address:port that it saw
    udp_echo.py ask ADDRESS PORT [TRIES]    prints the answer to a datagram; exit code 1 without one

A try is one datagram and a second's patience; three are made unless TRIES says otherwise.
"""

import socket
import sys

TRIES_DEFAULT = 3
TIMEOUT_S = 1


def serve(endpoint):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(endpoint)
        while True:
            _, (address, port) = server.recvfrom(65535)
            server.sendto(f"{address}:{port}\n".encode(), (address, port))


def ask(endpoint, tries=TRIES_DEFAULT):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(TIMEOUT_S)
        client.connect(endpoint)
        for _ in range(int(tries)):
            client.send(b"who am I?")
            try:
                print(client.recv(65535).decode(), end="")
                return
            except OSError:
                continue
    sys.exit(1)


def main():
    mode, address, port, *tries = sys.argv[1:]
    {"serve": serve, "ask": ask}[mode]((address, int(port)), *tries)


if __name__ == "__main__":
    main()
