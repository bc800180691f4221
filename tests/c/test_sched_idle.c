/* A whole pool in worlds of the scheduler: workers claim, run, publish and wait as worker processes do; the parent commits,
 * collects and waits, with a second thread that buries and replaces the dead, under a lock like the GIL. No wait is ended by its
 * safety net, so each wake-up has to come. */
#include "sched_rig.h"

#include "idle.h"

#define TASKS 6u
#define SEATS 3u
#define BYTES 5u
#define MORTALS 5u

static struct {
    struct rp_map m;
    struct rp_producer p;
    struct rp_reader r[SEATS];
    struct sched_lock gil;
    bool deaths, seldom, two_callers;
    uint32_t nseats, alive, mortals;
    int thread_in[SEATS];
    uint64_t id_of[4];
    uint32_t ran[TASKS], fates[TASKS];
    uint32_t next, settled;
    struct rp_spin spin;
} play;

static struct seat {
    uint32_t number;
} seats[SEATS] = {{0}, {1}, {2}};

/* As _worker.pyx has it. */
static void send(struct rp_consumer *c, struct rp_writer *w, struct rp_slot *s, uint64_t pos, uint64_t id)
{
    uint32_t len = sched_below(3) ? BYTES : rp_writer_limit(w);
    unsigned char *to = rp_writer_reserve(w, len);
    if (to) {
        sched_fill(to, id, len);
        CHECK(rp_consumer_finish(c, s, pos));
    } else {
        CHECK(rp_consumer_finish(c, s, pos));
        while (!(to = rp_writer_reserve(w, len)))
            rp_writer_wait(w);
        sched_fill(to, id, len);
    }
    rp_writer_publish(w, len, 1, pos);
}

static void work(void *arg)
{
    struct rp_consumer c;
    struct rp_writer w;
    struct rp_spin spin;
    struct rp_slot *s;
    uint64_t pos = 0;
    uint32_t seat = ((struct seat *)arg)->number;
    rp_u32 *orders = &play.m.seats[seat].orders;
    rp_consumer_init(&c, &play.m, seat);
    rp_writer_init(&w, &play.m, seat);
    rp_spin_init(&spin);
    if (play.deaths && play.mortals++ < MORTALS)
        sched_may_die();
    rp_writer_announce_now(&w, true);
    for (bool serve = false; !serve && rp_load_seq(orders) != RP_LEAVE && !rp_load_seq(&play.m.h->stop);)
        serve = rp_worker_stand_by(&c);
    rp_store_seq(&play.m.seats[seat].phase, RP_SEAT_SERVING);
    while (rp_load_relaxed(orders) != RP_LEAVE) {
        s = rp_consumer_claim(&c, &pos);
        if (!s) {
            if (rp_load_seq(&play.m.h->stop))
                break;
            if (!rp_worker_glance(&c, &w, &spin))
                rp_worker_wait(&c, &w, &spin);
            continue;
        }
        if (!rp_consumer_start(&c, s, pos)) {
            CHECK(!"a task that nobody revokes");
            continue;
        }
        uint64_t id = s->len;
        CHECK(id < TASKS && sched_is(s->data, id, BYTES));
        if (id < TASKS)
            play.ran[id]++;
        send(&c, &w, s, pos, id);
        if (rp_consumer_in_stretch(&c)) {
            rp_writer_announce(&w);
            continue;
        }
        rp_consumer_pace(&c, sched_below(2) ? 0 : RP_STRETCH_NS);
        if (sched_below(2))
            rp_writer_announce_now(&w, false);
        else
            rp_writer_announce(&w);
    }
    rp_writer_announce_now(&w, true);
}

static void settle(uint64_t pos)
{
    play.fates[play.id_of[pos & play.m.slot_mask]]++;
    play.settled++;
    rp_producer_settle(&play.p, pos);
}

static uint32_t collect(void)
{
    uint32_t n = 0;
    struct rp_view v;
    for (uint32_t seat = 0; seat < play.nseats; seat++) {
        int got = 0;
        if (!rp_reader_unread(&play.r[seat]))
            continue;
        while ((got = rp_reader_peek(&play.r[seat], &v)) == 1) {
            CHECK(rp_producer_expects(&play.p, v.pos, seat));
            CHECK(sched_is(v.payload, play.id_of[v.pos & play.m.slot_mask], v.len));
            settle(v.pos);
            rp_reader_consume(&play.r[seat], &v);
            n++;
        }
        CHECK(got == 0);
        rp_reader_room(&play.r[seat]);
    }
    return n;
}

static void submit(void)
{
    uint64_t pos;
    struct rp_slot *s;
    uint32_t n = 1 + sched_below(4), begin = play.next;
    for (; n > 0 && play.next < TASKS && (s = rp_producer_next(&play.p, &pos)); n--) {
        play.id_of[pos & play.m.slot_mask] = play.next;
        s->len = play.next;
        sched_fill(s->data, play.next++, BYTES);
        rp_producer_commit(&play.p, pos);
        if (sched_below(2))
            rp_producer_nudge(&play.p);
    }
    if (play.next != begin)
        rp_producer_kick(&play.p);
}

static void call(void *arg)
{
    struct rp_spin spin = play.spin;
    (void)arg;
    sched_lock(&play.gil);
    for (;;) {
        struct rp_patience patience = {sched_below(2), play.seldom && sched_below(2) ? 64 : 0, sched_below(4) ? -1 : 300000};
        uint32_t seen = rp_parent_arm(&play.m);
        if (collect() && play.two_callers)
            rp_parent_ring(&play.m);
        if (play.settled == TASKS)
            break;
        submit();
        sched_unlock(&play.gil);
        rp_parent_wait(&play.m, play.r, play.nseats, seen, &patience, &spin);
        sched_lock(&play.gil);
    }
    rp_producer_stop(&play.p);
    sched_unlock(&play.gil);
}

static void supervise(void *arg)
{
    (void)arg;
    for (uint32_t i = 0; i < play.nseats; i++)
        rp_parent_order(&play.m, i, RP_SERVE);
    for (;;) {
        uint64_t lost[2];
        int dead = sched_next_dead();
        uint32_t seat = 0;
        sched_lock(&play.gil);
        while (play.thread_in[seat] != dead)
            seat++;
        while (rp_reader_unread(&play.r[seat]))
            collect();
        uint32_t n = rp_producer_bury(&play.p, seat, lost, 2);
        CHECK(n <= 1);
        for (uint32_t i = 0; i < n; i++)
            settle(lost[i]);
        rp_reader_reset(&play.r[seat]);
        rp_parent_ring(&play.m);
        /* The others have to take what came back; a new worker would hide that they do not see it. */
        bool replaced = play.alive == 1 || sched_below(2);
        if (replaced)
            play.thread_in[seat] = sched_thread(work, &seats[seat]);
        else
            play.thread_in[seat] = -1;
        play.alive -= !replaced;
        sched_unlock(&play.gil);
        if (replaced)
            rp_parent_order(&play.m, seat, RP_SERVE);
    }
}

static void play_pool(bool deaths, uint32_t chairs)
{
    memset((void *)&play, 0, sizeof play);
    play.deaths = deaths;
    play.seldom = sched_below(2);
    play.two_callers = sched_below(2);
    play.nseats = play.alive = 1 + sched_below(SEATS);
    rp_spin_init(&play.spin);
    sched_rig_open(&play.m, 1u << sched_below(3), play.nseats, 256, chairs);
    rp_use_seats(&play.m, play.nseats);
    /* With one core, and tasks that are short now and then, there is a lookout. */
    play.m.cores = sched_below(2);
    if (rp_producer_init(&play.p, &play.m))
        exit(125);
    for (uint32_t i = 0; i < play.nseats; i++)
        rp_reader_init(&play.r[i], &play.m, i);
    sched_share("readers", play.r, sizeof play.r);
    for (uint32_t i = 0; i < play.nseats; i++)
        play.thread_in[i] = sched_thread(work, &seats[i]);
    sched_thread(call, NULL);
    if (play.two_callers)
        sched_thread(call, NULL);
    sched_daemon(supervise, NULL);
    sched_run();
    if (!sched_complaint()) {
        CHECK(play.settled == TASKS && play.p.outstanding == 0);
        for (uint32_t id = 0; id < TASKS; id++)
            CHECK(play.fates[id] == 1 && play.ran[id] <= 1 && (play.deaths || play.ran[id] == 1));
        CHECK(rp_load_relaxed(&play.m.h->late) == 0);
        for (uint32_t i = 0; i < play.nseats; i++)
            CHECK(rp_load_relaxed(&play.m.seats[i].late) == 0);
    }
    rp_producer_free(&play.p);
}

static void without_chairs(void) { play_pool(false, 0); }
static void with_chairs(void) { play_pool(false, 1 + sched_below(2)); }
static void with_deaths(void) { play_pool(true, sched_below(3)); }

static void whoever_parks_is_woken(void)
{
    uint64_t before = sched_counts.parks;
    sched_worlds(without_chairs, 3000);
    CHECK(sched_counts.parks > before || getenv("RP_SEED"));
}
static void whoever_spins_sees_it(void) { sched_worlds(with_chairs, 1500); }
static void deaths_take_no_wake_up_along(void)
{
    uint64_t before = sched_counts.deaths;
    sched_worlds(with_deaths, 3000);
    CHECK(sched_counts.deaths > before || getenv("RP_SEED"));
}

TEST_MAIN(T(whoever_parks_is_woken), T(whoever_spins_sees_it), T(deaths_take_no_wake_up_along))
