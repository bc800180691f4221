"""Fixtures that run one test on both implementations with every start method, bounded in time,
and that check after each test that nothing is left behind.

Ask for `factory` to make pools of your own, for `shared_pool` where the test does the pool no harm.
Either makes the test run on ringpool, for fork, spawn and forkserver, and on the stdlib, for one of them (with --slow: all). Markers:

    ringpool_only        what the stdlib does not have, or gets wrong
    with_threads         also on ThreadPool
    start_methods(...)   only these
    limit(seconds)       instead of 60 s
    slow                 runs with --slow only
"""

import contextlib
import faulthandler
import gc
import math
import os
import signal
import subprocess
import sys
import threading
import types

import hypothesis
import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
if HERE not in sys.path:
    # Workers started by spawn and forkserver get this path, and find the tasks on it.
    sys.path.insert(0, HERE)

import leaks
import procfs
import tasks
from implementations import PROCESS_NAMES, THREAD_NAMES, Implementation

DEFAULT_LIMIT = 60.0
# How long after the limit of a test the whole run is given up, with the stacks of all threads.
BACKSTOP = 60.0
WORKERS = 2

# A failure is shown as it was found: with live processes, a smaller case need not fail again. The same cases in every run, and
# many others with --hypothesis-profile=nightly --hypothesis-seed=N.
_profile = hypothesis.settings(
    database=None,
    deadline=None,
    derandomize=True,
    max_examples=100,
    phases=(hypothesis.Phase.explicit, hypothesis.Phase.generate),
    print_blob=True,
    report_multiple_bugs=False,
)
hypothesis.settings.register_profile("everyday", _profile)
hypothesis.settings.register_profile("nightly", _profile, derandomize=False, max_examples=20_000)
hypothesis.settings.load_profile("everyday")


# Collection


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run the slow tests too")


def pytest_configure(config):
    for line in (
        "limit(seconds): time limit of this test, instead of 60 s",
        "slow: runs with --slow only",
        "ringpool_only: what the stdlib does not have, or gets wrong",
        "with_threads: also on ThreadPool",
        "start_methods(*names): only on these start methods",
    ):
        config.addinivalue_line("markers", line)
    # Forking a process that has threads is what a Pool does, and what these tests are about.
    config.addinivalue_line("filterwarnings", "ignore:.*fork.*:DeprecationWarning")
    # A shell that starts the tests in the background lets them ignore it, and they would pass that on.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Output is not captured yet, so this is where the stacks can be read.
    config.stash[_stderr] = os.dup(2)


_stderr = pytest.StashKey()
_failed = pytest.StashKey()


@pytest.fixture(scope="session", autouse=True)
def _light_main():
    """Spawned workers import the main module of their parent; pytest is heavy and is not needed."""
    real = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    leaks.start_helpers()
    # What is alive now stays alive; without it each collection costs more than most tests.
    gc.collect()
    gc.freeze()
    yield
    sys.modules["__main__"] = real
    gc.unfreeze()


def _names_for(definition):
    names = list(PROCESS_NAMES)
    if definition.get_closest_marker("with_threads"):
        names += THREAD_NAMES
    if definition.get_closest_marker("ringpool_only"):
        names = [name for name in names if name.startswith("ringpool-")]
    only = definition.get_closest_marker("start_methods")
    if only:
        names = [name for name in names if name.partition("-")[2] in only.args]
    return names


def pytest_generate_tests(metafunc):
    if "implementation" in metafunc.fixturenames:
        metafunc.parametrize(
            "implementation", _names_for(metafunc.definition), indirect=True, scope="module"
        )


def _is_slow(item):
    """Marked so; or the stdlib again, with another start method than the first that the test is for: that the tests describe it is
    seen by one."""
    if item.get_closest_marker("slow"):
        return True
    name = item.callspec.params.get("implementation", "") if hasattr(item, "callspec") else ""
    return name.startswith("stdlib-") and name not in ("stdlib-threads", _first_of_stdlib(item))


def _first_of_stdlib(item):
    return next((name for name in _names_for(item) if name.startswith("stdlib-")), None)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    if not config.getoption("--slow"):
        slow = {item for item in items if _is_slow(item)}
        if slow:
            config.hook.pytest_deselected(items=list(slow))
            items[:] = [item for item in items if item not in slow]
    # One implementation after the other within a file, so that each shared pool is made once.
    order = {name: rank for rank, name in enumerate(PROCESS_NAMES + THREAD_NAMES)}
    files = {}

    def place(item):
        file = files.setdefault(item.path, len(files))
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        return file, order.get(parameters.get("implementation"), -1)

    items.sort(key=place)


# Time limits


@contextlib.contextmanager
def _limited(item, phase):
    marker = item.get_closest_marker("limit")
    seconds = marker.args[0] if marker else DEFAULT_LIMIT

    def expire(signum, frame):
        pytest.fail(f"{phase} of the test not done within {seconds} s")

    previous = signal.signal(signal.SIGALRM, expire)
    # For a main thread that is stuck where no signal handler runs.
    faulthandler.dump_traceback_later(
        seconds + BACKSTOP, exit=True, file=item.config.stash[_stderr]
    )
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, previous)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item):
    with _limited(item, "setup"):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    with _limited(item, "call"):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item):
    with _limited(item, "teardown"):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.failed:
        item.stash[_failed] = True
        # The traceback holds the pools of the test, and would make them leaks of the next one.
        for name in ("last_type", "last_value", "last_traceback", "last_exc"):
            sys.__dict__.pop(name, None)
    return report


# Leaks


@pytest.fixture(autouse=True)
def nothing_left_behind(request):
    shared = None
    if "shared_pool" in request.fixturenames:
        shared = request.getfixturevalue("_shared")
    before = leaks.Snapshot()
    yield
    if request.node.stash.get(_failed, False):
        # One report is enough, and its traceback holds what the test held.
        leaks.kill_new_children(before, shared.pids() if shared is not None else ())
        return
    if shared is not None:
        # The pool lives on and may have grown threads; all of it is checked when it is closed.
        left = leaks.settle(lambda: leaks.new_children(before, shared.pids()))
    else:
        left = leaks.settle(lambda: leaks.Snapshot().since(before))
        if left:
            leaks.kill_new_children(before)
    if left:
        pytest.fail("left behind:\n" + "\n".join(left))


# Pools


@pytest.fixture(scope="module")
def implementation(request):
    return Implementation.named(request.param)


def _end(pools):
    """Terminate and join every pool, whatever some of them do; raise the first error."""
    errors = []
    for pool in pools:
        try:
            pool.terminate()
            pool.join()
        except Exception as error:
            errors.append(error)
    if errors:
        raise errors[0]


class Factory:
    """Makes pools that are ended after the test."""

    def __init__(self, implementation):
        self._implementation = implementation
        self._pools = []
        self.name = implementation.name
        self.library = implementation.library
        self.start_method = implementation.start_method
        self.uses_threads = implementation.uses_threads
        self.context = implementation.context

    def Pool(self, *args, **kwargs):
        pool = self._implementation.Pool(*args, **kwargs)
        self._pools.append(pool)
        return pool

    def untracked(self, *args, **kwargs):
        """A pool that nothing here refers to."""
        return self._implementation.Pool(*args, **kwargs)

    def end(self):
        pools, self._pools = self._pools, []
        _end(pools)


@pytest.fixture
def factory(implementation):
    made = Factory(implementation)
    yield made
    made.end()


class Shared:
    """The pool of the tests of one file that do it no harm; made anew after a failed test."""

    def __init__(self, implementation):
        self._implementation = implementation
        self._pool = None

    def get(self):
        if self._pool is None:
            self._before = leaks.Snapshot()
            self._pool = self._implementation.Pool(WORKERS)
        return self._pool

    def pids(self):
        if self._pool is None:
            return set()
        return {getattr(worker, "pid", None) for worker in self._pool._pool}

    def drop(self, check=True):
        pool, self._pool = self._pool, None
        if pool is None:
            return
        left = []
        try:
            _end([pool])
            del pool
            if check:
                left = leaks.settle(lambda: leaks.Snapshot().since(self._before))
        finally:
            leaks.kill_new_children(self._before)
        if left:
            pytest.fail("the shared pool left behind:\n" + "\n".join(left))


@pytest.fixture(scope="module")
def _shared(implementation):
    shared = Shared(implementation)
    yield shared
    shared.drop()


@pytest.fixture
def shared_pool(request, _shared):
    yield _shared.get()
    # Else the test item holds the pool until after the check that its end leaves nothing.
    request.node.funcargs.pop("shared_pool", None)
    if request.node.stash.get(_failed, False):
        # Whatever the failure did to it is not for the next test to find out.
        with contextlib.suppress(Exception):
            _shared.drop(check=False)


@pytest.fixture
def ringpool():
    import pool

    return pool


# Helpers of tests


@pytest.fixture
def make_gate(tmp_path):
    """Gates that hold tasks until the test lets them pass; all are open after the test."""
    gates = []

    def make():
        directory = tmp_path / f"gate{len(gates)}"
        directory.mkdir()
        gates.append(tasks.Gate(str(directory)))
        return gates[-1]

    yield make
    for gate in gates:
        gate.open()


@pytest.fixture
def gate(make_gate):
    return make_gate()


@pytest.fixture
def refuse_threads(monkeypatch):
    """refuse_threads(name, times) makes the next starts of threads of that name fail; returns a list of those that did."""
    real = threading.Thread.start
    refused = []

    def refuse(name, times=math.inf):
        def start(thread):
            if thread.name == name and len(refused) < times:
                refused.append(name)
                raise RuntimeError("can't start new thread")
            real(thread)

        monkeypatch.setattr(threading.Thread, "start", start)
        return refused

    return refuse


class Background:
    """A call in a thread of its own."""

    def __init__(self, function, args):
        self._outcome = None
        self._thread = threading.Thread(target=self._run, args=(function, args), daemon=True)
        self._thread.start()

    def _run(self, function, args):
        try:
            self._outcome = (function(*args), None)
        except BaseException as error:
            self._outcome = (None, error)

    def done(self):
        return self._outcome is not None

    def result(self, limit=20.0):
        self._thread.join(limit)
        assert not self._thread.is_alive(), f"not back within {limit} s"
        value, error = self._outcome
        if error is not None:
            # Else the traceback holds this frame, and this frame the traceback.
            self._outcome = None
            raise error
        return value

    def end(self):
        self._thread.join(5)
        self._outcome = None


@pytest.fixture
def background():
    """background(function, *args) starts a thread; its .result(limit) is what the call gave."""
    started = []

    def start(function, *args):
        started.append(Background(function, args))
        return started[-1]

    yield start
    for one in started:
        one.end()


class Script:
    """A program in a session of its own, with its output in files.

    Files, because a pipe stays open as long as any forgotten worker holds it.
    """

    def __init__(self, directory, text, how, arguments, prefix):
        self._out = directory / "out"
        self._err = directory / "err"
        source = directory / "script.py"
        source.write_text(text)
        command, stdin = {
            "file": ([str(source)], subprocess.DEVNULL),
            "command": (["-c", text], subprocess.DEVNULL),
            "stdin": (["-"], source),
        }[how]
        environment = dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path)))
        with contextlib.ExitStack() as stack:
            if stdin is source:
                stdin = stack.enter_context(open(source, "rb"))
            self._process = subprocess.Popen(
                [*prefix, sys.executable, "-W", "ignore::DeprecationWarning", *command, *arguments],
                stdin=stdin,
                stdout=stack.enter_context(open(self._out, "wb")),
                stderr=stack.enter_context(open(self._err, "wb")),
                env=environment,
                start_new_session=True,
            )
        self.pid = self._process.pid

    @property
    def out(self):
        return self._out.read_text()

    @property
    def err(self):
        return self._err.read_text()

    def wait_for_line(self, limit=30.0):
        """The output, once it has a whole line."""
        procfs.wait_until(
            lambda: self.out.endswith("\n") or self._process.poll() is not None, limit
        )
        assert self.out.endswith("\n"), f"ended too early:\n{self.out}\n{self.err}"
        return self.out

    def wait(self, limit=30.0):
        return self._process.wait(limit)

    def signal_all(self, number):
        os.killpg(self.pid, number)

    def kill(self):
        self._process.kill()
        self._process.wait()

    def survivors(self):
        return procfs.alive_in_session(self.pid)

    def end(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()


@pytest.fixture
def script(tmp_path, implementation):
    """script(text, how, *arguments, prefix=()) runs a program, below the command `prefix` (strace, say).

    Its sys.argv[1] is the name of the implementation, for implementations.Implementation.named.
    `how` is "file", "command" (python -c) or "stdin".
    """
    scripts = []

    def run(text, how="file", *arguments, prefix=()):
        directory = tmp_path / f"script{len(scripts)}"
        directory.mkdir()
        scripts.append(Script(directory, text, how, [implementation.name, *arguments], prefix))
        return scripts[-1]

    yield run
    for one in scripts:
        one.end()
