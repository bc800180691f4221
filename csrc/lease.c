#define _GNU_SOURCE
#include "lease.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define PAGE 4096u

static struct rp_lease *leases;

void rp_lease_begin(struct rp_lease *l)
{
    l->apart = l->stuck = false;
    l->prev = NULL;
    l->next = leases;
    if (leases)
        leases->prev = l;
    leases = l;
}

void rp_lease_forget(struct rp_lease *l)
{
    if (l->prev)
        l->prev->next = l->next;
    else if (leases == l)
        leases = l->next;
    if (l->next)
        l->next->prev = l->prev;
    l->next = l->prev = NULL;
}

int rp_lease_end(struct rp_lease *l)
{
    rp_lease_forget(l);
    if (!l->apart || !l->file)
        return 0;
    if (!rp_file_there(l->file))
        return -EBADF;
    int fd = l->file->fd;
    if (mmap(l->at, l->len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED | MAP_NORESERVE, fd, (off_t)l->off) == MAP_FAILED)
        return -errno;
    madvise(l->at, l->len, MADV_DONTFORK);
    madvise(l->at, l->len, MADV_DONTDUMP);
    return l->stuck ? -EBUSY : 0;
}

/* Where the kernel has no MADV_POPULATE_WRITE: a write that changes nothing, whatever others write there meanwhile. */
static void touch(unsigned char *at, size_t len)
{
    for (size_t i = 0; i < len; i += PAGE)
        atomic_fetch_or_explicit((_Atomic unsigned char *)(void *)(at + i), 0, memory_order_relaxed);
}

/* Without the descriptor: a copy takes the range's place. What another thread writes there meanwhile may be lost. */
static bool replace(struct rp_lease *l)
{
    void *copy = mmap(NULL, l->len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (copy == MAP_FAILED)
        return false;
    memcpy(copy, l->at, l->len);
    if (mremap(copy, l->len, l->len, MREMAP_MAYMOVE | MREMAP_FIXED, l->at) == MAP_FAILED) {
        munmap(copy, l->len);
        return false;
    }
    l->apart = true;
    return true;
}

static bool part(struct rp_lease *l)
{
    if (l->file && !rp_file_there(l->file))
        return replace(l);
    if (l->file) {
        int fd = l->file->fd;
        void *got = mmap(l->at, l->len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, fd, (off_t)l->off);
        if (got == MAP_FAILED)
            return false;
    }
    /* From here on a child has it, whatever else fails. */
    l->apart = true;
    int err = rp_populate(l->at, l->len);
    if (err == -ENOSYS)
        touch(l->at, l->len);
    l->stuck = err && err != -ENOSYS;
    if (l->ours && !l->stuck)
        fallocate(l->file->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)l->off, (off_t)l->len);
    return !l->stuck;
}

int rp_leases_part(void)
{
    int failed = 0;
    for (struct rp_lease *l = leases; l; l = l->next)
        if (!l->apart && !part(l))
            failed++;
    return failed;
}

static int by_offset(const void *a, const void *b)
{
    uint64_t x = (*(struct rp_lease *const *)a)->off, y = (*(struct rp_lease *const *)b)->off;
    return (x > y) - (x < y);
}

void rp_leases_keep_only(const struct rp_file *file, uint64_t end)
{
    size_t n = 0, i = 0;
    if (!rp_file_there(file))
        return;
    for (struct rp_lease *l = leases; l; l = l->next)
        n += l->file == file;
    struct rp_lease **all = malloc((n + 1) * sizeof *all);
    if (!all)
        return;
    for (struct rp_lease *l = leases; l; l = l->next)
        if (l->file == file)
            all[i++] = l;
    qsort(all, n, sizeof *all, by_offset);
    uint64_t from = 0;
    for (i = 0; i <= n; i++) {
        uint64_t to = i < n ? all[i]->off : end;
        if (to > from)
            fallocate(file->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)from, (off_t)(to - from));
        from = i < n ? to + all[i]->len : to;
    }
    free(all);
}

/* False: at least one of them needs the file still. */
static bool part_for_good(const struct rp_file *file)
{
    for (struct rp_lease *l = leases; l; l = l->next)
        if (l->file == file && ((!l->apart && !part(l)) || l->stuck))
            return false;
    for (struct rp_lease *l = leases; l; l = l->next)
        if (l->file == file)
            l->file = NULL;
    return true;
}

void rp_leases_shrink(struct rp_file *file, struct rp_segment *seg, size_t few)
{
    unsigned char *base = seg->base;
    size_t from = seg->size, to = 0, bytes = 0;
    for (const struct rp_lease *l = leases; l; l = l->next) {
        if (l->file != file)
            continue;
        size_t off = (size_t)((unsigned char *)l->at - base);
        from = off < from ? off : from;
        to = off + l->len > to ? off + l->len : to;
        bytes += l->len;
    }
    if (from >= to)
        return;
    if (to < seg->size && !munmap(base + to, seg->size - to))
        seg->size = to;
    if (from && !munmap(base, from)) {
        seg->base = base + from;
        seg->size -= from;
    }
    if (bytes <= few && part_for_good(file)) {
        rp_file_close(file);
        seg->fd = -1;
    }
}

int rp_lease_map(void **at, const struct rp_file *file, uint64_t off, size_t len, bool read_only)
{
    if (!rp_file_there(file))
        return -EBADF;
    int access = read_only ? PROT_READ : PROT_READ | PROT_WRITE;
    void *got = mmap(NULL, len, access, MAP_PRIVATE | MAP_NORESERVE, file->fd, (off_t)off);
    if (got == MAP_FAILED)
        return -errno;
    *at = got;
    return 0;
}

void rp_lease_unmap(void *at, size_t len) { munmap(at, len); }
