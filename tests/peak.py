"""The most memory that some processes and a memory file have together: `python peak.py FD PID...` prints it, in bytes, when its
standard input ends. FD is one of the first process's descriptors."""

import contextlib
import os
import select
import sys


def anonymous(pid):
    with contextlib.suppress(OSError), open(f"/proc/{pid}/status") as file:
        return next((int(line.split()[1]) << 10 for line in file if line.startswith("RssAnon:")), 0)
    return 0


def main(fd, *pids):
    most = 0
    print("watching", flush=True)
    while not select.select([sys.stdin], [], [], 0.001)[0]:
        most = max(most, os.stat(f"/proc/{pids[0]}/fd/{fd}").st_blocks * 512 + sum(map(anonymous, pids)))
    print(most, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
