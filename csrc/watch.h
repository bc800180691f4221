/* A worker must not outlive the owner of its pool, whatever it is doing: a thread of its own, blocked in the kernel, ends the
 * process when the owner is gone. It runs no Python and takes no lock. PR_SET_PDEATHSIG would follow the thread that forked,
 * not the process, and not the owner at all under a fork server.
 *
 * A pool may allow its workers to finish what they run (outlive). Then one word, private to the process, settles between the watching
 * thread and the one that runs tasks who ends it:
 *
 *   IDLE --task begins--> BUSY --task ends--> IDLE
 *     |                     |
 *     +-- owner gone: GONE  +-- owner gone: LAST --task ends--> its thread has to leave
 *         and _exit
 *
 * So a worker that waits for a task, for its orders or for room in its result ring goes as soon as the owner does. */
#ifndef RP_WATCH_H
#define RP_WATCH_H

#include "atomics.h"

/* owner_fd: a pidfd of the owner (becomes readable at its death). program_fd: a pipe whose other end only the owner's program holds, or
 * -1: an owner that becomes another program by exec does not die, but its descriptors go. It is closed here, as far as nobody sees it
 * any more. The descriptors must stay open, unless the kernel has close_range: then the watch has them for itself. outlive: a task
 * that has begun may go on to its end. 0 or -errno. */
int rp_watch_owner(int owner_fd, int program_fd, bool outlive);
/* Fallback without pidfd: looks four times a second whether this process's parent is still `parent`. 0 or -errno. */
int rp_watch_parent(int parent, bool outlive);

enum rp_watch_word { RP_WATCH_IDLE = 0, RP_WATCH_BUSY = 1, RP_WATCH_LAST = 2, RP_WATCH_GONE = 3 };
extern rp_u32 rp_watch_word;

/* Only for a worker that may outlive its owner, by the thread that runs the tasks. */
static inline void rp_task_begins(void) { rp_cas_u32(&rp_watch_word, RP_WATCH_IDLE, RP_WATCH_BUSY); }
/* False: the owner is gone, nobody takes the result and no other task may begin. */
static inline bool rp_task_ends(void)
{
    return rp_cas_u32(&rp_watch_word, RP_WATCH_BUSY, RP_WATCH_IDLE) || rp_load_seq(&rp_watch_word) != RP_WATCH_LAST;
}

/* Afterwards rp_forked() is true in every child that this process forks: a task that forks and returns in both processes must
 * not give the pool a second worker in the same seat. 0 or -errno. */
int rp_watch_forks(void);
extern volatile int rp_forked_flag;
static inline int rp_forked(void) { return rp_forked_flag; }

#endif
