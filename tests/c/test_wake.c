#include "rig.h"

#include "wake.h"

#define NSEATS 70u

static struct rig rig_of(uint32_t nseats, uint32_t chairs, enum rp_doorbell_kind kind)
{
    struct rp_geometry g = {
        .nslots = 4, .nseats = nseats, .ring_bytes = 256, .chairs = chairs, .doorbell = (uint32_t)kind};
    struct rig r;
    rig_open(&r, &g);
    return r;
}

static void set_parked(const struct rp_map *m, uint32_t seat)
{
    rp_or_seq(&m->h->parked_mask[seat / 64], UINT64_C(1) << (seat % 64));
}

static uint32_t rings(const struct rp_map *m)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < m->nseats; i++)
        n += rp_bell_read(&m->seats[i].bell);
    return n;
}

static void nobody_parked(void)
{
    struct rig r = rig_of(NSEATS, 0, RP_DOORBELL_FUTEX);
    CHECK(!rp_anyone_parked(&r.m));
    CHECK(!rp_wake_one(&r.m));
    CHECK(rings(&r.m) == 0);
    rig_close(&r);
}

static void each_call_wakes_another_one(void)
{
    struct rig r = rig_of(NSEATS, 0, RP_DOORBELL_FUTEX);
    static const uint32_t seats[] = {0, 5, 63, 64, NSEATS - 1};
    for (size_t i = 0; i < 5; i++)
        set_parked(&r.m, seats[i]);
    for (uint32_t i = 0; i < 5; i++) {
        CHECK(rp_anyone_parked(&r.m));
        CHECK(rp_wake_one(&r.m));
        CHECK(rings(&r.m) == i + 1);
    }
    for (size_t i = 0; i < 5; i++)
        CHECK(rp_bell_read(&r.m.seats[seats[i]].bell) == 1);
    CHECK(!rp_anyone_parked(&r.m) && !rp_wake_one(&r.m));
    rig_close(&r);
}

static void bits_of_no_seat_are_passed_over(void)
{
    struct rig r = rig_of(NSEATS, 0, RP_DOORBELL_FUTEX);
    set_parked(&r.m, NSEATS);
    set_parked(&r.m, 127);
    CHECK(!rp_wake_one(&r.m));
    CHECK(!rp_anyone_parked(&r.m));
    set_parked(&r.m, 127);
    set_parked(&r.m, 69);
    CHECK(rp_wake_one(&r.m));
    CHECK(rp_bell_read(&r.m.seats[69].bell) == 1);
    /* A mask word of no seat at all is not looked at. */
    rp_store_relaxed(&r.m.h->parked_mask[2], UINT64_MAX);
    CHECK(!rp_wake_one(&r.m));
    rig_close(&r);
}

static void wake_all_rings_each_seat_once(void)
{
    struct rig r = rig_of(NSEATS, 0, RP_DOORBELL_POLL);
    rp_wake_all(&r.m);
    for (uint32_t i = 0; i < NSEATS; i++)
        CHECK(rp_bell_read(&r.m.seats[i].bell) == 1);
    rig_close(&r);
}

static void spinners_are_counted_on_real_chairs(void)
{
    struct rig r = rig_of(NSEATS, 3, RP_DOORBELL_FUTEX);
    for (uint32_t i = 0; i < RP_SPIN_CHAIRS; i++)
        rp_store_relaxed(&r.m.h->chair[i], i + 1);
    CHECK(rp_spinners(&r.m) == 3);
    rp_store_relaxed(&r.m.h->chair[1], 0);
    CHECK(rp_spinners(&r.m) == 2);
    r.m.h->chairs = UINT32_MAX;
    CHECK(rp_spinners(&r.m) <= RP_SPIN_CHAIRS);
    rig_close(&r);
}

static void everybody_has_a_turn(void)
{
    struct rig r = rig_of(NSEATS, 0, RP_DOORBELL_POLL);
    for (uint32_t i = 0; i < 10 * NSEATS; i++) {
        for (uint32_t seat = 0; seat < NSEATS; seat++)
            set_parked(&r.m, seat);
        CHECK(rp_wake_one(&r.m));
    }
    for (uint32_t seat = 0; seat < NSEATS; seat++)
        CHECK(rp_bell_read(&r.m.seats[seat].bell) > 0);
    CHECK(rings(&r.m) == 10 * NSEATS);
    rig_close(&r);
}

static void one_that_is_parked_is_found_whosever_turn_it_is(void)
{
    struct rig r = rig_of(NSEATS, 0, RP_DOORBELL_POLL);
    static const uint32_t seats[] = {0, 1, 62, 63, 64, NSEATS - 1};
    for (size_t i = 0; i < sizeof seats / sizeof *seats; i++)
        for (uint32_t wakes = 0; wakes < 8 * NSEATS; wakes++) {
            rp_store_relaxed(&r.m.h->wakes, wakes);
            set_parked(&r.m, seats[i]);
            CHECK(rp_wake_one(&r.m) && !rp_wake_one(&r.m));
        }
    rig_close(&r);
}

static void a_few_awake_and_a_lookout_are_enough(void)
{
    struct rig r = rig_of(NSEATS, 0, RP_DOORBELL_POLL);
    r.m.cores = 3;
    for (uint32_t seat = 3; seat < NSEATS; seat++)
        set_parked(&r.m, seat);
    CHECK(rp_awake(&r.m) == 3 && !rp_enough_awake(&r.m));
    rp_store_relaxed(&r.m.h->lookout, 1);
    CHECK(rp_enough_awake(&r.m));
    set_parked(&r.m, 2);
    CHECK(rp_awake(&r.m) == 2 && !rp_enough_awake(&r.m));
    for (uint32_t i = 0; i < RP_MASK_WORDS; i++)
        rp_store_relaxed(&r.m.h->parked_mask[i], UINT64_MAX);
    CHECK(rp_awake(&r.m) == 0 && !rp_enough_awake(&r.m));
    rig_close(&r);
}

/* Sleepers and wakers race for the bits; every wake-up that was claimed reaches the seat that it was claimed for. */
#define SLEEPERS 3u
static struct rig hammer;
static rp_u32 done, late, slept[SLEEPERS];

static void *sleep_and_count(void *arg)
{
    uint32_t seat = (uint32_t)(uintptr_t)arg;
    struct rp_map *m = &hammer.m;
    enum rp_doorbell_kind kind = (enum rp_doorbell_kind)m->h->doorbell;
    while (!rp_load_seq(&done)) {
        uint32_t seen = rp_bell_read(&m->seats[seat].bell);
        set_parked(m, seat);
        if (!rp_load_seq(&done) && rp_bell_park(&m->seats[seat].bell, seen, INT64_C(20000000000), kind) == -ETIMEDOUT)
            rp_add_seq(&late, 1);
        rp_and_seq(&m->h->parked_mask[0], ~(UINT64_C(1) << seat));
        rp_add_seq(&slept[seat], 1);
    }
    return NULL;
}

static void *wake_many(void *arg)
{
    uint32_t *woken = arg, want = *woken;
    for (*woken = 0; *woken < want;) {
        if (rp_wake_one(&hammer.m))
            ++*woken;
        else
            sched_yield();
    }
    return NULL;
}

static void wakers_and_sleepers_race(void)
{
    for (int k = 0; k < 2; k++) {
        hammer = rig_of(SLEEPERS, 0, k ? RP_DOORBELL_POLL : RP_DOORBELL_FUTEX);
        uint32_t woken[2] = {test_scaled(k ? 500 : 20000), test_scaled(k ? 500 : 20000)}, passes = 0;
        pthread_t s[SLEEPERS], w;
        rp_store_relaxed(&done, 0);
        rp_store_relaxed(&late, 0);
        for (uint32_t i = 0; i < SLEEPERS; i++) {
            rp_store_relaxed(&slept[i], 0);
            test_thread(&s[i], sleep_and_count, (void *)(uintptr_t)i);
        }
        test_thread(&w, wake_many, &woken[1]);
        wake_many(&woken[0]);
        pthread_join(w, NULL);
        CHECK(rings(&hammer.m) == woken[0] + woken[1]);
        rp_store_seq(&done, 1);
        rp_wake_all(&hammer.m);
        for (uint32_t i = 0; i < SLEEPERS; i++) {
            pthread_join(s[i], NULL);
            passes += rp_load_relaxed(&slept[i]);
        }
        CHECK(rp_load_relaxed(&late) == 0);
        /* One bit, one wake-up: a worker that two wakers believe to have woken leaves a task behind. */
        CHECK(woken[0] + woken[1] <= passes);
        rig_close(&hammer);
    }
}

TEST_MAIN(T(nobody_parked), T(each_call_wakes_another_one), T(bits_of_no_seat_are_passed_over), T(wake_all_rings_each_seat_once),
          T(spinners_are_counted_on_real_chairs), T(everybody_has_a_turn),
          T(one_that_is_parked_is_found_whosever_turn_it_is), T(a_few_awake_and_a_lookout_are_enough), T(wakers_and_sleepers_race))
