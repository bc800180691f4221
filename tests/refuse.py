"""Makes the kernel refuse system calls, to this process and all that come from it, for good: a seccomp filter. Linux, 64 bit."""

import ctypes
import os
import platform
import struct

NUMBERS = {
    "x86_64": {"arch": 0xC000003E, "seccomp": 317, "memfd_create": 319, "pidfd_open": 434, "fallocate": 285, "ftruncate": 77,
               "mmap": 9, "madvise": 28, "futex": 202},
    "aarch64": {"arch": 0xC00000B7, "seccomp": 277, "memfd_create": 279, "pidfd_open": 434, "fallocate": 47, "ftruncate": 46,
                "mmap": 222, "madvise": 233, "futex": 98},
}
NEW_PRIVILEGES = 38  # PR_SET_NO_NEW_PRIVS
LOAD, MASK, EQUAL, RETURN = 0x20, 0x54, 0x15, 0x06
ALLOW, ERRNO = 0x7FFF0000, 0x00050000
ALL_THREADS = 1

# What the pool's own calls have and those of the C library have not.
SHARED_WITHOUT_RESERVE = (3, 0x4001, 0x4001)  # mmap: MAP_SHARED | MAP_NORESERVE
# The half of all addresses and offsets that has this bit: a large block lies on both sides.
EVERY_OTHER_32_MIB = 1 << 25, 1 << 25
POPULATE_WRITE = (2, 0xFFFFFFFF, 23)  # madvise
BETWEEN_PROCESSES = (1, 0xFFFE, 0)  # futex: FUTEX_WAIT and FUTEX_WAKE without FUTEX_PRIVATE_FLAG


def refuse(call, error, condition=None):
    """From now on `call` (a name in NUMBERS) fails with `error` (an errno).

    condition: (number of the argument, mask, value): only where this holds for the lower 32 bits of that argument.
    """
    numbers = NUMBERS[platform.machine()]
    steps = [(LOAD, 0, 0, 4), (EQUAL, 0, "allow", numbers["arch"]), (LOAD, 0, 0, 0), (EQUAL, 0, "allow", numbers[call])]
    if condition is not None:
        argument, mask, value = condition
        steps += [(LOAD, 0, 0, 16 + 8 * argument), (MASK, 0, 0, mask), (EQUAL, 0, "allow", value)]
    steps += [(RETURN, 0, 0, ERRNO | error), (RETURN, 0, 0, ALLOW)]
    last = len(steps) - 1
    code = b"".join(
        struct.pack("<HBBI", kind, yes, last - place - 1 if no == "allow" else no, value)
        for place, (kind, yes, no, value) in enumerate(steps)
    )
    library = ctypes.CDLL(None, use_errno=True)
    program = ctypes.create_string_buffer(code)
    head = ctypes.create_string_buffer(struct.pack("<HxxxxxxQ", len(steps), ctypes.addressof(program)))
    if library.prctl(NEW_PRIVILEGES, 1, 0, 0, 0) or library.syscall(numbers["seccomp"], 1, ALL_THREADS, head):
        raise OSError(ctypes.get_errno(), f"no filter of system calls: {os.strerror(ctypes.get_errno())}")
