"""Tasks that run on though nobody waits for them any more keep their limits."""

import pytest
import tasks

pytestmark = [pytest.mark.ringpool_only, pytest.mark.limit(20)]


def test_tasks_of_a_cancelled_map_keep_their_time_limit(factory, gate):
    pool = factory.Pool(2)
    result = pool.map_async(tasks.hold, [gate] * 2, task_timeout=0.5)
    gate.wait_for(2)
    assert result.cancel()
    pool.close()
    # Nobody opens the gate: without the limit they would stay for longer than this test may.
    pool.join()
