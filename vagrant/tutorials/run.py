#!/usr/bin/env python3
"""Runs the commands of tutorials, and compares what they print with what the tutorials say.

    run.py FILE.md...            a line for each block; ends at the first that deviates
    run.py --print FILE.md...    compares nothing, prints what the commands print: for authors

Every fenced block marked `sh` is run, in order, by one bash for each file, in the repository. It must
succeed in every command, within TIMEOUT_S. What it prints, on standard output and standard error, must
be what the next block marked `text` says, or nothing where none comes before the next `sh`. There
`…` is any one word or part of one, ` …` at the end of a line its rest, and a line of `…` alone any
number of lines. Spaces in a row count as one.
"""

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# A machine that others use too takes minutes to bring the lab up.
TIMEOUT_S = 300
ANY = "…"


@dataclass
class Block:
    """Commands, the line of the first one, and what they shall print."""

    line: int
    commands: str
    expected: str


class Wrong(Exception):
    """A tutorial that cannot be read, or whose commands do something else than it says."""


def blocks(text):
    """The blocks of a tutorial. Those of another language than sh and text are for reading only."""
    found, opened = [], None
    for number, line in enumerate(text.splitlines(), 1):
        if opened is None:
            if line.startswith("```"):
                opened = (number, line[3:].strip(), [])
        elif line.strip() == "```":
            begun, language, lines = opened
            opened = None
            if language == "sh":
                found.append(Block(begun + 1, "\n".join(lines) + "\n", ""))
            elif language == "text":
                if not found or found[-1].expected:
                    raise Wrong(f"line {begun}: a block of output follows no block of commands")
                found[-1].expected = "\n".join(lines)
        else:
            opened[2].append(line)
    if opened is not None:
        raise Wrong(f"line {opened[0]}: the block has no end")
    if not found:
        raise Wrong("no block of commands, marked `sh`")
    return found


def pattern(line):
    """What a line of output must match as a whole."""
    line = " ".join(line.split())
    rest = line.endswith(f" {ANY}")
    parts = [re.escape(part) for part in line.removesuffix(f" {ANY}").split(ANY)]
    return re.compile(r"\S+".join(parts) + (r"( .*)?" if rest else ""))


def deviation(expected, seen):
    """The first expected line that cannot be found where it should be, or None."""
    expected, seen = expected.splitlines(), [" ".join(line.split()) for line in seen.splitlines()]
    # The lines of `seen` before which what is still expected may begin.
    may, furthest = {0}, 0
    for line in expected:
        if line.strip() == ANY:
            may = set(range(min(may), len(seen) + 1))
            continue
        wanted = pattern(line)
        may = {at + 1 for at in may if at < len(seen) and wanted.fullmatch(seen[at])}
        if not may:
            return f"not seen where it should be: {line}"
        furthest = max(may)
    return None if len(seen) in may else f"seen beyond what is expected: {seen[furthest]}"


class Shell:
    """A bash that runs one block after another."""

    def __init__(self, directory):
        self.directory = directory
        self.done, child = os.pipe()
        self.process = subprocess.Popen(
            ["bash", "--noprofile", "--norc"], stdin=subprocess.PIPE, text=True, cwd=ROOT,
            pass_fds=[child], start_new_session=True)
        self.child = child

    def run(self, commands):
        """What they print; raises Wrong when one fails."""
        script, output = self.directory / "commands", self.directory / "output"
        script.write_text(commands)
        # It ends with the first command that fails: what comes after would only confuse.
        self.process.stdin.write(
            f"set -eo pipefail; . '{script}' >'{output}' 2>&1 </dev/null; set +e;"
            f"echo >&{self.child}\n")
        self.process.stdin.flush()
        exited = os.pidfd_open(self.process.pid)
        ready, _, _ = select.select([self.done, exited], [], [], TIMEOUT_S)
        os.close(exited)
        seen = output.read_text(errors="replace") if output.exists() else ""
        if self.done in ready:
            os.read(self.done, 1)
            return seen
        if ready:
            raise Wrong(f"it failed, with exit code {self.process.wait()}, and printed:\n{seen}")
        raise Wrong(f"not within {TIMEOUT_S} s; it has printed:\n{seen}")

    def end(self):
        """Also what the commands have left running."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def run(path, compares=True):
    """Runs a tutorial; raises Wrong at what deviates. Says what it does, line by line."""
    with tempfile.TemporaryDirectory() as directory:
        shell = Shell(Path(directory))
        try:
            for block in blocks(path.read_text()):
                first = block.commands.splitlines()[0]
                try:
                    seen = shell.run(block.commands)
                except Wrong as wrong:
                    raise Wrong(f"line {block.line}:\n{block.commands}{wrong}") from None
                if not compares:
                    print(f"{path.name}:{block.line}\n{block.commands}---\n{seen}", flush=True)
                    continue
                wrong = deviation(block.expected, seen)
                if wrong:
                    raise Wrong(f"line {block.line}:\n{block.commands}--- {wrong}\n"
                                f"--- expected:\n{block.expected}\n--- seen:\n{seen}")
                print(f"ok - {path.name}:{block.line} {first}", flush=True)
        finally:
            shell.end()


def main():
    arguments = sys.argv[1:]
    compares = "--print" not in arguments
    files = [Path(one) for one in arguments if one != "--print"]
    if not files:
        sys.exit(__doc__)
    for path in files:
        try:
            run(path, compares)
        except (Wrong, OSError) as error:
            sys.exit(f"not ok - {path.name}, {error}")


if __name__ == "__main__":
    main()
