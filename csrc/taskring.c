#define _GNU_SOURCE
#include "taskring.h"

#include "pages.h"

#include <errno.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

int rp_producer_init(struct rp_producer *p, const struct rp_map *m)
{
    memset(p, 0, sizeof *p);
    p->m = m;
    p->owner = rp_pages_get((m->slot_mask + 1) * sizeof *p->owner);
    return p->owner ? 0 : -ENOMEM;
}

void rp_producer_free(struct rp_producer *p)
{
    if (p->owner)
        rp_pages_give(p->owner, (p->m->slot_mask + 1) * sizeof *p->owner);
    p->owner = NULL;
}

void rp_producer_kick(struct rp_producer *p)
{
    struct rp_header *h = p->m->h;
    p->shown = p->tail;
    rp_store_seq(&h->tail, p->tail); /* D, E */
    RP_FAULT(RP_AT_COMMITTED);
    if (!rp_anyone_parked(p->m) || rp_enough_awake(p->m))
        return;
    uint64_t take = rp_load_seq(&h->take);
    uint64_t ready = p->tail - take;
    if (take > p->tail) {
        /* A worker cannot have taken what was not there: the hint is damaged. */
        rp_cas_u64(&h->take, take, p->low);
        ready = p->outstanding;
    }
    uint32_t spinners = rp_spinners(p->m);
    /* Two at the most: whoever is woken and sees more work wakes the next. */
    for (uint64_t i = 0; i < 2 && ready > spinners + i; i++)
        if (!rp_wake_one(p->m))
            return;
}

void rp_producer_rouse(struct rp_producer *p)
{
    if (!rp_anyone_parked(p->m))
        return;
    for (uint64_t i = 0; i <= p->m->slot_mask; i++)
        if (p->owner[i] && rp_state_phase(rp_load_acquire(&p->m->slots[i].state)) == RP_READY) {
            /* Each at most once: those who find nothing park again, and would be woken for ever. */
            for (uint32_t n = rp_used(p->m); n > 0 && rp_wake_one(p->m); n--)
                continue;
            return;
        }
}

void rp_producer_settle(struct rp_producer *p, uint64_t pos)
{
    uint64_t i = pos & p->m->slot_mask;
    if (!p->owner[i] || p->owner[i] != pos + 1)
        return;
    p->owner[i] = 0;
    p->outstanding--;
    if (pos != p->low)
        return;
    while (p->low < p->tail && p->owner[p->low & p->m->slot_mask] != p->low + 1)
        p->low++;
}

/* False: no step of the protocol leads to this state, so nobody would ever run the task. */
static bool sound(const struct rp_producer *p, uint64_t pos, uint64_t state)
{
    uint32_t seat = rp_state_seat(state);
    enum rp_phase phase = rp_state_phase(state);
    return state == rp_state(pos, seat, phase) && phase >= RP_READY && phase <= RP_DOOMED && (phase != RP_READY || seat == 0) &&
           seat < p->m->nseats;
}

bool rp_producer_look(const struct rp_producer *p, uint64_t i, uint64_t *pos, enum rp_phase *phase, uint32_t *seat)
{
    if (!p->owner[i])
        return false;
    uint64_t state = rp_load_acquire(&p->m->slots[i].state);
    *pos = p->owner[i] - 1;
    *phase = rp_state_phase(state);
    *seat = rp_state_seat(state);
    return sound(p, *pos, state);
}

bool rp_producer_revoke(struct rp_producer *p, uint64_t pos)
{
    rp_u64 *word = &p->m->slots[pos & p->m->slot_mask].state;
    uint64_t state = rp_load_acquire(word);
    /* A worker that has claimed it is about to start it, or has stopped in between: a few times the word may change. */
    while (sound(p, pos, state) && rp_state_phase(state) <= RP_CLAIMED) {
        if (rp_cas_u64(word, state, rp_state(pos, 0, RP_EMPTY)))
            return true;
        state = rp_load_acquire(word);
    }
    return false;
}

bool rp_producer_doom(struct rp_producer *p, uint64_t pos, uint32_t seat)
{
    return rp_cas_u64(&p->m->slots[pos & p->m->slot_mask].state, rp_state(pos, seat, RP_RUNNING),
                      rp_state(pos, seat, RP_DOOMED));
}

void rp_producer_retry(struct rp_producer *p, uint64_t pos)
{
    rp_store_release(&p->m->slots[pos & p->m->slot_mask].state, rp_state(pos, 0, RP_READY)); /* A */
    RP_FAULT(RP_AT_RETRYING);
    rp_add_seq(&p->m->h->rescan, 1);
    rp_wake_all(p->m);
}

uint32_t rp_producer_bury(struct rp_producer *p, uint32_t seat, uint64_t *lost, uint32_t max)
{
    struct rp_header *h = p->m->h;
    uint32_t n = 0, back = 0;
    for (uint64_t i = 0; i <= p->m->slot_mask; i++) {
        if (!p->owner[i])
            continue;
        uint64_t pos = p->owner[i] - 1, state = rp_load_acquire(&p->m->slots[i].state);
        if (state == rp_state(pos, seat, RP_CLAIMED)) {
            rp_store_release(&p->m->slots[i].state, rp_state(pos, 0, RP_READY)); /* A */
            back++;
        } else if (!sound(p, pos, state) || (rp_state_seat(state) == seat && rp_state_phase(state) > RP_CLAIMED)) {
            if (n < max)
                lost[n++] = pos;
        }
    }
    for (uint32_t i = 0; i < p->m->chairs; i++)
        rp_cas_u32(&h->chair[i], seat + 1, 0);
    rp_cas_u32(&h->lookout, seat + 1, 0);
    rp_and_seq(&h->parked_mask[seat / 64], ~(UINT64_C(1) << (seat % 64)));
    if (back)
        rp_add_seq(&h->rescan, 1);
    /* Everybody looks again: the dead may have taken a wake-up, or a stretch, with it. */
    rp_wake_all(p->m);
    return n;
}

void rp_consumer_init(struct rp_consumer *c, const struct rp_map *m, uint32_t seat)
{
    memset(c, 0, sizeof *c);
    c->m = m;
    c->seat = seat;
    c->stretch = 1;
}

static struct rp_slot *try_claim(struct rp_consumer *c, uint64_t at, uint64_t *pos)
{
    struct rp_slot *s = &c->m->slots[at & c->m->slot_mask];
    uint64_t state = rp_load_acquire(&s->state); /* A */
    if (rp_state_phase(state) != RP_READY)
        return NULL;
    RP_FAULT(RP_AT_CLAIMING);
    uint64_t p = rp_state_pos(state);
    if ((p ^ at) & c->m->slot_mask || !rp_cas_u64(&s->state, state, rp_state(p, c->seat, RP_CLAIMED)))
        return NULL;
    RP_FAULT(RP_AT_CLAIMED);
    *pos = p;
    if (c->overslept) {
        rp_add_seq(&c->m->seats[c->seat].late, 1);
        c->overslept = false;
    }
    return s;
}

static struct rp_slot *sweep(struct rp_consumer *c, uint64_t tail, uint64_t *pos)
{
    uint32_t rescan = rp_load_seq(&c->m->h->rescan);
    if (rescan != c->rescan) {
        c->rescan = rescan;
        c->swept = 0;
    }
    uint64_t nslots = c->m->slot_mask + 1;
    /* Behind the tail: the tail was damaged and is right again. */
    if (c->swept > tail)
        c->swept = 0;
    if (tail > nslots && c->swept < tail - nslots)
        c->swept = tail - nslots;
    while (c->swept < tail) {
        struct rp_slot *s = try_claim(c, c->swept++, pos);
        if (s)
            return s;
    }
    c->seen = tail;
    return NULL;
}

static bool take_stretch(struct rp_consumer *c, uint64_t take, uint64_t tail)
{
    uint64_t k = (tail - take) / (2 * (uint64_t)rp_awake(c->m) + 1);
    if (k > c->stretch)
        k = c->stretch;
    if (k < 1)
        k = 1;
    if (!rp_cas_u64(&c->m->h->take, take, take + k))
        return false;
    RP_FAULT(RP_AT_TAKEN);
    c->next = take;
    c->stop = take + k;
    return true;
}

/* The task just claimed may not be the only one: wake the next worker, unless one spins and sees it by itself, or tasks are short
 * and enough workers awake. Who runs long tasks always wakes: for each of them a wake-up costs next to nothing. */
static struct rp_slot *pass_on(struct rp_consumer *c, struct rp_slot *s)
{
    struct rp_header *h = c->m->h;
    if (rp_anyone_parked(c->m) && !(rp_short_tasks(c) && rp_enough_awake(c->m))) {
        uint64_t tail = rp_load_acquire(&h->tail), take = rp_load_relaxed(&h->take);
        uint64_t left = (c->stop - c->next) + (take < tail ? tail - take : 0);
        if (left > rp_spinners(c->m))
            rp_wake_one(c->m);
    }
    return s;
}

struct rp_slot *rp_consumer_claim(struct rp_consumer *c, uint64_t *pos)
{
    struct rp_header *h = c->m->h;
    struct rp_slot *s;
    for (;;) {
        while (c->next < c->stop) {
            if (c->next + 1 < c->stop)
                rp_prefetch_slot(c->m, c->next + 1);
            if ((s = try_claim(c, c->next++, pos)))
                return pass_on(c, s);
        }
        c->next = c->stop = 0;
        uint64_t tail = rp_load_seq(&h->tail); /* D, E */
        uint64_t take = rp_load_relaxed(&h->take);
        if (take >= tail) {
            s = sweep(c, tail, pos);
            c->overslept = false;
            return s ? pass_on(c, s) : NULL;
        }
        take_stretch(c, take, tail);
    }
}

void rp_consumer_look_at_clock(struct rp_consumer *c)
{
    struct timespec t;
    struct rusage u;
    if (!rp_crowded(c->m) || clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t) || getrusage(RUSAGE_THREAD, &u))
        return;
    c->cpu_ns = (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
    c->blocked = u.ru_nvcsw;
}

/* False: the thread stood in the scheduler's queue for most of the time. Taken for long tasks, that would have more workers woken,
 * and the queue grow. */
static bool truly_long(struct rp_consumer *c, int64_t ns)
{
    int64_t cpu_ns = c->cpu_ns, blocked = c->blocked;
    if (!rp_crowded(c->m))
        return true;
    rp_consumer_look_at_clock(c);
    return c->blocked != blocked || c->cpu_ns - cpu_ns > ns / 2;
}

void rp_consumer_pace(struct rp_consumer *c, int64_t ns_per_task)
{
    int64_t n = ns_per_task > 0 ? RP_STRETCH_NS / ns_per_task : RP_STRETCH_MAX;
    if (n <= 1 && !truly_long(c, ns_per_task))
        n = 2;
    c->stretch = n < 1 ? 1 : n > RP_STRETCH_MAX ? RP_STRETCH_MAX : (uint32_t)n;
}
