"""Random sequences of calls, faults and ends on a live pool, with a model that knows what each call may come to.

A call gives its value or its own error. Anything else must have a reason that the model knows: a loss (WorkerLostError) needs a
worker that was killed, by the task itself or by a rule, and one kill costs one task; TaskTimeoutError needs a task that never ends;
CancelledError needs a cancel() that said True; PoolTerminatedError needs a terminate(). After every sequence all handles are
settled, the pool closes, and nothing is left.

    python -m pytest tests/test_state_machine.py --hypothesis-profile=nightly --hypothesis-seed=N
"""

import contextlib
import faulthandler
import gc
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from concurrent.futures import CancelledError

import hypothesis
import leaks
import pytest
import state_tasks
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from procfs import process
from tasks import digest, pattern

LIMIT = 20.0
AGE = 1000.0  # seconds: a time limit that is never reached
SOON = 0.05
# Kills of workers that are not ready yet. After more than max(3, processes) in a row the pool is broken, which is right.
UNREADY_KILLS = 2
EXAMPLES = hypothesis.settings.default.max_examples // 2

PLAIN = ("value", "value", "slow", "error", "exit", "lock", "large_argument", "large_result")
ACTIONS = (*PLAIN, "hold", "hold", "die", "die_once", "leave")


class Item:
    """One task: what it is told, and what comes of it if nobody interferes."""

    def __init__(self, action, token, directory, gate):
        data = {"large_argument": pattern(state_tasks.LARGE, token % 251), "hold": gate}.get(action) if action != "value" else None
        self.action = action
        self.token = token
        self.order = (action, token, directory, data)
        self.value = {
            "large_argument": lambda: digest(data),
            "large_result": lambda: pattern(state_tasks.LARGE, token % 251),
        }.get(action, lambda: ("value", token))()
        self.fails = action in ("error", "exit", "lock", "die", "leave", "endless")

    def explains(self, error, ringpool):
        """True if this error is what the task itself ends with."""
        kind = type(error)
        return {
            "error": kind is ValueError and error.args == ("told to fail", self.token),
            "exit": kind is SystemExit and error.args == (self.token,),
            "lock": kind is ringpool.MaybeEncodingError and "lock" in str(error),
            "die": kind is ringpool.WorkerLostError and error.exitcode == -signal.SIGKILL,
            "leave": kind is ringpool.WorkerLostError and error.exitcode == 3,
            "endless": kind is ringpool.TaskTimeoutError and error.seconds == SOON,
        }.get(self.action, False)


class Call:
    """A handle, its items, and what was done to it."""

    def __init__(self, kind, items, retries, kills):
        self.kind = kind
        self.items = items
        self.retries = retries
        self.kills = kills  # kills before it was submitted
        self.handle = self.pool_number = None
        self.cancelled = self.cancelled_early = self.terminated = self.closed = False
        self.callbacks = None
        self.callback_fails = False
        self.hurried = False  # has a short time limit: on a busy machine any of its tasks may be late
        self.input_error = None  # of the iterable, at its end
        self.chunksize = 1
        self.buffersize = None
        self.place = 0  # an iterator's outcomes so far
        self.left = list(items)  # of imap_unordered

    def __repr__(self):
        return f"{self.kind} of {[(item.action, item.token) for item in self.items]}, retries={self.retries}"


class PoolMachine(RuleBasedStateMachine):
    """What a rule does may depend on how far the workers are; which rules there are may not, or a case could not be run again."""

    def __init__(self):
        super().__init__()
        import pool

        self.ringpool = pool
        self.before = leaks.Snapshot()
        self.directory = tempfile.mkdtemp(prefix="pool-state-")
        self.history = []
        self.calls = []
        self.all_calls = []
        self.token = 0
        self.gate = 0
        self.failed = False
        self.kills = 0
        self.losses = 0
        self.killed = set()
        self.stopped = {}  # pid: descriptor of the process
        self.pool = None
        self.pools = 0
        self.state = None
        self.unready_kills = 0

    # ---- helpers

    def say(self, text):
        self.history.append(text)

    def demand(self, condition, text):
        if not condition:
            self.failed = True
            raise AssertionError(text + "\nafter\n  " + "\n  ".join(self.history))

    def hang(self, what):
        faulthandler.dump_traceback(file=sys.__stderr__, all_threads=True)
        self.demand(False, f"{what}: not done within {LIMIT:g} s")

    def live_pool(self):
        if self.pool is None:
            self.say("pool")
            self.pool = self.ringpool.Pool(2, context=multiprocessing.get_context("fork"))
            self.state = "run"
            self.pools += 1
            self.unready_kills = 0
        return self.pool

    def new_item(self, action):
        self.token += 1
        return Item(action, self.token, self.directory, f"gate{self.gate}")

    def new_call(self, kind, actions, retries):
        if retries == 0:
            actions = ["die" if action == "die_once" else action for action in actions]
        call = Call(kind, [self.new_item(action) for action in actions], retries, self.kills)
        self.say(repr(call))
        return call

    def submit(self, call, start):
        """start: a function of the pool that gives the handle."""
        pool = self.live_pool()
        if self.state != "run":
            with pytest.raises(ValueError, match="not running"):
                start(pool)
            return
        call.handle = start(pool)
        call.pool_number = self.pools
        self.calls.append(call)
        self.all_calls.append(call)

    def of_this_pool(self):
        """Earlier pools may have calls that are not done yet: they were dropped."""
        return [call for call in self.all_calls if call.pool_number == self.pools]

    def certain(self):
        """Nothing that the model knows of holds a worker up."""
        return not self.stopped and not any(
            item.action == "hold" and item.order[3] == f"gate{self.gate}" for call in self.all_calls for item in call.items
        )

    def workers(self):
        """Workers that are ready, and the others."""
        seats = self.pool._supervisor._seat_of
        ready, others = [], []
        for worker in list(self.pool._pool):
            seat = seats.get(worker)
            if seat is not None and worker.pid is not None:
                (ready if self.pool._core.seat_started(seat) else others).append(worker.pid)
        return ready, others

    def pick(self, place):
        """(pid, descriptor) of a worker, or None."""
        ready, others = self.workers()
        found = ready + others if self.unready_kills < UNREADY_KILLS else ready
        if not found:
            return None
        pid = found[place % len(found)]
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            return None
        one = process(pid)
        if one is None or one.parent != os.getpid():
            os.close(fd)
            return None
        self.unready_kills += pid in others
        return pid, fd

    def kill(self, pid, fd):
        self.kills += 1
        self.killed.add(pid)
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(fd, signal.SIGKILL)
        os.close(fd)

    # ---- what is submitted

    @rule(
        action=st.sampled_from((*ACTIONS, "endless")),
        retries=st.sampled_from((0, 0, 1, 2)),
        limit=st.sampled_from((None, AGE)),
        callbacks=st.sampled_from((None, None, "fine", "fails")),
    )
    def apply(self, action, retries, limit, callbacks):
        call = self.new_call("apply", [action], retries)
        keywords = {"retries": retries, "task_timeout": SOON if action == "endless" else limit}
        if callbacks:
            self.say(f"  with callbacks: {callbacks}")
            call.callbacks = seen = []
            call.callback_fails = callbacks == "fails"

            def callback(value):
                seen.append(("value", value))
                if callbacks == "fails":
                    raise KeyError("callback")

            def error_callback(error):
                seen.append(("error", error))
                if callbacks == "fails":
                    raise KeyError("callback")

            keywords.update(callback=callback, error_callback=error_callback)
        self.submit(call, lambda pool: pool.apply_async(state_tasks.act, (call.items[0].order,), **keywords))

    @rule(
        actions=st.lists(st.sampled_from(ACTIONS), max_size=6),
        retries=st.sampled_from((0, 0, 2)),
        chunksize=st.sampled_from((None, None, 1, 2, 5)),
        star=st.booleans(),
        copies=st.sampled_from((1, 1, 40)),
    )
    def map(self, actions, retries, chunksize, star, copies):
        call = self.new_call("map", actions + ["value"] * (copies - 1), retries)
        self.say(f"  chunksize={chunksize}, star={star}")
        orders = [item.order for item in call.items]
        call.callbacks = seen = []
        keywords = {
            "retries": retries,
            "callback": lambda value: seen.append(("value", value)),
            "error_callback": lambda error: seen.append(("error", error)),
        }
        if star:
            self.submit(call, lambda pool: pool.starmap_async(state_tasks.act_star, orders, chunksize, **keywords))
        else:
            self.submit(call, lambda pool: pool.map_async(state_tasks.act, orders, chunksize, **keywords))

    @rule(
        actions=st.lists(st.sampled_from((*ACTIONS, "endless")), max_size=6),
        ordered=st.booleans(),
        retries=st.sampled_from((0, 0, 2)),
        chunksize=st.sampled_from((1, 1, 3)),
        buffersize=st.sampled_from((None, None, 1, 2)),
        source=st.sampled_from(("list", "generator", "failing generator")),
    )
    def iterate(self, actions, ordered, retries, chunksize, buffersize, source):
        kind = "imap" if ordered else "imap_unordered"
        call = self.new_call(kind, actions, retries)
        self.say(f"  chunksize={chunksize}, buffersize={buffersize}, from a {source}")
        call.chunksize, call.buffersize = chunksize, buffersize
        if source == "failing generator" and chunksize == 1:
            call.input_error = ("no more items", self.token)
        orders = [item.order for item in call.items]

        def generate():
            yield from orders
            if call.input_error:
                raise LookupError(*call.input_error)

        keywords = {"retries": retries, "buffersize": buffersize}
        if any(item.action == "endless" for item in call.items):
            call.hurried = True
            call.items[:] = [item if item.action != "hold" else self.new_item("value") for item in call.items]
            call.left = list(call.items)
            orders[:] = [item.order for item in call.items]
            keywords["task_timeout"] = SOON
        iterable = orders if source == "list" else generate()
        self.submit(call, lambda pool: getattr(pool, kind)(state_tasks.act, iterable, chunksize, **keywords))

    # ---- what comes of it

    @precondition(lambda self: self.all_calls)
    @rule(place=st.integers(0, 30))
    def settle_one(self, place):
        if not self.calls:
            return
        call = self.calls[place % len(self.calls)]
        if call.kind.startswith("imap"):
            self.following(call, LIMIT if self.certain() else 0.002)
        else:
            self.get(call, LIMIT if self.certain() else 0.002)

    @precondition(lambda self: self.all_calls)
    @rule(place=st.integers(0, 30), count=st.integers(1, 4))
    def step(self, place, count):
        """Some items of an iterator, if they are there soon; only a look at other calls."""
        if not self.calls:
            return
        call = self.calls[place % len(self.calls)]
        if not call.kind.startswith("imap"):
            if call.handle.ready():
                self.get(call, 0)
            return
        if call.chunksize > 1 and not self.certain():
            return  # its next() takes no time limit
        for _ in range(count):
            if call not in self.calls:
                break
            self.following(call, 0.02)

    @precondition(lambda self: self.all_calls)
    @rule(place=st.integers(0, 30))
    def forget(self, place):
        """The handle is dropped, whatever becomes of it."""
        if not self.calls:
            return
        call = self.calls.pop(place % len(self.calls))
        self.say(f"forget {call}")
        call.handle = None

    def get(self, call, limit):
        self.say(f"get {call}")
        try:
            outcome = ("value", call.handle.get(limit))
        except multiprocessing.TimeoutError as error:
            if type(error) is multiprocessing.TimeoutError:
                if limit == LIMIT:
                    self.hang(call)
                self.demand(not call.terminated, f"{call} is not done after terminate()")
                return
            outcome = ("error", error)
        except BaseException as error:
            outcome = ("error", error)
        self.calls.remove(call)
        call.handle = None
        self.judge(call, *outcome)
        outcome = None

    def judge(self, call, kind, result):
        """The outcome of a call that has a single one."""
        shown = f"{call} gave {result!r:.300}"
        if call.callbacks is not None:
            self.judge_callbacks(call, kind, result, shown)
        if call.callback_fails and kind == "error" and type(result) is KeyError and result.args == ("callback",):
            kind, result = call.callbacks[0]
        if kind == "value":
            self.demand(not call.cancelled, f"{shown} though it was cancelled")
            self.demand(not any(item.fails for item in call.items), f"{shown} though a task fails")
            expected = call.items[0].value if call.kind == "apply" else [item.value for item in call.items]
            self.demand(result == expected, f"{shown}, not {expected!r:.300}")
        elif call.cancelled:
            self.demand(type(result) is CancelledError, f"{shown} though it was cancelled")
        else:
            self.demand(any(item.explains(result, self.ringpool) for item in call.items) or self.excused(call, result), shown)

    def judge_callbacks(self, call, kind, result, shown):
        if call.terminated and not call.callbacks:
            return  # the callback thread may have had no time
        if not call.items and call.kind == "map":
            self.demand(not call.callbacks, f"{shown} and called back")
            return
        self.demand(len(call.callbacks) == 1, f"{shown}, {len(call.callbacks)} callbacks")
        if not call.callback_fails:
            self.demand(call.callbacks[0][0] == kind and call.callbacks[0][1] is result, f"{shown}, another to the callback")

    def excused(self, call, error):
        """True if what was done to the pool explains the error."""
        if type(error) is self.ringpool.PoolTerminatedError:
            return call.terminated
        if type(error) is self.ringpool.TaskTimeoutError:
            return call.hurried and error.seconds == SOON
        if type(error) is self.ringpool.WorkerLostError:
            if error.exitcode != -signal.SIGKILL or error.pid not in self.killed or self.kills == call.kills:
                return False
            # A task that dies by itself may have used up its retries before.
            self.losses += 1
            return True
        return False

    def following(self, call, limit):
        """The next item of an iterator."""
        self.say(f"next of {call}")
        if call.chunksize > 1 and limit != LIMIT and not self.certain():
            return
        try:
            item = self.bounded_next(call) if call.chunksize > 1 else call.handle.next(limit)
            kind = "value"
        except StopIteration:
            self.end_of(call)
            return
        except multiprocessing.TimeoutError as error:
            if type(error) is multiprocessing.TimeoutError:
                if limit == LIMIT:
                    self.hang(call)
                self.demand(not call.terminated, f"{call} is not done after terminate()")
                return
            kind, item = "error", error
        except BaseException as error:
            kind, item = "error", error
        shown = f"{call} gave {item!r:.300} at place {call.place}"
        if kind == "value":
            self.item_of(call, item, shown)
            return
        if type(item) is self.ringpool.PoolTerminatedError:
            self.demand(call.terminated, shown)
            call.place = None
            return
        if call.input_error and type(item) is LookupError:
            self.demand(item.args == call.input_error, shown)
            self.demand(call.kind != "imap" or call.place == len(call.items), shown)
            call.place += 1
            return
        self.error_of(call, item, shown)
        item = None

    def bounded_next(self, call):
        """A plain generator's next() has no time limit."""
        outcome = []

        def fetch():
            try:
                outcome.append((next(call.handle), None))
            except BaseException as error:
                outcome.append((None, error))

        thread = threading.Thread(target=fetch, daemon=True)
        thread.start()
        thread.join(LIMIT)
        if thread.is_alive():
            self.hang(call)
        value, error = outcome.pop()
        if error is not None:
            raise error
        return value

    def item_of(self, call, value, shown):
        self.demand(call.place is not None, f"{shown} after its end")
        if call.kind == "imap":
            self.demand(call.place < len(call.items), shown)
            item = call.items[call.place]
            self.demand(not item.fails and value == item.value, shown)
        else:
            found = next((item for item in call.left if not item.fails and item.value == value), None)
            self.demand(found is not None, shown)
            call.left.remove(found)
        call.place += 1

    def error_of(self, call, error, shown):
        self.demand(call.place is not None, f"{shown} after its end")
        if call.chunksize > 1:
            # The chunk is lost as a whole, and the generator ends.
            place = call.place if call.kind == "imap" else 0
            chunk = call.items[place : place + call.chunksize] if call.kind == "imap" else call.left
            self.demand(any(item.explains(error, self.ringpool) for item in chunk) or self.excused(call, error), shown)
            call.place = None
            return
        if call.kind == "imap":
            self.demand(call.place < len(call.items), shown)
            item = call.items[call.place]
            self.demand(item.explains(error, self.ringpool) or self.excused(call, error), shown)
        else:
            found = next((item for item in call.left if item.explains(error, self.ringpool)), None)
            if found is not None and not call.hurried:
                call.left.remove(found)
            elif found is None:
                # Which one it was does not matter: the count at the end does.
                self.demand(self.excused(call, error), shown)
        call.place += 1

    def end_of(self, call):
        self.calls.remove(call)
        call.handle = None
        if call.place is not None and not call.terminated and not (call.closed and call.buffersize):
            expected = len(call.items) + bool(call.input_error)
            self.demand(call.place == expected, f"{call} ended after {call.place} of {expected}")

    # ---- faults

    @precondition(lambda self: self.state in ("run", "close"))
    @rule(place=st.integers(0, 3))
    def kill_worker(self, place):
        found = self.pick(place)
        if found is not None:
            self.say(f"kill {found[0]}")
            self.kill(*found)

    @precondition(lambda self: self.state in ("run", "close"))
    @rule(place=st.integers(0, 3))
    def stop_worker(self, place):
        found = self.pick(place)
        if found is None:
            return
        pid, fd = found
        if pid in self.stopped:
            os.close(fd)
            return
        self.say(f"stop {pid}")
        self.stopped[pid] = fd
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(fd, signal.SIGSTOP)

    @rule(kill=st.booleans())
    def release_worker(self, kill):
        if not self.stopped:
            return
        if not kill:
            self.let_go()
            return
        pid, fd = self.stopped.popitem()
        self.say(f"kill stopped {pid}")
        self.kill(pid, fd)

    @rule()
    def open_the_gate(self):
        self.open_gate()

    def open_gate(self):
        self.say("open the gate")
        with open(os.path.join(self.directory, f"gate{self.gate}"), "w"):
            self.gate += 1

    @precondition(lambda self: self.all_calls)
    @rule(place=st.integers(0, 30), kill=st.booleans())
    def cancel(self, place, kill):
        if not self.calls:
            return
        call = self.calls[place % len(self.calls)]
        if call.kind.startswith("imap"):
            return
        begun = state_tasks.begun(self.directory)
        running = call.kind == "apply" and call.items[0].token in begun
        answer = call.handle.cancel(kill=kill)
        self.say(f"cancel(kill={kill}) of {call}: {answer}")
        self.demand(call.handle.cancelled() == answer, "cancelled() says something else")
        if running and not kill and not call.cancelled and self.kills == call.kills and not call.retries:
            self.demand(not answer, f"{call} had begun")
        if answer and call.kind == "apply" and not kill and not call.cancelled and self.kills == call.kills:
            call.cancelled_early = not call.retries
        self.demand(answer or not call.cancelled, f"{call} is not cancelled any more")
        call.cancelled = answer

    # ---- life

    @precondition(lambda self: self.state in ("run", "close"))
    @rule(count=st.integers(1, 3))
    def resize(self, count):
        self.say(f"resize({count})")
        if self.state == "run":
            self.pool.resize(count)
        else:
            with pytest.raises(ValueError, match="not running"):
                self.pool.resize(count)

    @rule()
    def collect_garbage(self):
        gc.collect()

    @precondition(lambda self: self.state == "run" and len(self.all_calls) > 3)
    @rule()
    def close_pool(self):
        self.close()

    def close(self):
        self.say("close")
        self.pool.close()
        self.state = "close"
        for call in self.of_this_pool():
            call.closed = True

    @precondition(lambda self: self.state == "close")
    @rule()
    def join(self):
        """All that is pending is done first, whether anybody looks at it or not."""
        self.let_all_go()
        self.say("join")
        self.join_pool()

    @precondition(lambda self: self.state in ("run", "close") and len(self.all_calls) > 5)
    @rule(joined=st.booleans())
    def terminate(self, joined):
        self.say("terminate")
        begin = time.monotonic()
        self.pool.terminate()
        self.demand(time.monotonic() - begin < LIMIT, "terminate() takes too long")
        mine = self.of_this_pool()
        for call in mine:
            call.terminated = True
        for call in mine:
            if call in self.calls and not call.kind.startswith("imap"):
                self.demand(call.handle.ready(), f"{call} is not ready after terminate()")
        self.state = "terminate"
        self.join_pool()

    @precondition(lambda self: self.state == "run" and len(self.all_calls) > 5)
    @rule()
    def drop(self):
        """Nobody has the pool any more: what is pending still comes, then the workers go."""
        if any(call.buffersize for call in self.of_this_pool()):
            # One that is not read to its end waits for its reader, and the pool with it; close() ends that.
            self.close()
        self.say("drop")
        self.pool = self.state = None
        gc.collect()

    def join_pool(self):
        thread = threading.Thread(target=self.pool.join, daemon=True)
        thread.start()
        thread.join(LIMIT)
        if thread.is_alive():
            self.hang("join()")
        self.demand(not self.pool._pool, "workers are left after join()")
        self.pool = self.state = None

    # ---- the end

    def teardown(self):
        try:
            if not self.failed:
                self.finish()
        finally:
            self.clean_up()

    def finish(self):
        self.say("the end")
        self.let_all_go()
        for call in list(self.calls):
            while call in self.calls:
                if call.kind.startswith("imap"):
                    self.following(call, LIMIT)
                else:
                    self.get(call, LIMIT)
        if self.state == "run":
            self.say("four more tasks")
            result = self.pool.map_async(state_tasks.digest, [b"a", b"b", b"c", b"d"], 1)
            try:
                self.demand(result.get(LIMIT) == [digest(one) for one in (b"a", b"b", b"c", b"d")], "wrong at the end")
            except multiprocessing.TimeoutError:
                self.hang("map")
            self.close()
        if self.state == "close":
            self.join_pool()
        self.check_counts()

    def let_all_go(self):
        """Nothing holds a worker up any more."""
        while self.stopped:
            self.let_go()
        self.open_gate()

    def let_go(self):
        pid, fd = self.stopped.popitem()
        self.say(f"continue {pid}")
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(fd, signal.SIGCONT)
        os.close(fd)

    def check_counts(self):
        self.demand(self.losses <= self.kills, f"{self.losses} tasks were lost to {self.kills} kills")
        begun = Counter(state_tasks.begun(self.directory))
        for call in self.all_calls:
            for item in call.items:
                times = begun[item.token]
                self.demand(times <= 1 + call.retries, f"{item.token} of {call} was begun {times} times")
                self.demand(not (call.cancelled_early and times), f"{call} was begun though it was cancelled before")

    def clean_up(self):
        while self.stopped:
            self.let_go()
        pool, self.pool = self.pool, None
        self.calls.clear()
        self.all_calls.clear()
        if pool is not None:
            pool.terminate()
            pool = None
        try:
            left = leaks.settle(lambda: leaks.Snapshot().since(self.before))
            if left:
                leaks.kill_new_children(self.before)
            if not self.failed:
                self.demand(not left, f"left behind: {left}")
        finally:
            shutil.rmtree(self.directory, ignore_errors=True)


@pytest.mark.limit(max(120, 3 * EXAMPLES))
def test_random_sequences():
    with warnings.catch_warnings():
        # A pool that is dropped on purpose.
        warnings.simplefilter("ignore", ResourceWarning)
        run_state_machine_as_test(
            PoolMachine,
            settings=hypothesis.settings(
                max_examples=EXAMPLES, stateful_step_count=30, suppress_health_check=list(hypothesis.HealthCheck)
            ),
        )
