"""What becomes of workers whose pool's owner is gone, when the pool was made with end_with_parent=False: who runs a task ends it."""

import os
import signal

import pytest
import tasks
from procfs import is_gone, is_waiting, wait_until

pytestmark = pytest.mark.ringpool_only

LIMIT = 30
# Promised is one second; the other is for a busy machine.
SOON = 2.0

PARENT = """
import os
import sys
import tasks
from implementations import Implementation
from procfs import wait_until

def main():
    state, gate, other = sys.argv[2], tasks.Gate(sys.argv[3]), tasks.Gate(sys.argv[4])
    Pool = Implementation.named(sys.argv[1]).Pool
    if state == "starting":
        pool = Pool(2, tasks.hold, (gate,), end_with_parent=False)
        gate.wait_for(2)
    elif state == "full":
        pool = Pool(1, end_with_parent=False)
        result = pool.apply_async(tasks.hold_for_bytes, (gate, 4_000_000))
        gate.wait_for(1)
    elif state == "spare":
        pool = Pool(2, maxtasksperchild=1, end_with_parent=False)
        served = pool.starmap(os.getpid, [()] * 4, 1)
        own = pool._supervisor
        wait_until(lambda: own._spares and len(pool._pool) == 2 and not any(one.pid in served for one in own._seat_of))
        wait_until(lambda: all(map(pool._core.seat_started, own._seat_of.values())))
    else:
        pool = Pool(2, end_with_parent=False)
        pool.map(tasks.square, range(20), 1)
    results = []
    if state == "busy":
        results = [pool.apply_async(tasks.hold_and_tell, (gate, other)) for _ in range(2)]
        gate.wait_for(2)
        results.append(pool.starmap_async(tasks.hold_and_tell, [(gate, other)] * 100, 1))
    if state == "watching":
        results = [pool.apply_async(tasks.outlive_parent, (gate, other)) for _ in range(2)]
        gate.wait_for(2)
    print(*(worker.pid for worker in pool._pool), flush=True)
    tasks.long()

if __name__ == "__main__":
    main()
"""


@pytest.fixture
def begin(script, make_gate):
    gates = make_gate(), make_gate()

    def begin(state, *prefix):
        program = script(PARENT, "file", state, *(gate.directory for gate in gates), prefix=prefix)
        return program, [int(word) for word in program.wait_for_line().split()], *gates

    return begin


def end(program):
    os.kill(program.pid, signal.SIGKILL)
    assert program.wait(LIMIT) == -signal.SIGKILL


def test_task_that_runs_is_ended(begin):
    program, pids, gate, told = begin("busy")
    assert sorted(pids) == sorted(gate.wait_for(2))
    end(program)
    # The watching thread has seen it: it is there no more, and its process is.
    wait_until(lambda: all(len(os.listdir(f"/proc/{pid}/task")) == 1 for pid in pids), SOON)
    assert not any(is_gone(pid) for pid in pids)
    assert told.arrivals() == []
    gate.open()
    wait_until(lambda: not program.survivors(), SOON)
    # To its end, with what a process does at its own; and no task begins after it.
    assert sorted(pid for pid, _ in told.arrivals()) == sorted(pids)
    assert len(gate.arrivals()) == 2
    assert program.out.count("told\n") == 2


@pytest.mark.parametrize("state", ["idle", "spare", "starting"])
def test_who_runs_no_task_goes_at_once(begin, state):
    program, pids, gate, _ = begin(state)
    assert len(pids) == 2 and not any(is_gone(pid) for pid in pids)
    end(program)
    wait_until(lambda: not program.survivors(), SOON)


def test_who_waits_for_room_goes_at_once(begin):
    program, (pid,), gate, _ = begin("full")
    os.kill(program.pid, signal.SIGSTOP)
    gate.open()
    wait_until(lambda: is_waiting(pid), LIMIT)
    end(program)
    wait_until(lambda: not program.survivors(), SOON)


def test_sentinel_of_the_parent_process(begin):
    # A sibling that was forked later holds the other end of multiprocessing's pipe.
    program, pids, gate, told = begin("watching")
    assert sorted(gate.arrivals()) == sorted((pid, str(program.pid)) for pid in pids)
    end(program)
    wait_until(lambda: not program.survivors(), SOON)
    assert sorted(told.arrivals()) == sorted((pid, "False") for pid in pids)


def test_pool_that_lives_ends_as_ever(factory, gate, ringpool):
    pool = factory.Pool(2, end_with_parent=False)
    assert pool.map(tasks.square, range(100), 1) == [value**2 for value in range(100)]
    result = pool.apply_async(tasks.hold, (gate,))
    gate.wait_for(1)
    pool.terminate()
    pool.join()
    with pytest.raises(ringpool.PoolTerminatedError):
        result.get(LIMIT)


@pytest.mark.parametrize("value", [None, 0, 1, "no"])
def test_value_that_is_no_bool(factory, value):
    with pytest.raises(TypeError, match="^end_with_parent must be True or False, not "):
        factory.Pool(1, end_with_parent=value)
