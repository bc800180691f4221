#define _GNU_SOURCE
#include "memory.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

uint64_t rp_resident_bytes(void)
{
    char text[128];
    unsigned long long resident;
    /* Opened anew each time: a task may have closed every descriptor, or opened its own in this one's place. */
    int fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        ssize_t n = read(fd, text, sizeof text - 1);
        close(fd);
        if (n > 0) {
            text[n] = 0;
            if (sscanf(text, "%*u %llu", &resident) == 1)
                return resident * (uint64_t)sysconf(_SC_PAGESIZE);
        }
    }
    struct rusage usage;
    return getrusage(RUSAGE_SELF, &usage) ? 0 : (uint64_t)usage.ru_maxrss * 1024;
}
