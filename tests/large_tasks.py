"""Functions that the tests of large values send to workers; importable without numpy by whoever does not call them."""

import errno
import os
import pickle
import sys

from refuse import POPULATE_WRITE, refuse

_kept = []
_scratch = []


class Parts:
    """Offers its bytes to pickle as a buffer of their own, as arrays do. A stand-in that needs no other package."""

    def __init__(self, data):
        self.data = data

    def __reduce_ex__(self, protocol):
        if protocol >= 5:
            return Parts, (pickle.PickleBuffer(self.data),)
        return Parts, (bytes(self.data),)

    def __eq__(self, other):
        return bytes(self.data) == bytes(other.data)

    def writable(self):
        return not memoryview(self.data).readonly


def echo(value):
    return value


class Paused:
    """Its pickling waits at a gate, between one large buffer and another."""

    def __init__(self, gate, size):
        self.gate, self.size = gate, size

    def __reduce__(self):
        return len, ([Parts(bytearray(self.size)), _Gated(self.gate), Parts(bytearray(self.size))],)


class _Gated:
    def __init__(self, gate):
        self.gate = gate

    def __reduce__(self):
        self.gate.arrive()
        self.gate.pass_through()
        return int, ()


def hold_array(gate, array):
    gate.arrive()
    gate.pass_through()
    return float(array[-1])


def pause_in_the_middle(gate, size):
    return Paused(gate, size)


def make_text(number):
    """A list whose pickle offers no buffers, and is as long as the list is large."""
    return [str(n) * 300 for n in range(number)]


def total(array):
    return float(array.sum())


def double(array):
    return array * 2.0


def filled(shape, value):
    import numpy

    return numpy.full(shape, float(value))


def described(array):
    """What tells arrays apart, and the bytes."""
    flags = array.flags
    return str(array.dtype), array.shape, flags.c_contiguous, flags.f_contiguous, flags.writeable, array.tolist()


def overwritten(array, value):
    """Writes everywhere into its argument; what was there before, and is now."""
    before = float(array.reshape(-1)[0]), float(array.reshape(-1)[-1])
    array[...] = value
    return before, float(array.sum())


def written(pair):
    array, value = pair
    return overwritten(array, value)


def keep(value):
    _kept.append(value)
    return len(_kept)


def kept_sum():
    return sum(float(value.sum()) for value in _kept)


def forget():
    _kept.clear()


def die(array):
    os._exit(int(array[0]))


def die_once(array, path):
    """Spoils its argument and dies, the first time."""
    seen = float(array.sum())
    array[...] = -1
    if not os.path.exists(path):
        open(path, "w").close()
        os._exit(7)
    return seen


def forked_sum(array):
    """The sums of an argument in a child that writes to it, and here after that."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        first = float(array.sum())
        array[...] = 5
        os.write(writing, repr((first, float(array.sum()))).encode())
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as file:
        told = file.read().decode()
    os.waitpid(child, 0)
    return told, float(array.sum())


def pid_of_keeper(array):
    """Leaves behind a child that has the argument, tells its number, and goes on."""
    return os.getpid()


def imported_numpy(_):
    return "numpy" in sys.modules


def row_sum(row):
    return float(row.sum())


def size_below(row):
    """Items of the array that the row is a view of."""
    return row.base.size


def close_descriptors(array):
    os.closerange(3, 4096)
    return float(array.sum())


class Scratch:
    """Pickled by way of an array that all instances write to."""

    def __init__(self, number):
        self.number = number

    def __reduce__(self):
        import numpy

        if not _scratch:
            _scratch.append(numpy.zeros(300_000))
        _scratch[0][:] = self.number
        return tuple, ([self.number, _scratch[0]],)


class Submits:
    """Pickled by way of an object whose finalizer calls the function."""

    def __init__(self, function):
        self.function = function

    def __reduce__(self):
        return tuple, ([Finalized(self.function)],)


class Finalized:
    def __init__(self, function=None):
        self.function = function

    def __reduce__(self):
        return Finalized, ()

    def __del__(self):
        if self.function is not None:
            self.function()


def last_total(*values):
    return float(values[-1].sum())


def both_ends(value):
    number, array = value
    return number, float(array[0]), float(array[-1])


def descriptors_to(path, size):
    """Every descriptor is the user's own now, and the kernel is one without MADV_POPULATE_WRITE."""
    refuse("madvise", errno.EINVAL, POPULATE_WRITE)
    os.closerange(3, 4096)
    for _ in range(100):
        os.open(path, os.O_RDWR)
    return filled(size, 1.0)


def count(*values):
    return len(values)


def spoilt(row):
    return overwritten(row, 9)


def weighed(array, weight):
    return float(array.sum()) * weight


def identity(value):
    return os.getpid(), id(value)


def is_writable(parts):
    return parts.writable()


def called_with(pair):
    """Whether the parts are writable, what the function beside them gives, and the parts."""
    parts, function = pair
    return parts.writable(), function(), parts


def first_cell_overwritten(frame):
    """The first cell of a dataframe before and after."""
    before = float(frame.iloc[0, 0])
    frame.iloc[0, 0] = 9.0
    return before, float(frame.iloc[0, 0])


def keep_in_a_cycle(array):
    kept = [array]
    kept.append(kept)
    return float(array[0])


def catch_an_error(array):
    """As programs do: the error has a traceback, that a frame, and the frame has both."""
    try:
        raise ValueError
    except ValueError as error:
        caught = error
    return float(array[-1]) if caught else None
