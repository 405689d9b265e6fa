#!/usr/bin/env python3
"""Server and client of the lab's UDP echo.

    udp_echo.py serve ADDRESS PORT          answers each datagram with the address:port, or
                                            [address]:port of IPv6, that it saw
    udp_echo.py ask ADDRESS PORT [TRIES [BYTES [whole|cut [QUESTION]]]]
                                            prints the answer to a datagram; exit code 1 without one

A try is one datagram and a second's patience; three are made unless TRIES says otherwise. BYTES asks for
a datagram of that size in answer, which routers may cut only if "cut" is asked for. QUESTION is the size
of the question, which routers may cut. Of IPv6, only hosts cut, to the size that routers have told them.
"""

import socket
import sys

QUESTION = "who am I?"
TRIES_DEFAULT = 3
TIMEOUT_S = 1
# linux/in.h and linux/in6.h; the module does not name them.
MTU_DISCOVER = {
    socket.AF_INET: (socket.IPPROTO_IP, 10),
    socket.AF_INET6: (socket.IPPROTO_IPV6, 23),
}
PMTUDISC = {"cut": 0, "whole": 2}


def family_of(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def written(address, port):
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def serve(endpoint):
    family = family_of(endpoint[0])
    with socket.socket(family, socket.SOCK_DGRAM) as server:
        server.bind(endpoint)
        while True:
            question, client = server.recvfrom(65535)
            size, fragments = question.decode().split()[len(QUESTION.split()):] or (0, "whole")
            server.setsockopt(*MTU_DISCOVER[family], PMTUDISC[fragments])
            answer = written(*client[:2]).ljust(int(size) - 1) + "\n"
            try:
                server.sendto(answer.encode(), client)
            except OSError as error:
                # Larger than the path allows, as the kernel has learned.
                print(f"{written(*client[:2])}: {error}", file=sys.stderr)


def ask(endpoint, tries=TRIES_DEFAULT, size=0, fragments="whole", question=0):
    with socket.socket(family_of(endpoint[0]), socket.SOCK_DGRAM) as client:
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
