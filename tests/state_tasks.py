"""The task of the state machine: does what it is told, and leaves a line in a log whenever it is begun."""

import faulthandler
import os
import signal
import threading
import time

from tasks import digest, pattern

LARGE = 300_000
HOLD_LIMIT = 40.0


def act(order):
    """order: (action, token, directory, data). The token tells this task from all others; it is in whatever comes back."""
    action, token, directory, data = order
    _note(directory, token)
    return globals()[f"_{action}"](token, directory, data)


def act_star(*order):
    return act(order)


def begun(directory):
    """Tokens of the tasks that were begun, as often as they were."""
    try:
        with open(os.path.join(directory, "log")) as file:
            return [int(line) for line in file]
    except FileNotFoundError:
        return []


def _note(directory, token):
    # One write, at the end whoever else writes: lines stay whole.
    log = os.open(os.path.join(directory, "log"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(log, b"%d\n" % token)
    finally:
        os.close(log)


def _value(token, directory, data):
    return "value", token


def _slow(token, directory, data):
    time.sleep(0.003)
    return "value", token


def _error(token, directory, data):
    raise ValueError("told to fail", token)


def _exit(token, directory, data):
    raise SystemExit(token)


def _lock(token, directory, data):
    return threading.Lock()


def _large_argument(token, directory, data):
    return digest(data)


def _large_result(token, directory, data):
    return pattern(LARGE, token % 251)


def _hold(token, directory, data):
    """Until the gate of the name `data` is open."""
    limit = time.monotonic() + HOLD_LIMIT
    while not os.path.exists(os.path.join(directory, data)):
        if time.monotonic() > limit:
            raise TimeoutError("nobody opened the gate")
        time.sleep(0.001)
    return "value", token


def _die(token, directory, data):
    faulthandler.disable()
    os.kill(os.getpid(), signal.SIGKILL)


def _die_once(token, directory, data):
    if begun(directory).count(token) == 1:
        _die(token, directory, data)
    return "value", token


def _leave(token, directory, data):
    os._exit(3)


def _endless(token, directory, data):
    while True:
        time.sleep(HOLD_LIMIT)
