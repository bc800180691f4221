"""CPU and memory of living processes, whoever started them."""

import os
import time
from collections.abc import Iterable

# A worker that looked for more work before it went to sleep did so because of the tasks: its time belongs to them.
SETTLE_SECONDS = 0.02


def process_cpu_seconds(pid: int) -> float:
    """CPU used so far by a living process, whoever its parent is."""
    try:
        # What clock_getcpuclockid(3) returns. /proc counts in ticks of 10 ms, too coarse: all tasks of a measurement
        # together may cost a worker only a few of them.
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stat:
            # The name, in parentheses, may hold spaces and parentheses of its own.
            fields = stat.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def cpu_seconds(pids: Iterable[int]) -> float:
    """CPU used so far by this process, all its threads, and by the processes `pids`.

    getrusage(RUSAGE_CHILDREN) would not do: it knows children only after they were waited for, and the workers of a
    forkserver are not our children at all. So the workers are asked about while they live.
    """
    return time.process_time() + sum(map(process_cpu_seconds, pids))


def descendants(pid: int = 0) -> list[int]:
    """The process ids of all children of a process (0: of this one), their children and so on."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", encoding="ascii", errors="replace") as stat:
                parent = int(stat.read().rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue
        children.setdefault(parent, []).append(int(name))
    found: list[int] = []
    unseen = [pid or os.getpid()]
    while unseen:
        below = children.get(unseen.pop(), [])
        found += below
        unseen += below
    return found


def resident_bytes() -> int:
    """Memory of this process that is in RAM, shared memory included."""
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
