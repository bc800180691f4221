"""The C core on its own: plain and under the sanitizers."""

import pathlib
import subprocess
import sys

import pytest

RUNNER = pathlib.Path(__file__).parent / "c" / "run.py"


@pytest.mark.limit(240)
@pytest.mark.parametrize("sanitizer", ["none", "thread", "address,undefined", "scheduled"])
def test_c_core(sanitizer):
    command = [sys.executable, str(RUNNER), "--sanitize", sanitizer]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=220)
    assert done.returncode == 0, done.stdout
