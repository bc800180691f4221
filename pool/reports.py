"""How a task's error travels from the worker to the parent.

Runs in a worker, which imports as little as it can: what only an error needs is imported when there is one. A task may have left a
worker that can open no file (its descriptors used up, a new root), so nothing here depends on such an import.
"""

import pickle
from multiprocessing.reduction import ForkingPickler

from pool._codec import encode


def encode_error(error, result=None):
    """The bytes in which a worker reports an error: the traceback as text, and the pickled exception.

    error: the exception. result: (value,) if the task went well and `error` is why its value could not be sent.
    Never raises: what cannot be pickled is replaced by a MaybeEncodingError.
    """
    try:
        return _encode_error(error, result)
    except Exception:
        return encode((None, _not_encoded(_Unprintable(type(error).__name__), _Unprintable("an error's report"))))


def _encode_error(error, result):
    if result is not None:
        return encode((None, _not_encoded(error, result[0])))
    _add_hint(error)
    text = _traceback_text(error)
    try:
        pickled = bytes(ForkingPickler.dumps(error, pickle.HIGHEST_PROTOCOL))
    except BaseException as reason:
        text, pickled = None, _not_encoded(reason, error)
    return encode((text, pickled))


def _not_encoded(reason, value):
    """The pickle of a MaybeEncodingError. It becomes one in the parent: here its module may not have been imported."""
    return bytes(ForkingPickler.dumps(_Call(_maybe_encoding_error, (_repr(reason), _repr(value)))))


class _Call:
    """Is pickled as a call, and unpickled as what that returns."""

    def __init__(self, function, args):
        self._call = function, args

    def __reduce__(self):
        return self._call


def _maybe_encoding_error(reason, value):
    from multiprocessing.pool import MaybeEncodingError

    error = MaybeEncodingError(reason, value)
    error.exc, error.value = reason, value  # it has taken the repr() of them once more
    return error


class _Unprintable:
    """Stands for an object whose repr() fails."""

    def __init__(self, kind):
        self.kind = kind

    def __repr__(self):
        return f"<unprintable {self.kind} object>"


def _repr(value):
    # Exactly str: a subclass may not be picklable itself.
    try:
        text = repr(value)
        if type(text) is str:
            return text
    except BaseException:
        pass
    return repr(_Unprintable(type(value).__name__))


def _traceback_text(error):
    try:
        import traceback

        text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    except BaseException:
        text = f"{_frames(error)}{type(error).__name__}: <its traceback cannot be printed>\n"
    return f'\n"""\n{text}"""'


def _frames(error):
    lines = ["Traceback (most recent call last):\n"]
    at = error.__traceback__
    while at is not None:
        code = at.tb_frame.f_code
        lines.append(f'  File "{code.co_filename}", line {at.tb_lineno}, in {code.co_name}\n')
        at = at.tb_next
    return "".join(lines)


def _add_hint(error):
    try:
        lacking = isinstance(error, AttributeError) and "__main__" in str(error)
    except Exception:
        return  # its __str__ is the user's
    if lacking:
        error.add_note("Was it defined after the pool was started? Workers know what existed when they started.")
