# cython: language_level=3, boundscheck=False, wraparound=False
"""Large parts of values: what stays out of the pickle's stream, and the objects that are built on shared memory.

A sender's value is its encoding and Spans: memory of the user's objects that is copied once, into the block. A receiver's objects
lie on the block itself: each has a Holder, and when the last of them is gone, whoever had it, the block goes back.

    result, in the parent     ResultBlock: back to the arena, of which the parent is the only user; the mapping stays as long as any
                              block of it is held, also after the pool's end (Store)
    argument, in a worker     TaskBlock: says so in the block's head, where the parent looks
    one argument of many      PrivateMap: a copy-on-write view of a block that belongs to nobody alone
    tasks

Holders are leases (csrc/lease.h): at a fork, what lies on them becomes private memory of both sides. The lock is the GIL.
"""

import os
import pickle

cimport cython
from cpython.buffer cimport PyBUF_FULL_RO, PyBuffer_FillInfo, PyBuffer_IsContiguous, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.bytearray cimport PyByteArray_FromStringAndSize
from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset
from posix.fcntl cimport F_DUPFD_CLOEXEC, fcntl
from posix.unistd cimport getpid

from pool._csrc cimport *

cdef extern from "Python.h":
    int PyBUF_READ

cdef enum:
    PAGE = 4096
    COPIED_OUT = 4096       # parts below are not worth a view
    FEW = 16 << 20          # bytes of results that are copied at a pool's end, so that it leaves no descriptor open


@cython.final
@cython.no_gc
cdef class Span:
    """Memory of an object that is to be copied later. It stays as it is by its owner: a buffer that is held, or bytes."""


cdef class Export:
    """A buffer that is held."""
    cdef Py_buffer view

    def __dealloc__(self):
        PyBuffer_Release(&self.view)


cdef Span span_of(object owner, object exporter):
    """The memory of an object with a contiguous buffer; None if it is not contiguous. owner: None, or what keeps the memory as it
    is without being held."""
    cdef Span span
    cdef Export export = Export.__new__(Export)
    PyObject_GetBuffer(exporter, &export.view, PyBUF_FULL_RO)
    if not PyBuffer_IsContiguous(&export.view, b"A"):
        return None
    span = Span.__new__(Span)
    span.data = <const unsigned char *>export.view.buf
    span.size = export.view.len
    span.fixed = export.view.readonly
    span.owner = export if owner is None else owner
    return span


@cython.final
cdef class Unlocked:
    """The bytes of a read-only buffer as if they were writable, for a pickler, which only reads: so they arrive writable."""
    cdef Span span

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        PyBuffer_FillInfo(buffer, self, <void *>self.span.data, self.span.size, False, flags)


cdef object unlocked(object exporter):
    cdef Span span = span_of(None, exporter)
    cdef Unlocked whole
    if span is None:
        return exporter
    whole = Unlocked.__new__(Unlocked)
    whole.span = span
    return whole


cdef object exporter_of(Span span):
    """The object whose memory the span is; None if there is no telling."""
    if type(span.owner) is not Export:
        return None
    exporter = <object>(<Export>span.owner).view.obj
    return exporter_of((<Unlocked>exporter).span) if type(exporter) is Unlocked else exporter


# ---- objects that any task may refer to

cdef char token_text[16]


@cython.final
cdef class Token:
    """Stands in a pickle for a shared object: as a buffer, which our pickler hands to the dispatcher."""

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        PyBuffer_FillInfo(buffer, self, token_text, sizeof(token_text), False, flags)


cdef Token token_of(Span span):
    """The token whose buffer this is; None if it is another's."""
    exporter = exporter_of(span)
    return <Token>exporter if type(exporter) is Token else None


@cython.final
cdef class Resolved:
    """What a worker puts in a token's place."""
    cdef object value


def open_shared(found):
    """In a worker, while a task's arguments are unpickled: the object that a handle stands for."""
    if type(found) is not Resolved:
        raise RuntimeError("a shared object can only be sent with tasks of its own pool")
    return (<Resolved>found).value


cdef class Sharer:
    """Knows of parts that have a block of their own."""

    cdef uint64_t offset_of(self, Span span, list used) except? 0:
        """Where in the segment the part lies; 0: it is to travel with its value. used: what has to be kept meanwhile is added to it."""
        return 0

    cdef uint64_t size_of(self, Span span) noexcept:
        """Of a token: how large the block of its object is."""
        return 0


# ---- what blocks belong to

@cython.final
@cython.no_gc
cdef class Store:
    """The parent's segment and arena. The dispatcher uses both as if they were its own; results may need them for longer."""

    def __cinit__(self):
        self.segment.fd = -1
        self.owner = getpid()

    cdef int take_over(self, rp_segment *segment) except -1:
        """From now on the segment is closed here."""
        cdef int err = rp_file_open(&self.file, segment.fd)
        if err:
            raise OSError(-err, os.strerror(-err))
        self.segment = segment[0]
        return 0

    cdef int close(self) noexcept:
        """Nobody but the holders of blocks needs it any more. The rest of its memory goes at once, its mapping with the last of
        them."""
        if self.closed:
            return 0
        self.closed = True
        if self.live:
            rp_leases_keep_only(&self.file, self.arena.next)
        self.finish()
        return 0

    cdef void finish(self) noexcept:
        if not self.closed:
            return
        if self.live == 0:
            rp_arena_release(&self.arena)
            rp_segment_close(&self.segment)
        elif self.live == self.results and not self.shrunk:
            # A program may keep results of any number of pools: each with the address range of a segment would be all there is.
            self.shrunk = True
            rp_leases_shrink(&self.file, &self.segment, FEW)

    cdef void give(self, rp_block *block, bint apart, int err) noexcept:
        """Takes a block back. err: it cannot be used again."""
        self.live -= 1
        if self.segment.base == NULL:
            return
        if apart:
            rp_arena_bare(&self.arena, block)
        if self.closed:
            if not apart:
                rp_segment_drop(&self.segment, block.off, block.backed)
            self.finish()
        elif not err:
            rp_arena_free(&self.arena, block)

    def __dealloc__(self):
        if getpid() == self.owner:
            rp_arena_release(&self.arena)
            rp_segment_close(&self.segment)


@cython.final
cdef class Site:
    """A worker's view of the segment. The descriptor is its own, because private mappings are made from it; a task that
    closes all descriptors gets copies instead."""

    def __cinit__(self):
        self.file.fd = -1

    def __dealloc__(self):
        rp_file_close(&self.file)

    cdef object open(self, const rp_part *part):
        """The shared object in this block, loaded once in this worker. RuntimeError if it was released."""
        cdef rp_share *share = <rp_share *>(self.base + part.off)
        cdef ShareMap held
        cdef void *at = NULL
        cdef uint64_t size
        if part.off % PAGE or part.len < sizeof(rp_share) or share.len > part.len - sizeof(rp_share):
            raise damaged()
        self.drop_closed()
        if learn32(&share.closed):
            raise RuntimeError("the shared object was released before the task began")
        found = self.shares.get(share.number)
        if found is not None:
            return found
        held = ShareMap.__new__(ShareMap)
        held.site = self
        held.pid = getpid()
        held.seat = self.seat
        store32(&share.user[self.seat], 1)
        held.share = share
        size = (part.len + PAGE - 1) & ~<uint64_t>(PAGE - 1)
        if rp_lease_map(&at, &self.file, part.off, size, True) == 0:
            held.lease.at = at
            held.lease.len = size
            held.data = <unsigned char *>at + sizeof(rp_share)
        else:
            held.data = self.base + part.off + sizeof(rp_share)
        held.size = share.len
        value = Resolved.__new__(Resolved)
        (<Resolved>value).value = load_parts(held.data, held.size, held)
        self.shares[share.number] = value
        self.blocks[share.number] = held
        return value

    cdef int drop_closed(self) except -1:
        """Lets go what the parent has released."""
        if not self.shares:
            return 0
        for number in list(self.shares):
            if learn32(&(<ShareMap>self.blocks[number]).share.closed):
                del self.shares[number]
                del self.blocks[number]
        return 0


cdef Site site_of(unsigned char *base, uint64_t low, uint64_t high, int fd, uint32_t seat):
    cdef Site site = Site.__new__(Site)
    cdef int own = fcntl(fd, F_DUPFD_CLOEXEC, 64)
    site.base = base
    site.seat = seat
    site.shares = {}
    site.blocks = {}
    site.low = low
    site.high = high
    if own < 0 or rp_file_open(&site.file, own):
        site.file.fd = -1
    return site


# ---- holders

cdef class Holder:
    """What keeps the memory of objects: data and size, the encoding that lies there."""

    cdef int hold(self) except -1:
        """Before the first object lies on it."""
        if not self.leased:
            self.leased = True
            rp_lease_begin(&self.lease)
        return 0

    cdef object shared(self, const rp_part *part):
        raise damaged()


@cython.final
cdef class ResultBlock(Holder):

    def __dealloc__(self):
        cdef int err = 0
        if self.store is None:
            return
        if getpid() != self.pid:
            # In a child that was forked: the block is the parent's. The memory goes with the process.
            rp_lease_forget(&self.lease)
            return
        if self.leased:
            err = rp_lease_end(&self.lease)
        self.store.results -= 1
        self.store.give(&self.block, self.lease.apart, err)


cdef ResultBlock result_block(Store store, unsigned char *base, rp_block *block, Py_ssize_t size):
    """Takes the block over from the caller. size: of the encoding."""
    cdef ResultBlock held = ResultBlock.__new__(ResultBlock)
    held.store = store
    store.live += 1
    held.block = block[0]
    block.off = 0
    held.pid = store.owner
    held.data = base + held.block.off + RP_HEAD
    held.size = size
    held.lease.at = base + held.block.off
    held.lease.len = (RP_HEAD + size + PAGE - 1) & ~<size_t>(PAGE - 1)
    held.lease.off = held.block.off
    held.lease.file = &store.file
    held.lease.ours = True
    # Whoever forks may take results along that nobody has unpickled yet.
    held.hold()
    store.results += 1
    return held


@cython.final
cdef class TaskBlock(Holder):

    def __dealloc__(self):
        if self.head == NULL:
            return
        if getpid() != self.pid:
            if self.leased:
                rp_lease_forget(&self.lease)
            return
        if self.leased and rp_lease_end(&self.lease):
            return  # it goes back when this process ends
        tell32(&self.head.released, 1)  # H

    cdef object shared(self, const rp_part *part):
        """A view of a part that other tasks have too; private as long as the descriptor is there, else a copy."""
        cdef PrivateMap held
        cdef void *at = NULL
        cdef size_t size = (part.len + PAGE - 1) & ~<size_t>(PAGE - 1)
        cdef bint fixed = part.spare != 0
        if part.spare == TOKEN_SPARE:
            return self.site.open(part)
        if part.off % PAGE or part.off + size > self.site.high:
            raise damaged()
        if rp_lease_map(&at, &self.site.file, part.off, size, fixed):
            return PyByteArray_FromStringAndSize(<char *>self.site.base + part.off, part.len)
        held = PrivateMap.__new__(PrivateMap)
        held.under = self
        held.pid = self.pid
        held.data = <unsigned char *>at
        held.size = part.len
        held.lease.at = at
        held.lease.len = size
        held.lease.file = NULL
        if not fixed:
            held.hold()
        return view_of(held, held.data, part.len, fixed)


cdef TaskBlock task_block(Site site, uint64_t off):
    """Of the encoding at this offset, which has been checked; the head lies before it."""
    cdef TaskBlock held = TaskBlock.__new__(TaskBlock)
    held.site = site
    held.head = <rp_head *>(site.base + off - RP_HEAD)
    held.pid = getpid()
    held.data = site.base + off
    held.lease.at = held.head
    held.lease.off = off - RP_HEAD
    held.lease.file = &site.file
    return held


@cython.final
cdef class PrivateMap(Holder):

    def __dealloc__(self):
        if self.lease.at == NULL:
            return
        if self.leased:
            rp_lease_forget(&self.lease)
        rp_lease_unmap(self.lease.at, self.lease.len)


@cython.final
cdef class ShareMap(Holder):
    """A read-only mapping of a shared object's block, in a worker."""

    def __dealloc__(self):
        if self.share == NULL:
            return
        if getpid() == self.pid:
            tell32(&self.share.user[self.seat], 0)
        if self.lease.at != NULL:
            rp_lease_unmap(self.lease.at, self.lease.len)


@cython.final
@cython.freelist(32)
cdef class View:
    """Writable bytes of a held block."""
    cdef Holder holder
    cdef unsigned char *at
    cdef Py_ssize_t size
    cdef bint fixed

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.at, self.size, self.fixed, flags)


cdef object view_of(Holder holder, unsigned char *at, Py_ssize_t size, bint fixed):
    cdef View view = View.__new__(View)
    view.holder = holder
    view.at = at
    view.size = size
    view.fixed = fixed
    return memoryview(view)


cdef object damaged():
    return ValueError("damaged encoding")


cdef object load_parts(const unsigned char *at, Py_ssize_t size, Holder holder):
    """The value with parts in these bytes. holder: what they lie on, which its objects then keep; None: they are copied out.

    ValueError for damaged bytes, or whatever unpickling raises.
    """
    cdef rp_parts_head head
    cdef rp_part part
    cdef uint32_t i
    cdef uint64_t low = 0, high = 0
    cdef bint copied = False
    cdef list buffers = []
    if rp_parts_open(at, size, &head):
        raise damaged()
    if type(holder) is TaskBlock:
        low, high = (<TaskBlock>holder).site.low, (<TaskBlock>holder).site.high
        copied = (<TaskBlock>holder).head.keep
        # From its head to its end, as pages: what else lies there belongs to nobody.
        holder.size = size
        holder.lease.len = (RP_HEAD + size + PAGE - 1) & ~<size_t>(PAGE - 1)
    for i in range(head.n):
        if rp_parts_get(at, size, &head, i, low, high, &part):
            raise damaged()
        if part.how == RP_PART_SHARED:
            if holder is None:
                raise damaged()
            buffers.append(holder.shared(&part))
        elif holder is not None and part.len >= COPIED_OUT and not copied:
            if type(holder) is not ShareMap:
                holder.hold()
            buffers.append(view_of(holder, <unsigned char *>at + part.off, part.len, part.how == RP_PART_FIXED))
        elif part.how == RP_PART_FIXED:
            buffers.append(PyBytes_FromStringAndSize(<char *>at + part.off, part.len))
        else:
            buffers.append(PyByteArray_FromStringAndSize(<char *>at + part.off, part.len))
    return pickle.loads(PyMemoryView_FromMemory(<char *>at + head.stream_off, head.stream_len, PyBUF_READ), buffers=buffers)


def _before_fork():
    rp_leases_part()


os.register_at_fork(before=_before_fork)
