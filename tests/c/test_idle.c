#include "rig.h"

#include "idle.h"

/* The whole flow: a boss feeds the task ring and collects, workers (threads or processes) echo results through their rings.
 * Every task is settled exactly once, with the right bytes or as lost, whoever dies when. */
#define MOST_WORKERS 4u
#define SOON INT64_C(900000000) /* less than the safety net: who comes later was not woken */

enum fault { NO_FAULT, CLAIMED, RUNNING, RESERVED, WRITTEN, PUBLISHED, ANNOUNCED, FAULTS };
struct faults {
    rp_u32 point, left;
};

static void fault(struct faults *f, enum fault here)
{
    if (f && rp_load_relaxed(&f->point) == (uint32_t)here && rp_sub_seq(&f->left, 1) == 1)
        kill(getpid(), SIGKILL);
}

static uint32_t length_of(uint64_t id, uint32_t limit) { return (uint32_t)(8 + (id * 2654435761u >> 7) % (id % 16 ? 40 : limit - 8)); }
static unsigned char byte_of(uint64_t id, uint32_t i) { return (unsigned char)(id * 13 + i); }
#define ECHO 3

static void echo(struct rp_writer *w, uint64_t id, uint64_t pos, struct faults *f)
{
    uint32_t len = length_of(id, rp_writer_limit(w));
    unsigned char *to;
    while (!(to = rp_writer_reserve(w, len)))
        rp_writer_wait(w);
    fault(f, RESERVED);
    memcpy(to, &id, sizeof id);
    for (uint32_t i = sizeof id; i < len; i++)
        to[i] = byte_of(id, i);
    fault(f, WRITTEN);
    rp_writer_publish(w, len, ECHO, pos);
    fault(f, PUBLISHED);
}

static void serve(const struct rp_map *m, uint32_t seat, struct faults *f)
{
    struct rp_consumer c;
    struct rp_writer w;
    struct rp_spin spin;
    uint64_t pos = 0, id;
    int64_t begin = rp_now_ns(), since = 0;
    rp_consumer_init(&c, m, seat);
    rp_writer_init(&w, m, seat);
    rp_spin_init(&spin);
    for (;;) {
        struct rp_slot *s = rp_consumer_claim(&c, &pos);
        if (!s) {
            if (rp_load_seq(&m->h->stop))
                return;
            if (!rp_worker_glance(&c, &w, &spin)) {
                rp_worker_wait(&c, &w, &spin);
                begin = rp_now_ns();
                since = 0;
            }
            continue;
        }
        fault(f, CLAIMED);
        CHECK(rp_consumer_start(&c, s, pos));
        fault(f, RUNNING);
        memcpy(&id, s->data, sizeof id);
        CHECK(s->len == sizeof id && s->func_id == (uint32_t)id);
        CHECK(rp_consumer_finish(&c, s, pos));
        echo(&w, id, pos, f);
        since++;
        if (rp_consumer_in_stretch(&c)) {
            rp_writer_announce(&w);
        } else {
            int64_t now = rp_now_ns();
            rp_consumer_pace(&c, (now - begin) / since);
            if (now - begin >= 5000) {
                rp_writer_announce_now(&w, false);
                begin = now;
                since = 0;
            } else {
                rp_writer_announce(&w);
            }
        }
        fault(f, ANNOUNCED);
    }
}

enum fate { OPEN, ECHOED, LOST };
struct boss {
    struct rig rig;
    struct rp_producer p;
    struct rp_reader readers[MOST_WORKERS];
    struct rp_spin spin;
    uint32_t workers, total, next, settled, lost;
    unsigned char *fate;  /* by id */
    uint32_t *id_of_slot; /* of the unsettled task in it */
    struct rp_patience patience;
    struct faults *faults;
    pthread_t thread[MOST_WORKERS];
    pid_t pid[MOST_WORKERS];
};

static void boss_open(struct boss *b, const struct rp_geometry *g, uint32_t total)
{
    memset((void *)b, 0, sizeof *b);
    rig_open(&b->rig, g);
    if (rp_producer_init(&b->p, &b->rig.m))
        exit(125);
    b->workers = g->nseats;
    for (uint32_t i = 0; i < b->workers; i++)
        rp_reader_init(&b->readers[i], &b->rig.m, i);
    rp_spin_init(&b->spin);
    b->total = total;
    b->fate = calloc(total, 1);
    b->id_of_slot = calloc(g->nslots, sizeof *b->id_of_slot);
    b->patience = (struct rp_patience){.spin = true, .wake_bytes = 0, .limit_ns = -1};
}

static void boss_close(struct boss *b)
{
    CHECK(b->settled == b->total && b->p.outstanding == 0 && b->p.low == b->p.tail);
    for (uint32_t i = 0; i < b->total; i++)
        CHECK(b->fate[i] != OPEN);
    CHECK(rp_load_relaxed(&b->rig.m.h->late) == 0);
    for (uint32_t i = 0; i < b->workers; i++)
        CHECK(rp_load_relaxed(&b->rig.m.seats[i].late) == 0);
    free(b->fate);
    free(b->id_of_slot);
    rp_producer_free(&b->p);
    rig_close(&b->rig);
}

static void settle(struct boss *b, uint64_t pos, enum fate fate)
{
    uint32_t id = b->id_of_slot[pos & b->rig.m.slot_mask];
    CHECK(b->fate[id] == OPEN);
    b->fate[id] = (unsigned char)fate;
    b->settled++;
    b->lost += fate == LOST;
    rp_producer_settle(&b->p, pos);
}

static uint32_t collect(struct boss *b, uint32_t seat)
{
    struct rp_view v;
    uint32_t n = 0;
    int got;
    for (; (got = rp_reader_peek(&b->readers[seat], &v)) == 1; n++) {
        uint64_t id = 0;
        CHECK(v.kind == ECHO && rp_producer_expects(&b->p, v.pos, seat));
        if (v.len >= sizeof id)
            memcpy(&id, v.payload, sizeof id);
        bool good = id == b->id_of_slot[v.pos & b->rig.m.slot_mask] && v.len == length_of(id, b->rig.m.ring_bytes / 4 - 16);
        for (uint32_t i = sizeof id; good && i < v.len; i++)
            good = v.payload[i] == byte_of(id, i);
        CHECK(good);
        settle(b, v.pos, ECHOED);
        rp_reader_consume(&b->readers[seat], &v);
    }
    CHECK(got == 0);
    if (n)
        rp_reader_room(&b->readers[seat]);
    return n;
}

static uint32_t collect_all(struct boss *b)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < b->workers; i++)
        n += collect(b, i);
    return n;
}

static uint32_t feed(struct boss *b, uint32_t most)
{
    uint64_t pos;
    uint32_t n = 0;
    struct rp_slot *s;
    for (; n < most && b->next < b->total && (s = rp_producer_next(&b->p, &pos)); n++) {
        uint64_t id = b->next;
        s->len = sizeof id;
        s->off = 0;
        s->func_id = b->next;
        memcpy(s->data, &id, sizeof id);
        b->id_of_slot[pos & b->rig.m.slot_mask] = b->next++;
        rp_producer_commit(&b->p, pos);
        rp_producer_nudge(&b->p);
    }
    if (n)
        rp_producer_kick(&b->p);
    return n;
}

static void bury(struct boss *b, uint32_t seat)
{
    uint64_t lost[2];
    collect(b, seat);
    uint32_t n = rp_producer_bury(&b->p, seat, lost, 2);
    CHECK(n <= 1);
    if (n)
        settle(b, lost[0], LOST);
    rp_reader_reset(&b->readers[seat]);
}

static void stop(struct boss *b)
{
    rp_store_seq(&b->rig.m.h->stop, 1);
    rp_wake_all(&b->rig.m);
}

/* Threads */

struct thread_arg {
    struct boss *boss;
    uint32_t seat;
};

static void *serve_on_thread(void *arg)
{
    struct thread_arg *a = arg;
    serve(&a->boss->rig.m, a->seat, NULL);
    return NULL;
}

static void flow_of_threads(const struct rp_geometry *g, uint32_t total, struct rp_patience patience, uint32_t batch)
{
    static struct boss b;
    struct thread_arg args[MOST_WORKERS];
    boss_open(&b, g, total);
    b.patience = patience;
    for (uint32_t i = 0; i < b.workers; i++) {
        args[i] = (struct thread_arg){&b, i};
        test_thread(&b.thread[i], serve_on_thread, &args[i]);
    }
    while (b.settled < total) {
        uint32_t seen = rp_parent_arm(&b.rig.m);
        if (collect_all(&b) + feed(&b, batch) == 0)
            rp_parent_wait(&b.rig.m, b.readers, b.workers, seen, &b.patience, &b.spin);
    }
    stop(&b);
    for (uint32_t i = 0; i < b.workers; i++)
        pthread_join(b.thread[i], NULL);
    CHECK(b.lost == 0);
    boss_close(&b);
}

static const struct rp_patience SPINNING = {true, 0, -1}, PARKING = {false, 0, -1}, COALESCING = {false, 1024, -1};

static void threads_full_speed(void)
{
    struct rp_geometry g = {.nslots = 256, .nseats = 2, .ring_bytes = 8192, .chairs = 1};
    flow_of_threads(&g, test_scaled(300000), SPINNING, UINT32_MAX);
    flow_of_threads(&g, test_scaled(300000), COALESCING, UINT32_MAX);
}

static void threads_without_chairs(void)
{
    struct rp_geometry g = {.nslots = 64, .nseats = 4, .ring_bytes = 4096};
    flow_of_threads(&g, test_scaled(100000), PARKING, UINT32_MAX);
}

static void threads_on_tiny_rings(void)
{
    struct rp_geometry g = {.nslots = 2, .nseats = 3, .ring_bytes = 256, .chairs = 2};
    flow_of_threads(&g, test_scaled(50000), PARKING, UINT32_MAX);
    g.nslots = 1;
    g.nseats = 1;
    flow_of_threads(&g, test_scaled(20000), SPINNING, UINT32_MAX);
    flow_of_threads(&g, test_scaled(20000), PARKING, UINT32_MAX);
}

/* A result ring that is always full: workers wait for room, the boss wants a lot before it is woken. */
static void threads_that_wait_for_room(void)
{
    struct rp_geometry g = {.nslots = 512, .nseats = 2, .ring_bytes = 256, .chairs = 0};
    flow_of_threads(&g, test_scaled(60000), COALESCING, UINT32_MAX);
}

static void one_task_at_a_time(void)
{
    struct rp_geometry g = {.nslots = 16, .nseats = 1, .ring_bytes = 1024, .chairs = 1};
    flow_of_threads(&g, test_scaled(30000), SPINNING, 1);
    g.chairs = 0;
    flow_of_threads(&g, test_scaled(20000), PARKING, 1);
}

static void threads_without_futex(void)
{
    struct rp_geometry g = {.nslots = 64, .nseats = 2, .ring_bytes = 4096, .chairs = 1, .doorbell = RP_DOORBELL_POLL};
    flow_of_threads(&g, test_scaled(50000), SPINNING, UINT32_MAX);
    g.chairs = 0;
    flow_of_threads(&g, test_scaled(20000), PARKING, 3);
}

/* Processes */

struct process_arg {
    const struct boss *boss;
    uint32_t seat;
};

static void serve_in_process(void *arg)
{
    const struct process_arg *a = arg;
    struct rig mine;
    signal(SIGCHLD, SIG_DFL);
    rig_attach(&mine, &a->boss->rig);
    serve(&mine.m, a->seat, a->boss->faults);
    rig_close(&mine);
}

static void hire(struct boss *b, uint32_t seat)
{
    struct process_arg a = {b, seat};
    b->pid[seat] = test_spawn(serve_in_process, &a);
}

static void dismiss_all(struct boss *b)
{
    stop(b);
    for (uint32_t i = 0; i < b->workers; i++)
        CHECK(test_reap(b->pid[i]) == 0);
}

static void flow_with_random_kills(uint32_t nslots, uint32_t workers, uint32_t chairs, uint32_t ring_bytes, uint32_t kills,
                                   enum rp_doorbell_kind kind, struct rp_patience patience)
{
    static struct boss b;
    struct rp_geometry g = {nslots, workers, ring_bytes, chairs, (uint32_t)kind, 0, 1};
    uint64_t seed = nslots * 131 + workers;
    uint32_t done = 0;
    boss_open(&b, &g, kills * 300);
    b.patience = patience;
    for (uint32_t i = 0; i < workers; i++)
        hire(&b, i);
    uint32_t kill_at = 100;
    while (b.settled < b.total) {
        uint32_t seen = rp_parent_arm(&b.rig.m);
        uint32_t n = collect_all(&b) + feed(&b, test_below(&seed, 2 * nslots) + 1);
        if (done < kills && b.settled >= kill_at) {
            uint32_t seat = test_below(&seed, workers);
            for (uint32_t k = test_below(&seed, 3000); k > 0; k--)
                rp_cpu_relax();
            kill(b.pid[seat], SIGKILL);
            CHECK(test_reap(b.pid[seat]) == 128 + SIGKILL);
            bury(&b, seat);
            hire(&b, seat);
            done++;
            kill_at = b.settled + test_below(&seed, 400);
        } else if (n == 0) {
            rp_parent_wait(&b.rig.m, b.readers, b.workers, seen, &b.patience, &b.spin);
        }
    }
    dismiss_all(&b);
    CHECK(done > 0 && b.lost <= done);
    boss_close(&b);
}

static void random_kills(void)
{
    flow_with_random_kills(64, 3, 1, 4096, test_scaled(150), RP_DOORBELL_FUTEX, SPINNING);
    flow_with_random_kills(64, 2, 0, 256, test_scaled(150), RP_DOORBELL_FUTEX, PARKING);
    flow_with_random_kills(4, 4, 2, 1024, test_scaled(100), RP_DOORBELL_FUTEX, PARKING);
    flow_with_random_kills(1024, 2, 1, 1 << 16, test_scaled(100), RP_DOORBELL_FUTEX, COALESCING);
}

static void random_kills_without_futex(void)
{
    flow_with_random_kills(16, 3, 1, 1024, test_scaled(40), RP_DOORBELL_POLL, PARKING);
}

/* The boss learns of deaths as a parent does, from the kernel; the handler only rings. */
static struct boss *mourner;
static void on_death(int sig)
{
    (void)sig;
    if (mourner)
        rp_parent_ring(&mourner->rig.m);
}

static void flow_with_fault(enum fault point, uint32_t nth, enum rp_doorbell_kind kind, uint32_t chairs)
{
    static struct boss b;
    struct rp_geometry g = {.nslots = 16, .nseats = 2, .ring_bytes = 512, .chairs = chairs, .doorbell = (uint32_t)kind};
    struct sigaction act = {.sa_handler = on_death}, old;
    uint32_t deaths = 0;
    boss_open(&b, &g, 120);
    b.patience = PARKING;
    b.faults = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (b.faults == MAP_FAILED)
        exit(125);
    rp_store_relaxed(&b.faults->point, (uint32_t)point);
    rp_store_relaxed(&b.faults->left, nth);
    mourner = &b;
    sigaction(SIGCHLD, &act, &old);
    for (uint32_t i = 0; i < b.workers; i++)
        hire(&b, i);
    int64_t begin = rp_now_ns();
    /* Also the death after the last result is to be seen. */
    while (b.settled < b.total || deaths == 0) {
        uint32_t seen = rp_parent_arm(&b.rig.m), n = 0;
        for (uint32_t i = 0; i < b.workers; i++) {
            int status;
            if (waitpid(b.pid[i], &status, WNOHANG) != b.pid[i])
                continue;
            CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
            deaths++;
            n++;
            bury(&b, i);
            hire(&b, i);
        }
        n += collect_all(&b) + feed(&b, 8);
        if (n == 0)
            rp_parent_wait(&b.rig.m, b.readers, b.workers, seen, &b.patience, &b.spin);
    }
    /* A dead worker is mourned at once, not when a safety net catches. */
    CHECK(rp_now_ns() - begin < 5 * SOON);
    mourner = NULL;
    sigaction(SIGCHLD, &old, NULL);
    dismiss_all(&b);
    CHECK(deaths == 1);
    CHECK(b.lost == (point >= RUNNING && point <= WRITTEN));
    munmap(b.faults, 4096);
    boss_close(&b);
}

static void death_at_every_point(void)
{
    for (enum fault point = CLAIMED; point < FAULTS; point++)
        for (uint32_t nth = 1; nth <= 3; nth++)
            for (uint32_t chairs = 0; chairs < 2; chairs++)
                flow_with_fault(point, nth * nth * nth, RP_DOORBELL_FUTEX, chairs);
}

static void death_at_every_point_without_futex(void)
{
    for (enum fault point = CLAIMED; point < FAULTS; point++)
        flow_with_fault(point, 2, RP_DOORBELL_POLL, 1);
}

/* Single waits */

struct waiter {
    struct rig rig;
    struct rp_consumer c;
    struct rp_writer w;
    struct rp_spin spin;
    struct rp_producer p;
    struct rp_reader r[2];
    int64_t took;
};

static void waiter_open(struct waiter *a, uint32_t chairs, enum rp_doorbell_kind kind)
{
    struct rp_geometry g = {.nslots = 8, .nseats = 2, .ring_bytes = 256, .chairs = chairs, .doorbell = (uint32_t)kind};
    memset((void *)a, 0, sizeof *a);
    rig_open(&a->rig, &g);
    rp_consumer_init(&a->c, &a->rig.m, 1);
    rp_writer_init(&a->w, &a->rig.m, 1);
    rp_spin_init(&a->spin);
    if (rp_producer_init(&a->p, &a->rig.m))
        exit(125);
    for (uint32_t i = 0; i < 2; i++)
        rp_reader_init(&a->r[i], &a->rig.m, i);
}

static void waiter_close(struct waiter *a)
{
    rp_producer_free(&a->p);
    rig_close(&a->rig);
}

static void *wait_for_tasks(void *arg)
{
    struct waiter *a = arg;
    int64_t begin = rp_now_ns();
    rp_worker_wait(&a->c, &a->w, &a->spin);
    a->took = rp_now_ns() - begin;
    return NULL;
}

static bool parked(const struct waiter *a) { return rp_load_seq(&a->rig.m.h->parked_mask[0]) & 2; }

static void until_parked(const struct waiter *a)
{
    while (!parked(a))
        sched_yield();
}

static void commit_one(struct waiter *a)
{
    uint64_t pos = 0;
    CHECK(rp_producer_next(&a->p, &pos) != NULL);
    rp_producer_commit(&a->p, pos);
    rp_producer_show(&a->p);
}

#define EACH_KIND(k) (enum rp_doorbell_kind k = RP_DOORBELL_FUTEX; k <= RP_DOORBELL_POLL; k++)

static void worker_wakes_for(void (*cause)(struct waiter *))
{
    for EACH_KIND(k) {
        for (uint32_t chairs = 0; chairs < 2; chairs++) {
            static struct waiter a;
            pthread_t t;
            waiter_open(&a, chairs, k);
            test_thread(&t, wait_for_tasks, &a);
            until_parked(&a);
            cause(&a);
            pthread_join(t, NULL);
            CHECK(a.took < SOON);
            CHECK(!parked(&a));
            CHECK(rp_load_relaxed(&a.rig.m.h->chair[0]) == 0);
            CHECK(rp_load_relaxed(&a.rig.m.seats[1].late) == 0);
            /* And with the cause already there. */
            a.took = INT64_MAX;
            wait_for_tasks(&a);
            CHECK(a.took < SOON && !parked(&a));
            waiter_close(&a);
        }
    }
}

static void by_task(struct waiter *a)
{
    commit_one(a);
    rp_producer_kick(&a->p);
}

static void by_stop(struct waiter *a)
{
    rp_store_seq(&a->rig.m.h->stop, 1);
    rp_wake_all(&a->rig.m);
}

static void by_burial(struct waiter *a)
{
    struct rp_consumer dead;
    uint64_t pos, lost;
    rp_consumer_init(&dead, &a->rig.m, 0);
    commit_one(a);
    CHECK(rp_consumer_claim(&dead, &pos) != NULL);
    CHECK(rp_producer_bury(&a->p, 0, &lost, 1) == 0);
}

static void worker_wakes_for_a_task(void) { worker_wakes_for(by_task); }
static void worker_wakes_for_the_stop(void) { worker_wakes_for(by_stop); }
static void worker_wakes_after_a_burial(void) { worker_wakes_for(by_burial); }

/* `take` is a hint, and every worker can write it. */
static void by_task_with_a_damaged_hint(struct waiter *a)
{
    rp_store_relaxed(&a->rig.m.h->take, UINT64_MAX);
    by_task(a);
}
static void by_litter(struct waiter *a) { rp_parent_ask_to_clean(&a->rig.m); }
static void worker_wakes_to_clean(void) { worker_wakes_for(by_litter); }

static void worker_is_told_once_to_clean(void)
{
    static struct waiter a;
    waiter_open(&a, 1, RP_DOORBELL_FUTEX);
    CHECK(!rp_consumer_is_to_clean(&a.c));
    rp_parent_ask_to_clean(&a.rig.m);
    CHECK(rp_consumer_is_to_clean(&a.c) && !rp_consumer_is_to_clean(&a.c));
    waiter_close(&a);
}

static void worker_wakes_with_a_damaged_hint(void) { worker_wakes_for(by_task_with_a_damaged_hint); }

static void worker_announces_before_it_waits(void)
{
    static struct waiter a;
    waiter_open(&a, 0, RP_DOORBELL_FUTEX);
    CHECK(rp_writer_reserve(&a.w, 4) != NULL);
    rp_writer_publish(&a.w, 4, 1, 0);
    rp_store_seq(&a.rig.m.h->armed, 1);
    rp_store_seq(&a.rig.m.h->wake_bytes, 10000);
    rp_store_seq(&a.rig.m.h->stop, 1);
    wait_for_tasks(&a);
    CHECK(rp_load_seq(&a.rig.m.h->armed) == 0 && rp_bell_read(&a.rig.m.h->bell) == 1);
    waiter_close(&a);
}

static void worker_glances(void)
{
    static struct waiter a;
    waiter_open(&a, 1, RP_DOORBELL_FUTEX);
    CHECK(!rp_worker_glance(&a.c, &a.w, &a.spin));
    /* What is unread is announced first. */
    CHECK(rp_writer_reserve(&a.w, 4) != NULL);
    rp_writer_publish(&a.w, 4, 1, 0);
    rp_store_seq(&a.rig.m.h->armed, 1);
    CHECK(!rp_worker_glance(&a.c, &a.w, &a.spin));
    CHECK(rp_load_seq(&a.rig.m.h->armed) == 0 && rp_bell_read(&a.rig.m.h->bell) == 1);
    commit_one(&a);
    CHECK(rp_worker_glance(&a.c, &a.w, &a.spin));
    CHECK(rp_load_relaxed(&a.rig.m.h->chair[0]) == 0 && !parked(&a));
    /* Not while looking does not pay, nor where somebody else sits on the only chair. */
    rp_spin_failed(&a.spin);
    CHECK(!rp_worker_glance(&a.c, &a.w, &a.spin));
    rp_spin_paid(&a.spin);
    rp_store_seq(&a.rig.m.h->chair[0], 1);
    CHECK(!rp_worker_glance(&a.c, &a.w, &a.spin));
    CHECK(rp_load_relaxed(&a.rig.m.h->chair[0]) == 1);
    waiter_close(&a);
}

/* The counter is for lost wake-ups: a worker that slept because others did the work has missed nothing. */
static void sleeping_while_others_work_is_not_late(void)
{
    static struct waiter a;
    struct rp_consumer other;
    pthread_t t;
    uint64_t pos;
    waiter_open(&a, 0, RP_DOORBELL_FUTEX);
    rp_consumer_init(&other, &a.rig.m, 0);
    test_thread(&t, wait_for_tasks, &a);
    until_parked(&a);
    commit_one(&a);
    CHECK(rp_consumer_claim(&other, &pos) != NULL);
    rp_consumer_start(&other, &a.rig.m.slots[pos & a.rig.m.slot_mask], pos);
    rp_producer_settle(&a.p, pos);
    pthread_join(t, NULL);
    CHECK(rp_load_relaxed(&a.rig.m.seats[1].late) == 0);
    waiter_close(&a);
}

struct parent_wait {
    struct waiter *a;
    struct rp_patience patience;
    uint32_t seen;
    bool unread;
};

static void *wait_for_results(void *arg)
{
    struct parent_wait *p = arg;
    struct rp_spin spin;
    rp_spin_init(&spin);
    int64_t begin = rp_now_ns();
    p->unread = rp_parent_wait(&p->a->rig.m, p->a->r, 2, p->seen, &p->patience, &spin);
    p->a->took = rp_now_ns() - begin;
    return NULL;
}

static void publish_one(struct waiter *a)
{
    CHECK(rp_writer_reserve(&a->w, 4) != NULL);
    rp_writer_publish(&a->w, 4, 1, 0);
}

static void by_result(struct waiter *a)
{
    publish_one(a);
    rp_writer_announce_now(&a->w, true);
}

/* Quietly, as from the middle of a stretch whose announcement just missed the boss. */
static void by_unannounced_result(struct waiter *a) { publish_one(a); }

static void by_ring(struct waiter *a) { rp_parent_ring(&a->rig.m); }

static void parent_wakes_for(void (*cause)(struct waiter *), bool unread, bool armed_first)
{
    static const struct rp_patience all[] = {{true, 0, -1}, {false, 0, -1}, {false, 4096, -1}, {true, 4096, INT64_C(20000000000)}};
    for EACH_KIND(k) {
        for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
            static struct waiter a;
            pthread_t t;
            waiter_open(&a, 0, k);
            struct parent_wait p = {&a, all[i], rp_parent_arm(&a.rig.m), false};
            if (armed_first) {
                test_thread(&t, wait_for_results, &p);
                while (!rp_load_seq(&a.rig.m.h->armed))
                    sched_yield();
                cause(&a);
                pthread_join(t, NULL);
            } else {
                cause(&a);
                wait_for_results(&p);
            }
            CHECK(a.took < SOON && p.unread == unread);
            CHECK(rp_load_relaxed(&a.rig.m.h->late) == 0);
            waiter_close(&a);
        }
    }
}

static void parent_wakes_for_a_result(void)
{
    parent_wakes_for(by_result, true, true);
    parent_wakes_for(by_result, true, false);
}

static void parent_wakes_for_a_ring(void)
{
    parent_wakes_for(by_ring, false, true);
    parent_wakes_for(by_ring, false, false);
}

static void parent_finds_a_result_that_missed_it(void) { parent_wakes_for(by_unannounced_result, true, false); }

static void parent_keeps_its_limit(void)
{
    for EACH_KIND(k) {
        static const int64_t limits[] = {0, 1000, 300000, 5000000, 50000000};
        for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
            static struct waiter a;
            waiter_open(&a, 0, k);
            struct parent_wait p = {&a, {i % 2, i % 2 ? 100 : 0, limits[i]}, rp_parent_arm(&a.rig.m), false};
            wait_for_results(&p);
            CHECK(!p.unread && a.took >= limits[i] && a.took < limits[i] + SOON);
            CHECK(rp_load_relaxed(&a.rig.m.h->late) == 0);
            waiter_close(&a);
        }
    }
}

static void one_result_wakes_all_threads_of_the_parent(void)
{
    for EACH_KIND(k) {
        static struct waiter a;
        pthread_t t[3];
        struct parent_wait p[3];
        static struct waiter shadow[3];
        waiter_open(&a, 0, k);
        for (int i = 0; i < 3; i++) {
            shadow[i] = a;
            p[i] = (struct parent_wait){&shadow[i], PARKING, rp_parent_arm(&a.rig.m), false};
            test_thread(&t[i], wait_for_results, &p[i]);
        }
        while (!rp_load_seq(&a.rig.m.h->armed))
            sched_yield();
        by_result(&a);
        for (int i = 0; i < 3; i++) {
            pthread_join(t[i], NULL);
            CHECK(p[i].unread && shadow[i].took < SOON);
        }
        waiter_close(&a);
    }
}

/* What one thread finds worth a wake-up must not outlast its wait: another one may be parked for the first result. */
static void patience_of_one_thread_ends_with_its_wait(void)
{
    static struct waiter a;
    pthread_t t;
    struct rp_spin spin;
    struct rp_patience impatient = {false, 100, 0};
    waiter_open(&a, 0, RP_DOORBELL_FUTEX);
    struct parent_wait p = {&a, PARKING, rp_parent_arm(&a.rig.m), false};
    rp_spin_init(&spin);
    test_thread(&t, wait_for_results, &p);
    while (!rp_load_seq(&a.rig.m.h->armed))
        sched_yield();
    /* Longer than the short parks at the beginning of a wait: then the other one is in its long park. */
    impatient.limit_ns = 3000000;
    CHECK(!rp_parent_wait(&a.rig.m, a.r, 2, p.seen, &impatient, &spin));
    impatient.limit_ns = 0;
    CHECK(!rp_parent_wait(&a.rig.m, a.r, 2, p.seen, &impatient, &spin));
    publish_one(&a);
    rp_writer_announce_now(&a.w, false);
    pthread_join(t, NULL);
    CHECK(p.unread && a.took < SOON);
    CHECK(rp_load_relaxed(&a.rig.m.h->late) == 0);
    waiter_close(&a);
}

/* The supervisor empties a seat while other threads of the parent are in the middle of a wait. */
static void seat_is_emptied_during_a_wait(void)
{
    static struct waiter a;
    pthread_t t;
    waiter_open(&a, 0, RP_DOORBELL_FUTEX);
    struct parent_wait p = {&a, PARKING, rp_parent_arm(&a.rig.m), false};
    test_thread(&t, wait_for_results, &p);
    while (!rp_load_seq(&a.rig.m.h->armed))
        sched_yield();
    rp_reader_reset(&a.r[0]);
    rp_parent_ring(&a.rig.m);
    pthread_join(t, NULL);
    CHECK(!p.unread && a.took < SOON);
    waiter_close(&a);
}

/* A caller who wants the first result and a collector who wants many, under one lock as in the parent. */
struct office {
    struct boss b;
    pthread_mutex_t lock;
};

static void work_in(struct office *o, struct rp_patience patience, bool feeds)
{
    struct rp_spin spin;
    rp_spin_init(&spin);
    for (;;) {
        uint32_t seen = rp_parent_arm(&o->b.rig.m), n;
        pthread_mutex_lock(&o->lock);
        n = collect_all(&o->b);
        if (feeds)
            n += feed(&o->b, 50);
        bool over = o->b.settled == o->b.total;
        pthread_mutex_unlock(&o->lock);
        if (n)
            rp_parent_ring(&o->b.rig.m);
        if (over)
            return;
        if (n == 0)
            rp_parent_wait(&o->b.rig.m, o->b.readers, o->b.workers, seen, &patience, &spin);
    }
}

static void *collect_in(void *office)
{
    work_in(office, COALESCING, false);
    return NULL;
}

static void two_threads_of_the_parent(void)
{
    static struct office o;
    struct rp_geometry g = {.nslots = 128, .nseats = 2, .ring_bytes = 4096, .chairs = 1};
    struct thread_arg args[MOST_WORKERS];
    pthread_t t;
    boss_open(&o.b, &g, test_scaled(60000));
    pthread_mutex_init(&o.lock, NULL);
    for (uint32_t i = 0; i < o.b.workers; i++) {
        args[i] = (struct thread_arg){&o.b, i};
        test_thread(&o.b.thread[i], serve_on_thread, &args[i]);
    }
    test_thread(&t, collect_in, &o);
    work_in(&o, PARKING, true);
    pthread_join(t, NULL);
    stop(&o.b);
    for (uint32_t i = 0; i < o.b.workers; i++)
        pthread_join(o.b.thread[i], NULL);
    pthread_mutex_destroy(&o.lock);
    boss_close(&o.b);
}

TEST_MAIN(T(worker_wakes_for_a_task), T(worker_wakes_for_the_stop), T(worker_wakes_after_a_burial),
          T(worker_wakes_with_a_damaged_hint), T(worker_wakes_to_clean), T(worker_is_told_once_to_clean),
          T(worker_announces_before_it_waits), T(worker_glances), T(sleeping_while_others_work_is_not_late),
          T(parent_wakes_for_a_result), T(parent_wakes_for_a_ring), T(parent_finds_a_result_that_missed_it),
          T(parent_keeps_its_limit), T(one_result_wakes_all_threads_of_the_parent),
          T(patience_of_one_thread_ends_with_its_wait), T(seat_is_emptied_during_a_wait), T(threads_full_speed),
          T(two_threads_of_the_parent), T(threads_without_chairs), T(threads_on_tiny_rings), T(threads_that_wait_for_room), T(one_task_at_a_time),
          T(threads_without_futex), T(random_kills), T(random_kills_without_futex), T(death_at_every_point),
          T(death_at_every_point_without_futex))
