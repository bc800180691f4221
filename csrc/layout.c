#include "layout.h"

#include <errno.h>
#include <string.h>

struct offsets {
    uint64_t slots, seats, rings, arena, end;
};

static bool power_of_two(uint64_t n) { return n && !(n & (n - 1)); }

static uint64_t page_up(uint64_t n) { return (n + 4095) & ~UINT64_C(4095); }

static bool place(const struct rp_geometry *g, struct offsets *o)
{
    if (!power_of_two(g->nslots) || g->nslots > (1u << 20) || g->nseats < 1 || g->nseats > RP_MAX_SEATS)
        return false;
    if (!power_of_two(g->ring_bytes) || g->ring_bytes < 256 || g->ring_bytes > (1u << 28) || g->chairs > RP_SPIN_CHAIRS)
        return false;
    if (g->arena_bytes > UINT64_C(1) << 46 || g->doorbell > RP_DOORBELL_POLL)
        return false;
    o->slots = page_up(sizeof(struct rp_header));
    o->seats = page_up(o->slots + (uint64_t)g->nslots * sizeof(struct rp_slot));
    o->rings = page_up(o->seats + (uint64_t)g->nseats * sizeof(struct rp_seat));
    o->arena = page_up(o->rings + (uint64_t)g->nseats * g->ring_bytes);
    o->end = page_up(o->arena + g->arena_bytes);
    return true;
}

size_t rp_layout_size(const struct rp_geometry *g)
{
    struct offsets o;
    return place(g, &o) ? (size_t)o.end : 0;
}

void rp_layout_write(void *base, const struct rp_geometry *g)
{
    struct rp_header *h = base;
    struct offsets o;
    if (!place(g, &o))
        return;
    h->version = RP_VERSION;
    h->nslots = g->nslots;
    h->nseats = g->nseats;
    h->ring_bytes = g->ring_bytes;
    h->chairs = g->chairs;
    h->doorbell = g->doorbell;
    h->cores = g->cores;
    h->slots_off = o.slots;
    h->seats_off = o.seats;
    h->rings_off = o.rings;
    h->arena_off = o.arena;
    h->arena_bytes = o.end - o.arena;
    h->magic = RP_MAGIC;
}

int rp_layout_open(struct rp_map *m, void *base, size_t size)
{
    struct rp_header *h = base;
    struct offsets o;
    if (size < sizeof *h || h->magic != RP_MAGIC || h->version != RP_VERSION)
        return -EINVAL;
    struct rp_geometry g = {h->nslots, h->nseats, h->ring_bytes, h->chairs, h->doorbell, h->arena_bytes, h->cores};
    if (!place(&g, &o) || o.end != size || o.slots != h->slots_off || o.seats != h->seats_off || o.rings != h->rings_off ||
        o.arena != h->arena_off)
        return -EINVAL;
    memset(m, 0, sizeof *m);
    m->base = base;
    m->size = size;
    m->h = h;
    m->slots = (struct rp_slot *)(void *)(m->base + o.slots);
    m->seats = (struct rp_seat *)(void *)(m->base + o.seats);
    m->rings = m->base + o.rings;
    m->slot_mask = g.nslots - 1;
    m->ring_bytes = g.ring_bytes;
    m->nseats = g.nseats;
    m->chairs = g.chairs;
    m->cores = g.cores;
    m->doorbell = (enum rp_doorbell_kind)g.doorbell;
    m->arena_off = o.arena;
    m->arena_bytes = g.arena_bytes;
    return 0;
}
