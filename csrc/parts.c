#include "parts.h"

#include <errno.h>
#include <string.h>

int rp_parts_open(const void *at, uint64_t size, struct rp_parts_head *h)
{
    if (size < RP_PART_ALIGN)
        return -EBADMSG;
    memcpy(h, at, sizeof *h);
    if (h->n > RP_PARTS_MOST || (uint64_t)h->n * sizeof(struct rp_part) > size - RP_PART_ALIGN)
        return -EBADMSG;
    if (h->stream_off > size || h->stream_len > size - h->stream_off)
        return -EBADMSG;
    return 0;
}

int rp_parts_get(const void *at, uint64_t size, const struct rp_parts_head *h, uint32_t i, uint64_t low, uint64_t high,
                 struct rp_part *part)
{
    if (i >= h->n)
        return -EBADMSG;
    memcpy(part, (const char *)at + RP_PART_ALIGN + (uint64_t)i * sizeof *part, sizeof *part);
    if (part->how == RP_PART_SHARED)
        return part->off < low || part->off > high || part->len > high - part->off ? -EBADMSG : 0;
    if (part->how > RP_PART_FIXED || part->off > size || part->len > size - part->off)
        return -EBADMSG;
    return 0;
}
