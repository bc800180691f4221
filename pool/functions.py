"""How a callable reaches a worker: by reference where that works, by value where it does not.

A blob is the length of the first part (8 bytes), a pickle by reference (or nothing), a pickle by value (or nothing). The worker
tries them in this order.
"""

import pickle
import struct
import sys
import types
from multiprocessing.reduction import ForkingPickler

_LENGTH = struct.Struct("<Q")


class FunctionEncoder:
    """Encodes callables for the workers of one pool.

    forked: workers are forks of this process, so they know what `__main__` held when the pool was made.
    """

    def __init__(self, forked):
        self._forked = forked
        self._known = None
        main = sys.modules.get("__main__")
        if forked and main is not None:
            self._known = {name: id(value) for name, value in vars(main).items() if isinstance(value, (types.FunctionType, type))}

    def __call__(self, target):
        """(blob, may be cached by identity, name). Raises what pickling raises."""
        plain = _is_plain(target)
        name = getattr(target, "__qualname__", None) or type(target).__qualname__
        try:
            reference = bytes(ForkingPickler.dumps(target, pickle.HIGHEST_PROTOCOL))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            return _blob(b"", _by_value(target, error)), False, str(name)
        value = b""
        if b"__main__" in reference and not (self._knows(target) if plain else self._forked):
            # The worker may find no such name: an interactive session, python -c, below the __main__ guard, or too new.
            try:
                value = _by_value(target, None)
            except Exception:
                value = b""
        return _blob(reference, value), plain, str(name)

    def _knows(self, target):
        return self._known is not None and self._known.get(target.__qualname__) == id(target)


def load_function(blob):
    """In a worker: the callable in a blob. Raises what unpickling raises."""
    (size,) = _LENGTH.unpack_from(blob)
    reference, value = blob[_LENGTH.size : _LENGTH.size + size], blob[_LENGTH.size + size :]
    if not len(reference):
        return pickle.loads(value)
    try:
        return pickle.loads(reference)
    except (AttributeError, ImportError):
        if not len(value):
            raise
        return pickle.loads(value)


def _is_plain(target):
    """True for functions and classes of a module and for builtins: they are pickled as a name, so identity says it all."""
    if type(target) is types.BuiltinFunctionType:
        return isinstance(target.__self__, (types.ModuleType, type(None)))
    return type(target) in (types.FunctionType, type) and "<locals>" not in target.__qualname__


def _by_value(target, error):
    import cloudpickle

    try:
        return cloudpickle.dumps(target, protocol=pickle.HIGHEST_PROTOCOL)
    except Exception:
        if error is None:
            raise
        raise error from None


def _blob(reference, value):
    return _LENGTH.pack(len(reference)) + reference + value
