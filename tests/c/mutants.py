"""Mistakes in csrc that the scheduler's tests must find: each is one change of text, made in a copy before it is compiled.

Most weaken the order of one access, which x86 would hide; the rest swap two steps or leave one out. A text that does not occur
exactly once has changed in csrc: then its mutant has to change too.

Not here, because nothing can come of it (another access beside it brings the same order, or the word is a hint): relaxed loads of a
slot's state before a compare-and-swap of it, of `take` and of the chairs; relaxed stores of READY after a death, because `rescan` is
released behind them; a relaxed store of a worker's orders, because its bell is rung behind it.
"""

from typing import NamedTuple


class Mutant(NamedTuple):
    name: str
    file: str  # in csrc
    old: str
    new: str
    test: str  # test_sched_<test>.c finds it


def weaker(name, file, old, test, order="relaxed"):
    """The access `old` with a weaker order."""
    operation, _, arguments = old.partition("(")
    kind = operation.removeprefix("rp_").rpartition("_")[0]
    if kind in ("load", "store"):
        new = f"rp_{kind}_{order}({arguments}"
    else:
        new = f"atomic_fetch_{kind}_explicit({arguments.removesuffix(')')}, memory_order_{order})"
    return Mutant(name, file, old, new, test)


CLAIM = "rp_cas_u64(&s->state, state, rp_state(p, c->seat, RP_CLAIMED))"
FINISH = "bool finished = rp_cas_u64(&s->state, rp_state(pos, c->seat, RP_RUNNING), rp_state(pos, c->seat, RP_DONE));"
RELAXED_FINISH = (
    "bool finished = atomic_compare_exchange_strong_explicit(&s->state, &mine, rp_state(pos, c->seat, RP_DONE), "
    "memory_order_relaxed, memory_order_relaxed);"
)
STATE_OF = "&p->m->slots[pos & p->m->slot_mask].state, rp_state(pos, 0, RP_READY)); /* A */"
PARK_BIT = "    rp_or_seq(&h->parked_mask[c->seat / 64], bit); /* E */\n"
CHANGED_TAIL = "rp_load_seq(&h->tail) != c->seen"

MUTANTS = [
    # Task ring: payload, tail, what comes back after a death.
    weaker("commit: state", "taskring.h", f"rp_store_release({STATE_OF}\n    p->tail = pos + 1;", "taskring"),
    weaker("commit: tail", "taskring.h", "rp_store_release(&p->m->h->tail, p->tail); /* D */", "idle"),
    weaker("claim: tail", "taskring.c", "rp_load_seq(&h->tail); /* D, E */", "taskring"),
    weaker("sweep: rescan", "taskring.c", "rp_load_seq(&c->m->h->rescan)", "taskring"),
    weaker("retry: rescan", "taskring.c", "rp_add_seq(&p->m->h->rescan, 1)", "taskring"),
    weaker("bury: rescan", "taskring.c", "rp_add_seq(&h->rescan, 1)", "taskring"),
    Mutant("claim: a store", "taskring.c", CLAIM, "(rp_store_seq(&s->state, rp_state(p, c->seat, RP_CLAIMED)), true)", "taskring"),
    Mutant(
        "finish: order",
        "taskring.h",
        FINISH,
        f"uint64_t mine = rp_state(pos, c->seat, RP_RUNNING);\n    {RELAXED_FINISH}",
        "taskring",
    ),
    Mutant(
        "finish: a store",
        "taskring.h",
        FINISH,
        "rp_store_seq(&s->state, rp_state(pos, c->seat, RP_DONE));\n    bool finished = true;",
        "taskring",
    ),
    Mutant(
        "commit: tail first",
        "taskring.h",
        f"    rp_store_release({STATE_OF}\n    p->tail = pos + 1;\n",
        f"    p->tail = pos + 1;\n    rp_store_release(&p->m->h->tail, p->tail);\n    rp_store_release({STATE_OF}\n",
        "taskring",
    ),
    Mutant("bury: no rescan", "taskring.c", "    if (back)\n        rp_add_seq(&h->rescan, 1);\n", "    (void)back;\n", "taskring"),
    Mutant(
        "bury: running goes back",
        "taskring.c",
        "if (state == rp_state(pos, seat, RP_CLAIMED)) {",
        "if (state == rp_state(pos, seat, RP_CLAIMED) || state == rp_state(pos, seat, RP_RUNNING)) {",
        "taskring",
    ),
    Mutant(
        "revoke: a store",
        "taskring.c",
        "if (rp_cas_u64(word, state, rp_state(pos, 0, RP_EMPTY)))",
        "if (rp_store_seq(word, rp_state(pos, 0, RP_EMPTY)), true)",
        "taskring",
    ),
    # Result ring: payload one way, room the other way, and the wait for room.
    weaker("publish: tail", "resultring.h", "rp_store_release(&w->seat->tail, w->tail); /* B */", "resultring"),
    weaker("peek: tail", "resultring.c", "rp_load_acquire(&r->seat->tail); /* B */", "resultring"),
    weaker("consume: head", "resultring.h", "rp_store_release(&r->seat->head, head); /* C */", "resultring"),
    weaker("reserve: head", "resultring.h", "rp_load_acquire(&w->seat->head); /* C */\n        if", "resultring"),
    weaker("wait: head learnt", "resultring.c", "rp_load_acquire(&w->seat->head); /* C */", "resultring"),
    weaker("wait: want_room", "resultring.c", "rp_store_seq(&w->seat->want_room, 1)", "resultring", "release"),
    weaker("wait: head", "resultring.c", "rp_load_seq(&w->seat->head) == head", "resultring", "acquire"),
    weaker("room: head", "resultring.c", "rp_store_seq(&r->seat->head, rp_load_relaxed(&r->head))", "resultring", "release"),
    weaker("room: want_room", "resultring.c", "rp_load_seq(&r->seat->want_room)", "resultring", "acquire"),
    Mutant(
        "publish: tail first",
        "resultring.h",
        "    r->size = rp_record_size(payload);\n    r->kind = kind;\n",
        "    rp_store_release(&w->seat->tail, w->at + rp_record_size(payload));\n    r->size = rp_record_size(payload);\n"
        "    r->kind = kind;\n",
        "resultring",
    ),
    Mutant(
        "wait: bell late",
        "resultring.c",
        "rp_bell_park(&w->seat->bell, seen,",
        "rp_bell_park(&w->seat->bell, rp_bell_read(&w->seat->bell) + 0 * seen,",
        "resultring",
    ),
    Mutant(
        "reserve: one too many",
        "resultring.h",
        "if (w->tail + skip + need - w->head > bytes)\n            return NULL;",
        "if (w->tail + skip + need - w->head > bytes + 16)\n            return NULL;",
        "resultring",
    ),
    # Parking and ringing.
    weaker("kick: tail", "taskring.c", "rp_store_seq(&h->tail, p->tail); /* D, E */", "idle", "release"),
    weaker("kick: mask", "wake.h", "rp_load_seq(&m->h->parked_mask[i])", "idle", "acquire"),
    weaker("park: bit", "idle.c", "rp_or_seq(&h->parked_mask[c->seat / 64], bit)", "idle", "acq_rel"),
    weaker("park: tail", "idle.c", CHANGED_TAIL, "idle", "acquire"),
    weaker("announce: tail", "resultring.c", "rp_store_seq(&w->seat->tail, w->tail); /* F */", "idle", "release"),
    weaker("announce: armed", "resultring.c", "rp_load_seq(&h->armed)", "idle", "acquire"),
    weaker("wait: armed", "idle.c", "rp_store_seq(&h->armed, 1); /* F */", "idle", "release"),
    weaker(
        "wait: unread",
        "idle.c",
        "rp_load_seq(&readers[i].seat->tail) - rp_load_relaxed(&readers[i].head) > bytes && /* F */",
        "idle",
        "acquire",
    ),
    Mutant(
        "park: bell late",
        "idle.c",
        "int r = rp_bell_park(&seat->bell, seen, SAFETY",
        "int r = rp_bell_park(&seat->bell, rp_bell_read(&seat->bell) + 0 * seen, SAFETY",
        "idle",
    ),
    Mutant("park: no second look", "idle.c", "if (!tasks_changed(c)) {\n        int r", "if (true) {\n        int r", "idle"),
    Mutant(
        "park: bit late",
        "idle.c",
        f"{PARK_BIT}    if (!tasks_changed(c)) {{\n",
        f"    if (!tasks_changed(c)) {{\n{PARK_BIT}",
        "idle",
    ),
    Mutant(
        "wake: one alone",
        "wake.c",
        "    for (uint32_t i = 0, n = rp_used(m); i < n; i++)\n        rp_bell_ring",
        "    for (uint32_t i = 0, n = 1; i < n; i++)\n        rp_bell_ring",
        "idle",
    ),
    Mutant("bury: chair", "taskring.c", "        rp_cas_u32(&h->chair[i], seat + 1, 0);\n", "        (void)h;\n", "idle"),
    Mutant("bury: lookout", "taskring.c", "    rp_cas_u32(&h->lookout, seat + 1, 0);\n", "", "idle"),
    Mutant(
        "lookout: place kept",
        "idle.c",
        "    rp_store_seq(&h->lookout, 0); /* E */\n",
        "",
        "idle",
    ),
    Mutant(
        "lookout: parks without a look",
        "idle.c",
        "    if (become_lookout(c, &others) && look_out(c, &others)) {",
        "    if (become_lookout(c, &others) && false) {",
        "idle",
    ),
    Mutant("bury: nobody woken", "taskring.c", "with it. */\n    rp_wake_all(p->m);\n", "with it. */\n", "idle"),
    Mutant("order: not rung", "idle.c", "    rp_bell_ring(&m->seats[seat].bell, m->doorbell);\n", "", "idle"),
    Mutant("ring: word as it was", "doorbell.c", "    rp_add_seq(bell, 1);\n", "", "idle"),
    # Offers of blocks.
    weaker("offer: word", "offers.c", "rp_store_release(&o->word, number); /* G */", "offers"),
    weaker("take: word", "offers.c", "rp_load_acquire(&o->word); /* G */", "offers"),
    Mutant(
        "take: a store", "offers.c", "rp_cas_u64(&best->word, number, 0)", "(rp_store_seq(&best->word, 0), number != 0)", "offers"
    ),
    Mutant(
        "recall: a store",
        "offers.c",
        "return rp_cas_u64(&m->seats[seat].offers[i].word, number, 0);",
        "return rp_store_seq(&m->seats[seat].offers[i].word, 0), true;",
        "offers",
    ),
    Mutant("answer: no ring", "offers.c", "    rp_bell_ring(&s->bell, m->doorbell);\n", "", "offers"),
    Mutant(
        "wait: seen too late",
        "offers.c",
        "        uint32_t seen = rp_bell_read(&s->bell);\n        if (rp_load_seq(&s->answered) == asked)\n            return true;\n",
        "        if (rp_load_seq(&s->answered) == asked)\n            return true;\n        uint32_t seen = rp_bell_read(&s->bell);\n",
        "offers",
    ),
]
