#define _GNU_SOURCE
#include "harness.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "fill.h"

enum { PAGE = 4096, MOST = 3 * RP_FILL_STEP };

static struct rp_segment s;
static unsigned char *from;
static uint64_t most_together; /* bytes of the segment and of the source, at any taking */
static int takes, fails_at;

/* Whole pages of the source that have memory. */
static uint64_t resident(void)
{
    static unsigned char there[MOST / PAGE + 2];
    unsigned char *begin = from - (uintptr_t)from % PAGE;
    uint64_t n = 0;
    if (mincore(begin, MOST + PAGE, there))
        abort();
    for (size_t i = 0; i < MOST / PAGE + 1; i++)
        n += there[i] & 1;
    return n * PAGE;
}

static int take(const struct rp_segment *segment, uint64_t off, uint64_t len)
{
    struct stat st;
    if (++takes == fails_at)
        return -ENOSPC;
    CHECK(off % PAGE == 0 && len % PAGE == 0 && len > 0);
    int err = rp_segment_back(segment, off, len);
    if (fstat(s.fd, &st))
        abort();
    uint64_t together = (uint64_t)st.st_blocks * 512 + resident();
    if (together > most_together)
        most_together = together;
    return err;
}

static unsigned char byte_at(size_t i) { return (unsigned char)(i * 2654435761u >> 13); }

/* `at`: how far into a page the source begins. */
static void begin(size_t at)
{
    CHECK(rp_segment_create(&s, (size_t)MOST + 64 * PAGE, RP_SEGMENT_ANY) == 0);
    unsigned char *pages = mmap(NULL, MOST + 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED)
        abort();
    from = pages + at;
    for (size_t i = 0; i < MOST; i++)
        from[i] = byte_at(i);
    most_together = 0;
    takes = fails_at = 0;
}

static void end(void)
{
    munmap(from - (uintptr_t)from % PAGE, MOST + 2 * PAGE);
    rp_segment_close(&s);
}

static bool all_there(const unsigned char *at, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (at[i] != byte_at(i))
            return false;
    return true;
}

static struct rp_filling filling(uint64_t at, uint64_t backed, size_t n)
{
    return (struct rp_filling){.s = &s, .take = take, .at = at, .end = at + n, .backed = backed};
}

static void every_size_and_place(void)
{
    const size_t sizes[] = {1, RP_FILL_STEP - 1, RP_FILL_STEP, RP_FILL_STEP + 1, MOST - 12345, MOST};
    const size_t places[] = {0, 16, 4095};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (size_t k = 0; k < 2 * sizeof places / sizeof *places; k++) {
            size_t place = places[k / 2];
            /* Instrumented, a pass over a block takes as long as several here. */
            if (TEST_SCALE > 1 && place != 16)
                continue;
            begin(place);
            if (place)
                from[-1] = 7;
            unsigned char after = from[sizes[i]];
            struct rp_filling f = filling(2 * PAGE + 48, 2 * PAGE, sizes[i]);
            CHECK(rp_fill(&f, from, sizes[i], k % 2) == 0);
            CHECK(f.at == f.end && f.backed == (f.end + PAGE - 1) / PAGE * PAGE);
            CHECK(all_there((unsigned char *)s.base + 2 * PAGE + 48, sizes[i]));
            CHECK(k % 2 || all_there(from, sizes[i]));
            /* What lies around it is somebody else's. */
            CHECK(from[sizes[i]] == after);
            CHECK(place == 0 || from[-1] == 7);
            end();
        }
}

static void it_is_never_there_twice(void)
{
    begin(16);
    struct rp_filling f = filling(64, 0, MOST);
    CHECK(rp_fill(&f, from, MOST, true) == 0);
    CHECK(most_together <= MOST + RP_FILL_STEP + 4 * PAGE);
    CHECK(resident() <= 3 * PAGE);
    end();
}

static void many_small_ones_take_memory_in_steps(void)
{
    begin(0);
    struct rp_filling f = filling(64, 0, MOST);
    for (size_t done = 0; done < MOST; done += 3 * PAGE) {
        size_t n = MOST - done < 3 * PAGE ? MOST - done : 3 * PAGE;
        CHECK(rp_fill(&f, from + done, n, true) == 0);
    }
    CHECK(f.at == f.end && takes <= 4);
    CHECK(all_there((unsigned char *)s.base + 64, MOST));
    end();
}

static void memory_that_is_there_is_not_taken(void)
{
    begin(0);
    uint64_t have = RP_FILL_STEP + 8 * PAGE;
    struct rp_filling f = filling(0, have, RP_FILL_STEP + PAGE);
    CHECK(rp_segment_back(&s, 0, have) == 0);
    fails_at = 1;
    CHECK(rp_fill(&f, from, RP_FILL_STEP + PAGE, true) == 0);
    CHECK(takes == 0 && f.backed == have);
    CHECK(all_there(s.base, RP_FILL_STEP + PAGE));
    end();
}

static void a_failure_brings_all_back(void)
{
    for (int at = 1; at <= 3; at++)
        for (int drop = 0; drop < 2; drop++) {
            begin(48);
            fails_at = at;
            struct rp_filling f = filling(64, 0, MOST);
            CHECK(rp_fill(&f, from, MOST, drop) == -ENOSPC);
            CHECK(all_there(from, MOST));
            CHECK(f.at == 64 && f.backed / RP_FILL_STEP == (uint64_t)(at - 1));
            /* And another try goes well. */
            fails_at = 0;
            CHECK(rp_fill(&f, from, MOST, drop) == 0);
            CHECK(all_there((unsigned char *)s.base + 64, MOST));
            end();
        }
}

static void what_was_filled_is_brought_back(void)
{
    begin(16);
    struct rp_filling f = filling(64, 0, MOST);
    CHECK(rp_fill(&f, from, MOST / 2, true) == 0);
    rp_unfill(&f, 64, from, MOST / 2);
    CHECK(all_there(from, MOST));
    end();
}

TEST_MAIN(T(every_size_and_place), T(it_is_never_there_twice), T(many_small_ones_take_memory_in_steps),
          T(memory_that_is_there_is_not_taken), T(a_failure_brings_all_back), T(what_was_filled_is_brought_back))
