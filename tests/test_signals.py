"""Signal handlers that are held back while something must not be left half done."""

import ctypes
import faulthandler
import gc
import multiprocessing.util
import os
import signal
import threading
import time

import pytest

from pool import _signals as signals


class Raised(Exception):
    pass


@pytest.fixture
def handled():
    """The numbers that a handler of SIGUSR1 and SIGUSR2 got; SIGUSR2's raises Raised."""
    seen = []

    def note(number, frame):
        seen.append(number)

    def fail(number, frame):
        seen.append(number)
        raise Raised

    previous = {
        signal.SIGUSR1: signal.signal(signal.SIGUSR1, note),
        signal.SIGUSR2: signal.signal(signal.SIGUSR2, fail),
    }
    yield seen
    for number, handler in previous.items():
        signal.signal(number, handler)


def from_another_thread(number):
    thread = threading.Thread(target=os.kill, args=(os.getpid(), number))
    thread.start()
    thread.join()


@pytest.mark.parametrize("block", [False, True])
@pytest.mark.parametrize("send", [signal.raise_signal, from_another_thread])
def test_handler_runs_once_after_the_block(handled, block, send):
    before = signal.getsignal(signal.SIGUSR1)
    with signals.held(block=block):
        for _ in range(3):
            send(signal.SIGUSR1)
        assert handled == []
    assert handled == [signal.SIGUSR1]
    assert signal.getsignal(signal.SIGUSR1) is before
    send(signal.SIGUSR1)
    assert handled == [signal.SIGUSR1] * 2


def test_mask_is_put_back():
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with signals.held(block=True) as mask:
        assert mask == before
        assert signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with signals.held() as mask:
        assert mask == before == signal.pthread_sigmask(signal.SIG_BLOCK, ())
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


@pytest.mark.parametrize("block", [False, True])
def test_what_handlers_raise_comes_after_all_of_them(handled, block):
    done = []
    with pytest.raises(Raised):
        with signals.held(block=block):
            from_another_thread(signal.SIGUSR2)
            from_another_thread(signal.SIGUSR1)
            done.append("block")
        done.append("not reached")
    assert done == ["block"]
    assert sorted(handled) == [signal.SIGUSR1, signal.SIGUSR2]


def test_error_of_the_block_and_of_a_handler(handled):
    with pytest.raises(Raised) as caught:
        with signals.held():
            signal.raise_signal(signal.SIGUSR2)
            raise ValueError("of the block")
    assert type(caught.value.__context__) is ValueError


def test_nested_blocks(handled):
    with signals.held():
        with signals.held(block=True):
            signal.raise_signal(signal.SIGUSR1)
        assert handled == []
    assert handled == [signal.SIGUSR1]


def test_handler_that_the_block_sets_stays(handled):
    def other(number, frame):
        handled.append("other")

    with signals.held():
        signal.signal(signal.SIGUSR1, other)
    assert signal.getsignal(signal.SIGUSR1) is other


def test_other_threads_leave_the_handlers_alone(handled):
    seen = []

    def run():
        with signals.held(block=True):
            seen.append(signal.getsignal(signal.SIGUSR1))

    before = signal.getsignal(signal.SIGUSR1)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [before]


@pytest.mark.parametrize("in_thread", [False, True])
def test_forked_child_has_the_programs_handlers(handled, in_thread):
    before = signal.getsignal(signal.SIGUSR1)
    statuses = []

    def fork():
        pid = os.fork()
        if pid == 0:
            os._exit(0 if signal.getsignal(signal.SIGUSR1) is before else 1)
        statuses.append(os.waitpid(pid, 0)[1])

    with signals.held():
        signal.raise_signal(signal.SIGUSR1)
        if in_thread:
            thread = threading.Thread(target=fork)
            thread.start()
            thread.join()
        else:
            fork()
    assert statuses == [0]
    assert handled == [signal.SIGUSR1]


class Action(ctypes.Structure):
    """struct sigaction of the kernel's C library."""

    _fields_ = [
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_ulong * 16),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    ]


def action_of(number):
    action = Action()
    ctypes.CDLL(None).sigaction(int(number), None, ctypes.byref(action))
    return action.handler, action.flags


def test_handlers_below_python_and_restart_stay(handled, tmp_path):
    signal.siginterrupt(signal.SIGUSR1, False)
    with open(tmp_path / "stacks", "w+") as file:
        faulthandler.register(signal.SIGUSR1, file=file, chain=True)
        try:
            before = action_of(signal.SIGUSR1)
            with signals.held():
                signal.raise_signal(signal.SIGUSR1)
                assert handled == []
                assert file.seek(0, 2) > 0
            assert action_of(signal.SIGUSR1) == before
            assert handled == [signal.SIGUSR1]
        finally:
            faulthandler.unregister(signal.SIGUSR1)
    assert handled == [signal.SIGUSR1]


def test_what_a_handler_raised_is_known(handled):
    def caught(call):
        try:
            call()
        except BaseException as error:
            return error

    assert signals.is_interrupt(caught(lambda: signal.raise_signal(signal.SIGUSR2)))
    assert signals.is_interrupt(KeyboardInterrupt())
    assert not signals.is_interrupt(caught(lambda: 1 / 0))
    seen = []
    thread = threading.Thread(target=lambda: seen.append(signals.is_interrupt(KeyboardInterrupt())))
    thread.start()
    thread.join()
    assert seen == [False]


def test_handler_that_raises_while_a_block_begins_leaves_nothing_blocked(handled):
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    python = signal.getsignal(signal.SIGUSR2)
    previous = signal.signal(signal.SIGALRM, python)
    raised = 0
    try:
        for step in range(300):
            try:
                signal.setitimer(signal.ITIMER_REAL, 1e-6 + step * 1e-7)
                with signals.held(block=True):
                    pass
                # Once, wherever that is.
                for _ in range(1000):
                    time.sleep(0.001)
            except Raised:
                raised += 1
            assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
            assert signal.getsignal(signal.SIGALRM) is python
    finally:
        signal.signal(signal.SIGALRM, previous)
    assert raised > 100


@pytest.mark.ringpool_only
def test_close_that_a_handler_breaks_off_is_done(factory, monkeypatch, handled):
    pool = factory.Pool(2)
    close = pool._supervisor.close

    def close_late():
        signal.raise_signal(signal.SIGUSR2)
        close()

    monkeypatch.setattr(pool._supervisor, "close", close_late)
    with pytest.raises(Raised):
        pool.close()
    monkeypatch.undo()
    pool.join()


def interrupted(monkeypatch, owner, name):
    """Before `name` does anything the next time, a handler raises."""
    method, left = getattr(owner, name), [True]

    def late(*args):
        if left:
            left.clear()
            signal.raise_signal(signal.SIGUSR2)
        return method(*args)

    monkeypatch.setattr(owner, name, late)


@pytest.mark.ringpool_only
def test_terminate_that_a_handler_breaks_off_is_done(factory, monkeypatch, handled):
    pool = factory.Pool(2)
    interrupted(monkeypatch, pool._supervisor, "terminate")
    with pytest.raises(Raised):
        pool.terminate()
    pool.join()


@pytest.mark.ringpool_only
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_pool_that_is_dropped_while_a_handler_raises_ends(factory, monkeypatch, handled):
    # What it raises in a finalizer is swallowed, and the finalizer does not run again.
    pool = factory.untracked(2)
    thread, workers = pool._supervisor._thread, list(pool._pool)
    gc.collect()
    interrupted(monkeypatch, multiprocessing.util.Finalize, "__call__")
    del pool
    gc.collect()
    assert signal.SIGUSR2 in handled
    thread.join()
    assert not any(worker.is_alive() for worker in workers)
