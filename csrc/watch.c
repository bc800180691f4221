#define _GNU_SOURCE
#include "watch.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef SYS_close_range
#define SYS_close_range 436
#endif
#ifndef CLOSE_RANGE_UNSHARE
#define CLOSE_RANGE_UNSHARE (1u << 1)
#endif

/* 128 + SIGHUP: what a shell reports for a process whose terminal went away, the nearest thing to an owner that went away. */
#define ORPHAN_STATUS 129

rp_u32 rp_watch_word;

static bool may_outlive;

/* Returns if the thread that runs the tasks is in the middle of one that it may end. */
static void owner_is_gone(void)
{
    /* It may begin or end a task at any moment: who changes the word first has it. */
    while (may_outlive && !rp_cas_u32(&rp_watch_word, RP_WATCH_IDLE, RP_WATCH_GONE))
        if (rp_cas_u32(&rp_watch_word, RP_WATCH_BUSY, RP_WATCH_LAST))
            return;
    _exit(ORPHAN_STATUS);
}

/* What the watch begins with. The thread that starts it waits until it has read all of it (kept). */
static struct pollfd watched[2];
static bool has_own_table;
static sem_t kept;

/* This thread gets a table of descriptors of its own, with nothing in it but these two: a task that closes all descriptors does not
 * close them here, and nothing is kept open here that the task closes. False: the kernel refuses, and the process's table has to do. */
static bool keep_only(int a, int b)
{
    int low = a < b ? a : b, high = a < b ? b : a;
    if (syscall(SYS_close_range, (unsigned)high + 1, ~0u, CLOSE_RANGE_UNSHARE))
        return false;
    if (low < 0)
        low = high;
    if (high - low > 1)
        syscall(SYS_close_range, (unsigned)low + 1, (unsigned)high - 1, 0u);
    if (low > 0)
        syscall(SYS_close_range, 0u, (unsigned)low - 1, 0u);
    return true;
}

static void *watch_owner(void *arg)
{
    struct pollfd p[2] = {watched[0], watched[1]};
    (void)arg;
    has_own_table = keep_only(p[0].fd, p[1].fd);
    sem_post(&kept);
    for (;;) {
        int n = poll(p, 2, -1);
        if (n < 0 && errno != EINTR)
            return NULL;
        for (int i = 0; n > 0 && i < 2; i++) {
            if (p[i].fd >= 0 && (p[i].revents & (POLLIN | POLLHUP))) {
                owner_is_gone();
                return NULL;
            }
            /* Somebody closed the descriptor: by it nothing can be watched. */
            if (p[i].revents & (POLLNVAL | POLLERR))
                p[i].fd = -1;
        }
        if (p[0].fd < 0 && p[1].fd < 0)
            return NULL;
    }
}

static void *watch_parent(void *arg)
{
    while (getppid() == (pid_t)(intptr_t)arg) {
        struct timespec t = {0, 250000000};
        nanosleep(&t, NULL);
    }
    owner_is_gone();
    return NULL;
}

static int start(void *(*body)(void *), void *arg, bool outlive)
{
    may_outlive = outlive;
    rp_store_seq(&rp_watch_word, RP_WATCH_IDLE);
    pthread_attr_t attr;
    pthread_t thread;
    sigset_t all, old;
    int err = pthread_attr_init(&attr);
    if (err)
        return -err;
    pthread_attr_setstacksize(&attr, 65536);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    /* Signals belong to the thread that runs the tasks. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    err = pthread_create(&thread, &attr, body, arg);
    if (err == EINVAL) { /* too small a stack for a process with much thread-local data */
        pthread_attr_setstacksize(&attr, 1 << 20);
        err = pthread_create(&thread, &attr, body, arg);
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    pthread_attr_destroy(&attr);
    return -err;
}

int rp_watch_owner(int owner_fd, int program_fd, bool outlive)
{
    watched[0] = (struct pollfd){owner_fd, POLLIN, 0};
    watched[1] = (struct pollfd){program_fd, POLLIN, 0};
    has_own_table = false;
    sem_init(&kept, 0, 0);
    int err = start(watch_owner, NULL, outlive);
    /* What the caller does next may be to close it. */
    while (!err && sem_wait(&kept))
        ;
    /* Where the table is shared, the number must not become another file's. */
    if (program_fd >= 0 && has_own_table)
        close(program_fd);
    return err;
}

int rp_watch_parent(int parent, bool outlive) { return start(watch_parent, (void *)(intptr_t)parent, outlive); }

volatile int rp_forked_flag;

static void in_child(void) { rp_forked_flag = 1; }

int rp_watch_forks(void)
{
    rp_forked_flag = 0;
    return -pthread_atfork(NULL, NULL, in_child);
}
