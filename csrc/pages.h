/* Zeroed memory of the parent's own. Pages that are never touched cost nothing, at a fork neither, and children do not get it. */
#ifndef RP_PAGES_H
#define RP_PAGES_H

#include <stddef.h>

/* NULL if there is no memory. */
void *rp_pages_get(size_t size);
/* Also in a child, which has nothing there. `at` may be NULL. */
void rp_pages_give(void *at, size_t size);

#endif
