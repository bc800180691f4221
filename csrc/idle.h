/* How the two sides wait: spin for a bounded time while that pays, then park on a doorbell.
 * Every wait ends when its condition may have changed, on a signal, or after at most a second; the caller looks again. */
#ifndef RP_IDLE_H
#define RP_IDLE_H

#include "resultring.h"
#include "taskring.h"

/* Worker, before its first task: while it has no orders. True: it is to serve; false: to leave, or to look again after a signal. */
bool rp_worker_stand_by(const struct rp_consumer *c);
/* Worker: announces unread results, then looks for a microsecond or so whether a task may be there, for callers who would lose more by
 * letting go of their lock. False: no, or looking does not pay now. */
bool rp_worker_glance(const struct rp_consumer *c, struct rp_writer *w, const struct rp_spin *spin);
/* Worker: until a task may be there, the pool stops, garbage is to be collected, or its orders are to leave. Announces unread
 * results first. */
void rp_worker_wait(struct rp_consumer *c, struct rp_writer *w, struct rp_spin *spin);

/* Parent: reads the doorbell before the caller checks its condition. */
static inline uint32_t rp_parent_arm(const struct rp_map *m) { return rp_bell_read(&m->h->bell); }

struct rp_patience {
    bool spin;           /* cores to spare: look for a while before parking */
    uint32_t wake_bytes; /* unread bytes in a ring that are worth a wake-up; 0 = the first result */
    int64_t limit_ns;    /* longest time to stay away; < 0: until something happens */
};
/* Parent: until a result is unread, the doorbell was rung since `seen`, or the limit is over. `readers` are the seats in use.
 * Returns true if something is unread. Runs without any lock of the caller. */
bool rp_parent_wait(const struct rp_map *m, const struct rp_reader *readers, uint32_t n, uint32_t seen,
                    const struct rp_patience *p, struct rp_spin *spin);
/* Parent: looks for a microsecond or so whether something is unread, for callers who would lose more by letting go of their lock. */
bool rp_parent_glance(const struct rp_reader *readers, uint32_t n);
/* Parent: what the worker in this seat is to do, from its next task on. */
void rp_parent_order(const struct rp_map *m, uint32_t seat, enum rp_orders orders);
/* Parent: workers without a task are to collect garbage, which may hold blocks. */
void rp_parent_ask_to_clean(const struct rp_map *m);
/* Any thread of the parent: makes those who wait look again. */
void rp_parent_ring(const struct rp_map *m);

#endif
