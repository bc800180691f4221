# cython: language_level=3
"""Holding back Python's signal handlers, which may raise anywhere, while something must not be left half done.

A handler runs between two bytecodes of the main thread, and there are none here: that is why this is compiled. Called by any
thread of the parent; touches nothing of a pool.
"""

import functools
import os
import sys
import threading
import time
from _thread import get_ident

import _signal  # what `signal` has is wrapped in bytecode

from posix.signal cimport sigaction, sigaction_t
from posix.unistd cimport getpid

cdef double PATIENCE = 5.0  # seconds

cdef list entered = []  # the blocks that the main thread is in, outermost first
cdef object main_ident = threading.main_thread().ident


cdef int replace(int number, object handler) except -1:
    """Sets Python's handler, and nothing else: a C handler that passes the signal on to Python's, and SA_RESTART, stay."""
    cdef sigaction_t action
    cdef bint known = sigaction(number, NULL, &action) == 0
    _signal.signal(number, handler)
    if known:
        sigaction(number, &action, NULL)
    return 0


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

    def __cinit__(self, bint block=False):
        self.block = block

    def __enter__(self):
        self.handlers = {}
        self.noted = []
        self.since = time.monotonic()
        found = handlers_now()
        self.mask = _signal.pthread_sigmask(_signal.SIG_BLOCK, ())
        try:
            if get_ident() == main_ident:
                entered.append(self)
                for number, handler in found.items():
                    self.handlers[number] = handler
                    replace(number, self.note)
            if self.block:
                # Last: it runs the handlers of what is due after it has changed the mask.
                _signal.pthread_sigmask(_signal.SIG_BLOCK, found)
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
                    replace(number, handler)
                except BaseException as error:
                    raised = raised or error
        return raised


cdef dict handlers_now():
    """The Python handlers of signals, by number."""
    found = {}
    for number in _signal.valid_signals():
        handler = _signal.getsignal(number)
        if callable(handler):
            found[number] = handler
    return found


def call(function):
    """function(), as in a held() block, which begins before any bytecode of the call."""
    with held():
        function()


cdef class Last:
    """The callback of a weak reference, which is `forget`ten: function(), as by call(), in the process that made this. What a handler
    raises at the first step of an interpreted one is swallowed, and the function never called."""
    cdef object function, forget
    cdef int pid

    def __init__(self, function, forget):
        self.function = function
        self.forget = forget
        self.pid = getpid()

    def __call__(self, reference):
        self.forget(reference)
        # At the very end of the interpreter this module is empty; the workers see by themselves that the program is gone.
        if getpid() == self.pid and _signal is not None:
            call(self.function)


def start(thread):
    """Starts a threading.Thread: when this raises, it does not run; no signal handler leaves that open."""
    with held():
        thread.start()


def is_interrupt(error):
    """True if a signal handler of the main thread has raised this error in the middle of what this thread, the main one, was doing
    for the pool: it is no outcome of that. Told by the handler's frame in its traceback; a Ctrl-C by its type."""
    if get_ident() != main_ident:
        return False
    if isinstance(error, KeyboardInterrupt):
        return True
    codes = set()
    for handler in handlers_now().values():
        while isinstance(handler, functools.partial):
            handler = handler.func
        handler = getattr(handler, "__func__", handler)
        if not hasattr(handler, "__code__"):
            handler = getattr(type(handler), "__call__", None)
        codes.add(getattr(handler, "__code__", None))
    codes.discard(None)
    traceback = error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code in codes:
            return True
        traceback = traceback.tb_next
    return False


def _after_fork_in_child():
    global main_ident
    cdef held block
    main_ident = get_ident()
    for block in reversed(entered):
        block.restore()
        block.noted = []
    entered.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
