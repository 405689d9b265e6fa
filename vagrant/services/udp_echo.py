#!/usr/bin/env python3
"""Server and client of the lab's UDP echo.

    udp_echo.py serve ADDRESS PORT          answers each datagram with the address:port that it saw
    udp_echo.py ask ADDRESS PORT [TRIES [BYTES [whole|cut [QUESTION]]]]
                                            prints the answer to a datagram; exit code 1 without one

A try is one datagram and a second's patience; three are made unless TRIES says otherwise. BYTES asks for
a datagram of that size in answer, which routers may cut only if "cut" is asked for. QUESTION is the size
of the question, which routers may cut.
"""

import socket
import sys

QUESTION = "who am I?"
TRIES_DEFAULT = 3
TIMEOUT_S = 1
# linux/in.h; the module does not name them.
IP_MTU_DISCOVER = 10
IP_PMTUDISC = {"cut": 0, "whole": 2}


def serve(endpoint):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(endpoint)
        while True:
            question, (address, port) = server.recvfrom(65535)
            size, fragments = question.decode().split()[len(QUESTION.split()):] or (0, "whole")
            server.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC[fragments])
            answer = f"{address}:{port}".ljust(int(size) - 1) + "\n"
            try:
                server.sendto(answer.encode(), (address, port))
            except OSError as error:
                # Larger than the path allows, as the kernel has learned.
                print(f"{address}:{port}: {error}", file=sys.stderr)


def ask(endpoint, tries=TRIES_DEFAULT, size=0, fragments="whole", question=0):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(TIMEOUT_S)
        client.connect(endpoint)
        for _ in range(int(tries)):
            client.send(f"{QUESTION} {size} {fragments}".ljust(int(question)).encode())
            try:
                answer = client.recv(65535).decode()
                print(answer.split()[0], *[len(answer)] * (int(size) > 0))
                return
            except OSError:
                continue
    sys.exit(1)


def main():
    mode, address, port, *options = sys.argv[1:]
    {"serve": serve, "ask": ask}[mode]((address, int(port)), *options)


if __name__ == "__main__":
    main()
