"""Whatever goes wrong in a task, or on the way to it or back, becomes the outcome of that task."""

import errno
import multiprocessing
import multiprocessing.pool
import os
import pickle
import threading
import time
import weakref
from concurrent.futures.process import BrokenProcessPool

import pytest
import tasks
from procfs import wait_until

LIMIT = 30


def still_works(pool):
    return pool.map(tasks.square, range(20), 1) == [value**2 for value in range(20)]


def pids_of(pool):
    return sorted(worker.pid for worker in pool._pool)


def remote_text(error):
    """The traceback of the worker, as text."""
    assert isinstance(error.__cause__, multiprocessing.pool.RemoteTraceback)
    return str(error.__cause__)


@pytest.fixture
def workers_stay(shared_pool):
    """Checks that the test has cost no worker."""
    before = pids_of(shared_pool)
    yield
    assert still_works(shared_pool)
    assert pids_of(shared_pool) == before


CALLS = {
    "apply": lambda pool, function, *args: pool.apply(function, args),
    "apply_async": lambda pool, function, *args: pool.apply_async(function, args).get(LIMIT),
    "starmap": lambda pool, function, *args: pool.starmap(function, [args]),
    "starmap_async": lambda pool, function, *args: pool.starmap_async(function, [args]).get(LIMIT),
}
every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())


# Errors of tasks


@every_call
@pytest.mark.parametrize(
    "error_class, args",
    [
        (ValueError, ("message",)),
        (KeyError, (("a", 1),)),
        (ZeroDivisionError, ()),
        (OSError, (2, "No such file", "name")),
        (UnicodeDecodeError, ("utf-8", b"\xff", 0, 1, "reason")),
        (MemoryError, ("no memory",)),
        (RecursionError, ("too deep",)),
        (AssertionError, ("failed",)),
        (tasks.Custom, ("message", 5)),
        (multiprocessing.TimeoutError, ("of the task itself",)),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_type_and_arguments(shared_pool, workers_stay, call, error_class, args):
    with pytest.raises(error_class) as caught:
        call(shared_pool, tasks.fail, error_class, *args)
    # The class of an OSError depends on its number.
    raised = error_class(*args)
    assert type(caught.value) is type(raised)
    assert caught.value.args == raised.args
    text = remote_text(caught.value)
    assert type(raised).__name__ in text
    assert "in fail" in text
    assert "Traceback (most recent call last)" in text


def test_attributes_and_notes(shared_pool, workers_stay):
    with pytest.raises(tasks.Custom) as caught:
        shared_pool.apply(tasks.fail_with_attributes)
    assert caught.value.code == 17
    assert caught.value.extra == ["any", "thing"]
    assert caught.value.__notes__ == ["first note", "second note"]


def test_chain_survives_as_text(shared_pool, workers_stay):
    with pytest.raises(ValueError, match="the outer one") as caught:
        shared_pool.apply(tasks.fail_chained)
    text = remote_text(caught.value)
    assert "KeyError: 'the inner one'" in text
    assert "ValueError: the outer one" in text


def test_exception_group(shared_pool, workers_stay):
    with pytest.raises(ExceptionGroup, match="several") as caught:
        shared_pool.apply(tasks.fail_grouped)
    assert [repr(one) for one in caught.value.exceptions] == [
        "ValueError('one')",
        "TypeError('two')",
    ]


@pytest.mark.parametrize("chunksize", [None, 1, 3, 100])
def test_error_of_one_item_of_map(shared_pool, workers_stay, chunksize):
    items = [({5}, value) for value in range(10)]
    with pytest.raises(ValueError) as caught:
        shared_pool.map(tasks.fail_on, items, chunksize)
    assert caught.value.args == ("bad item", 5)
    assert "in fail_on" in remote_text(caught.value)


def test_function_that_takes_other_arguments(shared_pool, workers_stay):
    with pytest.raises(TypeError, match="positional argument"):
        shared_pool.apply(tasks.square)
    with pytest.raises(TypeError, match="unexpected keyword"):
        shared_pool.apply(tasks.square, (1,), {"unknown": 2})


def test_errors_among_many_results(shared_pool, workers_stay):
    bad = frozenset(range(0, 200, 7))
    results = [shared_pool.apply_async(tasks.fail_on, ((bad, value),)) for value in range(200)]
    for value, result in enumerate(results):
        if value in bad:
            with pytest.raises(ValueError) as caught:
                result.get(LIMIT)
            assert caught.value.args == ("bad item", value)
        else:
            assert result.get(LIMIT) == value


# What cannot be pickled


@every_call
def test_argument_that_cannot_be_pickled(shared_pool, workers_stay, call):
    with pytest.raises(TypeError, match="pickle"):
        call(shared_pool, tasks.echo, threading.Lock())


def test_argument_that_cannot_be_pickled_is_told_by_get(shared_pool, workers_stay):
    failed = []
    result = shared_pool.apply_async(tasks.echo, (threading.Lock(),), error_callback=failed.append)
    with pytest.raises(TypeError, match="pickle"):
        result.get(LIMIT)
    assert [type(error) for error in failed] == [TypeError]
    mapped = shared_pool.map_async(tasks.echo, [1, threading.Lock(), 3], 1)
    with pytest.raises(TypeError, match="pickle"):
        mapped.get(LIMIT)


@every_call
def test_result_that_cannot_be_pickled(shared_pool, workers_stay, call):
    with pytest.raises(multiprocessing.pool.MaybeEncodingError) as caught:
        call(shared_pool, tasks.give_lock)
    assert "Error sending result" in str(caught.value)
    assert "lock" in caught.value.value
    assert "pickle" in caught.value.exc


def test_error_that_cannot_be_pickled(shared_pool, workers_stay):
    with pytest.raises(multiprocessing.pool.MaybeEncodingError) as caught:
        shared_pool.apply(tasks.fail_unpicklable)
    assert "Error sending result" in str(caught.value)
    assert "pickle" in caught.value.exc


def test_result_that_cannot_be_pickled_in_imap(shared_pool, workers_stay):
    iterator = shared_pool.imap(tasks.give_lock, range(2))
    for _ in range(2):
        with pytest.raises(multiprocessing.pool.MaybeEncodingError):
            next(iterator)
    with pytest.raises(StopIteration):
        next(iterator)


# From here on what kills the stdlib's pool, or its job


@pytest.mark.ringpool_only
class TestPickling:
    def test_argument_that_cannot_be_unpickled(self, shared_pool, workers_stay):
        bomb = tasks.LoadsOnlyIn(os.getpid())
        with pytest.raises(LookupError, match="cannot be loaded here") as caught:
            shared_pool.apply_async(tasks.echo, (bomb,)).get(LIMIT)
        assert "_load_elsewhere" in remote_text(caught.value)

    def test_argument_that_cannot_be_unpickled_in_map(self, shared_pool, workers_stay):
        items = [0, tasks.LoadsOnlyIn(os.getpid()), 2]
        for chunksize in (None, 1, 2, 3):
            with pytest.raises(LookupError, match="cannot be loaded here"):
                shared_pool.map_async(tasks.echo, items, chunksize).get(LIMIT)
        iterator = shared_pool.imap(tasks.echo, items)
        assert iterator.next(LIMIT) == 0
        with pytest.raises(LookupError):
            iterator.next(LIMIT)
        assert iterator.next(LIMIT) == 2

    def test_argument_whose_unpickling_ends_the_worker(self, factory, ringpool):
        pool = factory.Pool(2)
        others = [pool.apply_async(tasks.square, (value,)) for value in range(20)]
        with pytest.raises(ringpool.WorkerLostError) as caught:
            pool.apply_async(tasks.echo, (tasks.ExitsOnLoad(),)).get(LIMIT)
        assert caught.value.exitcode == 5
        assert [other.get(LIMIT) for other in others] == [value**2 for value in range(20)]
        assert still_works(pool)

    @pytest.mark.parametrize("chunksize", [None, 1, 7])
    @pytest.mark.parametrize("count", [1, 20, 3000])
    def test_map_in_which_nothing_can_be_pickled(self, shared_pool, workers_stay, count, chunksize):
        items = [threading.Lock() for _ in range(count)]
        with pytest.raises(TypeError, match="pickle"):
            shared_pool.map_async(len, items, chunksize).get(LIMIT)
        with pytest.raises(TypeError, match="pickle"):
            shared_pool.map(len, items, chunksize)

    def test_result_that_is_printed_as_what_cannot_be_pickled(self, shared_pool, workers_stay):
        with pytest.raises(multiprocessing.pool.MaybeEncodingError) as caught:
            shared_pool.apply_async(tasks.give_printed_stubbornly).get(LIMIT)
        assert "PrintedStubbornly" in str(caught.value)

    def test_error_that_cannot_be_printed(self, shared_pool, workers_stay):
        with pytest.raises(tasks.Silent) as caught:
            shared_pool.apply_async(tasks.fail, (tasks.Silent, "some text")).get(LIMIT)
        assert caught.value.args == ("some text",)

    @pytest.mark.parametrize("task", [tasks.give_unprintable, tasks.give_deep])
    def test_result_that_can_be_neither_pickled_nor_printed(self, shared_pool, workers_stay, task):
        with pytest.raises(multiprocessing.pool.MaybeEncodingError) as caught:
            shared_pool.apply_async(task).get(LIMIT)
        assert "unprintable" in str(caught.value)

    def test_result_that_cannot_be_unpickled(self, shared_pool, workers_stay):
        with pytest.raises(LookupError, match="cannot be loaded here"):
            shared_pool.apply_async(tasks.give_unloadable).get(LIMIT)

    def test_result_that_cannot_be_unpickled_in_map(self, shared_pool, workers_stay):
        items = [({1}, value) for value in range(3)]
        for chunksize in (None, 1, 2, 3):
            with pytest.raises(LookupError, match="cannot be loaded here"):
                shared_pool.map_async(tasks.give_unloadable_on, items, chunksize).get(LIMIT)
        iterator = shared_pool.imap(tasks.give_unloadable_on, items)
        assert iterator.next(LIMIT) == 0
        with pytest.raises(LookupError):
            iterator.next(LIMIT)
        assert iterator.next(LIMIT) == 2

    def test_error_that_cannot_be_unpickled(self, shared_pool, workers_stay):
        with pytest.raises(Exception) as caught:
            shared_pool.apply_async(tasks.fail_badly_pickled).get(LIMIT)
        assert not isinstance(caught.value, multiprocessing.TimeoutError)
        # The type may be that of the unpickling error or of a stand-in; the text is the worker's.
        assert "left and right" in remote_text(caught.value)
        assert "in fail_badly_pickled" in remote_text(caught.value)

    def test_error_that_takes_no_attributes(self, shared_pool, workers_stay):
        # What goes wrong there is the assignment of the cause: the stdlib's pool is dead after it.
        for _ in range(2):
            with pytest.raises(tasks.Sealed, match="^left and right$") as caught:
                shared_pool.apply_async(tasks.fail_sealed).get(LIMIT)
            assert "in fail_sealed" in remote_text(caught.value)

    def test_error_that_cannot_be_unpickled_in_imap(self, shared_pool, workers_stay):
        iterator = shared_pool.istarmap(tasks.fail_badly_pickled, [(), ()])
        for _ in range(2):
            with pytest.raises(Exception) as caught:
                iterator.next(LIMIT)
            assert "left and right" in remote_text(caught.value)
        with pytest.raises(StopIteration):
            iterator.next(LIMIT)


@pytest.mark.ringpool_only
class TestBaseExceptions:
    @pytest.mark.parametrize(
        "error_class", [SystemExit, KeyboardInterrupt, GeneratorExit, BaseException]
    )
    def test_raised_in_a_task(self, shared_pool, workers_stay, error_class):
        for call in CALLS.values():
            with pytest.raises(error_class) as caught:
                call(shared_pool, tasks.fail, error_class, "of the task")
            assert type(caught.value) is error_class
            assert caught.value.args == ("of the task",)
            assert "in fail" in remote_text(caught.value)

    @pytest.mark.parametrize("error_class", [SystemExit, KeyboardInterrupt, GeneratorExit])
    @pytest.mark.parametrize("chunksize", [1, 3])
    def test_raised_in_an_item(self, shared_pool, workers_stay, error_class, chunksize):
        items = [(error_class, {4}, value) for value in range(8)]
        with pytest.raises(error_class, match="bad item"):
            shared_pool.map(tasks.raise_on, items, chunksize)
        iterator = shared_pool.imap(tasks.raise_on, items, chunksize)
        values = []
        with pytest.raises(error_class, match="bad item"):
            for value in iterator:
                values.append(value)
        assert values == ([0, 1, 2, 3] if chunksize == 1 else [0, 1, 2])

    def test_sys_exit(self, shared_pool, workers_stay):
        for code in (0, 3, "text", None):
            with pytest.raises(SystemExit) as caught:
                shared_pool.apply(tasks.exit_python, (code,))
            assert caught.value.code == code

    def test_error_callback_gets_it(self, shared_pool, workers_stay):
        failed = []
        result = shared_pool.apply_async(
            tasks.fail, (SystemExit, 3), error_callback=failed.append
        )
        with pytest.raises(SystemExit):
            result.get(LIMIT)
        assert [type(error) for error in failed] == [SystemExit]
        assert not result.successful()


@pytest.mark.ringpool_only
def test_task_that_forks_and_returns_twice(factory):
    pool = factory.Pool(2)
    before = pids_of(pool)
    pids = [pool.apply(tasks.fork_and_return) for _ in range(3)]
    assert set(pids) <= set(before)
    assert pool.map(tasks.square, range(50), 1) == [value**2 for value in range(50)]
    assert set(pool.map(tasks.getpid, range(50), 1)) <= set(before)
    assert pids_of(pool) == before
    pool.close()
    pool.join()


@pytest.mark.ringpool_only
@pytest.mark.parametrize("code, status", [(3, 3), (None, 0), ("text", 1)])
def test_exit_status_of_a_child_of_a_task(shared_pool, workers_stay, code, status):
    assert shared_pool.apply_async(tasks.exit_code_of_child, (code,)).get(LIMIT) == status


# Callbacks


@pytest.mark.ringpool_only
@pytest.mark.with_threads
class TestCallbacks:
    @pytest.mark.parametrize("error_class", [ValueError, SystemExit, KeyboardInterrupt])
    def test_raising_callback_fails_its_job(self, shared_pool, error_class):
        def callback(value):
            raise error_class("in the callback", value)

        result = shared_pool.apply_async(tasks.square, (3,), callback=callback)
        with pytest.raises(error_class) as caught:
            result.get(LIMIT)
        assert caught.value.args == ("in the callback", 9)
        assert not result.successful()
        assert still_works(shared_pool)

    @pytest.mark.parametrize("nothing", [False, 0, ""], ids=repr)
    def test_callback_that_is_false_is_none(self, shared_pool, nothing):
        assert shared_pool.apply_async(tasks.square, (3,), callback=nothing, error_callback=nothing).get(LIMIT) == 9
        with pytest.raises(TypeError, match="^unsupported operand|^can't multiply"):
            shared_pool.map_async(tasks.square, ["text"], callback=nothing, error_callback=nothing).get(LIMIT)

    def test_raising_callback_of_a_map(self, shared_pool):
        def callback(values):
            raise ValueError("in the callback", values)

        result = shared_pool.map_async(tasks.square, range(3), callback=callback)
        with pytest.raises(ValueError) as caught:
            result.get(LIMIT)
        assert caught.value.args == ("in the callback", [0, 1, 4])
        assert still_works(shared_pool)

    def test_raising_error_callback(self, shared_pool):
        def callback(error):
            raise KeyError("in the callback")

        for call in (
            lambda: shared_pool.apply_async(
                tasks.fail, (ValueError, "x"), error_callback=callback
            ),
            lambda: shared_pool.map_async(
                tasks.fail_on, [({1}, 1)], error_callback=callback
            ),
        ):
            with pytest.raises(KeyError, match="in the callback"):
                call().get(LIMIT)
        assert still_works(shared_pool)

    def test_later_callbacks_run(self, shared_pool):
        seen = []

        def callback(value):
            seen.append(value)
            raise ValueError(value)

        results = [
            shared_pool.apply_async(tasks.echo, (value,), callback=callback) for value in range(20)
        ]
        for value, result in enumerate(results):
            with pytest.raises(ValueError) as caught:
                result.get(LIMIT)
            assert caught.value.args == (value,)
        assert sorted(seen) == list(range(20))

    def test_callback_waits_for_another_result(self, shared_pool, gate):
        other = shared_pool.apply_async(tasks.hold, (gate, "other"))
        waited = []

        def callback(value):
            gate.open()
            waited.append(other.get(LIMIT))
            waited.append(shared_pool.apply(tasks.square, (5,)))
            waited.append(shared_pool.map(tasks.square, range(3)))
            waited.append(list(shared_pool.imap(tasks.square, range(3))))

        assert shared_pool.apply_async(tasks.square, (3,), callback=callback).get(LIMIT) == 9
        assert waited == ["other", 25, [0, 1, 4], [0, 1, 4]]

    def test_callback_that_waits_for_a_callback_is_told(self, shared_pool):
        def callback(value):
            shared_pool.apply_async(tasks.square, (2,), callback=tasks.nothing).get()

        result = shared_pool.apply_async(tasks.square, (3,), callback=callback)
        with pytest.raises(RuntimeError):
            result.get(LIMIT)
        assert still_works(shared_pool)


# Initializers


def submit(pool):
    return pool.apply_async(tasks.square, (3,)).get(LIMIT)


@pytest.mark.ringpool_only
class TestInitializers:
    def broken(self, pool):
        """The errors of two jobs: one that may come before it is known, one that comes after."""
        errors = []
        for _ in range(2):
            with pytest.raises(BrokenProcessPool) as caught:
                submit(pool)
            errors.append(caught.value)
        return errors

    def test_raising_initializer_breaks_the_pool(self, factory):
        pool = factory.Pool(2, initializer=tasks.fail_initializer)
        for error in self.broken(pool):
            assert type(error.__cause__) is ValueError
            assert error.__cause__.args == ("initializer failed", 23)
        pool.close()
        pool.join()

    def test_every_call_of_a_broken_pool_fails(self, factory):
        pool = factory.Pool(2, initializer=tasks.fail_initializer)
        self.broken(pool)
        for call in (
            lambda: pool.map(tasks.square, range(5)),
            lambda: pool.starmap(tasks.add, [(1, 2)]),
            lambda: list(pool.imap(tasks.square, range(5))),
            lambda: list(pool.imap_unordered(tasks.square, range(5))),
            lambda: pool.apply(tasks.square, (1,)),
        ):
            with pytest.raises(BrokenProcessPool):
                call()

    def test_jobs_submitted_before_it_was_known_fail(self, factory):
        pool = factory.Pool(2, initializer=tasks.fail_initializer)
        with pytest.raises(BrokenProcessPool):
            results = [pool.map_async(tasks.square, range(50)) for _ in range(3)]
            for result in results:
                result.wait(LIMIT)
                assert result.ready() and not result.successful()
            results[0].get(LIMIT)

    @pytest.mark.parametrize(
        "initializer",
        [tasks.fail_initializer, tasks.leave_initializer, tasks.kill_initializer],
        ids=lambda initializer: initializer.__name__,
    )
    def test_number_of_attempts_is_bounded(self, factory, gate, initializer):
        pool = factory.Pool(2, initializer=initializer, initargs=(gate,))
        self.broken(pool)
        pool.terminate()
        pool.join()
        assert len(gate.arrivals()) <= 3 + 2

    def test_base_exception_in_an_initializer(self, factory):
        pool = factory.Pool(1, initializer=tasks.exit_python, initargs=(3,))
        self.broken(pool)

    def test_initializer_that_takes_other_arguments(self, factory):
        pool = factory.Pool(1, initializer=tasks.square)
        for error in self.broken(pool):
            assert type(error.__cause__) is TypeError

    @pytest.mark.parametrize("size", [1000, 70_000, 1_000_000])
    def test_error_of_any_size_is_the_cause(self, factory, size):
        message = "x" * size
        pool = factory.Pool(1, initializer=tasks.fail, initargs=(ValueError, message))
        for error in self.broken(pool):
            assert type(error.__cause__) is ValueError
            assert error.__cause__.args == (message,)

    def test_initializer_that_forks_and_returns_twice(self, factory):
        pool = factory.Pool(1, initializer=tasks.fork_and_return)
        before = pids_of(pool)
        results = [pool.apply_async(tasks.getpid) for _ in range(20)]
        assert {result.get(LIMIT) for result in results} == set(before)
        assert still_works(pool)
        assert pids_of(pool) == before

    @pytest.mark.parametrize("size", [1, 3000, 1 << 20], ids=["small", "beyond a page", "large"])
    def test_arguments_that_only_a_start_may_pass(self, factory, size):
        # A lock cannot be pickled but to a new process.
        lock, values = factory.context.Lock(), factory.context.RawArray("b", 3)
        pool = factory.Pool(2, initializer=tasks.keep_lock, initargs=(lock, values, b"x" * size))
        with lock:
            results = [pool.apply_async(tasks.add_under_lock) for _ in range(6)]
        assert sorted(result.get(LIMIT) for result in results) == [(number, size) for number in range(1, 7)]

    @pytest.mark.start_methods("spawn", "forkserver")
    @pytest.mark.parametrize("size", [1, 1 << 20], ids=["small", "large"])
    def test_arguments_that_cannot_be_unpickled(self, factory, size):
        pool = factory.Pool(2, initializer=tasks.nothing, initargs=(tasks.LoadsOnlyIn(os.getpid()), b"x" * size))
        for error in self.broken(pool):
            assert type(error.__cause__) is LookupError
            assert error.__cause__.args == ("cannot be loaded here",)

    @pytest.mark.start_methods("spawn", "forkserver")
    def test_arguments_that_cannot_be_pickled(self, factory):
        with pytest.raises((TypeError, pickle.PicklingError, AttributeError)):
            factory.Pool(2, initializer=tasks.nothing, initargs=(threading.Lock(),))

    @pytest.mark.start_methods("spawn", "forkserver")
    def test_large_arguments_where_no_file_holds_them(self, factory, monkeypatch):
        def refuse(*_):
            raise OSError(errno.ENOSPC, "no room")

        monkeypatch.setattr("pool.initializer._file_of", refuse)
        pool = factory.Pool(2, initializer=tasks.nothing, initargs=(b"x" * (1 << 20),))
        assert still_works(pool)

    def test_large_arguments_leave_nothing_open(self, factory):
        pool = factory.Pool(1, initializer=tasks.nothing, initargs=(b"x" * (1 << 20),), maxtasksperchild=1)
        pool.map(tasks.square, range(4), 1)
        held = len(os.listdir("/proc/self/fd"))
        pool.map(tasks.square, range(20), 1)
        wait_until(lambda: len(os.listdir("/proc/self/fd")) <= held, LIMIT)
        assert not any("initializer" in name for name in pool.apply(tasks.names_of_descriptors))


UNGUARDED = """
import sys
import tasks
from implementations import Implementation

pool = Implementation.named(sys.argv[1]).Pool(2, tasks.nothing, (b"x" * int(sys.argv[2]),))
print(pool.map(tasks.square, range(3)), flush=True)
"""


@pytest.mark.ringpool_only
@pytest.mark.start_methods("spawn", "forkserver")
@pytest.mark.parametrize("size", [0, 1 << 20], ids=["small arguments", "large arguments"])
def test_program_without_a_guard_is_told(script, size):
    program = script(UNGUARDED, "file", str(size))
    assert program.wait(LIMIT) == 1
    assert program.out == ""
    check_blame(program.err)
    # Each of the two workers says it once; the program twice, as the cause of its own and with the worker's traceback.
    assert program.err.count("start a new process before") <= 2 + 2
    wait_until(lambda: not program.survivors(), LIMIT, "nothing is left")


def check_blame(text):
    """The program's own traceback, the last one, has the child's error as its cause."""
    *_, cause, effect = text.split("The above exception was the direct cause of the following exception:")
    assert "RuntimeError: \n        An attempt has been made to start a new process before the" in cause
    assert "if __name__ == '__main__':" in cause
    last = effect.splitlines()[-1]
    assert last == "pool.errors.WorkerLostError: the pool is broken: the main module raised RuntimeError when a worker imported it"


CAUSE_OF_AN_UNGUARDED = """
import sys
import tasks
from implementations import Implementation

def even(depth, next):
    if depth:
        return next(depth - 1, even)
    return Implementation.named(sys.argv[1]).Pool(1)

def odd(depth, next):
    return next(depth - 1, odd)

# Two functions by turns: a traceback of more bytes than one record holds.
pool = even(int(sys.argv[2]), odd)
for _ in range(2):
    try:
        pool.map(tasks.square, range(3))
    except Exception as error:
        print(type(error).__name__, type(error.__cause__).__name__, "bootstrapping phase" in str(error.__cause__), flush=True)
pool.close()
pool.join()
"""


@pytest.mark.ringpool_only
@pytest.mark.start_methods("spawn", "forkserver")
@pytest.mark.parametrize("depth", [0, 800], ids=["short traceback", "long traceback"])
def test_error_of_a_program_without_a_guard_is_the_cause(script, depth):
    program = script(CAUSE_OF_AN_UNGUARDED, "file", str(depth))
    assert program.wait(LIMIT) == 0, program.err
    assert program.out == "WorkerLostError RuntimeError True\n" * 2
    # One worker, told of by the first: it is not tried again.
    assert program.err.count("start a new process before") == 1
    wait_until(lambda: not program.survivors(), LIMIT, "nothing is left")


CAUGHT = """
import sys
import tasks
from implementations import Implementation

for _ in range(3):
    try:
        pool = Implementation.named(sys.argv[1]).Pool(2)
        break
    except RuntimeError:
        pass
else:
    pool = None

if __name__ == "__main__":
    print(pool.map(tasks.square, range(50), 1) == [value**2 for value in range(50)], flush=True)
    print(len(pool._pool), pool._supervisor._failed_starts, flush=True)
    pool.close()
    pool.join()
"""


@pytest.mark.ringpool_only
@pytest.mark.start_methods("spawn", "forkserver")
def test_main_module_that_catches_the_error_does_no_harm(script):
    program = script(CAUGHT)
    assert program.wait(LIMIT) == 0, program.err
    assert program.out == "True\n2 0\n"
    assert program.err == ""
    wait_until(lambda: not program.survivors(), LIMIT, "nothing is left")


FAILS_IN_WORKERS = """
import sys
import tasks
from implementations import Implementation

if __name__ != "__main__":
    raise ValueError("not to be imported")
pool = Implementation.named(sys.argv[1]).Pool(2)
pool.map(tasks.square, range(3))
"""


@pytest.mark.ringpool_only
@pytest.mark.start_methods("spawn", "forkserver")
def test_main_module_that_fails_before_the_pool_is_told_by_its_exit(script):
    program = script(FAILS_IN_WORKERS)
    assert program.wait(LIMIT) == 1
    assert "not to be imported" in program.err
    last = program.err.splitlines()[-1]
    assert last.startswith("pool.errors.WorkerLostError: the pool is broken")
    assert "why is on its standard error" in last and "`if __name__ == '__main__':` missing" in last
    wait_until(lambda: not program.survivors(), LIMIT, "nothing is left")


# Threads of the pool that the system refuses


@pytest.mark.ringpool_only
@pytest.mark.start_methods("fork")
class TestRefusedThreads:
    def check(self, pool, background):
        """Results and callbacks come, with and without a caller who waits, and the pool ends."""
        seen = []
        called = threading.Event()
        pool.apply_async(tasks.square, (2,), callback=lambda value: called.set())
        assert called.wait(LIMIT)
        result = pool.apply_async(tasks.square, (3,), callback=seen.append)
        assert result.get(LIMIT) == 9
        assert seen == [9]
        assert still_works(pool)
        assert list(pool.imap(tasks.square, (value for value in range(5)))) == [0, 1, 4, 9, 16]
        pool.close()
        background(pool.join).result(LIMIT)

    def test_collector(self, factory, background, refuse_threads):
        pool = factory.Pool(2)
        refused = refuse_threads("ringpool-collector", 1)
        result = pool.apply_async(tasks.square, (4,))
        assert refused
        assert result.get(LIMIT) == 16
        self.check(pool, background)

    def test_collector_with_callbacks_due(self, factory, background, refuse_threads):
        pool = factory.Pool(2)
        refused = refuse_threads("ringpool-collector", 1)
        seen = []
        result = pool.apply_async(tasks.square, (4,), callback=seen.append)
        assert refused
        assert result.get(LIMIT) == 16
        assert seen == [16]
        self.check(pool, background)

    def test_collector_for_ever(self, factory, background, refuse_threads):
        pool = factory.Pool(2)
        refuse_threads("ringpool-collector")
        seen = []
        results = [
            pool.apply_async(tasks.square, (value,), callback=seen.append) for value in range(50)
        ]
        assert [result.get(LIMIT) for result in results] == [value**2 for value in range(50)]
        assert sorted(seen) == [value**2 for value in range(50)]
        pool.close()
        background(pool.join).result(LIMIT)

    def test_start_of_the_collector_that_is_interrupted(self, factory, background, monkeypatch):
        pool = factory.Pool(2)
        real = threading.Thread.start
        interrupted = []

        def start(thread):
            real(thread)
            if thread.name == "ringpool-collector" and not interrupted:
                interrupted.append(thread)
                raise KeyboardInterrupt

        monkeypatch.setattr(threading.Thread, "start", start)
        with pytest.raises(KeyboardInterrupt):
            pool.apply_async(tasks.square, (4,))
        # Without work it goes to sleep, and the pool may not know yet that it is there.
        wait_until(lambda: not pool._cache, LIMIT)
        time.sleep(0.1)
        self.check(pool, background)
        interrupted.clear()

    @pytest.mark.parametrize("call", ["imap", "imap_unordered"])
    def test_feeder(self, factory, background, refuse_threads, call):
        pool = factory.Pool(2)
        refuse_threads("ringpool-feeder", 1)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            getattr(pool, call)(tasks.square, (value for value in range(3)))
        self.check(pool, background)

    def test_feeder_of_a_pool_that_is_closed_at_once(self, factory, background, refuse_threads):
        pool = factory.Pool(2)
        refuse_threads("ringpool-feeder", 1)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            pool.imap(tasks.square, (value for value in range(3)))
        pool.close()
        background(pool.join).result(LIMIT)

    def test_callback_thread(self, factory, background, refuse_threads):
        pool = factory.Pool(2)
        refuse_threads("ringpool-callbacks", 1)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            pool.apply_async(tasks.square, (4,), callback=tasks.nothing)
        self.check(pool, background)


@pytest.mark.ringpool_only
def test_errors_of_the_pool_keep_no_callers_arguments(factory, gate, ringpool):
    class Argument:
        pass

    def call(pool, argument):
        with pytest.raises(ringpool.WorkerLostError):
            pool.apply_async(len, (argument,))
        return weakref.ref(argument)

    broken = factory.Pool(1, initializer=tasks.fail, initargs=(ValueError, "never"))
    with pytest.raises(ringpool.WorkerLostError):
        broken.apply(tasks.nothing)
    assert [call(broken, Argument())() for _ in range(5)] == [None] * 5
    pool = factory.Pool(1)
    results = [pool.apply_async(tasks.hold, (gate,)) for _ in range(3)]
    pool.terminate()
    errors = []
    for result in results:
        with pytest.raises(ringpool.PoolTerminatedError) as caught:
            result.get(LIMIT)
        errors.append(caught.value)
    assert len({id(error) for error in errors}) == 3
