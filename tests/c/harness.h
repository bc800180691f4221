/* What every C test shares. Include it first: it asks for the GNU declarations.
 *
 *   CHECK(cond)             notes a complaint with file and line and goes on; works on any thread and in children of test_spawn
 *   TEST_MAIN(T(a), T(b))   the list of test functions; ./test_x a runs only a; closes with 'N passed, N failed'
 *   test_scaled(n)          n, or less where a sanitizer makes everything slow
 *   test_spawn, test_reap   a forked child that dies with its parent; its complaints become exit code 1
 *
 * A test that is not through after TEST_LIMIT_S seconds ends the program with its name. */
#ifndef RP_TEST_HARNESS_H
#define RP_TEST_HARNESS_H

#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef TEST_LIMIT_S
#define TEST_LIMIT_S 60
#endif
#ifndef TEST_SCALE
#define TEST_SCALE 1
#endif
/* A check in a loop of a million would drown the first complaint, which is the one to read. */
#define TEST_COMPLAINTS_SHOWN 8

struct test {
    const char *name;
    void (*body)(void);
};
#define T(f) {#f, f}

static _Atomic int test_complaints;
static const char *volatile test_running = "";

static inline void test_complain(const char *file, int line, const char *what)
{
    if (atomic_fetch_add(&test_complaints, 1) < TEST_COMPLAINTS_SHOWN)
        fprintf(stderr, "%s:%d: %s: CHECK(%s)\n", file, line, test_running, what);
}
#define CHECK(cond) ((cond) ? (void)0 : test_complain(__FILE__, __LINE__, #cond))

static inline uint32_t test_scaled(uint32_t n) { return n / TEST_SCALE ? n / TEST_SCALE : 1; }

/* xorshift64*: the same numbers in every run. */
static inline uint64_t test_random(uint64_t *seed)
{
    *seed ^= *seed >> 12;
    *seed ^= *seed << 25;
    *seed ^= *seed >> 27;
    return *seed * UINT64_C(0x2545F4914F6CDD1D);
}
static inline uint32_t test_below(uint64_t *seed, uint32_t n) { return (uint32_t)((test_random(seed) >> 32) % n); }

static inline double test_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static inline void test_put(const char *s)
{
    if (write(STDERR_FILENO, s, strlen(s)) < 0)
        _exit(125);
}

static inline void test_over_limit(int sig)
{
    (void)sig;
    test_put("over the time limit: ");
    test_put(test_running);
    test_put("\n");
    _exit(124);
}

static inline void test_thread(pthread_t *t, void *(*body)(void *), void *arg)
{
    int err = pthread_create(t, NULL, body, arg);
    if (err) {
        fprintf(stderr, "pthread_create: %s\n", strerror(err));
        exit(125);
    }
}

/* Only from the main thread: the kernel ends such a child with the thread that forked it. */
static inline pid_t test_spawn(void (*body)(void *), void *arg)
{
    pid_t parent = getpid();
    fflush(NULL);
    pid_t pid = fork();
    if (pid < 0) {
        fprintf(stderr, "fork: %s\n", strerror(errno));
        exit(125);
    }
    if (pid)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(125);
    alarm(TEST_LIMIT_S);
    atomic_store(&test_complaints, 0);
    body(arg);
    fflush(NULL);
    /* Not _exit: ThreadSanitizer turns that into a failure of every child once the parent had a report. */
    syscall(SYS_exit_group, atomic_load(&test_complaints) ? 1 : 0);
    abort();
}

/* Exit code, or 128 + signal. */
static inline int test_reap(pid_t pid)
{
    int status;
    pid_t got;
    do
        got = waitpid(pid, &status, 0);
    while (got < 0 && errno == EINTR);
    if (got < 0)
        return -errno;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static inline int test_run_all(const struct test *all, size_t n, int argc, char **argv)
{
    int passed = 0, failed = 0;
    struct sigaction over = {.sa_handler = test_over_limit};
    struct rlimit no_core = {0, 0};
    sigaction(SIGALRM, &over, NULL);
    setrlimit(RLIMIT_CORE, &no_core);
    for (size_t i = 0; i < n; i++) {
        bool wanted = argc < 2;
        for (int a = 1; a < argc; a++)
            wanted |= !strcmp(argv[a], all[i].name);
        if (!wanted)
            continue;
        test_running = all[i].name;
        atomic_store(&test_complaints, 0);
        alarm(TEST_LIMIT_S);
        all[i].body();
        alarm(0);
        if (atomic_load(&test_complaints)) {
            fprintf(stderr, "failed: %s\n", test_running);
            failed++;
        } else {
            passed++;
        }
    }
    printf("%d passed, %d failed\n", passed, failed);
    return failed || !passed;
}

#define TEST_MAIN(...) \
    int main(int argc, char **argv) \
    { \
        static const struct test all[] = {__VA_ARGS__}; \
        return test_run_all(all, sizeof all / sizeof *all, argc, argv); \
    }

#endif
