#include "rig.h"

static const struct rp_geometry SMALL = {
    .nslots = 64, .nseats = 3, .ring_bytes = 4096, .chairs = 2, .doorbell = 0, .arena_bytes = 100000};

static void parts_do_not_overlap(void)
{
    static const struct rp_geometry all[] = {
        {1, 1, 256, 0, 0, 0, 1},
        {64, 3, 4096, 2, 0, 100000, 2},
        {1u << 20, RP_MAX_SEATS, 1u << 16, RP_SPIN_CHAIRS, 1, UINT64_C(1) << 36, UINT32_MAX},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        const struct rp_geometry *g = &all[i];
        struct rig r;
        rig_open(&r, g);
        const struct rp_map *m = &r.m;
        uint64_t slots = (uint64_t)((unsigned char *)m->slots - m->base), seats = (uint64_t)((unsigned char *)m->seats - m->base);
        uint64_t rings = (uint64_t)(m->rings - m->base);
        CHECK(slots >= sizeof(struct rp_header));
        CHECK(seats >= slots + (uint64_t)g->nslots * sizeof(struct rp_slot));
        CHECK(rings >= seats + (uint64_t)g->nseats * sizeof(struct rp_seat));
        CHECK(m->h->arena_off >= rings + (uint64_t)g->nseats * g->ring_bytes);
        CHECK(m->h->arena_off + m->h->arena_bytes == r.seg.size && m->h->arena_bytes >= g->arena_bytes);
        CHECK(slots % 4096 == 0 && seats % 4096 == 0 && rings % 4096 == 0 && m->h->arena_off % 4096 == 0);
        CHECK(m->slot_mask == g->nslots - 1 && m->nseats == g->nseats && m->ring_bytes == g->ring_bytes);
        CHECK(rp_ring_of(m, g->nseats - 1) + g->ring_bytes <= m->base + m->h->arena_off);
        rp_store_relaxed(&m->slots[g->nslots - 1].state, 1);
        rp_store_relaxed(&m->seats[g->nseats - 1].head, 1);
        rig_close(&r);
    }
}

static void live_words_do_not_share_lines(void)
{
    static const size_t words[] = {offsetof(struct rp_header, tail), offsetof(struct rp_header, rescan),
                                   offsetof(struct rp_header, take), offsetof(struct rp_header, bell),
                                   offsetof(struct rp_header, chair), offsetof(struct rp_header, parked_mask)};
    for (size_t i = 1; i < sizeof words / sizeof *words; i++)
        CHECK(words[i] / RP_LINE > words[i - 1] / RP_LINE);
    CHECK(offsetof(struct rp_seat, head) / RP_LINE > offsetof(struct rp_seat, tail) / RP_LINE);
    CHECK(offsetof(struct rp_slot, data) + RP_INLINE <= sizeof(struct rp_slot));
    CHECK(_Alignof(struct rp_slot) == RP_LINE && _Alignof(struct rp_header) == RP_LINE);
}

static void state_word_keeps_its_parts(void)
{
    uint64_t seed = 1;
    for (int i = 0; i < 10000; i++) {
        uint64_t pos = test_random(&seed) & RP_POS_MAX;
        uint32_t seat = test_below(&seed, RP_MAX_SEATS);
        enum rp_phase phase = (enum rp_phase)test_below(&seed, 4);
        uint64_t s = rp_state(pos, seat, phase);
        CHECK(rp_state_pos(s) == pos && rp_state_seat(s) == seat && rp_state_phase(s) == phase);
    }
    CHECK(rp_state_pos(rp_state(RP_POS_MAX, RP_MAX_SEATS - 1, RP_RUNNING)) == RP_POS_MAX);
}

static void bad_geometry_is_refused(void)
{
    struct rp_geometry g;
#define REFUSED(field, value) (g = SMALL, g.field = (value), CHECK(rp_layout_size(&g) == 0))
    CHECK(rp_layout_size(&SMALL) != 0);
    REFUSED(nslots, 0);
    REFUSED(nslots, 3);
    REFUSED(nslots, 1u << 21);
    REFUSED(nslots, UINT32_MAX);
    REFUSED(nseats, 0);
    REFUSED(nseats, RP_MAX_SEATS + 1);
    REFUSED(nseats, UINT32_MAX);
    REFUSED(ring_bytes, 0);
    REFUSED(ring_bytes, 128);
    REFUSED(ring_bytes, 4095);
    REFUSED(ring_bytes, 1u << 29);
    REFUSED(chairs, RP_SPIN_CHAIRS + 1);
    REFUSED(arena_bytes, UINT64_MAX);
    REFUSED(arena_bytes, (UINT64_C(1) << 46) + 1);
#undef REFUSED
}

/* A waiter who parks by one kind and a ringer who rings by the other never meet. */
static void unknown_doorbell_is_refused(void)
{
    struct rp_geometry g = SMALL;
    g.doorbell = 2;
    CHECK(rp_layout_size(&g) == 0);
}

static void write_of_bad_geometry_writes_nothing(void)
{
    struct rp_header *h = aligned_alloc(RP_LINE, sizeof *h);
    struct rp_geometry g = SMALL;
    g.nslots = 5;
    memset((void *)h, 0, sizeof *h);
    rp_layout_write(h, &g);
    CHECK(h->magic == 0 && h->nslots == 0);
    free(h);
}

static void corrupted_headers_are_refused(void)
{
    struct rig r;
    struct rp_map m;
    rig_open(&r, &SMALL);
    struct rp_header *h = r.m.h;
    void *base = r.seg.base;
    size_t size = r.seg.size;
#define REFUSED(field, value) \
    do { \
        __typeof__(h->field) kept = h->field; \
        h->field = (value); \
        CHECK(rp_layout_open(&m, base, size) == -EINVAL); \
        h->field = kept; \
    } while (0)
    REFUSED(magic, 0);
    REFUSED(magic, h->magic + 1);
    REFUSED(version, RP_VERSION + 1);
    REFUSED(nslots, 0);
    REFUSED(nslots, 128);
    REFUSED(nslots, 63);
    REFUSED(nslots, UINT32_MAX);
    REFUSED(nseats, 0);
    REFUSED(nseats, 400);
    REFUSED(nseats, UINT32_MAX);
    REFUSED(ring_bytes, 8192);
    REFUSED(ring_bytes, 0);
    REFUSED(ring_bytes, 1u << 31);
    REFUSED(chairs, UINT32_MAX);
    REFUSED(slots_off, 0);
    REFUSED(slots_off, UINT64_MAX);
    REFUSED(seats_off, h->seats_off + 4096);
    REFUSED(seats_off, UINT64_MAX - 4095);
    REFUSED(rings_off, h->rings_off - 4096);
    REFUSED(arena_off, h->arena_off + 1);
    REFUSED(arena_off, UINT64_MAX);
    REFUSED(arena_bytes, h->arena_bytes + 4096);
    REFUSED(arena_bytes, UINT64_MAX);
#undef REFUSED
    CHECK(rp_layout_open(&m, base, 0) == -EINVAL);
    CHECK(rp_layout_open(&m, base, sizeof *h - 1) == -EINVAL);
    CHECK(rp_layout_open(&m, base, size - 4096) == -EINVAL);
    CHECK(rp_layout_open(&m, base, size + 4096) == -EINVAL);
    CHECK(rp_layout_open(&m, base, size) == 0);
    rig_close(&r);
}

/* Whatever the geometry words are: refused, or a map that lies inside the mapping. */
static void random_headers_stay_inside(void)
{
    struct rig r;
    uint64_t seed = 42;
    rig_open(&r, &SMALL);
    struct rp_header *h = r.m.h, good;
    memcpy((void *)&good, (void *)h, offsetof(struct rp_header, tail));
    uint32_t accepted = 0;
    for (uint32_t i = 0; i < test_scaled(200000); i++) {
        unsigned char *bytes = (unsigned char *)h;
        for (uint32_t k = test_below(&seed, 3); k-- > 0;)
            bytes[12 + test_below(&seed, (uint32_t)offsetof(struct rp_header, doorbell) - 12)] ^= (unsigned char)(1u << test_below(&seed, 8));
        struct rp_map m;
        if (rp_layout_open(&m, r.seg.base, r.seg.size) == 0) {
            accepted++;
            CHECK(m.nseats >= 1 && (unsigned char *)(m.slots + m.slot_mask + 1) <= m.base + m.size);
            CHECK((unsigned char *)(m.seats + m.nseats) <= m.rings);
            CHECK(rp_ring_of(&m, m.nseats) <= m.base + m.size);
        }
        memcpy((void *)h, (void *)&good, offsetof(struct rp_header, tail));
    }
    CHECK(accepted > 0);
    rig_close(&r);
}

static void arena_bounds(void)
{
    struct rig r;
    rig_open(&r, &SMALL);
    uint64_t off = r.m.h->arena_off, n = r.m.h->arena_bytes;
    CHECK(rp_arena_at(&r.m, off, n) == r.m.base + off);
    CHECK(rp_arena_at(&r.m, off + n, 0) == r.m.base + off + n);
    CHECK(rp_arena_at(&r.m, off + n - 1, 1) != NULL);
    CHECK(!rp_arena_at(&r.m, off - 1, 1) && !rp_arena_at(&r.m, 0, 1));
    CHECK(!rp_arena_at(&r.m, off, n + 1) && !rp_arena_at(&r.m, off + n, 1) && !rp_arena_at(&r.m, off + n + 1, 0));
    CHECK(!rp_arena_at(&r.m, UINT64_MAX, 2) && !rp_arena_at(&r.m, off + 1, UINT64_MAX));
    rig_close(&r);
}

/* The header is writable by every worker: what was checked at the opening must not be read from it again. */
static void arena_bounds_do_not_trust_a_scribbled_header(void)
{
    struct rig r;
    rig_open(&r, &SMALL);
    r.m.h->arena_bytes = UINT64_MAX / 2;
    CHECK(!rp_arena_at(&r.m, r.seg.size, 4096));
    r.m.h->arena_off = 0;
    CHECK(!rp_arena_at(&r.m, 0, 4096));
    rig_close(&r);
}

TEST_MAIN(T(parts_do_not_overlap), T(live_words_do_not_share_lines), T(state_word_keeps_its_parts), T(bad_geometry_is_refused),
          T(unknown_doorbell_is_refused), T(write_of_bad_geometry_writes_nothing), T(corrupted_headers_are_refused),
          T(random_headers_stay_inside), T(arena_bounds), T(arena_bounds_do_not_trust_a_scribbled_header))
