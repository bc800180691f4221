#include "offers.h"

bool rp_offer_make(const struct rp_map *m, uint32_t seat, uint64_t number, const struct rp_taken *block)
{
    for (uint32_t i = 0; i < RP_OFFERS; i++) {
        struct rp_offer *o = &m->seats[seat].offers[i];
        /* Acquire: a worker that took the last one has read it, and reads nothing of the next. */
        if (rp_load_acquire(&o->word))
            continue;
        rp_store_relaxed(&o->off, block->off);
        rp_store_relaxed(&o->room, block->room);
        rp_store_relaxed(&o->backed, block->backed);
        rp_store_release(&o->word, number); /* G */
        return true;
    }
    return false;
}

bool rp_offer_recall(const struct rp_map *m, uint32_t seat, uint64_t number)
{
    for (uint32_t i = 0; i < RP_OFFERS; i++)
        if (rp_load_relaxed(&m->seats[seat].offers[i].word) == number)
            return rp_cas_u64(&m->seats[seat].offers[i].word, number, 0);
    return false;
}

void rp_offer_answer(const struct rp_map *m, uint32_t seat)
{
    struct rp_seat *s = &m->seats[seat];
    rp_add_seq(&s->answered, 1);
    rp_bell_ring(&s->bell, m->doorbell);
}

bool rp_offer_take(const struct rp_map *m, uint32_t seat, uint64_t room, struct rp_taken *block)
{
    for (;;) {
        struct rp_offer *best = NULL;
        uint64_t number = 0;
        for (uint32_t i = 0; i < RP_OFFERS; i++) {
            struct rp_offer *o = &m->seats[seat].offers[i];
            uint64_t seen = rp_load_acquire(&o->word); /* G */
            if (!seen)
                continue;
            struct rp_taken found = {rp_load_relaxed(&o->off), rp_load_relaxed(&o->room), rp_load_relaxed(&o->backed)};
            if (found.room < room || (best && found.room >= block->room))
                continue;
            best = o;
            number = seen;
            *block = found;
        }
        if (!best)
            return false;
        /* If it went well, what was read belongs to that number: the parent writes only where the word is 0. */
        if (rp_cas_u64(&best->word, number, 0))
            return true;
    }
}

bool rp_offer_wait(const struct rp_map *m, uint32_t seat, uint32_t asked, int64_t timeout_ns)
{
    struct rp_seat *s = &m->seats[seat];
    int64_t end = rp_now_ns() + timeout_ns;
    for (;;) {
        uint32_t seen = rp_bell_read(&s->bell);
        if (rp_load_seq(&s->answered) == asked)
            return true;
        int64_t left = end - rp_now_ns();
        if (left <= 0)
            return false;
        rp_bell_park(&s->bell, seen, left, m->doorbell);
    }
}
