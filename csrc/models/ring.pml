/* The result ring of one seat, byte for byte in units of 16 (a record's head is one): csrc/resultring.[ch], and the pieces of
 * long results in pool/_worker.pyx (send) and pool/_dispatch.pyx (assemble, bury).
 *
 * Modelled: reserve with padding at the end of the ring, a record in three writes, publish; results of one record, with and without
 * payload, and longer than the whole ring; the reader's peek, consume and room; the worker's wait for room; its death between
 * any two steps, the burial that drains, drops pieces and resets, and the next worker of the seat. The ring is 8 units, a record at
 * most a quarter of it. The reader's store of the head in rp_reader_advance does not wait for the store buffer (it is a release):
 * others may see it any time later, at the latest with the sequentially consistent store in rp_reader_room.
 * Left out: who wakes the parent (callers.pml); it may look whenever something is unread. The one second after which a wait for room
 * ends: no wake-up needs it.
 *
 * Proved: a record that can be seen is whole, sound, in order and in one piece; nothing unread is overwritten; every result
 * arrives exactly once or is lost with its worker, and then none of it is used; nobody waits for ever.
 *
 * configuration: -DKILLS=2 -DNRESULT=2
 * configuration: -DKILLS=1 -DNRESULT=3
 */
#define UNITS 8
#define PIECES 5            /* of a long result: 10 units with their heads */

/* A unit is the head of a record, padding, or payload that says which result it belongs to and which piece. */
#define HEAD(size, long, result) (128 + (long) * 32 + (size) * 8 + (result))
#define PADDING(size) (192 + (size))
#define LOAD(result, piece) ((result) * 8 + (piece))

byte ring[UNITS];
byte tail, head;            /* the seat's words */
bool want_room;
bool rung;                  /* the seat's bell was rung since its worker read it last */
bool kill, dead, stop;
byte kills;
byte started;               /* results whose tasks were started: what the slots' state words tell, see slot.pml */
byte reader_head;           /* the parent's own; `head` follows when the store becomes visible */

inline forget() {
    d_step { mine = 0; at = 0; size = 0; skipped = 0; piece = 0; pieces = 0; my_head = 0; my_tail = 0 }
}

inline write_payload() {
    if
    :: size == 2 -> ring[(at + 1) % UNITS] = LOAD(mine, piece)
    :: else
    fi
}

inline write_head() {
    ring[at % UNITS] = HEAD(size, (pieces > 1), mine)
}

inline wait_for_room() {
#ifdef BUG_WANT_AFTER_LOOK
    rung = false;
    if
    :: head == my_head -> want_room = true; rung
    :: else
    fi;
#else
#ifndef BUG_BELL_READ_LATE
    rung = false;
#endif
    want_room = true;
    if
    :: head == my_head ->
#ifdef BUG_BELL_READ_LATE
        rung = false;
#endif
        rung
    :: else
    fi;
#endif
    want_room = false;
    my_head = head
}

proctype Worker() {
    byte mine, at, size, skipped, piece, pieces, my_head, my_tail;
born:
    {
        atomic { my_tail = tail; my_head = head };
end_idle:
        atomic {
            started < NRESULT -> mine = started; started++;
            if
            :: size = 1; pieces = 1
            :: size = 2; pieces = 1
            :: size = 2; pieces = PIECES
            fi
        };
        do
        :: piece < pieces ->
reserve:
            atomic {
                skipped = UNITS - my_tail % UNITS;
                if
#ifdef BUG_RECORD_WRAPS
                :: true -> skipped = 0
#else
                :: skipped >= size -> skipped = 0
                :: else
#endif
                fi
            };
#ifndef BUG_FULL_IS_IGNORED
            if
            :: my_tail + skipped + size - my_head > UNITS ->
                my_head = head;
                if
                :: my_tail + skipped + size - my_head > UNITS -> wait_for_room(); goto reserve
                :: else
                fi
            :: else
            fi;
#endif
            if
            :: skipped -> ring[my_tail % UNITS] = PADDING(skipped)
            :: else
            fi;
            at = my_tail + skipped;
#ifdef BUG_PUBLISH_BEFORE_PAYLOAD
            write_head();
            tail = at + size;
            write_payload();
#else
            write_payload();
            write_head();
            tail = at + size;
#endif
            atomic { my_tail = at + size; at = 0; skipped = 0; piece++ }
        :: else -> break
        od;
        atomic { mine = 0; size = 0; piece = 0; pieces = 0; goto end_idle }
    } unless { atomic { kill -> kill = false; dead = true } };
    forget();
end:
    atomic { !dead && !stop -> goto born }
}

proctype Killer() {
end:
    do
    :: atomic { kills < KILLS && !dead && !kill -> kills++; kill = true }
    od
}

/* The store buffer of the parent's processor. */
proctype Buffer() {
end:
    do
    :: atomic { head != reader_head -> head = reader_head }
    od
}

inline consume() {
    atomic { seen = tail; word = ring[reader_head % UNITS] };
    if
    :: word > 192 ->
        atomic {
            length = word - 192;
            assert(length <= seen - reader_head && reader_head % UNITS + length == UNITS)
        }
    :: else ->
        atomic {
            length = (word / 8) % 4;
            /* Else the ring counts as damaged. */
            assert(word >= 128 && length >= 1 && length <= seen - reader_head && length <= UNITS - reader_head % UNITS);
            assert(word % 8 == settled)
        };
        if
        :: length == 2 -> assert(ring[(reader_head + 1) % UNITS] == LOAD(settled, filled))
        :: else
        fi;
        atomic {
            filled++;
            if
            :: (word / 32) % 2 == 0 || filled == PIECES -> filled = 0; settled++
            :: else
            fi
        }
    fi;
    atomic { reader_head = reader_head + length; seen = 0; word = 0; length = 0 }
}

inline room() {
#ifdef BUG_ROOM_BY_A_PLAIN_STORE
    skip;
#else
    head = reader_head;
#endif
    if
    :: want_room -> rung = true
    :: else
    fi
}

inline bury() {
#ifndef BUG_BURY_BEFORE_DRAINING
    do
    :: tail != reader_head -> consume()
    :: else -> break
    od;
#endif
    assert(tail == reader_head && started - settled <= 1);
    settled = started;
#ifndef BUG_PIECES_OF_THE_DEAD_ARE_KEPT
    filled = 0;
#endif
    reader_head = 0;
    tail = 0;
    head = 0;
    want_room = false;
    dead = false
}

active proctype Parent() {
    byte seen, word, length, filled;
    byte settled;           /* results that arrived or were lost: they do so in order */
    atomic {
        run Worker();
        run Killer();
        run Buffer()
    };
    do
    :: tail != reader_head ->
        do
        :: tail != reader_head -> consume()
        :: break /* all of it, or a number of records: other rings have their turn */
        od;
        room()
    :: dead -> bury()
    :: settled == NRESULT -> stop = true; break
    od
}
