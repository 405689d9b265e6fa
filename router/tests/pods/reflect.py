"""Tells each client the address and port that it is seen with: reflect.py ADDRESS PORT.

For eight bytes that a client sends it gets the same eight, its address and its port in two.
"""

import asyncio
import socket
import sys


async def serve(reader, writer):
    address, port, *_ = writer.get_extra_info("peername")
    family = writer.get_extra_info("socket").family
    seen = socket.inet_pton(family, address) + port.to_bytes(2, "big")
    try:
        while True:
            writer.write(await reader.readexactly(8) + seen)
    except asyncio.IncompleteReadError:
        writer.close()


async def main():
    server = await asyncio.start_server(serve, sys.argv[1], int(sys.argv[2]), backlog=4096)
    await server.serve_forever()


asyncio.run(main())
