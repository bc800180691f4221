/* The arena: blocks in the segment for payloads that do not fit a slot.
 *
 * The parent allocates and frees every block and keeps all book-keeping in private memory, so a worker that dies or scribbles
 * cannot harm it; workers only read blocks that a claimed slot points to, after checking the bounds. Size classes are powers of
 * two. The arena is a large sparse range: an unused tail of a block costs address space, not memory. Free blocks are handed out
 * again last in, first out, because touching a page for the first time costs twenty times a copy into a warm one; beyond
 * keep_bytes of free memory, blocks are given back to the system. */
#ifndef RP_ARENA_H
#define RP_ARENA_H

#include "layout.h"
#include "segment.h"

#define RP_CLASS_MIN 8u /* 256 bytes */
#define RP_CLASSES 40u

struct rp_block {
    uint64_t off;    /* in the segment; 0 = no block */
    uint64_t len;    /* as asked for */
    uint64_t backed; /* bytes from off that have memory behind them */
};

struct rp_stack {
    struct rp_block *at;
    size_t n, cap;
};

struct rp_arena {
    const struct rp_segment *seg;
    uint64_t begin, next, end; /* never used before: [next, end) */
    uint64_t live;             /* blocks handed out */
    uint64_t used_bytes;       /* in them */
    uint64_t warm_bytes;       /* free, with memory behind it */
    uint64_t keep_bytes;       /* limit of warm_bytes */
    struct rp_stack warm[RP_CLASSES], cold[RP_CLASSES];
};

void rp_arena_init(struct rp_arena *a, const struct rp_map *m, const struct rp_segment *seg, uint64_t keep_bytes);
void rp_arena_release(struct rp_arena *a);

/* A block of at least len bytes, all of them with memory behind, so that touching it cannot raise SIGBUS. 0, or -ENOSPC (the
 * range is used up) or -ENOMEM (the system has no memory), both of which may pass when blocks come back, or -E2BIG: never fits. */
int rp_arena_alloc(struct rp_arena *a, uint64_t len, struct rp_block *b);
/* Gives a block back; *b becomes "no block". Does nothing to "no block". */
void rp_arena_free(struct rp_arena *a, struct rp_block *b);

#endif
