# cython: language_level=3, boundscheck=False, wraparound=False
"""Dispatcher of a ThreadPool: what is to be run, and who waits for what.

    caller: submit --> pending: tasks and sources --- take, draw, by idle workers ---> run ---> place in job ---> wake who waits

Owns the queue and the list of waits. Called by any thread of the process; worker threads spend their lives in `serve`. Objects are
passed as they are, and outcomes are placed by the worker that has them: there is no collector thread.

The GIL is the lock. A stretch of code that changes the queue or the lists runs no user code and makes no container in between, so
nothing gets in: what it needs is made before, and the user's objects are dropped after (trash, tidy).
Nobody polls: who waits is blocked on a lock of his own, and whoever makes his condition true releases it.
"""

from collections import deque
from _thread import allocate_lock, get_ident

cimport cython
from cpython.object cimport PyObject

from pool._results cimport AsyncResult, BaseSource, Call, Collector, IMapIterator, Job, MapResult, Waiter, failure_of
from pool._worker cimport call_chunk, call_item, call_star
from pool.errors import fresh
from pool.functions import call_any

cdef extern from "Python.h":
    PyObject *PyIter_Next(object) except? NULL
    Py_ssize_t PyObject_LengthHint(object, Py_ssize_t) except -1
    void Py_DECREF_POINTER "Py_DECREF"(PyObject *)

cdef enum:
    CALL, ITEM, STAR    # func(*args, **kwds), func(value), func(*value)
    NOTHING, SOME, LAST # what draw() found


@cython.final
cdef class Function:
    """A callable, as a job knows it."""
    cdef object target

    @property
    def name(self):
        return str(getattr(self.target, "__qualname__", None) or type(self.target).__qualname__)


@cython.final
cdef class Task:
    """One call, or a chunk of them."""
    cdef Job job
    cdef Py_ssize_t index, count    # count: items in `value`, a list; 0: a single one
    cdef int kind
    cdef object value, kwds


@cython.final
cdef class Source(BaseSource):
    """An iterable that cannot run user code, from which idle workers draw their tasks."""
    cdef Job job
    cdef IMapIterator iterator      # the job, if it is one
    cdef object items               # iterator
    cdef Py_ssize_t left            # of a map: items that are still to come
    cdef Py_ssize_t chunk           # items in a chunk; 0: single tasks
    cdef int kind


@cython.final
cdef class Seat:
    """A worker's own: the lock that it is blocked on while it is idle, and what it fills from a source."""
    cdef object lock
    cdef Task drawn
    cdef list chunk


@cython.final
cdef class Wait:
    """A thread that waits for a condition. woken: its lock was released, it is in the list no more."""
    cdef Waiter waiter
    cdef object lock
    cdef bint on_callback_thread, woken

    cdef bint over(self) noexcept:
        # A callback that waits for a job whose own callback comes later must learn of it.
        return self.waiter.satisfied() or (self.on_callback_thread and isinstance(self.waiter, Job) and (<Job>self.waiter).done)


@cython.final
cdef class ThreadDispatcher(Collector):
    """Gives the jobs of one ThreadPool to its worker threads.

    callbacks: a function of a job whose callback is due. finished: a function that is called once, when the last callback was
    passed on: the pool is closed and all is done, or it was ended.
    """
    cdef object pending             # Task and Source, in the order of submission
    cdef list idle_seats
    cdef list waits
    cdef bint rousing               # an idle worker was woken and is not at work yet
    cdef object finished            # None once it was called

    def __cinit__(self, *, callbacks, finished):
        self.finished = finished
        self.pending = deque()
        self.idle_seats = []
        self.waits = []

    # ---- submit

    cdef int begin(self, Job job, object pool, object target, callback, error_callback, limits) except -1:
        # First of all, so that end() finds it.
        job.collector = self
        self.keep(job)
        try:
            return Collector.begin(self, job, pool, target, callback, error_callback, limits)
        except BaseException:
            self.live.discard(job)
            raise

    cdef object function_for(self, object target):
        cdef Function function = Function.__new__(Function)
        function.target = target
        return function

    cdef Job start_call(self, pool, target, args, kwds, callback, error_callback, limits, bint sync):
        cdef Call job = Call.__new__(Call) if sync else AsyncResult.__new__(AsyncResult)
        cdef Task task = Task.__new__(Task)
        self.begin(job, pool, target, callback, error_callback, limits)
        task.job = job
        task.kind = CALL
        task.value = args
        task.kwds = kwds
        self.enqueue(job, task)
        self.submitted(sync)
        return job

    def submit_map(self, pool, target, items, Py_ssize_t length, bint star, Py_ssize_t chunksize, bint adaptive,
                   callback, error_callback, limits, bint sync):
        """MapResult. items: an iterable that runs no user code and gives `length` > 0 items; chunksize 1 or more. adaptive, sync:
        as for the other dispatcher, of no use here."""
        cdef MapResult job = MapResult.__new__(MapResult)
        cdef Source source
        job.values = [None] * length
        job.left = length
        self.begin(job, pool, target, callback, error_callback, limits)
        source = self.source_of(job, items, star, chunksize)
        source.left = length
        self.enqueue(job, source)
        self.submitted(sync)
        return job

    cdef int pull(self, IMapIterator job, items, bint star, Py_ssize_t chunksize) except -1:
        cdef Source source = self.source_of(job, items, star, chunksize)
        source.iterator = job
        self.enqueue(job, source)
        return self.submitted(False)

    cdef int give(self, Job job, Py_ssize_t index, Py_ssize_t count, bint star, object value) except -1:
        cdef Task task = Task.__new__(Task)
        task.job = job
        task.index = index
        task.count = count
        task.kind = STAR if star else ITEM
        task.value = value
        return self.enqueue(job, task)

    cdef Source source_of(self, Job job, items, bint star, Py_ssize_t chunksize):
        cdef Source source = Source.__new__(Source)
        source.job = job
        source.items = iter(items)
        source.chunk = 0 if chunksize == 1 else chunksize
        source.kind = STAR if star else ITEM
        return source

    cdef int enqueue(self, Job job, entry) except -1:
        """entry: a Task or a Source of the job."""
        if job.done:
            return 0
        if type(entry) is Source:
            job.source = entry
        self.pending.append(entry)
        self.rouse()
        return 0

    cdef bint cancel(self, Job job, bint kill) except -1:
        self.check()
        if not isinstance(job, MapResult) and not self.is_queued(job):
            return False
        return Collector.cancel(self, job, kill)

    cdef bint is_queued(self, Job job):
        for entry in self.pending:
            if type(entry) is Task and (<Task>entry).job is job:
                return True
        return False

    cdef int resume(self, Job job) except -1:
        cdef Source source = <Source>job.source
        if source.parked:
            source.parked = False
            # It was submitted before whatever waits now.
            self.pending.appendleft(source)
            self.rouse()
        return 0

    # ---- work

    def serve(self):
        """On a worker's thread: runs tasks until the pool ends, or is closed and all is done."""
        cdef Seat seat = Seat.__new__(Seat)
        cdef Task task
        seat.lock = allocate_lock()
        seat.lock.acquire()
        seat.drawn = Task.__new__(Task)
        while True:
            if seat.chunk is None:
                seat.chunk = []
            task = self.take(seat)
            if task is not None:
                self.rouse()
                self.run(task)
            elif self.trash or (self.due and not self.passing):
                self.tidy()
            elif self.over():
                return
            else:
                self.idle_seats.append(seat)
                seat.lock.acquire()
                self.rousing = False

    cdef bint over(self) noexcept:
        """True if no task will ever come again."""
        return self.cut or (self.closing and self.unfinished == 0)

    cdef int rouse(self) noexcept:
        """Wakes an idle worker if there is work. One at a time: it wakes the next when it has taken some itself, so workers that
        would find nothing, or only wait for the GIL, sleep on."""
        if self.pending and self.idle_seats and not self.rousing:
            self.rousing = True
            (<Seat>self.idle_seats.pop()).lock.release()
        return 0

    cdef Task take(self, Seat seat):
        """The next task, or None."""
        cdef Source source
        cdef int found
        while self.pending:
            first = self.pending.popleft()
            if type(first) is Task:
                return <Task>first
            source = <Source>first
            found = self.draw(source, seat)
            if found == SOME:
                self.pending.appendleft(source)
            else:
                self.trash.append(source)
            if found != NOTHING:
                return seat.drawn
        return None

    cdef int draw(self, Source source, Seat seat) except -1:
        """Fills the seat's task. NOTHING: the source is exhausted or parked. LAST: it is exhausted with this task."""
        cdef IMapIterator iterator = source.iterator
        cdef Task task = seat.drawn
        cdef PyObject *item
        cdef Py_ssize_t n = 0
        if source.job.done:
            return NOTHING
        try:
            if iterator is not None:
                if self.stops(iterator) or (not iterator.may_submit() and PyObject_LengthHint(source.items, 1) == 0):
                    iterator.set_length(source.next)
                    return NOTHING
                if not iterator.may_submit():
                    source.parked = True
                    return NOTHING
            while n < source.chunk or n == 0:
                item = PyIter_Next(source.items)
                if item == NULL:
                    break
                if source.chunk:
                    seat.chunk.append(<object>item)
                else:
                    task.value = <object>item
                Py_DECREF_POINTER(item)
                n += 1
        except BaseException as error:
            self.trash.append(seat.chunk)
            seat.chunk = None
            source.job.abort(error)
            return NOTHING
        if n == 0:
            if iterator is not None:
                iterator.set_length(source.next)
            return NOTHING
        if source.chunk:
            task.value, seat.chunk = seat.chunk, None
        task.job = source.job
        task.kind = source.kind
        task.index = source.next
        task.count = n if source.chunk else 0
        if iterator is not None:
            iterator.submitted += 1
            source.next += 1
            return SOME
        source.next += n
        source.left -= n
        return SOME if source.left > 0 else LAST

    cdef int run(self, Task task) except -1:
        """Runs the task and places its outcome, whatever that is."""
        cdef Job job = task.job
        cdef Py_ssize_t index = task.index, count = task.count
        cdef object outcome = None
        if not job.done:
            outcome = perform((<Function>job.function).target, task)
        # Before the outcome is seen: the pool keeps no argument of a task that is over.
        task.value = task.kwds = task.job = None
        job.place(index, count, outcome)
        if not job.done:
            self.wake()
        if self.trash or self.due:
            self.tidy()
        return 0

    # ---- wait

    cdef int wait_for(self, Waiter waiter, double timeout) except -1:
        cdef Wait wait
        self.check()
        if waiter.satisfied():
            return 1
        wait = Wait.__new__(Wait)
        wait.waiter = waiter
        wait.on_callback_thread = self.callback_thread is not None and self.callback_thread == get_ident()
        wait.lock = allocate_lock()
        wait.lock.acquire()
        if not wait.over():
            self.waits.append(wait)
            try:
                if timeout < 0:
                    wait.lock.acquire()
                else:
                    wait.lock.acquire(True, min(timeout, 1e9))
            finally:
                if not wait.woken:
                    self.waits.remove(wait)
        if wait.on_callback_thread and isinstance(waiter, Job):
            self.refuse_deadlock(<Job>waiter)
        return waiter.satisfied()

    cdef int wake(self) noexcept:
        """Lets everybody go on whose condition has come true."""
        cdef Py_ssize_t i = 0
        cdef Wait wait
        while i < len(self.waits):
            wait = <Wait>self.waits[i]
            if wait.over():
                wait.woken = True
                del self.waits[i]
                wait.lock.release()
            else:
                i += 1
        return 0

    cpdef ring(self):
        self.wake()

    cdef int poll(self) except -1:
        return self.check()

    cdef int settled(self, Job job) noexcept:
        self.trash.append(job.function)
        job.function = None
        Collector.settled(self, job)
        return self.wake()

    cdef int tidy(self) except -1:
        Collector.tidy(self)
        if self.over():
            while self.idle_seats:
                (<Seat>self.idle_seats.pop()).lock.release()
            if self.finished is not None and not self.due and not self.passing:
                finished, self.finished = self.finished, None
                finished()
        return 0

    # ---- life

    def close(self):
        """No more jobs come: workers leave when all are done."""
        if self.foreign:
            return
        self.closing = True
        self.end_parked()
        self.wake()
        self.tidy()

    @property
    def waiting_tasks(self):
        """Tasks that no worker has begun."""
        return len(self.pending)

    def end(self, error):
        """Every unfinished job fails with this error, and so does every later one. Workers leave after the tasks that they run,
        whose outcomes are dropped."""
        if self.foreign:
            return
        if self.ended is None:
            self.ended = error
        for job in list(self.live):
            (<Job>job).abort(fresh(error))
        pending, self.pending = self.pending, deque()
        self.cut = True
        self.wake()
        self.tidy()

    def disown(self):
        """In a forked child: the pool's threads did not come along."""
        self.foreign = True


cdef object perform(object function, Task task):
    """The task's value, or a Failure."""
    try:
        if task.count:
            return call_chunk(function, <list>task.value, task.kind == STAR)
        if task.kind == ITEM:
            return call_item(function, task.value)
        if task.kind == STAR:
            return call_star(function, task.value)
        if type(task.value) is tuple and type(task.kwds) is dict and not task.kwds:
            return function(*task.value)
        return call_any(function, task.value, task.kwds)
    except BaseException as error:
        return failure_of(error)
