"""A program: makes the owners of pools die at fault points, and looks whether anything outlives them.

    RINGPOOL_FAULT_PAGE=FILE TASK_NOTES=FILE python fault_parents.py START_METHOD < placements

Needs a build with fault points. As fault_sweep.py; the placements are [point, nth, action]. Each owner is a fork of this program,
in a session of its own, and does everything that leads past a point until it dies of it.
"""

import contextlib
import faulthandler
import json
import multiprocessing
import os
import signal
import sys
import time
import types

import fault_page
import procfs
import tasks

import pool as ringpool

# Seconds.
HIT_LIMIT = 20.0
# Promised is one second; the other is for a busy machine.
ORPHANS_LIMIT = 2.0

STATUS = {"KILL": -signal.SIGKILL, "STOP": -signal.SIGKILL, "SEGV": -signal.SIGSEGV, "EXIT": fault_page.EXIT_STATUS}


def own_pools(method):
    """Passes every point of a parent, again and again."""
    context = multiprocessing.get_context(method)
    payload = bytes(100_000)
    while True:
        pool = ringpool.Pool(2, context=context, retries=1)
        for _ in range(3):
            pool.apply(tasks.square, (3,))
            pool.apply_async(tasks.digest, (payload,)).get()
            pool.map(tasks.square, range(20))
            list(pool.imap(tasks.square, range(20)))
            pool.apply_async(tasks.pattern, (700_000,)).get()
            with contextlib.suppress(ringpool.WorkerLostError):
                # Once more, and then it is lost.
                pool.apply(tasks.kill_self)
        pool.close()
        pool.join()


def become_owner(method):
    os.setsid()
    # Not in the program itself: after a fork its timer could not be set anew.
    faulthandler.dump_traceback_later(HIT_LIMIT / 2, exit=True)
    own_pools(method)


class Scenario:
    def __init__(self, page, method, placement):
        self.page = page
        self.method = method
        self.point, self.nth, self.action = placement
        self.problems = []

    def run(self):
        # Set up before the owner exists, so that it can be hit while it makes its first pool; it takes its number itself.
        owner = os.fork()
        if owner == 0:
            try:
                self.page.arm(self.point, self.nth, self.action, os.getpid(), in_parent=True)
                become_owner(self.method)
            finally:
                os._exit(0)
        begin = time.monotonic()
        hit = self.await_end(owner)
        seconds = time.monotonic() - begin
        survivors = self.await_orphans(owner)
        if survivors:
            self.problems.append(f"{ORPHANS_LIMIT} s after the owner there are {survivors}")
            for one in survivors:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(one.pid, signal.SIGKILL)
        return {"hit": hit, "lost": 0, "seconds": round(seconds, 3), "problems": self.problems}

    def await_end(self, owner):
        """True if the owner ended as it was to."""
        limit = time.monotonic() + HIT_LIMIT
        while time.monotonic() < limit:
            pid, status = os.waitpid(owner, os.WNOHANG | os.WUNTRACED)
            if pid and os.WIFSTOPPED(status):
                if self.action != "STOP" or self.page.hit != owner:
                    self.problems.append("the owner stands still and should not")
                os.kill(owner, signal.SIGKILL)
            elif pid:
                code = os.waitstatus_to_exitcode(status)
                if code != STATUS[self.action]:
                    self.problems.append(f"the owner ended with {code}")
                return self.page.hit == owner
            time.sleep(0.005)
        os.kill(owner, signal.SIGKILL)
        os.waitpid(owner, 0)
        return False

    def await_orphans(self, owner):
        """Processes of the owner's session that outlive it for too long."""
        limit = time.monotonic() + ORPHANS_LIMIT
        while (survivors := procfs.alive_in_session(owner)) and time.monotonic() < limit:
            time.sleep(0.01)
        return survivors


def main():
    method = sys.argv[1]
    page = fault_page.Page(os.environ[fault_page.VARIABLE])
    sys.modules["__main__"] = types.ModuleType("__main__")
    for line in sys.stdin:
        print(json.dumps(Scenario(page, method, json.loads(line)).run()), flush=True)


if __name__ == "__main__":
    main()
