"""Instances that are written without pickle: whatever the class is like, what arrives is what pickle would have made."""

import collections
import copyreg
import dataclasses
import enum
import gc
import pickle
import random
import sys
import types
import typing
import weakref
from multiprocessing.reduction import ForkingPickler

import pytest
import tasks

import pool.bench.apart.ringpool_cell.tasks as cell
from pool._codec import decode_bytes, encode

pytestmark = pytest.mark.ringpool_only

PICKLE = 12
INSTANCE = 17
SLOTTED = 19


class Empty:
    pass


class Base:
    def __init__(self, **attributes):
        self.__dict__.update(attributes)

    def __eq__(self, other):
        return type(self) is type(other) and vars(self) == vars(other)


@dataclasses.dataclass
class Point:
    x: int
    y: float = 0.5
    label: str = "näme \u20ac"


@dataclasses.dataclass(frozen=True)
class Frozen:
    values: tuple
    text: bytes = b"bytes"


@dataclasses.dataclass(slots=True)
class Slots:
    x: int = 3


@dataclasses.dataclass(slots=True, weakref_slot=True)
class MoreSlots(Slots):
    y: tuple = (1.5, "two")


@dataclasses.dataclass(slots=True, frozen=True)
class FrozenSlots:
    x: int = 3


class PrivateSlots:
    __slots__ = ("__x", "_y")

    def __init__(self):
        self.__x, self._y = 1, 2


class SlotsAndDict(Slots):
    pass


class HiddenSlot(Slots):
    __slots__ = ()
    x = property(lambda self: 5, lambda self, value: None)


class NotesSlots(Slots):
    __slots__ = ("notes",)

    def __setattr__(self, name, value):
        super().__setattr__(name, value)
        if name != "notes":
            super().__setattr__("notes", getattr(self, "notes", "") + name)


class PlainSlots:
    __slots__ = ("x", "y")

    def __init__(self):
        self.x, self.y = 1, 2


class Talkative(type):
    """Has an answer to whatever a class is asked for."""

    def __getattr__(cls, name):
        return name


class Silent(type):
    def __getattribute__(cls, name):
        if name == "__new__":
            raise AttributeError(name)
        return super().__getattribute__(name)


class OfTalkative(Base, metaclass=Talkative):
    pass


class OfSilent(Base, metaclass=Silent):
    pass


class SlotsTwice(PlainSlots):
    __slots__ = ("x",)

    def __setattr__(self, name, value):
        assert not hasattr(self, name), "once only"
        super().__setattr__(name, value)


class NoSlots:
    __slots__ = ()


def without(value, name):
    delattr(value, name)
    return value


class Child(Base):
    total = property(lambda self: self.x)


class SlotsBelow(Base):
    __slots__ = ("extra",)


class Reduces(Base):
    def __reduce__(self):
        return Base, (), {"reduced": True}


class ReducesBelow(Reduces):
    pass


class GetsState(Base):
    def __getstate__(self):
        return {"got": 1}


class SetsState(Base):
    def __setstate__(self, state):
        self.__dict__.update(state, was_set=True)


class NewArguments(Base):
    def __new__(cls, *args, **attributes):
        instance = super().__new__(cls)
        instance.__dict__["made_with"] = args
        return instance

    def __getnewargs__(self):
        return (7,)


class New(Base):
    def __new__(cls, **attributes):
        instance = super().__new__(cls)
        instance.__dict__["new"] = True
        return instance


class Answers(Base):
    def __getattr__(self, name):
        if name == "__setstate__":
            return lambda state: self.__dict__.update(state, answered=True)
        raise AttributeError(name)


class Hides(Base):
    def __getattribute__(self, name):
        return {"hidden": True} if name == "__dict__" else super().__getattribute__(name)


class Stores(Base):
    def __setattr__(self, name, value):
        raise TypeError("read-only")


class Generic(Base, typing.Generic[typing.TypeVar("T")]):
    pass


class Mapping(dict):
    pass


class Items(list):
    pass


class Number(int):
    pass


class Failure(Exception):
    pass


class Colour(enum.Enum):
    RED = 1


class Outer:
    class Inner(Base):
        pass


class ReducesOnItsOwn(Base):
    """What pickle asks for may lie on the instance."""


def function_of_instance(protocol=None):
    return Base, (), {"instance": "reduced"}


class Ordered(collections.OrderedDict):
    pass


def with_dict(kind, attributes):
    instance = kind()
    instance.__dict__ = attributes
    return instance


def same_twice():
    shared = [1]
    return Base(first=shared, second=shared)


PLAIN = {
    "no attributes": Empty(),
    "dataclass": Point(1),
    "frozen": Frozen((1, (2.5, None), "x")),
    "inherited": Child(x=3),
    "refuses to set": Stores(x=3),
    "scalars": Base(a=None, b=True, c=1 << 60, d=-1.5, e="", f=b"", g=()),
    "surrogates": Base(**{"\ud800": "\udfff"}),
    "generic": Generic(x=1),
    "talkative class": OfTalkative(x=1),
    "silent class": OfSilent(x=1),
}
SLOTTED_PLAIN = {
    "slots": Slots(),
    "more slots": MoreSlots(),
    "private slots": PrivateSlots(),
    "slots that are noted": NotesSlots(),
    "slot that is there twice": SlotsTwice(),
}
PICKLED = {
    "empty slot": without(PlainSlots(), "x"),
    "all slots empty": without(without(PlainSlots(), "x"), "y"),
    "no slots": NoSlots(),
    "frozen slots": FrozenSlots(),
    "slots and dict": SlotsAndDict(),
    "hidden slot": HiddenSlot(),
    "list in a slot": Slots([1]),
    "itself in a slot": Slots(Slots()),
    "large int": Base(x=1 << 70),
    "list": Base(x=[1]),
    "one list twice": same_twice(),
    "instance in it": Base(x=Base()),
    "large": Base(x=b"x" * 5000),
    "many": Base(**{f"a{n}": n for n in range(100)}),
    "reduces": Reduces(x=1),
    "reduces, inherited": ReducesBelow(x=1),
    "gets state": GetsState(x=1),
    "sets state": SetsState(x=1),
    "new arguments": NewArguments(x=1),
    "new": New(x=1),
    "answers": Answers(x=1),
    "hides": Hides(x=1),
    "dict": Mapping(x=1),
    "list itself": Items([1]),
    "int": Number(3),
    "exception": Failure(1),
    "enum": Colour.RED,
    "inner class": Outer.Inner(x=1),
    "attribute that is no text": with_dict(Base, {1: 2}),
    "ordered attributes": with_dict(Base, Ordered(x=1)),
    "its own reduction": with_dict(ReducesOnItsOwn, {"__reduce_ex__": function_of_instance}),
    "namespace": types.SimpleNamespace(x=1),
    "generic with arguments": Generic[int](x=1),
    "slots below": SlotsBelow(x=1),
}


def alike(one, other):
    assert type(one) is type(other)
    if hasattr(one, "__dict__"):
        assert vars(one) == vars(other)
        assert list(vars(one)) == list(vars(other))
    for name in copyreg._slotnames(type(one)):
        assert getattr(one, name, "empty") == getattr(other, name, "empty")
    if not isinstance(one, (Base, BaseException)) and type(one).__eq__ is not object.__eq__:
        assert one == other
    return True


def travelled(value, tag):
    """Three times: a class is learnt at the first, and known afterwards."""
    for _ in range(3):
        data = encode(value)
        assert data[0] == tag
        assert alike(decode_bytes(data), pickle.loads(pickle.dumps(value)))
        yield decode_bytes(data)


@pytest.mark.parametrize("value", PLAIN.values(), ids=PLAIN)
def test_plain_instances(value):
    for arrived in travelled(value, INSTANCE):
        assert all(name is sys.intern(name) for name in vars(arrived))


@pytest.mark.parametrize("value", SLOTTED_PLAIN.values(), ids=SLOTTED_PLAIN)
def test_plain_instances_with_slots(value):
    assert len(list(travelled(value, SLOTTED))) == 3


def test_slots_that_are_empty_by_turns():
    for _ in range(3):
        assert decode_bytes(encode(MoreSlots(1))) == MoreSlots(1)
        arrived = decode_bytes(encode(without(MoreSlots(1), "y")))
        assert arrived.x == 1 and not hasattr(arrived, "y")


@pytest.mark.parametrize("value", PICKLED.values(), ids=PICKLED)
def test_others_are_pickled(value):
    assert len(list(travelled(value, PICKLE))) == 3


def test_identity_of_what_is_shared_within():
    value = decode_bytes(encode(same_twice()))
    assert value.first is value.second


def test_attributes_by_turns():
    layouts = [{}, {"x": 1}, {"y": 1}, {"x": 1, "y": 2}, {"y": 2, "x": 1}, {"z": "1"}]
    values = [Base(**attributes) for attributes in layouts * 3]
    random.Random(7).shuffle(values)
    for value in values:
        assert alike(decode_bytes(encode(value)), value)


@pytest.fixture
def module(monkeypatch):
    module = types.ModuleType("made_for_this_test")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


def define(module, text="class Kind: pass"):
    exec(text, vars(module))
    return module.Kind


def test_class_that_changes(module):
    kind = define(module)
    value = kind()
    value.x = 1
    assert encode(value)[0] == INSTANCE
    kind.__reduce__ = lambda self: (int, (3,))
    assert decode_bytes(encode(value)) == 3
    del kind.__reduce__
    assert vars(decode_bytes(encode(value))) == {"x": 1}
    data = encode(value)
    kind.__setstate__ = lambda self, state: self.__dict__.update(state, told=True)
    assert vars(decode_bytes(data)) == {"x": 1, "told": True}
    assert vars(decode_bytes(encode(value))) == {"x": 1, "told": True}


@pytest.mark.parametrize("text", ["class Kind: pass", "class Kind: __slots__ = ('x',)"])
def test_class_that_changes_all_the_time(module, text):
    # Python has only so many versions for a class.
    kind = define(module, text)
    for number in range(3000):
        kind.made = number
        value = kind()
        value.x = number
        assert decode_bytes(encode(value)).x == number


def test_class_with_slots_that_changes(module):
    kind = define(module, "class Kind: __slots__ = ('x', 'y')")
    value = kind()
    value.x = 1
    assert encode(value)[0] == PICKLE
    value.y = 2
    data = encode(value)
    assert data[0] == SLOTTED
    kind.__setstate__ = lambda self, state: setattr(self, "x", state)
    assert decode_bytes(data).x == (None, {"x": 1, "y": 2})
    assert decode_bytes(encode(value)).x == (None, {"x": 1, "y": 2})
    del kind.__setstate__
    assert encode(value)[0] == SLOTTED
    kind.x = property(lambda self: 7, lambda self, value: None)
    assert encode(value)[0] == PICKLE
    # One that has a dict by now, or other slots.
    define(module)
    assert vars(decode_bytes(data)) == {"x": 1, "y": 2}
    define(module, "class Kind: __slots__ = ('x',)")
    with pytest.raises(AttributeError):
        decode_bytes(data)


def test_base_class_that_changes(module):
    kind = define(module, "class Below: pass\nclass Kind(Below): pass")
    assert encode(kind())[0] == INSTANCE
    module.Below.__reduce__ = lambda self: (int, (3,))
    assert decode_bytes(encode(kind())) == 3


def test_reducer_that_is_registered_later(module):
    kind = define(module)
    value = kind()
    try:
        assert encode(value)[0] == INSTANCE
        copyreg.pickle(kind, lambda value: (int, (4,)))
        assert decode_bytes(encode(value)) == 4
        del copyreg.dispatch_table[kind]
        assert encode(value)[0] == INSTANCE
        ForkingPickler.register(kind, lambda value: (int, (5,)))
        assert decode_bytes(encode(value)) == 5
    finally:
        copyreg.dispatch_table.pop(kind, None)
        ForkingPickler._extra_reducers.pop(kind, None)


def test_first_instance_does_not_stand_for_all(module):
    kind = define(module)
    odd = with_dict(kind, {"__reduce_ex__": function_of_instance})
    assert encode(odd)[0] == PICKLE
    other = define(module)
    assert encode(other())[0] == INSTANCE
    odd = with_dict(other, {"__reduce_ex__": function_of_instance})
    assert vars(decode_bytes(encode(odd))) == {"instance": "reduced"}


def test_class_that_is_replaced(module):
    value = define(module)()
    data = encode(value)
    other = define(module)
    with pytest.raises(pickle.PicklingError):
        encode(value)
    # By name, as unpickling does.
    assert type(decode_bytes(data)) is other


def test_classes_that_come_and_go(module):
    for number in range(300):
        value = define(module)()
        value.x = number
        assert vars(decode_bytes(encode(value))) == {"x": number}
    kept = weakref.ref(type(value))
    del value, module.Kind
    gc.collect()
    assert kept() is None


@pytest.mark.parametrize("gone", ["class", "module", "class with another in its place"])
def test_class_that_is_not_there(module, gone):
    value = define(module)()
    data, pickled = encode(value), pickle.dumps(value)
    if gone == "module":
        del sys.modules[module.__name__]
    elif gone == "class":
        del module.Kind
    else:
        module.Kind = len
    outcomes = []
    for load in (lambda: pickle.loads(pickled), lambda: decode_bytes(data)):
        with pytest.raises(Exception) as caught:
            load()
        outcomes.append((type(caught.value), str(caught.value)))
    if gone != "class with another in its place":
        assert outcomes[0] == outcomes[1]


def test_local_class():
    class Local(Base):
        pass

    with pytest.raises((AttributeError, pickle.PicklingError)):
        encode(Local(x=1))
    assert vars(decode_bytes(encode(Local(x=1), by_value=True))) == {"x": 1}


@pytest.mark.parametrize("value", [cell.Point(1, 2.0, "three"), MoreSlots(1)])
def test_nonsense_is_an_error(value):
    data = bytearray(encode(value))
    for size in range(len(data)):
        with pytest.raises(ValueError):
            decode_bytes(bytes(data[:size]))
    numbers = random.Random(11)
    for _ in range(20_000):
        damaged = bytearray(data)
        for _ in range(numbers.randrange(1, 4)):
            damaged[numbers.randrange(1, len(data))] = numbers.choice([0, 1, 12, 17, 255, numbers.randrange(256)])
        try:
            decode_bytes(bytes(damaged))
        except Exception:
            pass


def test_instance_that_cannot_be_made_fails_its_chunk(factory, module):
    pool = factory.Pool(1)
    kind = define(module, "class Kind: pass")
    values = [cell.Point(1, 2.0, "three"), kind()]
    with pytest.raises((AttributeError, ModuleNotFoundError)):
        pool.map(tasks.echo, values, 2)
    assert pool.map(tasks.echo, values[:1], 2) == values[:1]


def test_deep_nonsense_is_an_error():
    with pytest.raises(RecursionError):
        decode_bytes(b"\x09\x01\x00\x00\x00" * 200_000 + b"\x00")


@dataclasses.dataclass(slots=True)
class SlottedPoint:
    x: int
    y: float
    label: str


def moved_slotted_point(point):
    return SlottedPoint(point.x + 1, point.y, point.label)


KINDS = [(cell.Point, cell.moved_point), (SlottedPoint, moved_slotted_point)]


@pytest.mark.parametrize(("kind", "moved"), KINDS)
def test_there_and_back(factory, kind, moved):
    pool = factory.Pool(2)
    points = [kind(number, number / 2, str(number)) for number in range(200)]
    assert pool.map(moved, points, 1) == [moved(point) for point in points]
    assert list(pool.imap(tasks.echo, points)) == points
    assert pool.apply(tasks.echo, (points[3],)) == points[3]


@pytest.mark.parametrize(("kind", "moved"), KINDS)
def test_in_chunks(factory, kind, moved):
    pool = factory.Pool(2)
    points = [kind(number, number / 2, str(number)) for number in range(200)]
    assert pool.map(moved, points, 7) == [moved(point) for point in points]
    assert list(pool.imap_unordered(tasks.echo, points[:7], 7)) == points[:7]
    mixed = [points[0], 1, None, [2], {"three": 3}, ("four", 4), points[1], b"five", 0.6]
    assert pool.map(tasks.echo, mixed, len(mixed)) == mixed
    pickled = [*points[:3], {"deep": [points[4]]}, 5]
    assert pool.map(tasks.echo, pickled, len(pickled)) == pickled
    assert pool.starmap(tasks.collect, [(points[0], 1), (points[1],)], 2) == [((points[0], 1), {}), ((points[1],), {})]
    # What came twice is one object, as pickle has it.
    if kind is cell.Point:
        assert pool.map(tasks.mark, [points[0], points[1], points[0]], 3) == [1, 1, 2]
    back = pool.map(tasks.echo, [points[0], points[1], points[0]], 3)
    assert back[0] is back[2] and back[0] is not back[1]
