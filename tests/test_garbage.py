"""Pools that the garbage collector ends: on any thread, in the middle of anything."""

import gc
import signal
import sys
import threading
import types
import warnings
import weakref

import pytest
import tasks
from procfs import is_gone, wait_until

pytestmark = pytest.mark.ringpool_only

LIMIT = 30


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield


def make_cycle(factory):
    """A pool that only the garbage collector can find; the pids of its workers."""
    pool = factory.untracked(2)
    assert pool.map(tasks.square, range(10), 1) == [value**2 for value in range(10)]
    owner = tasks.Tracked(pool)
    owner.itself = owner
    return [worker.pid for worker in pool._pool]


def check_gone(pids):
    wait_until(lambda: gc.collect() >= 0 and all(is_gone(pid) for pid in pids), LIMIT)


def test_collected_by_a_callback_of_another_pool(factory):
    pool = factory.Pool(2)
    for _ in range(3):
        pids = make_cycle(factory)
        seen = []
        pool.apply_async(tasks.square, (3,), callback=lambda value: seen.append(gc.collect())).get(LIMIT)
        assert seen
        check_gone(pids)
    assert pool.map(tasks.square, range(50), 1) == [value**2 for value in range(50)]


def test_collected_by_a_callback_of_its_own(factory):
    pids = []

    def run():
        pool = factory.untracked(2)
        pids.extend(worker.pid for worker in pool._pool)
        done = threading.Event()

        def callback(value):
            gc.collect()
            done.set()

        pool.apply_async(tasks.square, (3,), callback=callback)
        del pool
        assert done.wait(LIMIT)

    run()
    check_gone(pids)


def test_collected_by_a_signal_handler(factory):
    pool = factory.Pool(2)
    previous = signal.signal(signal.SIGUSR1, lambda number, frame: gc.collect())
    gc.disable()
    try:
        for _ in range(3):
            pids = make_cycle(factory)
            for _ in range(20):
                results = [pool.apply_async(tasks.square, (value,)) for value in range(20)]
                signal.raise_signal(signal.SIGUSR1)
                assert [result.get(LIMIT) for result in results] == [value**2 for value in range(20)]
            check_gone(pids)
    finally:
        gc.enable()
        signal.signal(signal.SIGUSR1, previous)


def test_collected_by_another_thread_that_uses_a_pool(factory, background):
    pool = factory.Pool(2)
    cycles = [make_cycle(factory) for _ in range(3)]

    def use():
        for _ in range(30):
            assert pool.map(tasks.square, range(50), 1) == [value**2 for value in range(50)]
            gc.collect()
        return True

    users = [background(use) for _ in range(3)]
    assert [user.result(LIMIT) for user in users] == [True] * 3
    for pids in cycles:
        check_gone(pids)


def test_collected_while_results_are_unpickled(factory):
    pool = factory.Pool(2)
    for _ in range(3):
        pids = make_cycle(factory)
        assert [type(one) for one in pool.map(tasks.make_collecting, range(20), 1)] == [tasks.Collecting] * 20
        check_gone(pids)


@pytest.mark.start_methods("fork")
def test_dropped_while_its_collector_is_busy(factory):
    for _ in range(5):
        pool = factory.untracked(2)
        pids = [worker.pid for worker in pool._pool]
        for value in range(500):
            pool.apply_async(tasks.square, (value,), callback=tasks.nothing)
        pool = None
        check_gone(pids)


COLLECTED_AT_FORK = """
import gc
import os
# Before the pool's own hooks: what a collection that is due does in the first steps of a child.
os.register_at_fork(after_in_child=gc.collect)
import pool
import tasks

def main():
    gc.disable()
    for ended in (True, False):
        ours = pool.Pool(1)
        assert ours.map(tasks.square, [3], 1) == [9]
        ours.close()
        ours.join()
        if ended:
            del ours
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        print(os.waitpid(pid, 0)[1])
        ours = pool.Pool(2)
        print(ours.map(tasks.square, range(4), 1))
        del ours

if __name__ == "__main__":
    main()
"""


@pytest.mark.ringpool_only
@pytest.mark.start_methods("fork")
def test_collected_in_the_first_steps_of_a_child(script):
    program = script(COLLECTED_AT_FORK)
    assert program.wait(30) == 0, program.err
    assert program.out == "0\n[0, 1, 4, 9]\n" * 2


FINALIZED = """
import os
import sys

from implementations import Implementation


class Telling:
    def __del__(self):
        os.write(1, b"finalized\\n")


def function(value):
    return value


if __name__ == "__main__":
    telling = Telling()
    pool = Implementation.named(sys.argv[1]).Pool(2)
    assert pool.map(function, range(3)) == [0, 1, 2]
    assert pool.apply(function, (3,)) == 3
    pool.close()
    pool.join()
"""


def test_objects_of_the_main_module_are_finalized_while_there_is_a_program(script):
    program = script(FINALIZED)
    assert program.wait(LIMIT) == 0, program.err
    assert program.out == "finalized\n"


@pytest.mark.start_methods("fork")
def test_module_that_holds_a_pool_and_its_functions_is_freed(factory):
    source = "def function(value):\n    return value\n"
    for _ in range(2):
        module = types.ModuleType("ringpool_plugin")
        sys.modules["ringpool_plugin"] = module
        exec(source, vars(module))
        module.pool = factory.untracked(2)
        pids = [worker.pid for worker in module.pool._pool]
        assert module.pool.map(module.function, range(5), 1) == list(range(5))
        assert module.pool.apply(module.function, (3,)) == 3
        known = weakref.ref(module.function)
        del sys.modules["ringpool_plugin"], module
        check_gone(pids)
        assert known() is None
