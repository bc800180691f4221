"""Holding back Python's signal handlers, which may raise anywhere, while something must not be left half done."""

import contextlib
import signal


@contextlib.contextmanager
def held():
    """Signals that have a Python handler wait until the block is left. Gives the signal mask of before, a set of numbers.

    Only for this thread: where others do not block a signal, its handler may still run in the main thread.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, {n for n in signal.valid_signals() if callable(signal.getsignal(n))})
        yield before
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
