"""What a test may leave behind: nothing.

A Snapshot lists the resources of this process that outlive a call: child processes, threads,
descriptors, mappings of anonymous memory files, names in /dev/shm.
"""

import gc
import multiprocessing
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import os
import re
import signal
import threading
import time

from procfs import descendants

GRACE = 3.0


def start_helpers():
    """Make what multiprocessing keeps as long as the program lives, and give its semaphores names that tell whose they are."""
    multiprocessing.current_process()._config["semprefix"] = _prefix()
    multiprocessing.resource_tracker.ensure_running()
    multiprocessing.forkserver.ensure_running()
    # The first shared value brings the arena that all later ones live in.
    multiprocessing.Value("i")


def _helper_pids():
    return {
        multiprocessing.resource_tracker._resource_tracker._pid,
        multiprocessing.forkserver._forkserver._forkserver_pid,
    }


def children():
    helpers = _helper_pids()
    return {one.pid: repr(one) for one in descendants(os.getpid()) if one.pid not in helpers}


def _descriptors():
    found = {}
    for entry in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{entry}")
        except FileNotFoundError:
            # The descriptor of the listing itself.
            continue
        found[entry, target] = f"descriptor {entry} -> {target}"
    return found


def _memory_files():
    found = {}
    with open("/proc/self/maps") as file:
        for line in file:
            if "/memfd:" in line:
                place, _, _, _, inode, path = line.split(None, 5)
                found[inode] = f"mapping {place} of {path.strip()}"
    return found


def _shared_names():
    """Names in /dev/shm that this session made, or that this process has mapped or open. Others on this machine make names too."""
    mine = f"sem.{_prefix()[1:]}-"
    found = {name for name in os.listdir("/dev/shm") if name.startswith(mine)}
    with open("/proc/self/maps") as file:
        found.update(re.findall(r"/dev/shm/(\S+)", file.read()))
    found.update(target.removeprefix("/dev/shm/") for _, target in _descriptors() if target.startswith("/dev/shm/"))
    return {name: f"/dev/shm/{name}" for name in found}


def _prefix():
    return f"/mp{os.getpid()}"


class Snapshot:
    def __init__(self):
        self.children = children()
        self.threads = {thread: repr(thread) for thread in threading.enumerate()}
        # By number, not by identity: the thread of the time limit is a new one for every test.
        self.tasks = len(os.listdir("/proc/self/task")) - len(self.threads)
        self.descriptors = _descriptors()
        self.memory_files = _memory_files()
        self.shared_names = _shared_names()

    def since(self, before):
        """Descriptions of what is here now and was not before."""
        left = []
        for kind in ("children", "threads", "descriptors", "memory_files", "shared_names"):
            old = getattr(before, kind)
            left += [text for key, text in getattr(self, kind).items() if key not in old]
        if self.tasks > before.tasks:
            left.append(f"{self.tasks - before.tasks} threads unknown to Python")
        return left


def new_children(before, allowed=()):
    return [
        text
        for pid, text in children().items()
        if pid not in before.children and pid not in allowed
    ]


def settle(look):
    """Call look() until it finds nothing or the grace is over; return what it found last."""
    gc.collect()
    deadline = time.monotonic() + GRACE
    while True:
        left = look()
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.02)
        gc.collect()


def kill_new_children(before, spared=()):
    """So that one leak is reported once and harms no later test."""
    for pid in children():
        if pid not in before.children and pid not in spared:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            try:
                os.waitpid(pid, 0)
            except ChildProcessError:
                continue
