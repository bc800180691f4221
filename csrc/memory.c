#define _GNU_SOURCE
#include "memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

long rp_read_small(const char *path, char *to, unsigned long most)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    ssize_t n = read(fd, to, most);
    int err = errno;
    close(fd);
    return n < 0 ? -err : n;
}

uint64_t rp_resident_bytes(void)
{
    char text[128];
    unsigned long long resident;
    /* Opened anew each time: a task may have closed every descriptor, or opened its own in this one's place. */
    long n = rp_read_small("/proc/self/statm", text, sizeof text - 1);
    if (n > 0) {
        text[n] = 0;
        if (sscanf(text, "%*u %llu", &resident) == 1)
            return resident * (uint64_t)sysconf(_SC_PAGESIZE);
    }
    struct rusage usage;
    return getrusage(RUSAGE_SELF, &usage) ? 0 : (uint64_t)usage.ru_maxrss * 1024;
}
