"""What the workers run, and the values that it is run on. They do next to nothing: measured is what a pool adds to a task."""

import os
import time
from dataclasses import dataclass
from datetime import date
from typing import Any

LONG_SECONDS = 0.004
SHORT_SECONDS = 0.00002
# One task in so many is long.
LONG_EVERY = 16


@dataclass
class Point:
    """A value of a class of its own."""

    x: int
    y: float
    label: str


@dataclass
class Dated:
    """A value that only pickle can take apart, for what it holds."""

    x: int
    y: float
    day: date


def inc(x: int) -> int:
    return x + 1


def half(x: float) -> float:
    return x * 0.5


def shout(x: str) -> str:
    return x + "!"


def moved(point: dict[str, Any]) -> dict[str, Any]:
    return {"x": point["x"] + 1, "y": point["y"], "label": point["label"]}


def swapped(pair: tuple[int, float]) -> tuple[float, int]:
    return pair[1], pair[0]


def moved_point(point: Point) -> Point:
    return Point(point.x + 1, point.y, point.label)


def moved_dated(value: Dated) -> Dated:
    return Dated(value.x + 1, value.y, value.day)


def add(x: int, y: int) -> int:
    return x + y


def busy(number: int) -> int:
    """Uses the processor, long for every 16th number. By the thread's own clock: a pool that takes the processor from its
    workers is not to be paid for it."""
    seconds = SHORT_SECONDS if number % LONG_EVERY else LONG_SECONDS
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass
    return number


def busy_seconds(tasks: int) -> float:
    """What `busy` of 0 ... tasks - 1 takes, one after the other."""
    long = -(-tasks // LONG_EVERY)
    return long * LONG_SECONDS + (tasks - long) * SHORT_SECONDS


def worker_pid(_: int) -> int:
    """Tells which worker ran it, after a nap long enough for the other workers to take the next tasks."""
    time.sleep(0.005)
    return os.getpid()


def ints(count: int) -> list[int]:
    return list(range(count))


def floats(count: int) -> list[float]:
    return [number + 0.25 for number in range(count)]


def strings(count: int) -> list[str]:
    return [f"item {number}" for number in range(count)]


def dicts(count: int) -> list[dict[str, Any]]:
    return [{"x": number, "y": number + 0.25, "label": "a point"} for number in range(count)]


def tuples(count: int) -> list[tuple[int, float]]:
    return [(number, number + 0.25) for number in range(count)]


def points(count: int) -> list[Point]:
    return [Point(number, number + 0.25, "a point") for number in range(count)]


def dated(count: int) -> list[Dated]:
    return [Dated(number, number + 0.25, date.fromordinal(1 + number % date.max.toordinal())) for number in range(count)]


def pairs(count: int) -> list[tuple[int, int]]:
    return [(number, 2) for number in range(count)]
