#include "wake.h"

#include "fault.h"

bool rp_wake_one(const struct rp_map *m)
{
    for (uint32_t i = 0, n = rp_mask_words(m); i < n; i++) {
        uint64_t bits;
        while ((bits = rp_load_seq(&m->h->parked_mask[i])) != 0) {
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
