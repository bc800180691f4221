"""`python -m pool bench`: this pool and multiprocessing.Pool in a minute, or on a function of one's own.

The whole benchmark, with the other pools and the machine's own limits, is `benchmarks/run.py` in the repository; it uses the same
harness and the same workloads.
"""

import argparse
import os
import pathlib
import stat
import sys

from pool.bench import own, report
from pool.bench.apart.ringpool_cell.items import read_items
from pool.bench.apart.ringpool_cell.user import find_function
from pool.bench.apart.ringpool_cell.workloads import NAMED, SHORT, Settings
from pool.bench.harness import LIMIT_SECONDS, PEERS, Run
from pool.commandline import most_processes, start_method, whole_number

ROUNDS = 3
SHORT_SECONDS = 0.2


def importable(text: str) -> str:
    """An argparse type: `module:function`, which can be imported and called."""
    module, _, name = text.partition(":")
    if not module or not name:
        raise argparse.ArgumentTypeError(f"{text[:60]!r} is not of the form module:function")
    try:
        function = find_function(text)
    except (Exception, SystemExit) as error:
        raise argparse.ArgumentTypeError(f"cannot import {text[:60]!r}: {type(error).__name__}: {error}") from None
    if not callable(function):
        raise argparse.ArgumentTypeError(f"{text[:60]!r} is not a function but {type(function).__name__}")
    return text


def file_of_items(text: str) -> str:
    """An argparse type: a text file with at least one item."""
    try:
        if stat.S_ISCHR(os.stat(text).st_mode):
            raise argparse.ArgumentTypeError(f"{text[:60]!r} is a device")
        items = read_items(pathlib.Path(text))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        raise argparse.ArgumentTypeError(f"cannot read {text[:60]!r}: {reason}") from None
    if not items:
        raise argparse.ArgumentTypeError(f"{text[:60]!r} has no items")
    return os.path.abspath(text)


def writable_file(path: str) -> str:
    """An argparse type: a path that can be written, found out before minutes are spent on what is to be written."""
    folder = os.path.dirname(path) or "."
    touched = path if os.path.exists(path) else folder
    if os.path.isdir(path) or not os.path.isdir(folder) or not os.access(touched, os.W_OK):
        raise argparse.ArgumentTypeError(f"cannot write {path!r}")
    return path


def add_common_arguments(parser: argparse.ArgumentParser, rounds: int, processes: int) -> None:
    """Declare what every benchmark has. rounds, processes: the defaults."""
    parser.add_argument("--rounds", type=whole_number(1000), default=rounds, metavar="N", help="(default %(default)s)")
    parser.add_argument(
        "--processes",
        type=whole_number(most_processes()),
        default=processes,
        metavar="N",
        help="workers of each pool (default %(default)s)",
    )
    parser.add_argument("--start-method", type=start_method, default="fork", metavar="METHOD", help="(default %(default)s)")
    parser.add_argument(
        "--limit",
        type=whole_number(86_400),
        default=int(LIMIT_SECONDS),
        metavar="SECONDS",
        help="of one measurement, then it is killed (default %(default)s)",
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `bench`."""
    parser.add_argument(
        "function", nargs="?", type=importable, metavar="module:function", help="measure this function, on the items of --items"
    )
    parser.add_argument(
        "--items", type=file_of_items, metavar="FILE", help="one item a line: a Python literal, or else the line as a string"
    )
    add_common_arguments(parser, ROUNDS, min(2, os.cpu_count() or 1))
    parser.add_argument("--json", type=writable_file, metavar="FILE", help="also write all measurements to FILE")


def fail(message: str) -> int:
    """Say what is wrong with the arguments, as argparse does."""
    print(f"python -m pool bench: error: {message}", file=sys.stderr)
    return 2


def run(args: argparse.Namespace) -> int:
    """Measure and print the table; 0, or 1 if a pool failed or gave wrong results."""
    if (args.function is None) != (args.items is None):
        return fail("module:function and --items belong together")
    settings = Settings(processes=args.processes, start_method=args.start_method, seconds=SHORT_SECONDS)
    if args.function is not None:
        return own.run(args.function, args.items, settings, args.rounds, args.limit, args.json)
    host = report.machine()
    measured = Run(settings, [NAMED[name] for name in SHORT], PEERS, args.rounds, limit=args.limit)
    measured.measure()
    found = report.build(measured, host)
    return finish(found, args.json, "python -m pool bench")


def finish(found: dict[str, object], path: str | None, program: str) -> int:
    """Print the table, write the JSON, say what failed; the exit code."""
    if path:
        try:
            report.save(found, path)
        except OSError as error:
            found["problems"] = [*found["problems"], f"{path} was not written: {error}"]
    print(report.table(found))
    print(report.legend(found))
    for problem in found["problems"]:
        print(f"{program}: FAILED: {problem}", file=sys.stderr)
    return 1 if found["problems"] else 0
