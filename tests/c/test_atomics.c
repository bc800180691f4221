#include "harness.h"

#include "atomics.h"

static void cas_changes_only_what_it_expected(void)
{
    rp_u64 a = 7;
    rp_u32 b = 7;
    CHECK(!rp_cas_u64(&a, 6, 9) && rp_load_relaxed(&a) == 7);
    CHECK(rp_cas_u64(&a, 7, UINT64_MAX) && rp_load_relaxed(&a) == UINT64_MAX);
    CHECK(!rp_cas_u32(&b, 6, 9) && rp_load_relaxed(&b) == 7);
    CHECK(rp_cas_u32(&b, 7, UINT32_MAX) && rp_load_relaxed(&b) == UINT32_MAX);
    CHECK(rp_add_seq(&b, 2) == UINT32_MAX && rp_load_relaxed(&b) == 1);
    CHECK(rp_or_seq(&a, 1) == UINT64_MAX && rp_and_seq(&a, 6) == UINT64_MAX && rp_load_relaxed(&a) == 6);
}

#define ADDERS 3
static rp_u64 sum;
static uint32_t adds;

static void *add(void *arg)
{
    (void)arg;
    for (uint32_t i = 0; i < adds; i++) {
        uint64_t seen;
        do
            seen = rp_load_relaxed(&sum);
        while (!rp_cas_u64(&sum, seen, seen + 1));
        rp_add_seq(&sum, 1);
    }
    return NULL;
}

static void no_update_is_lost(void)
{
    pthread_t t[ADDERS];
    adds = test_scaled(200000);
    rp_store_relaxed(&sum, 0);
    for (int i = 0; i < ADDERS; i++)
        test_thread(&t[i], add, NULL);
    for (int i = 0; i < ADDERS; i++)
        pthread_join(t[i], NULL);
    CHECK(rp_load_relaxed(&sum) == (uint64_t)ADDERS * 2 * adds);
}

/* The pattern under every doorbell: each side stores its own word and loads the other's; one of the two must see. */
static rp_u32 mine, yours, round_begin, round_end;
static uint32_t rounds, saw[2];

static void *store_then_look(void *arg)
{
    (void)arg;
    for (uint32_t i = 1; i <= rounds; i++) {
        while (rp_load_acquire(&round_begin) != i)
            sched_yield();
        rp_store_seq(&yours, 1);
        saw[1] = rp_load_seq(&mine);
        rp_store_release(&round_end, i);
    }
    return NULL;
}

static void one_of_two_sees_the_other(void)
{
    pthread_t t;
    rounds = test_scaled(100000);
    uint32_t blind = 0;
    test_thread(&t, store_then_look, NULL);
    for (uint32_t i = 1; i <= rounds; i++) {
        rp_store_relaxed(&mine, 0);
        rp_store_relaxed(&yours, 0);
        rp_store_release(&round_begin, i);
        rp_store_seq(&mine, 1);
        saw[0] = rp_load_seq(&yours);
        while (rp_load_acquire(&round_end) != i)
            sched_yield();
        blind += !saw[0] && !saw[1];
    }
    pthread_join(t, NULL);
    CHECK(blind == 0);
}

TEST_MAIN(T(cas_changes_only_what_it_expected), T(no_update_is_lost), T(one_of_two_sees_the_other))
