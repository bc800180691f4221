"""The two implementations under test, each with every start method.

Used by conftest.py, and by the scripts that tests run as programs of their own.
`pool` is imported on first use only, so the tests of the reference run without a built extension.
"""

import importlib
import multiprocessing
import multiprocessing.pool

START_METHODS = ("fork", "spawn", "forkserver")

_MODULES = {"stdlib": "multiprocessing.pool", "ringpool": "pool"}


class Implementation:
    """One library with one way to start workers; `threads` stands for ThreadPool."""

    def __init__(self, library, start_method):
        self.library = library
        self.start_method = start_method

    @classmethod
    def named(cls, name):
        library, _, start_method = name.partition("-")
        return cls(library, start_method)

    @property
    def name(self):
        return f"{self.library}-{self.start_method}"

    @property
    def uses_threads(self):
        return self.start_method == "threads"

    @property
    def context(self):
        return None if self.uses_threads else multiprocessing.get_context(self.start_method)

    @property
    def module(self):
        return importlib.import_module(_MODULES[self.library])

    def Pool(self, *args, **kwargs):
        if self.uses_threads:
            return self.module.ThreadPool(*args, **kwargs)
        # The fifth positional argument is the context itself.
        if len(args) < 5:
            kwargs.setdefault("context", self.context)
        return self.module.Pool(*args, **kwargs)


PROCESS_NAMES = tuple(
    f"{library}-{method}" for library in ("ringpool", "stdlib") for method in START_METHODS
)
THREAD_NAMES = ("ringpool-threads", "stdlib-threads")
