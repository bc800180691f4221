"""A worker that the kernel kills for lack of memory: the error says so, as far as the kernel tells."""

import contextlib
import os
import pathlib
import signal

import pytest
import tasks
from procfs import wait_until

from pool import oom

LIMIT = 30

EVENTS = "low 0\nhigh 0\nmax 12\noom 3\noom_kill {}\noom_group_kill 7\n"
CONTROL = "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n"


@pytest.fixture
def counter(tmp_path):
    """A file of counters, and a function that sets the one that matters."""
    file = tmp_path / "memory.events"

    def write(count, text=EVENTS):
        file.write_text(text.format(count))

    write(2)
    return file, write


@pytest.mark.parametrize("text", [EVENTS, CONTROL], ids=["version 2", "version 1"])
def test_kill_is_told_once(counter, text):
    file, write = counter
    write(2, text)
    watch = oom.OomWatch([str(file)])
    assert not watch.struck()
    write(3, text)
    assert watch.struck()
    assert not watch.struck()


def test_several_kills_at_once_are_told_for_each_death(counter):
    file, write = counter
    watch = oom.OomWatch([str(file)])
    write(4)
    assert [watch.struck() for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize("text", ["", "oom_kill", "oom_kill many\n", "oom_group_kill 5\n", "\0\n"], ids=repr)
def test_file_that_tells_nothing(counter, text):
    file, write = counter
    file.write_text(text)
    watch = oom.OomWatch([str(file)])
    assert not watch.struck()
    write(9)
    assert not watch.struck()


def test_file_that_goes_or_was_never_there(counter, tmp_path):
    file, write = counter
    assert not oom.OomWatch([str(tmp_path / "none")]).struck()
    assert not oom.OomWatch([]).struck()
    watch = oom.OomWatch([str(tmp_path / "none"), str(file)])
    write(3)
    file.rename(tmp_path / "away")
    assert not watch.struck()


@pytest.mark.parametrize(
    "membership, files",
    [
        ("0::/\n", ["/memory.events", "/memory.events"]),
        ("0::/a/b c\n", ["/a/b c/memory.events", "/memory.events"]),
        (
            "4:cpu,memory:/one:two\n1:cpu:/x\n0::/\n",
            ["/memory/one:two/memory.oom_control", "/memory/memory.oom_control", "/memory.events", "/memory.events"],
        ),
        ("nonsense\n", []),
        ("", []),
    ],
    ids=["container", "nested", "both versions", "nonsense", "empty"],
)
def test_where_it_is_counted(tmp_path, membership, files):
    file = tmp_path / "cgroup"
    file.write_text(membership)
    assert oom._counters(str(file), "") == files
    assert oom._counters(str(tmp_path / "none"), "") == []


@pytest.fixture
def counted_pool(factory, counter, monkeypatch):
    file, _ = counter
    monkeypatch.setattr(oom, "_counters", lambda: [str(file)])
    return factory.Pool(2)


def killed(pool, gate, ringpool):
    """The error of a task whose worker is killed from outside."""
    result = pool.apply_async(tasks.hold, (gate,))
    pid = gate.wait_for(1)[0]
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(ringpool.WorkerLostError) as caught:
        result.get(LIMIT)
    return str(caught.value)


@pytest.mark.ringpool_only
def test_error_of_a_worker_that_was_killed_for_memory(counted_pool, counter, gate, ringpool):
    counter[1](3)
    text = killed(counted_pool, gate, ringpool)
    assert "signal 9 (SIGKILL); possibly the OOM killer" in text


@pytest.mark.ringpool_only
def test_error_of_a_worker_that_was_killed_by_somebody(counted_pool, gate, ringpool):
    text = killed(counted_pool, gate, ringpool)
    assert text.endswith("signal 9 (SIGKILL)")


@pytest.mark.ringpool_only
def test_error_of_a_worker_that_died_otherwise(counted_pool, counter, ringpool):
    counter[1](3)
    with pytest.raises(ringpool.WorkerLostError) as caught:
        counted_pool.apply_async(tasks.kill_self, (signal.SIGTERM,)).get(LIMIT)
    assert "OOM" not in str(caught.value)


# A real one: a program in a cgroup of its own, below this process's, whose limits still hold for it.

GROUP_BYTES = 256 << 20

PROGRAM = """
import os
import sys
import tasks
from implementations import Implementation

def main():
    with open(sys.argv[2] + "/cgroup.procs", "w") as file:
        file.write(str(os.getpid()))
    pool = Implementation.named(sys.argv[1]).Pool(2)
    gate = tasks.Gate(sys.argv[3])
    other = pool.apply_async(tasks.hold, (gate, "other"))
    (bystander,) = gate.wait_for(1)
    hog = pool.apply_async(tasks.touch_memory, (1 << 30,))
    try:
        print(hog.get(50))
    except RuntimeError as error:
        print(error.pid not in (None, bystander), error.exitcode, error)
    gate.open()
    print(other.get(20), pool.map(tasks.square, range(20), 1) == [n * n for n in range(20)])
    pool.close()
    pool.join()
    print("done", flush=True)

if __name__ == "__main__":
    main()
"""


def make_group(name):
    """A cgroup with a limit on memory, and none on how often it is exceeded; None if this place does not allow it."""
    for line in pathlib.Path("/proc/self/cgroup").read_text().splitlines():
        number, controllers, path = line.split(":", 2)
        if (number, controllers) == ("0", ""):
            group, limits = pathlib.Path(oom.ROOT + path, name), ("memory.max", "memory.swap.max")
        elif "memory" in controllers.split(","):
            group, limits = pathlib.Path(f"{oom.ROOT}/memory{path}", name), ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
        else:
            continue
        with contextlib.suppress(OSError):
            (group.parent / "cgroup.subtree_control").write_text("+memory")
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / limits[0]).write_text(str(GROUP_BYTES))
            with contextlib.suppress(OSError):
                # No swap, if there is any.
                (group / limits[1]).write_text("0" if limits[1] == "memory.swap.max" else str(GROUP_BYTES))
            return group
        except OSError:
            group.rmdir()
    return None


@pytest.fixture
def group():
    made = make_group(f"ringpool-test-{os.getpid()}")
    if made is None:
        pytest.skip("no cgroup with a limit on memory can be made here")
    yield made

    def removed():
        with contextlib.suppress(OSError):
            made.rmdir()
        return not made.exists()

    wait_until(removed, LIMIT)


@pytest.fixture
def program_in_group(group, script, gate):
    # Ends before the group is removed.
    return script(PROGRAM, "file", str(group), gate.directory)


@pytest.mark.ringpool_only
def test_worker_that_the_kernel_kills_for_memory(program_in_group):
    assert program_in_group.wait(55) == 0, program_in_group.err
    told, others, done = program_in_group.out.splitlines()
    assert told.startswith("True -9 worker process ")
    assert told.endswith("signal 9 (SIGKILL); possibly the OOM killer, which was at work in this cgroup")
    assert (others, done) == ("other True", "done")
