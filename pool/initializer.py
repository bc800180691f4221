"""A pool's initializer and its arguments, on their way to a worker.

multiprocessing writes what a new process is to do into a pipe, all of it before it goes on. If that is more than the pipe holds and
the process ends early, it waits for a reader for ever (spawn holds the other end itself) or gets a broken pipe (forkserver). The
arguments may be of any size: beyond a few bytes they travel in a file of their own.
"""

import os
import pickle
from multiprocessing import context, reduction

_SMALL = 2048  # bytes; with what multiprocessing adds, less than the smallest pipe holds (a page)


class Initializer:
    """The call function(*args), as an argument of a process. Pickled only while a process is being started; `release` follows."""

    def __init__(self, function, args):
        self._function = function
        self._args = args
        self._file = None

    def __call__(self):
        self._function(*self._args)

    def __reduce__(self):
        context.assert_spawning(self)
        text = reduction.ForkingPickler.dumps((self._function, self._args))
        if len(text) > _SMALL:
            try:
                self._file = _file_of(text)
                return _Pickled, (None, reduction.DupFd(self._file.fileno()))
            except OSError:
                pass  # no such files here, or no room in them: then by the pipe
        return _Pickled, (bytes(text), None)

    def release(self):
        """The process has been started, or could not be."""
        file, self._file = self._file, None
        if file is not None:
            file.close()


class _Pickled:
    """What a worker gets. Unpickled when it is called: whatever that raises is the initializer's error."""

    def __init__(self, text, duplicate):
        self._text = text
        self._fd = -1
        if duplicate is not None:
            self._fd = duplicate.detach()
            os.set_inheritable(self._fd, False)

    def __call__(self):
        function, args = self._load()
        function(*args)

    def _load(self):
        if self._text is not None:
            return pickle.loads(self._text)
        with open(self._fd, "rb") as file:
            return pickle.load(file)


def _file_of(text):
    """An open file that holds these bytes, at its beginning."""
    file = open(os.memfd_create("ringpool-initializer", os.MFD_CLOEXEC), "w+b")
    try:
        file.write(text)
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return file
