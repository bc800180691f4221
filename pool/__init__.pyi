from collections.abc import Callable, Iterable, Mapping
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import TimeoutError as TimeoutError
from multiprocessing import pool as _stdlib
from multiprocessing.context import BaseContext
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

_S = TypeVar("_S")
_T = TypeVar("_T")

__version__: str

class MaybeEncodingError(Exception):
    exc: str
    value: str

class RemoteTraceback(Exception):
    tb: str

class WorkerLostError(BrokenProcessPool):
    pid: int | None
    exitcode: int | None
    function: str | None
    index: int | None

class TaskTimeoutError(TimeoutError):
    seconds: float | None
    pid: int | None
    function: str | None
    index: int | None

class PoolTerminatedError(RuntimeError): ...

class AsyncResult(Generic[_T]):
    def get(self, timeout: float | None = None) -> _T: ...
    def wait(self, timeout: float | None = None) -> None: ...
    def ready(self) -> bool: ...
    def successful(self) -> bool: ...
    def cancel(self, kill: bool = False) -> bool: ...
    def cancelled(self) -> bool: ...

ApplyResult = AsyncResult

class MapResult(AsyncResult[list[_T]]): ...

class IMapIterator(Generic[_T]):
    def __iter__(self) -> Self: ...
    def __next__(self) -> _T: ...
    def next(self, timeout: float | None = None) -> _T: ...

class IMapUnorderedIterator(IMapIterator[_T]): ...

class SharedObject:
    closed: bool
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *exc_info: object) -> None: ...

class Pool(_stdlib.Pool):
    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        context: BaseContext | None = None,
        *,
        task_timeout: float | None = None,
        retries: int = 0,
        max_memory_per_child: int | None = None,
        daemon: bool = True,
        arena_limit: int | None = None,
        end_with_parent: bool = True,
    ) -> None: ...
    def apply(
        self,
        func: Callable[..., _T],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] = {},
        *,
        task_timeout: float | None = None,
        retries: int | None = None,
    ) -> _T: ...
    def apply_async(  # type: ignore[override]
        self,
        func: Callable[..., _T],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] = {},
        callback: Callable[[_T], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        *,
        task_timeout: float | None = None,
        retries: int | None = None,
    ) -> AsyncResult[_T]: ...
    def map(
        self,
        func: Callable[[_S], _T],
        iterable: Iterable[_S],
        chunksize: int | None = None,
        *,
        task_timeout: float | None = None,
        retries: int | None = None,
    ) -> list[_T]: ...
    def map_async(  # type: ignore[override]
        self,
        func: Callable[[_S], _T],
        iterable: Iterable[_S],
        chunksize: int | None = None,
        callback: Callable[[list[_T]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        *,
        task_timeout: float | None = None,
        retries: int | None = None,
    ) -> MapResult[_T]: ...
    def starmap(
        self,
        func: Callable[..., _T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        *,
        task_timeout: float | None = None,
        retries: int | None = None,
    ) -> list[_T]: ...
    def starmap_async(  # type: ignore[override]
        self,
        func: Callable[..., _T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callable[[list[_T]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        *,
        task_timeout: float | None = None,
        retries: int | None = None,
    ) -> MapResult[_T]: ...
    def imap(  # type: ignore[override]
        self,
        func: Callable[[_S], _T],
        iterable: Iterable[_S],
        chunksize: int = 1,
        *,
        buffersize: int | None = None,
        task_timeout: float | None = None,
        retries: int | None = None,
    ) -> IMapIterator[_T]: ...
    def imap_unordered(  # type: ignore[override]
        self,
        func: Callable[[_S], _T],
        iterable: Iterable[_S],
        chunksize: int = 1,
        *,
        buffersize: int | None = None,
        task_timeout: float | None = None,
        retries: int | None = None,
    ) -> IMapIterator[_T]: ...
    def istarmap(
        self,
        func: Callable[..., _T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int = 1,
        *,
        buffersize: int | None = None,
        task_timeout: float | None = None,
        retries: int | None = None,
    ) -> IMapIterator[_T]: ...
    def istarmap_unordered(
        self,
        func: Callable[..., _T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int = 1,
        *,
        buffersize: int | None = None,
        task_timeout: float | None = None,
        retries: int | None = None,
    ) -> IMapIterator[_T]: ...
    def share(self, obj: object) -> SharedObject: ...
    def resize(self, processes: int) -> None: ...
    def close(self) -> None: ...
    def terminate(self) -> None: ...
    def join(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None: ...

class ThreadPool(Pool, _stdlib.ThreadPool):
    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
    ) -> None: ...
