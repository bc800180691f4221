"""Handles of jobs: see _results.pyx."""

from libc.stdint cimport int64_t


from pool._buffers cimport Holder


cdef class Unread:
    cdef void *first             # Raws, each removed before it dies
    cdef void *last
    cdef int loading             # threads that make values of results in blocks
    cdef int add(self, Raw raw) except -1
    cdef int remove(self, Raw raw) noexcept
    cdef bint copy_out(self) except -1

cdef class Raw:
    cdef bytes data
    cdef Holder block            # where it lies, if data is None
    cdef Py_ssize_t count
    cdef Unread among            # None: it is not, or not any more
    cdef void *before            # there
    cdef void *after
    cdef object load(self)
    cdef object load_from(self, Holder block)

cdef class Failure:
    cdef bytes data
    cdef object error
    cdef object exception(self)

cdef class Waiter:
    cdef bint satisfied(self) noexcept

cdef object failure_of(object error)

cdef class Collector:
    cdef object callbacks        # where jobs go whose callbacks are due: a function of one job
    cdef public object usual_limits     # of calls that have none of their own: see `begin`
    cdef object ended            # the error that ended all jobs, or None
    cdef list trash              # the user's objects, dropped when nothing is half done
    cdef list due                # jobs whose callbacks are to run
    cdef set live                # unfinished jobs that are `kept`, so that end() finds them
    cdef Py_ssize_t unfinished   # jobs
    cdef Py_ssize_t urgent       # unfinished jobs with callbacks
    cdef bint closing, cut, foreign
    cdef bint news               # an outcome was placed that somebody may wait for
    cdef bint passing            # somebody is passing on callbacks
    cdef readonly int owner      # process
    cdef public object callback_thread
    cdef object __weakref__
    cdef int check(self) except -1
    cdef int begin(self, Job job, object pool, object target, callback, error_callback, limits) except -1
    cdef int admit(self, Job job, object pool, callback, error_callback, limits) except -1
    cdef int keep(self, Job job) except -1
    cdef Job start_call(self, pool, target, args, kwds, callback, error_callback, limits, bint sync)
    cdef int limit(self, Job job, int64_t timeout_ns, int retries) except -1
    cdef object function_for(self, object target)
    cdef int submitted(self, bint sync) except -1
    cdef int pull(self, IMapIterator job, items, bint star, Py_ssize_t chunksize) except -1
    cdef int give(self, Job job, Py_ssize_t index, Py_ssize_t count, bint star, object value) except -1
    cdef bint has_room(self) noexcept
    cdef bint stops(self, IMapIterator job) noexcept
    cdef int wait_for(self, Waiter waiter, double timeout) except -1
    cdef int refuse_deadlock(self, Job job) except -1
    cdef int poll(self) except -1
    cdef bint cancel(self, Job job, bint kill) except -1
    cdef int settled(self, Job job) noexcept
    cdef int let_go(self, Job job) noexcept
    cdef int wants_more(self, Job job) except -1
    cdef int resume(self, Job job) except -1
    cdef int end_parked(self) except -1
    cdef int tidy(self) except -1
    cpdef ring(self)

cdef class BaseSource:
    cdef Py_ssize_t next         # index of the next task in the job
    cdef bint parked             # has reached the buffersize; next() brings it back

cdef class Job(Waiter):
    cdef Collector collector
    cdef object pool, function, source
    cdef object shares           # the dispatcher's: parts that more than one task has, if a feeder gives the tasks; or None
    cdef object callback, error_callback
    cdef Failure failure
    cdef bint done, visible, was_cancelled
    cdef bint kept               # the collector has it among the live ones
    cdef int64_t timeout_ns      # that each call may take; 0: any
    cdef int retries             # how often a task whose worker was lost is run again
    cdef int place(self, Py_ssize_t index, Py_ssize_t count, object outcome) noexcept
    cdef int abort(self, object error) noexcept
    cdef int finish(self) noexcept

cdef class Call(Job):
    cdef object value
    cdef object take(self)

cdef class AsyncResult(Call):
    cdef object __weakref__
    cdef dict __dict__           # what users hang on a handle

cdef class MapResult(AsyncResult):
    cdef list values
    cdef Py_ssize_t left
    cdef bint has_raw
    cdef int load_all(self) except -1

cdef class IMapIterator(Job):
    cdef object __weakref__
    cdef dict __dict__
    cdef IMapIterator whole      # None, or: this is only the user's handle, and that is the job
    cdef list items              # items[i & (room - 1)]: outcome i, or EMPTY while it is not there
    cdef list back               # outcomes that next() gave back, because an interrupt came while it unpickled them
    cdef Py_ssize_t room         # power of two
    cdef Py_ssize_t yielded      # outcomes that next() gave out
    cdef Py_ssize_t placed       # outcomes that arrived
    cdef Py_ssize_t length       # outcomes there will be; -1 while the iterable goes on
    cdef Py_ssize_t submitted    # tasks that the iterable gave so far
    cdef readonly Py_ssize_t buffersize  # 0: no limit
    cdef bint limited            # the iterable waits for next() to make room
    cdef bint unordered
    cdef object final            # unordered: the outcome that comes after all others, or None
    cdef int break_off(self, Py_ssize_t index, object outcome) noexcept
    cdef object following(self, double timeout)
    cdef object taken(self)
    cdef IMapIterator handle(self)
    cdef int enlarge(self, Py_ssize_t at) noexcept
    cdef int set_length(self, Py_ssize_t length) noexcept
    cdef int look_for_end(self) noexcept
    cdef bint may_submit(self) noexcept

cdef class IMapUnorderedIterator(IMapIterator):
    pass
