#define _GNU_SOURCE
#include "pages.h"

#include <sys/mman.h>

void *rp_pages_get(size_t size)
{
    void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED)
        return NULL;
    madvise(at, size, MADV_DONTFORK);
    return at;
}

void rp_pages_give(void *at, size_t size)
{
    if (at)
        munmap(at, size);
}
