# cython: language_level=3, boundscheck=False, wraparound=False
"""Handles of jobs: where outcomes are placed, and what callers wait on.

A job owns its outcomes until the caller takes them. `place`, `abort` and `finish` are called by the collector with the GIL held;
they run no user code and make no container, so that no other thread and no finalizer gets in between. Outcomes that only
unpickling can turn into objects stay bytes (Raw, Failure) until whoever asked for them takes them: unpickling is user code.

Collector is the base of the dispatchers: what is the same for processes and threads.
"""

import os
import threading
import types
from concurrent.futures import CancelledError
from multiprocessing import TimeoutError
from multiprocessing.pool import ApplyResult, RemoteTraceback
from multiprocessing.pool import IMapIterator as StdlibIMapIterator
from multiprocessing.pool import IMapUnorderedIterator as StdlibIMapUnorderedIterator
from multiprocessing.pool import MapResult as StdlibMapResult

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.list cimport PyList_GET_SIZE, PyList_SET_ITEM
from cpython.ref cimport Py_INCREF
from libc.stdint cimport int64_t

import pickle

from pool._buffers cimport Holder, load_parts
from pool._codec cimport TAG_PARTS, copy, decode, decode_apart, decode_values
from pool._signals import is_interrupt
from pool.errors import fresh


cdef extern from "Python.h":
    Py_ssize_t Py_REFCNT(object) noexcept
    void PyException_SetCause(object, object)  # takes over a reference to the second

cdef extern from *:
    """
    /* The slot written to holds None. */
    static inline void move_item(PyObject *from, Py_ssize_t i, PyObject *to, Py_ssize_t j)
    {
        PyObject *old = PyList_GET_ITEM(to, j);
        PyList_SET_ITEM(to, j, PyList_GET_ITEM(from, i));
        PyList_SET_ITEM(from, i, old);
    }
    """
    void move_item(list, Py_ssize_t, list, Py_ssize_t) noexcept


@cython.final
@cython.no_gc
cdef class Unread:
    """The results that lie in blocks and that nobody has asked for yet, from the oldest on."""

    cdef int add(self, Raw raw) except -1:
        raw.among = self
        raw.before = self.last
        raw.after = NULL
        if self.last == NULL:
            self.first = <void *>raw
        else:
            (<Raw>self.last).after = <void *>raw
        self.last = <void *>raw
        return 0

    cdef int remove(self, Raw raw) noexcept:
        if raw.before == NULL:
            self.first = raw.after
        else:
            (<Raw>raw.before).after = raw.after
        if raw.after == NULL:
            self.last = raw.before
        else:
            (<Raw>raw.after).before = raw.before
        raw.among = None
        return 0

    cdef bint copy_out(self) except -1:
        """Moves the oldest of them out of its block. False: there is none, or no memory for it."""
        cdef Raw raw
        cdef Holder block
        cdef bytes data
        if self.first == NULL:
            return False
        raw = <Raw>self.first
        block = raw.block
        try:
            data = PyBytes_FromStringAndSize(NULL, block.size)
        except MemoryError:
            return False
        copy(<unsigned char *>PyBytes_AS_STRING(data), block.data, block.size)
        # Somebody may have asked for it meanwhile: then he has the block.
        if raw.among is not None:
            self.remove(raw)
            raw.data = data
            raw.block = None
        return True


@cython.final
@cython.no_gc
@cython.freelist(64)
cdef class Raw:
    """The bytes of a result that nobody has asked for yet, or the block where it lies. count: values in it if it is a chunk,
    else -1."""

    def __dealloc__(self):
        if self.among is not None:
            self.among.remove(self)

    cdef object load(self):
        cdef const unsigned char *at
        cdef Unread among = self.among
        if self.block is None:
            at = <const unsigned char *>PyBytes_AS_STRING(self.data)
            if self.count >= 0:
                return decode_values(at, PyBytes_GET_SIZE(self.data))
            return decode(at, PyBytes_GET_SIZE(self.data))
        if among is None:
            return self.load_from(self.block)
        # From here on objects may lie on the block.
        among.remove(self)
        among.loading += 1
        try:
            return self.load_from(self.block)
        finally:
            among.loading -= 1

    cdef object load_from(self, Holder block):
        if block.data[0] == TAG_PARTS:
            value = load_parts(block.data, block.size, block)
            return value if self.count < 0 else list(value)
        return decode_values(block.data, block.size) if self.count >= 0 else decode_apart(block.data, block.size)


@cython.final
cdef class Failure:
    """The error of a task: an exception of this process, or the bytes of one that a worker raised."""

    cdef object exception(self):
        cdef bytes data = self.data
        if self.error is None:
            error = load_error(data)
            # Unpickling may have let another thread do the same: all see the same error.
            if self.error is None:
                self.error = error
            self.data = None
        return self.error


cdef object load_error(bytes data):
    """The exception in a RESULT_ERROR, with the worker's traceback as its cause; or the error that unpickling it raised."""
    text = "no traceback"
    try:
        text, pickled = decode(<const unsigned char *>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
        error = pickle.loads(pickled)
        if not isinstance(error, BaseException):
            raise TypeError(f"the task's exception was unpickled as {type(error).__name__}")
        if text is None:
            return error
    except BaseException as failed:
        if is_interrupt(failed):
            raise  # the caller's own, who may ask again
        error = failed
        error.__context__ = None
    cause = RemoteTraceback(text)
    # Not by the attribute: the class may refuse all assignment.
    Py_INCREF(cause)
    PyException_SetCause(error, cause)
    return error


cdef object EMPTY = object()


cdef class Waiter:
    """A condition that somebody waits for. Checked with the GIL held; runs no user code."""

    cdef bint satisfied(self) noexcept:
        return True


cdef object failure_of(object error):
    failure = Failure.__new__(Failure)
    (<Failure>failure).error = error
    return failure


cdef class Room(Waiter):
    """What a feeder waits for: room for one more task, or the end."""
    cdef Collector collector
    cdef IMapIterator job

    cdef bint satisfied(self) noexcept:
        return self.collector.stops(self.job) or (self.job.may_submit() and self.collector.has_room())


cdef class Collector:
    """What every dispatcher does, however its tasks reach the workers: the life of jobs, feeders, callbacks.

    callbacks: a function of a job whose callback is due.
    """

    def __cinit__(self, *, callbacks, **others):
        self.callbacks = callbacks
        self.trash = []
        self.due = []
        self.live = set()
        self.owner = os.getpid()

    @property
    def unfinished_jobs(self):
        """The handles of all jobs that are not done, as a list."""
        return list(self.live)

    @property
    def idle(self):
        """True if no job is unfinished."""
        return self.unfinished == 0

    cdef int check(self) except -1:
        if self.foreign:
            raise RuntimeError(f"pool belongs to process {self.owner}, this is process {os.getpid()}")
        return 0

    # ---- submit

    cdef int begin(self, Job job, object pool, object target, callback, error_callback, limits) except -1:
        """Common to all jobs. limits: None, or (nanoseconds that a call may take, 0: any; how often a task whose worker was lost is
        run again). An error in the making of the function ends the job. ValueError if the pool was closed meanwhile."""
        self.admit(job, pool, callback, error_callback, limits)
        if job.done:
            return 0
        # Making the function may run anything for any time.
        self.keep(job)
        try:
            job.function = self.function_for(target)
        except BaseException as error:
            job.abort(error)
            if is_interrupt(error) or not isinstance(error, Exception):
                raise
        return 0

    cdef int admit(self, Job job, object pool, callback, error_callback, limits) except -1:
        """The first half of `begin`, which runs no user code: the job has no function yet, and is not kept."""
        self.check()
        if self.closing and self.ended is None:
            raise ValueError("Pool not running")
        job.collector = self
        if limits is not None:
            self.limit(job, limits[0], limits[1])
        self.unfinished += 1
        if self.ended is not None:
            # Without callbacks: their thread may have ended, and the job would never be ready.
            job.abort(fresh(self.ended))
            return 0
        job.pool = pool
        job.callback = callback
        job.error_callback = error_callback
        if callback is not None or error_callback is not None:
            self.urgent += 1
        return 0

    cdef int keep(self, Job job) except -1:
        """From now on end() finds the job, wherever its tasks are."""
        self.live.add(job)
        job.kept = True
        return 0

    cdef int limit(self, Job job, int64_t timeout_ns, int retries) except -1:
        job.timeout_ns = timeout_ns
        job.retries = retries
        return 0

    cdef object function_for(self, object target):
        """What job.function shall be, an object with a `name`."""
        raise NotImplementedError

    cdef int submitted(self, bint sync) except -1:
        """After a job, or a feeder's last task, was handed over."""
        return self.tidy()

    def call(self, pool, target, args, kwds, task_timeout, retries):
        """target(*args, **kwds): its value, or raises its error. task_timeout, retries: the call's own, or None."""
        limits = self.usual_limits if task_timeout is None and retries is None else pool._limits(task_timeout, retries)
        if self.closing or self.ended is not None:
            pool._check_running()
        cdef Call job = <Call>self.start_call(pool, target, args, kwds, None, None, limits, True)
        if not job.visible:
            self.wait_for(job, -1.0)
        return job.take()

    def submit_call(self, pool, target, args, kwds, callback, error_callback, task_timeout, retries):
        """AsyncResult of target(*args, **kwds). task_timeout, retries: the call's own, or None."""
        limits = self.usual_limits if task_timeout is None and retries is None else pool._limits(task_timeout, retries)
        if self.closing or self.ended is not None:
            pool._check_running()
        return self.start_call(pool, target, args, kwds, callback, error_callback, limits, False)

    cdef Job start_call(self, pool, target, args, kwds, callback, error_callback, limits, bint sync):
        """The Call of target(*args, **kwds). sync: the caller is about to wait for it; else it is an AsyncResult."""
        raise NotImplementedError

    def submit_iterator(self, pool, target, iterable, bint star, bint unordered, Py_ssize_t chunksize, Py_ssize_t buffersize,
                        limits, start_feeder):
        """IMapIterator. limits: see `begin`. start_feeder: None if iterating runs no user code; else a function of (function, args)
        that starts a thread which calls it. Raises what that raises: RuntimeError when there are no more threads."""
        cdef IMapIterator job = (IMapUnorderedIterator if unordered else IMapIterator).__new__(
            IMapUnorderedIterator if unordered else IMapIterator)
        job.buffersize = buffersize
        job.limited = buffersize > 0
        self.begin(job, pool, target, None, None, limits)
        try:
            if start_feeder is None:
                self.pull(job, iterable, star, chunksize)
            else:
                start_feeder(self.run_feeder, (job, iterable, star, chunksize))
        except BaseException as error:
            # Nobody has the handle, and nobody may be there to feed it: close() and join() would wait for ever. Not with this
            # error, whose traceback holds the pool.
            job.abort(Abandoned())
            self.submitted(False)
            raise
        return job.handle() if job.limited else job

    cdef int pull(self, IMapIterator job, items, bint star, Py_ssize_t chunksize) except -1:
        """Feeds the job from an iterable that runs no user code."""
        raise NotImplementedError

    def failed(self, pool, error, callback, error_callback):
        """A MapResult that has failed before it had a task."""
        cdef MapResult job = MapResult.__new__(MapResult)
        self.begin(job, pool, len, callback, error_callback, None)
        job.abort(error)
        self.submitted(False)
        return job

    def empty(self, pool):
        """The MapResult of no items: ready, and its callback is never called, as in the stdlib."""
        cdef MapResult job = MapResult.__new__(MapResult)
        self.check()
        job.collector = self
        job.values = []
        job.done = job.visible = True
        return job

    def run_feeder(self, IMapIterator job, iterable, bint star, Py_ssize_t chunksize):
        """On a thread of its own: gives the items of any iterable to the pool, which may run or block as they please."""
        cdef Room room = Room.__new__(Room)
        cdef Py_ssize_t i = 0
        room.collector = self
        room.job = job
        try:
            items = iter(iterable)
            iterable = None
            while True:
                self.wait_for(room, -1.0)
                if self.stops(job):
                    break
                if chunksize == 1:
                    try:
                        item = next(items)
                    except StopIteration:
                        break
                    if self.stops(job):
                        break
                    job.submitted += 1
                    self.give(job, i, 0, star, item)
                else:
                    item = []
                    try:
                        while len(item) < chunksize:
                            item.append(next(items))
                    except StopIteration:
                        if not item:
                            break
                    if self.stops(job):
                        break
                    job.submitted += 1
                    self.give(job, i, len(item), star, item)
                item = None
                i += 1
        except BaseException as error:
            # At its place in the order, and not as the worker's: the iterable failed, or its place in the pool is gone.
            job.break_off(i, failure_of(error))
            i += 1
        job.set_length(i)
        self.submitted(False)
        self.ring()

    cdef int give(self, Job job, Py_ssize_t index, Py_ssize_t count, bint star, object value) except -1:
        """A task from a feeder. count: items in `value`, a list; 0: a single one."""
        raise NotImplementedError

    cdef bint has_room(self) noexcept:
        """False: a feeder waits until there is room for one more task."""
        return True

    cdef bint stops(self, IMapIterator job) noexcept:
        """True if the iterable gives no more tasks. close() ends iterators with a buffersize, as in CPython 3.16: the consumer that
        would make room may be the one who waits in join()."""
        return job.done or self.cut or (self.closing and job.limited)

    # ---- wait

    cdef int wait_for(self, Waiter waiter, double timeout) except -1:
        """Collects until the waiter is satisfied or `timeout` seconds passed (negative: no limit)."""
        raise NotImplementedError

    cdef int refuse_deadlock(self, Job job) except -1:
        if job.done and not job.visible and self.callback_thread == threading.get_ident():
            raise RuntimeError("a callback waits for a result whose own callback can only run after it")
        return 0

    cdef int poll(self) except -1:
        """Collects what is there, without waiting."""
        raise NotImplementedError

    cpdef ring(self):
        """Makes everybody in the parent who waits look again."""
        raise NotImplementedError

    # ---- outcomes

    cdef bint cancel(self, Job job, bint kill) except -1:
        """Ends the job with CancelledError, unless it is done. Subclasses see to its tasks first, and return False if it is a
        single one that has started."""
        if job.done:
            return False
        job.was_cancelled = True
        job.abort(CancelledError())
        self.ring()
        self.tidy()
        return True

    cdef int settled(self, Job job) noexcept:
        """The job is done: its function and callbacks are the collector's to look after."""
        self.unfinished -= 1
        if job.source is not None:
            self.trash.append(job.source)
            job.source = None
        if isinstance(job, IMapIterator) and (<IMapIterator>job).shares is not None:
            # Blocks of what its tasks had in common: the iterator may live for long.
            self.trash.append((<IMapIterator>job).shares)
            (<IMapIterator>job).shares = None
        pool = job.pool
        job.pool = None
        # What nobody else has goes later: it may be the user's, and run anything.
        if Py_REFCNT(pool) == 1:
            self.trash.append(pool)
        if job.kept:
            self.live.discard(job)
        if not job.visible:
            self.urgent -= 1
            self.due.append(job)
        return 0

    cdef int let_go(self, Job job) noexcept:
        """The job was aborted: what is still out of it must not keep it alive."""
        return 0

    cdef int wants_more(self, Job job) except -1:
        """next() made room for tasks of a job that has a buffersize."""
        cdef IMapIterator iterator = <IMapIterator>job
        if job.source is not None:
            self.resume(job)
        # A feeder waits; a ring for every item would cost more than the item.
        elif iterator.submitted - iterator.yielded == iterator.buffersize - 1 or iterator.submitted == iterator.yielded:
            self.ring()
        return 0

    cdef int resume(self, Job job) except -1:
        """Goes on with the job's source if that had reached the buffersize."""
        raise NotImplementedError

    cdef int end_parked(self) except -1:
        """At close(): iterators that have reached their buffersize end with what was submitted (see stops)."""
        for job in list(self.live):
            source = (<Job>job).source
            if source is not None and (<BaseSource>source).parked:
                (<IMapIterator>job).set_length((<BaseSource>source).next)
        return 0

    cdef int tidy(self) except -1:
        """Outside every critical stretch: drops the user's objects, passes on callbacks."""
        cdef list fresh
        if self.trash:
            # Made before the other is taken: making a list may start a garbage collection, and with it anything.
            fresh = []
            trash, self.trash = self.trash, fresh
            trash = None
        if self.due and not self.passing:
            # One thread at a time, in the order of completion.
            self.passing = True
            try:
                while self.due:
                    fresh = []
                    due, self.due = self.due, fresh
                    for job in due:
                        self.callbacks(job)
            finally:
                self.passing = False
        return 0


cdef class BaseSource:
    """An iterable that cannot run user code, from which a dispatcher draws the tasks of a job."""


cdef class Job(Waiter):
    """One call by the user. done: every task has its outcome; visible: the caller may see it (callbacks are through)."""

    cdef bint satisfied(self) noexcept:
        return self.visible

    cdef int place(self, Py_ssize_t index, Py_ssize_t count, object outcome) noexcept:
        """The outcome of the task `index`: a value, a Raw or a Failure. count > 0: of a chunk of so many, from `index` on."""
        return 0

    cdef int abort(self, object error) noexcept:
        """Ends the job now with this error, whatever is still out. Does nothing to a job that is done."""
        if not self.done:
            self.failure = Failure.__new__(Failure)
            self.failure.error = error
            self.finish()
            self.collector.let_go(self)
        return 0

    cdef int finish(self) noexcept:
        self.done = True
        self.collector.news = True
        if self.callback is None and self.error_callback is None:
            self.visible = True
        self.collector.settled(self)
        return 0

    def __dir__(self):
        # Not what __class__ says: managers ask, and get, each of these names.
        return sorted({*dir(type(self)), *getattr(self, "__dict__", ())})

    @property
    def _function(self):
        return None if self.function is None else self.function.name


cdef class Call(Job):
    """One call of a function. apply() needs no more of a handle."""

    cdef int place(self, Py_ssize_t index, Py_ssize_t count, object outcome) noexcept:
        if self.done:
            return 0
        if type(outcome) is Failure:
            self.failure = <Failure>outcome
        else:
            self.value = outcome
        return self.finish()

    cdef object take(self):
        """The value, unpickled the first time; or raises the error."""
        if self.failure is None and type(self.value) is Raw:
            try:
                self.value = (<Raw>self.value).load()
            except BaseException as error:
                if is_interrupt(error):
                    raise  # the caller's own, who may ask again
                self.failure = Failure.__new__(Failure)
                self.failure.error = error
                self.value = None
        if self.failure is not None:
            raise self.failure.exception()
        return self.value


cdef class AsyncResult(Call):
    """What apply_async() gives: the result of one call, now or later.

    The pool makes these; there is no public constructor.
    """

    __class_getitem__ = classmethod(types.GenericAlias)

    @property
    def __class__(self):
        # So that isinstance() also finds the stdlib's class; to be one, a handle would have to be interpreted.
        return ApplyResult

    def cancel(self, kill: bool = False) -> bool:
        """Ends the call with concurrent.futures.CancelledError. True if it is cancelled; False if it has completed, or its task is
        running.

        A task that has not started never starts. kill: a worker that runs it is killed, and replaced. Of a map, the tasks that run
        are left to run without `kill`, and what they return is dropped.
        """
        if self.done:
            return self.was_cancelled
        return self.collector.cancel(self, kill)

    def cancelled(self) -> bool:
        """True if the call was cancelled."""
        return self.was_cancelled

    def ready(self) -> bool:
        """True once the call has completed and its callback has run."""
        if not self.visible:
            self.collector.poll()
        return self.visible

    def successful(self) -> bool:
        """True if the call returned a value. ValueError if it is not ready."""
        if not self.ready():
            raise ValueError(f"{self!r} not ready")
        try:
            self.take()
        except BaseException as error:
            if self.failure is None or error is not self.failure.exception():
                raise
            return False
        return True

    def wait(self, timeout=None) -> None:
        """Waits until the call has completed, or for `timeout` seconds."""
        if not self.visible:
            self.collector.wait_for(self, -1.0 if timeout is None else max(0.0, timeout))

    def get(self, timeout=None):
        """The value of the call, or raises its error.

        timeout: seconds to wait at most, then multiprocessing.TimeoutError.
        """
        self.wait(timeout)
        if not self.visible:
            raise TimeoutError
        return self.take()

    def _run_callback(self):
        """On the callback thread: the user's callback, whose own error becomes the job's (as in CPython 3.16)."""
        try:
            try:
                value = self.take()
            except BaseException as error:
                if self.failure is None or error is not self.failure.exception():
                    raise
                # By its truth, as the stdlib does.
                if self.error_callback:
                    self.error_callback(error)
            else:
                if self.callback:
                    self.callback(value)
        except BaseException as error:
            failure = Failure()
            (<Failure>failure).error = error
            self.failure = failure
            self.value = None
        self.callback = self.error_callback = None
        self.visible = True


cdef class MapResult(AsyncResult):
    """What map_async() and starmap_async() give: the list of all results, or the first error that was detected."""

    def __init__(self):
        self.values = []

    @property
    def __class__(self):
        return StdlibMapResult

    @property
    def _number_left(self):
        return self.left

    cdef int place(self, Py_ssize_t index, Py_ssize_t count, object outcome) noexcept:
        cdef Py_ssize_t i, n = max(count, 1)
        if self.done:
            return 0
        if type(outcome) is Failure:
            if self.failure is None:
                self.failure = <Failure>outcome
        elif index < 0 or index + n > PyList_GET_SIZE(self.values):
            pass
        elif count > 0 and type(outcome) is list and PyList_GET_SIZE(outcome) == n:
            # Nobody else has the list: its items are moved.
            for i in range(n):
                move_item(<list>outcome, i, self.values, index + i)
        else:
            self.has_raw = self.has_raw or type(outcome) is Raw
            Py_INCREF(outcome)
            PyList_SET_ITEM(self.values, index, outcome)
        self.left -= n
        if self.left <= 0:
            return self.finish()
        return 0

    cdef object take(self):
        if self.failure is None and self.has_raw:
            try:
                self.load_all()
                self.has_raw = False
            except BaseException as error:
                if is_interrupt(error):
                    raise  # the caller's own, who may ask again
                self.failure = Failure.__new__(Failure)
                self.failure.error = error
        if self.failure is not None:
            self.values = None
            raise self.failure.exception()
        return self.values

    cdef int load_all(self) except -1:
        cdef Py_ssize_t i = 0, n = len(self.values), k
        cdef list values = self.values, chunk
        cdef Raw raw
        while i < n:
            item = values[i]
            if type(item) is not Raw:
                i += 1
                continue
            raw = <Raw>item
            if raw.count < 0:
                values[i] = raw.load()
                i += 1
                continue
            chunk = raw.load()
            k = raw.count
            if len(chunk) != k or k > n - i:
                raise ValueError(f"a worker returned {len(chunk)} results for {k} tasks")
            values[i:i + k] = chunk
            i += max(k, 1)
        return 0


cdef class IMapIterator(Job):
    """What imap() gives: the results in the order of the tasks, each as soon as it is there."""

    def __cinit__(self):
        self.room = 16
        self.length = -1
        self.items = [EMPTY] * self.room
        self.back = []

    @property
    def __class__(self):
        return StdlibIMapUnorderedIterator if self.unordered else StdlibIMapIterator

    def __iter__(self):
        return self

    def __next__(self):
        return self.following(-1.0) if self.whole is None else self.whole.following(-1.0)

    def next(self, timeout=None):
        """The next result. StopIteration at the end; multiprocessing.TimeoutError after `timeout` seconds without one.

        A task's error is raised at its place; the iteration may go on after it.
        """
        return (self if self.whole is None else self.whole).following(-1.0 if timeout is None else max(0.0, timeout))

    cdef object following(self, double timeout):
        if self.limited:
            self.collector.check()
        outcome = self.taken()
        while outcome is EMPTY:
            if self.yielded == self.length:
                raise StopIteration
            if self.failure is None:
                self.collector.wait_for(self, timeout)
            outcome = self.taken()
            if outcome is EMPTY:
                if self.yielded == self.length:
                    raise StopIteration
                if self.failure is not None:
                    self.length = self.yielded
                    raise self.failure.exception()
                # Without a limit, another thread took what was waited for.
                if timeout >= 0:
                    raise TimeoutError
        try:
            if type(outcome) is Raw:
                return (<Raw>outcome).load()
            if type(outcome) is Failure:
                raise (<Failure>outcome).exception()
        except BaseException as error:
            if type(outcome) is Raw and is_interrupt(error):
                # The caller's own, who may ask again.
                self.back.append(outcome)
            elif isinstance(error, StopIteration):
                # Raised by an argument or a result that was pickled or unpickled. It would pass for the end.
                raise RuntimeError("task raised StopIteration") from error
            raise
        return outcome

    cdef object taken(self):
        """The next outcome, which is then the caller's; EMPTY: it is not there yet."""
        if self.back:
            return self.back.pop()
        outcome = self.items[self.yielded & (self.room - 1)]
        if outcome is not EMPTY:
            self.items[self.yielded & (self.room - 1)] = EMPTY
            self.yielded += 1
            if self.limited:
                self.collector.wants_more(self)
        return outcome

    def __del__(self):
        # Of an iterator with a buffersize, this is the user's end; the job is `whole`, and would wait for its consumer for ever.
        if self.whole is not None and not self.whole.collector.foreign:
            self.whole.abort(Abandoned())
            self.whole.collector.ring()
            # Nobody else may come by, and what waits to be dropped holds the pool.
            self.whole.collector.tidy()

    cdef bint satisfied(self) noexcept:
        return (self.items[self.yielded & (self.room - 1)] is not EMPTY or self.yielded == self.length
                or self.failure is not None or len(self.back) > 0)

    cdef IMapIterator handle(self):
        """What the user gets of a job that waits for its consumer: when the handle goes, the job ends."""
        cdef IMapIterator handle = type(self).__new__(type(self))
        handle.buffersize = self.buffersize
        handle.whole = self
        return handle

    cdef bint may_submit(self) noexcept:
        return self.buffersize == 0 or self.submitted - self.yielded < self.buffersize

    cdef int place(self, Py_ssize_t index, Py_ssize_t count, object outcome) noexcept:
        cdef Py_ssize_t at = self.placed if self.unordered else index
        if self.done or at < self.yielded:
            return 0
        if at - self.yielded >= self.room and self.enlarge(at) < 0:
            return self.abort(MemoryError("no memory for the results of an iterator"))
        self.items[at & (self.room - 1)] = outcome
        self.placed += 1
        self.collector.news = True
        return self.look_for_end()

    cdef int break_off(self, Py_ssize_t index, object outcome) noexcept:
        """The iterable failed instead of giving an item `index`; set_length follows. Also of results as they complete, the error must
        be the last: whoever sees it leaves his loop."""
        if not self.unordered:
            return self.place(index, 0, outcome)
        self.final = outcome
        return 0

    cdef int look_for_end(self) noexcept:
        if self.final is not None and self.placed == self.length - 1:
            outcome, self.final = self.final, None
            return self.place(self.placed, 0, outcome)
        if self.placed == self.length:
            return self.finish()
        return 0

    cdef int enlarge(self, Py_ssize_t at) noexcept:
        cdef Py_ssize_t room = self.room, i
        cdef list items
        while at - self.yielded >= room:
            room *= 2
        try:
            items = [EMPTY] * room
        except MemoryError:
            return -1
        for i in range(self.yielded, self.yielded + self.room):
            items[i & (room - 1)] = self.items[i & (self.room - 1)]
        self.items = items
        self.room = room
        return 0

    cdef int set_length(self, Py_ssize_t length) noexcept:
        """The iterable is exhausted: it gave `length` tasks."""
        if self.length < 0 and not self.done:
            self.length = length
            self.collector.news = True
            return self.look_for_end()
        return 0


class Abandoned(RuntimeError):
    """The end of a job that nobody has a handle of."""


cdef class IMapUnorderedIterator(IMapIterator):
    """What imap_unordered() gives: the results as they complete."""

    def __cinit__(self):
        self.unordered = True
