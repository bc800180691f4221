#include "rig.h"

#include "offers.h"

static void open_rig(struct rig *r)
{
    struct rp_geometry g = {.nslots = 4, .nseats = 3, .ring_bytes = 4096, .arena_bytes = 1 << 20};
    rig_open(r, &g);
}

static struct rp_taken block(uint64_t off, uint64_t room) { return (struct rp_taken){off, room, room / 2}; }

static void the_smallest_that_fits_is_taken(void)
{
    struct rig r;
    struct rp_taken got, a = block(4096, 1000), b = block(8192, 500), c = block(12288, 2000);
    open_rig(&r);
    CHECK(!rp_offer_take(&r.m, 1, 1, &got));
    CHECK(rp_offer_make(&r.m, 1, 1, &a) && rp_offer_make(&r.m, 1, 2, &b) && rp_offer_make(&r.m, 1, 3, &c));
    CHECK(!rp_offer_take(&r.m, 0, 1, &got) && !rp_offer_take(&r.m, 2, 1, &got));
    CHECK(rp_offer_take(&r.m, 1, 501, &got) && got.off == 4096 && got.room == 1000 && got.backed == 500);
    CHECK(!rp_offer_take(&r.m, 1, 2001, &got));
    CHECK(rp_offer_take(&r.m, 1, 500, &got) && got.off == 8192);
    CHECK(rp_offer_take(&r.m, 1, 500, &got) && got.off == 12288);
    CHECK(!rp_offer_take(&r.m, 1, 0, &got));
    rig_close(&r);
}

static void a_seat_has_so_many_offers(void)
{
    struct rig r;
    struct rp_taken got, a = block(4096, 1000);
    open_rig(&r);
    for (uint64_t i = 1; i <= RP_OFFERS; i++)
        CHECK(rp_offer_make(&r.m, 2, i, &a));
    CHECK(!rp_offer_make(&r.m, 2, 9, &a));
    CHECK(rp_offer_recall(&r.m, 2, 2) && !rp_offer_recall(&r.m, 2, 2) && !rp_offer_recall(&r.m, 2, 9));
    CHECK(rp_offer_make(&r.m, 2, 9, &a));
    for (uint64_t i = 1; i <= RP_OFFERS; i++)
        CHECK(rp_offer_take(&r.m, 2, 1, &got));
    CHECK(!rp_offer_recall(&r.m, 2, 1) && !rp_offer_take(&r.m, 2, 1, &got));
    rig_close(&r);
}

static void waiting_ends_with_the_answer_or_the_time(void)
{
    struct rig r;
    open_rig(&r);
    CHECK(!rp_offer_wait(&r.m, 0, 1, 2000000));
    rp_offer_answer(&r.m, 0);
    CHECK(rp_offer_wait(&r.m, 0, 1, -1));
    CHECK(!rp_offer_wait(&r.m, 1, 1, 0));
    rig_close(&r);
}

static void answer_soon(void *arg)
{
    struct rig child;
    rig_attach(&child, arg);
    struct timespec t = {0, 20000000};
    nanosleep(&t, NULL);
    struct rp_taken a = block(4096, 1000);
    CHECK(rp_offer_make(&child.m, 0, 7, &a));
    rp_offer_answer(&child.m, 0);
    rig_close(&child);
}

static void an_answer_wakes(void)
{
    struct rig r;
    struct rp_taken got;
    open_rig(&r);
    pid_t pid = test_spawn(answer_soon, &r);
    CHECK(rp_offer_wait(&r.m, 0, 1, INT64_C(30000000000)));
    CHECK(rp_offer_take(&r.m, 0, 1000, &got) && got.off == 4096);
    CHECK(test_reap(pid) == 0);
    rig_close(&r);
}

TEST_MAIN(T(the_smallest_that_fits_is_taken), T(a_seat_has_so_many_offers), T(waiting_ends_with_the_answer_or_the_time),
          T(an_answer_wakes))
