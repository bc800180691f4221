/* A deterministic scheduler with a weak memory: the sources of csrc and the test run as coroutines, one at a time, and every
 * access that they make to shared memory is a point where another may go on, where the caller may die, and where it may see an
 * old value.
 *
 * Nothing in csrc knows of it. The compiler announces every access (-fsanitize=thread), and in place of ThreadSanitizer's
 * runtime stands scheduler.c: it plays the atomic accesses by the C11 model, watches the plain ones, and takes the place of
 * futex and clock. What it plays:
 *
 *   - A store that is not sequentially consistent waits in its thread's buffer and becomes visible later: a release store not
 *     before the earlier stores of its thread, relaxed ones in any order but that of one word. Whoever dies may take what waits
 *     with it.
 *   - A load sees any store of its word that is not older than what its thread knows of; an acquire load of a release store learns
 *     all that the storing thread knew. A sequentially consistent load sees the last sequentially consistent store, or a later one.
 *   - A plain access that is not ordered behind the last plain write of another thread (and a write: behind its reads) ends the
 *     test: so a missing release or acquire shows at once, on any processor. So does a plain access to an atomic word.
 *   - Who parks on a futex goes on when it is rung. Only short parks end by themselves: the safety net of a second never does, so
 *     a lost wake-up is a world in which nobody can go on, and ends the test.
 *
 * All decisions come from the seed; a complaint names it. RP_SEED=n plays that seed alone, RP_SEEDS=n as many of them;
 * RP_FIRST=1 ends the program at the first complaint. */
#ifndef RP_TEST_SCHEDULER_H
#define RP_TEST_SCHEDULER_H

#include "harness.h"

#include <inttypes.h>

/* Memory that the threads of the world share. What lies elsewhere is private: its accesses are no business of the scheduler. */
void sched_share(const char *name, void *base, size_t size);

/* A new thread; it knows what the caller knows. Before sched_run, or from a thread. Returns its number. */
int sched_thread(void (*body)(void *), void *arg);
/* The same; the world ends without waiting for it. */
int sched_daemon(void (*body)(void *), void *arg);
/* Runs all threads until each has returned or died. */
void sched_run(void);

/* For the threads. */
void sched_may_die(void);          /* the caller may die at any access from now on */
void sched_kill(int thread);       /* it dies at one of its next accesses, or where it waits */
int sched_next_dead(void);         /* waits for a death that nobody was told of; the caller then knows what the dead knew */
bool sched_anyone_dead(void);      /* true: sched_next_dead does not wait */
void sched_wait(bool (*ready)(void *), void *arg); /* until it holds in what is visible to all */
uint32_t sched_below(uint32_t n);
/* A lock as the GIL is one: who takes it knows what its last holder knew. */
struct sched_lock {
    int holder; /* thread + 1 */
    void *knows;
};
void sched_lock(struct sched_lock *l);
void sched_unlock(struct sched_lock *l);

/* What happened in all worlds so far, to see that a test looks at what it claims to look at. */
struct sched_counts {
    uint64_t worlds, steps, deaths, parks, old_values, late_stores, lost_stores;
};
extern struct sched_counts sched_counts;

/* The machinery of sched_worlds. */
void sched_begin(uint64_t seed);
const char *sched_complaint(void);
uint64_t sched_from_environment(const char *name, uint64_t otherwise);
void sched_print_trace(void);

/* Plays one world after the other, a seed each, and stops at the first complaint. `play` sets the world up, calls sched_run and
 * checks what is left. */
static inline void sched_worlds(void (*play)(void), uint32_t worlds)
{
    uint64_t only = sched_from_environment("RP_SEED", UINT64_MAX);
    uint64_t from = only == UINT64_MAX ? 1 : only, n = only == UINT64_MAX ? sched_from_environment("RP_SEEDS", worlds) : 1;
    for (uint64_t seed = from; seed < from + n; seed++) {
        sched_begin(seed);
        play();
        const char *said = sched_complaint();
        if (!said && !atomic_load(&test_complaints))
            continue;
        if (said) {
            sched_print_trace();
            test_complain(__FILE__, __LINE__, said);
        }
        fprintf(stderr, "%s: seed %" PRIu64 " (RP_SEED=%" PRIu64 " plays it again)\n", test_running, seed, seed);
        if (sched_from_environment("RP_FIRST", 0)) {
            printf("0 passed, 1 failed\n");
            exit(1);
        }
        return;
    }
}

#endif
