/* Tasks and results between threads through everything at once: tiny rings, payloads in slots and in the arena, waits by the
 * doorbells on both sides. One parent that allocates, commits, collects and frees; workers that read and echo. TEST_MESSAGES sets
 * how many messages go through in all; a task and its result are two. */
#include "rig.h"

#include "arena.h"
#include "idle.h"

#ifndef TEST_MESSAGES
#define TEST_MESSAGES test_scaled(400000)
#endif
#define WORKERS_MOST 4
#define BLOCK_MOST 700u

struct task {
    uint64_t id;
    uint32_t len;
    struct rp_block block;
};

static struct {
    struct rig rig;
    struct rp_producer p;
    struct rp_arena arena;
    struct rp_reader readers[WORKERS_MOST];
    struct task task_of[8];
} pool;

static unsigned char byte_of(uint64_t id, uint32_t i) { return (unsigned char)(id * 31 + i * 7 + 1); }

static bool is(const unsigned char *at, uint64_t id, uint32_t len)
{
    for (uint32_t i = 0; i < len; i++)
        if (at[i] != byte_of(id, i))
            return false;
    return true;
}

static void *work(void *arg)
{
    const struct rp_map *m = &pool.rig.m;
    struct rp_consumer c;
    struct rp_writer w;
    struct rp_spin spin;
    uint64_t pos = 0;
    uint32_t seat = *(uint32_t *)arg;
    rp_consumer_init(&c, m, seat);
    rp_writer_init(&w, m, seat);
    rp_spin_init(&spin);
    rp_consumer_pace(&c, 0);
    for (;;) {
        struct rp_slot *s = rp_consumer_claim(&c, &pos);
        if (!s) {
            if (rp_load_seq(&m->h->stop))
                return NULL;
            if (!rp_worker_glance(&c, &w, &spin))
                rp_worker_wait(&c, &w, &spin);
            continue;
        }
        CHECK(rp_consumer_start(&c, s, pos));
        uint64_t id = s->func_off;
        uint32_t len = (uint32_t)s->len, echo = len < 40 ? len : 40;
        const unsigned char *at = s->off ? rp_arena_at(m, s->off, len) : s->data;
        CHECK(at && is(at, id, len));
        CHECK(rp_consumer_finish(&c, s, pos));
        unsigned char *to;
        while (!(to = rp_writer_reserve(&w, echo)))
            rp_writer_wait(&w);
        for (uint32_t i = 0; i < echo; i++)
            to[i] = byte_of(id, i);
        rp_writer_publish(&w, echo, 1, pos);
        rp_writer_announce(&w);
    }
}

static bool commit(uint64_t id, uint64_t *seed)
{
    uint64_t pos;
    struct rp_slot *s = rp_producer_next(&pool.p, &pos);
    if (!s)
        return false;
    struct task *t = &pool.task_of[pos & pool.rig.m.slot_mask];
    *t = (struct task){.id = id, .len = test_below(seed, 4) ? test_below(seed, RP_INLINE + 1) : 89 + test_below(seed, BLOCK_MOST)};
    unsigned char *to = s->data;
    if (t->len > RP_INLINE) {
        CHECK(rp_arena_alloc(&pool.arena, t->len, &t->block) == 0);
        to = rp_arena_at(&pool.rig.m, t->block.off, t->len);
    }
    for (uint32_t i = 0; i < t->len; i++)
        to[i] = byte_of(id, i);
    s->off = t->block.off;
    s->len = t->len;
    s->func_off = id;
    rp_producer_commit(&pool.p, pos);
    return true;
}

static uint64_t collect(uint32_t workers)
{
    uint64_t n = 0;
    struct rp_view v;
    for (uint32_t seat = 0; seat < workers; seat++) {
        int got = 0;
        if (!rp_reader_unread(&pool.readers[seat]))
            continue;
        while ((got = rp_reader_peek(&pool.readers[seat], &v)) == 1) {
            struct task *t = &pool.task_of[v.pos & pool.rig.m.slot_mask];
            CHECK(rp_producer_expects(&pool.p, v.pos, seat));
            CHECK(v.len == (t->len < 40 ? t->len : 40) && is(v.payload, t->id, v.len));
            rp_arena_free(&pool.arena, &t->block);
            rp_producer_settle(&pool.p, v.pos);
            rp_reader_consume(&pool.readers[seat], &v);
            n++;
        }
        CHECK(got == 0);
        rp_reader_room(&pool.readers[seat]);
    }
    return n;
}

static void exchange(uint32_t nslots, uint32_t workers, uint64_t total)
{
    struct rp_geometry g = {.nslots = nslots, .nseats = workers, .ring_bytes = 256, .chairs = 1, .arena_bytes = 1 << 20};
    struct rp_patience patience = {.spin = true, .wake_bytes = 0, .limit_ns = -1};
    struct rp_spin spin;
    pthread_t t[WORKERS_MOST];
    uint32_t seats[WORKERS_MOST];
    uint64_t next = 0, done = 0, seed = nslots * 100 + workers;
    memset((void *)&pool, 0, sizeof pool);
    rig_open(&pool.rig, &g);
    if (rp_producer_init(&pool.p, &pool.rig.m))
        exit(125);
    rp_use_seats(&pool.rig.m, workers);
    rp_arena_init(&pool.arena, &pool.rig.m, &pool.rig.seg, 1 << 18);
    rp_spin_init(&spin);
    for (uint32_t i = 0; i < workers; i++) {
        seats[i] = i;
        rp_reader_init(&pool.readers[i], &pool.rig.m, i);
    }
    for (uint32_t i = 0; i < workers; i++)
        test_thread(&t[i], work, &seats[i]);
    while (done < total) {
        uint32_t seen = rp_parent_arm(&pool.rig.m);
        uint64_t before = next, got = collect(workers);
        done += got;
        while (next < total && commit(next, &seed)) {
            rp_producer_nudge(&pool.p);
            next++;
        }
        if (next != before)
            rp_producer_kick(&pool.p);
        if (!got && next == before)
            rp_parent_wait(&pool.rig.m, pool.readers, workers, seen, &patience, &spin);
    }
    rp_store_seq(&pool.rig.m.h->stop, 1);
    rp_wake_all(&pool.rig.m);
    for (uint32_t i = 0; i < workers; i++)
        pthread_join(t[i], NULL);
    CHECK(done == total && next == total && pool.p.outstanding == 0 && pool.arena.used_bytes == 0 && pool.arena.live == 0);
    rp_arena_release(&pool.arena);
    rp_producer_free(&pool.p);
    rig_close(&pool.rig);
}

static void through_one_slot(void) { exchange(1, 1, TEST_MESSAGES / 200 * 2); }
static void through_two_slots(void) { exchange(2, 2, TEST_MESSAGES / 200 * 18); }
static void through_four_slots(void) { exchange(4, 3, TEST_MESSAGES / 200 * 40); }
static void through_eight_slots(void) { exchange(8, 4, TEST_MESSAGES / 200 * 40); }

TEST_MAIN(T(through_one_slot), T(through_two_slots), T(through_four_slots), T(through_eight_slots))
