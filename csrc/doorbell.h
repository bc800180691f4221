/* A doorbell: a 32-bit word that a waiter parks on. The order that loses no wake-up (an eventcount):
 *
 *   waiter                                        ringer
 *   seen = rp_bell_read(bell)                     makes its condition true (sequentially consistent store)
 *   says that it parks (mask bit or count, seq)   looks who is parked (seq)
 *   checks its condition; true: go on             somebody: rp_bell_ring(bell)
 *   rp_bell_park(bell, seen, timeout)
 *
 * Either the waiter's check sees the condition, or the ringer's look sees the waiter; and a ring between read and park makes
 * the park return at once. After the construction of Concurrency Kit's ck_ec.h (the code is our own).
 *
 * The word lives in shared memory; whoever dies here holds nothing. */
#ifndef RP_DOORBELL_H
#define RP_DOORBELL_H

#include "atomics.h"

/* RP_DOORBELL_POLL is the portable fallback: the waiter sleeps in short, growing naps and nobody needs a system call to ring. */
enum rp_doorbell_kind { RP_DOORBELL_FUTEX = 0, RP_DOORBELL_POLL = 1 };

/* RP_DOORBELL_FUTEX if this kernel grants futex on shared words, else RP_DOORBELL_POLL. */
enum rp_doorbell_kind rp_doorbell_probe(void);

static inline uint32_t rp_bell_read(rp_u32 *bell) { return rp_load_seq(bell); }
/* Wakes all who are parked on the bell. */
void rp_bell_ring(rp_u32 *bell, enum rp_doorbell_kind kind);
/* Returns when rung since `seen` was read, or on a signal, or spuriously (all 0), or after timeout_ns (-ETIMEDOUT).
 * timeout_ns < 0: no limit. */
int rp_bell_park(rp_u32 *bell, uint32_t seen, int64_t timeout_ns, enum rp_doorbell_kind kind);

/* Monotonic nanoseconds. */
int64_t rp_now_ns(void);

/* How long a wait may spin before it parks: shrinks while spinning does not pay, recovers when it does. Process-private. */
struct rp_spin {
    int64_t budget_ns;
};
#define RP_SPIN_MAX_NS 100000
#define RP_SPIN_MIN_NS 2000

static inline void rp_spin_init(struct rp_spin *s) { s->budget_ns = RP_SPIN_MAX_NS; }
static inline void rp_spin_paid(struct rp_spin *s) { s->budget_ns = RP_SPIN_MAX_NS; }
static inline void rp_spin_failed(struct rp_spin *s)
{
    s->budget_ns = s->budget_ns / 2 < RP_SPIN_MIN_NS ? RP_SPIN_MIN_NS : s->budget_ns / 2;
}

#endif
