/* The project's whole memory model: every access to a word that another process may touch goes through one of these.
 *
 * Pairs (who releases -> who acquires):
 *   A  slot state READY, parent's commit          -> worker's claim          (payload of a task)
 *   B  result ring tail, worker's publish         -> parent's peek           (payload of a result)
 *   C  result ring head, parent's consume         -> worker's reserve        (room in the ring)
 *   D  ring tail of tasks, parent's commit        -> worker's claim          (which slots may hold work)
 *   E  parked mask set / task tail, sequentially consistent on both sides    (no lost wake-up of a worker)
 *   F  armed word / result tail, sequentially consistent on both sides     (no lost wake-up of the parent)
 *   G  word of an offer, parent                   -> worker's take           (which block, how much of it)
 *   H  head of a block, worker's release          -> parent's look           (reads and writes of the block are over)
 * There is no stand-alone fence: ThreadSanitizer does not understand them. (Stores that go past the caches, copy.c, are ordered
 * there.)
 */
#ifndef RP_ATOMICS_H
#define RP_ATOMICS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

typedef _Atomic uint32_t rp_u32;
typedef _Atomic uint64_t rp_u64;

#define rp_load_relaxed(p) atomic_load_explicit((p), memory_order_relaxed)
#define rp_load_acquire(p) atomic_load_explicit((p), memory_order_acquire)
#define rp_load_seq(p) atomic_load_explicit((p), memory_order_seq_cst)
#define rp_store_relaxed(p, v) atomic_store_explicit((p), (v), memory_order_relaxed)
#define rp_store_release(p, v) atomic_store_explicit((p), (v), memory_order_release)
#define rp_store_seq(p, v) atomic_store_explicit((p), (v), memory_order_seq_cst)
#define rp_add_seq(p, v) atomic_fetch_add_explicit((p), (v), memory_order_seq_cst)
#define rp_sub_seq(p, v) atomic_fetch_sub_explicit((p), (v), memory_order_seq_cst)
#define rp_or_seq(p, v) atomic_fetch_or_explicit((p), (v), memory_order_seq_cst)
#define rp_and_seq(p, v) atomic_fetch_and_explicit((p), (v), memory_order_seq_cst)

/* True if *p went from want to set; a failure says only that somebody else was first. */
static inline bool rp_cas_u64(rp_u64 *p, uint64_t want, uint64_t set)
{
    return atomic_compare_exchange_strong_explicit(p, &want, set, memory_order_seq_cst, memory_order_relaxed);
}

static inline bool rp_cas_u32(rp_u32 *p, uint32_t want, uint32_t set)
{
    return atomic_compare_exchange_strong_explicit(p, &want, set, memory_order_seq_cst, memory_order_relaxed);
}

static inline void rp_cpu_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* The line is about to be written here and was last written elsewhere: fetching it early hides most of its way. */
static inline void rp_prefetch(const void *p)
{
#if defined(__x86_64__)
    /* What the builtin gives without -mprfchw fetches the line to read it, and writing it then takes a second way. */
    __asm__ volatile("prefetchw %0" : : "m"(*(const char *)p));
#else
    __builtin_prefetch(p, 1);
#endif
}

_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2 && ATOMIC_INT_LOCK_FREE == 2,
               "shared words must be lock-free: a lock inside an atomic is not shared between processes");

#endif
