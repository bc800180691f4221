/* How workers find tasks and wait for them: csrc/taskring.c (claim, sweep, kick, bury), csrc/idle.c (rp_worker_wait), csrc/wake.[ch],
 * csrc/doorbell.h.
 *
 * Modelled: `take` and the stretches, the sweep with `swept` and `rescan`, chairs and spinners, bell, parked_mask, wake_one and who
 * calls it (the parent after a batch, a worker that claimed and sees more), the lookout, beside whom nobody need be woken (who is
 * how busy is left out: he may sit down whenever the place is free), wake_all after a death and at the stop; death of a worker
 * between any two steps, also of one that has cleared a bit and not rung yet, burial, one retry, the next worker of the seat.
 * Left out: the slots' reuse (slot.pml), so position and slot are one. The one second after which a park ends, and
 * rp_producer_rouse: no wake-up needs them as long as nobody is stopped for ever.
 *
 * Tasks need each other: one ends only when all workers run tasks or no task is left to be started. So a worker that sleeps while a
 * task is READY is a deadlock, and that is what is proved not to be: no wake-up is lost, whatever stretch a worker takes.
 *
 * configuration: -DNW=2 -DNTASK=2 -DKILLS=1
 * configuration: -DNW=2 -DNTASK=3 -DKILLS=0
 */
#define READY 1
#define OVER 2
#define CLAIMED(w) (4 + (w))
#define RUNNING(w) (8 + (w))

byte state[NTASK];
byte tail, take, rescan;
byte chair;                 /* one chair: seat + 1 */
byte lookout;               /* seat + 1; leaves when it likes */
byte parked;                /* a bit a seat */
bool listens[NW];           /* a worker has read its bell and not come back from the park */
bool rung[NW];              /* its bell was rung since: all that matters of a count of rings */
bool stop;
bool kill[NW], dead[NW];
byte kills, retries;
byte open = NTASK;          /* tasks that nobody has started, committed or not */
byte busy;                  /* workers that run a task */
byte settled;

inline ring(seat) { rung[seat] = listens[seat] }
inline read_bell() { atomic { listens[w] = true; rung[w] = false } }

/* By the parent and by workers. */
inline wake_one() {
    woke = false;
    do
    :: atomic { parked == 0 -> break }
    :: atomic {
            parked != 0 ->
            /* Whose turn it is. */
            if
            :: parked & 1 -> target = 0
            :: parked & 2 -> target = 1
            :: parked & 4 -> target = 2
            fi
        };
#ifdef BUG_RING_BEFORE_CLEARING
        ring(target);
        parked = parked & ~(1 << target);
        woke = true;
        break
#else
        atomic {
            if
            :: parked & (1 << target) -> parked = parked & ~(1 << target); woke = true
            :: else /* another waker was first, or the worker left by itself */
            fi
        };
        if
        :: woke -> ring(target); break
        :: else
        fi
#endif
    od;
    target = 0
}

inline wake_all() {
    ring(0);
    ring(1)
#if NW == 3
    ; ring(2)
#endif
}

inline claim() {
    atomic {
        if
        :: state[task] == READY -> state[task] = CLAIMED(w); goto claimed
        :: else -> task = 0
        fi
    }
}

inline pass_on() {
#ifndef BUG_NOTHING_IS_PASSED_ON
    if
    :: parked && lookout
    :: parked ->
        last = tail;
        atomic {
            left = until - next;
            if
            :: take < last -> left = left + last - take
            :: else
            fi
        };
        if
        :: left > (chair != 0) -> wake_one()
        :: else
        fi
    :: else
    fi
#else
    skip
#endif
}

/* Its park ends by itself. Wakes others or does not. */
inline look_out() {
#ifndef BUG_LOOKOUT_KEEPS_ITS_PLACE
    lookout = 0;
#else
    true;
#endif
#if KILLS == 0 /* with deaths there would be more states than memory */
    if
    :: wake_one(); woke = false
    :: true
    fi
#endif
}

/* rp_consumer_init, and less states. */
inline forget() {
    d_step {
        next = 0; until = 0; swept = 0; seen = 0; scan = 0; last = 0; mine = 0; left = 0; target = 0; task = 0; woke = false
    }
}

proctype Worker(byte w) {
    byte next, until, swept, seen, scan;    /* struct rp_consumer */
    byte last, mine, left, target, task;
    bool woke;
again:
    {
        /* rp_consumer_claim */
        do
        :: atomic { next < until && state[next] != READY -> next++ }
        :: atomic { next < until && state[next] == READY -> task = next; next++ };
            claim()
        :: atomic { next == until -> next = 0; until = 0; last = tail; break }
        od;
        mine = take;
        if
        :: mine < last ->
            atomic {
                if
                :: take == mine ->
                    /* As long as it pleases. */
                    next = mine;
                    until = mine + 1;
                    do
                    :: until < last -> until++
                    :: break
                    od;
                    take = until
                :: else
                fi;
                goto again
            }
        :: else
        fi;
        /* sweep */
        atomic {
            if
#ifndef BUG_RESCAN_IS_IGNORED
            :: rescan != scan -> scan = rescan; swept = 0
#else
            :: rescan != scan -> scan = rescan
#endif
            :: else
            fi
        };
        do
        :: atomic { swept < last && state[swept] != READY -> swept++ }
        :: atomic { swept < last && state[swept] == READY -> task = swept; swept++ };
            claim()
        :: atomic { swept >= last -> seen = last; last = 0; mine = 0; break }
        od;
        if
        :: stop -> goto gone
        :: else -> goto wait
        fi;
claimed:
        pass_on();
        atomic { state[task] = RUNNING(w); open--; busy++; last = 0; mine = 0; left = 0; woke = false };
        (busy == NW || open == 0);
        atomic { state[task] = OVER; busy--; settled++; task = 0; goto again };
wait:
        if
        :: atomic { chair == 0 -> chair = w + 1 };
            if
            :: atomic { tail != seen || rescan != scan || stop -> seen = 0 };
                atomic { chair = 0; goto again }
            :: chair = 0 /* for long enough */
            fi
        :: chair != 0
        fi;
        if
        :: atomic { lookout == 0 -> lookout = w + 1 };
            look_out();
            if
            :: atomic { tail != seen || rescan != scan || stop -> seen = 0 };
                goto again
            :: tail == seen && rescan == scan && !stop
            fi
        :: true
        fi;
#ifdef BUG_CHECK_BEFORE_THE_BIT
        read_bell();
        if
        :: tail == seen && rescan == scan && !stop -> parked = parked | (1 << w); rung[w]
        :: else
        fi;
#else
#ifndef BUG_BELL_READ_LATE
        read_bell();
#endif
        parked = parked | (1 << w);
        if
        :: tail == seen ->
            if
            :: rescan == scan ->
                if
                :: !stop ->
#ifdef BUG_BELL_READ_LATE
                    read_bell();
#endif
                    rung[w]
                :: else
                fi
            :: else
            fi
        :: else
        fi;
#endif
        atomic { parked = parked & ~(1 << w); listens[w] = false; rung[w] = false; seen = 0 };
        if
        :: atomic { lookout == 0 -> lookout = w + 1 };
            look_out()
        :: true
        fi;
        goto again
    } unless { atomic { kill[w] -> kill[w] = false; dead[w] = true; listens[w] = false; rung[w] = false } };
gone:
    forget();
end:
    atomic { !dead[w] && !stop -> goto again }
}

proctype Killer() {
end:
    do
    :: atomic { kills < KILLS && !dead[0] && !kill[0] -> kills++; kill[0] = true }
    :: atomic { kills < KILLS && !dead[1] && !kill[1] -> kills++; kill[1] = true }
    od
}

inline kick() {
#ifndef BUG_KICK_LOOKS_BEFORE_THE_COMMIT
    anyone = parked;
#endif
    if
    :: anyone && lookout
    :: anyone ->
        atomic { ready = last - take; i = 0 };
        spinners = (chair != 0);
        do
        :: i < 2 && ready > spinners + i ->
            wake_one();
            if
            :: woke -> i++
            :: else -> break
            fi
        :: else -> break
        od
    :: else
    fi;
    atomic { anyone = 0; ready = 0; spinners = 0; i = 0; woke = false }
}

inline bury(w) {
    atomic { i = 0; ready = 0; lost = NTASK };
    do
    :: atomic { i < NTASK && state[i] == CLAIMED(w) -> state[i] = READY; ready++; i++ }
    :: atomic { i < NTASK && state[i] == RUNNING(w) -> lost = i; i++ }
    :: atomic { i < NTASK && state[i] != RUNNING(w) && state[i] != CLAIMED(w) -> i++ }
    :: atomic { i == NTASK -> break }
    od;
#ifndef BUG_CHAIR_OF_THE_DEAD_IS_KEPT
    atomic {
        if
        :: chair == w + 1 -> chair = 0
        :: else
        fi
    };
#endif
#ifndef BUG_LOOKOUT_OF_THE_DEAD_IS_KEPT
    atomic {
        if
        :: lookout == w + 1 -> lookout = 0
        :: else
        fi
    };
#endif
#ifndef BUG_BIT_OF_THE_DEAD_IS_KEPT
    parked = parked & ~(1 << w);
#endif
    if
#ifndef BUG_GIVEN_BACK_WITHOUT_RESCAN
    :: ready -> rescan++
#endif
    :: else
    fi;
#ifndef BUG_NOBODY_IS_WOKEN_AFTER_A_DEATH
    wake_all();
#endif
    if
    :: lost < NTASK && retries < 1 ->
        atomic { state[lost] = READY; open++; busy--; retries++ };
        rescan++;
#ifndef BUG_NOBODY_IS_WOKEN_AFTER_A_DEATH
        wake_all()
#endif
    :: lost < NTASK -> atomic { state[lost] = OVER; busy--; settled++ }
    :: lost == NTASK
    fi;
    atomic { i = 0; ready = 0; lost = 0; dead[w] = false }
}

active proctype Parent() {
    byte last, anyone, ready, spinners, i, target, lost;
    bool woke;
    atomic {
        run Worker(0);
        run Worker(1);
#if NW == 3
        run Worker(2);
#endif
        run Killer()
    };
    do
    :: last < NTASK ->
        /* A batch: the GIL lets nothing else of the parent in between. */
#ifdef BUG_KICK_LOOKS_BEFORE_THE_COMMIT
        anyone = parked;
#endif
        do
        :: last < NTASK ->
#ifdef BUG_TAIL_BEFORE_READY
            tail = last + 1;
            state[last] = READY;
#else
            state[last] = READY;
            tail = last + 1;
#endif
            last++
        :: last == tail && last > 0 -> break
        od;
        kick()
    :: dead[0] -> bury(0)
    :: dead[1] -> bury(1)
    :: settled == NTASK -> break
    od;
    stop = true;
#ifndef BUG_STOP_WITHOUT_WAKING
    wake_all()
#endif
}
