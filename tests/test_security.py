"""Nothing of a pool can be found by name, opened by others, inherited by accident, dumped or run."""

import ctypes
import errno
import fcntl
import functools
import os
import pathlib
import re
import shutil
import signal
import stat
import subprocess

import pytest
import tasks
from leaks import Snapshot
from procfs import wait_until

pytestmark = pytest.mark.ringpool_only

LIMIT = 30
SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
F_SEAL_EXEC = 0x20
MFD_NOEXEC_SEAL = 0x8
MINE = "memfd:ringpool"


def kernel_has_noexec_seals():
    try:
        os.close(os.memfd_create("probe", MFD_NOEXEC_SEAL))
    except OSError:
        return False
    return True


def child_does(function):
    """The wait status of a forked child that calls the function."""
    child = os.fork()
    if child == 0:
        try:
            function()
        except BaseException:
            os._exit(99)
        os._exit(0)
    return os.waitpid(child, 0)[1]


@pytest.fixture(params=["memfd", "unlinked file"])
def pool(request, factory, monkeypatch):
    from pool import _dispatch

    if request.param == "unlinked file":
        limited = functools.partial(_dispatch.Dispatcher, fallbacks={"unlinked"})
        monkeypatch.setattr(_dispatch, "Dispatcher", limited)
    made = factory.Pool(2)
    assert made.map(tasks.square, range(20), 1) == [value**2 for value in range(20)]
    made.kind = request.param
    return made


def mapping(pool):
    """(begin, end, flags) of the segment in this process."""
    inode = os.fstat(pool._core.fd).st_ino
    with open("/proc/self/smaps") as file:
        lines = iter(file)
        for line in lines:
            fields = line.split()
            if len(fields) >= 5 and re.fullmatch(r"[0-9a-f]+-[0-9a-f]+", fields[0]) and int(fields[4]) == inode:
                begin, end = (int(part, 16) for part in fields[0].split("-"))
                for line in lines:
                    if line.startswith("VmFlags:"):
                        return begin, end, line.split()[1:]
    raise AssertionError("no mapping of the segment")


def test_segment_has_no_name(pool):
    status = os.fstat(pool._core.fd)
    assert status.st_nlink == 0
    assert not os.path.exists(os.readlink(f"/proc/self/fd/{pool._core.fd}"))


def test_segment_is_the_owners_alone(pool):
    assert stat.S_IMODE(os.fstat(pool._core.fd).st_mode) == 0o600


def test_other_users_cannot_open_the_segment(pool):
    if os.getuid() != 0:
        pytest.skip("needs root, to become somebody else")
    path = f"/proc/{os.getpid()}/fd/{pool._core.fd}"
    os.close(os.open(path, os.O_RDWR))

    def open_as_another():
        os.setgroups([])
        os.setgid(2_000_000_011)
        os.setuid(2_000_000_011)
        try:
            os.open(path, os.O_RDONLY)
        except PermissionError:
            os._exit(7)

    assert os.waitstatus_to_exitcode(child_does(open_as_another)) == 7


def test_segment_is_sealed_against_resize(factory):
    pool = factory.Pool(1)
    fd = pool._core.fd
    assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) & SEALS == SEALS
    size = os.fstat(fd).st_size
    for other in (0, size - 4096, size + 4096):
        with pytest.raises(PermissionError):
            os.ftruncate(fd, other)
    with pytest.raises(PermissionError):
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    assert pool.apply(tasks.square, (3,)) == 9


@pytest.mark.skipif(not kernel_has_noexec_seals(), reason="needs MFD_NOEXEC_SEAL (Linux 6.3)")
def test_segment_cannot_be_made_executable(factory):
    fd = factory.Pool(1)._core.fd
    assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) & F_SEAL_EXEC
    with pytest.raises(PermissionError):
        os.fchmod(fd, 0o700)


def test_mapping_is_not_dumped_not_inherited_not_executable(pool):
    _, _, flags = mapping(pool)
    assert {"dd", "dc"} <= set(flags)
    assert "ex" not in flags


def test_mapping_of_a_worker_is_not_dumped(factory):
    found = factory.Pool(1).apply(tasks.flags_of_mapping, (MINE,))
    assert found
    for flags in found:
        assert "dd" in flags
        assert "ex" not in flags


def test_forked_child_cannot_touch_the_segment(pool):
    begin, _, _ = mapping(pool)

    def touch():
        signal.signal(signal.SIGSEGV, signal.SIG_DFL)
        ctypes.string_at(begin, 8)

    status = child_does(touch)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGSEGV
    assert pool.map(tasks.square, range(20), 1) == [value**2 for value in range(20)]


def test_descriptors_are_closed_on_exec(factory):
    before = Snapshot().descriptors
    pool = factory.Pool(2)
    pool.apply_async(tasks.square, (3,), callback=tasks.nothing).get(LIMIT)
    list(pool.imap(tasks.square, (value for value in range(3))))
    made = [int(number) for number, _ in Snapshot().descriptors.keys() - before.keys()]
    assert pool._core.fd in made
    assert [number for number in made if os.get_inheritable(number)] == []
    listed = subprocess.run(["ls", "-l", "/proc/self/fd"], close_fds=False, capture_output=True, text=True, timeout=LIMIT)
    assert listed.returncode == 0
    assert "ringpool" not in listed.stdout and "pidfd" not in listed.stdout and "eventfd" not in listed.stdout


def test_descriptors_of_a_worker_are_closed_on_exec(factory):
    listed = factory.Pool(1).apply(tasks.descriptors_after_exec)
    assert "ringpool" not in listed and "pidfd" not in listed and "eventfd" not in listed


@pytest.mark.start_methods("fork", "spawn")
def test_no_sockets(factory):
    before = Snapshot().descriptors
    pool = factory.Pool(2)
    assert pool.apply(tasks.square, (3,)) == 9
    made = [target for number, target in Snapshot().descriptors.keys() - before.keys()]
    assert [target for target in made if target.startswith("socket:")] == []


def test_nothing_of_ours_in_arguments_or_environment(factory):
    pool = factory.Pool(2)
    wait_until(lambda: pool.apply(tasks.square, (3,)) == 9)
    for worker in pool._pool:
        with open(f"/proc/{worker.pid}/environ", "rb") as file:
            names = {entry.partition(b"=")[0].upper() for entry in file.read().split(b"\0")}
        # Other tests may have set some of their own.
        assert [name for name in names - initial_names() if b"POOL" in name or b"RING" in name or name.startswith(b"RP_")] == []
        if factory.start_method == "spawn":
            # The others have the arguments of the process that they are forks of.
            with open(f"/proc/{worker.pid}/cmdline", "rb") as file:
                arguments = file.read().split(b"\0")
            assert any(b"multiprocessing.spawn" in argument for argument in arguments)
            assert not any(b"ring" in argument or str(pool._core.fd).encode() == argument for argument in arguments[1:])


def initial_names():
    with open("/proc/self/environ", "rb") as file:
        return {entry.partition(b"=")[0].upper() for entry in file.read().split(b"\0")}


def test_use_after_the_end_is_an_error(factory):
    pool = factory.Pool(1)
    fd = pool._core.fd
    iterator = pool.imap(tasks.square, range(3))
    pool.terminate()
    pool.join()
    assert pool._core.fd == -1
    with pytest.raises(OSError) as caught:
        os.fstat(fd)
    assert caught.value.errno == errno.EBADF
    with pytest.raises(Exception):
        while True:
            next(iterator)


# How the extensions are built


def extensions():
    import pool

    return sorted(pathlib.Path(pool.__file__).parent.glob("*.so"))


def read_elf(*options):
    return {
        path.name: subprocess.run(["readelf", *options, path], capture_output=True, text=True, timeout=LIMIT, check=True).stdout
        for path in extensions()
    }


needs_readelf = pytest.mark.skipif(not shutil.which("readelf"), reason="needs readelf (binutils)")


@needs_readelf
def test_relocations_are_read_only_and_bound_at_once():
    for name, text in read_elf("-dW").items():
        assert re.search(r"BIND_NOW|\bNOW\b", text), name
    for name, text in read_elf("-lW").items():
        assert "GNU_RELRO" in text, name
        (stack,) = (line for line in text.splitlines() if "GNU_STACK" in line)
        assert "RWE" not in stack, name


@needs_readelf
def test_stacks_are_protected():
    symbols = read_elf("--dyn-syms", "-W")
    for name, text in symbols.items():
        assert "__stack_chk_fail" in text, name


def test_only_the_module_itself_is_exported():
    if not shutil.which("readelf"):
        pytest.skip("needs readelf (binutils)")
    for name, text in read_elf("--dyn-syms", "-W").items():
        exported = [line.split()[-1] for line in text.splitlines() if " GLOBAL DEFAULT " in line and " UND " not in line]
        assert [one for one in exported if not one.startswith("PyInit_")] == [], name


def test_source_functions_are_fortified():
    setup = (pathlib.Path(__file__).parent.parent / "setup.py").read_text()
    for flag in ("-D_FORTIFY_SOURCE=2", "-fstack-protector-strong", "-O2", "relro", "now"):
        assert flag in setup
