"""A function of the user's own: in a plain loop, on multiprocessing.Pool and on this pool, and whether switching helps."""

import statistics
import sys

from pool.bench import report
from pool.bench.apart.ringpool_cell.workloads import Settings
from pool.bench.harness import OURS, PEERS, STDLIB, run_cell
from pool.commandline import Progress

LOOP = "plain loop"
# A smaller difference is not worth a changed line, nor told apart on most machines.
WORTHWHILE = 1.1
# So much faster than the first is no pass of a function that does its work.
REMEMBERED = 5

Key = tuple[str, str]
"""Who, and by which call."""


def run(function: str, items: str, settings: Settings, rounds: int, limit: float, path: str | None) -> int:
    """Measure, check, print the table and the verdict; 0, or 1 if anything failed."""
    # One more or less tells whether the function gives the same in every process.
    rounds = max(rounds, 2)
    host = report.machine()
    passes: dict[Key, list[list[float]]] = {}
    digests: dict[Key, set[str]] = {}
    failed: dict[str, str] = {}
    progress = Progress()
    for number in range(rounds):
        for name, peer in {LOOP: None, **PEERS}.items():
            if name in failed or LOOP in failed:
                continue
            progress.show(f"round {number + 1} of {rounds}: {name}")
            spec = {"user": function, "items": items, "peer": peer, "settings": settings._asdict()}
            outcome = run_cell(spec, limit)
            if outcome.failed or outcome.na:
                failed[name] = outcome.failed or outcome.na or ""
                continue
            for call, value in outcome.found["seconds"].items():
                passes.setdefault((name, call), []).append(value)
            for call, value in outcome.found["digests"].items():
                digests.setdefault((name, call), set()).add(value)
    progress.clear()
    if LOOP in failed:
        print(f"python -m pool bench: error: {function} in a plain loop: {failed[LOOP]}", file=sys.stderr)
        return 1
    checked, wrong = agreement(digests)
    for name in {name for name, _ in wrong}:
        failed.setdefault(name, "its results are not those of the plain loop")
    if {STDLIB, OURS} <= {name for name, _ in wrong}:
        failed[STDLIB] = failed[OURS] = "its results are not those of the plain loop; both pools: the function may keep a state"
    first, fastest = ({key: [both[which] for both in values] for key, values in passes.items()} for which in (0, 1))
    remembers = statistics.median(first[LOOP, "loop"]) > REMEMBERED * statistics.median(fastest[LOOP, "loop"])
    seconds = first if remembers else fastest
    base = statistics.median(seconds[LOOP, "loop"])
    lines = [("", "median [min..max]", "to plain loop")]
    for (name, call), values in seconds.items():
        label = name if name == LOOP else f"{name}, {call}"
        median, least, most = (report.duration(choose(values)) for choose in (statistics.median, min, max))
        lines.append((label, f"{median} [{least}..{most}]", f"{report.three_digits(base / statistics.median(values))} x"))
    print(report.columns(lines))
    for name, reason in failed.items():
        print(f"{name} FAILED: {reason}")
    print(verdict({key: values for key, values in seconds.items() if key[0] not in failed}))
    if remembers:
        print("later passes of the plain loop were much faster: the function remembers, so first passes are shown")
    if not checked:
        print("results were not compared: the plain loop's own are not the same in two processes")
    print(f"{rounds} interleaved rounds, {settings.processes} workers, {settings.start_method}")
    print(report.machine_line(host))
    if path:
        found = {
            "machine": host,
            "settings": {**settings._asdict(), "rounds": rounds, "function": function},
            "seconds": {f"{name}, {call}": report.summary(values) for (name, call), values in seconds.items()},
            "failed": failed,
            "results_compared": checked,
        }
        report.save(found, path)
    return 1 if failed else 0


def agreement(digests: dict[Key, set[str]]) -> tuple[bool, list[Key]]:
    """Whether results can be compared at all, and whose are not the plain loop's."""
    expected = {"map": digests[LOOP, "loop"], "imap_unordered": digests[LOOP, "sorted"]}
    if any(len(found) > 1 for found in expected.values()):
        return False, []
    return True, [(name, call) for (name, call), found in digests.items() if name != LOOP and found != expected[call]]


def verdict(seconds: dict[Key, list[float]]) -> str:
    """One sentence: whether it helps to switch."""

    def best(name: str) -> tuple[str, list[float]] | None:
        calls = {call: values for (who, call), values in seconds.items() if who == name}
        if not calls:
            return None
        return min(calls.items(), key=lambda item: statistics.median(item[1]))

    stdlib, ours = best(STDLIB), best(OURS)
    if stdlib is None or ours is None:
        return "No verdict: a pool failed."
    loop = statistics.median(seconds[LOOP, "loop"])
    (stdlib_call, stdlib_values), (our_call, our_values) = stdlib, ours
    before, after = statistics.median(stdlib_values), statistics.median(our_values)
    compared = (
        f"{report.duration(after)} with ringpool ({our_call}), {report.duration(before)} with multiprocessing.Pool ({stdlib_call})"
    )
    if loop <= min(before, after):
        return f"No pool helps: a plain loop takes {report.duration(loop)}, against {compared}."
    if max(before, after) / min(before, after) < WORTHWHILE:
        return f"Switching makes no difference to speak of: {compared}."
    if max(our_values) >= min(stdlib_values) and max(stdlib_values) >= min(our_values):
        return f"Too noisy to tell, more --rounds or more items may: {compared}."
    if after < before:
        return f"Switching helps, {report.three_digits(before / after)} times: {compared}."
    return f"Switching does not help, it costs {report.three_digits(after / before)} times as much: {compared}."
