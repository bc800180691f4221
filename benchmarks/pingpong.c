/* What two processes need for a round trip, with nothing but a shared word each: the floor of a pool's round trip.
 *
 *     pingpong        prints {"spin": microseconds, "futex": microseconds}, the medians of a round trip
 *
 * Spinning needs a processor each; with only one, both yield it and the figure says so by its size. */
#define _GNU_SOURCE
#include <linux/futex.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "atomics.h"

#define TRIPS 20000
#define LIMIT_SECONDS 50

/* A cache line for each writer. */
struct table {
    _Alignas(128) rp_u32 ping;
    _Alignas(128) rp_u32 pong;
};

static long cores;

static void spin_until(rp_u32 *word, uint32_t value)
{
    for (uint32_t n = 0; rp_load_acquire(word) != value; n++) {
        rp_cpu_relax();
        if (cores < 2 && n % 64 == 63)
            syscall(SYS_sched_yield);
    }
}

static void sleep_until(rp_u32 *word, uint32_t value)
{
    for (uint32_t seen; (seen = rp_load_acquire(word)) != value;)
        syscall(SYS_futex, word, FUTEX_WAIT, seen, NULL, NULL, 0);
}

static void say(rp_u32 *word, uint32_t value, bool wake)
{
    rp_store_release(word, value);
    if (wake)
        syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0);
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

/* The median round trip in microseconds. Exits on any failure. */
static double measure(bool sleeps)
{
    struct table *t = mmap(NULL, sizeof *t, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    double *trip = malloc(TRIPS * sizeof *trip);
    if (t == MAP_FAILED || !trip)
        exit(1);
    void (*until)(rp_u32 *, uint32_t) = sleeps ? sleep_until : spin_until;
    pid_t parent = getpid(), child = fork();
    if (child < 0)
        exit(1);
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent)
            _exit(1);
        for (uint32_t i = 1; i <= TRIPS; i++) {
            until(&t->ping, i);
            say(&t->pong, i, sleeps);
        }
        _exit(0);
    }
    for (uint32_t i = 1; i <= TRIPS; i++) {
        double began = now_us();
        say(&t->ping, i, sleeps);
        until(&t->pong, i);
        trip[i - 1] = now_us() - began;
    }
    int status;
    if (waitpid(child, &status, 0) != child || status != 0)
        exit(1);
    qsort(trip, TRIPS, sizeof *trip, by_size);
    double median = trip[TRIPS / 2];
    free(trip);
    munmap(t, sizeof *t);
    return median;
}

int main(void)
{
    /* A child that was killed leaves its parent waiting. */
    alarm(LIMIT_SECONDS);
    cores = sysconf(_SC_NPROCESSORS_ONLN);
    double spin = measure(false), futex = measure(true);
    printf("{\"spin\": %.4f, \"futex\": %.4f}\n", spin, futex);
    return 0;
}
