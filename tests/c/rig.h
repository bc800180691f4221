/* A segment with a written and opened layout, as the parent has it. */
#ifndef RP_TEST_RIG_H
#define RP_TEST_RIG_H

#include "harness.h"

#include "layout.h"
#include "segment.h"

struct rig {
    struct rp_segment seg;
    struct rp_map m;
};

static inline void rig_open(struct rig *r, const struct rp_geometry *g)
{
    size_t size = rp_layout_size(g);
    if (!size || rp_segment_create(&r->seg, size, RP_SEGMENT_ANY)) {
        fprintf(stderr, "no segment of %zu bytes\n", size);
        exit(125);
    }
    rp_layout_write(r->seg.base, g);
    if (rp_layout_open(&r->m, r->seg.base, r->seg.size)) {
        fprintf(stderr, "layout refused\n");
        exit(125);
    }
}

/* In a forked child: the parent's mapping is not there, the descriptor is. */
static inline void rig_attach(struct rig *child, const struct rig *parent)
{
    if (rp_segment_attach(&child->seg, parent->seg.fd) ||
        rp_layout_open(&child->m, child->seg.base, child->seg.size)) {
        fprintf(stderr, "attach refused\n");
        _exit(125);
    }
}

static inline void rig_close(struct rig *r) { rp_segment_close(&r->seg); }

#endif
