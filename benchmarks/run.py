"""The benchmark: ringpool, multiprocessing.Pool, the other pools and what no pool can beat, on one machine, in one run.

    pip install -e '.[bench]'
    python benchmarks/run.py --json numbers.json               everything; takes a while
    python benchmarks/run.py --peers stdlib,ringpool           the targets only, in minutes
    python benchmarks/run.py --only growth --largest 10000000  one workload, at its full size
    python benchmarks/compare.py old.json new.json             two runs of one machine
    python benchmarks/picture.py numbers.json picture.svg

Every cell is a process of its own that is killed if it exceeds its limit; rounds are interleaved. A pool that is not installed or
has no such call is shown as n/a, one that fails as FAILED. A target that is missed is no error; wrong results, exceptions
and cells that exceed their limit are, of whichever pool, and make the exit code 1. The workloads are in the package
(pool/bench/apart/ringpool_cell/workloads.py), the adapters in peers.py, the targets in targets.py.
"""

import argparse
import compileall
import importlib.metadata
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence

try:
    import targets
    from pool import bench
    from pool.bench import harness, report
    from pool.bench.apart.ringpool_cell.workloads import WORKLOADS, Settings, Workload
    from pool.commandline import OneLineParser, whole_number
except ImportError as missing:
    sys.exit(f"run.py: error: ringpool is not installed here ({missing})")

HERE = os.path.dirname(os.path.abspath(__file__))
DISTRIBUTIONS = ("loky", "joblib", "mpire", "billiard", "multiprocess", "pebble", "zooparallel")
PEERS = {**harness.PEERS, "ProcessPoolExecutor": "peers:executor"} | {name: f"peers:{name}" for name in DISTRIBUTIONS}
ROUNDS = 5


def chosen_peers(text: str) -> dict[str, str]:
    """An argparse type: names of peers, with commas."""
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in PEERS:
            raise argparse.ArgumentTypeError(f"unknown pool {name[:40]!r}, choose from {', '.join(PEERS)}")
    return {name: PEERS[name] for name in names}


def chosen_workloads(text: str) -> list[Workload]:
    """An argparse type: the workloads whose name has this text in it."""
    found = [workload for workload in WORKLOADS if text in workload.name]
    if not found:
        raise argparse.ArgumentTypeError(
            f"no workload has {text[:40]!r} in its name; there are: {', '.join(w.name for w in WORKLOADS)}"
        )
    return found


def positive(text: str) -> float:
    """An argparse type: seconds."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 3600:
        raise argparse.ArgumentTypeError(f"{text[:20]!r} is no number of seconds from 0 to 3600")
    return value


def build_parser() -> argparse.ArgumentParser:
    """The arguments of this script."""
    usual = Settings()
    parser = OneLineParser(prog="run.py", description="ringpool, multiprocessing.Pool, other pools and the floors in one run")
    parser.add_argument(
        "--peers", type=chosen_peers, default=PEERS, metavar="NAME,NAME", help=f"of {', '.join(PEERS)} (default: all)"
    )
    parser.add_argument(
        "--only",
        type=chosen_workloads,
        action="extend",
        metavar="TEXT",
        help="workloads with TEXT in their name; may be given several times",
    )
    bench.add_common_arguments(parser, ROUNDS, usual.processes)
    parser.add_argument(
        "--seconds", type=positive, default=usual.seconds, metavar="S", help="that a cell measures (default %(default)s)"
    )
    parser.add_argument(
        "--largest",
        type=whole_number(10**8),
        default=usual.largest,
        metavar="N",
        help="tasks in the longest job of 'growth' (default %(default)s; all of it: 10000000)",
    )
    parser.add_argument(
        "--streamed",
        type=whole_number(10**9),
        default=usual.streamed,
        metavar="N",
        help="items through imap(buffersize=) (default %(default)s; all of it: 10000000)",
    )
    parser.add_argument(
        "--huge",
        type=whole_number(1 << 40),
        default=usual.huge,
        metavar="BYTES",
        help="of the huge object (default %(default)s; all of it: 2254857830)",
    )
    parser.add_argument("--json", type=bench.writable_file, metavar="FILE", help="also write all measurements to FILE")
    return parser


def compiled_pingpong(folder: str) -> str | None:
    """The path of the program that measures the machine's own round trips; None, said aloud, without a C compiler."""
    compiler = shlex.split(os.environ.get("CC", "cc"))
    program = os.path.join(folder, "pingpong")
    include = os.path.join(os.path.dirname(HERE), "csrc")
    source = os.path.join(HERE, "pingpong.c")
    try:
        subprocess.run([*compiler, "-std=c11", "-O2", f"-I{include}", source, "-o", program], check=True, timeout=60)
    except (OSError, IndexError, subprocess.SubprocessError) as error:
        print(f"run.py: no C compiler that works: without the C floors ({error})", file=sys.stderr)
        return None
    return program


def versions(names: Sequence[str]) -> dict[str, str]:
    """Of the distributions of these peers that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print all tables; 1 if any cell failed."""
    args = build_parser().parse_args(argv)
    settings = Settings(
        processes=args.processes,
        start_method=args.start_method,
        seconds=args.seconds,
        largest=max(args.largest, 1_000),
        streamed=args.streamed,
        huge=args.huge,
    )
    host = report.machine()
    # As every installed package is: else each spawned worker would compile this one, where PYTHONDONTWRITEBYTECODE is set.
    compileall.compile_dir(os.path.dirname(os.path.dirname(bench.__file__)), quiet=2)
    with tempfile.TemporaryDirectory(prefix="ringpool-bench-") as folder:
        chosen = [workload for workload in WORKLOADS if args.only is None or workload in args.only]
        run = harness.Run(settings, chosen, args.peers, args.rounds, compiled_pingpong(folder), args.limit)
        run.measure()
    found = report.build(run, host)
    found["versions"] = versions(list(args.peers))
    code = bench.finish(found, args.json, "run.py")
    if found["versions"]:
        print(", ".join(f"{name} {version}" for name, version in found["versions"].items()))
    print(f"\n{targets.table(found)}")
    return code


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
