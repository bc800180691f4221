#include "harness.h"

#include "watch.h"

#include <poll.h>
#include <sched.h>

#define ORPHAN_STATUS 129
#define LIMIT_S 1.0

/* The owner in the middle forks the worker, and the test kills the owner. The worker must not use test_spawn: there the kernel
 * would end it with the owner, and the watch would never be seen at work. */
enum watch_by { BY_PIDFD, BY_PARENT };
/* From MAY_OUTLIVE on: of a pool that lets its workers end what they run. */
enum busy_with { SLEEPING, SPINNING, SIGNALS_BLOCKED, WITHOUT_DESCRIPTORS, MAY_OUTLIVE, AFTER_A_TASK, IN_A_TASK };
#define LAST_TASK_STATUS 8

struct family {
    enum watch_by by;
    enum busy_with busy;
    int say[2];  /* worker: its pid, after the watch was set */
    int hear[2]; /* test: a byte ends the worker */
};

static _Noreturn void worker(const struct family *f, pid_t owner, int owner_fd)
{
    alarm(TEST_LIMIT_S);
    bool outlive = f->busy >= MAY_OUTLIVE;
    int err = f->by == BY_PIDFD ? rp_watch_owner(owner_fd, -1, outlive) : rp_watch_parent(owner, outlive);
    pid_t me = err ? -1 : getpid();
    if (f->busy == AFTER_A_TASK || f->busy == IN_A_TASK)
        rp_task_begins();
    if (f->busy == AFTER_A_TASK && !rp_task_ends())
        me = -1;
    if (f->busy == SIGNALS_BLOCKED) {
        sigset_t all;
        sigfillset(&all);
        sigdelset(&all, SIGALRM);
        sigprocmask(SIG_SETMASK, &all, NULL);
    }
    if (write(f->say[1], &me, sizeof me) != sizeof me)
        _exit(2);
    if (f->busy == IN_A_TASK) {
        while (rp_load_seq(&rp_watch_word) != RP_WATCH_LAST)
            sched_yield();
        _exit(rp_task_ends() ? 3 : LAST_TASK_STATUS);
    }
    if (f->busy == WITHOUT_DESCRIPTORS) {
        for (int fd = 0; fd < 256; fd++)
            close(fd);
        for (;;)
            pause();
    }
    struct pollfd told = {f->hear[0], POLLIN, 0};
    while (poll(&told, 1, f->busy == SPINNING ? 0 : -1) <= 0)
        ;
    _exit(7);
}

static void owner(void *arg)
{
    const struct family *f = arg;
    pid_t me = getpid();
    int fd = f->by == BY_PIDFD ? (int)syscall(SYS_pidfd_open, me, 0) : -1;
    if (fork() == 0)
        worker(f, me, fd);
    for (;;)
        pause();
}

static bool have_pidfd(void)
{
    int fd = (int)syscall(SYS_pidfd_open, getpid(), 0);
    if (fd >= 0)
        close(fd);
    else
        fprintf(stderr, "no pidfd here: not checked\n");
    return fd >= 0;
}

static pid_t begin(struct family *f, pid_t *worker_pid)
{
    /* So that the orphan is reaped here and tells its exit code. */
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    CHECK(pipe(f->say) == 0 && pipe(f->hear) == 0);
    pid_t pid = test_spawn(owner, f);
    CHECK(read(f->say[0], worker_pid, sizeof *worker_pid) == sizeof *worker_pid);
    CHECK(*worker_pid > 0);
    return pid;
}

static void end(struct family *f)
{
    for (int i = 0; i < 2; i++) {
        close(f->say[i]);
        close(f->hear[i]);
    }
}

static void worker_leaves(enum watch_by by, enum busy_with busy)
{
    struct family f = {.by = by, .busy = busy};
    pid_t worker_pid = 0, owner_pid = begin(&f, &worker_pid);
    if (worker_pid > 0) {
        double since = test_seconds();
        CHECK(kill(owner_pid, SIGKILL) == 0);
        CHECK(test_reap(owner_pid) == 128 + SIGKILL);
        CHECK(test_reap(worker_pid) == (busy == IN_A_TASK ? LAST_TASK_STATUS : ORPHAN_STATUS));
        CHECK(test_seconds() - since < LIMIT_S);
    }
    end(&f);
}

/* As under a fork server: the parent of the worker lives on, the owner is somebody else. */
static void server(void *arg)
{
    const struct family *f = arg;
    pid_t owner_pid = (pid_t)f->busy;
    int fd = (int)syscall(SYS_pidfd_open, owner_pid, 0);
    struct family plain = {BY_PIDFD, SLEEPING, {f->say[0], f->say[1]}, {f->hear[0], f->hear[1]}};
    pid_t pid = fork();
    if (pid == 0)
        worker(&plain, owner_pid, fd);
    CHECK(test_reap(pid) == ORPHAN_STATUS);
}

static void wait_for_ever(void *arg)
{
    (void)arg;
    for (;;)
        pause();
}

static void idle_worker_by_pidfd(void)
{
    if (have_pidfd())
        worker_leaves(BY_PIDFD, SLEEPING);
}

static void busy_worker_by_pidfd(void)
{
    if (have_pidfd())
        worker_leaves(BY_PIDFD, SPINNING);
}

static void worker_with_signals_blocked_by_pidfd(void)
{
    if (have_pidfd())
        worker_leaves(BY_PIDFD, SIGNALS_BLOCKED);
}

static void worker_that_has_closed_all_by_pidfd(void)
{
    if (syscall(SYS_close_range, ~0u, ~0u, 0u))
        fprintf(stderr, "no close_range here: not checked\n");
    else if (have_pidfd())
        worker_leaves(BY_PIDFD, WITHOUT_DESCRIPTORS);
}

static void nothing_is_kept_open(void *arg)
{
    (void)arg;
    int pipes[2];
    char byte;
    CHECK(pipe(pipes) == 0);
    CHECK(rp_watch_owner((int)syscall(SYS_pidfd_open, getppid(), 0), -1, false) == 0);
    close(pipes[1]);
    struct pollfd ended = {pipes[0], POLLIN, 0};
    CHECK(poll(&ended, 1, 10000) == 1 && read(pipes[0], &byte, 1) == 0);
}

static void watch_keeps_no_other_descriptor(void)
{
    if (have_pidfd())
        CHECK(test_reap(test_spawn(nothing_is_kept_open, NULL)) == 0);
}

static void worker_of_a_fork_server_by_pidfd(void)
{
    if (!have_pidfd())
        return;
    struct family f = {0};
    pid_t worker_pid = 0, owner_pid = test_spawn(wait_for_ever, NULL);
    f.busy = (enum busy_with)owner_pid;
    CHECK(pipe(f.say) == 0 && pipe(f.hear) == 0);
    pid_t server_pid = test_spawn(server, &f);
    CHECK(read(f.say[0], &worker_pid, sizeof worker_pid) == sizeof worker_pid && worker_pid > 0);
    double since = test_seconds();
    kill(owner_pid, SIGKILL);
    CHECK(test_reap(server_pid) == 0);
    CHECK(test_seconds() - since < LIMIT_S);
    CHECK(test_reap(owner_pid) == 128 + SIGKILL);
    end(&f);
}

static void worker_that_may_outlive_ends_its_task_only(void)
{
    for (int busy = MAY_OUTLIVE; busy <= IN_A_TASK; busy++) {
        if (have_pidfd())
            worker_leaves(BY_PIDFD, (enum busy_with)busy);
        worker_leaves(BY_PARENT, (enum busy_with)busy);
    }
}

static void tasks_end_while_the_owner_lives(void)
{
    rp_store_seq(&rp_watch_word, RP_WATCH_IDLE);
    for (int i = 0; i < 3; i++) {
        rp_task_begins();
        CHECK(rp_load_seq(&rp_watch_word) == RP_WATCH_BUSY);
        CHECK(rp_task_ends());
        CHECK(rp_load_seq(&rp_watch_word) == RP_WATCH_IDLE);
    }
    rp_task_begins();
    CHECK(rp_cas_u32(&rp_watch_word, RP_WATCH_BUSY, RP_WATCH_LAST));
    CHECK(!rp_task_ends());
    CHECK(!rp_task_ends());
    rp_store_seq(&rp_watch_word, RP_WATCH_IDLE);
}

static void idle_worker_by_parent(void) { worker_leaves(BY_PARENT, SLEEPING); }

static void busy_worker_by_parent(void) { worker_leaves(BY_PARENT, SPINNING); }

static void stays_while_the_owner_lives(void)
{
    for (int by = BY_PIDFD; by <= BY_PARENT; by++) {
        if (by == BY_PIDFD && !have_pidfd())
            continue;
        struct family f = {.by = (enum watch_by)by, .busy = SLEEPING};
        pid_t worker_pid = 0, owner_pid = begin(&f, &worker_pid);
        /* Longer than one look of the fallback; what is waited for is that nothing happens. */
        struct pollfd gone = {(int)syscall(SYS_pidfd_open, worker_pid, 0), POLLIN, 0};
        CHECK(gone.fd < 0 || poll(&gone, 1, 600) == 0);
        if (gone.fd >= 0)
            close(gone.fd);
        CHECK(write(f.hear[1], "x", 1) == 1);
        kill(owner_pid, SIGKILL);
        CHECK(test_reap(owner_pid) == 128 + SIGKILL);
        int code = test_reap(worker_pid);
        CHECK(code == 7 || code == ORPHAN_STATUS);
        end(&f);
    }
}

static void closed_descriptor(void *arg)
{
    (void)arg;
    /* Nothing to watch is not a death. */
    CHECK(rp_watch_owner(1000, -1, false) == 0);
    int pipes[2];
    CHECK(pipe(pipes) == 0);
    struct pollfd nothing = {pipes[0], POLLIN, 0};
    CHECK(poll(&nothing, 1, 200) == 0);
}

static void bad_descriptor_ends_nobody(void) { CHECK(test_reap(test_spawn(closed_descriptor, NULL)) == 0); }

static void dead_parent(void *arg)
{
    (void)arg;
    CHECK(rp_watch_parent(getppid() + 1, false) == 0);
    for (;;)
        pause();
}

static void parent_that_is_gone_before_the_watch(void)
{
    double since = test_seconds();
    CHECK(test_reap(test_spawn(dead_parent, NULL)) == ORPHAN_STATUS);
    CHECK(test_seconds() - since < LIMIT_S);
}

struct program {
    int pipes[2], say[2];
};

static void watch_program(void *arg)
{
    const struct program *p = arg;
    close(p->pipes[1]);
    CHECK(rp_watch_owner((int)syscall(SYS_pidfd_open, getppid(), 0), p->pipes[0], false) == 0);
    CHECK(write(p->say[1], "x", 1) == 1);
    for (;;)
        pause();
}

/* An owner that becomes another program: it lives on, its descriptors do not. */
static void worker_leaves_with_the_program(void)
{
    struct program p;
    char byte;
    if (!have_pidfd())
        return;
    CHECK(pipe(p.pipes) == 0 && pipe(p.say) == 0);
    pid_t pid = test_spawn(watch_program, &p);
    CHECK(read(p.say[0], &byte, 1) == 1);
    struct pollfd gone = {(int)syscall(SYS_pidfd_open, pid, 0), POLLIN, 0};
    CHECK(poll(&gone, 1, 200) == 0);
    double since = test_seconds();
    close(p.pipes[1]);
    CHECK(test_reap(pid) == ORPHAN_STATUS);
    CHECK(test_seconds() - since < LIMIT_S);
    close(gone.fd);
    close(p.pipes[0]);
    close(p.say[0]);
    close(p.say[1]);
}

static void fork_and_look(void *arg)
{
    (void)arg;
    CHECK(rp_watch_forks() == 0);
    CHECK(!rp_forked());
    pid_t child = fork();
    if (child == 0)
        _exit(rp_forked() ? 8 : 9);
    CHECK(test_reap(child) == 8);
    CHECK(!rp_forked());
    /* A forked child that becomes the worker of a pool of its own is a worker again. */
    child = fork();
    if (child == 0)
        _exit(rp_watch_forks() == 0 && !rp_forked() ? 8 : 9);
    CHECK(test_reap(child) == 8);
}

static void fork_is_noticed_in_the_child_only(void)
{
    CHECK(!rp_forked());
    CHECK(test_reap(test_spawn(fork_and_look, NULL)) == 0);
    CHECK(!rp_forked());
}

TEST_MAIN(T(idle_worker_by_pidfd), T(busy_worker_by_pidfd), T(worker_with_signals_blocked_by_pidfd),
          T(worker_of_a_fork_server_by_pidfd), T(idle_worker_by_parent), T(busy_worker_by_parent), T(stays_while_the_owner_lives),
          T(bad_descriptor_ends_nobody), T(parent_that_is_gone_before_the_watch),
          T(worker_that_has_closed_all_by_pidfd), T(watch_keeps_no_other_descriptor),
          T(worker_that_may_outlive_ends_its_task_only), T(tasks_end_while_the_owner_lives),
          T(worker_leaves_with_the_program), T(fork_is_noticed_in_the_child_only))
