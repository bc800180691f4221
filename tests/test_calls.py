"""Every call gives the values that the plain loop gives, in the order that it promises."""

import itertools
import threading
import time

import pytest
import tasks

pytestmark = pytest.mark.with_threads

LIMIT = 30

# Made anew for each use, as some can be read once only.
ITERABLES = {
    "empty list": list,
    "empty generator": lambda: (value for value in ()),
    "one": lambda: ["only"],
    "list": lambda: list(range(50)),
    "tuple": lambda: tuple("abcdef"),
    "range": lambda: range(3, 60, 3),
    "generator": lambda: (value * value for value in range(33)),
    "iterator": lambda: iter([5, 4, 3]),
    "dict": lambda: {"a": 1, "b": 2, "c": 3},
    "values": lambda: {"a": 1, "b": 2}.values(),
    "set": lambda: {10, 20, 30, 40},
    "str": lambda: "text with é",
    "bytes": lambda: b"\x00\xffbytes",
    "zip": lambda: zip("abc", range(3)),
    "mixed": lambda: [None, True, 1, 2.5, "s", b"b", (1, 2), [3], {"k": 4}],
}
PAIRS = {
    "empty": list,
    "tuples": lambda: [(1, 2), (3, 4), (5, 6), (7, 8), (9, 10)],
    "lists": lambda: [[1, 2], [3, 4]],
    "generator": lambda: ((value, value) for value in range(20)),
    "zip": lambda: zip(range(10), range(10, 20)),
    "items": lambda: {1: 10, 2: 20}.items(),
    "strings": lambda: ["ab", "cd"],
    "of different lengths": lambda: [(1,), (2, 3)],
}
CHUNKSIZES = [None, 1, 3, 1000]


def run(pool, call, function, iterable, chunksize=None):
    options = {} if chunksize is None else {"chunksize": chunksize}
    outcome = getattr(pool, call)(function, iterable, **options)
    return outcome.get(LIMIT) if call.endswith("_async") else list(outcome)


def ordered(values):
    return sorted(values, key=repr)


@pytest.mark.parametrize("make", ITERABLES.values(), ids=ITERABLES.keys())
@pytest.mark.parametrize("call", ["map", "map_async", "imap"])
def test_order_is_that_of_the_iterable(shared_pool, call, make):
    expected = list(map(tasks.wrap, make()))
    for chunksize in CHUNKSIZES:
        assert run(shared_pool, call, tasks.wrap, make(), chunksize) == expected, chunksize


@pytest.mark.parametrize("make", ITERABLES.values(), ids=ITERABLES.keys())
def test_unordered_gives_each_value_once(shared_pool, make):
    expected = ordered(map(tasks.wrap, make()))
    for chunksize in CHUNKSIZES:
        values = run(shared_pool, "imap_unordered", tasks.wrap, make(), chunksize)
        assert ordered(values) == expected, chunksize


@pytest.mark.parametrize("make", PAIRS.values(), ids=PAIRS.keys())
@pytest.mark.parametrize("call", ["starmap", "starmap_async"])
def test_starmap_spreads_each_item(shared_pool, call, make):
    expected = list(itertools.starmap(tasks.add_any, make()))
    for chunksize in CHUNKSIZES:
        assert run(shared_pool, call, tasks.add_any, make(), chunksize) == expected, chunksize


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 63, 64, 65, 1000])
def test_every_count_around_the_chunk_limits(shared_pool, count):
    expected = [value * value for value in range(count)]
    for chunksize in (None, 1, 2, 8, count, count + 1):
        assert shared_pool.map(tasks.square, range(count), chunksize) == expected
        assert list(shared_pool.imap(tasks.square, range(count), chunksize or 1)) == expected


@pytest.mark.parametrize("call", ["map", "imap", "imap_unordered"])
def test_twenty_thousand_tasks_one_by_one(shared_pool, call):
    values = run(shared_pool, call, tasks.square, range(20_000), chunksize=1)
    if call == "imap_unordered":
        values.sort()
    assert values == [value * value for value in range(20_000)]


def test_many_results_in_flight(shared_pool):
    results = [shared_pool.apply_async(tasks.square, (value,)) for value in range(5_000)]
    assert [result.get(LIMIT) for result in results] == [value**2 for value in range(5_000)]


def test_results_read_in_reverse(shared_pool):
    results = [shared_pool.apply_async(tasks.square, (value,)) for value in range(500)]
    values = [result.get(LIMIT) for result in reversed(results)]
    assert values == [value**2 for value in reversed(range(500))]


@pytest.mark.parametrize(
    "args, kwargs",
    [
        ((), {}),
        ((1,), {}),
        ((1, "two", None), {}),
        ((), {"key": "value"}),
        ((1, [2]), {"left": 3, "right": {"deep": 4}}),
        ((), {"func": 1, "args": 2, "kwds": 3, "callback": 4, "chunksize": 5}),
        (tuple(range(300)), {f"name{number}": number for number in range(300)}),
    ],
    ids=["none", "one", "three", "keyword", "both", "names of parameters", "many"],
)
def test_apply_passes_arguments(shared_pool, args, kwargs):
    expected = (args, kwargs)
    assert shared_pool.apply(tasks.collect, args, kwargs) == expected
    assert shared_pool.apply_async(tasks.collect, args, kwargs).get(LIMIT) == expected


def test_apply_takes_any_sequence_of_arguments(shared_pool):
    assert shared_pool.apply(tasks.add, [1, 2]) == 3
    assert shared_pool.apply(tasks.add, range(2)) == 1
    assert shared_pool.apply(tasks.add, "ab") == "ab"


def test_parameters_by_name(shared_pool):
    pool = shared_pool
    assert pool.apply(func=tasks.add, args=(1,), kwds={"right": 2}) == 3
    assert pool.apply_async(func=tasks.add, args=(1,), kwds={"right": 2}).get(LIMIT) == 3
    assert pool.map(func=tasks.square, iterable=[1, 2], chunksize=1) == [1, 4]
    assert pool.map_async(func=tasks.square, iterable=[1, 2], chunksize=1).get(LIMIT) == [1, 4]
    assert pool.starmap(func=tasks.add, iterable=[(1, 2)], chunksize=1) == [3]
    assert pool.starmap_async(func=tasks.add, iterable=[(1, 2)], chunksize=1).get(LIMIT) == [3]
    assert list(pool.imap(func=tasks.square, iterable=[1, 2], chunksize=1)) == [1, 4]
    assert list(pool.imap_unordered(func=tasks.square, iterable=[3], chunksize=1)) == [9]


def test_parameters_by_position(shared_pool):
    pool = shared_pool
    seen = []
    assert pool.apply_async(tasks.add, (1,), {"right": 2}, seen.append, None).get(LIMIT) == 3
    assert pool.map_async(tasks.square, [1, 2], 1, seen.append, None).get(LIMIT) == [1, 4]
    assert pool.starmap_async(tasks.add, [(1, 2)], 1, seen.append, None).get(LIMIT) == [3]
    assert seen == [3, [1, 4], [3]]
    assert pool.starmap(tasks.add, [(1, 2)], 1) == [3]
    assert list(pool.imap(tasks.square, [1, 2], 2)) == [1, 4]
    assert list(pool.imap_unordered(tasks.square, [3], 2)) == [9]


def test_none_is_a_result(shared_pool):
    assert shared_pool.apply(tasks.nothing) is None
    assert shared_pool.map(tasks.nothing, range(10)) == [None] * 10
    assert list(shared_pool.imap(tasks.nothing, range(3))) == [None] * 3


def test_what_is_not_iterable_is_a_type_error(shared_pool):
    with pytest.raises(TypeError, match="iterable"):
        shared_pool.map(tasks.square, 5)
    with pytest.raises(TypeError, match="iterable"):
        list(shared_pool.imap(tasks.square, 5))
    with pytest.raises(TypeError, match="iterable"):
        list(shared_pool.imap_unordered(tasks.square, 5))


def test_what_is_not_callable_is_a_type_error(shared_pool):
    with pytest.raises(TypeError, match="not callable"):
        shared_pool.apply(5)
    with pytest.raises(TypeError, match="not callable"):
        shared_pool.map(5, [1, 2, 3])
    assert shared_pool.apply(tasks.square, (4,)) == 16


def test_map_reads_its_iterable_before_it_returns(shared_pool):
    source = iter(range(100))
    result = shared_pool.map_async(tasks.square, source)
    assert list(source) == []
    assert result.get(LIMIT) == [value**2 for value in range(100)]


def test_error_of_the_iterable_leaves_map_at_once(shared_pool):
    broken = tasks.failing_iterable(3, ZeroDivisionError("in the iterable"))
    with pytest.raises(ZeroDivisionError, match="in the iterable"):
        shared_pool.map(tasks.square, broken)
    broken = tasks.failing_iterable(3, ZeroDivisionError("in the iterable"))
    with pytest.raises(ZeroDivisionError, match="in the iterable"):
        shared_pool.map_async(tasks.square, broken)


def test_different_calls_at_once(shared_pool):
    pool = shared_pool
    mapped = pool.map_async(tasks.square, range(100), 3)
    applied = [pool.apply_async(tasks.square, (value,)) for value in range(20)]
    streamed = pool.imap(tasks.square, range(50))
    starred = pool.starmap_async(tasks.add, [(value, 1) for value in range(30)])
    unordered = pool.imap_unordered(tasks.square, range(40), 4)
    assert list(streamed) == [value**2 for value in range(50)]
    assert sorted(unordered) == [value**2 for value in range(40)]
    assert starred.get(LIMIT) == list(range(1, 31))
    assert [one.get(LIMIT) for one in applied] == [value**2 for value in range(20)]
    assert mapped.get(LIMIT) == [value**2 for value in range(100)]


@pytest.mark.ringpool_only
def test_istarmap(shared_pool):
    for make in PAIRS.values():
        expected = list(itertools.starmap(tasks.add_any, make()))
        for chunksize in (1, 3, 1000):
            assert list(shared_pool.istarmap(tasks.add_any, make(), chunksize)) == expected
            values = shared_pool.istarmap_unordered(tasks.add_any, make(), chunksize=chunksize)
            assert ordered(values) == ordered(expected)


@pytest.mark.ringpool_only
@pytest.mark.parametrize("call", ["map", "map_async", "starmap", "imap", "imap_unordered"])
def test_chunksize_below_one_is_a_value_error(shared_pool, call):
    for chunksize in (0, -1):
        with pytest.raises(ValueError):
            run(shared_pool, call, tasks.echo, [(1,), (2,)], chunksize)
    assert shared_pool.apply(tasks.square, (3,)) == 9


@pytest.mark.ringpool_only
@pytest.mark.parametrize("call", ["map", "map_async", "starmap", "imap", "imap_unordered"])
def test_chunksize_that_is_no_integer_is_a_type_error(shared_pool, call):
    for chunksize in (1.5, "2"):
        with pytest.raises(TypeError):
            run(shared_pool, call, tasks.echo, [(1,), (2,)], chunksize)
    assert shared_pool.apply(tasks.square, (3,)) == 9


@pytest.mark.ringpool_only
@pytest.mark.parametrize("said, given", [(5, 3), (3, 5), (0, 4), (4, 0)])
@pytest.mark.parametrize("call", ["map", "map_async", "imap", "imap_unordered"])
def test_length_that_lies(shared_pool, call, said, given):
    expected = [value * value for value in range(given)]
    for chunksize in (None, 1, 2, 100):
        values = run(shared_pool, call, tasks.square, tasks.Lying(said, given), chunksize)
        assert sorted(values) == expected, chunksize


@pytest.mark.ringpool_only
@pytest.mark.start_methods("fork")
@pytest.mark.parametrize("callers", [2, 4])
def test_no_caller_sleeps_while_another_takes_his_result(factory, background, callers):
    rounds = 200
    pool = factory.Pool(2)
    step = threading.Barrier(callers)

    def use():
        longest = 0.0
        for value in range(rounds):
            start = time.monotonic()
            assert pool.apply(abs, (-value,)) == value
            longest = max(longest, time.monotonic() - start)
            step.wait(LIMIT)
        return longest

    start = time.monotonic()
    users = [background(use) for _ in range(callers)]
    longest = max(user.result(LIMIT) for user in users)
    # Whoever is forgotten wakes after a second by himself.
    assert longest < 0.9
    assert time.monotonic() - start < rounds / 20
    assert pool._core.late == 0


@pytest.mark.ringpool_only
@pytest.mark.start_methods("fork")
def test_caller_that_has_his_result_leaves_no_queued_task_behind(
    factory, make_gate, refuse_threads
):
    from pool._dispatch import DEFAULT_SLOTS

    # Nobody but the caller collects, and he has to collect all at once.
    refuse_threads("ringpool-collector")
    pool = factory.Pool(2)
    done, fed = make_gate(), make_gate()
    first = pool.map_async(tasks.nothing, range(DEFAULT_SLOTS - 1), 1)
    last = pool.apply_async(tasks.note, (done,))
    queued = pool.map_async(tasks.note, [fed] * 10, 1)
    done.wait_for(1)
    time.sleep(0.1)
    assert fed.arrivals() == []
    last.get(LIMIT)
    fed.wait_for(10)
    queued.get(LIMIT)
    first.get(LIMIT)


@pytest.mark.with_threads
@pytest.mark.parametrize(
    ("args", "kwds"), [((1,), None), ((1,), [("right", 5)]), (5, {}), ([1, 2], {}), (iter([1, 2]), {}), ("ab", {}), ((1,), {1: 2})]
)
def test_arguments_of_any_type(shared_pool, args, kwds):
    """As the call itself takes them, with Python's own errors."""
    def outcome(call):
        try:
            return call()
        except Exception as error:
            return type(error), str(error)

    arguments = list(args) if hasattr(args, "__next__") else args
    expected = outcome(lambda: tasks.add_any(*arguments, **kwds))
    if hasattr(args, "__next__"):
        args = arguments
    assert outcome(lambda: shared_pool.apply(tasks.add_any, args, kwds)) == expected


@pytest.mark.parametrize("chunksize", [2**63, 2**70])
def test_giant_chunksizes_are_refused(shared_pool, chunksize):
    with pytest.raises(ValueError):
        shared_pool.map(tasks.square, range(5), chunksize)


@pytest.mark.parametrize("length", [5_000, 20_000, 300_000])
def test_what_all_items_share_is_pickled_a_few_times(factory, length):
    with factory.Pool(2) as pool:
        dear, before = tasks.Dear(length), tasks.Dear.pickled
        assert pool.starmap(tasks.number_beside, [(dear, number) for number in range(200)]) == list(range(200))
        assert tasks.Dear.pickled - before <= 60


def test_what_all_results_share_is_pickled_a_few_times(factory):
    with factory.Pool(2) as pool:
        results = pool.map(tasks.the_dear_one, range(400))
        assert len(results) == 400 and all(len(result.members) == 20_000 for result in results)
        assert len({id(result) for result in results}) <= 100


def kind_of(implementation):
    return implementation.module.ThreadPool if implementation.uses_threads else implementation.module.Pool


def test_apply_goes_by_way_of_a_subclass_s_apply_async(implementation):
    class Counting(kind_of(implementation)):
        calls = 0

        def apply_async(self, *args, **kwds):
            self.calls += 1
            return super().apply_async(*args, **kwds)

    options = {} if implementation.uses_threads else {"context": implementation.context}
    pool = Counting(1, **options)
    try:
        assert pool.apply(tasks.add, (1,), {"right": 2}) == 3
        assert pool.apply_async(tasks.square, (2,)).get() == 4
        assert pool.calls == 2
    finally:
        pool.terminate()
        pool.join()


@pytest.mark.ringpool_only
def test_subclass_with_what_is_never_called_is_told(implementation):
    with pytest.warns(RuntimeWarning, match="_setup_queues.., which this pool never calls"):
        type("Derived", (kind_of(implementation),), {"_setup_queues": lambda self: None})


def test_queue_of_tasks_tells_how_far_the_pool_is_behind(factory, gate):
    with factory.Pool(1) as pool:
        pending = [pool.apply_async(tasks.hold, (gate,))]
        gate.wait_for(1)
        pending += [pool.apply_async(tasks.square, (number,)) for number in range(5000)]
        assert pool._taskqueue.qsize() > 0 and not pool._taskqueue.empty()
        gate.open()
        for result in pending:
            result.get(60)
        assert pool._taskqueue.qsize() == 0 and pool._taskqueue.empty()
