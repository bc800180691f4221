/* A number of tasks through the rings, one at a time, by one thread: parent and worker by turns, nobody parked. Not a test: what it
 * costs is counted by tests/test_instructions.py.
 *
 *     count_instructions TASKS */
#include "rig.h"

#include <stdlib.h>

#include "idle.h"

static void run(struct rig *r, long tasks)
{
    struct rp_producer p;
    struct rp_consumer c;
    struct rp_writer w;
    struct rp_reader in;
    if (rp_producer_init(&p, &r->m))
        exit(125);
    rp_consumer_init(&c, &r->m, 0);
    rp_writer_init(&w, &r->m, 0);
    rp_reader_init(&in, &r->m, 0);
    for (long i = 0; i < tasks; i++) {
        uint64_t pos;
        struct rp_view v;
        struct rp_slot *s = rp_producer_next(&p, &pos);
        memcpy(s->data, &i, sizeof i);
        s->len = sizeof i;
        rp_producer_commit(&p, pos);
        rp_producer_kick(&p);
        s = rp_consumer_claim(&c, &pos);
        if (!s || !rp_consumer_start(&c, s, pos))
            exit(1);
        unsigned char *to = rp_writer_reserve(&w, sizeof i);
        memcpy(to, s->data, sizeof i);
        if (!rp_consumer_finish(&c, s, pos))
            exit(1);
        rp_writer_publish(&w, sizeof i, 0, pos);
        rp_writer_announce_now(&w, false);
        if (rp_reader_peek(&in, &v) != 1 || !rp_producer_expects(&p, v.pos, 0) || memcmp(v.payload, &i, sizeof i))
            exit(1);
        rp_producer_settle(&p, v.pos);
        rp_reader_consume(&in, &v);
    }
    rp_producer_free(&p);
}

int main(int argc, char **argv)
{
    struct rig r;
    if (argc != 2)
        return 2;
    rig_open(&r, &(struct rp_geometry){.nslots = 64, .nseats = 1, .ring_bytes = 4096, .chairs = 1, .arena_bytes = 1 << 16});
    rp_use_seats(&r.m, 1);
    run(&r, atol(argv[1]));
    rig_close(&r);
    return 0;
}
