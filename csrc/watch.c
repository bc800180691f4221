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

/* This thread gets a table of descriptors of its own, with nothing in it but this one: a task that closes all descriptors does not
 * close it here, and nothing is kept open here that the task closes. Where the kernel refuses, the process's table has to do. */
static void keep_only(int fd)
{
    if (syscall(SYS_close_range, (unsigned)fd + 1, ~0u, CLOSE_RANGE_UNSHARE) == 0 && fd > 0)
        syscall(SYS_close_range, 0u, (unsigned)fd - 1, 0u);
}

static sem_t kept;

static void *watch_owner(void *arg)
{
    struct pollfd p = {(int)(intptr_t)arg, POLLIN, 0};
    keep_only(p.fd);
    sem_post(&kept);
    for (;;) {
        int n = poll(&p, 1, -1);
        if (n > 0 && (p.revents & (POLLIN | POLLHUP))) {
            owner_is_gone();
            return NULL;
        }
        /* Somebody closed the descriptor: without it nothing can be watched. */
        if (n > 0 && (p.revents & (POLLNVAL | POLLERR)))
            return NULL;
        if (n < 0 && errno != EINTR)
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

int rp_watch_owner(int owner_fd, bool outlive)
{
    sem_init(&kept, 0, 0);
    int err = start(watch_owner, (void *)(intptr_t)owner_fd, outlive);
    /* What the caller does next may be to close it. */
    while (!err && sem_wait(&kept))
        ;
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
