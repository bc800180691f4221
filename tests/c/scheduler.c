#include "scheduler.h"

#include <linux/futex.h>
#include <stdarg.h>
#include <ucontext.h>

#define THREADS 16
#define WORDS 160
#define PAST 20 /* stores of a word that may still be seen */
#define PENDING 12
#define REGIONS 2
#define STACK_BYTES (128u << 10)
#define REGION_BYTES (32u << 10)
#define GRANULE 4u
#define STEPS_MOST 60000u
#define TRACED 48
/* A park that is longer than this is ended by its safety net alone, and here by nothing. */
#define NET_NS 500000000

/* What a thread knows, or learns from a release store: how far each thread's plain accesses lie behind it, and the oldest store of
 * each word that it may still see. */
struct knowledge {
    uint32_t past[THREADS];
    uint32_t oldest[WORDS];
};

struct store {
    uint64_t value;
    bool releases;
    struct knowledge k;
};

struct word {
    void *at;
    size_t size;
    uint32_t newest;    /* number of the newest store; 0 is what was there in the beginning */
    uint32_t last_seq;  /* number of the last sequentially consistent one */
    struct store past[PAST];
};

struct pending {
    uint32_t word;
    uint64_t value;
    bool releases;
    struct knowledge k;
};

enum phase { UNUSED, READY, PARKED, WAITING, ENDED, DEAD };

struct thread {
    enum phase phase;
    bool mortal, killed, daemon, reaped;
    ucontext_t context;
    void (*body)(void *);
    void *arg;
    struct knowledge k;
    struct pending pending[PENDING];
    uint32_t npending;
    void *bell; /* PARKED on it */
    int64_t limit_ns;
    bool expired;
    bool (*ready)(void *); /* WAITING for it */
    void *ready_arg;
};

struct granule {
    uint16_t word;   /* index + 1 of the atomic word that lies here */
    uint8_t writer;  /* thread of the last plain write */
    uint32_t wrote;  /* its count then; 0: nobody */
    uint32_t read[THREADS];
};

struct region {
    const char *name;
    uintptr_t base;
    size_t size;
    struct granule *granules;
};

struct step {
    int thread;
    const char *what;
    const char *region;
    uint64_t off, value;
};

static struct {
    ucontext_t outside;
    struct thread threads[THREADS];
    int nthreads, current; /* -1: outside of all threads */
    struct word words[WORDS];
    uint32_t nwords;
    struct region regions[REGIONS];
    uint32_t nregions;
    uint64_t random;
    int64_t now;
    uint32_t steps, traced;
    /* How this seed plays: 1 in n. */
    uint32_t switches, dies, drains, olds;
    bool stubborn; /* the oldest value that may be seen, nearly always */
    struct step trace[TRACED];
    char complaint[256];
} w = {.current = -1};

struct sched_counts sched_counts;
static struct granule granules[REGIONS][REGION_BYTES / GRANULE];
static unsigned char *stacks;

uint32_t sched_below(uint32_t n) { return test_below(&w.random, n); }
static bool one_in(uint32_t n) { return n && sched_below(n) == 0; }
static struct thread *self(void) { return &w.threads[w.current]; }

uint64_t sched_from_environment(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);
    return text && *text ? strtoull(text, NULL, 10) : otherwise;
}

const char *sched_complaint(void) { return w.complaint[0] ? w.complaint : NULL; }

/* Ends the world where it stands. */
static void __attribute__((noreturn, format(printf, 1, 2))) complain(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(w.complaint, sizeof w.complaint, format, args);
    va_end(args);
    if (w.current < 0) {
        fprintf(stderr, "%s\n", w.complaint);
        exit(125);
    }
    w.current = -1;
    setcontext(&w.outside);
    abort();
}

static struct region *region_of(const volatile void *at)
{
    for (uint32_t i = 0; i < w.nregions; i++)
        if ((uintptr_t)at - w.regions[i].base < w.regions[i].size)
            return &w.regions[i];
    return NULL;
}

static void note(const char *what, const volatile void *at, uint64_t value)
{
    struct region *r = region_of(at);
    w.trace[w.traced++ % TRACED] =
        (struct step){w.current, what, r ? r->name : "", r ? (uintptr_t)at - r->base : 0, value};
}

void sched_print_trace(void)
{
    fprintf(stderr, "the last steps:\n");
    for (uint32_t i = w.traced > TRACED ? w.traced - TRACED : 0; i < w.traced; i++) {
        const struct step *s = &w.trace[i % TRACED];
        fprintf(stderr, "    thread %d  %-22s %s+0x%" PRIx64 "  %" PRIx64 "\n", s->thread, s->what, s->region, s->off, s->value);
    }
}

/* Knowledge */

static void learn(struct knowledge *k, const struct knowledge *from)
{
    for (int i = 0; i < w.nthreads; i++)
        if (k->past[i] < from->past[i])
            k->past[i] = from->past[i];
    for (uint32_t i = 0; i < w.nwords; i++)
        if (k->oldest[i] < from->oldest[i])
            k->oldest[i] = from->oldest[i];
}

/* What the thread does from now on does not belong to what it has told. */
static void tell(struct thread *t, struct knowledge *k)
{
    *k = t->k;
    t->k.past[t - w.threads]++;
}

/* Words and their stores */

static uint64_t raw_load(const void *at, size_t size)
{
    return size == 8 ? *(const volatile uint64_t *)at : *(const volatile uint32_t *)at;
}

static void raw_store(void *at, size_t size, uint64_t value)
{
    if (size == 8)
        *(volatile uint64_t *)at = value;
    else
        *(volatile uint32_t *)at = (uint32_t)value;
}

static uint32_t word_at(struct region *r, void *at, size_t size)
{
    struct granule *g = &r->granules[((uintptr_t)at - r->base) / GRANULE];
    if (!g->word) {
        if (w.nwords == WORDS)
            complain("more than %d atomic words", WORDS);
        struct word *x = &w.words[w.nwords++];
        x->at = at;
        x->size = size;
        x->newest = x->last_seq = 0;
        x->past[0].value = raw_load(at, size);
        x->past[0].releases = false;
        for (size_t i = 0; i < size / GRANULE; i++)
            g[i].word = (uint16_t)w.nwords;
    }
    if (w.words[g->word - 1].at != at || w.words[g->word - 1].size != size)
        complain("an access to half an atomic word at %s+0x%zx", r->name, (size_t)((uintptr_t)at - r->base));
    return (uint32_t)g->word - 1;
}

/* The store that becomes the newest of its word. */
static struct store *place(struct thread *t, uint32_t i, uint64_t value)
{
    struct word *x = &w.words[i];
    struct store *s = &x->past[++x->newest % PAST];
    s->value = value;
    s->releases = false;
    t->k.oldest[i] = x->newest;
    raw_store(x->at, x->size, value);
    return s;
}

static void drain_one(struct thread *t, uint32_t n)
{
    struct pending p = t->pending[n];
    memmove(&t->pending[n], &t->pending[n + 1], (t->npending - n - 1) * sizeof p);
    t->npending--;
    struct store *s = place(t, p.word, p.value);
    s->releases = p.releases;
    if (p.releases) {
        s->k = p.k;
        s->k.oldest[p.word] = w.words[p.word].newest;
    }
    for (uint32_t i = n; i < t->npending; i++)
        if (t->pending[i].releases)
            t->pending[i].k.oldest[p.word] = w.words[p.word].newest;
}

static bool drainable(const struct thread *t, uint32_t n)
{
    if (t->pending[n].releases)
        return n == 0;
    for (uint32_t i = 0; i < n; i++)
        if (t->pending[i].word == t->pending[n].word)
            return false;
    return true;
}

static void drain_some(struct thread *t)
{
    uint32_t n = sched_below(t->npending);
    while (!drainable(t, n))
        n--;
    if (t->npending > 1)
        sched_counts.late_stores++;
    drain_one(t, n);
}

static void drain(struct thread *t)
{
    while (t->npending)
        drain_one(t, 0);
}

static void drain_everybody(void)
{
    for (int i = 0; i < w.nthreads; i++)
        drain(&w.threads[i]);
}

/* Until nothing of this word is pending: its stores are seen in order. */
static void drain_word(struct thread *t, uint32_t word)
{
    for (uint32_t i = 0; i < t->npending;) {
        if (t->pending[i].word != word) {
            i++;
            continue;
        }
        for (; i > 0 && t->pending[i].releases; i--)
            drain_one(t, 0);
        drain_one(t, i);
        i = 0;
    }
}

/* Turns */

static bool expirable(const struct thread *t) { return t->phase == PARKED && t->limit_ns >= 0 && t->limit_ns < NET_NS; }

static bool can_go_on(struct thread *t)
{
    switch (t->phase) {
    case READY:
        return true;
    case PARKED:
        return t->killed;
    case WAITING: {
        if (t->killed)
            return true;
        int kept = w.current;
        w.current = -1;
        bool yes = t->ready(t->ready_arg);
        w.current = kept;
        return yes;
    }
    default:
        return false;
    }
}

static void __attribute__((noreturn)) nobody_can_go_on(void)
{
    char text[160];
    size_t n = 0;
    text[0] = 0;
    for (int i = 0; i < w.nthreads && n < sizeof text; i++) {
        const struct thread *t = &w.threads[i];
        struct region *r = t->phase == PARKED ? region_of(t->bell) : NULL;
        if (t->phase == PARKED)
            n += (size_t)snprintf(text + n, sizeof text - n, ", thread %d parks on %s+0x%zx", i, r ? r->name : "",
                                  (size_t)((uintptr_t)t->bell - (r ? r->base : 0)));
        else if (t->phase == WAITING && !t->daemon)
            n += (size_t)snprintf(text + n, sizeof text - n, ", thread %d waits", i);
    }
    complain("nobody can go on%s", text);
}

static int pick(void)
{
    int able[THREADS], n = 0, short_parks[THREADS], shorts = 0;
    for (int i = 0; i < w.nthreads; i++)
        if (can_go_on(&w.threads[i]))
            able[n++] = i;
        else if (expirable(&w.threads[i]))
            short_parks[shorts++] = i;
    if (n && !(shorts && one_in(16)))
        return able[sched_below((uint32_t)n)];
    if (shorts) {
        int i = short_parks[sched_below((uint32_t)shorts)];
        w.threads[i].expired = true;
        w.now += w.threads[i].limit_ns;
        return i;
    }
    return -1;
}

static bool over(void)
{
    for (int i = 0; i < w.nthreads; i++)
        if (!w.threads[i].daemon && w.threads[i].phase != ENDED && w.threads[i].phase != DEAD)
            return false;
    return true;
}

/* Somebody's turn, perhaps the caller's. Comes back when it is the caller's again. */
static void give_turn(void)
{
    int me = w.current;
    if (over()) {
        drain_everybody();
        w.current = -1;
        setcontext(&w.outside);
    }
    int next = pick();
    if (next < 0) {
        drain_everybody();
        next = pick();
    }
    if (next < 0)
        nobody_can_go_on();
    w.threads[next].phase = READY;
    if (next == me)
        return;
    w.current = next;
    swapcontext(&w.threads[me].context, &w.threads[next].context);
}

static void __attribute__((noreturn)) die(void)
{
    struct thread *t = self();
    note("dies", NULL, 0);
    sched_counts.deaths++;
    while (t->npending && one_in(2))
        drain_some(t);
    sched_counts.lost_stores += t->npending;
    t->npending = 0;
    t->phase = DEAD;
    give_turn();
    abort();
}

static void perhaps_die(void)
{
    if (self()->killed ? one_in(4) : self()->mortal && one_in(w.dies))
        die();
}

/* Before every access. */
static void step(void)
{
    sched_counts.steps++;
    if (++w.steps > STEPS_MOST)
        complain("no end after %u steps", STEPS_MOST);
    if (one_in(w.drains)) {
        struct thread *t = &w.threads[sched_below((uint32_t)w.nthreads)];
        if (t->npending)
            drain_some(t);
    }
    perhaps_die();
    if (one_in(w.switches))
        give_turn();
}

static void stop_until_ready(enum phase phase)
{
    self()->phase = phase;
    give_turn();
    if (self()->killed)
        die();
}

static void begin_thread(void)
{
    struct thread *t = self();
    t->body(t->arg);
    drain(t);
    t->phase = ENDED;
    give_turn();
    abort();
}

static int new_thread(void (*body)(void *), void *arg, bool daemon)
{
    if (w.nthreads == THREADS)
        complain("more than %d threads", THREADS);
    int i = w.nthreads++;
    struct thread *t = &w.threads[i];
    memset((void *)t, 0, sizeof *t);
    t->phase = READY;
    t->body = body;
    t->arg = arg;
    t->daemon = daemon;
    if (w.current >= 0) {
        drain(self());
        tell(self(), &t->k);
    }
    t->k.past[i] = 1;
    getcontext(&t->context);
    t->context.uc_stack.ss_sp = stacks + (size_t)i * STACK_BYTES;
    t->context.uc_stack.ss_size = STACK_BYTES;
    t->context.uc_link = NULL;
    makecontext(&t->context, begin_thread, 0);
    return i;
}

int sched_thread(void (*body)(void *), void *arg) { return new_thread(body, arg, false); }
int sched_daemon(void (*body)(void *), void *arg) { return new_thread(body, arg, true); }

void sched_begin(uint64_t seed)
{
    static const uint32_t switches[] = {1, 2, 4, 8, 24, 100}, dies[] = {16, 64, 256}, drains[] = {1, 2, 4, 16}, olds[] = {0, 4, 2};
    if (!stacks) {
        stacks = mmap(NULL, THREADS * (size_t)STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (stacks == MAP_FAILED)
            exit(125);
    }
    w.random = (seed + 1) * UINT64_C(0x9E3779B97F4A7C15);
    for (int i = 0; i < 4; i++)
        test_random(&w.random);
    w.nthreads = 0;
    w.nwords = w.nregions = w.steps = w.traced = 0;
    w.now = 1000000000;
    w.complaint[0] = 0;
    w.switches = switches[sched_below(6)];
    w.dies = dies[sched_below(3)];
    w.drains = drains[sched_below(4)];
    w.olds = olds[sched_below(3)];
    w.stubborn = one_in(3);
    sched_counts.worlds++;
}

void sched_share(const char *name, void *base, size_t size)
{
    if (w.nregions == REGIONS || size > REGION_BYTES || (uintptr_t)base % 8) {
        fprintf(stderr, "%s cannot be shared: too large, or one too many\n", name);
        exit(125);
    }
    struct region *r = &w.regions[w.nregions];
    *r = (struct region){name, (uintptr_t)base, size, granules[w.nregions]};
    memset(r->granules, 0, (size + GRANULE - 1) / GRANULE * sizeof *r->granules);
    w.nregions++;
}

void sched_run(void)
{
    static volatile bool ran;
    ran = false;
    getcontext(&w.outside);
    if (ran)
        return;
    ran = true;
    w.current = pick();
    setcontext(&w.threads[w.current].context);
}

void sched_may_die(void) { self()->mortal = true; }

void sched_kill(int thread)
{
    step();
    w.threads[thread].killed = true;
}

static int unreaped(void)
{
    for (int i = 0; i < w.nthreads; i++)
        if (w.threads[i].phase == DEAD && !w.threads[i].reaped)
            return i;
    return -1;
}

static bool somebody_died(void *arg)
{
    (void)arg;
    return unreaped() >= 0;
}

bool sched_anyone_dead(void)
{
    if (w.current >= 0)
        step();
    return unreaped() >= 0;
}

int sched_next_dead(void)
{
    sched_wait(somebody_died, NULL);
    int i = unreaped();
    w.threads[i].reaped = true;
    learn(&self()->k, &w.threads[i].k);
    return i;
}

void sched_wait(bool (*ready)(void *), void *arg)
{
    step();
    self()->ready = ready;
    self()->ready_arg = arg;
    stop_until_ready(WAITING);
}

static bool lock_is_free(void *arg) { return !((struct sched_lock *)arg)->holder; }

void sched_lock(struct sched_lock *l)
{
    sched_wait(lock_is_free, l);
    l->holder = w.current + 1;
    if (l->knows)
        learn(&self()->k, l->knows);
}

void sched_unlock(struct sched_lock *l)
{
    static struct knowledge knows;
    step();
    /* One lock a world: what its holders knew has one place. */
    drain(self());
    tell(self(), &knows);
    l->knows = &knows;
    l->holder = 0;
}

/* Atomic accesses, as the compiler announces them */

static bool acquires(int order)
{
    return order == memory_order_acquire || order == memory_order_acq_rel || order == memory_order_seq_cst;
}
static bool releases(int order)
{
    return order == memory_order_release || order == memory_order_acq_rel || order == memory_order_seq_cst;
}

static void see(struct thread *t, uint32_t i, uint32_t number, int order)
{
    struct store *s = &w.words[i].past[number % PAST];
    if (t->k.oldest[i] < number)
        t->k.oldest[i] = number;
    if (acquires(order) && s->releases)
        learn(&t->k, &s->k);
}

/* A number of a store that the thread may see. */
static uint32_t choose(struct thread *t, uint32_t i, int order)
{
    struct word *x = &w.words[i];
    uint32_t oldest = t->k.oldest[i];
    if (order == memory_order_seq_cst && oldest < x->last_seq)
        oldest = x->last_seq;
    if (x->newest >= PAST && oldest < x->newest - (PAST - 1))
        oldest = x->newest - (PAST - 1);
    if (oldest == x->newest || (w.stubborn ? one_in(8) : !one_in(w.olds)))
        return x->newest;
    uint32_t number = w.stubborn ? oldest : oldest + sched_below(x->newest - oldest + 1);
    sched_counts.old_values += number != x->newest;
    return number;
}

static uint64_t load(const volatile void *at, size_t size, int order)
{
    struct region *r = w.current < 0 ? NULL : region_of(at);
    if (!r)
        return raw_load((const void *)at, size);
    step();
    struct thread *t = self();
    uint32_t i = word_at(r, (void *)at, size);
    for (uint32_t n = t->npending; n-- > 0;)
        if (t->pending[n].word == i) {
            if (order == memory_order_seq_cst) {
                drain_word(t, i);
                break;
            }
            return t->pending[n].value;
        }
    uint32_t number = choose(t, i, order);
    uint64_t value = w.words[i].past[number % PAST].value;
    note(number == w.words[i].newest ? "load" : "load of an old value", at, value);
    see(t, i, number, order);
    return value;
}

static void store(volatile void *at, size_t size, uint64_t value, int order)
{
    struct region *r = w.current < 0 ? NULL : region_of(at);
    if (!r) {
        raw_store((void *)at, size, value);
        return;
    }
    step();
    struct thread *t = self();
    uint32_t i = word_at(r, (void *)at, size);
    note(order == memory_order_relaxed ? "store, relaxed" : order == memory_order_release ? "store, release" : "store", at, value);
    if (order == memory_order_seq_cst) {
        drain(t);
        struct store *s = place(t, i, value);
        s->releases = true;
        tell(t, &s->k);
        w.words[i].last_seq = w.words[i].newest;
        return;
    }
    if (t->npending == PENDING)
        drain_some(t);
    struct pending *p = &t->pending[t->npending++];
    p->word = i;
    p->value = value;
    p->releases = releases(order);
    if (p->releases)
        tell(t, &p->k);
}

enum operation { SET, ADD, SUB, OR, AND };

static uint64_t result_of(enum operation op, uint64_t old, uint64_t by)
{
    switch (op) {
    case ADD:
        return old + by;
    case SUB:
        return old - by;
    case OR:
        return old | by;
    case AND:
        return old & by;
    default:
        return by;
    }
}

/* A change that sees the newest store and is placed right behind it. */
static uint64_t change(struct thread *t, uint32_t i, enum operation op, uint64_t by, int order)
{
    struct word *x = &w.words[i];
    if (releases(order))
        drain(t);
    else
        drain_word(t, i);
    struct store *before = &x->past[x->newest % PAST];
    uint64_t old = before->value;
    see(t, i, x->newest, order);
    struct store *s = place(t, i, result_of(op, old, by));
    s->releases = before->releases || releases(order);
    if (before->releases)
        s->k = before->k;
    else
        memset(&s->k, 0, sizeof s->k);
    if (releases(order)) {
        learn(&s->k, &t->k);
        t->k.past[t - w.threads]++;
    }
    s->k.oldest[i] = x->newest;
    if (order == memory_order_seq_cst)
        x->last_seq = x->newest;
    note("change", x->at, s->value);
    return old;
}

static uint64_t modify(volatile void *at, size_t size, enum operation op, uint64_t by, int order)
{
    struct region *r = w.current < 0 ? NULL : region_of(at);
    if (!r) {
        uint64_t old = raw_load((const void *)at, size);
        raw_store((void *)at, size, result_of(op, old, by));
        return old;
    }
    step();
    return change(self(), word_at(r, (void *)at, size), op, by, order);
}

/* Returns what was seen: equal to `want` if the exchange was made. */
static uint64_t exchange_if(volatile void *at, size_t size, uint64_t want, uint64_t set, int order, int order_failed)
{
    struct region *r = w.current < 0 ? NULL : region_of(at);
    if (!r) {
        uint64_t old = raw_load((const void *)at, size);
        if (old == want)
            raw_store((void *)at, size, set);
        return old;
    }
    step();
    struct thread *t = self();
    uint32_t i = word_at(r, (void *)at, size);
    drain_word(t, i);
    uint32_t number = choose(t, i, order_failed);
    uint64_t seen = w.words[i].past[number % PAST].value;
    if (seen != want) {
        note("exchange, in vain", at, seen);
        see(t, i, number, order_failed);
        return seen;
    }
    struct word *x = &w.words[i];
    if (x->past[x->newest % PAST].value != want) {
        note("exchange, in vain", at, x->past[x->newest % PAST].value);
        see(t, i, x->newest, order_failed);
        return x->past[x->newest % PAST].value;
    }
    return change(t, i, SET, set, order);
}

#define ATOMICS(bits) \
    uint##bits##_t __tsan_atomic##bits##_load(const volatile uint##bits##_t *at, int order); \
    void __tsan_atomic##bits##_store(volatile uint##bits##_t *at, uint##bits##_t value, int order); \
    uint##bits##_t __tsan_atomic##bits##_exchange(volatile uint##bits##_t *at, uint##bits##_t value, int order); \
    uint##bits##_t __tsan_atomic##bits##_fetch_add(volatile uint##bits##_t *at, uint##bits##_t value, int order); \
    uint##bits##_t __tsan_atomic##bits##_fetch_sub(volatile uint##bits##_t *at, uint##bits##_t value, int order); \
    uint##bits##_t __tsan_atomic##bits##_fetch_or(volatile uint##bits##_t *at, uint##bits##_t value, int order); \
    uint##bits##_t __tsan_atomic##bits##_fetch_and(volatile uint##bits##_t *at, uint##bits##_t value, int order); \
    bool __tsan_atomic##bits##_compare_exchange_strong(volatile uint##bits##_t *at, uint##bits##_t *want, uint##bits##_t set, \
                                                       int order, int order_failed); \
    uint##bits##_t __tsan_atomic##bits##_compare_exchange_val(volatile uint##bits##_t *at, uint##bits##_t want, \
                                                              uint##bits##_t set, int order, int order_failed); \
    uint##bits##_t __tsan_atomic##bits##_load(const volatile uint##bits##_t *at, int order) \
    { \
        return (uint##bits##_t)load(at, sizeof *at, order); \
    } \
    void __tsan_atomic##bits##_store(volatile uint##bits##_t *at, uint##bits##_t value, int order) \
    { \
        store(at, sizeof *at, value, order); \
    } \
    uint##bits##_t __tsan_atomic##bits##_exchange(volatile uint##bits##_t *at, uint##bits##_t value, int order) \
    { \
        return (uint##bits##_t)modify(at, sizeof *at, SET, value, order); \
    } \
    uint##bits##_t __tsan_atomic##bits##_fetch_add(volatile uint##bits##_t *at, uint##bits##_t value, int order) \
    { \
        return (uint##bits##_t)modify(at, sizeof *at, ADD, value, order); \
    } \
    uint##bits##_t __tsan_atomic##bits##_fetch_sub(volatile uint##bits##_t *at, uint##bits##_t value, int order) \
    { \
        return (uint##bits##_t)modify(at, sizeof *at, SUB, value, order); \
    } \
    uint##bits##_t __tsan_atomic##bits##_fetch_or(volatile uint##bits##_t *at, uint##bits##_t value, int order) \
    { \
        return (uint##bits##_t)modify(at, sizeof *at, OR, value, order); \
    } \
    uint##bits##_t __tsan_atomic##bits##_fetch_and(volatile uint##bits##_t *at, uint##bits##_t value, int order) \
    { \
        return (uint##bits##_t)modify(at, sizeof *at, AND, value, order); \
    } \
    uint##bits##_t __tsan_atomic##bits##_compare_exchange_val(volatile uint##bits##_t *at, uint##bits##_t want, \
                                                              uint##bits##_t set, int order, int order_failed) \
    { \
        return (uint##bits##_t)exchange_if(at, sizeof *at, want, set, order, order_failed); \
    } \
    bool __tsan_atomic##bits##_compare_exchange_strong(volatile uint##bits##_t *at, uint##bits##_t *want, uint##bits##_t set, \
                                                       int order, int order_failed) \
    { \
        uint##bits##_t wanted = *want; \
        *want = (uint##bits##_t)exchange_if(at, sizeof *at, wanted, set, order, order_failed); \
        return *want == wanted; \
    }

ATOMICS(32)
ATOMICS(64)

/* Plain accesses */

static void plain(const volatile void *at, size_t size, bool writes)
{
    struct region *r = w.current < 0 || !size ? NULL : region_of(at);
    if (!r)
        return;
    step();
    struct thread *t = self();
    size_t off = (uintptr_t)at - r->base;
    if (off + size > r->size)
        complain("an access beyond the end of %s", r->name);
    for (size_t i = off / GRANULE; i <= (off + size - 1) / GRANULE; i++) {
        struct granule *g = &r->granules[i];
        if (g->word)
            complain("thread %d: a plain access to the atomic word at %s+0x%zx", w.current, r->name, off);
        if (g->wrote && g->writer != w.current && g->wrote > t->k.past[g->writer])
            complain("thread %d: a %s of %s+0x%zx that is not ordered behind a write by thread %d", w.current,
                     writes ? "write" : "read", r->name, off, g->writer);
        for (int u = 0; writes && u < w.nthreads; u++)
            if (u != w.current && g->read[u] > t->k.past[u])
                complain("thread %d: a write of %s+0x%zx that is not ordered behind a read by thread %d", w.current, r->name, off,
                         u);
        if (writes) {
            g->wrote = t->k.past[w.current];
            g->writer = (uint8_t)w.current;
        } else {
            g->read[w.current] = t->k.past[w.current];
        }
    }
    note(writes ? "plain write" : "plain read", at, size);
}

#define PLAIN(size) \
    void __tsan_read##size(void *at); \
    void __tsan_write##size(void *at); \
    void __tsan_read##size(void *at) { plain(at, size, false); } \
    void __tsan_write##size(void *at) { plain(at, size, true); }
#define UNALIGNED(size) \
    void __tsan_unaligned_read##size(void *at); \
    void __tsan_unaligned_write##size(void *at); \
    void __tsan_unaligned_read##size(void *at) { plain(at, size, false); } \
    void __tsan_unaligned_write##size(void *at) { plain(at, size, true); }

PLAIN(1)
PLAIN(2)
PLAIN(4)
PLAIN(8)
PLAIN(16)
UNALIGNED(2)
UNALIGNED(4)
UNALIGNED(8)
UNALIGNED(16)

void __tsan_init(void);
void __tsan_func_entry(void *from);
void __tsan_func_exit(void);
void __tsan_read_range(void *at, size_t size);
void __tsan_write_range(void *at, size_t size);
void *__tsan_memcpy(void *to, const void *from, size_t size);
void *__tsan_memmove(void *to, const void *from, size_t size);
void *__tsan_memset(void *to, int value, size_t size);

void __tsan_init(void) {}
void __tsan_func_entry(void *from) { (void)from; }
void __tsan_func_exit(void) {}
void __tsan_read_range(void *at, size_t size) { plain(at, size, false); }
void __tsan_write_range(void *at, size_t size) { plain(at, size, true); }
void *__tsan_memcpy(void *to, const void *from, size_t size)
{
    plain(from, size, false);
    plain(to, size, true);
    return memcpy(to, from, size);
}
void *__tsan_memmove(void *to, const void *from, size_t size)
{
    plain(from, size, false);
    plain(to, size, true);
    return memmove(to, from, size);
}
void *__tsan_memset(void *to, int value, size_t size)
{
    plain(to, size, true);
    return memset(to, value, size);
}

/* The system, as csrc calls it: the linker puts these in its place (-Wl,--wrap) */

long __real_syscall(long number, ...);
int __real_clock_gettime(clockid_t clock, struct timespec *t);
long __wrap_syscall(long number, ...);
int __wrap_clock_gettime(clockid_t clock, struct timespec *t);

/* The kernel compares the word as everybody sees it. That orders nothing else. */
static long park(uint32_t *bell, uint32_t seen, const struct timespec *limit)
{
    step();
    drain_word(self(), word_at(region_of(bell), bell, sizeof *bell));
    if (raw_load(bell, sizeof *bell) != seen) {
        note("does not park", bell, seen);
        errno = EAGAIN;
        return -1;
    }
    note("parks", bell, seen);
    sched_counts.parks++;
    self()->bell = bell;
    self()->limit_ns = limit ? (int64_t)limit->tv_sec * 1000000000 + limit->tv_nsec : -1;
    self()->expired = false;
    stop_until_ready(PARKED);
    note(self()->expired ? "time-out" : "woken", bell, 0);
    if (self()->expired) {
        errno = ETIMEDOUT;
        return -1;
    }
    return 0;
}

static long ring(uint32_t *bell)
{
    long n = 0;
    step();
    note("rings", bell, 0);
    for (int i = 0; i < w.nthreads; i++)
        if (w.threads[i].phase == PARKED && w.threads[i].bell == bell) {
            w.threads[i].phase = READY;
            n++;
        }
    return n;
}

long __wrap_syscall(long number, ...)
{
    long a[6];
    va_list args;
    va_start(args, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(args, long);
    va_end(args);
    if (w.current < 0 || number != SYS_futex)
        return __real_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
    if (a[1] == FUTEX_WAIT)
        return park((uint32_t *)a[0], (uint32_t)a[2], (const struct timespec *)a[3]);
    if (a[1] == FUTEX_WAKE)
        return ring((uint32_t *)a[0]);
    complain("an unknown futex operation %ld", a[1]);
}

/* Time that passes by itself is short: what waits for it is not to be mistaken for what is woken. */
int __wrap_clock_gettime(clockid_t clock, struct timespec *t)
{
    if (w.current < 0)
        return __real_clock_gettime(clock, t);
    w.now += 1 + (one_in(4) ? sched_below(100000) : sched_below(3000));
    *t = (struct timespec){(time_t)(w.now / 1000000000), (long)(w.now % 1000000000)};
    return 0;
}
