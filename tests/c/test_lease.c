#include "rig.h"

#include "lease.h"

#include <sys/stat.h>

#define PAGES(n) ((size_t)(n) * 4096)

struct field {
    struct rig rig;
    struct rp_file file;
    uint64_t off;
};

static void field_open(struct field *f)
{
    struct rp_geometry g = {.nslots = 4, .nseats = 1, .ring_bytes = 4096, .arena_bytes = 16 << 20};
    rig_open(&f->rig, &g);
    CHECK(rp_file_open(&f->file, f->rig.seg.fd) == 0);
    f->off = (f->rig.m.arena_off + 4095) & ~(uint64_t)4095;
}

static struct rp_lease lease(struct field *f, uint64_t page, uint64_t pages)
{
    uint64_t off = f->off + PAGES(page);
    struct rp_lease l = {.at = f->rig.m.base + off, .len = PAGES(pages), .off = off, .file = &f->file, .ours = true};
    return l;
}

static uint64_t backed(struct field *f)
{
    struct stat st;
    return fstat(f->rig.seg.fd, &st) ? 0 : (uint64_t)st.st_blocks * 512;
}

static bool all(const void *at, int byte, size_t len)
{
    const unsigned char *p = at;
    for (size_t i = 0; i < len; i++)
        if (p[i] != byte)
            return false;
    return true;
}

static void see_and_change(void *arg)
{
    struct rp_lease *l = arg;
    CHECK(all(l->at, 7, l->len));
    memset(l->at, 9, l->len);
    CHECK(all(l->at, 9, l->len));
}

static void a_child_has_its_own(void)
{
    struct field f;
    field_open(&f);
    struct rp_lease l = lease(&f, 2, 5), other = lease(&f, 20, 1);
    memset(l.at, 7, l.len);
    uint64_t before = backed(&f);
    rp_lease_begin(&l);
    rp_lease_begin(&other);
    CHECK(rp_leases_part() == 0 && l.apart && !l.stuck);
    /* Its memory in the segment is not needed any more. */
    CHECK(backed(&f) <= before - PAGES(5));
    CHECK(test_reap(test_spawn(see_and_change, &l)) == 0);
    CHECK(all(l.at, 7, l.len));
    memset(l.at, 8, l.len);
    CHECK(rp_leases_part() == 0 && all(l.at, 8, l.len));
    CHECK(rp_lease_end(&l) == 0);
    /* The segment again: what was written since is not there. */
    CHECK(all(l.at, 0, l.len));
    memset(l.at, 3, l.len);
    unsigned char first = 0;
    CHECK(pread(f.file.fd, &first, 1, (off_t)l.off) == 1 && first == 3);
    CHECK(rp_lease_end(&other) == 0 && rp_leases_part() == 0);
    rig_close(&f.rig);
}

static void neighbours_stay_shared(void)
{
    struct field f;
    field_open(&f);
    struct rp_lease l = lease(&f, 1, 1);
    unsigned char *at = f.rig.m.base + f.off;
    memset(at, 1, PAGES(3));
    rp_lease_begin(&l);
    CHECK(rp_leases_part() == 0);
    memset(at, 2, PAGES(3));
    unsigned char seen[3] = {9, 9, 9};
    for (int i = 0; i < 3; i++)
        CHECK(pread(f.file.fd, &seen[i], 1, (off_t)(f.off + PAGES(i))) == 1);
    CHECK(seen[0] == 2 && seen[1] == 0 && seen[2] == 2);
    CHECK(rp_lease_end(&l) == 0);
    rig_close(&f.rig);
}

static void a_lease_that_ended_is_left_alone(void)
{
    struct field f;
    field_open(&f);
    struct rp_lease a = lease(&f, 0, 1), b = lease(&f, 1, 1), c = lease(&f, 2, 1);
    rp_lease_begin(&a);
    rp_lease_begin(&b);
    rp_lease_begin(&c);
    CHECK(rp_lease_end(&b) == 0);
    CHECK(rp_leases_part() == 0 && a.apart && !b.apart && c.apart);
    CHECK(rp_lease_end(&c) == 0 && rp_lease_end(&a) == 0);
    rig_close(&f.rig);
}

/* The user's program closed the descriptor and opened something else in its place. */
static void without_the_descriptor_it_is_a_copy(void)
{
    struct field f;
    field_open(&f);
    struct rp_lease l = lease(&f, 2, 5);
    void *at = NULL;
    memset(l.at, 7, l.len);
    rp_lease_begin(&l);
    int other = memfd_create("other", 0);
    CHECK(other >= 0);
    f.file.fd = other;
    CHECK(rp_leases_part() == 0 && l.apart);
    CHECK(test_reap(test_spawn(see_and_change, &l)) == 0);
    CHECK(all(l.at, 7, l.len));
    CHECK(rp_lease_end(&l) == -EBADF);
    CHECK(rp_lease_map(&at, &f.file, f.off, PAGES(1), false) == -EBADF);
    close(other);
    CHECK(rp_lease_map(&at, &f.file, f.off, PAGES(1), false) == -EBADF);
    rig_close(&f.rig);
}

static void a_private_map_is_nobodys_business(void)
{
    struct field f;
    void *one = NULL, *two = NULL, *fixed = NULL;
    field_open(&f);
    unsigned char *at = f.rig.m.base + f.off;
    memset(at, 7, PAGES(4));
    CHECK(rp_lease_map(&one, &f.file, f.off, PAGES(4), false) == 0 && rp_lease_map(&two, &f.file, f.off, PAGES(4), false) == 0);
    CHECK(rp_lease_map(&fixed, &f.file, f.off, PAGES(4), true) == 0 && all(fixed, 7, PAGES(4)));
    memset(one, 1, PAGES(2));
    CHECK(all(two, 7, PAGES(4)) && all(at, 7, PAGES(4)));
    /* Before a fork it becomes a copy: the block may have another use while the child lives. */
    struct rp_lease l = {.at = two, .len = PAGES(4)};
    rp_lease_begin(&l);
    CHECK(rp_leases_part() == 0 && l.apart);
    memset(at, 2, PAGES(4));
    CHECK(all(two, 7, PAGES(4)));
    CHECK(rp_lease_end(&l) == 0);
    rp_lease_unmap(one, PAGES(4));
    rp_lease_unmap(two, PAGES(4));
    rp_lease_unmap(fixed, PAGES(4));
    rig_close(&f.rig);
}

static void only_what_is_held_stays(void)
{
    struct field f;
    field_open(&f);
    struct rp_lease a = lease(&f, 3, 2), b = lease(&f, 9, 1);
    memset(f.rig.m.base, 5, f.off + PAGES(20));
    rp_lease_begin(&b);
    rp_lease_begin(&a);
    rp_leases_keep_only(&f.file, f.off + PAGES(20));
    /* Looking at what is gone brings empty pages back. */
    CHECK(backed(&f) <= PAGES(3));
    CHECK(all(a.at, 5, a.len) && all(b.at, 5, b.len) && all(f.rig.m.base, 0, f.off + PAGES(3)));
    CHECK(all(f.rig.m.base + f.off + PAGES(10), 0, PAGES(10)));
    CHECK(rp_lease_end(&a) == 0 && rp_lease_end(&b) == 0);
    rp_leases_keep_only(&f.file, f.off + PAGES(20));
    CHECK(backed(&f) == 0);
    rig_close(&f.rig);
}

struct writing {
    unsigned char *at;
    _Atomic bool stop;
    uint64_t rounds;
};

/* ThreadSanitizer takes a mapping that is put over the range for a write to it. */
__attribute__((no_sanitize("thread"))) static void *count_up(void *arg)
{
    struct writing *w = arg;
    while (!atomic_load(&w->stop))
        for (size_t i = 0; i < PAGES(16); i += 64)
            ((volatile unsigned char *)w->at)[i]++;
    return NULL;
}

/* Another thread writes all the time: each of its steps adds one to what it wrote before, so a lost write shows. */
static void no_write_is_lost(void)
{
    struct field f;
    field_open(&f);
    for (uint32_t round = 0; round < test_scaled(200); round++) {
        struct rp_lease l = lease(&f, 0, 16);
        struct writing w = {.at = l.at};
        pthread_t t;
        memset(l.at, 0, l.len);
        rp_lease_begin(&l);
        test_thread(&t, count_up, &w);
        CHECK(rp_leases_part() == 0);
        atomic_store(&w.stop, true);
        pthread_join(t, NULL);
        /* It stopped at the end of a pass: all counts are one and the same. */
        for (size_t i = 0; i < PAGES(16); i += 64)
            CHECK(w.at[i] == w.at[0]);
        CHECK(rp_lease_end(&l) == 0);
    }
    rig_close(&f.rig);
}

static void memory_without_a_descriptor(void)
{
    struct field f;
    field_open(&f);
    int err = rp_populate(f.rig.m.base + f.off, PAGES(8));
    CHECK(err == -ENOSYS || (err == 0 && backed(&f) >= PAGES(8)));
    rig_close(&f.rig);
}

TEST_MAIN(T(a_child_has_its_own), T(neighbours_stay_shared), T(a_lease_that_ended_is_left_alone),
          T(without_the_descriptor_it_is_a_copy), T(a_private_map_is_nobodys_business), T(only_what_is_held_stays),
          T(no_write_is_lost), T(memory_without_a_descriptor))
