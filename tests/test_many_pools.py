"""Pools come and go in one process, and nothing of them stays."""

import multiprocessing
import os
import subprocess
import sys
import warnings

import leaks
import memory
import pytest
import tasks

FIRST = 200  # pools until caches and malloc have what they keep
COUNT = 1000
GROWTH_KIB = 2048  # of anonymous memory, by all that come after the first


def _one_after_the_other(count):
    import pool as ringpool

    context = multiprocessing.get_context("fork")
    for number in range(count):
        pool = ringpool.Pool(2, context=context)
        assert pool.map(tasks.square, range(4), 1) == [0, 1, 4, 9]
        if number % 2:
            pool.close()
        else:
            pool.terminate()
        pool.join()


def main(count):
    """In a process of its own, where memory and time are the pools'."""
    memory.steady_malloc()
    before = leaks.Snapshot()
    descriptors = len(os.listdir("/proc/self/fd"))
    _one_after_the_other(FIRST)
    used = memory.anonymous_kib()
    _one_after_the_other(count - FIRST)
    # A segment lives as long as a descriptor or a mapping of it; a thread that was joined leaves the kernel a moment later.
    left = leaks.settle(lambda: leaks.Snapshot().since(before))
    assert left == [], left
    assert len(os.listdir("/proc/self/fd")) == descriptors
    growth = memory.anonymous_kib() - used
    print(f"{count} pools: {growth} KiB more after the first {FIRST}")
    assert growth < GROWTH_KIB


@pytest.mark.limit(120)
@pytest.mark.parametrize("count", [FIRST + 100, pytest.param(COUNT, marks=pytest.mark.slow)])
def test_nothing_is_left_of_many_pools(count):
    done = subprocess.run([sys.executable, __file__, str(count)], capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{count} pools" in done.stdout


@pytest.mark.ringpool_only
def test_pools_that_live_at_the_same_time(factory):
    before = leaks.Snapshot()
    pools = [factory.untracked(2) for _ in range(10)]
    for pool in pools:
        assert pool.map(tasks.square, range(4), 1) == [0, 1, 4, 9]
    for pool in pools:
        pool.close()
    for pool in pools:
        pool.join()
    # With these references: join() is what ends them.
    assert leaks.settle(lambda: leaks.Snapshot().since(before)) == []


if __name__ == "__main__":
    warnings.simplefilter("ignore", DeprecationWarning)
    main(int(sys.argv[1]))
