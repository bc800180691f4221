"""Time limits of tasks, and tasks that are run again when their worker was lost."""

import multiprocessing
import pickle

import pytest
import tasks
from procfs import is_gone, wait_until

pytestmark = pytest.mark.ringpool_only
LIMIT = 30
SHORT = 0.2
AMPLE = 2.0  # for what is not to overrun on a busy machine


def still_works(pool):
    return pool.map(tasks.square, range(50), 1) == [value**2 for value in range(50)]


def timed_out(ringpool, call):
    with pytest.raises(ringpool.TaskTimeoutError) as caught:
        call()
    return caught.value


# task_timeout


@pytest.mark.parametrize("task", [tasks.hold, tasks.hold_in_c, tasks.hold_deaf, tasks.stop_self], ids=lambda t: t.__name__)
def test_only_the_task_that_overruns_fails(factory, make_gate, ringpool, task):
    pool = factory.Pool(2)
    gate, other = make_gate(), make_gate()
    bystander = pool.apply_async(tasks.hold, (other, "kept"))
    result = pool.apply_async(task, (gate,), task_timeout=SHORT)
    other.wait_for(1)
    (pid,) = gate.wait_for(1)
    error = timed_out(ringpool, lambda: result.get(LIMIT))
    assert isinstance(error, multiprocessing.TimeoutError)
    assert (error.pid, error.index, error.seconds) == (pid, 0, SHORT)
    assert error.function == task.__name__ and task.__name__ in str(error) and str(pid) in str(error)
    wait_until(lambda: is_gone(pid), LIMIT)
    other.open()
    assert bystander.get(LIMIT) == "kept"
    assert still_works(pool)
    wait_until(lambda: len(pool._pool) == 2, LIMIT)


CALLS = {
    "apply": lambda pool, gate, **limits: pool.apply(tasks.hold, (gate,), **limits),
    "map": lambda pool, gate, **limits: pool.map(tasks.hold, [gate], **limits),
    "starmap": lambda pool, gate, **limits: pool.starmap(tasks.hold, [(gate,)], **limits),
    "map_async": lambda pool, gate, **limits: pool.map_async(tasks.hold, [gate], **limits).get(LIMIT),
    "starmap_async": lambda pool, gate, **limits: pool.starmap_async(tasks.hold, [(gate,)], **limits).get(LIMIT),
    "imap": lambda pool, gate, **limits: list(pool.imap(tasks.hold, [gate], **limits)),
    "imap_unordered": lambda pool, gate, **limits: list(pool.imap_unordered(tasks.hold, iter([gate]), **limits)),
    "istarmap": lambda pool, gate, **limits: list(pool.istarmap(tasks.hold, [(gate,)], **limits)),
    "istarmap_unordered": lambda pool, gate, **limits: list(pool.istarmap_unordered(tasks.hold, [(gate,)], **limits)),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_every_call_takes_a_limit(factory, gate, ringpool, call):
    pool = factory.Pool(1)
    timed_out(ringpool, lambda: call(pool, gate, task_timeout=SHORT))
    assert still_works(pool)


def test_limit_of_the_pool_and_of_a_call(factory, gate, ringpool):
    pool = factory.Pool(2, task_timeout=SHORT)
    timed_out(ringpool, lambda: pool.apply(tasks.hold, (gate,)))
    result = pool.apply_async(tasks.hold, (gate, "kept"), task_timeout=float("inf"))
    timed_out(ringpool, lambda: pool.map(tasks.hold, [gate]))
    gate.open()
    assert result.get(LIMIT) == "kept"


@pytest.mark.parametrize("chunksize", [1, 3, None])
def test_item_of_a_map(factory, gate, ringpool, chunksize):
    pool = factory.Pool(2)
    items = [(gate, {4}, value) for value in range(12)]
    error = timed_out(ringpool, lambda: pool.map(tasks.hold_some, items, chunksize, task_timeout=AMPLE))
    assert error.index == 4
    assert still_works(pool)


def test_other_items_of_an_iterator(factory, gate, ringpool):
    pool = factory.Pool(2)
    seen = []
    iterator = pool.imap(tasks.hold_some, [(gate, {2, 5}, value) for value in range(8)], task_timeout=AMPLE)
    for _ in range(8):
        try:
            seen.append(next(iterator))
        except ringpool.TaskTimeoutError as error:
            seen.append(("late", error.index))
    assert seen == [0, 1, ("late", 2), 3, 4, ("late", 5), 6, 7]


def test_limit_is_of_a_call_not_of_a_chunk(factory):
    pool = factory.Pool(1)
    # Longer in all than the limit.
    assert pool.map(tasks.nap, [AMPLE / 4] * 6, 6, task_timeout=AMPLE) == [AMPLE / 4] * 6


def test_time_for_imports_does_not_count(factory, gate):
    pool = factory.Pool(1)
    assert pool.apply(tasks.square, (tasks.SlowlyLoaded(3 * SHORT),), task_timeout=SHORT) == 49


def test_time_in_the_queue_does_not_count(factory):
    pool = factory.Pool(1)
    results = [pool.apply_async(tasks.nap, (AMPLE / 4,), task_timeout=AMPLE) for _ in range(6)]
    assert [result.get(LIMIT) for result in results] == [AMPLE / 4] * 6


def test_callbacks_are_told(factory, gate, ringpool):
    pool = factory.Pool(1)
    seen, failed = [], []
    result = pool.apply_async(tasks.hold, (gate,), callback=seen.append, error_callback=failed.append, task_timeout=SHORT)
    timed_out(ringpool, lambda: result.get(LIMIT))
    assert seen == []
    assert [type(error) for error in failed] == [ringpool.TaskTimeoutError]


def test_many_tasks_at_the_edge_of_their_limit(factory, ringpool):
    pool = factory.Pool(2)
    outcomes = []
    times = [0.05, 0.0] * 30
    iterator = pool.imap(tasks.nap, times, task_timeout=0.05)
    while len(outcomes) < 60:
        try:
            outcomes.append(next(iterator))
        except ringpool.TaskTimeoutError as error:
            assert error.index == len(outcomes)
            outcomes.append(times[error.index])
    assert outcomes == times
    assert list(iterator) == []
    assert still_works(pool)


def test_error_travels(ringpool):
    error = ringpool.TaskTimeoutError("message", 1.5, 12, "f", 3)
    again = pickle.loads(pickle.dumps(error))
    assert (again.args, again.seconds, again.pid, again.function, again.index) == (("message",), 1.5, 12, "f", 3)


@pytest.mark.parametrize(
    ("value", "error"), [(0, ValueError), (-1, ValueError), (float("nan"), ValueError), ("1", TypeError), (True, TypeError)]
)
@pytest.mark.start_methods("fork")
def test_bad_limits(factory, shared_pool, value, error):
    with pytest.raises(error, match="task_timeout"):
        factory.Pool(1, task_timeout=value)
    with pytest.raises(error, match="task_timeout"):
        shared_pool.apply_async(tasks.nothing, task_timeout=value)
    with pytest.raises(error, match="task_timeout"):
        shared_pool.imap(tasks.nothing, [1], task_timeout=value)


def test_threads_have_no_limit(ringpool):
    with ringpool.ThreadPool(1) as pool:
        with pytest.raises(ValueError, match="threads cannot be killed"):
            pool.apply(tasks.nothing, task_timeout=1)
        assert pool.map(tasks.square, [1, 2], retries=2) == [1, 4]


# retries


def test_lost_task_is_run_again(factory, gate):
    pool = factory.Pool(2)
    assert pool.apply(tasks.die_at_first, (gate, 2, "value"), retries=2) == "value"
    assert len(gate.arrivals()) == 3


def test_retries_run_out(factory, gate, ringpool):
    pool = factory.Pool(2, retries=1)
    with pytest.raises(ringpool.WorkerLostError):
        pool.apply(tasks.die_at_first, (gate, 5))
    assert len(gate.arrivals()) == 2
    assert still_works(pool)


def test_no_retry_unless_asked_for(factory, make_gate, ringpool):
    pool = factory.Pool(2)
    gate = make_gate()
    with pytest.raises(ringpool.WorkerLostError):
        pool.apply(tasks.die_at_first, (gate, 1))
    assert len(gate.arrivals()) == 1
    pool = factory.Pool(2, retries=3)
    gate = make_gate()
    with pytest.raises(ringpool.WorkerLostError):
        pool.apply(tasks.die_at_first, (gate, 1), retries=0)
    assert len(gate.arrivals()) == 1


@pytest.mark.parametrize("chunksize", [1, 4, None])
@pytest.mark.parametrize("size", [1, 5000])
def test_lost_item_of_a_map(factory, gate, chunksize, size):
    pool = factory.Pool(2)
    items = [(gate, str(5) * size, str(value) * size) for value in range(10)]
    assert pool.map(tasks.die_at_first_item, items, chunksize, retries=1) == [item[2] for item in items]


def test_errors_and_time_limits_are_not_retried(factory, make_gate, ringpool):
    pool = factory.Pool(1, retries=5)
    gate = make_gate()
    with pytest.raises(ValueError):
        pool.apply(tasks.fail_or_note, ((gate, "fail"),))
    gate = make_gate()
    timed_out(ringpool, lambda: pool.apply(tasks.hold, (gate,), task_timeout=SHORT))
    assert len(gate.arrivals()) == 1


@pytest.mark.parametrize(("value", "error"), [(-1, ValueError), (1.5, TypeError), ("1", TypeError)])
@pytest.mark.start_methods("fork")
def test_bad_retries(factory, shared_pool, value, error):
    with pytest.raises(error):
        factory.Pool(1, retries=value)
    with pytest.raises(error):
        shared_pool.map(tasks.square, [1], retries=value)
