/* A segment for worlds of the scheduler: plain memory, as small as the layout allows, new in every world. */
#ifndef RP_TEST_SCHED_RIG_H
#define RP_TEST_SCHED_RIG_H

#include "scheduler.h"

#include "layout.h"

#define SCHED_SEGMENT (32u << 10)

static _Alignas(4096) unsigned char sched_memory[SCHED_SEGMENT];

static inline void sched_rig_open(struct rp_map *m, uint32_t nslots, uint32_t nseats, uint32_t ring_bytes, uint32_t chairs)
{
    struct rp_geometry g = {nslots, nseats, ring_bytes, chairs, RP_DOORBELL_FUTEX, 0, 0};
    size_t size = rp_layout_size(&g);
    if (!size || size > sizeof sched_memory) {
        fprintf(stderr, "no segment of %zu bytes\n", size);
        exit(125);
    }
    memset(sched_memory, 0, size);
    rp_layout_write(sched_memory, &g);
    if (rp_layout_open(m, sched_memory, size)) {
        fprintf(stderr, "layout refused\n");
        exit(125);
    }
    sched_share("segment", sched_memory, size);
}

/* The payload of number `id`: bytes that no other number has, so that a mixture is noticed. */
static inline unsigned char sched_byte(uint64_t id, uint32_t i) { return (unsigned char)(id * 37 + i * 11 + 1); }

static inline void sched_fill(unsigned char *to, uint64_t id, uint32_t len)
{
    for (uint32_t i = 0; i < len; i++)
        to[i] = sched_byte(id, i);
}

static inline bool sched_is(const unsigned char *at, uint64_t id, uint32_t len)
{
    for (uint32_t i = 0; i < len; i++)
        if (at[i] != sched_byte(id, i))
            return false;
    return true;
}

#endif
