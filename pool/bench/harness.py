"""Runs cells: each in a process of its own, in interleaved rounds, each with a time limit. Knows no pool and no workload.

In a round every workload is measured on every peer, so a machine that gets slower half-way slows all of them; and the peers take
turns in going first.
"""

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any, NamedTuple

from pool.bench.apart.ringpool_cell.workloads import Settings, Workload
from pool.commandline import Progress

APART = os.path.join(os.path.dirname(os.path.abspath(__file__)), "apart")
LIMIT_SECONDS = 120.0
# From the result to the end of the process, with its exit handlers.
EXIT_SECONDS = 15.0

STDLIB, OURS = "stdlib", "ringpool"
PEERS = {STDLIB: "ringpool_cell.peers:stdlib", OURS: "ringpool_cell.peers:ringpool"}
"""The pools of every run, by name: where the function is that starts one."""


class Outcome(NamedTuple):
    """What a cell found, or why it found nothing."""

    found: dict[str, Any]
    na: str | None = None
    """The peer is not installed or has no such call."""
    failed: str | None = None
    """Wrong results, an exception, a crash or no end."""


def environment() -> dict[str, str]:
    """That of a cell: it finds what this process finds, and the cell's own modules, and hashes alike in every process."""
    path = [os.path.abspath(entry) for entry in sys.path]
    return {**os.environ, "PYTHONPATH": os.pathsep.join([*path, APART]), "PYTHONHASHSEED": "0", "PYTHONUNBUFFERED": "1"}


def run_cell(spec: dict[str, Any], limit: float) -> Outcome:
    """Run one cell and end all that it has started. limit: seconds, then it is killed."""
    with tempfile.TemporaryDirectory(prefix="ringpool-bench-") as folder:
        answer, log = os.path.join(folder, "answer"), os.path.join(folder, "log")
        # Ctrl-C while the process is being made would leave it to itself.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process = start_cell({**spec, "limit": limit}, answer, log)
            try:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
                ended = waited(process, limit) or (os.path.exists(answer) and waited(process, EXIT_SECONDS))
            finally:
                kill_session(process)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        try:
            with open(answer, encoding="utf-8") as file:
                found = json.load(file)
        except FileNotFoundError:
            reason = (
                f"ended with exit code {process.returncode}{last_line(log)}" if ended else f"no end after {limit:.0f} s, killed"
            )
            return Outcome({}, failed=reason)
    if not ended:
        return Outcome({}, failed=f"results, but no end {EXIT_SECONDS:.0f} s later, killed")
    failed = found.get("failed")
    # An error's text may hold anything, and is printed.
    return Outcome(found, found.get("na"), failed and failed.encode("utf-8", "backslashreplace").decode())


def start_cell(spec: dict[str, Any], answer: str, log: str) -> subprocess.Popen[bytes]:
    """The process of a cell, in a session of its own: Ctrl-C is for us, and what it leaves behind can be ended as one."""
    with open(log, "wb") as output:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "ringpool_cell", json.dumps(spec), answer],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment(),
            start_new_session=True,
        )


def waited(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Whether the process ended in time. Sleeps all the while: a wait that polls would be measured."""
    descriptor = os.pidfd_open(process.pid)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(seconds * 1000))
    finally:
        os.close(descriptor)


def kill_session(process: subprocess.Popen[bytes]) -> None:
    """Kill the cell and its workers. The process is not yet waited for, so its number is still its own."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def last_line(log: str) -> str:
    """What a process said last, for a message."""
    with open(log, encoding="utf-8", errors="replace") as file:
        lines = [line.strip() for line in file if line.strip()]
    return f": {lines[-1]:.200}" if lines else ""


class Run:
    """All measurements of one run, by row and peer, and what went wrong."""

    def __init__(
        self,
        settings: Settings,
        workloads: Sequence[Workload],
        peers: dict[str, str],
        rounds: int,
        pingpong: str | None = None,
        limit: float = LIMIT_SECONDS,
        progress: Progress | None = None,
    ) -> None:
        self.settings = settings
        self.workloads = workloads
        self.peers = peers
        self.rounds = rounds
        self.values: dict[tuple[str, str], list[float]] = {}
        self.tasks: dict[tuple[str, str], int] = {}
        """By workload and peer, in the last round."""
        self.floors: dict[str, list[float]] = {}
        self.na: dict[tuple[str, str], str] = {}
        """By workload and peer."""
        self.failed: dict[tuple[str, str], str] = {}
        """By workload and peer; the floors have the peer 'floors'."""
        self._pingpong = pingpong
        self._limit = limit
        self._progress = progress or Progress()

    def measure(self) -> None:
        """Measure every cell in every round. A cell that failed or is not to be had is not tried again."""
        names = list(self.peers)
        for number in range(self.rounds):
            self._measure_floors(number)
            shift = number % len(names)
            for workload in self.workloads:
                for name in names[shift:] + names[:shift]:
                    if (workload.name, name) not in self.na | self.failed:
                        self._progress.show(f"round {number + 1} of {self.rounds}: {workload.name}, {name}")
                        self._measure_cell(workload, name)
        self._progress.clear()

    def _measure_cell(self, workload: Workload, name: str) -> None:
        spec = {"peer": self.peers[name], "workload": workload.name, "settings": self.settings._asdict()}
        outcome = run_cell(spec, self._limit + workload.limit(self.settings))
        key = workload.name, name
        if outcome.na is not None:
            self.na[key] = outcome.na
        elif outcome.failed is not None:
            self.failed[key] = outcome.failed
        else:
            self.tasks[key] = outcome.found["tasks"]
            for row, value in outcome.found["values"].items():
                self.values.setdefault((row, name), []).append(value)

    def _measure_floors(self, number: int) -> None:
        if ("floors", "floors") in self.failed:
            return
        self._progress.show(f"round {number + 1} of {self.rounds}: floors")
        outcome = run_cell({"floors": self._pingpong, "tasks": self.settings.tasks}, self._limit)
        if outcome.failed is not None:
            self.failed["floors", "floors"] = outcome.failed
            return
        for name, value in outcome.found["values"].items():
            self.floors.setdefault(name, []).append(value)
