"""What is measured. Each workload checks its results, outside the time that it measures.

A pool is asked by the names of `multiprocessing.Pool` and by nothing else, and no workload knows which pool it has. A pool gets as
many tasks as it does in `Settings.seconds`, and rates are compared: with one count for all, the fastest would be measured over
a few milliseconds or the slowest take minutes.
"""

import gc
import inspect
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, NamedTuple

from . import arrays, huge, tasks
from .clocks import SETTLE_SECONDS, cpu_seconds, descendants, resident_bytes
from .floors import FUTEX, KINDS, SPIN, pickle_both_ways, plain_call
from .peers import NotAvailable, Pool, WrongResults

START_LIMIT_SECONDS = 60.0
FEWEST_TASKS = 200
# Bounds the memory: each task of an apply_async flood holds an AsyncResult.
MOST_TASKS = 3_000_000
LONG_MAP_ITEMS = 1_000_000
SKEWED_TASKS = 3_200
STARTS = 3
BUFFER_SIZE = 1_000
# What the cost of a task in a long job is compared with.
SMALL_GROWTH = 10_000


class Settings(NamedTuple):
    """What holds for every cell of a run; seconds and counts of the cells, for tests with next to no tasks."""

    processes: int = 2
    start_method: str = "fork"
    seconds: float = 0.4
    """How long the measured part of a cell takes, where that can be chosen."""
    tasks: int | None = None
    """So many tasks in every cell, whatever they take; None: as many as fill `seconds`."""
    many: int = 64
    """Workers of the workload that has more of them than cores."""
    largest: int = 100_000
    """The longest job of the workload 'growth'."""
    streamed: int = 200_000
    """Items that are streamed through imap."""
    huge: int = 256 << 20
    """Bytes of the workload that has one object."""
    idle_seconds: float = 2.0


class Row(NamedTuple):
    """A line of the table."""

    name: str
    unit: str
    more_is_better: bool = False
    floor: str | None = None
    compared: bool = True
    """Whether a ratio to another pool says anything: it does not where the value is itself a ratio, of a pool to itself."""


class Cell:
    """A pool's factory and the settings, for the one workload that this process measures."""

    def __init__(self, factory: Callable[[int, str], Pool], settings: Settings) -> None:
        self.settings = settings
        self.tasks = 0
        """How many tasks were measured."""
        self._factory = factory

    def start(self, start_method: str | None = None) -> Pool:
        """A new pool. start_method: this one and no other; None: that of the settings, or the one that the pool has."""
        only = getattr(self._factory, "only_start_method", None)
        if start_method is not None and only is not None:
            raise NotAvailable(f"starts its workers by {only} only")
        return self._factory(self.settings.processes, start_method or self.settings.start_method)

    @contextmanager
    def started(self, processes: int | None = None) -> Iterator[Pool]:
        """A pool whose workers have all run a task already; closed and joined afterwards.

        A worker that still imports modules while the clock runs would be measured as a slow pool.
        """
        processes = processes or self.settings.processes
        pool = self._factory(processes, self.settings.start_method)
        deadline = time.monotonic() + START_LIMIT_SECONDS
        seen: set[int] = set()
        while len(seen) < processes:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(seen)} of {processes} workers ran within {START_LIMIT_SECONDS:.0f} s")
            seen.update(pool.map(tasks.worker_pid, range(2 * processes), chunksize=1))
        yield pool
        # An error leaves the pool as it is: the process ends, and whatever it has started is killed.
        pool.close()
        pool.join()

    def count(self, once: Callable[[int], float], most: int | None = None) -> int:
        """How many tasks to measure: as many as fill the time of a cell, or `most` if these fill no more than ten times that.

        once: runs so many tasks and gives the seconds.
        """
        self.tasks = self.settings.tasks or self._calibrated(once, most)
        return self.tasks

    def _calibrated(self, once: Callable[[int], float], most: int | None) -> int:
        seconds = self.settings.seconds
        wanted = 10 * seconds if most else seconds
        bound = most or MOST_TASKS
        number = min(FEWEST_TASKS, bound)
        while number < bound:
            taken = once(number)
            if taken >= seconds / 5:
                return max(FEWEST_TASKS, min(bound, int(number * wanted / taken)))
            number = min(4 * number, bound)
        return bound


class Workload(NamedTuple):
    """Rows that are measured together."""

    name: str
    measure: Callable[[Cell], dict[str, float]]
    """Gives the value of each row, by name; may leave rows out."""
    rows: tuple[Row, ...]
    limit: Callable[[Settings], float] = lambda settings: 0.0
    """Seconds that a cell may take beyond the usual limit."""


def check(results: list[Any], expected: list[Any]) -> None:
    """Raise unless the results are the expected ones."""
    if len(results) != len(expected):
        raise WrongResults(f"{len(results):,} results for {len(expected):,} tasks")
    if results != expected:
        wrong = next(place for place, (got, right) in enumerate(zip(results, expected)) if got != right)
        raise WrongResults(f"result {wrong} is {results[wrong]!r:.60}, not {expected[wrong]!r:.60}")


Call = Callable[[Pool, Callable[..., Any], list[Any]], list[Any]]


def throughput(
    row: str,
    call: Call,
    kind: tuple[Callable[..., Any], Callable[[int], list[Any]]],
    most: int | None = None,
    ordered: bool = True,
    cpu_row: str | None = None,
) -> Callable[[Cell], dict[str, float]]:
    """A workload: tasks a second of `call` on the values of `kind`. most: as for `Cell.count`. cpu_row: also the CPU a task, of all
    processes."""
    function, values = kind

    def measure(cell: Cell) -> dict[str, float]:
        with cell.started() as pool:

            def once(number: int) -> float:
                items = values(number)
                began = time.perf_counter()
                call(pool, function, items)
                return time.perf_counter() - began

            items = values(cell.count(once, most))
            workers = descendants()
            gc.collect()
            cpu = cpu_seconds(workers)
            began = time.perf_counter()
            results = call(pool, function, items)
            seconds = time.perf_counter() - began
            if cpu_row:
                time.sleep(SETTLE_SECONDS)
                cpu = cpu_seconds(workers) - cpu
        expected = [function(*item) for item in items] if function is tasks.add else [function(item) for item in items]
        check(results if ordered else sorted(results), expected)
        found = {row: len(items) / seconds}
        if cpu_row:
            found[cpu_row] = cpu / len(items) * 1e6
        return found

    return measure


def map_single(pool: Pool, function: Callable[..., Any], items: list[Any]) -> list[Any]:
    return pool.map(function, items, chunksize=1)


def map_default(pool: Pool, function: Callable[..., Any], items: list[Any]) -> list[Any]:
    return pool.map(function, items)


CHUNKS = (1, 8, 64, 512, 4096)
CHUNK_ROUNDS = 5


def chunks_row(name: str, kind: str) -> str:
    """The name of the row of that call and that kind of values."""
    return f"{name} default chunks: time against the best of {len(CHUNKS)} chunksizes, {kind}"


def untuned(name: str, kind: str) -> Callable[[Cell], dict[str, float]]:
    """A workload: what is lost by leaving the chunksize to the pool. name: `map` or `imap`."""
    function, values = KINDS[kind]

    def measure(cell: Cell) -> dict[str, float]:
        with cell.started() as pool:

            def seconds(items: list[Any], chunksize: int | None) -> float:
                began = time.perf_counter()
                call = getattr(pool, name)
                results = list(call(function, items) if chunksize is None else call(function, items, chunksize))
                taken = time.perf_counter() - began
                check(results, [function(item) for item in items])
                return taken

            # Single tasks, which take longest, fill the time of a cell.
            items = values(cell.count(lambda number: seconds(values(number), 1)))
            taken: dict[int | None, list[float]] = {}
            # By turns: a machine that gets slower meanwhile slows them all.
            for _ in range(CHUNK_ROUNDS):
                for chunksize in (None, *CHUNKS):
                    gc.collect()
                    taken.setdefault(chunksize, []).append(seconds(items, chunksize))
        medians = {chunksize: statistics.median(one) for chunksize, one in taken.items()}
        default = medians.pop(None)
        return {chunks_row(name, kind): default / min(medians.values())}

    return measure


def starmap_single(pool: Pool, function: Callable[..., Any], items: list[Any]) -> list[Any]:
    return pool.starmap(function, items, chunksize=1)


def imap_single(pool: Pool, function: Callable[..., Any], items: list[Any]) -> list[Any]:
    return list(pool.imap(function, items, chunksize=1))


def imap_unordered_single(pool: Pool, function: Callable[..., Any], items: list[Any]) -> list[Any]:
    return list(pool.imap_unordered(function, items, chunksize=1))


def apply_async_flood(pool: Pool, function: Callable[..., Any], items: list[Any]) -> list[Any]:
    """A job for each task, all submitted before the first result is asked for."""
    pending = [pool.apply_async(function, (item,)) for item in items]
    return [result.get() for result in pending]


APPLY, APPLY_P99 = "apply round trip, p50", "apply round trip, p99"


def apply_round_trip(cell: Cell) -> dict[str, float]:
    """How long one caller waits for one task; a mean would tell of the scheduler's worst moments."""
    with cell.started() as pool:

        def trips(number: int) -> tuple[list[int], list[int]]:
            nanoseconds, results = [], []
            for item in range(number):
                began = time.perf_counter_ns()
                result = pool.apply(tasks.inc, (item,))
                nanoseconds.append(time.perf_counter_ns() - began)
                results.append(result)
            return nanoseconds, results

        number = cell.count(lambda number: sum(trips(number)[0]) / 1e9)
        gc.collect()
        nanoseconds, results = trips(number)
    check(results, list(range(1, number + 1)))
    nanoseconds.sort()
    return {APPLY: statistics.median(nanoseconds) / 1e3, APPLY_P99: nanoseconds[int(0.99 * len(nanoseconds))] / 1e3}


def skewed(row: str, call: Call) -> Callable[[Cell], dict[str, float]]:
    """A workload: the share of the ideal parallel time, on the processors that there are."""

    def measure(cell: Cell) -> dict[str, float]:
        with cell.started() as pool:
            items = tasks.ints(cell.count(lambda number: 0.0, SKEWED_TASKS))
            gc.collect()
            began = time.perf_counter()
            results = call(pool, tasks.busy, items)
            seconds = time.perf_counter() - began
        check(results, items)
        at_once = min(cell.settings.processes, len(os.sched_getaffinity(0)))
        return {row: tasks.busy_seconds(len(items)) / at_once / seconds}

    return measure


def start_and_stop(row: str, start_method: str) -> Callable[[Cell], dict[str, float]]:
    """A workload: what a pool costs that is used once."""

    def measure(cell: Cell) -> dict[str, float]:
        milliseconds, results = [], []
        cell.tasks = STARTS
        for number in range(STARTS):
            gc.collect()
            began = time.perf_counter()
            pool = cell.start(start_method)
            results.append(pool.apply(tasks.inc, (number,)))
            pool.close()
            pool.join()
            milliseconds.append((time.perf_counter() - began) * 1e3)
            del pool
        check(results, list(range(1, STARTS + 1)))
        return {row: statistics.median(milliseconds)}

    return measure


MANY, MANY_COST = "64 workers: map chunksize=1, ints", "64 workers: cost a task against few"


def many_workers(cell: Cell) -> dict[str, float]:
    """What a task costs with far more workers than cores, against a pool of the usual size a moment before."""
    costs = []
    for processes in (cell.settings.processes, cell.settings.many):
        with cell.started(processes) as pool:

            def once(number: int) -> float:
                began = time.perf_counter()
                check(map_single(pool, tasks.inc, tasks.ints(number)), list(range(1, number + 1)))
                return time.perf_counter() - began

            items = tasks.ints(cell.count(once))
            gc.collect()
            began = time.perf_counter()
            results = map_single(pool, tasks.inc, items)
            costs.append((time.perf_counter() - began) / len(items))
        check(results, list(range(1, len(items) + 1)))
    return {MANY: 1 / costs[1], MANY_COST: costs[1] / costs[0]}


GROWTH_SIZES = [10**power for power in range(3, 9)]
GROWTH_COST = "growth: cost a task, longest job against 10^4"


def growth_row(size: int) -> str:
    """The name of the row for jobs of `size` tasks."""
    return f"growth: map chunksize=1, 10^{len(str(size)) - 1} ints"


def growth(cell: Cell) -> dict[str, float]:
    """What a task costs in ever longer jobs: the median of several short jobs, since one of them is over in a moment."""
    costs: dict[int, float] = {}
    with cell.started() as pool:
        for size in GROWTH_SIZES:
            if size > cell.settings.largest:
                break
            cell.tasks = size
            items, seconds = tasks.ints(size), []
            while sum(seconds) < cell.settings.seconds / 4:
                gc.collect()
                began = time.perf_counter()
                results = map_single(pool, tasks.inc, items)
                seconds.append(time.perf_counter() - began)
                check(results, list(range(1, size + 1)))
            costs[size] = statistics.median(seconds) / size
    found = {growth_row(size): cost * 1e6 for size, cost in costs.items()}
    if max(costs) > SMALL_GROWTH:
        found[GROWTH_COST] = found[growth_row(max(costs))] / found[growth_row(SMALL_GROWTH)]
    return found


STREAM, STREAM_MEMORY = "imap(buffersize=1000), streamed ints", "imap(buffersize=1000): memory that the parent grew"


def stream(cell: Cell) -> dict[str, float]:
    """A long stream through imap, of which nothing is kept: the parent must not grow with it."""
    with cell.started() as pool:
        if "buffersize" not in inspect.signature(pool.imap).parameters:
            raise NotAvailable("imap has no buffersize")
        cell.tasks = number = cell.settings.streamed
        list(islice(pool.imap(tasks.inc, iter(range(BUFFER_SIZE)), chunksize=1, buffersize=BUFFER_SIZE), BUFFER_SIZE))
        gc.collect()
        before = most = resident_bytes()
        began = time.perf_counter()
        expected = 0
        for result in pool.imap(tasks.inc, (item for item in range(number)), chunksize=1, buffersize=BUFFER_SIZE):
            expected += 1
            if result != expected:
                raise WrongResults(f"result {expected - 1} is {result!r:.60}, not {expected}")
            if expected % 10_000 == 0:
                most = max(most, resident_bytes())
        seconds = time.perf_counter() - began
        if expected != number:
            raise WrongResults(f"{expected:,} results for {number:,} tasks")
    return {STREAM: number / seconds, STREAM_MEMORY: (most - before) / 2**20}


IDLE = "idle CPU after work"


def idle(cell: Cell) -> dict[str, float]:
    """What a pool costs that has worked and now waits, all processes together."""
    with cell.started() as pool:
        items = tasks.ints(cell.count(lambda number: 0.0, SMALL_GROWTH))
        check(map_single(pool, tasks.inc, items), list(range(1, len(items) + 1)))
        gc.collect()
        # What follows the work, such as a supervisor's last look, is not what idling costs.
        time.sleep(min(0.5, cell.settings.idle_seconds))
        workers = descendants()
        cpu = cpu_seconds(workers)
        began = time.perf_counter()
        time.sleep(cell.settings.idle_seconds)
        used = cpu_seconds(workers) - cpu
        seconds = time.perf_counter() - began
    return {IDLE: used / seconds * 100}


RATE = "tasks/s"
INTS = KINDS["ints"]
CPU = "CPU a task, map chunksize=1, ints"


def _rate(row: str, call: Call, kind: Any = INTS, floor: str = plain_call("ints"), **options: Any) -> Workload:
    return Workload(row, throughput(row, call, kind, **options), (Row(row, RATE, True, floor),))


def _map(kind: str) -> Workload:
    row, floor = f"map chunksize=1, {kind}", pickle_both_ways(kind)
    if kind != "ints":
        return _rate(row, map_single, KINDS[kind], floor)
    rows = Row(row, RATE, True, floor), Row(CPU, "us/task", False, plain_call(kind))
    return Workload(row, throughput(row, map_single, INTS, cpu_row=CPU), rows)


def _untuned(name: str, kind: str) -> Workload:
    row = chunks_row(name, kind)
    return Workload(row, untuned(name, kind), (Row(row, "times", compared=False),))


def _skewed(row: str, call: Call) -> Workload:
    return Workload(row, skewed(row, call), (Row(row, "of the ideal", True),))


def _start(start_method: str) -> Workload:
    row = f"start + one task + close, {start_method}"
    return Workload(row, start_and_stop(row, start_method), (Row(row, "ms"),))


def _arrays(row: str) -> Workload:
    rows = [Row(row, "GB/s", True)]
    if row == arrays.IN:
        rows.append(Row(arrays.IN_SHARE, "%", True, compared=False))
    return Workload(row, arrays.MEASURED[row], tuple(rows))


WORKLOADS = (
    Workload("apply", apply_round_trip, (Row(APPLY, "us", floor=SPIN), Row(APPLY_P99, "us", floor=FUTEX))),
    _rate("apply_async flood, ints", apply_async_flood),
    *map(_map, KINDS),
    _rate("map default chunks, 10^6 ints", map_default, most=LONG_MAP_ITEMS),
    _rate("imap chunksize=1, ints", imap_single),
    _rate("imap_unordered chunksize=1, ints", imap_unordered_single, ordered=False),
    _rate("starmap chunksize=1, pairs of ints", starmap_single, (tasks.add, tasks.pairs)),
    *(_untuned(name, kind) for name in ("map", "imap") for kind in KINDS),
    _skewed("skewed mix, map default chunks", map_default),
    _skewed("skewed mix, map chunksize=1", map_single),
    *map(_start, ("fork", "spawn", "forkserver")),
    Workload("64 workers", many_workers, (Row(MANY, RATE, True, plain_call("ints")), Row(MANY_COST, "times", compared=False))),
    Workload(
        "growth",
        growth,
        (
            *(Row(growth_row(size), "us/task", floor=plain_call("ints")) for size in GROWTH_SIZES),
            Row(GROWTH_COST, "times", compared=False),
        ),
        limit=lambda settings: settings.largest * 2e-4,
    ),
    Workload(
        "stream",
        stream,
        (Row(STREAM, RATE, True, plain_call("ints")), Row(STREAM_MEMORY, "MiB", compared=False)),
        limit=lambda settings: settings.streamed * 2e-4,
    ),
    Workload("idle", idle, (Row(IDLE, "% of a core", compared=False),)),
    *map(_arrays, arrays.MEASURED),
    Workload(
        huge.HUGE,
        huge.huge,
        (Row(huge.HUGE, "GB/s", True), Row(huge.HUGE_MEMORY, "times", compared=False)),
        limit=lambda settings: settings.huge * 1e-7,
    ),
)
NAMED = {workload.name: workload for workload in WORKLOADS}
# What `python -m pool bench` measures: all that takes a moment and differs.
SHORT = (
    "apply",
    "apply_async flood, ints",
    "map chunksize=1, ints",
    "map chunksize=1, 3-key dicts",
    "map chunksize=1, a dataclass",
    "map default chunks, 10^6 ints",
    "imap chunksize=1, ints",
    "skewed mix, map default chunks",
    "start + one task + close, fork",
)
