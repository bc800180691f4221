"""The Spin models of the protocols in csrc: they hold, and every seeded bug is found."""

import pathlib
import shutil
import subprocess
import sys

import pytest

RUNNER = pathlib.Path(__file__).resolve().parent.parent / "csrc" / "models" / "run.py"


@pytest.mark.limit(600)
def test_models():
    if not shutil.which("spin"):
        pytest.skip("there is no spin here (Debian package spin)")
    command = [sys.executable, str(RUNNER)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=580)
    assert done.returncode == 0, done.stdout
