"""A worker that dies costs the tasks that it was running, and nothing else."""

import multiprocessing.connection
import os
import random
import signal
import struct
import threading
import time

import pytest
import tasks
from procfs import is_gone, is_waiting, process, wait_until

pytestmark = pytest.mark.ringpool_only

LIMIT = 30


def pids_of(pool):
    return [worker.pid for worker in pool._pool]


def check_alive(pool, processes=2):
    """The pool does fifty more tasks, with all of its workers, and ends well."""
    assert pool.map(tasks.square, range(50), 1) == [value**2 for value in range(50)]
    wait_until(
        lambda: len(pool._pool) == processes and all(one.is_alive() for one in pool._pool), LIMIT
    )
    pool.close()
    pool.join()


def lost(ringpool, outcome):
    with pytest.raises(ringpool.WorkerLostError) as caught:
        outcome()
    return caught.value


def test_what_the_error_tells(factory, gate, ringpool):
    pool = factory.Pool(2)
    result = pool.apply_async(tasks.hold, (gate,))
    (pid,) = gate.wait_for(1)
    os.kill(pid, signal.SIGKILL)
    error = lost(ringpool, lambda: result.get(LIMIT))
    assert error.pid == pid
    assert error.exitcode == -signal.SIGKILL
    assert error.index == 0
    assert error.function.endswith("hold")
    for part in (str(pid), "SIGKILL", "hold"):
        assert part in str(error)
    assert not result.successful()
    check_alive(pool)


@pytest.mark.start_methods("fork", "spawn")
def test_exit_code_that_another_thread_is_just_collecting(factory, gate, ringpool, monkeypatch):
    pool = factory.Pool(2)
    result = pool.apply_async(tasks.hold, (gate,))
    (pid,) = gate.wait_for(1)
    collected, looked = threading.Event(), threading.Event()
    real = os.waitpid

    def waitpid(child, options):
        if child != pid:
            return real(child, options)
        if threading.current_thread().name != "ringpool-supervisor":
            found = real(child, options)
            collected.set()
            # Not written down yet when the supervisor looks.
            assert looked.wait(LIMIT)
            return found
        assert collected.wait(LIMIT)
        try:
            return real(child, options)
        finally:
            looked.set()

    monkeypatch.setattr(os, "waitpid", waitpid)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: process(pid).state == "Z", LIMIT)
    multiprocessing.active_children()
    assert lost(ringpool, lambda: result.get(LIMIT)).exitcode == -signal.SIGKILL
    monkeypatch.undo()
    check_alive(pool)


def test_it_is_a_broken_process_pool(ringpool):
    from concurrent.futures.process import BrokenProcessPool

    assert issubclass(ringpool.WorkerLostError, BrokenProcessPool)
    assert not issubclass(ringpool.PoolTerminatedError, ringpool.WorkerLostError)


@pytest.mark.parametrize("code", [0, 3, 255])
def test_exit_in_a_task(factory, ringpool, code):
    pool = factory.Pool(2)
    error = lost(ringpool, lambda: pool.apply_async(tasks.leave, (code,)).get(LIMIT))
    assert error.exitcode == code
    assert error.function.endswith("leave")
    assert str(code) in str(error)
    check_alive(pool)


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGTERM, signal.SIGBUS]
)
def test_signal_in_a_task(factory, ringpool, number):
    pool = factory.Pool(2)
    error = lost(ringpool, lambda: pool.apply_async(tasks.kill_self, (number,)).get(LIMIT))
    assert error.exitcode == -number
    assert number.name in str(error)
    check_alive(pool)


def test_error_callback_is_told(factory, ringpool):
    pool = factory.Pool(2)
    seen, failed = [], []
    result = pool.apply_async(
        tasks.kill_self, callback=seen.append, error_callback=failed.append
    )
    lost(ringpool, lambda: result.get(LIMIT))
    assert seen == []
    assert [type(error) for error in failed] == [ringpool.WorkerLostError]
    check_alive(pool)


@pytest.mark.parametrize("call", ["map", "map_async", "starmap"])
def test_item_of_a_map(factory, ringpool, call):
    pool = factory.Pool(2)
    items = [({5}, value) for value in range(10)]
    if call == "starmap":
        items = [(item,) for item in items]

    def outcome():
        result = getattr(pool, call)(tasks.kill_on, items, 1)
        return result.get(LIMIT) if call == "map_async" else result

    error = lost(ringpool, outcome)
    assert error.index == 5
    assert error.function.endswith("kill_on")
    assert "5" in str(error)
    check_alive(pool)


def test_chunk_of_a_map(factory, ringpool):
    pool = factory.Pool(2)
    error = lost(ringpool, lambda: pool.map(tasks.kill_on, [({5}, n) for n in range(12)], 3))
    # Of a chunk it is known at least where it began.
    assert error.index in range(3, 6)
    check_alive(pool)


def test_map_runs_all_the_rest(factory, gate, ringpool):
    pool = factory.Pool(2)
    items = [(gate, {3}, value) for value in range(10)]
    lost(ringpool, lambda: pool.map(tasks.kill_or_note, items, 1))
    assert sorted(int(name) for _, name in gate.arrivals()) == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    check_alive(pool)


def test_map_without_a_chunksize_begins_with_single_items(factory, gate, ringpool):
    pool = factory.Pool(2)
    # The stdlib's chunks would be of two, and the second item would be lost with the first.
    items = [(gate, {0}, value) for value in range(16)]
    assert lost(ringpool, lambda: pool.map(tasks.kill_or_note, items)).index == 0
    assert sorted(int(name) for _, name in gate.arrivals()) == list(range(1, 16))
    check_alive(pool)


def test_item_of_imap(factory, ringpool):
    pool = factory.Pool(2)
    iterator = pool.imap(tasks.kill_on, [({2, 5}, value) for value in range(8)])
    for value in range(8):
        if value in (2, 5):
            assert lost(ringpool, lambda: iterator.next(LIMIT)).index == value
        else:
            assert iterator.next(LIMIT) == value
    with pytest.raises(StopIteration):
        iterator.next(LIMIT)
    check_alive(pool)


def test_item_of_imap_unordered(factory, ringpool):
    pool = factory.Pool(2)
    iterator = pool.imap_unordered(tasks.kill_on, [({2, 5}, value) for value in range(8)])
    values, indexes = [], []
    for _ in range(8):
        try:
            values.append(iterator.next(LIMIT))
        except ringpool.WorkerLostError as error:
            indexes.append(error.index)
    assert sorted(values) == [0, 1, 3, 4, 6, 7]
    assert sorted(indexes) == [2, 5]
    with pytest.raises(StopIteration):
        iterator.next(LIMIT)
    check_alive(pool)


def test_other_jobs_are_not_touched(factory, make_gate, ringpool):
    pool = factory.Pool(2)
    doomed_gate, other_gate = make_gate(), make_gate()
    other = pool.apply_async(tasks.hold, (other_gate, "other"))
    other_gate.wait_for(1)
    doomed = pool.apply_async(tasks.hold, (doomed_gate,))
    (pid,) = doomed_gate.wait_for(1)
    queued = [pool.apply_async(tasks.square, (value,)) for value in range(50)]
    mapped = pool.map_async(tasks.square, range(50), 3)
    streamed = pool.imap(tasks.square, range(50))
    os.kill(pid, signal.SIGKILL)
    lost(ringpool, lambda: doomed.get(LIMIT))
    assert [result.get(LIMIT) for result in queued] == [value**2 for value in range(50)]
    assert mapped.get(LIMIT) == [value**2 for value in range(50)]
    assert list(streamed) == [value**2 for value in range(50)]
    other_gate.open()
    assert other.get(LIMIT) == "other"
    check_alive(pool)


def test_nonsense_that_the_only_caller_waits_for(factory, gate, ringpool):
    # Nobody else is there to look, and what lies in a damaged ring must not keep the caller looking.
    pool = factory.Pool(1)
    result = pool.apply_async(tasks.scribble, (gate, as_words(*failed_initializer())))
    lost(ringpool, lambda: result.get(LIMIT))
    check_alive(pool, 1)


def test_all_workers_at_once(factory, gate, ringpool):
    pool = factory.Pool(2)
    results = [pool.apply_async(tasks.hold, (gate,)) for _ in range(2)]
    pids = gate.wait_for(2)
    queued = pool.map_async(tasks.square, range(20))
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    errors = [lost(ringpool, lambda: result.get(LIMIT)) for result in results]
    assert {error.pid for error in errors} == set(pids)
    assert queued.get(LIMIT) == [value**2 for value in range(20)]
    check_alive(pool)


def test_one_after_the_other(factory, ringpool):
    pool = factory.Pool(2)
    for _ in range(8):
        lost(ringpool, lambda: pool.apply_async(tasks.kill_self).get(LIMIT))
        assert pool.apply(tasks.square, (3,)) == 9
    check_alive(pool)


@pytest.mark.parametrize("used", [False, True], ids=["never used", "used"])
def test_idle_workers(factory, used):
    pool = factory.Pool(2)
    if used:
        pool.map(tasks.square, range(20), 1)
    for pid in pids_of(pool):
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: is_gone(pid), LIMIT)
        results = [pool.apply_async(tasks.square, (value,)) for value in range(6)]
        assert [result.get(LIMIT) for result in results] == [0, 1, 4, 9, 16, 25]
    check_alive(pool)


def test_idle_workers_are_replaced_without_a_task(factory):
    pool = factory.Pool(2)
    pool.map(tasks.square, range(20), 1)
    before = pids_of(pool)
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    wait_until(
        lambda: len(pool._pool) == 2
        and all(worker.is_alive() and worker.pid not in before for worker in pool._pool),
        LIMIT,
    )
    check_alive(pool)


def test_worker_that_dies_while_its_result_is_encoded(factory, ringpool):
    pool = factory.Pool(2)
    for size in (1, 100_000, 4_000_000):
        lost(ringpool, lambda: pool.apply_async(tasks.give_half, (size,)).get(LIMIT))
    check_alive(pool)


def test_worker_that_dies_after_its_result_was_taken(factory):
    pool = factory.Pool(1)
    for _ in range(10):
        result = pool.apply_async(tasks.getpid)
        os.kill(result.get(LIMIT), signal.SIGKILL)
    check_alive(pool, 1)


def test_closed_pool_with_work_queued(factory, gate, background, ringpool):
    pool = factory.Pool(2)
    held = [pool.apply_async(tasks.hold, (gate, "held")) for _ in range(2)]
    pids = gate.wait_for(2)
    queued = [pool.apply_async(tasks.square, (value,)) for value in range(20)]
    streamed = pool.imap(tasks.square, range(10))
    pool.close()
    os.kill(pids[0], signal.SIGKILL)
    gate.open()
    background(pool.join).result(LIMIT)
    assert [result.get(0) for result in queued] == [value**2 for value in range(20)]
    assert list(streamed) == [value**2 for value in range(10)]
    outcomes = []
    for result in held:
        try:
            outcomes.append(result.get(0))
        except ringpool.WorkerLostError as error:
            outcomes.append(error.pid)
    assert sorted(outcomes, key=str) == sorted([pids[0], "held"], key=str)


def test_closed_pool_that_loses_all_its_workers(factory, gate, background, ringpool):
    pool = factory.Pool(2)
    held = [pool.apply_async(tasks.hold, (gate,)) for _ in range(2)]
    pids = gate.wait_for(2)
    queued = pool.map_async(tasks.square, range(20))
    pool.close()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    background(pool.join).result(LIMIT)
    for result in held:
        lost(ringpool, lambda: result.get(0))
    assert queued.get(0) == [value**2 for value in range(20)]


@pytest.mark.parametrize("seed", [1, 2])
def test_random_kills_with_replacement_of_workers(factory, ringpool, seed):
    chance = random.Random(seed)
    # Starting a worker costs more where it is not a fork.
    count, tasks_per_child = (60, 1) if factory.start_method == "fork" else (60, 5)
    pool = factory.Pool(2, maxtasksperchild=tasks_per_child)
    results = [pool.apply_async(tasks.square, (value,)) for value in range(count)]
    for target in sorted(chance.sample(range(count - 5), 5)):
        wait_until(lambda: sum(result.ready() for result in results) >= target, LIMIT)
        pids = [pid for pid in pids_of(pool) if not is_gone(pid)]
        if pids:
            victim = chance.choice(pids)
            try:
                os.kill(victim, signal.SIGKILL)
            except ProcessLookupError:
                # It had done its tasks.
                continue
    done = losses = 0
    for value, result in enumerate(results):
        try:
            assert result.get(LIMIT) == value**2
            done += 1
        except ringpool.WorkerLostError:
            losses += 1
    assert done + losses == count
    assert losses <= 5
    pool.close()
    pool.join()


def test_kills_while_many_small_tasks_run(factory, background, ringpool):
    pool = factory.Pool(2)
    results = [pool.apply_async(tasks.square, (value,)) for value in range(3000)]
    for target in (100, 800, 1500, 2200):
        wait_until(lambda: results[target].ready(), LIMIT)
        try:
            os.kill(pids_of(pool)[target % 2], signal.SIGKILL)
        except ProcessLookupError:
            # Its replacement is not there yet.
            continue
    losses = 0
    for value, result in enumerate(results):
        try:
            assert result.get(LIMIT) == value**2
        except ringpool.WorkerLostError:
            losses += 1
    # A frame may carry several tasks; a task that had not started is not lost.
    assert losses <= 4
    check_alive(pool)


def test_task_that_closes_all_descriptors(factory):
    pool = factory.Pool(2)
    assert [pool.apply_async(tasks.close_descriptors).get(LIMIT) for _ in range(4)] == ["closed"] * 4
    check_alive(pool)


def test_task_that_closes_the_standard_streams(factory):
    pool = factory.Pool(2)
    assert pool.apply_async(tasks.close_standard_streams).get(LIMIT) == "closed"
    check_alive(pool)


def test_worker_whose_child_lives_on(factory, gate, ringpool):
    pool = factory.Pool(2)
    try:
        error = lost(
            ringpool, lambda: pool.apply_async(tasks.fork_child_and_die, (gate,)).get(LIMIT)
        )
        ((pid, child),) = gate.arrivals()
        assert error.pid == pid
        assert not is_gone(int(child))
        check_alive(pool)
        assert not is_gone(int(child))
    finally:
        gate.open()
    wait_until(lambda: is_gone(int(child)), LIMIT)


# Workers that stand still


@pytest.mark.parametrize("workers", [2, 3])
def test_stopped_worker_that_was_idle_delays_no_task(factory, workers):
    pool = factory.Pool(workers)
    # The one that answered last waits most eagerly for the next task.
    for _ in range(50):
        pool.apply(tasks.square, (3,))
    for _ in range(3):
        pid = pool.apply(tasks.getpid)
        os.kill(pid, signal.SIGSTOP)
        try:
            wait_until(lambda: tasks.is_stopped(pid), LIMIT)
            for call in ("apply", "apply_async", "apply"):
                start = time.monotonic()
                outcome = getattr(pool, call)(tasks.getpid)
                other = outcome if call == "apply" else outcome.get(LIMIT)
                assert time.monotonic() - start < 0.5
                assert other != pid
        finally:
            os.kill(pid, signal.SIGCONT)
    check_alive(pool, workers)


# Death of the parent


PARENT = """
import sys
import tasks
from implementations import Implementation

def main():
    pool = Implementation.named(sys.argv[1]).Pool(2, tasks.close_descriptors if sys.argv[2] == "closed" else None)
    pool.map(tasks.square, range(20), 1)
    results = []
    if sys.argv[2] == "busy":
        results = [pool.apply_async(tasks.hold, (tasks.Gate(sys.argv[3]),)) for _ in range(2)]
        tasks.Gate(sys.argv[3]).wait_for(2)
    print(*(worker.pid for worker in pool._pool), flush=True)
    tasks.long()

if __name__ == "__main__":
    main()
"""


@pytest.mark.parametrize("state", ["idle", "busy", "closed"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_workers_go_with_their_parent(script, gate, state, number):
    program = script(PARENT, "file", state, gate.directory)
    pids = [int(word) for word in program.wait_for_line().split()]
    assert len(pids) == 2
    assert not any(is_gone(pid) for pid in pids)
    os.kill(program.pid, number)
    assert program.wait(LIMIT) == -number
    start = time.monotonic()
    # Promised is one second; the other is for a busy machine.
    wait_until(lambda: all(is_gone(pid) for pid in pids), 2.0, "workers went with their parent")
    assert time.monotonic() - start < 2.5
    wait_until(lambda: not program.survivors(), LIMIT, "helpers of the program are gone too")


PROGRAM_THAT_BECOMES_ANOTHER = """
import os
import signal
import sys
import tasks
from implementations import Implementation

def become(*_):
    # Python's own descriptors go with exec, and so the pool's; a child that was forked meanwhile must not keep them.
    if os.fork() == 0:
        signal.pause()
    os.execv(sys.executable, [sys.executable, "-c", "print('another', flush=True); import signal; signal.pause()"])

def main():
    other = Implementation.named(sys.argv[1]).Pool(1)
    pool = Implementation.named(sys.argv[1]).Pool(2)
    last = Implementation.named(sys.argv[1]).Pool(1)
    gate = tasks.Gate(sys.argv[3])
    results = [pool.apply_async(tasks.hold, (gate,)) for _ in range(2 * (sys.argv[2] == "busy"))]
    gate.wait_for(len(results))
    signal.signal(signal.SIGUSR1, become)
    print(*(worker.pid for one in (other, pool, last) for worker in one._pool), flush=True)
    tasks.long()

if __name__ == "__main__":
    main()
"""


@pytest.mark.parametrize("state", ["idle", "busy"])
def test_workers_go_when_their_parent_becomes_another_program(script, gate, state):
    program = script(PROGRAM_THAT_BECOMES_ANOTHER, "file", state, gate.directory)
    pids = [int(word) for word in program.wait_for_line().split()]
    assert len(pids) == 4 and not any(is_gone(pid) for pid in pids)
    os.kill(program.pid, signal.SIGUSR1)
    # Promised is one second; the other is for a busy machine.
    wait_until(lambda: all(is_gone(pid) for pid in pids), 2.0, "workers went with the program")
    assert not is_gone(program.pid)


# How soon


def test_death_is_noticed_soon(factory, make_gate, ringpool):
    # Promised is a tenth of a second; the rest is for a busy machine. Nobody may have to wait for a time-out.
    pool = factory.Pool(2)
    for _ in range(3):
        gate = make_gate()
        result = pool.apply_async(tasks.hold, (gate,))
        os.kill(gate.wait_for(1)[0], signal.SIGKILL)
        lost(ringpool, lambda: result.get(2.0))
    check_alive(pool)


def test_death_is_noticed_soon_whoever_lives_on(factory, gate, ringpool):
    # A child of the worker holds all pipes that could tell of its death.
    pool = factory.Pool(2)
    try:
        result = pool.apply_async(tasks.fork_child_and_die, (gate,))
        gate.wait_for(1)
        lost(ringpool, lambda: result.get(2.0))
        check_alive(pool)
    finally:
        gate.open()
    ((_, child),) = gate.arrivals()
    wait_until(lambda: is_gone(int(child)), LIMIT)


@pytest.mark.ringpool_only
@pytest.mark.parametrize("reuse", [False, True], ids=["free", "another file's"])
@pytest.mark.parametrize("which", ["sentinel", "all"])
def test_descriptors_that_somebody_closes(script, which, reuse):
    """The numbers of a worker's descriptors here, closed by the program; in one of its own, which is all there is to harm."""
    program = script(CLOSES, "file", which, str(int(reuse)))
    assert program.wait(LIMIT) == 0, program.err
    assert program.out == "0 lost\ndone\n"
    wait_until(lambda: not program.survivors(), LIMIT, "nothing is left")


CLOSES = """
import os
import signal
import sys
import tasks
from implementations import Implementation
from procfs import is_gone, wait_until

def main():
    pool = Implementation.named(sys.argv[1]).Pool(2)
    pool.map(tasks.square, range(20), 1)
    which, reuse = sys.argv[2], int(sys.argv[3])
    workers = list(pool._pool)
    for worker in workers:
        for fd in [worker.sentinel] if which == "sentinel" else worker._popen.finalizer.rest._args:
            os.close(fd)
    files = [os.pipe() for _ in range(4)] if reuse else []
    lost = 0
    for worker in workers:
        # Without a task: a file in the place of what tells of the death may be silent for ever.
        if which == "sentinel":
            os.kill(worker.pid, signal.SIGKILL)
            wait_until(lambda: is_gone(worker.pid) and worker not in pool._pool)
        lost += pool.map(tasks.square, range(50), 1) != [value * value for value in range(50)]
    print(lost, "lost", flush=True)
    pool.terminate()
    pool.join()
    print("done", flush=True)
    os._exit(0)

if __name__ == "__main__":
    main()
"""


def test_process_object_that_somebody_closes(factory, gate, ringpool, monkeypatch):
    # Before the pool has noticed the death: its thread is held up by another's.
    pool = factory.Pool(2)
    first, second = pool._pool
    supervisor = pool._supervisor
    reap, closed = supervisor._reap, []

    def close_the_other(worker, kind):
        if not closed:
            other = second if worker is first else first
            closed.append(other)
            other.kill()
            other.join()
            other.close()
        return reap(worker, kind)

    monkeypatch.setattr(supervisor, "_reap", close_the_other)
    results = [pool.apply_async(tasks.hold, (gate,)) for _ in range(2)]
    pids = gate.wait_for(2)
    os.kill(first.pid, signal.SIGKILL)
    errors = [lost(ringpool, lambda: result.get(LIMIT)) for result in results]
    assert sorted(error.pid for error in errors) == sorted(pids)
    assert {error.exitcode for error in errors} == {-signal.SIGKILL, None}
    check_alive(pool)


def test_process_object_that_somebody_closes_just_now(factory, gate, ringpool):
    # While the pool asks it for the exit code.
    pool = factory.Pool(2)
    victim = pool._pool[0]

    def join(timeout=None):
        if not victim._closed:
            type(victim).join(victim)
            victim.close()
        type(victim).join(victim, timeout)

    victim.join = join
    results = [pool.apply_async(tasks.hold, (gate,)) for _ in range(2)]
    gate.wait_for(2)
    os.kill(victim.pid, signal.SIGKILL)
    wait_until(lambda: any(result.ready() for result in results), LIMIT)
    (failed,) = (result for result in results if result.ready())
    assert lost(ringpool, lambda: failed.get(LIMIT)).exitcode is None
    gate.open()
    check_alive(pool)


# Results on their way


def test_worker_that_dies_in_the_middle_of_a_long_result(factory, gate, ringpool, refuse_threads):
    # Nobody collects: it waits for room in its ring.
    refuse_threads("ringpool-collector")
    pool = factory.Pool(2)
    result = pool.apply_async(tasks.arrive_in_result, (gate, 8_000_000))
    pids = gate.wait_for(1)
    wait_until(lambda: is_waiting(pids[0]), LIMIT)
    os.kill(pids[0], signal.SIGKILL)
    wait_until(lambda: is_gone(pids[0]), LIMIT)
    assert lost(ringpool, lambda: result.get(LIMIT)).pid == pids[0]
    check_alive(pool)


def test_results_that_were_published_outlive_their_worker(factory, gate, ringpool, refuse_threads):
    refuse_threads("ringpool-collector")
    pool = factory.Pool(1)
    results = [pool.apply_async(tasks.square, (value,)) for value in range(20)]
    held = pool.apply_async(tasks.hold, (gate,))
    # It has come to the last task, so all before it have their results in the ring, and nobody has looked.
    pids = gate.wait_for(1)
    os.kill(pids[0], signal.SIGKILL)
    wait_until(lambda: is_gone(pids[0]), LIMIT)
    assert [result.get(LIMIT) for result in results] == [value**2 for value in range(20)]
    lost(ringpool, lambda: held.get(LIMIT))
    check_alive(pool, 1)


def failed_initializer():
    """The record of a worker that could not start, and which only such a worker may write."""
    from pool.reports import encode_error

    payload = encode_error(ValueError("no initializer's"))
    padding = -len(payload) % 16
    size = 16 + len(payload) + padding
    kind = 5  # RESULT_BOOT in pool/_csrc.pxd
    return struct.pack("<IHHQ", size, kind, padding, 0) + payload + bytes(padding), size


def as_words(record, published):
    return *struct.unpack(f"<{len(record) // 8}Q", record), published


NONSENSE = {
    "a failed start of a worker that serves": lambda: as_words(*failed_initializer()),
    "a position in the far future": (1 << 63,),
    "a position that is not aligned": (7,),
    "a record longer than what is there": (0xFFFF_FFF0, 0, 64),
    "a record of no length": (0, 0, 64),
    "a result of nobody's task": (1 << 32 | 32, 1 << 40, 0, 0, 32),
    "all bits": (2**64 - 1, 2**64 - 1, 2**64 - 1, 2**64 - 1, 32),
}


@pytest.mark.parametrize("part", ["slots", "tail", "words", "stop", "held"])
def test_worker_that_writes_where_others_write(factory, make_gate, ringpool, part):
    # What is damaged may be lost, with its workers; nobody waits for ever, and the pool goes on.
    pool = factory.Pool(2)
    gate = make_gate()
    result = pool.apply_async(tasks.scribble_beside, (gate, part))
    gate.wait_for(1)
    results = [result, *(pool.apply_async(tasks.nap, (0.005,)) for _ in range(100))]
    gate.open()
    for result in results:
        try:
            result.get(LIMIT)
        except ringpool.WorkerLostError:
            pass
    check_alive(pool)


@pytest.mark.parametrize("words", NONSENSE.values(), ids=NONSENSE.keys())
def test_worker_that_writes_nonsense_into_its_ring(factory, make_gate, ringpool, words):
    pool = factory.Pool(2)
    spoilt, other_gate = make_gate(), make_gate()
    result = pool.apply_async(tasks.scribble, (spoilt, words() if callable(words) else words))
    spoilt.wait_for(1)
    other = pool.apply_async(tasks.hold, (other_gate, "other"))
    other_gate.wait_for(1)
    error = lost(ringpool, lambda: result.get(LIMIT))
    assert error.pid == spoilt.arrivals()[0][0]
    other_gate.open()
    assert other.get(LIMIT) == "other"
    check_alive(pool)
