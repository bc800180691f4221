"""What this process holds, read so that it says something about what it uses."""

import contextlib
import ctypes
import gc

M_MMAP_THRESHOLD = -3
MMAP_BYTES = 1 << 17

_libc = ctypes.CDLL(None)


def steady_malloc():
    """glibc maps large blocks one by one, and gives them back, until it finds that many are freed; from then on they leave holes.
    This keeps it at the first."""
    with contextlib.suppress(AttributeError):
        _libc.mallopt(M_MMAP_THRESHOLD, MMAP_BYTES)


def anonymous_kib():
    """Anonymous memory in KiB, without what is garbage or free."""
    gc.collect()
    with contextlib.suppress(AttributeError):
        _libc.malloc_trim(0)
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssAnon:"))
