#include "idle.h"

#include "fault.h"

#define SAFETY_NET_NS 1000000000
/* A worker in the middle of a stretch looks at `armed` without ordering; a first park this short bounds what that can cost. */
#define FIRST_PARK_NS 400000
#define LOOKS_PER_CLOCK 32
/* The lookout's: between two looks; how many looks a worker may take to get on, more than the scheduler's slice, for it may be
 * runnable and not run; after how many looks another one has the turn, so that all workers run in time; how many are looked at. */
#define LOOK_NS 1000000
#define LOOKS 4
#define WATCH 8
#define LOOKED_AT 64

static bool tasks_changed(const struct rp_consumer *c)
{
    struct rp_header *h = c->m->h;
    return rp_load_seq(&h->tail) != c->seen || rp_load_seq(&h->rescan) != c->rescan || rp_load_seq(&h->stop) ||
           rp_load_seq(&h->litter) != c->litter ||
           rp_load_seq(&c->m->seats[c->seat].orders) == RP_LEAVE;
}

bool rp_worker_stand_by(const struct rp_consumer *c)
{
    struct rp_seat *seat = &c->m->seats[c->seat];
    uint32_t seen = rp_bell_read(&seat->bell);
    RP_FAULT(RP_AT_STAND_BY);
    if (rp_load_seq(&seat->orders) == RP_STAND_BY && !rp_load_seq(&c->m->h->stop))
        rp_bell_park(&seat->bell, seen, SAFETY_NET_NS, c->m->doorbell);
    return rp_load_seq(&seat->orders) == RP_SERVE;
}

static rp_u32 *sit_down(const struct rp_consumer *c)
{
    struct rp_header *h = c->m->h;
    for (uint32_t i = 0; i < c->m->chairs; i++)
        if (!rp_load_relaxed(&h->chair[i]) && rp_cas_u32(&h->chair[i], 0, c->seat + 1))
            return &h->chair[i];
    return NULL;
}

static bool spin_for_tasks(const struct rp_consumer *c, int64_t until)
{
    for (;;) {
        for (int i = 0; i < LOOKS_PER_CLOCK; i++) {
            if (tasks_changed(c))
                return true;
            rp_cpu_relax();
        }
        if (rp_now_ns() >= until)
            return false;
    }
}

/* False also if there is no chair to sit on. */
static bool sit_and_spin(const struct rp_consumer *c, int64_t until)
{
    rp_u32 *chair = sit_down(c);
    if (!chair)
        return false;
    RP_FAULT(RP_AT_SEATED);
    bool found = spin_for_tasks(c, until);
    rp_store_seq(chair, 0);
    return found;
}

bool rp_worker_glance(const struct rp_consumer *c, struct rp_writer *w, const struct rp_spin *spin)
{
    if (spin->budget_ns < RP_SPIN_MAX_NS)
        return false;
    rp_writer_announce_now(w, true);
    return sit_and_spin(c, 0);
}

/* Workers that are awake, and what they had published at some moment. */
struct glance {
    uint32_t n, seat[LOOKED_AT];
    uint64_t tail[LOOKED_AT];
};

static void glance_at_others(const struct rp_consumer *c, struct glance *g)
{
    const struct rp_map *m = c->m;
    g->n = 0;
    for (uint32_t i = 0, used = rp_used(m); i < used && g->n < LOOKED_AT; i++) {
        uint64_t parked = rp_load_relaxed(&m->h->parked_mask[i / 64]);
        if (i % 64 == 0 && parked == UINT64_MAX) {
            i += 63;
            continue;
        }
        if (i == c->seat || parked >> (i % 64) & 1 || rp_load_relaxed(&m->seats[i].phase) != RP_SEAT_SERVING)
            continue;
        g->seat[g->n] = i;
        g->tail[g->n++] = rp_load_relaxed(&m->seats[i].tail);
    }
}

/* How many of them have published something since. */
static uint32_t got_on(const struct rp_consumer *c, const struct glance *g)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < g->n; i++)
        n += rp_load_relaxed(&c->m->seats[g->seat[i]].tail) != g->tail[i];
    return n;
}

static uint32_t at_most_looked_at(uint32_t n) { return n < LOOKED_AT ? n : LOOKED_AT; }

static bool become_lookout(const struct rp_consumer *c, struct glance *g)
{
    struct rp_header *h = c->m->h;
    /* With no more workers than cores each of them may run. */
    if (!rp_crowded(c->m) || !rp_short_tasks(c) || rp_load_relaxed(&h->lookout))
        return false;
    glance_at_others(c, g);
    return g->n >= at_most_looked_at(rp_few(c->m)) && rp_cas_u32(&h->lookout, 0, c->seat + 1);
}

/* While a lookout sits, others may leave tasks to the workers that are awake. So this one takes a task itself when it leaves its
 * place: when tasks wait and fewer workers get on than there are cores. Some then block or have long tasks; as many more are woken.
 * False: there is nothing to do. */
static bool look_out(struct rp_consumer *c, struct glance *g)
{
    struct rp_header *h = c->m->h;
    struct rp_seat *seat = &c->m->seats[c->seat];
    uint32_t stuck = 0;
    for (int looks = 1, all = 1;; looks++, all++) {
        uint32_t seen = rp_bell_read(&seat->bell);
        if (rp_load_seq(&h->stop) || rp_load_seq(&seat->orders) == RP_LEAVE)
            break;
        if (!rp_bell_park(&seat->bell, seen, LOOK_NS, c->m->doorbell) || !tasks_changed(c))
            break;
        uint32_t n = got_on(c, g);
        bool waiting = rp_load_relaxed(&h->take) < rp_load_relaxed(&h->tail);
        /* Also with nothing left to take there may be tasks in the stretch of a worker that does not get on. */
        if (all == WATCH) {
            stuck = 1;
            break;
        }
        if (n >= (waiting ? at_most_looked_at(c->m->cores) : 1)) {
            glance_at_others(c, g);
            looks = 0;
        } else if (looks == LOOKS) {
            stuck = g->n - n;
            break;
        }
    }
    rp_store_seq(&h->lookout, 0); /* E */
    if (!tasks_changed(c))
        return false;
    uint64_t tail = rp_load_seq(&h->tail), take = rp_load_seq(&h->take);
    for (; stuck && take < tail && rp_wake_one(c->m); stuck--)
        take++;
    return true;
}

void rp_worker_wait(struct rp_consumer *c, struct rp_writer *w, struct rp_spin *spin)
{
    struct rp_header *h = c->m->h;
    struct rp_seat *seat = &c->m->seats[c->seat];
    struct glance others;
    rp_writer_announce_now(w, true);
    int64_t begin = rp_now_ns();
    if (sit_and_spin(c, begin + spin->budget_ns)) {
        rp_spin_paid(spin);
        return;
    }
    if (become_lookout(c, &others) && look_out(c, &others)) {
        rp_consumer_look_at_clock(c);
        return;
    }
    uint32_t seen = rp_bell_read(&seat->bell);
    uint64_t bit = UINT64_C(1) << (c->seat % 64);
    bool woken = true;
    rp_or_seq(&h->parked_mask[c->seat / 64], bit); /* E */
    RP_FAULT(RP_AT_PARKING);
    if (!tasks_changed(c)) {
        int r = rp_bell_park(&seat->bell, seen, SAFETY_NET_NS, c->m->doorbell);
        c->overslept = r && c->m->doorbell == RP_DOORBELL_FUTEX;
        woken = !r;
    }
    RP_FAULT(RP_AT_UNPARKED);
    rp_and_seq(&h->parked_mask[c->seat / 64], ~bit);
    if (rp_now_ns() - begin <= RP_SPIN_MAX_NS)
        rp_spin_paid(spin);
    else
        rp_spin_failed(spin);
    /* One too many: the next wake-ups can be spared. */
    if (woken && become_lookout(c, &others))
        look_out(c, &others);
    rp_consumer_look_at_clock(c);
}

static bool any_unread(const struct rp_reader *readers, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (rp_reader_unread(&readers[i]))
            return true;
    return false;
}

static bool enough_unread(const struct rp_reader *readers, uint32_t n, uint32_t bytes)
{
    for (uint32_t i = 0; i < n; i++)
        if (rp_load_seq(&readers[i].seat->tail) - rp_load_relaxed(&readers[i].head) > bytes && /* F */
            !rp_load_relaxed(&readers[i].given_up))
            return true;
    return false;
}

static bool spin_for_results(const struct rp_map *m, const struct rp_reader *readers, uint32_t n, uint32_t seen, int64_t until)
{
    for (;;) {
        for (int i = 0; i < LOOKS_PER_CLOCK; i++) {
            if (any_unread(readers, n) || rp_bell_read(&m->h->bell) != seen)
                return true;
            rp_cpu_relax();
        }
        if (rp_now_ns() >= until)
            return false;
    }
}

bool rp_parent_wait(const struct rp_map *m, const struct rp_reader *readers, uint32_t n, uint32_t seen,
                    const struct rp_patience *p, struct rp_spin *spin)
{
    struct rp_header *h = m->h;
    enum rp_doorbell_kind kind = m->doorbell;
    int64_t begin = rp_now_ns();
    bool by_net = p->limit_ns < 0 || p->limit_ns > SAFETY_NET_NS;
    int64_t end = begin + (by_net ? SAFETY_NET_NS : p->limit_ns);
    if (p->spin) {
        int64_t until = begin + spin->budget_ns;
        if (spin_for_results(m, readers, n, seen, until < end ? until : end)) {
            rp_spin_paid(spin);
            return any_unread(readers, n);
        }
    }
    uint32_t bytes = p->wake_bytes;
    /* Kept over all parks of this wait: who looked in between, without ordering, would not ring, and no short park follows. */
    bool eager = false;
    for (int round = 0;; round++) {
        if (bytes) {
            rp_store_seq(&h->wake_bytes, bytes);
        } else if (!eager) {
            rp_add_seq(&h->eager, 1);
            eager = true;
        }
        rp_store_seq(&h->armed, 1); /* F */
        RP_FAULT(RP_AT_WAITING);
        int64_t left = end - rp_now_ns();
        bool short_park = bytes || round == 0;
        bool over = enough_unread(readers, n, bytes) || rp_bell_read(&h->bell) != seen || left <= 0;
        int r = over ? 0 : rp_bell_park(&h->bell, seen, short_park && left > FIRST_PARK_NS ? FIRST_PARK_NS : left, kind);
        if (!r)
            break;
        /* After a short limit of the caller's, the result may have come between its end and this look. */
        if (by_net && !short_park && any_unread(readers, n) && kind == RP_DOORBELL_FUTEX)
            rp_store_relaxed(&h->late, rp_load_relaxed(&h->late) + 1);
        if (short_park && any_unread(readers, n))
            break;
        if (bytes) {
            bytes = 0;
            round = -1;
        }
    }
    if (eager)
        rp_sub_seq(&h->eager, 1);
    if (p->spin) {
        if (rp_now_ns() - begin <= RP_SPIN_MAX_NS)
            rp_spin_paid(spin);
        else
            rp_spin_failed(spin);
    }
    return any_unread(readers, n);
}

bool rp_parent_glance(const struct rp_reader *readers, uint32_t n)
{
    for (int i = 0; i < LOOKS_PER_CLOCK; i++) {
        if (any_unread(readers, n))
            return true;
        rp_cpu_relax();
    }
    return false;
}

void rp_parent_order(const struct rp_map *m, uint32_t seat, enum rp_orders orders)
{
    rp_store_seq(&m->seats[seat].orders, orders);
    rp_bell_ring(&m->seats[seat].bell, m->doorbell);
}

void rp_parent_ask_to_clean(const struct rp_map *m)
{
    rp_add_seq(&m->h->litter, 1);
    rp_wake_all(m);
}

void rp_parent_ring(const struct rp_map *m)
{
    rp_bell_ring(&m->h->bell, m->doorbell);
}
