"""One object as large as memory allows: how fast it goes to a worker and back, and how much memory that takes."""

import gc
import time
from typing import Any

from .peak import peak
from .peers import WrongResults

ALLOWED_BYTES = 100 << 20
"""What interpreters and their modules may have beside it."""

HUGE = "one huge bytes object in and out"
HUGE_MEMORY = f"{HUGE}: peak memory less 100 MiB, times its size"


def echo(value: bytes) -> bytes:
    return value


def there_and_back(pool: Any, size: int) -> float:
    """Seconds. The object is made after the workers, so that no page of it is theirs by birth."""
    data = b"x" * size
    gc.collect()
    began = time.perf_counter()
    results = pool.map(echo, [data], chunksize=1)
    seconds = time.perf_counter() - began
    if results != [data]:
        raise WrongResults("not the bytes that were sent")
    return seconds


def huge(cell: Any) -> dict[str, float]:
    """A workload: once by the clock, and once more, in another pool, with an eye on memory, which holds everybody up."""
    size = cell.settings.huge
    cell.tasks = 1
    with cell.started() as pool:
        seconds = there_and_back(pool, size)
    with cell.started() as pool, peak() as peaks:
        there_and_back(pool, size)
    found = {HUGE: 2 * size / seconds / 1e9}
    if size >= ALLOWED_BYTES:
        # Of less, the interpreters' own memory would be what is measured.
        found[HUGE_MEMORY] = (peaks[0] - ALLOWED_BYTES) / size
    return found
