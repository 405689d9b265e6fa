#!/usr/bin/env python3
"""Many connections to a web server at once: all are open before the first one asks.

    http_many.py ADDRESS PORT COUNT

Prints each different answer and how many got it, such as "200 192.168.44.129".
"""

import collections
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException

TIMEOUT_S = 30


def ask(address, port, all_open):
    connection = HTTPConnection(address, port, timeout=TIMEOUT_S)
    try:
        connection.connect()
        all_open.wait(TIMEOUT_S)
        connection.request("GET", "/")
        return connection.getresponse().read().decode().strip()
    except threading.BrokenBarrierError:
        return "waited in vain for the other connections"
    except (OSError, HTTPException) as error:
        all_open.abort()
        return f"failed: {error}"
    finally:
        connection.close()


def main():
    address, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    all_open = threading.Barrier(count)
    with ThreadPoolExecutor(count) as clients:
        answers = clients.map(lambda _: ask(address, port, all_open), range(count))
        for answer, times in collections.Counter(answers).most_common():
            print(times, answer)


if __name__ == "__main__":
    main()
