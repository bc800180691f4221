"""pool.share: sent once, loaded once in each worker, read-only, released in time."""

import gc
import os
import pickle
import signal

import large_tasks
import numpy
import procfs
import pytest
import tasks
from peak import peak_of

LIMIT = 60
LARGE = 300_000

pytestmark = pytest.mark.ringpool_only


def test_tasks_receive_the_object(factory):
    with factory.Pool(2) as pool:
        array = numpy.arange(float(LARGE))
        with pool.share(array) as handle:
            assert pool.apply(large_tasks.total, (handle,)) == array.sum()
            assert pool.apply_async(large_tasks.total, (), {"array": handle}).get(LIMIT) == array.sum()
            assert pool.map(large_tasks.total, [handle] * 20) == [array.sum()] * 20
            assert pool.map(large_tasks.total, [handle] * 20, 5) == [array.sum()] * 20
            assert pool.starmap(large_tasks.weighed, [(handle, number) for number in range(10)]) == [
                array.sum() * number for number in range(10)
            ]
            assert list(pool.imap(large_tasks.total, iter([handle] * 5))) == [array.sum()] * 5
            array[...] = 0
            assert pool.apply(large_tasks.total, (handle,)) > 0


VALUES = {"dict": {"a": 1}, "none": None, "bytes": b"x" * 500_000, "text": "text" * 50_000}


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES.keys())
def test_any_object(factory, value):
    with factory.Pool(2) as pool, pool.share(value) as handle:
        assert pool.map(large_tasks.echo, [handle, handle]) == [value, value]


def test_it_is_loaded_once_in_each_worker_and_read_only(factory):
    with factory.Pool(2) as pool, pool.share(large_tasks.Parts(bytearray(b"part" * 100_000))) as handle:
        seen = set(pool.map(large_tasks.identity, [handle] * 40, 1))
        assert len(seen) <= 2
        assert not any(pool.map(large_tasks.is_writable, [handle] * 4, 1))
        with pytest.raises(ValueError, match="read-only"), pool.share(numpy.ones(LARGE)) as other:
            pool.apply(large_tasks.overwritten, (other, 5))


def test_workers_that_start_later_have_it(factory):
    with factory.Pool(2) as pool, pool.share(numpy.ones(LARGE)) as handle:
        assert pool.apply(large_tasks.total, (handle,)) == LARGE
        for worker in list(pool._pool):
            os.kill(worker.pid, signal.SIGKILL)
        assert pool.map(large_tasks.total, [handle] * 8, 1) == [LARGE] * 8
    with factory.Pool(2, maxtasksperchild=1) as pool, pool.share(numpy.ones(LARGE)) as handle:
        assert pool.map(large_tasks.total, [handle] * 8, 1) == [LARGE] * 8


def test_a_released_object(factory, make_gate):
    with factory.Pool(1) as pool:
        handle = pool.share(numpy.ones(LARGE))
        assert not handle.closed
        gate = make_gate()
        holding = pool.apply_async(tasks.hold, (gate, None))
        gate.wait_for(1)
        later = pool.apply_async(large_tasks.total, (handle,))
        handle.close()
        handle.close()
        assert handle.closed
        with pytest.raises(ValueError, match="was released"):
            pool.apply_async(large_tasks.total, (handle,)).get(LIMIT)
        with pytest.raises(ValueError, match="was released"), handle:
            pass
        gate.open()
        with pytest.raises(RuntimeError, match="released before the task began"):
            later.get(LIMIT)
        assert holding.get(LIMIT) is None


@pytest.mark.parametrize("how", ["close", "garbage"])
def test_its_memory_comes_back(factory, how):
    with factory.Pool(2) as pool:
        idle = pool._core.arena_used
        for _ in range(3):
            handle = pool.share(numpy.ones(LARGE))
            assert pool.map(large_tasks.total, [handle] * 8, 1) == [LARGE] * 8
            assert pool._core.arena_used >= idle + 8 * LARGE
            if how == "close":
                handle.close()
            else:
                del handle
                gc.collect()

            def is_back():
                pool.apply(large_tasks.total, (numpy.ones(5000),))
                return pool._core.arena_used < idle + 8 * LARGE

            procfs.wait_until(is_back)


def test_a_worker_that_keeps_it(factory):
    with factory.Pool(1) as pool:
        handle = pool.share(numpy.full(LARGE, 3.0))
        assert pool.apply(large_tasks.keep, (handle,)) == 1
        handle.close()
        for _ in range(4):
            assert pool.apply(large_tasks.total, (numpy.ones(LARGE),)) == LARGE
            with pool.share(numpy.full(LARGE, 8.0)) as other:
                assert pool.apply(large_tasks.total, (other,)) == 8.0 * LARGE
        assert pool.apply(large_tasks.kept_sum) == 3.0 * LARGE


def test_elsewhere_it_is_an_error(factory):
    with factory.Pool(1) as pool, factory.Pool(1) as other, pool.share(numpy.ones(LARGE)) as handle:
        with pytest.raises(ValueError, match="tasks of its own pool"):
            other.apply(large_tasks.total, (handle,))
        with pytest.raises(RuntimeError, match="tasks of its own pool"):
            pickle.dumps(handle, 4)
        with pytest.raises(RuntimeError, match="tasks of its own pool"):
            pickle.loads(pickle.dumps(handle, 5))
        assert pool.apply(large_tasks.total, (handle,)) == LARGE


def test_the_end_of_the_pool(factory):
    pool = factory.Pool(1)
    handle = pool.share(numpy.ones(LARGE))
    pool.apply(large_tasks.total, (handle,))
    pool.close()
    pool.join()
    handle.close()
    with pytest.raises(ValueError, match="Pool not running"):
        pool.share(1)
    pool = factory.Pool(1)
    handle = pool.share(numpy.ones(LARGE))
    pool.terminate()
    pool.join()
    del pool, handle


def test_a_finalizer_that_submits_while_a_task_is_encoded(factory):
    with factory.Pool(1) as pool, pool.share(numpy.ones(LARGE)) as shared:
        inner = []
        outer = large_tasks.Submits(lambda: inner.append(pool.apply_async(large_tasks.last_total, (numpy.zeros(LARGE),))))
        assert pool.apply_async(large_tasks.last_total, (outer, shared)).get(LIMIT) == LARGE
        assert [job.get(LIMIT) for job in inner] == [0.0]


def test_what_cannot_be_pickled(factory):
    with factory.Pool(1) as pool:
        with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
            pool.share(lambda: 0)
        assert pool.apply(abs, (-1,)) == 1


def test_its_pickle_is_there_once(factory):
    text = large_tasks.make_text(60_000)
    size = sum(map(len, text))
    with factory.Pool(1) as pool:
        with peak_of(pool) as peaks:
            handle = pool.share(text)
        before, most = peaks
        assert most - before <= size + (40 << 20) <= 2 * size
        assert pool.apply(len, (handle,)) == len(text)


def test_no_memory_for_it(factory):
    with factory.Pool(1, arena_limit=1 << 20) as pool:
        with pytest.raises(OSError, match="no shared memory for an object"):
            pool.share(numpy.ones(LARGE))
        assert pool.apply(abs, (-1,)) == 1
