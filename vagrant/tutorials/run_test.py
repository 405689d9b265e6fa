#!/usr/bin/env python3
"""Tests that run.py passes what it should, and fails what it should."""

import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import run

RUN = Path(__file__).with_name("run.py")


def tutorial(commands, output=None):
    text = f"Some words.\n\n```sh\n{commands}\n```\n"
    return text if output is None else f"{text}\n```text\n{output}\n```\n"


def told(*texts):
    """Exit code and words of the runner, for a tutorial of these."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "tutorial.md"
        path.write_text("".join(texts))
        ended = subprocess.run([sys.executable, RUN, path], capture_output=True, text=True)
        return ended.returncode, ended.stdout + ended.stderr


class Comparing(unittest.TestCase):
    def test_what_matches(self):
        for expected, seen in [
            ("", ""),
            ("a  b", "a b\n"),
            ("a … c", "a b c"),
            ("port:…", "port:40000"),
            ("a.… > b", "a.1234 > b"),
            ("a …", "a b c"),
            ("a …", "a"),
            ("…", ""),
            ("…", "a\nb"),
            ("…\nb", "a\na\nb"),
            ("a\n…\nb\n…", "a\nx\nb\nb\ny"),
            ("1.2 (a)", "1.2 (a)"),
        ]:
            with self.subTest(expected=expected, seen=seen):
                self.assertIsNone(run.deviation(expected, seen))

    def test_what_deviates(self):
        for expected, seen in [
            ("", "a"),
            ("a", ""),
            ("a", "b"),
            ("a", "a\nb"),
            ("a\nb", "a"),
            ("a … c", "a c"),
            ("a … c", "a b b c"),
            ("port:…", "port:"),
            ("1.2", "1x2"),
            ("a …", "ab"),
            ("…\nb", "b\na"),
        ]:
            with self.subTest(expected=expected, seen=seen):
                self.assertIsNotNone(run.deviation(expected, seen))


class Running(unittest.TestCase):
    def test_a_true_tutorial_passes(self):
        code, words = told(
            tutorial("x=1\nf() { echo \"$x\" \"$1\"; }"),
            tutorial("f a; f b >&2", "1 a\n1 b"),
            "```yaml\nnot: run\n```\n",
        )
        self.assertEqual(code, 0, words)
        self.assertEqual(words.count("ok - tutorial.md:"), 2)

    def test_a_deviation_shows_command_expected_and_seen(self):
        code, words = told(tutorial("echo seen", "expected"))
        self.assertEqual(code, 1)
        for word in ["line 4", "echo seen", "--- expected:\nexpected", "--- seen:\nseen"]:
            self.assertIn(word, words)

    def test_output_that_is_not_shown_is_a_deviation(self):
        code, words = told(tutorial("echo a"))
        self.assertEqual(code, 1)
        self.assertIn("seen beyond what is expected: a", words)

    def test_a_command_that_fails_ends_the_tutorial(self):
        for commands in ["echo before; false\necho after", "false | true\necho after"]:
            with self.subTest(commands=commands):
                code, words = told(tutorial(commands, "…"))
                self.assertEqual(code, 1)
                self.assertIn("failed, with exit code 1", words)
                self.assertNotIn("\nafter\n", words)

    def test_a_tutorial_that_cannot_be_read_fails(self):
        for text, said in [
            ("Words only.\n", "no block of commands"),
            ("```sh\ntrue\n", "has no end"),
            ("```text\na\n```\n", "follows no block"),
            (tutorial("echo a", "a") + "```text\nb\n```\n", "follows no block"),
        ]:
            with self.subTest(said=said):
                code, words = told(text)
                self.assertEqual(code, 1)
                self.assertIn(said, words)

    def test_what_was_left_running_ends(self):
        with tempfile.TemporaryDirectory() as directory:
            pid = Path(directory) / "pid"
            self.assertEqual(told(tutorial(f"sleep 1000 & echo $! > {pid}"))[0], 0)
            self.assertFalse(Path(f"/proc/{pid.read_text().strip()}/cmdline").exists()
                             and Path(f"/proc/{pid.read_text().strip()}/cmdline").read_text())


if __name__ == "__main__":
    unittest.main()
