# cython: language_level=3
"""Holding back Python's signal handlers, which may raise anywhere, while something must not be left half done.

A handler runs between two bytecodes of the main thread, and there are none here: that is why this is compiled. Called by any
thread of the parent; touches nothing of a pool.
"""

import os
import sys
import threading
import time

import _signal  # what `signal` has is wrapped in bytecode

cdef double PATIENCE = 5.0  # seconds

cdef list entered = []  # the blocks that the main thread is in, outermost first


cdef class held:
    """`with held() as mask:` signals that have a Python handler wait until the block is left, then their handlers run.

    block: also block these signals in this thread, so that processes and threads begun here begin without them. mask: the set of
    numbers that this thread blocked before. A block that takes longer than five seconds does not hold back the main thread's
    handlers any more: it may be stuck.
    """
    cdef bint block
    cdef object mask
    cdef dict handlers  # that are replaced, by number
    cdef list noted     # numbers of the signals that came
    cdef double since

    def __init__(self, bint block=False):
        self.block = block

    def __enter__(self):
        self.handlers = {}
        self.noted = []
        self.since = time.monotonic()
        found = {}
        for number in _signal.valid_signals():
            handler = _signal.getsignal(number)
            if callable(handler):
                found[number] = handler
        main = threading.current_thread() is threading.main_thread()
        self.mask = _signal.pthread_sigmask(_signal.SIG_BLOCK, found if self.block else ())
        if not main:
            return self.mask
        entered.append(self)
        try:
            for number, handler in found.items():
                self.handlers[number] = handler
                _signal.signal(number, self.note)
        except BaseException:
            self.leave()
            raise
        return self.mask

    def __exit__(self, kind, error, traceback):
        self.leave()

    def note(self, number, frame):
        """The handler in the block."""
        if time.monotonic() - self.since > PATIENCE:
            self.handlers[number](number, frame)
        elif number not in self.noted:
            self.noted.append(number)

    cdef int leave(self) except -1:
        cdef object raised = None
        handlers = dict(self.handlers)
        if self.block:
            # While the handlers are still note(): what the mask held back comes now.
            _signal.pthread_sigmask(_signal.SIG_SETMASK, self.mask)
        if self in entered:
            raised = self.restore()
            entered.remove(self)
        noted, self.noted = self.noted, []
        for number in noted:
            try:
                handlers[number](number, sys._getframe())
            except BaseException as error:
                raised = raised or error
        if raised is not None:
            raise raised
        return 0

    cdef object restore(self):
        """Puts the handlers back. Returns what one of them raised that came at once, or None."""
        cdef object raised = None
        cdef int tries
        while self.handlers:
            number, handler = self.handlers.popitem()
            for tries in range(1000):
                if _signal.getsignal(number) != self.note:
                    break
                try:
                    # Runs what is due before it changes anything.
                    _signal.signal(number, handler)
                except BaseException as error:
                    raised = raised or error
        return raised


def start(thread):
    """Starts a threading.Thread: when this raises, it does not run; no signal handler leaves that open."""
    with held():
        thread.start()


def _after_fork_in_child():
    cdef held block
    for block in reversed(entered):
        block.restore()
        block.noted = []
    entered.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
