/* Blocks for results in worlds of the scheduler: a parent that offers, recalls and reclaims what a dead worker had; a worker that
 * takes, asks and waits, dies anywhere and is replaced. Every block has one owner at a time, and whoever has it finds what was said
 * of it; a result or a release that is seen brings along what was written before. */
#include "sched_rig.h"

#include "offers.h"

#define BLOCKS 3u
#define ROUNDS 8u
#define MORTALS 3u

static struct {
    struct rp_map m;
    bool deaths;
    uint32_t mortals;
    /* The parent's own. */
    uint64_t number, offered[BLOCKS]; /* by which number; 0: the block is free */
    uint32_t backed[BLOCKS];
    /* What the test knows: who may touch the block's bytes. */
    unsigned char *bytes[BLOCKS];
    bool over;
} play;

/* In the segment, where a result ring would be: 1 + the block that is filled. */
static rp_u32 *filled(void) { return (rp_u32 *)(void *)play.m.rings; }
static rp_u32 *wanted(void) { return (rp_u32 *)(void *)(play.m.rings + 128); }
static struct rp_head *head_of(uint32_t b) { return (struct rp_head *)(void *)(play.m.rings + 256 + 128 * b); }

static bool answered_or_filled(void *arg)
{
    (void)arg;
    return rp_load_seq(filled()) || rp_load_seq(wanted()) || sched_anyone_dead() || play.over;
}

static void work(void *arg)
{
    uint32_t asked = rp_load_relaxed(&play.m.seats[0].answered);
    struct rp_taken got;
    (void)arg;
    if (play.deaths && play.mortals++ < MORTALS)
        sched_may_die();
    for (uint32_t round = 0; round < ROUNDS; round++) {
        if (!rp_offer_take(&play.m, 0, 64, &got)) {
            rp_store_seq(wanted(), 1);
            rp_bell_ring(&play.m.h->bell, play.m.doorbell);
            asked++;
            if (!rp_offer_wait(&play.m, 0, asked, INT64_C(1000000000)) || !rp_offer_take(&play.m, 0, 64, &got))
                continue;
        }
        uint32_t b = (uint32_t)(got.off / 1000) - 1;
        CHECK(b < BLOCKS && got.room == 64 + b && got.backed == got.off / 1000 * 10 + got.room);
        if (b >= BLOCKS)
            return;
        /* Plain writes: whoever else touches the block without an order between is found. */
        sched_fill((unsigned char *)head_of(b) + 16, round, 8);
        while (rp_load_seq(filled()))
            continue;
        rp_store_release(&head_of(b)->released, 1); /* H */
        rp_store_release(filled(), b + 1);
    }
    play.over = true;
}

static void free_block(uint32_t b)
{
    play.offered[b] = 0;
    memset((unsigned char *)head_of(b) + 16, 0, 8);
}

static void serve(void *arg)
{
    (void)arg;
    while (!play.over || sched_anyone_dead()) {
        uint32_t b = rp_load_acquire(filled());
        if (b) {
            CHECK(b <= BLOCKS && play.offered[b - 1] != 0 && rp_load_acquire(&head_of(b - 1)->released) == 1);
            free_block(b - 1);
            rp_store_release(filled(), 0);
        }
        for (b = 0; b < BLOCKS; b++) {
            if (play.offered[b] && sched_below(3) == 0 && rp_offer_recall(&play.m, 0, play.offered[b]))
                free_block(b);
            if (!play.offered[b] && sched_below(2)) {
                struct rp_taken offer = {1000 * (b + 1), 64 + b, (b + 1) * 10 + 64 + b};
                rp_store_relaxed(&head_of(b)->released, 0);
                play.offered[b] = ++play.number;
                CHECK(rp_offer_make(&play.m, 0, play.number, &offer));
            }
        }
        if (rp_load_seq(wanted())) {
            rp_store_seq(wanted(), 0);
            rp_offer_answer(&play.m, 0);
        }
        if (sched_anyone_dead()) {
            sched_next_dead();
            b = rp_load_acquire(filled());
            /* All that it was offered or had taken is free; nobody else knows which. */
            for (uint32_t i = 0; i < BLOCKS; i++)
                if (play.offered[i])
                    free_block(i);
            rp_store_seq(filled(), 0);
            rp_store_seq(wanted(), 0);
            for (uint32_t i = 0; i < RP_OFFERS; i++)
                rp_store_relaxed(&play.m.seats[0].offers[i].word, 0);
            if (!play.over)
                sched_thread(work, NULL);
        } else if (!play.over) {
            sched_wait(answered_or_filled, NULL);
        }
    }
}

static void play_world(void)
{
    bool deaths = play.deaths;
    memset(&play, 0, sizeof play);
    play.deaths = deaths;
    sched_rig_open(&play.m, 2, 1, 4096, 1);
    sched_thread(serve, NULL);
    sched_thread(work, NULL);
    sched_run();
}

static void every_block_has_one_owner(void)
{
    play.deaths = false;
    sched_worlds(play_world, 3000);
}

static void what_the_dead_had_comes_back(void)
{
    uint64_t before = sched_counts.deaths;
    play.deaths = true;
    sched_worlds(play_world, 3000);
    CHECK(sched_from_environment("RP_SEED", UINT64_MAX) != UINT64_MAX || sched_counts.deaths > before);
}

TEST_MAIN(T(every_block_has_one_owner), T(what_the_dead_had_comes_back))
