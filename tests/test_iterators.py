"""imap and its relatives: one value at a time, errors at their place."""

import gc
import itertools
import multiprocessing
import multiprocessing.pool
import threading
import time
import weakref

import pytest
import tasks
from implementations import START_METHODS
from procfs import wait_until

pytestmark = pytest.mark.with_threads

LIMIT = 30


def drain(iterator):
    """Every outcome of the iterator in order: values, and types of errors."""
    outcomes = []
    while True:
        try:
            outcomes.append(next(iterator))
        except StopIteration:
            return outcomes
        except Exception as error:
            outcomes.append(type(error))


def remote_cause(error):
    return isinstance(error.__cause__, multiprocessing.pool.RemoteTraceback)


@pytest.mark.parametrize("call", ["imap", "imap_unordered"])
def test_iterator_protocol(shared_pool, call):
    iterator = getattr(shared_pool, call)(tasks.square, [3])
    assert iter(iterator) is iterator
    assert iterator.next() == 9
    for _ in range(3):
        with pytest.raises(StopIteration):
            next(iterator)
    with pytest.raises(StopIteration):
        iterator.next(timeout=0.01)


@pytest.mark.parametrize("call", ["imap", "imap_unordered"])
def test_next_with_a_timeout(shared_pool, gate, call):
    iterator = getattr(shared_pool, call)(tasks.hold_some, [(gate, {0}, 0)])
    for timeout in (0, 0.01):
        with pytest.raises(multiprocessing.TimeoutError):
            iterator.next(timeout)
        with pytest.raises(multiprocessing.TimeoutError):
            iterator.next(timeout=timeout)
    gate.open()
    assert iterator.next(LIMIT) == 0
    with pytest.raises(StopIteration):
        iterator.next(LIMIT)


def test_imap_keeps_the_order_when_the_first_is_last(shared_pool, gate):
    iterator = shared_pool.imap(tasks.hold_some, [(gate, {0}, value) for value in range(10)])
    fence = shared_pool.apply_async(tasks.nothing)
    fence.get(LIMIT)
    with pytest.raises(multiprocessing.TimeoutError):
        iterator.next(0.01)
    gate.open()
    assert list(iterator) == list(range(10))


def test_imap_gives_what_is_there_without_the_rest(shared_pool, gate):
    iterator = shared_pool.imap(tasks.hold_some, [(gate, {3}, value) for value in range(6)])
    assert [iterator.next(LIMIT) for _ in range(3)] == [0, 1, 2]
    gate.open()
    assert list(iterator) == [3, 4, 5]


def test_unordered_gives_first_what_is_ready_first(shared_pool, gate):
    items = [(gate, {0}, value) for value in range(6)]
    iterator = shared_pool.imap_unordered(tasks.hold_some, items)
    assert sorted(iterator.next(LIMIT) for _ in range(5)) == [1, 2, 3, 4, 5]
    gate.open()
    assert list(iterator) == [0]


def test_imap_goes_on_after_a_failed_item(shared_pool):
    iterator = shared_pool.imap(tasks.fail_on, [({3}, value) for value in range(6)])
    assert drain(iterator) == [0, 1, 2, ValueError, 4, 5]


def test_unordered_goes_on_after_a_failed_item(shared_pool):
    iterator = shared_pool.imap_unordered(tasks.fail_on, [({1, 3}, value) for value in range(6)])
    outcomes = drain(iterator)
    assert outcomes.count(ValueError) == 2
    assert sorted(value for value in outcomes if value is not ValueError) == [0, 2, 4, 5]


def test_imap_in_chunks_ends_with_the_first_error(shared_pool):
    iterator = shared_pool.imap(tasks.fail_on, [({3}, value) for value in range(8)], chunksize=2)
    assert drain(iterator) == [0, 1, ValueError]
    with pytest.raises(StopIteration):
        next(iterator)


@pytest.mark.parametrize("call", ["imap", "imap_unordered"])
def test_iterator_of_chunks_has_no_timeout(shared_pool, call):
    iterator = getattr(shared_pool, call)(tasks.square, range(5), chunksize=2)
    assert not hasattr(iterator, "next")
    assert iter(iterator) is iterator
    assert sorted(iterator) == [0, 1, 4, 9, 16]


def test_error_of_a_task_has_the_traceback_of_its_worker(shared_pool, factory):
    iterator = shared_pool.imap(tasks.fail_on, [({0}, 0)])
    with pytest.raises(ValueError) as caught:
        next(iterator)
    assert caught.value.args == ("bad item", 0)
    assert remote_cause(caught.value) is not factory.uses_threads


@pytest.mark.parametrize("error_class", [ValueError, tasks.Custom])
def test_error_of_the_iterable_comes_at_its_place(shared_pool, error_class):
    broken = tasks.failing_iterable(3, error_class("broken", 3))
    iterator = shared_pool.imap(tasks.square, broken)
    assert [next(iterator) for _ in range(3)] == [0, 1, 4]
    with pytest.raises(error_class) as caught:
        next(iterator)
    assert caught.value.args == ("broken", 3)
    assert not remote_cause(caught.value)
    assert drain(iterator) == []


def test_error_of_the_iterable_of_chunks(shared_pool):
    broken = tasks.failing_iterable(4, ValueError("broken"))
    iterator = shared_pool.imap(tasks.square, broken, chunksize=2)
    values = []
    with pytest.raises(ValueError, match="broken") as caught:
        for value in iterator:
            values.append(value)
    assert values == [0, 1, 4, 9]
    assert not remote_cause(caught.value)


def test_error_of_an_iterable_at_its_start(shared_pool):
    class NotOne:
        def __iter__(self):
            raise ValueError("no iterator")

    for call in ("imap", "imap_unordered"):
        with pytest.raises(ValueError, match="no iterator"):
            list(getattr(shared_pool, call)(tasks.square, NotOne()))
    assert shared_pool.apply(tasks.square, (2,)) == 4


def test_unordered_tells_the_error_of_the_iterable_once(shared_pool):
    broken = tasks.failing_iterable(5, ValueError("broken"))
    outcomes = drain(shared_pool.imap_unordered(tasks.square, broken))
    assert outcomes.count(ValueError) == 1
    outcomes.remove(ValueError)
    assert sorted(outcomes) == [0, 1, 4, 9, 16]


@pytest.mark.parametrize("call", ["imap", "imap_unordered"])
def test_iterators_side_by_side(shared_pool, call):
    iterators = [
        getattr(shared_pool, call)(tasks.square, range(start, start + 30)) for start in range(6)
    ]
    rows = list(zip(*iterators))
    for start, column in enumerate(zip(*rows)):
        assert sorted(column) == [value**2 for value in range(start, start + 30)]


def test_iterators_of_both_kinds_and_maps_side_by_side(shared_pool):
    ordered = shared_pool.imap(tasks.square, range(40))
    chunked = shared_pool.imap(tasks.square, range(40), 7)
    unordered = shared_pool.imap_unordered(tasks.square, range(40))
    seen = []
    for one, two, three in zip(ordered, chunked, unordered):
        assert one == two
        seen.append(three)
        assert shared_pool.apply(tasks.square, (5,)) == 25
    assert sorted(seen) == [value**2 for value in range(40)]


# In the stdlib the readers that come last get a TimeoutError although they gave no limit.
@pytest.mark.ringpool_only
def test_one_iterator_read_by_several_threads(shared_pool, background):
    iterator = shared_pool.imap(tasks.square, range(400))
    readers = [background(list, iterator) for _ in range(4)]
    values = sum((reader.result() for reader in readers), [])
    assert sorted(values) == [value**2 for value in range(400)]


def test_an_iterator_dropped_half_way(factory):
    pool = factory.Pool(2)
    iterator = pool.imap(tasks.square, range(200))
    assert [next(iterator) for _ in range(5)] == [0, 1, 4, 9, 16]
    del iterator
    assert pool.map(tasks.square, range(5)) == [0, 1, 4, 9, 16]
    pool.close()
    pool.join()


def test_iterator_is_read_after_close_and_join(factory):
    pool = factory.Pool(2)
    iterator = pool.imap(tasks.square, range(50))
    chunked = pool.imap(tasks.square, range(50), 7)
    pool.close()
    pool.join()
    assert list(iterator) == [value**2 for value in range(50)]
    assert list(chunked) == [value**2 for value in range(50)]


def test_results_come_while_the_iterable_waits_for_them(shared_pool):
    received = [threading.Event() for _ in range(5)]

    def source():
        for number, event in enumerate(received):
            yield number
            assert event.wait(LIMIT)

    values = []
    for value in shared_pool.imap(tasks.square, source()):
        values.append(value)
        received[len(values) - 1].set()
    assert values == [0, 1, 4, 9, 16]


@pytest.mark.ringpool_only
@pytest.mark.parametrize("call", ["imap", "imap_unordered"])
def test_iterable_that_waits_for_results_of_the_pool(shared_pool, call):
    def source():
        for number in range(5):
            yield shared_pool.apply(tasks.square, (number,))

    iterator = getattr(shared_pool, call)(tasks.square, source())
    assert sorted(iterator) == [0, 1, 16, 81, 256]


@pytest.mark.ringpool_only
def test_iterable_that_blocks_holds_up_no_other_job(factory):
    pool = factory.Pool(2)
    go_on = threading.Event()

    def source():
        yield 1
        go_on.wait(LIMIT)
        yield 2

    iterator = pool.imap(tasks.square, source())
    try:
        assert iterator.next(LIMIT) == 1
        assert pool.map(tasks.square, range(20)) == [value**2 for value in range(20)]
        assert list(pool.imap(tasks.square, range(20))) == [value**2 for value in range(20)]
        assert pool.apply_async(tasks.square, (3,)).get(LIMIT) == 9
        with pytest.raises(multiprocessing.TimeoutError):
            iterator.next(0.01)
    finally:
        go_on.set()
    assert iterator.next(LIMIT) == 4
    with pytest.raises(StopIteration):
        iterator.next(LIMIT)


@pytest.mark.ringpool_only
def test_terminate_does_not_wait_for_an_iterable_that_blocks(factory):
    pool = factory.Pool(2)
    entered, go_on = threading.Event(), threading.Event()

    def source():
        entered.set()
        go_on.wait(LIMIT)
        yield 1

    pool.imap(tasks.square, source())
    assert entered.wait(LIMIT)
    try:
        start = time.monotonic()
        pool.terminate()
        assert time.monotonic() - start < 2.5
    finally:
        go_on.set()


class Counted:
    """An endless iterable that tells how far it has been read."""

    def __init__(self):
        self.read = 0

    def __iter__(self):
        for number in itertools.count():
            self.read += 1
            yield number


@pytest.mark.ringpool_only
@pytest.mark.parametrize("call", ["imap", "imap_unordered"])
class TestBufferSize:
    @pytest.mark.parametrize("buffersize", [1.5, "2", [], 2.0], ids=repr)
    def test_what_is_no_integer(self, shared_pool, call, buffersize):
        with pytest.raises(TypeError, match="^buffersize must be an integer or None$"):
            getattr(shared_pool, call)(tasks.square, [1], buffersize=buffersize)

    @pytest.mark.parametrize("buffersize", [0, -1])
    def test_what_is_not_positive(self, shared_pool, call, buffersize):
        with pytest.raises(ValueError, match="^buffersize must be None or > 0$"):
            getattr(shared_pool, call)(tasks.square, [1], buffersize=buffersize)

    def test_keyword_only(self, shared_pool, call):
        with pytest.raises(TypeError):
            getattr(shared_pool, call)(tasks.square, [1], 1, 5)

    @pytest.mark.parametrize("buffersize", [None, 1, 2, 7, 1000])
    @pytest.mark.parametrize("chunksize", [1, 3])
    def test_values(self, shared_pool, call, buffersize, chunksize):
        values = getattr(shared_pool, call)(
            tasks.square, range(50), chunksize=chunksize, buffersize=buffersize
        )
        assert sorted(values) == [value**2 for value in range(50)]

    @pytest.mark.parametrize("buffersize", [1, 5, 64])
    def test_endless_iterable_is_read_ahead_by_no_more(self, factory, call, buffersize):
        pool = factory.Pool(2)
        source = Counted()
        iterator = getattr(pool, call)(tasks.square, source, buffersize=buffersize)
        for taken in range(1, 101):
            next(iterator)
            assert source.read <= taken + buffersize + 1
        # Time for the reader to go too far, if it did.
        pool.map(tasks.square, range(200), 1)
        assert source.read <= 100 + buffersize + 1

    def test_endless_iterable_in_chunks(self, factory, call):
        pool = factory.Pool(2)
        source = Counted()
        iterator = getattr(pool, call)(tasks.square, source, chunksize=3, buffersize=4)
        values = [next(iterator) for _ in range(60)]
        assert len(set(values)) == 60
        # Whether the buffer counts items or chunks, and with one chunk on its way.
        assert source.read <= 60 + 3 * (4 + 2)

    def test_close_and_join_after_partial_consumption(self, factory, background, call):
        pool = factory.Pool(2)
        source = Counted()
        iterator = getattr(pool, call)(tasks.square, source, buffersize=4)
        assert len([next(iterator) for _ in range(10)]) == 10
        pool.close()
        background(pool.join).result(LIMIT)
        read = source.read
        assert read <= 10 + 4 + 1

    def test_terminate_after_partial_consumption(self, factory, call):
        pool = factory.Pool(2)
        iterator = getattr(pool, call)(tasks.square, Counted(), buffersize=4)
        next(iterator)
        start = time.monotonic()
        pool.terminate()
        pool.join()
        assert time.monotonic() - start < 2.5

    def test_reading_goes_on_as_the_results_are_taken(self, factory, call):
        pool = factory.Pool(2)
        source = Counted()
        iterator = getattr(pool, call)(tasks.square, source, buffersize=3)
        wait_until(lambda: source.read >= 3, LIMIT, "the buffer is filled without a reader")
        for taken in range(1, 20):
            next(iterator)
            wait_until(lambda: source.read >= taken + 3, LIMIT, "the buffer is filled again")


@pytest.mark.ringpool_only
class TestIteratedStarmap:
    def test_order_and_place_of_errors(self, shared_pool):
        items = [(1, 2), (3, "not a number"), (5, 6)]
        assert drain(shared_pool.istarmap(tasks.add, items)) == [3, TypeError, 11]

    def test_timeouts(self, shared_pool, gate):
        iterator = shared_pool.istarmap(tasks.hold, [(gate, 1), (gate, 2)])
        with pytest.raises(multiprocessing.TimeoutError):
            iterator.next(0.01)
        gate.open()
        assert list(iterator) == [1, 2]

    def test_unordered_gives_first_what_is_ready_first(self, shared_pool, make_gate):
        held, passed = make_gate(), make_gate()
        passed.open()
        items = [(held, "held"), (passed, "first"), (passed, "second")]
        iterator = shared_pool.istarmap_unordered(tasks.hold, items)
        assert {iterator.next(LIMIT), iterator.next(LIMIT)} == {"first", "second"}
        held.open()
        assert list(iterator) == ["held"]

    def test_error_of_the_iterable(self, shared_pool):
        def source():
            yield 1, 2
            raise ValueError("broken")

        assert drain(shared_pool.istarmap(tasks.add, source())) == [3, ValueError]

    def test_item_that_cannot_be_spread(self, shared_pool):
        assert drain(shared_pool.istarmap(tasks.add, [(1, 2), 3, (4, 5)])) == [3, TypeError, 9]


@pytest.mark.ringpool_only
@pytest.mark.parametrize("chunksize", [1, 3])
@pytest.mark.parametrize("call", ["map", "starmap", "imap", "imap_unordered"])
def test_stop_iteration_in_a_task_is_a_runtime_error(shared_pool, call, chunksize):
    items = [(StopIteration, {2}, value) for value in range(6)]
    function = tasks.raise_on
    if call == "starmap":
        items = [(item,) for item in items]
    with pytest.raises(RuntimeError):
        list(getattr(shared_pool, call)(function, items, chunksize))
    assert shared_pool.apply(tasks.square, (3,)) == 9


@pytest.mark.ringpool_only
def test_stop_iteration_in_one_item_of_imap_leaves_the_others(shared_pool):
    items = [(StopIteration, {2}, value) for value in range(6)]
    assert drain(shared_pool.imap(tasks.raise_on, items)) == [0, 1, RuntimeError, 3, 4, 5]


@pytest.mark.ringpool_only
@pytest.mark.start_methods(*START_METHODS)
@pytest.mark.parametrize("value", [tasks.StopsWhenPickled(), tasks.StopsWhenUnpickled(False), tasks.StopsWhenUnpickled(True)],
                         ids=["argument here", "argument there", "result"])
@pytest.mark.parametrize("call", ["imap", "imap_unordered"])
def test_stop_iteration_from_pickling_is_no_end(shared_pool, call, value):
    outcomes = drain(getattr(shared_pool, call)(tasks.echo, [0, value, 2, 3]))
    assert sorted(map(str, outcomes)) == ["0", "2", "3", str(RuntimeError)]


@pytest.mark.ringpool_only
@pytest.mark.parametrize("chunksize", [1, 4])
@pytest.mark.parametrize("buffersize", [None, 3])
def test_error_of_the_iterable_is_the_last_that_imap_unordered_gives(shared_pool, chunksize, buffersize):
    def items():
        yield from range(20)
        raise ValueError("in the iterable")

    for function in (tasks.echo, tasks.echo_later):
        values = []
        with pytest.raises(ValueError, match="in the iterable"):
            for value in shared_pool.imap_unordered(function, items(), chunksize, buffersize=buffersize):
                values.append(value)
        assert sorted(values) == list(range(20))


@pytest.mark.ringpool_only
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
@pytest.mark.parametrize("call", ["imap", "imap_unordered"])
def test_base_exception_of_the_iterable_is_delivered(shared_pool, call, error):
    iterator = getattr(shared_pool, call)(
        tasks.square, tasks.failing_iterable(2, error("in the iterable"))
    )
    values = []
    with pytest.raises(error, match="in the iterable"):
        for value in iterator:
            values.append(value)
    assert sorted(values) == [0, 1]
    assert shared_pool.map(tasks.square, range(10)) == [value**2 for value in range(10)]


@pytest.mark.start_methods(*START_METHODS)
def test_item_that_cannot_be_pickled_fails_at_its_place(shared_pool):
    items = [0, threading.Lock(), 2]
    assert drain(shared_pool.imap(tasks.echo, items)) == [0, TypeError, 2]


@pytest.mark.ringpool_only
@pytest.mark.start_methods("fork")
@pytest.mark.parametrize("call", ["imap", "imap_unordered"])
def test_item_that_cannot_be_pickled_is_told_at_once(factory, call):
    pool = factory.Pool(2)
    told = [threading.Event() for _ in range(10)]

    def source():
        for event in told:
            yield threading.Lock()
            assert event.wait(LIMIT)

    start = time.monotonic()
    iterator = getattr(pool, call)(tasks.echo, source())
    for event in told:
        with pytest.raises(TypeError, match="pickle"):
            iterator.next(LIMIT)
        event.set()
    with pytest.raises(StopIteration):
        iterator.next(LIMIT)
    # A consumer who is not woken looks again after a second.
    assert time.monotonic() - start < len(told) / 4
    assert pool._core.late == 0


class Unsendable:
    def __reduce__(self):
        raise ValueError("stays here")


@pytest.mark.ringpool_only
@pytest.mark.start_methods(*START_METHODS)
@pytest.mark.parametrize("items", [[Unsendable(), 1], [1, Unsendable()], [1, 2]])
@pytest.mark.parametrize("call", ["imap", "imap_unordered"])
def test_abandoned_iterator_is_garbage(shared_pool, call, items):
    def abandon():
        owner = tasks.Tracked()
        owner.iterator = getattr(shared_pool, call)(tasks.echo, items)
        return weakref.ref(owner)

    owners = [abandon() for _ in range(5)]
    wait_until(
        lambda: shared_pool.apply(tasks.square, (3,)) == 9
        and gc.collect() >= 0
        and all(owner() is None for owner in owners),
        10,
    )


@pytest.mark.ringpool_only
@pytest.mark.start_methods("fork")
@pytest.mark.parametrize("call", ["imap", "imap_unordered"])
def test_large_items_are_not_read_far_ahead_of_the_workers(factory, gate, call):
    pool = factory.Pool(2)
    size = 2_000_000
    count = 80
    read = 0

    def source():
        nonlocal read
        for _ in range(count):
            read += 1
            yield bytes(size)

    held = [pool.apply_async(tasks.hold, (gate,)) for _ in range(2)]
    gate.wait_for(2)
    iterator = getattr(pool, call)(len, source())
    wait_until(lambda: read >= 10, LIMIT, "some are read ahead")
    time.sleep(0.3)
    assert read <= 40
    gate.open()
    assert list(iterator) == [size] * count
    for result in held:
        result.get(LIMIT)
