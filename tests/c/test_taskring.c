#include "rig.h"

#include "taskring.h"

#define NEAR_WRAP (UINT64_C(0xffffffff) - 999)

/* The parent's end, with the position counters where a test wants them. */
struct parent {
    struct rig rig;
    struct rp_producer p;
};

static void parent_open(struct parent *a, uint32_t nslots, uint32_t nseats, uint64_t start)
{
    struct rp_geometry g = {.nslots = nslots, .nseats = nseats, .ring_bytes = 256};
    rig_open(&a->rig, &g);
    if (rp_producer_init(&a->p, &a->rig.m))
        exit(125);
    a->p.tail = a->p.low = start;
    rp_store_relaxed(&a->rig.m.h->tail, start);
    rp_store_relaxed(&a->rig.m.h->take, start);
}

static void parent_close(struct parent *a)
{
    rp_producer_free(&a->p);
    rig_close(&a->rig);
}

/* Every byte of a task follows from its id, so that a torn or stale payload shows. */
static void fill(struct rp_slot *s, uint64_t id)
{
    s->len = id * 3;
    s->off = id * 5;
    s->func_off = id * 7;
    s->func_id = (uint32_t)id;
    s->kind = (uint16_t)id;
    memset(s->data, (int)(id & 0xff), RP_INLINE);
    memcpy(s->data, &id, sizeof id);
}

static uint64_t id_in(const struct rp_slot *s)
{
    uint64_t id;
    memcpy(&id, s->data, sizeof id);
    CHECK(s->len == id * 3 && s->off == id * 5 && s->func_off == id * 7);
    CHECK(s->func_id == (uint32_t)id && s->kind == (uint16_t)id);
    CHECK(s->data[sizeof id] == (id & 0xff) && s->data[RP_INLINE - 1] == (id & 0xff));
    return id;
}

static bool commit(struct parent *a, uint64_t id, uint64_t *pos)
{
    struct rp_slot *s = rp_producer_next(&a->p, pos);
    if (!s)
        return false;
    fill(s, id);
    rp_producer_commit(&a->p, *pos);
    rp_producer_show(&a->p);
    return true;
}

/* UINT64_MAX: no task. */
static uint64_t claim(struct rp_consumer *c, uint64_t *pos)
{
    struct rp_slot *s = rp_consumer_claim(c, pos);
    if (!s)
        return UINT64_MAX;
    CHECK(rp_load_relaxed(&s->state) == rp_state(*pos, c->seat, RP_CLAIMED));
    CHECK(s == &c->m->slots[*pos & c->m->slot_mask]);
    return id_in(s);
}

static bool start(struct rp_consumer *c, uint64_t pos) { return rp_consumer_start(c, &c->m->slots[pos & c->m->slot_mask], pos); }
static bool finish(struct rp_consumer *c, uint64_t pos) { return rp_consumer_finish(c, &c->m->slots[pos & c->m->slot_mask], pos); }

static void one_task_step_by_step(void)
{
    struct parent a;
    struct rp_consumer c;
    uint64_t pos = 99, at = 99;
    parent_open(&a, 4, 2, 0);
    rp_consumer_init(&c, &a.rig.m, 1);
    CHECK(!rp_consumer_claim(&c, &at));
    CHECK(rp_producer_next(&a.p, &pos) == a.rig.m.slots && pos == 0);
    CHECK(!rp_consumer_claim(&c, &at));
    CHECK(commit(&a, 41, &pos) && pos == 0);
    CHECK(rp_load_relaxed(&a.rig.m.slots[0].state) == rp_state(0, 0, RP_READY));
    CHECK(a.p.outstanding == 1 && a.p.tail == 1 && !rp_producer_expects(&a.p, 0, 1));
    CHECK(claim(&c, &at) == 41 && at == 0);
    CHECK(!rp_producer_expects(&a.p, 0, 1));
    CHECK(!finish(&c, at));
    CHECK(start(&c, at));
    CHECK(rp_load_relaxed(&a.rig.m.slots[0].state) == rp_state(0, 1, RP_RUNNING));
    CHECK(!rp_producer_expects(&a.p, 0, 1) && !start(&c, at));
    CHECK(finish(&c, at) && !finish(&c, at));
    CHECK(rp_load_relaxed(&a.rig.m.slots[0].state) == rp_state(0, 1, RP_DONE));
    CHECK(rp_producer_expects(&a.p, 0, 1) && !rp_producer_expects(&a.p, 0, 0) && !rp_producer_expects(&a.p, 4, 1));
    CHECK(!rp_consumer_claim(&c, &at));
    rp_producer_settle(&a.p, 0);
    CHECK(!rp_producer_expects(&a.p, 0, 1) && a.p.outstanding == 0 && a.p.low == 1);
    parent_close(&a);
}

/* Each pair of steps that want the same task: one of the two has it. */
static void revoked_task_never_starts(void)
{
    struct parent a;
    struct rp_consumer c;
    uint64_t pos, at;
    parent_open(&a, 4, 2, NEAR_WRAP);
    rp_consumer_init(&c, &a.rig.m, 1);
    /* While it is ready. */
    CHECK(commit(&a, 1, &pos) && rp_producer_revoke(&a.p, pos) && !rp_producer_revoke(&a.p, pos));
    CHECK(!rp_consumer_claim(&c, &at));
    rp_producer_settle(&a.p, pos);
    /* Between claim and start, with the slot used again at once. */
    CHECK(commit(&a, 2, &pos) && claim(&c, &at) == 2 && at == pos);
    CHECK(rp_producer_revoke(&a.p, pos));
    rp_producer_settle(&a.p, pos);
    for (uint64_t i = 0; i < 4; i++)
        CHECK(commit(&a, 10 + i, &pos));
    CHECK(!start(&c, at) && !finish(&c, at));
    /* The worker goes on with what is there. */
    CHECK(claim(&c, &at) == 10 && start(&c, at));
    /* Too late. */
    CHECK(!rp_producer_revoke(&a.p, at) && finish(&c, at) && !rp_producer_revoke(&a.p, at));
    CHECK(rp_producer_expects(&a.p, at, 1));
    parent_close(&a);
}

static void doomed_task_gives_no_result(void)
{
    struct parent a;
    struct rp_consumer c;
    uint64_t pos, at, lost[2];
    parent_open(&a, 4, 2, 0);
    rp_consumer_init(&c, &a.rig.m, 1);
    CHECK(commit(&a, 1, &pos) && !rp_producer_doom(&a.p, pos, 1));
    CHECK(claim(&c, &at) == 1 && !rp_producer_doom(&a.p, at, 1));
    CHECK(start(&c, at) && !rp_producer_doom(&a.p, at, 0) && rp_producer_doom(&a.p, at, 1) && !rp_producer_doom(&a.p, at, 1));
    CHECK(!finish(&c, at) && !rp_producer_expects(&a.p, at, 1) && !rp_producer_revoke(&a.p, at));
    CHECK(rp_producer_bury(&a.p, 1, lost, 2) == 1 && lost[0] == at);
    rp_producer_settle(&a.p, at);
    CHECK(a.p.outstanding == 0);
    /* Finished first: the result counts. */
    CHECK(commit(&a, 2, &pos) && claim(&c, &at) == 2 && start(&c, at) && finish(&c, at));
    CHECK(!rp_producer_doom(&a.p, at, 1) && rp_producer_expects(&a.p, at, 1));
    CHECK(rp_producer_bury(&a.p, 1, lost, 2) == 1 && lost[0] == at);
    parent_close(&a);
}

static void lost_task_is_run_once_more(void)
{
    struct parent a;
    struct rp_consumer c, other;
    uint64_t pos, at, lost[2];
    parent_open(&a, 4, 2, 0);
    rp_consumer_init(&c, &a.rig.m, 0);
    rp_consumer_init(&other, &a.rig.m, 1);
    CHECK(commit(&a, 1, &pos) && claim(&c, &at) == 1 && start(&c, at));
    CHECK(!rp_consumer_claim(&other, &at));
    CHECK(rp_producer_bury(&a.p, 0, lost, 2) == 1);
    rp_producer_retry(&a.p, lost[0]);
    CHECK(claim(&other, &at) == 1 && at == pos && start(&other, at) && finish(&other, at));
    CHECK(rp_producer_expects(&a.p, pos, 1) && !rp_producer_expects(&a.p, pos, 0));
    parent_close(&a);
}

static void look_tells_who_has_what(void)
{
    struct parent a;
    struct rp_consumer c;
    uint64_t pos, at;
    enum rp_phase phase;
    uint32_t seat;
    parent_open(&a, 4, 3, 0);
    rp_consumer_init(&c, &a.rig.m, 2);
    CHECK(!rp_producer_look(&a.p, 0, &pos, &phase, &seat));
    CHECK(commit(&a, 1, &pos) && rp_producer_look(&a.p, 0, &at, &phase, &seat) && at == 0 && phase == RP_READY);
    CHECK(claim(&c, &at) == 1 && start(&c, at));
    CHECK(rp_producer_look(&a.p, 0, &at, &phase, &seat) && at == 0 && phase == RP_RUNNING && seat == 2);
    static const uint64_t nonsense[] = {0, 3, UINT64_MAX, 1 << 16 | 3, 3 << 4 | 3, 1 << 4 | 1, 6, 15};
    for (size_t i = 0; i < sizeof nonsense / sizeof *nonsense; i++) {
        rp_store_relaxed(&a.rig.m.slots[0].state, nonsense[i]);
        bool known = nonsense[i] == rp_state(0, 0, RP_RUNNING);
        CHECK(rp_producer_look(&a.p, 0, &at, &phase, &seat) == known);
    }
    parent_close(&a);
}

static void settling_twice_or_nothing_is_ignored(void)
{
    struct parent a;
    uint64_t pos;
    parent_open(&a, 4, 1, 0);
    CHECK(commit(&a, 1, &pos) && commit(&a, 2, &pos));
    rp_producer_settle(&a.p, 4);
    rp_producer_settle(&a.p, 2);
    rp_producer_settle(&a.p, UINT64_MAX);
    CHECK(a.p.outstanding == 2);
    rp_producer_settle(&a.p, 0);
    rp_producer_settle(&a.p, 0);
    CHECK(a.p.outstanding == 1 && a.p.low == 1);
    parent_close(&a);
}

static void full_ring_is_an_outcome(void)
{
    static const uint32_t sizes[] = {1, 2, 4, 64};
    for (size_t i = 0; i < 4; i++) {
        struct parent a;
        uint64_t pos;
        parent_open(&a, sizes[i], 1, NEAR_WRAP);
        for (uint64_t k = 0; k < sizes[i]; k++)
            CHECK(commit(&a, k, &pos) && pos == NEAR_WRAP + k);
        CHECK(!rp_producer_next(&a.p, &pos));
        rp_producer_settle(&a.p, NEAR_WRAP + sizes[i] / 2);
        CHECK(commit(&a, 7, &pos));
        CHECK((pos & a.rig.m.slot_mask) == ((NEAR_WRAP + sizes[i] / 2) & a.rig.m.slot_mask));
        CHECK(!rp_producer_next(&a.p, &pos));
        parent_close(&a);
    }
}

static void busy_slot_is_skipped(void)
{
    struct parent a;
    struct rp_consumer c, longest;
    uint64_t pos, held, at;
    parent_open(&a, 4, 2, 0);
    rp_consumer_init(&longest, &a.rig.m, 0);
    rp_consumer_init(&c, &a.rig.m, 1);
    CHECK(commit(&a, 1000, &held) && claim(&longest, &at) == 1000 && at == held);
    CHECK(start(&longest, held));
    uint64_t next = 0, done = 0;
    while (done < 300) {
        while (commit(&a, next, &pos)) {
            CHECK((pos & 3) != (held & 3));
            next++;
        }
        CHECK(a.p.outstanding == 4);
        CHECK(claim(&c, &at) == done);
        CHECK(start(&c, at));
        rp_producer_settle(&a.p, at);
        done++;
    }
    CHECK(a.p.low == held);
    CHECK(a.p.tail >= 400);
    while (claim(&c, &at) != UINT64_MAX)
        rp_producer_settle(&a.p, at);
    rp_producer_settle(&a.p, held);
    CHECK(a.p.outstanding == 0 && a.p.low == a.p.tail);
    parent_close(&a);
}

static void stretches_are_bounded_and_paced(void)
{
    struct parent a;
    struct rp_consumer c;
    uint64_t pos;
    parent_open(&a, 256, 2, 0);
    for (uint64_t i = 0; i < 256; i++)
        commit(&a, i, &pos);
    rp_consumer_init(&c, &a.rig.m, 0);
    CHECK(claim(&c, &pos) == 0 && !rp_consumer_in_stretch(&c));
    rp_consumer_pace(&c, 0);
    CHECK(c.stretch == RP_STRETCH_MAX);
    rp_consumer_pace(&c, -5);
    CHECK(c.stretch == RP_STRETCH_MAX);
    rp_consumer_pace(&c, RP_STRETCH_NS * INT64_C(10000));
    CHECK(c.stretch == 1);
    rp_consumer_pace(&c, RP_STRETCH_NS / 4);
    CHECK(c.stretch == 4);
    CHECK(claim(&c, &pos) == 1 && c.stop - c.next == 3);
    CHECK(rp_load_relaxed(&a.rig.m.h->take) == 5);
    parent_close(&a);
}

static void stretch_of_a_stuck_worker_is_taken_by_others(void)
{
    struct parent a;
    struct rp_consumer stuck, c;
    uint64_t pos, sum = 0;
    parent_open(&a, 64, 2, NEAR_WRAP);
    for (uint64_t i = 0; i < 64; i++)
        commit(&a, i, &pos);
    rp_consumer_init(&stuck, &a.rig.m, 0);
    rp_consumer_init(&c, &a.rig.m, 1);
    rp_consumer_pace(&stuck, 0);
    CHECK(claim(&stuck, &pos) == 0);
    CHECK(stuck.stop - stuck.next >= 8);
    CHECK(start(&stuck, pos));
    for (uint64_t id, n = 0; (id = claim(&c, &pos)) != UINT64_MAX; n++) {
        sum += id;
        CHECK(start(&c, pos));
        CHECK(n < 64);
    }
    CHECK(sum == 63 * 64 / 2);
    CHECK(!rp_consumer_claim(&stuck, &pos));
    parent_close(&a);
}

/* While the ring never runs dry nobody sweeps it, and the rest of a stuck stretch must come through all the same. */
static void stuck_stretch_does_not_starve_in_a_busy_ring(void)
{
    for (uint32_t helpers = 1; helpers <= 3; helpers++) {
        struct parent a;
        struct rp_consumer stuck, c[3];
        uint64_t pos, next = 0, commits = 0;
        uint32_t missing = 0;
        parent_open(&a, 64, 2, 0);
        for (; next < 64; next++)
            commit(&a, next, &pos);
        rp_consumer_init(&stuck, &a.rig.m, 0);
        rp_consumer_pace(&stuck, 0);
        CHECK(claim(&stuck, &pos) == 0);
        CHECK(start(&stuck, pos));
        missing = (uint32_t)(stuck.stop - stuck.next);
        uint64_t last = missing;
        for (uint32_t i = 0; i < helpers; i++) {
            rp_consumer_init(&c[i], &a.rig.m, 1);
            rp_consumer_pace(&c[i], 0);
        }
        while (missing && commits < 64 * 100) {
            uint64_t id = claim(&c[commits % helpers], &pos);
            CHECK(id != UINT64_MAX);
            missing -= id >= 1 && id <= last;
            rp_producer_settle(&a.p, pos);
            CHECK(commit(&a, next++, &pos));
            commits++;
        }
        CHECK(missing == 0);
        parent_close(&a);
    }
}

static void burial_gives_back_and_reports(void)
{
    struct parent a;
    struct rp_consumer dead, other;
    uint64_t pos, running, claimed, lost[4] = {0};
    parent_open(&a, 8, 2, NEAR_WRAP);
    rp_consumer_init(&dead, &a.rig.m, 0);
    rp_consumer_init(&other, &a.rig.m, 1);
    for (uint64_t i = 0; i < 4; i++)
        CHECK(commit(&a, i, &pos));
    CHECK(claim(&dead, &running) == 0);
    CHECK(start(&dead, running));
    CHECK(claim(&dead, &claimed) == 1);
    CHECK(claim(&other, &pos) == 2);
    CHECK(start(&other, pos) && finish(&other, pos));
    uint64_t others = pos;
    CHECK(claim(&other, &pos) == 3);
    CHECK(!rp_consumer_claim(&other, &pos));
    uint32_t rescan = rp_load_relaxed(&a.rig.m.h->rescan), bell = rp_bell_read(&a.rig.m.seats[1].bell);
    rp_or_seq(&a.rig.m.h->parked_mask[0], 3);
    CHECK(rp_producer_bury(&a.p, 0, lost, 4) == 1 && lost[0] == running);
    CHECK(rp_load_relaxed(&a.rig.m.h->rescan) != rescan);
    CHECK(rp_bell_read(&a.rig.m.seats[1].bell) != bell);
    CHECK(rp_load_relaxed(&a.rig.m.h->parked_mask[0]) == 2);
    CHECK(a.p.outstanding == 4 && rp_producer_expects(&a.p, others, 1));
    rp_producer_settle(&a.p, lost[0]);
    CHECK(claim(&other, &pos) == 1 && pos == claimed);
    CHECK(!rp_consumer_claim(&other, &pos));
    /* Nothing is left of the dead: burying twice finds nothing. */
    CHECK(rp_producer_bury(&a.p, 0, lost, 4) == 0);
    parent_close(&a);
}

static void burial_of_a_worker_that_only_held_a_stretch(void)
{
    struct parent a;
    struct rp_consumer dead, other;
    uint64_t pos, lost[4], n = 0;
    parent_open(&a, 64, 2, 0);
    for (uint64_t i = 0; i < 64; i++)
        commit(&a, i, &pos);
    rp_consumer_init(&dead, &a.rig.m, 0);
    rp_consumer_pace(&dead, 0);
    CHECK(claim(&dead, &pos) == 0);
    CHECK(rp_producer_bury(&a.p, 0, lost, 4) == 0);
    rp_consumer_init(&other, &a.rig.m, 1);
    while (claim(&other, &pos) != UINT64_MAX)
        n++;
    CHECK(n == 64);
    parent_close(&a);
}

static void burial_clears_the_chair(void)
{
    struct rp_geometry g = {.nslots = 4, .nseats = 5, .ring_bytes = 256, .chairs = 2};
    struct rig r;
    struct rp_producer p;
    uint64_t lost;
    rig_open(&r, &g);
    CHECK(rp_producer_init(&p, &r.m) == 0);
    rp_store_relaxed(&r.m.h->chair[0], 4);
    rp_store_relaxed(&r.m.h->chair[1], 3);
    rp_store_relaxed(&r.m.h->lookout, 3);
    CHECK(rp_producer_bury(&p, 3, &lost, 1) == 0);
    CHECK(rp_load_relaxed(&r.m.h->chair[0]) == 0 && rp_load_relaxed(&r.m.h->chair[1]) == 3);
    CHECK(rp_load_relaxed(&r.m.h->lookout) == 3);
    CHECK(rp_producer_bury(&p, 2, &lost, 1) == 0);
    CHECK(rp_load_relaxed(&r.m.h->lookout) == 0);
    rp_producer_free(&p);
    rig_close(&r);
}

/* Workers that are woken, find nothing and park again at once. */
static rp_u32 roused;

static void *park_again(void *arg)
{
    struct rp_map *m = arg;
    while (!rp_load_seq(&roused)) {
        rp_or_seq(&m->h->parked_mask[0], 3);
        sched_yield();
    }
    return NULL;
}

static void rouse_wakes_each_worker_once(void)
{
    struct parent a;
    uint64_t pos;
    pthread_t t;
    parent_open(&a, 8, 2, 0);
    rp_use_seats(&a.rig.m, 2);
    rp_store_relaxed(&roused, 0);
    CHECK(commit(&a, 1, &pos));
    rp_or_seq(&a.rig.m.h->parked_mask[0], 3);
    test_thread(&t, park_again, &a.rig.m);
    for (int i = 0; i < 1000; i++) {
        uint32_t before = rp_bell_read(&a.rig.m.seats[0].bell) + rp_bell_read(&a.rig.m.seats[1].bell);
        rp_producer_rouse(&a.p);
        CHECK(rp_bell_read(&a.rig.m.seats[0].bell) + rp_bell_read(&a.rig.m.seats[1].bell) - before <= 2);
    }
    rp_store_seq(&roused, 1);
    pthread_join(t, NULL);
    parent_close(&a);
}

/* More than one running task on a seat takes a damaged segment; those beyond max come with the next burial. */
static void burial_beyond_max_is_reported_by_the_next(void)
{
    struct parent a;
    struct rp_consumer c;
    uint64_t pos, lost[2];
    parent_open(&a, 4, 1, 0);
    rp_consumer_init(&c, &a.rig.m, 0);
    for (uint64_t i = 0; i < 3; i++) {
        CHECK(commit(&a, i, &pos) && claim(&c, &pos) == i);
        CHECK(start(&c, pos));
    }
    CHECK(rp_producer_bury(&a.p, 0, lost, 2) == 2);
    rp_producer_settle(&a.p, lost[0]);
    rp_producer_settle(&a.p, lost[1]);
    CHECK(rp_producer_bury(&a.p, 0, lost, 2) == 1);
    rp_producer_settle(&a.p, lost[0]);
    CHECK(a.p.outstanding == 0);
    parent_close(&a);
}

static void damaged_hints_lose_no_task(void)
{
    static const uint64_t takes[] = {0, 1, 99, 100, 101, 150, 164, 165, 1000, UINT64_C(1) << 40, UINT64_MAX - 5, UINT64_MAX};
    for (size_t i = 0; i < sizeof takes / sizeof *takes; i++) {
        for (size_t k = 0; k < sizeof takes / sizeof *takes; k++) {
            struct parent a;
            struct rp_consumer c[2];
            uint64_t pos, next = 0, got = 0;
            unsigned char times[256] = {0};
            parent_open(&a, 64, 2, 100);
            rp_consumer_init(&c[0], &a.rig.m, 0);
            rp_consumer_init(&c[1], &a.rig.m, 1);
            for (int lap = 0; lap < 3; lap++) {
                while (commit(&a, next, &pos))
                    next++;
                rp_store_relaxed(&a.rig.m.h->take, takes[i]);
                rp_store_relaxed(&a.rig.m.h->rescan, (uint32_t)takes[k]);
                for (uint64_t id; (id = claim(&c[got % 2], &pos)) != UINT64_MAX || (id = claim(&c[!(got % 2)], &pos)) != UINT64_MAX;
                     got++) {
                    times[id & 255]++;
                    rp_producer_settle(&a.p, pos);
                }
                CHECK(got == next);
            }
            for (uint64_t id = 0; id < next; id++)
                CHECK(times[id] == 1);
            parent_close(&a);
        }
    }
}

/* A task wrote over the tail; the parent's next commit puts it right, and then all must be as before. */
static void damaged_tail_blinds_nobody_for_ever(void)
{
    static const uint64_t tails[] = {0, 3, 1000, UINT64_C(1) << 20};
    for (size_t i = 0; i < sizeof tails / sizeof *tails; i++) {
        struct parent a;
        struct rp_consumer c;
        uint64_t pos, n = 0;
        parent_open(&a, 16, 1, 100);
        rp_consumer_init(&c, &a.rig.m, 0);
        rp_store_relaxed(&a.rig.m.h->tail, tails[i]);
        CHECK(!rp_consumer_claim(&c, &pos));
        for (uint64_t id = 0; id < 16; id++)
            CHECK(commit(&a, id, &pos));
        while (claim(&c, &pos) != UINT64_MAX)
            n++;
        CHECK(n == 16);
        parent_close(&a);
    }
}

/* Random steps of everybody, deaths and damaged hints included, against a model: each task is settled once or lost once. */
#define CAST 4u
struct actor {
    struct rp_consumer c;
    uint64_t claimed, running; /* position + 1; 0: none */
    uint64_t claimed_id, running_id;
};

static void settle_in_model(struct parent *a, unsigned char *fate, uint64_t pos, uint64_t id, uint64_t *settled)
{
    CHECK(fate[id] == 0);
    fate[id] = 1;
    rp_producer_settle(&a->p, pos);
    ++*settled;
}

static void play(uint32_t nslots, uint64_t begin, uint64_t *seed, bool damage)
{
    enum { TASKS = 400 };
    struct parent a;
    struct actor cast[CAST];
    unsigned char fate[TASKS] = {0};
    uint64_t at_pos[64] = {0}, next = 0, settled = 0, steps = 0;
    parent_open(&a, nslots, CAST, begin);
    memset(cast, 0, sizeof cast);
    for (uint32_t i = 0; i < CAST; i++)
        rp_consumer_init(&cast[i].c, &a.rig.m, i);
    while (settled < TASKS && steps++ < 200000) {
        struct actor *who = &cast[test_below(seed, CAST)];
        uint64_t pos;
        switch (test_below(seed, 14)) {
        case 0:
        case 1:
        case 2:
            for (uint32_t n = test_below(seed, nslots) + 1; n > 0 && next < TASKS && commit(&a, next, &pos); n--)
                at_pos[pos & (nslots - 1)] = next++;
            break;
        case 3:
        case 4:
        case 5:
            if (who->claimed || who->running)
                break;
            who->claimed_id = claim(&who->c, &pos);
            if (who->claimed_id == UINT64_MAX)
                break;
            CHECK(at_pos[pos & (nslots - 1)] == who->claimed_id);
            who->claimed = pos + 1;
            break;
        case 6:
        case 7:
            if (!who->claimed)
                break;
            CHECK(start(&who->c, who->claimed - 1));
            who->running = who->claimed;
            who->running_id = who->claimed_id;
            who->claimed = 0;
            break;
        case 8:
        case 9:
            if (!who->running)
                break;
            CHECK(finish(&who->c, who->running - 1));
            CHECK(rp_producer_expects(&a.p, who->running - 1, who->c.seat));
            settle_in_model(&a, fate, who->running - 1, who->running_id, &settled);
            who->running = 0;
            break;
        case 10:
            if (test_below(seed, 6) == 0) {
                uint64_t lost[2];
                uint32_t n = rp_producer_bury(&a.p, who->c.seat, lost, 2);
                CHECK(n == (who->running != 0));
                CHECK(!n || lost[0] == who->running - 1);
                if (n)
                    settle_in_model(&a, fate, lost[0], who->running_id, &settled);
                who->claimed = who->running = 0;
                rp_consumer_init(&who->c, &a.rig.m, who->c.seat);
            }
            rp_consumer_pace(&who->c, (int64_t)test_below(seed, RP_STRETCH_NS));
            break;
        case 11:
            if (!who->running && !who->claimed) {
                /* A task that nobody in the cast has is never refused. */
                uint64_t i = test_below(seed, nslots);
                enum rp_phase phase;
                uint32_t seat;
                if (rp_producer_look(&a.p, i, &pos, &phase, &seat) && phase == RP_READY) {
                    CHECK(rp_producer_revoke(&a.p, pos));
                    settle_in_model(&a, fate, pos, at_pos[i], &settled);
                }
            } else if (who->claimed) {
                CHECK(rp_producer_revoke(&a.p, who->claimed - 1));
                settle_in_model(&a, fate, who->claimed - 1, who->claimed_id, &settled);
                CHECK(!start(&who->c, who->claimed - 1));
                who->claimed = 0;
            } else {
                uint64_t lost[2];
                CHECK(rp_producer_doom(&a.p, who->running - 1, who->c.seat));
                CHECK(!finish(&who->c, who->running - 1));
                CHECK(rp_producer_bury(&a.p, who->c.seat, lost, 2) == 1 && lost[0] == who->running - 1);
                if (test_below(seed, 2)) {
                    rp_producer_retry(&a.p, lost[0]);
                } else {
                    settle_in_model(&a, fate, lost[0], who->running_id, &settled);
                }
                who->running = 0;
                rp_consumer_init(&who->c, &a.rig.m, who->c.seat);
            }
            break;
        default:
            if (damage && test_below(seed, 8) == 0) {
                uint64_t near = a.p.tail - nslots * 2 + test_below(seed, nslots * 4);
                rp_store_relaxed(&a.rig.m.h->take,
                                 test_below(seed, 3) ? near : test_random(seed) | UINT64_C(1) << 50);
            }
        }
    }
    CHECK(settled == TASKS);
    CHECK(a.p.outstanding == 0 && a.p.low == a.p.tail);
    parent_close(&a);
}

static void random_steps(void)
{
    static const uint32_t sizes[] = {1, 2, 4, 8, 64};
    uint64_t seed = 77;
    for (uint32_t round = 0; round < test_scaled(200); round++)
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
            play(sizes[i], round % 2 ? NEAR_WRAP + 900 : 0, &seed, round % 3 != 0);
}

/* Threads. A consumer tells that it is through with a position by a flag of its slot, which stands in for the result ring. */
#define MOST_CONSUMERS 4u
#define MOST_SLOTS 1024u
struct delivery {
    struct parent a;
    uint32_t consumers, total;
    bool deaths, revokes;
    rp_u64 through[MOST_SLOTS]; /* consumer: position + 1; producer: back to 0 */
    rp_u32 settled, stuck, over;
    rp_u32 dead[MOST_CONSUMERS];
    rp_u32 got_stuck;
    unsigned char *ran; /* by task id; written by who runs it, and only one may */
    unsigned char *revoked; /* producer: by task id */
    uint64_t *task_of;  /* producer: by slot */
};
static struct delivery ring;

struct consumer_arg {
    uint32_t seat;
    uint64_t seed;
};

static void be_stuck(void)
{
    if (rp_add_seq(&ring.stuck, 1) < ring.consumers - 1) {
        uint32_t from = rp_load_seq(&ring.settled), laps = 4 * ((uint32_t)ring.a.rig.m.slot_mask + 1);
        rp_add_seq(&ring.got_stuck, 1);
        while (rp_load_seq(&ring.settled) - from < laps && rp_load_seq(&ring.settled) + rp_load_seq(&ring.stuck) < ring.total)
            sched_yield();
    }
    rp_sub_seq(&ring.stuck, 1);
}

static void *consume(void *arg)
{
    struct consumer_arg *me = arg;
    struct rp_consumer c;
    struct rp_slot *s;
    uint64_t pos = 0;
    rp_consumer_init(&c, &ring.a.rig.m, me->seat);
    rp_consumer_pace(&c, 0);
    while (!rp_load_acquire(&ring.over)) {
        s = rp_consumer_claim(&c, &pos);
        if (!s) {
            sched_yield();
            continue;
        }
        uint32_t luck = test_below(&me->seed, 3000);
        if (ring.deaths && luck == 1)
            break;
        if (!rp_consumer_start(&c, s, pos)) {
            CHECK(ring.revokes);
            continue;
        }
        uint64_t id = id_in(s);
        if (id >= ring.total) {
            CHECK(id < ring.total);
            continue;
        }
        ring.ran[id]++;
        if (ring.deaths && luck == 2)
            break;
        if (!ring.deaths && ((rp_consumer_in_stretch(&c) && luck < 6) || luck == 6 || id + 20 == ring.total))
            be_stuck();
        rp_store_release(&ring.through[pos & c.m->slot_mask], pos + 1);
        if (ring.deaths && luck == 3)
            break;
    }
    rp_store_release(&ring.dead[me->seat], 1);
    return NULL;
}

static uint32_t drain(uint32_t *done)
{
    uint32_t n = 0;
    for (uint64_t i = 0; i <= ring.a.rig.m.slot_mask; i++) {
        uint64_t pos = rp_load_acquire(&ring.through[i]);
        if (!pos)
            continue;
        rp_store_relaxed(&ring.through[i], 0);
        rp_producer_settle(&ring.a.p, pos - 1);
        n++;
    }
    *done += n;
    rp_add_seq(&ring.settled, n);
    return n;
}

static uint32_t revoke_some(uint64_t *seed, uint32_t *done)
{
    uint64_t pos, i = test_below(seed, (uint32_t)ring.a.rig.m.slot_mask + 1);
    enum rp_phase phase;
    uint32_t seat;
    if (!rp_producer_look(&ring.a.p, i, &pos, &phase, &seat) || !rp_producer_revoke(&ring.a.p, pos))
        return 0;
    ring.revoked[ring.task_of[i]] = 1;
    rp_producer_settle(&ring.a.p, pos);
    ++*done;
    rp_add_seq(&ring.settled, 1);
    return 1;
}

static void deliver(uint32_t nslots, uint32_t consumers, uint32_t total, uint64_t begin, bool deaths, bool revokes)
{
    uint64_t seed = begin + 5;
    uint32_t revoked = 0;
    pthread_t t[MOST_CONSUMERS];
    struct consumer_arg args[MOST_CONSUMERS];
    uint32_t next = 0, done = 0, lost = 0, deaths_seen = 0;
    uint64_t pos;
    memset((void *)&ring, 0, sizeof ring);
    parent_open(&ring.a, nslots, consumers, begin);
    ring.consumers = consumers;
    ring.total = total;
    ring.deaths = deaths;
    ring.revokes = revokes;
    ring.revoked = calloc(total, 1);
    ring.ran = calloc(total, 1);
    ring.task_of = calloc(nslots, sizeof *ring.task_of);
    for (uint32_t i = 0; i < consumers; i++) {
        args[i] = (struct consumer_arg){i, 1000 + i + begin};
        test_thread(&t[i], consume, &args[i]);
    }
    while (done < total) {
        bool idle = true;
        while (next < total && commit(&ring.a, next, &pos)) {
            ring.task_of[pos & (nslots - 1)] = next++;
            idle = false;
        }
        rp_producer_nudge(&ring.a.p);
        if (revokes)
            revoked += revoke_some(&seed, &done);
        idle &= !drain(&done);
        for (uint32_t i = 0; deaths && i < consumers; i++) {
            uint64_t gone[2];
            if (!rp_load_acquire(&ring.dead[i]))
                continue;
            pthread_join(t[i], NULL);
            drain(&done);
            uint32_t n = rp_producer_bury(&ring.a.p, i, gone, 2);
            CHECK(n <= 1);
            for (uint32_t k = 0; k < n; k++, lost++, done++)
                rp_producer_settle(&ring.a.p, gone[k]);
            rp_add_seq(&ring.settled, n);
            rp_store_relaxed(&ring.dead[i], 0);
            test_thread(&t[i], consume, &args[i]);
            deaths_seen++;
            idle = false;
        }
        if (idle)
            sched_yield();
    }
    rp_store_release(&ring.over, 1);
    for (uint32_t i = 0; i < consumers; i++)
        pthread_join(t[i], NULL);
    CHECK(done == total && next == total);
    CHECK(ring.a.p.outstanding == 0 && ring.a.p.low == ring.a.p.tail);
    for (uint32_t i = 0; i < total; i++)
        CHECK(ring.ran[i] + ring.revoked[i] == 1);
    CHECK(!revokes || revoked > 0);
    free(ring.revoked);
    CHECK(deaths ? deaths_seen > 0 : revokes || rp_load_relaxed(&ring.got_stuck) > 0);
    CHECK(lost <= deaths_seen);
    free(ring.ran);
    free(ring.task_of);
    parent_close(&ring.a);
}

static void threads_on_two_slots(void) { deliver(2, 2, test_scaled(400000), NEAR_WRAP, false, false); }
static void threads_on_four_slots(void) { deliver(4, 4, test_scaled(400000), NEAR_WRAP, false, false); }
static void threads_on_64_slots(void) { deliver(64, 3, test_scaled(1000000), NEAR_WRAP, false, false); }
static void threads_on_1024_slots(void) { deliver(1024, 2, test_scaled(1000000), 0, false, false); }
static void threads_that_die(void)
{
    deliver(4, 3, test_scaled(50000), NEAR_WRAP, true, false);
    deliver(64, 4, test_scaled(100000), NEAR_WRAP, true, false);
}
static void threads_and_revokes(void)
{
    deliver(2, 2, test_scaled(200000), NEAR_WRAP, false, true);
    deliver(64, 3, test_scaled(500000), NEAR_WRAP, false, true);
}

TEST_MAIN(T(one_task_step_by_step), T(revoked_task_never_starts), T(doomed_task_gives_no_result), T(lost_task_is_run_once_more),
          T(look_tells_who_has_what), T(settling_twice_or_nothing_is_ignored), T(full_ring_is_an_outcome), T(busy_slot_is_skipped),
          T(stretches_are_bounded_and_paced), T(stretch_of_a_stuck_worker_is_taken_by_others),
          T(stuck_stretch_does_not_starve_in_a_busy_ring), T(burial_gives_back_and_reports),
          T(burial_of_a_worker_that_only_held_a_stretch), T(burial_clears_the_chair),
          T(rouse_wakes_each_worker_once),
          T(burial_beyond_max_is_reported_by_the_next), T(damaged_hints_lose_no_task), T(damaged_tail_blinds_nobody_for_ever),
          T(random_steps), T(threads_on_two_slots), T(threads_on_four_slots), T(threads_on_64_slots), T(threads_on_1024_slots),
          T(threads_that_die), T(threads_and_revokes))
