/* The task ring in worlds of the scheduler: claim, start, finish, revoke, doom, bury and retry in every order, with old values and
 * deaths anywhere. A worker that finds nothing waits for exactly what taskring.h says can make a task appear; the parent waits for
 * a finished task or a death. */
#include "sched_rig.h"

#include "taskring.h"

#define TASKS 7u
#define SEATS 3u
#define BYTES 5u
#define MORTALS 6u

enum fate { OPEN, DONE, REVOKED, LOST };

static struct {
    struct rp_map m;
    struct rp_producer p;
    bool deaths, revokes, dooms;
    uint32_t nslots, nseats, retries, alive;
    uint32_t mortals;         /* that were started so far */
    int thread_in[SEATS];
    uint64_t id_of[4];        /* by slot: the task in it */
    uint32_t ran[TASKS], tries[TASKS];
    bool doomed[TASKS];
    enum fate fate[TASKS];
    uint32_t next, settled;
} play;

struct seat {
    uint32_t number;
};
static struct seat seats[SEATS] = {{0}, {1}, {2}};

static bool never(void *arg)
{
    (void)arg;
    return false;
}

static bool a_task_may_be_there(void *arg)
{
    const struct rp_consumer *c = arg;
    const struct rp_header *h = play.m.h;
    return rp_load_seq(&h->tail) != c->seen || rp_load_seq(&h->rescan) != c->rescan || rp_load_seq(&h->stop);
}

static void work(void *arg)
{
    struct rp_consumer c;
    struct rp_slot *s;
    uint64_t pos = 0;
    rp_consumer_init(&c, &play.m, ((struct seat *)arg)->number);
    rp_consumer_pace(&c, sched_below(2) ? 0 : RP_STRETCH_NS / 2);
    if (play.deaths && play.mortals++ < MORTALS)
        sched_may_die();
    for (;;) {
        s = rp_consumer_claim(&c, &pos);
        if (!s) {
            if (rp_load_seq(&play.m.h->stop))
                return;
            sched_wait(a_task_may_be_there, &c);
            continue;
        }
        if (!rp_consumer_start(&c, s, pos)) {
            CHECK(play.revokes);
            continue;
        }
        uint64_t id = s->len;
        CHECK(id < TASKS && s->func_off == id && s->off == 0);
        CHECK(id < TASKS && sched_is(s->data, id, BYTES));
        if (id < TASKS) {
            CHECK(play.fate[id] == OPEN);
            play.ran[id]++;
        }
        if (!rp_consumer_finish(&c, s, pos)) {
            CHECK(play.dooms);
            sched_wait(never, NULL);
        }
    }
}

static void settle(uint64_t pos, enum fate fate)
{
    uint64_t id = play.id_of[pos & play.m.slot_mask];
    CHECK(play.fate[id] == OPEN);
    play.fate[id] = fate;
    play.settled++;
    rp_producer_settle(&play.p, pos);
}

static bool commit(void)
{
    uint64_t pos;
    struct rp_slot *s = play.next < TASKS ? rp_producer_next(&play.p, &pos) : NULL;
    if (!s)
        return false;
    uint64_t id = play.next++;
    play.id_of[pos & play.m.slot_mask] = id;
    s->len = s->func_off = id;
    s->off = 0;
    sched_fill(s->data, id, BYTES);
    rp_producer_commit(&play.p, pos);
    rp_producer_show(&play.p);
    return true;
}

static bool look(uint64_t i, uint64_t *pos, enum rp_phase *phase, uint32_t *seat)
{
    bool sound = rp_producer_look(&play.p, i, pos, phase, seat);
    CHECK(sound || !play.p.owner[i]);
    return sound;
}

static uint32_t collect(void)
{
    uint32_t n = 0, seat;
    uint64_t pos;
    enum rp_phase phase;
    for (uint64_t i = 0; i <= play.m.slot_mask; i++)
        if (look(i, &pos, &phase, &seat) && phase == RP_DONE) {
            CHECK(rp_producer_expects(&play.p, pos, seat));
            settle(pos, DONE);
            n++;
        }
    return n;
}

static void interfere(void)
{
    uint64_t pos;
    enum rp_phase phase;
    uint32_t seat;
    if (!look(sched_below(play.nslots), &pos, &phase, &seat))
        return;
    if (play.revokes && phase <= RP_CLAIMED && rp_producer_revoke(&play.p, pos))
        settle(pos, REVOKED);
    if (play.dooms && phase == RP_RUNNING && rp_producer_doom(&play.p, pos, seat)) {
        play.doomed[play.id_of[pos & play.m.slot_mask]] = true;
        sched_kill(play.thread_in[seat]);
    }
}

static void bury(int thread)
{
    uint64_t lost[4];
    uint32_t seat = 0;
    while (play.thread_in[seat] != thread)
        seat++;
    collect();
    uint32_t n = rp_producer_bury(&play.p, seat, lost, 4);
    CHECK(n <= 1);
    for (uint32_t i = 0; i < n; i++) {
        uint64_t id = play.id_of[lost[i] & play.m.slot_mask];
        if (play.tries[id] < play.retries && !play.doomed[id]) {
            play.tries[id]++;
            rp_producer_retry(&play.p, lost[i]);
        } else {
            settle(lost[i], LOST);
        }
    }
    /* The others have to take what came back; a new worker would hide that they do not see it. */
    if (play.alive > 1 && sched_below(2)) {
        play.thread_in[seat] = -1;
        play.alive--;
    } else {
        play.thread_in[seat] = sched_thread(work, &seats[seat]);
    }
}

static bool something_for_the_parent(void *arg)
{
    (void)arg;
    for (uint64_t i = 0; i <= play.m.slot_mask; i++)
        if (play.p.owner[i] && rp_state_phase(rp_load_seq(&play.m.slots[i].state)) == RP_DONE)
            return true;
    return sched_anyone_dead();
}

static void be_parent(void *arg)
{
    (void)arg;
    while (play.settled < TASKS) {
        bool idle = true;
        for (uint32_t n = sched_below(3); n > 0 && commit(); n--)
            idle = false;
        if (!idle)
            rp_producer_kick(&play.p);
        if (play.revokes || play.dooms)
            interfere();
        idle &= !collect();
        while (sched_anyone_dead()) {
            bury(sched_next_dead());
            idle = false;
        }
        uint64_t pos;
        if (idle && play.settled < TASKS && !(play.next < TASKS && rp_producer_next(&play.p, &pos)))
            sched_wait(something_for_the_parent, NULL);
    }
    rp_store_seq(&play.m.h->stop, 1);
}

static void play_tasks(bool deaths, bool revokes, bool dooms)
{
    memset((void *)&play, 0, sizeof play);
    play.deaths = deaths;
    play.revokes = revokes;
    play.dooms = dooms;
    play.nslots = 1u << sched_below(3);
    play.nseats = play.alive = 1 + sched_below(SEATS);
    play.retries = deaths ? sched_below(2) : 0;
    sched_rig_open(&play.m, play.nslots, play.nseats, 256, 0);
    rp_use_seats(&play.m, play.nseats);
    if (rp_producer_init(&play.p, &play.m))
        exit(125);
    for (uint32_t i = 0; i < play.nseats; i++)
        play.thread_in[i] = sched_thread(work, &seats[i]);
    sched_thread(be_parent, NULL);
    sched_run();
    if (!sched_complaint()) {
        CHECK(play.settled == TASKS && play.p.outstanding == 0 && play.p.low == play.p.tail);
        for (uint32_t id = 0; id < TASKS; id++)
            switch (play.fate[id]) {
            case DONE:
                CHECK(play.ran[id] >= 1 && play.ran[id] <= play.tries[id] + 1 && !play.doomed[id]);
                break;
            case REVOKED:
                CHECK(play.ran[id] <= play.tries[id]);
                break;
            case LOST:
                CHECK((play.deaths || play.doomed[id]) && play.ran[id] <= play.tries[id] + 1);
                break;
            default:
                CHECK(play.fate[id] != OPEN);
            }
    }
    rp_producer_free(&play.p);
}

static void plain_tasks(void) { play_tasks(false, false, false); }
static void tasks_and_deaths(void) { play_tasks(true, false, false); }
static void tasks_and_revokes(void) { play_tasks(false, true, false); }
static void tasks_and_everything(void) { play_tasks(sched_below(2), true, true); }

static void every_task_runs_once(void) { sched_worlds(plain_tasks, 2000); }
static void deaths_lose_only_what_had_started(void)
{
    uint64_t before = sched_counts.deaths;
    sched_worlds(tasks_and_deaths, 2000);
    CHECK(sched_counts.deaths > before || getenv("RP_SEED"));
}
static void revoked_tasks_never_start(void) { sched_worlds(tasks_and_revokes, 2000); }
static void doomed_tasks_cost_nothing_else(void)
{
    uint64_t before = sched_counts.deaths;
    sched_worlds(tasks_and_everything, 2000);
    CHECK(sched_counts.deaths > before || getenv("RP_SEED"));
}

TEST_MAIN(T(every_task_runs_once), T(deaths_lose_only_what_had_started), T(revoked_tasks_never_start),
          T(doomed_tasks_cost_nothing_else))
