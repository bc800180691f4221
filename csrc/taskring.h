/* The task ring: one producer (the parent), many consumers (workers pull).
 *
 * A task lives in the slot of its position. Its state word alone says who has it; `take` and the stretches are hints, and
 * a wrong hint costs time, never a task:
 *   - a worker first walks a stretch of positions that it took by advancing `take`, claiming slot by slot;
 *   - with nothing left to take it sweeps every slot below the tail for one that is still READY, for instance in the stretch of a
 *     worker that is busy with a long task or dead. Only then it waits.
 *   - while the ring moves on and nobody sweeps, such a slot is passed by a stretch once a lap, and claimed then.
 * READY appears only with a new tail, or (after a death) with a new `rescan`; so a worker that swept everything below the
 * tail it saw need not look again until one of the two words changes.
 *
 * The parent's view of which slots are free is private memory: a worker cannot damage it. A position whose slot is still busy
 * with an old task is skipped, so one long task never stops the ring. */
#ifndef RP_TASKRING_H
#define RP_TASKRING_H

#include "fault.h"
#include "wake.h"

struct rp_producer {
    const struct rp_map *m;
    uint64_t *owner; /* per slot: position + 1 of the unsettled task in it, 0 = free */
    uint64_t tail, low;
    uint64_t shown; /* the tail that workers see */
    uint32_t outstanding;
    bool stopped;   /* workers are to leave when there is no task left */
};

/* 0 or -ENOMEM. */
int rp_producer_init(struct rp_producer *p, const struct rp_map *m);
void rp_producer_free(struct rp_producer *p);

/* The slot to fill next and its position, or NULL when all are taken: back-pressure, an expected outcome. Nothing is reserved
 * before commit; the caller fills everything but the state. */
static inline struct rp_slot *rp_producer_next(struct rp_producer *p, uint64_t *pos)
{
    if (p->outstanding > p->m->slot_mask)
        return NULL;
    uint64_t at = p->tail;
    while (p->owner[at & p->m->slot_mask])
        at++;
    *pos = at;
    rp_prefetch_slot(p->m, at + RP_AHEAD);
    return &p->m->slots[at & p->m->slot_mask];
}

static inline void rp_producer_commit(struct rp_producer *p, uint64_t pos)
{
    p->owner[pos & p->m->slot_mask] = pos + 1;
    p->outstanding++;
    RP_FAULT(RP_AT_FILLED);
    rp_store_release(&p->m->slots[pos & p->m->slot_mask].state, rp_state(pos, 0, RP_READY)); /* A */
    RP_FAULT(RP_AT_READY);
    p->tail = pos + 1;
}

/* Every store of the tail takes its line from all who look at it, so a few commits share one; and until there is this much to take,
 * those who are awake take it in passing. The tests set both to less. */
#ifndef RP_BATCH
#define RP_BATCH 16u
#define RP_PASSING 256u
#endif

/* Workers that are awake see what was committed. */
static inline void rp_producer_show(struct rp_producer *p)
{
    p->shown = p->tail;
    rp_store_release(&p->m->h->tail, p->tail); /* D */
    RP_FAULT(RP_AT_COMMITTED);
}

/* After the last commit of a batch, and before anything that may take its time: until then no worker need see a task, from then on
 * none may be left while a worker is parked. */
void rp_producer_kick(struct rp_producer *p);
/* Cheap form between the commits of a batch: may miss a worker that is just going to park. */
static inline void rp_producer_nudge(struct rp_producer *p)
{
    if (p->tail - p->shown < RP_BATCH)
        return;
    rp_producer_show(p);
    if (p->tail - rp_load_relaxed(&p->m->h->take) < RP_PASSING || rp_load_relaxed(&p->m->h->lookout))
        return;
    for (uint32_t i = 0, n = rp_mask_words(p->m); i < n; i++)
        if (rp_load_relaxed(&p->m->h->parked_mask[i])) {
            rp_producer_kick(p);
            return;
        }
}

/* True if the task at this position is unsettled and was finished in this seat: the only results that are believed. */
static inline bool rp_producer_expects(const struct rp_producer *p, uint64_t pos, uint32_t seat)
{
    uint64_t i = pos & p->m->slot_mask;
    return p->owner[i] && p->owner[i] == pos + 1 && rp_load_acquire(&p->m->slots[i].state) == rp_state(pos, seat, RP_DONE);
}

/* The task that is unsettled in slot i, with its state and position; false: there is none, or the word is damaged. */
bool rp_producer_look(const struct rp_producer *p, uint64_t i, uint64_t *pos, enum rp_phase *phase, uint32_t *seat);
/* True: the task at this position never starts; the caller settles it. False: it has started, or ended. */
bool rp_producer_revoke(struct rp_producer *p, uint64_t pos);
/* True: the task runs in this seat and gives no result any more; the worker has to be killed, and loses nothing else. */
bool rp_producer_doom(struct rp_producer *p, uint64_t pos, uint32_t seat);
/* A task that rp_producer_bury found lost is to be run once more. */
void rp_producer_retry(struct rp_producer *p, uint64_t pos);

/* The task is settled; its slot is free. */
void rp_producer_settle(struct rp_producer *p, uint64_t pos);

/* After a death, with the dead worker's result ring drained: gives back what it had claimed and not started, writes the
 * positions that it was running to lost[] (at most max; more than one only if the segment was damaged), and returns how many. */
uint32_t rp_producer_bury(struct rp_producer *p, uint32_t seat, uint64_t *lost, uint32_t max);

/* Workers leave when there is no task left. */
void rp_producer_stop(struct rp_producer *p);

/* Somebody has waited for a while and nothing came: wakes every parked worker if a task is still READY. A worker that was stopped
 * while it sat on a chair, or took the only wake-up, cannot keep a task to itself. */
void rp_producer_rouse(struct rp_producer *p);

struct rp_consumer {
    const struct rp_map *m;
    uint32_t seat;
    uint32_t rescan;   /* value of `rescan` at the last sweep */
    uint32_t litter;   /* value of `litter` when garbage was last collected */
    uint32_t stretch;  /* longest stretch to take: short while tasks prove long */
    bool overslept;    /* the last wait ended by time-out: work that is found now was missed */
    uint64_t next, stop; /* the stretch */
    uint64_t swept;    /* every position below is known not to be READY */
    uint64_t seen;     /* tail at the last sweep */
    int64_t cpu_ns;    /* of this thread, and how often it had blocked, when rp_consumer_look_at_clock was called last */
    int64_t blocked;
};
#define RP_STRETCH_MAX 16u

void rp_consumer_init(struct rp_consumer *c, const struct rp_map *m, uint32_t seat);

/* Claims a task: the slot and its position, or NULL when no slot below the tail is READY. */
struct rp_slot *rp_consumer_claim(struct rp_consumer *c, uint64_t *pos);

/* From here on a death loses the task: the caller is about to run user code. False: it was revoked, and nothing that was read from
 * the slot is to be used. */
static inline bool rp_consumer_start(struct rp_consumer *c, struct rp_slot *s, uint64_t pos)
{
    RP_FAULT(RP_AT_STARTING);
    bool started = rp_cas_u64(&s->state, rp_state(pos, c->seat, RP_CLAIMED), rp_state(pos, c->seat, RP_RUNNING));
    RP_FAULT(RP_AT_STARTED);
    return started;
}

/* Before the result is published, or the first piece of it. False: the task was doomed; this process is about to be killed, and
 * must neither publish nor claim anything more. */
static inline bool rp_consumer_finish(struct rp_consumer *c, struct rp_slot *s, uint64_t pos)
{
    RP_FAULT(RP_AT_FINISHING);
    bool finished = rp_cas_u64(&s->state, rp_state(pos, c->seat, RP_RUNNING), rp_state(pos, c->seat, RP_DONE));
    RP_FAULT(RP_AT_FINISHED);
    return finished;
}

/* True if the parent wants garbage collected, once each time. */
static inline bool rp_consumer_is_to_clean(struct rp_consumer *c)
{
    uint32_t litter = rp_load_seq(&c->m->h->litter);
    bool told = litter != c->litter;
    c->litter = litter;
    return told;
}

/* True while the worker walks a stretch: the next claim is cheap. */
static inline bool rp_consumer_in_stretch(const struct rp_consumer *c) { return c->next < c->stop; }

/* Tells how long a task took on average, so that a stretch holds about RP_STRETCH_NS of work. */
#define RP_STRETCH_NS 20000
/* True if tasks take so little time that a wake-up for each would cost more. */
static inline bool rp_short_tasks(const struct rp_consumer *c) { return c->stretch > 1; }
void rp_consumer_pace(struct rp_consumer *c, int64_t ns_per_task);
/* After a wait, if there are more workers than cores: tasks may seem long because others have the cores. */
void rp_consumer_look_at_clock(struct rp_consumer *c);
static inline bool rp_crowded(const struct rp_map *m) { return m->cores && rp_used(m) > m->cores; }

#endif
