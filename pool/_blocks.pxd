"""Blocks of the arena, and who has them: see _blocks.pyx."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from pool._buffers cimport ResultBlock, Sharer, Span, Store, Token
from pool._codec cimport Buffer
from pool._csrc cimport rp_arena, rp_block, rp_map

cdef class Blocks:
    cdef Store store
    cdef rp_arena *arena
    cdef const rp_map *map
    cdef list lent               # blocks of settled tasks whose worker still has objects on them
    cdef Py_ssize_t look_at      # the next of them to be looked at
    cdef set open                # Shares: shared objects whose memory is not free
    cdef list closing            # those of them that were released
    cdef dict granted            # per seat: blocks that it was offered or has taken
    cdef bint starved            # a task waits for memory: neither later ones nor results may take it
    cdef uint64_t number         # of the last offer
    cdef uint64_t quiet_bytes    # of memory that blocks may have while nothing goes on
    cdef int64_t active_at
    cdef bint watched            # somebody calls `tend` from time to time
    cdef object alarm
    cdef int reserve(self, uint64_t size, rp_block *block) noexcept
    cdef int fill(self, rp_block *block, Buffer data, uint64_t head) except 1
    cdef int settled(self, rp_block *block, uint32_t seat, object others) except -1
    cdef int look(self, Py_ssize_t most) noexcept
    cdef ResultBlock result(self, uint32_t seat, uint64_t off, uint64_t size, rp_block *of_task)
    cdef int want(self, uint32_t seat, uint64_t size, bint answer) except -1
    cdef bint results_fit(self, uint64_t size) noexcept
    cdef bint may_keep(self, rp_block *block) noexcept
    cdef Py_ssize_t recall(self, uint32_t seat) noexcept
    cdef int recall_all(self) noexcept
    cdef uint64_t taken_bytes(self) noexcept
    cdef int bury(self, uint32_t seat) except -1
    cdef int watch(self) except -1
    cdef int end(self) except -1

cdef class Shared:
    cdef Store store
    cdef rp_block block
    cdef Span span

cdef class Share:
    cdef Blocks blocks
    cdef Store store
    cdef rp_block block
    cdef bint unused(self) noexcept
    cdef int let_go(self) except -1

cdef class SharedObject:
    cdef Token token
    cdef object __weakref__

cdef SharedObject share(Blocks blocks, object value)

cdef class Shares(Sharer):
    cdef Blocks blocks
    cdef bint tokens_only        # looks for shared objects, copies nothing
    cdef dict known              # (address, size): Shared, or FIRST
    cdef object current          # the item, or the first of the chunk; None: not known
    cdef object following        # the item after it, if that is known
    cdef bint checked
    cdef int remember(self, key, value) except -1
    cdef Shared copied(self, Span span)
