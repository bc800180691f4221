"""Descriptors of the pool's own, in a process whose program may close numbers that it does not know.

The next file that it opens has such a number then, and is not the pool's to write to or to close.
"""

import os


class Descriptor:
    """A number, and what it stands for. fd: int, -1: none."""

    def __init__(self, fd):
        self.fd = fd
        self._file = self._identity()

    def _identity(self):
        try:
            found = os.fstat(self.fd)
        except OSError:
            return None
        return found.st_dev, found.st_ino, found.st_mode

    def there(self):
        """Whether it still stands for the same. Of eventfds and the like no more can be told than that it is one of them."""
        return self.fd >= 0 and self._file is not None and self._identity() == self._file

    def number(self):
        """The number, or -1 if it has become another's."""
        return self.fd if self.there() else -1

    def close(self):
        """Also again; does nothing to what is another's."""
        if self.there():
            os.close(self.fd)
        self.fd = -1


NONE = Descriptor(-1)


class Bell:
    """Wakes the thread that polls it. Other threads and signal handlers may ring. OSError if there is no descriptor left."""

    def __init__(self, poll, event):
        self._poll, self._event = poll, event
        self._descriptor = NONE
        self._hang()

    def _hang(self):
        self._descriptor = Descriptor(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
        self._poll.register(self._descriptor.fd, self._event)

    @property
    def fd(self):
        """What poll() tells of it; -1: closed."""
        return self._descriptor.fd

    def ring(self):
        """Makes a poll() return, now or when it is called. False: the descriptor is gone; the next poll() tells of that, but one that
        has begun does not."""
        if not self._descriptor.there():
            return False
        os.eventfd_write(self._descriptor.fd, 1)
        return True

    def quiet(self):
        """After poll() told of it: it is silent, or there again."""
        if not self._descriptor.there():
            self._poll.unregister(self._descriptor.fd)
            self._hang()
            return
        try:
            os.eventfd_read(self._descriptor.fd)
        except BlockingIOError:
            pass

    def close(self):
        """Nobody polls any more."""
        self._descriptor.close()
