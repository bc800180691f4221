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

/* Used seats whose worker is not parked, as far as the mask tells: also those that nobody sits in. */
static inline uint32_t rp_awake(const struct rp_map *m)
{
    uint32_t n = rp_used(m), parked = 0;
    for (uint32_t i = 0, words = rp_mask_words(m); i < words; i++)
        parked += (uint32_t)__builtin_popcountll(rp_load_relaxed(&m->h->parked_mask[i]));
    return parked < n ? n - parked : 0;
}

/* Workers with short tasks that keep the machine busy: the parent that feeds them needs a core too. */
static inline uint32_t rp_few(const struct rp_map *m) { return m->cores > 1 ? m->cores - 1 : 1; }

/* True if nobody needs to be woken although there is work: a few workers are awake, and beside them a lookout, who wakes more when
 * these do not get on. Sequentially consistent: who leaves the lookout looks for work afterwards (E). */
static inline bool rp_enough_awake(const struct rp_map *m)
{
    return rp_load_seq(&m->h->lookout) && rp_awake(m) > rp_few(m);
}

/* Wakes one parked worker, if there is one. A waker that dies between clearing the bit and ringing leaves a sleeper without a
 * bit; rp_wake_all after every death mends that. */
bool rp_wake_one(const struct rp_map *m);
/* Rings every used seat: after a death, and to make workers leave. */
void rp_wake_all(const struct rp_map *m);

#endif
