"""The same random call on the stdlib's pool and on ours gives the same: value, error, cause, callbacks, order.

Only calls on which the stdlib neither hangs nor answers wrongly. What two runs of the stdlib may differ in (which of several
errors is the first, the order of imap_unordered) is compared as far as it is promised.

    python -m pytest tests/test_differential.py --hypothesis-profile=nightly --hypothesis-seed=N
"""

import collections
import contextlib
import datetime
import decimal
import fractions
import math
import multiprocessing
import multiprocessing.pool
import re
import struct
import uuid
import zlib

import hypothesis
import pytest
import tasks
from hypothesis import strategies as st

LIMIT = 30.0
EXAMPLES = hypothesis.settings.default.max_examples

# Values


class Slotted:
    __slots__ = ("left", "right")

    def __init__(self, left, right):
        self.left = left
        self.right = right


class Custom(Exception):
    pass


EDGES = [0, 1, -1, 2**15, 2**31 - 1, 2**31, -(2**31), 2**32, 2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**64, 2**1000]
integers = st.sampled_from(EDGES) | st.integers()
texts = st.text(st.characters(exclude_categories=())) | st.sampled_from(["", "\x00", "\ud800", "a\udfffb", "\U0010ffff", "é" * 300])
hashables = st.recursive(
    st.none()
    | st.booleans()
    | integers
    | st.floats()
    | texts
    | st.binary(max_size=100)
    | st.complex_numbers()
    | st.decimals(allow_nan=False)
    | st.fractions()
    | st.dates()
    | st.uuids()
    | st.builds(range, st.integers(-9, 9), st.integers(-9, 9), st.integers(1, 3))
    | st.sampled_from([*tasks.Colour, *tasks.Level, tasks.Options(3), Ellipsis, NotImplemented, int, tasks.Record, len, math.sqrt])
    | st.builds(tasks.Text, texts)
    | st.builds(tasks.Number, integers)
    | st.builds(tasks.Real, st.floats())
    | st.builds(tasks.Raw, st.binary(max_size=20))
    | st.builds(tasks.Frozen, integers),
    lambda inner: st.tuples(inner)
    | st.tuples(inner, inner)
    | st.frozensets(inner, max_size=4)
    | st.builds(tasks.Row, st.tuples(inner, inner))
    | st.builds(tasks.Point, inner, inner),
    max_leaves=6,
)


def shared(value):
    """The same object in several places."""
    return [value, {"again": value}, (value, [value])]


def recursive(value):
    loop = [value]
    loop.append(loop)
    return loop


values = st.recursive(
    hashables | st.binary(min_size=1000, max_size=5000).map(bytearray) | st.just("x" * 20_000) | st.just(b"\xff" * 300_000),
    lambda inner: st.lists(inner, max_size=5)
    | st.lists(inner, min_size=63, max_size=66)
    | st.dictionaries(hashables, inner, max_size=5)
    | st.sets(hashables, max_size=5)
    | st.builds(tasks.Table, st.dictionaries(hashables, inner, max_size=2))
    | st.builds(tasks.Items, st.lists(inner, max_size=2))
    | st.builds(tasks.Record, texts, st.lists(inner, max_size=2))
    | st.builds(Slotted, inner, inner)
    | st.builds(collections.OrderedDict, st.dictionaries(hashables, inner, max_size=3))
    | st.builds(collections.deque, st.lists(inner, max_size=3))
    | st.builds(shared, inner)
    | st.builds(recursive, inner),
    max_leaves=10,
)

errors = st.builds(
    lambda kind, args: (kind, *args),
    st.sampled_from([ValueError, KeyError, OSError, ArithmeticError, AssertionError, RuntimeError, Custom, UnicodeError, EOFError]),
    st.lists(hashables, max_size=4).filter(lambda args: len(args) != 1 or args != [()]),
)


def shape(value, seen=None):
    """A value as text in which every difference shows: types, bits of floats, order, which containers are the same object."""
    seen = {} if seen is None else seen
    kind = type(value)
    name = f"{kind.__module__}.{kind.__qualname__}"
    if isinstance(value, float):
        return f"{name}:{struct.pack('<d', value).hex()}"
    if kind is complex:
        return f"{name}:{struct.pack('<dd', value.real, value.imag).hex()}"
    if isinstance(value, (str, bytes, bytearray)):
        text = re.sub(r"0x[0-9a-f]{6,}", "ADDRESS", repr(value))
        return f"{name}:{text if len(text) < 1000 else (len(value), zlib.crc32(text.encode()))}"
    if isinstance(value, (type, range)) or callable(value) and kind is type(len):
        return f"{name}:{value!r}"
    if isinstance(value, (type(None), type(...), type(NotImplemented))):
        return f"{name}:{value!r}"
    if isinstance(value, (int, decimal.Decimal, fractions.Fraction, datetime.date, uuid.UUID)):
        return f"{name}:{value!r}"
    if isinstance(value, (list, dict, set, collections.deque, tasks.Record, Slotted)):
        # Identity is what can be told of a container that may change.
        if id(value) in seen:
            return f"#{seen[id(value)]}"
        seen[id(value)] = len(seen)
    if isinstance(value, (set, frozenset)):
        # Nothing in them can be mutable, so the order in which they are looked at does not matter.
        return f"{name}:{{{', '.join(sorted(shape(item, seen) for item in value))}}}"
    if isinstance(value, dict):
        return f"{name}:{{{', '.join(f'{shape(key, seen)}={shape(item, seen)}' for key, item in value.items())}}}"
    if isinstance(value, (list, tuple, collections.deque)):
        return f"{name}:[{', '.join(shape(item, seen) for item in value)}]"
    if isinstance(value, BaseException):
        notes = getattr(value, "__notes__", None)
        return f"{name}:{shape(value.args, seen)}, cause {type(value.__cause__).__name__}, notes {notes}"
    if isinstance(value, tasks.Colour):
        return f"{name}:{value.name}"
    names = list(getattr(value, "__dict__", None) or getattr(kind, "__slots__", ()))
    return f"{name}:({', '.join(f'{field}={shape(getattr(value, field), seen)}' for field in names)})"


def outcome(function, *args):
    try:
        value = function(*args)
    except BaseException as error:
        return "raised", described(error)
    return "gave", shape(value)


def described(error):
    """An error, and the last line of what its worker printed of it."""
    cause = error.__cause__
    text = cause.tb.rstrip('\n"').splitlines()[-1] if isinstance(cause, multiprocessing.pool.RemoteTraceback) else None
    # The order of a set may change with every copy.
    return shape(error), *(None if "set({" in str(words) else shape(str(words)) for words in (error, text))


# Functions


def fail_with(order):
    kind, *args = order
    raise kind(*args)


def fail_where(item):
    """item: (whether to fail, value)."""
    fails, value = item
    if fails:
        raise ValueError("told to fail", value)
    return value


def fail_with_note(value):
    error = Custom(value)
    error.add_note("a note")
    raise error


def fail_in_a_chain(value):
    try:
        raise KeyError(value)
    except KeyError as error:
        raise ValueError("outer") from error


def give_function(value):
    return lambda: value


def both(left, right):
    return right, left


# Pools


@pytest.fixture(scope="module")
def _pools():
    import pool

    context = multiprocessing.get_context("fork")
    with contextlib.ExitStack() as stack:
        pools = {}
        for name, kind in (("stdlib", multiprocessing.pool.Pool), ("ours", pool.Pool)):
            one = kind(2, context=context)
            stack.callback(one.join)
            stack.callback(one.terminate)
            # All threads and workers are there before the first test looks what is.
            one.apply_async(tasks.nothing, callback=tasks.nothing).get(LIMIT)
            pools[name] = one
        yield pools


@pytest.fixture
def pools(_pools):
    return _pools


def same(pools, look):
    """look: a function of a pool that gives something to compare."""
    theirs, ours = look(pools["stdlib"]), look(pools["ours"])
    assert ours == theirs


def everyday(examples=EXAMPLES):
    return hypothesis.settings(max_examples=examples, suppress_health_check=list(hypothesis.HealthCheck))


pytestmark = pytest.mark.limit(max(60, EXAMPLES))

chunksizes = st.sampled_from([None, 1, 2, 3, 7, 100])
applied = st.sampled_from([tasks.echo, tasks.wrap, tasks.type_name, tasks.nothing, fail_with_note, fail_in_a_chain, give_function])


@hypothesis.given(applied, values)
@everyday()
def test_apply(pools, function, value):
    same(pools, lambda pool: outcome(pool.apply, function, (value,)))


@hypothesis.given(st.lists(values, max_size=3), st.dictionaries(st.text(min_size=1, max_size=3), values, max_size=3))
@everyday()
def test_arguments(pools, args, keywords):
    same(pools, lambda pool: outcome(pool.apply, tasks.collect, args, keywords))


@hypothesis.given(errors)
@everyday()
def test_errors(pools, order):
    same(pools, lambda pool: outcome(pool.apply, fail_with, (order,)))


@hypothesis.given(
    st.sampled_from(["apply", "map"]), applied | st.just(fail_where), st.lists(values, max_size=3), st.booleans(), chunksizes
)
@everyday()
def test_callbacks(pools, call, function, items, fails, chunksize):
    def look(pool):
        seen = []

        def callback(value):
            seen.append(("callback", shape(value)))

        def error_callback(error):
            seen.append(("error_callback", described(error)))

        if call == "apply":
            result = pool.apply_async(fail_where, ((fails, items),), {}, callback, error_callback)
        else:
            orders = [(fails, item) for item in items] if function is fail_where else items
            # Several errors: which one is the first is anybody's guess.
            orders = orders[:1] if fails or function not in (tasks.echo, tasks.wrap, tasks.type_name, tasks.nothing) else orders
            result = pool.map_async(function, orders, chunksize, callback, error_callback)
        got = outcome(result.get, LIMIT)
        return got, seen, result.ready(), result.successful()

    same(pools, look)


@hypothesis.given(st.sampled_from(["map", "imap", "imap_unordered"]), st.lists(values, max_size=20), chunksizes, st.integers(0, 6))
@everyday()
def test_iterables(pools, call, items, chunksize, kind):
    make = [list, tuple, iter, collections.deque, tasks.Items, lambda items: (item for item in items), Sequence][kind]
    hypothesis.assume(call == "map" or chunksize is not None)

    def look(pool):
        result = getattr(pool, call)(tasks.wrap, make(items), chunksize)
        return listed(result, call)

    same(pools, look)


class Sequence:
    """Has a length and items, and no __iter__."""

    def __init__(self, items):
        self._items = items

    def __len__(self):
        return len(self._items)

    def __getitem__(self, place):
        return self._items[place]


def listed(iterable, call):
    """The outcomes one by one, with the errors between them; in any order if the call promises none."""
    found, iterator = [], iter(iterable)
    while True:
        try:
            found.append(("gave", shape(next(iterator))))
        except StopIteration:
            break
        except BaseException as error:
            found.append(("raised", described(error)))
    return sorted(found) if call.endswith("unordered") else found


@hypothesis.given(
    st.sampled_from(
        [range(0), range(5), range(10, 0, -3), "", "text\ud800", b"bytes", bytearray(b"xyz"), {1: 2, "a": 3}, {5}, frozenset([()])]
    ),
    st.sampled_from(["map", "imap", "imap_unordered"]),
    chunksizes,
)
@everyday()
def test_builtin_iterables(pools, iterable, call, chunksize):
    hypothesis.assume(call == "map" or chunksize is not None)
    same(pools, lambda pool: listed(getattr(pool, call)(tasks.wrap, iterable, chunksize), call))


@hypothesis.given(
    st.sampled_from(["map", "imap", "imap_unordered"]),
    st.lists(st.tuples(st.just(False), hashables), max_size=15),
    st.integers(0, 15),
    chunksizes,
)
@everyday()
def test_one_error_among_values(pools, call, items, place, chunksize):
    hypothesis.assume(call == "map" or chunksize is not None)
    items.insert(place, (True, "this one"))

    def look(pool):
        if call == "map":
            return outcome(pool.map, fail_where, items, chunksize)
        found = listed(getattr(pool, call)(fail_where, items, chunksize), call)
        # A chunk that fails ends the generator: what came before is a matter of order.
        return found if call == "imap" or chunksize == 1 else [one for one in found if one[0] == "raised"]

    same(pools, look)


@hypothesis.given(st.lists(st.booleans(), max_size=12), st.booleans())
@everyday()
def test_several_errors(pools, fails, ordered):
    items = [(flag, number) for number, flag in enumerate(fails)]
    call = "imap" if ordered else "imap_unordered"
    same(pools, lambda pool: listed(getattr(pool, call)(fail_where, items), call))


@hypothesis.given(st.lists(hashables, max_size=8), errors, st.sampled_from(["map", "imap", "starmap"]))
@everyday()
def test_failing_iterables(pools, items, order, call):
    kind, *args = order

    def generate():
        for item in items:
            yield (item,)
        raise kind(*args)

    def look(pool):
        if call == "imap":
            return listed(pool.imap(tasks.echo, generate()), call)
        return outcome(getattr(pool, call), tasks.echo, generate())

    same(pools, look)


@hypothesis.given(st.lists(st.tuples(values, values) | st.lists(values, min_size=2, max_size=2), max_size=10), chunksizes)
@everyday()
def test_starmap(pools, pairs, chunksize):
    same(pools, lambda pool: outcome(pool.starmap, both, pairs, chunksize))


def kind_of(function, *args):
    """As outcome, without the words: which part of the library notices a caller's mistake is not part of the interface."""
    try:
        return shape(function(*args))
    except Exception as error:
        return type(error), type(error.__cause__)


@hypothesis.given(st.sampled_from([(), (1,), (1, 2), (1, 2, 3), "ab", "abc", 5, None, [], {1: 1, 2: 2}, range(2)]))
@everyday(EXAMPLES // 3)
def test_bad_arguments(pools, arguments):
    same(pools, lambda pool: kind_of(pool.apply, both, arguments))
    same(pools, lambda pool: kind_of(pool.starmap, both, [arguments]))
    same(pools, lambda pool: kind_of(pool.map, tasks.echo, arguments))


@hypothesis.given(
    st.sampled_from(["imap", "imap_unordered"]),
    st.sampled_from([0, -1, None, "1"]),
    st.sampled_from([[], [1], 5, None]),
)
@everyday(EXAMPLES // 3)
def test_bad_chunksizes(pools, call, chunksize, iterable):
    same(pools, lambda pool: kind_of(lambda: list(getattr(pool, call)(tasks.echo, iterable, chunksize))))


@hypothesis.given(
    st.sampled_from([5, None, "text", object, tasks.Tracked(), len, str, str.upper, [].append, tasks.Multiplier(2).method])
)
@everyday(EXAMPLES // 3)
def test_functions(pools, function):
    same(pools, lambda pool: kind_of(pool.apply, function, ("text",)))
