/* The arena: blocks in the segment for payloads that do not fit a slot.
 *
 * The parent allocates and frees every block and keeps all book-keeping in private memory, so a worker that dies or scribbles
 * cannot harm it; workers only read blocks that a claimed slot points to, after checking the bounds. Size classes are powers of
 * two. The arena is a large sparse range: an unused tail of a block costs address space, not memory. Free blocks are handed out
 * again last in, first out, because touching a page for the first time costs twenty times a copy into a warm one; beyond
 * keep_bytes of free memory, blocks are given back to the system. Blocks of a page and more share no page with others. */
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
    uint64_t used_bytes;       /* in them, those included that their owners are still to touch */
    uint64_t warm_bytes;       /* free, with memory behind it */
    uint64_t keep_bytes;       /* limit of warm_bytes */
    uint64_t limit_bytes;      /* of used_bytes and warm_bytes together; the latter give way */
    struct rp_stack warm[RP_CLASSES], cold[RP_CLASSES];
};

void rp_arena_init(struct rp_arena *a, const struct rp_map *m, const struct rp_segment *seg, uint64_t keep_bytes);
void rp_arena_release(struct rp_arena *a);

/* A block of at least len bytes, all of them with memory behind, so that touching it cannot raise SIGBUS. 0, or -ENOSPC (the
 * range is used up) or -ENOMEM (the system has no memory), both of which may pass when blocks come back, or -E2BIG: never fits. */
int rp_arena_alloc(struct rp_arena *a, uint64_t len, struct rp_block *b);
/* The first half of it: a block that may be without memory as yet. 0, -ENOSPC, -E2BIG, or -EDQUOT: beyond limit_bytes. */
int rp_arena_reserve(struct rp_arena *a, uint64_t len, struct rp_block *b);
/* Of a block so long, the bytes that need memory: the rest of a large class stays untouched. */
uint64_t rp_arena_touched(uint64_t len);
/* The second half; on any thread, touches nothing of the arena. 0 or -errno: then rp_arena_free it. */
int rp_arena_back(const struct rp_segment *seg, struct rp_block *b);
/* Bytes that the block counts in used_bytes. */
uint64_t rp_block_charge(const struct rp_block *b);
/* Takes a free block that has memory out of the arena, so that its memory can be dropped without a lock (rp_segment_drop of what is
 * backed); rp_arena_return brings it back, with `backed` as it is then. False: there is none. */
bool rp_arena_withdraw(struct rp_arena *a, struct rp_block *b);
void rp_arena_return(struct rp_arena *a, struct rp_block *b);
/* The block's memory was dropped, and what it held lies elsewhere now. */
void rp_arena_bare(struct rp_arena *a, struct rp_block *b);
/* Gives a block back; *b becomes "no block". Does nothing to "no block". */
void rp_arena_free(struct rp_arena *a, struct rp_block *b);

#endif
