"""Values to bytes and back: see _codec.pyx."""

from libc.stdint cimport uint64_t

from pool._buffers cimport Sharer, Span
from pool._csrc cimport rp_filling, rp_segment, rp_taker

cdef enum:
    TAG_NONE = 0
    TAG_FALSE = 1
    TAG_TRUE = 2
    TAG_INT = 3
    TAG_FLOAT = 4
    TAG_STR1 = 5
    TAG_STR2 = 6
    TAG_STR4 = 7
    TAG_BYTES = 8
    TAG_TUPLE = 9
    TAG_LIST = 10
    TAG_DICT = 11
    TAG_PICKLE = 12
    # Of chunks only:
    TAG_INTS = 13
    TAG_FLOATS = 14
    TAG_RANGE = 15
    TAG_PARTS = 16
    # A value again:
    TAG_INSTANCE = 17
    # And of chunks:
    TAG_MIXED = 18
    # A value:
    TAG_SLOTTED = 19

cdef class Buffer:
    cdef unsigned char *data
    cdef Py_ssize_t used, room
    cdef list spans, loose
    cdef Py_ssize_t spanned
    cdef Sharer sharer
    cdef list others         # what the sharer wants to be kept as long as the value is used; None: it was not asked
    cdef unsigned char *grow(self, Py_ssize_t more) except NULL
    cdef Py_ssize_t total(self) noexcept
    cdef int refer(self, Span span) except -1
    cdef int gather(self, unsigned char *to) except -1
    cdef int place(self, const rp_segment *segment, uint64_t to, uint64_t end, uint64_t *backed, rp_taker *take) except 1
    cdef int move(self, const rp_segment *segment, uint64_t to, uint64_t *backed, rp_taker *take) except 1
    cdef int bring_back(self, rp_filling *f, uint64_t at, Py_ssize_t own, Py_ssize_t n) noexcept
    cdef int flatten(self) except -1
    cdef int clear(self) noexcept

cdef inline bint runs_code(unsigned char tag) noexcept:
    """True if the making of such a value may run code of the program's."""
    return tag == TAG_PICKLE or TAG_PARTS <= tag <= TAG_SLOTTED

cdef int copy(unsigned char *to, const unsigned char *data, Py_ssize_t size) except -1
cdef Py_ssize_t simple_put(object value, unsigned char *at, Py_ssize_t room) noexcept
cdef int append_value(Buffer into, object value, bint by_value) except -1
cdef int append_values(Buffer into, object values, Py_ssize_t start, Py_ssize_t stop, bint by_value) except -1
cdef bint is_int64(object value, long long *number) noexcept
cdef int append_pickle(Buffer into, object value, bint by_value) except -1
cdef int append_image(Buffer into, object value) except -1
cdef object decode(const unsigned char *at, Py_ssize_t size)
cdef object decode_apart(const unsigned char *at, Py_ssize_t size)
cdef object decode_at(const unsigned char **at, const unsigned char *end)
cdef list decode_values(const unsigned char *at, Py_ssize_t size)
