"""Which workers there are: replaced for their age or size, more and fewer of them, with children of their own."""

import errno
import logging
import multiprocessing
import multiprocessing.util
import os
import signal
import threading

import pytest
import tasks
from procfs import answer_of_child, is_gone, wait_until

pytestmark = pytest.mark.ringpool_only
LIMIT = 30
MIB = 1 << 20


def still_works(pool):
    return pool.map(tasks.square, range(50), 1) == [value**2 for value in range(50)]


# max_memory_per_child


@pytest.fixture
def log(caplog):
    """The messages of multiprocessing's logger, which passes nothing on by itself."""
    logger = multiprocessing.get_logger()
    logger.addHandler(caplog.handler)
    caplog.set_level(logging.WARNING, logger=logger.name)
    yield caplog
    logger.removeHandler(caplog.handler)


def test_worker_that_grows_is_replaced_between_tasks(factory, log):
    limit = factory.Pool(1).apply(tasks.own_memory) + 100 * MIB
    pool = factory.Pool(1, max_memory_per_child=limit // 1024)
    pids = [pool.apply(tasks.keep, (30 * MIB,)) for _ in range(20)]
    served = [pids.count(pid) for pid in dict.fromkeys(pids)]
    assert 3 <= len(served) <= 8
    assert all(2 <= count <= 7 for count in served[:-1])
    first = pids[0]
    wait_until(lambda: log.records, LIMIT)
    (message,) = [record.getMessage() for record in log.records]
    assert f"process {first}" in message and str(limit // 1024) in message
    assert still_works(pool)


def test_small_worker_stays(factory, log):
    pool = factory.Pool(1, max_memory_per_child=(factory.Pool(1).apply(tasks.own_memory) + 500 * MIB) // 1024)
    assert len({pool.apply(tasks.keep, (1000,)) for _ in range(200)}) == 1
    assert log.records == []


def test_nothing_is_lost_while_workers_are_replaced(factory):
    pool = factory.Pool(2, max_memory_per_child=(factory.Pool(1).apply(tasks.own_memory) + 40 * MIB) // 1024)
    results = [pool.apply_async(tasks.keep, (15 * MIB,)) for _ in range(30)]
    assert len({result.get(LIMIT) for result in results}) > 3
    assert still_works(pool)


@pytest.mark.parametrize(("value", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), ("1", TypeError)])
@pytest.mark.start_methods("fork")
def test_bad_memory_limit(factory, value, error):
    with pytest.raises(error):
        factory.Pool(1, max_memory_per_child=value)


def test_memory_limit_may_be_any_number(factory):
    pool = factory.Pool(1, max_memory_per_child=1 << 70)
    assert pool.map_async(tasks.square, range(5), 1).get(LIMIT) == [0, 1, 4, 9, 16]


# Spares


@pytest.mark.parametrize("processes", [1, 2, 5])
def test_maxtasksperchild_is_kept_and_loses_nothing(factory, processes):
    pool = factory.Pool(processes, maxtasksperchild=3)
    count = 40 if factory.start_method == "fork" else 15
    pids = pool.map(tasks.getpid, range(count), 1)
    assert len(pids) == count
    assert max(pids.count(pid) for pid in pids) <= 3
    wait_until(lambda: len(pool._pool) == processes, LIMIT)


def test_a_spare_stands_by_and_serves(factory):
    pool = factory.Pool(1, maxtasksperchild=1)
    first, second = pool.apply(tasks.getpid), pool.apply(tasks.getpid)
    assert first != second
    wait_until(lambda: len(pool._supervisor._spares) == 1 and len(pool._pool) == 1, LIMIT)
    (spare,) = pool._supervisor._spares
    assert spare.pid not in (worker.pid for worker in pool._pool)
    pids = [pool.apply(tasks.getpid) for _ in range(3)]
    assert spare.pid in pids


def test_no_spare_without_recycling(factory):
    pool = factory.Pool(2, maxtasksperchild=1000)
    assert still_works(pool)
    assert pool._supervisor._spares == []
    assert len(multiprocessing.active_children()) == 2


@pytest.mark.parametrize("end", ["close", "terminate"])
def test_spares_end_with_the_pool(factory, background, end):
    pool = factory.Pool(1, maxtasksperchild=1)
    for _ in range(3):
        pool.apply(tasks.nothing)
    wait_until(lambda: pool._supervisor._spares, LIMIT)
    pids = [worker.pid for worker in pool._supervisor._spares]
    getattr(pool, end)()
    background(pool.join).result(LIMIT)
    assert all(is_gone(pid) for pid in pids)


def test_spare_that_is_killed_is_replaced(factory):
    pool = factory.Pool(1, maxtasksperchild=1)
    for _ in range(3):
        pool.apply(tasks.nothing)
    for _ in range(3):
        (spare,) = wait_until(lambda: list(pool._supervisor._spares), LIMIT)
        spare.kill()
        wait_until(lambda: spare not in pool._supervisor._spares, LIMIT)
        assert pool.apply(tasks.square, (3,)) == 9


# resize


def test_more_workers(factory, make_gate):
    pool = factory.Pool(1)
    gate = make_gate()
    held = pool.apply_async(tasks.hold, (gate,))
    gate.wait_for(1)
    others = [pool.apply_async(tasks.hold, (gate,)) for _ in range(4)]
    pool.resize(5)
    assert len(pool._pool) == pool._processes == 5
    assert "pool_size=5" in repr(pool)
    assert len(set(gate.wait_for(5))) == 5
    gate.open()
    for result in [held, *others]:
        result.get(LIMIT)


def test_fewer_workers(factory, gate):
    pool = factory.Pool(4)
    pids = {worker.pid for worker in pool._pool}
    held = [pool.apply_async(tasks.hold, (gate, value)) for value in range(4)]
    gate.wait_for(4)
    queued = [pool.apply_async(tasks.square, (value,)) for value in range(20)]
    pool.resize(1)
    gate.open()
    # Whoever is sent away ends its task first.
    assert [result.get(LIMIT) for result in held] == [0, 1, 2, 3]
    assert [result.get(LIMIT) for result in queued] == [value**2 for value in range(20)]
    wait_until(lambda: len(pool._pool) == 1, LIMIT)
    assert {worker.pid for worker in pool._pool} < pids
    assert still_works(pool)


def test_idle_workers_leave(factory):
    pool = factory.Pool(4)
    assert still_works(pool)
    pool.resize(2)
    wait_until(lambda: len(pool._pool) == 2, LIMIT)
    pool.resize(2)
    assert still_works(pool) and len(pool._pool) == 2


def test_up_and_down_under_load(factory, background):
    pool = factory.Pool(2)
    sizes = [3, 1, 4, 2, 1, 3, 2] if factory.start_method == "fork" else [3, 1, 2]
    work = background(lambda: [pool.map(tasks.square, range(300), 1) for _ in range(40)])
    for size in sizes:
        pool.resize(size)
        assert len(set(pool.map(tasks.getpid, range(30), 1))) <= 8
    assert work.result(LIMIT) == [[value**2 for value in range(300)]] * 40
    wait_until(lambda: len(pool._pool) == sizes[-1], LIMIT)
    pool.close()
    background(pool.join).result(LIMIT)


def test_killed_worker_after_resize_is_replaced(factory):
    pool = factory.Pool(3)
    pool.resize(2)
    wait_until(lambda: len(pool._pool) == 2, LIMIT)
    victim = pool._pool[0]
    victim.kill()
    wait_until(lambda: victim not in pool._pool and len(pool._pool) == 2, LIMIT)
    assert still_works(pool)


@pytest.mark.start_methods("fork")
def test_bad_sizes(factory, ringpool):
    pool = factory.Pool(1)
    for value, error in [(0, ValueError), (-2, ValueError), (10**6, ValueError), (1.5, TypeError), (None, TypeError)]:
        with pytest.raises(error):
            pool.resize(value)
    assert still_works(pool)
    pool.close()
    with pytest.raises(ValueError, match="Pool not running"):
        pool.resize(2)
    with ringpool.ThreadPool(1) as threads:
        with pytest.raises(NotImplementedError):
            threads.resize(2)


# daemon=False


def test_nested_pools(factory):
    pool = factory.Pool(2, daemon=False)
    results = pool.starmap(tasks.map_in_a_pool, [(factory.name, 3), (factory.name, 5)])
    assert results == [[0, 1, 4], [0, 1, 4, 9, 16]]
    pool.close()
    pool.join()


def test_nested_pools_of_killed_workers_leave_nothing(factory, gate, ringpool):
    pool = factory.Pool(1, daemon=False)
    result = pool.apply_async(tasks.hold_in_a_pool, (factory.name, gate))
    inner = gate.wait_for(2)
    pool._pool[0].kill()
    with pytest.raises(ringpool.WorkerLostError):
        result.get(LIMIT)
    wait_until(lambda: all(is_gone(pid) for pid in inner), LIMIT)


def test_daemonic_workers_have_no_children(factory):
    pool = factory.Pool(1)
    with pytest.raises(AssertionError, match="daemonic processes are not allowed to have children"):
        pool.apply(tasks.map_in_a_pool, (factory.name, 3))


def test_resize_that_is_interrupted_leaves_no_worker_unwatched(factory, make_gate, ringpool):
    pool = factory.Pool(1)
    start = pool._supervisor._start_worker

    def interrupted():
        worker = start()
        signal.raise_signal(signal.SIGINT)
        return worker

    pool._supervisor._start_worker = interrupted
    try:
        with pytest.raises(KeyboardInterrupt):
            pool.resize(3)
    finally:
        pool._supervisor._start_worker = start
    assert pool._processes == pool._supervisor.processes
    count = pool._processes
    wait_until(lambda: len(pool._pool) == count, LIMIT)
    gate = make_gate()
    results = [pool.apply_async(tasks.hold, (gate,)) for _ in range(count)]
    for pid in gate.wait_for(count):
        os.kill(pid, signal.SIGKILL)
    for result in results:
        with pytest.raises(ringpool.WorkerLostError):
            result.get(LIMIT)


@pytest.mark.start_methods("fork")
def test_resize_that_the_system_refuses_is_undone(factory, monkeypatch):
    pool = factory.Pool(2)
    real, left = os.fork, [3]

    def fork():
        if not left[0]:
            raise BlockingIOError(errno.EAGAIN, "no more processes")
        left[0] -= 1
        return real()

    monkeypatch.setattr(os, "fork", fork)
    with pytest.raises(BlockingIOError):
        pool.resize(10)
    monkeypatch.undo()
    assert pool._processes == 2
    wait_until(lambda: len(pool._pool) == 2, LIMIT)
    assert still_works(pool)


SEATS = """
import resource
import sys
import time
import tasks
from implementations import Implementation

def main():
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
    pool = Implementation.named(sys.argv[1]).Pool(1)
    pool.resize(4)
    results = [pool.apply_async(tasks.nap, (0.3,)) for _ in range(8)]
    time.sleep(0.1)
    pool.resize(1)
    pool.resize(4)
    print([result.get(30) for result in results])
    print(pool.map(tasks.square, range(4), 1))
    pool.close()
    pool.join()

if __name__ == "__main__":
    main()
"""


@pytest.mark.start_methods("fork")
def test_no_more_processes_than_seats(script):
    program = script(SEATS)
    assert program.wait(60) == 0, program.err
    assert program.out == f"{[0.3] * 8}\n[0, 1, 4, 9]\n"
    assert program.err == ""


def test_resize_in_a_forked_child_is_refused(factory):
    pool = factory.Pool(2)
    assert still_works(pool)

    for count in (1, 4):
        assert answer_of_child(lambda: pool.resize(count)).startswith("RuntimeError pool belongs to process")
    assert still_works(pool)


def test_spares_shrink_with_the_pool(factory):
    pool = factory.Pool(8, maxtasksperchild=1)
    assert pool.map(tasks.square, range(20), 1) == [value**2 for value in range(20)]
    wait_until(lambda: len(pool._supervisor._spares) == 2, LIMIT)
    pool.resize(1)
    wait_until(lambda: len(pool._supervisor._spares) == 1 and len(pool._pool) == 1, LIMIT)


def test_task_that_ends_its_worker_is_no_recycling(factory, ringpool):
    pool = factory.Pool(1)
    with pytest.raises(ringpool.WorkerLostError):
        pool.apply(tasks.leave, (0,))
    assert still_works(pool)
    assert pool._supervisor._spares == [] and len(multiprocessing.active_children()) == 1


def test_child_that_leaves_the_program_leaves_the_spares_alone(factory, gate):
    pool = factory.Pool(1, maxtasksperchild=1)
    pool.apply(tasks.nothing)
    wait_until(lambda: pool._supervisor._spares, LIMIT)
    pid = os.fork()
    if pid == 0:
        # As sys.exit() would in a program of its own.
        multiprocessing.util._exit_function()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert [pool.apply(tasks.square, (value,)) for value in range(3)] == [0, 1, 4]


def test_worker_that_another_thread_starts_at_the_very_end(factory, background, monkeypatch):
    # The only worker is buried, somebody is starting another, and then the pool is terminated: it may not end without the new one.
    pool = factory.Pool(1)
    supervisor = pool._supervisor
    make, condemned, done = supervisor._new_process, supervisor._kill_condemned, supervisor._done
    starting, ending = threading.Event(), threading.Event()
    started, calls = [], []

    def make_slowly(target, args):
        starting.set()
        assert ending.wait(LIMIT)
        started.append(make(target, args))
        return started[-1]

    def terminate_between():
        condemned()
        if not supervisor._seat_of and not calls:
            calls.append(background(pool._repopulate_pool))
            assert starting.wait(LIMIT)
            supervisor.terminate()

    def look():
        if starting.is_set():
            ending.set()
        return done()

    monkeypatch.setattr(supervisor, "_new_process", make_slowly)
    monkeypatch.setattr(supervisor, "_kill_condemned", terminate_between)
    monkeypatch.setattr(supervisor, "_done", look)
    pool._pool[0].kill()
    wait_until(lambda: calls, LIMIT)
    calls[0].result(LIMIT)
    pool.terminate()
    pool.join()
    assert len(started) == 1 and is_gone(started[0].pid)


# More workers than cores


@pytest.mark.parametrize("held", [3, 8])
def test_blocked_workers_hold_nothing_up_after_short_tasks(factory, make_gate, held):
    pool = factory.Pool(8)
    for _ in range(3):
        assert pool.map(tasks.square, range(5000), 1) == [value**2 for value in range(5000)]
    gate = make_gate()
    waiting = [pool.apply_async(tasks.hold, (gate,)) for _ in range(held)]
    # All at once, although the workers have just seen that few of them suffice.
    assert len(set(gate.wait_for(held))) == held
    if held < 8:
        assert pool.map(tasks.square, range(5000), 1) == [value**2 for value in range(5000)]
    gate.open()
    for result in waiting:
        result.get(LIMIT)


def test_tasks_of_a_map_that_block_in_the_middle_of_short_ones(factory, gate):
    pool = factory.Pool(6)
    pool.map(tasks.square, range(5000), 1)
    result = pool.map_async(tasks.hold_chosen, [(gate, value % 1000 == 500) for value in range(5000)], 1)
    assert len(set(gate.wait_for(5))) == 5
    gate.open()
    assert sum(result.get(LIMIT)) == 5


def test_each_worker_has_its_turn(factory):
    pool = factory.Pool(12)
    seen = set()
    wait_until(lambda: seen.update(pool.map(tasks.getpid, range(24), 1)) or len(seen) == 12, LIMIT)
