#define _GNU_SOURCE
#include "fault.h"

#ifdef RP_FAULTS

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define EXIT_STATUS 3
#define SLEEP_NS 20000000

static struct rp_fault_page *page;

/* When the extension is loaded there is one thread, and no point was passed yet. A forked child has the mapping already. */
__attribute__((constructor)) static void open_page(void)
{
    const char *path = getenv("RINGPOOL_FAULT_PAGE");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *at = mmap(NULL, sizeof *page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (at != MAP_FAILED)
        page = at;
}

static void nap(long ns)
{
    struct timespec t = {0, ns};
    nanosleep(&t, NULL);
}

static void act(enum rp_fault_action action)
{
    switch (action) {
    case RP_FAULT_KILL:
        kill(getpid(), SIGKILL);
        break;
    case RP_FAULT_STOP:
        raise(SIGSTOP); /* to this thread: not an instruction is run after it */
        break;
    case RP_FAULT_EXIT:
        _exit(EXIT_STATUS);
    case RP_FAULT_SEGV:
        signal(SIGSEGV, SIG_DFL);
        raise(SIGSEGV);
        break;
    case RP_FAULT_PARK:
        while (!rp_load_seq(&page->released))
            nap(1000000);
        break;
    case RP_FAULT_SLEEP:
        nap(SLEEP_NS);
        break;
    }
}

void rp_fault_pass(enum rp_fault_point point)
{
    if (!page || rp_load_seq(&page->point) != (uint32_t)point)
        return;
    uint32_t pid = (uint32_t)getpid();
    if ((pid == rp_load_seq(&page->parent)) != (rp_load_seq(&page->in_parent) == 1))
        return;
    if (rp_add_seq(&page->passed, 1) + 1 != rp_load_seq(&page->nth))
        return;
    rp_store_seq(&page->hit, pid);
    act((enum rp_fault_action)rp_load_seq(&page->action));
}

#endif
