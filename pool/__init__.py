"""ringpool: multiprocessing.Pool on shared-memory rings."""

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

from multiprocessing import TimeoutError

from pool._blocks import SharedObject
from pool._results import AsyncResult, IMapIterator, IMapUnorderedIterator, MapResult
from pool.errors import MaybeEncodingError, PoolTerminatedError, RemoteTraceback, TaskTimeoutError, WorkerLostError
from pool.process_pool import Pool
from pool.thread_pool import ThreadPool

ApplyResult = AsyncResult

__version__ = "0.1.0"

__all__ = [
    "ApplyResult",
    "AsyncResult",
    "IMapIterator",
    "IMapUnorderedIterator",
    "MapResult",
    "MaybeEncodingError",
    "Pool",
    "PoolTerminatedError",
    "RemoteTraceback",
    "SharedObject",
    "TaskTimeoutError",
    "ThreadPool",
    "TimeoutError",
    "WorkerLostError",
]
