"""The other pools, by the names of `multiprocessing.Pool`: one adapter each, of public names only.

An adapter costs a call in Python, tens of nanoseconds where the quickest of these pools takes tens of microseconds. What a pool has
no call for stays out of its adapter, and the table says so. Where it has another word for the same thing, the adapter uses that:
`submit` for `apply_async`, `as_completed` for `imap_unordered`. Nothing is tuned, nothing is held back.
"""

import concurrent.futures
import functools
import importlib
import multiprocessing
from collections.abc import Callable, Iterator
from typing import Any

from ringpool_cell.peers import NotAvailable


def needs(module: str) -> Any:
    """The module, or NotAvailable."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise NotAvailable(f"not installed ({error})") from error


def missing(name: str) -> Callable[..., Any]:
    """A method that the pool does not have."""

    def method(self: Any, *args: Any, **options: Any) -> Any:
        raise NotAvailable(f"has no {name}")

    return method


def only(start_method: str) -> Callable[[Callable[[int, str], Any]], Callable[[int, str], Any]]:
    """Marks a pool that starts its workers in one way, whatever is asked for."""

    def mark(factory: Callable[[int, str], Any]) -> Callable[[int, str], Any]:
        factory.only_start_method = start_method  # type: ignore[attr-defined]
        return factory

    return mark


class Adapter:
    """A pool that has none of the calls."""

    apply = missing("call for one task that waits")
    apply_async = missing("call for one task that does not wait")
    map = missing("map")
    starmap = missing("starmap")
    imap = missing("imap")
    imap_unordered = missing("imap_unordered")

    def close(self) -> None:
        """`join` does it all."""

    def join(self) -> None:
        raise NotImplementedError


class Pending:
    """A future with the name that an AsyncResult has."""

    __slots__ = ("get",)

    def __init__(self, future: Any) -> None:
        self.get = future.result


class Executor(Adapter):
    """Anything with the interface of concurrent.futures.Executor."""

    def __init__(self, executor: Any) -> None:
        self._executor = executor

    def apply(self, function: Any, args: Any) -> Any:
        return self._executor.submit(function, *args).result()

    def apply_async(self, function: Any, args: Any) -> Any:
        return Pending(self._executor.submit(function, *args))

    def map(self, function: Any, items: Any, chunksize: int = 1) -> list[Any]:
        return list(self._executor.map(function, items, chunksize=chunksize))

    def starmap(self, function: Any, items: Any, chunksize: int = 1) -> list[Any]:
        return list(self._executor.map(function, *zip(*items), chunksize=chunksize))

    def imap(self, function: Any, items: Any, chunksize: int = 1) -> Iterator[Any]:
        return self._executor.map(function, items, chunksize=chunksize)

    def imap_unordered(self, function: Any, items: Any, chunksize: int = 1) -> Iterator[Any]:
        submit = functools.partial(self._executor.submit, function)
        return (future.result() for future in concurrent.futures.as_completed(list(map(submit, items))))

    def join(self) -> None:
        self._executor.shutdown(wait=True)


def executor(processes: int, start_method: str) -> Executor:
    context = multiprocessing.get_context(start_method)
    return Executor(concurrent.futures.ProcessPoolExecutor(processes, mp_context=context))


@only("its own fork and exec")
def loky(processes: int, start_method: str) -> Executor:
    return Executor(needs("loky").ProcessPoolExecutor(processes))


def billiard(processes: int, start_method: str) -> Any:
    return needs("billiard").get_context(start_method).Pool(processes)


def multiprocess(processes: int, start_method: str) -> Any:
    return needs("multiprocess").get_context(start_method).Pool(processes)


class Joblib(Adapter):
    """joblib takes whole iterables only; the size of a batch belongs to the object."""

    def __init__(self, processes: int) -> None:
        self._joblib = needs("joblib")
        self._processes = processes

    def _run(self, function: Any, items: Any, chunksize: int | None, return_as: str, star: bool = False) -> Any:
        delayed = self._joblib.delayed(function)
        parallel = self._joblib.Parallel(self._processes, batch_size=chunksize or "auto", return_as=return_as)
        return parallel((delayed(*item) if star else delayed(item)) for item in items)

    def map(self, function: Any, items: Any, chunksize: int | None = None) -> list[Any]:
        return self._run(function, items, chunksize, "list")

    def starmap(self, function: Any, items: Any, chunksize: int | None = None) -> list[Any]:
        return self._run(function, items, chunksize, "list", star=True)

    def imap(self, function: Any, items: Any, chunksize: int | None = None) -> Iterator[Any]:
        return self._run(function, items, chunksize, "generator")

    def imap_unordered(self, function: Any, items: Any, chunksize: int | None = None) -> Iterator[Any]:
        return self._run(function, items, chunksize, "generator_unordered")

    def join(self) -> None:
        # Workers are kept for the next Parallel, of whoever.
        needs("joblib.externals.loky").get_reusable_executor().shutdown(wait=True)


@only("its own fork and exec")
def joblib(processes: int, start_method: str) -> Joblib:
    return Joblib(processes)


class Mpire(Adapter):
    """mpire unpacks a tuple or a dict into arguments, so every item is given as the only argument."""

    def __init__(self, processes: int, start_method: str) -> None:
        self._pool = needs("mpire").WorkerPool(processes, start_method=start_method, keep_alive=True)

    def apply(self, function: Any, args: Any) -> Any:
        return self._pool.apply(function, args)

    def apply_async(self, function: Any, args: Any) -> Any:
        return self._pool.apply_async(function, args)

    def map(self, function: Any, items: Any, chunksize: int | None = None) -> list[Any]:
        return self._pool.map(function, [(item,) for item in items], chunk_size=chunksize)

    def starmap(self, function: Any, items: Any, chunksize: int | None = None) -> list[Any]:
        return self._pool.map(function, items, chunk_size=chunksize)

    def imap(self, function: Any, items: Any, chunksize: int | None = None) -> Iterator[Any]:
        return self._pool.imap(function, [(item,) for item in items], chunk_size=chunksize)

    def imap_unordered(self, function: Any, items: Any, chunksize: int | None = None) -> Iterator[Any]:
        return self._pool.imap_unordered(function, [(item,) for item in items], chunk_size=chunksize)

    def join(self) -> None:
        self._pool.stop_and_join()


mpire = Mpire


class Pebble(Adapter):
    """pebble's pool of processes."""

    def __init__(self, processes: int, start_method: str) -> None:
        self._pool = needs("pebble").ProcessPool(processes, context=multiprocessing.get_context(start_method))

    def apply(self, function: Any, args: Any) -> Any:
        return self._pool.schedule(function, args).result()

    def apply_async(self, function: Any, args: Any) -> Any:
        return Pending(self._pool.schedule(function, args))

    def map(self, function: Any, items: Any, chunksize: int = 1) -> list[Any]:
        return list(self.imap(function, items, chunksize))

    def starmap(self, function: Any, items: Any, chunksize: int = 1) -> list[Any]:
        return list(self._pool.map(function, *zip(*items), chunksize=chunksize).result())

    def imap(self, function: Any, items: Any, chunksize: int = 1) -> Iterator[Any]:
        return self._pool.map(function, items, chunksize=chunksize).result()

    def imap_unordered(self, function: Any, items: Any, chunksize: int = 1) -> Iterator[Any]:
        pending = [self._pool.schedule(function, (item,)) for item in items]
        return (future.result() for future in concurrent.futures.as_completed(pending))

    def close(self) -> None:
        self._pool.close()

    def join(self) -> None:
        self._pool.join()


pebble = Pebble


class Zooparallel(Adapter):
    """zooparallel has no chunks: every item is a task of its own."""

    def __init__(self, processes: int, start_method: str) -> None:
        # It has no argument for it.
        multiprocessing.set_start_method(start_method, force=True)
        self._pool = needs("zooparallel").ZooPool(processes)

    def apply(self, function: Any, args: Any) -> Any:
        return self._pool.submit(function, *args).result()

    def apply_async(self, function: Any, args: Any) -> Any:
        return Pending(self._pool.submit(function, *args))

    def map(self, function: Any, items: Any, chunksize: int | None = None) -> list[Any]:
        return self._pool.map(function, items)

    def starmap(self, function: Any, items: Any, chunksize: int | None = None) -> list[Any]:
        return [future.result() for future in [self._pool.submit(function, *item) for item in items]]

    def imap_unordered(self, function: Any, items: Any, chunksize: int | None = None) -> Iterator[Any]:
        pending = [self._pool.submit(function, item) for item in items]
        return (future.result() for future in concurrent.futures.as_completed(pending))

    def join(self) -> None:
        self._pool.shutdown()


zooparallel = Zooparallel
