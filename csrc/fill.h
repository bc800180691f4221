/* Filling a block with a large encoding, whose memory is nobody else's: memory is taken in the segment a little ahead of the copy
 * and given back at the source behind it, so that the bytes are never there twice. */
#ifndef RP_FILL_H
#define RP_FILL_H

#include "segment.h"

#define RP_FILL_STEP (8u << 20)

/* How memory is taken: [off, off + len) of the segment. 0 or -errno. */
typedef int rp_taker(const struct rp_segment *s, uint64_t off, uint64_t len);

struct rp_filling {
    const struct rp_segment *s;
    rp_taker *take;
    uint64_t at;     /* where the next byte goes */
    uint64_t end;    /* where the last one will end */
    uint64_t backed; /* all below has memory; whole pages */
};

/* Copies n bytes to f->at, which advances. drop: the whole pages of `from` are given back; what is there then is undefined, but may
 * be written and freed. 0; or -errno: there is no memory, and f->at and the bytes at `from` are as before. */
int rp_fill(struct rp_filling *f, void *from, size_t n, bool drop);
/* Brings n bytes that were copied to `at` back to where they came from. */
void rp_unfill(const struct rp_filling *f, uint64_t at, void *from, size_t n);

#endif
