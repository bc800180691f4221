"""The two pools of every run. A peer is a function of (workers, start method) that gives a started pool."""

import multiprocessing
import multiprocessing.pool
from typing import Any

Pool = Any
"""Something with the names of `multiprocessing.Pool`."""


class NotAvailable(Exception):
    """This pool is not installed, or has no such call; says which."""


class WrongResults(Exception):
    """A pool returned something else than the right results."""


def stdlib(processes: int, start_method: str) -> Pool:
    """The pool that all are compared with."""
    return multiprocessing.pool.Pool(processes, context=multiprocessing.get_context(start_method))


def ringpool(processes: int, start_method: str) -> Pool:
    """Ours."""
    import pool

    return pool.Pool(processes, context=multiprocessing.get_context(start_method))
