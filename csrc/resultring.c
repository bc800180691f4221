#include "resultring.h"

#include <string.h>

#define SAFETY_NET_NS 1000000000

void rp_writer_init(struct rp_writer *w, const struct rp_map *m, uint32_t seat)
{
    memset(w, 0, sizeof *w);
    w->m = m;
    w->seat = &m->seats[seat];
    w->ring = rp_ring_of(m, seat);
    w->tail = rp_load_relaxed(&w->seat->tail);
    w->head = rp_load_acquire(&w->seat->head);
}

void rp_writer_wait(struct rp_writer *w)
{
    uint64_t head = w->head;
    rp_writer_announce_now(w, true);
    uint32_t seen = rp_bell_read(&w->seat->bell);
    rp_store_seq(&w->seat->want_room, 1);
    RP_FAULT(RP_AT_WANTS_ROOM);
    if (rp_load_seq(&w->seat->head) == head)
        rp_bell_park(&w->seat->bell, seen, SAFETY_NET_NS, w->m->doorbell);
    RP_FAULT(RP_AT_GOT_ROOM);
    rp_store_seq(&w->seat->want_room, 0);
    w->head = rp_load_acquire(&w->seat->head); /* C */
}

void rp_writer_announce_now(struct rp_writer *w, bool idle)
{
    struct rp_header *h = w->m->h;
    rp_store_seq(&w->seat->tail, w->tail); /* F */
    if (!rp_load_seq(&h->armed))
        return;
    uint64_t unread = w->tail - rp_load_relaxed(&w->seat->head);
    if (unread > (idle ? 0 : rp_wake_bytes(h)) && rp_cas_u32(&h->armed, 1, 0)) {
        RP_FAULT(RP_AT_RINGING);
        rp_bell_ring(&h->bell, w->m->doorbell);
        RP_FAULT(RP_AT_RUNG);
    }
}

void rp_reader_init(struct rp_reader *r, const struct rp_map *m, uint32_t seat)
{
    r->m = m;
    r->seat = &m->seats[seat];
    r->ring = rp_ring_of(m, seat);
    rp_reader_reset(r);
}

void rp_reader_reset(struct rp_reader *r)
{
    rp_store_relaxed(&r->head, 0);
    rp_store_relaxed(&r->given_up, 0);
    r->tail = 0;
    rp_store_relaxed(&r->seat->tail, 0);
    rp_store_relaxed(&r->seat->head, 0);
    rp_store_relaxed(&r->seat->want_room, 0);
    rp_store_relaxed(&r->seat->calls, 0);
    rp_store_relaxed(&r->seat->held, 0);
    rp_store_relaxed(&r->seat->name, 0);
    rp_store_relaxed(&r->seat->orders, RP_STAND_BY);
    rp_store_relaxed(&r->seat->answered, 0);
    for (uint32_t i = 0; i < RP_OFFERS; i++)
        rp_store_relaxed(&r->seat->offers[i].word, 0);
    rp_store_relaxed(&r->seat->phase, RP_SEAT_FREE);
}

int rp_reader_peek(struct rp_reader *r, struct rp_view *v)
{
    uint32_t bytes = r->m->ring_bytes;
    for (;;) {
        uint64_t avail = r->tail - rp_load_relaxed(&r->head);
        if (avail == 0 || avail > bytes) {
            r->tail = rp_load_acquire(&r->seat->tail); /* B */
            avail = r->tail - rp_load_relaxed(&r->head);
        }
        if (avail == 0)
            return 0;
        if (avail > bytes || avail % 16)
            return -EBADMSG;
        uint32_t at = (uint32_t)(rp_load_relaxed(&r->head) & (bytes - 1));
        /* Volatile: each field is read once, so nobody can pass the checks with one value and be used with another. */
        const volatile struct rp_record *seen = (const volatile void *)(r->ring + at);
        struct rp_record rec = {seen->size, seen->kind, seen->pad, seen->pos};
        if (rec.size < sizeof rec || rec.size % 16 || rec.size > avail || rec.size > bytes - at)
            return -EBADMSG;
        if (rec.kind == RP_PAD) {
            if (at + rec.size != bytes)
                return -EBADMSG;
            rp_reader_advance(r, rec.size);
            continue;
        }
        if (rec.pad > rec.size - sizeof rec || rec.pad > 15)
            return -EBADMSG;
        v->payload = r->ring + at + sizeof rec;
        v->len = rec.size - (uint32_t)sizeof rec - rec.pad;
        v->size = rec.size;
        v->kind = rec.kind;
        v->pos = rec.pos;
        return 1;
    }
}

void rp_reader_room(struct rp_reader *r)
{
    rp_store_seq(&r->seat->head, rp_load_relaxed(&r->head));
    RP_FAULT(RP_AT_MAKING_ROOM);
    if (rp_load_seq(&r->seat->want_room))
        rp_bell_ring(&r->seat->bell, r->m->doorbell);
}
