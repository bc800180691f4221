/* A result ring: bytes, one producer (the worker in the seat), one consumer (the parent).
 *
 * A record becomes visible by one store of the tail after it is complete, so a worker killed in the middle of a result leaves
 * nothing visible. The parent believes no length that it reads here: a record is checked against the bounds of what was
 * published before anything of it is touched, each field read once. */
#ifndef RP_RESULTRING_H
#define RP_RESULTRING_H

#include "doorbell.h"
#include "fault.h"
#include "layout.h"

#include <errno.h>

struct rp_writer {
    const struct rp_map *m;
    struct rp_seat *seat;
    unsigned char *ring;
    uint64_t tail;
    uint64_t head; /* as last read: the real one may be further */
    uint64_t at;   /* where the reserved record begins */
};

void rp_writer_init(struct rp_writer *w, const struct rp_map *m, uint32_t seat);

/* The longest payload that one record can carry; longer results travel in pieces. */
static inline uint32_t rp_writer_limit(const struct rp_writer *w) { return w->m->ring_bytes / 4 - (uint32_t)sizeof(struct rp_record); }

static inline uint32_t rp_record_size(uint32_t payload) { return (payload + 15 + (uint32_t)sizeof(struct rp_record)) & ~15u; }

/* Room for a payload of up to `most` bytes (at most rp_writer_limit), or NULL when the ring is full. Claim of two phases: until
 * rp_writer_publish nothing is visible, and a second reserve aborts the first. */
static inline unsigned char *rp_writer_reserve(struct rp_writer *w, uint32_t most)
{
    uint32_t bytes = w->m->ring_bytes, need = rp_record_size(most);
    uint32_t to_end = bytes - (uint32_t)(w->tail & (bytes - 1));
    uint64_t skip = to_end < need ? to_end : 0;
    if (w->tail + skip + need - w->head > bytes) {
        w->head = rp_load_acquire(&w->seat->head); /* C */
        if (w->tail + skip + need - w->head > bytes)
            return NULL;
    }
    if (skip) {
        struct rp_record *pad = (struct rp_record *)(void *)(w->ring + (w->tail & (bytes - 1)));
        pad->size = to_end;
        pad->kind = RP_PAD;
        pad->pad = 0;
        pad->pos = 0;
    }
    w->at = w->tail + skip;
    RP_FAULT(RP_AT_RESERVED);
    return w->ring + (w->at & (bytes - 1)) + sizeof(struct rp_record);
}

static inline void rp_writer_publish(struct rp_writer *w, uint32_t payload, uint16_t kind, uint64_t pos)
{
    struct rp_record *r = (struct rp_record *)(void *)(w->ring + (w->at & (w->m->ring_bytes - 1)));
    r->size = rp_record_size(payload);
    r->kind = kind;
    r->pad = (uint16_t)(r->size - (uint32_t)sizeof *r - payload);
    r->pos = pos;
    w->tail = w->at + r->size;
    RP_FAULT(RP_AT_WRITTEN);
    rp_store_release(&w->seat->tail, w->tail); /* B */
    RP_FAULT(RP_AT_PUBLISHED);
}

/* Waits for room; returns after the parent consumed something, on a signal, or after at most a second. */
void rp_writer_wait(struct rp_writer *w);

/* Unread bytes that are worth waking the parent. */
static inline uint32_t rp_wake_bytes(struct rp_header *h) { return rp_load_seq(&h->eager) ? 0 : rp_load_seq(&h->wake_bytes); }

/* Wakes the parent if one of its threads is parked and enough is unread. Cheap form for the middle of a stretch: it may miss a
 * parent that is just going to park, which therefore parks for a short time first. */
static inline void rp_writer_announce(struct rp_writer *w)
{
    struct rp_header *h = w->m->h;
    if (rp_load_relaxed(&h->armed) && w->tail - rp_load_relaxed(&w->seat->head) > rp_wake_bytes(h) &&
        rp_cas_u32(&h->armed, 1, 0)) {
        RP_FAULT(RP_AT_RINGING);
        rp_bell_ring(&h->bell, w->m->doorbell);
        RP_FAULT(RP_AT_RUNG);
    }
}
/* Strict form, misses nobody: before the worker waits (idle: whatever is unread is worth a wake-up) and now and then between. */
void rp_writer_announce_now(struct rp_writer *w, bool idle);

struct rp_reader {
    const struct rp_map *m;
    struct rp_seat *seat;
    const unsigned char *ring;
    rp_u64 head; /* private, atomic because other threads of the parent wait on it */
    rp_u32 given_up; /* private: damaged, so nothing in it counts as unread: who waits for it would look for ever */
    uint64_t tail; /* as last read by rp_reader_peek: looking at every record would fight with the worker for the line */
};

struct rp_view {
    const unsigned char *payload; /* inside the ring, valid until consumed */
    uint32_t len;
    uint32_t size;
    uint16_t kind;
    uint64_t pos;
};

void rp_reader_init(struct rp_reader *r, const struct rp_map *m, uint32_t seat);
/* For a seat whose worker is gone: both ends begin at zero. Other threads of the parent may be waiting on the reader. */
void rp_reader_reset(struct rp_reader *r);

static inline bool rp_reader_unread(const struct rp_reader *r)
{
    return rp_load_acquire(&r->seat->tail) != rp_load_relaxed(&r->head) && !rp_load_relaxed(&r->given_up); /* B */
}
/* After damage, until the seat is reset. */
static inline void rp_reader_give_up(struct rp_reader *r) { rp_store_relaxed(&r->given_up, 1); }

/* 1: *v is the next record. 0: nothing to read. -EBADMSG: the ring is damaged, nothing in it may be believed any more. */
int rp_reader_peek(struct rp_reader *r, struct rp_view *v);

static inline void rp_reader_advance(struct rp_reader *r, uint32_t bytes)
{
    uint64_t head = rp_load_relaxed(&r->head) + bytes;
    rp_store_relaxed(&r->head, head);
    rp_store_release(&r->seat->head, head); /* C */
}
static inline void rp_reader_consume(struct rp_reader *r, const struct rp_view *v) { rp_reader_advance(r, v->size); }

/* After consuming: wakes the worker if it waits for room. */
void rp_reader_room(struct rp_reader *r);

#endif
