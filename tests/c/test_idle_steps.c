/* The protocols of idle.h at every instruction: a child is single-stepped into a wait or through the worker's loop, and after N
 * steps, for every N, the other side acts, or the child is killed. What a hammer hits once in a million runs is hit for certain.
 *
 * Skipped where a step is not an instruction of the product (sanitizers), where single-stepping breaks atomic instructions (not
 * x86-64), or where tracing is forbidden. */
#include "rig.h"

#include "idle.h"

#include <linux/futex.h>
#include <sys/ptrace.h>
#include <sys/user.h>

#define SOON_S 0.5 /* less than the safety net: who comes later was not woken */
#define STEPS_MOST 20000u
#define TASKS 2u

struct stage {
    struct rig rig;
    struct rp_producer p;
    struct rp_reader r[2];
    struct rp_writer w;
    uint32_t seen; /* by the child, before it is stepped */
};

static void stage_open(struct stage *a, uint32_t chairs)
{
    struct rp_geometry g = {.nslots = 4, .nseats = 2, .ring_bytes = 256, .chairs = chairs};
    memset((void *)a, 0, sizeof *a);
    rig_open(&a->rig, &g);
    if (rp_producer_init(&a->p, &a->rig.m))
        exit(125);
    for (uint32_t i = 0; i < 2; i++)
        rp_reader_init(&a->r[i], &a->rig.m, i);
    rp_writer_init(&a->w, &a->rig.m, 0);
}

static void stage_close(struct stage *a)
{
    rp_producer_free(&a->p);
    rig_close(&a->rig);
}

static bool can_step(void)
{
#if defined(__x86_64__) && TEST_SCALE == 1
    if (ptrace(PTRACE_PEEKUSER, getpid(), NULL, NULL) == -1 && errno != ESRCH) {
        fprintf(stderr, "tracing is forbidden here: not checked\n");
        return false;
    }
    /* A step is two switches between tracer and child: much faster on one core than across two. */
    cpu_set_t here;
    CPU_ZERO(&here);
    CPU_SET((size_t)sched_getcpu(), &here);
    sched_setaffinity(0, sizeof here, &here);
    return true;
#else
    return false;
#endif
}

/* In the child: the tracer takes over here. */
static void ready_to_step(void)
{
    if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) || raise(SIGSTOP))
        _exit(125);
}

/* True if the child is about to sleep on a doorbell for longer than the short parks that only bridge a gap. */
static bool about_to_park(pid_t pid)
{
#ifdef __x86_64__
    struct user_regs_struct regs;
    if (ptrace(PTRACE_GETREGS, pid, NULL, &regs) || regs.rax != SYS_futex || regs.rsi != FUTEX_WAIT)
        return false;
    if ((ptrace(PTRACE_PEEKTEXT, pid, (void *)regs.rip, NULL) & 0xffff) != 0x050f) /* the syscall instruction */
        return false;
    struct timespec *limit = (void *)regs.r10;
    return ptrace(PTRACE_PEEKDATA, pid, &limit->tv_sec, NULL) > 0 || ptrace(PTRACE_PEEKDATA, pid, &limit->tv_nsec, NULL) > 100000000;
#else
    (void)pid;
    return true;
#endif
}

static bool stopped(pid_t pid)
{
    int status;
    return waitpid(pid, &status, 0) == pid && WIFSTOPPED(status);
}

/* Steps the child n times, or until it is about to park, and says how far it came. Looks for the park from step `look` on. */
static uint32_t step(pid_t pid, uint32_t n, uint32_t look)
{
    uint32_t i = 0;
    if (!stopped(pid))
        return 0;
    while (i < n && !(i >= look && about_to_park(pid)) && ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL) == 0 && stopped(pid))
        i++;
    return i;
}

/* How many steps it is to the park. */
static uint32_t distance(void (*child)(void *), struct stage *a)
{
    pid_t pid = test_spawn(child, a);
    uint32_t n = step(pid, STEPS_MOST, 0);
    kill(pid, SIGKILL);
    CHECK(test_reap(pid) == 128 + SIGKILL);
    CHECK(n > 20 && n < STEPS_MOST);
    return n;
}

/* The child waits; after n steps the tracer does what ends the wait. For every n, or every few, up to the park. */
static void wakes_wherever_it_is(void (*wait)(void *), void (*cause)(struct stage *), uint32_t chairs, uint32_t stride)
{
    if (!can_step())
        return;
    struct stage a;
    stage_open(&a, chairs);
    uint32_t park = distance(wait, &a);
    stage_close(&a);
    for (uint32_t n = 0; n < park + stride; n += stride) {
        stage_open(&a, chairs);
        pid_t pid = test_spawn(wait, &a);
        step(pid, n, park / 2);
        double since = test_seconds();
        cause(&a);
        CHECK(ptrace(PTRACE_DETACH, pid, NULL, NULL) == 0);
        CHECK(test_reap(pid) == 0);
        CHECK(test_seconds() - since < SOON_S);
        CHECK(rp_load_relaxed(&a.rig.m.h->late) == 0 && rp_load_relaxed(&a.rig.m.seats[1].late) == 0);
        stage_close(&a);
    }
}

static void wait_for_a_task(void *arg)
{
    struct stage *a = arg;
    struct rig mine;
    struct rp_consumer c;
    struct rp_writer w;
    struct rp_spin spin = {0};
    uint64_t pos;
    rig_attach(&mine, &a->rig);
    rp_consumer_init(&c, &mine.m, 1);
    rp_writer_init(&w, &mine.m, 1);
    CHECK(!rp_consumer_claim(&c, &pos));
    ready_to_step();
    while (!rp_consumer_claim(&c, &pos) && !rp_load_seq(&mine.m.h->stop))
        rp_worker_wait(&c, &w, &spin);
}

static void commit(struct stage *a)
{
    uint64_t pos = 0;
    struct rp_slot *s = rp_producer_next(&a->p, &pos);
    CHECK(s != NULL);
    s->len = pos;
    rp_producer_commit(&a->p, pos);
    rp_producer_show(&a->p);
}

static void give_a_task(struct stage *a)
{
    commit(a);
    rp_producer_kick(&a->p);
}

static void give_a_task_back(struct stage *a)
{
    struct rp_consumer dead;
    uint64_t pos, lost;
    rp_consumer_init(&dead, &a->rig.m, 0);
    commit(a);
    CHECK(rp_consumer_claim(&dead, &pos) != NULL);
    CHECK(rp_producer_bury(&a->p, 0, &lost, 1) == 0);
}

static void stop(struct stage *a)
{
    rp_store_seq(&a->rig.m.h->stop, 1);
    rp_wake_all(&a->rig.m);
}

static void worker_wakes_for_a_task(void)
{
    wakes_wherever_it_is(wait_for_a_task, give_a_task, 0, 1);
    wakes_wherever_it_is(wait_for_a_task, give_a_task, 1, 5);
}
static void worker_wakes_after_a_burial(void) { wakes_wherever_it_is(wait_for_a_task, give_a_task_back, 0, 3); }
static void worker_wakes_for_the_stop(void) { wakes_wherever_it_is(wait_for_a_task, stop, 0, 3); }

/* Here the child is the parent of the pool, and the tracer the worker in seat 0. */
static void wait_for_a_result(void *arg)
{
    struct stage *a = arg;
    struct rig mine;
    struct rp_reader r[2];
    struct rp_patience patience = {.spin = false, .wake_bytes = 0, .limit_ns = -1};
    struct rp_spin spin = {0};
    rig_attach(&mine, &a->rig);
    memset((void *)r, 0, sizeof r);
    for (uint32_t i = 0; i < 2; i++)
        rp_reader_init(&r[i], &mine.m, i);
    ready_to_step();
    for (;;) {
        uint32_t seen = rp_parent_arm(&mine.m);
        if (rp_reader_unread(&r[0]) || rp_load_seq(&mine.m.h->stop))
            return;
        rp_parent_wait(&mine.m, r, 2, seen, &patience, &spin);
    }
}

static void give_a_result(struct stage *a)
{
    CHECK(rp_writer_reserve(&a->w, 8) != NULL);
    rp_writer_publish(&a->w, 8, 1, 0);
    rp_writer_announce_now(&a->w, true);
}

static void give_a_result_by_the_way(struct stage *a)
{
    CHECK(rp_writer_reserve(&a->w, 8) != NULL);
    rp_writer_publish(&a->w, 8, 1, 0);
    rp_writer_announce(&a->w);
}

static void ring_the_parent(struct stage *a)
{
    rp_store_seq(&a->rig.m.h->stop, 1);
    rp_parent_ring(&a->rig.m);
}

static void parent_wakes_for_a_result(void)
{
    wakes_wherever_it_is(wait_for_a_result, give_a_result, 0, 1);
    wakes_wherever_it_is(wait_for_a_result, give_a_result_by_the_way, 0, 3);
}
static void parent_wakes_for_a_ring(void) { wakes_wherever_it_is(wait_for_a_result, ring_the_parent, 0, 3); }

/* A worker that looks at `eager`, without ordering, between two parks of one wait would keep its result to itself: the short park that
 * makes up for such a look is over. */
static void eager_parent_says_so_until_its_wait_ends(void)
{
    bool eager = false;
    if (!can_step())
        return;
    struct stage a;
    stage_open(&a, 0);
    pid_t pid = test_spawn(wait_for_a_result, &a);
    CHECK(stopped(pid));
    for (uint32_t n = 0; n < STEPS_MOST && !about_to_park(pid); n++) {
        CHECK(ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL) == 0 && stopped(pid));
        bool now = rp_load_relaxed(&a.rig.m.h->eager) == 1;
        CHECK(now || !eager);
        eager = now;
    }
    CHECK(eager);
    kill(pid, SIGKILL);
    CHECK(test_reap(pid) == 128 + SIGKILL);
    stage_close(&a);
}

static void wait_for_room(void *arg)
{
    struct stage *a = arg;
    struct rig mine;
    struct rp_writer w;
    rig_attach(&mine, &a->rig);
    rp_writer_init(&w, &mine.m, 1);
    while (rp_writer_reserve(&w, 0))
        rp_writer_publish(&w, 0, 1, 0);
    ready_to_step();
    while (!rp_writer_reserve(&w, 0))
        rp_writer_wait(&w);
}

static void make_room(struct stage *a)
{
    struct rp_view v;
    CHECK(rp_reader_peek(&a->r[1], &v) == 1);
    rp_reader_consume(&a->r[1], &v);
    rp_reader_room(&a->r[1]);
}

static void writer_wakes_for_room(void) { wakes_wherever_it_is(wait_for_room, make_room, 0, 1); }

/* Death at every instruction of the worker's loop. */
static void work(void *arg)
{
    struct stage *a = arg;
    struct rig mine;
    struct rp_consumer c;
    struct rp_writer w;
    struct rp_spin spin = {0};
    uint64_t pos;
    rig_attach(&mine, &a->rig);
    rp_consumer_init(&c, &mine.m, 0);
    rp_writer_init(&w, &mine.m, 0);
    rp_consumer_pace(&c, 0);
    ready_to_step();
    for (;;) {
        struct rp_slot *s = rp_consumer_claim(&c, &pos);
        if (!s) {
            rp_worker_wait(&c, &w, &spin);
            continue;
        }
        if (!rp_consumer_start(&c, s, pos))
            _exit(125);
        uint64_t len = s->len;
        if (!rp_consumer_finish(&c, s, pos))
            _exit(125);
        unsigned char *to = rp_writer_reserve(&w, 8);
        if (!to)
            _exit(125);
        memcpy(to, &len, sizeof len);
        rp_writer_publish(&w, 8, 1, pos);
        rp_writer_announce(&w);
    }
}

static void death_anywhere_loses_no_task_but_the_running_one(void)
{
    uint32_t lost_in_all = 0, given_back = 0;
    if (!can_step())
        return;
    struct stage a;
    stage_open(&a, 0);
    for (uint32_t i = 0; i < TASKS; i++)
        commit(&a);
    uint32_t park = distance(work, &a);
    stage_close(&a);
    for (uint32_t n = 0; n <= park; n++) {
        struct rp_view v;
        struct rp_consumer other;
        uint64_t lost[2], pos;
        uint32_t fates[TASKS] = {0};
        stage_open(&a, n % 2);
        for (uint32_t i = 0; i < TASKS; i++)
            commit(&a);
        rp_consumer_init(&other, &a.rig.m, 1);
        rp_or_seq(&a.rig.m.h->parked_mask[0], 2);
        rp_store_seq(&a.rig.m.h->armed, 1);
        pid_t pid = test_spawn(work, &a);
        step(pid, n, park / 2);
        kill(pid, SIGKILL);
        CHECK(test_reap(pid) == 128 + SIGKILL);

        for (int got; (got = rp_reader_peek(&a.r[0], &v)) != 0;) {
            uint64_t echoed;
            CHECK(got == 1 && v.len == sizeof echoed && v.pos < TASKS && rp_producer_expects(&a.p, v.pos, 0));
            memcpy(&echoed, v.payload, sizeof echoed);
            CHECK(echoed == v.pos);
            fates[v.pos]++;
            rp_producer_settle(&a.p, v.pos);
            rp_reader_consume(&a.r[0], &v);
        }
        uint32_t bell = rp_bell_read(&a.rig.m.seats[1].bell);
        uint32_t gone = rp_producer_bury(&a.p, 0, lost, 2);
        CHECK(gone <= 1);
        CHECK(rp_bell_read(&a.rig.m.seats[1].bell) != bell);
        CHECK(rp_load_relaxed(&a.rig.m.h->chair[0]) == 0);
        CHECK(!(rp_load_relaxed(&a.rig.m.h->parked_mask[0]) & 1));
        if (gone) {
            fates[lost[0]]++;
            rp_producer_settle(&a.p, lost[0]);
            lost_in_all++;
        }
        while (rp_consumer_claim(&other, &pos)) {
            fates[pos]++;
            rp_producer_settle(&a.p, pos);
            given_back++;
        }
        for (uint32_t i = 0; i < TASKS; i++)
            CHECK(fates[i] == 1);
        CHECK(a.p.outstanding == 0 && a.p.low == a.p.tail);
        stage_close(&a);
    }
    CHECK(lost_in_all > 0 && given_back > 0);
}

TEST_MAIN(T(worker_wakes_for_a_task), T(worker_wakes_after_a_burial), T(worker_wakes_for_the_stop), T(parent_wakes_for_a_result),
          T(parent_wakes_for_a_ring), T(eager_parent_says_so_until_its_wait_ends), T(writer_wakes_for_room),
          T(death_anywhere_loses_no_task_but_the_running_one))
