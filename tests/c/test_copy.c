#include "harness.h"

#include "atomics.h"
#include "copy.h"

enum { EDGE = 128, MOST = RP_COPY_PAST + 4096 };

static unsigned char *from, *to;

static void fill(void)
{
    uint64_t seed = 11;
    from = malloc(MOST + 2 * EDGE);
    to = malloc(MOST + 2 * EDGE);
    if (!from || !to)
        abort();
    for (size_t i = 0; i < MOST + 2 * EDGE; i++)
        from[i] = (unsigned char)test_random(&seed);
}

static void copied(size_t at, size_t source, size_t n)
{
    memset(to, 0x5a, MOST + 2 * EDGE);
    rp_copy(to + at, from + source, n);
    CHECK(!memcmp(to + at, from + source, n));
    for (size_t i = 0; i < EDGE; i++)
        CHECK((i >= at || to[i] == 0x5a) && to[at + n + i] == 0x5a);
}

static void every_size_about_the_threshold(void)
{
    const size_t sizes[] = {0, 1, 63, 64, 65, 4096, RP_COPY_PAST - 1, RP_COPY_PAST, RP_COPY_PAST + 1, RP_COPY_PAST + 63, MOST - EDGE};
    fill();
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        copied(0, 0, sizes[i]);
    free(from);
    free(to);
}

static void every_alignment(void)
{
    fill();
    for (size_t at = 0; at < 64; at += 1 + at / 4)
        for (size_t source = 0; source < 64; source += 1 + source / 2)
            copied(at, source, RP_COPY_PAST + at % 5);
    free(from);
    free(to);
}

enum { ROUNDS = 40 };
static rp_u32 filled, read_so_far;

static void *reader(void *unused)
{
    (void)unused;
    for (uint32_t round = 1; round <= ROUNDS; round++) {
        while (rp_load_acquire(&filled) < round)
            sched_yield();
        /* The end was copied last. */
        for (size_t i = RP_COPY_PAST; i > RP_COPY_PAST - 4096; i--)
            CHECK(to[i - 1] == (unsigned char)round);
        rp_store_release(&read_so_far, round);
    }
    return NULL;
}

static void a_release_shows_what_was_copied(void)
{
    pthread_t thread;
    fill();
    test_thread(&thread, reader, NULL);
    for (uint32_t round = 1; round <= ROUNDS; round++) {
        memset(from, (int)round, RP_COPY_PAST);
        rp_copy(to, from, RP_COPY_PAST);
        rp_store_release(&filled, round);
        while (rp_load_acquire(&read_so_far) < round)
            sched_yield();
    }
    pthread_join(thread, NULL);
    free(from);
    free(to);
}

TEST_MAIN(T(every_size_about_the_threshold), T(every_alignment), T(a_release_shows_what_was_copied))
