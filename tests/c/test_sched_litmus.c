/* The scheduler's memory itself: the small programs by which memory models are told apart. What C11 forbids is never seen, and what
 * it allows is seen, or a test on this memory would prove nothing. */
#include "scheduler.h"

#include "atomics.h"

#define WORLDS 3000

static struct {
    rp_u32 x, y;
    rp_u64 n;
} shared;
static uint32_t saw[4];
static uint32_t seen_in_all[16];

static void open_world(void)
{
    memset((void *)&shared, 0, sizeof shared);
    memset(saw, 0, sizeof saw);
    sched_share("shared", &shared, sizeof shared);
}

/* Which outcomes there were: a bit for each value that was seen. */
static void close_world(void) { seen_in_all[saw[0] | saw[1] << 1 | saw[2] << 2 | saw[3] << 3]++; }

#define LITMUS(name, ...) \
    static void name##_world(void) \
    { \
        static void (*const bodies[])(void *) = {__VA_ARGS__}; \
        open_world(); \
        for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++) \
            sched_thread(bodies[i], NULL); \
        sched_run(); \
        close_world(); \
    } \
    static void name##_seen(void) \
    { \
        memset(seen_in_all, 0, sizeof seen_in_all); \
        sched_worlds(name##_world, WORLDS); \
    }

#define BODY(name, statement) \
    static void name(void *arg) \
    { \
        (void)arg; \
        statement; \
    }

/* Message passing: saw[0] = the flag, saw[1] = what it announces. */
BODY(tell_relaxed, (rp_store_relaxed(&shared.x, 1), rp_store_relaxed(&shared.y, 1)))
BODY(tell_release, (rp_store_relaxed(&shared.x, 1), rp_store_release(&shared.y, 1)))
BODY(hear_relaxed, (saw[0] = rp_load_relaxed(&shared.y), saw[1] = rp_load_relaxed(&shared.x)))
BODY(hear_acquire, (saw[0] = rp_load_acquire(&shared.y), saw[1] = rp_load_relaxed(&shared.x)))
LITMUS(relaxed, tell_relaxed, hear_acquire)
LITMUS(release_alone, tell_release, hear_relaxed)
LITMUS(message, tell_release, hear_acquire)

/* A store that a change of another thread lies on still announces. */
BODY(add_relaxed, atomic_fetch_add_explicit(&shared.y, 2, memory_order_relaxed))
BODY(hear_both, (saw[0] = rp_load_acquire(&shared.y) == 3, saw[1] = rp_load_relaxed(&shared.x)))
LITMUS(sequence, tell_release, add_relaxed, hear_both)

/* Store buffering: both miss the other's store. */
BODY(x_then_y_release, (rp_store_release(&shared.x, 1), saw[0] = rp_load_acquire(&shared.y)))
BODY(y_then_x_release, (rp_store_release(&shared.y, 1), saw[1] = rp_load_acquire(&shared.x)))
BODY(x_then_y_seq, (rp_store_seq(&shared.x, 1), saw[0] = rp_load_seq(&shared.y)))
BODY(y_then_x_seq, (rp_store_seq(&shared.y, 1), saw[1] = rp_load_seq(&shared.x)))
LITMUS(buffers, x_then_y_release, y_then_x_release)
LITMUS(no_buffers, x_then_y_seq, y_then_x_seq)

/* Two readers of two writers: do they agree on the order? */
BODY(write_x, rp_store_release(&shared.x, 1))
BODY(write_y, rp_store_release(&shared.y, 1))
BODY(write_x_seq, rp_store_seq(&shared.x, 1))
BODY(write_y_seq, rp_store_seq(&shared.y, 1))
BODY(read_x_y, (saw[0] = rp_load_acquire(&shared.x), saw[1] = rp_load_acquire(&shared.y)))
BODY(read_y_x, (saw[2] = rp_load_acquire(&shared.y), saw[3] = rp_load_acquire(&shared.x)))
BODY(read_x_y_seq, (saw[0] = rp_load_seq(&shared.x), saw[1] = rp_load_seq(&shared.y)))
BODY(read_y_x_seq, (saw[2] = rp_load_seq(&shared.y), saw[3] = rp_load_seq(&shared.x)))
LITMUS(disagree, write_x, write_y, read_x_y, read_y_x)
LITMUS(agree, write_x_seq, write_y_seq, read_x_y_seq, read_y_x_seq)

/* One word: never backwards, and no change is lost. */
BODY(count_up, (rp_store_relaxed(&shared.x, 1), rp_store_relaxed(&shared.x, 2)))
BODY(read_twice, uint32_t a = rp_load_relaxed(&shared.x); uint32_t b = rp_load_relaxed(&shared.x); saw[0] = b < a; saw[1] = a != b)
LITMUS(coherence, count_up, read_twice)
BODY(add_one, atomic_fetch_add_explicit(&shared.n, 1, memory_order_relaxed))
BODY(exchange_one, uint64_t n; do n = rp_load_relaxed(&shared.n); while (!rp_cas_u64(&shared.n, n, n + 1)))
BODY(add_and_exchange, add_one(NULL); exchange_one(NULL))
static void sum_world(void)
{
    open_world();
    for (int i = 0; i < 3; i++)
        sched_thread(add_and_exchange, NULL);
    sched_run();
    CHECK(shared.n == 6);
}

#define FLAG_ALONE 1 /* saw[0] and not saw[1] */
static void flags_announce_only_by_release_and_acquire(void)
{
    relaxed_seen();
    CHECK(seen_in_all[FLAG_ALONE] && seen_in_all[3] && seen_in_all[0] && seen_in_all[2]);
    release_alone_seen();
    CHECK(seen_in_all[FLAG_ALONE] && seen_in_all[3]);
    message_seen();
    CHECK(!seen_in_all[FLAG_ALONE] && seen_in_all[3] && seen_in_all[0] && seen_in_all[2]);
    sequence_seen();
    CHECK(!seen_in_all[FLAG_ALONE] && seen_in_all[3]);
}

static void both_miss_unless_all_is_sequential(void)
{
    buffers_seen();
    CHECK(seen_in_all[0] && seen_in_all[1] && seen_in_all[2] && seen_in_all[3]);
    no_buffers_seen();
    CHECK(!seen_in_all[0] && seen_in_all[1] && seen_in_all[2] && seen_in_all[3]);
}

static void readers_disagree_unless_all_is_sequential(void)
{
    disagree_seen();
    CHECK(seen_in_all[1 | 4]);
    agree_seen();
    CHECK(!seen_in_all[1 | 4] && seen_in_all[15]);
}

static void one_word_is_coherent(void)
{
    coherence_seen();
    CHECK(!seen_in_all[1] && !seen_in_all[3] && seen_in_all[2]);
    sched_worlds(sum_world, WORLDS);
}

TEST_MAIN(T(flags_announce_only_by_release_and_acquire), T(both_miss_unless_all_is_sequential),
          T(readers_disagree_unless_all_is_sequential), T(one_word_is_coherent))
