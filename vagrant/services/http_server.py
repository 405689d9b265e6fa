#!/usr/bin/env python3
"""The outside's web server: answers every request with the address that it saw.

    http_server.py ADDRESS PORT [ALLOWED_ADDRESS ...]

With allowed addresses, everyone else gets 403. /download?bytes=N sends N bytes that are always the
same, /sha256?bytes=N their checksum.
"""

import hashlib
import socket
import socketserver
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

BLOCK = bytes(range(251)) * 261  # A prime period: a lost or repeated segment cannot hide.
BYTES_MAX = 1 << 30


def blocks(count):
    """The first `count` bytes of BLOCK, repeated for ever."""
    while count > 0:
        yield BLOCK[:count]
        count -= len(BLOCK)


class Handler(BaseHTTPRequestHandler):
    allowed = ()
    # Without this a client that goes away would keep its thread for ever.
    timeout = 60

    def do_GET(self):
        source = self.client_address[0]
        if self.allowed and source not in self.allowed:
            self.reply(403, f"{source} is not on the allow-list\n".encode())
            return
        url = urlsplit(self.path)
        count = min(int(parse_qs(url.query).get("bytes", ["0"])[0]), BYTES_MAX)
        if url.path == "/download":
            self.reply_head(200, count)
            for block in blocks(count):
                self.wfile.write(block)
        elif url.path == "/sha256":
            digest = hashlib.sha256()
            for block in blocks(count):
                digest.update(block)
            self.reply(200, f"{digest.hexdigest()}\n".encode())
        else:
            self.reply(200, f"{source}\n".encode())

    def reply(self, status, body):
        self.reply_head(status, len(body))
        self.wfile.write(body)

    def reply_head(self, status, length):
        self.send_response(status)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(length))
        self.end_headers()


class Server(ThreadingHTTPServer):
    daemon_threads = True
    # The story opens 200 connections at once.
    request_queue_size = 512

    def __init__(self, endpoint, handler):
        self.address_family = socket.AF_INET6 if ":" in endpoint[0] else socket.AF_INET
        super().__init__(endpoint, handler)

    def server_bind(self):
        # HTTPServer's asks the DNS for its own name, which takes seconds where there is none.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]


def main():
    address, port, *allowed = sys.argv[1:]
    Handler.allowed = tuple(allowed)
    Server((address, int(port)), Handler).serve_forever()


if __name__ == "__main__":
    main()
