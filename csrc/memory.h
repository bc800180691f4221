/* How much memory this process holds. */
#ifndef RP_MEMORY_H
#define RP_MEMORY_H

#include <stdint.h>

/* Resident bytes now; where the system does not tell that, the most there ever were. */
uint64_t rp_resident_bytes(void);

#endif
