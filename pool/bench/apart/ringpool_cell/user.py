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


def measured(call: Callable[[], list[Any]], limit: float) -> tuple[float, list[Any]]:
    """The least seconds of as many calls as fit into `limit`, at least one, and the results of the last."""
    best, spent = float("inf"), 0.0
    for _ in range(MOST_REPEATS):
        gc.collect()
        began = time.perf_counter()
        results = call()
        seconds = time.perf_counter() - began
        best, spent = min(best, seconds), spent + seconds
        if spent >= limit:
            break
    return best, results


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
    """Seconds by call, and the digests of all results, in order and sorted. cell: None for the plain loop."""
    function, items = find_function(path), read_items(pathlib.Path(file))
    if cell is None:
        taken, results = measured(lambda: in_a_loop(function, items), seconds)
        return {"seconds": {"loop": taken}, "digests": {"loop": digest(results, True), "sorted": digest(results, False)}}
    found: dict[str, Any] = {"seconds": {}, "digests": {}}
    with cell.started() as pool:
        calls: dict[str, Callable[[], list[Any]]] = {
            "map": lambda: pool.map(function, items),
            "imap_unordered": lambda: list(pool.imap_unordered(function, items)),
        }
        for name, call in calls.items():
            found["seconds"][name], results = measured(call, seconds)
            found["digests"][name] = digest(results, name == "map")
    return found
