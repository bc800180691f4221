"""The control page of a build with fault points, and their list: csrc/fault.h as the tests see it."""

import collections
import itertools
import mmap
import os
import pathlib
import re

HEADER = pathlib.Path(__file__).resolve().parent.parent / "csrc" / "fault.h"
VARIABLE = "RINGPOOL_FAULT_PAGE"
EXIT_STATUS = 3

# cost: how many tasks the death of a worker there costs.
Point = collections.namedtuple("Point", "name number side cost")

_text = HEADER.read_text()
POINTS = {
    name: Point(name, number, side, int(cost))
    for number, (name, side, cost) in enumerate(re.findall(r"^    X\((\w+), (\w+), (\d)\)", _text, re.MULTILINE), 1)
}
ACTIONS = {name: int(number) for name, number in re.findall(r"RP_FAULT_(\w+) = (\d)", _text)}
_WORDS = re.findall(r"^    rp_u32 (\w+);", _text, re.MULTILINE)
# What only a worker that begins or leaves passes.
RECYCLED = ("ATTACHED", "REPORTED", "STAND_BY", "LEAVING")


def points_of(side):
    """Those that a process of this side, "WORKER" or "PARENT", passes."""
    return [point for point in POINTS.values() if point.side in (side, "BOTH")]


def rotating(points, *choices):
    """The rule by which a sweep is thinned out: one combination of the choices for each point, so that each has its turn."""
    combinations = list(itertools.product(*choices))
    return [(point, *combinations[place % len(combinations)]) for place, point in enumerate(points)]


class Page:
    """The page in the file of this path, which is made if it is not there."""

    def __init__(self, path):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(fd, mmap.PAGESIZE)
            self._memory = mmap.mmap(fd, mmap.PAGESIZE)
        finally:
            os.close(fd)
        self._words = memoryview(self._memory).cast("I")

    def __getattr__(self, name):
        if name in _WORDS:
            return self._words[_WORDS.index(name)]
        raise AttributeError(name)

    def _set(self, **words):
        for name, value in words.items():
            self._words[_WORDS.index(name)] = value

    def arm(self, point, nth, action, parent, in_parent=False):
        """parent: pid of the pool's owner. in_parent: whether its own passages count or those of its workers."""
        self._set(point=0, passed=0, hit=0, released=0)
        self._set(nth=nth, action=ACTIONS[action], parent=parent, in_parent=int(in_parent), point=POINTS[point].number)

    def disarm(self):
        self._set(point=0)

    def release(self):
        self._set(released=1)

    def close(self):
        self._words.release()
        self._memory.close()
