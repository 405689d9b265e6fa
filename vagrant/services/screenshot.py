#!/usr/bin/env python3
"""Takes a picture of a web page, through a chromedriver that listens on port 9515.

    screenshot.py URL FILE WIDTHxHEIGHT|fit [--until JAVASCRIPT] [--phone FILE]

`fit` is the size of the page's first <pre>. The picture is taken when what the JavaScript returns is
true. With --phone a second one shows what a phone of 360 x 780 pixels does.
"""

import argparse
import base64
import json
import time
import urllib.error
import urllib.request

DRIVER = "http://127.0.0.1:9515"
WITHIN_S = 150
FLAGS = """--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --disable-quic
    --no-first-run --disable-background-networking --disable-component-update --disable-sync
    --hide-scrollbars""".split()


def await_value(what, question):
    """What the question returns once that is true; it may fail until then."""
    deadline = time.monotonic() + WITHIN_S
    while time.monotonic() < deadline:
        try:
            if value := question():
                return value
        except urllib.error.URLError:
            pass
        time.sleep(0.2)
    raise SystemExit(f"screenshot.py: waited {WITHIN_S} s in vain: {what}")


def command(method, path, body=None):
    """What the driver answers."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(DRIVER + path, data, method=method)
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)["value"]


class Browser:
    def __init__(self):
        await_value("chromedriver is ready", lambda: command("GET", "/status")["ready"])
        options = {"browserName": "chrome", "goog:chromeOptions": {"args": FLAGS}}
        made = command("POST", "/session", {"capabilities": {"alwaysMatch": options}})
        self.session = f"/session/{made['sessionId']}"

    def post(self, path, **body):
        return command("POST", self.session + path, body)

    def run(self, script):
        return self.post("/execute/sync", script=script, args=[])

    def resize(self, width, height, scale=1, mobile=False):
        metrics = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": mobile}
        self.post("/goog/cdp/execute", cmd="Emulation.setDeviceMetricsOverride", params=metrics)

    def shoot(self, path):
        picture = command("GET", f"{self.session}/screenshot")
        with open(path, "wb") as file:
            file.write(base64.b64decode(picture))

    def close(self):
        command("DELETE", self.session)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("file")
    parser.add_argument("size")
    parser.add_argument("--until", default="return true")
    parser.add_argument("--phone")
    wanted = parser.parse_args()
    browser = Browser()
    try:
        if wanted.size != "fit":
            browser.resize(*map(int, wanted.size.split("x")))
        browser.post("/url", url=wanted.url)
        await_value(wanted.until, lambda: browser.run(wanted.until))
        if wanted.size == "fit":
            box = "const box = document.querySelector('pre').getBoundingClientRect();"
            size = browser.run(f"{box} return [Math.ceil(box.width), Math.ceil(box.height)]")
            browser.resize(*size)
        browser.shoot(wanted.file)
        if wanted.phone:
            browser.resize(360, 780, mobile=True)
            browser.shoot(wanted.phone)
    finally:
        browser.close()


if __name__ == "__main__":
    main()
