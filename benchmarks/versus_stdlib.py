"""How much faster, or slower, than multiprocessing.Pool: both in one run, on one machine, in turns.

    python benchmarks/versus_stdlib.py [--rounds 5] [--processes 2] [--start-method fork] [--json FILE]

The tasks do next to nothing, because what is measured is what the pool adds to a task. A cell is one measurement of one
workload on one pool, made for it and closed after it. The cells of the two pools alternate, so that a machine that gets
slower half-way slows both; the medians of the rounds are compared. Each pool gets as many tasks as it does in about
half a second, rates are compared: with one count for both, either the faster pool would be measured over a few
milliseconds or the slower one would take minutes. Every cell checks its results, outside the time that it measures.

A ratio is always oriented so that more than 1 is in our favour. A target that is missed is shown and is not an error;
wrong results, exceptions and cells that exceed their time are, and make the exit code 1.
"""

import argparse
import faulthandler
import gc
import json
import math
import multiprocessing
import multiprocessing.pool
import operator
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, NamedTuple

try:
    import pool as ringpool
    from pool.__main__ import OneLineParser
    from pool.demo import (
        SETTLE_SECONDS,
        PoolClass,
        Progress,
        cpu_seconds,
        most_processes,
        start_method,
        start_pool,
        started_pool,
        whole_number,
        worker_pids,
    )
except ImportError as missing:
    sys.exit(f"versus_stdlib.py: error: ringpool is not installed here ({missing})")

CELL_LIMIT_SECONDS = 90
CLEANUP_LIMIT_SECONDS = 15
CELL_SECONDS = 0.5
CALIBRATION_SECONDS = 0.1
FEWEST_TASKS = 500
# Bounds the memory: each task of an apply_async flood holds an AsyncResult.
MOST_TASKS = 3_000_000
BIG_MAP_ITEMS = 1_000_000
STARTS_PER_CELL = 5
IDLE_SECONDS = 2.0
# Anything that polls shows up far above this; reading the clocks stays far below.
IDLE_PERCENT_MEANT_BY_ZERO = 0.05


class WrongResults(Exception):
    """A pool returned something else than the right results."""


class CellTimeout(Exception):
    """A cell did not end in time."""


class Settings(NamedTuple):
    """What holds for every cell of a run."""

    processes: int
    start_method: str


# A cell: pool class, settings, number of tasks -> the value of each workload that it measures.
Cell = Callable[[PoolClass, Settings, int], dict[str, float]]


class Workload(NamedTuple):
    """A row of the table. Rows that name the same cell are measured together."""

    name: str
    unit: str
    cell: Cell
    tasks: int | None
    """How many tasks a cell has; None: as many as take `CELL_SECONDS`."""
    more_is_better: bool = True
    target: str = "-"
    least_ratio: float | None = None
    ours_only: bool = False


def inc(x: int) -> int:
    """The task."""
    return x + 1


def check(results: Sequence[int], tasks: int) -> None:
    """Raise unless `results` is `inc` of 0, 1, 2 ... tasks - 1."""
    if len(results) != tasks:
        raise WrongResults(f"{len(results):,} results for {tasks:,} tasks")
    if not all(map(operator.eq, results, range(1, tasks + 1))):
        raise WrongResults(f"{tasks:,} results, and not all of them right")


def timed(
    pool_class: PoolClass,
    settings: Settings,
    tasks: int,
    job: Callable[[multiprocessing.pool.Pool], list[int]],
    ordered: bool = True,
) -> tuple[float, float]:
    """Run `job` on a pool of its own and return tasks a second and CPU microseconds a task, parent and workers."""
    with started_pool(pool_class, settings.processes, settings.start_method) as pool:
        pids = worker_pids(pool)
        gc.collect()
        cpu = cpu_seconds(pids)
        began = time.perf_counter()
        results = job(pool)
        seconds = time.perf_counter() - began
        time.sleep(SETTLE_SECONDS)
        cpu = cpu_seconds(pids) - cpu
    check(results if ordered else sorted(results), tasks)
    return tasks / seconds, cpu / tasks * 1e6


def map_single(pool_class: PoolClass, settings: Settings, tasks: int) -> dict[str, float]:
    """What one task costs when nothing is shared between tasks, in time and in CPU."""
    rate, cpu = timed(pool_class, settings, tasks, lambda pool: pool.map(inc, range(tasks), chunksize=1))
    return {"map chunksize=1": rate, "CPU, map chunksize=1": cpu}


def imap_single(pool_class: PoolClass, settings: Settings, tasks: int) -> dict[str, float]:
    """Results handed out one by one, in order."""
    rate, _ = timed(pool_class, settings, tasks, lambda pool: list(pool.imap(inc, range(tasks))))
    return {"imap chunksize=1": rate}


def imap_unordered_single(pool_class: PoolClass, settings: Settings, tasks: int) -> dict[str, float]:
    """Results handed out one by one, as they come; sorting them for the check is not measured."""
    rate, _ = timed(pool_class, settings, tasks, lambda pool: list(pool.imap_unordered(inc, range(tasks))), False)
    return {"imap_unordered chunksize=1": rate}


def apply_round_trip(pool_class: PoolClass, settings: Settings, tasks: int) -> dict[str, float]:
    """How long one caller waits for one task: the median, since a mean would tell of the scheduler's worst moments."""
    trips: list[int] = []

    def job(pool: multiprocessing.pool.Pool) -> list[int]:
        results = []
        for number in range(tasks):
            began = time.perf_counter_ns()
            result = pool.apply(inc, (number,))
            trips.append(time.perf_counter_ns() - began)
            results.append(result)
        return results

    timed(pool_class, settings, tasks, job)
    return {"apply round trip, p50": statistics.median(trips) / 1e3}


def apply_async_flood(pool_class: PoolClass, settings: Settings, tasks: int) -> dict[str, float]:
    """A job for each task, all submitted before the first result is asked for."""

    def job(pool: multiprocessing.pool.Pool) -> list[int]:
        pending = [pool.apply_async(inc, (number,)) for number in range(tasks)]
        return [result.get() for result in pending]

    rate, _ = timed(pool_class, settings, tasks, job)
    return {"apply_async flood, get all": rate}


def map_default(pool_class: PoolClass, settings: Settings, tasks: int) -> dict[str, float]:
    """A long map whose chunks the pool chooses: the stdlib's best case."""
    rate, _ = timed(pool_class, settings, tasks, lambda pool: pool.map(inc, range(tasks)))
    return {"map default chunks, 10^6 ints": rate}


def start_and_stop(pool_class: PoolClass, settings: Settings, tasks: int) -> dict[str, float]:
    """What a pool costs that is used once."""
    seconds = []
    for number in range(tasks):
        gc.collect()
        began = time.perf_counter()
        with start_pool(pool_class, settings.processes, settings.start_method) as pool:
            result = pool.apply(inc, (number,))
            pool.close()
            pool.join()
            seconds.append(time.perf_counter() - began)
        if result != number + 1:
            raise WrongResults(f"{result!r} instead of {number + 1}")
    return {"start + one task + close + join": statistics.median(seconds) * 1e3}


def idle(pool_class: PoolClass, settings: Settings, tasks: int) -> dict[str, float]:
    """What a pool costs that has worked and now waits, in percent of one core, all processes together."""
    with started_pool(pool_class, settings.processes, settings.start_method) as pool:
        pids = worker_pids(pool)
        check(pool.map(inc, range(tasks), chunksize=1), tasks)
        gc.collect()
        time.sleep(0.5)
        cpu = cpu_seconds(pids)
        began = time.perf_counter()
        time.sleep(IDLE_SECONDS)
        used = cpu_seconds(pids) - cpu
        seconds = time.perf_counter() - began
    return {"idle CPU, 2 s after work": used / seconds * 100}


WORKLOADS = (
    Workload("map chunksize=1", "tasks/s", map_single, None, target="30x", least_ratio=30),
    Workload("imap chunksize=1", "tasks/s", imap_single, None, target="30x", least_ratio=30),
    Workload("imap_unordered chunksize=1", "tasks/s", imap_unordered_single, None),
    Workload("apply round trip, p50", "us", apply_round_trip, None, False, "10x shorter", 10),
    Workload("apply_async flood, get all", "tasks/s", apply_async_flood, None),
    Workload("map default chunks, 10^6 ints", "items/s", map_default, BIG_MAP_ITEMS, target="1.5x", least_ratio=1.5),
    Workload("CPU, map chunksize=1", "us/task", map_single, None, False, "a tenth", 10),
    Workload("start + one task + close + join", "ms", start_and_stop, STARTS_PER_CELL, False, "not slower", 1),
    Workload("idle CPU, 2 s after work", "% of a core", idle, 10_000, False, "0 %", ours_only=True),
)


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Raise CellTimeout in the body after `seconds`, and end the whole run if even that does not end the body.

    A pool that lost a result may well hang again in its clean-up, hence the second alarm; and code that never returns
    to the interpreter sees no signal, hence faulthandler, whose clock is a C thread.
    """
    expired = False

    def expire(_signal: int, _frame: FrameType | None) -> None:
        nonlocal expired
        if expired:
            abandon(f"a cell did not end in {seconds} s, nor its clean-up in {CLEANUP_LIMIT_SECONDS} s")
        expired = True
        signal.alarm(CLEANUP_LIMIT_SECONDS)
        raise CellTimeout(f"did not end in {seconds} s")

    previous = signal.signal(signal.SIGALRM, expire)
    faulthandler.dump_traceback_later(seconds + 2 * CLEANUP_LIMIT_SECONDS, exit=True)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, previous)


def abandon(reason: str) -> None:
    """Leave at once, without the exit handlers that would wait for what hangs."""
    for child in multiprocessing.active_children():
        child.kill()
    print(f"\nversus_stdlib.py: error: {reason}", file=sys.stderr, flush=True)
    os._exit(1)


def calibrated(cell: Cell, name: str, pool_class: PoolClass, settings: Settings) -> int:
    """How many tasks this pool does in about `CELL_SECONDS`."""
    tasks = FEWEST_TASKS
    while True:
        began = time.perf_counter()
        value = cell(pool_class, settings, tasks)[name]
        # Where the cell gives no rate, what it took as a whole is near enough: many short round trips.
        seconds = value * tasks / 1e6 if cell is apply_round_trip else tasks / value
        if seconds >= CALIBRATION_SECONDS or tasks >= MOST_TASKS or time.perf_counter() - began > 10:
            return max(FEWEST_TASKS, min(MOST_TASKS, int(tasks * CELL_SECONDS / seconds)))
        tasks = min(4 * tasks, MOST_TASKS)


def short(value: float) -> str:
    """Three digits, with k or M."""
    if not math.isfinite(value):
        return str(value)
    for factor, suffix in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * factor:
            return f"{three_digits(value / factor)}{suffix}"
    return three_digits(value)


def three_digits(value: float) -> str:
    """As many decimals as make three digits, and no more than three."""
    decimals = 0 if abs(value) >= 99.95 else 1 if abs(value) >= 9.995 else 2 if abs(value) >= 0.9995 else 3
    return f"{value:.{decimals}f}"


def spread(values: list[float]) -> str:
    """Median, least and most."""
    if not values:
        return "-"
    return f"{short(statistics.median(values))} [{short(min(values))}..{short(max(values))}]"


def ratio_of(workload: Workload, stdlib: list[float], ours: list[float]) -> float | None:
    """Our median against the stdlib's, more than 1 in our favour; None where either is missing."""
    if not stdlib or not ours:
        return None
    numbers = statistics.median(ours), statistics.median(stdlib)
    better, worse = numbers if workload.more_is_better else numbers[::-1]
    return better / worse if worse else math.inf


def is_held(workload: Workload, ratio: float | None, ours: list[float]) -> bool | None:
    """Whether the target is met; None for a workload without one."""
    if workload.ours_only:
        return bool(ours) and statistics.median(ours) < IDLE_PERCENT_MEANT_BY_ZERO
    if workload.least_ratio is None:
        return None
    return ratio is not None and ratio >= workload.least_ratio


class Run:
    """All measurements of one run, by workload and pool, and what went wrong."""

    def __init__(self, settings: Settings, rounds: int) -> None:
        self.settings = settings
        self.rounds = rounds
        self.values: dict[tuple[str, str], list[float]] = {}
        self.tasks: dict[tuple[str, str], int] = {}
        self.problems: list[str] = []
        self._progress = Progress()
        self._classes: dict[str, PoolClass] = {"stdlib": multiprocessing.pool.Pool, "ours": ringpool.Pool}

    def measure(self) -> None:
        """Measure every cell, in `rounds` rounds of all pools."""
        cells: dict[Cell, Workload] = {}
        for workload in WORKLOADS:
            cells.setdefault(workload.cell, workload)
        for workload in cells.values():
            names = ["ours"] if workload.ours_only else list(self._classes)
            for name in names:
                self._calibrate(workload, name)
            for number in range(1, self.rounds + 1):
                for name in names:
                    self._measure_cell(workload, name, number)
        self._progress.clear()

    def _calibrate(self, workload: Workload, name: str) -> None:
        if workload.tasks is not None:
            self.tasks[workload.name, name] = workload.tasks
            return
        self._progress.show(f"{workload.name}: how many tasks for {name}")
        with self._reporting(workload, name):
            self.tasks[workload.name, name] = calibrated(
                workload.cell, workload.name, self._classes[name], self.settings
            )

    def _measure_cell(self, workload: Workload, name: str, number: int) -> None:
        tasks = self.tasks.get((workload.name, name))
        if tasks is None:
            return
        self._progress.show(f"{workload.name}: round {number} of {self.rounds}, {name}")
        with self._reporting(workload, name):
            for row, value in workload.cell(self._classes[name], self.settings, tasks).items():
                self.values.setdefault((row, name), []).append(value)

    @contextmanager
    def _reporting(self, workload: Workload, name: str) -> Iterator[None]:
        """Keep what goes wrong in one cell from ending the others; a cell that failed is not tried again."""
        try:
            with time_limit(CELL_LIMIT_SECONDS):
                yield
        except Exception as error:
            self.tasks.pop((workload.name, name), None)
            self.problems.append(f"{workload.name}, {name}: {type(error).__name__}: {error}")

    def rows(self) -> list[dict[str, Any]]:
        """The results, ready for the table and for JSON."""
        rows = []
        for workload in WORKLOADS:
            stdlib, ours = (self.values.get((workload.name, name), []) for name in self._classes)
            ratio = ratio_of(workload, stdlib, ours)
            row: dict[str, Any] = {"workload": workload.name, "unit": workload.unit}
            for name, values in (("stdlib", stdlib), ("ours", ours)):
                row[name] = values and {
                    "median": statistics.median(values),
                    "min": min(values),
                    "max": max(values),
                    "rounds": values,
                }
            row |= {"ratio": ratio, "target": workload.target, "held": is_held(workload, ratio, ours)}
            rows.append(row)
        return rows


def format_table(rows: list[dict[str, Any]]) -> str:
    """The rows as text, each column as wide as its widest cell."""
    table = [("workload", "unit", "stdlib median [min..max]", "ours median [min..max]", "ratio", "target", "held")]
    for row in rows:
        stdlib, ours = (spread(row[name]["rounds"] if row[name] else []) for name in ("stdlib", "ours"))
        ratio = "-" if row["ratio"] is None else f"{three_digits(row['ratio'])}x"
        held = {True: "yes", False: "no", None: "-"}[row["held"]]
        table.append((row["workload"], row["unit"], stdlib, ours, ratio, row["target"], held))
    widths = [max(map(len, column)) for column in zip(*table)]
    return "\n".join("  ".join(text.ljust(width) for text, width in zip(line, widths)).rstrip() for line in table)


def machine() -> dict[str, Any]:
    """Where the numbers come from: a number without its machine says nothing."""
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "compiler": platform.python_compiler(),
        "ringpool": getattr(ringpool, "__version__", None),
        "commit": git_commit(),
    }


def cpu_model() -> str:
    """The processor's name for itself, where the kernel tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as info:
            for line in info:
                key, _, value = line.partition(":")
                if key.strip() == "model name":
                    return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def git_commit() -> str | None:
    """The commit of this script's tree, marked if the tree differs from it; None outside a repository."""
    try:
        answer = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--exclude", "*"],
            cwd=os.path.dirname(os.path.abspath(__file__)),
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None if answer.returncode == 0 else None


def writable_file(path: str) -> str:
    """An argparse type: a path that can be written, found out before minutes are spent on what is to be written."""
    folder = os.path.dirname(path) or "."
    touched = path if os.path.exists(path) else folder
    if os.path.isdir(path) or not os.path.isdir(folder) or not os.access(touched, os.W_OK):
        raise argparse.ArgumentTypeError(f"cannot write {path!r}")
    return path


def build_parser() -> argparse.ArgumentParser:
    """The arguments of this script."""
    parser = OneLineParser(prog="versus_stdlib.py", description="ratios between multiprocessing.Pool and ringpool")
    parser.add_argument("--rounds", type=whole_number(1000), default=5, metavar="N", help="(default %(default)s)")
    parser.add_argument(
        "--processes",
        type=whole_number(most_processes()),
        default=2,
        metavar="N",
        help="workers of each pool (default %(default)s)",
    )
    parser.add_argument(
        "--start-method", type=start_method, default="fork", metavar="METHOD", help="(default %(default)s)"
    )
    parser.add_argument("--json", type=writable_file, metavar="FILE", help="also write all measurements to FILE")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table and the machine; 1 if any cell failed."""
    args = build_parser().parse_args(argv)
    settings = Settings(args.processes, args.start_method)
    run = Run(settings, args.rounds)
    run.measure()
    rows, host = run.rows(), machine()
    print(format_table(rows))
    print(
        f"{args.rounds} rounds in turns, {settings.processes} workers, {settings.start_method}; "
        "ratio of the medians, more than 1 in our favour"
    )
    print(
        f"{host['cpu']}, {host['cores']} cores, Linux {host['kernel']}, Python {host['python']} ({host['compiler']}), "
        f"commit {host['commit'] or 'unknown'}"
    )
    if args.json:
        report = {
            "machine": host,
            "settings": {**settings._asdict(), "rounds": args.rounds},
            "tasks": {f"{workload}, {name}": tasks for (workload, name), tasks in run.tasks.items()},
            "workloads": rows,
            "problems": run.problems,
        }
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(report, file, indent=2)
            file.write("\n")
    if not run.problems:
        return 0
    for problem in run.problems:
        print(f"versus_stdlib.py: FAILED: {problem}", file=sys.stderr)
    if any(CellTimeout.__name__ in problem for problem in run.problems):
        sys.stdout.flush()
        abandon("some cells did not end in time")
    return 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
