"""A program: makes workers die or stand still at fault points, and looks what becomes of the pool.

    RINGPOOL_FAULT_PAGE=FILE TASK_NOTES=FILE python fault_sweep.py START_METHOD < placements

Needs a build with fault points. Reads one JSON list of [point, nth, call, action] a line, and writes one JSON object a line:
hit (whether the point was passed for the nth time), lost (tasks), problems (texts). An action is one of fault.h, or "KILL ALONE":
no worker can be started from the death until all calls are settled, so that nobody but the workers that are left can help.
"""

import errno
import faulthandler
import json
import multiprocessing
import os
import signal
import sys
import time
import types

import fault_page
import leaks
import procfs
import tasks

import pool as ringpool

# Seconds. What is promised is far less; these are for a busy machine.
HIT_LIMIT = 20.0
SETTLE_LIMIT = 10.0
CLOSE_LIMIT = 5.0
SCENARIO_LIMIT = 60.0

LONG = ("BETWEEN_PIECES", "WANTS_ROOM", "GOT_ROOM")
BLOCKS = ("WANTS_BLOCK", "HAS_BLOCK")
CROWD = ("WAKING",)
ENDS = {"KILL": -signal.SIGKILL, "STOP": -signal.SIGKILL, "SEGV": -signal.SIGSEGV, "EXIT": fault_page.EXIT_STATUS}


class Pool(ringpool.Pool):
    """refuse: a function; while it is true, the system grants no new process."""

    refuse = staticmethod(lambda: False)

    @classmethod
    def Process(cls, context, *args, **keywords):
        if cls.refuse():
            raise OSError(errno.EAGAIN, "refused by the test")
        return ringpool.Pool.Process(context, *args, **keywords)


class Handle:
    """What one call gave. items: its tasks, as numbers. expected: a function of such a number."""

    def __init__(self, result, items, expected):
        self.result = result
        self.items = items
        self.expected = expected
        self.values = []  # the outcome of each item, a value or an error
        self.settled = False

    def poll(self, seconds):
        """True once all outcomes are there."""
        if not self.settled:
            self.settled = self.look(seconds)
        return self.settled


class Single(Handle):
    def look(self, seconds):
        self.result.wait(seconds)
        if not self.result.ready():
            return False
        self.values = [outcome(self.result.get)]
        return True


class Whole(Handle):
    def look(self, seconds):
        self.result.wait(seconds)
        if not self.result.ready():
            return False
        whole = outcome(self.result.get)
        self.values = [whole] if isinstance(whole, Exception) else whole
        return True


class Stream(Handle):
    def look(self, seconds):
        limit = time.monotonic() + seconds
        while True:
            found = outcome(lambda: self.result.next(max(0.0, limit - time.monotonic())))
            if isinstance(found, StopIteration):
                return True
            if isinstance(found, multiprocessing.TimeoutError):
                return False
            self.values.append(found)


def outcome(get):
    try:
        return get()
    except Exception as error:
        return error


def submit(pool, call, function, items, expected):
    if call == "apply_async":
        return [Single(pool.apply_async(function, (item,)), [item], expected) for item in items]
    if call == "map":
        half = len(items) // 2
        return [Whole(pool.map_async(function, part), part, expected) for part in (items[:half], items[half:])]
    return [Stream(pool.imap(function, items), items, expected)]


def square(value):
    return value * value


def work_for(point):
    """(processes, keywords of the pool, function, what it gives, tasks in a round): such that the point is passed."""
    if point in LONG:
        # The arena has no room for such results, so they go through the ring.
        return 2, {"arena_limit": 1 << 20}, tasks.noted_pattern, lambda value: tasks.pattern(900_000, value), 4
    if point in BLOCKS:
        return 2, {}, tasks.noted_longer, tasks.longer_pattern, 4
    if point in fault_page.RECYCLED:
        return 2, {"maxtasksperchild": 5}, tasks.noted_square, square, 16
    if point in CROWD:
        return 4, {}, tasks.noted_nap, square, 12
    return 2, {}, tasks.noted_square, square, 12


class Scenario:
    def __init__(self, page, notes, context, placement):
        self.page = page
        self.notes = notes
        self.context = context
        self.point, self.nth, self.call, action = placement
        self.action, _, alone = action.partition(" ")
        self.alone = bool(alone)
        self.problems = []
        self.lost = 0
        self.numbers = iter(range(1, 1 << 30))

    def numbered(self, count):
        return [next(self.numbers) for _ in range(count)]

    def wrong(self, text):
        self.problems.append(text)

    def run(self):
        open(self.notes, "wb").close()
        before = leaks.Snapshot()
        begin = time.monotonic()
        self.work()
        seconds = time.monotonic() - begin
        for text in leaks.settle(lambda: leaks.Snapshot().since(before)):
            self.wrong(f"left behind: {text}")
        leaks.kill_new_children(before)
        return {"hit": self.page.hit != 0, "lost": self.lost, "seconds": round(seconds, 3), "problems": self.problems}

    def work(self):
        processes, keywords, function, expected, count = work_for(self.point)
        self.page.arm(self.point, self.nth, self.action, os.getpid())
        # One of the first may be dead before the next is started: only replacements are refused.
        Pool.refuse = staticmethod(lambda: False)
        pool = Pool(processes, context=self.context, **keywords)
        Pool.refuse = staticmethod(lambda: self.alone and self.page.hit)
        handles = []
        limit = time.monotonic() + HIT_LIMIT
        while not self.page.hit and time.monotonic() < limit:
            fresh = submit(pool, self.call, function, self.numbered(count), expected)
            handles += fresh
            while not self.page.hit and time.monotonic() < limit:
                if all(handle.poll(0.02) for handle in fresh):
                    break
        if self.page.hit and self.action in ("STOP", "PARK"):
            self.go_on_beside(pool)
        limit = time.monotonic() + SETTLE_LIMIT
        for handle in handles:
            if not handle.poll(max(0.0, limit - time.monotonic())):
                self.wrong(f"not settled: {type(handle).__name__} of tasks {handle.items}")
            else:
                self.judge(handle)
        self.page.disarm()
        self.alone = False
        if self.page.hit:
            cost = 0 if self.action in ("PARK", "SLEEP") else fault_page.POINTS[self.point].cost
            if self.lost != cost:
                self.wrong(f"{self.lost} tasks lost, not {cost}")
        items = self.numbered(50)
        # In few chunks where workers are replaced after some of them, which takes its time with spawn.
        chunksize = 10 if self.point in fault_page.RECYCLED else 1
        after = outcome(lambda: pool.map_async(tasks.noted_square, items, chunksize).get(SETTLE_LIMIT))
        if after != [item * item for item in items]:
            self.wrong(f"of 50 more tasks came {after!r}")
        begin = time.monotonic()
        pool.close()
        pool.join()
        if time.monotonic() - begin > CLOSE_LIMIT:
            self.wrong(f"close and join took {time.monotonic() - begin:.1f} s")
        with open(self.notes) as file:
            started = file.read().split()
        if len(started) != len(set(started)):
            self.wrong("a task was started twice")
        # Whatever was not lost has run, and what was lost may have.
        if not sum(len(handle.items) for handle in handles) + 50 - len(started) <= self.lost_most(handles):
            self.wrong(f"only {len(started)} tasks were started")

    def lost_most(self, handles):
        """Tasks that may have ended without a start: the item, or the whole chunk, that was lost."""
        if not self.lost:
            return 0
        return max(len(handle.items) for handle in handles) if self.call == "map" else 1

    def go_on_beside(self, pool):
        """While the worker stands still, the others serve; then it dies, or goes on."""
        pid = self.page.hit
        if self.action == "STOP":
            procfs.wait_until(lambda: tasks.is_stopped(pid))
        (item,) = self.numbered(1)
        value = outcome(lambda: pool.apply_async(tasks.square, (item,)).get(SETTLE_LIMIT))
        if value != item * item:
            self.wrong(f"beside the worker that stands still: {value!r}")
        if self.action == "STOP":
            os.kill(pid, signal.SIGKILL)
        else:
            self.page.release()

    def judge(self, handle):
        """Each outcome is the value, or the loss of a task in the worker that was hit."""
        for error in handle.values:
            if isinstance(error, ringpool.WorkerLostError):
                self.lost += 1
                if (error.pid, error.exitcode) != (self.page.hit, ENDS.get(self.action)):
                    self.wrong(f"worker {self.page.hit} was hit, and the error says: {error}")
            elif isinstance(error, Exception):
                self.wrong(f"tasks {handle.items} gave {error!r}")
        if isinstance(handle, Whole) and any(isinstance(value, Exception) for value in handle.values):
            return
        if len(handle.values) != len(handle.items):
            self.wrong(f"{len(handle.values)} outcomes of {len(handle.items)} tasks")
        for item, value in zip(handle.items, handle.values, strict=False):
            if not isinstance(value, Exception) and value != handle.expected(item):
                self.wrong(f"task {item} gave {str(value)[:60]}")


def main():
    context = multiprocessing.get_context(sys.argv[1])
    page = fault_page.Page(os.environ[fault_page.VARIABLE])
    leaks.start_helpers()
    # Workers that are spawned import the main module again, for nothing.
    sys.modules["__main__"] = types.ModuleType("__main__")
    for line in sys.stdin:
        faulthandler.dump_traceback_later(SCENARIO_LIMIT, exit=True)
        print(json.dumps(Scenario(page, os.environ["TASK_NOTES"], context, json.loads(line)).run()), flush=True)
        faulthandler.cancel_dump_traceback_later()


if __name__ == "__main__":
    main()
