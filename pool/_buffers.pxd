"""Large parts of values: see _buffers.pyx."""

from libc.stdint cimport uint32_t, uint64_t

from pool._csrc cimport rp_arena, rp_block, rp_file, rp_head, rp_lease, rp_part, rp_segment, rp_share

cdef enum:
    TOKEN_SPARE = 2  # of a part: it is a shared object's block

cdef class Span:
    cdef Py_ssize_t at           # where it belongs: behind so many bytes of the buffer's own
    cdef const unsigned char *data
    cdef Py_ssize_t size
    cdef bint fixed              # the receiver must not write to it
    cdef object owner

cdef class Sharer:
    cdef uint64_t offset_of(self, Span span, list used) except? 0
    cdef uint64_t size_of(self, Span span) noexcept

cdef class Store:
    cdef rp_segment segment
    cdef rp_file file
    cdef rp_arena arena
    cdef Py_ssize_t live         # who needs the segment, ResultBlocks among them
    cdef Py_ssize_t results      # ResultBlocks, each with a lease
    cdef uint64_t shared_bytes   # in blocks of parts that several tasks have
    cdef bint closed, shrunk
    cdef int owner
    cdef int take_over(self, rp_segment *segment) except -1
    cdef int close(self) noexcept
    cdef void finish(self) noexcept
    cdef void give(self, rp_block *block, bint apart, int err) noexcept

cdef class Token:
    cdef object share            # the dispatcher's; None: released

cdef class Site:
    cdef uint32_t seat
    cdef dict shares             # number: what a shared object was loaded as
    cdef dict blocks             # number: ShareMap
    cdef object open(self, const rp_part *part)
    cdef int drop_closed(self) except -1
    cdef unsigned char *base
    cdef rp_file file
    cdef uint64_t low, high

cdef class Holder:
    cdef rp_lease lease
    cdef bint leased
    cdef int pid
    cdef unsigned char *data     # of the value that lies here
    cdef Py_ssize_t size
    cdef int hold(self) except -1
    cdef object shared(self, const rp_part *part)

cdef class ResultBlock(Holder):
    cdef Store store
    cdef rp_block block

cdef class TaskBlock(Holder):
    cdef rp_head *head
    cdef Site site

cdef class PrivateMap(Holder):
    cdef TaskBlock under

cdef class ShareMap(Holder):
    cdef rp_share *share
    cdef Site site
    cdef uint32_t seat

cdef Span span_of(object owner, object exporter)
cdef object exporter_of(Span span)
cdef object unlocked(object exporter)
cdef object load_parts(const unsigned char *at, Py_ssize_t size, Holder holder)
cdef ResultBlock result_block(Store store, unsigned char *base, rp_block *block, Py_ssize_t size)
cdef TaskBlock task_block(Site site, uint64_t off)
cdef Site site_of(unsigned char *base, uint64_t low, uint64_t high, int fd, uint32_t seat)
cdef Token token_of(Span span)
