#include "wake.h"

#include "fault.h"

#define WAKES_A_TURN 4u

bool rp_wake_one(const struct rp_map *m)
{
    /* Begins elsewhere after some time: always the same few would be warm, but the others never run, and programs may count on it
     * that each worker has a task now and then. */
    uint32_t wakes = rp_load_relaxed(&m->h->wakes), begin = wakes / WAKES_A_TURN % rp_used(m);
    rp_store_relaxed(&m->h->wakes, wakes + 1);
    uint64_t below = (UINT64_C(1) << (begin % 64)) - 1;
    /* The first word comes twice: what lies below the beginning is last. */
    for (uint32_t k = 0, n = rp_mask_words(m); k <= n; k++) {
        uint32_t i = (begin / 64 + k) % n;
        uint64_t bits, which = k == 0 ? ~below : k == n ? below : UINT64_MAX;
        while ((bits = rp_load_seq(&m->h->parked_mask[i]) & which) != 0) {
            uint32_t seat = i * 64 + (uint32_t)__builtin_ctzll(bits);
            uint64_t bit = bits & -bits;
            if (!(rp_and_seq(&m->h->parked_mask[i], ~bit) & bit))
                continue; /* another waker was first, or the worker left by itself */
            if (seat >= m->nseats)
                continue;
            RP_FAULT(RP_AT_WAKING);
            rp_bell_ring(&m->seats[seat].bell, m->doorbell);
            return true;
        }
    }
    return false;
}

void rp_wake_all(const struct rp_map *m)
{
    for (uint32_t i = 0, n = rp_used(m); i < n; i++)
        rp_bell_ring(&m->seats[i].bell, m->doorbell);
}
