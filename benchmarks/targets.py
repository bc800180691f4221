"""What ringpool must reach, against multiprocessing.Pool and the floors of the same run: 2 workers, fork, 2 cores."""

from collections.abc import Callable
from typing import Any, NamedTuple

from pool.bench import report
from pool.bench.apart.ringpool_cell import arrays, huge
from pool.bench.apart.ringpool_cell.workloads import APPLY, CPU, GROWTH_COST, IDLE, KINDS, MANY_COST, chunks_row
from pool.bench.harness import OURS

# Anything that polls shows up far above this; reading the clocks stays far below.
IDLE_PERCENT_MEANT_BY_ZERO = 0.05


class Kind(NamedTuple):
    """What of a row a target is about."""

    field: str
    """Of the peer's part of the row."""
    held: Callable[[float, float], bool]
    shown: str


BETTER = Kind("ratio", float.__ge__, "{} x the stdlib")
NEAR_FLOOR = Kind("times_floor", float.__le__, "at most {} x the floor")
AT_LEAST = Kind("median", float.__ge__, "at least {}")
AT_MOST = Kind("median", float.__le__, "at most {}")


class Target(NamedTuple):
    """One figure that a row must reach. issue: of which issue."""

    row: str
    kind: Kind
    figure: float
    issue: int


TARGETS = (
    Target("map chunksize=1, ints", BETTER, 30, 2),
    Target("imap chunksize=1, ints", BETTER, 30, 2),
    Target(APPLY, BETTER, 10, 2),
    Target("map default chunks, 10^6 ints", BETTER, 1.5, 2),
    Target(CPU, BETTER, 10, 2),
    Target("start + one task + close, fork", BETTER, 1, 2),
    Target(IDLE, AT_MOST, IDLE_PERCENT_MEANT_BY_ZERO, 2),
    Target(APPLY, BETTER, 25, 4),
    Target(APPLY, NEAR_FLOOR, 6, 4),
    Target("apply_async flood, ints", BETTER, 25, 4),
    Target("map chunksize=1, ints", BETTER, 100, 4),
    Target("map chunksize=1, floats", BETTER, 100, 4),
    Target("map chunksize=1, short strings", BETTER, 15, 4),
    Target("map chunksize=1, small tuples", BETTER, 15, 4),
    Target("map chunksize=1, 3-key dicts", BETTER, 12, 4),
    Target("map chunksize=1, a dataclass", BETTER, 8, 4),
    Target("map chunksize=1, a dataclass with a date", BETTER, 8, 4),
    Target("map default chunks, 10^6 ints", BETTER, 4, 4),
    Target("imap chunksize=1, ints", BETTER, 40, 4),
    Target("imap_unordered chunksize=1, ints", BETTER, 40, 4),
    Target("starmap chunksize=1, pairs of ints", BETTER, 40, 4),
    *(Target(chunks_row(name, kind), AT_MOST, 1.1, 4) for name in ("map", "imap") for kind in KINDS),
    Target("skewed mix, map default chunks", AT_LEAST, 0.93, 4),
    Target("skewed mix, map chunksize=1", AT_LEAST, 0.93, 4),
    Target(CPU, BETTER, 30, 4),
    Target("start + one task + close, fork", BETTER, 2.5, 4),
    Target("start + one task + close, spawn", BETTER, 1, 4),
    Target("start + one task + close, forkserver", BETTER, 1, 4),
    Target(MANY_COST, AT_MOST, 1.5, 4),
    Target(GROWTH_COST, AT_MOST, 1.2, 4),
    Target(IDLE, AT_MOST, IDLE_PERCENT_MEANT_BY_ZERO, 4),
    Target(arrays.IN, BETTER, 12, 5),
    Target(arrays.IN_SHARE, AT_LEAST, 60, 5),
    Target(arrays.SAME, BETTER, 30, 5),
    Target(arrays.OUT, BETTER, 10, 5),
    Target(arrays.SMALL, BETTER, 8, 5),
    Target(arrays.FRAME, BETTER, 5, 5),
    Target(huge.HUGE_MEMORY, AT_MOST, 3, 5),
)


def table(found: dict[str, Any]) -> str:
    """Every target of the rows that were measured, held or not."""
    sizes = {
        GROWTH_COST: f" (longest job {found['settings']['largest']:,})",
        huge.HUGE_MEMORY: f" ({found['settings']['huge']:,} bytes)",
    }
    ours = {row["workload"]: row["peers"].get(OURS, {}) for row in found["workloads"]}
    lines = [("issue", "target", "at least or most", "reached", "held")]
    for target in TARGETS:
        if target.row not in ours:
            continue
        reached = ours[target.row].get(target.kind.field)
        shown = "not measured" if reached is None else report.three_digits(reached)
        held = "-" if reached is None else "yes" if target.kind.held(float(reached), float(target.figure)) else "no"
        lines.append((str(target.issue), target.row + sizes.get(target.row, ""), target.kind.shown.format(target.figure), shown, held))
    return report.columns(lines)
