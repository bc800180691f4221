#include "rig.h"

#include "doorbell.h"

#define MS INT64_C(1000000)
#define LONG (20000 * MS)

static const enum rp_doorbell_kind KINDS[] = {RP_DOORBELL_FUTEX, RP_DOORBELL_POLL};
#define EACH_KIND(k) (size_t k = 0; k < sizeof KINDS / sizeof *KINDS; k++)

static void probe_says_futex_where_it_works(void)
{
    rp_u32 bell = 0;
    if (rp_doorbell_probe() == RP_DOORBELL_FUTEX)
        CHECK(rp_bell_park(&bell, 0, MS, RP_DOORBELL_FUTEX) == -ETIMEDOUT);
    else
        fprintf(stderr, "no futex here\n");
}

static void ring_between_read_and_park(void)
{
    for EACH_KIND(k) {
        rp_u32 bell = UINT32_MAX;
        uint32_t seen = rp_bell_read(&bell);
        rp_bell_ring(&bell, KINDS[k]);
        int64_t begin = rp_now_ns();
        CHECK(rp_bell_park(&bell, seen, LONG, KINDS[k]) == 0);
        CHECK(rp_bell_park(&bell, seen, -1, KINDS[k]) == 0);
        CHECK(rp_now_ns() - begin < LONG / 4);
    }
}

static void timeout_is_kept(void)
{
    for EACH_KIND(k) {
        rp_u32 bell = 5;
        int64_t begin = rp_now_ns();
        CHECK(rp_bell_park(&bell, 5, 0, KINDS[k]) == -ETIMEDOUT);
        CHECK(rp_bell_park(&bell, 5, 30 * MS, KINDS[k]) == -ETIMEDOUT);
        CHECK(rp_now_ns() - begin >= 30 * MS && rp_now_ns() - begin < 5000 * MS);
        begin = rp_now_ns();
        CHECK(rp_bell_park(&bell, 5, 1100 * MS, KINDS[k]) == -ETIMEDOUT);
        CHECK(rp_now_ns() - begin >= 1100 * MS && rp_now_ns() - begin < 5000 * MS);
    }
}

static void nothing(int sig) { (void)sig; }

static void signal_ends_a_park(void)
{
    struct sigaction act = {.sa_handler = nothing, .sa_flags = SA_RESTART}, old;
    sigaction(SIGUSR1, &act, &old);
    for EACH_KIND(k) {
        rp_u32 bell = 0;
        timer_t timer;
        /* Again and again: the first may come before the park. */
        struct itimerspec often = {{0, 5 * MS}, {0, 5 * MS}};
        struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
        CHECK(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0);
        CHECK(timer_settime(timer, 0, &often, NULL) == 0);
        int64_t begin = rp_now_ns();
        CHECK(rp_bell_park(&bell, 0, LONG, KINDS[k]) == 0);
        CHECK(rp_now_ns() - begin < LONG / 4);
        timer_delete(timer);
    }
    sigaction(SIGUSR1, &old, NULL);
}

static void spin_budget_stays_in_its_bounds(void)
{
    struct rp_spin s;
    rp_spin_init(&s);
    for (int i = 0; i < 100; i++) {
        CHECK(s.budget_ns >= RP_SPIN_MIN_NS && s.budget_ns <= RP_SPIN_MAX_NS);
        rp_spin_failed(&s);
    }
    CHECK(s.budget_ns == RP_SPIN_MIN_NS);
    rp_spin_paid(&s);
    CHECK(s.budget_ns == RP_SPIN_MAX_NS);
}

/* Two sides that throw a turn to each other and park whenever it is not theirs. */
struct court {
    rp_u32 bell[2];
    rp_u32 turn;
    rp_u32 late;
    uint32_t rounds;
    enum rp_doorbell_kind kind;
};

static void play(struct court *c, uint32_t side)
{
    for (uint32_t i = 0; i < c->rounds; i++) {
        for (;;) {
            uint32_t seen = rp_bell_read(&c->bell[side]);
            if (rp_load_acquire(&c->turn) == side)
                break;
            if (rp_bell_park(&c->bell[side], seen, LONG, c->kind) == -ETIMEDOUT)
                rp_add_seq(&c->late, 1);
        }
        rp_store_seq(&c->turn, !side);
        rp_bell_ring(&c->bell[!side], c->kind);
    }
}

static void *play_one(void *court)
{
    play(court, 1);
    return NULL;
}

static void ping_pong_of_threads(void)
{
    for EACH_KIND(k) {
        static struct court c;
        memset((void *)&c, 0, sizeof c);
        c.kind = KINDS[k];
        c.rounds = test_scaled(KINDS[k] == RP_DOORBELL_FUTEX ? 20000 : 2000);
        pthread_t t;
        test_thread(&t, play_one, &c);
        play(&c, 0);
        pthread_join(t, NULL);
        CHECK(rp_load_relaxed(&c.late) == 0);
    }
}

static void attach_and_play(void *arg)
{
    struct rp_segment mine;
    CHECK(rp_segment_attach(&mine, *(int *)arg) == 0);
    play(mine.base, 1);
    rp_segment_close(&mine);
}

static void ping_pong_of_processes(void)
{
    for EACH_KIND(k) {
        struct rp_segment s;
        CHECK(rp_segment_create(&s, 4096, RP_SEGMENT_ANY) == 0);
        struct court *c = s.base;
        c->kind = KINDS[k];
        c->rounds = test_scaled(KINDS[k] == RP_DOORBELL_FUTEX ? 20000 : 2000);
        pid_t pid = test_spawn(attach_and_play, &s.fd);
        play(c, 0);
        CHECK(test_reap(pid) == 0);
        CHECK(rp_load_relaxed(&c->late) == 0);
        rp_segment_close(&s);
    }
}

static void *wait_for_the_turn(void *court)
{
    struct court *c = court;
    uint32_t seen;
    while (seen = rp_bell_read(&c->bell[1]), rp_load_acquire(&c->turn) != 1)
        if (rp_bell_park(&c->bell[1], seen, LONG, c->kind) == -ETIMEDOUT)
            rp_add_seq(&c->late, 1);
    return NULL;
}

static void one_ring_wakes_all(void)
{
    for EACH_KIND(k) {
        for (uint32_t i = 0; i < test_scaled(200); i++) {
            static struct court c;
            memset((void *)&c, 0, sizeof c);
            c.kind = KINDS[k];
            pthread_t t[3];
            for (int n = 0; n < 3; n++)
                test_thread(&t[n], wait_for_the_turn, &c);
            rp_store_seq(&c.turn, 1);
            rp_bell_ring(&c.bell[1], c.kind);
            for (int n = 0; n < 3; n++)
                pthread_join(t[n], NULL);
            CHECK(rp_load_relaxed(&c.late) == 0);
        }
    }
}

/* The eventcount of doorbell.h: the ringer rings only for who says that it parks. One lost wake-up is a LONG wait. */
struct counted {
    rp_u32 bell, parked;
    rp_u32 made;
    rp_u32 late, rings;
    uint32_t items;
    enum rp_doorbell_kind kind;
};

static void *make(void *arg)
{
    struct counted *c = arg;
    uint64_t seed = 3;
    for (uint32_t i = 1; i <= c->items; i++) {
        rp_store_seq(&c->made, i);
        if (rp_load_seq(&c->parked)) {
            rp_add_seq(&c->rings, 1);
            rp_bell_ring(&c->bell, c->kind);
        }
        /* One item at a time, so that each is a chance to miss the waiter; different distances, to hit all moments. */
        for (uint32_t n = test_below(&seed, 400); n > 0; n--)
            rp_cpu_relax();
        while (rp_load_acquire(&c->made) != 0)
            sched_yield();
    }
    return NULL;
}

static void no_wake_up_is_lost(void)
{
    for EACH_KIND(k) {
        static struct counted c;
        memset((void *)&c, 0, sizeof c);
        c.kind = KINDS[k];
        c.items = test_scaled(KINDS[k] == RP_DOORBELL_FUTEX ? 100000 : 3000);
        uint64_t seed = 5;
        pthread_t t;
        test_thread(&t, make, &c);
        for (uint32_t i = 1; i <= c.items; i++) {
            while (rp_load_seq(&c.made) == 0) {
                for (uint32_t n = test_below(&seed, 200); n > 0; n--)
                    rp_cpu_relax();
                uint32_t seen = rp_bell_read(&c.bell);
                rp_store_seq(&c.parked, 1);
                if (rp_load_seq(&c.made) == 0 && rp_bell_park(&c.bell, seen, LONG, c.kind) == -ETIMEDOUT)
                    rp_add_seq(&c.late, 1);
                rp_store_seq(&c.parked, 0);
            }
            CHECK(rp_load_relaxed(&c.made) == i);
            rp_store_release(&c.made, 0);
        }
        pthread_join(t, NULL);
        CHECK(rp_load_relaxed(&c.late) == 0);
        CHECK(rp_load_relaxed(&c.rings) > 0);
    }
}

TEST_MAIN(T(probe_says_futex_where_it_works), T(ring_between_read_and_park), T(timeout_is_kept), T(signal_ends_a_park),
          T(spin_budget_stays_in_its_bounds), T(ping_pong_of_threads), T(ping_pong_of_processes), T(one_ring_wakes_all),
          T(no_wake_up_is_lost))
