/* What the system tells about memory. */
#ifndef RP_MEMORY_H
#define RP_MEMORY_H

#include <stdint.h>

/* Resident bytes now; where the system does not tell that, the most there ever were. */
uint64_t rp_resident_bytes(void);

/* The first bytes of a file of the kernel's, at most `most` of them: how many there were, or -errno. */
long rp_read_small(const char *path, char *to, unsigned long most);

#endif
