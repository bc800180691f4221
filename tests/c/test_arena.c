#include "rig.h"

#include "arena.h"

#include <sys/stat.h>

struct field {
    struct rig rig;
    struct rp_arena a;
};

static void field_open(struct field *f, uint64_t arena_bytes, uint64_t keep_bytes)
{
    struct rp_geometry g = {.nslots = 4, .nseats = 1, .ring_bytes = 1 << 20, .arena_bytes = arena_bytes};
    rig_open(&f->rig, &g);
    rp_arena_init(&f->a, &f->rig.m, &f->rig.seg, keep_bytes);
}

static void field_close(struct field *f)
{
    rp_arena_release(&f->a);
    rig_close(&f->rig);
}

static unsigned char *at(struct field *f, const struct rp_block *b)
{
    unsigned char *p = rp_arena_at(&f->rig.m, b->off, b->len);
    CHECK(p != NULL);
    return p;
}

static uint64_t backed(struct field *f)
{
    struct stat st;
    return fstat(f->rig.seg.fd, &st) ? 0 : (uint64_t)st.st_blocks * 512;
}

static void blocks_hold_what_was_asked_for(void)
{
    static const uint64_t sizes[] = {0, 1, 255, 256, 257, 4095, 4096, 4097, 8192, 8193, 65536, 1000000, 5000000};
    enum { N = sizeof sizes / sizeof *sizes };
    struct field f;
    struct rp_block b[N];
    field_open(&f, 64 << 20, 0);
    for (size_t i = 0; i < N; i++) {
        CHECK(rp_arena_alloc(&f.a, sizes[i], &b[i]) == 0);
        CHECK(b[i].off >= f.rig.m.h->arena_off && b[i].len == sizes[i] && b[i].backed >= sizes[i]);
        if (sizes[i])
            memset(at(&f, &b[i]), (int)i + 1, sizes[i]);
    }
    for (size_t i = 0; i < N; i++)
        for (uint64_t k = 0; k < sizes[i]; k++)
            CHECK(f.rig.m.base[b[i].off + k] == i + 1);
    for (size_t i = 0; i < N; i++) {
        rp_arena_free(&f.a, &b[i]);
        CHECK(b[i].off == 0 && b[i].len == 0 && b[i].backed == 0);
        rp_arena_free(&f.a, &b[i]);
    }
    CHECK(f.a.used_bytes == 0);
    field_close(&f);
}

static void memory_is_there_before_it_is_touched(void)
{
    struct field f;
    struct rp_block b;
    field_open(&f, 64 << 20, 0);
    uint64_t before = backed(&f);
    CHECK(rp_arena_alloc(&f.a, 5000000, &b) == 0);
    CHECK(backed(&f) - before >= 5000000);
    /* The unused tail of the class costs no memory. */
    CHECK(backed(&f) - before < 5000000 + 3 * 4096);
    rp_arena_free(&f.a, &b);
    field_close(&f);
}

static void last_freed_is_first_reused(void)
{
    struct field f;
    struct rp_block b[3], c;
    uint64_t off[3];
    field_open(&f, 1 << 20, 1 << 20);
    for (int i = 0; i < 3; i++) {
        CHECK(rp_arena_alloc(&f.a, 3000, &b[i]) == 0);
        off[i] = b[i].off;
    }
    for (int i = 0; i < 3; i++)
        rp_arena_free(&f.a, &b[i]);
    for (int i = 2; i >= 0; i--) {
        CHECK(rp_arena_alloc(&f.a, 2500, &c) == 0 && c.off == off[i]);
        CHECK(c.backed == 3000);
    }
    CHECK(rp_arena_alloc(&f.a, 2500, &c) == 0 && c.off != off[0] && c.off != off[1] && c.off != off[2]);
    field_close(&f);
}

static void used_and_warm_add_up(void)
{
    struct field f;
    struct rp_block a, b;
    field_open(&f, 1 << 20, 1 << 20);
    CHECK(rp_arena_alloc(&f.a, 5000, &a) == 0 && f.a.used_bytes == 8192 && f.a.warm_bytes == 0);
    CHECK(rp_arena_alloc(&f.a, 100, &b) == 0 && f.a.used_bytes == 8192 + 100);
    rp_arena_free(&f.a, &a);
    CHECK(f.a.used_bytes == 100 && f.a.warm_bytes == 8192);
    rp_arena_free(&f.a, &b);
    CHECK(f.a.used_bytes == 0 && f.a.warm_bytes == 8292);
    /* Reused for more than it had: the rest is backed now. */
    CHECK(rp_arena_alloc(&f.a, 200, &b) == 0 && b.backed == 200 && f.a.used_bytes == 200 && f.a.warm_bytes == 8192);
    rp_arena_free(&f.a, &b);
    CHECK(f.a.used_bytes == 0 && f.a.warm_bytes == 8392);
    field_close(&f);
}

static void beyond_keep_bytes_memory_goes_back(void)
{
    struct field f;
    struct rp_block b[4];
    uint64_t off[4];
    field_open(&f, 16 << 20, 2 << 20);
    uint64_t before = backed(&f);
    for (int i = 0; i < 4; i++) {
        CHECK(rp_arena_alloc(&f.a, 1 << 20, &b[i]) == 0);
        memset(at(&f, &b[i]), 0xff, 1 << 20);
        off[i] = b[i].off;
    }
    CHECK(backed(&f) - before >= 4 << 20);
    for (int i = 0; i < 4; i++)
        rp_arena_free(&f.a, &b[i]);
    CHECK(f.a.warm_bytes <= 2 << 20);
    CHECK(backed(&f) - before <= (2 << 20) + 8 * 4096);
    /* The warm ones come first, with what was in them; then the dropped ones, as zeroes and backed again. */
    for (int i = 0; i < 4; i++) {
        CHECK(rp_arena_alloc(&f.a, 1 << 20, &b[i]) == 0);
        CHECK(b[i].off == off[0] || b[i].off == off[1] || b[i].off == off[2] || b[i].off == off[3]);
        CHECK(at(&f, &b[i])[12345] == (i < 2 ? 0xff : 0));
    }
    CHECK(backed(&f) - before >= 4 << 20);
    field_close(&f);
}

static void dropping_leaves_the_neighbours_alone(void)
{
    struct field f;
    struct rp_block left, b, between, right;
    field_open(&f, 1 << 20, 0);
    CHECK(rp_arena_alloc(&f.a, 256, &left) == 0);
    CHECK(rp_arena_alloc(&f.a, 16384, &b) == 0);
    CHECK(rp_arena_alloc(&f.a, 256, &between) == 0);
    CHECK(rp_arena_alloc(&f.a, 256, &right) == 0);
    /* A block of pages has them for itself; what was left before it others have. */
    CHECK(b.off % 4096 == 0 && left.off + 256 == between.off && b.off + 16384 == right.off);
    memset(at(&f, &left), 1, 256);
    memset(at(&f, &b), 2, 16384);
    memset(at(&f, &right), 3, 256);
    rp_arena_free(&f.a, &b);
    for (int i = 0; i < 256; i++)
        CHECK(at(&f, &left)[i] == 1 && at(&f, &right)[i] == 3);
    field_close(&f);
}

static void used_up_range_is_an_outcome(void)
{
    struct field f;
    struct rp_block b[16], more = {1, 1, 1};
    field_open(&f, 65536, 1 << 20);
    for (int i = 0; i < 16; i++)
        CHECK(rp_arena_alloc(&f.a, 4096, &b[i]) == 0);
    uint64_t used = f.a.used_bytes;
    CHECK(rp_arena_alloc(&f.a, 4096, &more) == -ENOSPC);
    CHECK(rp_arena_alloc(&f.a, 1, &more) == -ENOSPC);
    CHECK(f.a.used_bytes == used);
    uint64_t off = b[7].off;
    rp_arena_free(&f.a, &b[7]);
    CHECK(rp_arena_alloc(&f.a, 4000, &b[7]) == 0 && b[7].off == off);
    field_close(&f);
}

/* -ENOSPC promises that it may pass: for what can never fit, a caller would wait for ever. */
static void what_can_never_fit_is_refused_for_good(void)
{
    struct field f;
    struct rp_block b;
    field_open(&f, 65536, 1 << 20);
    /* The arena lies far behind the start of the segment: its end is no measure of its size. */
    CHECK(f.a.next > 1 << 20);
    CHECK(rp_arena_alloc(&f.a, 65536, &b) == 0);
    rp_arena_free(&f.a, &b);
    CHECK(rp_arena_alloc(&f.a, UINT64_MAX, &b) == -E2BIG);
    CHECK(rp_arena_alloc(&f.a, UINT64_C(1) << 62, &b) == -E2BIG);
    CHECK(rp_arena_alloc(&f.a, UINT64_C(1) << 47, &b) == -E2BIG);
    CHECK(rp_arena_alloc(&f.a, 1 << 20, &b) == -E2BIG);
    CHECK(rp_arena_alloc(&f.a, 65537, &b) == -E2BIG);
    field_close(&f);
}

/* What fitted once fits again when everything has come back, whatever sizes were in use in between. */
static void range_is_not_eaten_by_other_sizes(void)
{
    struct field f;
    struct rp_block b[16], large;
    field_open(&f, 65536, 1 << 20);
    for (int i = 0; i < 16; i++)
        CHECK(rp_arena_alloc(&f.a, 4096, &b[i]) == 0);
    for (int i = 0; i < 16; i++)
        rp_arena_free(&f.a, &b[i]);
    CHECK(rp_arena_alloc(&f.a, 8192, &large) == 0);
    field_close(&f);
}

/* A block that is never given back, a cached function's for example, does not leave the range to the sizes that came first. */
static void range_is_drawn_in_to_what_is_used(void)
{
    struct field f;
    struct rp_block kept, low, small, b[7], large;
    field_open(&f, 1 << 20, 1 << 20);
    uint64_t others = backed(&f);
    CHECK(rp_arena_alloc(&f.a, 300, &kept) == 0);
    CHECK(rp_arena_alloc(&f.a, 8192, &low) == 0);
    CHECK(rp_arena_alloc(&f.a, 200, &small) == 0);
    memset(at(&f, &kept), 7, 300);
    memset(at(&f, &low), 8, 8192);
    memset(at(&f, &small), 9, 200);
    for (uint32_t i = 0; i < 7; i++)
        CHECK(rp_arena_alloc(&f.a, 4096u << i, &b[i]) == 0);
    CHECK(rp_arena_alloc(&f.a, 4096u << 7, &large) == -ENOSPC);
    for (uint32_t i = 0; i < 7; i++)
        rp_arena_free(&f.a, &b[i]);
    CHECK(rp_arena_alloc(&f.a, 4096u << 7, &large) == 0 && large.off > low.off);
    memset(at(&f, &large), 1, large.len);
    for (uint32_t i = 0; i < 300; i++)
        CHECK(at(&f, &kept)[i] == 7);
    for (uint32_t i = 0; i < 8192; i++)
        CHECK(at(&f, &low)[i] == 8);
    for (uint32_t i = 0; i < 200; i++)
        CHECK(at(&f, &small)[i] == 9);
    CHECK(backed(&f) <= others + f.a.used_bytes + f.a.warm_bytes + 2 * 4096);
    field_close(&f);
}

static void refused_memory_changes_nothing(void)
{
    struct field f;
    struct rp_block b;
    field_open(&f, 1 << 20, 1 << 20);
    struct rp_segment broken = f.rig.seg;
    broken.fd = -1;
    f.a.seg = &broken;
    uint64_t next = f.a.next;
    CHECK(rp_arena_alloc(&f.a, 5000, &b) == -EBADF && b.off == 0);
    CHECK(f.a.live == 0 && f.a.used_bytes == 0 && f.a.warm_bytes == 0);
    f.a.seg = &f.rig.seg;
    CHECK(rp_arena_alloc(&f.a, 5000, &b) == 0 && b.off == next);
    rp_arena_free(&f.a, &b);
    /* A block that has memory for less than is wanted now stays what it was. */
    f.a.seg = &broken;
    CHECK(rp_arena_alloc(&f.a, 8192, &b) == 0);
    rp_arena_free(&f.a, &b);
    f.a.seg = &f.rig.seg;
    CHECK(rp_arena_alloc(&f.a, 100, &b) == 0);
    rp_arena_free(&f.a, &b);
    uint64_t warm = f.a.warm_bytes;
    f.a.seg = &broken;
    CHECK(rp_arena_alloc(&f.a, 200, &b) == -EBADF && b.off == 0);
    CHECK(f.a.warm_bytes == warm && f.a.used_bytes == 0);
    CHECK(rp_arena_alloc(&f.a, 100, &b) == 0);
    f.a.seg = &f.rig.seg;
    field_close(&f);
}

static void free_blocks_give_way_at_the_limit(void)
{
    struct field f;
    struct rp_block b[4], more = {1, 1, 1};
    field_open(&f, 1 << 20, 1 << 20);
    f.a.limit_bytes = 65536;
    for (int i = 0; i < 4; i++)
        CHECK(rp_arena_alloc(&f.a, 16384, &b[i]) == 0);
    CHECK(rp_arena_alloc(&f.a, 1, &more) == -EDQUOT && f.a.used_bytes == 65536);
    for (int i = 0; i < 4; i++)
        rp_arena_free(&f.a, &b[i]);
    CHECK(f.a.warm_bytes == 65536);
    CHECK(rp_arena_alloc(&f.a, 32768, &b[0]) == 0);
    CHECK(f.a.used_bytes == 32768 && f.a.warm_bytes <= 32768 && backed(&f) <= 65536 + 8192);
    CHECK(rp_arena_reserve(&f.a, 65536, &more) == -EDQUOT);
    field_close(&f);
}

static void withdrawn_blocks_are_nobodys(void)
{
    struct field f;
    struct rp_block a, b, away;
    field_open(&f, 65536, 1 << 20);
    CHECK(!rp_arena_withdraw(&f.a, &away));
    CHECK(rp_arena_alloc(&f.a, 5000, &a) == 0 && a.off % 4096 == 0);
    uint64_t off = a.off;
    rp_arena_free(&f.a, &a);
    CHECK(rp_arena_withdraw(&f.a, &away) && away.off == off && away.backed >= 5000 && f.a.warm_bytes == 0);
    /* What was withdrawn lies in the range: it is not begun anew. */
    CHECK(rp_arena_alloc(&f.a, 65536, &b) == -ENOSPC);
    CHECK(rp_segment_drop(&f.rig.seg, away.off, away.backed) == 0);
    away.backed = 0;
    rp_arena_return(&f.a, &away);
    CHECK(rp_arena_alloc(&f.a, 8192, &b) == 0 && b.off == off);
    rp_arena_free(&f.a, &b);
    CHECK(rp_arena_alloc(&f.a, 65536, &b) == 0);
    field_close(&f);
}

static void memory_that_went_elsewhere_is_not_warm(void)
{
    struct field f;
    struct rp_block b;
    field_open(&f, 1 << 20, 1 << 20);
    CHECK(rp_arena_alloc(&f.a, 65536, &b) == 0);
    rp_arena_free(&f.a, &b);
    CHECK(rp_arena_alloc(&f.a, 40000, &b) == 0 && f.a.used_bytes == 65536);
    CHECK(rp_segment_drop(&f.rig.seg, b.off, b.backed) == 0);
    rp_arena_bare(&f.a, &b);
    CHECK(b.backed == 0);
    rp_arena_free(&f.a, &b);
    CHECK(f.a.used_bytes == 0 && f.a.warm_bytes == 0);
    CHECK(rp_arena_alloc(&f.a, 65536, &b) == 0 && b.backed == 65536);
    field_close(&f);
}

/* Live blocks are stamped all over; whoever overlaps breaks a stamp. */
static void random_blocks_never_overlap(void)
{
    enum { LIVE = 60 };
    for (uint64_t keep = 0; keep <= 1 << 20; keep += 1 << 18) {
        struct field f;
        struct rp_block live[LIVE];
        unsigned char stamp[LIVE] = {0};
        uint64_t seed = 11 + keep, used = 0;
        uint32_t full = 0;
        field_open(&f, 2 << 20, keep);
        memset(live, 0, sizeof live);
        for (uint32_t step = 0; step < test_scaled(20000); step++) {
            uint32_t i = test_below(&seed, LIVE);
            struct rp_block *b = &live[i];
            if (b->off) {
                unsigned char *p = at(&f, b);
                bool intact = true;
                for (uint64_t k = 0; k < b->len; k++)
                    intact &= p[k] == stamp[i];
                CHECK(intact);
                used -= b->backed;
                rp_arena_free(&f.a, b);
            } else {
                uint64_t len = test_random(&seed) >> (64 - 1 - test_below(&seed, 17));
                int err = rp_arena_alloc(&f.a, len, b);
                CHECK(err == 0 || (err == -ENOSPC && b->off == 0));
                full += err != 0;
                if (err)
                    continue;
                CHECK(b->backed >= len);
                used += b->backed;
                stamp[i] = (unsigned char)(step % 255 + 1);
                memset(at(&f, b), stamp[i], len);
            }
            CHECK(f.a.used_bytes == used);
        }
        for (uint32_t i = 0; i < LIVE; i++)
            rp_arena_free(&f.a, &live[i]);
        CHECK(f.a.used_bytes == 0);
        field_close(&f);
    }
}

TEST_MAIN(T(blocks_hold_what_was_asked_for), T(memory_is_there_before_it_is_touched), T(last_freed_is_first_reused),
          T(used_and_warm_add_up), T(beyond_keep_bytes_memory_goes_back), T(dropping_leaves_the_neighbours_alone),
          T(used_up_range_is_an_outcome), T(what_can_never_fit_is_refused_for_good), T(range_is_not_eaten_by_other_sizes),
          T(range_is_drawn_in_to_what_is_used), T(refused_memory_changes_nothing), T(free_blocks_give_way_at_the_limit), T(withdrawn_blocks_are_nobodys),
          T(memory_that_went_elsewhere_is_not_warm), T(random_blocks_never_overlap))
