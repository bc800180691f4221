/* What a fuzzer has tried, so that a test can see that it reached both the good and the bad. */
#ifndef RP_TEST_FUZZ_H
#define RP_TEST_FUZZ_H

#include <stddef.h>
#include <stdint.h>

/* The first byte of an input says what the rest is. */
enum fuzz_target { FUZZ_RING, FUZZ_WORDS, FUZZ_LAYOUT, FUZZ_TARGETS };

struct fuzz_seen {
    uint64_t records, empty, corrupt;  /* FUZZ_RING: what peek said */
    uint64_t sound, unsound, lost;     /* FUZZ_WORDS: what the parent saw in slots */
    uint64_t opened, refused;          /* FUZZ_LAYOUT */
};
extern struct fuzz_seen fuzz_seen;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
