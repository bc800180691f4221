"""Large parts of values: every kind arrives as with the stdlib, is private, and its memory goes back whoever holds it last."""

import array as arrays
import errno
import gc
import multiprocessing
import os
import pickle
import signal
import threading
import time

import large_tasks
import numpy
import peak
import procfs
import pytest
import tasks

from pool._codec import encode

LIMIT = 60
TAG_PARTS = 16
LARGE = 300_000  # items: beyond every threshold but that of shared parts


def shared_bytes(pool):
    """Of memory in the pool's segment."""
    return os.fstat(pool._core.fd).st_blocks * 512


STRUCTURE = [("name", "S8"), ("value", "f8")]


def kinds():
    base = numpy.arange(float(LARGE))
    square = numpy.arange(250_000.0).reshape(500, 500)
    fixed = numpy.arange(float(LARGE))
    fixed.flags.writeable = False
    small_fixed = numpy.arange(10.0)
    small_fixed.flags.writeable = False
    yield "plain", base
    yield "small", numpy.arange(10.0)
    yield "of 64 KiB", numpy.arange(8192.0)
    yield "two-dimensional", square
    yield "Fortran order", numpy.asfortranarray(square)
    yield "transposed", square.T
    yield "every other", base[::2]
    yield "reversed", base[::-1]
    yield "a block of it", square[10:400, 10:400]
    yield "no items", numpy.empty(0)
    yield "no items in one dimension", numpy.empty((0, 1000))
    yield "one item", numpy.array(5.0)
    yield "read-only", fixed
    yield "small and read-only", small_fixed
    yield "on bytes", numpy.frombuffer(bytes(range(256)) * 1000, dtype="u1")
    yield "of objects", numpy.array([None, "text", (1, 2)] * 5000, dtype=object)
    yield "structured", numpy.array([(b"a", 1.5), (b"b", 2.5)] * 20_000, dtype=STRUCTURE)
    yield "of one byte", numpy.arange(LARGE, dtype="i1")
    yield "of dates", numpy.arange(LARGE).astype("M8[s]")
    yield "complex", numpy.arange(LARGE) * 1j
    yield "bool", numpy.arange(LARGE) % 2 == 0


KINDS = dict(kinds())


@pytest.mark.parametrize("array", KINDS.values(), ids=KINDS.keys())
def test_every_kind_of_array_arrives_as_it_was(shared_pool, array):
    expected = large_tasks.described(pickle.loads(pickle.dumps(array)))
    assert shared_pool.apply(large_tasks.described, (array,)) == expected
    for back in (
        shared_pool.apply(large_tasks.echo, (array,)),
        shared_pool.map(large_tasks.echo, [array, array], 1)[1],
        shared_pool.map(large_tasks.echo, [array, array], 2)[1],
        next(shared_pool.imap(large_tasks.echo, [array])),
        shared_pool.starmap(large_tasks.echo, [(array,)])[0],
    ):
        assert type(back) is type(array)
        assert large_tasks.described(back) == expected


def test_many_arrays_in_one_value(shared_pool):
    value = {"first": [numpy.full(n, float(n)) for n in (1, 100, 5000, 70_000)], "again": None, "text": "x" * 100_000}
    value["again"] = value["first"]
    back = shared_pool.apply(large_tasks.echo, (value,))
    assert back["again"] is back["first"] and back["text"] == value["text"]
    assert all((one == other).all() for one, other in zip(back["first"], value["first"], strict=True))


LONG = {
    "bytes": bytes(range(256)) * 3000,
    "bytearray": bytearray(range(256)) * 3000,
    "text": "text" * 100_000,
    "wide text": "\u4e16\u754c" * 100_000,
    "astral text": "\U0001f40d" * 100_000,
    "array.array": arrays.array("d", range(100_000)),
    "array of letters": arrays.array("i", range(100_000)),
    "list of numbers": list(range(200_000)),
    "long list of everything": [*range(500_000), b"x" * 50_000, arrays.array("d", range(5000)), *range(500_000), "y" * 50_000],
    "list of long texts": ["a" * 70_000, "b" * 70_000],
    "bytes inside": {"key": (b"x" * 200_000, [b"y" * 200_000])},
    "parts": large_tasks.Parts(bytearray(b"part" * 50_000)),
}


@pytest.mark.parametrize("value", LONG.values(), ids=LONG.keys())
def test_long_values_of_other_types(shared_pool, value):
    for back in (
        shared_pool.apply(large_tasks.echo, (value,)),
        shared_pool.map(large_tasks.echo, [value, value], 1)[0],
        shared_pool.map(large_tasks.echo, [value, value], 2)[1],
    ):
        assert type(back) is type(value) and back == value


@pytest.mark.ringpool_only
def test_parts_beside_what_pickle_refuses(factory):
    parts = large_tasks.Parts(bytearray(b"part" * 50_000))
    value = parts, lambda: "called"
    assert encode(value, by_value=True)[0] == TAG_PARTS
    with factory.Pool(1) as pool:
        assert pool.apply(large_tasks.called_with, (value,)) == (True, "called", parts)


def test_arguments_and_results_are_writable(factory):
    with factory.Pool(2) as pool:
        array = numpy.zeros(LARGE)
        (before, total) = pool.apply(large_tasks.overwritten, (array, 3))
        assert before == (0.0, 0.0) and total == 3.0 * LARGE
        assert array.sum() == 0
        back = pool.apply(large_tasks.echo, (array,))
        back += 1
        assert back.sum() == LARGE and array.sum() == 0


def test_a_change_after_the_call_does_not_reach_the_task(factory, make_gate):
    with factory.Pool(2) as pool:
        gates = [make_gate(), make_gate()]
        holding = [pool.apply_async(tasks.hold, (gate, None)) for gate in gates]
        for gate in gates:
            gate.wait_for(1)
        array = numpy.ones(LARGE)
        results = [pool.apply_async(large_tasks.total, (array,)) for _ in range(20)]
        text = bytearray(b"a" * 500_000)
        echoed = pool.apply_async(large_tasks.echo, (text,))
        if pool.__class__.__module__ == "pool":
            array[...] = 9
            text[:] = b"b" * len(text)
        for gate in gates:
            gate.open()
        assert [result.get(LIMIT) for result in results] == [LARGE] * 20
        assert echoed.get(LIMIT) == b"a" * 500_000
        assert [result.get(LIMIT) for result in holding] == [None, None]


@pytest.mark.parametrize("chunksize", [1, 2, 5])
def test_one_array_of_many_tasks_is_private_to_each(factory, chunksize):
    with factory.Pool(2) as pool:
        array = numpy.arange(float(LARGE))
        expected = (0.0, LARGE - 1.0)
        calls = [(array, number) for number in range(10)]
        for outcomes in (
            pool.starmap(large_tasks.overwritten, calls, 1),
            pool.map(large_tasks.written, calls, 1),
            list(pool.imap(large_tasks.written, calls)),
            list(pool.imap(large_tasks.written, iter(calls))),
            pool.map_async(large_tasks.written, calls, 1).get(LIMIT),
        ):
            assert outcomes == [(expected, float(number) * LARGE) for number in range(10)]
        assert array[-1] == LARGE - 1
        sums = pool.map(large_tasks.total, [array] * 10, chunksize)
        assert sums == [float(array.sum())] * 10


def test_a_generator_that_changes_one_array_in_place(factory):
    def changing(array, count):
        for number in range(count):
            array[...] = number
            yield array

    with factory.Pool(2) as pool:
        for function in (pool.imap, pool.imap_unordered):
            sums = sorted(function(large_tasks.total, changing(numpy.empty(LARGE), 12)))
            assert sums == [float(number) * LARGE for number in range(12)]


class Temporary:
    """Each makes its bytes when it is pickled, mostly at one and the same address."""

    def __init__(self, value):
        self.value = value

    def __reduce_ex__(self, protocol):
        return large_tasks.Parts, (pickle.PickleBuffer(bytes([self.value]) * 400_000),)


def test_items_that_are_pickled_by_way_of_one_array(factory):
    with factory.Pool(2) as pool:
        items = [large_tasks.Scratch(number) for number in range(9)]
        expected = [(number, float(number), float(number)) for number in range(9)]
        assert pool.map(large_tasks.both_ends, items, 1) == expected
        assert pool.starmap(large_tasks.both_ends, [(item,) for item in items], 1) == expected
        assert list(pool.imap(large_tasks.both_ends, items)) == expected


@pytest.mark.ringpool_only
def test_other_bytes_at_the_same_place(factory):
    with factory.Pool(2) as pool:
        items = [Temporary(number) for number in range(12)]
        for backs in (pool.map(large_tasks.echo, items, 1), list(pool.imap(large_tasks.echo, items))):
            assert [bytes(back.data[:2]) for back in backs] == [bytes([number]) * 2 for number in range(12)]


@pytest.mark.ringpool_only
def test_retries_see_their_argument_as_it_was(factory, tmp_path):
    with factory.Pool(2, retries=1) as pool:
        array = numpy.ones(LARGE)
        assert pool.apply(large_tasks.die_once, (array, str(tmp_path / "first"))) == LARGE
        both = pool.starmap(large_tasks.die_once, [(array, str(tmp_path / name)) for name in "abc"], 1)
        assert both == [LARGE] * 3


# ---- lifetimes


def test_results_outlive_the_pool(factory):
    pool = factory.Pool(2)
    backs = pool.starmap(large_tasks.filled, [(LARGE, number) for number in range(4)], 1)
    view = backs[1][10:20][::2]
    later = pool.apply_async(large_tasks.filled, (LARGE, 9))
    later.wait(LIMIT)
    pool.close()
    pool.join()
    del pool
    gc.collect()
    assert [float(back.sum()) for back in backs] == [float(number) * LARGE for number in range(4)]
    backs[2] += 1
    assert backs[2].sum() == 3.0 * LARGE
    del backs
    gc.collect()
    assert view.tolist() == [1.0] * 5
    assert later.get(LIMIT)[-1] == 9.0


def test_results_outlive_a_pool_that_was_terminated(factory):
    pool = factory.Pool(2)
    back = pool.apply(large_tasks.filled, (LARGE, 4))
    pool.terminate()
    pool.join()
    assert back.sum() == 4.0 * LARGE


def segments():
    """Bytes of address space that this process has of pools' segments, and how many descriptors of them."""
    mapped = 0
    with open("/proc/self/maps") as maps:
        for line in maps:
            if "memfd:ringpool" in line:
                begin, end = (int(number, 16) for number in line.split()[0].split("-"))
                mapped += end - begin
    links = [os.path.join("/proc/self/fd", name) for name in os.listdir("/proc/self/fd")]
    return mapped, sum("memfd:ringpool" in os.readlink(link) for link in links if os.path.islink(link))


@pytest.mark.ringpool_only
@pytest.mark.parametrize("fork_before", [False, True])
@pytest.mark.parametrize(("size", "descriptors"), [(LARGE, 0), (10 * LARGE, 1)])
def test_results_of_a_pool_that_is_gone_need_little(factory, size, descriptors, fork_before):
    before = segments()
    with factory.Pool(2) as pool:
        first, other, last = pool.starmap(large_tasks.filled, [(size, number) for number in range(3)], 1)
        shared = pool.share(numpy.ones(LARGE))
        assert pool.apply(large_tasks.total, (shared,)) == LARGE
        del other
        if fork_before:
            pid = os.fork()
            if pid == 0:
                os._exit(0)
            os.waitpid(pid, 0)
    pool.join()
    del pool
    gc.collect()
    mapped, opened = (now - then for now, then in zip(segments(), before, strict=True))
    assert mapped < 1 << 30 and opened <= descriptors
    pid = os.fork()
    if pid == 0:
        first += 1
        os._exit(0 if first.sum() == size and last.sum() == 2.0 * size else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert first.sum() == 0 and last.sum() == 2.0 * size
    del first
    last += 1
    assert last.sum() == 3.0 * size
    shared.close()
    del last, shared
    gc.collect()
    assert segments() == before


def test_results_are_pickled_again(factory):
    with factory.Pool(2) as pool:
        back = pool.apply(large_tasks.filled, (LARGE, 2))
        again = pool.apply(large_tasks.echo, (back,))
        third = pickle.loads(pickle.dumps(back))
        assert (again == back).all() and (third == back).all()
        assert pool.map(large_tasks.total, [back, again, back[::3]], 1) == [2.0 * LARGE, 2.0 * LARGE, 2.0 * LARGE / 3]


@pytest.mark.ringpool_only
def test_memory_goes_back_when_the_last_view_dies(factory):
    with factory.Pool(2) as pool:
        backs = pool.starmap(large_tasks.filled, [(LARGE, number) for number in range(6)], 1)
        used = pool._core.arena_used
        assert used >= 6 * 8 * LARGE
        view = backs[3][5:6]
        del backs
        gc.collect()
        assert pool._core.arena_used <= used - 5 * 8 * LARGE
        assert view[0] == 3.0
        del view
        gc.collect()
        assert pool._core.arena_used <= used - 6 * 8 * LARGE


@pytest.mark.ringpool_only
def test_an_exhausted_iterator_holds_no_memory(factory):
    with factory.Pool(1) as pool:
        array = numpy.ones(LARGE)
        iterators = [pool.imap(large_tasks.total, [array] * 3), pool.imap(large_tasks.total, (array for _ in range(3)))]
        assert [list(iterator) for iterator in iterators] == [[LARGE] * 3] * 2
        # What the worker had is looked at when the next block is taken.
        assert pool.apply(large_tasks.total, (array,)) == LARGE
        assert pool.apply(large_tasks.total, (array[:10_000],)) == 10_000
        procfs.wait_until(lambda: pool._core.arena_used < 8 * LARGE, LIMIT, "only the last arguments are there")


@pytest.mark.ringpool_only
def test_memory_goes_back_to_the_system(factory):
    with factory.Pool(2) as pool:
        idle = shared_bytes(pool)
        array = numpy.ones(2 << 20)
        for _ in range(2):
            backs = pool.map(large_tasks.echo, [array] * 8, 1)
        assert shared_bytes(pool) - idle >= 8 * array.nbytes
        del backs
        gc.collect()
        begin = time.monotonic()
        procfs.wait_until(lambda: shared_bytes(pool) - idle <= 64 << 20)
        assert time.monotonic() - begin < 5
        assert pool.apply(large_tasks.total, (array,)) == 2 << 20


@pytest.mark.ringpool_only
def test_a_worker_dies_while_the_parent_holds_its_block(factory):
    with factory.Pool(2) as pool:
        backs = pool.starmap(large_tasks.filled, [(LARGE, number) for number in range(8)], 1)
        for worker in list(pool._pool):
            os.kill(worker.pid, signal.SIGKILL)
        more = pool.starmap(large_tasks.filled, [(LARGE, 100 + number) for number in range(8)], 1)
        assert [back[-1] for back in backs] == list(range(8))
        assert [back[-1] for back in more] == list(range(100, 108))


@pytest.mark.ringpool_only
def test_a_worker_that_keeps_its_arguments(factory):
    with factory.Pool(1) as pool:
        arrays = [numpy.full(LARGE, float(number)) for number in range(5)]
        assert pool.map(large_tasks.keep, arrays, 1) == [1, 2, 3, 4, 5]
        # Blocks of others come and go meanwhile.
        for _ in range(5):
            assert pool.apply(large_tasks.total, (numpy.full(LARGE, 7.0),)) == 7.0 * LARGE
        assert pool.apply(large_tasks.kept_sum) == 10.0 * LARGE
        used = pool._core.arena_used
        pool.apply(large_tasks.forget)
        pool.apply(large_tasks.total, (arrays[0],))
        assert pool._core.arena_used <= used - 4 * 8 * LARGE
        pool.map(large_tasks.keep, arrays, 1)
        os.kill(pool._pool[0].pid, signal.SIGKILL)
        assert pool.apply(large_tasks.total, (arrays[2],)) == 2.0 * LARGE
        assert pool._core.arena_used <= 3 * 8 * LARGE


@pytest.mark.ringpool_only
def test_a_worker_that_dies_with_its_argument(factory, ringpool):
    with factory.Pool(2) as pool:
        array = numpy.full(LARGE, 5.0)
        results = [pool.apply_async(large_tasks.die, (array,)) for _ in range(4)]
        for result in results:
            with pytest.raises(ringpool.WorkerLostError):
                result.get(LIMIT)
        assert pool.apply(large_tasks.total, (array,)) == 5.0 * LARGE
        procfs.wait_until(lambda: pool._core.arena_used <= 2 * 8 * LARGE)


@pytest.mark.ringpool_only
def test_the_parent_drops_a_result_while_the_worker_writes_it(factory, make_gate):
    with factory.Pool(2) as pool:
        for number in range(4):
            gate = make_gate()
            result = pool.apply_async(large_tasks.pause_in_the_middle, (gate, 8 * LARGE))
            gate.wait_for(1)
            del result
            gc.collect()
            gate.open()
            assert pool.apply(large_tasks.echo, (number,)) == number
        # And somewhere in the copying, wherever that is.
        for number in range(100):
            result = pool.apply_async(large_tasks.filled, (4 * LARGE, number))
            time.sleep(number * 1e-4)
            del result
        assert pool.map(large_tasks.total, [numpy.ones(LARGE)] * 4, 1) == [LARGE] * 4
        gc.collect()
        procfs.wait_until(lambda: pool._core.arena_used <= 3 * (32 * LARGE + 8192))


@pytest.mark.ringpool_only
def test_dropped_results_that_nobody_looked_at(factory):
    with factory.Pool(2) as pool:
        for _ in range(5):
            pool.map_async(large_tasks.echo, [numpy.ones(LARGE)] * 4, 1).wait(LIMIT)
            it = pool.imap(large_tasks.echo, [numpy.ones(LARGE)] * 4)
            next(it)
            del it
        gc.collect()
        # What is offered to the workers for further results stays.
        procfs.wait_until(lambda: pool._core.arena_used <= 2 * (8 * LARGE + 8192))


# ---- forks


def in_child(look):
    """repr of what the function gives in a forked child."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, repr(look()).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as file:
        told = file.read().decode()
    os.waitpid(child, 0)
    return told


def test_results_in_a_forked_child_are_its_own(factory):
    pool = factory.Pool(2)
    first = pool.apply(large_tasks.filled, (LARGE, 1))
    unread = pool.apply_async(large_tasks.filled, (LARGE, 2))
    unread.wait(LIMIT)

    def look():
        seen = float(first.sum())
        first[...] = 50
        return seen, float(first.sum()), float(unread.get().sum())

    assert in_child(look) == repr((1.0 * LARGE, 50.0 * LARGE, 2.0 * LARGE))
    assert first.sum() == LARGE
    first[...] = 3
    assert in_child(lambda: float(first.sum())) == repr(3.0 * LARGE)
    # Their memory is not taken for others while they live, and is afterwards.
    others = pool.starmap(large_tasks.filled, [(LARGE, 8)] * 6, 1)
    assert first.sum() == 3.0 * LARGE and unread.get().sum() == 2.0 * LARGE
    assert all(other.sum() == 8.0 * LARGE for other in others)
    del first, unread, others
    gc.collect()
    assert pool.apply(large_tasks.filled, (LARGE, 4)).sum() == 4.0 * LARGE
    pool.close()
    pool.join()


def test_a_forked_child_outlives_the_parents_objects(factory):
    with factory.Pool(2) as pool:
        back = pool.apply(large_tasks.filled, (LARGE, 6))
        reading, writing = os.pipe()
        told, telling = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.read(reading, 1)
                os.write(telling, repr(float(back.sum())).encode())
            finally:
                os._exit(0)
        del back
        gc.collect()
        others = pool.starmap(large_tasks.filled, [(LARGE, 8)] * 6, 1)
        os.write(writing, b"x")
        assert os.read(told, 100).decode() == repr(6.0 * LARGE)
        os.waitpid(child, 0)
        assert others[-1].sum() == 8.0 * LARGE
        for fd in (reading, writing, told, telling):
            os.close(fd)


def test_results_are_globals_of_a_later_pool(factory):
    with factory.Pool(2) as pool:
        large_tasks._kept[:] = pool.starmap(large_tasks.filled, [(LARGE, number) for number in (1, 2)], 1)
        try:
            with factory.Pool(2) as other:
                inherited = [other.apply(large_tasks.kept_sum) for _ in range(4)]
            assert set(inherited) <= {3.0 * LARGE, 0}
            assert large_tasks.kept_sum() == 3.0 * LARGE
        finally:
            large_tasks._kept.clear()


def test_a_task_that_forks_with_its_argument(factory):
    with factory.Pool(1) as pool:
        array = numpy.ones(LARGE)
        for _ in range(3):
            told, here = pool.apply(large_tasks.forked_sum, (array,))
            assert told == repr((1.0 * LARGE, 5.0 * LARGE)) and here == LARGE
        several = pool.map(large_tasks.forked_sum, [array] * 4, 1)
        assert several == [(repr((1.0 * LARGE, 5.0 * LARGE)), 1.0 * LARGE)] * 4


@pytest.mark.ringpool_only
def test_a_task_that_closes_all_descriptors(factory):
    with factory.Pool(1) as pool:
        array = numpy.ones(LARGE)
        assert pool.map(large_tasks.close_descriptors, [array] * 4, 1) == [LARGE] * 4
        assert pool.starmap(large_tasks.overwritten, [(array, 2)] * 4, 1) == [((1.0, 1.0), 2.0 * LARGE)] * 4
        assert pool.apply(large_tasks.filled, (LARGE, 2)).sum() == 2.0 * LARGE
        told, here = pool.apply(large_tasks.forked_sum, (array,))
        assert told == repr((1.0 * LARGE, 5.0 * LARGE)) and here == LARGE


@pytest.mark.ringpool_only
def test_a_task_that_opens_a_file_in_the_descriptors_place(factory, tmp_path):
    path = tmp_path / "own"
    path.write_bytes(b"own")
    with factory.Pool(1) as pool:
        assert pool.apply(large_tasks.descriptors_to, (str(path), LARGE)).sum() == LARGE
        assert pool.apply(large_tasks.filled, (4 * LARGE, 2)).sum() == 8.0 * LARGE
    assert path.read_bytes() == b"own"


@pytest.mark.ringpool_only
def test_a_program_that_opens_a_file_in_the_descriptors_place(factory, tmp_path):
    path = tmp_path / "own"
    own = b"own" * 3_000_000
    path.write_bytes(own)
    with factory.Pool(1) as pool:
        kept = pool.apply(large_tasks.filled, (LARGE, 3))
        file = os.open(path, os.O_RDWR)
        place = os.dup2(file, pool._core.fd, inheritable=False)
        os.close(file)
        for size in (LARGE, 10 * LARGE, 20 * LARGE):
            try:
                pool.apply(large_tasks.total, (numpy.ones(size),))
            except OSError as error:
                assert error.errno in (errno.EBADF, errno.ENOMEM)
        pid = os.fork()
        if pid == 0:
            os._exit(0 if os.fstat(place).st_size == len(own) else 1)
        assert os.waitpid(pid, 0)[1] == 0
    pool.join()
    assert kept.sum() == 3.0 * LARGE
    del kept, pool
    gc.collect()
    assert os.fstat(place).st_ino == path.stat().st_ino
    os.close(place)
    assert path.read_bytes() == own


# ---- limits


@pytest.mark.ringpool_only
def test_more_than_the_limit_waits_for_its_turn(factory):
    with factory.Pool(2, arena_limit=8 << 20) as pool:
        array = numpy.ones(LARGE)  # 2.4 MB
        assert pool.map(large_tasks.total, [array + number for number in range(40)], 1) == [
            float(LARGE * (number + 1)) for number in range(40)
        ]
        results = [pool.apply_async(large_tasks.echo, (array,)) for _ in range(20)]
        assert all(result.get(LIMIT).sum() == LARGE for result in results)
        assert shared_bytes(pool) <= (8 << 20) + (4 << 20)


@pytest.mark.ringpool_only
def test_results_that_are_kept_do_not_stop_the_pool(factory):
    with factory.Pool(2, arena_limit=8 << 20) as pool:
        backs = pool.starmap(large_tasks.filled, [(LARGE, number) for number in range(20)], 1)
        assert [back[-1] for back in backs] == list(range(20))
        assert pool.map(len, [b"x" * 100_000] * 20, 1) == [100_000] * 20
        assert shared_bytes(pool) <= (8 << 20) + (4 << 20)
        assert [float(back.sum()) for back in backs] == [float(number * LARGE) for number in range(20)]


@pytest.mark.ringpool_only
def test_what_can_never_fit_is_an_error_of_its_own(factory):
    with factory.Pool(2, arena_limit=1 << 20) as pool:
        with pytest.raises(OSError, match="no shared memory for a task"):
            pool.apply(large_tasks.total, (numpy.ones(LARGE),))
        assert pool.apply(large_tasks.filled, (LARGE, 2)).sum() == 2.0 * LARGE
        assert pool.map(len, [b"x" * 100_000] * 20, 1) == [100_000] * 20


@pytest.mark.ringpool_only
@pytest.mark.start_methods("fork")
@pytest.mark.parametrize("limit", [0, -1, 1000])
def test_bad_limits(factory, limit):
    with pytest.raises(ValueError, match="arena_limit must be at least"):
        factory.Pool(1, arena_limit=limit)


@pytest.mark.ringpool_only
@pytest.mark.limit(300)
@pytest.mark.parametrize("most", [400, pytest.param(10_000, marks=pytest.mark.slow)])
def test_a_loop_of_mixed_sizes_is_flat(factory, most):
    with factory.Pool(2) as pool:
        sizes = [1, 3000, 20_000, 9000, 70_000, 40_000, 150_000, 500]

        def rounds(count):
            for number in range(count):
                back = pool.apply(large_tasks.double, (numpy.full(sizes[number % len(sizes)], 1.0),))
                assert back[-1] == 2.0

        def held():
            workers = sum(peak.anonymous(worker.pid) for worker in pool._pool)
            return shared_bytes(pool), pool._core.arena_used, peak.anonymous(os.getpid()) + workers

        rounds(100)
        before = held()
        for _ in range(100, most, 300):
            rounds(300)
            print(*(number >> 10 for number in held()), "KiB")
        shared, used, own = held()
        assert shared <= before[0] + (4 << 20)
        assert used <= before[1] + (4 << 20)
        assert own <= before[2] + (16 << 20)


@pytest.mark.ringpool_only
def test_results_die_on_other_threads(factory):
    with factory.Pool(2) as pool:
        backs = pool.starmap(large_tasks.filled, [(20_000, number) for number in range(200)], 1)

        def drop():
            while True:
                try:
                    backs.pop()
                except IndexError:
                    return

        threads = [threading.Thread(target=drop) for _ in range(4)]
        for thread in threads:
            thread.start()
        more = pool.starmap(large_tasks.filled, [(20_000, number) for number in range(200)], 1)
        for thread in threads:
            thread.join(LIMIT)
        assert [back[7] for back in more] == list(range(200))


# ---- arrays as the iterable


ROWS = {
    "rows": numpy.arange(6000.0).reshape(300, 20),
    "long rows": numpy.arange(400_000.0).reshape(20, 20_000),
    "planes": numpy.arange(6000).reshape(30, 10, 20),
    "Fortran order": numpy.asfortranarray(numpy.arange(6000.0).reshape(300, 20)),
    "transposed": numpy.arange(6000.0).reshape(20, 300).T,
    "every other row": numpy.arange(6000.0).reshape(300, 20)[::2],
    "numbers": numpy.arange(5000),
    "reals": numpy.arange(5000) / 3,
    "objects": numpy.array([None, "text", (1, 2), 5] * 50, dtype=object),
    "structured": numpy.array([(b"a", 1.5), (b"b", 2.5)] * 100, dtype=STRUCTURE),
    "no rows": numpy.empty((0, 5)),
    "empty rows": numpy.empty((5, 0)),
}


@pytest.mark.parametrize("chunksize", [None, 1, 7])
@pytest.mark.parametrize("array", ROWS.values(), ids=ROWS.keys())
def test_an_array_is_mapped_item_by_item(shared_pool, array, chunksize):
    for backs in (
        shared_pool.map(large_tasks.echo, array, chunksize),
        shared_pool.map_async(large_tasks.echo, array, chunksize).get(LIMIT),
        list(shared_pool.imap(large_tasks.echo, array, chunksize or 2)),
        list(shared_pool.imap(large_tasks.echo, array)),
    ):
        assert len(backs) == len(array)
        for back, item in zip(backs, array, strict=True):
            assert type(back) is type(item)
            if isinstance(item, numpy.ndarray):
                assert back.shape == item.shape and back.dtype == item.dtype and back.flags.writeable and (back == item).all()
                assert back.flags.c_contiguous
            else:
                assert back == item
    if array.ndim == 2:
        assert shared_pool.starmap(large_tasks.count, array[:10, :3], chunksize) == [3] * len(array[:10, :3]) or not array.size


def test_rows_are_private_to_their_tasks(factory):
    with factory.Pool(2) as pool:
        array = numpy.ones((200, 2000))
        outcomes = pool.map(large_tasks.spoilt, array)
        assert outcomes == [((1.0, 1.0), 9.0 * 2000)] * 200
        assert array.sum() == 200 * 2000


def test_array_without_dimensions_is_no_iterable(factory):
    with factory.Pool(1) as pool:
        with pytest.raises(TypeError, match="0-d array|unsized object"):
            pool.map(large_tasks.echo, numpy.array(5.0))
        with pytest.raises(TypeError, match="0-d array|unsized object"):
            next(pool.imap(large_tasks.echo, numpy.array(5.0)))


@pytest.mark.ringpool_only
@pytest.mark.parametrize("buffersize", [None, 1, 3])
def test_rows_of_an_iterator_travel_in_slices(factory, buffersize):
    array = numpy.arange(60_000.0).reshape(300, 200)
    with factory.Pool(2) as pool:
        it = pool.imap(large_tasks.size_below, array, 10, buffersize=buffersize)
        assert next(it) == 10 * 200
        array.shape = (200, 300)
        assert list(it) == [10 * 200] * 299
        it = pool.imap_unordered(large_tasks.row_sum, numpy.ones((50, 10)), 7, buffersize=buffersize)
        assert list(it) == [10.0] * 50


@pytest.mark.ringpool_only
def test_nothing_imports_numpy_by_itself(factory):
    with factory.Pool(1) as pool:
        if factory.start_method != "fork":
            assert pool.map(large_tasks.imported_numpy, [bytearray(500_000)] * 2, 1) == [False, False]


@pytest.mark.ringpool_only
@pytest.mark.parametrize("task", [large_tasks.keep_in_a_cycle, large_tasks.catch_an_error])
def test_arguments_in_garbage_take_no_memory_from_others(factory, task):
    with factory.Pool(2, arena_limit=64 << 20) as pool:
        for _ in range(20):
            assert pool.apply(task, (numpy.ones(1 << 20),)) == 1.0
        assert pool.map(task, [numpy.ones(1 << 20) for _ in range(20)], 1) == [1.0] * 20


@pytest.mark.ringpool_only
def test_results_in_garbage_take_no_memory_from_others(factory):
    with factory.Pool(1, arena_limit=64 << 20) as pool:
        for _ in range(12):
            kept = [pool.apply(large_tasks.double, (numpy.ones(1 << 20),))]
            kept.append(kept)
        del kept
        assert pool.apply(large_tasks.catch_an_error, (numpy.ones(4 << 20),)) == 1.0


class Finalized:
    def __init__(self, finalizer):
        self.finalizer = finalizer

    def __del__(self):
        self.finalizer()


@pytest.fixture
def crowded(factory):
    """A pool whose memory is in garbage, but for a little. Whoever collects that calls first what is set as `crowded.finalizer`."""
    pool = factory.Pool(1, arena_limit=64 << 20)
    kept = [pool.apply(large_tasks.double, (numpy.ones(1 << 20),)) for _ in range(5)]
    owner = Finalized(lambda: pool.finalizer())
    gc.disable()
    owner.itself = owner
    owner.kept = kept
    del kept, owner
    yield pool
    gc.enable()


@pytest.mark.ringpool_only
def test_another_thread_waits_for_the_same_garbage(crowded, background):
    found = []

    def submit():
        return [crowded.apply_async(large_tasks.catch_an_error, (numpy.ones(4 << 20),)) for _ in range(2)]

    crowded.finalizer = lambda: found.extend(background(submit).result(LIMIT))
    assert crowded.apply(large_tasks.catch_an_error, (numpy.ones(4 << 20),)) == 1.0
    assert [result.get(LIMIT) for result in found] == [1.0] * 2


@pytest.mark.ringpool_only
@pytest.mark.parametrize("others", [0, 2])
def test_a_finalizer_of_the_garbage_does_not_wait_for_it(crowded, background, others):
    found, errors = [], []

    def submit():
        return [crowded.apply_async(large_tasks.catch_an_error, (numpy.ones(4 << 20),)) for _ in range(others)]

    def finalize():
        found.extend(background(submit).result(LIMIT))
        try:
            crowded.apply(large_tasks.catch_an_error, (numpy.ones(4 << 20),))
        except OSError as error:
            errors.append(error.errno)  # Its traceback would keep the garbage.
        found.append(crowded.apply_async(tasks.square, (3,)))
        assert found[-1].get(LIMIT) == 9

    crowded.finalizer = finalize
    assert crowded.apply(large_tasks.catch_an_error, (numpy.ones(4 << 20),)) == 1.0
    assert errors == [errno.ENOMEM] and len(found) == others + 1
    for result in found[:-1]:
        # Either is sound: the finalizer needs what is before it in the line.
        result.wait(LIMIT)
        assert result.ready()


LIMITED = 4 << 20
MANY_CALLS = {
    "map": lambda pool, call, values: pool.map(call, values),
    "map one by one": lambda pool, call, values: pool.map(call, values, 1),
    "map of an iterator": lambda pool, call, values: pool.map_async(call, iter(values)).get(LIMIT),
    "imap": lambda pool, call, values: list(pool.imap(call, values)),
    "imap of an iterator": lambda pool, call, values: list(pool.imap(call, iter(values))),
    "imap_unordered of an iterator": lambda pool, call, values: list(pool.imap_unordered(call, iter(values))),
    "apply_async": lambda pool, call, values: [
        result.get(LIMIT) for result in [pool.apply_async(call, (value,)) for value in values]
    ],
    "several maps": lambda pool, call, values: [
        value for result in [pool.map_async(call, values[i : i + 2], 1) for i in range(0, 12, 2)] for value in result.get(LIMIT)
    ],
}


@pytest.mark.ringpool_only
@pytest.mark.start_methods("fork")
@pytest.mark.parametrize("call", MANY_CALLS.values(), ids=MANY_CALLS.keys())
@pytest.mark.parametrize("share", [0.1, 0.3, 0.45, 0.6, 0.9])
def test_all_that_fits_one_by_one_is_served(factory, call, share):
    size = int(LIMITED * share)
    text = bytes(size)
    arrays = [numpy.full(size // 8, float(number)) for number in range(12)]
    with factory.Pool(2, arena_limit=LIMITED) as pool:
        assert call(pool, len, [text] * 12) == [size] * 12
        assert call(pool, tasks.echo, [text] * 12) == [text] * 12
        assert sorted(array[-1] for array in call(pool, large_tasks.double, arrays)) == [2.0 * number for number in range(12)]
        assert sorted(array[-1] for array in call(pool, tasks.echo, arrays)) == list(range(12))


@pytest.mark.ringpool_only
@pytest.mark.start_methods("fork")
def test_a_task_without_memory_keeps_no_argument_waiting(factory, gate):
    text = bytes(LIMITED // 4)
    with factory.Pool(2, arena_limit=LIMITED) as pool:
        held = pool.apply_async(tasks.hold, (gate, 1))
        gate.wait_for(1)
        unread = [pool.apply_async(tasks.echo, (text,)) for _ in range(3)]
        for result in unread:
            result.wait(LIMIT)
        assert pool.apply(len, (3 * text,)) == 3 * len(text)
        for value in pool.imap(tasks.echo, iter([text] * 12)):
            assert pool.apply(len, (value + value,)) == 2 * len(text)
        kept = [pool.apply(large_tasks.double, (numpy.ones(LIMITED // 64),)) for _ in range(4)]
        with pytest.raises(OSError, match="results that are kept"):
            pool.apply(len, (bytes(LIMITED * 9 // 10),))
        del kept
        assert pool.apply(len, (bytes(LIMITED * 9 // 10),)) == LIMITED * 9 // 10
        assert [result.get(LIMIT) for result in unread] == [text] * 3
        assert not held.ready()
        gate.open()


@pytest.mark.ringpool_only
@pytest.mark.start_methods("fork")
def test_an_argument_waits_for_a_part_that_tasks_share(factory, gate, background):
    part = numpy.ones(LIMITED // 16)
    with factory.Pool(2, arena_limit=LIMITED) as pool:
        several = pool.starmap_async(large_tasks.hold_array, [(gate, part)] * 4, 1)
        gate.wait_for(2)
        large = background(pool.apply, len, (bytes(LIMITED * 9 // 10),))
        with pytest.raises(multiprocessing.TimeoutError):
            several.get(1.5)
        gate.open()
        assert several.get(LIMIT) == [1.0] * 4
        assert large.result(LIMIT) == LIMITED * 9 // 10


@pytest.mark.ringpool_only
@pytest.mark.start_methods("fork")
@pytest.mark.parametrize("share", [0.2, 0.45, 0.9])
def test_threads_wait_for_memory_in_turn(factory, background, share):
    text = bytes(int(LIMITED * share))
    with factory.Pool(2, arena_limit=LIMITED) as pool:

        def use(number):
            for k in range(8):
                if (k + number) % 4 == 0:
                    assert pool.apply(tasks.echo, (text,)) == text
                elif (k + number) % 4 == 1:
                    # Of three results two are dropped; a result without a large argument.
                    assert [pool.apply_async(tasks.echo, (text[:LIMITED // 5],)) for _ in range(3)][0].get(LIMIT) == text[:LIMITED // 5]
                    assert pool.apply(bytes, (LIMITED // 5,)) == bytes(LIMITED // 5)
                elif (k + number) % 4 == 2:
                    assert pool.map(len, [text] * 3) == [len(text)] * 3
                else:
                    assert list(pool.imap_unordered(tasks.echo, [text] * 3)) == [text] * 3

        for future in [background(use, number) for number in range(5)]:
            future.result(LIMIT)


@pytest.mark.ringpool_only
def test_memory_that_is_in_use_is_no_garbage(factory):
    with factory.Pool(1, arena_limit=64 << 20) as pool:
        kept = [pool.apply(large_tasks.double, (numpy.ones(1 << 20),)) for _ in range(5)]
        with pytest.raises(OSError, match="results that are kept"):
            pool.apply(large_tasks.catch_an_error, (numpy.ones(5 << 20),))
        del kept
        assert pool.apply(large_tasks.catch_an_error, (numpy.ones(5 << 20),)) == 1.0
