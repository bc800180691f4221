"""Processes that somebody else forks, with a pool in their memory: they neither use it nor harm it."""

import gc
import os
import threading

import pytest
import tasks
from procfs import answer_of_child, wait_until

pytestmark = pytest.mark.ringpool_only

LIMIT = 30


@pytest.fixture
def pool(factory):
    """One whose workers must be the same at the end of the test, and work."""
    made = factory.Pool(2)
    made.map(tasks.square, range(10), 1)
    before = [worker.pid for worker in made._pool]
    yield made
    assert made.map(tasks.square, range(50), 1) == [value**2 for value in range(50)]
    assert [worker.pid for worker in made._pool] == before
    assert all(worker.is_alive() for worker in made._pool)


USES = {
    "apply": lambda pool: pool.apply(tasks.square, (3,)),
    "apply_async": lambda pool: pool.apply_async(tasks.square, (3,)),
    "map": lambda pool: pool.map(tasks.square, range(3)),
    "map_async": lambda pool: pool.map_async(tasks.square, range(3)),
    "map of nothing": lambda pool: pool.map(tasks.square, []),
    "starmap": lambda pool: pool.starmap(tasks.add, [(1, 2)]),
    "imap": lambda pool: list(pool.imap(tasks.square, range(3))),
    "imap of a generator": lambda pool: list(pool.imap(tasks.square, (value for value in range(3)))),
    "imap_unordered": lambda pool: list(pool.imap_unordered(tasks.square, range(3))),
    "with a callback": lambda pool: pool.apply_async(tasks.square, (3,), callback=tasks.nothing).get(),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
def test_child_that_uses_the_pool_is_told(pool, use):
    assert answer_of_child(lambda: use(pool)).startswith(f"RuntimeError pool belongs to process {os.getpid()}")


def test_child_that_waits_for_a_result_is_told(pool, gate):
    result = pool.apply_async(tasks.hold, (gate, "held"))
    mapped = pool.map_async(tasks.hold, [gate])
    streamed = pool.imap(tasks.square, range(3))
    gate.wait_for(2)
    for wait in (lambda: result.get(), lambda: result.get(0.01), lambda: mapped.wait(), lambda: next(streamed)):
        assert answer_of_child(wait).startswith(f"RuntimeError pool belongs to process {os.getpid()}")
    gate.open()
    assert result.get(LIMIT) == "held"
    assert list(streamed) == [0, 1, 4]


@pytest.mark.parametrize("buffersize", [1, 4])
@pytest.mark.parametrize("call", ["imap", "imap_unordered"])
def test_forked_child_cannot_read_on(factory, call, buffersize):
    pool = factory.Pool(2)
    for source in (range(100), (value for value in range(100))):
        iterator = getattr(pool, call)(tasks.echo, source, buffersize=buffersize)
        values = [next(iterator)]
        # Now the results of the others are there, which the child has only to take.
        assert pool.map(tasks.square, range(20), 1) == [value**2 for value in range(20)]
        answer = answer_of_child(lambda: next(iterator))
        assert answer.startswith(f"RuntimeError pool belongs to process {os.getpid()}")
        values += iterator
        assert sorted(values) == list(range(100))


ENDS = {
    "close": lambda pool: pool.close(),
    "terminate": lambda pool: pool.terminate(),
    "terminate and join": lambda pool: (pool.terminate(), pool.join()),
    "with block": lambda pool: pool.__exit__(None, None, None),
    "repopulate": lambda pool: pool._repopulate_pool(),
    "finalizer": lambda pool: pool._terminate(),
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS.keys())
def test_child_that_ends_the_pool_ends_nothing(pool, end, gate):
    result = pool.apply_async(tasks.hold, (gate, "held"))
    gate.wait_for(1)
    answer = answer_of_child(lambda: end(pool))
    assert answer.startswith(("gave", "RuntimeError"))
    gate.open()
    assert result.get(LIMIT) == "held"


def test_child_that_drops_the_pool(factory):
    pools = [factory.untracked(2)]
    before = [worker.pid for worker in pools[0]._pool]

    def drop():
        pools.clear()
        gc.collect()

    assert answer_of_child(drop) == "gave None"
    pool = pools.pop()
    assert pool.map(tasks.square, range(50), 1) == [value**2 for value in range(50)]
    assert [worker.pid for worker in pool._pool] == before
    pool.terminate()
    pool.join()


def test_child_makes_a_pool_of_its_own(pool, factory):
    def work():
        with factory.untracked(2) as own:
            return own.map(tasks.square, range(5))

    if factory.start_method == "fork":
        assert answer_of_child(work) == "gave [0, 1, 4, 9, 16]"
    else:
        # multiprocessing's helpers are children of the process that this one is a copy of.
        assert answer_of_child(work).startswith(("gave", "ChildProcessError", "OSError"))


@pytest.mark.parametrize("where", ["main thread", "another thread"])
def test_fork_while_other_threads_use_the_pool(pool, background, where):
    stop = threading.Event()

    def use():
        while not stop.is_set():
            assert pool.map(tasks.square, range(200), 1) == [value**2 for value in range(200)]
        return True

    users = [background(use) for _ in range(2)]
    try:
        for _ in range(20):
            call = lambda: pool.apply(tasks.square, (3,))  # noqa: E731
            answer = answer_of_child(call) if where == "main thread" else background(answer_of_child, call).result(LIMIT)
            assert answer.startswith("RuntimeError")
    finally:
        stop.set()
    assert [user.result(LIMIT) for user in users] == [True, True]


EXITING = """
import os
import sys
import tasks
from implementations import Implementation

def main():
    with Implementation.named(sys.argv[1]).Pool(2) as pool:
        before = pool.map(tasks.square, range(10), 1), sorted(worker.pid for worker in pool._pool)
        child = os.fork()
        if child == 0:
            if sys.argv[2] == "exit":
                sys.exit(0)
            if sys.argv[2] == "error":
                raise KeyError("of the child")
            return
        os.waitpid(child, 0)
        print(before == (pool.map(tasks.square, range(10), 1), sorted(worker.pid for worker in pool._pool)), flush=True)

if __name__ == "__main__":
    main()
"""


@pytest.mark.parametrize("how", ["exit", "error", "return"])
def test_child_that_leaves_the_program_leaves_the_workers_alone(script, how):
    program = script(EXITING, "file", how)
    assert program.wait(LIMIT) == 0, program.err
    assert program.out == "True\n"
    assert ("KeyError" in program.err) is (how == "error")
    wait_until(lambda: not program.survivors(), LIMIT, "nothing is left")


# Forks of the pool's own


THREADS = """
import os
import sys
import tasks
from implementations import Implementation

threads = []
os.register_at_fork(before=lambda: threads.append(len(os.listdir("/proc/self/task"))))

def main():
    pool = Implementation.named(sys.argv[1]).Pool(3)
    print(threads, flush=True)
    assert pool.map(tasks.square, range(10), 1) == [n * n for n in range(10)]
    pool.close()
    pool.join()

if __name__ == "__main__":
    main()
"""


@pytest.mark.start_methods("fork")
def test_first_workers_are_forked_before_any_thread_is_started(script):
    program = script(THREADS)
    assert program.wait(LIMIT) == 0, program.err
    assert program.out == "[1, 1, 1]\n"


@pytest.mark.start_methods("fork")
def test_worker_that_is_forked_while_threads_hold_locks_of_the_pool(factory, background):
    pool = factory.Pool(2, maxtasksperchild=3)
    users = [background(pool.map, tasks.square, range(150), 1) for _ in range(4)]
    for user in users:
        assert user.result(LIMIT) == [value**2 for value in range(150)]
    seen = []
    results = [pool.apply_async(tasks.square, (value,), callback=seen.append) for value in range(60)]
    assert [result.get(LIMIT) for result in results] == [value**2 for value in range(60)]
    assert sorted(seen) == [value**2 for value in range(60)]
