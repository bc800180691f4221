/* A value with large parts, as bytes: a pickle and the buffers that it left out of its stream.
 *
 *   0   struct rp_parts_head
 *   64  struct rp_part, n times
 *       stream
 *       the buffers that travel here, each from a multiple of RP_PART_ALIGN on
 *
 * Written by the sender, whole before anybody sees it. The reader copies the table and checks it before it believes anything. */
#ifndef RP_PARTS_H
#define RP_PARTS_H

#include <stdint.h>

#define RP_PART_ALIGN 64u
#define RP_PARTS_MOST (1u << 24)

struct rp_parts_head {
    uint8_t tag; /* the codec's */
    uint8_t spare[3];
    uint32_t n;
    uint64_t stream_off, stream_len;
};

enum rp_part_how {
    RP_PART_HERE = 0,   /* off counts from the head on; the receiver may write to it */
    RP_PART_SHARED = 1, /* in a block of its own, off counts in the segment: the receiver sees what it writes alone */
    RP_PART_FIXED = 2   /* read-only; off counts from the head on */
};
struct rp_part {
    uint64_t off, len;
    uint32_t how, spare;
};

_Static_assert(sizeof(struct rp_parts_head) == 24 && sizeof(struct rp_part) == 24, "no holes");

/* Copies the head, checked against the `size` bytes that are there. 0 or -EBADMSG. `at` need not be aligned. */
int rp_parts_open(const void *at, uint64_t size, struct rp_parts_head *h);
/* Copies entry i < h->n, checked: -EBADMSG if it lies outside, or, if it is a shared one, outside [low, high). */
int rp_parts_get(const void *at, uint64_t size, const struct rp_parts_head *h, uint32_t i, uint64_t low, uint64_t high,
                 struct rp_part *part);

#endif
