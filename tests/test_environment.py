"""Systems that are full, old or forbidding: the pool works without what it can do without, else there is one clear error."""

import contextlib
import os
import pathlib
import re
import shutil
import signal
import subprocess

import pytest
import tasks
from procfs import is_gone, wait_until

pytestmark = pytest.mark.ringpool_only

LIMIT = 50

# Everything that a pool does, with a worker that has to be replaced; `refusals` is done before there is a pool.
PROGRAM = """
import errno
import gc
import os
import signal
import sys
import large_tasks
import leaks
import tasks
from implementations import Implementation
from procfs import is_gone, wait_until
from refuse import BETWEEN_PROCESSES, EVERY_OTHER_32_MIB, SHARED_WITHOUT_RESERVE, refuse

def work_out(pool):
    assert pool.map(tasks.square, range(100), 1) == [n * n for n in range(100)]
    assert list(pool.imap(tasks.square, (n for n in range(20)))) == [n * n for n in range(20)]
    for size in (10, 3000, 1 << 20):
        assert pool.apply(tasks.digest, (tasks.pattern(size),)) == tasks.pattern_digest(size)
        assert tasks.digest(pool.apply(tasks.pattern, (size,))) == tasks.pattern_digest(size)
    for _ in range(3):
        victim = pool._pool[0].pid
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: is_gone(victim))
        assert pool.map(tasks.square, range(100), 1) == [n * n for n in range(100)]
        wait_until(lambda: len(pool._pool) == 2 and victim not in [one.pid for one in pool._pool])

def main():
    {refusals}
    implementation = Implementation.named(sys.argv[1])
    leaks.multiprocessing.resource_tracker.ensure_running()
    implementation.context.Process(target=tasks.nothing).start()
    gc.collect()
    before = leaks.Snapshot()
    {body}
    left = leaks.settle(lambda: leaks.Snapshot().since(before))
    print(*left, "done", flush=True)

if __name__ == "__main__":
    main()
"""
WHOLE_LIFE = """
    pool = implementation.Pool(2)
    work_out(pool)
    pool.close()
    pool.join()
    pool = implementation.Pool(2)
    pool.apply_async(tasks.long)
    pool.terminate()
    pool.join()
    del pool
"""
# What is refused for good before there is a pool: one error, and nothing is left.
NO_POOL = """
    for _ in range(2):
        try:
            implementation.Pool(2)
        except OSError as error:
            print(errno.errorcode[error.errno], error, flush=True)
"""


def run(script, refusals="pass", body=WHOLE_LIFE, prefix=(), silent=True):
    program = script(PROGRAM.format(refusals=refusals, body=body), prefix=prefix)
    assert program.wait(LIMIT) == 0, program.err
    lines = program.out.splitlines()
    assert lines[-1] == "done", lines
    assert not silent or program.err == ""
    wait_until(lambda: not program.survivors(), 10, "nothing is left of the program")
    return lines[:-1]


# /dev/shm, which is not needed


def mounted(command):
    """A command that runs a program with a mount of its own."""
    return ["unshare", "--mount", "--propagation", "private", "sh", "-ec", f'{command}\nexec "$0" "$@"']


def may_mount():
    if not shutil.which("unshare"):
        return False
    return subprocess.run(["unshare", "--mount", "true"], capture_output=True, timeout=10).returncode == 0


needs_mounts = pytest.mark.skipif(not may_mount(), reason="needs unshare (util-linux) and the right to mount")

SHARED_MEMORY = {
    "64 MB": "mount -t tmpfs -o size=64m,mode=1777 none /dev/shm",
    "64 KB": "mount -t tmpfs -o size=64k,mode=1777 none /dev/shm",
    "full": "mount -t tmpfs -o size=4k,mode=1777 none /dev/shm; printf x > /dev/shm/x",
    "read-only": "mount -t tmpfs -o ro none /dev/shm",
    "absent": """
        old=$(mktemp -d)
        mount --bind /dev "$old"
        mount -t tmpfs -o mode=755 none /dev
        for name in null zero full random urandom tty; do touch /dev/$name; mount --bind "$old/$name" /dev/$name; done
        ln -s /proc/self/fd /dev/fd
        umount "$old"
        rmdir "$old"
        test ! -e /dev/shm
    """,
}
every_mount = pytest.mark.parametrize("mount", SHARED_MEMORY.values(), ids=SHARED_MEMORY.keys())
# The Snapshot of leaks.py reads that folder.
WITHOUT_NAMES = "leaks._shared_names = dict"


@needs_mounts
@every_mount
def test_dev_shm(script, mount):
    assert run(script, WITHOUT_NAMES, prefix=mounted(mount)) == []


@needs_mounts
@every_mount
def test_dev_shm_without_memfd(script, mount, tmp_path):
    refusals = f"{WITHOUT_NAMES}; os.environ['TMPDIR'] = {str(tmp_path)!r}; refuse('memfd_create', errno.ENOSYS)"
    assert run(script, refusals, prefix=mounted(mount)) == []
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith("script")] == []


@needs_mounts
def test_no_names_are_left_when_all_are_killed(script):
    body = """
    pool = implementation.Pool(2)
    work_out(pool)
    print("running", flush=True)
    tasks.long()
    """
    mount = 'mount -t tmpfs none /dev/shm; "$0" "$@" & wait; ls -A /dev/shm; echo listed; exit'
    program = script(PROGRAM.format(refusals="pass", body=body), prefix=mounted(mount))
    program.wait_for_line()
    shell = program.pid
    for one in program.survivors():
        # The workers go by themselves when their program is killed.
        if one.pid != shell:
            with contextlib.suppress(ProcessLookupError):
                os.kill(one.pid, signal.SIGKILL)
    assert program.wait(LIMIT) == 0, program.err
    assert program.out.splitlines() == ["running", "listed"]


# System calls that are refused


@pytest.mark.parametrize("error", ["ENOSYS", "EPERM", "EACCES"])
def test_memfd_refused(script, error):
    assert run(script, f"refuse('memfd_create', errno.{error})") == []


def test_futex_refused(script):
    assert run(script, "refuse('futex', errno.ENOSYS, BETWEEN_PROCESSES)") == []


@pytest.mark.parametrize("error", ["ENOSYS", "EPERM"])
def test_pidfd_refused(script, error):
    assert run(script, f"refuse('pidfd_open', errno.{error})") == []


def test_everything_refused_at_once(script):
    refusals = """
    refuse('memfd_create', errno.EPERM)
    refuse('pidfd_open', errno.ENOSYS)
    refuse('futex', errno.ENOSYS, BETWEEN_PROCESSES)
    refuse('fallocate', errno.EOPNOTSUPP)
    """
    assert run(script, refusals) == []


@pytest.mark.parametrize(
    "call, error, condition",
    [
        ("fallocate", "ENOSPC", None),
        ("ftruncate", "EFBIG", None),
        ("mmap", "ENOMEM", "SHARED_WITHOUT_RESERVE"),
        ("mmap", "EPERM", "SHARED_WITHOUT_RESERVE"),
    ],
)
def test_no_memory_is_one_clear_error(script, call, error, condition):
    lines = run(script, f"refuse({call!r}, errno.{error}, {condition})", NO_POOL)
    assert len(lines) == 2
    for line in lines:
        assert line.startswith(error)
        assert "no shared memory for the pool" in line


def test_no_descriptor_for_the_segment_is_one_clear_error(script):
    lines = run(script, "refuse('memfd_create', errno.EMFILE)", NO_POOL)
    assert len(lines) == 2
    assert all("EMFILE" in line and "no shared memory for the pool" in line for line in lines)


def test_memory_that_runs_out_under_a_running_pool(script):
    body = """
    pool = implementation.Pool(2)
    assert pool.map(tasks.square, range(10), 1) == [n * n for n in range(10)]
    refuse("fallocate", errno.ENOSPC)
    for size in (1 << 20, 8 << 20):
        try:
            pool.apply(len, (bytes(size),))
        except OSError as error:
            print(errno.errorcode[error.errno], flush=True)
    assert pool.map(tasks.square, range(1000), 1) == [n * n for n in range(1000)]
    # A new worker has no place to sit down at, and the others go on.
    os.kill(pool._pool[0].pid, signal.SIGKILL)
    assert pool.map(tasks.square, range(1000), 1) == [n * n for n in range(1000)]
    pool.close()
    pool.join()
    del pool
    """
    assert run(script, body=body) == ["ENOSPC"] * 2


def test_memory_that_runs_out_in_the_middle_of_a_huge_payload(script):
    body = """
    pool = implementation.Pool(1)
    text = large_tasks.make_text(60_000)
    assert pool.apply(large_tasks.echo, (text,)) == text
    # The worker's result goes another way.
    pool.apply(refuse, ("madvise", errno.ENOMEM, (0, *EVERY_OTHER_32_MIB)))
    assert pool.apply(large_tasks.make_text, (60_000,)) == text
    assert pool.map(large_tasks.make_text, [60_000, 60_000], 2) == [text, text]
    text = large_tasks.make_text(110_000)  # no free block is so large
    refuse("fallocate", errno.ENOSPC, (2, *EVERY_OTHER_32_MIB))
    for send in (lambda: pool.apply(len, (text,)), lambda: pool.map(len, [text, text], 2), lambda: pool.share(text)):
        try:
            send()
        except OSError as error:
            print(errno.errorcode[error.errno], flush=True)
    assert pool.map(tasks.square, range(1000), 1) == [n * n for n in range(1000)]
    pool.close()
    pool.join()
    del pool
    """
    assert run(script, body=body) == ["ENOMEM", "ENOMEM", "ENOSPC"]


def test_workers_that_cannot_map_the_segment(script):
    body = """
    from pool import WorkerLostError
    pool = implementation.Pool(2)
    assert pool.map(tasks.square, range(10), 1) == [n * n for n in range(10)]
    refuse("mmap", errno.ENOMEM, SHARED_WITHOUT_RESERVE)
    # The fork server has been running without the filter, and so will its workers.
    refused = implementation.start_method != "forkserver"
    sys.stderr.close()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    for worker in list(pool._pool):
        os.kill(worker.pid, signal.SIGKILL)
    try:
        result = pool.map_async(tasks.square, range(10), 1).get(20)
    except WorkerLostError as error:
        assert refused and "before they were ready" in str(error), error
    else:
        assert not refused and result == [n * n for n in range(10)]
    pool.close()
    pool.join()
    sys.stderr = None
    del pool
    """
    program = script(PROGRAM.format(refusals="pass", body=body))
    assert program.wait(LIMIT) == 0, program.out
    assert program.out.endswith("done\n"), program.out


ORPHANED = """
import errno
import sys
import tasks
from implementations import Implementation
from refuse import refuse

def main():
    refuse("pidfd_open", errno.ENOSYS)
    pool = Implementation.named(sys.argv[1]).Pool(2)
    results = [pool.apply_async(tasks.hold, (tasks.Gate(sys.argv[2]),)) for _ in range(2)]
    tasks.Gate(sys.argv[2]).wait_for(2)
    print(*(worker.pid for worker in pool._pool), flush=True)
    tasks.long()

if __name__ == "__main__":
    main()
"""


def test_workers_go_with_their_parent_without_pidfd(script, gate):
    program = script(ORPHANED, "file", gate.directory)
    pids = [int(word) for word in program.wait_for_line().split()]
    assert not any(is_gone(pid) for pid in pids)
    program.kill()
    wait_until(lambda: all(is_gone(pid) for pid in pids), 2.0, "workers went with their parent")


def test_task_that_closes_all_descriptors_without_pidfd(factory, monkeypatch):
    # The worker lives, and all that could tell of its death is closed: it must not be taken for dead and go on.
    from pool import supervisor

    monkeypatch.setattr(supervisor, "_pidfd", lambda pid: -1)
    pool = factory.Pool(2)
    outcomes = set()
    for _ in range(4):
        try:
            outcomes.add(pool.apply_async(tasks.close_descriptors).get(LIMIT))
        except RuntimeError as error:
            outcomes.add(type(error).__name__)
    assert outcomes <= {"closed", "WorkerLostError"}

    def works():
        # The last that closed them may be killed for it in the middle of this.
        try:
            return pool.map(tasks.square, range(50), 1) == [value**2 for value in range(50)]
        except RuntimeError as error:
            if type(error).__name__ != "WorkerLostError":
                raise

    wait_until(works, LIMIT)
    pool.close()
    pool.join()


# Limits


def test_descriptor_limit_at_creation(script):
    body = """
    import resource
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (40, hard))
    try:
        implementation.Pool(60)
    except OSError as error:
        print(errno.errorcode[error.errno], flush=True)
    pool = implementation.Pool(2)
    work_out(pool)
    pool.close()
    pool.join()
    del pool
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    """
    assert run(script, body=body) == ["EMFILE"]


@pytest.mark.parametrize("size", [10 << 20, 100 << 20, 1 << 30])
def test_limit_on_the_size_of_files(script, size):
    body = """
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (LEAST, LEAST))
    pool = implementation.Pool(2)
    work_out(pool)
    data = bytes(300_000)
    assert pool.map(len, [data] * 10, 1) == [300_000] * 10
    assert pool.apply(bytes, (300_000,)) == data
    pool.close()
    pool.join()
    del pool
    """
    assert run(script, body=body.replace("LEAST", str(size))) == []


def test_every_number_of_descriptors_that_are_left(script):
    body = """
    import resource
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/proc/self/fd")))
    made = refused = 0
    for number in range(highest, highest + 25):
        resource.setrlimit(resource.RLIMIT_NOFILE, (number, hard))
        try:
            pool = implementation.Pool(2)
        except (OSError, EOFError) as error:
            refused += 1
        else:
            made += 1
            assert pool.map(tasks.square, range(10), 1) == [n * n for n in range(10)]
            pool.close()
            pool.join()
        pool = None
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        left = leaks.settle(lambda: leaks.Snapshot().since(before))
        assert not left, (number, left)
    print(made > 0, refused > 0)
    """
    assert run(script, body=body) == ["True True"]


def test_descriptor_limit_at_a_replacement(script):
    body = """
    import resource
    pool = implementation.Pool(2)
    assert pool.map(tasks.square, range(10), 1) == [n * n for n in range(10)]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    victim = pool._pool[0].pid
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    os.kill(victim, signal.SIGKILL)
    values = pool.map(tasks.square, range(100), 1)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert values == [n * n for n in range(100)]
    wait_until(lambda: len(pool._pool) == 2 and victim not in [one.pid for one in pool._pool])
    work_out(pool)
    pool.close()
    pool.join()
    del pool
    """
    assert run(script, body=body) == []


def test_descriptors_of_a_worker(factory):
    def held(processes):
        pool = factory.Pool(processes)
        assert pool.apply(tasks.square, (3,)) == 9
        count = len(os.listdir("/proc/self/fd"))
        pool.terminate()
        pool.join()
        return count

    held(1)
    assert held(6) - held(2) == 2 * 4


@pytest.mark.start_methods("fork")
def test_process_limit_at_creation(script):
    if os.getuid() != 0:
        pytest.skip("needs root, to become a user who has no other processes")
    body = """
    import resource
    import threading
    import pool.supervisor
    implementation.Pool(1).terminate()
    # root itself has no such limit.
    os.setuid(2_000_000_011)
    resource.setrlimit(resource.RLIMIT_NPROC, (5, 5))
    try:
        implementation.Pool(20)
    except OSError as error:
        print(errno.errorcode[error.errno], flush=True)
    wait_until(lambda: threading.active_count() == 1)
    small = implementation.Pool(1)
    assert small.map(tasks.square, range(10), 1) == [n * n for n in range(10)]
    small.close()
    small.join()
    del small
    """
    # Workers that the system gives a process and then no thread say so.
    assert run(script, body=body, silent=False) == ["EAGAIN"]


# Processes that cannot be started


@pytest.fixture
def refuse_processes(monkeypatch):
    """refuse_processes(pool, times) makes the next starts of workers fail; returns the list of those that did."""

    def refuse(pool, times):
        kind = type(pool._pool[0])
        real = kind._Popen
        refused = []

        def popen(process):
            if len(refused) < times:
                refused.append(process.name)
                raise BlockingIOError(11, "Resource temporarily unavailable")
            return real(process)

        monkeypatch.setattr(kind, "_Popen", staticmethod(popen))
        return refused

    return refuse


def test_replacement_that_cannot_be_started_is_tried_again(factory, refuse_processes):
    pool = factory.Pool(2)
    assert pool.apply(tasks.square, (3,)) == 9
    refused = refuse_processes(pool, 4)
    victim = pool._pool[0].pid
    os.kill(victim, signal.SIGKILL)
    results = [pool.apply_async(tasks.square, (value,)) for value in range(200)]
    assert [result.get(LIMIT) for result in results] == [value**2 for value in range(200)]
    wait_until(lambda: len(pool._pool) == 2 and victim not in [one.pid for one in pool._pool], LIMIT)
    assert len(refused) == 4
    assert pool.map(tasks.square, range(50), 1) == [value**2 for value in range(50)]
    pool.close()
    pool.join()


def test_all_replacements_that_cannot_be_started_are_tried_again(factory, refuse_processes):
    pool = factory.Pool(2)
    assert pool.apply(tasks.square, (3,)) == 9
    refused = refuse_processes(pool, 3)
    for worker in list(pool._pool):
        os.kill(worker.pid, signal.SIGKILL)
    assert pool.map(tasks.square, range(50), 1) == [value**2 for value in range(50)]
    assert len(refused) == 3
    pool.close()
    pool.join()


@pytest.mark.parametrize("end", ["close", "terminate"])
def test_no_worker_can_be_started_any_more(factory, refuse_processes, monkeypatch, background, end):
    from pool import supervisor

    monkeypatch.setattr(supervisor, "NO_WORKERS_LIMIT", 0.2)
    pool = factory.Pool(2)
    assert pool.apply(tasks.square, (3,)) == 9
    refuse_processes(pool, 1000)
    for worker in list(pool._pool):
        os.kill(worker.pid, signal.SIGKILL)
    for call in (
        lambda: pool.map_async(tasks.square, range(50), 1).get(LIMIT),
        lambda: pool.apply_async(tasks.square, (3,)).get(LIMIT),
        lambda: list(pool.imap(tasks.square, range(3))),
    ):
        with pytest.raises(OSError, match="Resource temporarily unavailable"):
            call()
    getattr(pool, end)()
    background(pool.join).result(LIMIT)


@pytest.mark.parametrize("end", ["close", "terminate"])
def test_end_while_a_replacement_cannot_be_started(factory, gate, refuse_processes, background, ringpool, end):
    pool = factory.Pool(1)
    held = pool.apply_async(tasks.hold, (gate,))
    pids = gate.wait_for(1)
    refused = refuse_processes(pool, 1000 if end == "terminate" else 3)
    queued = pool.apply_async(tasks.square, (3,))
    os.kill(pids[0], signal.SIGKILL)
    with pytest.raises(ringpool.WorkerLostError):
        held.get(LIMIT)
    wait_until(lambda: refused, LIMIT)
    getattr(pool, end)()
    background(pool.join).result(LIMIT)
    if end == "close":
        assert queued.get(0) == 9
    else:
        with pytest.raises(ringpool.PoolTerminatedError):
            queued.get(0)


def traced(*options):
    return ["strace", "-f", "-qq", "-o", "/dev/null", *options]


def may_trace():
    if not shutil.which("strace"):
        return False
    return subprocess.run([*traced("-e", "trace=none"), "true"], capture_output=True, timeout=10).returncode == 0


needs_strace = pytest.mark.skipif(not may_trace(), reason="needs strace, and the right to trace")

# One pool, one worker that is killed. Either there is no pool, or it does everything.
FORKING = """
    try:
        pool = implementation.Pool(2)
    except (OSError, EOFError, RuntimeError) as error:
        print("refused", flush=True)
    else:
        assert pool.map(tasks.square, range(100), 1) == [n * n for n in range(100)]
        victim = pool._pool[0].pid
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: len(pool._pool) == 2 and victim not in [one.pid for one in pool._pool])
        assert pool.map(tasks.square, range(100), 1) == [n * n for n in range(100)]
        pool.close()
        pool.join()
    pool = None
"""


@needs_strace
@pytest.mark.start_methods("fork", "spawn")
@pytest.mark.parametrize("nth", range(1, 9))
def test_nth_fork_or_thread_of_a_program_is_refused(script, nth):
    # The first ones are the program's own.
    program = script(
        PROGRAM.format(refusals="pass", body=FORKING),
        prefix=traced("-e", "trace=clone,clone3,fork,vfork", "-e", f"inject=clone,clone3,fork,vfork:error=EAGAIN:when={nth}"),
    )
    code = program.wait(LIMIT)
    if code == 0:
        assert program.out.splitlines()[-1] == "done", program.out
    else:
        # It came before there was a pool at all.
        assert nth <= 2, program.err
        assert "Error" in program.err
    wait_until(lambda: not program.survivors(), 10, "nothing is left of the program")


# No named object


@needs_strace
def test_nothing_is_opened_in_dev_shm(script, tmp_path):
    log = tmp_path / "log"
    calls = "trace=open,openat,link,linkat,rename,unlink,unlinkat,shmget,semget,msgget"
    prefix = ["strace", "-f", "-qq", "-o", str(log), "-e", calls]
    assert run(script, WITHOUT_NAMES, prefix=prefix) == []
    lines = log.read_text().splitlines()
    assert any("libc.so" in line for line in lines)
    assert [line for line in lines if "/dev/shm" in line or re.search(r"\b(shm|sem|msg)get\(", line)] == []


@pytest.mark.start_methods("fork")
def test_resource_tracker_is_not_even_started(script):
    text = """
import multiprocessing.resource_tracker
import sys
import tasks
from implementations import Implementation

with Implementation.named(sys.argv[1]).Pool(2) as pool:
    assert pool.map(tasks.square, range(10), 1) == [n * n for n in range(10)]
print(multiprocessing.resource_tracker._resource_tracker._fd)
"""
    program = script(text)
    assert program.wait(LIMIT) == 0, program.err
    assert program.out == "None\n"


# Children that somebody else collects


@pytest.fixture
def ignored_children():
    previous = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGCHLD, previous)


def check_deaths(pool, gate, ringpool):
    for count in (1, 2):
        result = pool.apply_async(tasks.hold, (gate,))
        wait_until(lambda: len(gate.arrivals()) == count)
        victim = [int(pid) for pid, _ in gate.arrivals() if not is_gone(int(pid))][0]
        os.kill(victim, signal.SIGKILL)
        with pytest.raises(ringpool.WorkerLostError) as caught:
            result.get(LIMIT)
        assert caught.value.pid == victim
        assert caught.value.exitcode in (None, -signal.SIGKILL)
    assert pool.map(tasks.square, range(50), 1) == [value**2 for value in range(50)]
    wait_until(lambda: len(pool._pool) == 2 and not any(is_gone(one.pid) for one in pool._pool))


def test_sigchld_ignored(factory, gate, ringpool, ignored_children):
    from multiprocessing import process

    pool = factory.Pool(2)
    workers = list(pool._pool)
    check_deaths(pool, gate, ringpool)
    # What is dead is no child any more, or it would be sent a signal at the end of the program.
    dead = [worker for worker in workers if is_gone(worker.pid)]
    assert dead and not process._children.intersection(dead)
    pool.close()
    pool.join()
    assert not process._children.intersection(workers)


COLLECTED = """
import os
import signal
import sys
import threading
import time
import tasks
from implementations import Implementation
from pool import WorkerLostError
from procfs import is_gone, wait_until

def collect():
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            time.sleep(0.001)

def main():
    threading.Thread(target=collect, daemon=True).start()
    pool = Implementation.named(sys.argv[1]).Pool(2)
    for number in (1, 2):
        gate = tasks.Gate(sys.argv[1 + number])
        result = pool.apply_async(tasks.hold, (gate,))
        os.kill(gate.wait_for(1)[0], signal.SIGKILL)
        try:
            result.get(20)
        except WorkerLostError:
            print("lost", flush=True)
        assert pool.map(tasks.square, range(50), 1) == [n * n for n in range(50)]
    idle = pool._pool[0].pid
    os.kill(idle, signal.SIGKILL)
    wait_until(lambda: is_gone(idle))
    assert pool.map(tasks.square, range(50), 1) == [n * n for n in range(50)]
    pool.close()
    pool.join()
    print("done", flush=True)

if __name__ == "__main__":
    main()
"""


def test_somebody_else_waits_for_all_children(script, make_gate):
    program = script(COLLECTED, "file", make_gate().directory, make_gate().directory)
    assert program.wait(LIMIT) == 0, program.err
    assert program.out == "lost\nlost\ndone\n"
    wait_until(lambda: not program.survivors(), 10, "nothing is left of the program")


# Clocks


def test_only_monotonic_clocks():
    root = pathlib.Path(__file__).parent.parent
    files = [path for folder in ("pool", "csrc") for path in (root / folder).iterdir()]
    sources = [path for path in files if path.suffix in {".py", ".pyx", ".c", ".h"}]
    assert len(sources) > 20
    wall = re.compile(
        r"time\.time\b|time_ns\b|CLOCK_REALTIME|gettimeofday|datetime|FUTEX_CLOCK|FUTEX_WAIT_BITSET|[^_]\btime\(NULL\)|timedwait\b"
    )
    found = [f"{path.name}: {line}" for path in sources for line in path.read_text().splitlines() if wall.search(line)]
    assert found == []




CLOSES_ALL = """
import os
import sys
import tasks
from implementations import Implementation

def main():
    pool = Implementation.named(sys.argv[1]).Pool(2)
    assert pool.map(tasks.square, range(100), 1) == [n * n for n in range(100)]
    gate = tasks.Gate({folder!r})
    running = pool.apply_async(tasks.hold, (gate,))
    gate.wait_for(1)
    os.closerange(3, 256)
    mine = [os.open({file!r}, os.O_RDWR | os.O_CREAT) for _ in range(30)]
    {before}
    try:
        running.get(20)
    except Exception as error:
        print(type(error).__name__, flush=True)
    {after}
    pool.join()
    # With the other methods, multiprocessing looks whether its tracker of resources lives by writing to what was its pipe.
    assert os.path.getsize({file!r}) == 0 or not sys.argv[1].endswith("-fork")
    os._exit(0)

if __name__ == "__main__":
    main()
"""


@pytest.mark.parametrize("before, after", [("pool.terminate()", "pass"), ("pass", "pool.terminate()"), ("pass", "pool.close()")])
def test_program_that_closes_all_descriptors(script, tmp_path, before, after):
    # A daemon that closes what it does not know; then it opens files of its own.
    (tmp_path / "gate").mkdir()
    program = script(CLOSES_ALL.format(file=str(tmp_path / "mine"), folder=str(tmp_path / "gate"), before=before, after=after))
    assert program.wait(LIMIT) == 0, program.err
    # The workers leave at once, maybe before the pool is terminated.
    expected = ["WorkerLostError"] if before == "pass" else ["WorkerLostError", "PoolTerminatedError"]
    assert program.out.strip() in expected, program.err
    wait_until(lambda: not program.survivors(), 10, "nothing is left of the program")
