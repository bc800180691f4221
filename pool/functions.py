"""How a callable reaches a worker: by reference where that works, by value where it does not.

A blob is the length of the first pickle (8 bytes), a fingerprint of the function (4 bytes), a pickle by reference (or nothing), a
pickle by value (or nothing). The worker tries them in this order; what the reference leads to must have the fingerprint.
"""

import functools
import pickle
import struct
import sys
import types
import weakref
import zlib
from multiprocessing.reduction import ForkingPickler

from pool._codec import dump_by_value

_HEAD = struct.Struct("<QI")


class FunctionEncoder:
    """Encodes callables for the workers of one pool.

    forked: workers are forks of this process, so they know what `__main__` held when the pool was made.
    """

    def __init__(self, forked):
        self._forked = forked
        self._known = None
        main = sys.modules.get("__main__")
        if forked and main is not None:
            # Weakly: at the program's end the pool must not keep what `__main__` holds.
            self._known = {
                name: weakref.ref(value) for name, value in vars(main).items() if isinstance(value, (types.FunctionType, type))
            }

    def __call__(self, target):
        """(blob, may be cached by identity, name). Raises what pickling raises."""
        plain = _is_plain(target)
        name = getattr(target, "__qualname__", None) or type(target).__qualname__
        try:
            reference = bytes(ForkingPickler.dumps(target, pickle.HIGHEST_PROTOCOL))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            return _blob(target, b"", _by_value(target, error)), False, str(name)
        value = b""
        if b"__main__" in reference and not (self._knows(target) if plain else self._forked):
            # The worker may find no such name: an interactive session, python -c, below the __main__ guard, or too new.
            try:
                value = _by_value(target, None)
                if plain and self._has_older(target):
                    reference = b""
            except Exception:
                value = b""
        return _blob(target, reference, value), plain, str(name)

    def _knows(self, target):
        known = None if self._known is None else self._known.get(target.__qualname__)
        return known is not None and known() is target

    def _has_older(self, target):
        # Redefined since the workers were forked: by name they would run what it was then.
        return self._known is not None and target.__qualname__ in self._known


_at_start = None


def forget_main():
    """In a worker, first of all: what the worker remembers that has forked it is not what this one began with."""
    global _at_start
    _at_start = None


def remember_main():
    """In a worker, before it runs code of the user's: what `__main__` holds. What has another value later, the worker has set itself.
    """
    global _at_start
    _at_start = dict(_main_names())


def _main_names():
    """The globals that functions of `__main__` see. In a spawned process that is not the module's own dict, but what it was filled
    from."""
    main = sys.modules.get("__main__")
    names = {} if main is None else vars(main)
    for value in list(names.values()):
        if type(value) is types.FunctionType and value.__module__ in ("__main__", "__mp_main__"):
            return value.__globals__
    return names


def load_function(blob):
    """In a worker: the callable in a blob. Raises what unpickling raises."""
    if _at_start is None:
        remember_main()
    size, fingerprint = _HEAD.unpack_from(blob)
    reference, value = blob[_HEAD.size : _HEAD.size + size], blob[_HEAD.size + size :]
    if not len(reference):
        return _load_value(value)
    try:
        target = pickle.loads(reference)
    except (AttributeError, ImportError):
        if not len(value):
            raise
        return _load_value(value)
    if len(value) and _fingerprint(target) != fingerprint:
        return _load_value(value)
    return target


def _load_value(value):
    target = pickle.loads(value)
    main = sys.modules["__main__"]
    names, own = _globals_of(target), _main_names()
    # Instances of classes that came by value go back by name: this process's `__main__` must know the name.
    for item in (target, *names.values()):
        if isinstance(item, type) and item.__module__ == "__main__" and item.__qualname__.isidentifier():
            setattr(main, item.__qualname__, item)
            own[item.__qualname__] = _at_start[item.__qualname__] = item
    # Globals came along with the values that they have in the program; what an initializer has set here holds here, as it does for
    # functions that came by name.
    names.update((name, own[name]) for name in names.keys() & own.keys() if own[name] is not _at_start.get(name, _at_start))
    return target


def call_any(target, args, kwds):
    """target(*args, **kwds) for arguments of any type: interpreted, so the error for a wrong one is Python's own."""
    return target(*args, **kwds)


def _globals_of(target):
    """The globals of a function of `__main__`, or an empty dict."""
    while isinstance(target, functools.partial):
        target = target.func
    target = getattr(target, "__func__", target)
    return getattr(target, "__globals__", {}) if getattr(target, "__module__", None) == "__main__" else {}


def _is_plain(target):
    """True for functions and classes of a module and for builtins: they are pickled as a name, so identity says it all."""
    if type(target) is types.BuiltinFunctionType:
        return isinstance(target.__self__, (types.ModuleType, type(None)))
    return type(target) in (types.FunctionType, type) and "<locals>" not in target.__qualname__


def _by_value(target, error):
    try:
        return dump_by_value(target)
    except Exception:
        if error is None:
            raise
        raise error from None


def _fingerprint(target):
    """Tells a function from another that had the same name before: the program may have redefined it after the workers started."""
    code = getattr(target, "__code__", None)
    return 0 if type(code) is not types.CodeType else zlib.crc32(code.co_code, code.co_firstlineno)


def _blob(target, reference, value):
    return _HEAD.pack(len(reference), _fingerprint(target)) + reference + value
