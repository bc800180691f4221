#define _GNU_SOURCE
#include "doorbell.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int64_t rp_now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static long futex(rp_u32 *word, int op, uint32_t value, const struct timespec *timeout)
{
    return syscall(SYS_futex, (uint32_t *)(void *)word, op, value, timeout, NULL, 0);
}

enum rp_doorbell_kind rp_doorbell_probe(void)
{
    rp_u32 word = 1;
    /* The value differs, so a working futex answers EAGAIN and never sleeps. */
    if (futex(&word, FUTEX_WAIT, 0, NULL) == -1 && errno == EAGAIN)
        return RP_DOORBELL_FUTEX;
    return RP_DOORBELL_POLL;
}

void rp_bell_ring(rp_u32 *bell, enum rp_doorbell_kind kind)
{
    rp_add_seq(bell, 1);
    if (kind == RP_DOORBELL_FUTEX)
        futex(bell, FUTEX_WAKE, INT_MAX, NULL);
}

static struct timespec timespec_of(int64_t ns)
{
    return (struct timespec){(time_t)(ns / 1000000000), (long)(ns % 1000000000)};
}

static int park_polling(rp_u32 *bell, uint32_t seen, int64_t timeout_ns)
{
    int64_t nap = 20000, waited = 0;
    while (rp_load_seq(bell) == seen) {
        if (timeout_ns >= 0 && waited >= timeout_ns)
            return -ETIMEDOUT;
        if (timeout_ns >= 0 && nap > timeout_ns - waited)
            nap = timeout_ns - waited;
        struct timespec t = timespec_of(nap);
        if (nanosleep(&t, NULL) && errno == EINTR)
            return 0;
        waited += nap;
        nap = nap * 2 > 5000000 ? 5000000 : nap * 2;
    }
    return 0;
}

int rp_bell_park(rp_u32 *bell, uint32_t seen, int64_t timeout_ns, enum rp_doorbell_kind kind)
{
    if (kind == RP_DOORBELL_POLL)
        return park_polling(bell, seen, timeout_ns);
    struct timespec t = timespec_of(timeout_ns < 0 ? 0 : timeout_ns);
    if (futex(bell, FUTEX_WAIT, seen, timeout_ns < 0 ? NULL : &t) == -1 && errno == ETIMEDOUT)
        return -ETIMEDOUT;
    return 0;
}
