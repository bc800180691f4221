"""Checks the Spin models of the protocols in csrc: each must hold in every configuration, and each seeded bug must be found.

    python csrc/models/run.py [--only slot] [--cc gcc]

A model names its configurations in lines 'configuration: -DNAME=VALUE ...'; its seeded bugs are the names BUG_... that it mentions.
One line a check, a closing 'N passed, N failed', exit code 1 on any failure. Without spin nothing is checked, and that is said.
"""

import argparse
import concurrent.futures
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
# Of one search; no check comes near.
SECONDS = 200
MEGABYTES = 450
DEPTH = 20000
AT_ONCE = 2  # searches, so that both limits hold on small machines
DEFINES = ["-DSAFETY", "-DNOCLAIM", f"-DMEMLIM={MEGABYTES}"]


def command(arguments, folder):
    """(exit code or None, output); None: over the time limit."""
    try:
        done = subprocess.run(
            [str(a) for a in arguments],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=SECONDS,
            text=True,
        )
    except subprocess.TimeoutExpired:
        return None, f"over the time limit of {SECONDS} s\n"
    return done.returncode, done.stdout


def search(cc, model, flags, level):
    """(errors, states, remark) of one exhaustive search; errors is None if it did not come to an end."""
    with tempfile.TemporaryDirectory(prefix="rp-model-") as folder:
        for step in (
            ["spin", "-a", *flags, model],
            [*cc, level, "-w", *DEFINES, "-o", "pan", "pan.c"],
            ["./pan", f"-m{DEPTH}"],
        ):
            code, output = command(step, folder)
            if code != 0:
                return None, 0, f"{step[0]}: {output.strip()[-2000:] or code}"
    errors = re.search(r"errors: (\d+)", output)
    states = re.search(r"(\d+) states, stored", output)
    if not errors or not states:
        return None, 0, output.strip()[-2000:]
    found = re.search(r"^pan:\d+: ([a-z ]+?) \(", output, re.MULTILINE)
    if "max search depth too small" in output or "Search not completed" in output and not int(errors[1]):
        return None, int(states[1]), "the search is not complete"
    return int(errors[1]), int(states[1]), found[1] if found else ""


def check(cc, model, bug, configurations):
    """(passed, line) of a model as it is in one configuration, or of a seeded bug, for which one that finds it is enough."""
    begin = time.monotonic()
    for configuration in configurations:
        flags = shlex.split(configuration) + ([f"-D{bug}"] if bug else [])
        # A bug is found at once or not at all: the compiler would take longer than the search.
        errors, states, remark = search(cc, model, flags, "-O0" if bug else "-O2")
        passed = errors is not None and (errors > 0) == bool(bug)
        if passed or errors is None:
            break
    if bug:
        what = f"{bug:<44} " + (f"found: {remark}" if passed else f"NOT FOUND {remark}")
    else:
        what = f"{configuration:<44} " + (f"{states} states, 0 errors" if passed else f"FAILED after {states} states: {remark}")
    return passed, f"{model.stem:<10} {what}  {time.monotonic() - begin:.1f} s"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cc", default=os.environ.get("CC", "gcc"), help="compiler, with its options if it needs any")
    parser.add_argument("--only", metavar="MODEL", help="this model only")
    options = parser.parse_args()

    if not shutil.which("spin"):
        print("NOT RUN: there is no spin here (Debian package spin)")
        print("0 passed, 0 failed")
        return 0
    models = sorted(HERE.glob(f"{options.only or '*'}.pml"))
    if not models:
        parser.error(f"no model {options.only!r}")
    cc = shlex.split(options.cc)
    if not cc or not shutil.which(cc[0]):
        parser.error(f"no compiler {options.cc!r}")

    checks = []
    for model in models:
        text = model.read_text()
        configurations = re.findall(r"^ \* configuration: (.*)$", text, re.MULTILINE)
        checks += [(cc, model, None, [configuration]) for configuration in configurations]
        checks += [(cc, model, bug, configurations) for bug in dict.fromkeys(re.findall(r"\bBUG_\w+", text))]
    passed = failed = 0
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        for good, line in pool.map(lambda arguments: check(*arguments), checks):
            print(line, flush=True)
            passed += good
            failed += not good
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
