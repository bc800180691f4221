"""Starts, watches and replaces the worker processes of one pool.

The supervisor owns the list of workers and who sits where. Its thread blocks in the kernel until a worker dies (pidfd), or until
somebody rings (eventfd); it never polls while all is well. A death is believed when the kernel says so, not when waitpid does:
another part of the program may have collected the exit status.
"""

import contextlib
import errno
import os
import select
import signal
import sys
import threading
import time
import traceback
from multiprocessing import popen_fork, process, resource_tracker, util

from pool import _signals as signals
from pool import bootstrap
from pool.descriptors import NONE, Bell, Descriptor
from pool.errors import PoolTerminatedError, WorkerLostError, describe_exit, task_timeout, worker_lost
from pool.initializer import Initializer
from pool.oom import OomWatch
from pool.worker import Handle, work

GRACE = 1.0  # seconds between SIGTERM and SIGKILL
LEAVING = 0.1  # seconds for workers without a task to leave by themselves, before SIGTERM
LEAVING_LOOK = 0.005  # seconds between two looks whether any of those who are left does
NO_WORKERS_LIMIT = 5.0  # seconds without a single worker before the jobs fail
STATUS_GRACE = 0.05  # seconds for an exit status that another thread has just collected
SPARES_ONE_IN = 4  # workers for one spare, which there is at least
BACK_OFF = (0.01, 1.0)  # seconds to the next try when a process cannot be started: first, longest

# What tells of a worker's death: a pidfd of the supervisor's own; a pidfd in the place of one of the process's pipes; the sentinel.
OURS, SHARED, PIPE = "ours", "shared", "pipe"

# What the methods of a process object raise while another thread closes it.
_CLOSED = (ValueError, AssertionError, AttributeError, TypeError)

DESCRIPTORS_A_START = 8  # more than any start method needs for a moment

# The supervisor whose worker this thread is just forking: in that child, and only there, the segment's descriptor stays open.
_starting = threading.local()


class _NoSeat(OSError):
    """As many processes as there can be at once."""


class Supervisor:
    """processes: how many workers. seats: how many processes there can be at once. start: a function of (target, args) that gives a process object, not yet started.
    method: name of the start method, or None if the context does not tell. maxtasks, most_bytes: when a worker is replaced, see
    worker.py. daemon: whether workers are daemonic processes. outlive: whether a worker ends its task when this process is gone.

    Workers that are replaced leave by themselves. Once one has, another is started ahead of the next: a spare, which stands by
    with its initializer behind it until a seat falls vacant.
    """

    def __init__(self, core, processes, seats, start, initializer, initargs, maxtasks, most_bytes, callbacks, method, daemon, outlive):
        self.workers = []  # the pool's `_pool`: processes that serve or are to serve, in the order of their start
        self.failure = None  # why the pool is broken
        self._core = core
        self.processes = processes  # how many workers there are to be
        self._new_process = start
        self._initializer = None if initializer is None else Initializer(initializer, initargs)
        self._arguments = (self._initializer, maxtasks, most_bytes, outlive)
        self._most_bytes = most_bytes
        self._daemon = daemon
        self._callbacks = callbacks
        self._method = method
        self._mask = None  # the signal mask that workers are to have; None: as they were started
        self._seats = seats
        self._begun = set()  # processes that were started and are not buried
        self._seat_of = {}  # process: seat
        self._spares = []  # processes that stand by
        self._leaving = set()  # processes that were sent away
        self._recycling = False  # a worker was replaced for its age or size
        self._told_of_memory = False
        self._oom = OomWatch()
        self._watch = {}  # descriptor: (process, its number, what the descriptor is)
        self._closed = []  # the same triples, of the dead whose process object somebody has closed
        self._poll = select.poll()
        self._bell_lock = threading.RLock()  # a signal handler may ring while this thread rings
        # A pipe that nobody writes into. This program alone holds the one end of it: that goes with exec too, which no pidfd tells of.
        self._program = (NONE, NONE)  # the workers' end, ours
        self._owner = self._bell = NONE
        self._bell = Bell(self._poll, select.POLLIN)
        self._owner = Descriptor(_pidfd(os.getpid()))
        if self._owner.fd >= 0:
            self._program = tuple(map(Descriptor, os.pipe2(os.O_CLOEXEC)))
        self._closing = self._terminating = self._finishing = False
        self._lock = threading.Lock()
        self._failed_starts = 0
        self._deserted_since = None
        self._next_try, self._delay = 0.0, BACK_OFF[0]
        self._collector = None
        self._thread = None

    def __del__(self):
        # A constructor that was interrupted; whoever came further has closed them already.
        if hasattr(self, "_owner"):
            with signals.held():
                self._close_descriptors()

    # ---- called by the pool

    def start(self):
        """Starts all workers, then the watching thread. If one cannot be started, ends the others and raises its error."""
        try:
            self.repopulate()
            thread = threading.Thread(target=self._run, name="ringpool-supervisor", daemon=True)
            signals.start(thread)
            self._thread = thread
        except BaseException:
            self._terminating = True
            self._end_workers()
            for worker in self.workers:
                worker.join()  # a context may make processes of its own kind, which no descriptor tells about
            self._core.release()
            self._close_descriptors()
            raise

    def repopulate(self):
        """Starts workers until there are as many as there should be. OSError if the system refuses."""
        if self._method == "spawn":
            # Spawn needs it, and when it starts it, it unblocks SIGINT and SIGTERM whoever has blocked them.
            resource_tracker.ensure_running()
        # Ctrl-C reaches the workers too: those that inherit the mask do not see it until they can ignore it (worker.py).
        inherited = self._method in ("fork", "spawn")
        with signals.held(block=inherited) as mask, self._lock:
            if self._mask is None and inherited:
                self._mask = mask
            while self._vacant() > 0:
                spare = next((worker for worker in self._spares if worker not in self._leaving), None)
                if spare is not None:
                    worker = spare
                    self._spares.remove(worker)
                    self.workers.append(worker)
                else:
                    worker = self._start_worker()
                    self.workers.append(worker)
                    self._watch_worker(worker)
                self._core.send_for(self._seat_of[worker])
                if self._thread not in (None, threading.current_thread()):
                    self.ring()  # it may be blocked on the old set of descriptors

    def resize(self, processes):
        """From now on so many workers. Those that are too many leave after their tasks. OSError if the system refuses more."""
        before = self.processes
        self._want(processes)
        try:
            self.repopulate()
        except _NoSeat:
            pass  # until those who are leaving have left; the thread tries again
        except BaseException:
            if self._vacant() > 0:
                self._want(before)
            raise

    def _want(self, processes):
        with signals.held(), self._lock:
            self.processes = self._core.workers = processes
            staying = [worker for worker in self.workers if worker not in self._leaving]
            for worker in [*staying[processes:], *self._spares[self._spares_wanted() :]]:
                self._leaving.add(worker)
                self._core.send_away(self._seat_of[worker])
            self.ring()

    def start_collector(self):
        """The dispatcher asks for this when a job must be collected by somebody who does not wait for it. True if it runs."""
        # A signal handler that submits a job while this thread has the lock would wait for itself.
        with signals.held(), self._lock:
            if self._finishing:
                return False
            if self._collector is None:
                thread = threading.Thread(target=self._core.run_collector, name="ringpool-collector", daemon=True)
                try:
                    thread.start()
                except RuntimeError as error:  # no more threads: callers still collect for themselves
                    util.debug("the collector thread could not be started: %r", error)
                    return False
                self._collector = thread
            return True

    def close(self):
        """Workers leave when all jobs are done; the thread ends after the last."""
        self._closing = True
        self._core.close()
        self.ring()

    def terminate(self):
        """Begins to end everything now; `wait` tells when it is done."""
        self._terminating = True
        self._core.end(PoolTerminatedError("the pool was terminated"))
        self.ring()

    def wait(self, timeout=None):
        """Until the thread has ended, or for `timeout` seconds. Not for itself: a finalizer may run on any thread."""
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def ring(self):
        """Makes the thread look again."""
        with self._bell_lock:
            heard = self._bell.ring()
        if not heard and self._terminating:
            # The program has closed the bell. Deaths are heard all the same.
            for worker in list(self._seat_of):
                _signal(worker.terminate)

    def forget(self):
        """In a child that somebody forked: the workers are the parent's children, not this process's."""
        for worker in self._begun:
            process._children.discard(worker)
        mine = getattr(_starting, "supervisor", None) is self
        # A worker of this pool has a use for its own end (worker.py).
        for end in self._program[mine:]:
            end.close()
        self._program = (NONE, NONE)
        self._core.disown(mine)
        return mine

    # ---- the thread

    def _run(self):
        try:
            while not self._done():
                self._poll_once()
                self._core.overdue(self._describe_timeout)
                self._kill_condemned()
                if self._terminating:
                    self._end_workers()
                elif self._wanted():
                    self._replace()
        except BaseException as error:
            # Nobody would watch any more: better an error for every caller than a wait for ever.
            self.failure = error
            self._core.end(error)
            self._terminating = True
            self._end_workers()
        finally:
            self._finish()

    def _done(self):
        with self._lock:
            # Another thread that is just starting a worker has the lock; from here on none starts.
            over = self._terminating or self.failure is not None or (self._closing and self._core.idle)
            self._finishing = self._finishing or (over and not self._seat_of)
            return self._finishing

    def _vacant(self):
        """How many workers are missing."""
        if self._terminating or self._finishing or self.failure is not None:
            return 0
        return self.processes - sum(worker not in self._leaving for worker in self.workers)

    def _lacking(self):
        """How many spares are missing."""
        if not self._recycling or self._closing or self._terminating or self._finishing or self.failure is not None:
            return 0
        return self._spares_wanted() - sum(worker not in self._leaving for worker in self._spares)

    def _spares_wanted(self):
        return max(1, self.processes // SPARES_ONE_IN)

    def _wanted(self):
        if self._closing and self._core.idle:
            return False
        return self._vacant() > 0 or self._lacking() > 0

    def _poll_once(self):
        timeout = min((t for t in (self._core.next_look(), self._core.tend()) if t is not None), default=None)
        if self._wanted():
            left = max(0.0, self._next_try - time.monotonic())
            timeout = left if timeout is None else min(timeout, left)
        self._heed(self._poll.poll(None if timeout is None else timeout * 1000))

    def _heed(self, events):
        for fd, _ in events:
            if fd == self._bell.fd:
                self._bell.quiet()
            elif self._is_deaf(fd):
                self._watch_again(fd)
            elif dead := self._unwatch(fd):  # burying one may have ended the others
                self._bury(*dead)
        while self._closed:
            self._bury(*self._closed.pop())

    def _bury(self, worker, pid, kind):
        seat = self._seat_of[worker]
        exitcode = self._reap(worker, kind)
        started = self._core.seat_started(seat)
        held, left = self._core.seat_held(seat), self._core.seat_left(seat)
        ours = self._terminating or seat in self._core.condemned_seats()
        oom = exitcode == -signal.SIGKILL and not ours and self._oom.struck()
        lost = self._core.bury(seat, lambda function, index: worker_lost(pid, exitcode, function, index, oom))
        util.debug("worker %s left seat %d with exit code %s, %d tasks lost", pid, seat, exitcode, lost)
        with self._lock:
            del self._seat_of[worker]
            self._begun.discard(worker)
            (self._spares if worker in self._spares else self.workers).remove(worker)
            sent_away = worker in self._leaving
            self._leaving.discard(worker)
        if started:
            self._failed_starts = 0
            self._recycling = self._recycling or (left and not sent_away and not self._closing)
            # The second is not the worker's word: what a task has written over its seat is no reason to count on it.
            if held and self._most_bytes:
                self._tell_of_memory(pid, held)
            return
        cause, in_main = self._core.boot_error(seat)
        self._failed_starts += 1
        if self._terminating or self.failure is not None:
            return
        if cause is not None:
            self._break(_blame(cause, in_main), pid, exitcode, cause)
        elif self._failed_starts > max(3, self.processes):
            what = f"{self._failed_starts} workers in a row died before they were ready; the last one, process {pid}:"
            self._break(f"{what} {describe_exit(exitcode)}{self._hint(exitcode)}", pid, exitcode, None)

    def _reap(self, worker, kind):
        """The exit code of a worker of whose death a descriptor of this kind tells; None if somebody else has collected it, or closes
        the object: he can do so only when it is dead, but then at any moment."""
        try:
            return self._exit_code(worker, kind)
        except _CLOSED:
            return None

    def _exit_code(self, worker, kind):
        # A pipe stays open as long as any child of the worker: it is not waited for if the exit code is there.
        if worker.exitcode is None:
            if kind is PIPE:
                _signal(worker.kill)  # a task may have closed the other end of that pipe, and live
            worker.join(0.5)  # the code may come a little later, by way of the fork server
        worker.join(0)
        # Whoever starts a process, or asks for active_children(), collects what is dead, and writes it down a moment later.
        limit = time.monotonic() + STATUS_GRACE
        while worker.exitcode is None and time.monotonic() < limit:
            time.sleep(0.001)
        if worker.exitcode is None:
            # Else it would be a child for ever, and get a signal at the end of the program: whoever has its number then.
            process._children.discard(worker)
        return worker.exitcode

    def _hint(self, exitcode):
        # What a Python program exits with that ends in an exception. One of ours would have been sent as the initializer's.
        if exitcode != 1:
            return ""
        if self._method == "fork":
            return "; why is on its standard error"
        return "; why is on its standard error. Is `if __name__ == '__main__':` missing in the main module?"

    def _break(self, reason, pid, exitcode, cause):
        self.failure = WorkerLostError(f"the pool is broken: {reason}", pid, exitcode)
        self.failure.__cause__ = cause
        self._core.end(self.failure)
        self._end_workers()

    def _tell_of_memory(self, pid, held):
        tell = util.info if self._told_of_memory else util.get_logger().warning
        self._told_of_memory = True
        tell(
            "worker process %s is replaced: it holds %d KiB of memory, max_memory_per_child is %d KiB (from now on logged as info)",
            pid,
            held // 1024,
            self._most_bytes // 1024,
        )

    def _kill_condemned(self):
        condemned = self._core.condemned_seats()
        if condemned:
            for worker, seat in list(self._seat_of.items()):
                if seat in condemned:
                    util.debug("the worker in seat %d is killed for its task, or for nonsense in its ring", seat)
                    _signal(worker.kill)

    def _describe_timeout(self, function, index, seconds, seat):
        pid = None
        with contextlib.suppress(*_CLOSED):
            pid = next((worker.pid for worker, place in list(self._seat_of.items()) if place == seat), None)
        return task_timeout(pid, function, index, seconds)

    def _replace(self):
        now = time.monotonic()
        if now < self._next_try:
            return
        try:
            self.repopulate()
            with self._lock:
                while self._lacking() > 0:
                    worker = self._start_worker()
                    self._spares.append(worker)
                    self._watch_worker(worker)
            self._next_try, self._delay = 0.0, BACK_OFF[0]
            self._deserted_since = None
        except Exception as error:
            util.debug("a worker could not be started: %r", error)
            self._next_try = now + self._delay
            self._delay = min(self._delay * 2, BACK_OFF[1])
            if self._seat_of:
                self._deserted_since = None
            elif self._deserted_since is None:
                self._deserted_since = now
            elif now - self._deserted_since >= NO_WORKERS_LIMIT:
                self.failure = error
                self._core.end(error)

    def _start_worker(self):
        taken = set(self._seat_of.values())
        seat = next(seat for seat in range(len(taken) + 1) if seat not in taken)
        if seat >= self._seats:
            raise _NoSeat(errno.EAGAIN, "every seat is taken until workers that were sent away have left")
        handle = Handle(self._core.fd, self._owner.number(), self._program[0].number())
        worker = self._new_process(work, (handle, seat, self._mask, *self._arguments))
        worker.name = worker.name.replace("Process", "PoolWorker")
        self._core.open_seat(seat, bootstrap.digest(worker.name))
        worker.daemon = self._daemon
        if self._method != "fork":
            _check_descriptors()
        _starting.supervisor = self
        self._begun.add(worker)
        try:
            if self._method == "fork":
                worker.start()
            else:
                with _importable_main():
                    worker.start()
        except Exception as error:
            self._begun.discard(worker)
            _close_pipes(error)
            raise
        finally:
            _starting.supervisor = None
            if self._initializer is not None:
                self._initializer.release()
        self._seat_of[worker] = seat
        return worker

    def _watch_worker(self, worker):
        pid = getattr(worker, "pid", None)
        sentinel = getattr(worker, "sentinel", -1)
        fd, kind = _pidfd(pid), OURS
        if fd < 0:
            fd, kind = sentinel, PIPE
        elif self._owner.fd >= 0 and (place := _other_pipe(worker)) >= 0:
            # Two descriptors a worker instead of three. It is closed with the process object.
            os.dup2(fd, place, inheritable=False)
            os.close(fd)
            fd, kind = place, SHARED
            popen = worker._popen
            popen.finalizer = _Closing(self, fd, popen.finalizer)
        if fd >= 0:
            self._watch[fd] = worker, pid, kind
            self._poll.register(fd, select.POLLIN)

    def _unwatch(self, fd, close=True):
        """What was known by this descriptor, or None. close: whether it is closed, if it is the supervisor's own."""
        with self._lock:
            dead = self._watch.pop(fd, None)
            if dead is None:
                return None
            self._poll.unregister(fd)
        worker, _, kind = dead
        popen = getattr(worker, "_popen", None)
        if kind is OURS and close:
            os.close(fd)
        elif kind is SHARED and popen is not None:
            popen.finalizer = popen.finalizer.rest
        return dead

    def _is_deaf(self, fd):
        """True if this number is no pidfd any more: the program has closed what it did not know, and may have opened another file."""
        kind = self._watch.get(fd, (None, None, PIPE))[2]
        return kind is not PIPE and not _is_pidfd(fd)

    def _watch_again(self, fd):
        known = self._unwatch(fd, close=False)
        if known is None:
            return  # somebody has just closed the process object
        worker, pid, _ = known
        fd = _pidfd(pid)
        if fd < 0:
            self._bury(worker, pid, PIPE)  # gone, or there is no descriptor left to watch it by: then it is killed
            return
        with self._lock:
            self._watch[fd] = worker, pid, OURS
            self._poll.register(fd, select.POLLIN)

    def closing(self, fd):
        """Somebody closes the process object of a dead worker, and with it the descriptor that tells of its death."""
        with signals.held():
            dead = self._unwatch(fd)
            if dead is not None:
                self._closed.append(dead)
                self.ring()

    def _end_workers(self):
        """Who runs nothing leaves by himself, as at close(): with exit functions, and what is still in buffers. The others: SIGTERM, a
        grace period, SIGKILL. The dead are buried."""
        for seat in list(self._seat_of.values()):
            self._core.send_away(seat)
        limit = time.monotonic() + LEAVING
        while self._watch and self._anyone_leaves() and (left := limit - time.monotonic()) > 0:
            self._heed(self._poll.poll(min(left, LEAVING_LOOK) * 1000))
        for worker in list(self._seat_of):
            _signal(worker.terminate)
        self._await_deaths(GRACE)
        for worker, _, _ in self._watch.values():
            _signal(worker.kill)
        self._await_deaths(GRACE)
        self._heed([(fd, 0) for fd in list(self._watch) if self._is_deaf(fd)])
        self._await_deaths(GRACE)

    def _anyone_leaves(self):
        busy = self._core.busy_seats()
        return any(self._core.seat_started(seat) and seat not in busy for seat in list(self._seat_of.values()))

    def _await_deaths(self, seconds):
        limit = time.monotonic() + seconds
        while self._watch and (left := limit - time.monotonic()) > 0:
            self._heed(self._poll.poll(left * 1000))

    def _finish(self):
        with self._lock:
            self._finishing = True
        limit = time.monotonic() + GRACE
        self._callbacks.stop(GRACE / 2 if self._terminating else None)
        self._core.finish()
        if self._collector is not None:
            # It may be in the middle of an object's own pickling, for any time; then it ends after that, and the segment with it.
            self._collector.join(GRACE / 2 if self._terminating else None)
        self._core.drop_jobs()
        while not self._core.release() and time.monotonic() < limit:
            self._core.ring()
            time.sleep(0.001)
        self._close_descriptors()

    def _close_descriptors(self):
        with self._bell_lock:
            self._bell.close()
        for descriptor in (self._owner, *self._program):
            descriptor.close()


class _Closing:
    """In the place of a Popen's finalizer, as long as one of its descriptors is what tells the supervisor: the number may be another
    file's a moment later."""

    def __init__(self, supervisor, fd, rest):
        self._supervisor = supervisor
        self._fd = fd
        self.rest = rest

    def __call__(self):
        self._supervisor.closing(self._fd)
        self.rest()


@contextlib.contextmanager
def _importable_main():
    """A program that is read from standard input says that its file is `<stdin>`; spawn would try to run that file in the child."""
    main = sys.modules.get("__main__")
    name = getattr(main, "__file__", None)
    if not isinstance(name, str) or not name.startswith("<") or os.path.exists(name):
        yield
        return
    del main.__file__
    try:
        yield
    finally:
        main.__file__ = name


def _blame(cause, in_main):
    """What it says of a pool that is broken because its workers cannot start."""
    if in_main:
        return f"the main module raised {type(cause).__name__} when a worker imported it"
    return f"the initializer raised {type(cause).__name__}"


def _check_descriptors():
    """OSError if there are not enough left for a worker. A fork server that gets half a request would end, for everybody."""
    opened = []
    try:
        for _ in range(DESCRIPTORS_A_START):
            opened.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    finally:
        for fd in opened:
            os.close(fd)


def _close_pipes(error):
    """multiprocessing leaves the pipes open of a process that could not be forked; they are tried again and again here."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code is popen_fork.Popen._launch.__code__:
            names = frame.f_locals
            if not hasattr(names["self"], "pid"):
                for name in ("parent_r", "child_w", "child_r", "parent_w"):
                    if name in names:
                        os.close(names[name])


def _other_pipe(worker):
    """Which descriptor of the process object's is neither its sentinel nor read from here, or -1. By multiprocessing's own pipe it
    tells the process of this one's end; a worker has a pidfd for that (worker.py)."""
    popen = getattr(worker, "_popen", None)
    finalizer = getattr(popen, "finalizer", None)
    if not isinstance(popen, popen_fork.Popen) or getattr(finalizer, "_callback", None) is not util.close_fds:
        return -1
    others = set(finalizer._args) - {popen.sentinel}
    return others.pop() if len(finalizer._args) == 2 and len(others) == 1 else -1


def _pidfd(pid):
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError, TypeError):
        return -1


def _is_pidfd(fd):
    """False if it certainly is none."""
    try:
        with open(f"/proc/self/fdinfo/{fd}", "rb") as file:
            return b"\nPid:" in file.read()
    except FileNotFoundError:
        return not os.path.exists("/proc/self/fdinfo")
    except OSError:
        return True


def _signal(send):
    try:
        send()
    except (OSError, *_CLOSED):
        pass  # already gone
