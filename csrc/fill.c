#define _GNU_SOURCE
#include "fill.h"

#include "copy.h"

#include <sys/mman.h>

#define PAGE 4096u

/* Whole pages only: what shares a page with others, or with the book-keeping of malloc, stays. */
static void give_back(uintptr_t from, uintptr_t to)
{
    uintptr_t begin = (from + PAGE - 1) & ~(uintptr_t)(PAGE - 1), end = to & ~(uintptr_t)(PAGE - 1);
    if (begin < end)
        madvise((void *)begin, end - begin, MADV_DONTNEED);
}

static int take_ahead(struct rp_filling *f, uint64_t need)
{
    if (need <= f->backed)
        return 0;
    uint64_t to = f->backed + RP_FILL_STEP;
    if (to > f->end)
        to = f->end;
    if (to < need)
        to = need;
    to = (to + PAGE - 1) & ~(uint64_t)(PAGE - 1);
    int err = f->take(f->s, f->backed, to - f->backed);
    if (!err)
        f->backed = to;
    return err;
}

int rp_fill(struct rp_filling *f, void *from, size_t n, bool drop)
{
    unsigned char *source = from, *to = (unsigned char *)f->s->base + f->at;
    for (size_t done = 0, step; done < n; done += step) {
        step = n - done < RP_FILL_STEP ? n - done : RP_FILL_STEP;
        int err = take_ahead(f, f->at + done + step);
        if (err) {
            if (drop)
                rp_unfill(f, f->at, from, done);
            return err;
        }
        rp_copy(to + done, source + done, step);
        /* The page in which the step before ended is whole now. */
        if (drop)
            give_back((uintptr_t)source + done - (done ? PAGE : 0), (uintptr_t)source + done + step);
    }
    f->at += n;
    return 0;
}

void rp_unfill(const struct rp_filling *f, uint64_t at, void *from, size_t n)
{
    rp_copy(from, (unsigned char *)f->s->base + at, n);
}
