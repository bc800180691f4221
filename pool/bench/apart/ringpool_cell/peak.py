"""The most memory that a process and its descendants have together.

As a program, `python peak.py PID`, it prints that, in bytes, when its standard input ends: a thread of the process itself could not
look while something else keeps the GIL.
"""

import contextlib
import os
import select
import subprocess
import sys
from collections.abc import Iterator


def proportional_bytes(pid: int) -> int:
    """Memory of a process in which a page that several have counts only once for all of them together; 0 if it is gone."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        return next((int(line.split()[1]) << 10 for line in file if line.startswith("Pss:")), 0)
    return 0


@contextlib.contextmanager
def peak() -> Iterator[list[int]]:
    """A list that holds, after the block, the most bytes that this process and its descendants had in it together."""
    found: list[int] = []
    command = [sys.executable, "-I", __file__, str(os.getpid())]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as watcher:
        assert watcher.stdout is not None
        watcher.stdout.readline()
        yield found
        told, _ = watcher.communicate()
    found.append(int(told))


def main(pid: int) -> None:
    """Watches."""
    # Here alone: in a cell it is a module of a package.
    from clocks import descendants

    print("watching", flush=True)
    most = 0
    while not select.select([sys.stdin], [], [], 0.002)[0]:
        most = max(most, sum(map(proportional_bytes, [pid, *(one for one in descendants(pid) if one != os.getpid())])))
    print(most, flush=True)


if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    main(int(sys.argv[1]))
