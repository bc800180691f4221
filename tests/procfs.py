"""Processes as the kernel sees them, and waiting for what they do."""

import os
import time


def wait_until(condition, limit=20.0, what=None):
    """Poll until condition() is true and return its value; fail at the limit."""
    deadline = time.monotonic() + limit
    pause = 0.001
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {limit} s: {what or condition}")
        time.sleep(pause)
        pause = min(pause * 2, 0.02)


class Process:
    def __init__(self, pid, name, state, parent, session):
        self.pid = pid
        self.name = name
        self.state = state
        self.parent = parent
        self.session = session

    def __repr__(self):
        return f"process {self.pid} ({self.name}, state {self.state}, child of {self.parent})"


def process(pid):
    """The process, or None when there is none of that number."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name is in parentheses and may itself hold spaces and parentheses.
    head, _, tail = text.rpartition(b")")
    fields = tail.split()
    return Process(
        pid,
        head.partition(b"(")[2].decode("utf-8", "replace"),
        fields[0].decode(),
        int(fields[1]),
        int(fields[3]),
    )


def all_processes():
    found = (process(int(entry)) for entry in os.listdir("/proc") if entry.isdigit())
    return [one for one in found if one is not None]


def is_gone(pid):
    # A zombie runs no more; whether it is reaped is up to its parent, which may be init.
    found = process(pid)
    return found is None or found.state in "ZX"


def is_waiting(pid):
    """True if the main thread is parked on a futex."""
    with open(f"/proc/{pid}/wchan") as file:
        return "futex" in file.read()


def descendants(pid):
    children = {}
    for one in all_processes():
        children.setdefault(one.parent, []).append(one)
    found = []
    todo = [pid]
    while todo:
        mine = children.get(todo.pop(), [])
        found += mine
        todo += [one.pid for one in mine]
    return found


def alive_in_session(session):
    return [one for one in all_processes() if one.session == session and one.state not in "ZX"]


def answer_of_child(call):
    """What the call raises, or gives, in a forked child."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            answer = f"gave {call()!r}"
        except BaseException as error:
            answer = f"{type(error).__name__} {error}"
        os.write(writer, answer.encode())
        os._exit(0)
    os.close(writer)
    with open(reader) as file:
        answer = file.read()
    assert os.waitpid(child, 0)[1] == 0
    return answer
