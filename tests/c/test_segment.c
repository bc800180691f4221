#include "harness.h"

#include "segment.h"

#include <fcntl.h>
#include <sys/stat.h>

#define SIZE (64u * 4096)

static const enum rp_segment_how HOW[] = {RP_SEGMENT_ANY, RP_SEGMENT_UNLINKED};
#define EACH_HOW(i) (size_t i = 0; i < sizeof HOW / sizeof *HOW; i++)

static void fresh_segment(void)
{
    for EACH_HOW(i) {
        struct rp_segment s;
        struct stat st;
        CHECK(rp_segment_create(&s, SIZE, HOW[i]) == 0);
        CHECK(s.base && s.size == SIZE && s.fd >= 0);
        CHECK(fstat(s.fd, &st) == 0 && st.st_size == SIZE);
        CHECK((st.st_mode & 07777) == 0600 && S_ISREG(st.st_mode));
        CHECK(st.st_nlink == 0);
        CHECK(fcntl(s.fd, F_GETFD) & FD_CLOEXEC);
        unsigned char *b = s.base;
        for (size_t k = 0; k < SIZE; k += 512)
            CHECK(b[k] == 0);
        memset(b, 0xa5, SIZE);
        rp_segment_close(&s);
        CHECK(!s.base && s.fd == -1);
        rp_segment_close(&s);
    }
}

static void memfd_is_sealed_against_resize(void)
{
    struct rp_segment s;
    CHECK(rp_segment_create(&s, SIZE, RP_SEGMENT_ANY) == 0);
    int seals = fcntl(s.fd, F_GET_SEALS);
    if (seals < 0) {
        fprintf(stderr, "no memfd here: seals not checked\n");
    } else {
        CHECK((seals & (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)) == (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL));
        CHECK(ftruncate(s.fd, SIZE / 2) == -1 && errno == EPERM);
        CHECK(ftruncate(s.fd, SIZE * 2) == -1 && errno == EPERM);
        CHECK(ftruncate(s.fd, 0) == -1 && errno == EPERM);
        CHECK(fcntl(s.fd, F_ADD_SEALS, F_SEAL_WRITE) == -1);
    }
    rp_segment_close(&s);
}

static void not_there_after_exec(void)
{
    struct rp_segment s;
    CHECK(rp_segment_create(&s, SIZE, RP_SEGMENT_ANY) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        char path[64];
        snprintf(path, sizeof path, "test ! -e /proc/self/fd/%d", s.fd);
        execl("/bin/sh", "sh", "-c", path, (char *)NULL);
        _exit(125);
    }
    CHECK(test_reap(pid) == 0);
    rp_segment_close(&s);
}

static void touch(void *arg)
{
    const struct rp_segment *s = arg;
    /* A sanitizer's own handler would turn the signal into a report. */
    signal(SIGSEGV, SIG_DFL);
    *(volatile unsigned char *)s->base = 1;
}

static void attach_and_touch(void *arg)
{
    struct rp_segment mine;
    CHECK(rp_segment_attach(&mine, *(int *)arg) == 0);
    CHECK(mine.size == SIZE && mine.fd == -1);
    volatile unsigned char *b = mine.base;
    CHECK(b[0] == 11 && b[SIZE - 1] == 22);
    b[1] = 33;
    rp_segment_close(&mine);
    CHECK(fcntl(*(int *)arg, F_GETFD) >= 0);
}

static void fork_inherits_the_descriptor_not_the_mapping(void)
{
    for EACH_HOW(i) {
        struct rp_segment s;
        CHECK(rp_segment_create(&s, SIZE, HOW[i]) == 0);
        unsigned char *b = s.base;
        b[0] = 11;
        b[SIZE - 1] = 22;
        CHECK(test_reap(test_spawn(touch, &s)) == 128 + SIGSEGV);
        CHECK(b[0] == 11);
        CHECK(test_reap(test_spawn(attach_and_touch, &s.fd)) == 0);
        CHECK(b[1] == 33);
        rp_segment_close(&s);
    }
}

static void attach_refuses(void)
{
    struct rp_segment s;
    int pipes[2];
    CHECK(rp_segment_attach(&s, -1) == -EBADF && !s.base);
    CHECK(pipe(pipes) == 0);
    CHECK(rp_segment_attach(&s, pipes[0]) < 0 && !s.base);
    close(pipes[0]);
    close(pipes[1]);
    int dir = open("/", O_RDONLY | O_DIRECTORY);
    CHECK(rp_segment_attach(&s, dir) < 0 && !s.base);
    close(dir);
}

/* "The descriptor stays the caller's": a second close by its owner would hit whoever got the number since. */
static void failed_attach_leaves_the_descriptor_alone(void)
{
    struct rp_segment s;
    int pipes[2];
    CHECK(pipe(pipes) == 0);
    CHECK(rp_segment_attach(&s, pipes[0]) < 0);
    rp_segment_close(&s);
    CHECK(fcntl(pipes[0], F_GETFD) >= 0);
    close(pipes[0]);
    close(pipes[1]);
}

static uint64_t backed(int fd)
{
    struct stat st;
    return fstat(fd, &st) ? 0 : (uint64_t)st.st_blocks * 512;
}

static void back_and_drop(void)
{
    struct rp_segment s;
    CHECK(rp_segment_create(&s, SIZE, RP_SEGMENT_ANY) == 0);
    unsigned char *b = s.base;
    CHECK(backed(s.fd) == 0);
    CHECK(rp_segment_back(&s, 8192, 16384) == 0);
    CHECK(backed(s.fd) == 16384);
    CHECK(rp_segment_back(&s, 8192, 16384) == 0);
    CHECK(backed(s.fd) == 16384);
    memset(b, 0x5a, SIZE);
    CHECK(rp_segment_back(&s, 0, SIZE) == 0);
    CHECK(b[0] == 0x5a && b[SIZE - 1] == 0x5a);
    CHECK(rp_segment_drop(&s, 8192, 8192) == 0);
    CHECK(backed(s.fd) == SIZE - 8192);
    CHECK(b[8191] == 0x5a && b[16384] == 0x5a);
    for (size_t k = 8192; k < 16384; k++)
        CHECK(b[k] == 0);
    /* Not on page borders: exactly the asked bytes are zero, their neighbours live. */
    CHECK(rp_segment_drop(&s, 20000, 10000) == 0);
    CHECK(b[19999] == 0x5a && b[20000] == 0 && b[29999] == 0 && b[30000] == 0x5a);
    rp_segment_close(&s);
}

static void drop_on_the_fallback(void)
{
    struct rp_segment s;
    CHECK(rp_segment_create(&s, SIZE, RP_SEGMENT_UNLINKED) == 0);
    unsigned char *b = s.base;
    CHECK(rp_segment_back(&s, 0, SIZE) == 0);
    memset(b, 0x5a, SIZE);
    int err = rp_segment_drop(&s, 0, SIZE / 2);
    CHECK(err == 0 || err == -EOPNOTSUPP);
    CHECK(b[0] == (err ? 0x5a : 0) && b[SIZE - 1] == 0x5a);
    rp_segment_close(&s);
}

static void impossible_sizes_are_errors(void)
{
    struct rp_segment s;
    for EACH_HOW(i) {
        CHECK(rp_segment_create(&s, 0, HOW[i]) < 0 && !s.base && s.fd == -1);
        CHECK(rp_segment_create(&s, (size_t)1 << 62, HOW[i]) < 0 && !s.base && s.fd == -1);
        CHECK(rp_segment_create(&s, (size_t)1 << 52, HOW[i]) < 0 && !s.base && s.fd == -1);
    }
    CHECK(rp_segment_create(&s, SIZE, RP_SEGMENT_ANY) == 0);
    CHECK(rp_segment_back(&s, SIZE, SIZE) < 0);
    rp_segment_close(&s);
}

static void large_segment_is_sparse(void)
{
    struct rp_segment s;
    size_t size = (size_t)1 << 36;
    CHECK(rp_segment_create(&s, size, RP_SEGMENT_ANY) == 0);
    if (!s.base)
        return;
    unsigned char *b = s.base;
    b[size - 1] = 1;
    b[size / 2] = 1;
    CHECK(backed(s.fd) == 8192);
    rp_segment_close(&s);
}

TEST_MAIN(T(fresh_segment), T(memfd_is_sealed_against_resize), T(not_there_after_exec),
          T(fork_inherits_the_descriptor_not_the_mapping), T(attach_refuses), T(failed_attach_leaves_the_descriptor_alone),
          T(back_and_drop), T(drop_on_the_fallback), T(impossible_sizes_are_errors), T(large_segment_is_sparse))
