"""ringpool: multiprocessing.Pool on shared-memory rings."""

import importlib
import sys

if not sys.platform.startswith("linux"):
    raise ImportError("ringpool runs on Linux only: its rings stand on memfd and futex, which this system does not have")

try:
    from pool import _codec
except ModuleNotFoundError as error:
    if error.name != "pool._codec":
        raise
    raise ImportError(
        "ringpool's extension modules are not built for this Python; build them with `pip install .` in the project's folder"
    ) from error

__version__ = "0.1.0"

# Where each public name is. Nothing of it is imported before somebody asks: a worker that was spawned imports this package too, and
# needs none of it.
_HOMES = {
    "ApplyResult": ("pool._results", "AsyncResult"),
    "AsyncResult": ("pool._results", "AsyncResult"),
    "IMapIterator": ("pool._results", "IMapIterator"),
    "IMapUnorderedIterator": ("pool._results", "IMapUnorderedIterator"),
    "MapResult": ("pool._results", "MapResult"),
    "MaybeEncodingError": ("multiprocessing.pool", "MaybeEncodingError"),
    "Pool": ("pool.process_pool", "Pool"),
    "PoolTerminatedError": ("pool.errors", "PoolTerminatedError"),
    "RemoteTraceback": ("multiprocessing.pool", "RemoteTraceback"),
    "SharedObject": ("pool._blocks", "SharedObject"),
    "TaskTimeoutError": ("pool.errors", "TaskTimeoutError"),
    "ThreadPool": ("pool.thread_pool", "ThreadPool"),
    "TimeoutError": ("multiprocessing", "TimeoutError"),
    "WorkerLostError": ("pool.errors", "WorkerLostError"),
}

__all__ = list(_HOMES)

# Names that are being imported just now. No lock: it might be held in another thread when this process forks.
_asking = []


def __getattr__(name):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOMES[name]
    # The package says that it is being imported, which is true: who puts our classes in the place of the stdlib's on demand (a
    # replaced multiprocessing.pool) can tell that it is ours that asks for them, as its bases.
    _asking.append(name)
    __spec__._initializing = True
    try:
        value = getattr(importlib.import_module(module), attribute)
    finally:
        _asking.remove(name)
        # Not "as it was before": several threads may ask at once, and the last to end would put back what the first had set.
        while __spec__._initializing != bool(_asking):
            __spec__._initializing = bool(_asking)
    globals()[name] = value
    return value


def __dir__():
    return sorted({*globals(), *__all__})
