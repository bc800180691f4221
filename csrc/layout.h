/* Every byte of the shared segment: who writes it, where it lies, how large it is.
 *
 *   offset 0        header        one, geometry is written by the parent before any worker starts
 *   slots_off       slots         nslots cells of the task ring
 *   seats_off       seats         nseats control blocks, one per worker seat
 *   rings_off       result rings  nseats byte rings of ring_bytes each
 *   arena_off       arena         blocks for payloads that do not fit a slot; the parent is their only allocator
 *
 * The segment is sparse: pages that nobody touches cost nothing.
 */
#ifndef RP_LAYOUT_H
#define RP_LAYOUT_H

#include "doorbell.h"

#include <stddef.h>

#define RP_MAGIC UINT64_C(0x6c6f6f70676e6972) /* "ringpool" */
#define RP_VERSION 4u
#define RP_LINE 128 /* two cache lines: the adjacent-line prefetcher pulls pairs */
#define RP_MAX_SEATS 4096u
#define RP_MASK_WORDS (RP_MAX_SEATS / 64)
#define RP_SPIN_CHAIRS 8u
#define RP_INLINE 88u

/* Slot state word: position << 16 | seat << 4 | phase. It is the crash record: whatever instruction a worker dies at,
 * the word says whether it held the task. A position is used once, so a stale compare-and-swap can never succeed.
 *
 *   EMPTY --parent: commit--> READY --worker: claim--> CLAIMED --worker: start--> RUNNING --worker: finish--> DONE
 *     ^                         |                        |                          |
 *     +---- parent: revoke -----+------------------------+                          +--parent: doom--> DOOMED
 *
 *   All but commit are compare-and-swaps, so of two that want the task one has it. Who finishes may publish the result; who is
 *   doomed may not, and claims nothing more: a worker that is killed for one task takes no other with it.
 *   The way back to EMPTY after a result is the parent's alone and lives in its private memory: once the result is drained the
 *   parent may commit a new position here, and the worker must not touch the slot after it published the result.
 *   CLAIMED at a death: the task goes back to READY. RUNNING or DONE at a death without a result: the task is lost. */
enum rp_phase { RP_EMPTY = 0, RP_READY = 1, RP_CLAIMED = 2, RP_RUNNING = 3, RP_DONE = 4, RP_DOOMED = 5 };
#define RP_POS_SHIFT 16
#define RP_SEAT_SHIFT 4
#define RP_POS_MAX ((UINT64_C(1) << 48) - 1)

static inline uint64_t rp_state(uint64_t pos, uint32_t seat, enum rp_phase phase)
{
    return pos << RP_POS_SHIFT | (uint64_t)seat << RP_SEAT_SHIFT | (uint64_t)phase;
}
static inline uint64_t rp_state_pos(uint64_t s) { return s >> RP_POS_SHIFT; }
static inline uint32_t rp_state_seat(uint64_t s) { return (uint32_t)(s >> RP_SEAT_SHIFT) & (RP_MAX_SEATS - 1); }
static inline enum rp_phase rp_state_phase(uint64_t s) { return (enum rp_phase)(s & 15); }

/* A cell of the task ring. All but the state is written by the parent before READY and read-only until the result is drained. */
struct rp_slot {
    _Alignas(RP_LINE) rp_u64 state;
    uint64_t len;      /* bytes of payload */
    uint64_t off;      /* 0: the payload is in data[]; else its offset in the segment */
    uint64_t func_off; /* offset of the encoded function in the arena */
    uint32_t func_id;  /* equal ids mean the same function: workers cache by it */
    uint16_t kind;     /* meaning is the dispatcher's; opaque here */
    uint16_t flags;    /* RP_KEEP, RP_COUNTED, RP_HEADED */
    unsigned char data[RP_INLINE];
};

#define RP_KEEP 1u    /* the function may be kept for later tasks, not for this job only */
#define RP_COUNTED 2u /* the worker says in its seat how many calls of the user's function it has begun */
#define RP_HEADED 4u  /* the payload lies behind the head of its block */

/* A block that the worker may put a result into: the parent writes the word last; who sets it back to 0 has the block. */
struct rp_offer {
    rp_u64 word; /* 0: no offer; else a number that is used once: worker takes, parent recalls, each by compare-and-swap */
    rp_u64 off;
    rp_u64 room;   /* bytes from off */
    rp_u64 backed; /* of them, those with memory behind */
};
#define RP_OFFERS 4u

/* What a block with a head begins with; the encoded value follows behind RP_HEAD bytes. */
struct rp_head {
    rp_u32 released; /* parent: 0, before READY; worker: 1 when nothing of it uses the block any more */
    uint32_t keep; /* parent: 1: the worker must leave the block as it is, the task may be run again */
    uint64_t room; /* parent: bytes behind the head that the worker may put the task's result into once it is released; or 0 */
};
#define RP_HEAD 64u /* what lies behind stays on lines of its own */

/* A block with an object that every task of the pool may refer to begins with this; its encoding follows. */
struct rp_share {
    uint64_t number;        /* parent: used once, so workers know what they have already */
    uint64_t len;           /* parent: of the encoding */
    rp_u32 closed;          /* parent: 1: whoever has it is to drop it, nobody begins to use it */
    _Alignas(64) rp_u32 user[RP_MAX_SEATS]; /* worker in that seat: 1 from before it looks until nothing lies on it */
};

/* A worker's control block. A seat outlives its workers: a replacement sits down after its predecessor was buried. */
struct rp_seat {
    _Alignas(RP_LINE) rp_u32 bell; /* doorbell of this worker; rung by the parent and by other workers */
    rp_u32 phase;                  /* enum rp_seat_phase; worker */
    rp_u32 want_room;              /* worker: 1 while it waits for room in its result ring */
    rp_u32 late;                   /* worker: wake-ups by time-out that found work (each one is a bug) */
    rp_u32 orders;                 /* parent: enum rp_orders */
    rp_u64 held;                   /* worker: bytes of memory that it leaves for, because they are too many; else 0 */
    rp_u32 name;                   /* parent, before it starts the worker: a digest of the process's name; 0: nobody is to come */
    _Alignas(RP_LINE) rp_u64 tail; /* worker: bytes ever published in the result ring */
    rp_u32 calls;                  /* worker: calls begun in the task or chunk that it runs, if that is RP_COUNTED; else 0 */
    _Alignas(RP_LINE) rp_u64 head; /* parent: bytes ever consumed */
    rp_u32 answered;               /* parent: requests for a block that it has answered (offers.h) */
    _Alignas(RP_LINE) struct rp_offer offers[RP_OFFERS];
};
enum rp_orders { RP_STAND_BY = 0, RP_SERVE = 1, RP_LEAVE = 2 };
enum rp_seat_phase { RP_SEAT_FREE = 0, RP_SEAT_STARTING = 1, RP_SEAT_READY = 2, RP_SEAT_SERVING = 3, RP_SEAT_LEAVING = 4 };

/* Head of a record in a result ring; the payload follows, the whole is padded to 16 bytes and never wraps. */
struct rp_record {
    uint32_t size; /* of the whole record */
    uint16_t kind; /* enum of the codec's owner, or RP_PAD */
    uint16_t pad;  /* bytes of padding behind the payload */
    uint64_t pos;  /* of the task */
};
#define RP_PAD 0xffffu

struct rp_header {
    _Alignas(RP_LINE) uint64_t magic;
    uint32_t version;
    uint32_t nslots;     /* power of two */
    uint32_t nseats;
    uint32_t ring_bytes; /* power of two */
    uint64_t slots_off, seats_off, rings_off, arena_off, arena_bytes;
    uint32_t chairs; /* workers that may spin at once; 0 on one core */
    uint32_t doorbell; /* enum rp_doorbell_kind */
    uint32_t cores;  /* that the pool may use: while so many workers get on with short tasks, no other is woken; 0: not known */

    _Alignas(RP_LINE) rp_u64 tail; /* parent: one past the last committed position */
    _Alignas(RP_LINE) rp_u32 rescan;                 /* parent: bumped when a slot below the tail became READY again */
    rp_u32 stop;                   /* parent: 1 = leave when there is no task left */
    rp_u32 used;                   /* parent: one past the highest seat that was ever taken; a hint for workers */
    rp_u32 litter;                 /* parent: bumped when workers without a task are to let go of what is garbage */
    _Alignas(RP_LINE) rp_u64 take; /* workers: hint, next position that nobody walks yet */
    _Alignas(RP_LINE) rp_u32 bell; /* doorbell of the parent; rung by workers and by the parent's own threads */
    rp_u32 armed;                  /* 1: a thread of the parent parks or is about to; cleared by who rings */
    rp_u32 eager;                  /* parent: parked threads that want to know of the first result */
    rp_u32 wake_bytes;             /* parent: if none is eager, unread bytes in a ring below which a busy worker need not ring */
    rp_u32 late;                   /* parent: wake-ups by time-out that found work */
    _Alignas(RP_LINE) rp_u32 chair[RP_SPIN_CHAIRS];        /* workers: seat + 1 of who spins here; parent clears the dead */
    rp_u32 wakes;                  /* anybody: how many workers were woken, roughly; a hint whose turn it is */
    rp_u32 lookout;                /* workers: seat + 1 of who looks now and then whether the others get on; parent clears the dead */
    _Alignas(RP_LINE) rp_u64 parked_mask[RP_MASK_WORDS];   /* a bit a seat: set by its worker, cleared by who wakes it */
};

_Static_assert(sizeof(struct rp_slot) == RP_LINE, "a slot is one pair of lines");
_Static_assert(sizeof(struct rp_record) == 16, "records keep 16-byte alignment");
_Static_assert(offsetof(struct rp_seat, tail) == RP_LINE && sizeof(struct rp_seat) == 4 * RP_LINE, "one writer a line");
_Static_assert(sizeof(struct rp_share) % RP_HEAD == 0, "the encoding lies on lines of its own");
_Static_assert(offsetof(struct rp_header, tail) == RP_LINE, "geometry does not share a line with live words");

struct rp_geometry {
    uint32_t nslots, nseats, ring_bytes, chairs, doorbell;
    uint64_t arena_bytes;
    uint32_t cores;
};

/* What both sides work with after mapping: pointers and limits taken once from a checked header. The header itself is writable by
 * every worker and must not be read for them again. */
struct rp_map {
    unsigned char *base;
    size_t size;
    struct rp_header *h;
    struct rp_slot *slots;
    struct rp_seat *seats;
    unsigned char *rings;
    uint64_t slot_mask;
    uint64_t arena_off, arena_bytes;
    uint32_t ring_bytes;
    uint32_t nseats;
    uint32_t used; /* parent: its own copy of the header's, which it believes; workers: 0 */
    uint32_t chairs;
    uint32_t cores;
    enum rp_doorbell_kind doorbell;
};

/* Bytes that a segment of this geometry needs; 0 if the geometry is not allowed. */
size_t rp_layout_size(const struct rp_geometry *g);
/* Writes the header of a new, zeroed segment. */
void rp_layout_write(void *base, const struct rp_geometry *g);
/* Checks the header against the size of the mapping and fills the map. 0 or -EINVAL. */
int rp_layout_open(struct rp_map *m, void *base, size_t size);

/* Seats that need to be looked at: one past the highest that was ever taken, or all. */
static inline uint32_t rp_used(const struct rp_map *m)
{
    if (m->used)
        return m->used;
    uint32_t n = rp_load_relaxed(&m->h->used);
    return n && n < m->nseats ? n : m->nseats;
}
/* Parent: the first n seats are or were in use. */
static inline void rp_use_seats(struct rp_map *m, uint32_t n)
{
    m->used = n;
    rp_store_relaxed(&m->h->used, n);
}

static inline unsigned char *rp_ring_of(const struct rp_map *m, uint32_t seat)
{
    return m->rings + (size_t)seat * m->ring_bytes;
}

/* Fetches a slot that is needed a few tasks from now, both lines of it. */
static inline void rp_prefetch_slot(const struct rp_map *m, uint64_t pos)
{
    const struct rp_slot *s = &m->slots[pos & m->slot_mask];
    rp_prefetch(s);
    rp_prefetch((const unsigned char *)s + RP_LINE / 2);
}
#define RP_AHEAD 4u

/* The address of [off, off + len) if it lies inside the arena, else NULL. */
static inline unsigned char *rp_arena_at(const struct rp_map *m, uint64_t off, uint64_t len)
{
    uint64_t lo = m->arena_off, n = m->arena_bytes;
    if (off < lo || off - lo > n || len > n - (off - lo))
        return NULL;
    return m->base + off;
}

#endif
