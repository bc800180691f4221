/* Blocks for results: the parent offers them to a seat, the worker takes one when it needs it.
 *
 *   parent                                              worker
 *   takes a block from the arena, notes it as the       needs room bytes: takes the smallest offer that has them
 *   seat's; fills a free offer, its word last           none: sends a request through its result ring, waits for `answered`
 *   recalls offers that lie idle                        fills the block, sends its offset
 *
 * An offer goes from its number to 0 by one compare-and-swap, the worker's (taken) or the parent's (recalled), so exactly one of
 * them has the block. A number is used once: a worker that was stopped in the middle cannot take a later offer by an earlier look.
 * Whose a block is says the parent's private list alone; what a worker had when it died comes back from there. */
#ifndef RP_OFFERS_H
#define RP_OFFERS_H

#include "layout.h"

struct rp_taken {
    uint64_t off, room, backed;
};

/* Parent: offers a block to the seat; false if it has as many as it can have. number: never used before, not 0. */
bool rp_offer_make(const struct rp_map *m, uint32_t seat, uint64_t number, const struct rp_taken *block);
/* Parent: takes the offer back; false if the worker has taken it, or it is not there. */
bool rp_offer_recall(const struct rp_map *m, uint32_t seat, uint64_t number);
/* Parent: the seat's next request is answered, with an offer or without one. */
void rp_offer_answer(const struct rp_map *m, uint32_t seat);

/* Worker: takes the smallest offer of at least so much room. False: there is none. */
bool rp_offer_take(const struct rp_map *m, uint32_t seat, uint64_t room, struct rp_taken *block);
/* Worker: waits until so many requests are answered; false after timeout_ns without that. */
bool rp_offer_wait(const struct rp_map *m, uint32_t seat, uint32_t asked, int64_t timeout_ns);

#endif
