"""What the commands share: how arguments are read, and how a long run says where it is."""

import argparse
import multiprocessing
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn, TextIO


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong with an argument in one line: the usage above it would bury it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def whole_number(most: int) -> Callable[[str], int]:
    """An argparse type: an int from 1 to `most`."""

    def parse(text: str) -> int:
        shown = text if len(text) <= 20 else f"{text[:17]}..."
        if not re.fullmatch(r"[+-]?[0-9]+", text):
            raise argparse.ArgumentTypeError(f"{shown!r} is not a whole number")
        # Very long numerals are refused by int() itself.
        value = int(text) if len(text) <= 20 else (-1 if text[0] == "-" else most + 1)
        if value < 1:
            raise argparse.ArgumentTypeError(f"must be at least 1, not {shown}")
        if value > most:
            raise argparse.ArgumentTypeError(f"{shown} is too large, the most is {most:,}")
        return value

    return parse


def start_method(text: str) -> str:
    """An argparse type: a start method that this Python has."""
    methods = multiprocessing.get_all_start_methods()
    if text not in methods:
        raise argparse.ArgumentTypeError(f"unknown start method {text[:40]!r}, choose from {', '.join(methods)}")
    return text


def most_processes() -> int:
    """How many workers are still an experiment and not an accident."""
    return max(64, 8 * (os.cpu_count() or 1))


class Progress:
    """A line on `stream` that tells what runs now: rewritten in place on a terminal, else plain lines now and then."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._in_place = self._stream is not None and self._stream.isatty()
        self._interval = 0.2 if self._in_place else 5.0
        self._next = 0.0

    def show(self, text: str) -> None:
        """Say `text`, unless something was said a moment ago."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + self._interval
        if self._in_place:
            # The terminal may be narrower than the text, and a line that wraps cannot be rewritten.
            width = os.get_terminal_size(self._stream.fileno()).columns or 80
            text = f"\r\x1b[K{text[: width - 1]}"
        else:
            text += "\n"
        self._write(text)

    def clear(self) -> None:
        """Leave an empty line for what is printed next."""
        if self._in_place:
            self._next = 0.0
            self._write("\r\x1b[K")

    def _write(self, text: str) -> None:
        # A stderr that is closed, or that nobody reads any more, must not end the work that it only tells about.
        with suppress(OSError, ValueError):
            if self._stream is not None:
                self._stream.write(text)
                self._stream.flush()

    @contextmanager
    def watching(self, describe: Callable[[], str]) -> Iterator[None]:
        """Show `describe()` again and again while the body runs.

        A thread does it, a few times a second: counting in the measured loop would cost time in every task.
        """
        done = threading.Event()

        def watch() -> None:
            while not done.wait(0.2):
                self.show(describe())

        self.show(describe())
        watcher = threading.Thread(target=watch, name="progress", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()
