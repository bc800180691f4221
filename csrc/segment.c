#define _GNU_SOURCE
#include "segment.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif

int rp_file_open(struct rp_file *f, int fd)
{
    struct stat st;
    if (fstat(fd, &st))
        return -errno;
    *f = (struct rp_file){fd, (uint64_t)st.st_dev, (uint64_t)st.st_ino};
    return 0;
}

bool rp_file_there(const struct rp_file *f)
{
    struct stat st;
    return f->fd >= 0 && !fstat(f->fd, &st) && (uint64_t)st.st_dev == f->device && (uint64_t)st.st_ino == f->inode;
}

void rp_file_close(struct rp_file *f)
{
    if (rp_file_there(f))
        close(f->fd);
    f->fd = -1;
}

static struct rp_file file_of(const struct rp_segment *s) { return (struct rp_file){s->fd, s->device, s->inode}; }

static int open_memfd(size_t size)
{
    int fd = memfd_create("ringpool", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
    if (fd < 0 && errno == EINVAL) /* kernels before 6.3 do not know MFD_NOEXEC_SEAL */
        fd = memfd_create("ringpool", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return -errno;
    int err = 0;
    if (fchmod(fd, 0600) || ftruncate(fd, (off_t)size) || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL))
        err = -errno;
    if (err) {
        close(fd);
        return err;
    }
    return fd;
}

/* A file system with less room than a small pool needs is passed over: /dev/shm may hold 64 KB, where /tmp holds gigabytes. */
static int have_room(int fd, size_t size)
{
    const off_t least = size < (16u << 20) ? (off_t)size : 16 << 20;
    while (fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, least)) {
        if (errno == EOPNOTSUPP)
            return 0;
        if (errno != EINTR)
            return -errno;
    }
    fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, least);
    return 0;
}

static int open_unlinked(size_t size)
{
    const char *dirs[] = {"/dev/shm", getenv("TMPDIR"), "/tmp", "/var/tmp"};
    int err = -ENOENT;
    for (size_t i = 0; i < sizeof dirs / sizeof *dirs; i++) {
        if (!dirs[i])
            continue;
        int fd = open(dirs[i], O_TMPFILE | O_RDWR | O_EXCL | O_CLOEXEC, 0600);
        if (fd < 0) {
            err = -errno;
            continue;
        }
        err = ftruncate(fd, (off_t)size) ? -errno : have_room(fd, size);
        if (!err)
            return fd;
        close(fd);
    }
    return err;
}

static int map(struct rp_segment *s, size_t size, int fd)
{
    void *base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    if (base == MAP_FAILED)
        return -errno;
    madvise(base, size, MADV_DONTDUMP);
    s->base = base;
    s->size = size;
    return 0;
}

int rp_segment_create(struct rp_segment *s, size_t size, enum rp_segment_how how)
{
    *s = (struct rp_segment){.fd = -1};
    int fd = how == RP_SEGMENT_UNLINKED ? -ENOSYS : open_memfd(size);
    if (fd == -ENOSYS || fd == -EPERM || fd == -EACCES) {
        fd = open_unlinked(size);
        s->on_disk = true;
    }
    if (fd < 0)
        return fd;
    struct rp_file file;
    int err = rp_file_open(&file, fd);
    if (err) {
        close(fd);
        return err;
    }
    s->fd = fd;
    s->device = file.device;
    s->inode = file.inode;
    err = map(s, size, fd);
    /* A child that the user forks must not reach the pool's memory by accident; workers map it anew. */
    if (!err && madvise(s->base, s->size, MADV_DONTFORK))
        err = -errno;
    if (err)
        rp_segment_close(s);
    return err;
}

int rp_segment_attach(struct rp_segment *s, int fd)
{
    struct stat st;
    *s = (struct rp_segment){.fd = -1};
    if (fstat(fd, &st))
        return -errno;
    if (st.st_size <= 0)
        return -EINVAL;
    s->device = (uint64_t)st.st_dev;
    s->inode = (uint64_t)st.st_ino;
    return map(s, (size_t)st.st_size, fd);
}

int rp_segment_back(const struct rp_segment *s, uint64_t off, uint64_t len)
{
    /* In pieces: older kernels begin anew after a signal, and a timer could keep a large one from ever ending. */
    const uint64_t piece = 4u << 20;
    struct rp_file file = file_of(s);
    if (len && !rp_file_there(&file))
        return -EBADF;
    while (len) {
        uint64_t n = len < piece ? len : piece;
        if (fallocate(s->fd, 0, (off_t)off, (off_t)n)) {
            if (errno == EINTR)
                continue;
            /* EOPNOTSUPP: a file system without fallocate; its own write path allocates, there is nothing to reserve. */
            return errno == EOPNOTSUPP ? 0 : -errno;
        }
        off += n;
        len -= n;
    }
    return 0;
}

int rp_populate(void *at, size_t len)
{
    while (madvise(at, len, MADV_POPULATE_WRITE)) {
        if (errno == EINTR || errno == EAGAIN)
            continue;
        return errno == EINVAL ? -ENOSYS : -errno;
    }
    return 0;
}

int rp_segment_populate(const struct rp_segment *s, uint64_t off, uint64_t len)
{
    int err = rp_populate((unsigned char *)s->base + off, len);
    return err == -ENOSYS && s->fd >= 0 ? rp_segment_back(s, off, len) : err;
}

int rp_segment_drop(const struct rp_segment *s, uint64_t off, uint64_t len)
{
    struct rp_file file = file_of(s);
    if (!rp_file_there(&file))
        return -EBADF;
    return fallocate(s->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)off, (off_t)len) ? -errno : 0;
}

void rp_segment_close(struct rp_segment *s)
{
    if (s->base)
        munmap(s->base, s->size);
    struct rp_file file = file_of(s);
    rp_file_close(&file);
    *s = (struct rp_segment){.fd = -1};
}
