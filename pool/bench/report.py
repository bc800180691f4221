"""What a run says: the table, JSON, the machine, and the comparison of two JSON files."""

import json
import math
import os
import platform
import statistics
import subprocess
from typing import Any

import pool
from pool.bench.apart.ringpool_cell.workloads import Row
from pool.bench.harness import STDLIB, Run

FORMAT = 1
# Numbers of different machines say nothing about each other, nor do those of different interpreters or settings.
SAME_MACHINE = ("cpu", "cores", "kernel", "python", "compiler")
SAME_SETTINGS = ("processes", "start_method", "many", "largest", "streamed", "huge")


class NotComparable(Exception):
    """The two reports are of different machines, or are no reports."""


def machine() -> dict[str, Any]:
    """Where the numbers come from: a number without its machine says nothing."""
    return {
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "compiler": platform.python_compiler(),
        "ringpool": pool.__version__,
        "commit": git_commit(),
        # As a warning: above 1 before anything was measured, others use this machine too.
        "load": os.getloadavg()[0],
    }


def cpu_model() -> str:
    """The processor's name for itself, where the kernel tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as info:
            for line in info:
                key, _, value = line.partition(":")
                if key.strip() == "model name":
                    return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def git_commit() -> str | None:
    """The commit of the tree that `pool` is imported from, marked if the tree differs from it; None if it is installed."""
    folder = os.path.dirname(os.path.dirname(os.path.abspath(pool.__file__)))
    if not os.path.exists(os.path.join(folder, ".git")):
        return None
    try:
        answer = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--exclude", "*"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None if answer.returncode == 0 else None


def machine_line(host: dict[str, Any]) -> str:
    """The machine in one line."""
    return (
        f"{host['cpu']}, {host['cores']} cores, Linux {host['kernel']}, Python {host['python']} ({host['compiler']}), "
        f"ringpool {host['ringpool']}, commit {host['commit'] or 'unknown'}, load before the run {host['load']:.2f}"
    )


def summary(values: list[float]) -> dict[str, Any]:
    """Median, least and most."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "rounds": values}


def microseconds(unit: str, value: float) -> float | None:
    """What a task takes, by a value of a row; None for rows that are no time of a task."""
    if unit == "tasks/s":
        return 1e6 / value if value else math.inf
    return value if unit in ("us", "us/task") else None


def favour(more_is_better: bool, value: float, base: float) -> float:
    """How many times better `value` is than `base`; below 1 if it is worse."""
    better, worse = (value, base) if more_is_better else (base, value)
    return better / worse if worse > 0 else math.inf if better > 0 else 1.0


def build(run: Run, host: dict[str, Any]) -> dict[str, Any]:
    """All of a run, ready for JSON. Ratios are of medians, more than 1 if the peer is better than the stdlib."""
    floors = {name: summary(values) for name, values in run.floors.items()}
    rows = []
    for workload in run.workloads:
        measured = {name for row in workload.rows for name in run.peers if (row.name, name) in run.values}
        for row in workload.rows:
            # A size that was not asked for; but a row that no peer could do is shown.
            if measured and not any((row.name, name) in run.values for name in run.peers):
                continue
            rows.append(
                {
                    "workload": row.name,
                    "unit": row.unit,
                    "more_is_better": row.more_is_better,
                    "floor": row.floor if row.floor in floors else None,
                    "peers": {name: peer_of(run, workload.name, row, name, floors) for name in run.peers},
                }
            )
    return {
        "format": FORMAT,
        "machine": host,
        "settings": {**run.settings._asdict(), "rounds": run.rounds},
        "floors": floors,
        "workloads": rows,
        "problems": problems(run),
    }


def peer_of(run: Run, workload: str, row: Row, name: str, floors: dict[str, Any]) -> dict[str, Any]:
    """What one peer has in one row."""
    if (workload, name) in run.failed:
        return {"failed": run.failed[workload, name]}
    if (workload, name) in run.na:
        return {"na": run.na[workload, name]}
    if (row.name, name) not in run.values:
        return {"na": "not measured"}
    found = summary(run.values[row.name, name]) | {"tasks": run.tasks[workload, name]}
    base = run.values.get((row.name, STDLIB))
    if base and name != STDLIB and row.compared:
        found["ratio"] = favour(row.more_is_better, found["median"], statistics.median(base))
    taken = microseconds(row.unit, found["median"])
    if row.floor in floors and taken is not None:
        found["times_floor"] = taken / floors[row.floor]["median"]
    return found


def problems(run: Run) -> list[str]:
    """What failed, one line each; that something is not to be had is no failure."""
    return [f"{workload}, {name}: {reason}" for (workload, name), reason in run.failed.items()]


def short(value: float) -> str:
    """Three digits, with k or M."""
    if not math.isfinite(value):
        return str(value)
    for factor, suffix in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * factor:
            return f"{three_digits(value / factor)}{suffix}"
    return three_digits(value)


def three_digits(value: float) -> str:
    """As many decimals as make three digits, and no more than three."""
    decimals = 0 if abs(value) >= 99.95 else 1 if abs(value) >= 9.995 else 2 if abs(value) >= 0.9995 else 3
    return f"{value:.{decimals}f}"


def duration(seconds: float) -> str:
    """Three digits, in the unit that fits."""
    for factor, unit in ((1.0, "s"), (1e-3, "ms")):
        if seconds >= factor:
            return f"{three_digits(seconds / factor)} {unit}"
    return f"{three_digits(seconds * 1e6)} us"


def spread(found: dict[str, Any]) -> str:
    """Median, least and most."""
    return f"{short(found['median'])} [{short(found['min'])}..{short(found['max'])}]"


def columns(lines: list[tuple[str, ...]]) -> str:
    """The lines as text, each column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join("  ".join(text.ljust(width) for text, width in zip(line, widths)).rstrip() for line in lines)


def table(report: dict[str, Any]) -> str:
    """Every workload with every peer, losses like wins, then the floors."""
    lines = [("workload", "unit", "pool", "median [min..max]", "to stdlib", "to floor")]
    for row in report["workloads"]:
        start = row["workload"], row["unit"]
        for name, found in row["peers"].items():
            if "median" not in found:
                text = f"n/a: {found['na']}" if "na" in found else f"FAILED: {found['failed']}"
                lines.append((*start, name, f"{text:.60}", "", ""))
            else:
                ratio = f"{three_digits(found['ratio'])} x" if "ratio" in found else "-"
                floor = f"{short(found['times_floor'])} x" if "times_floor" in found else "-"
                lines.append((*start, name, spread(found), ratio, floor))
            start = "", ""
    text = columns(lines)
    if report["floors"]:
        text += "\n\n" + columns([("floor, us", "median [min..max]"), *((n, spread(f)) for n, f in report["floors"].items())])
    return text


def legend(report: dict[str, Any]) -> str:
    """What the columns mean, and where they were measured."""
    settings = report["settings"]
    return (
        f"{settings['rounds']} interleaved rounds, a process for each cell, {settings['processes']} workers, "
        f"{settings['start_method']}; medians\n"
        "to stdlib: how many times better than multiprocessing.Pool, below 1 is worse; to floor: how many times the floor\n"
        + machine_line(report["machine"])
    )


def load(path: str) -> dict[str, Any]:
    """A report from its file; raises NotComparable if it is none."""
    try:
        with open(path, encoding="utf-8") as file:
            report = json.load(file)
    except (OSError, ValueError) as error:
        raise NotComparable(f"{path}: {error}") from error
    parts = {"machine": dict, "settings": dict, "workloads": list}
    if not isinstance(report, dict) or report.get("format") != FORMAT or not all(
        isinstance(report.get(name), kind) for name, kind in parts.items()
    ) or not all(key in report["machine"] for key in (*SAME_MACHINE, "ringpool", "commit")):
        raise NotComparable(f"{path} is no report of this benchmark, or one of another version")
    return report


def save(report: dict[str, Any], path: str) -> None:
    """Write a report to a file."""
    with open(path, "w", encoding="utf-8") as file:
        json.dump(report, file, indent=2)
        file.write("\n")


def compare(old: dict[str, Any], new: dict[str, Any]) -> str:
    """Every row that both have, and how it changed; raises NotComparable for other machines or settings."""
    for part, keys in (("machine", SAME_MACHINE), ("settings", SAME_SETTINGS)):
        for key in keys:
            if old[part].get(key) != new[part].get(key):
                raise NotComparable(f"different {part}: {key} is {old[part].get(key)!r} and {new[part].get(key)!r}")
    olds = {row["workload"]: row for row in old["workloads"]}
    lines = [("workload", "unit", "pool", "old median [min..max]", "new median [min..max]", "better by", "")]
    for row in new["workloads"]:
        for name, found in row["peers"].items():
            before = olds.get(row["workload"], {}).get("peers", {}).get(name)
            if before is None:
                continue
            start = row["workload"], row["unit"], name
            if "median" not in found or "median" not in before:
                if found.get("failed") or before.get("failed"):
                    shown = [spread(one) if "median" in one else "FAILED" if "failed" in one else "n/a" for one in (before, found)]
                    lines.append((*start, *shown, "-", ""))
                continue
            apart = found["min"] > before["max"] or found["max"] < before["min"]
            change = favour(row["more_is_better"], found["median"], before["median"])
            verdict = "within the spread" if not apart else "better" if change > 1 else "worse"
            lines.append((*start, spread(before), spread(found), f"{three_digits(change)} x", verdict))
    return f"{columns(lines)}\nold: {machine_line(old['machine'])}\nnew: {machine_line(new['machine'])}"
