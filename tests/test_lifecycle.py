"""From the constructor to the end of the pool, and of the program."""

import errno
import gc
import itertools
import multiprocessing
import multiprocessing.pool
import os
import pickle
import re
import signal
import sys
import threading
import time
import warnings
import weakref

import leaks
import pytest
import tasks
from alarms import Rung, alarms
from procfs import is_gone, wait_until

LIMIT = 30


def workers_of(pool):
    return [worker.pid for worker in pool._pool]


# Construction


@pytest.mark.with_threads
@pytest.mark.parametrize("processes", [0, -1])
def test_too_few_processes(factory, processes):
    with pytest.raises(ValueError, match="^Number of processes must be at least 1$"):
        factory.Pool(processes)


@pytest.mark.parametrize("processes", [2.5, "2", [2]], ids=repr)
def test_processes_that_are_no_integer(factory, processes):
    with pytest.raises(TypeError):
        factory.Pool(processes)


def test_true_is_one_process(factory):
    pool = factory.Pool(True)
    assert len(pool._pool) == 1
    assert pool.apply(tasks.square, (3,)) == 9


@pytest.mark.with_threads
def test_initializer_must_be_callable(factory):
    with pytest.raises(TypeError, match="^initializer must be a callable$"):
        factory.Pool(1, initializer=5)


@pytest.mark.parametrize("count", [0, -1, 1.5, "1"], ids=repr)
def test_maxtasksperchild_must_be_positive(factory, count):
    with pytest.raises(ValueError, match="^maxtasksperchild must be a positive int or None$"):
        factory.Pool(1, maxtasksperchild=count)


@pytest.mark.parametrize("count", [1 << 31, 1 << 32, 1 << 63, 1 << 70], ids=["2**31", "2**32", "2**63", "2**70"])
def test_maxtasksperchild_may_be_any_number(factory, count):
    pool = factory.Pool(1, maxtasksperchild=count)
    assert pool.map_async(tasks.square, range(5), 1).get(LIMIT) == [0, 1, 4, 9, 16]


@pytest.mark.with_threads
@pytest.mark.ringpool_only
def test_arguments_that_are_not_known_are_the_only_error(factory, monkeypatch):
    # The stdlib's multiprocessing.Pool is a function: no half made pool is there to be dropped.
    ignored = []
    monkeypatch.setattr(sys, "unraisablehook", ignored.append)
    with pytest.raises(TypeError, match="no_such_argument"):
        factory.Pool(1, no_such_argument=1)
    gc.collect()
    assert ignored == []


def pool_with_a_method(implementation):
    """A pool whose Process is a method, as in the common recipe for workers that may have children."""

    class Own(implementation.module.Pool):
        made = ()

        def Process(self, *args, **kwargs):
            process = super().Process(*args, **kwargs)
            self.made += (process,)
            return process

    return Own(2, context=implementation.context)


def test_process_may_be_a_method_of_a_subclass(implementation):
    pool = pool_with_a_method(implementation)
    try:
        assert pool.map(tasks.square, range(20), 1) == [value**2 for value in range(20)]
        assert list(pool.made) == pool._pool
    finally:
        pool.terminate()
        pool.join()


@pytest.mark.ringpool_only
def test_process_that_is_a_method_does_not_keep_the_pool(implementation):
    # The stdlib's own thread holds such a pool for ever.
    pool = pool_with_a_method(implementation)
    assert pool.apply(tasks.square, (3,)) == 9
    with pytest.warns(ResourceWarning, match="unclosed running multiprocessing pool") as seen:
        del pool
        wait_until(lambda: gc.collect() >= 0 and len(seen), LIMIT)
    seen.clear()


def test_order_of_parameters(factory, gate):
    pool = factory.Pool(1, tasks.remember, ("key", "value"), 3, factory.context)
    assert pool.apply(tasks.recall, ("key",)) == "value"
    pids = pool.map(tasks.getpid, range(6), 1)
    assert len(set(pids)) > 1


def test_parameters_by_name(factory):
    pool = factory.Pool(
        processes=1,
        initializer=tasks.remember,
        initargs=("key", "value"),
        maxtasksperchild=None,
        context=factory.context,
    )
    assert pool.apply(tasks.recall, ("key",)) == "value"


@pytest.mark.start_methods("fork")
def test_default_number_of_processes(factory):
    pool = factory.Pool()
    count = getattr(os, "process_cpu_count", os.cpu_count)()
    # From 3.13 on the stdlib counts the processors that this process may use.
    assert pool._processes in (count, os.cpu_count(), len(os.sched_getaffinity(0)))
    assert len(pool._pool) == pool._processes


# What other programs look at


def test_it_is_a_pool(factory):
    assert isinstance(factory.Pool(1), multiprocessing.pool.Pool)


def test_attributes(factory):
    pool = factory.Pool(2)
    assert pool._processes == 2
    assert pool._ctx.get_start_method() == factory.start_method
    assert pool._state == "RUN"
    assert len(pool._pool) == 2
    for worker in pool._pool:
        assert isinstance(worker.pid, int)
        assert worker.is_alive()
        assert worker.exitcode is None
    assert sorted(set(pool.map(tasks.getpid, range(50), 1)) - set(workers_of(pool))) == []
    before = workers_of(pool)
    pool._repopulate_pool()
    assert workers_of(pool) == before
    pool.close()
    pool.join()
    assert pool._state == "CLOSE"


@pytest.mark.with_threads
def test_cache_holds_the_unfinished_jobs(factory, gate):
    pool = factory.Pool(2)
    assert not pool._cache
    held = pool.apply_async(tasks.hold, (gate, "held"))
    streamed = pool.imap(tasks.hold_some, [(gate, {0}, 0)])
    gate.wait_for(2)
    assert pool.apply_async(tasks.nothing) in pool._cache.values()
    found = list(pool._cache.values())
    assert held in found and streamed in found
    assert len(found) == 3
    del found
    gate.open()
    assert held.get(LIMIT) == "held"
    assert list(streamed) == [0]
    wait_until(lambda: not pool._cache, LIMIT)


@pytest.mark.with_threads
def test_repr(factory):
    pool = factory.Pool(2)
    name = f"{type(pool).__module__}.{type(pool).__qualname__}"
    assert repr(pool) == f"<{name} state=RUN pool_size=2>"
    pool.close()
    assert f"<{name} state=CLOSE pool_size=" in repr(pool)
    pool.terminate()
    assert f"<{name} state=TERMINATE pool_size=" in repr(pool)


@pytest.mark.with_threads
def test_cannot_be_pickled(factory):
    pool = factory.Pool(1)
    message = "^pool objects cannot be passed between processes or pickled$"
    with pytest.raises(NotImplementedError, match=message):
        pickle.dumps(pool)
    with pytest.raises(NotImplementedError, match=message):
        pool.__reduce__()


def test_workers(factory):
    pool = factory.Pool(2)
    pids = set(workers_of(pool))
    prefix = {"fork": "Fork", "spawn": "Spawn", "forkserver": "ForkServer"}[factory.start_method]
    for worker in pool._pool:
        assert re.fullmatch(prefix + r"PoolWorker-\d+", worker.name)
        assert worker.daemon
    assert pids <= {child.pid for child in multiprocessing.active_children()}
    facts = pool.apply(tasks.worker_facts)
    assert facts["pid"] in pids
    assert facts["name"] in {worker.name for worker in pool._pool}
    assert facts["daemon"] is True
    assert facts["stdin"] == ""


def test_a_worker_makes_no_pool(factory):
    pool = factory.Pool(1)
    with pytest.raises(AssertionError, match="daemonic processes are not allowed to have children"):
        pool.apply(tasks.nested_pool, (factory.name,))
    # The stdlib's has made semaphores by then, and a worker that is terminated at once leaves them.
    pool.close()
    pool.join()


@pytest.mark.start_methods("fork")
def test_forked_workers_see_what_was_set_before(factory):
    tasks.state["early"] = "set before"
    pool = factory.Pool(2)
    tasks.state["late"] = "set after"
    try:
        assert pool.map(tasks.recall, ["early"] * 10) == ["set before"] * 10
        assert pool.map(tasks.recall, ["late"] * 10) == [None] * 10
    finally:
        tasks.state.clear()


LIMITED = """
import resource
import sys

resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))

import tasks
from implementations import Implementation

def main():
    pools = [Implementation.named(sys.argv[1]).Pool(2) for _ in range(2)]
    for pool in pools:
        print(pool.map(tasks.square, range(5)), flush=True)
    print(len(bytearray(300 << 20)), flush=True)
    for pool in pools:
        print(pool.apply(len, (bytes(1 << 20),)), flush=True)
        pool.close()
        pool.join()

if __name__ == "__main__":
    main()
"""


@pytest.mark.ringpool_only
def test_pools_leave_address_space_to_a_limited_program(script):
    program = script(LIMITED)
    assert program.wait(LIMIT) == 0, program.err
    assert program.out.splitlines() == ["[0, 1, 4, 9, 16]"] * 2 + ["314572800"] + ["1048576"] * 2
    assert program.err == ""


# Initializers


def test_initializer_runs_once_in_each_worker(factory, gate):
    pool = factory.Pool(2, tasks.remember_marked, (gate,))
    pids = gate.wait_for(2)
    pool.map(tasks.square, range(20), 1)
    assert sorted(pids) == sorted(workers_of(pool))
    assert len(gate.arrivals()) == 2


def test_initargs_reach_the_initializer(factory):
    pool = factory.Pool(2, initializer=tasks.remember, initargs=("key", {"deep": [1, 2]}))
    assert pool.map(tasks.recall, ["key"] * 20, 1) == [{"deep": [1, 2]}] * 20


def test_queue_and_lock_in_initargs(factory, tmp_path):
    queue = factory.context.Queue()
    lock = factory.context.Lock()
    pool = factory.Pool(2, initializer=tasks.remember_two, initargs=(queue, lock))
    assert sorted(pool.map(tasks.put_in_queue, range(10), 1)) == list(range(10))
    assert sorted(queue.get(timeout=LIMIT) for _ in range(10)) == list(range(10))
    directory = tasks.Gate(str(tmp_path))
    assert pool.map(tasks.under_lock, [directory] * 50, 1) == [True] * 50
    queue.close()
    queue.join_thread()


def test_semaphores_and_events_in_initargs(factory):
    event = factory.context.Event()
    value = factory.context.Value("i", 0)
    pool = factory.Pool(2, initializer=tasks.remember_two, initargs=(value, event))
    result = pool.apply_async(tasks.wait_for_event)
    event.set()
    assert result.get(LIMIT) is True
    pool.map(tasks.count_up, range(40), 1)
    assert value.value == 40


# Replacement of workers


@pytest.mark.parametrize("chunksize, count", [(1, 6), (3, 18)])
def test_maxtasksperchild_counts_chunks(factory, chunksize, count):
    pool = factory.Pool(1, maxtasksperchild=2)
    pids = pool.map(tasks.getpid, range(count), chunksize)
    runs = [pids[start : start + 2 * chunksize] for start in range(0, count, 2 * chunksize)]
    assert [len(set(run)) for run in runs] == [1, 1, 1]
    assert len(set(pids)) == 3


def test_maxtasksperchild_of_one(factory):
    pool = factory.Pool(2, maxtasksperchild=1)
    results = [pool.apply_async(tasks.getpid) for _ in range(6)]
    assert len({result.get(LIMIT) for result in results}) == 6
    assert pool.map(tasks.square, range(6), 2) == [0, 1, 4, 9, 16, 25]
    wait_until(lambda: len(pool._pool) == 2 and all(one.is_alive() for one in pool._pool), LIMIT)
    pool.close()
    pool.join()


def test_replaced_workers_run_the_initializer(factory):
    pool = factory.Pool(1, tasks.remember, ("key", "value"), maxtasksperchild=1)
    assert pool.map(tasks.recall, ["key"] * 4, 1) == ["value"] * 4


def test_workers_stay_without_maxtasksperchild(factory):
    pool = factory.Pool(2)
    before = workers_of(pool)
    pool.map(tasks.square, range(500), 1)
    assert workers_of(pool) == before


# Ends


CALLS = {
    "apply": lambda pool: pool.apply(tasks.square, (1,)),
    "apply_async": lambda pool: pool.apply_async(tasks.square, (1,)),
    "map": lambda pool: pool.map(tasks.square, [1]),
    "map_async": lambda pool: pool.map_async(tasks.square, [1]),
    "starmap": lambda pool: pool.starmap(tasks.square, [(1,)]),
    "starmap_async": lambda pool: pool.starmap_async(tasks.square, [(1,)]),
    "imap": lambda pool: pool.imap(tasks.square, [1]),
    "imap chunked": lambda pool: pool.imap(tasks.square, [1], 2),
    "imap_unordered": lambda pool: pool.imap_unordered(tasks.square, [1]),
    "imap_unordered chunked": lambda pool: pool.imap_unordered(tasks.square, [1], 2),
    "with": lambda pool: pool.__enter__(),
}


@pytest.mark.with_threads
def test_closed_pool_takes_nothing(factory):
    pool = factory.Pool(1)
    pool.close()
    for name, call in CALLS.items():
        with pytest.raises(ValueError, match="^Pool not running$"):
            call(pool)
            pytest.fail(name)
    pool.join()
    for name, call in CALLS.items():
        with pytest.raises(ValueError, match="^Pool not running$"):
            call(pool)
            pytest.fail(name)


@pytest.mark.with_threads
def test_terminated_pool_takes_nothing(factory):
    pool = factory.Pool(1)
    pool.terminate()
    for name, call in CALLS.items():
        with pytest.raises(ValueError, match="^Pool not running$"):
            call(pool)
            pytest.fail(name)


@pytest.mark.with_threads
def test_running_pool_cannot_be_joined(factory):
    pool = factory.Pool(1)
    with pytest.raises(ValueError, match="^Pool is still running$"):
        pool.join()
    assert pool.apply(tasks.square, (3,)) == 9


@pytest.mark.with_threads
def test_ends_can_be_repeated(factory):
    pool = factory.Pool(1)
    for _ in range(2):
        pool.close()
    for _ in range(2):
        pool.join()
    assert pool._state == "CLOSE"
    for _ in range(2):
        pool.terminate()
    assert pool._state == "TERMINATE"
    pool.close()
    assert pool._state == "TERMINATE"
    pool.join()


def test_join_returns_when_the_workers_are_gone(factory):
    pool = factory.Pool(2)
    workers = list(pool._pool)
    result = pool.map_async(tasks.square, range(100))
    pool.close()
    pool.join()
    assert result.get(0) == [value**2 for value in range(100)]
    assert all(is_gone(worker.pid) for worker in workers)
    assert [worker.exitcode for worker in workers] == [0, 0]


@pytest.mark.with_threads
def test_close_lets_the_queued_tasks_finish(factory, gate):
    pool = factory.Pool(2)
    held = pool.apply_async(tasks.hold, (gate, "held"))
    queued = [pool.apply_async(tasks.square, (value,)) for value in range(100)]
    streamed = pool.imap(tasks.square, range(20))
    gate.wait_for(1)
    pool.close()
    gate.open()
    pool.join()
    assert held.get(0) == "held"
    assert [result.get(0) for result in queued] == [value**2 for value in range(100)]
    assert list(streamed) == [value**2 for value in range(20)]


def test_context_manager_terminates(factory, gate):
    with factory.Pool(2) as pool:
        assert pool._state == "RUN"
        workers = workers_of(pool)
        pool.apply_async(tasks.hold, (gate,))
        gate.wait_for(1)
    assert pool._state == "TERMINATE"
    wait_until(lambda: all(is_gone(pid) for pid in workers), LIMIT)


@pytest.mark.with_threads
def test_context_manager_lets_errors_through(factory):
    with pytest.raises(KeyError, match="from the body"):
        with factory.Pool(1) as pool:
            raise KeyError("from the body")
    assert pool._state == "TERMINATE"


def test_terminate_with_work_queued(factory, gate):
    pool = factory.Pool(2)
    for _ in range(2):
        pool.apply_async(tasks.hold, (gate,))
    gate.wait_for(2)
    pool.map_async(tasks.square, range(10_000), 1)
    pool.imap(tasks.square, range(1000))
    workers = workers_of(pool)
    pool.terminate()
    pool.join()
    assert all(is_gone(pid) for pid in workers)


@pytest.mark.with_threads
def test_dropped_pool_warns_and_dies(factory):
    pool = factory.untracked(2)
    assert pool.apply(tasks.square, (3,)) == 9
    with pytest.warns(ResourceWarning, match="unclosed running multiprocessing pool") as seen:
        del pool
        # A helper thread may hold the last result, and the result the pool, a moment longer.
        wait_until(lambda: gc.collect() >= 0 and len(seen), LIMIT)
    # The warning holds the pool.
    seen.clear()
    # That its workers, threads and descriptors go too is what is checked after every test.


@pytest.mark.ringpool_only
def test_joined_pool_lists_no_process(factory):
    pool = factory.Pool(2)
    pool.close()
    pool.join()
    assert pool._pool == []
    assert repr(pool) == "<pool.Pool state=CLOSE pool_size=0>"


@pytest.mark.with_threads
def test_ended_pool_does_not_warn(factory):
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        pool = factory.untracked(1)
        pool.terminate()
        pool.join()
        del pool
        gc.collect()


def test_result_keeps_a_dropped_pool(factory):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        result = factory.untracked(2).map_async(tasks.square, range(20))
        gc.collect()
        assert result.get(LIMIT) == [value**2 for value in range(20)]
        del result
        gc.collect()


@pytest.mark.with_threads
def test_eight_threads_share_a_pool(shared_pool, background):
    def use(offset):
        values = []
        for value in range(offset, offset + 40):
            kind = value % 4
            if kind == 0:
                values.append(shared_pool.apply(tasks.square, (value,)))
            elif kind == 1:
                values.append(shared_pool.apply_async(tasks.square, (value,)).get(LIMIT))
            elif kind == 2:
                values += shared_pool.map(tasks.square, [value])
            else:
                values += shared_pool.imap(tasks.square, [value])
        return values

    users = [background(use, 100 * number) for number in range(8)]
    for number, user in enumerate(users):
        start = 100 * number
        assert user.result(LIMIT) == [value**2 for value in range(start, start + 40)]


def test_pool_made_in_a_thread_that_ends(factory, background):
    pool = background(factory.Pool, 2).result()
    assert pool.map(tasks.square, range(20), 1) == [value**2 for value in range(20)]
    pool.close()
    pool.join()


def test_many_pools_one_after_the_other(factory):
    for _ in range(5):
        pool = factory.Pool(1)
        assert pool.map(tasks.square, [1, 2, 3]) == [1, 4, 9]
        pool.close()
        pool.join()


def test_two_pools_at_once(factory):
    one, two = factory.Pool(1), factory.Pool(1)
    results = [pool.map_async(tasks.square, range(50), 1) for pool in (one, two, one)]
    for result in results:
        assert result.get(LIMIT) == [value**2 for value in range(50)]
    one.terminate()
    assert two.apply(tasks.square, (3,)) == 9


# End of the program


PROGRAM = """
import sys
import tasks
from implementations import Implementation

def main():
    pool = Implementation.named(sys.argv[1]).Pool(2)
    {body}
    print("done", flush=True)
    {end}

if __name__ == "__main__":
    main()
"""
ENDS = {
    "idle": ("assert pool.map(tasks.square, range(10)) == [n * n for n in range(10)]", ""),
    "busy": ("results = [pool.apply_async(tasks.long) for _ in range(2)]", ""),
    "queued": ("result = pool.map_async(tasks.long, range(100), 1)", ""),
    "global": ("globals().update(kept=pool, result=pool.apply_async(tasks.long))", ""),
    "sys.exit": ("result = pool.apply_async(tasks.long)", "sys.exit(0)"),
    "closed": ("pool.apply_async(tasks.square, (3,)); pool.close()", ""),
}


def run_to_the_end(script, body, end):
    program = script(PROGRAM.format(body=body, end=end))
    program.wait_for_line()
    start = time.monotonic()
    assert program.wait(LIMIT) == 0, program.err
    # Far below the time that the tasks would take.
    assert time.monotonic() - start < 5
    assert program.out == "done\n"
    wait_until(lambda: not program.survivors(), LIMIT, "workers are gone")
    return program


every_end = pytest.mark.parametrize("body, end", ENDS.values(), ids=ENDS.keys())


@every_end
def test_program_ends_with_a_running_pool(script, body, end):
    run_to_the_end(script, body, end)


# The stdlib's pool may complain of a descriptor that its own end has closed.
@every_end
@pytest.mark.ringpool_only
def test_program_ends_without_a_word(script, body, end):
    assert run_to_the_end(script, body, end).err == ""


def test_program_that_fails_with_a_running_pool(script):
    body = "pool.apply_async(tasks.long)"
    program = script(PROGRAM.format(body=body, end="raise KeyError('from main')"))
    assert program.wait(LIMIT) == 1
    assert "KeyError: 'from main'" in program.err
    wait_until(lambda: not program.survivors(), LIMIT, "workers are gone")


def test_pool_used_by_an_exit_handler(script):
    body = """
    import atexit
    atexit.register(lambda: print(pool.map(tasks.square, [1, 2, 3]), flush=True))
    """
    program = script(PROGRAM.format(body=body, end=""))
    assert program.wait(LIMIT) == 0, program.err
    assert program.out == "done\n[1, 4, 9]\n"
    wait_until(lambda: not program.survivors(), LIMIT, "workers are gone")


def test_main_ends_while_a_thread_maps(script):
    body = """
    import threading
    def use():
        # print() writes its line's end apart, and main's print() may come between, or this one between main's two.
        sys.stdout.write(f"\\n{pool.map(tasks.square, range(200), 1)[-1]}\\n")
    threading.Thread(target=use).start()
    """
    program = script(PROGRAM.format(body=body, end=""))
    assert program.wait(LIMIT) == 0, program.err
    assert sorted(program.out.split()) == ["39601", "done"]
    wait_until(lambda: not program.survivors(), LIMIT, "workers are gone")


def test_pool_used_for_the_first_time_by_an_exit_handler(script):
    body = """
    import atexit
    def use():
        print(pool.apply_async(tasks.square, (3,), callback=tasks.nothing).get(20), flush=True)
        print(list(pool.imap(tasks.square, (n for n in range(3)))), flush=True)
    atexit.register(use)
    """
    program = script(PROGRAM.format(body=body, end=""))
    assert program.wait(LIMIT) == 0, program.err
    assert program.out == "done\n9\n[0, 1, 4]\n"
    wait_until(lambda: not program.survivors(), LIMIT, "workers are gone")


@pytest.mark.parametrize("end", ["", "made.close(); made.join()", "made.terminate()"], ids=["left", "closed", "terminated"])
def test_pool_made_by_an_exit_handler(script, end):
    body = f"""
    import atexit
    def use():
        made = Implementation.named(sys.argv[1]).Pool(2)
        print(made.map(tasks.square, [1, 2, 3]), flush=True)
        {end}
    atexit.register(use)
    """
    program = script(PROGRAM.format(body=body, end=""))
    assert program.wait(LIMIT) == 0, program.err
    assert program.out == "done\n[1, 4, 9]\n"
    wait_until(lambda: not program.survivors(), LIMIT, "workers are gone")


FIRST_POOL = """
import atexit
import sys
import threading
import time

from implementations import Implementation

import tasks

def use():
    with Implementation.named(sys.argv[1]).Pool(2) as pool:
        print(pool.map(tasks.square, range(4)), flush=True)

def use_later():
    while threading.main_thread().is_alive():
        time.sleep(0.01)
    use()

if __name__ == "__main__":
    {end}
"""


@pytest.mark.parametrize("end", ["threading.Thread(target=use_later).start()", "atexit.register(use)"], ids=["thread", "exit function"])
def test_first_pool_of_a_program_that_has_ended(script, end):
    program = script(FIRST_POOL.format(end=end))
    assert program.wait(LIMIT) == 0, program.err
    assert program.out == "[0, 1, 4, 9]\n"
    wait_until(lambda: not program.survivors(), LIMIT, "workers are gone")


@pytest.mark.ringpool_only
def test_main_ends_while_a_daemon_thread_maps(script):
    body = """
    import threading
    def use():
        while True:
            pool.map(tasks.square, range(200), 1)
    threading.Thread(target=use, daemon=True).start()
    """
    run_to_the_end(script, body, "")


# What the stdlib does not promise


@pytest.mark.ringpool_only
class TestTerminate:
    def test_every_pending_job_is_settled(self, factory, gate, ringpool):
        pool = factory.Pool(2)
        held = [pool.apply_async(tasks.hold, (gate,)) for _ in range(2)]
        gate.wait_for(2)
        queued = pool.apply_async(tasks.square, (3,))
        mapped = pool.map_async(tasks.square, range(100))
        starred = pool.starmap_async(tasks.add, [(1, 2)])
        streamed = pool.imap(tasks.square, range(10))
        unordered = pool.imap_unordered(tasks.square, range(10))
        chunked = pool.imap(tasks.square, range(10), 3)
        pool.terminate()
        for result in [*held, queued, mapped, starred]:
            assert result.ready()
            assert not result.successful()
            with pytest.raises(ringpool.PoolTerminatedError):
                result.get(0)
        for iterator in (streamed, unordered):
            with pytest.raises(ringpool.PoolTerminatedError):
                iterator.next(0)
        with pytest.raises(ringpool.PoolTerminatedError):
            next(chunked)

    def test_waiting_callers_are_told(self, factory, gate, ringpool, background):
        pool = factory.Pool(2)
        held = [pool.apply_async(tasks.hold, (gate,)) for _ in range(2)]
        gate.wait_for(2)
        streamed = pool.imap(tasks.square, range(10))
        callers = [
            background(held[0].get),
            background(pool.apply, tasks.square, (3,)),
            background(pool.map, tasks.square, range(10)),
            background(pool.starmap, tasks.add, [(1, 2)]),
            background(next, streamed),
        ]
        waiter = background(held[1].wait)
        pool.terminate()
        for caller in callers:
            # One that comes too late to submit anything gets the stdlib's answer.
            with pytest.raises((ringpool.PoolTerminatedError, ValueError)) as caught:
                caller.result(LIMIT)
            if isinstance(caught.value, ValueError):
                assert "Pool not running" in str(caught.value)
        assert waiter.result(LIMIT) is None

    def test_leaving_the_with_block_settles(self, factory, gate, ringpool):
        with factory.Pool(1) as pool:
            result = pool.apply_async(tasks.hold, (gate,))
            gate.wait_for(1)
        with pytest.raises(ringpool.PoolTerminatedError):
            result.get(LIMIT)

    def test_error_callback_is_told(self, factory, gate, ringpool):
        pool = factory.Pool(1)
        failed = []
        result = pool.apply_async(tasks.hold, (gate,), error_callback=failed.append)
        gate.wait_for(1)
        pool.terminate()
        pool.join()
        with pytest.raises(ringpool.PoolTerminatedError):
            result.get(LIMIT)
        assert [type(error) for error in failed] == [ringpool.PoolTerminatedError]

    def test_finished_results_stay(self, factory, gate):
        pool = factory.Pool(2)
        result = pool.map_async(tasks.square, range(10))
        result.wait(LIMIT)
        pool.apply_async(tasks.hold, (gate,))
        pool.terminate()
        assert result.get(0) == [value**2 for value in range(10)]

    @pytest.mark.parametrize(
        "task", [tasks.hold_deaf, tasks.hold_swallowing, tasks.stop_self], ids=lambda t: t.__name__
    )
    def test_takes_two_seconds_whatever_the_task_does(self, factory, gate, ringpool, task):
        pool = factory.Pool(2)
        workers = workers_of(pool)
        results = [pool.apply_async(task, (gate,)) for _ in range(2)]
        pids = gate.wait_for(2)
        if task is tasks.stop_self:
            wait_until(lambda: all(tasks.is_stopped(pid) for pid in pids), LIMIT)
        start = time.monotonic()
        pool.terminate()
        pool.join()
        assert time.monotonic() - start < 2.5
        assert all(is_gone(pid) for pid in workers)
        for result in results:
            with pytest.raises(ringpool.PoolTerminatedError):
                result.get(0)

    def test_full_rings_both_ways(self, factory, ringpool, refuse_threads):
        # Nobody collects: workers wait for room for results, tasks for room in the ring, large ones for memory.
        refuse_threads("ringpool-collector")
        pool = factory.Pool(2)
        large = [pool.apply_async(tasks.pattern, (1_000_000,)) for _ in range(4)]
        results = [pool.apply_async(tasks.square, (value,)) for value in range(10_000)]
        larger = [pool.apply_async(len, (bytes(4_000_000),)) for _ in range(40)]
        start = time.monotonic()
        pool.terminate()
        pool.join()
        assert time.monotonic() - start < 2.5
        for result in large + results + larger:
            assert result.ready()
        with pytest.raises(ringpool.PoolTerminatedError):
            larger[-1].get(0)

    def test_from_a_callback(self, factory, gate):
        pool = factory.Pool(2)
        terminated = threading.Event()

        def callback(value):
            pool.terminate()
            terminated.set()

        pool.apply_async(tasks.square, (3,), callback=callback)
        assert terminated.wait(LIMIT)
        pool.join()

    def test_callback_that_outlasts_it_leaves_no_memory(self, factory):
        before = leaks.Snapshot().memory_files
        pool = factory.Pool(2)
        entered, go_on = threading.Event(), threading.Event()

        def callback(value):
            entered.set()
            go_on.wait(LIMIT)

        pool.apply_async(tasks.square, (3,), callback=callback)
        queued = [pool.apply_async(tasks.long) for _ in range(10)]
        assert entered.wait(LIMIT)
        try:
            start = time.monotonic()
            pool.terminate()
            assert time.monotonic() - start < 2.5
        finally:
            go_on.set()
        pool.join()
        wait_until(lambda: leaks.Snapshot().memory_files.keys() <= before.keys(), 10)
        assert all(result.ready() for result in queued)

    @pytest.mark.parametrize("call", ["apply_async", "map_async"])
    def test_task_that_is_being_pickled_is_told(self, factory, background, ringpool, call):
        pool = factory.Pool(1)
        assert pool.apply(tasks.square, (3,)) == 9
        entered, go_on = threading.Event(), threading.Event()

        class Slow:
            def __reduce__(self):
                entered.set()
                go_on.wait(LIMIT)
                return int, ()

        def submit():
            arguments = (Slow(),) if call == "apply_async" else [1, Slow(), 3]
            return getattr(pool, call)(
                tasks.echo, arguments, callback=seen.append, error_callback=failed.append
            )

        seen, failed = [], []
        submitter = background(submit)
        assert entered.wait(LIMIT)
        try:
            pool.terminate()
        finally:
            go_on.set()
        result = submitter.result(LIMIT)
        with pytest.raises(ringpool.PoolTerminatedError):
            result.get(LIMIT)
        pool.join()
        assert seen == []
        assert [type(error) for error in failed] == [ringpool.PoolTerminatedError]

    @pytest.mark.parametrize("end", ["close", "terminate"])
    @pytest.mark.parametrize("function", [tasks.square, tasks.Multiplier(2).method])
    def test_iterable_that_ends_the_pool(self, factory, ringpool, function, end):
        def source():
            getattr(pool, end)()
            pool.join()
            yield 1

        seen = []
        for call in (
            lambda: pool.map(function, source()),
            lambda: pool.map_async(function, source(), callback=seen.append).get(LIMIT),
            lambda: pool.map_async(function, source(), error_callback=tasks.nothing).get(LIMIT),
        ):
            pool = factory.Pool(2)
            assert pool.map(tasks.square, range(10)) == [value**2 for value in range(10)]
            assert pool.apply(tasks.Multiplier(3).method, (2,)) == 6
            with pytest.raises((ValueError, ringpool.PoolTerminatedError)) as caught:
                call()
            if isinstance(caught.value, ValueError):
                assert str(caught.value) == "Pool not running"
        assert seen == []

    def test_inherited_handlers_do_not_run_in_workers(self, factory, gate):
        previous = signal.signal(signal.SIGTERM, lambda number, frame: None)
        try:
            pool = factory.Pool(2)
            results = [pool.apply_async(tasks.hold, (gate,)) for _ in range(2)]
            gate.wait_for(2)
            start = time.monotonic()
            pool.terminate()
            pool.join()
            assert time.monotonic() - start < 2.5
            assert all(result.ready() for result in results)
        finally:
            signal.signal(signal.SIGTERM, previous)


# Interrupts


CONSTRUCTED = """
import gc
import sys
import leaks
from alarms import Rung, alarms
from implementations import Implementation

def construct(implementation, first):
    pool = None
    with alarms(first, 0.0002) as alarm:
        try:
            try:
                alarm.armed = True
                pool = implementation.Pool(2)
            finally:
                alarm.armed = False
        except Rung:
            return 1
    pool.terminate()
    pool.join()
    return 0

def main():
    implementation = Implementation.named(sys.argv[1])
    leaks.start_helpers()
    # With the first come modules, of which nobody wants a half.
    construct(implementation, 1000)
    gc.collect()
    before = leaks.Snapshot()
    interrupted = sum(construct(implementation, 0.0003 * step) for step in range(1, 31))
    left = leaks.settle(lambda: leaks.Snapshot().since(before))
    leaks.kill_new_children(before)
    print(*left, "interrupted" if interrupted else "never interrupted", sep="\\n", flush=True)

if __name__ == "__main__":
    main()
"""


@pytest.mark.ringpool_only
@pytest.mark.start_methods("fork")
def test_construction_that_is_interrupted_leaves_nothing(script):
    program = script(CONSTRUCTED)
    assert program.wait(LIMIT) == 0, program.err
    assert program.out == "interrupted\n"


CTRL_C_CONSTRUCTED = """
import gc
import os
import signal
import sys
import threading
import time
import leaks
import tasks
from implementations import Implementation

def interrupt(ready, delay):
    # Its own mask is empty: the signal reaches the program whatever the main thread blocks.
    ready.wait()
    time.sleep(delay)
    os.kill(os.getpid(), signal.SIGINT)

def construct(implementation, delay):
    pool = None
    ready = threading.Event()
    other = threading.Thread(target=interrupt, args=(ready, delay))
    other.start()
    interrupted = False
    try:
        ready.set()
        pool = implementation.Pool(3)
        other.join()
        time.sleep(0.01)
    except KeyboardInterrupt:
        interrupted = pool is None
    other.join()
    if pool is not None:
        assert pool.map(tasks.square, range(4), 1) == [0, 1, 4, 9]
        pool.close()
        pool.join()
    return interrupted

def main():
    implementation = Implementation.named(sys.argv[1])
    leaks.start_helpers()
    # With the first come modules, of which nobody wants a half.
    construct(implementation, 2.0)
    begin = time.monotonic()
    pool = implementation.Pool(3)
    duration = time.monotonic() - begin
    pool.terminate()
    pool.join()
    pool = None
    gc.collect()
    before = leaks.Snapshot()
    interrupted = sum(construct(implementation, duration * n / 30) for n in range(40))
    left = leaks.settle(lambda: leaks.Snapshot().since(before))
    leaks.kill_new_children(before)
    print(*left, "interrupted" if interrupted else "never interrupted", sep="\\n", flush=True)

if __name__ == "__main__":
    main()
"""


@pytest.mark.ringpool_only
def test_construction_interrupted_while_another_thread_runs(script):
    program = script(CTRL_C_CONSTRUCTED)
    assert program.wait(2 * LIMIT) == 0, program.err
    assert program.out == "interrupted\n"
    assert "Traceback" not in program.err


@pytest.mark.ringpool_only
@pytest.mark.start_methods("fork")
def test_interrupted_callers_lose_no_callback(factory, background):
    pool = factory.Pool(2)
    # An alarm while the function is pickled would be the outcome of the task.
    pool.apply_async(tasks.echo, (0,), callback=tasks.nothing).get(LIMIT)
    results, seen = [], []
    numbers = itertools.count()
    rung = 0
    # What a handler raises while a function is pickled is that job's error, as any that pickling raises.
    pool.apply_async(tasks.echo, (0,), callback=repr).get(LIMIT)
    deadline = time.monotonic() + 1.0
    with alarms(0.0007, 0.0007) as alarm:
        while rung <= 10 or time.monotonic() < deadline:
            try:
                try:
                    while rung <= 10 or time.monotonic() < deadline:
                        # Each time: one that rings in somebody's callback for the garbage collector is swallowed there.
                        alarm.armed = True
                        number = next(numbers)
                        result = pool.apply_async(tasks.echo, (number,), callback=seen.append)
                        results.append((number, result))
                        if number % 20 == 0:
                            result.get(LIMIT)
                finally:
                    alarm.armed = False
            except Rung:
                rung += 1
    assert rung > 10
    for number, result in results:
        assert result.get(LIMIT) == number
    wait_until(lambda: not pool._cache, LIMIT)
    pool.close()
    background(pool.join).result(LIMIT)
    assert len(seen) == len(set(seen))
    assert {number for number, _ in results} <= set(seen)


class Interrupting:
    """A dispatcher whose caller gets a Ctrl-C when the job is submitted and nobody waits for it yet."""

    def __init__(self, core):
        self._core = core

    def __getattr__(self, name):
        value = getattr(self._core, name)
        if not callable(value):
            return value

        def call(*args):
            value(*args)
            raise KeyboardInterrupt

        return call


@pytest.mark.ringpool_only
@pytest.mark.parametrize(
    "call",
    [
        lambda pool, gate: pool.map(tasks.square, range(10_000), 1),
        lambda pool, gate: pool.map(tasks.square, range(10_000)),
        lambda pool, gate: pool.apply(tasks.note, (gate,)),
    ],
    ids=["map one by one", "map", "apply"],
)
@pytest.mark.parametrize("used", [False, True], ids=["never used", "used"])
def test_interrupt_between_submission_and_wait(factory, gate, background, monkeypatch, call, used):
    pool = factory.Pool(2)
    if used:
        pool.apply_async(tasks.square, (3,)).get(LIMIT)
    monkeypatch.setattr(pool, "_core", Interrupting(pool._core))
    with pytest.raises(KeyboardInterrupt):
        call(pool, gate)
    monkeypatch.undo()
    start = time.monotonic()
    pool.close()
    background(pool.join).result(LIMIT)
    assert time.monotonic() - start < 5


class Interruption:
    """Brings a Ctrl-C to the program that pickles it."""

    def __reduce__(self):
        signal.raise_signal(signal.SIGINT)
        return int, ()


INTERRUPTED_CALLS = {
    "apply": lambda pool, value: pool.apply(tasks.echo, (value,)),
    "apply_async": lambda pool, value: pool.apply_async(tasks.echo, (value,)),
    "map": lambda pool, value: pool.map(tasks.echo, [0, 1, value, 3]),
    "map one by one": lambda pool, value: pool.map(tasks.echo, [0, 1, value, 3], 1),
    "map in chunks": lambda pool, value: pool.map(tasks.echo, [0, 1, value, 3], 2),
    "map_async": lambda pool, value: pool.map_async(tasks.echo, [0, 1, value, 3], 1),
    "starmap": lambda pool, value: pool.starmap(tasks.echo, [(0,), (value,)], 1),
    "imap": lambda pool, value: pool.imap(tasks.echo, [0, value, 2]),
}


@pytest.mark.ringpool_only
@pytest.mark.parametrize("call", INTERRUPTED_CALLS.values(), ids=INTERRUPTED_CALLS.keys())
def test_interrupt_while_arguments_are_pickled(shared_pool, gate, call):
    # It is not to wait for them.
    held = [shared_pool.apply_async(tasks.hold, (gate, value)) for value in range(2)]
    gate.wait_for(2)
    with pytest.raises(KeyboardInterrupt):
        call(shared_pool, Interruption())
    assert not any(result.ready() for result in held)
    gate.open()
    assert [result.get(LIMIT) for result in held] == [0, 1]
    assert shared_pool.map(tasks.square, range(20), 1) == [value**2 for value in range(20)]
    assert list(shared_pool.imap(tasks.square, range(5))) == [0, 1, 4, 9, 16]
    wait_until(lambda: not shared_pool._cache, LIMIT)


class MainInterruption:
    """Brings a signal, once, to the program whose main thread pickles it."""

    brought = False

    def __init__(self, number):
        self.number = number

    def __reduce__(self):
        if threading.current_thread() is threading.main_thread() and not self.brought:
            self.brought = True
            signal.raise_signal(self.number)
        return int, ("7",)


@pytest.fixture(params=["Ctrl-C", "a handler that raises", "an object that raises"])
def interrupt(request):
    """(number, error): a signal, and what it raises in the main thread."""

    class Handler:
        def __call__(self, number, frame):
            raise Rung

    def handle(number, frame):
        raise Rung

    if request.param == "Ctrl-C":
        yield signal.SIGINT, KeyboardInterrupt
        return
    previous = signal.signal(signal.SIGUSR1, handle if "handler" in request.param else Handler())
    yield signal.SIGUSR1, Rung
    signal.signal(signal.SIGUSR1, previous)


@pytest.mark.ringpool_only
@pytest.mark.parametrize("chunksize", [1, 3, None])
def test_interrupt_is_no_outcome_for_the_job_of_another_thread(factory, gate, background, interrupt, chunksize):
    number, error = interrupt
    pool = factory.Pool(2)
    held = [pool.apply_async(tasks.hold, (gate, value)) for value in range(2)]
    gate.wait_for(2)
    items = [*range(9000), MainInterruption(number), *range(50)]
    other = background(pool.map, tasks.echo, items, chunksize)
    wait_until(lambda: len(pool._cache) == 3, LIMIT)
    gate.open()
    interrupted = 0
    while not other.done():
        try:
            results = [pool.apply(tasks.echo, (value,)) for value in range(100)]
            assert results == list(range(100))
        except error:
            interrupted += 1
    assert interrupted == items[9000].brought
    assert other.result(LIMIT) == [*range(9000), 7, *range(50)]
    assert [result.get(LIMIT) for result in held] == [0, 1]


@pytest.mark.ringpool_only
@pytest.mark.parametrize("call", ["apply", "apply_async", "map", "imap"])
def test_interrupt_while_own_arguments_are_pickled(shared_pool, interrupt, call):
    number, error = interrupt
    argument = MainInterruption(number)
    with pytest.raises(error):
        getattr(shared_pool, call)(tasks.echo, (argument,) if "apply" in call else [argument])
    assert shared_pool.map(tasks.square, range(20), 1) == [value**2 for value in range(20)]
    wait_until(lambda: not shared_pool._cache, LIMIT)


@pytest.mark.ringpool_only
def test_interrupt_while_a_result_is_unpickled_costs_no_result(shared_pool, interrupt):
    number, error = interrupt
    result = shared_pool.apply_async(tasks.InterruptsOnLoad, (number, 5))
    result.wait(LIMIT)
    tasks.interrupting[:] = [True]
    with pytest.raises(error):
        result.get(LIMIT)
    assert result.successful() and result.get(0).value == 5
    result = shared_pool.starmap_async(tasks.InterruptsOnLoad, [(number, value) for value in range(10)], 2)
    result.wait(LIMIT)
    tasks.interrupting[:] = [True]
    with pytest.raises(error):
        result.get(LIMIT)
    assert [one.value for one in result.get(0)] == list(range(10))
    iterator = shared_pool.istarmap(tasks.InterruptsOnLoad, [(number, value) for value in range(5)])
    seen = [next(iterator).value]
    tasks.interrupting[:] = [True]
    with pytest.raises(error):
        next(iterator)
    seen += [one.value for one in iterator]
    assert seen == list(range(5))


@pytest.mark.ringpool_only
@pytest.mark.with_threads
def test_interrupt_while_a_feeder_starts(factory, monkeypatch):
    start = threading.Thread.start

    def interrupted(thread):
        start(thread)
        if thread.name == "ringpool-feeder":
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(threading.Thread, "start", interrupted)

    def leave_alone():
        pool = factory.untracked(2)
        with pytest.raises(KeyboardInterrupt):
            pool.imap(tasks.nap, (0.01 for _ in range(20)))
        return weakref.ref(pool)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        pool = leave_alone()
        wait_until(lambda: gc.collect() is not None and pool() is None, LIMIT)


@pytest.mark.ringpool_only
@pytest.mark.with_threads
@pytest.mark.parametrize("source", [range, list, iter])
@pytest.mark.parametrize("chunksize", [1, 3])
def test_iterator_with_a_buffersize_that_is_dropped(factory, source, chunksize):
    iterable = source(range(100)) if source is not range else range(100)
    pool = factory.Pool(2)
    iterator = pool.imap(tasks.square, iterable, chunksize, buffersize=3)
    assert next(iterator) == 0
    iterator = None
    gc.collect()
    wait_until(lambda: not pool._cache, LIMIT)
    wait_until(lambda: not any(one.name == "ringpool-feeder" for one in threading.enumerate()), LIMIT)
    assert pool.map(tasks.square, range(20), 1) == [value**2 for value in range(20)]

    def leave_alone():
        pool = factory.untracked(2)
        iterator = pool.imap(tasks.square, source(range(100)) if source is not range else range(100), buffersize=3)
        assert next(iterator) == 0
        return weakref.ref(pool)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        pool = leave_alone()
        wait_until(lambda: gc.collect() is not None and pool() is None, LIMIT)


@pytest.mark.ringpool_only
@pytest.mark.start_methods("fork")
def test_refused_forks_cost_no_descriptor(factory, monkeypatch):
    pool = factory.Pool(2)
    assert pool.map(tasks.square, [1, 2]) == [1, 4]
    before = leaks.Snapshot()
    tries = []

    def refuse():
        tries.append(1)
        raise BlockingIOError(errno.EAGAIN, "no more processes")

    monkeypatch.setattr(os, "fork", refuse)
    victim = pool._pool[0].pid
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: len(tries) >= 5, LIMIT)
    monkeypatch.undo()
    wait_until(lambda: len(pool._pool) == 2 and victim not in {worker.pid for worker in pool._pool}, LIMIT)
    wait_until(lambda: len(leaks._descriptors()) == len(before.descriptors), LIMIT)


STARTED = """
import sys
import tasks
from implementations import Implementation

def main():
    pool = Implementation.named(sys.argv[1]).Pool(3)
    try:
        print("made", flush=True)
        tasks.long()
    except KeyboardInterrupt:
        print(pool.map(tasks.square, range(4), 1), flush=True)
    pool.close()
    pool.join()
    print("done", flush=True)

if __name__ == "__main__":
    main()
"""


@pytest.mark.ringpool_only
@pytest.mark.start_methods("fork", "spawn")
@pytest.mark.parametrize("delay", [0.0, 0.05, 0.15])
def test_keyboard_interrupt_while_workers_start(script, delay):
    program = script(STARTED)
    program.wait_for_line()
    time.sleep(delay)
    program.signal_all(signal.SIGINT)
    assert program.wait(LIMIT) == 0, program.err
    assert program.out == "made\n[0, 1, 4, 9]\ndone\n"
    assert program.err == ""
    wait_until(lambda: not program.survivors(), LIMIT, "workers are gone")


INTERRUPTED = """
import sys
import tasks
from implementations import Implementation

def outcome(result):
    while True:
        try:
            return result.get(20)
        except KeyboardInterrupt:
            if result.ready():
                return "interrupted"
            print("caught", flush=True)

def main():
    pool = Implementation.named(sys.argv[1]).Pool(2)
    tasks.all_ready(pool, tasks.Gate(sys.argv[2]), 2)
    gate = tasks.Gate(sys.argv[3])
    result = pool.apply_async(tasks.hold, (gate,))
    try:
        gate.wait_for(1)
        print("ready", flush=True)
        print(outcome(result), flush=True)
        print(pool.map(tasks.square, range(5)), flush=True)
        pool.close()
        pool.join()
        print("joined", flush=True)
    finally:
        pool.terminate()

if __name__ == "__main__":
    main()
"""


@pytest.mark.ringpool_only
def test_keyboard_interrupt_of_the_whole_group(script, make_gate):
    program = script(INTERRUPTED, "file", make_gate().directory, make_gate().directory)
    program.wait_for_line()
    program.signal_all(signal.SIGINT)
    assert program.wait(LIMIT) == 0, program.err
    lines = [line for line in program.out.splitlines() if line != "caught"]
    assert lines == ["ready", "interrupted", "[0, 1, 4, 9, 16]", "joined"]
    assert program.err == ""
    wait_until(lambda: not program.survivors(), LIMIT, "workers are gone")


@pytest.mark.ringpool_only
@pytest.mark.parametrize("pause", [0.0, 0.0005])
def test_keyboard_interrupt_that_comes_twice(script, make_gate, pause):
    program = script(INTERRUPTED, "file", make_gate().directory, make_gate().directory)
    program.wait_for_line()
    program.signal_all(signal.SIGINT)
    time.sleep(pause)
    program.signal_all(signal.SIGINT)
    code = program.wait(LIMIT)
    # An interpreter that is about to end has put the handler back: then the second one ends it without a word.
    if code == 0 or (code == -signal.SIGINT and not program.err):
        lines = [line for line in program.out.splitlines() if line != "caught"]
        assert lines == ["ready", "interrupted", "[0, 1, 4, 9, 16]", "joined"]
    else:
        # The second one found the program where it expects none: that is its own affair, if it is what it dies of.
        assert "KeyboardInterrupt" in program.err.splitlines()[-1]
    wait_until(lambda: not program.survivors(), LIMIT, "workers are gone")


@pytest.mark.ringpool_only
def test_storm_of_signals(factory):
    pool = factory.Pool(2)
    with alarms(0.001, 0.001):
        assert [pool.apply(tasks.square, (value,)) for value in range(300)] == [value**2 for value in range(300)]
        assert pool.map(tasks.square, range(300), 1) == [value**2 for value in range(300)]
        assert list(pool.imap(tasks.square, (value for value in range(300)))) == [value**2 for value in range(300)]
        assert pool.apply(len, (bytes(20_000_000),)) == 20_000_000
        other = factory.Pool(2)
        assert other.map(tasks.square, range(30), 1) == [value**2 for value in range(30)]
        other.close()
        other.join()
        pool.close()
        pool.join()


@pytest.mark.ringpool_only
def test_keyboard_interrupt_of_idle_workers_is_silent(script, gate):
    body = """
    # What a worker prints that is still starting is not in the hands of the pool.
    tasks.all_ready(pool, tasks.Gate(sys.argv[2]), 2)
    try:
        print("ready", flush=True)
        tasks.long()
    except KeyboardInterrupt:
        print(pool.map(tasks.square, range(4), 1), flush=True)
    pool.close()
    pool.join()
    """
    program = script(PROGRAM.format(body=body, end=""), "file", gate.directory)
    program.wait_for_line()
    program.signal_all(signal.SIGINT)
    assert program.wait(LIMIT) == 0, program.err
    assert program.out == "ready\n[0, 1, 4, 9]\ndone\n"
    assert program.err == ""


@pytest.mark.ringpool_only
@pytest.mark.start_methods("fork", "spawn", "forkserver")
@pytest.mark.parametrize("end", ["terminate", "drop"])
def test_workers_without_a_task_leave_with_their_exit_functions(factory, make_gate, end):
    gate = make_gate()
    pool = factory.untracked(2, tasks.tell_at_exit, (gate,))
    tasks.all_ready(pool, make_gate(), 2)
    held = pool._pool[:]
    if end == "terminate":
        pool.terminate()
        pool.join()
    del pool
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
    wait_until(lambda: len(gate.arrivals()) == 2, LIMIT)
    wait_until(lambda: all(worker.exitcode == 0 for worker in held), LIMIT)
