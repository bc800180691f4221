"""A worker that the kernel kills for lack of memory: the error says so, as far as the kernel tells."""

import os
import signal

import pytest
import tasks

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
