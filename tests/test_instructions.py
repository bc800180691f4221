"""What a task costs in instructions. Unlike seconds these are the same in every run, whatever else the machine is doing, so a change
that makes the hot path longer is seen. They differ with compilers and Python versions: hence the room above what was counted.
"""

import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).parent
CORE = HERE.parent / "csrc"

pytestmark = [
    pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="counted on x86-64 only"),
    pytest.mark.limit(200),
]


def instructions(*command):
    """How many the program executes."""
    done = subprocess.run(
        ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", *map(str, command)],
        env={**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": str(HERE.parent)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return int(re.search(r"Collected : (\d+)", done.stderr)[1])


def each(few, many, *command):
    """Of one round more."""
    return (instructions(*command, many) - instructions(*command, few)) / (many - few)


def test_a_task_through_the_rings(tmp_path):
    compiler = shutil.which(os.environ.get("CC", "cc"))
    assert compiler, "a C compiler is what the package is built with"
    program = tmp_path / "count_instructions"
    sources = [HERE / "c" / "count_instructions.c", *sorted(CORE.glob("*.c"))]
    subprocess.run(
        [compiler, "-std=c11", "-O2", f"-I{CORE}", f"-I{HERE / 'c'}", *sources, "-o", program, "-pthread"], check=True, timeout=60
    )
    # 477 with GCC 12.2.
    assert each(1000, 11_000, program) < 600


def test_values_to_bytes_and_back():
    # 30,600 for all of them together with GCC 12.2 and Python 3.11.
    assert each(200, 1200, sys.executable, HERE / "count_codec.py") < 1.5 * 30_600
