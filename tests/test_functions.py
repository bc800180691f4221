"""What can be called in a worker, and from which kind of program."""

import functools
import json
import math
import operator

import pytest
import tasks

LIMIT = 30


# What the stdlib's pickle takes


def test_module_level_functions(shared_pool):
    assert shared_pool.apply(tasks.square, (3,)) == 9
    assert shared_pool.map(json.loads, ["1", "[2]"]) == [1, [2]]


def test_builtins(shared_pool):
    assert shared_pool.map(len, ["", "a", "ab"]) == [0, 1, 2]
    assert shared_pool.map(abs, [-1, 2]) == [1, 2]
    assert shared_pool.starmap(pow, [(2, 3), (3, 2, 5)]) == [8, 4]
    assert shared_pool.apply(math.sqrt, (9,)) == 3.0
    assert shared_pool.apply(max, ([3, 1, 2],), {"key": operator.neg}) == 1


def test_classes_as_callables(shared_pool):
    assert shared_pool.map(int, ["1", "22"]) == [1, 22]
    assert shared_pool.apply(int, ("ff",), {"base": 16}) == 255
    assert shared_pool.map(str, [1, None]) == ["1", "None"]
    assert shared_pool.apply(tasks.Point, (1,), {"y": 2}) == tasks.Point(1, 2)
    assert shared_pool.starmap(tasks.Record, [("name", [])]) == [tasks.Record("name", [])]


def test_methods_of_builtin_objects(shared_pool):
    assert shared_pool.map("-".join, [["a", "b"], ["c"]]) == ["a-b", "c"]
    assert shared_pool.map({"a": 1}.get, ["a", "b"]) == [1, None]
    assert shared_pool.map(str.upper, ["a", "b"]) == ["A", "B"]


def test_partials(shared_pool):
    assert shared_pool.map(functools.partial(tasks.add, 10), [1, 2]) == [11, 12]
    assert shared_pool.map(functools.partial(tasks.add, right=5), [1, 2]) == [6, 7]
    nested = functools.partial(functools.partial(tasks.collect, 1), 2, key=3)
    assert shared_pool.apply(nested, (4,)) == ((1, 2, 4), {"key": 3})


def test_methods(shared_pool):
    double = tasks.Multiplier(2)
    assert shared_pool.map(double.method, [1, 2]) == [2, 4]
    assert shared_pool.map(double, [1, 2]) == [2, 4]
    assert shared_pool.apply(tasks.Multiplier.of_class, (1,)) == ("Multiplier", 1)
    assert shared_pool.apply(tasks.Multiplier.of_nothing, (1,)) == -1
    assert shared_pool.map(double.of_nothing, [1]) == [-1]


def test_operator_objects(shared_pool):
    assert shared_pool.map(operator.itemgetter(1), ["ab", "cd"]) == ["b", "d"]
    assert shared_pool.map(operator.attrgetter("real"), [1, 2.5]) == [1, 2.5]
    assert shared_pool.map(operator.methodcaller("upper"), ["a"]) == ["A"]


def test_different_functions_in_turn(shared_pool):
    results = []
    for value in range(100):
        results.append(shared_pool.apply_async(tasks.square, (value,)))
        results.append(shared_pool.apply_async(functools.partial(tasks.add, value), (1,)))
        results.append(shared_pool.apply_async(tasks.Multiplier(value).method, (3,)))
    expected = [one for value in range(100) for one in (value**2, value + 1, value * 3)]
    assert [result.get(LIMIT) for result in results] == expected


@pytest.mark.ringpool_only
@pytest.mark.parametrize("chunksize", [None, 1, 2])
def test_callable_that_changes_itself_keeps_its_changes_for_the_job(factory, chunksize):
    pool = factory.Pool(1)
    function = tasks.Counting()
    for _ in range(2):
        assert pool.map(function, range(6), chunksize) == [1, 2, 3, 4, 5, 6]
    assert list(pool.imap(function, range(6))) == [1, 2, 3, 4, 5, 6]
    assert [pool.apply(function, (0,)) for _ in range(2)] == [1, 1]
    assert function.calls == 0


def test_more_functions_than_any_cache_holds(shared_pool):
    for factor in range(300):
        assert shared_pool.map(functools.partial(tasks.add, factor), [1, 2], 1) == [
            factor + 1,
            factor + 2,
        ]


@pytest.mark.parametrize(
    "make",
    [lambda heavy: heavy.size, lambda heavy: functools.partial(tasks.size_of, heavy)],
    ids=["method", "partial"],
)
def test_workers_do_not_hoard_callables(factory, make):
    pool = factory.Pool(1)
    for _ in range(10):
        assert pool.apply(make(tasks.Heavy())) == 5_000_000
    assert pool.apply(tasks.count_heavy) <= 1


@pytest.mark.ringpool_only
def test_workers_do_not_hoard_lambdas(factory):
    pool = factory.Pool(1)
    for _ in range(10):
        heavy = tasks.Heavy()
        assert pool.apply(lambda: heavy.size()) == 5_000_000
        del heavy
    assert pool.apply(tasks.count_heavy) <= 1


# The stdlib pickles in a thread of its own, some time after the call.
@pytest.mark.ringpool_only
class TestChangesBetweenCalls:
    def hold_all(self, pool, gate):
        for _ in range(2):
            pool.apply_async(tasks.hold, (gate,))
        gate.wait_for(2)

    def test_object_of_a_method(self, shared_pool, gate):
        self.hold_all(shared_pool, gate)
        thing = tasks.Multiplier(2)
        results = []
        for factor in (2, 3, 4):
            thing.factor = factor
            results.append(shared_pool.apply_async(thing.method, (10,)))
            results.append(shared_pool.apply_async(thing, (100,)))
        gate.open()
        assert [result.get(LIMIT) for result in results] == [20, 200, 30, 300, 40, 400]

    def test_argument_of_a_partial(self, shared_pool, gate):
        self.hold_all(shared_pool, gate)
        table = {"key": 1}
        function = functools.partial(tasks.add_any, table)
        results = []
        for value in (1, 2, 3):
            table["key"] = value
            results.append(shared_pool.apply_async(function))
        gate.open()
        expected = [f"{{'key': {value}}}0" for value in (1, 2, 3)]
        assert [result.get(LIMIT) for result in results] == expected

    def test_variable_of_a_closure(self, shared_pool, gate):
        self.hold_all(shared_pool, gate)
        variable = 1

        def function():
            return variable

        results = []
        for variable in (1, 2, 3):
            results.append(shared_pool.apply_async(function))
        gate.open()
        assert [result.get(LIMIT) for result in results] == [1, 2, 3]

    def test_redefined_function(self, shared_pool, gate):
        self.hold_all(shared_pool, gate)
        results = []

        def function():
            return 1

        results.append(shared_pool.apply_async(function))

        def function():
            return 2

        results.append(shared_pool.apply_async(function))
        function.__code__ = (lambda: 3).__code__
        results.append(shared_pool.apply_async(function))
        gate.open()
        assert [result.get(LIMIT) for result in results] == [1, 2, 3]

    def test_defaults_of_a_function(self, shared_pool):
        def function(value=1):
            return value

        assert shared_pool.apply(function) == 1
        function.__defaults__ = (2,)
        assert shared_pool.apply(function) == 2


# What the stdlib's pickle does not take


@pytest.mark.ringpool_only
class TestByValue:
    def test_lambdas(self, shared_pool):
        assert shared_pool.map(lambda value: value + 1, range(10)) == list(range(1, 11))
        assert shared_pool.apply(lambda *args, **kwargs: (args, kwargs), (1,), {"key": 2}) == (
            (1,),
            {"key": 2},
        )
        assert list(shared_pool.imap(lambda value: -value, range(5), 2)) == [0, -1, -2, -3, -4]
        assert shared_pool.starmap(lambda left, right: left - right, [(3, 1)]) == [2]

    def test_closures(self, shared_pool):
        table = {"a": 1}

        def outer(key):
            def inner(value):
                return table[key], value

            return inner

        assert shared_pool.map(outer("a"), [1, 2]) == [(1, 1), (1, 2)]

    def test_recursive_closure(self, shared_pool):
        def factorial(number):
            return 1 if number < 2 else number * factorial(number - 1)

        assert shared_pool.map(factorial, range(6)) == [1, 1, 2, 6, 24, 120]

    def test_partial_of_a_lambda(self, shared_pool):
        function = functools.partial(lambda left, right: left * right, 3)
        assert shared_pool.map(function, [1, 2]) == [3, 6]

    def test_local_class(self, shared_pool):
        class Local:
            def __init__(self, value):
                self.value = value

            def method(self, other):
                return self.value + other

        assert shared_pool.map(Local(1).method, [1, 2]) == [2, 3]

    def test_lambda_as_an_argument(self, shared_pool):
        assert shared_pool.apply(tasks.call, (lambda: "called",)) == "called"

    def test_error_in_a_lambda(self, shared_pool):
        with pytest.raises(ZeroDivisionError):
            shared_pool.apply(lambda: 1 / 0)


# Programs


SCRIPT = """
import sys
from implementations import Implementation

OFFSET = 100

def plain(value):
    return value + OFFSET

class Thing:
    def __init__(self, value):
        self.value = value

    def method(self, other):
        return self.value + other

    def __eq__(self, other):
        return type(self) is type(other) and self.value == other.value

if __name__ == "__main__":
    pool = Implementation.named(sys.argv[1]).Pool(2)
    assert pool.map(plain, range(5), 1) == [100, 101, 102, 103, 104]
    assert pool.apply(plain, (1,)) == 101
    assert list(pool.imap(plain, range(3))) == [100, 101, 102]
    assert pool.map(Thing(1).method, [1, 2]) == [2, 3]
    assert pool.map(Thing, [1, 2]) == [Thing(1), Thing(2)]
    assert pool.apply(plain, (1,)) == 101
    pool.close()
    pool.join()
    print("done", flush=True)
"""


def check_script(script, text, how="file"):
    program = script(text, how)
    assert program.wait(LIMIT) == 0, program.err
    assert program.out == "done\n"
    assert program.err == ""


def test_functions_of_a_script(script):
    check_script(script, SCRIPT)


@pytest.mark.ringpool_only
@pytest.mark.parametrize("how", ["command", "stdin"])
def test_functions_of_a_program_without_a_file(script, how):
    check_script(script, SCRIPT, how)


GUARDED = """
import sys
from implementations import Implementation

if __name__ == "__main__":
    OFFSET = 100

    def plain(value):
        return value + OFFSET

    def failing():
        raise Problem("from main", 5)

    class Problem(Exception):
        pass

    class Thing:
        def __init__(self, value):
            self.value = value

        def method(self, other):
            return self.value + other

    pool = Implementation.named(sys.argv[1]).Pool(2)
    assert pool.map(plain, range(5), 1) == [100, 101, 102, 103, 104]
    assert pool.map(lambda value: plain(value) + OFFSET, range(2)) == [200, 201]
    assert pool.map(Thing(1).method, [1, 2]) == [2, 3]
    assert [thing.value for thing in pool.map(Thing, [1, 2])] == [1, 2]
    try:
        pool.apply(failing)
    except Problem as error:
        assert error.args == ("from main", 5)
    else:
        raise AssertionError("no error")
    pool.close()
    pool.join()
    print("done", flush=True)
"""


@pytest.mark.ringpool_only
@pytest.mark.parametrize("how", ["file", "command", "stdin"])
def test_functions_under_the_guard(script, how):
    check_script(script, GUARDED, how)


REDEFINED = """
import sys
from implementations import Implementation

def function():
    return 1

if __name__ == "__main__":
    pool = Implementation.named(sys.argv[1]).Pool(2)
    results = [pool.apply_async(function)]

    def function():
        return 2

    results.append(pool.apply_async(function))
    answers = [result.get(20) for result in results]
    assert answers == [1, 2], answers

    def late(value):
        return value * 2

    assert pool.map(late, range(3)) == [0, 2, 4]
    pool.close()
    pool.join()
    print("done", flush=True)
"""


@pytest.mark.ringpool_only
@pytest.mark.parametrize("how", ["file", "command", "stdin"])
def test_functions_defined_after_the_pool(script, how):
    check_script(script, REDEFINED, how)


INITIALIZED = """
import sys
from implementations import Implementation

state = None

def init(value):
    global state
    state = value

def named(x):
    return x, state

if __name__ == "__main__":
    with Implementation.named(sys.argv[1]).Pool(2, init, (5,)) as pool:
        print(pool.map(named, range(2)), pool.map(lambda x: (x, state), range(2)))
        offset = 7
        print(pool.map(lambda x: x + offset, range(2)))
        offset = 8
        print(pool.map(lambda x: x + offset, range(2)))
"""


@pytest.mark.ringpool_only
def test_lambda_sees_what_the_initializer_set(script):
    program = script(INITIALIZED)
    assert program.wait(LIMIT) == 0, program.err
    assert program.out == "[(0, 5), (1, 5)] [(0, 5), (1, 5)]\n[7, 8]\n[8, 9]\n"


CLASSES = """
import dataclasses
import enum
import re
import sys
from implementations import Implementation

class Plain:
    limit = 3

    def __init__(self, a):
        self.a = a

    def doubled(self):
        return self.a * 2 if self.a in {1, 2, 3} else None

# By value, slots are none.
@dataclasses.dataclass(slots=sys.argv[0].endswith(".py"))
class Slotted:
    a: int

class Colour(enum.Enum):
    RED = 1

    class Inner:
        pass

class Outer:
    class Inner:
        pass

class Base:
    pattern = re.compile("a")
    note: int | None = None
    limits = frozenset([1, 2])

    def number(self):
        return 1

class Derived(Base):
    pass

DERIVED = Derived()
INSTANCE = Plain(1)
KINDS = [Plain, Slotted, Colour, Outer.Inner, Plain]

def known(value):
    return isinstance(INSTANCE, Plain), isinstance(value, Slotted), Colour.RED is Colour(1)

def echo(value):
    return value

def call(function):
    return function()

def known_base(value):
    return type(value) is Base and isinstance(DERIVED, Base)

def maker(kind):
    return lambda value: kind(value)

if __name__ == "__main__":
    pool = Implementation.named(sys.argv[1]).Pool(1)
    assert pool.apply(lambda x: (Plain, Slotted, Colour, Outer.Inner, INSTANCE, KINDS) and x, (1,)) == 1
    assert pool.apply(known, (Slotted(3),)) == (True, True, True)
    assert pool.apply(echo, (Slotted(3),)) == Slotted(3)
    assert pool.apply(lambda x: Slotted(x), (3,)) == Slotted(3)
    assert pool.apply(lambda x: Plain(x), (3,)).doubled() == 6
    assert pool.apply(lambda x: isinstance(x, Plain), (INSTANCE,))
    assert pool.apply(lambda: isinstance(INSTANCE, Plain) and isinstance(INSTANCE, KINDS[-1]))
    assert pool.apply(lambda: type(Outer.Inner()) is KINDS[3])
    assert pool.apply(lambda: Colour.RED is KINDS[2](1) and Colour.RED) is Colour.RED
    assert pool.apply(maker(Plain), (2,)).a == 2
    assert pool.apply((lambda kind: lambda x: isinstance(x, kind))(Slotted), (Slotted(1),))
    assert pool.apply(call, (lambda: Slotted is KINDS[1],))
    assert Base.__annotations__
    assert pool.apply(lambda: isinstance(Derived(), Base) and isinstance(DERIVED, Base))
    assert pool.apply(known_base, (pool.apply(lambda: Base()),))

    # What the program has made of them since.
    Plain.limit = 7
    Outer.Inner.value = 8
    assert pool.apply(lambda: (Plain.limit, Outer.Inner.value)) == (7, 8)
    assert pool.apply(call, (lambda: (Plain.limit, Outer.Inner.value),)) == (7, 8)
    Base.number = lambda self: 2
    assert pool.apply(call, (lambda: Derived().number(),)) == 2

    class Plain:
        rate = 5

        def __init__(self, a):
            self.b = a

    assert pool.apply(lambda x: Plain(x), (3,)).b == 3
    assert pool.apply(call, (lambda: Plain.rate,)) == 5

    class Colour(enum.Enum):
        GREEN = 2

    assert pool.apply(call, (lambda: Colour.GREEN.value,)) == 2

    class Late:
        pass

    assert type(pool.apply(lambda: Late())) is Late
    assert pool.apply(lambda x: isinstance(x, Late), (Late(),))
    pool.close()
    pool.join()
    print("done", flush=True)
"""


@pytest.mark.ringpool_only
@pytest.mark.parametrize("how", ["file", "command", "stdin"])
def test_classes_that_lambdas_of_a_script_know(script, how):
    check_script(script, CLASSES, how)
