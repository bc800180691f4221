/* One slot state word between a parent and workers that may be killed between any two steps: csrc/taskring.[ch], rp_phase in
 * csrc/layout.h, and what pool/_dispatch.pyx does with a death.
 *
 * Modelled: positions and slot reuse, commit, claim, start, finish, revoke, doom, bury, retry, settle; results that wait in the ring
 * of a seat (one record: ring.pml has the bytes). Left out: how a worker that finds nothing waits (doorbell.pml); here it is blocked
 * until some slot is READY. Every access to a shared word is one step.
 *
 * Proved: every task is settled exactly once, and no run ends before all are; a settled task never starts, so a revoked one never
 * runs; a payload is whole when it is read, and stays whole as long; a doomed task gives no result and the kill that follows loses
 * no other; a result that was visible is never lost; runs <= commits + retries.
 *
 * configuration: -DNSLOT=1 -DKILLS=2 -DCANCELS=2
 * configuration: -DNSLOT=2 -DKILLS=1 -DCANCELS=1
 */
#define NW 2
#define NTASK 3
#define RETRIES 1

#define EMPTY 0
#define READY 1
#define CLAIMED 2
#define RUNNING 3
#define DONE 4
#define DOOMED 5

#define WORD(pos, seat, phase) ((pos) * 16 + (seat) * 8 + (phase))
#define POS(word) ((word) / 16)
#define SEAT(word) (((word) / 8) % 2)
#define PHASE(word) ((word) % 8)

#define NOTHING 0
#define VALUE 1
#define LOSS 2
#define CANCELLED 3
#define LIMIT 4

byte state[NSLOT];
byte low[NSLOT], high[NSLOT];    /* the payload, in two writes: the task's number */

byte rec_pos[NW];                /* a seat's ring: one record, and whether it is visible */
byte rec_low[NW], rec_high[NW];
bool visible[NW];

bool stop;
bool kill[NW], dead[NW];         /* SIGKILL is on its way; the kernel says that the process is gone */
bool stray[NW];                  /* that kill was nobody's decision */

/* Private to the parent; workers look at it in assertions only. */
byte owner[NSLOT];               /* position + 1 of the unsettled task, 0: the slot is free */
byte entry[NSLOT];               /* its number */
byte tries[NSLOT];
bool doomed[NSLOT];
bool condemned[NW];
byte outcome[NTASK], runs[NTASK];
byte tail, submitted, outstanding, settled, kills, cancels;

inline place(task, what) {
    assert(outcome[task] == NOTHING);
    outcome[task] = what;
    settled++
}

inline free_slot(i) {
    owner[i] = 0;
    outstanding--
}

/* What is left in variables that nobody reads would only make more states. */
inline forget() {
    d_step { i = 0; word = 0; pos = 0; value = 0 }
}

inline write() {
    rec_low[w] = value + 1;
    atomic { rec_high[w] = value + 1; rec_pos[w] = pos }
}

inline finish() {
    atomic {
        if
#ifdef BUG_FINISH_WITHOUT_CAS
        :: true -> state[i] = WORD(pos, w, DONE)
#else
        :: state[i] == WORD(pos, w, RUNNING) -> state[i] = WORD(pos, w, DONE)
        :: else -> dead[w] = true; goto gone /* doomed: it ends itself */
#endif
        fi
    }
}

proctype Worker(byte w) {
    byte i, word, pos, value;
again:
    {
        if
        :: stop -> goto end
        :: atomic { PHASE(state[0]) == READY -> i = 0; word = state[0] }
#if NSLOT == 2
        :: atomic { PHASE(state[1]) == READY -> i = 1; word = state[1] }
#endif
        fi;
        /* claim */
        atomic {
            pos = POS(word);
            if
#ifdef BUG_CLAIM_WITHOUT_CAS
            :: true -> state[i] = WORD(pos, w, CLAIMED)
#else
            :: state[i] == word ->
#ifdef BUG_CLAIM_LEAVES_NO_TRACE
                state[i] = WORD(pos, 0, EMPTY)
#else
                state[i] = WORD(pos, w, CLAIMED)
#endif
            :: else -> forget(); goto again
#endif
            fi;
            word = 0
        };
        /* start */
        atomic {
            if
#if defined(BUG_START_WITHOUT_CAS) || defined(BUG_CLAIM_LEAVES_NO_TRACE)
            :: true ->
#else
            :: state[i] != WORD(pos, w, CLAIMED) -> forget(); goto again
            :: else ->
#endif
                state[i] = WORD(pos, w, RUNNING);
                assert(owner[i] == pos + 1 && outcome[entry[i]] == NOTHING);
                runs[entry[i]]++;
                assert(runs[entry[i]] <= 1 + tries[i])
            fi
        };
        value = low[i];
        assert(owner[i] == pos + 1 && value == entry[i]);
        assert(high[i] == value);
        if
        :: !visible[w] -> write(); finish() /* short: there is room, it is finished when it is complete */
        :: true -> finish(); !visible[w]; /* long: finished before its first piece */
#ifdef BUG_PUBLISH_BEFORE_PAYLOAD
            visible[w] = true;
#endif
            write()
        fi;
        atomic { visible[w] = true; forget(); goto again }
    } unless { atomic { kill[w] -> kill[w] = false; dead[w] = true } };
gone:
    forget();
end:
    atomic { !stop && !dead[w] -> goto again }
}

proctype Killer() {
end:
    do
    :: atomic { kills < KILLS && !dead[0] && !kill[0] -> kills++; kill[0] = true; stray[0] = true }
    :: atomic { kills < KILLS && !dead[1] && !kill[1] -> kills++; kill[1] = true; stray[1] = true }
    od
}

inline collect(w) {
    atomic {
        pos = rec_pos[w];
        i = pos % NSLOT
    };
    word = state[i];
    atomic {
        /* Only a record of a DONE slot of this seat is believed, and a sound worker writes no other. */
        assert(owner[i] == pos + 1 && word == WORD(pos, w, DONE) && !doomed[i]);
        assert(rec_low[w] == entry[i] + 1 && rec_high[w] == entry[i] + 1);
        place(entry[i], VALUE);
        free_slot(i);
        rec_low[w] = 0;
        rec_high[w] = 0;
        rec_pos[w] = 0
    };
    atomic { visible[w] = false; i = 0; pos = 0; word = 0 }
}

inline revoke(n) {
    atomic {
        i = n;
        cancels++;
        pos = owner[i] - 1
    };
    word = state[i];
    do
    :: POS(word) == pos && (PHASE(word) == READY || PHASE(word) == CLAIMED) ->
        atomic {
            if
#ifdef BUG_REVOKE_WITHOUT_CAS
            :: true ->
#else
            :: state[i] == word ->
#endif
                state[i] = WORD(pos, 0, EMPTY);
                place(entry[i], CANCELLED);
                free_slot(i);
                break
#ifndef BUG_REVOKE_WITHOUT_CAS
            :: else -> word = state[i]
#endif
            fi
        }
    :: else -> break
    od;
    i = 0; pos = 0; word = 0
}

inline doom(n) {
    atomic {
        i = n;
        cancels++;
        pos = owner[i] - 1
    };
    word = state[i];
    if
    :: PHASE(word) == RUNNING ->
        atomic {
            if
            :: state[i] == word ->
                state[i] = WORD(pos, SEAT(word), DOOMED);
                place(entry[i], LIMIT);
                doomed[i] = true;
                condemned[SEAT(word)] = true
#ifdef BUG_DOOM_FREES_THE_SLOT
                ; free_slot(i)
#endif
            :: else
            fi
        }
    :: else
    fi;
    i = 0; pos = 0; word = 0
}

inline bury(w) {
#ifndef BUG_BURY_BEFORE_DRAINING
    do
    :: visible[w] -> collect(w)
    :: else -> break
    od;
#endif
    n = 0;
    do
    :: n < NSLOT && !owner[n] -> n++
    :: n < NSLOT && owner[n] ->
        word = state[n];
        pos = owner[n] - 1;
        if
#ifdef BUG_BURY_GIVES_BACK_WHAT_RAN
        :: SEAT(word) == w && (PHASE(word) == CLAIMED || PHASE(word) == RUNNING) -> state[n] = WORD(pos, 0, READY)
#else
        :: SEAT(word) == w && PHASE(word) == CLAIMED ->
#ifdef BUG_BURY_FORGETS_CLAIMS
            skip
#else
            state[n] = WORD(pos, 0, READY)
#endif
#endif
        :: SEAT(word) == w && PHASE(word) > CLAIMED && doomed[n] -> free_slot(n)
        :: SEAT(word) == w && PHASE(word) > CLAIMED && !doomed[n] ->
            /* Lost: by a kill that was meant for nobody's task, and with no result that could be seen. */
            assert(stray[w] && !(visible[w] && rec_pos[w] == pos));
            if
            :: tries[n] < RETRIES -> tries[n]++; state[n] = WORD(pos, 0, READY)
            :: else -> d_step { place(entry[n], LOSS); free_slot(n) }
            fi
        :: else
        fi;
        n++
    :: n == NSLOT -> break
    od;
    atomic {
        n = 0;
        visible[w] = false;
        rec_low[w] = 0;
        rec_high[w] = 0;
        rec_pos[w] = 0;
        stray[w] = false;
        condemned[w] = false;
        dead[w] = false;
        i = 0; pos = 0; word = 0
    }
}

active proctype Parent() {
    byte i, n, pos, word;
    atomic {
        run Worker(0);
        run Worker(1);
        run Killer()
    };
    do
    :: submitted < NTASK && outstanding < NSLOT ->
        d_step {
            pos = tail;
            do
            :: owner[pos % NSLOT] -> pos++
            :: else -> break
            od;
            i = pos % NSLOT
        };
#ifdef BUG_COMMIT_BEFORE_PAYLOAD
        d_step { owner[i] = pos + 1; entry[i] = submitted; tries[i] = 0; doomed[i] = false; outstanding++ };
        state[i] = WORD(pos, 0, READY);
#endif
        low[i] = submitted;
        high[i] = submitted;
#ifndef BUG_COMMIT_BEFORE_PAYLOAD
        d_step { owner[i] = pos + 1; entry[i] = submitted; tries[i] = 0; doomed[i] = false; outstanding++ };
        state[i] = WORD(pos, 0, READY);
#endif
        d_step { tail = pos + 1; submitted++; i = 0; pos = 0 }
    :: visible[0] -> collect(0)
    :: visible[1] -> collect(1)
    :: cancels < CANCELS && owner[0] && !doomed[0] -> revoke(0)
    :: cancels < CANCELS && owner[0] && !doomed[0] -> doom(0)
#if NSLOT == 2
    :: cancels < CANCELS && owner[1] && !doomed[1] -> revoke(1)
    :: cancels < CANCELS && owner[1] && !doomed[1] -> doom(1)
#endif
    :: dead[0] -> bury(0)
    :: dead[1] -> bury(1)
    :: atomic { condemned[0] && !dead[0] && !kill[0] -> kill[0] = true }
    :: atomic { condemned[1] && !dead[1] && !kill[1] -> kill[1] = true }
    :: settled == NTASK && outstanding == 0 -> stop = true; break
    od
}
