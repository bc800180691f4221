/* The fuzzer's inputs without a fuzzer: seeded noise, and records and words that are nearly right, which reach further. */
#include "harness.h"

#include "fuzz.h"
#include "layout.h"

#define INPUT_MOST 4096u

static struct {
    unsigned char bytes[INPUT_MOST];
    uint32_t n;
    uint64_t seed;
} input = {.seed = 7};

static uint32_t below(uint32_t n) { return test_below(&input.seed, n); }

static void put(const void *from, uint32_t n)
{
    if (n > INPUT_MOST - input.n)
        n = INPUT_MOST - input.n;
    memcpy(input.bytes + input.n, from, n);
    input.n += n;
}
static void put_u8(uint32_t v)
{
    unsigned char byte = (unsigned char)v;
    put(&byte, 1);
}
static void put_u64(uint64_t v) { put(&v, 8); }

static void begin(enum fuzz_target target)
{
    input.n = 0;
    put_u8(target);
}

static void try_it(void) { LLVMFuzzerTestOneInput(input.bytes, input.n); }

static void noise(void)
{
    for (uint32_t i = 0; i < test_scaled(60000); i++) {
        begin((enum fuzz_target)below(FUZZ_TARGETS));
        for (uint32_t n = below(160); n > 0; n--)
            put_u64(test_random(&input.seed) >> (below(2) ? 0 : below(64)));
        try_it();
    }
}

static void nearly_a_ring(void)
{
    struct fuzz_seen before = fuzz_seen;
    for (uint32_t i = 0; i < test_scaled(150000); i++) {
        uint32_t log = below(4), bytes = 256u << log, used = below(bytes / 16 + 1) * 16;
        uint64_t head = (test_random(&input.seed) >> below(64)) & ~UINT64_C(15);
        begin(FUZZ_RING);
        put_u8(log);
        put_u64(head);
        put_u64(below(8) ? head + used : test_random(&input.seed));
        put_u64(below(8) ? head : test_random(&input.seed));
        put_u8(below(2));
        uint32_t from = input.n;
        memset(input.bytes + from, 0, bytes);
        input.n += bytes;
        /* A chain of records as a writer leaves it, and now and then something else. */
        for (uint32_t done = 0; done < used;) {
            uint32_t at = (uint32_t)(head + done) & (bytes - 1), room = bytes - at < used - done ? bytes - at : used - done;
            uint32_t size = 16 + below(below(4) ? 4 : 1 + room / 16) * 16, pad = below(16);
            if (size > room)
                size = room;
            struct rp_record rec = {size, (uint16_t)below(5), (uint16_t)(pad <= size - 16 ? pad : 0), below(9)};
            if (size == bytes - at && below(2))
                rec.kind = RP_PAD;
            switch (below(60)) {
            case 0:
                rec.size = (uint32_t)test_random(&input.seed);
                break;
            case 1:
                rec.size = below(bytes / 8) * 8;
                break;
            case 2:
                rec.pad = (uint16_t)below(40);
                break;
            case 3:
                rec.kind = RP_PAD;
                break;
            }
            memcpy(input.bytes + from + at, &rec, sizeof rec);
            done += size;
        }
        try_it();
    }
    CHECK(fuzz_seen.records > before.records && fuzz_seen.empty > before.empty && fuzz_seen.corrupt > before.corrupt);
}

static void nearly_the_words(void)
{
    struct fuzz_seen before = fuzz_seen;
    for (uint32_t i = 0; i < test_scaled(60000); i++) {
        uint32_t log = below(4);
        begin(FUZZ_WORDS);
        put_u8(log);
        put_u8(below(256));
        for (uint32_t k = 0; k < 1u << log; k++) {
            put_u64(below(4) ? rp_state(below(12), below(80), (enum rp_phase)below(8)) : test_random(&input.seed));
            put_u8(below(256));
        }
        for (uint32_t k = 0; k < 4; k++)
            put_u64(below(2) ? below(20) : test_random(&input.seed));
        for (uint32_t k = 0; k < RP_SPIN_CHAIRS; k++)
            put_u8(below(2) * below(256));
        for (uint32_t k = 0; k < 3; k++)
            put_u64(below(2) ? 0 : test_random(&input.seed));
        for (uint32_t k = 0; k < 24; k++)
            put_u8(below(256));
        try_it();
    }
    CHECK(fuzz_seen.sound > before.sound && fuzz_seen.unsound > before.unsound && fuzz_seen.lost > before.lost);
}

static void nearly_a_header(void)
{
    struct fuzz_seen before = fuzz_seen;
    for (uint32_t i = 0; i < test_scaled(60000); i++) {
        begin(FUZZ_LAYOUT);
        put_u8(below(3));
        put_u8(below(8) ? 1 : below(256));
        uint32_t edits = below(3);
        put_u8(edits);
        for (; edits > 0; edits--) {
            uint32_t bytes = below(9);
            uint64_t value = below(2) ? test_random(&input.seed) : UINT64_C(1) << below(64);
            put_u8(below(96));
            put_u8(bytes);
            put(&value, bytes);
        }
        put_u64(test_random(&input.seed) >> below(64));
        put_u64(test_random(&input.seed) >> below(64));
        try_it();
    }
    CHECK(fuzz_seen.opened > before.opened && fuzz_seen.refused > before.refused);
}

TEST_MAIN(T(noise), T(nearly_a_ring), T(nearly_the_words), T(nearly_a_header))
