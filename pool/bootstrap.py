"""How a worker that cannot even import the main module tells the pool why.

With spawn and forkserver each worker imports the main module before it is told what to do. A program that makes a pool there
without asking whether it is `__main__` does so in every worker, where multiprocessing refuses with an error. The process ends with
it, and has not been told which seat is its own: it looks for the segment among its descriptors, for the seat by its own name.
"""

import binascii
import os
from multiprocessing import process

from pool._worker import Worker, seat_for
from pool.functions import call_any, load_function
from pool.reports import encode_error

# What the kernel calls a descriptor of a segment (csrc/segment.c).
_SEGMENT = "/memfd:ringpool (deleted)"


def digest(name):
    """A process's name in 32 bits, never 0."""
    return binascii.crc32(name.encode("utf-8", "surrogatepass")) or 1


def tell(error):
    """In whatever process: if it is a worker that has not begun, and `error` is why it could not make a pool, the worker's own
    pool is told. Never raises an Exception, never waits."""
    if not isinstance(error, RuntimeError) or not getattr(process.current_process(), "_inheriting", False):
        return
    try:
        name = digest(process.current_process().name)
        for fd in _segments():
            seat = seat_for(fd, name)
            if seat is not None:
                worker = Worker(fd, seat, load_function, call_any, encode_error)
                # A traceback of any length must not keep the error itself from being told.
                worker.main_failed(encode_error(error)) or worker.main_failed(encode_error(type(error)(str(error))))
                return
    except Exception:
        pass  # the error is on its way to standard error, and the pool notices that the process ends


def _segments():
    """Descriptors of this process that may be a segment's."""
    for entry in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{entry}") == _SEGMENT:
                yield int(entry)
        except OSError:
            pass  # the listing's own, for one
