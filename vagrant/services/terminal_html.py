#!/usr/bin/env python3
"""Makes a web page of what `tmux capture-pane -e` prints: a terminal, as it would be seen.

    terminal_html.py <CAPTURE >PAGE
"""

import html
import re
import sys

# The eight colours of a dark terminal.
COLOURS = "#10161c #ff7b72 #7ee787 #e3b341 #58a6ff #d2a8ff #56d4dd #e6ebf0".split()
PAGE = """<!doctype html><meta charset="utf-8"><style>
body {{ margin: 0 }}
pre {{ margin: 0; padding: 14px 18px; width: max-content; background: #10161c; color: #e6ebf0;
  font: 14px/16px "DejaVu Sans Mono", monospace }}
</style><pre>{}</pre>
"""


def apply(codes, style):
    """The style after a sequence of SGR parameters (ECMA-48, 8.3.117)."""
    codes = [int(code or 0) for code in codes.split(";")]
    if codes[:2] == [38, 5]:  # one of 256 colours, of which the first eight are used
        return {**style, "colour": COLOURS[codes[2] % 8]}
    for code in codes:
        if code == 0:
            style = {}
        elif code in (1, 2, 7):
            style = {**style, code: True}
        elif 30 <= code <= 37:
            style = {**style, "colour": COLOURS[code - 30]}
        elif 90 <= code <= 97:
            style = {**style, "colour": COLOURS[code - 90]}
        elif code == 39:
            style = {key: value for key, value in style.items() if key != "colour"}
        elif code in (22, 27):
            ended = (1, 2) if code == 22 else (7,)
            style = {key: value for key, value in style.items() if key not in ended}
    return style


def css(style):
    ink, ground = style.get("colour", "#e6ebf0"), "transparent"
    if 7 in style:
        ink, ground = "#10161c", ink
    weight = "bold" if 1 in style else "normal"
    return f"color:{ink};background:{ground};font-weight:{weight}"


def main():
    style, parts = {}, []
    for text in re.split(r"(\x1b\[[0-9;]*m)", sys.stdin.read().rstrip("\n")):
        if text.startswith("\x1b["):
            style = apply(text[2:-1], style)
        elif text:
            # tmux marks what it draws with a line drawing set of its own so.
            text = html.escape(re.sub(r"[\x0e\x0f]", "", text))
            parts.append(f'<span style="{css(style)}">{text}</span>')
    print(PAGE.format("".join(parts)))


if __name__ == "__main__":
    main()
