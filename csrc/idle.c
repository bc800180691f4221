#include "idle.h"

#include "fault.h"

#define SAFETY_NET_NS 1000000000
/* A worker in the middle of a stretch looks at `armed` without ordering; a first park this short bounds what that can cost. */
#define FIRST_PARK_NS 400000
#define LOOKS_PER_CLOCK 32

static bool tasks_changed(const struct rp_consumer *c)
{
    struct rp_header *h = c->m->h;
    return rp_load_seq(&h->tail) != c->seen || rp_load_seq(&h->rescan) != c->rescan || rp_load_seq(&h->stop) ||
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

void rp_worker_wait(struct rp_consumer *c, struct rp_writer *w, struct rp_spin *spin)
{
    struct rp_header *h = c->m->h;
    struct rp_seat *seat = &c->m->seats[c->seat];
    rp_writer_announce_now(w, true);
    int64_t begin = rp_now_ns();
    rp_u32 *chair = sit_down(c);
    if (chair) {
        RP_FAULT(RP_AT_SEATED);
        bool found = spin_for_tasks(c, begin + spin->budget_ns);
        rp_store_seq(chair, 0);
        if (found) {
            rp_spin_paid(spin);
            return;
        }
    }
    uint32_t seen = rp_bell_read(&seat->bell);
    uint64_t bit = UINT64_C(1) << (c->seat % 64);
    rp_or_seq(&h->parked_mask[c->seat / 64], bit); /* E */
    RP_FAULT(RP_AT_PARKING);
    if (!tasks_changed(c)) {
        int r = rp_bell_park(&seat->bell, seen, SAFETY_NET_NS, c->m->doorbell);
        c->overslept = r && c->m->doorbell == RP_DOORBELL_FUTEX;
    }
    RP_FAULT(RP_AT_UNPARKED);
    rp_and_seq(&h->parked_mask[c->seat / 64], ~bit);
    if (rp_now_ns() - begin <= RP_SPIN_MAX_NS)
        rp_spin_paid(spin);
    else
        rp_spin_failed(spin);
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
        if (rp_load_seq(&readers[i].seat->tail) - rp_load_relaxed(&readers[i].head) > bytes) /* F */
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

void rp_parent_ring(const struct rp_map *m)
{
    rp_bell_ring(&m->h->bell, m->doorbell);
}
