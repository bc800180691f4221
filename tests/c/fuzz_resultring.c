/* Arbitrary bytes wherever a worker can write and the parent reads: in a result ring with its seat, in the words of slots and
 * header, and in the header that a process opens. Nothing of it may crash the reader, keep it for ever, or make it touch a byte
 * outside.
 *
 * Every part is a block of exactly its size, for AddressSanitizer. Driven by libFuzzer (run.py --fuzz) or by test_fuzz.c. */
#define _GNU_SOURCE
#include "fuzz.h"

#include "arena.h"
#include "idle.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEMAND(cond) \
    do { \
        if (!(cond)) { \
            fprintf(stderr, "%s:%d: DEMAND(%s)\n", __FILE__, __LINE__, #cond); \
            abort(); \
        } \
    } while (0)

struct fuzz_seen fuzz_seen;

struct input {
    const uint8_t *at;
    size_t left;
};

static void take(struct input *in, void *to, size_t n)
{
    size_t have = n < in->left ? n : in->left;
    memset(to, 0, n);
    if (have)
        memcpy(to, in->at, have);
    in->at += have;
    in->left -= have;
}

static uint8_t take_u8(struct input *in)
{
    uint8_t v;
    take(in, &v, sizeof v);
    return v;
}
static uint64_t take_u64(struct input *in)
{
    uint64_t v;
    take(in, &v, sizeof v);
    return v;
}

static void *zeroed(size_t n)
{
    void *at = aligned_alloc(RP_LINE, n);
    DEMAND(at != NULL);
    memset(at, 0, n);
    return at;
}

/* Header and seats alone, without the system calls of a futex. */
static void map_open(struct rp_map *m, uint32_t nseats)
{
    memset(m, 0, sizeof *m);
    m->h = zeroed(sizeof *m->h);
    m->seats = zeroed(nseats * sizeof *m->seats);
    m->nseats = m->used = nseats;
    m->chairs = 2;
    m->cores = 1;
    m->doorbell = RP_DOORBELL_POLL;
}

static void map_close(struct rp_map *m)
{
    free((void *)m->h);
    free((void *)m->seats);
    free((void *)m->slots);
    free(m->rings);
}

static void touch(const unsigned char *at, uint32_t len)
{
    static volatile unsigned char sum;
    for (uint32_t i = 0; i < len; i++)
        sum = (unsigned char)(sum + at[i]);
}

/* Input: size of the ring, head (the parent's own, so only ever a multiple of 16), the words of the seat, bytes of the ring. */
static void read_ring(struct input *in)
{
    struct rp_map m;
    struct rp_reader r = {0};
    struct rp_view v;
    map_open(&m, 1);
    m.ring_bytes = 256u << take_u8(in) % 4;
    m.rings = malloc(m.ring_bytes);
    DEMAND(m.rings != NULL);
    rp_reader_init(&r, &m, 0);
    uint64_t head = take_u64(in) & ~UINT64_C(15);
    rp_store_relaxed(&r.head, head);
    rp_store_relaxed(&r.seat->tail, take_u64(in));
    rp_store_relaxed(&r.seat->head, take_u64(in));
    rp_store_relaxed(&r.seat->want_room, take_u8(in));
    take(in, m.rings, m.ring_bytes);

    int got = 1;
    for (uint32_t n = 0; got == 1; n++) {
        DEMAND(n <= m.ring_bytes / 16);
        uint64_t before = rp_load_relaxed(&r.head);
        got = rp_reader_peek(&r, &v);
        DEMAND(got == 1 || got == 0 || got == -EBADMSG);
        if (got != 1)
            break;
        DEMAND(v.payload >= m.rings + sizeof(struct rp_record) && v.payload + v.len <= m.rings + m.ring_bytes);
        DEMAND(v.kind != RP_PAD && v.size <= m.ring_bytes && v.len + sizeof(struct rp_record) <= v.size);
        touch(v.payload, v.len);
        rp_reader_consume(&r, &v);
        DEMAND(rp_load_relaxed(&r.head) - before <= 2 * (uint64_t)m.ring_bytes);
        fuzz_seen.records++;
    }
    /* Nothing to read means that all of it was read. */
    DEMAND(got || rp_load_relaxed(&r.head) == rp_load_relaxed(&r.seat->tail));
    DEMAND(rp_reader_unread(&r) == (got != 0));
    if (got) {
        uint64_t stuck = rp_load_relaxed(&r.head);
        fuzz_seen.corrupt++;
        DEMAND(rp_reader_peek(&r, &v) == -EBADMSG && rp_load_relaxed(&r.head) == stuck);
    } else {
        fuzz_seen.empty++;
    }
    rp_reader_room(&r);
    rp_reader_reset(&r);
    DEMAND(!rp_reader_unread(&r) && rp_reader_peek(&r, &v) == 0);
    map_close(&m);
}

/* Input: number of slots, then for each slot whether a task is in it and what its state became, the header's words, then calls. */
static void look_at_words(struct input *in)
{
    enum { SEATS = 70 }; /* the mask is more than one word, and the last one is not full */
    struct rp_map m;
    struct rp_producer p;
    uint64_t lost[4], pos, at = 0;
    enum rp_phase phase;
    uint32_t seat;
    map_open(&m, SEATS);
    uint32_t nslots = 1u << take_u8(in) % 4;
    m.slots = zeroed(nslots * sizeof *m.slots);
    m.slot_mask = nslots - 1;
    DEMAND(rp_producer_init(&p, &m) == 0);
    uint8_t taken = take_u8(in);
    for (uint32_t i = 0; i < nslots; i++)
        if (taken >> i & 1 && rp_producer_next(&p, &pos))
            rp_producer_commit(&p, pos);
    for (uint32_t i = 0; i < nslots; i++) {
        uint64_t state = rp_load_relaxed(&m.slots[i].state), bits = take_u64(in);
        uint8_t how = take_u8(in);
        if (how % 3)
            rp_store_relaxed(&m.slots[i].state,
                             how % 3 == 1 ? bits : rp_state(rp_state_pos(state), (uint32_t)(bits % SEATS), how / 3 % 8u));
    }
    rp_store_relaxed(&m.h->tail, take_u64(in));
    rp_store_relaxed(&m.h->take, take_u64(in));
    rp_store_relaxed(&m.h->rescan, (uint32_t)take_u64(in));
    rp_store_relaxed(&m.h->litter, (uint32_t)take_u64(in));
    rp_store_relaxed(&m.h->used, (uint32_t)take_u64(in));
    for (uint32_t i = 0; i < RP_SPIN_CHAIRS; i++)
        rp_store_relaxed(&m.h->chair[i], take_u8(in));
    rp_store_relaxed(&m.h->lookout, take_u8(in) % 4);
    rp_store_relaxed(&m.h->wakes, (uint32_t)take_u64(in));
    for (uint32_t i = 0; i < 3; i++)
        rp_store_relaxed(&m.h->parked_mask[i], take_u64(in));

    uint32_t outstanding = p.outstanding;
    for (uint32_t i = 0; i < nslots; i++) {
        bool owned = p.owner[i] != 0, sound = rp_producer_look(&p, i, &pos, &phase, &seat);
        DEMAND(!sound || (owned && pos == p.owner[i] - 1 && seat < SEATS && phase >= RP_READY && phase <= RP_DOOMED));
        fuzz_seen.sound += sound;
        fuzz_seen.unsound += owned && !sound;
        if (!owned)
            continue;
        at = p.owner[i] - 1;
        DEMAND(!rp_producer_expects(&p, at, seat % SEATS) || phase == RP_DONE);
        switch (take_u8(in) % 4) {
        case 0:
            DEMAND(!rp_producer_revoke(&p, at) || (sound && phase <= RP_CLAIMED));
            break;
        case 1:
            DEMAND(!rp_producer_doom(&p, at, seat % SEATS) || (sound && phase == RP_RUNNING));
            break;
        default:
            break;
        }
    }
    rp_producer_nudge(&p);
    rp_producer_kick(&p);
    rp_producer_rouse(&p);
    uint32_t n = rp_producer_bury(&p, take_u8(in) % SEATS, lost, 4);
    DEMAND(n <= outstanding && n <= 4 && p.outstanding == outstanding);
    fuzz_seen.lost += n;
    for (uint32_t i = 0; i < n; i++) {
        DEMAND(p.owner[lost[i] & m.slot_mask] == lost[i] + 1);
        if (take_u8(in) % 2)
            rp_producer_retry(&p, lost[i]);
        else
            rp_producer_settle(&p, lost[i]);
    }
    rp_producer_settle(&p, take_u64(in));
    DEMAND(rp_spinners(&m) <= m.chairs);
    rp_producer_free(&p);
    map_close(&m);
}

/* Input: which good header to begin with, its mapping cut or grown, then (offset, bytes) to put into it; a block of the arena. */
static void open_layout(struct input *in)
{
    static const struct rp_geometry good[] = {{1, 1, 256, 0, 0, 0, 0}, {64, 3, 1024, 2, 1, 9000, 1}, {4, 70, 256, 8, 0, 4096, 9}};
    const struct rp_geometry *g = &good[take_u8(in) % 3];
    size_t size = rp_layout_size(g);
    uint8_t cut = take_u8(in);
    if (cut % 4 == 0)
        size = size - 4096 + cut / 4 * 128u;
    void *block = NULL;
    DEMAND(posix_memalign(&block, RP_LINE, size) == 0);
    unsigned char *at = block;
    struct rp_header header;
    memset((void *)&header, 0, sizeof header);
    rp_layout_write(&header, g);
    for (uint8_t n = take_u8(in) % 4; n > 0; n--) {
        uint8_t off = take_u8(in), bytes = (uint8_t)(take_u8(in) % 9);
        if (off + bytes <= (int)offsetof(struct rp_header, tail))
            take(in, (unsigned char *)&header + off, bytes);
    }
    memset(at, 0, size);
    memcpy(at, (void *)&header, size < sizeof header ? size : sizeof header);
    struct rp_map m;
    int err = rp_layout_open(&m, at, size);
    DEMAND(err == 0 || err == -EINVAL);
    if (err) {
        fuzz_seen.refused++;
    } else {
        fuzz_seen.opened++;
        DEMAND(m.nseats >= 1 && m.nseats <= RP_MAX_SEATS && m.chairs <= RP_SPIN_CHAIRS && m.doorbell <= RP_DOORBELL_POLL);
        rp_store_relaxed(&m.slots[m.slot_mask].state, 1);
        rp_store_relaxed(&m.seats[m.nseats - 1].head, 1);
        touch(rp_ring_of(&m, m.nseats - 1), m.ring_bytes);
        uint64_t off = take_u64(in), len = take_u64(in);
        const unsigned char *part = rp_arena_at(&m, off, len);
        DEMAND(!part || (part >= at && part <= at + size && len <= (uint64_t)(at + size - part)));
        part = rp_arena_at(&m, m.arena_off + off % 8192, len % 8192);
        if (part)
            touch(part, (uint32_t)(len % 8192));
    }
    free(block);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    switch (take_u8(&in) % FUZZ_TARGETS) {
    case FUZZ_RING:
        read_ring(&in);
        break;
    case FUZZ_WORDS:
        look_at_words(&in);
        break;
    default:
        open_layout(&in);
    }
    return 0;
}
