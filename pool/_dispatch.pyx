# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Dispatcher and collector: the parent's side of the rings.

Owns the segment, the task ring's producer, the arena, one reader per result ring, and the table that says which job each slot
belongs to. Called by any thread of the parent.

    caller: submit -> encode -> slot of the task ring ........ worker claims, runs ........ result ring
                        |  ring full                                                          |
                        v                                                                     v
                     pending --- pump, by whoever collects ---> task ring     collect: place in job, free slot

The GIL is the lock. A stretch of code that changes the ring or the table runs no user code and makes no container in between, so
nothing gets in: encoding (which may run anything) comes before, dropping references to the user's objects (trash) after.
Nobody waits with the GIL held. While a caller waits he collects himself; the collector thread steps in when nobody does.
"""

import gc
import os
import weakref
from collections import deque

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from cpython.list cimport PyList_GET_SIZE
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF, Py_XDECREF
from cpython.set cimport PySet_GET_SIZE
from libc.errno cimport EFBIG, EINVAL, ENOMEM
from libc.stdint cimport INT64_MAX, int64_t, uint32_t, uint64_t
from libc.string cimport memcpy
from posix.unistd cimport getpid

from pool._blocks cimport Blocks, Shares, share
from pool._buffers cimport ResultBlock, Store
from pool._codec cimport (TAG_FLOAT, TAG_INT, TAG_PARTS, TAG_PICKLE, TAG_RANGE, Buffer, append_pickle, append_value,
                          append_values, decode, decode_values, runs_code, simple_put)
from pool._csrc cimport *
from pool._signals import call, is_interrupt
from pool.errors import fresh
from pool._results cimport AsyncResult, BaseSource, Call, Collector, Failure, IMapIterator, Job, MapResult, Raw, Unread, Waiter, failure_of

cdef extern from "Python.h":
    unsigned long PyThread_get_thread_ident() noexcept
    PyObject *PyIter_Next(object) except? NULL
    void Py_DECREF_POINTER "Py_DECREF"(PyObject *)
    Py_ssize_t Py_REFCNT(object) noexcept
    PyObject *PyTuple_GET_ITEM(object, Py_ssize_t) noexcept
    PyObject *PyLong_FromLongLong(long long) noexcept
    PyObject *PyFloat_FromDouble(double) noexcept
    void PyErr_Clear() noexcept
    int PyGC_Disable() noexcept
    int PyGC_Enable() noexcept

cdef extern from *:
    """
    static inline int refers_to(PyObject *reference, PyObject *object)
    {
    #if PY_VERSION_HEX >= 0x030D0000
        PyObject *found;
        if (PyWeakref_GetRef(reference, &found) < 0)
            PyErr_Clear();
        Py_XDECREF(found);
        return found == object;
    #else
        return PyWeakref_GET_OBJECT(reference) == object;
    #endif
    }
    """
    bint refers_to(object, object) noexcept

cdef enum:
    COALESCE_NS = 1000000       # how long results may lie when nobody waits for them
    SHADOW_TICKS = 16           # ticks in which the collector thread watches a caller collect before it goes to sleep
    OVERDUE_NS = 2000000        # without a result for so long: is a task left that nobody was woken for?
    RECORDS_A_PASS = 8192       # from one ring, before the others have their turn
    FUNCTIONS_KEPT = 256
    FRAME_NS = 100000           # work in a frame of adaptive size
    AHEAD_NS = 2000000          # work that adaptive frames hold ready for each worker, so that it need not wait for the parent
    FRAME_MOST = 4096           # tasks in a frame of adaptive size
    LOST_MOST = 16
    LOOK_LEAST_NS = 1000000     # between two looks for tasks that take too long
    LOOK_MOST_NS = 100000000
    QUIET_LOOKS = 20
    LOADING_NS = 60000000000    # that importing what a call needs may take beyond its limit
    ARENA_AHEAD_BYTES = 1 << 26 # large payloads that wait for workers, beyond two tasks for each
    HEADED_LEAST = 16384        # payloads that workers may build objects on, or put their results into; of whole pages in any case
    LETTING_GO_NS = 5000000     # for workers to drop the arguments of what they have done
    RECLAIM_NS = 1000000000     # for workers to collect garbage
    RECLAIM_LOOK_NS = 1000000   # between two looks whether they have
    COPY_BYTES = 1 << 20        # payloads that take their time to copy: larger frames would not help
    SUBMIT_NS = 2000000         # how long an asynchronous call may encode before it leaves the rest to the collector thread

DEFAULT_SLOTS = 2048
DEFAULT_RING_BYTES = 1 << 18
KEEP_WARM_BYTES = 64 << 20
QUIET_BYTES = 16 << 20


cdef struct Entry:
    PyObject *job      # owned; NULL: the slot is free
    PyObject *function # owned: its block must stay as long as a worker may load it
    Py_ssize_t index   # of the task, or of the first task of the chunk, in the job
    Py_ssize_t count   # tasks in the chunk; 0: a single task
    PyObject *others   # owned: shared blocks that the payload refers to; or NULL
    rp_block block     # of the payload, if it did not fit the slot
    uint64_t charge    # bytes that it counts in task_bytes
    bint headed        # it begins with a head
    bint doomed        # has its outcome, and its worker is being killed for it
    bint limited       # its Limit counts


cdef struct Limit:
    int64_t timeout_ns # that a call may take; 0: any
    int64_t since      # of a timed task: when this call was first seen running; 0: not yet
    uint32_t calls     # how many were begun then
    int tries          # how often its worker was lost


@cython.final
cdef class Function:
    """A callable in the arena, encoded once for all tasks that call it."""
    cdef readonly str name
    cdef object target      # a weak reference, if the function is cached by identity: its module must not live as long as the pool
    cdef rp_block block
    cdef uint32_t id
    cdef Py_ssize_t users   # unfinished jobs
    cdef Py_ssize_t slots   # that a worker may load it for
    cdef bint cached


@cython.final
cdef class Task:
    """An encoded task that waits for room in the ring."""
    cdef Job job
    cdef Py_ssize_t index, count
    cdef int kind
    cdef Buffer data        # None: the payload is in the block
    cdef tuple others       # shared blocks that it refers to; or None
    cdef rp_block block
    cdef uint64_t charge
    cdef bint headed
    cdef int64_t pickle_ns  # of a chunk: what pickling it took; 0: it took no pickle


cdef struct Weighing:
    # Whether the items of a chunk share something large, which pickle writes once a chunk: then more of them take fewer bytes each.
    Py_ssize_t items        # in the chunk that was weighed last
    double each             # bytes of one of them
    bint shared


@cython.final
cdef class Source(BaseSource):
    """An iterable that cannot run user code, encoded task by task while there is room in the ring."""
    cdef Job job
    cdef object items       # iterator; if it is `sliced`, a tuple or range
    cdef bint sliced        # items are taken by their place
    cdef bint rows          # they are an array, of which a chunk is a slice
    cdef Py_ssize_t at, total   # of these items: how many were taken, how many there are
    cdef uint64_t start, step   # of such a range, modulo 2**64
    cdef Py_ssize_t left    # items that are still to come; -1: as many as there are
    cdef Py_ssize_t chunk   # items in a chunk; 0: single tasks
    cdef int kind
    cdef bint adaptive      # the size of frames follows the measured cost of a task
    cdef Py_ssize_t flying  # adaptive: frames on their way
    cdef int64_t pickle_ns  # adaptive: what pickling the last frame took; 0: it took no pickle
    cdef int64_t frame_ns   # adaptive: what the last frame took in its worker
    cdef int64_t result_ns  # adaptive: of that, what encoding the results took
    cdef Weighing arguments, results    # adaptive
    cdef Py_ssize_t largest # adaptive: the stdlib's size of a chunk
    cdef double cost_ns     # adaptive: of one task, as measured; < 0: not known yet
    cdef Task stuck         # encoded, but there was no room for it
    cdef Shares shares      # parts that more than one of its tasks has
    cdef Py_ssize_t bytes   # of the last task that was encoded
    cdef double each        # adaptive: of them, to an item
    cdef tuple again        # (item or chunk,) whose encoding a Ctrl-C broke off that was not meant for it; or None


cdef object END = object()


cdef bint is_rows(object items) except -1:
    """True for what has items by their place and slices, and is none of Python's own."""
    return type(items) not in (tuple, range, list, str, bytes) and hasattr(type(items), "__array__")


cdef bint sliceable(object items, bint star) except -1:
    """True if chunks can be taken from these items by their place. Of a range, all items must fit 64 bits, and be arguments."""
    if type(items) is range:
        return not star and -INT64_MAX <= items.start <= INT64_MAX and -INT64_MAX <= items.stop <= INT64_MAX and (
            -INT64_MAX <= items.step <= INT64_MAX)
    return type(items) is tuple


cdef object following(object iterator):
    """The next item, or END."""
    cdef PyObject *item = PyIter_Next(iterator)
    if item == NULL:
        return END
    result = <object>item
    Py_DECREF_POINTER(item)
    return result


@cython.final
cdef class Dispatcher(Collector):
    """The parent's end of one pool's segment.

    seats: processes at most, each takes one with open_seat(). workers: how many are to serve. slots: cells of the task ring, a
    power of two. ring_bytes: of each result ring, a power of two.
    arena_bytes: address space for larger payloads (memory is used only as it is touched). arena_limit: bytes of memory that they
    may have; None: any. cores: how many this process may
    use. fallbacks: names of mechanisms to force, of {"unlinked", "poll"}.
    Raises OSError if the system refuses the memory, ValueError for a geometry that is not allowed.
    """
    cdef rp_segment segment
    cdef rp_map map
    cdef rp_producer producer
    cdef Store memory               # has the segment and the arena; results may keep it for longer
    cdef Blocks blocks
    cdef Shares plain               # of calls with one task
    cdef rp_arena *arena
    cdef uint64_t task_bytes        # in blocks of tasks that are not settled
    cdef rp_reader *readers
    cdef Entry *entries     # per slot
    cdef Limit *limits      # per slot
    cdef rp_spin spin
    cdef rp_u32 nap_bell            # the collector thread's own doorbell
    cdef dict pieces                # per seat: bytes of a long result that has not arrived whole
    cdef dict filled                # per seat: how many of them have arrived
    cdef dict boot_errors           # per seat: why its worker cannot start, and whether the main module is to blame
    cdef set broken                 # seats whose ring is damaged: the worker has to go
    cdef Job nobody                 # stands in the table for jobs that were aborted
    cdef set doomed                 # seats whose worker is killed for the task that it runs
    cdef object pending             # Task and Source, in the order of submission
    cdef bint backlog               # pending is not empty
    cdef object start_collector     # starts the collector thread, True if that went well; None once it did
    cdef object alarm               # called when a seat is found broken
    cdef object encode_function
    cdef dict functions
    cdef Function latest         # of them, the one that was asked for last; or None
    cdef uint32_t next_function
    cdef uint32_t cores
    cdef public uint32_t workers    # that are to serve
    cdef Py_ssize_t timed           # unfinished jobs whose tasks have a time limit
    cdef bint strays                # tasks of finished (cancelled) jobs that have one may be left
    cdef int64_t shortest           # of these limits; 0: not known
    cdef bint looking               # the supervisor asks for overdue tasks from time to time
    cdef int quiet                  # how often it did so in vain
    cdef int waiting                # threads in wait_for that do not hold the GIL
    cdef list copying               # the threads that copy arguments into the arena, without the GIL
    cdef int sharing                # those that copy what is shared, of which nothing comes back
    cdef int settling               # the seat whose result is being taken; -1: none
    cdef Unread unread
    cdef unsigned long reclaimer    # the thread that waits for what garbage holds; 0: none
    cdef bint collecting, dormant, finished, released
    cdef uint64_t collections       # how often `collect` found something
    cdef double record_bytes        # size of a result, smoothed

    def __cinit__(self, *, uint32_t seats, uint32_t workers, encode_function, callbacks, alarm, start_collector,
                  uint32_t cores, uint32_t slots=DEFAULT_SLOTS,
                  uint32_t ring_bytes=DEFAULT_RING_BYTES, uint64_t arena_bytes=1 << 36, arena_limit=None, fallbacks=()):
        cdef rp_geometry g
        cdef rp_segment_how how = RP_SEGMENT_UNLINKED if "unlinked" in fallbacks else RP_SEGMENT_ANY
        cdef size_t size
        cdef int err
        self.segment.fd = -1
        g.nslots, g.nseats, g.ring_bytes = slots, seats, ring_bytes
        g.chairs = min(cores - 1, <uint32_t>RP_SPIN_CHAIRS) if cores > 0 else 0
        g.cores = cores
        g.doorbell = RP_DOORBELL_POLL if "poll" in fallbacks else rp_doorbell_probe()
        while True:
            g.arena_bytes = arena_bytes
            size = rp_layout_size(&g)
            if size == 0:
                raise ValueError(f"a pool of {seats} workers, {slots} slots and rings of {ring_bytes} bytes is not possible")
            err = rp_segment_create(&self.segment, size, how)
            # A limit on the address space (ulimit -v), or on the length of files (ulimit -f), leaves room for less.
            if err == -EFBIG:
                if arena_bytes <= (1 << 20):
                    break
            elif (err != -ENOMEM and err != -EINVAL) or arena_bytes <= (1 << 26):
                break
            arena_bytes //= 2
        if err:
            raise OSError(-err, f"no shared memory for the pool: {os.strerror(-err)}")
        self.memory = Store.__new__(Store)
        self.memory.take_over(&self.segment)
        self.arena = &self.memory.arena
        rp_layout_write(self.segment.base, &g)
        err = rp_layout_open(&self.map, self.segment.base, self.segment.size)
        if not err:
            err = rp_segment_back(&self.segment, 0, <uint64_t>(<unsigned char *>self.map.seats - self.map.base))
        if not err:
            err = rp_producer_init(&self.producer, &self.map)
        if err:
            raise OSError(-err, f"no shared memory for the pool: {os.strerror(-err)}")
        rp_arena_init(self.arena, &self.map, &self.memory.segment, KEEP_WARM_BYTES)
        if arena_limit is not None:
            self.arena.limit_bytes = arena_limit
            self.arena.keep_bytes = max(<uint64_t>KEEP_WARM_BYTES, self.arena.limit_bytes // 4)
        self.blocks = Blocks.__new__(Blocks, self.memory, alarm)
        self.unread = Unread.__new__(Unread)
        self.copying = []
        self.blocks.map = &self.map
        self.blocks.quiet_bytes = QUIET_BYTES
        rp_spin_init(&self.spin)
        self.readers = <rp_reader *>rp_pages_get(seats * sizeof(rp_reader))
        self.entries = <Entry *>rp_pages_get(slots * sizeof(Entry))
        self.limits = <Limit *>rp_pages_get(slots * sizeof(Limit))
        if self.readers == NULL or self.entries == NULL or self.limits == NULL:
            raise MemoryError
        self.workers = workers
        self.pieces = {}
        self.filled = {}
        self.broken = set()
        self.doomed = set()
        self.nobody = Job.__new__(Job)
        self.nobody.done = True
        self.boot_errors = {}
        self.pending = deque()
        self.functions = {}
        self.next_function = 1
        self.encode_function = encode_function
        self.alarm = alarm
        self.start_collector = start_collector
        self.cores = cores
        self.settling = -1

    def __dealloc__(self):
        cdef uint64_t i
        if getpid() != self.owner:
            # A garbage collection in a fork's first steps: what is mapped here did not come along, and the addresses may be others'.
            return
        if self.entries != NULL:
            for i in range(self.slots_used()):
                Py_XDECREF(self.entries[i].job)
                Py_XDECREF(self.entries[i].function)
                Py_XDECREF(self.entries[i].others)
        rp_pages_give(self.entries, (self.map.slot_mask + 1) * sizeof(Entry))
        rp_pages_give(self.limits, (self.map.slot_mask + 1) * sizeof(Limit))
        rp_pages_give(self.readers, self.map.nseats * sizeof(rp_reader))
        rp_producer_free(&self.producer)
        if self.memory is None:
            rp_segment_close(&self.segment)

    cdef uint64_t slots_used(self) noexcept:
        """Slots that have ever held a task: the first so many. In a forked child the table is not there."""
        return 0 if self.foreign else min(self.producer.tail, self.map.slot_mask + 1)

    @property
    def unfinished_jobs(self):
        """The handles of all jobs that are not done, as a list."""
        cdef uint64_t i
        jobs = set(self.live)
        for i in range(self.slots_used()):
            if self.entries[i].job != NULL and not (<Job>self.entries[i].job).done:
                jobs.add(<object>self.entries[i].job)
        return list(jobs)

    @property
    def waiting_tasks(self):
        """Tasks that no worker has claimed. What is still to be drawn from an iterable counts as one."""
        cdef uint64_t i
        cdef Py_ssize_t n = len(self.pending)
        for i in range(0 if self.released else self.slots_used()):
            n += self.entries[i].job != NULL and rp_state_phase(load64(&self.map.slots[i].state)) == RP_READY
        return n

    @property
    def fd(self):
        """Descriptor of the segment."""
        return self.segment.fd

    def drop_jobs(self):
        """After the last worker is gone: no slot needs its job. The garbage collector does not see these references, and
        job -> dispatcher -> slot -> job would live for ever."""
        cdef uint64_t i
        for i in range(self.slots_used()):
            if self.entries[i].job != NULL:
                self.trash.append(<object>self.entries[i].job)
                self.trash.append(<object>self.entries[i].function)
                Py_XDECREF(self.entries[i].job)
                Py_XDECREF(self.entries[i].function)
                Py_XDECREF(self.entries[i].others)
                self.entries[i].job = self.entries[i].function = self.entries[i].others = NULL

    def release(self):
        """Drops the segment: the workers are gone, every job is done, the collector thread has ended. True if it is dropped; False
        while some thread still looks at it."""
        if self.waiting or self.collecting or self.copying or self.sharing or self.foreign:
            return False
        if not self.released:
            self.released = True
            self.functions.clear()
            self.latest = None
            self.pending.clear()
            self.backlog = False
            self.blocks.end()
            self.memory.close()
            self.segment.base = NULL
            self.segment.fd = -1
            self.tidy()
        return True

    def disown(self, bint keep):
        """In a forked child: the pool stays the parent's. keep: the child is a worker of it and needs the descriptor."""
        self.foreign = True
        if self.segment.fd >= 0 and not keep:
            rp_file_close(&self.memory.file)
            self.segment.fd = -1

    # ---- encode and commit

    cdef Function function_of(self, object target):
        """The encoded function. Raises what pickling raises."""
        cdef Function function = self.latest
        if function is not None and refers_to(function.target, target):
            return function
        function = <Function>self.functions.get(id(target))
        if function is not None:
            if refers_to(function.target, target):
                self.latest = function
                return function
            # Of a callable that had this address before.
            self.forget(id(target))
        blob, cacheable, name = self.encode_function(target)
        function = Function.__new__(Function)
        function.name = name
        self.store(blob, function)
        function.id = self.next_function
        self.next_function = self.next_function + 1 if self.next_function < 0xffffffffu else 1
        if cacheable:
            function.cached = True
            function.target = weakref.ref(target)
            if len(self.functions) >= FUNCTIONS_KEPT:
                self.forget_functions()
            self.functions[id(target)] = function
            self.latest = function
        return function

    cdef int store(self, bytes blob, Function function) except -1:
        cdef uint64_t size = len(blob)
        cdef int err
        if self.ended is not None:
            raise self.ended
        err = rp_arena_alloc(self.arena, size + 8, &function.block)
        if err:
            raise OSError(-err, f"no shared memory for a function of {size} bytes: {os.strerror(-err)}")
        memcpy(self.map.base + function.block.off, &size, 8)
        memcpy(self.map.base + function.block.off + 8, PyBytes_AS_STRING(blob), size)
        return 0

    cdef int forget_functions(self) except -1:
        for key, function in list(self.functions.items()):
            if (<Function>function).users == 0 and (<Function>function).slots == 0:
                self.forget(key)
        return 0

    cdef int forget(self, key) except -1:
        cdef Function function = <Function>self.functions.pop(key)
        self.latest = None
        function.cached = False
        self.free_function(function)
        return 0

    cdef inline void commit(self, rp_slot *slot, uint64_t pos, Job job, Py_ssize_t index, Py_ssize_t count, int kind) noexcept:
        cdef Entry *entry = &self.entries[pos & self.map.slot_mask]
        cdef Function function = <Function>job.function
        slot.kind = kind
        slot.func_id = function.id
        slot.flags = ((RP_KEEP if function.cached else 0) | (RP_COUNTED if job.timeout_ns else 0)
                      | (RP_HEADED if entry.headed else 0))
        slot.func_off = function.block.off
        Py_INCREF(job)
        Py_INCREF(function)
        entry.job = <PyObject *>job
        entry.function = <PyObject *>function
        function.slots += 1
        entry.index = index
        entry.count = count
        entry.doomed = False
        entry.limited = job.timeout_ns or job.retries
        if entry.limited:
            self.limits[pos & self.map.slot_mask] = Limit(timeout_ns=job.timeout_ns, since=0, calls=0, tries=0)
        if count and job.source is not None:
            (<Source>job.source).flying += 1
        rp_producer_commit(&self.producer, pos)

    cdef int put(self, Job job, Py_ssize_t index, int kind, object value) except -1:
        """Encodes a single task and commits it, or leaves it in the backlog. An encoding error becomes the task's outcome."""
        cdef Py_ssize_t size
        cdef rp_slot *slot = NULL
        cdef uint64_t pos = 0
        cdef Task task
        if self.producer.outstanding > self.map.slot_mask:
            self.collect()
        # From here on nothing else runs: a value that changed its size would be written over the next slots.
        if self.ended is not None:
            return job.abort(self.ended)
        if not self.backlog:
            slot = rp_producer_next(&self.producer, &pos)
        if slot != NULL and not job.done:
            size = simple_put(value, slot.data, RP_INLINE)
            if 0 <= size <= RP_INLINE:
                slot.off = 0
                slot.len = size
                self.commit(slot, pos, job, index, 0, kind)
                rp_producer_kick(&self.producer)
                return 1
        if not job.kept:
            # Pickling may run anything for any time.
            self.keep(job)
        task = self.encoded(job, index, 0, kind, value, job, 0, self.shares_of(job))
        if task is not None and (self.backlog or not self.commit_task(task)):
            self.pending.append(task)
            self.backlog = True
            self.collect()
        self.pump(job)
        return 0

    cdef int announce(self) except -1:
        """Lets those look again who wait for what others placed: a worker rings for its own results only."""
        if self.news:
            self.news = False
            if self.waiting:
                self.ring()
        return 0

    cdef Task encoded(self, Job job, Py_ssize_t index, Py_ssize_t count, int kind, object value, Job mine, Py_ssize_t start=0,
                      Shares shares=None):
        """The task, ready for a slot; None if it could not be encoded, which is then its outcome. count, start: a chunk of so many
        items of a list or tuple, from start on; 0: a single value. mine: the job for which this
        thread is here, or None: a Ctrl-C is raised, and is no outcome for a job of somebody else."""
        cdef Task task = Task.__new__(Task)
        cdef int64_t begin
        task.job = job
        task.index = index
        task.count = count
        task.kind = kind
        task.data = Buffer()
        task.data.sharer = shares
        if not self.released:
            # Pickling may take any time: no worker is to wait for what lies in the ring already.
            rp_producer_kick(&self.producer)
        try:
            if count:
                begin = rp_now_ns()
                if type(value) is tuple or type(value) is list:
                    append_values(task.data, value, start, start + count, True)
                else:
                    append_pickle(task.data, value[start:start + count], True)
                if task.data.used and task.data.data[0] in (TAG_PICKLE, TAG_PARTS):
                    task.pickle_ns = rp_now_ns() - begin
            else:
                append_value(task.data, value, True)
            if task.data.others:
                task.others = tuple(task.data.others)
            # What refers to the user's objects is copied now: he may change them.
            if task.data.spans is not None and (self.blocks.starved or not self.lodge(task)):
                task.data.flatten()
        except BaseException as error:
            interrupt = is_interrupt(error)
            if not interrupt or job is mine:
                job.place(index, count, failure_of(error))
                self.announce()
            if interrupt:
                raise
            return None
        return task

    cdef bint crowded(self, Py_ssize_t more) noexcept:
        """True if so many bytes of payload had better wait."""
        return self.task_bytes + more > ARENA_AHEAD_BYTES and self.producer.outstanding >= 2 * <uint64_t>self.workers

    cdef object no_memory(self, Py_ssize_t size):
        """The error of a task for which there will be no memory."""
        return OSError(ENOMEM, f"no shared memory for a task of {size:,} bytes: {self.arena.used_bytes:,} of the arena's "
                               f"{self.arena.limit_bytes:,} bytes are in use, by results that are kept, objects that workers keep "
                               f"and by what is shared")

    cdef bint reclaim(self, Task task) except -1:
        """Moves the payload into a block after all. Results that nobody has asked for yet make way for it. If no task has memory that
        will come back, garbage may have some: objects that refer to each other keep their blocks until a garbage collection, which
        nobody else has a reason to run. Waits for workers, a second at most."""
        if self.reclaimer or rp_arena_touched(RP_HEAD + task.data.total()) > self.arena.limit_bytes:
            return False
        self.reclaimer = PyThread_get_thread_ident()
        try:
            if self.lodge_beside_unread(task):
                return True
            if self.will_give_back(task):
                return False
            # The result came before the worker let go of the arguments, as a rule.
            if self.lodge_when_given_back(task, LETTING_GO_NS):
                return True
            gc.collect()
            if self.lodge(task):
                return True
            if self.released or self.foreign:
                return False
            rp_parent_ask_to_clean(&self.map)
            return self.lodge_when_given_back(task, RECLAIM_NS)
        finally:
            self.reclaimer = 0
            # What other threads left for this one, which may be about to raise, or not to look again.
            if self.backlog:
                self.ring()
            if self.unfinished and not self.waiting and self.dormant:
                self.poke()

    cdef bint lodge_beside_unread(self, Task task) except -1:
        while self.unread.copy_out():
            if self.released or self.foreign or task.job.done:
                return False
            if self.lodge(task):
                return True
        return False

    cdef bint lodge_when_given_back(self, Task task, int64_t patience_ns) except -1:
        cdef int64_t limit = rp_now_ns() + patience_ns
        cdef rp_u32 bell
        store32(&bell, 0)
        while (self.blocks.lent or self.unread.loading) and rp_now_ns() < limit:
            self.waiting += 1
            with nogil:
                rp_bell_park(&bell, 0, RECLAIM_LOOK_NS, RP_DOORBELL_POLL)
            self.waiting -= 1
            if self.released or self.foreign or task.job.done:
                return False
            if self.lodge(task) or self.lodge_beside_unread(task):
                return True
        # What others held may have come back while the GIL was not held.
        return self.lodge_beside_unread(task) or self.lodge(task)

    cdef bint will_give_back(self, Task task) noexcept:
        """True if tasks have enough memory for this one, which comes back when they are done."""
        cdef uint64_t coming = self.task_bytes, need = rp_arena_touched(RP_HEAD + task.data.total())
        # Not what this thread itself was copying when something was freed that submits: that does not get on before this does.
        for thread in self.copying:
            if <unsigned long>thread != PyThread_get_thread_ident():
                return True
        if self.producer.outstanding:
            coming += self.blocks.taken_bytes() + self.blocks.store.shared_bytes
        return coming > 0 and self.arena.used_bytes + need <= self.arena.limit_bytes + coming

    cdef object lodged(self):
        """The first in the backlog whose payload lies in a block, or None."""
        cdef Task task
        for waiting in self.pending:
            task = <Task>waiting if type(waiting) is Task else (<Source>waiting).stuck
            if task is not None and task.block.off:
                return waiting
        return None

    cdef bint overtake(self) except -1:
        """Commits what lies in a block already, though the first in the backlog waits for memory. False if there is none."""
        if self.released:
            return False
        waiting = self.lodged()
        if waiting is None:
            return False
        if type(waiting) is Task:
            if not self.commit_task(<Task>waiting):
                return False
            self.pending.remove(waiting)
        else:
            if not self.commit_task((<Source>waiting).stuck):
                return False
            (<Source>waiting).stuck = None
        return True

    cdef bint lodge(self, Task task) except -1:
        """Moves the payload into a block; False if there is no memory for one now."""
        cdef Py_ssize_t total = task.data.total(), head = 0
        cdef rp_block block
        cdef rp_head *at
        thread = PyThread_get_thread_ident()
        if self.released or self.foreign:
            return False
        if total >= HEADED_LEAST or task.others is not None:
            head = RP_HEAD
        self.copying.append(thread)
        if self.blocks.reserve(head + total, &block):
            self.copying.remove(thread)
            return False
        try:
            if self.blocks.fill(&block, task.data, head):
                rp_arena_free(self.arena, &block)
                return False
            if head:
                at = <rp_head *>(self.map.base + block.off)
                note32(&at.released, 0)
                at.keep = task.job.retries > 0
                # Where its result may lie, which the user may keep.
                at.room = block.backed - RP_HEAD if not at.keep and self.blocks.may_keep(&block) else 0
        except BaseException:
            rp_arena_free(self.arena, &block)
            raise
        finally:
            self.copying.remove(thread)
        task.data = None
        task.block = block
        task.headed = head > 0
        task.charge = rp_block_charge(&block)
        self.task_bytes += task.charge
        fault(RP_AT_BLOCK_WRITTEN)
        return True

    cdef int commit_task(self, Task task) except -1:
        """True if the task is in the ring, or its job has ended; False if there is no room for it now."""
        cdef rp_slot *slot
        cdef Entry *entry
        cdef uint64_t pos = 0
        if self.ended is not None:
            task.job.abort(self.ended)
        if task.job.done:
            self.blocks.starved = self.blocks.starved and task.data is None
            self.task_bytes -= task.charge
            task.charge = 0
            rp_arena_free(self.arena, &task.block)
            return True
        if self.producer.outstanding > self.map.slot_mask:
            return False
        # Back-pressure: a ring full of giants would be memory for nothing, the workers have enough to do. One that lies in a block
        # already waits as well: who reads ahead sees the backlog.
        if task.block.off and self.crowded(0):
            return False
        if task.data is not None and task.data.total() > RP_INLINE:
            if self.crowded(task.data.total()):
                return False
            if self.reclaimer and self.reclaimer != PyThread_get_thread_ident():
                # That thread waits for memory, and goes on with the backlog. Its own tasks cannot wait: they come from finalizers of
                # the garbage.
                return False
            if not self.lodge(task):
                self.blocks.starved = True
                if not self.reclaim(task):
                    if self.will_give_back(task) or (self.reclaimer and self.reclaimer != PyThread_get_thread_ident()):
                        self.blocks.starved = True
                        return False
                    self.blocks.starved = self.reclaimer != 0
                    if not task.job.done:
                        task.job.place(task.index, task.count, failure_of(self.no_memory(task.data.total())))
                    return True
            self.blocks.starved = False
            if task.job.done or self.ended is not None:
                return self.commit_task(task)
        slot = rp_producer_next(&self.producer, &pos)
        if slot == NULL:
            return False
        if task.block.off:
            slot.off = task.block.off + (RP_HEAD if task.headed else 0)
            slot.len = task.block.len - (RP_HEAD if task.headed else 0)
        else:
            slot.off = 0
            slot.len = task.data.used
            memcpy(slot.data, task.data.data, task.data.used)
        entry = &self.entries[pos & self.map.slot_mask]
        entry.block = task.block
        entry.charge = task.charge
        entry.headed = task.headed
        if task.others is not None:
            Py_INCREF(task.others)
            entry.others = <PyObject *>task.others
        task.block.off = 0
        self.commit(slot, pos, task.job, task.index, task.count, task.kind)
        return True

    cdef int pump(self, Job mine, int64_t deadline=0) except -1:
        """Moves the backlog into the ring, as far as there is room. mine: see `encoded`. deadline: when to leave the rest to
        others; 0: never."""
        cdef Source source
        if self.released or self.foreign:
            return 0
        while self.backlog:
            first = self.pending.popleft()
            self.backlog = len(self.pending) > 0
            done = False
            try:
                if type(first) is Task:
                    done = self.commit_task(<Task>first)
                else:
                    source = <Source>first
                    done = self.feed(source, mine, deadline)
            finally:
                if not done:
                    self.pending.appendleft(first)
                    self.backlog = True
                    # Also when an interrupt ends this: no task may be left while a worker is parked.
                    if not self.released:
                        rp_producer_kick(&self.producer)
            if not done and not (self.blocks.starved and self.overtake()):
                break
        if not self.released:
            rp_producer_kick(&self.producer)
            # Not where blocks are taken: this runs Python, and no task is in anybody's hands here.
            self.blocks.watch()
        self.announce()
        return 0

    cdef int feed(self, Source source, Job mine, int64_t deadline) except -1:
        """1: the source needs no attention now, it is exhausted or parked at its buffersize. 0: there is no room for more, or the
        deadline is over."""
        cdef IMapIterator iterator = <IMapIterator>source.job if isinstance(source.job, IMapIterator) else None
        cdef int fed = 1
        while fed == 1:
            if source.stuck is not None:
                if not self.commit_task(source.stuck):
                    return 0
                source.stuck = None
                # Only what took more than a few instructions to encode is worth a look at the clock.
                if deadline and rp_now_ns() > deadline:
                    return 0
            if self.ended is not None:
                source.job.abort(self.ended)
            if source.job.done:
                return 1
            if iterator is not None and self.stops(iterator):
                iterator.set_length(source.next)
                return 1
            if iterator is not None and not iterator.may_submit():
                source.parked = True
                return 1
            if (source.chunk == 0 and source.sliced and not source.rows and source.again is None
                    and self.feed_run(source, iterator)):
                continue
            try:
                fed = self.feed_single(source, mine) if source.chunk == 0 else self.feed_chunk(source, mine)
            except Exception as error:
                if is_interrupt(error):
                    raise
                # The iterator itself.
                if iterator is None:
                    source.job.place(source.next, 1, failure_of(error))
                else:
                    iterator.break_off(source.next, failure_of(error))
                source.next += 1
                fed = 2
            if fed and iterator is not None and fed != 2:
                iterator.submitted += 1
            if not self.released:
                rp_producer_nudge(&self.producer)
        if fed == 2 and iterator is not None:
            iterator.set_length(source.next)
        return fed != 0

    cdef Py_ssize_t feed_run(self, Source source, IMapIterator iterator) noexcept:
        """Feeds simple items of a tuple or range while there is room. Runs nothing else, so nothing changes meanwhile. Returns how
        many: at the first that it cannot feed, `feed_single` is the one to say why."""
        cdef Py_ssize_t i, size, n = source.total - source.at
        cdef uint64_t pos = 0, number
        cdef rp_slot *slot
        cdef PyObject *item
        cdef bint numbers = type(source.items) is range
        if iterator is not None and iterator.limited:
            n = min(n, iterator.buffersize - (iterator.submitted - iterator.yielded))
        for i in range(n):
            slot = rp_producer_next(&self.producer, &pos)
            if slot == NULL:
                n = i
                break
            if numbers:
                slot.data[0] = TAG_INT
                number = source.start + <uint64_t>source.at * source.step
                memcpy(slot.data + 1, &number, 8)
                size = 9
            else:
                item = PyTuple_GET_ITEM(source.items, source.at)
                size = simple_put(<object>item, slot.data, RP_INLINE)
                if not 0 <= size <= RP_INLINE:
                    n = i
                    break
            slot.off = 0
            slot.len = size
            source.at += 1
            source.next += 1
            self.commit(slot, pos, source.job, source.next - 1, 0, source.kind)
            rp_producer_nudge(&self.producer)
        if iterator is not None:
            iterator.submitted += n
        return n

    cdef int feed_single(self, Source source, Job mine) except -1:
        """1: one task went out. 0: no room. 2: no items left."""
        cdef uint64_t pos = 0
        cdef Py_ssize_t size
        cdef rp_slot *slot
        if source.bytes > RP_INLINE and self.crowded(source.bytes):
            return 0
        slot = rp_producer_next(&self.producer, &pos)
        if slot == NULL:
            return 0
        item = self.next_of(source)
        if item is END:
            return 2
        source.next += 1
        size = simple_put(item, slot.data, RP_INLINE)
        if 0 <= size <= RP_INLINE:
            slot.off = 0
            slot.len = size
            self.commit(slot, pos, source.job, source.next - 1, 0, source.kind)
        else:
            try:
                if source.sliced and type(source.items) is tuple and source.at < source.total:
                    source.shares.following = source.items[source.at]
                source.shares.current = item
                source.stuck = self.encoded(source.job, source.next - 1, 0, source.kind, item, mine, 0, source.shares)
                source.shares.current = source.shares.following = None
                source.bytes = size_of(source.stuck)
            except BaseException:
                if source.job is not mine:
                    source.next -= 1
                    source.again = (item,)
                raise
        return 1

    cdef object next_of(self, Source source):
        """The next item, or END; what could not be encoded the last time comes first."""
        if source.again is None:
            if not source.sliced:
                return following(source.items)
            if source.at == source.total:
                return END
            source.at += 1
            return source.items[source.at - 1]
        again, source.again = source.again, None
        return again[0]

    cdef int feed_chunk(self, Source source, Job mine) except -1:
        """As feed_single, for a chunk."""
        cdef Py_ssize_t n = source.chunk, i
        cdef bint in_map = source.left >= 0
        if self.producer.outstanding > self.map.slot_mask:
            return 0
        if source.bytes > RP_INLINE and self.crowded(source.bytes):
            return 0
        if source.adaptive:
            n = self.frame_size(source)
            if source.flying >= self.frames_ahead(source, n):
                return 0
        if source.sliced:
            return self.feed_slice(source, mine, n)
        chunk = []
        if source.again is not None:
            chunk = self.next_of(source)
            n = 0
        for i in range(n):
            item = following(source.items)
            if item is END:
                break
            chunk.append(item)
        n = len(chunk)
        if n == 0:
            return 2
        if in_map:
            source.left -= n
        i = source.next
        source.next += n if in_map else 1
        try:
            source.stuck = self.encoded(source.job, i, n, source.kind, chunk, mine, 0, source.shares)
            source.bytes = size_of(source.stuck)
        except BaseException:
            if source.job is not mine:
                source.left += n if in_map else 0
                source.next = i
                source.again = (chunk,)
            raise
        self.weigh_frame(source, n)
        return 1

    cdef int feed_slice(self, Source source, Job mine, Py_ssize_t n) except -1:
        """As feed_chunk, from a tuple or a range: no list is made of the chunk, and of a range no items."""
        cdef bint in_map = source.left >= 0
        cdef Py_ssize_t i = source.next, at = source.at
        cdef uint64_t number
        cdef unsigned char *to
        cdef Task task
        n = min(n, source.total - at)
        if n == 0:
            return 2
        # Before the encoding, which may let others look at the source.
        source.at += n
        source.left -= n if in_map else 0
        source.next += n if in_map else 1
        if type(source.items) is range:
            task = Task.__new__(Task)
            task.job = source.job
            task.index = i
            task.count = n
            task.kind = source.kind
            task.data = Buffer()
            to = task.data.grow(25)
            number = source.start + <uint64_t>at * source.step
            to[0] = TAG_RANGE
            memcpy(to + 1, &n, 8)
            memcpy(to + 9, &number, 8)
            memcpy(to + 17, &source.step, 8)
            task.data.used = 25
            source.stuck = task
        else:
            try:
                source.shares.following = source.items[source.at] if source.at < source.total and not source.rows else None
                source.shares.current = None if source.rows else source.items[at]
                source.stuck = self.encoded(source.job, i, n, source.kind, source.items, mine, at, source.shares)
                source.shares.current = source.shares.following = None
                source.bytes = size_of(source.stuck)
            except BaseException:
                if source.job is not mine:
                    source.at = at
                    source.left += n if in_map else 0
                    source.next = i
                raise
        self.weigh_frame(source, n)
        return 1

    cdef Py_ssize_t frame_size(self, Source source) noexcept:
        """Small until tasks prove cheap, then about FRAME_NS of work, and smaller again towards the end (guided)."""
        cdef Py_ssize_t n, share
        cdef double dear_ns
        if source.cost_ns < 0:
            return 1
        n = <Py_ssize_t>(FRAME_NS / (source.cost_ns + 1.0)) + 1
        # Worth looking at: it takes its time, and a good part of what the whole frame takes.
        dear_ns = max(FRAME_NS / 2, source.frame_ns / 4)
        if (source.pickle_ns > dear_ns and (source.bytes < COPY_BYTES or may_share(&source.arguments))
                or source.result_ns > dear_ns and may_share(&source.results)):
            # In a larger frame, what its items share is pickled once; up to the stdlib's size.
            n = max(n, min(source.chunk * 2, source.largest))
        n = min(n, source.chunk * 8, FRAME_MOST)
        if 4 * source.each * n > self.arena.limit_bytes:
            # One by one they may fit the arena.
            n = <Py_ssize_t>(self.arena.limit_bytes / (4 * source.each))
        share = source.left // (2 * <Py_ssize_t>self.workers)
        source.chunk = max(n, 1)
        return max(1, min(n, share))

    cdef void weigh_frame(self, Source source, Py_ssize_t n) noexcept:
        source.each = source.bytes / <double>n
        source.pickle_ns = 0 if source.stuck is None else source.stuck.pickle_ns
        if source.pickle_ns:
            weigh(&source.arguments, n, source.bytes)

    cdef Py_ssize_t frames_ahead(self, Source source, Py_ssize_t n) noexcept:
        cdef Py_ssize_t each = 3
        if source.cost_ns >= 0:
            each = max(each, min(<Py_ssize_t>(AHEAD_NS / (source.cost_ns * n + 1.0)), 24))
        return each * <Py_ssize_t>self.workers

    # ---- submit

    cdef object function_for(self, object target):
        cdef Function function = self.function_of(target)
        function.users += 1
        return function

    cdef Job start_call(self, pool, target, args, kwds, callback, error_callback, limits, bint sync):
        cdef Call job = Call.__new__(Call) if sync else AsyncResult.__new__(AsyncResult)
        cdef Function function = self.latest
        if function is not None and refers_to(function.target, target):
            # Nothing of the program's runs before the task is in the ring, where end() finds its job.
            self.admit(job, pool, callback, error_callback, limits)
            if not job.done:
                job.function = function
                function.users += 1
        else:
            self.begin(job, pool, target, callback, error_callback, limits)
        fault(RP_AT_REGISTERED)
        if not job.done:
            if kwds or type(kwds) is not dict:
                self.put(job, 0, TASK_CALL_KW, (args, kwds))
            else:
                self.put(job, 0, TASK_CALL, args)
        self.submitted(sync)
        return job

    def submit_map(self, pool, target, items, Py_ssize_t length, bint star, Py_ssize_t chunksize, bint adaptive,
                   callback, error_callback, limits, bint sync):
        """MapResult. items: an iterable that runs no user code and gives `length` > 0 items; chunksize 1 or more."""
        cdef MapResult job = MapResult.__new__(MapResult)
        cdef Source source
        job.values = [None] * length
        job.left = length
        self.begin(job, pool, target, callback, error_callback, limits)
        fault(RP_AT_REGISTERED)
        if not job.done:
            source = self.source_of(job, items, star, chunksize, adaptive)
            source.left = length
            source.largest = length // (4 * <Py_ssize_t>self.workers) + 1
            source.shares.checked = not sync
            self.enqueue(source, sync)
        self.submitted(sync)
        return job

    cdef int pull(self, IMapIterator job, items, bint star, Py_ssize_t chunksize) except -1:
        fault(RP_AT_REGISTERED)
        if not job.done:
            source = self.source_of(job, items, star, chunksize, False)
            (<Source>source).left = -1
            job.source = source
            self.enqueue(<Source>source, False)
        return self.submitted(False)

    cdef Source source_of(self, Job job, items, bint star, Py_ssize_t chunksize, bint adaptive):
        cdef Source source = Source.__new__(Source)
        source.job = job
        source.items = items
        source.shares = Shares.__new__(Shares, self.blocks, True)
        source.cost_ns = -1.0
        source.adaptive = adaptive
        source.chunk = 0 if chunksize == 1 and not adaptive else chunksize
        source.rows = is_rows(items)
        source.sliced = source.rows or sliceable(items, star)
        if not source.sliced:
            source.items = iter(items)
        else:
            source.total = len(items)
            if type(items) is range:
                source.start = <uint64_t><int64_t>items.start
                source.step = <uint64_t><int64_t>items.step
        source.kind = ((TASK_CHUNK_STAR if star else TASK_CHUNK) if source.chunk else (TASK_STAR if star else TASK_ITEM))
        return source

    cdef int enqueue(self, Source source, bint sync) except -1:
        source.job.source = source
        self.pending.append(source)
        self.backlog = True
        self.pump(source.job, 0 if sync else rp_now_ns() + SUBMIT_NS)
        return 0

    cdef int submitted(self, bint sync) except -1:
        if not sync and self.unfinished:
            self.wake_collector()
        if self.untidy():
            self.tidy()
        return 0

    cdef int wake_collector(self) except -1:
        # It may run already, and sleep: an interrupt can have hidden that it was started. First, since it may come again.
        if self.dormant:
            self.poke()
        start = self.start_collector
        if start is not None:
            if start():
                self.start_collector = None
        return 0

    cdef Shares shares_of(self, Job job):
        if not isinstance(job, IMapIterator):
            if self.plain is None:
                self.plain = Shares.__new__(Shares, self.blocks, True, True)
            return self.plain
        if job.shares is None:
            job.shares = Shares.__new__(Shares, self.blocks, True)
        return <Shares>job.shares

    cdef int give(self, Job job, Py_ssize_t index, Py_ssize_t count, bint star, object value) except -1:
        cdef Task task
        if count == 0:
            self.put(job, index, TASK_STAR if star else TASK_ITEM, value)
        else:
            task = self.encoded(job, index, count, TASK_CHUNK_STAR if star else TASK_CHUNK, value, job, 0, self.shares_of(job))
            if task is not None:
                self.pending.append(task)
                self.backlog = True
                self.pump(job)
        return 0

    cdef bint has_room(self) noexcept:
        return not self.backlog and self.producer.outstanding <= self.map.slot_mask

    cdef int resume(self, Job job) except -1:
        cdef Source source = <Source>job.source
        if source.parked:
            source.parked = False
            self.pending.append(source)
            self.backlog = True
            self.pump(job)
        return 0

    # ---- collect

    cdef int collect(self) except -1:
        """Takes all results that are there. Returns their number."""
        cdef int n = 0, enabled
        if self.collecting or self.released or self.foreign:
            return 0
        self.collecting = True
        # Decoding makes containers; a finalizer that waits for this very pool could never return from in here.
        enabled = PyGC_Disable()
        try:
            n = self.drain()
        finally:
            self.collecting = False
            if enabled:
                PyGC_Enable()
        if n:
            self.collections += 1
            self.announce()
            if self.untidy():
                self.tidy()
        return n

    cdef int drain(self) except -1:
        cdef uint32_t seat
        cdef int n = 0, got, k
        cdef rp_view view
        for seat in range(rp_used(&self.map)):
            if not rp_reader_unread(&self.readers[seat]):
                continue
            got = 1
            self.settling = seat
            for k in range(RECORDS_A_PASS):
                got = rp_reader_peek(&self.readers[seat], &view)
                if got != 1:
                    break
                rp_prefetch_slot(&self.map, view.pos + RP_AHEAD)
                fault(RP_AT_PEEKED)
                if not self.take_number(seat, &view) and not self.take_record(seat, &view):
                    got = -EINVAL
                    break
                rp_reader_consume(&self.readers[seat], &view)
                self.record_bytes += (view.len + 16 - self.record_bytes) / 16
                n += 1
            self.settling = -1
            if got < 0:
                self.broken.add(seat)
                rp_reader_give_up(&self.readers[seat])
                n += 1
            rp_reader_room(&self.readers[seat])
        return n

    cdef inline bint untidy(self) noexcept:
        """True if `tidy` has something to do."""
        return self.closing or PyList_GET_SIZE(self.trash) or PyList_GET_SIZE(self.due) or PySet_GET_SIZE(self.broken)

    cdef int tidy(self) except -1:
        """Outside every critical stretch: drops the user's objects, passes on callbacks, lets the workers of a closed pool go."""
        Collector.tidy(self)
        if self.released:
            return 0
        if self.broken:
            self.alarm()
        if self.closing and self.unfinished == 0 and not self.producer.stopped:
            rp_producer_stop(&self.producer)
        return 0

    cdef bint take_number(self, uint32_t seat, rp_view *view) noexcept:
        """As take_record, for the result of a single task that is an int or a float. False: it is not, or there is something wrong."""
        cdef const unsigned char *at = view.payload
        cdef unsigned char tag
        cdef PyObject *made
        cdef long long number = 0
        cdef double real = 0
        if view.kind != RESULT_VALUE or view.len != 9:
            return False
        tag = at[0]
        if tag != TAG_INT and tag != TAG_FLOAT or not rp_producer_expects(&self.producer, view.pos, seat):
            return False
        if self.entries[view.pos & self.map.slot_mask].count:
            return False
        if tag == TAG_INT:
            memcpy(&number, at + 1, 8)
            made = PyLong_FromLongLong(number)
        else:
            memcpy(&real, at + 1, 8)
            made = PyFloat_FromDouble(real)
        if made == NULL:
            PyErr_Clear()
            return False
        fault(RP_AT_SETTLING)
        self.settle(view.pos, <object>made, 0, 0)
        Py_DECREF_POINTER(made)
        fault(RP_AT_SETTLED)
        return True

    cdef bint take_record(self, uint32_t seat, rp_view *view) noexcept:
        """False: the record cannot be true."""
        cdef Entry *entry
        cdef const unsigned char *at = view.payload
        cdef Py_ssize_t size = view.len
        cdef int kind = view.kind
        cdef bytes whole = None
        cdef object outcome = None
        cdef uint64_t took = 0, length = view.len
        cdef uint64_t words[1]
        cdef bint booting
        try:
            booting = not self.seat_started(seat)
            if kind == RESULT_PIECE:
                if not booting and not rp_producer_expects(&self.producer, view.pos, seat):
                    return False
                whole = self.assemble(seat, at, size)
                if whole is None:
                    return True
                at = <const unsigned char *>PyBytes_AS_STRING(whole)
                kind = at[0]
                at += 1
                length = size = PyBytes_GET_SIZE(whole) - 1
                if booting and kind != RESULT_BOOT:
                    return False
            if kind == RESULT_BOOT or kind == RESULT_MAIN:
                if booting:
                    self.boot_errors[seat] = failure_from(at, size), kind == RESULT_MAIN
                    return True
                # A main module may have caught its error: then the worker started after all, maybe before this was read.
                return kind == RESULT_MAIN
            if kind == RESULT_WANT:
                if size != 8:
                    return False
                memcpy(&words, at, 8)
                self.blocks.want(seat, words[0], True)
                self.blocks.watch()
                return True
            if size < 1 or not rp_producer_expects(&self.producer, view.pos, seat):
                return False
            entry = &self.entries[view.pos & self.map.slot_mask]
            if kind == RESULT_BLOCK:
                outcome = self.block_of(seat, at, size, entry, &took, &length)
                if outcome is None:
                    return False
            elif kind == RESULT_VALUE:
                if entry.count:
                    return False
                if runs_code(at[0]):
                    outcome = raw_from(at, size, -1)
                else:
                    outcome = decode(at, size)
            elif kind == RESULT_VALUES:
                if size < 9 or entry.count <= 0:
                    return False
                memcpy(&took, at, 8)
                if runs_code(at[8]):
                    outcome = raw_from(at + 8, size - 8, entry.count)
                else:
                    outcome = decode_values(at + 8, size - 8)
                    if len(<list>outcome) != entry.count:
                        return False
            elif kind == RESULT_ERROR:
                outcome = failure_from(at, size)
            else:
                return False
        except MemoryError as error:
            if not rp_producer_expects(&self.producer, view.pos, seat):
                return True  # of no task, but from a worker that cannot start
            outcome = failure_of(error)
        except BaseException:
            return False
        fault(RP_AT_SETTLING)
        self.settle(view.pos, outcome, took, length)
        fault(RP_AT_SETTLED)
        return True

    cdef object block_of(self, uint32_t seat, const unsigned char *at, Py_ssize_t size, Entry *entry, uint64_t *took, uint64_t *length):
        """The Raw of a result that lies in a block; None if the record cannot be true."""
        cdef uint64_t words[4]
        cdef ResultBlock block
        cdef Raw raw
        if size != sizeof(words):
            return None
        memcpy(words, at, sizeof(words))
        if words[1] < 1 or words[3] != <uint64_t>(RESULT_VALUES if entry.count else RESULT_VALUE):
            return None
        block = self.blocks.result(seat, words[0], words[1], &entry.block)
        if block is None:
            return None
        if not entry.block.off:
            # It was the task's own.
            entry.headed = False
        took[0] = words[2]
        length[0] = words[1]
        raw = Raw.__new__(Raw)
        raw.block = block
        self.unread.add(raw)
        raw.count = entry.count if entry.count else -1
        return raw

    cdef bytes assemble(self, uint32_t seat, const unsigned char *at, Py_ssize_t size):
        """Adds a piece of a long result; the whole when it is complete, else None. ValueError for a piece that cannot be true."""
        cdef uint64_t total, offset
        cdef bytes whole
        if size < 16:
            raise ValueError("short piece")
        memcpy(&total, at, 8)
        memcpy(&offset, at + 8, 8)
        size -= 16
        if offset == 0:
            if total < 2 or total > (<uint64_t>1 << 46):
                raise ValueError("impossible size")
            self.pieces[seat] = PyBytes_FromStringAndSize(NULL, total)
            self.filled[seat] = 0
        whole = self.pieces.get(seat)
        if whole is None or <uint64_t>PyBytes_GET_SIZE(whole) != total or offset != <uint64_t>self.filled[seat]:
            raise ValueError("piece out of order")
        if <uint64_t>size > total - offset:
            raise ValueError("piece too long")
        memcpy(PyBytes_AS_STRING(whole) + offset, at + 16, size)
        self.filled[seat] = offset + size
        if offset + size < total:
            return None
        del self.pieces[seat]
        return whole

    cdef int settle(self, uint64_t pos, object outcome, uint64_t took, uint64_t size) noexcept:
        """The task has its outcome: its slot and block are free, its job gets it. took: of a chunk, nanoseconds << 8 | 256ths of them
        for encoding its results; or 0. size: bytes of these results."""
        cdef Entry *entry = &self.entries[pos & self.map.slot_mask]
        cdef Job job
        cdef Source source
        cdef Function function
        cdef Py_ssize_t index = entry.index, count = entry.count
        cdef double cost_ns
        if entry.job == NULL:
            return 0
        job = <Job>entry.job
        function = <Function>entry.function
        Py_XDECREF(entry.job)
        Py_XDECREF(entry.function)
        entry.job = entry.function = NULL
        function.slots -= 1
        rp_producer_settle(&self.producer, pos)
        self.task_bytes -= entry.charge
        entry.charge = 0
        others = None
        if entry.others != NULL:
            others = <object>entry.others
            Py_XDECREF(entry.others)
            entry.others = NULL
        if entry.headed and self.settling >= 0:
            try:
                self.blocks.settled(&entry.block, self.settling, others)
            except MemoryError:
                # Nobody knows whether the worker still uses it: it is not used again.
                entry.block.off = 0
        else:
            rp_arena_free(self.arena, &entry.block)
        entry.headed = False
        if count and job.source is not None:
            source = <Source>job.source
            source.flying -= 1
            if took:
                cost_ns = (took >> 8) / <double>count
                source.cost_ns = cost_ns if source.cost_ns < 0 else 0.7 * source.cost_ns + 0.3 * cost_ns
                source.frame_ns = took >> 8
                source.result_ns = (took >> 8) * (took & 255) >> 8
                if source.result_ns > FRAME_NS / 2:
                    weigh(&source.results, count, size)
        if not entry.doomed:
            job.place(index, count, outcome)
        self.free_function(function)
        # What nobody else has goes later: it may be the user's, and run anything.
        if Py_REFCNT(function) == 1:
            self.trash.append(function)
        if Py_REFCNT(job) == 1:
            self.trash.append(job)
        return 0

    cdef int settled(self, Job job) noexcept:
        cdef Function function = <Function>job.function
        if function is not None:
            function.users -= 1
            self.free_function(function)
            job.function = None
            if Py_REFCNT(function) == 1:
                self.trash.append(function)
        if job.timeout_ns:
            self.timed -= 1
            self.strays = True
        return Collector.settled(self, job)

    cdef void free_function(self, Function function) noexcept:
        if function.users == 0 and function.slots == 0 and not function.cached:
            rp_arena_free(self.arena, &function.block)

    cdef int let_go(self, Job job) noexcept:
        cdef uint64_t i
        # At the end of the pool the table is emptied as a whole.
        if self.producer.outstanding == 0 or self.cut or self.released:
            return 0
        for i in range(self.slots_used()):
            if self.entries[i].job == <PyObject *>job:
                Py_INCREF(self.nobody)
                self.entries[i].job = <PyObject *>self.nobody
                self.trash.append(job)
                Py_XDECREF(<PyObject *>job)
        return 0

    cdef int poll(self) except -1:
        self.check()
        self.collect()
        if self.backlog:
            self.pump(None)
        self.tidy()
        return 0

    # ---- wait

    cdef int wait_for(self, Waiter waiter, double timeout) except -1:
        cdef int64_t deadline = -1, left = -1
        cdef rp_patience patience
        cdef rp_spin spin
        cdef uint32_t seen
        cdef bint fresh = True, unread
        cdef Job mine = <Job>waiter if isinstance(waiter, Job) else None
        self.check()
        if timeout >= 0:
            deadline = rp_now_ns() + <int64_t>(min(timeout, 1e9) * 1e9)
        try:
            while True:
                if self.released:
                    return waiter.satisfied()
                seen = rp_parent_arm(&self.map)
                self.collect()
                if self.backlog and not waiter.satisfied():
                    self.pump(mine)
                if self.untidy():
                    self.tidy()
                if waiter.satisfied():
                    # What was collected made room in the ring, and nobody else may look for a while.
                    if self.backlog:
                        self.pump(mine)
                    return 1
                if self.callback_thread is not None and mine is not None:
                    self.refuse_deadlock(mine)
                if deadline >= 0:
                    left = deadline - rp_now_ns()
                    if left <= 0:
                        return 0
                patience.limit_ns = left
                if fresh and (left < 0 or left > OVERDUE_NS):
                    patience.limit_ns = OVERDUE_NS
                self.be_patient(&patience)
                if patience.spin and rp_parent_glance(self.readers, rp_used(&self.map)):
                    continue
                spin = self.spin
                self.waiting += 1
                with nogil:
                    unread = rp_parent_wait(&self.map, self.readers, rp_used(&self.map), seen, &patience, &spin)
                self.waiting -= 1
                if fresh and not unread and not self.released:
                    rp_producer_rouse(&self.producer)
                fresh = unread
                self.spin = spin
                self.check()
                PyErr_CheckSignals()
        finally:
            if self.unfinished and not self.waiting and (self.dormant or self.start_collector is not None):
                self.wake_collector()

    cdef void be_patient(self, rp_patience *patience) noexcept:
        cdef uint32_t out = self.producer.outstanding, workers = self.workers, bytes
        # As many workers as there are tasks run beside this thread: spinning must not take a core from one of them.
        patience.spin = min(out, workers) < self.cores
        patience.wake_bytes = 0
        if out > 8 * workers:
            # About half of what is out, if results are as large as they were.
            bytes = <uint32_t>min(out * self.record_bytes / (2 * workers), self.map.ring_bytes / 4)
            patience.wake_bytes = bytes

    cpdef ring(self):
        if not self.foreign and not self.released:
            rp_parent_ring(&self.map)

    cdef int poke(self) except -1:
        if self.released or self.foreign:
            return 0
        rp_bell_ring(&self.nap_bell, self.map.doorbell)
        return 0

    cdef int nap(self, uint32_t seen, int64_t ns) except -1:
        cdef rp_doorbell_kind kind = self.map.doorbell
        with nogil:
            rp_bell_park(&self.nap_bell, seen, ns, kind)
        return 0

    def run_collector(self):
        """On a thread of its own, until `finish`: collects for callbacks, and while no caller does."""
        cdef uint32_t seen, bell
        cdef uint64_t collections
        cdef int ticks = 0
        cdef bint unread, fresh = True
        cdef rp_patience patience
        cdef rp_spin spin
        rp_spin_init(&spin)
        patience.spin = False
        patience.wake_bytes = 0
        while not self.finished:
            seen = rp_bell_read(&self.nap_bell)
            if self.unfinished == 0 or (self.waiting and ticks >= SHADOW_TICKS):
                ticks = 0
                fresh = True
                self.dormant = True
                self.nap(seen, -1)
                self.dormant = False
            elif self.waiting:
                ticks += 1
                self.nap(seen, COALESCE_NS)
            else:
                ticks = 0
                bell = rp_parent_arm(&self.map)
                if self.backlog:
                    self.pump(None)
                patience.limit_ns = OVERDUE_NS if fresh else -1
                with nogil:
                    unread = rp_parent_wait(&self.map, self.readers, rp_used(&self.map), bell, &patience, &spin)
                if fresh and not unread:
                    rp_producer_rouse(&self.producer)
                fresh = unread
                if unread and not self.urgent:
                    collections = self.collections
                    self.nap(seen, COALESCE_NS)
                    if self.waiting or self.collections != collections:
                        continue
                self.collect()
                if self.backlog:
                    self.pump(None)
                self.tidy()

    # ---- life

    def close(self):
        """No more jobs come: workers leave when all are done."""
        if self.foreign or self.released:
            return
        self.closing = True
        self.end_parked()
        self.ring()
        self.tidy()
        if self.unfinished:
            # A call that was interrupted before it began to wait has nobody else to collect for it.
            self.wake_collector()

    def end(self, error):
        """Every unfinished job fails with this error, and so does every later one."""
        cdef uint64_t i
        if self.foreign or self.released:
            return
        if self.ended is None:
            self.ended = error
        self.cut = True
        jobs = list(self.live)
        for i in range(self.slots_used()):
            if self.entries[i].job != NULL:
                jobs.append(<object>self.entries[i].job)
        for entry in list(self.pending):
            jobs.append((<Task>entry).job if type(entry) is Task else (<Source>entry).job)
        for job in jobs:
            (<Job>job).abort(fresh(error))
        self.ring()
        self.tidy()

    def finish(self):
        """The collector thread ends."""
        self.finished = True
        self.poke()
        self.ring()

    # ---- seats

    def open_seat(self, uint32_t seat, uint32_t name):
        """Makes the seat ready for a new worker, which stands by until it is sent for. OSError if there is no memory.

        name: digest of the process's name, by which it finds its seat when it cannot come so far as to be told.
        """
        cdef uint64_t off
        cdef int err
        self.check()
        if seat >= self.map.nseats:
            raise ValueError(f"there is no seat {seat}")
        off = <uint64_t>(<unsigned char *>&self.map.seats[seat] - self.map.base)
        err = rp_segment_back(&self.segment, off, sizeof(rp_seat))
        if not err and self.segment.on_disk:
            off = <uint64_t>(self.map.rings - self.map.base) + <uint64_t>seat * self.map.ring_bytes
            err = rp_segment_back(&self.segment, off, self.map.ring_bytes)
        if err:
            raise OSError(-err, f"no shared memory for a worker: {os.strerror(-err)}")
        rp_reader_init(&self.readers[seat], &self.map, seat)
        self.boot_errors.pop(seat, None)
        store32(&self.map.seats[seat].name, name)
        if seat >= self.map.used:
            rp_use_seats(&self.map, seat + 1)
        fault(RP_AT_SEAT_OPENED)

    def send_for(self, uint32_t seat):
        """The worker in this seat is to serve, as soon as it is ready."""
        rp_parent_order(&self.map, seat, RP_SERVE)
        fault(RP_AT_SENT_FOR)

    def send_away(self, uint32_t seat):
        """The worker in this seat is to leave after the task that it runs."""
        rp_parent_order(&self.map, seat, RP_LEAVE)

    def check_owner(self):
        """RuntimeError if this is a forked child: the pool is its parent's."""
        self.check()

    def seat_left(self, uint32_t seat):
        """True if the worker in this seat has left by itself, between two tasks."""
        return load32(&self.map.seats[seat].phase) == RP_SEAT_LEAVING

    def busy_seats(self):
        """The seats, as a set, whose workers run a task, as far as they say themselves."""
        cdef uint64_t i, state
        busy = set()
        for i in range(0 if self.released else self.slots_used()):
            if self.entries[i].job != NULL:
                state = load64(&self.map.slots[i].state)
                if rp_state_phase(state) == RP_CLAIMED or rp_state_phase(state) == RP_RUNNING:
                    busy.add(rp_state_seat(state))
        return busy

    def seat_started(self, uint32_t seat):
        """True if the worker in this seat has run its initializer."""
        return load32(&self.map.seats[seat].phase) >= RP_SEAT_READY

    def seat_held(self, uint32_t seat):
        """Bytes of memory for which the worker in this seat left; 0 if it did not."""
        return load64(&self.map.seats[seat].held)

    def condemned_seats(self):
        """Seats whose worker has to be killed: it has written what no worker of ours would write into its ring, or its task has
        its outcome before its end."""
        return self.broken | self.doomed

    def boot_error(self, uint32_t seat):
        """Why the worker in this seat could not start: the exception, or None if it did not tell, and whether it is the main
        module's, which the worker was importing; else it is the initializer's."""
        failure, in_main = self.boot_errors.pop(seat, (None, False))
        return None if failure is None else (<Failure>failure).exception(), in_main

    def bury(self, uint32_t seat, describe):
        """The worker in this seat is dead: takes its last results, fails the tasks that it was running or has them run once more,
        empties the seat.

        describe: function of (name of the called function, task index) that gives the error of a lost task.
        Returns the number of tasks that were lost.
        """
        cdef uint32_t n = LOST_MOST, total = 0
        fault(RP_AT_BURYING)
        while rp_reader_unread(&self.readers[seat]):
            if self.collecting:
                yield_gil()
            else:
                self.collect()
        fault(RP_AT_DRAINED)
        # More than one is lost only to a task that wrote into the ring: then it may be any number.
        while n == LOST_MOST:
            n = self.bury_some(seat, describe)
            total += n
        self.blocks.bury(seat)
        self.pieces.pop(seat, None)
        self.broken.discard(seat)
        self.doomed.discard(seat)
        rp_reader_reset(&self.readers[seat])
        self.ring()
        self.poll()
        return total

    cdef uint32_t bury_some(self, uint32_t seat, describe) except? 0:
        """Settles what the dead worker was running, up to LOST_MOST tasks. Returns how many."""
        cdef uint64_t lost[LOST_MOST]
        cdef uint32_t i, n = rp_producer_bury(&self.producer, seat, lost, LOST_MOST)
        cdef Entry *entry
        cdef Limit *limit
        cdef Job job
        fault(RP_AT_BURIED)
        for i in range(n):
            entry = &self.entries[lost[i] & self.map.slot_mask]
            if entry.job == NULL:
                rp_producer_settle(&self.producer, lost[i])
                continue
            limit = &self.limits[lost[i] & self.map.slot_mask]
            job = <Job>entry.job
            if not job.done and not entry.doomed and entry.limited and limit.tries < job.retries:
                limit.tries += 1
                limit.since = 0
                rp_producer_retry(&self.producer, lost[i])
                continue
            failure = None if job.done or entry.doomed else failure_of(describe(job._function or "?", entry.index))
            self.settle(lost[i], failure, 0, 0)
        return n

    # ---- time limits and cancelling

    cdef int limit(self, Job job, int64_t timeout_ns, int retries) except -1:
        cdef bint tell
        Collector.limit(self, job, timeout_ns, retries)
        if timeout_ns:
            self.timed += 1
            tell = not self.looking or timeout_ns < self.shortest
            if self.shortest == 0 or timeout_ns < self.shortest:
                self.shortest = timeout_ns
            if tell:
                try:
                    call(self.alarm)
                except BaseException:
                    self.timed -= 1
                    raise
        return 0

    def next_look(self):
        """Seconds until `overdue` should be asked again; None while no job has a time limit."""
        # For a while after the last one, so that a loop of short calls need not wake the supervisor for each.
        self.quiet = 0 if self.timed or self.strays else self.quiet + 1
        self.looking = self.quiet < QUIET_LOOKS and self.shortest > 0
        if not self.looking:
            self.shortest = 0
            return None
        return max(LOOK_LEAST_NS, min(self.shortest // 10, LOOK_MOST_NS)) / 1e9

    def overdue(self, describe):
        """Fails the tasks that run for longer than their limit; their workers are condemned then.

        describe: function of (name of the called function, task index, seconds, seat) that gives the error of such a task.
        """
        cdef uint64_t i, pos = 0
        cdef uint32_t seat = 0, calls
        cdef rp_phase phase = RP_READY
        cdef Entry *entry
        cdef Limit *limit
        cdef Job job
        cdef int64_t now
        if (self.timed == 0 and not self.strays) or self.released:
            return
        self.strays = False
        for i in range(self.slots_used()):
            entry = &self.entries[i]
            limit = &self.limits[i]
            if entry.job == NULL or entry.doomed or not entry.limited or not limit.timeout_ns:
                continue
            job = <Job>entry.job
            if job.done:
                self.strays = True
            if not rp_producer_look(&self.producer, i, &pos, &phase, &seat):
                continue
            if phase != RP_RUNNING and phase != RP_CLAIMED:
                continue
            now = rp_now_ns()
            calls = load32(&self.map.seats[seat].calls) if phase == RP_RUNNING else 0
            if limit.since == 0 or calls != limit.calls:
                limit.since = now
                limit.calls = calls
                continue
            if now - limit.since < limit.timeout_ns + (0 if calls else LOADING_NS):
                continue
            if phase == RP_CLAIMED and rp_producer_revoke(&self.producer, pos):
                # Its worker was stopped before it began: somebody else shall run it.
                limit.since = 0
                rp_producer_retry(&self.producer, pos)
                continue
            if not rp_producer_doom(&self.producer, pos, seat):
                continue
            entry.doomed = True
            self.doomed.add(seat)
            # Another thread may use the table meanwhile; the slot stays this task's until its worker is buried.
            index = entry.index + (min(<Py_ssize_t>calls, entry.count) - 1 if calls and entry.count else 0)
            count = entry.count
            at = entry.index
            job.place(at, count, failure_of(describe(job._function or "?", index, limit.timeout_ns / 1e9, seat)))
        self.announce()
        self.tidy()

    cdef bint cancel(self, Job job, bint kill) except -1:
        cdef uint64_t i, pos = 0
        cdef uint32_t seat = 0
        cdef rp_phase phase = RP_READY
        cdef Entry *entry
        cdef bint whole = isinstance(job, MapResult), kept = False
        self.check()
        self.collect()
        if self.released:
            return False
        for i in range(self.slots_used()):
            entry = &self.entries[i]
            if entry.job != <PyObject *>job or entry.doomed or job.done:
                continue
            if not rp_producer_look(&self.producer, i, &pos, &phase, &seat):
                kept = True
            elif rp_producer_revoke(&self.producer, pos):
                # Its outcome is dropped: the job is done before the next look at it, or has other tasks.
                entry.doomed = True
                self.settle(pos, None, 0, 0)
            elif kill and rp_producer_look(&self.producer, i, &pos, &phase, &seat) and rp_producer_doom(&self.producer, pos, seat):
                entry.doomed = True
                self.doomed.add(seat)
            else:
                kept = True
        try:
            if kept and not whole:
                return False
            return Collector.cancel(self, job, kill)
        finally:
            # After the job has its end: what a signal handler raises in here must not leave it without one.
            if self.doomed:
                call(self.alarm)

    @property
    def late(self):
        """Wake-ups by time-out that found work: each one is a bug in a doorbell protocol."""
        if self.released or self.foreign:
            return 0
        return load32(&self.map.h.late) + sum(load32(&self.map.seats[i].late) for i in range(rp_used(&self.map)))

    def share(self, value):
        """A SharedObject. Raises what pickling raises, OSError if there is no memory."""
        self.check()
        if self.released or self.closing or self.ended is not None:
            raise ValueError("Pool not running")
        self.sharing += 1
        try:
            return share(self.blocks, value)
        finally:
            self.sharing -= 1

    def tend(self):
        """Gives memory back that is not used for the time being. Seconds to the next call, or None."""
        if self.foreign or self.released:
            return None
        return self.blocks.tend()

    @property
    def arena_used(self):
        """Bytes of the arena that are in use."""
        return self.arena.used_bytes


cdef Py_ssize_t size_of(Task task) noexcept:
    if task is None:
        return 0
    return task.block.len if task.data is None else task.data.total()


cdef void weigh(Weighing *weighing, Py_ssize_t items, Py_ssize_t size) noexcept:
    """A chunk of so many items takes `size` bytes. Chunks about as large as the last one tell nothing."""
    cdef double each = size / <double>items
    if items >= 2 * weighing.items:
        weighing.shared = weighing.items > 0 and each < 0.75 * weighing.each
        weighing.items = items
        weighing.each = each


cdef bint may_share(const Weighing *weighing) noexcept:
    """True unless a chunk of two items was as good as two of one."""
    return weighing.shared or weighing.items <= 1


def read_small(path):
    """The first 4 KiB of a file of the kernel's, as bytes. OSError if it cannot be read. The GIL is held: against a thread that only
    computes, getting it back takes five milliseconds for each call of Python's own."""
    cdef char text[4096]
    cdef bytes name = os.fsencode(path)
    cdef long n = rp_read_small(name, text, sizeof(text))
    if n < 0:
        raise OSError(-n, os.strerror(-n), path)
    return text[:n]


cdef object failure_from(const unsigned char *at, Py_ssize_t size):
    failure = Failure.__new__(Failure)
    (<Failure>failure).data = PyBytes_FromStringAndSize(<const char *>at, size)
    return failure


cdef object raw_from(const unsigned char *at, Py_ssize_t size, Py_ssize_t count):
    cdef Raw raw = Raw.__new__(Raw)
    raw.data = PyBytes_FromStringAndSize(<const char *>at, size)
    raw.count = count
    return raw


cdef int yield_gil() except -1:
    with nogil:
        rp_bell_park(&nobody, 0, 100000, RP_DOORBELL_POLL)
    return 0

cdef rp_u32 nobody
