# cython: language_level=3, boundscheck=False, wraparound=False
"""Values to bytes and back.

Owns no shared memory and knows no ring: it writes where it is told to. Called by the dispatcher (arguments) and the worker loop
(arguments, results), in either direction.

Exact built-in scalars, and small tuples, lists and dicts of them, are written as tagged bytes ("simple" values); their encoding
runs no user code and cannot fail. So are plain instances (_instances.pyx) with such scalars and tuples as attributes: the class as a
name, which the receiver looks up as unpickling does. Everything else is pickled, protocol 5, with multiprocessing's own reducers,
and may run whatever the objects please. `marshal` is no substitute: it turns any object with a buffer into bytes without a word.

    value   := tag [payload]            tags in _codec.pxd; integers and lengths little-endian as in memory
             | TAG_INSTANCE count size module name key* value*    count keys; size: bytes up to the first value, the tag's included
             | TAG_SLOTTED ...          as TAG_INSTANCE, the keys being slots
    values  := TAG_TUPLE count value*   a chunk of arguments or results
             | TAG_MIXED count value*   the same, with instances among them
             | TAG_INTS int64*          all of them exact ints
             | TAG_FLOATS double*       all of them exact floats
             | TAG_RANGE count start step    arguments only, written by the dispatcher
             | TAG_PICKLE pickle of a sequence
             | TAG_PARTS ...            as below, of a sequence

Large values are not copied here: a Buffer refers to the memory of bytes, strings and whatever offers its buffers to pickle, and it
is copied from there into the block. With buffers of their own, value and values are TAG_PARTS and what csrc/parts.h says.
"""

import array
import collections
import copyreg
import io
import pickle
import sys
from multiprocessing.reduction import ForkingPickler

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.dict cimport PyDict_Next
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_FromDouble
from cpython.list cimport PyList_GET_ITEM, PyList_New, PyList_SET_ITEM
from cpython.long cimport PyLong_FromLongLong
from cpython.memoryview cimport PyMemoryView_FromMemory
from cpython.mem cimport PyMem_RawCalloc, PyMem_RawFree, PyMem_RawRealloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_New, PyTuple_SET_ITEM
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from pool._buffers cimport TOKEN_SPARE, Sharer, Span, load_parts, span_of, token_of, unlocked
from pool._csrc cimport (RP_PART_ALIGN, RP_PART_FIXED, RP_PART_HERE, RP_PART_SHARED, rp_copy, rp_fill, rp_filling, rp_part,
                         rp_parts_head, rp_segment, rp_taker, rp_unfill)
from pool._instances cimport Layout, Plain, plain_of

cdef extern from "Python.h":
    int PyBUF_READ
    long long PyLong_AsLongLongAndOverflow(object, int *) noexcept
    Py_ssize_t PyUnicode_GET_LENGTH(object) noexcept
    int PyUnicode_KIND(object) noexcept
    void *PyUnicode_DATA(object) noexcept
    object PyUnicode_FromKindAndData(int, const void *, Py_ssize_t)
    bint PyLong_CheckExact(object) noexcept
    bint PyFloat_CheckExact(object) noexcept
    bint PyUnicode_CheckExact(object) noexcept
    bint PyBytes_CheckExact(object) noexcept
    bint PyTuple_CheckExact(object) noexcept
    bint PyList_CheckExact(object) noexcept
    bint PyDict_CheckExact(object) noexcept
    Py_ssize_t PyTuple_GET_SIZE(object) noexcept
    Py_ssize_t PyList_GET_SIZE(object) noexcept
    Py_ssize_t PyDict_Size(object) noexcept
    void Py_LeaveRecursiveCall() noexcept
    Py_ssize_t Py_REFCNT(object) noexcept

cdef extern from *:
    """
    /* The value of an int of one digit, without a call; 0 if it has more. */
    static inline int rp_one_digit(PyObject *o, long long *number)
    {
    #if PY_VERSION_HEX >= 0x030C0000
        if (!PyUnstable_Long_IsCompact((PyLongObject *)o))
            return 0;
        *number = PyUnstable_Long_CompactValue((PyLongObject *)o);
    #else
        Py_ssize_t n = Py_SIZE(o);
        if (n < -1 || n > 1)
            return 0;
        *number = n ? n * (long long)((PyLongObject *)o)->ob_digit[0] : 0;
    #endif
        return 1;
    }
    static inline int rp_sole_bytes(PyObject *o) { return PyBytes_CheckExact(o) && Py_REFCNT(o) == 1; }
    /* What a slot of an instance refers to, borrowed; NULL without an error if it is empty. */
    static inline PyObject *rp_slot(PyObject *o, PyObject *name)
    {
        PyObject *value = PyObject_GetAttr(o, name);
        if (value != NULL)
            Py_DECREF(value);
        else
            PyErr_Clear();
        return value;
    }
    static inline int rp_enter(const char *where) { return Py_EnterRecursiveCall(where) ? -1 : 0; }
    """
    bint rp_one_digit(object, long long *) noexcept
    bint rp_sole_bytes(PyObject *) noexcept
    PyObject *rp_slot(object, object) noexcept
    int rp_enter(const char *) except -1

# Containers that are longer, deeper or larger than this are pickled: pickle is quick on them, and it keeps shared objects shared.
cdef enum:
    SMALL = 64
    DEPTH = 4
    LARGE = 1024
    REFERRED = 32768    # memory of an object that is worth not being copied twice
    KEPT = 1 << 15      # a pickle whose pickler may be used again
    HUGE = 1 << 25      # an encoding that must not be there twice
    APART = 65536       # bytes that are copied without the GIL
    PART = 8192         # a buffer that is worth staying out of the stream

# With the protocols below 5, which the stdlib's pools use as long as they are the default, a read-only array arrives writable.
cdef bint WRITABLE = pickle.DEFAULT_PROTOCOL < 5


@cython.final
@cython.no_gc
cdef class Buffer:
    """Bytes that grow, and memory of objects that belongs between them. One value at a time; the owner sets it back.

    data, used: the own bytes. spans: the others, in order, `spanned` bytes; None: there are none. loose: buffers that the pickler
    left out of its stream. sharer: knows which of them have a block of their own; or None.
    """

    def __dealloc__(self):
        PyMem_RawFree(self.data)

    cdef unsigned char *grow(self, Py_ssize_t more) except NULL:
        """Room for `more` bytes behind those used; the caller adds to `used`. MemoryError."""
        cdef Py_ssize_t room
        cdef void *data
        if self.used + more > self.room:
            room = self.used + more
            if room < (1 << 24):
                room = max(room * 2, 256)
            data = PyMem_RawRealloc(self.data, room)
            if data == NULL:
                raise MemoryError(f"no memory for {self.used + more} bytes of an encoded value")
            self.data = <unsigned char *>data
            self.room = room
        return self.data + self.used

    cdef Py_ssize_t total(self) noexcept:
        return self.used + self.spanned

    cdef int clear(self) noexcept:
        self.used = self.spanned = 0
        self.spans = self.loose = self.others = None
        return 0

    cdef int refer(self, Span span) except -1:
        """The span's bytes come next."""
        span.at = self.used
        if self.spans is None:
            self.spans = []
        self.spans.append(span)
        self.spanned += span.size
        return 0

    cdef int gather(self, unsigned char *to) except -1:
        """Copies everything, without the GIL if it is much. What was copied is let go at once, so that nothing is there three
        times; only clear() may follow."""
        cdef Py_ssize_t done = 0
        cdef Span span
        cdef list spans = self.spans
        self.spans = None
        if spans is not None:
            spans.reverse()
            while spans:
                span = spans.pop()
                memcpy(to, self.data + done, span.at - done)
                to += span.at - done
                done = span.at
                copy(to, span.data, span.size)
                to += span.size
                span = None
        copy(to, self.data + done, self.used - done)
        return 0

    cdef int place(self, const rp_segment *segment, uint64_t to, uint64_t end, uint64_t *backed, rp_taker *take) except 1:
        """As gather, to the offset `to` in a segment in which all below *backed has memory; for a block that ends at `end`, more is
        taken. 0: only clear() may follow. -errno: there is no memory, and all is as before but for *backed. 1: an exception."""
        cdef uint64_t begin = backed[0]
        cdef int err = 0
        if self.total() >= HUGE:
            return self.move(segment, to, backed, take)
        if begin < end:
            if end - begin < APART:
                err = take(segment, begin, end - begin)
            else:
                with nogil:
                    err = take(segment, begin, end - begin)
            if err:
                return err
            backed[0] = end
        self.gather(<unsigned char *>segment.base + to)
        return 0

    cdef int move(self, const rp_segment *segment, uint64_t to, uint64_t *backed, rp_taker *take) except 1:
        """As place; memory is taken as it is needed, and what belongs to nobody else is given back as it is copied: the own bytes, and
        those of the pickler's."""
        cdef rp_filling f = rp_filling(s=segment, take=take, at=to, end=to + self.total(), backed=backed[0])
        cdef Py_ssize_t i = 0, n = 0 if self.spans is None else len(self.spans), done = 0
        cdef Span span
        cdef int err = 0
        # Nothing here is made that the garbage collector knows: a finalizer that submits would wait for memory that this has taken.
        for i in range(n):
            span = <Span>self.spans[i]
            err = fill(&f, self.data + done, span.at - done, True)
            if err:
                break
            err = fill(&f, <unsigned char *>span.data, span.size, rp_sole_bytes(<PyObject *>span.owner))
            if err:
                # The own bytes before it are to come back too.
                done = span.at
                break
            done = span.at
        if not err:
            err = fill(&f, self.data + done, self.used - done, True)
            i = n
        backed[0] = f.backed
        if err:
            self.bring_back(&f, to, done, i)
        return err

    cdef int bring_back(self, rp_filling *f, uint64_t at, Py_ssize_t own, Py_ssize_t n) noexcept:
        """Undoes what `move` did: so many of the own bytes and of the spans were copied, from the offset `at` on."""
        cdef Py_ssize_t i, done = 0
        cdef Span span
        for i in range(n):
            span = <Span>self.spans[i]
            rp_unfill(f, at, self.data + done, span.at - done)
            at += span.at - done
            done = span.at
            if rp_sole_bytes(<PyObject *>span.owner):
                rp_unfill(f, at, <void *>span.data, span.size)
            at += span.size
        rp_unfill(f, at, self.data + done, own - done)
        return 0

    cdef int flatten(self) except -1:
        """Nothing refers to the user's objects any more."""
        cdef Buffer whole
        if self.spans is None:
            return 0
        whole = Buffer()
        whole.grow(self.total())
        whole.used = self.total()
        self.gather(whole.data)
        self.data, whole.data = whole.data, self.data
        self.used = whole.used
        self.room = whole.room
        self.spanned = 0
        return 0

    def take(self, buffer):
        """The buffer_callback of pickle.Pickler. True: it is to stay in the stream."""
        cdef Span span = span_of(None, buffer)
        if span is None:
            return True  # not contiguous: pickle has an error for it
        if span.size < PART and token_of(span) is None:
            return True
        if self.loose is None:
            self.loose = []
        self.loose.append(span)
        return False

    def write(self, data):
        """The file protocol of pickle.Pickler, which hands over large bytes as they are."""
        cdef Py_buffer view
        cdef Py_ssize_t size = len(data)
        if size >= REFERRED and (type(data) is bytes or type(data) is bytearray):
            self.refer(span_of(data if type(data) is bytes else None, data))
            return size
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            memcpy(self.grow(view.len), view.buf, view.len)
            self.used += view.len
            return view.len
        finally:
            PyBuffer_Release(&view)


cdef int copy(unsigned char *to, const unsigned char *data, Py_ssize_t size) except -1:
    if size < APART:
        memcpy(to, data, size)
    else:
        with nogil:
            rp_copy(to, data, size)
    return 0


cdef int fill(rp_filling *f, unsigned char *data, Py_ssize_t size, bint drop) noexcept:
    cdef int err
    if size < APART:
        return rp_fill(f, data, size, drop)
    with nogil:
        err = rp_fill(f, data, size, drop)
    return err


cdef bint is_int64(object value, long long *number) noexcept:
    """True if the value is exactly an int and fits; it is then in *number."""
    cdef int overflow = 0
    if not PyLong_CheckExact(value):
        return False
    if rp_one_digit(value, number):
        return True
    number[0] = PyLong_AsLongLongAndOverflow(value, &overflow)
    return not overflow


cdef Py_ssize_t immutable_size(object value, int depth) noexcept:
    cdef long long number
    cdef Py_ssize_t total, n, i
    if value is None or value is True or value is False:
        return 1
    if PyLong_CheckExact(value):
        return 9 if is_int64(value, &number) else -1
    if PyUnicode_CheckExact(value):
        n = PyUnicode_GET_LENGTH(value)
        return -1 if n > 0x3fffffff else 5 + n * PyUnicode_KIND(value)
    if PyFloat_CheckExact(value):
        return 9
    if PyBytes_CheckExact(value):
        return 9 + PyBytes_GET_SIZE(value)
    if PyTuple_CheckExact(value) and depth < DEPTH:
        n = PyTuple_GET_SIZE(value)
        if n > SMALL:
            return -1
        total = 5
        for i in range(n):
            size = immutable_size(<object>PyTuple_GET_ITEM(value, i), depth + 1)
            total += size
            if size < 0 or total > LARGE:
                return -1
        return total
    return -1


cdef Py_ssize_t simple_size(object value) noexcept:
    """Bytes that the value takes as tagged bytes, or -1 if it must be pickled.

    Lists and dicts count only at the top: inside others they could be shared, and pickle keeps that. Containers of more than LARGE
    bytes do not count: large members may be one and the same, and pickle writes each object once.
    """
    cdef Py_ssize_t total, n, i, size, pos = 0
    cdef PyObject *key
    cdef PyObject *item
    if PyList_CheckExact(value):
        n = PyList_GET_SIZE(value)
        if n > SMALL:
            return -1
        total = 5
        for i in range(n):
            size = immutable_size(<object>PyList_GET_ITEM(value, i), 1)
            total += size
            if size < 0 or total > LARGE:
                return -1
        return total
    if PyDict_CheckExact(value):
        n = PyDict_Size(value)
        if n > SMALL:
            return -1
        total = 5
        while PyDict_Next(value, &pos, &key, &item):
            size = immutable_size(<object>key, 1)
            if size < 0:
                return -1
            total += size
            size = immutable_size(<object>item, 1)
            total += size
            if size < 0 or total > LARGE:
                return -1
        return total
    return immutable_size(value, 0)


cdef inline unsigned char *put_head(unsigned char *at, unsigned char tag, Py_ssize_t count) noexcept:
    cdef uint32_t n = <uint32_t>count
    at[0] = tag
    memcpy(at + 1, &n, 4)
    return at + 5


cdef inline Py_ssize_t put_int(object value, unsigned char *at) noexcept:
    """9, or -1 if it is no int or too large."""
    cdef long long number
    if not is_int64(value, &number):
        return -1
    at[0] = TAG_INT
    memcpy(at + 1, &number, 8)
    return 9


cdef unsigned char *simple_write(object value, unsigned char *at) noexcept:
    """Writes a value for which simple_size was not negative; returns the end."""
    cdef double real
    cdef uint64_t size
    cdef Py_ssize_t n, i, pos = 0
    cdef PyObject *key
    cdef PyObject *item
    if PyLong_CheckExact(value):
        return at + put_int(value, at)
    if value is None:
        at[0] = TAG_NONE
        return at + 1
    if value is True:
        at[0] = TAG_TRUE
        return at + 1
    if value is False:
        at[0] = TAG_FALSE
        return at + 1
    if PyUnicode_CheckExact(value):
        n = PyUnicode_KIND(value)
        at = put_head(at, TAG_STR1 if n == 1 else TAG_STR2 if n == 2 else TAG_STR4, PyUnicode_GET_LENGTH(value))
        n *= PyUnicode_GET_LENGTH(value)
        memcpy(at, PyUnicode_DATA(value), n)
        return at + n
    if PyFloat_CheckExact(value):
        at[0] = TAG_FLOAT
        real = PyFloat_AS_DOUBLE(value)
        memcpy(at + 1, &real, 8)
        return at + 9
    if PyBytes_CheckExact(value):
        at[0] = TAG_BYTES
        size = PyBytes_GET_SIZE(value)
        memcpy(at + 1, &size, 8)
        memcpy(at + 9, PyBytes_AS_STRING(value), size)
        return at + 9 + size
    if PyTuple_CheckExact(value):
        n = PyTuple_GET_SIZE(value)
        at = put_head(at, TAG_TUPLE, n)
        for i in range(n):
            at = simple_write(<object>PyTuple_GET_ITEM(value, i), at)
        return at
    if PyList_CheckExact(value):
        n = PyList_GET_SIZE(value)
        at = put_head(at, TAG_LIST, n)
        for i in range(n):
            at = simple_write(<object>PyList_GET_ITEM(value, i), at)
        return at
    at = put_head(at, TAG_DICT, PyDict_Size(value))
    while PyDict_Next(value, &pos, &key, &item):
        at = simple_write(<object>key, at)
        at = simple_write(<object>item, at)
    return at


cdef Py_ssize_t simple_put(object value, unsigned char *at, Py_ssize_t room) noexcept:
    """simple_size and, where the value fits the room, simple_write. What it leaves at `at` otherwise means nothing."""
    cdef Py_ssize_t n, i
    if PyLong_CheckExact(value) and room >= 9:
        return put_int(value, at)
    if PyTuple_CheckExact(value):
        n = PyTuple_GET_SIZE(value)
        if 5 + 9 * n <= room:
            put_head(at, TAG_TUPLE, n)
            i = 0
            while i < n and put_int(<object>PyTuple_GET_ITEM(value, i), at + 5 + 9 * i) == 9:
                i += 1
            if i == n:
                return 5 + 9 * n
    n = simple_size(value)
    if 0 <= n <= room:
        simple_write(value, at)
    return n


# What a pickler looks types up in: multiprocessing's reducers, then copyreg's. An exact dict, which the pickler reads without a call
# and, for the many types that are not in it, without an exception.
cdef dict reducers = {}
# Key, value, key, value: what the two were when `reducers` was made.
cdef list reducers_made_of = []
cdef bint numpy_known = False
# Free picklers. A __reduce__ may submit tasks itself, or let another thread run: each takes a pickler of its own.
cdef list picklers = []


cdef Py_ssize_t still_the_same(object table, Py_ssize_t i) except -2:
    """Where this table ends in `reducers_made_of`, in which it begins at i; -1 if it is not the same any more."""
    cdef PyObject *key
    cdef PyObject *value
    cdef Py_ssize_t pos = 0, n = PyList_GET_SIZE(reducers_made_of)
    while PyDict_Next(table, &pos, &key, &value):
        if i + 1 >= n or PyList_GET_ITEM(reducers_made_of, i) != key or PyList_GET_ITEM(reducers_made_of, i + 1) != value:
            return -1
        i += 2
    return i


def reduce_ndarray(value):
    """Of an exact numpy.ndarray that is read-only."""
    reduced = value.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
    if value.flags.writeable or type(reduced) is not tuple or type(reduced[1]) is not tuple or not reduced[1]:
        return reduced
    first, *others = reduced[1]
    if type(first) is not pickle.PickleBuffer:
        return reduced
    return (reduced[0], (pickle.PickleBuffer(unlocked(first)), *others), *reduced[2:])


def rebuild_array(code, data):
    """An array.array from its typecode and its bytes."""
    result = array.array(code)
    result.frombytes(data)
    return result


def reduce_array(value):
    """Of an exact array.array: its own way makes bytes of all of it first."""
    if len(value) * value.itemsize < PART or value.typecode in "uw":
        return value.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
    return rebuild_array, (value.typecode, pickle.PickleBuffer(value))


cdef object new_pickler():
    buffer = Buffer()
    pickler = pickle.Pickler(buffer, pickle.HIGHEST_PROTOCOL, buffer_callback=buffer.take)
    pickler.dispatch_table = reducers
    return pickler, buffer


cdef object free_pickler():
    """A pickler with the reducers as they are now, and its buffer."""
    global reducers, reducers_made_of
    cdef dict registered = copyreg.dispatch_table, extra = ForkingPickler._extra_reducers
    cdef Py_ssize_t i = still_the_same(registered, 0)
    cdef dict own
    global numpy_known
    if WRITABLE and not numpy_known and "numpy" in sys.modules:
        i = -1
    if i < 0 or still_the_same(extra, i) != PyList_GET_SIZE(reducers_made_of):
        picklers.clear()
        own = {array.array: reduce_array}
        ndarray = getattr(sys.modules.get("numpy"), "ndarray", None) if WRITABLE else None
        if ndarray is not None:
            own[ndarray] = reduce_ndarray
            numpy_known = True
        reducers = {**own, **registered, **extra}
        reducers_made_of = [part for table in (registered, extra) for item in table.items() for part in item]
    return picklers.pop() if picklers else new_pickler()


cdef int append_pickle(Buffer into, object value, bint by_value) except -1:
    """Pickles behind what the buffer holds, with the tag. `by_value`: what pickle refuses is given to cloudpickle.

    Raises what pickling raises; the buffer is then as before.
    """
    cdef Buffer buffer
    cdef bint small = False
    pair = free_pickler()
    pickler, buffer = pair
    buffer.clear()
    try:
        pickler.dump(value)
        small = buffer.total() <= KEPT
        append_stream(into, buffer, False)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        if not by_value:
            raise
        buffer.clear()
        pickle_by_value(value, buffer, error)
        append_stream(into, buffer, False)
    finally:
        pickler.clear_memo()
        buffer.clear()
        # After a long pickle the memo is large too, and all of it is cleared each time: every later value would pay for that.
        if small and len(picklers) < 8 and pickler.dispatch_table is reducers:
            picklers.append(pair)
    return 0


cdef int append_image(Buffer into, object value) except -1:
    """As append_value, always as TAG_PARTS."""
    pair = free_pickler()
    pickler, buffer = pair
    (<Buffer>buffer).clear()
    try:
        pickler.dump(value)
        append_stream(into, <Buffer>buffer, True)
    finally:
        pickler.clear_memo()
        (<Buffer>buffer).clear()
    return 0


cdef int append_stream(Buffer into, Buffer stream, bint whole) except -1:
    """Appends what a pickler wrote, and the buffers that it left out of it. whole: as TAG_PARTS, also without any."""
    cdef Span span
    cdef Py_ssize_t done = 0, begin = 0, start = 0, n = 0, at, i
    cdef rp_parts_head head
    cdef rp_part part
    cdef unsigned char *table
    if stream.loose is None and not whole:
        into.grow(1)[0] = TAG_PICKLE
        into.used += 1
    else:
        n = 0 if stream.loose is None else len(stream.loose)
        begin = into.used
        start = into.total()
        memset(&head, 0, sizeof(head))
        head.tag = TAG_PARTS
        head.n = n
        head.stream_off = RP_PART_ALIGN + n * sizeof(rp_part)
        head.stream_len = stream.total()
        table = into.grow(head.stream_off)
        memset(table, 0, head.stream_off)
        memcpy(table, &head, sizeof(head))
        into.used += head.stream_off
    if stream.spans is not None:
        for span in stream.spans:
            memcpy(into.grow(span.at - done), stream.data + done, span.at - done)
            into.used += span.at - done
            done = span.at
            into.refer(span)
    memcpy(into.grow(stream.used - done), stream.data + done, stream.used - done)
    into.used += stream.used - done
    if stream.loose is None:
        return 0
    if into.sharer is not None:
        # The value's own list: dropping what the pickler made may run anything, another encoding with the same sharer too.
        into.others = []
    for i in range(n):
        span = stream.loose[i]
        memset(&part, 0, sizeof(part))
        part.len = span.size
        at = 0
        if into.sharer is not None:
            at = into.sharer.offset_of(span, into.others)
        part.how = RP_PART_FIXED if span.fixed else RP_PART_HERE
        if at:
            part.off = at
            part.spare = span.fixed
            part.how = RP_PART_SHARED
            if token_of(span) is not None:
                part.spare = TOKEN_SPARE
                part.len = into.sharer.size_of(span)
        elif token_of(span) is not None:
            raise ValueError("a shared object can only be sent with tasks of its own pool")
        else:
            at = RP_PART_ALIGN - 1 - (into.total() - start + RP_PART_ALIGN - 1) % RP_PART_ALIGN
            memset(into.grow(at), 0, at)
            into.used += at
            part.off = into.total() - start
            into.refer(span)
        memcpy(into.data + begin + RP_PART_ALIGN + i * sizeof(part), &part, sizeof(part))
    return 0


cdef object by_value_pickler = None


def dump_by_value(value):
    """The pickle of a value, as bytes, with the functions and classes that are not importable. Raises what pickling raises."""
    file = io.BytesIO()
    new_by_value_pickler(file, None).dump(value)
    return file.getvalue()


cdef object new_by_value_pickler(object file, object buffer_callback):
    """Of cloudpickle's.

    What cloudpickle turns into something else on the way (a memoryview into bytes, an open file into its contents) is refused.
    """
    global by_value_pickler
    if by_value_pickler is None:
        import cloudpickle

        from pool.main_classes import reduce_class

        class Pickler(cloudpickle.Pickler):
            def reducer_override(self, value):
                reduced = super().reducer_override(value)
                return reduce_class(value, reduced) if isinstance(value, type) and value.__module__ == "__main__" else reduced

            dispatch_table = collections.ChainMap(
                {kind: reduce for kind, reduce in cloudpickle.Pickler.dispatch_table.items()
                 if kind not in (memoryview, io.TextIOWrapper)},
                copyreg.dispatch_table,
            )

        by_value_pickler = Pickler
    return by_value_pickler(file, protocol=pickle.HIGHEST_PROTOCOL, buffer_callback=buffer_callback)


cdef int pickle_by_value(object value, Buffer into, object error) except -1:
    """error: of pickle, why it is tried this way."""
    try:
        new_by_value_pickler(into, into.take).dump(value)
        return 0
    except Exception:
        # The user knows pickle; cloudpickle's own reason would only confuse.
        raise error from None


cdef Py_ssize_t append_instance(Buffer into, object value) except -1:
    """Appends a plain instance; 0 if it is none, and nothing is appended."""
    cdef Plain plain = plain_of(value)
    cdef PyObject *key
    cdef PyObject *item
    cdef PyObject *items[SMALL]
    cdef Py_ssize_t n, size, total = 0, i = 0, pos = 0
    cdef unsigned char *at
    if plain is None:
        return 0
    attributes = value.__dict__ if plain.slots is None else plain.slots
    if plain.slots is None and not PyDict_CheckExact(attributes) or len(attributes) > SMALL:
        return 0
    if not is_header_of(plain, attributes) and not (write_header(plain, attributes) and is_header_of(plain, attributes)):
        return 0
    # From here to the end nothing runs that might change the instance.
    n = PyTuple_GET_SIZE(plain.keys)
    if plain.slots is None:
        while PyDict_Next(attributes, &pos, &key, &item):
            items[i] = item
            i += 1
    for i in range(n):
        if plain.slots is not None:
            items[i] = rp_slot(value, <object>PyTuple_GET_ITEM(attributes, i))
            if items[i] == NULL:
                return 0
        size = immutable_size(<object>items[i], 1)
        total += size
        if size < 0 or total > LARGE:
            return 0
    size = PyBytes_GET_SIZE(plain.header)
    at = into.grow(size + total)
    memcpy(at, PyBytes_AS_STRING(plain.header), size)
    at += size
    for i in range(n):
        at = simple_write(<object>items[i], at)
    into.used += size + total
    return size + total


cdef bint is_header_of(Plain plain, object attributes) noexcept:
    """True if the header is for these attributes in this order. Their names are interned, as a rule."""
    cdef PyObject *key
    cdef Py_ssize_t i = 0, pos = 0
    if plain.header is None:
        return False
    if plain.slots is not None:
        return True
    if PyDict_Size(attributes) != PyTuple_GET_SIZE(plain.keys):
        return False
    while PyDict_Next(attributes, &pos, &key, NULL):
        if PyTuple_GET_ITEM(plain.keys, i) != key:
            return False
        i += 1
    return True


cdef bint write_header(Plain plain, object attributes) except -1:
    """Makes the header for instances with these attributes. False if it takes pickle to do justice to them."""
    cdef tuple keys = tuple(attributes), words = (plain.module, plain.name, *keys)
    cdef Py_ssize_t size = 0
    cdef uint32_t total
    cdef unsigned char *at
    cdef unsigned char tag = TAG_INSTANCE if plain.slots is None else TAG_SLOTTED
    for key in keys:
        # What pickle looks up on the instance itself begins like that.
        if type(key) is not str or key.startswith("__"):
            return False
    for word in words:
        size += immutable_size(word, 1)
    if size > LARGE:
        return False
    header = PyBytes_FromStringAndSize(NULL, 9 + size)
    total = 9 + size
    at = put_head(<unsigned char *>PyBytes_AS_STRING(header), tag, PyTuple_GET_SIZE(keys))
    memcpy(at, &total, 4)
    at += 4
    for word in words:
        at = simple_write(word, at)
    plain.keys, plain.header = keys, header
    return True


cdef int append_value(Buffer into, object value, bint by_value) except -1:
    """Appends any value. Raises what pickling raises; the buffer is then as before."""
    cdef Py_ssize_t size = simple_size(value)
    if size < 0:
        return 0 if append_instance(into, value) else append_pickle(into, value, by_value)
    if size >= REFERRED and (PyBytes_CheckExact(value) or PyUnicode_CheckExact(value)):
        return append_long(into, value)
    simple_write(value, into.grow(size))
    into.used += size
    return 0


cdef int append_long(Buffer into, object value) except -1:
    """Appends bytes or a string without a copy of it."""
    cdef Span span = Span.__new__(Span)
    cdef Py_ssize_t n
    cdef uint64_t size
    span.owner = value
    if PyBytes_CheckExact(value):
        span.data = <const unsigned char *>PyBytes_AS_STRING(value)
        span.size = size = PyBytes_GET_SIZE(value)
        into.grow(9)[0] = TAG_BYTES
        memcpy(into.data + into.used + 1, &size, 8)
        into.used += 9
    else:
        n = PyUnicode_KIND(value)
        span.data = <const unsigned char *>PyUnicode_DATA(value)
        span.size = n * PyUnicode_GET_LENGTH(value)
        put_head(into.grow(5), TAG_STR1 if n == 1 else TAG_STR2 if n == 2 else TAG_STR4, PyUnicode_GET_LENGTH(value))
        into.used += 5
    return into.refer(span)


cdef inline object item_of(object values, Py_ssize_t i):
    return <object>PyList_GET_ITEM(values, i) if PyList_CheckExact(values) else <object>PyTuple_GET_ITEM(values, i)


cdef Py_ssize_t append_numbers(Buffer into, object values, Py_ssize_t start, Py_ssize_t stop) except -1:
    """Appends the values as TAG_INTS or TAG_FLOATS; 0 if they are neither, and nothing is appended."""
    cdef unsigned char *at
    cdef unsigned char *p
    cdef Py_ssize_t i
    cdef long long number = 0
    cdef double real
    cdef bint ints
    value = item_of(values, start)
    ints = PyLong_CheckExact(value)
    if not ints and not PyFloat_CheckExact(value):
        return 0
    at = into.grow(1 + 8 * (stop - start))
    at[0] = TAG_INTS if ints else TAG_FLOATS
    p = at + 1
    if ints:
        for i in range(start, stop):
            if not is_int64(item_of(values, i), &number):
                return 0
            memcpy(p, &number, 8)
            p += 8
    else:
        for i in range(start, stop):
            value = item_of(values, i)
            if not PyFloat_CheckExact(value):
                return 0
            real = PyFloat_AS_DOUBLE(value)
            memcpy(p, &real, 8)
            p += 8
    into.used += p - at
    return p - at


@cython.final
@cython.no_gc
cdef class Seen:
    """The addresses of the lists, dicts and instances of a chunk: one that comes twice is to arrive as one object, as pickle does it."""
    cdef size_t *table
    cdef size_t mask

    def __dealloc__(self):
        PyMem_RawFree(self.table)

    cdef bint again(self, object value, Py_ssize_t most) except -1:
        """Whether it was there before, or there is no memory to know it. most: how many there can be."""
        cdef size_t i, at = <size_t><PyObject *>value, room = 64
        if Py_REFCNT(value) < 3:
            return False  # the chunk's and the caller's: it is there once
        if self.table == NULL:
            while room < 2 * <size_t>most:
                room *= 2
            self.table = <size_t *>PyMem_RawCalloc(room, sizeof(size_t))
            if self.table == NULL:
                return True
            self.mask = room - 1
        i = (at >> 4) * 0x9E3779B1u
        while self.table[i & self.mask]:
            if self.table[i & self.mask] == at:
                return True
            i += 1
        self.table[i & self.mask] = at
        return False


cdef int append_values(Buffer into, object values, Py_ssize_t start, Py_ssize_t stop, bint by_value) except -1:
    """Appends the items [start, stop) of a list or tuple as one chunk. Raises what pickling raises; the buffer is then as before."""
    cdef Py_ssize_t before = into.used, size, i
    cdef unsigned char *at
    cdef bint again
    cdef Seen seen = None
    if start < stop and append_numbers(into, values, start, stop):
        return 0
    if stop - start > 0xffffffff:
        return append_pickle(into, values[start:stop], by_value)
    put_head(into.grow(5), TAG_TUPLE, stop - start)
    into.used += 5
    for i in range(start, stop):
        value = item_of(values, i)
        size = simple_size(value)
        if stop - start > 1 and (PyList_CheckExact(value) or PyDict_CheckExact(value) if size >= 0 else True):
            if seen is None:
                seen = Seen.__new__(Seen)
            again = seen.again(value, stop - start)
        else:
            again = False
        # Large values may be one and the same: pickle writes each object once.
        if again or size > LARGE or (size < 0 and not append_instance(into, value)):
            into.used = before
            return append_pickle(into, values[start:stop], by_value)
        if size < 0:
            into.data[before] = TAG_MIXED
            continue
        at = into.grow(size)
        simple_write(value, at)
        into.used += size
    return 0


cdef object damaged():
    return ValueError("damaged encoding")


cdef object decode_at(const unsigned char **at, const unsigned char *end):
    """The value at *at, which moves behind it. ValueError if it does not fit before `end`."""
    cdef const unsigned char *p = at[0]
    cdef unsigned char tag
    cdef long long number
    cdef double real
    cdef uint32_t n, i
    cdef uint64_t size
    if p >= end:
        raise damaged()
    tag = p[0]
    p += 1
    if tag == TAG_INT or tag == TAG_FLOAT:
        if end - p < 8:
            raise damaged()
        at[0] = p + 8
        if tag == TAG_INT:
            memcpy(&number, p, 8)
            return PyLong_FromLongLong(number)
        memcpy(&real, p, 8)
        return PyFloat_FromDouble(real)
    if tag <= TAG_TRUE:
        at[0] = p
        return None if tag == TAG_NONE else tag == TAG_TRUE
    if tag == TAG_PICKLE:
        at[0] = end
        return pickle.loads(PyMemoryView_FromMemory(<char *>p, end - p, PyBUF_READ))
    if tag == TAG_PARTS:
        at[0] = end
        return load_parts(p - 1, end - p + 1, None)
    if tag == TAG_BYTES:
        if end - p < 8:
            raise damaged()
        memcpy(&size, p, 8)
        p += 8
        if size > <uint64_t>(end - p):
            raise damaged()
        at[0] = p + size
        return PyBytes_FromStringAndSize(<const char *>p, size)
    if tag == TAG_INSTANCE or tag == TAG_SLOTTED:
        return decode_instance(at, end)
    if tag >= TAG_PICKLE or end - p < 4:
        raise damaged()
    memcpy(&n, p, 4)
    p += 4
    if tag <= TAG_STR4:
        size = <uint64_t>n << (tag - TAG_STR1)
        if size > <uint64_t>(end - p):
            raise damaged()
        at[0] = p + size
        return PyUnicode_FromKindAndData(1 << (tag - TAG_STR1), p, n)
    if n > <uint64_t>(end - p):
        raise damaged()
    at[0] = p
    # Only nonsense is nested deeper than simple values are.
    rp_enter(" in an encoded value")
    try:
        if tag == TAG_DICT:
            return decode_dict(at, end, n)
        if tag == TAG_LIST:
            return decode_list(at, end, n)
        items = PyTuple_New(n)
        for i in range(n):
            item = decode_at(at, end)
            Py_INCREF(item)
            PyTuple_SET_ITEM(items, i, item)
        return items
    finally:
        Py_LeaveRecursiveCall()


cdef dict decode_dict(const unsigned char **at, const unsigned char *end, uint32_t n):
    cdef dict mapping = {}
    cdef uint32_t i
    for i in range(n):
        key = decode_at(at, end)
        mapping[key] = decode_at(at, end)
    return mapping


# Of instances that were decoded last. A power of two.
cdef enum:
    LAYOUTS = 16
cdef list layouts = [None] * LAYOUTS


cdef Layout layout_at(const unsigned char *at, uint32_t n, uint32_t size):
    cdef Layout layout = <Layout>layouts[size % LAYOUTS]
    cdef const unsigned char *p = at + 9
    if layout is not None and PyBytes_GET_SIZE(layout.header) == size and not memcmp(PyBytes_AS_STRING(layout.header), at, size):
        return layout
    words = decode_list(&p, at + size, n + 2)
    if p != at + size or set(map(type, words)) != {str}:
        raise damaged()
    layout = Layout.__new__(Layout)
    layout.header = PyBytes_FromStringAndSize(<const char *>at, size)
    layout.module, layout.name, *keys = map(sys.intern, words)
    layout.keys = tuple(keys)
    layout.slotted = at[0] == TAG_SLOTTED
    layouts[size % LAYOUTS] = layout
    return layout


cdef object decode_instance(const unsigned char **at, const unsigned char *end):
    cdef const unsigned char *p = at[0]
    cdef uint32_t n, size
    cdef Layout layout
    if end - p < 9:
        raise damaged()
    memcpy(&n, p + 1, 4)
    memcpy(&size, p + 5, 4)
    if n > SMALL or size < 9 or size > end - p or n + 2 > size - 9:
        raise damaged()
    layout = layout_at(p, n, size)
    instance = layout.empty()
    at[0] = p + size
    if layout.slotted and not layout.by_setstate:
        for key in layout.keys:
            setattr(instance, key, decode_at(at, end))
        return instance
    attributes = {} if layout.by_setstate else instance.__dict__
    for key in layout.keys:
        attributes[key] = decode_at(at, end)
    if layout.by_setstate and attributes:
        instance.__setstate__((None, attributes) if layout.slotted else attributes)
    return instance


cdef list decode_list(const unsigned char **at, const unsigned char *end, uint32_t n):
    cdef list items = PyList_New(n)
    cdef uint32_t i
    for i in range(n):
        item = decode_at(at, end)
        Py_INCREF(item)
        PyList_SET_ITEM(items, i, item)
    return items


cdef object decode(const unsigned char *at, Py_ssize_t size):
    """The value in these bytes. ValueError if they are damaged, or whatever unpickling raises."""
    cdef const unsigned char *p = at
    return decode_at(&p, at + size)


cdef object decode_apart(const unsigned char *at, Py_ssize_t size):
    """As decode; long bytes are copied without the GIL, so what lies there has to stay meanwhile."""
    cdef uint64_t length
    if size < APART or at[0] != TAG_BYTES:
        return decode(at, size)
    memcpy(&length, at + 1, 8)
    if length > <uint64_t>(size - 9):
        raise damaged()
    value = PyBytes_FromStringAndSize(NULL, length)
    copy(<unsigned char *>PyBytes_AS_STRING(value), at + 9, length)
    return value


cdef list decode_values(const unsigned char *at, Py_ssize_t size):
    """The chunk in these bytes, as a list. Raises as decode."""
    cdef const unsigned char *p = at + 5
    cdef uint32_t n
    if size >= 1 and (at[0] == TAG_PICKLE or at[0] == TAG_PARTS):
        return list(decode(at, size))
    if size >= 1 and (at[0] == TAG_INTS or at[0] == TAG_FLOATS):
        return decode_numbers(at, size)
    if size < 5 or (at[0] != TAG_TUPLE and at[0] != TAG_MIXED):
        raise damaged()
    memcpy(&n, at + 1, 4)
    if n > <uint64_t>(size - 5):
        raise damaged()
    return decode_list(&p, at + size, n)


cdef list decode_numbers(const unsigned char *at, Py_ssize_t size):
    cdef Py_ssize_t i, n = (size - 1) // 8
    cdef list items
    cdef long long number
    cdef double real
    if size != 1 + 8 * n:
        raise damaged()
    items = PyList_New(n)
    for i in range(n):
        if at[0] == TAG_INTS:
            memcpy(&number, at + 1 + 8 * i, 8)
            item = PyLong_FromLongLong(number)
        else:
            memcpy(&real, at + 1 + 8 * i, 8)
            item = PyFloat_FromDouble(real)
        Py_INCREF(item)
        PyList_SET_ITEM(items, i, item)
    return items


def encode(value, *, by_value=False):
    """The bytes of one value; what the tests and the process start use.

    value: any object; by_value: let cloudpickle take what pickle refuses. Raises what pickling raises.
    """
    cdef Buffer buffer = Buffer()
    append_value(buffer, value, by_value)
    buffer.flatten()
    return PyBytes_FromStringAndSize(<char *>buffer.data, buffer.used)


def decode_bytes(const unsigned char[::1] data):
    """The value that `encode` made these bytes of. ValueError if they are damaged, or whatever unpickling raises."""
    if data.shape[0] == 0:
        raise damaged()
    return decode(&data[0], data.shape[0])
