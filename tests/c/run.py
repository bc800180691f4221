"""Builds the C tests against csrc and runs them, plain and under sanitizers.

    python tests/c/run.py [--sanitize none|thread|address|undefined|all] [--cc gcc] [--only taskring]

One line a program, a closing 'N passed, N failed' over all of them; exit code 1 on any failure.
A sanitizer whose runtime is missing is said so and left out, unless it was asked for by name.
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
CSRC = HERE.parent.parent / "csrc"
# A test limits itself to 60 s; this is for a program that cannot even do that.
PROGRAM_LIMIT = 120.0
WARNINGS = ["-std=c11", "-Wall", "-Wextra", "-Wconversion", "-Werror"]
# As the extensions are linked; and a test that counts instructions must not count the dynamic linker's.
LINKING = ["-Wl,-z,now", "-pthread"]
INSTRUMENTED = ["-g", "-O1", "-fno-omit-frame-pointer"]
VARIANTS = {
    "none": ["-O2"],
    "thread": [*INSTRUMENTED, "-fsanitize=thread", "-DTEST_SCALE=10"],
    "address": [*INSTRUMENTED, "-fsanitize=address", "-DTEST_SCALE=5"],
    "undefined": [*INSTRUMENTED, "-fsanitize=undefined", "-fno-sanitize-recover=all", "-DTEST_SCALE=2"],
    "address,undefined": [
        *INSTRUMENTED,
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=all",
        "-DTEST_SCALE=5",
    ],
}
ALL = ["none", "thread", "address,undefined"]
ENVIRONMENT = {
    **os.environ,
    # Without the sleep that ThreadSanitizer puts before every _exit, which looks like a worker that leaves too late.
    "TSAN_OPTIONS": "halt_on_error=0 exitcode=66 atexit_sleep_ms=0",
    "ASAN_OPTIONS": "detect_stack_use_after_return=1",
    "UBSAN_OPTIONS": "print_stacktrace=1",
}
CLOSING_LINE = re.compile(r"^(\d+) passed, (\d+) failed$", re.MULTILINE)


def command(arguments, limit=PROGRAM_LIMIT):
    """(exit code, output) with 'over the time limit' as an outcome like any other."""
    try:
        done = subprocess.run(
            [str(a) for a in arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=limit,
            env=ENVIRONMENT,
            text=True,
            errors="replace",
        )
    except subprocess.TimeoutExpired as over:
        output = over.stdout or b""
        return "over the time limit", output.decode(errors="replace") if isinstance(output, bytes) else output
    return done.returncode, done.stdout


def outcome(code):
    if isinstance(code, int):
        return f"exit code {code}" if code >= 0 else f"signal {-code}"
    return code


def why_not(cc, flags, scratch):
    """Why programs of this variant cannot be built or run on this system, or None."""
    source = scratch / "probe.c"
    source.write_text("int main(void) { return 0; }\n")
    program = scratch / "probe"
    code, output = command([*cc, *flags, "-o", program, source, *LINKING])
    if code == 0:
        code, output = command([program])
    if code == 0:
        return None
    lines = output.strip().splitlines()
    return lines[0] if lines else outcome(code)


def build(cc, flags, scratch, tests, workers):
    """{test name: (program or None, compiler output)}"""
    flags = [*WARNINGS, *flags, "-I", CSRC, "-I", HERE]
    sources = sorted(CSRC.glob("*.c"))

    def compile_one(source):
        target = scratch / f"{source.stem}.o"
        return target, *command([*cc, *flags, "-c", "-o", target, source])

    def link(test, objects):
        program = scratch / test.stem
        code, output = command([*cc, *flags, "-o", program, scratch / f"{test.stem}.o", *objects, *LINKING])
        return program if code == 0 else None, output

    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        compiled = dict(zip([*sources, *tests], pool.map(compile_one, [*sources, *tests]), strict=True))
        broken = [output for source, (_, code, output) in compiled.items() if code and source in sources]
        if broken:
            return {test.stem: (None, "".join(broken)) for test in tests}
        objects = [compiled[source][0] for source in sources]
        good = [test for test in tests if compiled[test][1] == 0]
        programs = {test.stem: (None, compiled[test][2]) for test in tests}
        programs.update(zip([t.stem for t in good], pool.map(lambda t: link(t, objects), good), strict=True))
    return programs


def run(program):
    """(passed, failed, output, remark) of one program: one that ends badly has failed at least once."""
    code, output = command([program])
    closing = CLOSING_LINE.findall(output)
    passed, failed = (int(n) for n in closing[-1]) if closing else (0, 0)
    if code == 0 and passed:
        return passed, failed, "", ""
    if code == 1 and failed:
        return passed, failed, output, ""
    # A sanitizer's report, a crash, the time limit: one more than the tests themselves know of.
    return passed, failed + 1, output, outcome(code)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sanitize", choices=["none", "thread", "address", "undefined", "all"], default="all")
    parser.add_argument("--cc", default=os.environ.get("CC", "gcc"), help="compiler, with its options if it needs any")
    parser.add_argument("--only", metavar="MODULE", help="the test of this module only")
    options = parser.parse_args()

    cc = shlex.split(options.cc)
    if not cc or not shutil.which(cc[0]):
        parser.error(f"no compiler {options.cc!r}")
    tests = sorted(HERE.glob(f"test_{options.only or '*'}.c"))
    if not tests:
        parser.error(f"no test of {options.only!r}")

    total_passed = total_failed = 0
    for variant in ALL if options.sanitize == "all" else [options.sanitize]:
        with tempfile.TemporaryDirectory(prefix="rp-c-") as directory:
            scratch = pathlib.Path(directory)
            missing = why_not(cc, VARIANTS[variant], scratch)
            if missing:
                if options.sanitize == "all" and variant != "none":
                    print(f"{variant:<18} NOT RUN, no working runtime: {missing}", flush=True)
                else:
                    print(f"{variant:<18} FAILED, no working runtime: {missing}", flush=True)
                    total_failed += 1
                continue
            for name, (program, said) in build(cc, VARIANTS[variant], scratch, tests, os.cpu_count() or 1).items():
                begin = time.monotonic()
                if program:
                    passed, failed, output, remark = run(program)
                else:
                    passed, failed, output, remark = 0, 1, said, "does not build"
                line = f"{variant:<18} {name:<16} {passed} passed, {failed} failed  {time.monotonic() - begin:5.1f} s"
                print(f"{line}  {remark}".rstrip(), flush=True)
                if output:
                    print("\n".join(f"    {text}" for text in output.splitlines()), flush=True)
                total_passed += passed
                total_failed += failed
    print(f"{total_passed} passed, {total_failed} failed")
    return 1 if total_failed or not total_passed else 0


if __name__ == "__main__":
    sys.exit(main())
