"""What is measured with large values: bytes a second from the call to the last result.

numpy is asked for by the cell that needs it, so that no other has it. What workers run is here too: they import this module.
"""

import gc
import statistics
import time
from collections.abc import Callable
from typing import Any

from .peers import NotAvailable, WrongResults

ROUNDS = 5
MIB = 1 << 20


def total(array: Any) -> float:
    return float(array[0] + array[-1])


def doubled(array: Any) -> Any:
    return array * 2.0


def made(value: tuple[int, float]) -> Any:
    import numpy

    return numpy.full(value[0], value[1])


def shifted(frame: Any) -> Any:
    return frame + 1


def warm_memcpy(numpy: Any, size: int) -> float:
    """Bytes a second, in the best of many copies into memory that has been touched."""
    source, target = numpy.ones(size // 8), numpy.zeros(size // 8)
    best = float("inf")
    for _ in range(10):
        began = time.perf_counter()
        numpy.copyto(target, source)
        best = min(best, time.perf_counter() - began)
    return size / best


def holds(right: Callable[[Any, int], bool], result: Any, place: int) -> bool:
    """Whether the result is right; what is not even of the right type is not."""
    try:
        return bool(right(result, place))
    except (AttributeError, IndexError, TypeError):
        return False


def measured(
    row: str,
    count: int,
    size: int,
    function: Callable[[Any], Any],
    values: Callable[[Any, int, int], tuple[list[Any], Callable[[Any, int], bool]]],
    both_ways: bool = False,
    share_row: str | None = None,
) -> Callable[[Any], dict[str, float]]:
    """A workload: `count` tasks with `size` bytes each. values: a function of numpy, count and size that gives the items, and what
    tells whether the result of an item, and its number, is right. share_row: also the share of what memcpy does."""

    def measure(cell: Any) -> dict[str, float]:
        try:
            import numpy
        except ImportError:
            raise NotAvailable("needs numpy") from None
        # With a fixed number of tasks somebody wants to see that it works.
        each, number = (size, count) if cell.settings.tasks is None else (max(size // 256, 8192), min(count, 8))
        try:
            items, right = values(numpy, number, each)
        except ImportError as error:
            raise NotAvailable(f"needs {error.name}") from None
        cell.tasks = number
        seconds = []
        with cell.started() as pool:
            for _ in range(ROUNDS):
                gc.collect()
                began = time.perf_counter()
                results = pool.map(function, items, chunksize=1)
                seconds.append(time.perf_counter() - began)
                wrong = [place for place, result in enumerate(results) if not holds(right, result, place)]
                if len(results) != number or wrong:
                    raise WrongResults(f"{len(results)} results for {number} tasks, {len(wrong)} of them wrong")
                del results
        # The first round is for memory that nobody has touched yet.
        rate = number * each * (2 if both_ways else 1) / statistics.median(seconds[1:])
        found = {row: rate / 1e9}
        if share_row:
            found[share_row] = rate / warm_memcpy(numpy, each) * 100
        return found

    return measure


def distinct(numpy: Any, count: int, size: int) -> tuple[list[Any], Callable[[Any, int], bool]]:
    """An array for each task, and one number back."""
    return [numpy.full(size // 8, float(place)) for place in range(count)], lambda result, place: result == 2.0 * place


def one(numpy: Any, count: int, size: int) -> tuple[list[Any], Callable[[Any, int], bool]]:
    """The same array for all, and one number back."""
    return [numpy.full(size // 8, 3.0)] * count, lambda result, place: result == 6.0


def sizes(numpy: Any, count: int, size: int) -> tuple[list[Any], Callable[[Any, int], bool]]:
    """What the array is to be that comes back."""
    return [(size // 8, float(place)) for place in range(count)], lambda result, place: (
        result.nbytes == size // 8 * 8 and result[0] == result[-1] == place and result.flags.writeable
    )


def echoed(numpy: Any, count: int, size: int) -> tuple[list[Any], Callable[[Any, int], bool]]:
    """An array for each task, and one like it back."""
    return [numpy.full(size // 8, float(place)) for place in range(count)], lambda result, place: (
        result.nbytes == size // 8 * 8 and result[0] == result[-1] == 2.0 * place
    )


def frames(numpy: Any, count: int, size: int) -> tuple[list[Any], Callable[[Any, int], bool]]:
    """A dataframe of pandas each, with ten columns."""
    import pandas

    def frame(place: int) -> Any:
        return pandas.DataFrame({f"column {number}": numpy.full(size // 80, float(place + number)) for number in range(10)})

    return [frame(place) for place in range(count)], lambda result, place: all(
        column.iloc[0] == column.iloc[-1] == place + number + 1 for number, (_, column) in enumerate(result.items())
    )


IN, IN_SHARE = "24 arrays of 16 MiB in", "24 arrays of 16 MiB in: share of warm memcpy"
SAME = "8 times one array of 64 MiB in"
OUT = "8 arrays of 64 MiB out"
SMALL = "2,000 arrays of 64 KiB in and out"
FRAME = "4 dataframes of 50 MB in and out"

MEASURED = {
    IN: measured(IN, 24, 16 * MIB, total, distinct, share_row=IN_SHARE),
    SAME: measured(SAME, 8, 64 * MIB, total, one),
    OUT: measured(OUT, 8, 64 * MIB, made, sizes),
    SMALL: measured(SMALL, 2000, MIB // 16, doubled, echoed, both_ways=True),
    FRAME: measured(FRAME, 4, 50_000_000, shifted, frames, both_ways=True),
}
