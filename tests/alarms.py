"""A timer whose signal handler raises, anywhere in the program."""

import contextlib
import signal


class Rung(Exception):
    pass


class Alarm:
    """The handler: raises once each time that it has been armed."""

    def __init__(self):
        self.armed = False

    def __call__(self, number, frame):
        if self.armed and not _in_logging(frame):
            self.armed = False
            raise Rung


def _in_logging(frame):
    """What is raised in logging's part of a fork is swallowed there, and its lock stays locked."""
    while frame is not None:
        if frame.f_globals.get("__name__") == "logging":
            return True
        frame = frame.f_back
    return False


@contextlib.contextmanager
def alarms(first, interval):
    """Rings after `first` seconds and every `interval` then. Takes the timer from the time limit of a test, for a moment."""
    alarm = Alarm()
    handler = signal.signal(signal.SIGALRM, alarm)
    left, _ = signal.setitimer(signal.ITIMER_REAL, first, interval)
    try:
        yield alarm
    finally:
        alarm.armed = False
        signal.setitimer(signal.ITIMER_REAL, left)
        signal.signal(signal.SIGALRM, handler)
