/* A result ring in worlds of the scheduler: the smallest ring, records of every length, wrap-around, waits for room, and a writer
 * that dies anywhere and is replaced. The reader waits for a tail that is visible to all, the writer only by rp_writer_wait. */
#include "sched_rig.h"

#include "resultring.h"

#define RECORDS 14u
#define RING 256u
#define MORTALS 4u

static struct {
    struct rp_map m;
    struct rp_reader r;
    bool deaths;
    uint32_t mortals;
    uint64_t written, read; /* records */
    uint32_t len[RECORDS];
    bool over;
} play;

static void write_records(void *arg)
{
    struct rp_writer w;
    unsigned char *to;
    (void)arg;
    rp_writer_init(&w, &play.m, 0);
    if (play.deaths && play.mortals++ < MORTALS)
        sched_may_die();
    for (uint64_t id = play.written; id < RECORDS; id++) {
        if (sched_below(4) == 0 && (to = rp_writer_reserve(&w, rp_writer_limit(&w))) != NULL)
            sched_fill(to, 1000, 9); /* given up */
        while (!(to = rp_writer_reserve(&w, play.len[id])))
            rp_writer_wait(&w);
        sched_fill(to, id, play.len[id]);
        rp_writer_publish(&w, play.len[id], (uint16_t)(id + 1), id);
        play.written = id + 1;
        if (sched_below(3) == 0)
            rp_writer_announce(&w);
    }
    rp_writer_announce_now(&w, true);
}

static bool something_to_read(void *arg)
{
    (void)arg;
    return rp_load_seq(&play.m.seats[0].tail) != rp_load_relaxed(&play.r.head) || sched_anyone_dead();
}

/* Looks at the record first, like a reader that decodes it, and consumes it then. */
static int read_one(void)
{
    struct rp_view v;
    int got = rp_reader_peek(&play.r, &v);
    CHECK(got >= 0);
    if (got != 1)
        return got;
    CHECK(play.read < RECORDS && v.pos == play.read && v.kind == v.pos + 1);
    CHECK(play.read < RECORDS && v.len == play.len[play.read] && sched_is(v.payload, v.pos, v.len));
    play.read++;
    rp_reader_consume(&play.r, &v);
    return 1;
}

static void read_records(void *arg)
{
    int got = 0;
    (void)arg;
    while (play.read < RECORDS) {
        sched_wait(something_to_read, NULL);
        uint32_t most = sched_below(2) ? 1 + sched_below(8) : RECORDS;
        if (rp_reader_unread(&play.r))
            while (most-- > 0 && (got = read_one()) > 0)
                continue;
        if (got < 0)
            return;
        rp_reader_room(&play.r);
        if (!sched_anyone_dead())
            continue;
        sched_next_dead();
        while (read_one() > 0)
            continue;
        CHECK(play.read <= play.written + 1);
        if (play.read == RECORDS)
            return;
        play.written = play.read;
        rp_reader_reset(&play.r);
        sched_thread(write_records, NULL);
    }
}

static void play_records(bool deaths)
{
    memset((void *)&play, 0, sizeof play);
    play.deaths = deaths;
    for (uint32_t i = 0; i < RECORDS; i++)
        play.len[i] = sched_below(3) ? sched_below(20) : sched_below(RING / 4 - (uint32_t)sizeof(struct rp_record) + 1);
    sched_rig_open(&play.m, 1, 1, RING, 0);
    rp_reader_init(&play.r, &play.m, 0);
    sched_share("reader", &play.r, sizeof play.r);
    sched_thread(write_records, NULL);
    sched_thread(read_records, NULL);
    sched_run();
    CHECK(sched_complaint() || play.read == RECORDS);
}

static void plain_records(void) { play_records(false); }
static void records_and_deaths(void) { play_records(true); }

static void every_record_arrives_whole(void)
{
    uint64_t before = sched_counts.parks;
    sched_worlds(plain_records, 3000);
    CHECK(sched_counts.parks > before || getenv("RP_SEED"));
}

static void deaths_leave_nothing_half_written(void)
{
    uint64_t before = sched_counts.deaths;
    sched_worlds(records_and_deaths, 3000);
    CHECK(sched_counts.deaths > before || getenv("RP_SEED"));
}

TEST_MAIN(T(every_record_arrives_whole), T(deaths_leave_nothing_half_written))
