"""Calls that are cancelled: while they wait, while they run, and too late."""

import signal
from concurrent.futures import CancelledError

import pytest
import tasks
from procfs import is_gone, wait_until

pytestmark = pytest.mark.ringpool_only
LIMIT = 30


def still_works(pool):
    return pool.map(tasks.square, range(50), 1) == [value**2 for value in range(50)]


@pytest.mark.with_threads
@pytest.mark.parametrize("queued", [1, 100, 5000])
def test_queued_task_never_starts(factory, make_gate, queued):
    pool = factory.Pool(2)
    gate, noted = make_gate(), make_gate()
    held = [pool.apply_async(tasks.hold, (gate, value)) for value in range(2)]
    gate.wait_for(2)
    results = [pool.apply_async(tasks.note, (noted, value)) for value in range(queued)]
    kept = pool.apply_async(tasks.square, (7,))
    assert all(result.cancel() for result in results)
    assert all(result.cancelled() and result.ready() for result in results)
    gate.open()
    assert kept.get(LIMIT) == 49
    assert [result.get(LIMIT) for result in held] == [0, 1]
    for result in results:
        with pytest.raises(CancelledError):
            result.get(0)
        assert result.cancel() and not result.successful()
    assert noted.arrivals() == []
    assert still_works(pool)


@pytest.mark.with_threads
def test_running_task_is_left_to_run(factory, gate):
    pool = factory.Pool(1)
    result = pool.apply_async(tasks.hold, (gate, "value"))
    gate.wait_for(1)
    assert not result.cancel()
    assert not result.cancelled()
    gate.open()
    assert result.get(LIMIT) == "value"


def test_running_task_is_killed_when_told(factory, make_gate):
    pool = factory.Pool(2)
    gate, other = make_gate(), make_gate()
    result = pool.apply_async(tasks.hold, (gate,))
    bystander = pool.apply_async(tasks.hold, (other, "kept"))
    (pid,) = gate.wait_for(1)
    other.wait_for(1)
    assert result.cancel(kill=True)
    with pytest.raises(CancelledError):
        result.get(0)
    wait_until(lambda: is_gone(pid), LIMIT)
    other.open()
    assert bystander.get(LIMIT) == "kept"
    assert still_works(pool)


def test_threads_cannot_be_killed(ringpool, make_gate):
    gate = make_gate()
    with ringpool.ThreadPool(1) as pool:
        result = pool.apply_async(tasks.hold, (gate, "value"))
        gate.wait_for(1)
        assert not result.cancel(kill=True)
        gate.open()
        assert result.get(LIMIT) == "value"


@pytest.mark.with_threads
@pytest.mark.parametrize("kill", [False, True])
def test_too_late(factory, kill):
    pool = factory.Pool(1)
    result = pool.apply_async(tasks.square, (3,))
    result.wait(LIMIT)
    assert not result.cancel(kill=kill)
    assert result.get(0) == 9
    assert not result.cancelled()
    failed = pool.apply_async(tasks.fail, (ValueError,))
    failed.wait(LIMIT)
    assert not failed.cancel(kill=kill)
    with pytest.raises(ValueError):
        failed.get(0)


@pytest.mark.with_threads
@pytest.mark.parametrize("chunksize", [1, 5])
def test_queued_tasks_of_a_map_never_start(factory, make_gate, chunksize):
    pool = factory.Pool(2)
    gate, noted = make_gate(), make_gate()
    held = [pool.apply_async(tasks.hold, (gate, value)) for value in range(2)]
    gate.wait_for(2)
    result = pool.map_async(tasks.note_pair, [(noted, value) for value in range(6000)], chunksize)
    assert result.cancel() and result.cancelled()
    with pytest.raises(CancelledError):
        result.get(LIMIT)
    gate.open()
    assert [one.get(LIMIT) for one in held] == [0, 1]
    assert still_works(pool)
    assert noted.arrivals() == []


@pytest.mark.parametrize("kill", [False, True])
def test_map_that_runs(factory, gate, kill):
    pool = factory.Pool(2)
    result = pool.map_async(tasks.hold, [gate] * 50, 1)
    pids = gate.wait_for(2)
    assert result.cancel(kill=kill)
    with pytest.raises(CancelledError):
        result.get(LIMIT)
    if kill:
        wait_until(lambda: all(is_gone(pid) for pid in pids), LIMIT)
    gate.open()
    assert still_works(pool)
    assert len(gate.arrivals()) == 2
    assert not kill or {worker.pid for worker in pool._pool}.isdisjoint(pids)


@pytest.mark.with_threads
def test_callbacks_are_told(factory, gate):
    pool = factory.Pool(1)
    held = pool.apply_async(tasks.hold, (gate,))
    gate.wait_for(1)
    seen, failed = [], []
    result = pool.apply_async(tasks.square, (3,), callback=seen.append, error_callback=failed.append)
    assert result.cancel()
    with pytest.raises(CancelledError):
        result.get(LIMIT)
    assert seen == [] and [type(error) for error in failed] == [CancelledError]
    gate.open()
    held.wait(LIMIT)


@pytest.mark.with_threads
def test_waiting_caller_is_told(factory, gate, background):
    pool = factory.Pool(1)
    held = pool.apply_async(tasks.hold, (gate,))
    gate.wait_for(1)
    result = pool.apply_async(tasks.square, (3,))
    waiting = background(result.get, LIMIT)
    assert result.cancel()
    with pytest.raises(CancelledError):
        waiting.result(LIMIT)
    gate.open()
    held.wait(LIMIT)


@pytest.mark.with_threads
def test_of_a_pool_that_was_ended(factory, gate, ringpool):
    pool = factory.Pool(1)
    done = pool.apply_async(tasks.square, (3,))
    done.wait(LIMIT)
    held = pool.apply_async(tasks.hold, (gate,))
    gate.wait_for(1)
    pool.terminate()
    gate.open()
    assert not held.cancel() and not done.cancel(kill=True)
    with pytest.raises(ringpool.PoolTerminatedError):
        held.get(LIMIT)


@pytest.mark.parametrize("kill", [False, True])
def test_race_between_cancel_and_the_end(factory, kill):
    """Whoever is first: the call is cancelled, or it has its value."""
    pool = factory.Pool(2)
    outcomes = {True: 0, False: 0}
    for number in range(30 if kill else 1500):
        results = [pool.apply_async(tasks.echo, (number,)) for _ in range(3)]
        cancelled = [result.cancel(kill=kill) for result in results]
        for result, was in zip(results, cancelled):
            outcomes[was] += 1
            if was:
                with pytest.raises(CancelledError):
                    result.get(LIMIT)
            else:
                assert result.get(LIMIT) == number
    assert outcomes[True] > 0
    assert still_works(pool)
    wait_until(lambda: not pool._cache, LIMIT)


def test_close_and_join_after_cancelling(factory, gate, background):
    pool = factory.Pool(2)
    held = [pool.apply_async(tasks.hold, (gate,)) for _ in range(2)]
    gate.wait_for(2)
    results = [pool.apply_async(tasks.square, (value,)) for value in range(10)]
    assert all(result.cancel() for result in results)
    assert held[0].cancel(kill=True)
    pool.close()
    gate.open()
    background(pool.join).result(LIMIT)
    held[1].get(0)


def test_function_of_a_cancelled_map_stays_while_a_worker_loads_it(factory, make_gate):
    pool = factory.Pool(2)
    loading, called = make_gate(), make_gate()
    result = pool.map_async(tasks.CallsWhenLoaded(loading, called, "first"), ["a"], 1)
    loading.wait_for(1)
    assert result.cancel()
    others = [pool.apply_async(tasks.CallsWhenLoaded(None, called, name), (name,)) for name in ("second", "third")]
    assert [other.get(LIMIT) for other in others] == ["second second", "third third"]
    loading.open()
    called.wait_for(3)
    assert sorted(name for _, name in called.arrivals()) == ["first a", "second second", "third third"]


@pytest.mark.parametrize("call", ["apply_async", "map_async"])
def test_interrupt_in_the_middle(factory, gate, background, monkeypatch, call):
    """The call has its end, and the worker is killed, whatever a signal handler raises on the way."""
    pool = factory.Pool(1)
    result = getattr(pool, call)(tasks.hold, (gate,) if call == "apply_async" else [gate])
    (pid,) = gate.wait_for(1)
    ring = pool._supervisor.ring
    monkeypatch.setattr(pool._supervisor, "ring", lambda: (ring(), signal.raise_signal(signal.SIGINT)))
    with pytest.raises(KeyboardInterrupt):
        result.cancel(kill=True)
    monkeypatch.undo()
    assert result.cancelled() and result.ready()
    wait_until(lambda: is_gone(pid), LIMIT)
    pool.close()
    background(pool.join).result(LIMIT)
