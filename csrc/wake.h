/* Who is woken when there is work. Called by the parent after commits and by workers that claimed a task and saw more of them
 * (so that the cost of waking a crowd is shared). Wakes only who is parked. */
#ifndef RP_WAKE_H
#define RP_WAKE_H

#include "doorbell.h"
#include "layout.h"

static inline uint32_t rp_mask_words(const struct rp_map *m) { return (rp_used(m) + 63) / 64; }

/* True if some worker is parked. Sequentially consistent: pairs with the bit that a worker sets before it parks (E). */
static inline bool rp_anyone_parked(const struct rp_map *m)
{
    for (uint32_t i = 0, n = rp_mask_words(m); i < n; i++)
        if (rp_load_seq(&m->h->parked_mask[i]))
            return true;
    return false;
}

/* Workers that spin right now: each of them sees a new task without being woken. */
static inline uint32_t rp_spinners(const struct rp_map *m)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < m->chairs; i++)
        n += rp_load_seq(&m->h->chair[i]) != 0;
    return n;
}

/* Wakes one parked worker, if there is one. A waker that dies between clearing the bit and ringing leaves a sleeper without a
 * bit; rp_wake_all after every death mends that. */
bool rp_wake_one(const struct rp_map *m);
/* Rings every used seat: after a death, and to make workers leave. */
void rp_wake_all(const struct rp_map *m);

#endif
