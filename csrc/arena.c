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
    a->limit_bytes = UINT64_MAX / 2;
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

struct stretch {
    uint64_t off, end;
};

static int last_first(const void *a, const void *b)
{
    uint64_t x = ((const struct stretch *)a)->off, y = ((const struct stretch *)b)->off;
    return (x < y) - (x > y);
}

static bool lies_last(const struct rp_arena *a, const struct rp_stack *s, uint64_t size)
{
    for (size_t i = 0; i < s->n; i++)
        if (s->at[i].off + size == a->next)
            return true;
    return false;
}

/* Where the free blocks begin that lie behind all that is handed out; a->next if there are none. */
static uint64_t free_from(const struct rp_arena *a)
{
    uint64_t from = a->next;
    size_t n = 0, most = 0;
    bool last = false;
    for (uint32_t c = 0; c < RP_CLASSES; c++) {
        last = last || lies_last(a, &a->warm[c], size_of(c)) || lies_last(a, &a->cold[c], size_of(c));
        most += a->warm[c].n + a->cold[c].n;
    }
    struct stretch *all = last ? malloc(most * sizeof *all) : NULL;
    if (!all)
        return from;
    for (uint32_t c = 0; c < RP_CLASSES; c++) {
        for (size_t i = 0; i < a->warm[c].n; i++)
            all[n++] = (struct stretch){a->warm[c].at[i].off, a->warm[c].at[i].off + size_of(c)};
        for (size_t i = 0; i < a->cold[c].n; i++)
            all[n++] = (struct stretch){a->cold[c].at[i].off, a->cold[c].at[i].off + size_of(c)};
    }
    qsort(all, n, sizeof *all, last_first);
    for (size_t i = 0; i < n && all[i].end == from; i++)
        from = all[i].off;
    free(all);
    return from;
}

static void forget_behind(struct rp_stack *s, uint64_t from)
{
    size_t n = 0;
    for (size_t i = 0; i < s->n; i++)
        if (s->at[i].off < from)
            s->at[n++] = s->at[i];
    s->n = n;
}

/* Free blocks at the end of what was used give their address space to other sizes. False: there are none. */
static bool draw_in(struct rp_arena *a)
{
    uint64_t from = free_from(a);
    if (from == a->next || rp_segment_drop(a->seg, from, a->next - from))
        return false;
    a->warm_bytes = 0;
    for (uint32_t c = 0; c < RP_CLASSES; c++) {
        forget_behind(&a->warm[c], from);
        forget_behind(&a->cold[c], from);
        for (size_t i = 0; i < a->warm[c].n; i++)
            a->warm_bytes += a->warm[c].at[i].backed;
    }
    a->next = from;
    return true;
}

/* Small free blocks fill what lies between the end of what was used and the next page. */
static void fill_up(struct rp_arena *a, uint64_t to)
{
    while (a->next < to) {
        uint64_t size = a->next & -a->next;
        give_back(a, class_of(size), (struct rp_block){a->next, size, 0});
        a->next += size;
    }
}

uint64_t rp_block_charge(const struct rp_block *b)
{
    uint64_t most = rp_arena_touched(b->len);
    return b->backed > most ? b->backed : most;
}

bool rp_arena_withdraw(struct rp_arena *a, struct rp_block *b)
{
    for (uint32_t c = RP_CLASSES; c-- > 0;) {
        if (!a->warm[c].n)
            continue;
        /* The one that was used last stays longest. */
        *b = a->warm[c].at[0];
        memmove(a->warm[c].at, a->warm[c].at + 1, --a->warm[c].n * sizeof *b);
        a->warm_bytes -= b->backed;
        b->len = size_of(c);
        a->live++;
        return true;
    }
    return false;
}

void rp_arena_return(struct rp_arena *a, struct rp_block *b)
{
    a->live--;
    give_back(a, class_of(b->len), *b);
    *b = (struct rp_block){0, 0, 0};
}

void rp_arena_bare(struct rp_arena *a, struct rp_block *b)
{
    a->used_bytes -= rp_block_charge(b);
    b->backed = 0;
    a->used_bytes += rp_block_charge(b);
}

/* Makes room for `more` bytes within the limit, at the cost of free blocks. */
static bool make_room(struct rp_arena *a, uint64_t more)
{
    struct rp_block b;
    if (more > a->limit_bytes || a->used_bytes > a->limit_bytes - more)
        return false;
    while (a->used_bytes + a->warm_bytes > a->limit_bytes - more && rp_arena_withdraw(a, &b)) {
        /* One that cannot be dropped is forgotten: it would only come again. */
        if (rp_segment_drop(a->seg, b.off, b.backed))
            continue;
        b.backed = 0;
        rp_arena_return(a, &b);
    }
    return true;
}

int rp_arena_reserve(struct rp_arena *a, uint64_t len, struct rp_block *b)
{
    uint32_t c = class_of(len);
    uint64_t size = size_of(c);
    if (c >= RP_CLASSES || size > a->end - a->begin)
        return -E2BIG;
    uint64_t warm = a->warm[c].n ? a->warm[c].at[a->warm[c].n - 1].backed : 0;
    if (!make_room(a, warm >= rp_arena_touched(len) ? warm : rp_arena_touched(len)))
        return -EDQUOT;
    uint64_t next = size < PAGE ? a->next : (a->next + PAGE - 1) & ~(uint64_t)(PAGE - 1);
    if (a->warm[c].n) {
        *b = a->warm[c].at[--a->warm[c].n];
        a->warm_bytes -= b->backed;
    } else if (a->cold[c].n) {
        *b = a->cold[c].at[--a->cold[c].n];
    } else if (next <= a->end && a->end - next >= size) {
        fill_up(a, next);
        *b = (struct rp_block){next, 0, 0};
        a->next = next + size;
    } else if (a->live == 0 && a->next != a->begin) {
        /* Nothing is handed out: other sizes need not keep the range for themselves. */
        forget_all(a);
        return rp_arena_reserve(a, len, b);
    } else if (draw_in(a)) {
        return rp_arena_reserve(a, len, b);
    } else {
        return -ENOSPC;
    }
    b->len = len;
    a->live++;
    a->used_bytes += rp_block_charge(b);
    return 0;
}

uint64_t rp_arena_touched(uint64_t len) { return len < PAGE ? len : (len + PAGE - 1) & ~(uint64_t)(PAGE - 1); }

int rp_arena_back(const struct rp_segment *seg, struct rp_block *b)
{
    if (b->backed >= b->len)
        return 0;
    int err = rp_segment_back(seg, b->off + b->backed, rp_arena_touched(b->len) - b->backed);
    if (!err)
        b->backed = rp_arena_touched(b->len);
    return err;
}

int rp_arena_alloc(struct rp_arena *a, uint64_t len, struct rp_block *b)
{
    int err = rp_arena_reserve(a, len, b);
    if (err)
        return err;
    err = rp_arena_back(a->seg, b);
    if (err)
        rp_arena_free(a, b);
    return err;
}

void rp_arena_free(struct rp_arena *a, struct rp_block *b)
{
    if (!b->off)
        return;
    a->live--;
    a->used_bytes -= rp_block_charge(b);
    if (b->backed > PAGE && a->warm_bytes + b->backed > a->keep_bytes && rp_segment_drop(a->seg, b->off, b->backed) == 0)
        b->backed = 0;
    give_back(a, class_of(b->len), *b);
    *b = (struct rp_block){0, 0, 0};
}
