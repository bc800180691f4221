"""Death at every step: fault points (csrc/fault.h) of a build made for it, passed for the first, second and third time.

A placement is a point, the passage at which it happens, the call under way and what happens. The programs that make them happen,
many in one process, are fault_sweep.py (workers) and fault_parents.py (owners of pools); they tell of each what was wrong. A
placement that is never reached is a failure too. Without --slow all but SIGKILL under fork is thinned out by `rotating`.
"""

import importlib.util
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import pytest
from fault_page import ACTIONS, RECYCLED, VARIABLE, Page, points_of, rotating

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent
BUILD_LIMIT = 280
METHODS = ("fork", "spawn", "forkserver")
CALLS = ("apply_async", "map", "imap")
PASSAGES = (1, 2, 3)
FATAL = ("KILL", "STOP", "EXIT", "SEGV")

pytestmark = pytest.mark.limit(300)


@pytest.fixture(scope="session")
def fault_build(tmp_path_factory):
    """A directory with the package, built with fault points."""
    directory = tmp_path_factory.mktemp("faults")
    places = ["--build-lib", directory / "lib", "--build-temp", directory / "temp"]
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "-j2", *places],
        cwd=ROOT,
        env={**os.environ, "RINGPOOL_FAULTS": str(directory)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=BUILD_LIMIT,
    )
    assert done.returncode == 0, done.stdout
    for source in (ROOT / "pool").glob("*.py"):
        shutil.copy(source, directory / "lib" / "pool")
    return directory / "lib"


def run(build, directory, program, method, placements, limit):
    """What the program tells of each placement, in their order; what it wrote to stderr."""
    page, errors = directory / "page", directory / "errors"
    Page(page).close()
    environment = {
        **os.environ,
        "PYTHONPATH": f"{build}{os.pathsep}{HERE}",
        VARIABLE: str(page),
        "TASK_NOTES": str(directory / "notes"),
    }
    with open(errors, "wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore::DeprecationWarning", HERE / program, method],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=True,
        )
        try:
            output, _ = process.communicate("".join(json.dumps(placement) + "\n" for placement in placements), limit)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise
    return [json.loads(line) for line in output.splitlines()], errors.read_text(errors="replace")


@pytest.fixture
def sweep(fault_build, tmp_path, capsys):
    """sweep(program, method, placements, limit) runs them, tells their number, and fails if something was wrong with any."""

    def swept(program, method, placements, limit):
        told, errors = run(fault_build, tmp_path, program, method, placements, limit)
        hits = sum(one["hit"] for one in told)
        with capsys.disabled():
            print(f"\n{program} {method}: {len(placements)} placements, {hits} hit, {sum(one['lost'] for one in told)} tasks lost")
        wrong = []
        for placement, one in zip(placements, told, strict=False):
            wrong += [f"{placement}: {problem}" for problem in one["problems"]]
            if not one["hit"]:
                wrong.append(f"{placement}: never hit")
        if len(told) < len(placements):
            wrong.append(f"{placements[len(told)]}: the program ended with it\n{errors}")
        assert not wrong, "\n".join(wrong)

    return swept


def worker_points():
    one_core = len(os.sched_getaffinity(0)) == 1
    # With one core nobody spins, so there is no chair.
    return [point for point in points_of("WORKER") if not (one_core and point.name == "SEATED")]


def all_of(action, *passages):
    return [(point.name, nth, call, action) for call in CALLS for nth in passages or PASSAGES for point in worker_points()]


def some_of(action):
    return [(point.name, nth, call, action) for point, nth, call in rotating(worker_points(), PASSAGES, CALLS)]


@pytest.mark.parametrize("method", METHODS)
def test_worker_is_killed(sweep, method):
    sweep("fault_sweep.py", method, all_of("KILL") if method == "fork" else some_of("KILL"), 280)


@pytest.mark.parametrize("action", [action for action in ACTIONS if action != "KILL"])
def test_worker_stands_still_or_ends(sweep, action):
    sweep("fault_sweep.py", "fork", some_of(action), 280)


def test_worker_is_killed_and_not_replaced(sweep):
    placements = [placement for placement in all_of("KILL ALONE", 1) if placement[0] not in RECYCLED]
    sweep("fault_sweep.py", "fork", placements, 280)


@pytest.mark.slow
@pytest.mark.limit(1900)
@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("method", METHODS)
def test_every_placement_in_workers(sweep, method, action):
    whole = method == "fork" or action in ("KILL", "STOP")
    sweep("fault_sweep.py", method, all_of(action) if whole else some_of(action), 1800)


def parent_placements(method, action, whole):
    points = points_of("PARENT")
    if whole:
        return [(point.name, nth, action) for nth in PASSAGES for point in points]
    return [(point.name, nth, action) for point, nth in rotating(points, PASSAGES)]


@pytest.mark.parametrize("method", METHODS)
def test_parent_is_killed(sweep, method):
    sweep("fault_parents.py", method, parent_placements(method, "KILL", method == "fork"), 280)


@pytest.mark.parametrize("action", [action for action in FATAL if action != "KILL"])
def test_parent_stands_still_or_ends(sweep, action):
    sweep("fault_parents.py", "fork", parent_placements("fork", action, False), 280)


@pytest.mark.slow
@pytest.mark.limit(900)
@pytest.mark.parametrize("action", FATAL)
@pytest.mark.parametrize("method", METHODS)
def test_every_placement_in_parents(sweep, method, action):
    sweep("fault_parents.py", method, parent_placements(method, action, True), 800)


@pytest.mark.parametrize("name", ["_dispatch", "_worker"])
def test_other_builds_have_no_fault_points(fault_build, name):
    marks = [VARIABLE.encode(), b"rp_fault"]
    (made,) = (fault_build / "pool").glob(f"{name}.*.so")
    assert all(mark in made.read_bytes() for mark in marks)
    ours = pathlib.Path(importlib.util.find_spec(f"pool.{name}").origin)
    assert not ours.is_relative_to(fault_build)
    assert not any(mark in ours.read_bytes() for mark in marks)
