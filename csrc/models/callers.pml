/* How threads of the parent wait for results: csrc/idle.c (rp_parent_wait), csrc/resultring.c (announce), and wait_for, collect,
 * announce and bury of pool/_dispatch.pyx.
 *
 * Modelled: callers, each of whom waits for results of his own and collects whatever is there, with the GIL as the lock; the
 * parent's bell, `armed`, `eager` and `wake_bytes`; the three ways in which a worker announces; a worker's store of its tail that stays
 * in a store buffer (rp_writer_publish is a release, and rp_writer_announce looks at `armed` without ordering); death of a worker
 * between any two steps, also of one that has cleared `armed` and not rung yet, and its burial.
 * Left out: who tells workers of tasks (doorbell.pml), the bytes (ring.pml), spinning, which only looks more often. The one second
 * after which a park ends: no wake-up needs it.
 *
 * What the code does rely on: the first park of a wait, and one that waits for more than the first result, end after 0.4 ms, and a
 * worker's store is visible by then. So such a park may end by itself, but not before the store buffers are empty.
 *
 * A task may run for as long as it pleases: here it ends when every result that was published before it has been placed. So a
 * caller that sleeps while a result for him is unread is a deadlock, and that is what is proved not to be. Every job is settled once.
 *
 * configuration: -DNW=1 -DNCALLER=2 -DNJOB=2 -DKILLS=1
 * configuration: -DNW=2 -DNCALLER=1 -DNJOB=2 -DKILLS=0
 */
#if NW == 2
#define ALL_PLACED (head[0] == written[0] && head[1] == written[1])
#define ALL_STORED (tail[0] == written[0] && tail[1] == written[1])
#define ANY_UNREAD (tail[0] != head[0] || tail[1] != head[1])
#else
#define ALL_PLACED (head[0] == written[0])
#define ALL_STORED (tail[0] == written[0])
#define ANY_UNREAD (tail[0] != head[0])
#endif
#define ENOUGH 1            /* wake_bytes, in results: one of them is not worth a wake-up */

byte tail[NW];              /* as the parent sees it */
byte written[NW];           /* as the worker has stored it */
byte head[NW];              /* private to the parent */
bool armed;
byte eager, wake_bytes;
bool listens[2], rung[2];   /* a caller has read the bell; it was rung since */
bool kill[NW], dead[NW];
byte kills;

bool gil;
byte waiting;
bool news;
byte job[NW * NJOB];        /* what is in the rings: job + 1 of a seat's nth result */
byte running[NW];           /* job + 1 of the task that has no result yet */
byte started;
bool done[NJOB];

inline lock() { atomic { !gil -> gil = true } }
inline unlock() { gil = false }
inline ring() { d_step { rung[0] = listens[0]; rung[1] = listens[1] } }
inline read_bell() { d_step { listens[me] = true; rung[me] = false } }
inline place(j) { assert(!done[j]); done[j] = true; news = true }

inline tell() {
    atomic {
        if
#ifndef BUG_OTHERS_ARE_NOT_TOLD
        :: news && waiting -> ring()
#endif
        :: else
        fi;
        news = false
    }
}

inline forget() { d_step { need = 0; got = false } }

/* idle: before the worker waits, whatever is unread is worth a wake-up. */
inline announce(idle) {
    if
    :: armed ->
        if
#ifndef BUG_EAGER_IS_IGNORED
        :: idle || eager -> need = 0
#else
        :: idle -> need = 0
#endif
        :: else -> need = wake_bytes
        fi;
        if
        :: written[w] - head[w] > need ->
#ifdef BUG_DISARM_AFTER_THE_RING
            atomic { tail[w] = written[w]; ring() };
            armed = false;
#else
            atomic {
                if
                :: armed -> armed = false; got = true; tail[w] = written[w]
                :: else
                fi
            };
            if
            :: got -> ring()
            :: else
            fi
#endif
        :: else
        fi
    :: else
    fi;
    forget()
}

proctype Worker(byte w) {
    byte need;
    bool got;
end_again:
    {
        atomic { started < NJOB -> started++; running[w] = started };
        if
        :: true
        :: true -> ALL_PLACED /* a long task */
        fi;
        d_step { job[w * NJOB + written[w]] = running[w]; running[w] = 0; written[w]++ };
        if
        :: announce(false) /* as rp_writer_announce */
        :: tail[w] = written[w]; announce(false)
        fi;
        if
        :: started == NJOB -> tail[w] = written[w]; announce(true)
        :: started < NJOB
        fi;
        goto end_again
    } unless { atomic { kill[w] -> kill[w] = false; dead[w] = true } };
    forget();
end:
    atomic { !dead[w] -> goto end_again }
}

/* Of two workers that are alike, one is enough. */
proctype Killer() {
end:
    do
    :: atomic { kills < KILLS && !dead[0] && !kill[0] -> kills++; kill[0] = true }
    od
}

/* The store buffers of the processors that the workers run on. */
proctype Buffer() {
end:
    do
    :: atomic { tail[0] != written[0] -> tail[0] = written[0] }
#if NW == 2
    :: atomic { tail[1] != written[1] -> tail[1] = written[1] }
#endif
    od
}

inline drain(seat) {
    d_step {
        do
        :: tail[seat] != head[seat] ->
            place(job[seat * NJOB + head[seat]] - 1);
            job[seat * NJOB + head[seat]] = 0;
            head[seat]++
        :: else -> break
        od
    }
}

#if defined(BUG_FIRST_PARK_IS_LONG)
#define SHORT_PARK (bytes != 0)
#elif defined(BUG_FEW_RESULTS_MAY_LIE)
#define SHORT_PARK (bytes == 0 && round == 0)
#else
#define SHORT_PARK (bytes != 0 || round == 0)
#endif

inline look() {
    over = tail[0] - head[0] > bytes;
#if NW == 2
    over = over || tail[1] - head[1] > bytes
#endif
}

inline wait() {
    atomic {
        round = 0;
        if
        :: bytes = 0
        :: bytes = ENOUGH
        fi
    };
    do
    :: true ->
        if
        :: bytes -> wake_bytes = bytes
#ifdef BUG_EAGER_LAPSES_BETWEEN_PARKS
        :: !bytes -> eager++; keen = true
#else
        :: !bytes && !keen -> eager++; keen = true
#endif
        :: else
        fi;
        armed = true;
        look();
        if
        :: over
        :: !over && rung[me] -> over = true
        :: !over && SHORT_PARK && ALL_STORED /* 0.4 ms */
        fi;
#ifdef BUG_EAGER_LAPSES_BETWEEN_PARKS
        atomic {
            if
            :: keen -> eager--; keen = false
            :: else
            fi
        };
#endif
        atomic {
            if
            :: over || ANY_UNREAD -> break
            :: else -> round = (bytes == 0); bytes = 0
            fi
        }
    od;
    atomic {
        if
        :: keen -> eager--; keen = false
        :: else
        fi;
        bytes = 0; over = false; round = 0; listens[me] = false; rung[me] = false }
}

proctype Caller(byte me) {
    byte mine, bytes;
    bool round, over, keen;
    mine = me;
    lock();
    do
    :: mine < NJOB ->
#ifndef BUG_BELL_READ_WITHOUT_THE_GIL
        read_bell();
#endif
        drain(0);
#if NW == 2
        drain(1);
#endif
        tell();
        if
        :: done[mine] -> atomic { listens[me] = false; rung[me] = false; mine = mine + NCALLER }
        :: else ->
            atomic { waiting++; unlock() };
#ifdef BUG_BELL_READ_WITHOUT_THE_GIL
            read_bell();
#endif
            wait();
            atomic { !gil -> gil = true; waiting-- }
        fi
    :: else -> break
    od;
    unlock()
}

inline bury(w) {
    lock();
    drain(w);
    tell();
    atomic {
        if
        :: running[w] -> place(running[w] - 1); running[w] = 0
        :: else
        fi
    };
    head[w] = 0;
    atomic { tail[w] = 0; written[w] = 0 };
    news = false;
#ifndef BUG_BURY_WITHOUT_RINGING
    ring();
#endif
    unlock();
    dead[w] = false
}

active proctype Supervisor() {
    atomic {
        run Worker(0);
        run Caller(0);
#if NW == 2
        run Worker(1);
#endif
#if NCALLER == 2
        run Caller(1);
#endif
        run Killer();
        run Buffer()
    };
end:
    do
    :: dead[0] && tail[0] == written[0] -> bury(0)
    od
}
