"""A pool under load and faults for as long as you like: python tests/soak.py --minutes N [--seed S]

Several threads submit calls of all kinds with payloads of 0 to 4 MB while workers are killed, stopped, replaced for their age,
and while the pool changes its size. Work goes in rounds; between two rounds all is quiet, and memory, descriptors and threads
are read. Every outcome is counted:

    submitted = ok + failed + lost + cancelled + timed out

The seed decides what is submitted and when somebody dies; what the kernel makes of it differs from run to run. Exit code 1 on any
violation: an outcome that is wrong, one that does not come within its limit, more losses than kills, growth in the second half,
anything left behind.
"""

import argparse
import collections
import contextlib
import faulthandler
import multiprocessing
import multiprocessing.forkserver
import os
import random
import signal
import statistics
import sys
import threading
import time
from concurrent.futures import CancelledError

import leaks
import memory
import procfs
import soak_tasks as work

import pool as ringpool

LIMIT = 60.0  # seconds for any single outcome
SETTLE = 15.0  # seconds until a quiet pool has its workers, and no thread or descriptor more than before
LONGEST_ROUND = 10.0
ROUNDS = 12  # at least, so that halves and quarters mean something
OUTSTANDING = 24  # handles that a thread holds
MOST_BYTES = 4 << 20
MAX_TASKS = 200  # chunks for a worker
AGE = 1e9  # seconds: a time limit that is never reached
OUTCOMES = ("ok", "failed", "lost", "cancelled", "timed out", "wrong", "hung")

# What may come and go between two quiet moments without being a leak.
ANONYMOUS_SLACK_KIB = 4096
SHARED_SLACK_KIB = 16384
ARENA_SLACK = 1 << 20


class Tally:
    """Outcomes of all threads. The first violations are kept as text."""

    def __init__(self):
        self._lock = threading.Lock()
        self.submitted = 0
        self.counts = collections.Counter()
        self.kills = self.stops = self.resizes = 0
        self.killed = set()
        self.violations = []

    def submit(self, count):
        with self._lock:
            self.submitted += count

    def add(self, kind, count=1):
        with self._lock:
            self.counts[kind] += count

    def violation(self, kind, text):
        with self._lock:
            self.counts[kind] += 1
            if len(self.violations) < 20:
                self.violations.append(f"{kind}: {text}")
        print(f"{kind}: {text}", file=sys.stderr, flush=True)

    def balanced(self):
        return self.submitted == sum(self.counts[kind] for kind in OUTCOMES)


class Submitted:
    """A handle and what may come of it.

    value: what it gives. error: type and arguments of the error that the task raises, or None. ends: type of the error with which
    the pool ends the task for what it does, or None. callbacks: a list that the callbacks fill, or None.
    """

    def __init__(self, what, handle, value=None, error=None, ends=None, count=1, callbacks=None):
        self.what = what
        self.handle = handle
        self.value = value
        self.error = error
        self.ends = ends
        self.count = count
        self.callbacks = callbacks
        self.cancelled = False


class Submitter:
    """One thread's calls in one round."""

    def __init__(self, pool, tally, rng, until):
        self._pool = pool
        self._tally = tally
        self._rng = rng
        self._until = until
        self._open = []

    def run(self):
        rng = self._rng
        try:
            while time.monotonic() < self._until and not self._tally.counts["hung"]:
                if len(self._open) < OUTSTANDING and rng.random() < 0.6:
                    one = getattr(self, rng.choice(KINDS))()
                    self._tally.submit(one.count)
                    self._open.append(one)
                elif self._open:
                    self._settle(self._open.pop(rng.randrange(len(self._open))))
            while self._open:
                self._settle(self._open.pop())
        except BaseException as error:
            self._tally.violation("wrong", f"{type(error).__name__} where none may be: {error}")
            raise

    # ---- what is submitted

    def _size(self):
        return int(MOST_BYTES ** self._rng.random()) - 1 if self._rng.random() < 0.98 else MOST_BYTES

    def _limits(self):
        return {"retries": self._rng.choice((0, 0, 1, 3)), "task_timeout": self._rng.choice((None, AGE))}

    def small(self):
        value = self._rng.randrange(1 << 70)
        return Submitted("apply_async", self._pool.apply_async(work.echo, (value,), **self._limits()), value)

    def large_argument(self):
        data = work.pattern(self._size(), self._rng.randrange(256))
        handle = self._pool.apply_async(work.digest, (data,), **self._limits())
        return Submitted("large argument", handle, work.digest(data))

    def large_result(self):
        size, seed = self._size(), self._rng.randrange(256)
        handle = self._pool.apply_async(work.pattern, (size, seed), **self._limits())
        return Submitted("large result", handle, work.pattern(size, seed))

    def there_and_back(self):
        data = {"data": work.pattern(self._size(), self._rng.randrange(256)), "more": [self._rng.random()]}
        return Submitted("there and back", self._pool.apply_async(work.echo, (data,)), data)

    def called_back(self):
        value, seen = self._rng.random(), []
        handle = self._pool.apply_async(
            work.echo,
            (value,),
            callback=lambda given: seen.append((given, None)),
            error_callback=lambda error: seen.append((None, error)),
        )
        return Submitted("callback", handle, value, callbacks=seen)

    def failing(self):
        arguments = ("told to fail", self._rng.random())
        return Submitted("error", self._pool.apply_async(work.fail, arguments), error=(ValueError, arguments))

    def slow(self):
        value = self._rng.random()
        handle = self._pool.apply_async(work.slow, (value / 50, value), **self._limits())
        return Submitted("slow", handle, value)

    def endless(self):
        limit = self._rng.uniform(0.02, 0.1)
        handle = self._pool.apply_async(work.endless, task_timeout=limit)
        return Submitted("endless", handle, ends=ringpool.TaskTimeoutError)

    def dying(self):
        handle = self._pool.apply_async(work.die, retries=self._rng.choice((0, 0, 2)))
        return Submitted("dying", handle, ends=ringpool.WorkerLostError)

    def cancelled(self):
        value = self._rng.random()
        one = Submitted("cancelled", self._pool.apply_async(work.slow, (0.005, value), **self._limits()), value)
        if self._rng.random() < 0.5:
            time.sleep(0.01 * self._rng.random())
        one.cancelled = one.handle.cancel(kill=self._rng.random() < 0.3)
        return one

    def cancelled_map(self):
        items = [self._rng.random() for _ in range(self._rng.randrange(1, 60))]
        handle = self._pool.map_async(work.slow_item, items, self._rng.choice((None, 1, 7)))
        one = Submitted("cancelled map", handle, items)
        if self._rng.random() < 0.5:
            time.sleep(0.01 * self._rng.random())
        one.cancelled = handle.cancel(kill=self._rng.random() < 0.3)
        return one

    def map(self):
        items = range(self._rng.randrange(3000))
        handle = self._pool.map_async(work.square, items, self._rng.choice((None, None, 1, 10, 500)), **self._limits())
        return Submitted("map", handle, [item * item for item in items])

    def map_of_large(self):
        items = [work.pattern(self._size() // 4, self._rng.randrange(256)) for _ in range(self._rng.randrange(1, 6))]
        return Submitted("map of large", self._pool.map_async(work.digest, items), [work.digest(item) for item in items])

    def iterator(self):
        items = range(self._rng.randrange(200))
        source = items if self._rng.random() < 0.7 else iter(list(items))
        buffersize = self._rng.choice((None, None, 1, 20))
        handle = self._pool.imap(work.square, source, buffersize=buffersize, **self._limits())
        return Submitted("imap", handle, [item * item for item in items], count=len(items))

    def unordered(self):
        items = range(self._rng.randrange(200))
        source = items if self._rng.random() < 0.7 else iter(list(items))
        handle = self._pool.imap_unordered(work.square, source, **self._limits())
        return Submitted("imap_unordered", handle, [item * item for item in items], count=len(items))

    # ---- what comes of it

    def _settle(self, one):
        if one.what.startswith("imap"):
            self._settle_iterator(one)
            return
        try:
            value = one.handle.get(LIMIT)
        except Exception as error:
            self._judge(one, error)
        else:
            if one.error or one.ends or one.cancelled or not work.equal(value, one.value):
                self._tally.violation("wrong", f"{one.what} gave {work.short(value)}")
            else:
                self._tally.add("ok")
            if one.callbacks is not None and one.callbacks != [(value, None)]:
                self._tally.violation("wrong", f"callbacks of a value: {one.callbacks}")

    def _judge(self, one, error):
        tally = self._tally
        if type(error) is multiprocessing.TimeoutError:
            self._hung(one)
        elif one.cancelled:
            if type(error) is CancelledError:
                tally.add("cancelled")
            else:
                tally.violation("wrong", f"{one.what} was cancelled and gave {error!r}")
        elif isinstance(error, ringpool.WorkerLostError):
            if one.ends is not ringpool.WorkerLostError and not (error.exitcode == -signal.SIGKILL and error.pid in tally.killed):
                tally.violation("wrong", f"{one.what} was lost to nobody's kill: {error!r}")
            else:
                tally.add("lost")
                if one.ends is not ringpool.WorkerLostError:
                    tally.add("lost to kills")
        elif one.ends is ringpool.TaskTimeoutError and type(error) is one.ends:
            tally.add("timed out")
        elif one.error and (type(error), error.args) == one.error:
            tally.add("failed")
        else:
            tally.violation("wrong", f"{one.what} gave {error!r}")
        if one.callbacks is not None and (len(one.callbacks) != 1 or one.callbacks[0][1] is not error):
            tally.violation("wrong", f"callbacks of an error: {one.callbacks}")

    def _settle_iterator(self, one):
        ordered = one.what == "imap"
        left = collections.Counter(one.value)
        for place in range(one.count):
            try:
                value = one.handle.next(LIMIT)
            except StopIteration:
                self._tally.violation("wrong", f"{one.what} ended after {place} of {one.count}")
                self._tally.add("wrong", one.count - place - 1)
                return
            except Exception as error:
                self._judge(one, error)
                if self._tally.counts["hung"]:
                    self._tally.add("hung", one.count - place - 1)
                    return
                continue
            left[value] -= 1
            if left[value] < 0 or (ordered and value != one.value[place]):
                self._tally.violation("wrong", f"{one.what} gave {value} at place {place}")
            else:
                self._tally.add("ok")
        try:
            self._tally.violation("wrong", f"{one.what} goes on after its end: {one.handle.next(LIMIT)}")
        except StopIteration:
            pass

    def _hung(self, one):
        self._tally.violation("hung", f"{one.what} not done within {LIMIT:g} s")
        faulthandler.dump_traceback(all_threads=True)


KINDS = (
    *("small", "slow", "map", "iterator", "unordered", "large_argument", "large_result", "there_and_back", "called_back") * 3,
    *("failing", "endless", "dying", "cancelled", "cancelled_map", "map_of_large") * 2,
)


class Chaos:
    """Kills and stops workers of one pool and changes its size, until `until`."""

    def __init__(self, pool, tally, rng, processes, until):
        self._pool = pool
        self._tally = tally
        self._rng = rng
        self._processes = processes
        self._until = until
        self._unready_may_die = True

    def run(self):
        rng = self._rng
        while (left := self._until - time.monotonic()) > 0:
            time.sleep(min(left, rng.uniform(0.0, 0.1)))
            choice = rng.random()
            if choice < 0.1:
                self._pool.resize(rng.randrange(1, self._processes + 3))
                self._tally.resizes += 1
            elif workers := list(self._pool._pool):
                worker = rng.choice(workers)
                ready = self._is_ready(worker)
                with _worker(worker.pid) as send:
                    # A pool whose workers die again and again before they are ready is broken, which is right.
                    if send is None or not (ready or self._unready_may_die):
                        continue
                    self._unready_may_die = ready
                    if choice < 0.6:
                        self._kill(send)
                    else:
                        self._stop(send)
        self._pool.resize(self._processes)

    def _is_ready(self, worker):
        seat = self._pool._supervisor._seat_of.get(worker)
        return seat is not None and self._pool._core.seat_started(seat)

    def _kill(self, send):
        self._tally.kills += 1
        self._tally.killed.add(send.pid)
        send(signal.SIGKILL)

    def _stop(self, send):
        self._tally.stops += 1
        send(signal.SIGSTOP)
        try:
            time.sleep(self._rng.uniform(0.0, 0.2))
        finally:
            if self._rng.random() < 0.3:
                self._kill(send)
            send(signal.SIGCONT)


@contextlib.contextmanager
def _worker(pid):
    """A function that sends signals to the process of that number, if it is one of ours; else None.

    By descriptor: when the process is gone, its number may be a stranger's.
    """
    try:
        fd = os.pidfd_open(pid)
    except (OSError, TypeError):
        yield None
        return

    def send(number):
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(fd, number)

    send.pid = pid
    try:
        found = procfs.process(pid)
        parents = (os.getpid(), multiprocessing.forkserver._forkserver._forkserver_pid)
        yield send if found is not None and found.parent in parents else None
    finally:
        os.close(fd)


# Resources


class Reading:
    """Resources of this process at a quiet moment. Memory in KiB."""

    def __init__(self, pool):
        self.anonymous = memory.anonymous_kib()
        with open("/proc/self/status") as file:
            fields = {name: rest.split() for name, _, rest in (line.partition(":") for line in file)}
        self.resident = int(fields["VmRSS"][0])
        self.threads = int(fields["Threads"][0])
        # Beyond one for each process: there may be a spare or not.
        self.descriptors = len(os.listdir("/proc/self/fd")) - 1 - len(pool._supervisor._watch)
        self.shared = os.fstat(pool._core.fd).st_blocks // 2
        self.arena = pool._core.arena_used


def _quiet(pool, processes, most):
    """A reading when the pool has calmed down. most: a reading that threads and descriptors should come down to, or None."""
    deadline = time.monotonic() + SETTLE
    while True:
        reading = Reading(pool)
        calm = len(pool._pool) == processes and (
            most is None or (reading.threads <= most.threads and reading.descriptors <= most.descriptors)
        )
        if calm or time.monotonic() > deadline:
            return reading
        time.sleep(0.02)


def _growth(readings, tally):
    """Compares the last quarter with the third."""
    quarter = len(readings) // 4
    third, last = readings[-2 * quarter : -quarter], readings[-quarter:]
    for name, slack in (
        ("anonymous", ANONYMOUS_SLACK_KIB),
        ("shared", SHARED_SLACK_KIB),
        ("arena", ARENA_SLACK),
        ("threads", 0),
        ("descriptors", 0),
    ):
        # A worker that is just being replaced makes one reading less, and a mean of two of them is no count.
        before = statistics.median_high(getattr(one, name) for one in third)
        after = statistics.median_low(getattr(one, name) for one in last)
        print(f"{name}: median {before:g} in the third quarter, {after:g} in the last")
        if after > before + max(slack, before // 20 if slack else 0):
            tally.violation("growth", f"{name} from {before:g} to {after:g} in the second half")


# The run


def _round(pool, tally, arguments, number, until):
    """Threads submit until `until`, then all is settled."""
    seed = f"{arguments.seed}.{number}"
    submitters = [
        threading.Thread(target=Submitter(pool, tally, random.Random(f"{seed}.{place}"), until).run, name=f"submitter {place}")
        for place in range(arguments.threads)
    ]
    chaos = Chaos(pool, tally, random.Random(f"{seed}.chaos"), arguments.processes, until)
    threads = submitters if arguments.calm else [*submitters, threading.Thread(target=chaos.run, name="chaos")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _line(tally, reading, passed):
    counts = ", ".join(f"{tally.counts[kind]} {kind}" for kind in OUTCOMES)
    return (
        f"{passed:6.0f} s: {tally.submitted} submitted: {counts}; {tally.kills} kills, {tally.stops} stops, "
        f"{tally.resizes} resizes; RSS {reading.resident} KiB ({reading.anonymous} anonymous), shared {reading.shared} KiB, "
        f"{reading.descriptors} descriptors, {reading.threads} threads, late {reading.late}"
    )


def _run(tally, arguments):
    context = multiprocessing.get_context(arguments.start_method)
    pool = ringpool.Pool(arguments.processes, maxtasksperchild=MAX_TASKS, context=context)
    begun = time.monotonic()
    end = begun + arguments.minutes * 60
    length = min(LONGEST_ROUND, arguments.minutes * 60 / ROUNDS)
    readings = []
    try:
        while time.monotonic() < end and not tally.violations:
            _round(pool, tally, arguments, len(readings), time.monotonic() + length)
            # The first rounds start the threads that stay.
            most = readings[len(readings) // 2] if len(readings) > 2 else None
            readings.append(_quiet(pool, arguments.processes, most))
            readings[-1].late = pool._core.late
            print(_line(tally, readings[-1], time.monotonic() - begun), flush=True)
            if not tally.balanced():
                tally.violation("unbalanced", f"{tally.submitted} submitted, {dict(tally.counts)}")
        if not tally.violations:
            _growth(readings, tally)
            # A worker that is stopped or killed may take a wake-up with it.
            if arguments.calm and readings[-1].late:
                tally.violation("late", f"{readings[-1].late} wake-ups by time-out that found work")
            pool.close()
            joiner = threading.Thread(target=pool.join, daemon=True)
            joiner.start()
            joiner.join(LIMIT)
            if joiner.is_alive():
                tally.violation("hung", f"join() not back within {LIMIT:g} s of close()")
                faulthandler.dump_traceback(all_threads=True)
    finally:
        pool.terminate()


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--start-method", choices=("fork", "spawn", "forkserver"), default="fork")
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--calm", action="store_true", help="no worker is killed or stopped from outside, the size stays")
    arguments = parser.parse_args()
    if arguments.seed is None:
        arguments.seed = random.SystemRandom().randrange(1 << 32)
    how = f"{arguments.start_method}, {arguments.processes} processes, {arguments.threads} threads"
    print(f"seed {arguments.seed}, {how}", flush=True)
    memory.steady_malloc()
    leaks.start_helpers()
    tally = Tally()
    before = leaks.Snapshot()
    _run(tally, arguments)
    left = leaks.settle(lambda: leaks.Snapshot().since(before))
    if left:
        tally.violation("left behind", "; ".join(left))
    # A kill costs the task that its worker ran, and no other.
    if tally.counts["lost to kills"] > tally.kills:
        tally.violation("wrong", f"{tally.counts['lost to kills']} tasks lost to {tally.kills} kills")
    print(f"seed {arguments.seed}: " + ("; ".join(tally.violations) or "no violation"))
    return 1 if tally.violations else 0


if __name__ == "__main__":
    sys.exit(main())
