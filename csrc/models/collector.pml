/* When the collector thread sleeps and who wakes it: run_collector, wake_collector, wait_for, submitted and close of
 * pool/_dispatch.pyx, start_collector of pool/supervisor.py.
 *
 * Modelled: callers that submit with or without waiting, whose waits may time out or be interrupted, also before they have begun; the
 * thread's start, whose success an interrupt may hide; `dormant`, its own bell, and that it leaves the field to a caller who collects.
 * Between two releases of the GIL all is one step. Left out: how who waits learns of results (callers.pml): here he sees what is unread.
 *
 * Proved is that every job ends though nobody waits for it any more, but for a call that relied on its own wait and was interrupted
 * before that began; and that this one ends too once the pool is closed.
 *
 * configuration: -DNJOB=2
 * configuration: -DNJOB=3
 */
byte unfinished, unread, out;
byte waiting, ended;
bool runs, known;           /* the thread runs; the dispatcher knows it (start_collector is None) */
bool dormant, listens, rung;
bool closing, finished;
bool excused;               /* a call was interrupted that had relied on its own wait */

inline poke() { rung = listens }
inline collect() { unfinished = unfinished - unread; unread = 0 }

inline wake_if_dormant() {
    if
#ifndef BUG_RUNNING_IS_ENOUGH
    :: dormant -> poke()
#endif
    :: else
    fi
}

/* start() is Python code: others run in between, and an interrupt may end it. */
inline wake_collector() {
#ifndef BUG_STARTED_BEFORE_WOKEN
    atomic { wake_if_dormant() };
#endif
    if
    :: atomic { !known -> runs = true };
        if
        :: known = true
        :: true -> goto over
        fi
    :: known
    fi;
#ifdef BUG_STARTED_BEFORE_WOKEN
    atomic { wake_if_dormant() }
#endif
}

proctype Collector() {
end:
    runs;
end_loop:
    do
    :: atomic { finished -> break }
    :: atomic { !finished ->
#ifndef BUG_BELL_READ_LATE
            listens = true; rung = false;
#endif
            if
            :: unfinished == 0 || waiting -> dormant = true
            :: waiting -> goto tick
            :: unfinished && !waiting -> goto look
            fi
        };
#ifdef BUG_BELL_READ_LATE
        atomic { listens = true; rung = false };
#endif
end_nap:
        atomic { rung -> rung = false; listens = false; dormant = false; goto end_loop };
tick:
        atomic { listens = false; rung = false; goto end_loop };
look:
        atomic { unread || waiting || finished -> listens = false; rung = false };
        atomic {
            if
            :: waiting /* a caller has them */
            :: true -> collect()
            fi
        }
    od
}

/* Tasks end when they please. */
proctype Worker() {
end:
    do
    :: atomic { out -> out--; unread++ }
    od
}

proctype Caller() {
    bool sync;
    atomic { unfinished++; out++ };
    if
    :: sync = true
    :: atomic { sync = false };
#ifndef BUG_SUBMIT_WAKES_NOBODY
        if
        :: unfinished -> wake_collector()
        :: else
        fi
#endif
    fi;
    if
    :: atomic { true -> excused = excused || sync; goto over } /* interrupted, or a result that is not waited for */
    :: true
    fi;
    do
    :: atomic { collect(); if :: unfinished == 0 -> break :: else -> waiting++ fi };
        atomic { waiting--; if :: unread || unfinished == 0 :: true -> break /* time is over */ fi }
    od;
    /* finally */
    if
#ifndef BUG_WAITERS_LEAVE_SILENTLY
    :: atomic { unfinished && !waiting && (dormant || !known) } -> wake_collector()
#endif
    :: else
    fi;
over:
    ended++
}

active proctype Main() {
    byte i;
    atomic {
        run Collector();
        run Worker();
        do
        :: i < NJOB -> run Caller(); i++
        :: i == NJOB -> break
        od
    };
    ended == NJOB;
    unfinished == 0 || excused;
    closing = true;
#ifndef BUG_CLOSE_WAKES_NOBODY
    if
    :: unfinished -> wake_collector()
    :: else
    fi;
#endif
over:
    unfinished == 0;
    atomic { finished = true; poke() }
}
