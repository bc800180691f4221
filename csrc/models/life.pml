/* The life of workers and of their pool: pool/supervisor.py, stand_by and serve of pool/_worker.pyx, rp_worker_stand_by and
 * rp_parent_order of csrc/idle.c, close, end and bury of pool/_dispatch.pyx.
 *
 * Modelled: seats, orders (STAND_BY, SERVE, LEAVE) and the bell that goes with them, workers that leave after one task
 * (maxtasksperchild=1) and the spare that serves in their place, resize by another thread (all seats may be taken then), close (the stop word, and who sets it when
 * the last job is done), terminate; the supervisor's thread, which blocks on the descriptors that it knew when it began to, and its
 * lock; death of a worker between any two steps, also while it starts or stands by.
 * Left out: how workers that serve learn of tasks, and of orders and stop, between two tasks (doorbell.pml), slots and rings (slot.pml, ring.pml): a task is taken in one step,
 * and a result is visible at once. Starts that fail. Spares that are sent away. The one second after which every park ends: no wake-up needs it.
 *
 * Tasks need each other: one ends only while as many run as there are to be workers, or none is left to be taken. So a pool that stays
 * short of workers is a deadlock, and so is a worker that never learns that it is to serve or to leave. Proved is that there is none;
 * that every job is settled once; that a worker leaves only if it has reason to; and that when join() returns, no process is left.
 *
 * configuration: -DNSEAT=2 -DNTASK=2 -DFROM=1 -DTO=1 -DBACK=0 -DKILLS=1 -DRECYCLE=1
 * configuration: -DNSEAT=2 -DNTASK=1 -DFROM=1 -DTO=2 -DBACK=0 -DKILLS=1 -DRECYCLE=0
 * configuration: -DNSEAT=2 -DNTASK=1 -DFROM=2 -DTO=1 -DBACK=1 -DKILLS=1 -DRECYCLE=0
 * configuration: -DNSEAT=2 -DNTASK=1 -DFROM=1 -DTO=2 -DBACK=0 -DKILLS=0 -DRECYCLE=1
 */
#define STAND_BY 0
#define SERVE 1
#define LEAVE 2

#define NOBODY 0
#define WORKER 1            /* in self.workers */
#define SPARE 2

/* Shared memory. */
byte orders[NSEAT];
bool ready_phase[NSEAT], left[NSEAT]; /* what the worker has said in `phase` */
bool listens[NSEAT], rung[NSEAT];
bool stop;
byte ready;                 /* tasks that nobody has taken */
byte results;               /* that nobody has collected */

/* Processes. */
bool lives[NSEAT], running[NSEAT], kill[NSEAT], dead[NSEAT];
byte busy, kills;

/* The dispatcher. */
byte unfinished, submitted;
bool closing, ended;

/* The supervisor. */
bool lock;
bool bell;                  /* its eventfd */
byte kind[NSEAT];
bool seated[NSEAT];         /* in _seat_of */
bool leaving[NSEAT], watched[NSEAT], polled[NSEAT];
bool recycling, closing_too, terminating, finishing, finished;
byte processes = FROM;

#define HAS(n, what) (kind[n] == what && !leaving[n])
#if NSEAT == 3
#define SUM(condition) (condition(0) + condition(1) + condition(2))
#define EACH(statement) d_step { statement(0); statement(1); statement(2) }
#else
#define SUM(condition) (condition(0) + condition(1))
#define EACH(statement) d_step { statement(0); statement(1) }
#endif
#define IS_WORKER(n) HAS(n, WORKER)
#define IS_SPARE(n) HAS(n, SPARE)
#define IS_SEATED(n) seated[n]
#define IS_NEWS(n) (polled[n] && dead[n])
#define LIVES(n) lives[n]
#define VACANT (!terminating && !finishing && processes > SUM(IS_WORKER))
#define LACKING (recycling && !closing_too && !terminating && !finishing && SUM(IS_SPARE) == 0)
#define IDLE (unfinished == 0)
#ifdef BUG_CLOSED_POOL_REPLACES_NOBODY
#define WANTED (!closing_too && (VACANT || LACKING))
#else
#define WANTED (!(closing_too && IDLE) && (VACANT || LACKING))
#endif
#define DONE (!SUM(IS_SEATED) && (terminating || closing_too && IDLE))

inline ring_seat(i) { rung[i] = listens[i] }

/* tidy: whoever settles the last job of a closed pool, or closes one that is idle. The GIL is held. */
inline tidy() {
    if
    :: closing && IDLE && !stop ->
        stop = true;
#ifndef BUG_STOP_WITHOUT_WAKING
        EACH(ring_seat)
#endif
    :: else
    fi
}

inline settle_one() {
    if
    :: !ended -> assert(unfinished); unfinished--
    :: else /* aborted with all others */
    fi
}

inline listen() { listens[w] = true; rung[w] = false }

proctype Worker(byte w) {
    bool serve;
    goto end;
begin:
    {
        ready_phase[w] = true;
        do
        :: atomic { serve || orders[w] == LEAVE || stop -> break }
        :: atomic { !serve && orders[w] != LEAVE && !stop };
#ifndef BUG_STAND_BY_READS_THE_BELL_LATE
            atomic { listen() };
#endif
            if
#ifdef BUG_STAND_BY_IS_NOT_TOLD_TO_STOP
            :: orders[w] == STAND_BY ->
#else
            :: orders[w] == STAND_BY && !stop ->
#endif
#ifdef BUG_STAND_BY_READS_THE_BELL_LATE
                atomic { listen() };
#endif
                rung[w]
            :: else
            fi;
            atomic { listens[w] = false; rung[w] = false; serve = (orders[w] == SERVE) }
        od;
        atomic {
            if
            :: !serve -> goto leave
            :: else
            fi
        };
wait:
        atomic { orders[w] == LEAVE || ready || stop ->
            if
            :: orders[w] == LEAVE || !ready -> goto leave
            :: orders[w] != LEAVE && ready -> ready--; running[w] = true; busy++
            fi
        };
work:
        atomic {
            busy >= processes || ready == 0 && (submitted == NTASK || closing);
            running[w] = false;
            busy--;
            results++;
            if
            :: RECYCLE -> left[w] = true; goto gone /* maxtasksperchild */
            :: !RECYCLE -> goto wait
            fi
        };
leave:
        atomic { assert(stop || orders[w] == LEAVE && leaving[w]); left[w] = true }
    } unless { atomic { kill[w] -> kill[w] = false } };
gone:
    atomic { serve = false; listens[w] = false; rung[w] = false; lives[w] = false; kill[w] = false; dead[w] = true };
end:
    atomic { lives[w] -> goto begin }
}

proctype Killer() {
end:
    do
    :: atomic { kills < KILLS && lives[0] && !kill[0] -> kills++; kill[0] = true }
    :: atomic { kills < KILLS && lives[1] && !kill[1] -> kills++; kill[1] = true }
    od
}

/* Some thread that waits for results, or the collector thread. */
proctype Collector() {
end:
    do
    :: atomic { results -> results--; settle_one(); tidy() }
    od
}

/* A process sits down; the lock is held. */
inline start_worker(what) {
#ifndef BUG_SEAT_KEEPS_ITS_ORDERS
    orders[n] = STAND_BY;
#endif
    ready_phase[n] = false;
    left[n] = false;
    lives[n] = true;
    seated[n] = true;
    kind[n] = what;
    watched[n] = true
}

inline free_seat() {
    n = 0;
    do
    :: n < NSEAT && seated[n] -> n++
    :: else -> break
    od
}

inline give_orders(what) {
    orders[n] = what;
#ifndef BUG_ORDERS_WITHOUT_RINGING
    ring_seat(n)
#endif
}

/* By the supervisor and by resize, each with the lock. */
inline repopulate() {
    do
    :: atomic { VACANT ->
            n = 0;
            do
            :: n < NSEAT && !HAS(n, SPARE) -> n++
            :: else -> break
            od;
            if
            :: n < NSEAT -> kind[n] = WORKER
            :: else -> free_seat(); fresh = true
            fi
        };
        atomic {
            if
            :: fresh && n == NSEAT -> break /* no seat is free; it is tried again */
            :: fresh && n < NSEAT -> start_worker(WORKER)
            :: !fresh
            fi;
            fresh = false
        };
        atomic {
            give_orders(SERVE);
            n = 0;
#ifndef BUG_START_WITHOUT_RINGING
            bell = true
#endif
        }
    :: atomic { !VACANT -> break }
    od;
    atomic { n = 0; fresh = false; lock = false }
}

inline bury() {
    atomic { !lock ->
        watched[n] = false;
        dead[n] = false;
        polled[n] = false;
        if
        :: running[n] -> running[n] = false; busy--; settle_one()
        :: else
        fi;
        recycle = ready_phase[n] && left[n];
        orders[n] = STAND_BY;
        ready_phase[n] = false;
        left[n] = false;
#ifndef BUG_A_LOST_TASK_STOPS_NOBODY
        tidy()
#endif
    };
    atomic { !lock ->
        seated[n] = false;
        kind[n] = NOBODY;
        recycling = recycling || recycle && !leaving[n] && !closing_too;
        leaving[n] = false;
        recycle = false
    }
}

inline note(i) { polled[i] = watched[i] }
inline forget(i) { polled[i] = false }
inline end_worker(i) { kill[i] = lives[i] && seated[i] }

proctype Supervisor() {
    byte n;
    bool fresh, timed, recycle;
    do
    :: atomic {
#ifndef BUG_DONE_WITHOUT_THE_LOCK
            !lock ->
#endif
            if
            :: DONE ->
#ifndef BUG_DONE_WITHOUT_THE_LOCK
                finishing = true;
#endif
                break
            :: else
            fi;
            /* What select.poll knows of while it blocks. */
            EACH(note);
            timed = WANTED
        };
        atomic { bell || timed || SUM(IS_NEWS) -> bell = false; timed = false };
        do
        :: atomic { n < NSEAT && IS_NEWS(n) -> skip }; bury(); n++
        :: atomic { n < NSEAT && !IS_NEWS(n) -> n++ }
        :: atomic { n == NSEAT -> n = 0; EACH(forget); break }
        od;
        if
        :: atomic { terminating -> EACH(end_worker) }
        :: atomic { !terminating && WANTED && !lock -> lock = true };
            repopulate();
            atomic { !lock ->
                if
                :: LACKING ->
                    free_seat();
                    if
                    :: n < NSEAT -> start_worker(SPARE)
                    :: else
                    fi
                :: else
                fi;
                n = 0
            }
        :: atomic { !terminating && !WANTED }
        fi
    od;
    atomic { !lock -> finishing = true; finished = true }
}

/* Another thread of the program. */
inline resize(to) {
    atomic { !lock -> lock = true; processes = to };
    atomic {
        n = NSEAT;
        do
        :: n > 0 ->
            n--;
            if
            :: HAS(n, WORKER) && SUM(IS_WORKER) > processes -> leaving[n] = true; give_orders(LEAVE)
            :: else
            fi
        :: n == 0 -> break
        od;
#ifndef BUG_START_WITHOUT_RINGING
        bell = true;
#endif
        lock = false
    };
    atomic { !lock -> lock = true };
    repopulate()
}

proctype Resizer() {
    byte n;
    bool fresh;
    if
    :: FROM != TO && !closing_too && !terminating ->
        resize(TO);
        if
        :: BACK && !closing_too && !terminating -> resize(FROM)
        :: else
        fi
    :: true
    fi
}

active proctype Main() {
    byte n;
    bool fresh;
    atomic {
        run Worker(0);
        run Worker(1);
#if NSEAT == 3
        run Worker(2);
#endif
        lock = true
    };
    repopulate();
    atomic {
        run Supervisor();
        run Collector();
        run Killer();
        run Resizer()
    };
    atomic { submitted = NTASK; unfinished = NTASK; ready = NTASK };
    if
    :: closing_too = true;
        atomic {
            closing = true;
#ifndef BUG_CLOSING_AN_IDLE_POOL_STOPS_NOBODY
            tidy();
#endif
            bell = true
        }
    :: !BACK -> terminating = true;
        atomic { ended = true; unfinished = 0; tidy(); bell = true }
    fi;
    finished;
    assert(unfinished == 0);
    assert(SUM(IS_SEATED) == 0 && SUM(LIVES) == 0)
}
