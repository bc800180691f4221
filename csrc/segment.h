/* One anonymous piece of shared memory. It has no name that anybody could open, find or leave behind.
 * Called by the parent (create) and by workers (attach); no thread of its own. All errors are -errno. */
#ifndef RP_SEGMENT_H
#define RP_SEGMENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A descriptor, and what it was opened for: the user's program may have closed it, and opened a file of its own in its place. */
struct rp_file {
    int fd;
    uint64_t device, inode;
};

/* 0 or -errno. */
int rp_file_open(struct rp_file *f, int fd);
bool rp_file_there(const struct rp_file *f);
/* Closes the descriptor, if it is still that of this file. */
void rp_file_close(struct rp_file *f);

struct rp_segment {
    void *base;
    size_t size;
    int fd;
    uint64_t device, inode; /* of the file that fd belongs to */
    bool on_disk; /* an unlinked file: its file system may be full although there is memory */
};

/* RP_SEGMENT_UNLINKED forces the fallback for kernels that refuse memfd_create: a temporary file without a name. */
enum rp_segment_how { RP_SEGMENT_ANY = 0, RP_SEGMENT_UNLINKED = 1 };

/* Sealed against resize, close-on-exec, not inherited by fork as a mapping, left out of core dumps.
 * ENOMEM when the address space does not hold it. */
int rp_segment_create(struct rp_segment *s, size_t size, enum rp_segment_how how);
/* Maps a segment that was inherited or received by descriptor; the descriptor stays the caller's. */
int rp_segment_attach(struct rp_segment *s, int fd);
/* Makes sure that [off, off+len) has memory behind it, so that touching it cannot raise SIGBUS. -EBADF if the descriptor is not the
 * segment's any more; the same for rp_segment_drop. */
int rp_segment_back(const struct rp_segment *s, uint64_t off, uint64_t len);
/* Memory behind [at, at + len) of a shared mapping, so that touching it cannot raise SIGBUS. 0 or -errno: -ENOSYS where the kernel
 * cannot do it without a descriptor. */
int rp_populate(void *at, size_t len);
/* As rp_segment_back, by way of the mapping if the kernel can: a worker's descriptor may be gone. */
int rp_segment_populate(const struct rp_segment *s, uint64_t off, uint64_t len);
/* Gives the memory of [off, off+len) back to the system; it reads as zero afterwards. */
int rp_segment_drop(const struct rp_segment *s, uint64_t off, uint64_t len);
/* Unmaps; closes the descriptor if the segment owns one. Safe to call twice. */
void rp_segment_close(struct rp_segment *s);

#endif
