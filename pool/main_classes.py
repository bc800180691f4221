"""Classes of `__main__` in what travels by value: a worker that has such a class itself takes its own.

Two classes of one name would be a trap: instances travel by name, and are none of the copy.
"""

import functools
import sys
import types
import weakref
import zlib

# Of this process: made here from what came along.
_copies = weakref.WeakSet()


def reduce_class(cls, reduced, known):
    """What a pickler is to write for a class.

    reduced: what cloudpickle would write. known: True, the worker has this very class; False, it has not; None, it may have one of
    this name, and takes it if it is the same by its functions.
    """
    if known is False or not isinstance(reduced, tuple) or len(reduced) != 6 or _find(cls.__qualname__) is not cls:
        return reduced
    if known:
        return _own, (cls.__qualname__,)
    make, arguments, state, _, _, set_state = reduced
    return _make, (cls.__qualname__, _fingerprint(cls), make, arguments), (set_state, state), None, None, _set_state


def _find(qualname):
    """The class of `__main__`, or None."""
    try:
        found = functools.reduce(getattr, qualname.split("."), sys.modules["__main__"])
    except (AttributeError, KeyError):
        return None
    return found if isinstance(found, type) else None


def _own(qualname):
    found = _find(qualname)
    if found is None:
        raise AttributeError(f"the worker's __main__ has no class {qualname} any more")
    return found


def _make(qualname, fingerprint, make, arguments):
    own = _find(qualname)
    if own is not None and own not in _copies and _fingerprint(own) == fingerprint:
        return own
    made = make(*arguments)
    _copies.add(made)
    return made


def _set_state(cls, state):
    if cls in _copies:
        set_state, state = state
        set_state(cls, state)


def _fingerprint(cls):
    """Tells a class from another that had the same name before, by the code of its methods."""
    found = 0
    for name, value in sorted(vars(cls).items()):
        value = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        code = getattr(value, "__code__", None)
        if type(code) is types.CodeType:
            found = zlib.crc32(repr((name, code.co_firstlineno, _words(code))).encode("utf-8", "backslashreplace"), found)
    return found


def _words(code):
    """What a code object says, as something whose repr is the same in every process."""
    constants = [_words(value) if type(value) is types.CodeType else value for value in code.co_consts]
    return code.co_code, code.co_names, [sorted(map(repr, value)) if type(value) is frozenset else value for value in constants]
