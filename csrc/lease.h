/* Ranges of the segment that objects of this process lie on, and what becomes of them at a fork.
 *
 * The objects are to be private memory: a child that the user forks has them as they were, and what either side writes afterwards
 * the other does not see. The segment's mapping is shared, and the parent's is not inherited at all. So before a fork every lease
 * is taken apart: a private mapping of the same pages takes the place of the shared one, at the same address, and each page is
 * copied (by the kernel, which loses no write that another thread does meanwhile). From then on it is memory like any other, the
 * pages of the segment below it are not needed by anybody, and the block can go back when the lease ends.
 *
 * Process-private; the callers have a lock of their own, in Python the GIL. */
#ifndef RP_LEASE_H
#define RP_LEASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "segment.h"

struct rp_lease {
    struct rp_lease *next, *prev;
    void *at;     /* page-aligned */
    size_t len;   /* whole pages */
    uint64_t off; /* in the segment */
    const struct rp_file *file; /* NULL: the range is a private mapping already */
    bool ours;    /* this process owns the block: its memory can go when the lease is taken apart */
    bool apart;   /* memory of this process alone */
    bool stuck;   /* not quite: the block below must stay as it is */
};

void rp_lease_begin(struct rp_lease *l);
/* In a child of the process that began it: nothing but that it is no lease any more. */
void rp_lease_forget(struct rp_lease *l);
/* The range shows the segment again, if it did when the lease began. 0; or -errno: it does not, or somebody may still see its
 * pages, and the block must not be used any more. Not in a child of the process that began it. */
int rp_lease_end(struct rp_lease *l);
/* Before a fork. Returns how many ranges could not be taken apart: the child must not touch them, and their blocks
 * must not be given to anybody else. */
int rp_leases_part(void);

/* Gives back the memory of [0, end) of the segment, but for what lies under leases. */
void rp_leases_keep_only(const struct rp_file *file, uint64_t end);

/* Nothing of the segment is needed but what lies under the leases of this file, of which there is one at least: unmaps what lies
 * before the first and behind the last. If they have no more than `few` bytes, they are taken apart for good, and the descriptor is
 * closed. Nobody else may look at the segment. */
void rp_leases_shrink(struct rp_file *file, struct rp_segment *seg, size_t few);

/* A private mapping of [off, off + len) of the segment: what is written there nobody else sees. read_only: nor is it written.
 * 0 or -errno. */
int rp_lease_map(void **at, const struct rp_file *file, uint64_t off, size_t len, bool read_only);
void rp_lease_unmap(void *at, size_t len);

#endif
