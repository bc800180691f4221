# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Who has which block of the arena, in the parent: blocks of tasks, of results, of what many tasks share.

Owns the arena's book-keeping, which lies in private memory and is all that is believed. Called by the dispatcher with the GIL held;
runs no user code.

    block of a task     dispatcher -> slot -> worker; when the task is settled it is free, or `lent` until the worker says in its
                        head that nothing lies on it any more, or dies
    block for a result  offered to a seat, taken, filled, named in a record of that seat's ring -> ResultBlock -> the user
    shared block        as long as a task that refers to it is not through with it (Shared, by reference counts)
"""

import os
from pickle import PickleBuffer

cimport cython
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcmp, memset
from posix.unistd cimport getpid

from pool._buffers import open_shared
from pool._buffers cimport ResultBlock, Sharer, Span, Store, Token, exporter_of, result_block, token_of
from pool._codec cimport Buffer, append_image
from pool._csrc cimport *
from pool._signals import call

cdef extern from "Python.h":
    Py_ssize_t Py_REFCNT(object) noexcept

cdef enum:
    PAGE = 4096
    GRANTS_MOST = 8             # blocks that a seat may have at a time
    LOOK_SOME = 16              # lent blocks that are looked at in passing
    QUIET_NS = 1000000000       # without a block taken or given for so long: memory goes back
    SHARED_LEAST = 1 << 18      # copying less is cheaper than a mapping
    KNOWN_MOST = 64             # parts that a job remembers


@cython.final
@cython.no_gc
cdef class Lent:
    """The block of a task that is settled."""
    cdef rp_block block
    cdef uint32_t seat
    cdef object others


@cython.final
@cython.no_gc
cdef class Grant:
    """A block that a seat may put a result into."""
    cdef rp_block block
    cdef uint64_t number


@cython.final
cdef class Blocks:
    """store: has the segment. map: of the segment, for as long as the dispatcher lives. alarm: called when somebody should begin to
    call `tend`."""

    def __cinit__(self, Store store, alarm):
        self.store = store
        self.arena = &store.arena
        self.lent = []
        self.granted = {}
        self.closing = []
        self.open = set()
        self.alarm = alarm

    # ---- taking and giving

    cdef int reserve(self, uint64_t size, rp_block *block) noexcept:
        """A block, which may be without memory as yet (rp_arena_back). 0 or -errno."""
        cdef int err
        if self.lent or self.closing:
            self.look(LOOK_SOME)
        err = rp_arena_reserve(self.arena, size, block)
        if err:
            # What lies idle is worth having now.
            self.look(len(self.lent))
            self.recall_all()
            err = rp_arena_reserve(self.arena, size, block)
        if not err and block.len >= 4096:
            self.active_at = rp_now_ns()
        return err

    cdef int fill(self, rp_block *block, Buffer data, uint64_t head) except 1:
        """Moves the encoding into a block that was reserved, `head` bytes after its beginning. As Buffer.place."""
        cdef uint64_t backed = block.off + block.backed
        cdef int err
        err = data.place(
            &self.store.segment, block.off + head, block.off + rp_arena_touched(block.len), &backed, rp_segment_back
        )
        block.backed = backed - block.off
        return err

    cdef int settled(self, rp_block *block, uint32_t seat, object others) except -1:
        """The task is settled, and its worker lives. others: what it refers to besides."""
        cdef Lent lent
        cdef rp_head *head
        if not block.off:
            return 0
        head = <rp_head *>(self.map.base + block.off)
        if learn32(&head.released):  # H
            rp_arena_free(self.arena, block)
            return 0
        lent = Lent.__new__(Lent)
        lent.block = block[0]
        lent.seat = seat
        lent.others = others
        block.off = 0
        self.lent.append(lent)
        return 0

    cdef int look(self, Py_ssize_t most) noexcept:
        """Takes back lent blocks that nothing lies on any more; looks at so many of them. And what was shared."""
        cdef Py_ssize_t i
        cdef Lent lent
        for i in range(len(self.closing) - 1, -1, -1):
            # Referred to by nothing but this list, `open` and this line: no task has it.
            if Py_REFCNT(self.closing[i]) <= 3 and (<Share>self.closing[i]).unused():
                self.open.discard(self.closing.pop(i))
        while most > 0 and self.lent:
            most -= 1
            if self.look_at >= len(self.lent):
                self.look_at = 0
            lent = <Lent>self.lent[self.look_at]
            if not learn32(&(<rp_head *>(self.map.base + lent.block.off)).released):  # H
                self.look_at += 1
                continue
            rp_arena_free(self.arena, &lent.block)
            self.lent[self.look_at] = self.lent[len(self.lent) - 1]
            self.lent.pop()
        return 0

    # ---- results

    cdef ResultBlock result(self, uint32_t seat, uint64_t off, uint64_t size, rp_block *of_task):
        """The block that a worker has put a result into; None if it cannot be true."""
        cdef Grant grant
        cdef Py_ssize_t i
        cdef list grants
        cdef rp_block block
        cdef ResultBlock held
        # Smaller ones share a page with others, and none of them was offered.
        if of_task.off and off == of_task.off + RP_HEAD and of_task.off % PAGE == 0:
            if size > of_task.backed - RP_HEAD:
                return None
            block = of_task[0]
            of_task.off = 0
            return result_block(self.store, self.map.base, &block, size)
        grants = self.granted.get(seat)
        if grants is None:
            return None
        for i in range(len(grants)):
            grant = <Grant>grants[i]
            if grant.block.off + RP_HEAD != off:
                continue
            if size > grant.block.len - RP_HEAD:
                return None
            del grants[i]
            # The worker has seen to it that there is memory as far as it wrote.
            if grant.block.backed < RP_HEAD + size:
                grant.block.backed = rp_block_charge(&grant.block)
            held = result_block(self.store, self.map.base, &grant.block, size)
            self.want(seat, held.block.len, False)
            return held
        return None

    cdef int want(self, uint32_t seat, uint64_t size, bint answer) except -1:
        """Offers the seat a block of at least so many bytes, if there is memory for it. answer: it waits for that."""
        cdef Grant grant
        cdef rp_taken offer
        cdef list grants = self.granted.get(seat)
        if grants is None:
            grants = self.granted[seat] = []
        if len(grants) >= GRANTS_MOST and answer:
            self.recall(seat)
        if len(grants) < GRANTS_MOST and not self.starved and self.results_fit(size):
            grant = Grant.__new__(Grant)
            if self.reserve(size, &grant.block) == 0:
                self.number += 1
                grant.number = self.number
                offer.off = grant.block.off
                offer.room = grant.block.len
                offer.backed = grant.block.backed
                if rp_offer_make(self.map, seat, grant.number, &offer):
                    grants.append(grant)
                else:
                    rp_arena_free(self.arena, &grant.block)
                    # Offers that are too small for it are in the way.
                    if answer and self.recall(seat):
                        return self.want(seat, size, answer)
        if answer:
            rp_offer_answer(self.map, seat)
        return 0

    cdef bint results_fit(self, uint64_t size) noexcept:
        """Results that the user keeps must leave memory for tasks: a quarter of the limit."""
        cdef uint64_t limit = self.arena.limit_bytes
        return size < limit and self.arena.used_bytes + size <= limit - limit // 4

    cdef bint may_keep(self, rp_block *block) noexcept:
        """True if the result of a task that has this block may lie there: the next task as large must find memory all the same."""
        return self.results_fit(0) and self.arena.used_bytes + block.len <= self.arena.limit_bytes

    cdef Py_ssize_t recall(self, uint32_t seat) noexcept:
        """Takes back what the seat has not taken. Returns how many blocks that were."""
        cdef Py_ssize_t i = 0, n = 0
        cdef Grant grant
        cdef list grants = <list>self.granted[seat]
        while i < len(grants):
            grant = <Grant>grants[i]
            if not rp_offer_recall(self.map, seat, grant.number):
                i += 1
                continue
            rp_arena_free(self.arena, &grant.block)
            del grants[i]
            n += 1
        return n

    cdef int recall_all(self) noexcept:
        for seat in self.granted:
            self.recall(seat)
        return 0

    cdef uint64_t taken_bytes(self) noexcept:
        """In blocks that workers put results into, once recall_all() has been there."""
        cdef uint64_t n = 0
        for grants in self.granted.values():
            for grant in <list>grants:
                n += rp_block_charge(&(<Grant>grant).block)
        return n

    cdef int bury(self, uint32_t seat) except -1:
        """The worker in this seat is dead: what it had is free."""
        cdef Py_ssize_t i = 0
        cdef Lent lent
        cdef Grant grant
        while i < len(self.lent):
            lent = <Lent>self.lent[i]
            if lent.seat != seat:
                i += 1
                continue
            rp_arena_free(self.arena, &lent.block)
            self.lent[i] = self.lent[len(self.lent) - 1]
            self.lent.pop()
        for share in self.open:
            # What it had died with it.
            note32(&(<rp_share *>(self.map.base + (<Share>share).block.off)).user[seat], 0)
        for grant in self.granted.pop(seat, ()):
            # How much of it has memory, only the worker knew.
            if rp_segment_drop(&self.store.segment, grant.block.off, rp_block_charge(&grant.block)) == 0:
                rp_arena_bare(self.arena, &grant.block)
                rp_arena_free(self.arena, &grant.block)
        return 0

    # ---- giving back

    cdef int end(self) except -1:
        """No worker is left."""
        for share in self.open:
            (<Share>share).let_go()
        self.open.clear()
        self.closing.clear()
        return 0

    cdef int watch(self) except -1:
        """Sees to it that memory which is not needed any more goes back."""
        if not self.watched and self.arena.warm_bytes + self.arena.used_bytes > self.quiet_bytes:
            self.watched = True
            call(self.alarm)
        return 0

    def tend(self):
        """Called now and then, by one thread: when nothing has gone on for a while, gives memory back. Seconds to the next call;
        None: `alarm` tells when."""
        cdef rp_block block
        cdef int64_t idle
        if not self.watched or self.store.closed:
            return None
        idle = rp_now_ns() - self.active_at
        if idle < QUIET_NS:
            return (QUIET_NS - idle) / 1e9
        self.look(len(self.lent))
        self.recall_all()
        while self.arena.warm_bytes > self.quiet_bytes and rp_now_ns() - self.active_at >= QUIET_NS:
            if not rp_arena_withdraw(self.arena, &block):
                break
            self.store.live += 1
            with nogil:
                if rp_segment_drop(&self.store.segment, block.off, block.backed) == 0:
                    block.backed = 0
            self.store.live -= 1
            if self.store.closed:
                self.store.finish()
                return None
            rp_arena_return(self.arena, &block)
            if block.backed:
                break
        if self.arena.used_bytes + self.arena.warm_bytes > self.quiet_bytes:
            return QUIET_NS / 1e9
        self.watched = False
        return None


# ---- what many tasks share

@cython.final
@cython.no_gc
cdef class Shared:
    """A block with one part, for every task that has it. span: the memory that it was copied from, held if nobody compares."""

    def __dealloc__(self):
        cdef Store store = self.store
        if store is None or getpid() != store.owner:
            return
        store.shared_bytes -= self.block.len
        store.give(&self.block, False, 0)


@cython.final
cdef class Shares(Sharer):
    """Of one job: parts that more than one of its tasks has are copied once.

    A part that is sure to come again, because the next item has the same object, has a block of its own from the first time on;
    any other from the second time on. checked: the caller may change the object while the job runs, so it is compared before each
    use. Else he waits for the job, and the memory of an item, which is held, is the same; but what an item's own way of pickling
    has written to the same place need not be.
    """

    def __cinit__(self, Blocks blocks, bint checked, bint tokens_only=False):
        self.blocks = blocks
        self.tokens_only = tokens_only
        self.checked = checked
        self.known = {}

    cdef uint64_t size_of(self, Span span) noexcept:
        return (<Share>token_of(span).share).block.len

    cdef uint64_t offset_of(self, Span span, list used) except? 0:
        cdef Shared shared
        cdef Share open
        cdef Token token = token_of(span)
        cdef unsigned char *base
        cdef int differs = 0
        if token is not None:
            open = <Share>token.share
            if open is None or open.blocks is not self.blocks:
                return 0
            used.append(open)
            return open.block.off
        if self.tokens_only:
            return 0
        if span.size < SHARED_LEAST:
            return 0
        key = (<uint64_t>span.data, span.size)
        found = self.known.get(key)
        if found is None and not has_part(self.following, span):
            self.remember(key, FIRST)
            return 0
        if type(found) is Shared:
            shared = <Shared>found
            if self.checked or not has_part(self.current, span):
                base = <unsigned char *>shared.store.segment.base
                with nogil:
                    differs = memcmp(base + shared.block.off, span.data, span.size)
            if differs:
                found = None
        if type(found) is not Shared:
            shared = self.copied(span)
            if shared is None:
                return 0
            self.remember(key, shared)
        used.append(shared)
        return shared.block.off

    cdef int remember(self, key, value) except -1:
        # Not for ever: neither the blocks nor what lies in them.
        self.known.pop(key, None)
        while len(self.known) >= KNOWN_MOST:
            del self.known[next(iter(self.known))]
        self.known[key] = value
        return 0

    cdef Shared copied(self, Span span):
        """A new block with a copy; None if there is no memory for one."""
        cdef Shared shared = Shared.__new__(Shared)
        cdef rp_segment *segment = &self.blocks.store.segment
        cdef int err
        if self.blocks.store.closed or self.blocks.starved or self.blocks.reserve(max(span.size, 4096), &shared.block):
            return None
        shared.store = self.blocks.store
        shared.store.live += 1
        shared.store.shared_bytes += shared.block.len
        with nogil:
            err = rp_arena_back(segment, &shared.block)
            if not err:
                rp_copy(<unsigned char *>segment.base + shared.block.off, span.data, span.size)
        if err:
            return None
        if not self.checked:
            shared.span = span
        return shared


cdef object FIRST = object()


cdef bint has_part(object item, Span span) except -1:
    """True if the part is the memory of the item, or of a member of it; not of what pickling it made or found elsewhere."""
    if item is None:
        return False
    exporter = exporter_of(span)
    if item is exporter:
        return True
    return (type(item) is tuple or type(item) is list) and any(one is exporter for one in item[:16])


# ---- objects that any task may refer to

@cython.final
cdef class Share:
    """The block of a shared object. Free when its handle is closed, no task refers to it and no worker has anything on it."""

    cdef bint unused(self) noexcept:
        """True if no worker has it. Asked when no task that refers to it is left: whoever has it has said so by then."""
        cdef rp_share *at = <rp_share *>(<unsigned char *>self.store.segment.base + self.block.off)
        cdef uint32_t seat
        for seat in range(rp_used(self.blocks.map)):
            if learn32(&at.user[seat]):
                return False
        return True

    cdef int let_go(self) except -1:
        """Whoever has the handle still: nobody uses the block any more."""
        cdef Store store = self.store
        self.store = None
        if store is not None and getpid() == store.owner:
            store.give(&self.block, False, 0)
        return 0

    def __dealloc__(self):
        self.let_go()


@cython.final
cdef class Fixing(Sharer):
    """Makes the parts of an encoding read-only."""

    cdef uint64_t offset_of(self, Span span, list used) except? 0:
        span.fixed = True
        return 0


@cython.final
cdef class SharedObject:
    """What share() gives: stands for an object in the arguments of the pool's tasks, which receive the object itself.

    The object is sent once and loaded once in each worker that needs it; its large buffers are read-only there. close(), the end of
    a `with` block or garbage collection releases it: tasks that use it afterwards fail.
    """

    @property
    def closed(self):
        """True once the object was released."""
        return self.token.share is None

    def __reduce_ex__(self, protocol):
        if self.token.share is None:
            raise ValueError("the shared object was released")
        if protocol < 5:
            raise RuntimeError("a shared object can only be sent with tasks of its own pool")
        return open_shared, (PickleBuffer(self.token),)

    def __enter__(self):
        if self.token.share is None:
            raise ValueError("the shared object was released")
        return self

    def __exit__(self, *exc_info):
        self.close()

    def close(self):
        """Releases the object. Its memory goes back when no task and no worker uses it any more. May be called again."""
        cdef Share share
        cdef rp_share *at
        if self.token is None or self.token.share is None:
            return
        share = <Share>self.token.share
        self.token.share = None
        if share.store is None or getpid() != share.store.owner:
            return
        at = <rp_share *>(<unsigned char *>share.store.segment.base + share.block.off)
        tell32(&at.closed, 1)
        share.blocks.closing.append(share)
        rp_wake_all(share.blocks.map)

    def __del__(self):
        self.close()


cdef SharedObject share(Blocks blocks, object value):
    """The handle of the object, which is encoded now. Raises what pickling raises, OSError if there is no memory."""
    cdef Buffer data = Buffer()
    cdef Share made = Share.__new__(Share)
    cdef SharedObject handle
    cdef rp_segment *segment = &blocks.store.segment
    cdef rp_share *at
    cdef rp_block block
    cdef uint64_t size
    cdef int err
    data.sharer = Fixing.__new__(Fixing)
    append_image(data, value)
    size = data.total()
    err = blocks.reserve(sizeof(rp_share) + size, &block)
    if err:
        raise OSError(-err, f"no shared memory for an object of {size:,} bytes: {os.strerror(-err)}")
    blocks.store.live += 1
    made.store = blocks.store
    made.blocks = blocks
    made.block = block
    blocks.watch()
    err = blocks.fill(&made.block, data, sizeof(rp_share))
    if err:
        raise OSError(-err, f"no shared memory for an object of {size:,} bytes: {os.strerror(-err)}")
    at = <rp_share *>(<unsigned char *>segment.base + made.block.off)
    memset(at, 0, sizeof(rp_share))
    blocks.number += 1
    at.number = blocks.number
    at.len = size
    handle = SharedObject.__new__(SharedObject)
    handle.token = Token.__new__(Token)
    handle.token.share = made
    blocks.open.add(made)
    return handle
