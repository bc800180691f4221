"""The most memory that some processes and a memory file have together: `python peak.py FD PID...` prints what they had first and the
most, in bytes, when its standard input ends. FD is one of the first process's descriptors."""

import contextlib
import os
import select
import subprocess
import sys


def anonymous(pid):
    with contextlib.suppress(OSError), open(f"/proc/{pid}/status") as file:
        return next((int(line.split()[1]) << 10 for line in file if line.startswith("RssAnon:")), 0)
    return 0


@contextlib.contextmanager
def peak_of(pool):
    """A list that holds, after the block, the bytes that parent, workers and segment had together before it and at most."""
    command = [sys.executable, __file__, pool._core.fd, os.getpid(), *(worker.pid for worker in pool._pool)]
    found = []
    with subprocess.Popen([str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as watcher:
        assert watcher.stdout.readline() == "watching\n"
        yield found
        told, _ = watcher.communicate()
    found.extend(int(word) for word in told.split())


def main(fd, *pids):
    def now():
        return os.stat(f"/proc/{pids[0]}/fd/{fd}").st_blocks * 512 + sum(map(anonymous, pids))

    first = most = now()
    print("watching", flush=True)
    while not select.select([sys.stdin], [], [], 0.001)[0]:
        most = max(most, now())
    print(first, most, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
