"""Every value arrives as it was sent, in type and in content, in both directions."""

import copyreg
import datetime
import decimal
import fractions
import math
import pathlib
import struct
import sys
import time
import weakref
from multiprocessing.reduction import ForkingPickler

import pytest
import tasks
from peak import peak_of

from pool._codec import decode_bytes, encode

LIMIT = 60


def same_everywhere(pool, value):
    """The value after a round trip by each road."""
    yield pool.apply(tasks.echo, (value,))
    yield pool.apply(tasks.echo, (), {"value": value})
    yield pool.apply_async(tasks.echo, (value,)).get(LIMIT)
    yield pool.map(tasks.echo, [value])[0]
    yield pool.map(tasks.echo, [0, value, value], 3)[1]
    yield pool.starmap(tasks.echo, [(value,)])[0]
    yield next(pool.imap(tasks.echo, [value]))
    yield next(pool.imap(tasks.echo, [value, value], 2))
    yield next(pool.imap_unordered(tasks.echo, [value]))


def check(pool, value):
    for back in same_everywhere(pool, value):
        assert type(back) is type(value)
        assert back == value
    assert pool.apply(tasks.type_name, (value,)) == type(value).__qualname__


POWERS = [7, 8, 15, 16, 30, 31, 32, 33, 60, 61, 62, 63, 64, 65, 127, 128, 1000, 20_000]


def test_none_and_booleans(shared_pool):
    for value in (None, True, False, Ellipsis, NotImplemented):
        for back in same_everywhere(shared_pool, value):
            assert back is value


def test_integers(shared_pool):
    values = [0, 1, -1]
    for power in POWERS:
        values += [sign * (2**power + step) for sign in (1, -1) for step in (-1, 0, 1)]
    for number in shared_pool.map(tasks.echo, values, 1), shared_pool.map(tasks.echo, values, 7):
        assert number == values
        assert {type(one) for one in number} == {int}
    assert [shared_pool.apply(tasks.echo, (value,)) for value in values] == values
    edges = [2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**64]
    for value in edges:
        check(shared_pool, value)


def test_results_that_outgrow_64_bits(shared_pool):
    values = [2**31, 2**32, -(2**31), 3_037_000_500, 2**62]
    assert shared_pool.map(tasks.square, values) == [value**2 for value in values]


def test_floats(shared_pool):
    values = [0.0, -0.0, 1.0, -1.5, math.inf, -math.inf, math.nan, 5e-324, 2.0**-1022]
    values += [sys.float_info.max, sys.float_info.epsilon, 1e308, 0.1, 1e22]
    # A NaN with a payload and a sign, of which only the bits tell.
    values += struct.unpack("<2d", struct.pack("<2Q", 0xFFF8000000001234, 0x7FF8000000000001))
    for value in values:
        for back in same_everywhere(shared_pool, value):
            assert type(back) is float
            assert struct.pack("d", back) == struct.pack("d", value)


def test_equal_values_of_different_types_stay_apart(shared_pool):
    values = [1, True, 1.0, 0, False, 0.0, -0.0, "1", b"1", 1 + 0j]
    for chunksize in (1, 3, 10):
        backs = shared_pool.map(tasks.echo, values, chunksize)
        assert [repr(back) for back in backs] == [repr(value) for value in values]


TEXTS = {
    "empty": "",
    "ascii": "text",
    "latin": "\u00e9\u00ff",
    "wide": "\u4e16\u754c",
    "astral": "\U0001f40d" * 3,
    "nul": "a\0b\0",
    "only nul": "\0",
    "lone surrogate": "a\ud800b",
    "surrogates the wrong way round": "\udc00\ud800",
    "escaped bytes": b"\xff\xfe".decode("utf-8", "surrogateescape"),
    "all of latin": "".join(map(chr, range(256))),
    "long": "long " * 10_000,
    "long and wide": "\u4e16" * 10_000,
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_text(shared_pool, text):
    check(shared_pool, text)


@pytest.mark.parametrize(
    "value",
    [b"", b"\0", b"bytes", bytes(range(256)), bytearray(), bytearray(b"ab\0"), 1j, -0j, range(5)],
    ids=repr,
)
def test_bytes_and_others(shared_pool, value):
    check(shared_pool, value)


CONTAINERS = {
    "empty ones": [(), [], {}, set(), frozenset()],
    "tuple": (1, "two", 3.0, None, b"five", (6, (7, (8,)))),
    "tuple of one": (None,),
    "tuple of tuples": ((), ((),), (((),),)),
    "list": [1, [2, [3, [4]]]],
    "dict": {"a": 1, 2: "b", (3, 4): [5], None: {"deep": {"deeper": ()}}},
    "order of a dict": dict.fromkeys("zyxabc"),
    "set": {1, "two", (3,)},
    "frozenset": frozenset({frozenset({1}), 2}),
    "long tuple": tuple(range(5000)),
    "long list": list(range(5000)),
    "mapping": {f"key{number}": number for number in range(2000)},
}


@pytest.mark.parametrize("value", CONTAINERS.values(), ids=CONTAINERS.keys())
def test_containers(shared_pool, value):
    check(shared_pool, value)
    if isinstance(value, dict):
        assert list(shared_pool.apply(tasks.echo, (value,))) == list(value)


OBJECTS = [
    tasks.Text("text"),
    tasks.Number(5),
    tasks.Number(2**70),
    tasks.Real(2.5),
    tasks.Row((1, 2)),
    tasks.Table(a=1),
    tasks.Items([1, 2]),
    tasks.Raw(b"raw"),
    tasks.Colour.RED,
    tasks.Level.HIGH,
    tasks.Options.A | tasks.Options.B,
    tasks.Point(1, tasks.Point(2, 3)),
    tasks.Record("name", [1, tasks.Frozen(2)]),
    tasks.Frozen(3),
    decimal.Decimal("1.10"),
    fractions.Fraction(1, 3),
    datetime.datetime(2020, 2, 29, 12, 30, tzinfo=datetime.timezone.utc),
    pathlib.PurePosixPath("/some/path"),
    slice(1, 2, 3),
    int,
    len,
    tasks.square,
    tasks.Multiplier,
]


@pytest.mark.parametrize("value", OBJECTS, ids=lambda value: f"{type(value).__name__} {value!s:.30}")
def test_objects_keep_their_type(shared_pool, value):
    check(shared_pool, value)


def test_attributes_of_subclasses_travel(shared_pool):
    for value in (tasks.Text("text"), tasks.Number(5), tasks.Real(2.5), tasks.Row((1,))):
        value.note = ["kept"]
        back = shared_pool.apply(tasks.echo, (value,))
        assert back == value
        assert back.note == ["kept"]


def test_enum_members_stay_the_same_objects(shared_pool):
    for member in (tasks.Colour.RED, tasks.Level.HIGH, tasks.Options.A):
        for back in same_everywhere(shared_pool, member):
            assert back is member


def test_errors_as_values(shared_pool):
    back = shared_pool.apply(tasks.echo, (ValueError("only a value"),))
    assert type(back) is ValueError
    assert back.args == ("only a value",)


def test_references_shared_within_an_argument(shared_pool):
    shared = ["shared"]
    assert shared_pool.apply(tasks.same_object, ((shared, shared),)) is True
    assert shared_pool.apply(tasks.same_object, ((["shared"], ["shared"]),)) is False
    for back in same_everywhere(shared_pool, [shared, shared]):
        assert back[0] is back[1]


@pytest.mark.parametrize("kind", [list, dict])
def test_references_shared_within_a_chunk(shared_pool, kind):
    first, second = kind(), kind()
    assert shared_pool.map(tasks.grow, [first, first, second, first], chunksize=4) == [1, 2, 1, 3]
    assert shared_pool.map(tasks.grow, (kind() for _ in range(200)), chunksize=200) == [1] * 200
    assert shared_pool.map(tasks.grow, [kind() for _ in range(200)] * 2, chunksize=400) == [1] * 200 + [2] * 200
    back = shared_pool.map(tasks.give_the_same, [kind] * 3, chunksize=3)
    assert back[0] is back[1] is back[2]


def test_recursive_structures(shared_pool):
    ring = []
    ring.append(ring)
    table = {}
    table[0] = table
    for container in (ring, table):
        assert shared_pool.apply(tasks.contains_itself, (container,)) is True
        for back in same_everywhere(shared_pool, container):
            assert back[0] is back


# Sizes

EDGES = sorted({2**power + step for power in range(24) for step in (-1, 0, 1)})
SMALL = [size for size in EDGES if size <= 2**17 + 1]


def test_sizes_of_arguments(shared_pool):
    for size in EDGES:
        data = tasks.pattern(size, size)
        assert shared_pool.apply(tasks.digest, (data,)) == tasks.digest(data), size


def test_sizes_of_results(shared_pool):
    for size in EDGES:
        data = shared_pool.apply(tasks.pattern, (size, size))
        assert len(data) == size
        assert tasks.digest(data) == tasks.pattern_digest(size, size), size


@pytest.mark.parametrize("kind", [bytes, bytearray, str])
def test_sizes_both_ways(shared_pool, kind):
    for size in SMALL:
        data = tasks.pattern(size, size)
        value = data.decode("latin-1") if kind is str else kind(data)
        back = shared_pool.apply(tasks.echo, (value,))
        assert type(back) is kind
        assert back == value, size


@pytest.mark.parametrize("call", ["map", "imap", "imap_unordered", "starmap", "map_async"])
@pytest.mark.parametrize("chunksize", [1, 4])
def test_sizes_in_every_call(shared_pool, call, chunksize):
    sizes = [*SMALL, 2**20, 2**22 + 1]
    pairs = [(size, size) for size in sizes]
    if call == "starmap":
        values = shared_pool.starmap(tasks.pattern, pairs, chunksize)
    else:
        payloads = [tasks.pattern(*pair) for pair in pairs]
        values = getattr(shared_pool, call)(tasks.echo, payloads, chunksize=chunksize)
        values = values.get(LIMIT) if call == "map_async" else list(values)
    expected = sorted(tasks.pattern_digest(*pair) for pair in pairs)
    digests = [tasks.digest(value) for value in values]
    # The sizes rise, so that sorting changes the order of imap_unordered only.
    assert (sorted(digests) if call == "imap_unordered" else digests) == expected


def test_many_large_results_wait_for_their_reader(shared_pool):
    results = [shared_pool.apply_async(tasks.pattern, (2**20, seed)) for seed in range(40)]
    for seed, result in enumerate(results):
        assert tasks.digest(result.get(LIMIT)) == tasks.pattern_digest(2**20, seed)


def test_many_large_arguments_wait_for_their_worker(shared_pool, gate):
    held = [shared_pool.apply_async(tasks.hold, (gate,)) for _ in range(2)]
    gate.wait_for(2)
    payloads = [tasks.pattern(2**20, seed) for seed in range(40)]
    results = [shared_pool.apply_async(tasks.digest, (data,)) for data in payloads]
    gate.open()
    assert [result.get(LIMIT) for result in results] == [tasks.digest(one) for one in payloads]
    for result in held:
        result.get(LIMIT)


def test_large_and_small_mixed(shared_pool):
    sizes = [size for _ in range(10) for size in (1, 2**21, 10, 2**16, 100)]
    payloads = [tasks.pattern(size, number) for number, size in enumerate(sizes)]
    assert list(shared_pool.imap(tasks.echo, payloads)) == payloads
    assert shared_pool.map(tasks.echo, payloads) == payloads


# Values that change under way


@pytest.mark.ringpool_only
@pytest.mark.start_methods("fork")
def test_arguments_that_grow_as_the_caller_makes_room(factory, gate, refuse_threads):
    from pool._dispatch import DEFAULT_SLOTS

    # Nobody but the caller collects, and only when the ring is full.
    refuse_threads("ringpool-collector")
    pool = factory.Pool(1)
    arguments = [1]
    dropped = pool.apply_async(tasks.nothing)
    watch = weakref.ref(dropped, lambda _: arguments.extend(bytes(3000)))
    del dropped
    results = [pool.apply_async(tasks.square, (value,)) for value in range(DEFAULT_SLOTS - 2)]
    results.append(pool.apply_async(tasks.note, (gate, 7)))
    gate.wait_for(1)
    assert watch() is not None
    grown = pool.apply_async(tasks.collect, arguments)
    assert watch() is None
    later = [pool.apply_async(tasks.square, (value,)) for value in range(500)]
    assert grown.get(LIMIT) in (((1,), {}), ((1, *bytes(3000)), {}))
    assert [result.get(LIMIT) for result in later] == [value**2 for value in range(500)]
    assert results.pop().get(LIMIT) == 7
    assert [result.get(LIMIT) for result in results] == [
        value**2 for value in range(DEFAULT_SLOTS - 2)
    ]


@pytest.mark.ringpool_only
@pytest.mark.start_methods("fork")
def test_result_that_grows_while_it_waits_for_room(factory, make_gate, refuse_threads):
    refuse_threads("ringpool-collector")
    pool = factory.Pool(1)
    before = [worker.pid for worker in pool._pool]
    gate = make_gate()
    pool.apply(tasks.grow_later, (gate,))
    # Nobody collects, so that the lists come to the end of the result ring, wherever that is.
    large = [pool.apply_async(tasks.pattern, (240, seed)) for seed in range(900)]
    lists = [pool.apply_async(tasks.give_growing) for _ in range(1000)]
    later = [pool.apply_async(tasks.square, (value,)) for value in range(100)]
    time.sleep(0.3)
    gate.open()
    gate.wait_for(1)
    assert [result.get(LIMIT) for result in large] == [
        tasks.pattern(240, seed) for seed in range(900)
    ]
    for result in lists:
        assert result.get(LIMIT) in ([1], tasks.grown())
    assert [result.get(LIMIT) for result in later] == [value**2 for value in range(100)]
    assert [worker.pid for worker in pool._pool] == before


@pytest.mark.slow
@pytest.mark.limit(600)
def test_more_than_two_gigabytes(factory):
    pool = factory.Pool(1)
    size = int(2.1 * 2**30)
    data = bytearray(size)
    data[::4096] = b"x" * len(data[::4096])
    data[-1] = 7
    data = bytes(data)
    assert pool.apply(tasks.digest, (data,)) == tasks.digest(data)
    del data
    back = pool.apply(tasks.zeros_with_end, (size,))
    assert len(back) == size
    assert back[-1] == 9
    assert back.count(0) == size - 1


@pytest.mark.slow
@pytest.mark.ringpool_only
@pytest.mark.limit(600)
def test_the_memory_of_more_than_two_gigabytes(factory):
    size = int(2.1 * 2**30)
    # The object after the fork: a page that both processes have would count twice.
    with factory.Pool(1) as pool, peak_of(pool) as peaks:
        data = b"x" * size
        assert pool.apply(len, (data,)) == size
        back = pool.apply(tasks.echo, (data,))
        assert back == data
        del back, data
        back = pool.apply(tasks.zeros_with_end, (size,))
        assert back[-1] == 9
    # Without what a process with thousands of tests has before; two bare interpreters have as much again as is allowed here.
    assert peaks[1] - peaks[0] <= 3 * size + (50 << 20)


def make_shared(size):
    return ("x" * size,) * 64, [(1.5,) * 64] * 3


@pytest.mark.parametrize("size", [10, 2000])
def test_large_members_that_are_shared_are_written_once(shared_pool, size):
    shared, rows = shared_pool.apply(make_shared, (size,))
    assert (shared, rows) == make_shared(size)
    assert size < 1000 or len({id(one) for one in shared}) == 1


@pytest.mark.ringpool_only
def test_what_can_only_travel_as_something_else_is_refused(shared_pool, tmp_path):
    for argument in (memoryview(b"abc"), open(tmp_path / "file", "w+")):
        with pytest.raises(TypeError, match="pickle"):
            shared_pool.apply(tasks.type_name, (argument,))
        with pytest.raises((TypeError, AttributeError), match="pickle"):
            shared_pool.apply(tasks.type_name, ((lambda: 1, argument),))
        argument.release() if type(argument) is memoryview else argument.close()


NUMBERS = {
    "ints": [0, -1, 1, 2**30, -(2**31), 2**60, -(2**63), 2**63 - 1],
    "ints too large": [1, 2**63, -(2**63) - 1, 2**200],
    "floats": [0.0, -0.0, 1.5, float("inf"), float("-inf"), 5e-324],
    "ints and floats": [1, 2, 2.5, 3],
    "floats and ints": [1.5, 2, 3],
    "bools among ints": [0, 1, True, False],
    "none at last": [*range(100), None],
    "range": range(-50, 50),
    "range backwards": range(50, -50, -7),
    "range of the largest": range(2**63 - 5, 2**63 - 1),
    "range of all": range(-(2**63) + 1, 2**63 - 1, 2**60),
    "range too large": range(2**63 - 2, 2**63 + 3),
}


@pytest.mark.parametrize("numbers", NUMBERS.values(), ids=NUMBERS.keys())
@pytest.mark.parametrize("chunksize", [None, 1, 3, 1000])
@pytest.mark.parametrize("function", [tasks.echo, tasks.of_some_type])
def test_numbers_keep_value_and_type(shared_pool, numbers, chunksize, function):
    expected = [function(value) for value in numbers]
    got = shared_pool.map(function, numbers, chunksize)
    assert [(type(value), repr(value)) for value in got] == [(type(value), repr(value)) for value in expected]
    if chunksize is not None:
        got = list(shared_pool.imap(function, numbers, chunksize))
        assert [(type(value), repr(value)) for value in got] == [(type(value), repr(value)) for value in expected]


def test_chunks_of_many_numbers(shared_pool):
    for numbers in (range(100_000), list(range(100_000)), [value / 7 for value in range(100_000)]):
        assert shared_pool.map(tasks.echo, numbers) == list(numbers)
        assert shared_pool.map(tasks.echo, numbers, 30_000) == list(numbers)


class Registered:
    """Pickled only by what is registered for it, then and there."""

    def __reduce__(self):
        raise TypeError("nothing is registered")


def _first():
    return "first"


def _second():
    return "second"


def test_reducers_count_as_they_are_when_a_value_is_pickled():
    value = Registered()
    try:
        with pytest.raises(TypeError, match="nothing is registered"):
            encode(value)
        ForkingPickler.register(Registered, lambda value: (_first, ()))
        assert decode_bytes(encode(value)) == "first"
        ForkingPickler.register(Registered, lambda value: (_second, ()))
        assert decode_bytes(encode(value)) == "second"
        del ForkingPickler._extra_reducers[Registered]
        copyreg.pickle(Registered, lambda value: (_first, ()))
        assert decode_bytes(encode(value)) == "first"
    finally:
        ForkingPickler._extra_reducers.pop(Registered, None)
        copyreg.dispatch_table.pop(Registered, None)
    with pytest.raises(TypeError, match="nothing is registered"):
        encode(value)
