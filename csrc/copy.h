/* Copying a large part, past the caches where that is worth it. Any memory; knows no ring. */
#ifndef RP_COPY_H
#define RP_COPY_H

#include <stddef.h>

/* From this size on a copy goes past the caches: lines that are overwritten are not fetched first, a third less traffic on the
 * memory bus. Below, whoever reads the copy still finds most of it in a cache, which is worth more. */
#define RP_COPY_PAST (4u << 20)

/* As memcpy. What was copied is visible to whoever acquires a later release of this thread, as with any store. */
void rp_copy(void *to, const void *from, size_t n);

#endif
