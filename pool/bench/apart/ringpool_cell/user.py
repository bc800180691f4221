"""The user's own function on the user's own items, on a pool or in a plain loop."""

import gc
import hashlib
import importlib
import pathlib
import time
from collections.abc import Callable
from functools import reduce
from typing import Any

from .items import read_items
from .workloads import Cell

# A short job is repeated until it has taken as long as a cell.
MOST_REPEATS = 1_000


class FunctionFailed(Exception):
    """The user's function raised."""


def find_function(path: str) -> Callable[[Any], Any]:
    """What `module:function` names; raises whatever the import raises, and AttributeError."""
    module, _, name = path.partition(":")
    return reduce(getattr, name.split("."), importlib.import_module(module))


def digest(results: list[Any], ordered: bool) -> str:
    """One string for all results, equal for equal ones where `repr` shows all that matters."""
    shown = [repr(result) for result in results]
    if not ordered:
        shown.sort()
    whole = hashlib.sha256()
    for text in shown:
        whole.update(text.encode("utf-8", "backslashreplace") + b"\0")
    return whole.hexdigest()


def measured(call: Callable[[list[Any]], list[Any]], file: pathlib.Path, limit: float) -> tuple[list[float], list[Any]]:
    """Seconds of the first and of the fastest of as many calls as fit into `limit`, and the results of the first. A second one tells
    whether the function remembers, unless it would take ten times as long. Each has items of its own, which may be changed."""
    taken: list[float] = []
    while len(taken) < MOST_REPEATS and (sum(taken) < limit or (len(taken) == 1 and taken[0] < 10 * limit)):
        items = read_items(file)
        gc.collect()
        began = time.perf_counter()
        found = call(items)
        taken.append(time.perf_counter() - began)
        if len(taken) == 1:
            results = found
    return [taken[0], min(taken)], results


def in_a_loop(function: Callable[[Any], Any], items: list[Any]) -> list[Any]:
    """All results, without a pool."""
    results = []
    for place, item in enumerate(items):
        try:
            results.append(function(item))
        except Exception as error:
            raise FunctionFailed(f"raised {type(error).__name__}: {error} for item {place + 1}, {item!r:.60}") from error
    return results


def measure(cell: Cell | None, path: str, file: str, seconds: float) -> dict[str, Any]:
    """Seconds by call (of the first pass and of the fastest), and the digests of all results, in order and sorted. cell: None for the
    plain loop. Each call has a pool of its own, whose workers remember nothing."""
    function, items = find_function(path), pathlib.Path(file)
    if cell is None:
        taken, results = measured(lambda values: in_a_loop(function, values), items, seconds)
        return {"seconds": {"loop": taken}, "digests": {"loop": digest(results, True), "sorted": digest(results, False)}}
    found: dict[str, Any] = {"seconds": {}, "digests": {}}
    calls: dict[str, Callable[[Any, list[Any]], list[Any]]] = {
        "map": lambda pool, values: pool.map(function, values),
        "imap_unordered": lambda pool, values: list(pool.imap_unordered(function, values)),
    }
    for name, call in calls.items():
        with cell.started() as pool:
            found["seconds"][name], results = measured(lambda values: call(pool, values), items, seconds)
        found["digests"][name] = digest(results, name == "map")
    return found
