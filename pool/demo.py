"""`python -m pool demo`: a real small-task job on real input, on multiprocessing.Pool and on this pool.

The job counts identifiers in the sources of the running interpreter's own standard library, one line of text a task.
Such a task takes about a microsecond, so what the table shows is the pool and not the work: a plain loop is the floor,
and every row's results are compared with the loop's.

Nothing here touches the inside of a pool except `_pool`, the list of its processes.
"""

import argparse
import gc
import multiprocessing
import multiprocessing.pool
import multiprocessing.resource_tracker
import os
import platform
import re
import signal
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from pool import Pool
from pool.bench.apart.ringpool_cell.clocks import SETTLE_SECONDS, cpu_seconds
from pool.commandline import Progress, most_processes, start_method, whole_number

DEFAULT_LINES = 100_000
MOST_LINES = 100_000_000
START_LIMIT_SECONDS = 60.0

IDENTIFIER = re.compile(r"[^\W\d]\w*")

PoolClass = Callable[..., multiprocessing.pool.Pool]


class Row(NamedTuple):
    """One line of the table."""

    name: str
    seconds: float
    cpu_seconds: float
    ratio: float | None


def count_identifiers(line: str) -> int:
    """The task: how many words of the line have the form of an identifier."""
    return len(IDENTIFIER.findall(line))


def worker_pid(_: int) -> int:
    """Tells which worker ran it, after a nap long enough for the other workers to take the next tasks."""
    time.sleep(0.005)
    return os.getpid()


def library_lines(limit: int) -> list[str]:
    """The first `limit` lines of the standard library's sources, or all of them if there are fewer.

    The order of the files is sorted and what others installed is left out, so that one Python always gives the same
    lines.
    """
    lines: list[str] = []
    for folder, subfolders, names in os.walk(sysconfig.get_path("stdlib")):
        subfolders[:] = sorted(set(subfolders) - {"site-packages", "dist-packages"})
        for name in sorted(names):
            if not name.endswith(".py"):
                continue
            try:
                with open(os.path.join(folder, name), encoding="utf-8", errors="replace") as source:
                    lines.extend(line.rstrip("\n") for line in source)
            except OSError:
                continue
            if len(lines) >= limit:
                return lines[:limit]
    return lines


def worker_pids(pool: multiprocessing.pool.Pool) -> list[int]:
    """The process ids of a pool's workers."""
    return [worker.pid for worker in pool._pool]


def start_pool(pool_class: PoolClass, processes: int, start_method: str) -> multiprocessing.pool.Pool:
    """A new pool, whose workers leave Ctrl-C to this process instead of printing one traceback each.

    Must be called on the main thread.
    """
    if start_method != "fork":
        # Launching it is what would otherwise unblock SIGINT half-way through (CPython 3.11).
        multiprocessing.resource_tracker.ensure_running()
    # Workers inherit that SIGINT is ignored, through exec and forkserver too. Blocked as well, it is kept for us until
    # our own handler is back; ignored alone, a Ctrl-C pressed just now would be lost.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        pool = pool_class(processes, context=multiprocessing.get_context(start_method))
    finally:
        signal.signal(signal.SIGINT, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return pool


@contextmanager
def started_pool(pool_class: PoolClass, processes: int, start_method: str) -> Iterator[multiprocessing.pool.Pool]:
    """A pool whose workers have all run a task already; closed and joined afterwards, terminated after an error.

    A worker that still imports modules while the clock runs would be measured as a slow pool.
    """
    with start_pool(pool_class, processes, start_method) as pool:
        deadline = time.monotonic() + START_LIMIT_SECONDS
        seen: set[int] = set()
        while len(seen) < processes:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(seen)} of {processes} workers ran within {START_LIMIT_SECONDS:.0f} s")
            seen.update(pool.map(worker_pid, range(2 * processes), chunksize=1))
        pool.map(count_identifiers, ["warm = up"] * processes)
        yield pool
        pool.close()
        pool.join()


def run_map(pool: multiprocessing.pool.Pool, lines: list[str], results: list[int]) -> None:
    """All lines by `map`, whose chunks the pool chooses."""
    results.extend(pool.map(count_identifiers, lines))


def run_imap_unordered(pool: multiprocessing.pool.Pool, lines: list[str], results: list[int]) -> None:
    """All lines by `imap_unordered`, each a task of its own."""
    results.extend(pool.imap_unordered(count_identifiers, lines, chunksize=1))


def measure(
    name: str, job: Callable[[list[int]], None], pids: list[int], total: int, progress: Progress
) -> tuple[float, float, list[int]]:
    """Run `job(results)` and return its seconds, its CPU seconds (ours and those of `pids`) and its results."""
    results: list[int] = []
    gc.collect()
    began = time.perf_counter()

    def describe() -> str:
        count = f", {len(results):,} of {total:,} lines" if results else ""
        return f"{name}: {time.perf_counter() - began:.1f} s{count}"

    with progress.watching(describe):
        cpu = cpu_seconds(pids)
        began = time.perf_counter()
        job(results)
        seconds = time.perf_counter() - began
    time.sleep(SETTLE_SECONDS)
    return seconds, cpu_seconds(pids) - cpu, results


def format_table(rows: list[Row], tasks: int) -> str:
    """The rows as text, under their headings."""
    lines = [f"{'':<24}{'seconds':>10}{'tasks/s':>14}{'CPU us/task':>14}{'ratio':>9}"]
    for row in rows:
        ratio = "-" if row.ratio is None else f"{row.ratio:.2f}x"
        cpu = row.cpu_seconds / tasks * 1e6
        lines.append(f"{row.name:<24}{row.seconds:>10.4f}{tasks / row.seconds:>14,.0f}{cpu:>14.2f}{ratio:>9}")
    return "\n".join(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `demo`."""
    parser.add_argument(
        "--lines",
        type=whole_number(MOST_LINES),
        default=DEFAULT_LINES,
        metavar="N",
        help=f"how many lines of source, one task each (default {DEFAULT_LINES:,})",
    )
    parser.add_argument(
        "--processes",
        type=whole_number(most_processes()),
        default=os.cpu_count() or 1,
        metavar="N",
        help="how many workers (default: one a core, %(default)s here)",
    )
    parser.add_argument(
        "--start-method",
        type=start_method,
        metavar="METHOD",
        help=f"{', '.join(multiprocessing.get_all_start_methods())} (default: this Python's default)",
    )


def run(args: argparse.Namespace) -> int:
    """Measure, compare, print the table; 0 if all agree with the plain loop, else 1."""
    method = args.start_method or multiprocessing.get_start_method()
    progress = Progress()
    progress.show("reading the standard library")
    lines = library_lines(args.lines)
    progress.clear()
    if not lines:
        print("python -m pool demo: error: this Python has no sources of its standard library", file=sys.stderr)
        return 2
    total = len(lines)
    if total < args.lines:
        print(f"the standard library has {total:,} lines, not {args.lines:,}: using all of them")

    def plain_loop(results: list[int]) -> None:
        for line in lines:
            results.append(count_identifiers(line))

    seconds, cpu, expected = measure("plain loop", plain_loop, [], total, progress)
    expected_sorted = sorted(expected)
    rows = [Row("plain loop", seconds, cpu, None)]
    problems: list[str] = []
    jobs: list[tuple[str, Callable[..., None], bool]] = [
        ("map", run_map, True),
        ("imap_unordered", run_imap_unordered, False),
    ]
    classes: list[tuple[str, PoolClass]] = [("stdlib", multiprocessing.pool.Pool), ("ours", Pool)]
    for job_name, job, ordered in jobs:
        stdlib_seconds: float | None = None
        for class_name, pool_class in classes:
            name = f"{class_name} {job_name}"
            progress.show(f"{name}: starting {args.processes} workers")
            try:
                with started_pool(pool_class, args.processes, method) as pool:
                    seconds, cpu, results = measure(
                        name, lambda results: job(pool, lines, results), worker_pids(pool), total, progress
                    )
                agrees = results == expected if ordered else sorted(results) == expected_sorted
            except Exception as error:
                problems.append(f"{name} failed: {type(error).__name__}: {error}")
                continue
            finally:
                progress.clear()
            if not agrees:
                problems.append(f"{name} gave wrong results: {len(results):,} of them, sum {sum_of(results)}")
            if pool_class is not Pool:
                stdlib_seconds = seconds
            rows.append(Row(name, seconds, cpu, stdlib_seconds and stdlib_seconds / seconds))

    print(format_table(rows, total))
    print("ratio: seconds of the stdlib's pool for the same call, divided by the seconds of this row")
    if problems:
        print("python -m pool demo: error: not every pool gave the results of the plain loop:", file=sys.stderr)
        for problem in problems:
            print(f"  {problem}", file=sys.stderr)
    else:
        print(f"all rows agree, result by result: {sum(expected):,} identifiers")
    print(
        f"compared: Python {platform.python_version()}, start method {method}, processes: {args.processes}, "
        f"lines: {total:,}, cores: {os.cpu_count()}"
    )
    return 1 if problems else 0


def sum_of(results: list[Any]) -> str:
    """The sum of results that may be anything, since they are known to be wrong."""
    try:
        return f"{sum(results):,}"
    except Exception:
        return "unknown"
