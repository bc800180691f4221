"""What no pool can beat: the machine, pickle and the function itself."""

import gc
import json
import pickle
import subprocess
import time
from collections.abc import Callable
from typing import Any

from . import tasks

KINDS: dict[str, tuple[Callable[[Any], Any], Callable[[int], list[Any]]]] = {
    "ints": (tasks.inc, tasks.ints),
    "floats": (tasks.half, tasks.floats),
    "short strings": (tasks.shout, tasks.strings),
    "3-key dicts": (tasks.moved, tasks.dicts),
    "small tuples": (tasks.swapped, tasks.tuples),
    "a dataclass": (tasks.moved_point, tasks.points),
    "a dataclass with a date": (tasks.moved_dated, tasks.dated),
}

SPIN = "C spin ping-pong"
FUTEX = "C futex ping-pong"
COUNT = 20_000


def plain_call(kind: str) -> str:
    """The name of the floor: calling the function of `kind` in a loop."""
    return f"plain call, {kind}"


def pickle_both_ways(kind: str) -> str:
    """The name of the floor: dumps and loads of a value of `kind`."""
    return f"pickle.dumps + loads, {kind}"


def microseconds_each(function: Callable[[Any], Any], values: list[Any]) -> float:
    """What a call takes, in the best of five runs: a floor is what is possible."""
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        for value in values:
            function(value)
        best = min(best, time.perf_counter() - began)
    return best / len(values) * 1e6


def measure(pingpong: str | None, count: int | None) -> dict[str, float]:
    """All floors, in microseconds. pingpong: path of the compiled program; None: without what it measures. count: of values."""

    def there_and_back(value: Any) -> Any:
        return pickle.loads(pickle.dumps(value, pickle.HIGHEST_PROTOCOL))

    gc.collect()
    found: dict[str, float] = {}
    if pingpong is not None:
        done = subprocess.run([pingpong], check=True, capture_output=True, text=True, timeout=60)
        answer = json.loads(done.stdout)
        found |= {SPIN: answer["spin"], FUTEX: answer["futex"]}
    for kind, (function, values) in KINDS.items():
        found[plain_call(kind)] = microseconds_each(function, values(count or COUNT))
        found[pickle_both_ways(kind)] = microseconds_each(there_and_back, values(count or COUNT))
    return found
