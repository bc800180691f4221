"""Classes of `__main__` in what travels by value: a worker that has the same class itself takes its own.

Two classes of one name would be a trap: instances travel by name, and are none of the copy. "The same" is all that its source and the
program have given the class so far, bases included; with any doubt it is the copy.
"""

import copyreg
import functools
import itertools
import sys
import types
import weakref
import zlib

# Of this process: made here from what came along.
_copies = weakref.WeakSet()
# Attributes that say nothing of a class, or not the same in every process.
_IDLE = frozenset([
    "__module__", "__dict__", "__weakref__", "__slotnames__", "__static_attributes__", "__annotations_cache__", "_abc_impl",
    "_value2member_map_",
])
# Those that come of their being asked for.
_IDLE_IF_EMPTY = frozenset(["__annotations__", "__annotate_func__", "__annotate__"])
_ATOMS = (type(None), bool, int, float, complex, str, bytes, type(...), type(NotImplemented), range)
_MOST = 20_000  # objects that are looked at


def reduce_class(cls, reduced):
    """What a pickler is to write for a class of `__main__`. reduced: what cloudpickle would write."""
    if not isinstance(reduced, tuple) or len(reduced) != 6 or _find(cls.__qualname__) is not cls:
        return reduced
    fingerprint = _fingerprint(cls)
    if fingerprint is None:
        return reduced
    make, arguments, state, _, _, set_state = reduced
    return _make, (cls.__qualname__, fingerprint, make, arguments), (set_state, state), None, None, _set_state


def _find(qualname):
    """The class of `__main__`, or None."""
    try:
        found = functools.reduce(getattr, qualname.split("."), sys.modules["__main__"])
    except Exception:
        # A module may have a `__getattr__`.
        return None
    return found if isinstance(found, type) else None


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
    """Two numbers that tell a class from any other; None if there is something in it that cannot be told."""
    seen, count = {}, itertools.count()

    def describe(value):
        if next(count) > _MOST:
            raise ValueError("too much to look at")
        if type(value) in _ATOMS:
            return type(value).__name__, repr(value)
        if id(value) in seen:
            return "seen", seen[id(value)][0]
        # Kept, so that no other object has its place.
        seen[id(value)] = len(seen), value
        return (type(value).__qualname__, *_parts(value, describe))

    try:
        text = repr(describe(cls)).encode("utf-8", "backslashreplace")
        return len(text), zlib.crc32(text)
    except Exception:
        # Whatever belongs to the program may raise anything when it is looked at.
        return None


def _parts(value, describe):
    if type(value) in (tuple, list):
        return map(describe, value)
    if type(value) in (set, frozenset):
        if not all(type(item) in _ATOMS for item in value):
            raise TypeError("their order is another one in each process")
        return sorted(repr(describe(item)) for item in value)
    if type(value) in (dict, types.MappingProxyType):
        return ((describe(key), describe(item)) for key, item in value.items())
    if isinstance(value, type):
        return _parts_of_class(value, describe)
    if type(value) is types.FunctionType:
        # The namespace in which annotations are looked up is the class's own.
        cells = [cell.cell_contents for name, cell in zip(value.__code__.co_freevars, value.__closure__ or ()) if name != "__classdict__"]
        return map(describe, (value.__code__, value.__defaults__, value.__kwdefaults__, vars(value), cells))
    if type(value) is types.CodeType:
        names = value.co_names, value.co_varnames, value.co_freevars, value.co_cellvars
        return value.co_code, value.co_flags, value.co_firstlineno, names, describe(value.co_consts)
    if type(value) in (classmethod, staticmethod):
        return (describe(value.__func__),)
    if type(value) is property:
        return map(describe, (value.fget, value.fset, value.fdel))
    if type(value) is functools.cached_property:
        return map(describe, (value.func, value.attrname))
    if type(value) is types.ModuleType:
        return (_shown(value.__name__),)
    if type(value) in (types.MemberDescriptorType, types.GetSetDescriptorType, types.WrapperDescriptorType,
                       types.MethodDescriptorType, types.ClassMethodDescriptorType):
        return value.__qualname__, describe(value.__objclass__)
    if type(value) is types.BuiltinFunctionType:
        return value.__name__, describe(value.__self__)
    reduce = copyreg.dispatch_table.get(type(value))
    reduced = reduce(value) if reduce else value.__reduce_ex__(4)
    if type(reduced) is str:
        return _shown(value.__class__.__module__), reduced
    return map(describe, (*reduced[:3], *(list(items or ()) for items in reduced[3:5]), *reduced[5:]))


def _parts_of_class(cls, describe):
    if _shown(cls.__module__) != "__main__":
        return cls.__module__, cls.__qualname__
    attributes = {
        name: value for name, value in vars(cls).items() if name not in _IDLE and (value or name not in _IDLE_IF_EMPTY)
    }
    return cls.__qualname__, describe(type(cls)), describe(cls.__bases__), describe(attributes)


def _shown(module):
    """The name of a module, which for the main one is another in spawned processes."""
    return "__main__" if module == "__mp_main__" else module
