/* Fault points: places where a test makes a process die or stand still, at the nth passage. Compiled in with -DRP_FAULTS only; in
 * every other build RP_FAULT is nothing and neither this list nor fault.c leaves a trace.
 *
 * The list says for each point who passes it, and what the death of a worker there costs: tasks lost, never more than one. The
 * sweep of the tests reads it from here. In a worker's points the order is that of a task's life. */
#ifndef RP_FAULT_H
#define RP_FAULT_H

#ifdef RP_FAULTS

#include "atomics.h"

#define RP_FAULT_POINTS(X) \
    /* a worker begins */ \
    X(ATTACHED, WORKER, 0)      /* the segment is mapped, the seat taken */ \
    X(REPORTED, WORKER, 0)      /* said that it is ready */ \
    X(STAND_BY, WORKER, 0)      /* about to park without orders */ \
    /* a task, in its worker */ \
    X(TAKEN, WORKER, 0)         /* `take` advanced, nothing claimed of the stretch */ \
    X(CLAIMING, WORKER, 0)      /* saw READY */ \
    X(CLAIMED, WORKER, 0) \
    X(STARTING, WORKER, 0)      /* about to say that it runs the task */ \
    X(STARTED, WORKER, 1) \
    X(DECODING, WORKER, 1) \
    X(CALLING, WORKER, 1)       /* arguments decoded, the user's function next */ \
    X(RETURNED, WORKER, 1) \
    X(WANTS_BLOCK, WORKER, 1)   /* has asked for a block for its result */ \
    X(HAS_BLOCK, WORKER, 1)     /* has one, and nothing is in it */ \
    X(RESERVED, WORKER, 1)      /* has room in its ring */ \
    X(ENCODED, WORKER, 1) \
    X(FINISHING, WORKER, 1)     /* about to say that the task is done */ \
    X(FINISHED, WORKER, 1)      /* DONE, and no result yet */ \
    X(WRITTEN, WORKER, 1)       /* the record is complete and not visible */ \
    X(PUBLISHED, WORKER, 0) \
    X(BETWEEN_PIECES, WORKER, 1) \
    X(WANTS_ROOM, WORKER, 1)    /* the ring is full, about to park */ \
    X(GOT_ROOM, WORKER, 1) \
    X(RINGING, WORKER, 0)       /* `armed` cleared, the parent not rung */ \
    X(RUNG, WORKER, 0) \
    /* a worker without a task */ \
    X(SEATED, WORKER, 0)        /* took a chair to spin on */ \
    X(PARKING, WORKER, 0)       /* its bit is set */ \
    X(UNPARKED, WORKER, 0)      /* its bit may still be set */ \
    X(LEAVING, WORKER, 0) \
    X(WAKING, BOTH, 0)          /* a parked worker's bit cleared, the worker not rung */ \
    /* the parent submits */ \
    X(REGISTERED, PARENT, 0)    /* the job exists, none of its tasks does */ \
    X(BLOCK_WRITTEN, PARENT, 0) /* a large payload is in the arena, no slot points to it */ \
    X(FILLED, PARENT, 0)        /* the slot is filled and not READY */ \
    X(READY, PARENT, 0)         /* READY, the tail not advanced */ \
    X(COMMITTED, PARENT, 0)     /* nobody woken yet */ \
    /* the parent collects */ \
    X(WAITING, PARENT, 0)       /* about to park, armed */ \
    X(PEEKED, PARENT, 0)        /* saw a record */ \
    X(SETTLING, PARENT, 0)      /* the result is decoded, its job does not have it */ \
    X(SETTLED, PARENT, 0)       /* the job has it, the record is not consumed */ \
    X(MAKING_ROOM, PARENT, 0)   /* consumed, a worker that waits for room not rung */ \
    /* the parent handles a death, ends, begins */ \
    X(BURYING, PARENT, 0)       /* the dead worker's ring is not drained */ \
    X(DRAINED, PARENT, 0)       /* drained, its tasks as they were */ \
    X(BURIED, PARENT, 0)        /* what it had claimed is READY again, what it lost not settled */ \
    X(RETRYING, PARENT, 0)      /* READY again for another try, nobody told */ \
    X(SEAT_OPENED, PARENT, 0)   /* a worker is about to be forked */ \
    X(SENT_FOR, PARENT, 0)      /* it is forked and may serve */ \
    X(STOPPING, PARENT, 0)      /* `stop` set, nobody rung */

enum rp_fault_point {
    RP_AT_NOTHING,
#define RP_FAULT_NAME(name, side, cost) RP_AT_##name,
    RP_FAULT_POINTS(RP_FAULT_NAME)
#undef RP_FAULT_NAME
};

enum rp_fault_action {
    RP_FAULT_KILL = 1,    /* SIGKILL to this process */
    RP_FAULT_STOP = 2,    /* SIGSTOP to this process */
    RP_FAULT_EXIT = 3,    /* _exit(3) */
    RP_FAULT_SEGV = 4,    /* SIGSEGV, with the default action */
    RP_FAULT_PARK = 5,    /* this thread waits until `released` is not 0 */
    RP_FAULT_SLEEP = 6,   /* this thread sleeps for 20 ms */
};

/* The control page: a file that RINGPOOL_FAULT_PAGE names, mapped by every process when it loads the extension. `point` is written
 * last when a fault is set up, and 0 takes it back. */
struct rp_fault_page {
    rp_u32 point;    /* enum rp_fault_point */
    rp_u32 nth;      /* of the passages of all processes of that side, counted from 1 */
    rp_u32 action;   /* enum rp_fault_action */
    rp_u32 parent;   /* pid of the pool's owner */
    rp_u32 in_parent; /* 1: only the owner's passages count; 0: only those of others */
    rp_u32 passed;   /* passages so far */
    rp_u32 hit;      /* pid of the process that it happened to; 0: none yet */
    rp_u32 released;
};

void rp_fault_pass(enum rp_fault_point point);
#define RP_FAULT(point) rp_fault_pass(point)

#else
#define RP_FAULT(point) ((void)0)
#endif

#endif
