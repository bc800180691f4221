"""The Pool class: multiprocessing.Pool's interface. Policy only; the work is done by the dispatcher, watched by the supervisor."""

import multiprocessing
import multiprocessing.pool
import operator
import os
import resource
import sys
import threading
import warnings
import weakref
from multiprocessing import util
from multiprocessing.pool import CLOSE, INIT, RUN, TERMINATE

# Little is imported here, and the rest by the first pool: a spawned worker imports the user's main module, which imports this one.
from pool import _calls
from pool import _signals as signals

MAX_PROCESSES = 4096
ARENA_BYTES = 1 << 38
MIN_ARENA_BYTES = 1 << 26
MIN_ARENA_LIMIT = 1 << 20

# Iterating over these runs no user code and never blocks, so whoever collects can feed their items to the ring.
_HARMLESS = frozenset({list, tuple, range, str, bytes})

# Weak references. No WeakSet: its methods are Python, and each that a forked worker has to go through costs page faults.
_supervisors = set()
_pools = set()


def _after_fork_in_child():
    for reference in list(_supervisors):
        supervisor = reference()
        if supervisor is not None:
            supervisor.forget()
    _supervisors.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)


# What multiprocessing's pool is made of. A subclass that has its own of one of these means to change what is done elsewhere here.
_HOOKS = frozenset(
    """_setup_queues _get_tasks _repopulate_pool _repopulate_pool_static _maintain_pool _join_exited_workers _handle_workers
    _handle_tasks _handle_results _help_stuff_finish _terminate_pool""".split()
)


class _TaskQueue:
    """What programs look at in multiprocessing's pool to see how far it is behind."""

    def __init__(self, core):
        self._core = core

    def qsize(self):
        """How many tasks no worker has begun; of a call with many items, those that are encoded, and one for the rest."""
        return self._core.waiting_tasks

    def empty(self):
        return self.qsize() == 0


def _apply_by_apply_async(self, func, args=(), kwds={}, **limits):
    """func(*args, **kwds), in a worker, by way of this class's apply_async."""
    return self.apply_async(func, args, kwds, **limits).get()


class Pool(multiprocessing.pool.Pool):
    """A pool of worker processes: multiprocessing.Pool, on shared-memory rings.

    processes: int, number of workers; None: as many as there are cores. initializer, initargs: called in each worker when it
    starts. maxtasksperchild: int, chunks that a worker serves before it is replaced. context: a multiprocessing context; None:
    the default one.

    task_timeout: seconds that one function call may take; then its worker is killed and the call fails with TaskTimeoutError. None:
    any time. retries: int, how often a task is run again whose worker was lost. Both hold for every call that does not say
    otherwise. max_memory_per_child: int, KiB of resident memory; a worker that holds more after a task is replaced. daemon: False
    lets tasks have children of their own, and so pools. arena_limit: int, bytes of shared memory for large arguments and results at
    a time; tasks wait for it, and fail with OSError if waiting cannot help; None: half of the machine's memory, or of what its
    cgroup may have. end_with_parent: bool; workers never outlive the process that made the pool by more than a second, however that
    ends. False: a worker that is running a task (or chunk) then runs it to its end, and leaves.

    Raises ValueError or TypeError for bad values, OSError if the system refuses processes or memory.
    """

    # SIGTERM, a second, SIGKILL, and what the scheduler of a busy machine may add.
    _terminate_limit = 4.0
    # Whether the size of chunks may follow the measured cost of tasks.
    _adaptive = True
    # __del__ asks for it, also after a call with arguments that __init__ does not even take.
    _state = INIT

    def __init__(
        self,
        processes=None,
        initializer=None,
        initargs=(),
        maxtasksperchild=None,
        context=None,
        *,
        task_timeout=None,
        retries=0,
        max_memory_per_child=None,
        daemon=True,
        arena_limit=None,
        end_with_parent=True,
    ):
        # First of all, so that repr() finds it if a check below raises.
        self._pool = []
        self._ctx = context or multiprocessing.get_context()
        self._processes = _process_count(processes)
        if maxtasksperchild is not None and (not isinstance(maxtasksperchild, int) or maxtasksperchild <= 0):
            raise ValueError("maxtasksperchild must be a positive int or None")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        if max_memory_per_child is not None and operator.index(max_memory_per_child) < 1:
            raise ValueError("max_memory_per_child must be a positive int of KiB, or None")
        self._task_timeout_ns = _nanoseconds(task_timeout)
        self._retries = _retry_count(retries)
        if arena_limit is not None and operator.index(arena_limit) < MIN_ARENA_LIMIT:
            raise ValueError(f"arena_limit must be at least {MIN_ARENA_LIMIT} bytes, not {arena_limit!r}")
        self._arena_limit = arena_limit if arena_limit is None else min(operator.index(arena_limit), 1 << 62)
        self._max_memory_per_child = max_memory_per_child
        self._daemon = bool(daemon)
        if not isinstance(end_with_parent, bool):
            raise TypeError(f"end_with_parent must be True or False, not {type(end_with_parent).__name__}")
        self._end_with_parent = end_with_parent
        self._maxtasksperchild = maxtasksperchild
        self._initializer = initializer
        self._initargs = initargs

        from pool.callbacks import CallbackRunner

        self._callbacks = callbacks = CallbackRunner()
        # A subclass may make it an ordinary method. That must not keep the pool alive, which is dropped while workers run.
        factory = self.Process
        if getattr(factory, "__self__", None) is self:
            factory = _weakly(factory)
        context = self._ctx
        self._supervisor = self._terminate = None
        try:
            # No process, thread or descriptor may be half made when a signal handler raises.
            with signals.held():
                self._core, supervisor = self._equip(lambda target, args: factory(context, target=target, args=args))
                if self._task_timeout_ns or self._retries:
                    self._core.usual_limits = (self._task_timeout_ns, self._retries)
                callbacks.attach(self._core)
                self._pool = supervisor.workers
                _supervisors.add(weakref.ref(supervisor, _supervisors.discard))
                supervisor.start()
                self._supervisor = supervisor
                # Beside the finalizer, which a signal handler that raises can keep from doing anything.
                _pools.add(weakref.ref(self, signals.Last(supervisor.terminate, _pools.discard)))
                self._terminate = util.Finalize(self, _end, args=(supervisor, self._terminate_limit), exitpriority=15)
        except BaseException as error:
            # Ctrl-C while all was being made: it is whole, and nobody will ever have it.
            if self._terminate is not None:
                self._terminate()
                self._supervisor.wait(self._terminate_limit)
            # After this pool's own segment is gone: it must not be taken for that of the pool whose worker this may be.
            from pool import bootstrap

            bootstrap.tell(error)
            raise
        self._state = RUN

    def _equip(self, start):
        """The dispatcher and the supervisor. start: a function of (target, args) that gives a worker, not yet started."""
        from pool._dispatch import Dispatcher
        from pool.functions import FunctionEncoder
        from pool.memory_limit import default_arena_limit
        from pool.supervisor import Supervisor

        supervisor = None
        self._seats = _seat_count(self._processes)
        method = _start_method(self._ctx)
        core = Dispatcher(
            seats=self._seats,
            workers=self._processes,
            encode_function=FunctionEncoder(forked=method == "fork"),
            callbacks=self._callbacks.put,
            alarm=lambda: supervisor.ring(),
            start_collector=lambda: supervisor.start_collector(),
            cores=len(os.sched_getaffinity(0)),
            arena_bytes=_arena_bytes(),
            arena_limit=default_arena_limit() if self._arena_limit is None else self._arena_limit,
        )
        supervisor = Supervisor(
            core,
            self._processes,
            self._seats,
            start,
            self._initializer,
            self._initargs,
            # More than a worker can count would end every worker as soon as it serves.
            None if self._maxtasksperchild is None else min(self._maxtasksperchild, sys.maxsize),
            None if self._max_memory_per_child is None else min(1024 * operator.index(self._max_memory_per_child), sys.maxsize),
            self._callbacks,
            method,
            self._daemon,
            not self._end_with_parent,
        )
        return core, supervisor

    def __init_subclass__(cls, **others):
        super().__init_subclass__(**others)
        for name in _HOOKS & vars(cls).keys():
            warnings.warn(f"{cls.__qualname__} overrides {name}(), which this pool never calls", RuntimeWarning, stacklevel=2)
        if "apply_async" in vars(cls) and cls.apply is _calls.apply:
            # As in the stdlib, where apply() is made of it.
            cls.apply = _apply_by_apply_async

    def __del__(self, _warn=warnings.warn, RUN=RUN):
        if self._state == RUN:
            _warn(f"unclosed running multiprocessing pool {self!r}", ResourceWarning, source=self)

    def __reduce__(self):
        raise NotImplementedError("pool objects cannot be passed between processes or pickled")

    def _check_running(self):
        if self._state != RUN:
            raise ValueError("Pool not running")
        failure = self._supervisor.failure
        if failure is not None:
            from pool.errors import fresh

            raise fresh(failure)

    @property
    def _cache(self):
        return {id(job): job for job in self._core.unfinished_jobs}

    @property
    def _taskqueue(self):
        return _TaskQueue(self._core)

    def _repopulate_pool(self):
        self._core.check_owner()
        self._supervisor.repopulate()

    def resize(self, processes):
        """From now on so many workers.

        processes: int, 1 or more. More are started before this returns; those that are too many leave after the tasks that they
        run, and are not waited for. Raises OSError if the system refuses, and leaves it at what it was; ValueError if the pool is
        closed.
        """
        self._core.check_owner()
        self._check_running()
        if processes is None:
            raise TypeError("processes must be an integer, not None")
        count = _process_count(processes)
        if count > self._seats:
            raise ValueError(f"no room for {count} processes under this limit on the address space (ulimit -v)")
        try:
            self._supervisor.resize(count)
        finally:
            self._processes = self._supervisor.processes

    apply = _calls.apply
    apply_async = _calls.apply_async

    def map(self, func, iterable, chunksize=None, *, task_timeout=None, retries=None):
        """[func(x) for x in iterable], in the workers.

        chunksize: int, items that travel and fail together; None: chosen while running. Raises the first error, after all tasks
        have ended.
        """
        return self._map(func, iterable, False, chunksize, None, None, True, task_timeout, retries).get()

    def map_async(self, func, iterable, chunksize=None, callback=None, error_callback=None, *, task_timeout=None, retries=None):
        """As map, but returns an AsyncResult at once."""
        return self._map(func, iterable, False, chunksize, callback, error_callback, False, task_timeout, retries)

    def starmap(self, func, iterable, chunksize=None, *, task_timeout=None, retries=None):
        """[func(*args) for args in iterable], in the workers; as map otherwise."""
        return self._map(func, iterable, True, chunksize, None, None, True, task_timeout, retries).get()

    def starmap_async(self, func, iterable, chunksize=None, callback=None, error_callback=None, *, task_timeout=None, retries=None):
        """As starmap, but returns an AsyncResult at once."""
        return self._map(func, iterable, True, chunksize, callback, error_callback, False, task_timeout, retries)

    def imap(self, func, iterable, chunksize=1, *, buffersize=None, task_timeout=None, retries=None):
        """An iterator over func(x) for x in iterable, in that order.

        chunksize: int, items that travel and fail together. buffersize: int, tasks (chunks) that may be ahead of the consumer;
        None: no limit. An error is raised at its place.
        """
        return self._imap(func, iterable, False, False, chunksize, buffersize, task_timeout, retries)

    def imap_unordered(self, func, iterable, chunksize=1, *, buffersize=None, task_timeout=None, retries=None):
        """As imap, in the order of completion."""
        return self._imap(func, iterable, False, True, chunksize, buffersize, task_timeout, retries)

    def istarmap(self, func, iterable, chunksize=1, *, buffersize=None, task_timeout=None, retries=None):
        """As imap, with func(*args) for args in iterable."""
        return self._imap(func, iterable, True, False, chunksize, buffersize, task_timeout, retries)

    def istarmap_unordered(self, func, iterable, chunksize=1, *, buffersize=None, task_timeout=None, retries=None):
        """As istarmap, in the order of completion."""
        return self._imap(func, iterable, True, True, chunksize, buffersize, task_timeout, retries)

    def share(self, obj):
        """A handle of the object, to be sent with any number of this pool's tasks: they receive the object itself.

        It is pickled now, sent once, and loaded once in each worker that needs it, also in those started later. Its large buffers
        are read-only there, and what a task changes in the rest of it, later tasks of that worker see: treat it as read-only. The
        handle's close(), `with` or its garbage collection releases the object. A process that a task forks has it only as long as the
        task runs: its memory is not copied for the child. Raises what pickling raises, OSError if there is no memory.
        """
        self._check_running()
        return self._core.share(obj)

    def close(self):
        """No more tasks are taken; the workers leave when all that were taken are done."""
        util.debug("closing pool")
        if self._state == RUN:
            # Half closed, by a handler that raises, nothing would ever end it.
            with signals.held():
                self._state = CLOSE
                self._supervisor.close()

    def terminate(self):
        """Ends the pool now. Whatever is pending fails with PoolTerminatedError; returns within about two seconds."""
        util.debug("terminating pool")
        # Half done, by a handler that raises, it could not be done again: a finalizer runs once.
        with signals.held():
            self._state = TERMINATE
            self._terminate()
        self._supervisor.wait(self._terminate_limit)

    def join(self):
        """Waits until the workers of a closed or terminated pool are gone. ValueError if the pool still runs."""
        util.debug("joining pool")
        if self._state == RUN:
            raise ValueError("Pool is still running")
        if self._state not in (CLOSE, TERMINATE):
            raise ValueError("In unknown state")
        if self._callbacks.is_current() or threading.current_thread() in self._pool:
            raise RuntimeError("cannot join current thread")
        self._supervisor.wait()

    def _limits(self, task_timeout, retries):
        """What the dispatcher takes as limits: None, or (nanoseconds that a call may take, 0: any; retries)."""
        if task_timeout is None and retries is None:
            return self._core.usual_limits
        timeout = self._task_timeout_ns if task_timeout is None else _nanoseconds(task_timeout)
        again = self._retries if retries is None else _retry_count(retries)
        return (timeout, again) if timeout or again else None

    def _map(self, func, iterable, star, chunksize, callback, error_callback, sync, task_timeout, retries):
        self._check_running()
        _check_chunksize(chunksize)
        limits = self._limits(task_timeout, retries)
        if callback is not None or error_callback is not None:
            self._callbacks.start()
        kind = type(iterable)
        if kind is list:
            # A copy: the caller may change his list while tasks are still to be fed.
            iterable = tuple(iterable)
        elif self._adaptive and _is_rows(iterable):
            iterable = _rows_of(iterable)
        elif kind not in _HARMLESS:
            if hasattr(iterable, "__len__"):
                try:
                    iterable = tuple(iterable)
                except Exception as error:
                    return self._core.failed(self, error, callback, error_callback)
            else:
                iterable = tuple(iterable)
        length = len(iterable)
        if length == 0:
            return self._core.empty(self)
        adaptive = chunksize is None and self._adaptive and self._maxtasksperchild is None and limits is None
        if adaptive or (chunksize is None and limits is not None):
            # With limits, a task whose worker is killed takes no neighbour with it.
            chunksize = 1
        elif chunksize is None:
            chunksize = -(-length // (4 * self._processes))
        return self._core.submit_map(
            self, func, iterable, length, star, operator.index(chunksize), adaptive, callback, error_callback, limits, sync
        )

    def _imap(self, func, iterable, star, unordered, chunksize, buffersize, task_timeout, retries):
        self._check_running()
        if chunksize is None:
            raise TypeError("chunksize must be an integer, not None")
        _check_chunksize(chunksize)
        if buffersize is not None and not isinstance(buffersize, int):
            raise TypeError("buffersize must be an integer or None")
        if buffersize is not None and buffersize < 1:
            raise ValueError("buffersize must be None or > 0")
        chunksize = operator.index(chunksize)
        limits = self._limits(task_timeout, retries)
        harmless = type(iterable) in _HARMLESS
        if type(iterable) is list and buffersize is None:
            # A copy: the caller may change his list while tasks are still to be fed.
            iterable = tuple(iterable)
        elif self._adaptive and _is_rows(iterable):
            iterable = _rows_of(iterable)
            harmless = True
        result = self._core.submit_iterator(
            self, func, iterable, star, unordered, chunksize, buffersize or 0, limits, None if harmless else _start_feeder
        )
        if chunksize == 1:
            return result
        return (item for chunk in result for item in chunk)


def _is_rows(iterable):
    """True for an array whose chunks can travel as slices: an exact numpy.ndarray that lies in the order of its rows. Nobody who
    has not imported numpy has one."""
    numpy = sys.modules.get("numpy")
    if numpy is None or type(iterable) is not getattr(numpy, "ndarray", None):
        return False
    return iterable.ndim > 0 and iterable.flags.c_contiguous


def _rows_of(array):
    """What the items are taken from. Those of one dimension are copies; those of more are views, here as in the stdlib, but a new
    shape of the array is not theirs."""
    return array.copy() if array.ndim == 1 else array[:]


def _start_feeder(feed, args):
    signals.start(threading.Thread(target=feed, args=args, name="ringpool-feeder", daemon=True))


def _weakly(method):
    """The method of an object that this does not keep alive."""
    reference = weakref.WeakMethod(method)

    def call(*args, **kwargs):
        method = reference()
        if method is None:
            raise ReferenceError("the pool is gone, and needs no more workers")
        return method(*args, **kwargs)

    return call


def _end(supervisor, limit):
    """The pool's finalizer: at terminate(), at garbage collection, at the interpreter's exit. Only the last has to wait here: a
    finalizer may run on any thread, in the middle of anything."""
    supervisor.terminate()
    if util.is_exiting():
        supervisor.wait(limit)


def _process_count(processes):
    if processes is None:
        count = getattr(os, "process_cpu_count", os.cpu_count)
        return count() or 1
    if processes < 1:
        raise ValueError("Number of processes must be at least 1")
    processes = int(operator.index(processes))
    if processes > MAX_PROCESSES:
        raise ValueError(f"Number of processes must be at most {MAX_PROCESSES}")
    return processes


def _seat_count(processes):
    """Processes that there can be at once. They cost address space only, and length of a file; where that is limited, as many as
    there should be, and some for those that are just being replaced."""
    limits = resource.RLIMIT_AS, resource.RLIMIT_FSIZE
    if all(resource.getrlimit(limit)[0] == resource.RLIM_INFINITY for limit in limits):
        return MAX_PROCESSES
    return min(MAX_PROCESSES, 2 * processes + 2)


def _nanoseconds(seconds):
    """Of a time limit; 0 for none."""
    if seconds is None:
        return 0
    if not isinstance(seconds, (int, float)) or isinstance(seconds, bool):
        raise TypeError(f"task_timeout must be a number of seconds or None, not {type(seconds).__name__}")
    if not seconds > 0:
        raise ValueError(f"task_timeout must be more than 0 seconds, not {seconds!r}")
    return max(1, int(seconds * 1e9)) if seconds < 1e9 else 0


def _retry_count(retries):
    count = operator.index(retries)
    if not 0 <= count < 1 << 31:
        raise ValueError(f"retries must be 0 or more, not {retries!r}")
    return count


def _check_chunksize(chunksize):
    if chunksize is not None and not 1 <= operator.index(chunksize) <= sys.maxsize:
        raise ValueError(f"Chunksize must be 1+, not {chunksize!r}")


def _start_method(context):
    """The name of the context's start method; None if it does not tell."""
    method = getattr(context, "_start_method", None)
    if isinstance(method, str):
        return method
    try:
        return context.get_start_method()
    except Exception:
        return None


def _arena_bytes():
    """Address space for large payloads: plenty, but an eighth of what a limit (ulimit -v) leaves."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return ARENA_BYTES
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    return max(MIN_ARENA_BYTES, min(ARENA_BYTES, (limit - used) // 8))


Pool.__module__ = "pool"
