"""What the soak has workers do, and how it looks at what they give. Light, as workers of every start method import it."""

import faulthandler
import os
import signal
import time
import zlib

from tasks import pattern

__all__ = ["die", "digest", "echo", "endless", "equal", "fail", "pattern", "short", "slow", "slow_item", "square"]


def echo(value):
    return value


def square(number):
    return number * number


def digest(data):
    return len(data), zlib.crc32(data)


def fail(*args):
    raise ValueError(*args)


def slow(seconds, value):
    time.sleep(seconds)
    return value


def slow_item(value):
    time.sleep(0.002)
    return value


def endless():
    while True:
        time.sleep(60)


def die():
    faulthandler.disable()
    os.kill(os.getpid(), signal.SIGKILL)


def equal(given, expected):
    return type(given) is type(expected) and given == expected


def short(value):
    text = repr(value)
    return text if len(text) < 200 else f"{text[:100]}... ({len(text)} characters)"
