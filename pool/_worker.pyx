# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The worker loop: claim a task, decode, run, encode the result into this worker's ring.

Runs in a worker process, on its only Python thread, after the Python side has set the process up. Holds no policy: what an
error looks like on its way back, how a function is found, is given to it as functions.
"""

import gc
import os

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.errno cimport ENOSYS
from libc.signal cimport SIGKILL
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy
from posix.signal cimport kill
from posix.unistd cimport getpid, pause

from pool._buffers cimport Site, TaskBlock, load_parts, site_of, task_block
from pool._codec cimport (TAG_FLOATS, TAG_INTS, TAG_PARTS, TAG_RANGE, Buffer, append_value, append_values, decode, decode_apart,
                          decode_values, is_int64, simple_put)
from pool._csrc cimport *

cdef extern from "Python.h":
    int PyBUF_READ

cdef enum:
    FUNCTIONS_KEPT = 64
    SMALL_RESULT = 256      # bytes of a result that is written where it will lie
    STRICT_NS = 5000        # how long results may go unannounced between two tasks
    WEIGH_NS = 1000000      # how often a worker looks how much memory it holds
    BLOCK_LEAST = 32768     # a result with parts of so many bytes is worth a block
    ANSWER_NS = 1000000000  # how long the parent may take to find a block; then the result goes through the ring


cdef class Worker:
    """A worker's end of the segment: fd is the segment's descriptor (and stays the caller's), seat the place to sit down at.

    OSError if the segment cannot be mapped, ValueError if it is not one of ours.
    """
    cdef rp_segment segment
    cdef rp_map map
    cdef rp_consumer consumer
    cdef rp_writer writer
    cdef rp_spin spin
    cdef Buffer scratch
    cdef dict functions
    cdef object load_function, call_any, encode_error
    cdef uint32_t seat, last_id
    cdef bint outlive       # what it runs may go on to its end when the owner is gone
    cdef rp_slot *slot      # of the task that has no result yet; NULL: there is none
    cdef uint64_t pos
    cdef Site site          # what the arguments' objects need of the segment
    cdef uint32_t asked     # requests for a block
    cdef rp_taken spare     # a block that was taken and not used
    cdef uint64_t own       # offset of the task's own payload, if the result may go there; else 0
    cdef bint counted       # it says how many calls it has begun
    cdef object last_function

    def __cinit__(self, int fd, uint32_t seat, load_function, call_any, encode_error):
        attach(&self.segment, &self.map, fd)
        if seat >= self.map.nseats:
            raise ValueError(f"there is no seat {seat}")
        rp_watch_forks()
        rp_consumer_init(&self.consumer, &self.map, seat)
        rp_writer_init(&self.writer, &self.map, seat)
        rp_spin_init(&self.spin)
        self.site = site_of(self.map.base, self.map.arena_off, self.map.arena_off + self.map.arena_bytes, fd, seat)
        self.seat = seat
        self.scratch = Buffer()
        self.functions = {}
        self.load_function = load_function
        self.call_any = call_any
        self.encode_error = encode_error
        fault(RP_AT_ATTACHED)

    def __dealloc__(self):
        rp_segment_close(&self.segment)

    def watch(self, int owner_fd, int program_fd, int parent_pid, bint outlive):
        """Ends this process when the pool's owner is gone: owner_fd is a pidfd of it, or a pipe whose other end it
        holds, or -1: then the parent is watched. program_fd: see rp_watch_owner; from now on the watch's own.
        outlive: a task that it runs then is run to its end."""
        cdef int err
        self.outlive = outlive
        err = rp_watch_owner(owner_fd, program_fd, outlive) if owner_fd >= 0 else rp_watch_parent(parent_pid, outlive)
        if err:
            raise OSError(-err, f"cannot watch the pool's owner: {os.strerror(-err)}")

    def boot_failed(self, bytes error):
        """Tells the parent that the initializer failed."""
        self.send(RESULT_BOOT, <const unsigned char *>PyBytes_AS_STRING(error), PyBytes_GET_SIZE(error), 0)
        rp_writer_announce_now(&self.writer, True)

    def main_failed(self, bytes error):
        """Tells the parent that the main module failed when it was imported here. False: that is too long. Never waits: nothing
        ends this process yet when the owner is gone."""
        if <uint64_t>PyBytes_GET_SIZE(error) > rp_writer_limit(&self.writer):
            return False
        self.send(RESULT_MAIN, <const unsigned char *>PyBytes_AS_STRING(error), PyBytes_GET_SIZE(error), 0)
        rp_writer_announce_now(&self.writer, True)
        return True

    def stand_by(self):
        """Tells the parent that this worker is ready, and waits until it is to serve. False: it is to leave instead."""
        cdef rp_seat *seat = &self.map.seats[self.seat]
        cdef bint serve = False
        if rp_forked():
            # The initializer forked and came back in both processes: only the worker itself may sit here.
            os._exit(0)
        store32(&seat.phase, RP_SEAT_READY)
        rp_writer_announce_now(&self.writer, True)
        fault(RP_AT_REPORTED)
        while not serve and load32(&seat.orders) != RP_LEAVE and not load32(&self.map.h.stop):
            with nogil:
                serve = rp_worker_stand_by(&self.consumer)
            self.ignore_interrupt()
        return serve

    def serve(self, Py_ssize_t tasks, uint64_t most_bytes):
        """Runs tasks until the pool stops or sends this worker away, until so many slots were served (negative: no limit), or
        until it holds more than so many bytes of memory (0: no limit) after a task. Returns how many slots were served."""
        cdef rp_seat *seat = &self.map.seats[self.seat]
        cdef rp_slot *slot
        cdef uint64_t pos = 0, held
        cdef Py_ssize_t served = 0, since = 0
        cdef int64_t now, begin = rp_now_ns(), weighed = 0
        cdef bint last
        store32(&seat.phase, RP_SEAT_SERVING)
        while served != tasks and glance32(&seat.orders) != RP_LEAVE:
            slot = rp_consumer_claim(&self.consumer, &pos)
            if slot == NULL:
                if load32(&self.map.h.stop):
                    break
                if rp_consumer_is_to_clean(&self.consumer):
                    gc.collect()
                if not rp_worker_glance(&self.consumer, &self.writer, &self.spin):
                    with nogil:
                        rp_worker_wait(&self.consumer, &self.writer, &self.spin)
                    # A glance is short enough to be taken for a part of the task that it found.
                    begin = rp_now_ns()
                    since = 0
                self.ignore_interrupt()
                self.site.drop_closed()
                continue
            last = self.run(slot, pos)
            if rp_forked():
                # The task forked and came back in both processes: this one is no worker.
                os._exit(0)
            if last:
                break
            served += 1
            since += 1
            if most_bytes:
                now = rp_now_ns()
                if now - weighed >= WEIGH_NS:
                    weighed = now
                    held = rp_resident_bytes()
                    if held > most_bytes:
                        store64(&seat.held, held)
                        break
            if rp_consumer_in_stretch(&self.consumer):
                rp_writer_announce(&self.writer)
                continue
            now = rp_now_ns()
            rp_consumer_pace(&self.consumer, (now - begin) // since)
            if now - begin >= STRICT_NS:
                rp_writer_announce_now(&self.writer, False)
                begin = now
                since = 0
            else:
                rp_writer_announce(&self.writer)
        store32(&seat.phase, RP_SEAT_LEAVING)
        fault(RP_AT_LEAVING)
        rp_writer_announce_now(&self.writer, True)
        return served

    cdef int ignore_interrupt(self) except -1:
        """Ctrl-C reaches every process of the terminal; a worker without a task has nothing to interrupt."""
        try:
            PyErr_CheckSignals()
        except KeyboardInterrupt:
            pass
        return 0

    cdef object function_of(self, rp_slot *slot):
        cdef uint64_t size = 0
        cdef unsigned char *at
        if slot.func_id == self.last_id:
            return self.last_function
        function = self.functions.get(slot.func_id)
        if function is None:
            at = rp_arena_at(&self.map, slot.func_off, 8)
            if at != NULL:
                memcpy(&size, at, 8)
                at = rp_arena_at(&self.map, slot.func_off + 8, size)
            if at == NULL:
                raise RuntimeError("the pool's shared memory is damaged: a function lies outside of it")
            function = self.load_function(PyMemoryView_FromMemory(<char *>at, size, PyBUF_READ))
            if slot.flags & RP_KEEP:
                if len(self.functions) >= FUNCTIONS_KEPT:
                    self.functions.clear()
                self.functions[slot.func_id] = function
        self.last_id = slot.func_id
        self.last_function = function
        return function

    cdef inline bint orphaned(self) noexcept:
        """The task has ended. True: the owner is gone, nobody takes its outcome."""
        return self.outlive and not rp_task_ends()

    cdef int run(self, rp_slot *slot, uint64_t pos) except -1:
        """Runs the task and publishes its outcome, whatever that is. True: the owner is gone, and this worker has to leave."""
        cdef const unsigned char *at
        cdef Py_ssize_t size
        cdef int kind
        cdef int64_t begin = 0
        cdef TaskBlock block = None
        if not rp_consumer_start(&self.consumer, slot, pos):
            return 0
        at, size, kind = slot.data, slot.len, slot.kind
        self.slot = slot
        self.pos = pos
        self.counted = slot.flags & RP_COUNTED
        self.own = 0
        if self.outlive:
            rp_task_begins()
        result = None
        fault(RP_AT_DECODING)
        try:
            if slot.off:
                at = rp_arena_at(&self.map, slot.off, size)
            if at == NULL or size < 1 or (slot.off == 0 and size > RP_INLINE):
                raise RuntimeError("the pool's shared memory is damaged: a payload lies outside of it")
            if slot.off and slot.flags & RP_HEADED:
                if rp_arena_at(&self.map, slot.off - RP_HEAD, RP_HEAD) == NULL:
                    raise RuntimeError("the pool's shared memory is damaged: a payload lies outside of it")
                self.own = slot.off
                block = task_block(self.site, slot.off)
            function = self.function_of(slot)
            if kind <= TASK_CALL_KW:
                args = load_parts(at, size, block) if at[0] == TAG_PARTS else decode_apart(at, size)
                block = None
                fault(RP_AT_CALLING)
                self.count(1)
                if kind == TASK_ITEM:
                    result = call_item(function, args)
                elif kind == TASK_CALL:
                    result = function(*args) if type(args) is tuple else self.call_any(function, args, {})
                elif kind == TASK_STAR:
                    result = call_star(function, args)
                else:
                    result = self.call_any(function, *args)
                args = None
            else:
                begin = rp_now_ns()
                if kind == TASK_CHUNK and TAG_INTS <= at[0] <= TAG_RANGE:
                    result = self.call_numbers(function, at, size)
                else:
                    values = list(load_parts(at, size, block)) if at[0] == TAG_PARTS else decode_values(at, size)
                    block = None
                    fault(RP_AT_CALLING)
                    if self.counted:
                        result = self.call_counted(function, values, kind == TASK_CHUNK_STAR)
                    else:
                        result = call_chunk(function, values, kind == TASK_CHUNK_STAR)
                    values = None
            block = None
        except BaseException as error:
            block = None
            if self.orphaned():
                return True
            self.fail(error, None, pos)
            return 0
        fault(RP_AT_RETURNED)
        if rp_forked():
            return 0
        if self.orphaned():
            return True
        try:
            # Encoded first, so that what is large is let go before the parent has it too.
            if begin:
                self.encode_values(result, begin)
                result = None
                self.send_scratch(RESULT_VALUES, pos)
            elif not self.send_small(result, pos):
                append_value(self.scratch, result, False)
                result = None
                self.send_scratch(RESULT_VALUE, pos)
        except Exception as error:
            self.fail(error, (result,), pos)
        except BaseException as error:
            self.fail(error, None, pos)
        return 0

    cdef inline void count(self, Py_ssize_t calls) noexcept:
        if self.counted:
            note32(&self.map.seats[self.seat].calls, <uint32_t>calls)

    cdef list call_numbers(self, object function, const unsigned char *at, Py_ssize_t size):
        """As call_chunk, for numbers that are made one by one. While the results are numbers of one kind too, they are encoded as
        they come, and None is returned: so no more than two objects are alive at a time, and memory that was just freed is used
        again."""
        cdef unsigned char tag = at[0], kind = 0
        cdef Py_ssize_t n = (size - 1) // 8, i
        cdef long long number = 0
        cdef uint64_t start = 0, step = 0   # unsigned: what wraps around on the way comes out right
        cdef double real
        cdef list results = None
        cdef unsigned char *to
        if tag == TAG_RANGE:
            if size != 25:
                raise RuntimeError("the pool's shared memory is damaged: a range of a wrong size")
            memcpy(&n, at + 1, 8)
            memcpy(&start, at + 9, 8)
            memcpy(&step, at + 17, 8)
        self.scratch.clear()
        self.scratch.used = 8
        self.scratch.grow(1 + 8 * n)
        to = self.scratch.data + 9
        fault(RP_AT_CALLING)
        try:
            for i in range(n):
                self.count(i + 1)
                if tag == TAG_FLOATS:
                    memcpy(&real, at + 1 + 8 * i, 8)
                    result = function(real)
                elif tag == TAG_INTS:
                    memcpy(&number, at + 1 + 8 * i, 8)
                    result = function(number)
                else:
                    number = <long long>(start + <uint64_t>i * step)
                    result = function(number)
                if results is None:
                    if i == 0:
                        kind = TAG_INTS if type(result) is int else TAG_FLOATS if type(result) is float else 0
                    if kind == TAG_INTS and is_int64(result, &number):
                        memcpy(to, &number, 8)
                        to += 8
                        continue
                    if kind == TAG_FLOATS and type(result) is float:
                        real = result
                        memcpy(to, &real, 8)
                        to += 8
                        continue
                    self.scratch.data[8] = kind
                    results = decode_values(self.scratch.data + 8, 1 + 8 * i) if i else []
                results.append(result)
        except StopIteration as stop:
            raise RuntimeError("task raised StopIteration") from stop
        self.scratch.data[8] = kind
        self.scratch.used = to - self.scratch.data
        return results

    cdef list call_counted(self, object function, list values, bint star):
        """As call_chunk; says in the seat which of the calls is under way."""
        cdef list results = []
        for value in values:
            self.count(len(results) + 1)
            results.append(call_star(function, value) if star else call_item(function, value))
        return results

    cdef int finish(self) noexcept:
        """Before anything of the result is published. Does not return if the task was doomed."""
        self.count(0)
        self.counted = False
        if self.slot != NULL and not rp_consumer_finish(&self.consumer, self.slot, self.pos):
            kill(getpid(), SIGKILL)
            pause()
        self.slot = NULL
        return 0

    cdef bint send_small(self, object value, uint64_t pos) except -1:
        """Sends a value that is small and simple, if there is room for it. A full ring is waited for only with the value in safety:
        another thread of the task may change it."""
        cdef Py_ssize_t size, room = min(<uint32_t>SMALL_RESULT, rp_writer_limit(&self.writer))
        cdef unsigned char *to = rp_writer_reserve(&self.writer, room)
        if to != NULL:
            size = simple_put(value, to, room)
            if 0 <= size <= room:
                fault(RP_AT_ENCODED)
                self.finish()
                rp_writer_publish(&self.writer, size, RESULT_VALUE, pos)
                return True
        self.scratch.clear()
        return False

    cdef int encode_values(self, list values, int64_t begin) except -1:
        """Results of a chunk, after the word that the dispatcher's `settle` reads: nanoseconds since `begin` << 8 | 256ths of them for
        encoding. values: None if the results are in the scratch buffer already."""
        cdef int64_t now, took, encoding = 0
        if values is not None:
            self.scratch.clear()
            self.scratch.grow(8)
            self.scratch.used = 8
            now = rp_now_ns()
            append_values(self.scratch, values, 0, len(values), False)
            encoding = rp_now_ns() - now
        took = max(<int64_t>1, rp_now_ns() - begin)
        took = took << 8 | min(<int64_t>255, encoding * 256 // took)
        memcpy(self.scratch.data, &took, 8)
        return 0

    cdef int send_scratch(self, int kind, uint64_t pos) except -1:
        """The encoded result: through a block if it is large and there is one, else through the ring."""
        cdef Py_ssize_t total = self.scratch.total()
        if total < BLOCK_LEAST or (self.scratch.spans is None and <uint64_t>total <= rp_writer_limit(&self.writer)) or (
                not self.send_block(kind, total, pos)):
            self.scratch.flatten()
            self.send(kind, self.scratch.data, self.scratch.used, pos)
        self.scratch.clear()
        return self.shrink()

    cdef bint send_block(self, int kind, Py_ssize_t total, uint64_t pos) except -1:
        """False: there is no block for the result."""
        cdef uint64_t words[4]
        cdef Py_ssize_t before = 8 if kind == RESULT_VALUES else 0
        cdef rp_taken block
        cdef unsigned char *to
        if not self.room_for(total - before, &block):
            return False
        words[0] = block.off + RP_HEAD
        words[1] = total - before
        words[2] = 0
        words[3] = kind
        if before:
            memcpy(&words[2], self.scratch.data, 8)
        # The time that a chunk took goes before the encoding, where the head of the block has room.
        if not self.fill(&block, words[0] - before, total):
            self.spare = block
            return False
        self.scratch.clear()
        fault(RP_AT_ENCODED)
        self.finish()
        to = self.reserve(sizeof(words))
        memcpy(to, words, sizeof(words))
        rp_writer_publish(&self.writer, sizeof(words), RESULT_BLOCK, pos)
        return True

    cdef bint room_for(self, uint64_t size, rp_taken *block) except -1:
        """A block for an encoding of so many bytes; False: there is none."""
        cdef rp_head *head
        cdef uint64_t need = size + RP_HEAD
        cdef unsigned char *to
        if self.own:
            head = <rp_head *>(self.map.base + self.own - RP_HEAD)
            if head.room >= size and load32(&head.released) and rp_arena_at(&self.map, self.own, size) != NULL:
                block[0] = rp_taken(off=self.own - RP_HEAD, room=need, backed=(need + 4095) & ~<uint64_t>4095)
                return True
        block[0] = self.spare
        self.spare.off = 0
        if (not block.off or block.room < need) and not rp_offer_take(&self.map, self.seat, need, block):
            to = self.reserve(8)
            memcpy(to, &need, 8)
            rp_writer_publish(&self.writer, 8, RESULT_WANT, 0)
            rp_writer_announce_now(&self.writer, True)
            self.asked += 1
            fault(RP_AT_WANTS_BLOCK)
            with nogil:
                rp_offer_wait(&self.map, self.seat, self.asked, ANSWER_NS)
            if not rp_offer_take(&self.map, self.seat, need, block):
                return False
        if rp_arena_at(&self.map, block.off, need) == NULL:
            return False
        fault(RP_AT_HAS_BLOCK)
        return True

    cdef bint fill(self, rp_taken *block, uint64_t to, Py_ssize_t total) except -1:
        """Writes the encoding of so many bytes to the offset `to` in the block. False: there is no memory for it."""
        cdef uint64_t backed = block.off + block.backed, end = (to + total + 4095) & ~<uint64_t>4095
        cdef int err
        self.segment.fd = self.site.file.fd
        try:
            err = self.scratch.place(&self.segment, to, end, &backed, rp_segment_populate)
        finally:
            self.segment.fd = -1
        if err:
            block.backed = backed - block.off
            return False
        return True

    cdef int shrink(self) except -1:
        """A giant result must not keep its memory."""
        if self.scratch.room > (1 << 20):
            self.scratch = Buffer()
        return 0

    cdef int fail(self, object error, object value, uint64_t pos) except -1:
        """Publishes an error. value: (result,) if the task itself went well and its result could not be sent."""
        cdef bytes data
        if rp_forked():
            # A child that the task forked and that did not end by itself.
            code = error.code if isinstance(error, SystemExit) else 1
            os._exit(0 if code is None else code & 0xff if isinstance(code, int) else 1)
        try:
            data = self.encode_error(error, value)
        except KeyboardInterrupt:
            data = self.encode_error(error, value)
        self.send(RESULT_ERROR, <const unsigned char *>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), pos)
        return 0

    cdef unsigned char *reserve(self, Py_ssize_t size) except NULL:
        """Room in the ring; waits while the parent has not collected."""
        cdef unsigned char *to = rp_writer_reserve(&self.writer, size)
        while to == NULL:
            with nogil:
                rp_writer_wait(&self.writer)
            to = rp_writer_reserve(&self.writer, size)
        return to

    cdef int send(self, int kind, const unsigned char *data, Py_ssize_t size, uint64_t pos) except -1:
        """One record, or pieces of at most a quarter of the ring."""
        cdef uint64_t total = size + 1, offset = 0, n
        cdef uint64_t most = rp_writer_limit(&self.writer)
        cdef unsigned char *to
        fault(RP_AT_ENCODED)
        self.finish()
        if <uint64_t>size <= most:
            to = self.reserve(size)
            memcpy(to, data, size)
            rp_writer_publish(&self.writer, size, kind, pos)
            return 0
        most -= 16
        while offset < total:
            n = min(most, total - offset)
            to = self.reserve(n + 16)
            memcpy(to, &total, 8)
            memcpy(to + 8, &offset, 8)
            if offset == 0:
                to[16] = kind
                memcpy(to + 17, data, n - 1)
            else:
                memcpy(to + 16, data + offset - 1, n)
            rp_writer_publish(&self.writer, n + 16, RESULT_PIECE, pos)
            rp_writer_announce(&self.writer)
            offset += n
            if offset < total:
                fault(RP_AT_BETWEEN_PIECES)
        return 0



cdef int attach(rp_segment *segment, rp_map *map, int fd) except -1:
    """Maps the segment with this descriptor. OSError if that is refused, ValueError if it is not one of ours."""
    cdef int err = rp_segment_attach(segment, fd)
    if err:
        raise OSError(-err, f"cannot map the pool's segment: {os.strerror(-err)}")
    if rp_layout_open(map, segment.base, segment.size):
        rp_segment_close(segment)
        raise ValueError("not a segment of this version of ringpool")
    return 0


def seat_for(int fd, uint32_t name):
    """The seat that waits for the process whose name has this digest, in the segment with that descriptor; None if there is not
    exactly one, or if something was said from there already. OSError or ValueError if it is no segment."""
    cdef rp_segment segment
    cdef rp_map map
    cdef rp_seat *seat
    cdef uint32_t i
    attach(&segment, &map, fd)
    try:
        found = None
        for i in range(rp_used(&map)):
            seat = &map.seats[i]
            if load32(&seat.name) == name:
                if found is not None or load32(&seat.phase) != RP_SEAT_FREE or load64(&seat.tail) != 0:
                    return None
                found = i
        return found
    finally:
        rp_segment_close(&segment)


cdef object call_item(object function, object value):
    try:
        return function(value)
    except StopIteration as stop:
        raise RuntimeError("task raised StopIteration") from stop


cdef object call_star(object function, object value):
    try:
        return function(*value)
    except StopIteration as stop:
        raise RuntimeError("task raised StopIteration") from stop


cdef list call_chunk(object function, list values, bint star):
    cdef list results = []
    try:
        if star:
            for value in values:
                results.append(function(*value))
        else:
            for value in values:
                results.append(function(value))
    except StopIteration as stop:
        raise RuntimeError("task raised StopIteration") from stop
    return results
