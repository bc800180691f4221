"""Builds the C tests against csrc and runs them, plain and under sanitizers.

    python tests/c/run.py [--sanitize none|thread|address|undefined|address,undefined|scheduled|all] [--cc gcc] [--only taskring]

One line a program, a closing 'N passed, N failed' over all of them; exit code 1 on any failure.
A sanitizer whose runtime is missing is said so and left out, unless it was asked for by name.

`scheduled` runs test_sched_*.c on the deterministic scheduler (scheduler.h), then demands that they find each mistake of
mutants.py.
More than the usual, by option:

    --seeds N        so many worlds for each scheduled test
    --messages N     so many messages through test_traffic.c, for example with --sanitize thread --only traffic
    --fuzz SECONDS   libFuzzer on fuzz_resultring.c instead of the tests; needs clang
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

from mutants import MUTANTS

HERE = pathlib.Path(__file__).resolve().parent
CSRC = HERE.parent.parent / "csrc"
# A test limits itself to 60 s; this is for a program that cannot even do that.
PROGRAM_LIMIT = 120.0
# What takes as long as its option asks for is bounded all the same.
LONG_LIMIT = 3600.0
WARNINGS = ["-std=c11", "-Wall", "-Wextra", "-Wconversion", "-Werror"]
# Batches as small as the rings of the tests.
SMALL = ["-DRP_BATCH=2u", "-DRP_PASSING=1u"]
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
# Not a sanitizer: its announcements of every access go to scheduler.c, which takes the place of its runtime and of the system.
VARIANTS["scheduled"] = ["-g", "-O1"]
ANNOUNCED = ["-fsanitize=thread"]
WRAPPED = ["-Wl,--wrap=syscall,--wrap=clock_gettime"]
SCHEDULED = ["pages", "layout", "wake", "doorbell", "taskring", "resultring", "idle", "offers"]
# Several times what the last of them needs.
MUTANT_SEEDS = 20000
ALL = ["none", "thread", "address,undefined", "scheduled"]
# What a test is linked with beside csrc.
COMPANIONS = {"test_fuzz": ["fuzz_resultring.c"]}
FUZZING = [*INSTRUMENTED, "-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all"]
ENVIRONMENT = {
    **os.environ,
    # Without the sleep that ThreadSanitizer puts before every _exit, which looks like a worker that leaves too late.
    "TSAN_OPTIONS": "halt_on_error=0 exitcode=66 atexit_sleep_ms=0",
    "ASAN_OPTIONS": "detect_stack_use_after_return=1",
    "UBSAN_OPTIONS": "print_stacktrace=1",
}
SEED_LINE = re.compile(r"^(\w+): seed (\d+) ", re.MULTILINE)
CLOSING_LINE = re.compile(r"^(\d+) passed, (\d+) failed$", re.MULTILINE)


def command(arguments, limit=PROGRAM_LIMIT, extra=None):
    """(exit code, output) with 'over the time limit' as an outcome like any other."""
    try:
        done = subprocess.run(
            [str(a) for a in arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=limit,
            env={**ENVIRONMENT, **(extra or {})},
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


class Builder:
    """Compiles one variant of csrc and the tests in a folder of its own."""

    def __init__(self, cc, variant, scratch, defines=(), csrc=CSRC):
        self.cc = cc
        self.scratch = scratch
        self.scheduled = variant == "scheduled"
        self.flags = [*WARNINGS, *SMALL, *VARIANTS[variant], *defines, "-I", csrc, "-I", HERE]
        self.sources = [csrc / f"{name}.c" for name in SCHEDULED] if self.scheduled else sorted(csrc.glob("*.c"))

    def compile(self, source):
        """(object, exit code, compiler output)"""
        target = self.scratch / f"{source.stem}.o"
        announced = ANNOUNCED if self.scheduled and source.name != "scheduler.c" else []
        return target, *command([*self.cc, *self.flags, *announced, "-c", "-o", target, source])

    def link(self, test, objects):
        """(program or None, linker output)"""
        program = self.scratch / test.stem
        wrapped = WRAPPED if self.scheduled else []
        code, output = command([*self.cc, *self.flags, "-o", program, *objects, *wrapped, *LINKING])
        return program if code == 0 else None, output

    def companions(self, test):
        return [HERE / "scheduler.c"] if self.scheduled else [HERE / name for name in COMPANIONS.get(test.stem, [])]

    def build(self, tests, workers):
        """{test name: (program or None, compiler output)}"""
        beside = sorted({companion for test in tests for companion in self.companions(test)})
        everything = [*self.sources, *beside, *tests]
        with concurrent.futures.ThreadPoolExecutor(workers) as pool:
            compiled = dict(zip(everything, pool.map(self.compile, everything), strict=True))
            broken = [output for source, (_, code, output) in compiled.items() if code and source not in tests]
            if broken:
                return {test.stem: (None, "".join(broken)) for test in tests}

            def link(test):
                return self.link(test, [compiled[source][0] for source in [test, *self.companions(test), *self.sources]])

            good = [test for test in tests if compiled[test][1] == 0]
            programs = {test.stem: (None, compiled[test][2]) for test in tests}
            programs.update(zip([test.stem for test in good], pool.map(link, good), strict=True))
        return programs


def run(program, limit, extra):
    """(passed, failed, output, remark) of one program: one that ends badly has failed at least once."""
    code, output = command([program], limit, extra)
    closing = CLOSING_LINE.findall(output)
    passed, failed = (int(n) for n in closing[-1]) if closing else (0, 0)
    if code == 0 and passed:
        return passed, failed, "", ""
    if code == 1 and failed:
        return passed, failed, output, ""
    # A sanitizer's report, a crash, the time limit: one more than the tests themselves know of.
    return passed, failed + 1, output, outcome(code)


def hunt(cc, mutant, scratch, built):
    """(found, remark): whether the mutant's test complains of it, and with which seed. `built` is where the rest was compiled."""
    csrc = scratch / "csrc"
    shutil.copytree(CSRC, csrc)
    target = csrc / mutant.file
    # Without the fault points, which are nothing here and may stand between two lines of a mutant's.
    text = re.sub(r"^ *RP_FAULT\(\w+\);\n", "", target.read_text(), flags=re.MULTILINE)
    if text.count(mutant.old) != 1:
        return False, f"its text is {text.count(mutant.old)} times in {mutant.file}"
    target.write_text(text.replace(mutant.old, mutant.new))
    test = HERE / f"test_sched_{mutant.test}.c"
    builder = Builder(cc, "scheduled", scratch, csrc=csrc)
    # A header is in everything.
    changed = [target] if target.suffix == ".c" else [*builder.sources, test]
    objects = {source.stem: built / f"{source.stem}.o" for source in [test, HERE / "scheduler.c", *builder.sources]}
    for source in changed:
        objects[source.stem], code, said = builder.compile(source)
        if code:
            return False, f"does not build\n{said}"
    program, said = builder.link(test, objects.values())
    if not program:
        return False, f"does not build\n{said}"
    code, output = command([program], extra={"RP_SEEDS": str(MUTANT_SEEDS), "RP_FIRST": "1"})
    seed = SEED_LINE.search(output)
    if code != 1 or not seed:
        return False, "not found" if code == 0 else f"{outcome(code)}\n{output}"
    return True, f"found by {test.stem}, {seed[1]} with seed {seed[2]}"


def hunt_all(cc, mutants, scratch, workers):
    """(passed, failed) over the mutants."""
    passed = failed = 0

    def one(numbered):
        number, mutant = numbered
        folder = scratch / f"mutant{number}"
        folder.mkdir()
        return mutant, hunt(cc, mutant, folder, scratch)

    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        for mutant, (found, remark) in pool.map(one, enumerate(mutants)):
            print(f"{'mutant':<18} {mutant.name:<24} {remark if found else 'FAILED: ' + remark}", flush=True)
            passed += found
            failed += not found
    return passed, failed


def fuzz(seconds):
    """Exit code of libFuzzer on fuzz_resultring.c; what it found can be played again from the Base64 that it prints."""
    names = [os.environ.get("CLANG", ""), "clang", *(f"clang-{version}" for version in range(30, 10, -1))]
    clang = next((name for name in names if name and shutil.which(name)), None)
    if not clang:
        print("no clang: libFuzzer comes with it (Debian: clang-19 and libclang-rt-19-dev)")
        return 1
    with tempfile.TemporaryDirectory(prefix="rp-c-") as directory:
        scratch = pathlib.Path(directory)
        program = scratch / "fuzz_resultring"
        sources = [HERE / "fuzz_resultring.c", *sorted(CSRC.glob("*.c"))]
        code, output = command([clang, *WARNINGS, *FUZZING, "-I", CSRC, "-I", HERE, "-o", program, *sources, *LINKING])
        if code:
            print(output)
            return 1
        corpus = scratch / "corpus"
        corpus.mkdir()
        options = [f"-max_total_time={seconds}", "-max_len=2200", "-use_value_profile=1", "-timeout=10"]
        options += ["-verbosity=0", "-print_final_stats=1", f"-artifact_prefix={scratch}/"]
        code, output = command([program, *options, corpus], seconds + PROGRAM_LIMIT)
        print(output)
        print(f"{clang}: {'0 failed' if code == 0 else 'FAILED, ' + outcome(code)}")
        return 0 if code == 0 else 1


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sanitize", choices=[*VARIANTS, "all"], default="all")
    parser.add_argument("--cc", default=os.environ.get("CC", "gcc"), help="compiler, with its options if it needs any")
    parser.add_argument("--only", metavar="MODULE", help="the test of this module only")
    parser.add_argument("--seeds", metavar="N", type=int, help="worlds for each scheduled test")
    parser.add_argument("--messages", metavar="N", type=int, help="messages through test_traffic.c")
    parser.add_argument("--fuzz", metavar="SECONDS", type=int, help="libFuzzer for so long, and nothing else")
    options = parser.parse_args()
    if options.fuzz:
        return fuzz(options.fuzz)

    cc = shlex.split(options.cc)
    if not cc or not shutil.which(cc[0]):
        parser.error(f"no compiler {options.cc!r}")
    tests = sorted(HERE.glob(f"test_{options.only or '*'}.c"))
    if not tests:
        parser.error(f"no test of {options.only!r}")
    limit, defines, extra = PROGRAM_LIMIT, [], {}
    if options.seeds or options.messages:
        limit = LONG_LIMIT
        defines.append(f"-DTEST_LIMIT_S={int(LONG_LIMIT)}")
    if options.seeds:
        extra["RP_SEEDS"] = str(options.seeds)
    if options.messages:
        defines.append(f"-DTEST_MESSAGES={options.messages}")
    workers = os.cpu_count() or 1

    total_passed = total_failed = 0
    for variant in ALL if options.sanitize == "all" else [options.sanitize]:
        wanted = [test for test in tests if test.stem.startswith("test_sched_") == (variant == "scheduled")]
        if not wanted:
            continue
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
            def outcome_of(built):
                name, (program, said) = built
                begin = time.monotonic()
                passed, failed, output, remark = run(program, limit, extra) if program else (0, 1, said, "does not build")
                line = f"{variant:<18} {name:<21} {passed} passed, {failed} failed  {time.monotonic() - begin:5.1f} s"
                return passed, failed, f"{line}  {remark}".rstrip(), output

            programs = Builder(cc, variant, scratch, defines).build(wanted, workers)
            with concurrent.futures.ThreadPoolExecutor(workers) as pool:
                for passed, failed, line, output in pool.map(outcome_of, programs.items()):
                    print(line, flush=True)
                    if output:
                        print("\n".join(f"    {text}" for text in output.splitlines()), flush=True)
                    total_passed += passed
                    total_failed += failed
            if variant == "scheduled":
                hunted = [mutant for mutant in MUTANTS if HERE / f"test_sched_{mutant.test}.c" in wanted]
                passed, failed = hunt_all(cc, hunted, scratch, workers)
                total_passed += passed
                total_failed += failed
    print(f"{total_passed} passed, {total_failed} failed")
    return 1 if total_failed or not total_passed else 0


if __name__ == "__main__":
    sys.exit(main())
