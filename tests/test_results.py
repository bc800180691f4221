"""AsyncResult: its states, its time limits, its callbacks."""

import gc
import multiprocessing
import multiprocessing.pool
import threading
import weakref

import pytest
import tasks
from implementations import START_METHODS
from procfs import wait_until

pytestmark = pytest.mark.with_threads

LIMIT = 30


def test_states_of_a_success(shared_pool, gate):
    result = shared_pool.apply_async(tasks.hold, (gate, "value"))
    gate.wait_for(1)
    assert result.ready() is False
    with pytest.raises(ValueError, match="not ready"):
        result.successful()
    assert result.wait(0.01) is None
    gate.open()
    assert result.wait(LIMIT) is None
    assert result.ready() is True
    assert result.successful() is True
    assert result.get() == "value"
    assert result.wait() is None


def test_states_of_a_failure(shared_pool):
    result = shared_pool.apply_async(tasks.fail, (KeyError, "missing"))
    result.wait(LIMIT)
    assert result.ready() is True
    assert result.successful() is False
    for _ in range(2):
        with pytest.raises(KeyError) as caught:
            result.get()
        assert caught.value.args == ("missing",)


def test_states_of_a_map(shared_pool, gate):
    items = [(gate, {3}, value) for value in range(6)]
    result = shared_pool.map_async(tasks.hold_some, items, 1)
    gate.wait_for(1)
    assert result.ready() is False
    with pytest.raises(ValueError, match="not ready"):
        result.successful()
    gate.open()
    assert result.get(LIMIT) == list(range(6))
    assert result.successful() is True


@pytest.mark.parametrize("timeout", [0, -1, 0.0, 0.01])
def test_get_gives_up_with_the_timeout_error_of_multiprocessing(shared_pool, gate, timeout):
    result = shared_pool.apply_async(tasks.hold, (gate, 1))
    with pytest.raises(multiprocessing.TimeoutError):
        result.get(timeout)
    with pytest.raises(multiprocessing.TimeoutError):
        result.get(timeout=timeout)
    gate.open()
    assert result.get(LIMIT) == 1
    # Late is not too late: a result that is there is given whatever the limit.
    assert result.get(timeout) == 1


def test_get_without_limit(shared_pool):
    assert shared_pool.apply_async(tasks.square, (3,)).get() == 9
    assert shared_pool.apply_async(tasks.square, (3,)).get(None) == 9
    assert shared_pool.apply_async(tasks.square, (3,)).get(timeout=None) == 9


def test_get_gives_the_same_object_each_time(shared_pool):
    result = shared_pool.apply_async(tasks.echo, ([1, 2],))
    assert result.get(LIMIT) is result.get(LIMIT)


@pytest.mark.start_methods(*START_METHODS)
def test_classes_of_results(shared_pool, implementation):
    result = shared_pool.apply_async(tasks.nothing)
    mapped = shared_pool.map_async(tasks.nothing, [1])
    module = implementation.module
    assert module.AsyncResult is module.ApplyResult
    assert isinstance(result, module.AsyncResult)
    assert isinstance(mapped, module.AsyncResult)
    assert isinstance(shared_pool.starmap_async(tasks.add, [(1, 2)]), module.AsyncResult)
    assert module.AsyncResult[int] is not None
    result.wait(LIMIT)
    mapped.wait(LIMIT)


def test_several_threads_wait_for_one_result(shared_pool, gate, background):
    result = shared_pool.apply_async(tasks.hold, (gate, "for all"))
    waiters = [background(result.get, LIMIT) for _ in range(4)]
    waiters += [background(result.wait, LIMIT) for _ in range(2)]
    gate.open()
    assert [waiter.result() for waiter in waiters] == ["for all"] * 4 + [None] * 2


@pytest.mark.ringpool_only
@pytest.mark.start_methods(*START_METHODS)
@pytest.mark.parametrize("call", ["apply_async", "map_async"])
def test_several_threads_get_the_same_error(shared_pool, background, call):
    if call == "apply_async":
        result = shared_pool.apply_async(tasks.fail, (tasks.SlowlyMade, "once"))
    else:
        items = [(tasks.SlowlyMade, {1}, value) for value in range(3)]
        result = shared_pool.map_async(tasks.raise_on, items)
    result.wait(LIMIT)

    def error():
        try:
            result.get(LIMIT)
        except Exception as error:
            return error

    readers = [background(error) for _ in range(6)]
    errors = [reader.result() for reader in readers]
    assert type(errors[0]) is tasks.SlowlyMade
    assert all(error is errors[0] for error in errors)
    with pytest.raises(tasks.SlowlyMade) as caught:
        result.get(LIMIT)
    assert caught.value is errors[0]


def test_results_outlive_close_and_join(factory):
    pool = factory.Pool(2)
    results = [pool.apply_async(tasks.square, (value,)) for value in range(20)]
    mapped = pool.map_async(tasks.square, range(20), 3)
    pool.close()
    pool.join()
    assert all(result.ready() for result in results)
    assert [result.get(0) for result in results] == [value**2 for value in range(20)]
    assert mapped.get(0) == [value**2 for value in range(20)]


# Callbacks


def test_callback_gets_the_value(shared_pool):
    seen, failed = [], []
    result = shared_pool.apply_async(
        tasks.square, (3,), callback=seen.append, error_callback=failed.append
    )
    assert result.get(LIMIT) == 9
    assert seen == [9]
    assert failed == []


def test_error_callback_gets_the_error(shared_pool):
    seen, failed = [], []
    result = shared_pool.apply_async(
        tasks.fail, (KeyError, "missing"), callback=seen.append, error_callback=failed.append
    )
    with pytest.raises(KeyError):
        result.get(LIMIT)
    assert seen == []
    assert [type(error) for error in failed] == [KeyError]
    assert failed[0].args == ("missing",)


def test_failure_without_error_callback(shared_pool):
    seen = []
    result = shared_pool.apply_async(tasks.fail, (KeyError, "missing"), callback=seen.append)
    with pytest.raises(KeyError):
        result.get(LIMIT)
    assert seen == []


@pytest.mark.parametrize("call", ["map_async", "starmap_async"])
@pytest.mark.parametrize("chunksize", [None, 1, 3])
def test_callback_of_a_map_gets_the_whole_list(shared_pool, call, chunksize):
    seen = []
    result = getattr(shared_pool, call)(
        tasks.add_any, [(value, value) for value in range(10)] if call == "starmap_async"
        else range(10), chunksize, callback=seen.append
    )
    values = result.get(LIMIT)
    assert len(values) == 10
    assert seen == [values]


def test_callback_of_an_empty_map_is_not_called(shared_pool):
    seen = []
    result = shared_pool.map_async(
        tasks.square, [], callback=seen.append, error_callback=seen.append
    )
    assert result.get(LIMIT) == []
    assert result.successful()
    shared_pool.apply_async(tasks.nothing, callback=lambda value: seen.append("fence")).get(LIMIT)
    assert seen == ["fence"]


def test_error_callback_of_a_map_is_called_once_with_the_first_error(factory):
    # With one worker the first item to fail is the first error to be detected.
    pool = factory.Pool(1)
    seen, failed = [], []
    result = pool.map_async(
        tasks.fail_on,
        [({2, 4, 5}, value) for value in range(8)],
        chunksize=1,
        callback=seen.append,
        error_callback=failed.append,
    )
    with pytest.raises(ValueError) as caught:
        result.get(LIMIT)
    assert caught.value.args == ("bad item", 2)
    pool.apply_async(tasks.nothing, callback=lambda value: seen.append("fence")).get(LIMIT)
    assert seen == ["fence"]
    assert [error.args for error in failed] == [("bad item", 2)]


def test_map_with_an_error_waits_for_all_the_rest(shared_pool, gate):
    items = [(gate, value) for value in ["fail", *range(20)]]
    with pytest.raises(ValueError, match="told to fail"):
        shared_pool.map(tasks.fail_or_note, items, chunksize=1)
    assert sorted(int(name) for _, name in gate.arrivals()) == list(range(20))


def test_callbacks_run_on_one_thread_that_is_not_the_caller(shared_pool):
    threads = []
    results = [
        shared_pool.apply_async(
            tasks.square, (value,), callback=lambda value: threads.append(threading.get_ident())
        )
        for value in range(50)
    ]
    results += [
        shared_pool.apply_async(
            tasks.fail,
            (KeyError, value),
            error_callback=lambda error: threads.append(threading.get_ident()),
        )
        for value in range(50)
    ]
    for result in results:
        result.wait(LIMIT)
    shared_pool.map_async(
        tasks.square, [1, 2], callback=lambda values: threads.append(threading.get_ident())
    ).get(LIMIT)
    assert len(threads) == 101
    assert len(set(threads)) == 1
    assert threading.get_ident() not in threads


def test_callbacks_run_in_order_of_completion(shared_pool, make_gate):
    first, second = make_gate(), make_gate()
    order = []
    slow = shared_pool.apply_async(tasks.hold, (first, "slow"), callback=order.append)
    quick = shared_pool.apply_async(tasks.hold, (second, "quick"), callback=order.append)
    first.wait_for(1)
    second.wait_for(1)
    second.open()
    assert quick.get(LIMIT) == "quick"
    assert order == ["quick"]
    first.open()
    assert slow.get(LIMIT) == "slow"
    assert order == ["quick", "slow"]


def test_callback_runs_before_the_result_is_ready(shared_pool, gate):
    states = []
    result = shared_pool.apply_async(
        tasks.hold, (gate, 1), callback=lambda value: states.append(result.ready())
    )
    gate.open()
    assert result.get(LIMIT) == 1
    assert states == [False]


def test_a_slow_callback_delays_the_readiness_of_its_own_job(shared_pool):
    entered, go_on = threading.Event(), threading.Event()

    def callback(value):
        entered.set()
        go_on.wait(LIMIT)

    result = shared_pool.apply_async(tasks.square, (3,), callback=callback)
    assert entered.wait(LIMIT)
    try:
        assert not result.ready()
        with pytest.raises(multiprocessing.TimeoutError):
            result.get(0.01)
    finally:
        go_on.set()
    assert result.get(LIMIT) == 9


def test_callback_submits_tasks(shared_pool):
    inner = []
    submitted = threading.Event()

    def callback(value):
        inner.append(shared_pool.apply_async(tasks.square, (value,)))
        inner.append(shared_pool.map_async(tasks.square, range(5)))
        submitted.set()

    shared_pool.apply_async(tasks.square, (2,), callback=callback).get(LIMIT)
    assert submitted.wait(LIMIT)
    assert [result.get(LIMIT) for result in inner] == [16, [0, 1, 4, 9, 16]]


def test_a_chain_of_callbacks(shared_pool):
    done = threading.Event()
    values = []

    def callback(value):
        values.append(value)
        if len(values) < 20:
            shared_pool.apply_async(tasks.add, (value, 1), callback=callback)
        else:
            done.set()

    shared_pool.apply_async(tasks.add, (0, 1), callback=callback)
    assert done.wait(LIMIT)
    assert values == list(range(1, 21))


def test_callbacks_are_done_when_join_returns(factory):
    pool = factory.Pool(2)
    seen = []
    for value in range(50):
        pool.apply_async(tasks.square, (value,), callback=seen.append)
    pool.close()
    pool.join()
    assert sorted(seen) == [value**2 for value in range(50)]


# Life of arguments and results


def test_finished_results_are_not_kept_alive(shared_pool):
    kept = [shared_pool.apply(tasks.make_tracked, (value,)) for value in range(5)]
    kept += shared_pool.map(tasks.make_tracked, range(10))
    kept += shared_pool.imap(tasks.make_tracked, range(10))
    references = [weakref.ref(one) for one in kept]
    del kept
    wait_until(lambda: gc.collect() >= 0 and all(one() is None for one in references), 10)


def test_arguments_of_finished_tasks_are_not_kept_alive(shared_pool):
    given = [tasks.Tracked(value) for value in range(10)]
    shared_pool.map(tasks.nothing, given)
    shared_pool.apply(tasks.nothing, (given[0],))
    list(shared_pool.imap(tasks.nothing, given))
    references = [weakref.ref(one) for one in given]
    del given
    # A worker of a ThreadPool holds the last task it has done until it is given another.
    shared_pool.map(tasks.nothing, range(100), 1)
    wait_until(lambda: gc.collect() >= 0 and all(one() is None for one in references), 10)


@pytest.mark.ringpool_only
def test_finalizers_use_the_pool_while_results_are_collected(factory):
    pool = factory.Pool(2)
    values = []

    class Cyclic:
        def __init__(self):
            self.me = self

        def __del__(self):
            values.append(pool.apply(tasks.square, (3,)))

    kept = []
    thresholds = gc.get_threshold()
    gc.set_threshold(200)
    try:
        for _ in range(60):
            Cyclic()
            # Rows of tuples, so that decoding them makes work for the garbage collector.
            kept.append(pool.map(tasks.wrap, range(300)))
    finally:
        gc.set_threshold(*thresholds)
        gc.collect()
    assert values == [9] * 60
    assert kept == [[("seen", value) for value in range(300)]] * 60


# The stdlib pickles in a thread of its own, some time after the call.
@pytest.mark.ringpool_only
@pytest.mark.start_methods(*START_METHODS)
def test_an_argument_changed_after_the_call_does_not_change_the_task(factory, gate):
    pool = factory.Pool(1)
    blocker = pool.apply_async(tasks.hold, (gate,))
    gate.wait_for(1)
    values = [1, 2, 3]
    table = {"key": [1]}
    result = pool.apply_async(tasks.collect, (values,), {"table": table})
    values.append(4)
    table["key"].append(2)
    gate.open()
    assert result.get(LIMIT) == (([1, 2, 3],), {"table": {"key": [1]}})
    blocker.get(LIMIT)


@pytest.mark.with_threads
def test_handles_are_of_the_stdlibs_classes(shared_pool):
    from multiprocessing import pool as stdlib

    handles = {
        stdlib.AsyncResult: shared_pool.apply_async(tasks.square, (3,)),
        stdlib.MapResult: shared_pool.map_async(tasks.square, [1, 2]),
        stdlib.IMapIterator: shared_pool.imap(tasks.square, [1, 2]),
        stdlib.IMapUnorderedIterator: shared_pool.imap_unordered(tasks.square, [1, 2]),
    }
    for kind, handle in handles.items():
        assert isinstance(handle, kind)
        # What programs keep with a result.
        handle.tag = kind.__name__
        assert handle.tag == kind.__name__
        assert handle.get(20) if hasattr(handle, "get") else list(handle)
        # A manager's proxy has what dir() tells.
        assert "tag" in dir(handle) and all(hasattr(handle, name) for name in dir(handle))
    assert isinstance(handles[stdlib.MapResult], stdlib.AsyncResult)
    assert handles[stdlib.MapResult]._number_left == 0
