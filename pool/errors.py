"""Errors that the pool itself raises. Imported by the parent; what a worker says of a task's error is in reports.py."""

import copy
import multiprocessing
import signal
from multiprocessing.pool import MaybeEncodingError, RemoteTraceback

try:
    from concurrent.futures.process import BrokenProcessPool
except RuntimeError:
    # It cannot be imported any more after the main thread's end; a program's first pool can still be made. Nobody knows it by this
    # name then.
    from concurrent.futures import BrokenExecutor as BrokenProcessPool

__all__ = ["MaybeEncodingError", "PoolTerminatedError", "RemoteTraceback", "TaskTimeoutError", "WorkerLostError"]


class WorkerLostError(BrokenProcessPool):
    """The worker process that ran this task died, or the pool could not start workers at all.

    Only the tasks that the dead worker had started fail with it; the pool lives on. It is a BrokenProcessPool so that handlers
    written for concurrent.futures catch it.

    Attributes:
        pid: int or None, the process.
        exitcode: int or None, as in multiprocessing.Process: negative for a signal, None if unknown.
        function: str or None, the qualified name of what was called.
        index: int or None, the task's place in its job (the first task's, for a chunk).
    """

    def __init__(self, message, pid=None, exitcode=None, function=None, index=None):
        super().__init__(message)
        self.pid = pid
        self.exitcode = exitcode
        self.function = function
        self.index = index

    def __reduce__(self):
        return type(self), (*self.args, self.pid, self.exitcode, self.function, self.index)


class TaskTimeoutError(multiprocessing.TimeoutError):
    """A task ran for longer than its task_timeout, and its worker was killed for it.

    Attributes:
        seconds: float or None, the limit.
        pid: int or None, the process that was killed.
        function: str or None, the qualified name of what was called.
        index: int or None, the task's place in its job.
    """

    def __init__(self, message, seconds=None, pid=None, function=None, index=None):
        super().__init__(message)
        self.seconds = seconds
        self.pid = pid
        self.function = function
        self.index = index

    def __reduce__(self):
        return type(self), (*self.args, self.seconds, self.pid, self.function, self.index)


class PoolTerminatedError(RuntimeError):
    """The pool was terminated while this call was pending."""


def describe_exit(exitcode):
    """How a process ended, in words. exitcode: as in multiprocessing.Process, or None."""
    if exitcode is None:
        return "its exit status is unknown"
    if exitcode >= 0:
        return f"it exited with code {exitcode}"
    try:
        name = signal.Signals(-exitcode).name
    except ValueError:
        name = "no name"
    return f"it was killed by signal {-exitcode} ({name})"


def worker_lost(pid, exitcode, function, index, oom=False):
    """The error of a task whose worker died. oom: the kernel has just killed some process for lack of memory."""
    guess = "; possibly the OOM killer, which was at work in this cgroup" if oom else ""
    return WorkerLostError(
        f"worker process {pid} died while it ran {function}, task {index}: {describe_exit(exitcode)}{guess}",
        pid, exitcode, function, index,
    )


def fresh(error):
    """An error like this one to raise somewhere else: raised again and again, one object would collect the frames of all callers."""
    try:
        again = copy.copy(error)
        again.__cause__ = error.__cause__
    except Exception:
        return error
    return again


def task_timeout(pid, function, index, seconds):
    """The error of a task that took too long."""
    return TaskTimeoutError(
        f"{function}, task {index}, ran for longer than its limit of {seconds:g} s; its worker process {pid} was killed",
        seconds, pid, function, index,
    )
