#include "harness.h"

#include "parts.h"

enum { SIZE = 4096 };

static void write_image(unsigned char *at, uint32_t n, const struct rp_part *parts, uint64_t stream_off, uint64_t stream_len)
{
    struct rp_parts_head h = {.tag = 16, .n = n, .stream_off = stream_off, .stream_len = stream_len};
    memset(at, 0, SIZE);
    memcpy(at, &h, sizeof h);
    if (parts && n <= 16)
        memcpy(at + RP_PART_ALIGN, parts, n * sizeof *parts);
}

static void what_was_written_is_read(void)
{
    unsigned char at[SIZE + 1];
    struct rp_part parts[3] = {{1024, 100, RP_PART_HERE, 0}, {1 << 20, 4096, RP_PART_SHARED, 1}, {4096, 0, RP_PART_FIXED, 0}}, got;
    struct rp_parts_head h;
    for (int shift = 0; shift < 2; shift++) {
        write_image(at + shift, 3, parts, 136, 888);
        CHECK(rp_parts_open(at + shift, SIZE, &h) == 0 && h.n == 3 && h.stream_off == 136 && h.stream_len == 888 && h.tag == 16);
        for (uint32_t i = 0; i < 3; i++) {
            CHECK(rp_parts_get(at + shift, SIZE, &h, i, 1 << 20, 2 << 20, &got) == 0);
            CHECK(got.off == parts[i].off && got.len == parts[i].len && got.how == parts[i].how && got.spare == parts[i].spare);
        }
        CHECK(rp_parts_get(at + shift, SIZE, &h, 3, 0, UINT64_MAX, &got) == -EBADMSG);
    }
}

static void what_lies_outside_is_refused(void)
{
    unsigned char at[SIZE];
    struct rp_parts_head h;
    struct rp_part got;
    static const struct rp_part bad[] = {
        {SIZE, 1, RP_PART_HERE, 0},
        {SIZE + 1, 0, RP_PART_HERE, 0},
        {0, SIZE + 1, RP_PART_HERE, 0},
        {64, UINT64_MAX, RP_PART_FIXED, 0},
        {UINT64_MAX, 64, RP_PART_HERE, 0},
        {8191, 1, RP_PART_SHARED, 0},
        {16384, 1, RP_PART_SHARED, 0},
        {8192, 8193, RP_PART_SHARED, 0},
        {8192, UINT64_MAX, RP_PART_SHARED, 0},
        {0, 0, 3, 0},
        {0, 0, UINT32_MAX, 0},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        write_image(at, 1, &bad[i], 88, 8);
        CHECK(rp_parts_open(at, SIZE, &h) == 0);
        CHECK(rp_parts_get(at, SIZE, &h, 0, 8192, 16384, &got) == -EBADMSG);
    }
    static const uint64_t streams[][2] = {{SIZE, 1}, {SIZE + 1, 0}, {64, SIZE}, {64, UINT64_MAX}, {UINT64_MAX, 1}};
    for (size_t i = 0; i < sizeof streams / sizeof *streams; i++) {
        write_image(at, 0, NULL, streams[i][0], streams[i][1]);
        CHECK(rp_parts_open(at, SIZE, &h) == -EBADMSG);
    }
    static const uint32_t counts[] = {169, 1000, RP_PARTS_MOST, RP_PARTS_MOST + 1, UINT32_MAX};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        write_image(at, counts[i], NULL, 64, 8);
        CHECK(rp_parts_open(at, SIZE, &h) == -EBADMSG);
    }
    write_image(at, 0, NULL, 0, 0);
    for (uint64_t size = 0; size < RP_PART_ALIGN; size++)
        CHECK(rp_parts_open(at, size, &h) == -EBADMSG);
}

/* Any bytes: an error, or something inside the bounds. */
static void random_bytes_stay_inside(void)
{
    unsigned char at[SIZE];
    uint64_t seed = 5;
    struct rp_parts_head h;
    struct rp_part got;
    uint32_t opened = 0, parts = 0;
    for (uint32_t round = 0; round < test_scaled(100000); round++) {
        uint64_t size = 64 + test_below(&seed, SIZE - 64);
        for (uint32_t i = 0; i < 512; i++)
            at[i] = test_below(&seed, 3) ? 0 : (unsigned char)test_random(&seed);
        if (rp_parts_open(at, size, &h))
            continue;
        opened++;
        CHECK(h.stream_off <= size && h.stream_len <= size - h.stream_off);
        for (uint32_t i = 0; i < h.n; i++) {
            if (rp_parts_get(at, size, &h, i, 100, 1000, &got))
                continue;
            parts++;
            if (got.how == RP_PART_SHARED)
                CHECK(got.off >= 100 && got.off <= 1000 && got.len <= 1000 - got.off);
            else
                CHECK(got.off <= size && got.len <= size - got.off);
        }
    }
    CHECK(opened > 0);
    (void)parts;
}

TEST_MAIN(T(what_was_written_is_read), T(what_lies_outside_is_refused), T(random_bytes_stay_inside))
