"""The ThreadPool class: Pool's interface on worker threads. The work is done by the ThreadDispatcher (_threads.pyx)."""

import multiprocessing.pool
import threading
import time
from multiprocessing import util

from pool import _signals as signals
from pool._threads import ThreadDispatcher
from pool.errors import PoolTerminatedError, WorkerLostError
from pool.process_pool import Pool


class ThreadPool(Pool, multiprocessing.pool.ThreadPool):
    """A pool of worker threads: multiprocessing.pool.ThreadPool, with the semantics of this package's Pool.

    processes: int, number of threads; None: as many as there are cores. initializer, initargs: called in each thread when it
    starts. Arguments, results and exceptions are passed as the objects that they are. A running task cannot be killed: terminate()
    drops its result and does not wait for it, join() does.

    Raises ValueError or TypeError for bad values, RuntimeError if the system refuses threads.
    """

    _terminate_limit = 0.1
    # A chunk fails as a whole, and nothing is won by a larger one: the stdlib's size.
    _adaptive = False

    def __init__(self, processes=None, initializer=None, initargs=()):
        super().__init__(processes, initializer, initargs)

    def _limits(self, task_timeout, retries):
        if task_timeout is not None:
            raise ValueError("a ThreadPool has no task_timeout: threads cannot be killed")
        return super()._limits(task_timeout, retries)

    def share(self, obj):
        raise NotImplementedError("threads have every object already")

    def resize(self, processes):
        raise NotImplementedError("the number of a ThreadPool's threads is fixed")

    def _equip(self, start):
        callbacks = self._callbacks
        core = ThreadDispatcher(callbacks=callbacks.put, finished=lambda: callbacks.stop(0))
        return core, ThreadSupervisor(core, self._processes, start, self._initializer, self._initargs, callbacks)


class ThreadSupervisor:
    """Starts the worker threads of one pool and tells when they are gone. They never die, so it has no thread of its own.

    processes: how many workers. start: a function of (target, args) that gives a thread, not yet started.
    """

    def __init__(self, core, processes, start, initializer, initargs, callbacks):
        self.workers = []  # the pool's `_pool`: threads in the order of their start
        self.failure = None  # why the pool is broken
        self._core = core
        self._processes = processes
        self._new_thread = start
        self._arguments = (initializer, initargs)
        self._callbacks = callbacks
        self._lock = threading.Lock()

    def start(self):
        """Starts all workers. If one cannot be started, ends the others and raises its error."""
        try:
            self.repopulate()
        except BaseException:
            self.terminate()
            self.wait()
            raise

    def repopulate(self):
        """Starts workers until there are as many as there should be. RuntimeError if the system refuses."""
        with signals.held(), self._lock:
            while len(self.workers) < self._processes:
                worker = self._new_thread(self._work, self._arguments)
                worker.name = f"ringpool-worker-{len(self.workers)}"
                worker.daemon = True
                worker.start()
                self.workers.append(worker)

    def close(self):
        """Workers leave when all jobs are done."""
        self._core.close()

    def terminate(self):
        """Begins to end everything now; `wait` tells when it is done."""
        self._core.end(PoolTerminatedError("the pool was terminated"))

    def wait(self, timeout=None):
        """Until workers and callbacks have ended, or for `timeout` seconds. Not for itself: a finalizer may run on any thread."""
        limit = None if timeout is None else time.monotonic() + timeout
        for worker in list(self.workers):
            if worker is not threading.current_thread():
                worker.join(_left(limit))
        self._callbacks.stop(_left(limit))

    def forget(self):
        """In a child that somebody forked: the workers are the parent's threads."""
        self._core.disown()

    def _work(self, initializer, initargs):
        try:
            if initializer is not None:
                initializer(*initargs)
        except BaseException as error:
            util.debug("the initializer of a worker thread raised %r", error)
            self._break(error)
        else:
            self._core.serve()

    def _break(self, cause):
        failure = WorkerLostError(f"the pool is broken: the initializer raised {type(cause).__name__}")
        failure.__cause__ = cause
        if self.failure is None:
            self.failure = failure
        self._core.end(failure)


def _left(limit):
    return None if limit is None else max(0.0, limit - time.monotonic())


ThreadPool.__module__ = "pool"
