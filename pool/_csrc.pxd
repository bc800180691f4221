"""The C core as Cython sees it: names as in csrc/*.h, which also say who may call what."""

from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t

cdef extern from "layout.h" nogil:
    ctypedef uint32_t rp_u32
    ctypedef uint64_t rp_u64
    enum: RP_INLINE, RP_MAX_SEATS, RP_SPIN_CHAIRS, RP_KEEP, RP_COUNTED, RP_AHEAD, RP_HEADED, RP_HEAD
    struct rp_share:
        uint64_t number, len
        rp_u32 closed
        rp_u32 *user
    struct rp_head:
        rp_u32 released
        uint32_t keep
        uint64_t room
    enum: RP_SEAT_FREE, RP_SEAT_READY, RP_SEAT_SERVING, RP_SEAT_LEAVING
    enum rp_orders: RP_STAND_BY, RP_SERVE, RP_LEAVE
    enum rp_phase: RP_READY, RP_CLAIMED, RP_RUNNING, RP_DONE, RP_DOOMED
    rp_phase rp_state_phase(uint64_t)
    uint32_t rp_state_seat(uint64_t)
    struct rp_slot:
        rp_u64 state
        uint64_t len, off, func_off
        uint32_t func_id
        uint16_t kind, flags
        unsigned char *data
    struct rp_seat:
        rp_u32 bell, phase, late, orders, calls
        rp_u64 held, tail
        rp_u32 name
    struct rp_header:
        rp_u32 stop, late
        uint64_t arena_bytes
        uint32_t doorbell
    struct rp_geometry:
        uint32_t nslots, nseats, ring_bytes, chairs, doorbell
        uint64_t arena_bytes
        uint32_t cores
    struct rp_map:
        unsigned char *base
        rp_header *h
        rp_slot *slots
        rp_seat *seats
        uint64_t slot_mask, arena_off, arena_bytes
        uint32_t nseats, used, ring_bytes
        rp_doorbell_kind doorbell
        unsigned char *rings
    size_t rp_layout_size(const rp_geometry *)
    void rp_layout_write(void *, const rp_geometry *)
    int rp_layout_open(rp_map *, void *, size_t)
    void rp_use_seats(rp_map *, uint32_t)
    uint32_t rp_used(const rp_map *)
    void rp_prefetch_slot(const rp_map *, uint64_t)
    unsigned char *rp_arena_at(const rp_map *, uint64_t, uint64_t)

cdef extern from "atomics.h" nogil:
    uint32_t load32 "rp_load_seq"(rp_u32 *)
    void store32 "rp_store_seq"(rp_u32 *, uint32_t)
    uint32_t glance32 "rp_load_relaxed"(rp_u32 *)
    void note32 "rp_store_relaxed"(rp_u32 *, uint32_t)
    uint32_t learn32 "rp_load_acquire"(rp_u32 *)
    void tell32 "rp_store_release"(rp_u32 *, uint32_t)
    uint64_t load64 "rp_load_seq"(rp_u64 *)
    void store64 "rp_store_seq"(rp_u64 *, uint64_t)

cdef extern from "segment.h" nogil:
    struct rp_file:
        int fd
    int rp_file_open(rp_file *, int)
    void rp_file_close(rp_file *)
    struct rp_segment:
        void *base
        size_t size
        int fd
        bint on_disk
    enum rp_segment_how: RP_SEGMENT_ANY, RP_SEGMENT_UNLINKED
    int rp_segment_create(rp_segment *, size_t, rp_segment_how)
    int rp_segment_attach(rp_segment *, int)
    int rp_segment_back(const rp_segment *, uint64_t, uint64_t)
    int rp_segment_populate(const rp_segment *, uint64_t, uint64_t)
    int rp_segment_drop(const rp_segment *, uint64_t, uint64_t)
    void rp_segment_close(rp_segment *)

cdef extern from "doorbell.h" nogil:
    enum rp_doorbell_kind: RP_DOORBELL_FUTEX, RP_DOORBELL_POLL
    rp_doorbell_kind rp_doorbell_probe()
    uint32_t rp_bell_read(rp_u32 *)
    void rp_bell_ring(rp_u32 *, rp_doorbell_kind)
    int rp_bell_park(rp_u32 *, uint32_t, int64_t, rp_doorbell_kind)
    int64_t rp_now_ns()
    struct rp_spin:
        int64_t budget_ns
    void rp_spin_init(rp_spin *)

cdef extern from "taskring.h" nogil:
    struct rp_producer:
        uint64_t tail
        uint32_t outstanding
        bint stopped
    int rp_producer_init(rp_producer *, const rp_map *)
    void rp_producer_free(rp_producer *)
    rp_slot *rp_producer_next(rp_producer *, uint64_t *)
    void rp_producer_commit(rp_producer *, uint64_t)
    void rp_producer_kick(rp_producer *)
    void rp_producer_nudge(rp_producer *)
    void rp_producer_rouse(rp_producer *)
    void rp_producer_stop(rp_producer *)
    bint rp_producer_expects(const rp_producer *, uint64_t, uint32_t)
    bint rp_producer_look(const rp_producer *, uint64_t, uint64_t *, rp_phase *, uint32_t *)
    bint rp_producer_revoke(rp_producer *, uint64_t)
    bint rp_producer_doom(rp_producer *, uint64_t, uint32_t)
    void rp_producer_retry(rp_producer *, uint64_t)
    void rp_producer_settle(rp_producer *, uint64_t)
    uint32_t rp_producer_bury(rp_producer *, uint32_t, uint64_t *, uint32_t)
    struct rp_consumer:
        pass
    void rp_consumer_init(rp_consumer *, const rp_map *, uint32_t)
    rp_slot *rp_consumer_claim(rp_consumer *, uint64_t *)
    bint rp_consumer_start(rp_consumer *, rp_slot *, uint64_t)
    bint rp_consumer_finish(rp_consumer *, rp_slot *, uint64_t)
    bint rp_consumer_is_to_clean(rp_consumer *)
    bint rp_consumer_in_stretch(const rp_consumer *)
    void rp_consumer_pace(rp_consumer *, int64_t)

cdef extern from "wake.h" nogil:
    void rp_wake_all(const rp_map *)

cdef extern from "resultring.h" nogil:
    struct rp_writer:
        pass
    void rp_writer_init(rp_writer *, const rp_map *, uint32_t)
    uint32_t rp_writer_limit(const rp_writer *)
    unsigned char *rp_writer_reserve(rp_writer *, uint32_t)
    void rp_writer_publish(rp_writer *, uint32_t, uint16_t, uint64_t)
    void rp_writer_wait(rp_writer *)
    void rp_writer_announce(rp_writer *)
    void rp_writer_announce_now(rp_writer *, bint)
    struct rp_reader:
        pass
    struct rp_view:
        const unsigned char *payload
        uint32_t len
        uint16_t kind
        uint64_t pos
    void rp_reader_init(rp_reader *, const rp_map *, uint32_t)
    void rp_reader_reset(rp_reader *)
    bint rp_reader_unread(const rp_reader *)
    void rp_reader_give_up(rp_reader *)
    int rp_reader_peek(rp_reader *, rp_view *)
    void rp_reader_consume(rp_reader *, const rp_view *)
    void rp_reader_room(rp_reader *)

cdef extern from "idle.h" nogil:
    struct rp_patience:
        bint spin
        uint32_t wake_bytes
        int64_t limit_ns
    bint rp_worker_stand_by(const rp_consumer *)
    bint rp_worker_glance(const rp_consumer *, rp_writer *, const rp_spin *)
    void rp_worker_wait(rp_consumer *, rp_writer *, rp_spin *)
    void rp_parent_order(const rp_map *, uint32_t, rp_orders)
    uint32_t rp_parent_arm(const rp_map *)
    bint rp_parent_glance(const rp_reader *, uint32_t)
    bint rp_parent_wait(const rp_map *, const rp_reader *, uint32_t, uint32_t, const rp_patience *, rp_spin *)
    void rp_parent_ask_to_clean(const rp_map *)
    void rp_parent_ring(const rp_map *)

cdef extern from "arena.h" nogil:
    struct rp_block:
        uint64_t off, len, backed
    struct rp_arena:
        uint64_t next, live, used_bytes, warm_bytes, keep_bytes, limit_bytes
    void rp_arena_init(rp_arena *, const rp_map *, const rp_segment *, uint64_t)
    void rp_arena_release(rp_arena *)
    int rp_arena_alloc(rp_arena *, uint64_t, rp_block *)
    int rp_arena_reserve(rp_arena *, uint64_t, rp_block *)
    int rp_arena_back(const rp_segment *, rp_block *)
    uint64_t rp_arena_touched(uint64_t)
    uint64_t rp_block_charge(const rp_block *)
    bint rp_arena_withdraw(rp_arena *, rp_block *)
    void rp_arena_return(rp_arena *, rp_block *)
    void rp_arena_bare(rp_arena *, rp_block *)
    void rp_arena_free(rp_arena *, rp_block *)

cdef extern from "offers.h" nogil:
    struct rp_taken:
        uint64_t off, room, backed
    bint rp_offer_make(const rp_map *, uint32_t, uint64_t, const rp_taken *)
    bint rp_offer_recall(const rp_map *, uint32_t, uint64_t)
    void rp_offer_answer(const rp_map *, uint32_t)
    bint rp_offer_take(const rp_map *, uint32_t, uint64_t, rp_taken *)
    bint rp_offer_wait(const rp_map *, uint32_t, uint32_t, int64_t)

cdef extern from "copy.h" nogil:
    void rp_copy(void *, const void *, size_t)

cdef extern from "fill.h" nogil:
    ctypedef int rp_taker(const rp_segment *, uint64_t, uint64_t)
    struct rp_filling:
        const rp_segment *s
        rp_taker *take
        uint64_t at, end, backed
    int rp_fill(rp_filling *, void *, size_t, bint)
    void rp_unfill(const rp_filling *, uint64_t, void *, size_t)

cdef extern from "lease.h" nogil:
    struct rp_lease:
        void *at
        size_t len
        uint64_t off
        const rp_file *file
        bint ours, apart, stuck
    void rp_lease_begin(rp_lease *)
    void rp_lease_forget(rp_lease *)
    int rp_lease_end(rp_lease *)
    int rp_leases_part()
    void rp_leases_keep_only(const rp_file *, uint64_t)
    void rp_leases_shrink(rp_file *, rp_segment *, size_t)
    int rp_lease_map(void **, const rp_file *, uint64_t, size_t, bint)
    void rp_lease_unmap(void *, size_t)

cdef extern from "parts.h" nogil:
    enum: RP_PART_ALIGN, RP_PARTS_MOST
    enum: RP_PART_HERE, RP_PART_SHARED, RP_PART_FIXED
    struct rp_parts_head:
        unsigned char tag
        uint32_t n
        uint64_t stream_off, stream_len
    struct rp_part:
        uint64_t off, len
        uint32_t how, spare
    int rp_parts_open(const void *, uint64_t, rp_parts_head *)
    int rp_parts_get(const void *, uint64_t, const rp_parts_head *, uint32_t, uint64_t, uint64_t, rp_part *)

cdef extern from "pages.h" nogil:
    void *rp_pages_get(size_t)
    void rp_pages_give(void *, size_t)

cdef extern from "memory.h" nogil:
    uint64_t rp_resident_bytes()
    long rp_read_small(const char *, char *, unsigned long)

cdef extern from "watch.h" nogil:
    int rp_watch_owner(int, int, bint)
    int rp_watch_parent(int, bint)
    void rp_task_begins()
    bint rp_task_ends()
    int rp_watch_forks()
    int rp_forked()

cdef extern from "fault.h" nogil:
    void fault "RP_FAULT"(int)
    # Names in every build, numbers only in a build that has fault points.
    enum:
        RP_AT_ATTACHED, RP_AT_REPORTED, RP_AT_DECODING, RP_AT_CALLING, RP_AT_RETURNED, RP_AT_ENCODED, RP_AT_BETWEEN_PIECES
        RP_AT_WANTS_BLOCK, RP_AT_HAS_BLOCK
        RP_AT_LEAVING, RP_AT_REGISTERED, RP_AT_BLOCK_WRITTEN, RP_AT_PEEKED, RP_AT_SETTLING, RP_AT_SETTLED, RP_AT_BURYING
        RP_AT_DRAINED, RP_AT_BURIED, RP_AT_SEAT_OPENED, RP_AT_SENT_FOR, RP_AT_STOPPING


# What a task's slot holds, and what a result's record holds. Both ends of the rings agree on these.
cdef enum:
    TASK_ITEM = 1        # a value:                 func(value)
    TASK_STAR = 2        # a value:                 func(*value)
    TASK_CALL = 3        # a value:                 func(*value), of apply: StopIteration is the user's own affair
    TASK_CALL_KW = 4     # a pair (args, kwds):     func(*args, **kwds)
    TASK_CHUNK = 5       # values:                  [func(x) for x in values]
    TASK_CHUNK_STAR = 6  # values:                  [func(*x) for x in values]

    RESULT_VALUE = 1     # a value
    RESULT_VALUES = 2    # 8 bytes of nanoseconds, then values
    RESULT_ERROR = 3     # a value: (text of the traceback, pickle of the exception)
    RESULT_PIECE = 4     # 8 bytes total, 8 bytes offset, a piece; the whole is a kind (1 byte) and its payload
    RESULT_BOOT = 5      # as RESULT_ERROR: the initializer failed; belongs to no task
    RESULT_MAIN = 6      # as RESULT_BOOT: the main module failed when the worker imported it
    RESULT_WANT = 7      # 8 bytes: the worker wants a block of so much room for the result that it is about to send
    RESULT_BLOCK = 8     # 8 bytes each: offset of the encoding in the segment, its size, nanoseconds, kind of record
