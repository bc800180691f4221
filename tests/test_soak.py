"""The soak, for a few seconds. For as long as you like: python tests/soak.py --minutes N."""

import os
import subprocess
import sys

import pytest

SOAK = os.path.join(os.path.dirname(os.path.abspath(__file__)), "soak.py")


@pytest.mark.limit(150)
@pytest.mark.parametrize("arguments", [("--minutes", "0.15"), ("--minutes", "0.05", "--calm")], ids=["faults", "calm"])
def test_a_short_soak(arguments):
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", SOAK, *arguments], capture_output=True, text=True, timeout=140
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "no violation" in done.stdout
