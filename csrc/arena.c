#include "arena.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define PAGE 4096u

static uint32_t class_of(uint64_t len)
{
    uint32_t c = RP_CLASS_MIN;
    while (c < 63 && (UINT64_C(1) << c) < len)
        c++;
    return c - RP_CLASS_MIN;
}

static uint64_t size_of(uint32_t cls) { return UINT64_C(1) << (cls + RP_CLASS_MIN); }

/* Only what the payload touches needs memory: the rest of a large class stays untouched. */
static uint64_t touched(uint64_t len) { return len < PAGE ? len : (len + PAGE - 1) & ~(uint64_t)(PAGE - 1); }

static bool push(struct rp_stack *s, struct rp_block b)
{
    if (s->n == s->cap) {
        size_t cap = s->cap ? s->cap * 2 : 16;
        struct rp_block *at = realloc(s->at, cap * sizeof *at);
        if (!at)
            return false;
        s->at = at;
        s->cap = cap;
    }
    s->at[s->n++] = b;
    return true;
}

void rp_arena_init(struct rp_arena *a, const struct rp_map *m, const struct rp_segment *seg, uint64_t keep_bytes)
{
    memset(a, 0, sizeof *a);
    a->seg = seg;
    a->begin = a->next = m->arena_off;
    a->end = m->arena_off + m->arena_bytes;
    a->keep_bytes = keep_bytes;
}

void rp_arena_release(struct rp_arena *a)
{
    for (uint32_t i = 0; i < RP_CLASSES; i++) {
        free(a->warm[i].at);
        free(a->cold[i].at);
    }
    memset(a, 0, sizeof *a);
}

/* A push that finds no memory forgets the block: address space is lost, nothing else. */
static void give_back(struct rp_arena *a, uint32_t c, struct rp_block b)
{
    if (!b.backed)
        push(&a->cold[c], b);
    else if (push(&a->warm[c], b))
        a->warm_bytes += b.backed;
}

static void forget_all(struct rp_arena *a)
{
    for (uint32_t i = 0; i < RP_CLASSES; i++)
        a->warm[i].n = a->cold[i].n = 0;
    rp_segment_drop(a->seg, a->begin, a->next - a->begin);
    a->warm_bytes = 0;
    a->next = a->begin;
}

int rp_arena_alloc(struct rp_arena *a, uint64_t len, struct rp_block *b)
{
    uint32_t c = class_of(len);
    uint64_t size = size_of(c);
    if (c >= RP_CLASSES || size > a->end - a->begin)
        return -E2BIG;
    bool fresh = false;
    if (a->warm[c].n) {
        *b = a->warm[c].at[--a->warm[c].n];
        a->warm_bytes -= b->backed;
    } else if (a->cold[c].n) {
        *b = a->cold[c].at[--a->cold[c].n];
    } else if (a->end - a->next >= size) {
        *b = (struct rp_block){a->next, 0, 0};
        fresh = true;
    } else if (a->live == 0 && a->next != a->begin) {
        /* Nothing is handed out: other sizes need not keep the range for themselves. */
        forget_all(a);
        return rp_arena_alloc(a, len, b);
    } else {
        return -ENOSPC;
    }
    b->len = len;
    if (b->backed < len) {
        int err = rp_segment_back(a->seg, b->off + b->backed, touched(len) - b->backed);
        if (err) {
            if (!fresh)
                give_back(a, c, *b);
            *b = (struct rp_block){0, 0, 0};
            return err;
        }
        b->backed = touched(len);
    }
    if (fresh)
        a->next += size;
    a->live++;
    a->used_bytes += b->backed;
    return 0;
}

void rp_arena_free(struct rp_arena *a, struct rp_block *b)
{
    if (!b->off)
        return;
    a->live--;
    a->used_bytes -= b->backed;
    if (b->backed > PAGE && a->warm_bytes + b->backed > a->keep_bytes && rp_segment_drop(a->seg, b->off, b->backed) == 0)
        b->backed = 0;
    give_back(a, class_of(b->len), *b);
    *b = (struct rp_block){0, 0, 0};
}
