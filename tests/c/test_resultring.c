#include "rig.h"

#include "resultring.h"

/* A map of one seat whose ring lies where a test wants it: the code under test must touch nothing outside of it. */
struct bench {
    struct rp_map m;
    unsigned char *guarded; /* with a page around the ring that nobody may touch */
    size_t guarded_bytes;
};
enum placed { EXACT_MALLOC, BEFORE_GUARD_PAGE };
#define PAGE 4096u

static void bench_open(struct bench *b, uint32_t ring_bytes, enum placed placed, enum rp_doorbell_kind kind)
{
    memset(b, 0, sizeof *b);
    b->m.h = aligned_alloc(RP_LINE, sizeof *b->m.h);
    b->m.seats = aligned_alloc(RP_LINE, sizeof *b->m.seats);
    if (!b->m.h || !b->m.seats)
        exit(125);
    memset((void *)b->m.h, 0, sizeof *b->m.h);
    memset((void *)b->m.seats, 0, sizeof *b->m.seats);
    b->m.h->doorbell = (uint32_t)kind;
    b->m.nseats = 1;
    b->m.ring_bytes = ring_bytes;
    if (placed == EXACT_MALLOC) {
        b->m.rings = calloc(1, ring_bytes);
    } else {
        size_t body = (ring_bytes + PAGE - 1) / PAGE * PAGE;
        b->guarded_bytes = body + 2 * PAGE;
        b->guarded = mmap(NULL, b->guarded_bytes, PROT_NONE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        if (b->guarded == MAP_FAILED || mprotect(b->guarded + PAGE, body, PROT_READ | PROT_WRITE))
            exit(125);
        b->m.rings = b->guarded + PAGE + body - ring_bytes;
    }
    if (!b->m.rings)
        exit(125);
}

static void bench_close(struct bench *b)
{
    if (b->guarded)
        munmap(b->guarded, b->guarded_bytes);
    else
        free(b->m.rings);
    free((void *)b->m.seats);
    free((void *)b->m.h);
}

/* Both ends, with the counters where a test wants them. */
static void ends(struct bench *b, struct rp_writer *w, struct rp_reader *r, uint64_t start)
{
    rp_reader_init(r, &b->m, 0);
    rp_store_relaxed(&r->head, start);
    r->tail = start;
    rp_store_relaxed(&r->seat->head, start);
    rp_store_relaxed(&r->seat->tail, start);
    rp_writer_init(w, &b->m, 0);
}

static unsigned char byte_of(uint64_t id, uint32_t i) { return (unsigned char)(id * 31 + i * 7 + 1); }

static bool put(struct rp_writer *w, uint64_t id, uint32_t len)
{
    unsigned char *to = rp_writer_reserve(w, len);
    if (!to)
        return false;
    for (uint32_t i = 0; i < len; i++)
        to[i] = byte_of(id, i);
    rp_writer_publish(w, len, (uint16_t)(id % RP_PAD), id);
    return true;
}

static bool is(const struct rp_view *v, uint64_t id, uint32_t len)
{
    bool good = v->len == len && v->pos == id && v->kind == id % RP_PAD && v->size >= len && v->size % 16 == 0;
    for (uint32_t i = 0; good && i < len; i++)
        good = v->payload[i] == byte_of(id, i);
    return good;
}

static void every_size_up_to_the_limit(void)
{
    static const uint64_t starts[] = {0, UINT64_C(0xffffffff) - 1007, UINT64_MAX - 1007};
    for (size_t s = 0; s < 3; s++) {
        struct bench b;
        struct rp_writer w;
        struct rp_reader r = {0};
        struct rp_view v;
        bench_open(&b, 4096, EXACT_MALLOC, RP_DOORBELL_FUTEX);
        ends(&b, &w, &r, starts[s] & ~UINT64_C(15));
        CHECK(rp_writer_limit(&w) == 1008);
        CHECK(!rp_reader_unread(&r) && rp_reader_peek(&r, &v) == 0);
        for (uint32_t len = 0; len <= rp_writer_limit(&w); len++) {
            CHECK(put(&w, len, len));
            CHECK(rp_reader_unread(&r));
            CHECK(rp_reader_peek(&r, &v) == 1 && is(&v, len, len));
            CHECK(rp_reader_peek(&r, &v) == 1 && is(&v, len, len));
            rp_reader_consume(&r, &v);
            CHECK(!rp_reader_unread(&r) && rp_reader_peek(&r, &v) == 0);
            CHECK(rp_load_relaxed(&r.seat->head) == rp_load_relaxed(&r.seat->tail));
        }
        bench_close(&b);
    }
}

static void nothing_is_visible_before_publish(void)
{
    struct bench b;
    struct rp_writer w;
    struct rp_reader r = {0};
    struct rp_view v;
    bench_open(&b, 256, EXACT_MALLOC, RP_DOORBELL_FUTEX);
    ends(&b, &w, &r, 240);
    unsigned char *first = rp_writer_reserve(&w, 40);
    CHECK(first == b.m.rings + sizeof(struct rp_record));
    memset(first, 0xff, 40);
    CHECK(rp_reader_peek(&r, &v) == 0);
    /* A smaller one fits before the end: the pad of the aborted reservation must be gone. */
    CHECK(put(&w, 5, 0));
    CHECK(rp_reader_peek(&r, &v) == 1 && is(&v, 5, 0) && v.payload == b.m.rings + 256);
    rp_reader_consume(&r, &v);
    CHECK(rp_reader_peek(&r, &v) == 0);
    /* Less is published than was reserved. */
    unsigned char *to = rp_writer_reserve(&w, 48);
    CHECK(to != NULL);
    to[0] = byte_of(6, 0);
    rp_writer_publish(&w, 1, 6, 6);
    CHECK(rp_reader_peek(&r, &v) == 1 && is(&v, 6, 1) && v.size == 32);
    bench_close(&b);
}

static void record_that_would_wrap_goes_to_the_front(void)
{
    struct bench b;
    struct rp_writer w;
    struct rp_reader r = {0};
    struct rp_view v;
    bench_open(&b, 256, EXACT_MALLOC, RP_DOORBELL_FUTEX);
    ends(&b, &w, &r, 0);
    for (uint64_t id = 0; id < 3; id++)
        CHECK(put(&w, id, 48));
    for (uint64_t id = 0; id < 3; id++) {
        CHECK(rp_reader_peek(&r, &v) == 1 && is(&v, id, 48));
        rp_reader_consume(&r, &v);
    }
    CHECK(put(&w, 3, 20));
    CHECK(put(&w, 4, 48));
    CHECK(rp_reader_peek(&r, &v) == 1 && is(&v, 3, 20));
    rp_reader_consume(&r, &v);
    CHECK(rp_reader_peek(&r, &v) == 1 && is(&v, 4, 48) && v.payload == b.m.rings + sizeof(struct rp_record));
    rp_reader_consume(&r, &v);
    CHECK(rp_load_relaxed(&r.head) == 256 + 64);
    bench_close(&b);
}

static void full_ring_is_an_outcome(void)
{
    struct bench b;
    struct rp_writer w;
    struct rp_reader r = {0};
    struct rp_view v;
    bench_open(&b, 256, EXACT_MALLOC, RP_DOORBELL_FUTEX);
    ends(&b, &w, &r, 0);
    for (uint64_t id = 0; id < 16; id++)
        CHECK(put(&w, id, 0));
    CHECK(!put(&w, 16, 0));
    CHECK(rp_load_relaxed(&r.seat->tail) == 256);
    CHECK(rp_reader_peek(&r, &v) == 1 && is(&v, 0, 0));
    rp_reader_consume(&r, &v);
    CHECK(!rp_writer_reserve(&w, 1));
    CHECK(put(&w, 16, 0));
    CHECK(!put(&w, 17, 0));
    for (uint64_t id = 1; id <= 16; id++) {
        CHECK(rp_reader_peek(&r, &v) == 1 && is(&v, id, 0));
        rp_reader_consume(&r, &v);
    }
    CHECK(rp_reader_peek(&r, &v) == 0);
    /* An empty ring has room for the longest record wherever it stands. */
    for (uint32_t at = 0; at < 16; at++) {
        CHECK(put(&w, at, rp_writer_limit(&w)));
        CHECK(rp_reader_peek(&r, &v) == 1 && is(&v, at, rp_writer_limit(&w)));
        rp_reader_consume(&r, &v);
        CHECK(put(&w, at, 0));
        CHECK(rp_reader_peek(&r, &v) == 1);
        rp_reader_consume(&r, &v);
    }
    bench_close(&b);
}

static void announcements(void)
{
    struct bench b;
    struct rp_writer w;
    struct rp_reader r = {0};
    bench_open(&b, 4096, EXACT_MALLOC, RP_DOORBELL_FUTEX);
    ends(&b, &w, &r, 0);
    struct rp_header *h = b.m.h;
    rp_writer_announce(&w);
    CHECK(put(&w, 1, 16));
    rp_writer_announce(&w);
    rp_writer_announce_now(&w, true);
    CHECK(rp_bell_read(&h->bell) == 0);
    rp_store_relaxed(&h->armed, 1);
    rp_store_relaxed(&h->wake_bytes, 32);
    rp_writer_announce(&w);
    rp_writer_announce_now(&w, false);
    CHECK(rp_bell_read(&h->bell) == 0 && rp_load_relaxed(&h->armed) == 1);
    CHECK(put(&w, 2, 16));
    rp_writer_announce(&w);
    CHECK(rp_bell_read(&h->bell) == 1 && rp_load_relaxed(&h->armed) == 0);
    rp_store_relaxed(&h->armed, 1);
    rp_writer_announce_now(&w, false);
    CHECK(rp_bell_read(&h->bell) == 2 && rp_load_relaxed(&h->armed) == 0);
    rp_store_relaxed(&h->armed, 1);
    rp_store_relaxed(&h->wake_bytes, 4000);
    rp_writer_announce_now(&w, false);
    CHECK(rp_bell_read(&h->bell) == 2);
    rp_writer_announce_now(&w, true);
    CHECK(rp_bell_read(&h->bell) == 3);
    /* Nothing unread: nobody is disturbed. */
    rp_store_relaxed(&h->armed, 1);
    rp_reader_advance(&r, 64);
    rp_writer_announce_now(&w, true);
    CHECK(rp_bell_read(&h->bell) == 3 && rp_load_relaxed(&h->armed) == 1);
    bench_close(&b);
}

static void damage_is_reported(void)
{
    struct bench b;
    struct rp_writer w;
    struct rp_reader r = {0};
    struct rp_view v;
    bench_open(&b, 256, EXACT_MALLOC, RP_DOORBELL_FUTEX);
    struct rp_record *rec = (struct rp_record *)(void *)(b.m.rings + 32);
#define DAMAGED(statement) \
    do { \
        ends(&b, &w, &r, 32); \
        CHECK(put(&w, 1, 40)); \
        CHECK(rp_reader_peek(&r, &v) == 1); \
        statement; \
        r.tail = 32; \
        CHECK(rp_reader_peek(&r, &v) == -EBADMSG); \
        CHECK(rp_load_relaxed(&r.head) == 32); \
    } while (0)
    DAMAGED(rec->size = 0);
    DAMAGED(rec->size = 8);
    DAMAGED(rec->size = 15);
    DAMAGED(rec->size = 17);
    DAMAGED(rec->size = 80);
    DAMAGED(rec->size = UINT32_MAX);
    DAMAGED(rec->size = UINT32_MAX - 15);
    DAMAGED(rec->pad = 16);
    DAMAGED(rec->pad = UINT16_MAX);
    DAMAGED((rec->size = 16, rec->pad = 1));
    DAMAGED(rec->kind = RP_PAD);
    DAMAGED(rp_store_relaxed(&r.seat->tail, 33));
    DAMAGED(rp_store_relaxed(&r.seat->tail, 0));
    DAMAGED(rp_store_relaxed(&r.seat->tail, 16));
    DAMAGED(rp_store_relaxed(&r.seat->tail, 32 + 256 + 16));
    DAMAGED(rp_store_relaxed(&r.seat->tail, UINT64_MAX));
    DAMAGED(rp_store_relaxed(&r.seat->tail, UINT64_C(1) << 63));
    DAMAGED(rp_store_relaxed(&r.seat->tail, 48));
#undef DAMAGED
    /* After damage a new worker begins in a clean ring. */
    rp_reader_init(&r, &b.m, 0);
    rp_writer_init(&w, &b.m, 0);
    CHECK(rp_reader_peek(&r, &v) == 0 && put(&w, 9, 7) && rp_reader_peek(&r, &v) == 1 && is(&v, 9, 7));
    bench_close(&b);
}

/* Touches every byte that the view grants: what lies outside of the ring ends the program. */
static uint32_t sum_of(const struct rp_map *m, const struct rp_view *v)
{
    uint32_t sum = 0;
    CHECK(v->payload >= m->rings + sizeof(struct rp_record) && v->payload + v->len <= m->rings + m->ring_bytes);
    CHECK(v->kind != RP_PAD && v->size <= m->ring_bytes);
    for (uint32_t i = 0; i < v->len; i++)
        sum += ((const volatile unsigned char *)v->payload)[i];
    return sum;
}

static void scribble(unsigned char *ring, uint32_t bytes, uint64_t *seed)
{
    if (test_below(seed, 4) == 0)
        for (uint32_t i = 0; i < bytes; i += 8) {
            uint64_t word = test_random(seed);
            memcpy(ring + i, &word, 8);
        }
    /* Heads that are nearly right reach further than noise. */
    for (uint32_t n = test_below(seed, 12); n > 0; n--) {
        struct rp_record rec = {.size = test_below(seed, bytes / 16 + 2) * 16, .kind = (uint16_t)test_random(seed), .pad = 0, .pos = 1};
        if (test_below(seed, 4) == 0)
            rec.size = (uint32_t)test_random(seed);
        if (test_below(seed, 3) == 0)
            rec.kind = RP_PAD;
        if (test_below(seed, 3) == 0)
            rec.pad = (uint16_t)test_below(seed, 40);
        memcpy(ring + test_below(seed, bytes / 16) * 16, &rec, sizeof rec);
    }
}

static void garbage_is_refused_or_inside(enum placed placed)
{
    static const uint32_t sizes[] = {256, 1024, 4096};
    uint64_t seed = 2024;
    uint32_t seen[3] = {0};
    for (size_t s = 0; s < 3; s++) {
        struct bench b;
        bench_open(&b, sizes[s], placed, RP_DOORBELL_FUTEX);
        for (uint32_t i = 0; i < test_scaled(100000); i++) {
            struct rp_reader r = {0};
            struct rp_view v;
            int got = 1;
            scribble(b.m.rings, sizes[s], &seed);
            rp_reader_init(&r, &b.m, 0);
            uint64_t head = (test_random(&seed) >> test_below(&seed, 64)) & ~UINT64_C(15);
            uint64_t tail = head + test_below(&seed, sizes[s] / 16 + 1) * 16;
            if (test_below(&seed, 8) == 0)
                tail = test_random(&seed);
            rp_store_relaxed(&r.head, head);
            rp_store_relaxed(&r.seat->tail, tail);
            for (uint32_t n = 0; got == 1; n++) {
                got = rp_reader_peek(&r, &v);
                CHECK(got == 1 || got == 0 || got == -EBADMSG);
                if (got == 1) {
                    sum_of(&b.m, &v);
                    rp_reader_consume(&r, &v);
                }
                CHECK(n <= sizes[s] / 16);
                seen[got < 0 ? 2 : got]++;
            }
            CHECK(got < 0 || rp_load_relaxed(&r.head) == tail);
        }
        bench_close(&b);
    }
    CHECK(seen[0] > 0 && seen[1] > 0 && seen[2] > 0);
}

static void garbage_in_an_exact_block(void) { garbage_is_refused_or_inside(EXACT_MALLOC); }
static void garbage_before_a_guard_page(void) { garbage_is_refused_or_inside(BEFORE_GUARD_PAGE); }

/* A process that changes the bytes while the parent looks at them: no check may be passed with one value and used with another. */
struct vandal {
    unsigned char *ring;
    uint32_t bytes;
    rp_u64 *tail;
};

static void vandalise(void *arg)
{
    struct vandal *v = arg;
    uint64_t seed = 99, head = 0;
    for (;;) {
        scribble(v->ring, v->bytes, &seed);
        head += test_below(&seed, 4) * 16;
        rp_store_relaxed(v->tail, test_below(&seed, 3) ? head % (2 * v->bytes) : test_random(&seed));
    }
}

static void bytes_that_change_under_the_reader(void)
{
    struct bench b;
    bench_open(&b, 256, BEFORE_GUARD_PAGE, RP_DOORBELL_FUTEX);
    free((void *)b.m.seats);
    b.m.seats = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (b.m.seats == MAP_FAILED)
        exit(125);
    struct vandal vandal = {b.m.rings, 256, &b.m.seats[0].tail};
    struct rp_reader r = {0};
    struct rp_view v;
    uint32_t good = 0;
    pid_t pid = test_spawn(vandalise, &vandal);
    for (uint32_t i = 0; good < test_scaled(60000); i++) {
        if (i % 64 == 0) {
            r.m = &b.m;
            r.seat = &b.m.seats[0];
            r.ring = b.m.rings;
            rp_store_relaxed(&r.head, i / 64 * 16 % 512);
        }
        int got = rp_reader_peek(&r, &v);
        if (got != 1)
            continue;
        good++;
        CHECK(v.payload >= b.m.rings + 16 && v.len <= 240 && v.payload + v.len <= b.m.rings + 256);
        rp_reader_consume(&r, &v);
    }
    kill(pid, SIGKILL);
    CHECK(test_reap(pid) == 128 + SIGKILL);
    munmap((void *)b.m.seats, PAGE);
    b.m.seats = NULL;
    bench_close(&b);
}

/* A worker thread writes, the parent thread reads; either waits by the doorbells when it has to. */
struct stream {
    struct bench b;
    uint32_t records, announce;
    uint64_t seed;
    rp_u32 slow_room;
};

static uint32_t length_of(const struct stream *s, uint64_t id)
{
    uint64_t seed = s->seed + id * 977 + 1, limit = s->b.m.ring_bytes / 4 - sizeof(struct rp_record);
    uint32_t r = test_below(&seed, 8);
    return r == 0 ? (uint32_t)limit : r < 5 ? test_below(&seed, 24 < limit ? 24 : (uint32_t)limit) : test_below(&seed, (uint32_t)limit + 1);
}

static void *write_stream(void *arg)
{
    struct stream *s = arg;
    struct rp_writer w;
    rp_writer_init(&w, &s->b.m, 0);
    for (uint64_t id = 0; id < s->records; id++) {
        while (!put(&w, id, length_of(s, id))) {
            int64_t begin = rp_now_ns();
            rp_writer_wait(&w);
            if (rp_now_ns() - begin > INT64_C(900000000))
                rp_add_seq(&s->slow_room, 1);
        }
        if (s->announce && id % s->announce == 0)
            rp_writer_announce(&w);
    }
    rp_writer_announce_now(&w, true);
    return NULL;
}

static void stream_through(uint32_t ring_bytes, uint32_t records, enum rp_doorbell_kind kind)
{
    static struct stream s;
    pthread_t t;
    struct rp_reader r = {0};
    struct rp_view v;
    struct rp_writer unused;
    uint64_t id = 0, seed = ring_bytes;
    memset((void *)&s, 0, sizeof s);
    bench_open(&s.b, ring_bytes, EXACT_MALLOC, kind);
    s.records = records;
    s.seed = ring_bytes;
    s.announce = kind == RP_DOORBELL_FUTEX ? 3 : 0;
    ends(&s.b, &unused, &r, (UINT64_C(0xffffffff) - 2000) & ~UINT64_C(15));
    test_thread(&t, write_stream, &s);
    while (id < records) {
        uint32_t seen = rp_bell_read(&s.b.m.h->bell);
        int got = 0;
        for (uint32_t n = test_below(&seed, 40) + 1; n > 0 && (got = rp_reader_peek(&r, &v)) == 1; n--) {
            CHECK(is(&v, id, length_of(&s, id)));
            rp_reader_consume(&r, &v);
            id++;
        }
        CHECK(got >= 0);
        rp_reader_room(&r);
        if (got == 0 && id < records) {
            rp_store_seq(&s.b.m.h->armed, 1);
            if (!rp_reader_unread(&r))
                rp_bell_park(&s.b.m.h->bell, seen, 200000, kind);
        }
    }
    pthread_join(t, NULL);
    CHECK(rp_reader_peek(&r, &v) == 0);
    CHECK(rp_load_relaxed(&s.slow_room) == 0);
    bench_close(&s.b);
}

static void stream_through_a_tiny_ring(void) { stream_through(256, test_scaled(400000), RP_DOORBELL_FUTEX); }
static void stream_through_a_large_ring(void) { stream_through(1 << 16, test_scaled(100000), RP_DOORBELL_FUTEX); }
static void stream_without_futex(void) { stream_through(512, test_scaled(10000), RP_DOORBELL_POLL); }

static void *wait_for_room(void *arg)
{
    rp_writer_wait(arg);
    return NULL;
}

static void room_wakes_the_writer(void)
{
    for (int kind = 0; kind < 2; kind++) {
        struct bench b;
        struct rp_writer w;
        struct rp_reader r = {0};
        struct rp_view v;
        pthread_t t;
        bench_open(&b, 256, EXACT_MALLOC, (enum rp_doorbell_kind)kind);
        ends(&b, &w, &r, 0);
        for (uint64_t id = 0; id < 16; id++)
            put(&w, id, 0);
        rp_store_relaxed(&b.m.h->armed, 1);
        int64_t begin = rp_now_ns();
        test_thread(&t, wait_for_room, &w);
        while (!rp_load_seq(&r.seat->want_room))
            sched_yield();
        CHECK(rp_bell_read(&b.m.h->bell) == 1);
        CHECK(rp_reader_peek(&r, &v) == 1);
        rp_reader_consume(&r, &v);
        rp_reader_room(&r);
        pthread_join(t, NULL);
        CHECK(rp_now_ns() - begin < INT64_C(900000000));
        CHECK(!rp_load_relaxed(&r.seat->want_room));
        CHECK(w.head == 16 && put(&w, 16, 0));
        /* Room that came between the reservation and the wait. */
        CHECK(!put(&w, 17, 0));
        CHECK(rp_reader_peek(&r, &v) == 1);
        rp_reader_consume(&r, &v);
        begin = rp_now_ns();
        rp_writer_wait(&w);
        CHECK(rp_now_ns() - begin < INT64_C(900000000) && put(&w, 17, 0));
        bench_close(&b);
    }
}

TEST_MAIN(T(every_size_up_to_the_limit), T(nothing_is_visible_before_publish), T(record_that_would_wrap_goes_to_the_front),
          T(full_ring_is_an_outcome), T(announcements), T(damage_is_reported), T(garbage_in_an_exact_block),
          T(garbage_before_a_guard_page), T(bytes_that_change_under_the_reader), T(stream_through_a_tiny_ring),
          T(stream_through_a_large_ring), T(stream_without_futex), T(room_wakes_the_writer))
