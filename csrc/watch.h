/* A worker must not outlive the owner of its pool, whatever it is doing: a thread of its own, blocked in the kernel, ends the
 * process when the owner is gone. It runs no Python and takes no lock. PR_SET_PDEATHSIG would follow the thread that forked,
 * not the process, and not the owner at all under a fork server. */
#ifndef RP_WATCH_H
#define RP_WATCH_H

/* owner_fd: a pidfd of the owner (becomes readable at its death). The descriptor must stay open. 0 or -errno. */
int rp_watch_owner(int owner_fd);
/* Fallback without pidfd: looks four times a second whether this process's parent is still `parent`. 0 or -errno. */
int rp_watch_parent(int parent);

/* Afterwards rp_forked() is true in every child that this process forks: a task that forks and returns in both processes must
 * not give the pool a second worker in the same seat. 0 or -errno. */
int rp_watch_forks(void);
extern volatile int rp_forked_flag;
static inline int rp_forked(void) { return rp_forked_flag; }

#endif
