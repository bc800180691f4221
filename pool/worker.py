"""What a worker process does: sits down at its place, runs the initializer, serves tasks, leaves.

Runs in the worker, started by a multiprocessing context. Imports as little as it can: a spawned worker waits for all of it.
"""

import _signal  # what `signal` adds makes enums of everything, and each function that a forked worker touches costs page faults
import multiprocessing
import os
from multiprocessing import context, reduction

from pool._worker import Worker
from pool.functions import call_any, forget_main, load_function, remember_main
from pool.reports import encode_error


class Handle:
    """The descriptors that a worker needs, as an argument of its process: of the segment, and of the owner a pidfd and a pipe whose
    other end goes with its program (-1: none).

    Pickled only while a process is being started, by the start method's own way to pass descriptors.
    """

    def __init__(self, segment, owner, program):
        self.segment = segment
        self.owner = owner
        self.program = program

    def __getstate__(self):
        context.assert_spawning(self)
        return [reduction.DupFd(fd) if fd >= 0 else None for fd in (self.segment, self.owner, self.program)]

    def __setstate__(self, state):
        self.segment, self.owner, self.program = (-1 if duplicate is None else duplicate.detach() for duplicate in state)
        for fd in (self.segment, self.owner, self.program):
            if fd >= 0:
                os.set_inheritable(fd, False)


def work(handle, seat, mask, initializer, maxtasks, most_bytes, outlive):
    """The target of a worker process.

    seat: which control block and ring are this worker's. mask: the signals to block, or None to leave that as it is.
    initializer: a function without arguments, or None. maxtasks: tasks to serve, or None. most_bytes: of memory that it may hold
    after a task, or None.
    outlive: a task that runs when the pool's owner is gone is run to its end.
    """
    try:
        _forget_handlers(mask)
        worker = Worker(handle.segment, seat, load_function, call_any, encode_error)
        _watch_parent_process(handle.owner)
        worker.watch(_owner(handle), handle.program, os.getppid(), outlive)
        # The mapping stays; a descriptor that a task closes or passes on would only be one more thing to leak.
        os.close(handle.segment)
        forget_main()
        if initializer is not None:
            remember_main()
            try:
                initializer()
            except BaseException as error:
                worker.boot_failed(encode_error(error))
                raise SystemExit(1) from None
        if worker.stand_by():
            worker.serve(-1 if maxtasks is None else maxtasks, most_bytes or 0)
    except KeyboardInterrupt:
        # Ctrl-C outside a task: the owner decides what becomes of the pool, a traceback here would only add noise.
        raise SystemExit(130) from None


def _watch_parent_process(owner):
    """Makes the owner's pidfd the sentinel of parent_process(), if there is one. multiprocessing's is a pipe: every process that
    was forked meanwhile holds its other end too, and with a fork server the supervisor gives that end up (supervisor.py)."""
    parent = multiprocessing.parent_process()
    if owner >= 0 and parent is not None:
        pipe, parent._sentinel = parent._sentinel, owner
        os.close(pipe)


def _owner(handle):
    """What tells of the owner's end: a pidfd; where there is none, multiprocessing's pipe, unless the parent will do."""
    if handle.owner >= 0:
        return handle.owner
    parent = multiprocessing.parent_process()
    # A fork server ends only after its last worker: who watched it would wait for himself.
    return -1 if parent is None or parent.pid == os.getppid() else parent.sentinel


def _forget_handlers(mask):
    """Python handlers that came along over fork are the parent's: they would swallow the signal that ends this process. And a
    Ctrl-C that came while this process started was meant for the parent."""
    for number, default in ((_signal.SIGTERM, _signal.SIG_DFL), (_signal.SIGINT, _signal.default_int_handler)):
        handler = _signal.getsignal(number)
        if callable(handler) and handler is not default:
            _signal.signal(number, default)
    if mask is not None:
        if _signal.SIGINT not in mask:
            handler = _signal.signal(_signal.SIGINT, _signal.SIG_IGN)  # drops one that is pending
            _signal.signal(_signal.SIGINT, handler)
        _signal.pthread_sigmask(_signal.SIG_SETMASK, mask)
